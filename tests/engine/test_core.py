"""The engine as a server uses it: a real engine process over a tiny checkpoint, asked in texts, and killed."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.engine import process
from stretto.engine.config import Limits, LoadSpec
from stretto.engine.core import Engine
from stretto.engine.errors import (
    BadTokenId,
    CheckpointError,
    EmptyInput,
    EngineLost,
    InputTooLong,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    ReplyTooLarge,
    SlowReader,
    StrettoError,
    VersionMismatch,
)
from stretto.engine.frames import LENGTH
from stretto.engine.messages import Gauges
from stretto.engine.requests import (
    EmbedCall,
    FinishReason,
    GenerateCall,
    Options,
    Output,
    Overflow,
    ScoreCall,
    ScoreItem,
    Stopping,
    TextPrompt,
    TokenPrompt,
)
from stretto.engine.results import Delta, Embedding, Finished, Progress, PromptScored, ScoredItem, Started
from stretto.engine.sampling import Sampling
from stretto.engine.served import Served
from stretto.engine.tokenizing import DetokenizeCall, TokenizeCall, Tokenized

CONTEXT = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers over the words w0 to w89."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    library = tokenizers.Tokenizer(models.WordLevel({f"w{i}": i for i in range(90)}, unk_token="w0"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
async def start(checkpoint: Path) -> AsyncIterator[Callable[[Limits], Awaitable[Engine]]]:
    started: list[Engine] = []

    async def start_(limits: Limits) -> Engine:
        spec = LoadSpec(name="tiny", path=checkpoint, source="tiny", dtype="float32", device="cpu")
        engine = Engine([spec], replace(limits, threads=1), observe=lambda _: None, changed=lambda: None)
        started.append(engine)
        await engine.start()
        return engine

    yield start_
    for engine in started:
        await engine.close()


@pytest.fixture
async def engine(start: Callable[[Limits], Awaitable[Engine]]) -> Engine:
    engine = await start(Limits())
    await engine.ready()
    return engine


def options(**more: Any) -> Options:
    return Options(request_id="r", received=time.monotonic(), **more)


def ask(prompt: str = "w1 w2 w3", *, max_tokens: int | None = 5, **more: Any) -> GenerateCall:
    settings: dict[str, Any] = {"options": options(), "output": Output(), "sampling": Sampling(temperature=0)} | more
    return GenerateCall(
        model="tiny", prompt=TextPrompt(text=prompt), stopping=Stopping(max_tokens=max_tokens), **settings
    )


async def answered(engine: Engine, call: GenerateCall) -> tuple[Started, list[Delta], Finished]:
    async with engine.generate(call) as events:
        begun, *deltas, ended = [event async for event in events]
    assert isinstance(begun, Started)
    assert isinstance(ended, Finished)
    return begun, [delta for group in deltas if isinstance(group, list) for delta in group], ended


async def until(true: Callable[[], bool]) -> None:
    """Let the loop run until something is so."""
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became so")


async def test_it_answers_and_embeds_and_counts_what_it_did(engine: Engine) -> None:
    begun, deltas, ended = await answered(engine, ask())
    assert (begun.report.token_count, begun.seed) == (3, None)
    assert len("".join(delta.text for delta in deltas).split()) == 5
    assert deltas[-1].finish is FinishReason.MAX_TOKENS
    assert (ended.usage.prompt_tokens, ended.usage.completion_tokens) == (3, 5)
    inputs = (TextPrompt(text="w1 w2"), TokenPrompt(ids=(96,)), TextPrompt(text="w1 w2"))
    answer = await engine.embed(EmbedCall(model="tiny", inputs=inputs, options=options()))
    first, bad, last = answer.results
    assert isinstance(first, Embedding)
    assert isinstance(last, Embedding)
    assert first.vectors == last.vectors
    assert isinstance(bad, InvalidRequest)
    assert answer.usage.prompt_tokens == 4


async def test_the_context_bounds_prompt_and_answer_and_says_so(engine: Engine) -> None:
    long = " ".join(["w5"] * (CONTEXT - 4))
    _, deltas, ended = await answered(engine, ask(long, max_tokens=None))
    assert (deltas[-1].finish, ended.usage.completion_tokens) == (FinishReason.CONTEXT_LENGTH, 4)
    with pytest.raises(InputTooLong, match=f"makes {CONTEXT} tokens; the limit is {CONTEXT - 1}"):
        await answered(engine, ask(" ".join(["w5"] * CONTEXT)))
    begun, _, _ = await answered(engine, ask(" ".join(["w5"] * 200), overflow=Overflow.TRUNCATE_START))
    assert (begun.report.token_count, begun.report.truncated_tokens) == (CONTEXT - 1, 200 - CONTEXT + 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "other"}, ModelNotFound),
        ({"expected_version": "sha256:0"}, VersionMismatch),
        ({"sampling": Sampling(temperature=0, candidates=2)}, InvalidRequest),
        ({"stopping": Stopping(token_ids=(96,))}, InvalidRequest),
        ({"prompt": TextPrompt(text="")}, InvalidRequest),
    ],
)
async def test_what_cannot_be_done_is_refused_and_leaves_no_place_taken(
    engine: Engine, change: dict[str, Any], error: type[StrettoError]
) -> None:
    with pytest.raises(error):
        await answered(engine, replace(ask(), **change))
    assert (engine.admission.num_requests, engine.admission.num_tokens) == (0, 0)


async def test_a_version_that_is_not_the_one_wanted_is_told_with_its_model(engine: Engine) -> None:
    with pytest.raises(VersionMismatch) as caught:
        await answered(engine, ask(expected_version="sha256:0"))
    assert caught.value.metadata == {"model": "tiny", "version": engine.card("tiny").version}


@pytest.mark.parametrize(
    ("wishes", "stopping", "path", "said"),
    [
        ({"logit_bias": {90: 1.0}}, {}, "logit_bias", "holds 90; ids go from 0 to 89"),
        ({"allowed_token_ids": (5, 90)}, {}, "allowed_token_ids", "holds 90; ids go from 0 to 89"),
        ({"banned_token_ids": (96,)}, {}, "banned_token_ids", "holds 96; ids go from 0 to 89"),
        ({"banned_strings": ("w1", "  ")}, {}, "banned_strings", "holds '  ', which makes no tokens"),
        ({"allowed_token_ids": (5, 6), "banned_token_ids": (6, 5)}, {}, "allowed_token_ids", "bans them all"),
        ({"allowed_token_ids": (5,), "banned_strings": ("w5",)}, {}, "allowed_token_ids", "bans them all"),
        (
            {"allowed_token_ids": (5, 6), "banned_token_ids": (6,)},
            {"token_ids": (5,), "min_tokens": 2},
            "allowed_token_ids",
            "min_tokens, 2, bans",
        ),
    ],
)
async def test_sampling_that_a_model_cannot_do_is_refused_by_its_path(
    engine: Engine, wishes: dict[str, Any], stopping: dict[str, Any], path: str, said: str
) -> None:
    call = replace(ask(sampling=Sampling(**wishes)), stopping=Stopping(max_tokens=5, **stopping))
    with pytest.raises(InvalidRequest, match=f"config.sampling.{path} .*{said}") as caught:
        await answered(engine, call)
    assert caught.value.field == f"config.sampling.{path}"
    assert engine.admission.num_requests == 0


STUCK = Sampling(temperature=0, allowed_token_ids=(10, 11, 12), no_repeat_ngram_size=1)


async def test_an_answer_that_its_rules_leave_without_a_token_ends_so_and_its_neighbours_go_on(engine: Engine) -> None:
    _, alone, _ = await answered(engine, ask("w4", max_tokens=30))
    failed, (_, beside, _) = await asyncio.gather(
        answered(engine, ask(sampling=STUCK)), answered(engine, ask("w4", max_tokens=30)), return_exceptions=True
    )
    assert isinstance(failed, InvalidRequest)
    assert failed.message.startswith("config.sampling leaves no token to go on with after 3 tokens of the answer")
    assert "".join(delta.text for delta in beside) == "".join(delta.text for delta in alone)


async def test_what_was_read_for_an_answer_that_its_rules_ended_is_shared_by_the_next(engine: Engine) -> None:
    """Its cache is as good as any: nothing went wrong in the engine."""
    prompt = " ".join(f"w{i}" for i in range(20, 60))
    with pytest.raises(InvalidRequest, match="leaves no token"):
        await answered(engine, ask(prompt, sampling=STUCK))
    _, _, ended = await answered(engine, ask(prompt))
    assert ended.usage.cached_prompt_tokens == 32


async def test_a_prompt_text_is_bounded_because_it_stands_before_every_input() -> None:
    with pytest.raises(InvalidRequest, match=r"bytes of config\.prompt_text must be in \[0, 4096\]"):
        EmbedCall(model="tiny", inputs=(TextPrompt(text="w1"),), options=options(), prompt_text="w" * 5000)


async def test_echo_keeps_the_blank_between_prompt_and_answer(engine: Engine) -> None:
    _, deltas, _ = await answered(engine, ask("w1 w2", max_tokens=2, output=Output(echo=True)))
    words = "".join(delta.text for delta in deltas).split(" ")
    assert words[:2] == ["w1", "w2"]
    assert len(words) == 4


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('{"temperature": -1}', "config.sampling.temperature must be in"),
        ('{"top_p": 0}', "config.sampling.top_p must be in"),
        ('{"temperature": "hot"}', "says temperature 'hot', which is no number"),
        ('{"typical_p": 1.5}', "config.sampling.typical_p must be in"),
        ('{"repetition_penalty": 0}', "config.sampling.repetition_penalty must be in"),
        ('{"top_k": -1}', "config.sampling.top_k must be at least 0"),
        ('{"top_k": 1.5}', "says top_k 1.5, which is no whole number"),
        ('{"no_repeat_ngram_size": Infinity}', "says no_repeat_ngram_size 'inf', which is no number"),
    ],
)
async def test_sampling_that_no_request_could_ask_for_is_refused_in_a_checkpoint_too(
    checkpoint: Path, tmp_path: Path, said: str, error: str
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(checkpoint / name)
    (tmp_path / "generation_config.json").write_text(said)
    with pytest.raises(CheckpointError, match=error):
        Served.open(LoadSpec(name="tiny", path=tmp_path, source="tiny"))


async def test_a_full_queue_refuses_and_the_rest_is_answered(start: Callable[[Limits], Awaitable[Engine]]) -> None:
    engine = await start(Limits(max_queue_requests=2, max_sequences=1))
    await engine.ready()
    outcomes = await asyncio.gather(*(answered(engine, ask(max_tokens=40)) for _ in range(8)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(outcome, Overloaded) for outcome in refused)
    assert 1 <= len(refused) <= 6
    assert engine.admission.num_requests == 0


async def test_a_prompt_that_can_never_fit_takes_no_more_of_the_queue_than_one_that_does(
    start: Callable[[Limits], Awaitable[Engine]],
) -> None:
    engine = await start(Limits(max_queue_tokens=200))
    await engine.ready()
    hopeless, small = await asyncio.gather(
        answered(engine, ask("w1 " * 5000)), answered(engine, ask()), return_exceptions=True
    )
    assert isinstance(hopeless, InputTooLong)
    assert not isinstance(small, BaseException)


async def test_leaving_an_answer_early_frees_the_engine_at_once(start: Callable[[Limits], Awaitable[Engine]]) -> None:
    engine = await start(Limits(max_sequences=1))
    await engine.ready()
    async with engine.generate(ask(max_tokens=60)) as events:
        async for event in events:
            if isinstance(event, list):
                break
    await asyncio.wait_for(answered(engine, ask(max_tokens=2)), 5)


async def test_a_killed_engine_loses_what_runs_and_a_new_one_answers_the_same(engine: Engine) -> None:
    _, before, _ = await answered(engine, ask())
    assert engine._process._link is not None
    pid = engine._process._link.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that it surely is in flight
    running = asyncio.create_task(answered(engine, ask(max_tokens=60)))
    await until(lambda: engine.admission.num_requests > 0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineLost, match="the engine process died"):
        await running
    with pytest.raises(EngineLost):
        await answered(engine, ask())
    await until(lambda: engine.alive and engine.card("tiny").state == "ready")
    _, after, _ = await answered(engine, ask())
    assert "".join(delta.text for delta in after) == "".join(delta.text for delta in before)


async def test_while_a_new_engine_loads_a_model_again_its_requests_are_lost_too(engine: Engine) -> None:
    engine._await_another()
    assert engine.alive
    with pytest.raises(EngineLost, match="tiny is being loaded again"):
        await answered(engine, ask())


async def test_the_last_words_of_an_engine_process_are_in_the_servers_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine._process._link is not None
    engine._process._link._writer.write(LENGTH.pack(1) + b"\xc1")  # never a message
    await until(lambda: "exit code 70" in caplog.text)
    words, end = [record.getMessage() for record in caplog.records if record.name == "stretto.engine"][:2]
    assert words.startswith("the engine cannot read its commands\nTraceback")
    assert "DecodeError" in words
    assert end == "the engine process ended with exit code 70"
    await until(lambda: engine.alive and engine.card("tiny").state == "ready")


async def test_tokens_that_nobody_takes_are_bounded_and_their_request_ends(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_UNREAD_TOKENS", 8)
    async with engine.generate(ask(max_tokens=60)) as events:
        assert isinstance(await anext(events), Started)
        await until(lambda: not engine._process._inboxes)  # it is given up though nobody reads
        await answered(engine, ask(max_tokens=2))  # whoever reads is served
        (delta,) = await anext(events)
        assert isinstance(delta, Delta)
        assert len(delta.token_ids) == 8
        with pytest.raises(SlowReader, match="8 tokens wait to be read"):
            await anext(events)


async def test_an_engine_that_hangs_is_killed_and_another_one_answers(
    start: Callable[[Limits], Awaitable[Engine]], caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start(Limits(hang_seconds=2))
    await engine.ready()
    pid = engine._process._link.pid if engine._process._link is not None else None
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineLost, match="the engine process hung"):
        await asyncio.wait_for(answered(engine, ask()), 20)
    await until(lambda: engine.alive and engine.card("tiny").state == "ready")
    await answered(engine, ask())
    assert "hung: it said nothing for 2.5 s, the limit is 2 s" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_engine_with_nothing_to_do_is_not_taken_for_one_that_hangs(
    start: Callable[[Limits], Awaitable[Engine]],
) -> None:
    gauges = asyncio.Semaphore(0)
    engine = await start(Limits(hang_seconds=1))
    engine._observe = lambda news: gauges.release() if isinstance(news, Gauges) else None
    await engine.ready()
    pid = engine._process._link.pid if engine._process._link is not None else None
    for _ in range(5):  # two and a half seconds of silence, but for these
        await asyncio.wait_for(gauges.acquire(), 5)
    assert engine._process._link is not None
    assert engine._process._link.pid == pid


async def test_an_engine_that_dies_while_it_loads_again_and_again_fails_the_start(
    start: Callable[[Limits], Awaitable[Engine]], checkpoint: Path
) -> None:
    engine = await start(Limits())
    killed: set[int] = set()

    async def kill_each() -> None:
        while True:
            pid = engine._process._link.pid if engine._process._link is not None else None
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            await asyncio.sleep(0)

    killer = asyncio.create_task(kill_each())
    with pytest.raises(CheckpointError, match=r"SIGKILL .*3 times while the models were loaded"):
        await asyncio.wait_for(engine.ready(), 30)
    killer.cancel()
    assert len(killed) == 3


async def test_closing_ends_the_process_and_what_is_in_flight(start: Callable[[Limits], Awaitable[Engine]]) -> None:
    engine = await start(Limits())
    await engine.ready()
    assert engine._process._link is not None
    pid = engine._process._link.pid
    running = asyncio.create_task(answered(engine, ask(max_tokens=60)))
    await asyncio.sleep(0)
    await engine.close()
    with pytest.raises(EngineLost):
        await running
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_model_whose_weights_do_not_fit_is_named_and_its_neighbour_answers(
    checkpoint: Path, tmp_path: Path
) -> None:
    bad = shutil.copytree(checkpoint, tmp_path / "bad")
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {"intermediate_size": 65}))
    specs = [LoadSpec(name=path.name, path=path, source="", device="cpu") for path in (checkpoint, bad)]
    engine = Engine(specs, Limits(threads=1), observe=lambda _: None, changed=lambda: None)
    try:
        await engine.start()
        with pytest.raises(CheckpointError, match=f"{bad} does not hold what bad/config.json describes"):
            await engine.ready()
        await until(lambda: engine.card("tiny").state == "ready" and bool(engine.card("tiny").version))
        assert (await answered(engine, ask()))[2].usage.completion_tokens == 5
        with pytest.raises(ModelNotReady, match="bad is failed") as refused:
            await answered(engine, replace(ask(), model="bad"))
        assert refused.value.retry_after is None  # it stays so
        assert (await answered(engine, ask()))[2].usage.completion_tokens == 5
    finally:
        await engine.close()


async def test_texts_become_ids_and_back_before_the_weights_are_read_and_beside_the_loop(
    start: Callable[[Limits], Awaitable[Engine]],
) -> None:
    engine = await start(Limits())
    assert engine.card("tiny").state == "loading"

    def write(results: list[Tokenized]) -> tuple[list[list[int]], bool]:
        return [list(each.ids) for each in results], threading.current_thread() is threading.main_thread()

    call = TokenizeCall(model="tiny", inputs=(TextPrompt(text="w1 w2"), TokenPrompt(ids=(3,))))
    assert await engine.tokenize(call, write) == ([[1, 2], [3]], False)
    back = DetokenizeCall(model="tiny", inputs=((1, 2), (3,)), skip_special_tokens=True, max_bytes=100)
    assert await engine.detokenize(back) == ["w1 w2", "w3"]
    assert [file.name for file in await engine.tokenizer_files("tiny")] == ["tokenizer.json"]
    with pytest.raises(ModelNotFound):
        await engine.tokenizer_files("other")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Callable[[list[int]], torch.Tensor]:
    """The log-softmax of every position but the first, of the ids that have a word."""
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def logprobs(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, :-1, :90].log_softmax(-1)

    return logprobs


def total(reference: Callable[[list[int]], torch.Tensor], context: list[int], continuation: list[int]) -> float:
    ids = context + continuation
    rows = reference(ids)
    return sum(float(rows[place - 1, ids[place]]) for place in range(len(context), len(ids)))


async def test_continuations_are_scored_and_a_bad_item_fails_alone(
    engine: Engine, reference: Callable[[list[int]], torch.Tensor]
) -> None:
    good = ScoreItem(
        context=TextPrompt(text="w1 w2 w3"), continuations=(TextPrompt(text="w4 w5"), TokenPrompt(ids=(6,)))
    )
    items = (
        good,
        ScoreItem(context=None, continuations=(TextPrompt(text="w4"),)),  # nothing begins a text of this model
        ScoreItem(context=TokenPrompt(ids=(96,)), continuations=(TextPrompt(text="w4"),)),
        ScoreItem(context=TextPrompt(text="w1"), continuations=(TextPrompt(text=""),)),
        ScoreItem(context=TextPrompt(text=" ".join(["w1"] * CONTEXT)), continuations=(TextPrompt(text="w2"),)),
    )
    answer = await engine.score(ScoreCall(model="tiny", items=items, options=options(), with_tokens=True))
    scored, *bad = answer.results
    assert isinstance(scored, ScoredItem)
    first, second = scored.continuations
    assert first.logprob == pytest.approx(total(reference, [1, 2, 3], [4, 5]), abs=1e-4)
    assert second.logprob == pytest.approx(total(reference, [1, 2, 3], [6]), abs=1e-4)
    assert (first.token_count, second.token_count) == (2, 1)
    assert [each.chosen.token_id for each in first.tokens] == [4, 5]
    assert first.is_greedy == all(each.chosen.rank == 1 for each in first.tokens)
    assert [type(each) for each in bad] == [EmptyInput, BadTokenId, EmptyInput, InputTooLong]
    assert [each.field for each in bad if isinstance(each, StrettoError)] == [
        "items[1].context",
        "items[2].context",
        "items[3].continuations[0]",
        "items[4].context",
    ]
    assert answer.usage.prompt_tokens == 3 + 2 + 1
    assert engine.admission.num_requests == 0


async def test_a_context_that_is_too_long_is_cut_at_its_start_where_that_was_asked_for(
    engine: Engine, reference: Callable[[list[int]], torch.Tensor]
) -> None:
    ids = [1 + place % 80 for place in range(CONTEXT)]
    item = ScoreItem(context=TokenPrompt(ids=tuple(ids)), continuations=(TokenPrompt(ids=(3, 4)),))
    call = ScoreCall(model="tiny", items=(item,), options=options(), overflow=Overflow.TRUNCATE_START)
    (result,) = (await engine.score(call)).results
    assert isinstance(result, ScoredItem)
    assert (result.report.token_count, result.report.truncated_tokens) == (CONTEXT - 2, 2)
    assert result.continuations[0].logprob == pytest.approx(total(reference, ids[2:], [3, 4]), abs=1e-4)


async def test_scores_that_no_reply_holds_are_refused_before_the_work(engine: Engine) -> None:
    item = ScoreItem(context=TextPrompt(text="w1"), continuations=(TextPrompt(text="w2 w3 w4"),))
    call = ScoreCall(model="tiny", items=(item,) * 4, options=options(), with_tokens=True, max_logprobs=7)
    with pytest.raises(ReplyTooLarge, match="the first 2 items do"):
        await engine.score(call)
    await engine.score(replace(call, with_tokens=False))


async def test_a_prompts_logprobs_come_once_and_before_the_answer(
    engine: Engine, reference: Callable[[list[int]], torch.Tensor]
) -> None:
    call = ask("w1 w2 w3 w4", output=Output(top_logprobs=2, logprob_token_ids=(9,), prompt_logprobs=True))
    async with engine.generate(call) as events:
        kinds = [event async for event in events]
    (place,) = (place for place, event in enumerate(kinds) if isinstance(event, PromptScored))
    assert place == 1
    first, *rest = kinds[place].logprobs  # type: ignore[union-attr]
    assert (first.chosen.token_id, first.chosen.logprob) == (1, None)
    rows = reference([1, 2, 3, 4])
    assert [each.chosen.logprob for each in rest] == pytest.approx([float(rows[i, i + 2]) for i in range(3)], abs=1e-4)
    assert [len(each.top) for each in rest] == [3, 3, 3]
    assert [each.top[2].token_id for each in rest] == [9, 9, 9]


async def test_logprobs_that_no_reply_holds_are_refused_before_the_work(engine: Engine) -> None:
    output = Output(top_logprobs=1, prompt_logprobs=True)
    with pytest.raises(ReplyTooLarge, match="it has room for 1 positions"):
        await answered(engine, replace(ask(output=output), max_logprobs=3))
    with pytest.raises(ReplyTooLarge, match="at most 4 tokens do") as caught:
        await answered(engine, replace(ask(output=output), max_logprobs=14))
    assert caught.value.field == "config.stopping.max_tokens"
    await answered(engine, replace(ask(output=output), max_logprobs=16))
    with pytest.raises(ReplyTooLarge):
        await answered(engine, replace(ask(output=output), max_message_logprobs=5))
    best = Sampling(temperature=1, seed=1, best_of=4)  # one of four is in the reply
    await answered(engine, replace(ask(output=output, sampling=best), max_logprobs=16))


async def test_logprobs_that_pile_up_come_in_lists_that_fit_a_message(engine: Engine) -> None:
    call = replace(ask(max_tokens=20, output=Output(top_logprobs=1)), max_message_logprobs=9)
    async with engine.generate(call) as events:
        await anext(events)
        await until(lambda: any(inbox.qsize() == 20 for inbox in engine._process._inboxes.values()))
        sizes = [len(delta.logprobs) async for event in events if isinstance(event, list) for delta in event]
    assert sizes == [4] * 5


async def test_a_response_prefix_stands_behind_the_prompt(engine: Engine) -> None:
    _, whole, _ = await answered(engine, ask("w1 w2 w3 w4 w5"))
    begun, deltas, _ = await answered(engine, replace(ask("w1 w2 w3"), response_prefix=" w4 w5"))
    assert begun.report.token_count == 5
    assert [token for delta in deltas for token in delta.token_ids] == [t for delta in whole for t in delta.token_ids]
    kept, _, _ = await answered(
        engine,
        replace(ask("w1 w2 w3"), response_prefix="w4 w5", overflow=Overflow.TRUNCATE_END, max_prompt_tokens=3),
    )
    assert (kept.report.token_count, kept.report.truncated_tokens) == (3, 2)  # the prefix is never what is cut


@pytest.mark.parametrize("cut", [1, 3])
async def test_a_resumed_answer_goes_on_as_if_it_had_never_broken(engine: Engine, cut: int) -> None:
    sampling = Sampling(temperature=0.9, seed=11, candidates=2)
    _, whole, _ = await answered(engine, ask(sampling=sampling, max_tokens=6))
    said = [[token for d in whole if d.candidate == c for token in d.token_ids] for c in range(2)]
    resumed = replace(ask(sampling=sampling, max_tokens=6), resume_after=(tuple(said[0][:cut]), tuple(said[1])))
    _, rest, ended = await answered(engine, resumed)
    assert [token for d in rest if d.candidate == 0 for token in d.token_ids] == said[0][cut:]
    assert next(d.first_token_index for d in rest if d.candidate == 0) == cut
    (again,) = [d for d in rest if d.candidate == 1]
    assert (again.token_ids, again.finish, again.cumulative_logprob) == ((), FinishReason.MAX_TOKENS, None)
    last = {d.candidate: d for d in whole}[0].cumulative_logprob
    assert [d for d in rest if d.candidate == 0][-1].cumulative_logprob == pytest.approx(last, abs=1e-3)
    assert ended.usage.completion_tokens == 12


@pytest.mark.parametrize(
    ("resume_after", "sampling", "field"),
    [
        (((1,), (2,)), Sampling(temperature=0), "resume_after"),
        (((95,),), Sampling(temperature=0), "resume_after[0]"),
        (((1,),), Sampling(temperature=1), "config.sampling.seed"),
        (((1, 2, 3, 4, 5, 6),), Sampling(temperature=0), "resume_after"),
    ],
)
async def test_what_cannot_be_resumed_is_refused_by_name(
    engine: Engine, resume_after: tuple[tuple[int, ...], ...], sampling: Sampling, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await answered(engine, replace(ask(sampling=sampling), resume_after=resume_after))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("max_tokens", "resume_after", "output", "field"),
    [
        (0, ((1,),), Output(), "resume_after"),
        (2, ((1, 2),), Output(prompt_logprobs=True), "config.output.include_prompt_logprobs"),
    ],
)
async def test_what_an_ended_answer_can_give_no_more_is_refused(
    engine: Engine, max_tokens: int, resume_after: tuple[tuple[int, ...], ...], output: Output, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await answered(engine, replace(ask(max_tokens=max_tokens, output=output), resume_after=resume_after))
    assert caught.value.field == field


async def test_an_answer_is_resumed_though_the_first_of_its_candidates_had_ended(engine: Engine) -> None:
    sampling = Sampling(temperature=0.9, seed=11, candidates=2)
    _, whole, _ = await answered(engine, ask(sampling=sampling, max_tokens=6))
    first, second = [[token for d in whole if d.candidate == c for token in d.token_ids] for c in range(2)]
    resumed = replace(ask(sampling=sampling, max_tokens=6), resume_after=(tuple(first), tuple(second[:2])))
    _, rest, _ = await answered(engine, resumed)
    assert [token for delta in rest if delta.candidate == 1 for token in delta.token_ids] == second[2:]


async def test_progress_tells_how_far_the_prompt_is_read(engine: Engine) -> None:
    async with engine.generate(replace(ask(" ".join(["w1"] * 40)), progress=True)) as events:
        told = [event async for event in events if isinstance(event, Progress)]
    assert [event.processed_tokens for event in told][-1] == 40
    assert {event.total_tokens for event in told} == {40}


async def test_the_best_of_several_are_drawn_and_all_are_counted(engine: Engine) -> None:
    sampling = Sampling(temperature=1, seed=1, candidates=1, best_of=4)
    _, deltas, ended = await answered(engine, ask(sampling=sampling, max_tokens=3))
    assert {delta.candidate for delta in deltas} == {0, 1, 2, 3}
    assert ended.usage.completion_tokens == 12
