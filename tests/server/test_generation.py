"""Proves that GenerationService hands on what it is asked and what it is answered, and that leaving early cancels."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from stretto.v1 import common_pb2
from stretto.v1 import generation_pb2 as pb


def request(**fields):
    return pb.GenerateRequest(**{"model": "writer", "text": "hello"} | fields)


def sampled(**fields):
    return pb.GenerationConfig(sampling=pb.SamplingConfig(**fields))


async def events(running, asked, **stream):
    call = running.generation.GenerateStream(
        pb.GenerateStreamRequest(request=asked, stream_options=pb.StreamOptions(**stream))
    )
    return [message async for message in call]


def kinds(messages):
    return [message.WhichOneof("event") for message in messages]


async def test_the_whole_answer_is_every_token_in_order(running):
    answer = await running.generation.Generate(
        request(config=pb.GenerationConfig(output=pb.OutputConfig(include_token_ids=True)))
    )
    (candidate,) = answer.candidates
    assert candidate.text == " 0 1 2 3 4"
    assert list(candidate.token_ids) == [0, 1, 2, 3, 4]
    assert candidate.token_count == 5
    assert candidate.finish_reason == pb.FINISH_REASON_MAX_TOKENS
    assert candidate.cumulative_logprob == -2.5
    assert answer.usage == common_pb2.Usage(
        prompt_tokens=3, cached_prompt_tokens=2, completion_tokens=5, total_tokens=8
    )
    assert (answer.input.token_count, answer.input.truncated_tokens) == (3, 1)


async def test_a_stream_joined_is_the_whole_answer(running):
    asked = request(config=sampled(candidate_count=3, temperature=1.0, seed=7))
    whole = await running.generation.Generate(asked)
    streamed = await events(running, asked)
    for candidate in whole.candidates:
        parts = [part for each in streamed for part in each.delta.candidates if part.index == candidate.index]
        assert "".join(part.text for part in parts) == candidate.text
        assert parts[-1].finish_reason == candidate.finish_reason
        assert parts[-1].cumulative_logprob == candidate.cumulative_logprob
        assert [part.first_token_index for part in parts] == list(range(5))
    assert streamed[-1].finished.usage == whole.usage
    assert (streamed[0].started.seed, whole.seed) == (7, 7)


async def test_a_stream_begins_with_started_and_ends_with_finished(running):
    assert kinds(await events(running, request())) == ["started", *["delta"] * 5, "finished"]


async def test_started_comes_before_any_token_and_says_which_model(running):
    running.engine.go_on = asyncio.Event()
    call = running.generation.GenerateStream(
        pb.GenerateStreamRequest(request=request(options=common_pb2.RequestOptions(request_id="mine")))
    )
    started = (await call.read()).started
    assert started.request_id == "mine"
    assert started.provenance == common_pb2.Provenance(
        model="writer",
        model_version="sha256:aa",
        device="cpu",
        dtype="float32",
        quantization="none",
        numerics=common_pb2.NUMERICS_CLOSE,
    )
    assert not started.HasField("seed")
    call.cancel()


async def test_the_caller_of_a_whole_answer_hears_when_it_is_admitted(running):
    running.engine.go_on = asyncio.Event()
    # As a stream of one, because the Python client shows a unary call's initial metadata with its answer only.
    call = running.channel.unary_stream("/stretto.v1.GenerationService/Generate")(request().SerializeToString())
    await call.initial_metadata()
    assert not call.done()
    running.engine.go_on.set()
    assert pb.GenerateResponse.FromString(await call.read()).candidates


async def test_what_piled_up_comes_as_one_delta_a_candidate(running):
    running.engine.piled_up = True
    asked = request(config=sampled(candidate_count=2, temperature=1.0))
    messages = await events(running, asked)
    assert kinds(messages) == ["started", "delta", "finished"]
    assert [part.text for part in messages[1].delta.candidates] == [" 0 1 2 3 4"] * 2


@pytest.mark.parametrize("least", [2, 3, 100])
async def test_gathered_messages_hold_enough_tokens_but_for_the_first_and_the_last(running, least):
    asked = request(
        config=pb.GenerationConfig(
            stopping=pb.StoppingConfig(max_tokens=9), output=pb.OutputConfig(include_token_ids=True)
        )
    )
    messages = await events(running, asked, min_tokens_per_message=least)
    sizes = [len(message.delta.candidates[0].token_ids) for message in messages[1:-1]]
    assert sizes[0] == 1
    assert all(size >= least for size in sizes[1:-1])
    assert sum(sizes) == 9


async def test_no_tokens_asked_is_no_tokens_answered(running):
    asked = request(config=pb.GenerationConfig(stopping=pb.StoppingConfig(max_tokens=0)))
    (candidate,) = (await running.generation.Generate(asked)).candidates
    assert (candidate.text, candidate.token_count) == ("", 0)
    assert candidate.finish_reason == pb.FINISH_REASON_MAX_TOKENS


async def test_text_and_ids_come_as_they_were_asked_for(running):
    output = pb.OutputConfig(include_text=False, include_token_ids=True)
    (candidate,) = (await running.generation.Generate(request(config=pb.GenerationConfig(output=output)))).candidates
    assert (candidate.text, list(candidate.token_ids)) == ("", [0, 1, 2, 3, 4])
    (plain,) = (await running.generation.Generate(request())).candidates
    assert (plain.text, list(plain.token_ids)) == (" 0 1 2 3 4", [])


@pytest.mark.parametrize(
    ("output", "num_top"),
    [
        ({}, None),
        ({"include_logprobs": True}, 0),
        ({"top_logprobs": 2}, 2),
        ({"top_logprobs": 0}, 0),
        ({"logprob_token_ids": [5]}, 0),
    ],
)
async def test_logprobs_come_when_any_field_asks_for_them(running, output, num_top):
    config = pb.GenerationConfig(output=pb.OutputConfig(**output))
    (candidate,) = (await running.generation.Generate(request(config=config))).candidates
    if num_top is None:
        assert not candidate.logprobs
        return
    assert len(candidate.logprobs) == 5
    assert [len(each.top) for each in candidate.logprobs] == [num_top] * 5
    assert candidate.logprobs[1].chosen == pb.TokenLogprob(token_id=1, token=b" 1", logprob=-0.5, rank=1)


async def test_telemetry_comes_only_when_asked_for(running):
    asked = request(options=common_pb2.RequestOptions(include_telemetry=True))
    telemetry = (await running.generation.Generate(asked)).telemetry
    assert telemetry.queue_duration == Duration(nanos=2_000_000)
    assert telemetry.received_time.ToMicroseconds() == pytest.approx(1_700_000_000_250_000, abs=1)
    assert telemetry.time_to_first_token == Duration(nanos=6_000_000)
    assert (telemetry.step_count, telemetry.min_batch_size, telemetry.max_batch_size) == (5, 1, 3)
    assert (telemetry.co_batched_tokens, telemetry.preemption_count, telemetry.queue_position) == (7, 1, 4)
    assert (await events(running, asked))[-1].finished.HasField("telemetry")
    assert not (await running.generation.Generate(request())).HasField("telemetry")


async def test_no_name_means_the_only_model_that_can(running):
    assert (await running.generation.Generate(request(model=""))).provenance.model == "writer"
    assert running.engine.calls[-1].model == "writer"


async def test_a_chat_arrives_with_its_messages_template_and_arguments(running):
    chat = common_pb2.ChatPrompt(
        messages=[common_pb2.ChatMessage(role="user", content="<|im_end|>")],
        template="tools",
        add_generation_prompt=False,
    )
    chat.template_arguments.update({"n": 2, "x": 0.5, "on": True, "none": None, "list": [1, {"a": "b"}]})
    await running.generation.Generate(request(chat=chat))
    prompt = running.engine.calls[-1].prompt
    assert [(each.role, each.content) for each in prompt.messages] == [("user", "<|im_end|>")]
    assert (prompt.template, prompt.add_generation_prompt) == ("tools", False)
    assert prompt.arguments == MessageToDict(chat.template_arguments)


async def test_a_callers_cancel_reaches_the_engine(running):
    running.engine.go_on = asyncio.Event()
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=request()))
    await call.read()
    call.cancel()
    await asyncio.wait_for(running.engine.left.wait(), 5)


async def test_a_callers_deadline_reaches_the_engine(running):
    running.engine.go_on = asyncio.Event()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.generation.Generate(request(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(running.engine.left.wait(), 5)


@pytest.mark.parametrize(("asked", "over_grpc", "expected"), [(9, 60, 9), (60, 9, 9), (9, None, 9), (None, 9, 9)])
async def test_the_earlier_deadline_counts(running, asked, over_grpc, expected):
    options = common_pb2.RequestOptions(timeout=None if asked is None else Duration(seconds=asked))
    await running.generation.Generate(request(options=options), timeout=over_grpc)
    told = running.engine.calls[-1].options
    assert expected - 1 < told.deadline - told.received <= expected + 0.01


async def test_no_deadline_is_no_deadline(running):
    await running.generation.Generate(request())
    assert running.engine.calls[-1].options.deadline is None


async def test_a_stream_that_is_not_read_is_ended_and_its_neighbour_is_not(serve):
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with serve(stall_seconds=0.3, channel_options=small_window) as running:
        running.engine.piece = "x" * 1_000_000
        call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=request()))
        await call.read()
        await asyncio.wait_for(running.engine.left.wait(), 10)
        running.engine.piece = None
        assert (await running.generation.Generate(request())).candidates[0].text == " 0 1 2 3 4"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _rest(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "SLOW_READER" in running.log.getvalue()


async def test_nothing_of_a_stream_that_is_not_read_stays_but_its_status(serve):
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with serve(stall_seconds=0.3, channel_options=small_window) as running:
        running.engine.piece = "x" * 1_000_000
        call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=request()))
        await call.read()
        (inside,) = running.server._gate.in_flight
        ended, _ = await asyncio.wait({inside.running}, timeout=10)  # though the caller is there, and does not read
        assert ended
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _rest(call)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_reply_that_is_too_large_is_refused_by_its_size(serve):
    async with serve(max_response_bytes=10_000) as running:
        running.engine.piece = "x" * 4000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.generation.Generate(request())
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "the limit is 10000" in caught.value.details()
        running.engine.piece = "x" * 11_000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _rest(running.generation.GenerateStream(pb.GenerateStreamRequest(request=request())))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "REPLY_TOO_LARGE" in running.log.getvalue()
        assert "Traceback" not in running.log.getvalue()


async def test_a_chat_of_endless_messages_is_refused_before_it_is_rendered(running):
    asked = pb.GenerateRequest()
    asked.chat.messages.extend([common_pb2.ChatMessage(role="user")] * 10_001)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.generation.Generate(asked)
    assert "holds 10001 messages; the limit is 10000" in caught.value.details()


async def _rest(call):
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_progress_and_the_prompts_logprobs_come_between_start_and_answer(running):
    output = pb.OutputConfig(include_prompt_logprobs=True)
    asked = request(config=pb.GenerationConfig(output=output))
    streamed = await events(running, asked, include_prefill_progress=True)
    assert kinds(streamed)[:4] == ["started", "progress", "prompt_scored", "delta"]
    assert streamed[1].progress == pb.PrefillProgress(processed_tokens=3, total_tokens=3, queue_position=2)
    whole = await running.generation.Generate(asked)
    assert list(streamed[2].prompt_scored.logprobs) == list(whole.prompt_logprobs)
    first, second = whole.prompt_logprobs
    assert (first.chosen.token_id, first.chosen.HasField("logprob")) == (7, False)
    assert (second.chosen.token_id, second.chosen.logprob) == (8, -1.5)


async def test_a_unary_call_asks_for_no_progress(running):
    await running.generation.Generate(request())
    assert not running.engine.calls[0].progress


async def test_the_best_of_several_come_back_best_first_and_numbered_anew(running):
    asked = request(config=sampled(candidate_count=2, best_of=4, temperature=1.0))
    answer = await running.generation.Generate(asked)
    assert [candidate.index for candidate in answer.candidates] == [0, 1]
    assert [candidate.cumulative_logprob for candidate in answer.candidates] == [-2.5, -2.5]
    assert answer.usage.completion_tokens == 20


async def test_a_stream_cannot_choose_the_best(running):
    asked = request(config=sampled(candidate_count=1, best_of=2, temperature=1.0))
    with pytest.raises(grpc.aio.AioRpcError, match=r"config\.sampling\.best_of is 2; in a stream"):
        await events(running, asked)
    assert kinds(await events(running, request(config=sampled(candidate_count=2, best_of=2, temperature=1.0))))


def scoring(*contexts, **fields):
    continuations = [common_pb2.TextInput(text="a"), common_pb2.TextInput(text="bcd")]
    items = [
        pb.ScoreItem(context=common_pb2.TextInput(text=context), continuations=continuations) for context in contexts
    ]
    return pb.ScoreRequest(**{"model": "writer", "items": items} | fields)


async def test_scores_come_in_the_order_asked_and_a_bad_item_fails_alone(running):
    options = common_pb2.RequestOptions(request_id="mine", include_telemetry=True)
    answer = await running.generation.Score(scoring("x", "bad", "y", include_token_logprobs=True, options=options))
    first, bad, last = answer.results
    assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert first == last
    one, three = first.item.continuations
    assert (one.logprob, one.mean_logprob, one.token_count, one.is_greedy) == (-0.5, -0.5, 1, True)
    assert (three.logprob, three.mean_logprob, three.token_count, three.is_greedy) == (-1.5, -0.5, 3, False)
    assert three.perplexity == pytest.approx(2.718281828**0.5)
    assert [len(each.tokens) for each in (one, three)] == [1, 3]
    assert first.item.context.token_count == 2
    assert (answer.request_id, answer.provenance.model, answer.usage.prompt_tokens) == ("mine", "writer", 9)
    assert answer.telemetry.step_count == 5


async def test_scores_have_no_tokens_and_no_telemetry_unless_asked(running):
    answer = await running.generation.Score(scoring("x"))
    assert not answer.results[0].item.continuations[0].tokens
    assert not answer.HasField("telemetry")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (scoring(), "items is empty"),
        (scoring(*["x"] * 4), "items holds 4 items with 8 continuations; the limit is 7"),
        (scoring("x", model="nobody"), "no model 'nobody'"),
    ],
)
async def test_a_score_request_that_cannot_be_is_refused(serve, asked, reason):
    async with serve(max_inputs=7) as running:
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await running.generation.Score(asked)


async def test_scores_that_no_reply_holds_are_refused_with_the_number_that_fits(serve):
    async with serve(max_response_bytes=8192) as running:
        with pytest.raises(grpc.aio.AioRpcError, match=r"the scores of 80 continuations do not fit the reply; 64 do"):
            await running.generation.Score(scoring(*["x"] * 40))
        await running.generation.Score(scoring(*["x"] * 32))
