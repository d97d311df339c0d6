"""Proves that EmbedStream answers every item in order, keeps to its window, and ends in one clear way."""

import asyncio
import json

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from stretto.engine.errors import (
    DeadlineExpired,
    EngineFailure,
    EngineLost,
    InvalidRequest,
    Overloaded,
    QueueTimeout,
)
from stretto.engine.requests import MAX_CALL_CHUNKS, MAX_CHUNKS
from stretto.server.announcements import Stopped, Stopping
from stretto.server.embedding_stream import CALL_ITEMS, MAX_CALLS, MAX_ITEM_ID_BYTES
from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as pb


def config(**fields):
    return pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(**fields))


def options(**fields):
    return config(options=common_pb2.RequestOptions(**fields))


def item(text, item_id=""):
    return pb.EmbedStreamRequest(item=pb.EmbedStreamItem(item_id=item_id, input=common_pb2.TextInput(text=text)))


async def opened(running, first=None):
    """A stream that was begun, after its `started`."""
    call = running.embedding.EmbedStream()
    await call.write(first or config())
    assert (await call.read()).WhichOneof("message") == "started"
    return call


async def answered(running, messages):
    call = running.embedding.EmbedStream(iter(messages))
    return [message async for message in call]


async def failed(call):
    """The error that a stream ends with, after whatever comes before it."""
    before = []

    async def read_all():
        while (message := await call.read()) is not grpc.aio.EOF:
            before.append(message)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all()
    return before, caught.value


def reason_and_field(error):
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(info)
    if status.details[1:]:
        status.details[1].Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


def lines(running):
    return [json.loads(line) for line in running.log.getvalue().splitlines()]


async def eventually(true):
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became so")


async def test_results_come_in_order_between_a_beginning_and_a_summary(running):
    sent = ["x" * (1 + place % 7) for place in range(300)]
    first, *items, last = await answered(running, [config(), *(item(text, f"id{n}") for n, text in enumerate(sent))])
    assert first.started.model_version == "sha256:bb"
    assert [each.item.item_id for each in items] == [f"id{n}" for n in range(300)]
    vectors = [list(each.item.result.embedding.vectors[0].values) for each in items]
    assert vectors == [[len(text), 1, 2, 3] for text in sent]
    assert (last.summary.succeeded_count, last.summary.failed_count) == (300, 0)
    assert last.summary.usage.prompt_tokens == last.summary.usage.total_tokens == sum(map(len, sent))
    assert not last.summary.HasField("telemetry")


async def test_a_bad_item_gets_an_error_and_the_stream_goes_on(running):
    empty = pb.EmbedStreamRequest(item=pb.EmbedStreamItem(item_id="none"))
    too_long = "é" * MAX_ITEM_ID_BYTES
    messages = [config(), item("", "a"), empty, item("abc", too_long), item("abc", "last")]
    *_, a, none, long, good, last = await answered(running, messages)
    found = []
    for each in (a, none, long):
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        each.item.result.error.details[0].Unpack(info)
        each.item.result.error.details[1].Unpack(bad)
        found.append((each.item.item_id, info.reason, bad.field_violations[0].field))
    assert found == [
        ("a", "EMPTY_INPUT", "item.input"),
        ("none", "EMPTY_INPUT", "item.input"),
        (too_long[: MAX_ITEM_ID_BYTES // 2], "INVALID_PARAMETER", "item.item_id"),
    ]
    assert good.item.result.embedding.vectors[0].values[0] == 3
    assert (last.summary.succeeded_count, last.summary.failed_count) == (1, 3)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ([item("a")], "item came before it"),
        ([pb.EmbedStreamRequest()], "an empty message came before it"),
        ([], "the stream ended before it"),
    ],
)
async def test_a_stream_begins_with_a_config(running, first, said):
    _, error = await failed(running.embedding.EmbedStream(iter(first)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in error.details()
    assert reason_and_field(error) == ("INVALID_PARAMETER", ["config"])
    assert not running.engine.calls


@pytest.mark.parametrize(
    ("message", "reason", "fields"),
    [
        (config().SerializeToString(), "INVALID_PARAMETER", ["config"]),
        (b"", "INVALID_PARAMETER", ["item"]),
        (b"\xff\xff\xff", "MALFORMED_MESSAGE", []),
    ],
)
async def test_a_message_that_is_no_item_ends_the_stream_after_those_before_it(running, message, reason, fields):
    call = running.channel.stream_stream("/stretto.v1.EmbeddingService/EmbedStream")(
        iter([config().SerializeToString(), item("abc").SerializeToString(), message])
    )
    before, error = await failed(call)
    kinds = [pb.EmbedStreamResponse.FromString(each).WhichOneof("message") for each in before]
    assert kinds == ["started", "item"]
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_and_field(error) == (reason, fields)


@pytest.mark.parametrize(
    ("first", "field"),
    [
        (config(model="nobody"), "model"),
        (config(config=pb.EmbedConfig(chunking=common_pb2.ChunkingConfig())), "config.chunking"),
        (options(priority=1000), "options.priority"),
        (options(request_id="new\nline"), "options.request_id"),
    ],
)
async def test_a_config_that_cannot_be_done_is_refused_before_the_stream_has_started(running, first, field):
    call = running.embedding.EmbedStream()
    await call.write(first)
    before, error = await failed(call)
    assert not before
    assert field in error.details()


async def test_what_the_model_cannot_do_is_refused_before_any_item(running):
    running.engine.refusal = InvalidRequest("config.layer is 99; reader has 2 layers.", field="config.layer")
    call = running.embedding.EmbedStream()
    await call.write(config())
    before, error = await failed(call)
    assert (before, reason_and_field(error)) == ([], ("INVALID_PARAMETER", ["config.layer"]))


async def test_a_lone_item_is_answered_while_its_stream_stays_open(running):
    call = await opened(running)
    for place in range(3):
        await call.write(item("abc", str(place)))
        assert (await asyncio.wait_for(call.read(), 5)).item.item_id == str(place)
    await call.done_writing()
    assert (await call.read()).summary.succeeded_count == 3


async def test_options_of_the_config_hold_for_every_item(running):
    call = await opened(running, options(request_id="mine", priority=7, timeout=Duration(seconds=50)))
    await call.write(item("a"))
    await call.read()
    await call.write(item("b"))
    await call.read()
    await call.done_writing()
    await call.read()
    asked = [each.options for each in running.engine.calls]
    assert {(each.request_id, each.priority, each.deadline - each.received) for each in asked} == {("mine", 7, 50.0)}
    assert ("x-request-id", "mine") in tuple(await call.trailing_metadata())


async def test_vectors_come_in_the_encoding_that_was_asked_for(running):
    asked = config(config=pb.EmbedConfig(encoding=pb.EMBEDDING_ENCODING_FLOAT16, dimensions=3))
    _, first, _ = await answered(running, [asked, item("abc")])
    (vector,) = first.item.result.embedding.vectors
    assert np.frombuffer(vector.data, "<f2").tolist() == [3, 1, 2]
    assert (vector.encoding, vector.dimensions, len(vector.values)) == (pb.EMBEDDING_ENCODING_FLOAT16, 3, 0)


async def test_telemetry_of_all_calls_comes_when_asked_for(running):
    call = await opened(running, options(include_telemetry=True))
    for _ in range(3):
        await call.write(item("abc"))
        await call.read()
    await call.done_writing()
    telemetry = (await call.read()).summary.telemetry
    assert (telemetry.step_count, telemetry.min_batch_size, telemetry.max_batch_size) == (15, 1, 3)
    assert telemetry.tokenization_duration.ToMilliseconds() == 3
    assert telemetry.queue_duration.ToMilliseconds() == 2


async def test_no_more_is_read_than_the_window_holds_and_the_rest_is_answered_later(running):
    running.engine.go_on = asyncio.Event()
    call = await opened(running)
    written = 0

    async def write_all():
        nonlocal written
        for place in range(2000):
            await call.write(item("x" * 10_000, str(place)))
            written += 1
        await call.done_writing()

    writing = asyncio.create_task(write_all())
    await eventually(lambda: len(running.engine.calls) == MAX_CALLS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(writing), 1)
    assert written < 1000
    assert len(running.engine.calls) == MAX_CALLS
    assert all(len(each.inputs) <= CALL_ITEMS for each in running.engine.calls)
    running.engine.go_on.set()
    ids = [(await call.read()).item.item_id for _ in range(2000)]
    assert ids == [str(place) for place in range(2000)]
    assert (await call.read()).summary.succeeded_count == 2000
    await writing
    assert sum(len(each.inputs) > 1 for each in running.engine.calls) > 5


async def test_where_one_text_may_fill_a_reply_each_is_asked_alone(running):
    running.engine.go_on = asyncio.Event()
    call = await opened(running, config(config=pb.EmbedConfig(pooling=common_pb2.POOLING_TYPE_NONE)))
    for _ in range(50):
        await call.write(item("abc"))
    await call.done_writing()
    await eventually(lambda: len(running.engine.calls) == MAX_CALLS)
    running.engine.go_on.set()
    messages = [await call.read() for _ in range(51)]
    assert messages[-1].summary.succeeded_count == 50
    assert {len(each.inputs) for each in running.engine.calls} == {1}
    assert all(each.max_vectors_each > 1000 for each in running.engine.calls)


async def test_a_full_queue_is_waited_for_and_fails_no_item(running):
    running.engine.refusal = Overloaded("the queue is full")
    call = await opened(running)
    await call.write(item("abc", "mine"))
    await eventually(lambda: len(running.engine.calls) > 3)
    running.engine.refusal = None
    assert (await call.read()).item.result.embedding.vectors[0].values[0] == 3
    await call.done_writing()
    assert (await call.read()).summary.failed_count == 0


async def test_a_queue_that_stays_full_for_the_whole_queue_timeout_ends_the_stream(running):
    running.engine.refusal = Overloaded("the queue is full")
    call = await opened(running, options(queue_timeout=Duration(nanos=200_000_000)))
    await call.write(item("abc"))
    _, error = await failed(call)
    assert (error.code(), reason_and_field(error)[0]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_TIMEOUT")


async def test_queue_timeout_counts_from_each_item_and_not_from_the_streams_beginning(running):
    call = await opened(running, options(queue_timeout=Duration(seconds=5)))
    await call.write(item("a"))
    await call.read()
    await call.write(item("b"))
    await call.read()
    call.cancel()
    first, second = (each.options for each in running.engine.calls)
    assert second.start_by > first.start_by


@pytest.mark.parametrize("items", [[], [item("abc")]])
async def test_its_timeout_ends_a_stream_whether_it_waits_for_items_or_for_answers(running, items):
    running.engine.go_on = asyncio.Event()
    call = await opened(running, options(timeout=Duration(nanos=300_000_000)))
    for each in items:
        await call.write(each)
    _, error = await failed(call)
    assert (error.code(), reason_and_field(error)[0]) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert running.engine.num_left == len(items)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (DeadlineExpired("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (QueueTimeout("late"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_an_item_that_is_out_of_time_ends_the_stream_and_is_no_bad_item(running, failure, code):
    running.engine.failure = failure
    call = await opened(running)
    await call.write(item("abc"))
    before, error = await failed(call)
    assert (before, error.code()) == ([], code)


async def test_an_item_that_the_engine_cannot_compute_is_a_bad_item(running):
    running.engine.failure = EngineFailure("The engine could not compute this.")
    _, bad, end = await answered(running, [config(), item("abc")])
    assert bad.item.result.error.code == grpc.StatusCode.INTERNAL.value[0]
    assert end.summary.failed_count == 1


async def test_a_lost_engine_ends_the_stream_so_that_it_can_be_tried_again(running):
    call = await opened(running)
    running.engine.refusal = EngineLost("the engine process died", retry_after=1.0)
    await call.write(item("abc"))
    _, error = await failed(call)
    assert (error.code(), reason_and_field(error)[0]) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")


async def left_nothing(running, tasks_before):
    await eventually(lambda: not running.server._gate.in_flight)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before)


@pytest.mark.parametrize("written", [0, 1, 400])
async def test_a_cancelled_stream_leaves_nothing_behind(running, written):
    tasks = len(asyncio.all_tasks())
    running.engine.go_on = asyncio.Event()
    call = await opened(running)
    for place in range(written):
        await call.write(item("abc", str(place)))
    await eventually(lambda: sum(len(each.inputs) for each in running.engine.calls) >= min(written, MAX_CALLS))
    call.cancel()
    await left_nothing(running, tasks)
    assert running.engine.num_left == len(running.engine.calls)
    assert [line["code"] for line in lines(running)] == ["CANCELLED"]


async def test_a_client_that_is_gone_leaves_nothing_behind(running):
    running.engine.go_on = asyncio.Event()
    async with grpc.aio.insecure_channel(running.target) as channel:
        call = channel.stream_stream("/stretto.v1.EmbeddingService/EmbedStream")()
        await call.write(config().SerializeToString())
        await call.write(item("abc").SerializeToString())
        await eventually(lambda: running.engine.calls)
        await channel.close()
    await eventually(lambda: not running.server._gate.in_flight)
    assert running.engine.num_left == 1


async def test_a_reader_that_stalls_ends_its_stream(serve):
    small_window = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with serve(stall_seconds=0.3, channel_options=small_window) as running:
        running.engine.put("reader", embedding_dimensions=200_000)
        call = await opened(running)
        for _ in range(30):
            await call.write(item("abc"))
        await eventually(lambda: "SLOW_READER" in running.log.getvalue())
        _, error = await failed(call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not running.server._gate.in_flight


async def test_a_stream_is_one_request_that_a_stopping_server_lets_finish(running):
    running.engine.go_on = asyncio.Event()
    call = await opened(running)
    await call.write(item("abc"))
    drain = asyncio.create_task(running.server.drain(asyncio.Event()))
    await running.announced.heard(Stopping)
    _, refused = await failed(running.embedding.EmbedStream(iter([config()])))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    running.engine.go_on.set()
    await call.read()
    await call.done_writing()
    assert (await call.read()).summary.succeeded_count == 1
    await drain
    assert running.announced[-1] == Stopped(num_finished=1, num_cut=0)


async def test_a_server_that_is_starting_refuses_a_stream_that_has_said_nothing_yet(serve):
    async with serve(loaded=False) as running:
        _, error = await failed(running.embedding.EmbedStream())
        assert reason_and_field(error)[0] == "STARTING"


async def test_a_stream_leaves_one_line_and_counts_as_one_request_with_all_its_inputs(running):
    await answered(running, [options(request_id="mine"), *(item("abc") for _ in range(100))])
    (line,) = lines(running)
    assert (line["id"], line["method"], line["code"]) == ("mine", "EmbedStream", "OK")
    assert (line["task"], line["tokens_in"]) == ("embed", 300)
    _, page = await running.get("/metrics")
    labels = 'model="reader",task="embed"'
    assert f"stretto_inputs_per_request_sum{{{labels}}} 100.0" in page
    assert f"stretto_inputs_per_request_count{{{labels}}} 1.0" in page
    assert f"stretto_unknown_tokens_total{{{labels}}} 100.0" in page


async def test_items_that_may_be_many_chunks_are_asked_in_calls_that_hold_the_chunks_of_all(running):
    running.engine.go_on = asyncio.Event()
    many = pb.EmbedConfig(overflow_policy=common_pb2.OVERFLOW_POLICY_CHUNK)
    opening = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(config=many))
    asking = asyncio.create_task(answered(running, [opening, *(item("x", str(place)) for place in range(100))]))
    await eventually(lambda: len(running.engine.calls) == MAX_CALLS)
    running.engine.go_on.set()
    await asking
    assert max(len(each.inputs) for each in running.engine.calls) == MAX_CALL_CHUNKS // MAX_CHUNKS == 16
