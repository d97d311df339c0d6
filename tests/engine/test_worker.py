"""
The whole engine process, run here in one thread over tiny real checkpoints: whatever the company, the order, the
evictions and the accidents, each request gets what it gets alone.
"""

import time
import weakref
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from stretto.engine.config import Limits
from stretto.engine.lanes import CausalLane, in_halves
from stretto.engine.messages import (
    Cancel,
    Draw,
    Encode,
    Event,
    Failed,
    Freed,
    Gauges,
    Generate,
    Load,
    LoadFailed,
    Ready,
    Step,
    Stop,
    Token,
    Vector,
)
from stretto.engine.worker import Worker

Kind = TypeVar("Kind")
VOCABULARY = 96
GREEDY = Draw(temperature=0.0)
POISON = 13  # the token whose embedding is made NaN in one of the checkpoints


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
    )
    folder = tmp_path_factory.mktemp("models") / "llama"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("models") / "bert"
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def poisoned(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, except that reading token POISON gives NaN."""
    folder = tmp_path_factory.mktemp("models") / "poisoned"
    folder.mkdir()
    (folder / "config.json").write_text((llama / "config.json").read_text())
    tensors = load_file(llama / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    return folder


class Running:
    """A worker with one model or more, and all events since the last look."""

    def __init__(self, models: dict[str, Path], *, cache_tokens: int = 4096, limits: Limits | None = None) -> None:
        self.worker = Worker(limits or Limits(step_tokens=64))
        per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, key heads, head size, float32
        for name, path in models.items():
            events = self.worker.obey(
                Load(
                    name=name,
                    path=str(path),
                    dtype="float32",
                    device="cpu",
                    cache_bytes=cache_tokens * per_token,
                    limit_ids=VOCABULARY,
                )
            )
            assert isinstance(events[0], Ready), events
        self.events: list[Event] = []

    def ask(self, *commands: Generate | Encode | Cancel) -> None:
        for command in commands:
            self.events += self.worker.obey(command)

    def step(self) -> None:
        self.events += self.worker.step()

    def drain(self) -> "Running":
        for _ in range(10_000):
            if self.worker.idle:
                return self
            self.step()
        raise AssertionError("the worker never came to an end")

    def tokens(self, request_id: int, candidate: int = 0) -> list[int]:
        mine = [e for e in self.events if isinstance(e, Token) and (e.id, e.candidate) == (request_id, candidate)]
        return [event.token for event in mine if event.token >= 0]

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    def held(self) -> int:
        """How many blocks requests hold."""
        return sum(gauges.blocks_held for gauges in self.worker.gauges(0.0))


def request(request_id: int, prompt: list[int], draw: Draw = GREEDY, model: str = "llama", **more: object) -> Generate:
    settings: dict[str, object] = {"max_tokens": 12, **more}
    return Generate(id=request_id, model=model, prompt=prompt, draw=draw, **settings)  # type: ignore[arg-type]


def text(request_id: int, ids: list[int], model: str = "bert", index: int = 0) -> Encode:
    return Encode(id=request_id, index=index, model=model, ids=ids, pooling="mean", normalize=True)


def prompts(count: int) -> list[list[int]]:
    dice = np.random.default_rng(7)
    return [[int(t) for t in dice.integers(14, VOCABULARY, size=dice.integers(1, 60))] for _ in range(count)]


def alone(path: Path, ask: Generate, candidate: int = 0) -> list[int]:
    running = Running({"llama": path})
    running.ask(ask)
    return running.drain().tokens(ask.id, candidate)


@pytest.mark.parametrize(
    "draw", [GREEDY, Draw(temperature=0.9, top_k=30, top_p=0.95, min_p=0.01, seed=5)], ids=["greedy", "seeded"]
)
@pytest.mark.parametrize(
    ("cache_tokens", "step_tokens", "evicts"), [(4096, 64, False), (160, 64, True), (160, 7, False), (96, 32, True)]
)
def test_a_reply_does_not_depend_on_its_company(
    llama: Path, draw: Draw, cache_tokens: int, step_tokens: int, evicts: bool
) -> None:
    long = max(prompts(8), key=len)
    asked = [*prompts(8), [*long[:40], 15, 16], [*long[:40], 17], long]
    running = Running({"llama": llama}, cache_tokens=cache_tokens, limits=Limits(step_tokens=step_tokens))
    for i, prompt in enumerate(asked):
        running.ask(request(i, prompt, draw))
        running.step()
        if i == 7:
            running.drain()  # so that those after it find their prefixes in the cache
    running.drain()
    assert [running.tokens(i) for i in range(11)] == [alone(llama, request(i, p, draw)) for i, p in enumerate(asked)]
    assert any(e.preemptions for e in running.events if isinstance(e, Step)) == evicts
    assert any(e.prefix_hit for e in running.events if isinstance(e, Step)) or cache_tokens < 4096
    assert running.worker.idle
    assert running.held() == 0


def test_the_engine_agrees_with_transformers_over_a_whole_greedy_answer(llama: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)
    for i, prompt in enumerate(prompts(4)):
        want = model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert alone(llama, request(i, prompt)) == want[0, len(prompt) :].tolist()


def test_candidates_of_one_seed_differ_and_each_is_the_same_in_any_company(llama: Path) -> None:
    draw = Draw(temperature=1.0, seed=3)
    ask = request(1, prompts(1)[0], draw, candidates=3)
    lonely = [alone(llama, ask, candidate) for candidate in range(3)]
    assert len({tuple(tokens) for tokens in lonely}) == 3
    running = Running({"llama": llama})
    running.ask(*(request(10 + i, prompt) for i, prompt in enumerate(prompts(6))), ask)
    running.drain()
    assert [running.tokens(1, candidate) for candidate in range(3)] == lonely


def test_a_decoder_embeds_from_the_same_weights_while_it_generates(llama: Path) -> None:
    prompt = prompts(1)[0]
    running = Running({"llama": llama})
    running.ask(
        request(1, prompt), Encode(id=2, index=0, model="llama", ids=prompt, pooling="last_token", normalize=False)
    )
    running.drain()
    model = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)
    with torch.inference_mode():
        want = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
    (vector,) = running.of(Vector)
    assert isinstance(vector, Vector)
    np.testing.assert_allclose(np.frombuffer(vector.vector, "<f4"), want.numpy(), atol=1e-4)
    assert running.tokens(1) == alone(llama, request(1, prompt))


@pytest.mark.parametrize("cache_tokens", [4096, 160])
def test_a_request_that_gives_no_numbers_fails_alone_and_leaves_no_trace(
    poisoned: Path, llama: Path, cache_tokens: int
) -> None:
    good = prompts(6)
    running = Running({"llama": poisoned}, cache_tokens=cache_tokens)
    for i, prompt in enumerate(good):
        running.ask(request(i, prompt), request(100 + i, [*prompt, POISON, *prompt[:5]]))
        running.step()
    running.drain()
    failures = running.of(Failed)
    assert {e.id for e in failures if isinstance(e, Failed)} == set(range(100, 106))
    assert all(isinstance(e, Failed) and e.reason == "ENGINE_ERROR" for e in failures)
    for i, prompt in enumerate(good):
        assert running.tokens(i) == alone(llama, request(i, prompt))
    running.events.clear()
    long = [t for prompt in good for t in prompt][: cache_tokens // 2 - 20][:200]  # over the blocks that were poisoned
    running.ask(request(50, long))
    assert running.drain().tokens(50) == alone(llama, request(50, long))


def test_a_request_that_raises_fails_alone(llama: Path, bert: Path) -> None:
    """An id beyond the table raises inside the model; the server refuses such ids, so nothing else brings one here."""
    good = prompts(5)
    running = Running({"llama": llama, "bert": bert})
    for i, prompt in enumerate(good):
        running.ask(request(i, prompt), text(20 + i, prompt[:30]))
    running.ask(request(100, [5, VOCABULARY + 7]), text(101, [VOCABULARY + 7]))
    running.drain()
    assert sorted(e.id for e in running.events if isinstance(e, Failed)) == [100, 101]
    assert [running.tokens(i) for i in range(5)] == [alone(llama, request(i, prompt)) for i, prompt in enumerate(good)]
    assert {e.id for e in running.of(Vector) if isinstance(e, Vector)} == {20, 21, 22, 23, 24}


def test_what_a_caller_is_told_of_an_accident_holds_no_internals(llama: Path) -> None:
    running = Running({"llama": llama})
    running.ask(request(1, [VOCABULARY + 7]))
    running.drain()
    (failed,) = running.of(Failed)
    assert isinstance(failed, Failed)
    assert "IndexError" in failed.log
    assert "IndexError" not in failed.message
    assert failed.message.split("error ")[1].rstrip(".") in failed.log


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_cancelled_request_stops_between_two_steps_also_inside_a_long_prompt(llama: Path, steps: int) -> None:
    running = Running({"llama": llama}, limits=Limits(step_tokens=16))
    running.ask(request(1, [20] * 200, max_tokens=50))
    for _ in range(steps):
        running.step()
    running.ask(Cancel(id=1, sent=time.monotonic()))
    assert running.worker.idle
    running.step()
    assert not running.of(Token)
    assert running.held() == 0


def test_a_cancel_that_freed_something_is_answered_with_how_long_it_took_and_another_is_not(
    llama: Path, bert: Path
) -> None:
    running = Running({"llama": llama, "bert": bert})
    scoring = request(2, [20], suffixes=[[21]], score_suffixes=True, max_tokens=0)
    running.ask(request(1, [20], max_tokens=50), scoring, text(3, [20]), text(3, [20], index=1))
    sent = time.monotonic() - 5
    for request_id in (1, 2, 3, 3, 1, 99):
        running.ask(Cancel(id=request_id, sent=sent))
    freed = running.of(Freed)
    assert [event.task for event in freed] == ["generate", "score", "embed"]
    assert all(5 <= event.seconds <= time.monotonic() - sent for event in freed)


def test_the_gauges_tell_each_task_of_each_model_and_what_waits_for_it(llama: Path, bert: Path) -> None:
    running = Running({"llama": llama, "bert": bert})
    scoring = request(2, [20] * 4, suffixes=[[21]], score_suffixes=True, max_tokens=0)
    running.ask(request(1, [20] * 3), scoring, text(3, [20] * 5), text(4, [20] * 2), text(4, [20] * 6, index=1))
    found = {(each.model, each.task): each for each in running.worker.gauges(time.monotonic())}
    waiting = {key: (each.waiting, each.waiting_tokens) for key, each in found.items()}
    assert waiting == {
        ("llama", "embed"): (0, 0),
        ("llama", "generate"): (1, 3),
        ("llama", "score"): (1, waiting["llama", "score"][1]),
        ("bert", "embed"): (3 - 1, 5 + 2 + 6),
    }
    assert waiting["llama", "score"][1] >= 4
    assert all((each.oldest_wait_seconds > 0) == (each.waiting > 0) for each in found.values())
    assert found["llama", "generate"].blocks_free > 0
    assert found["llama", "score"].blocks_free == 0


def test_two_models_share_the_time_and_neither_waits_for_the_other_to_finish(llama: Path, bert: Path) -> None:
    running = Running({"llama": llama, "bert": bert}, limits=Limits(encode_tokens=8))
    running.ask(request(1, [20, 21], max_tokens=60))
    running.ask(*(text(2, [20] * 8, index=i) for i in range(60)))
    running.drain()
    order = [e.model for e in running.events if isinstance(e, Step)]
    first_half = order[: len(order) // 2]
    assert {"llama", "bert"} <= set(first_half)
    assert len(running.of(Vector)) == 60
    assert len(running.tokens(1)) == 60


def test_prompts_hold_up_who_decodes_longer_where_few_decode_and_many_are_to_be_read(llama: Path) -> None:
    lane = Running({"llama": llama}).worker._lanes["llama"][1]
    assert isinstance(lane, CausalLane)
    assert lane._patience(0.1) == 0.1
    for i in range(8):
        lane.add(request(i, [20]), 0.0)
    lane.step(None)
    lane.add(request(50, [20] * 100), 0.0)
    assert lane._patience(0.1) == 0.1  # eight decode, one is to be read
    for i in range(1, 8):
        lane.cancel(i)
    lane.add(request(51, [20] * 100), 0.0)
    assert lane._patience(0.1) == pytest.approx(0.2)  # one decodes, two are to be read
    for i in range(52, 60):
        lane.add(request(i, [20] * 100), 0.0)
    assert lane._patience(0.1) == pytest.approx(0.4)
    assert lane._patience(None) is None


def test_the_company_changes_a_vector_by_no_more_than_rounding(bert: Path) -> None:
    texts = [prompt[:50] for prompt in prompts(20)]

    def vectors(running: Running) -> dict[int, np.ndarray]:  # type: ignore[type-arg]
        return {e.id: np.frombuffer(e.vector, "<f4") for e in running.drain().events if isinstance(e, Vector)}

    crowd = Running({"bert": bert}, limits=Limits(encode_tokens=10_000))
    crowd.ask(*(text(i, ids) for i, ids in enumerate(texts)))
    together = vectors(crowd)
    for i, ids in enumerate(texts):
        single = Running({"bert": bert})
        single.ask(text(i, ids))
        np.testing.assert_allclose(vectors(single)[i], together[i], atol=1e-5)


def test_a_checkpoint_that_does_not_fit_or_does_not_exist_is_refused_with_the_reason(
    llama: Path, tmp_path: Path
) -> None:
    def load(path: Path, cache_bytes: int) -> LoadFailed:
        worker = Worker(Limits())
        (event,) = worker.obey(
            Load(name="x", path=str(path), dtype="float32", device="cpu", cache_bytes=cache_bytes, limit_ids=VOCABULARY)
        )
        assert isinstance(event, LoadFailed)
        return event

    assert "does not exist" in load(tmp_path / "nowhere", 0).message
    assert "does not fit" in load(llama, 1 << 60).message
    assert "holds no block" in load(llama, 100).message


def test_an_idle_worker_says_how_it_stands(llama: Path) -> None:
    running = Running({"llama": llama})
    running.ask(request(1, [20, 21, 22]))
    running.drain()
    last = [event for event in running.of(Gauges) if event.task == "generate"][-1]
    assert (last.waiting, last.blocks_held) == (0, 0)


def test_a_model_that_was_alone_for_long_does_not_pay_for_it_when_another_comes(llama: Path, bert: Path) -> None:
    running = Running({"llama": llama, "bert": bert}, limits=Limits(encode_tokens=8))
    running.ask(*(text(1, [20] * 8, index=i) for i in range(200)))
    running.drain()
    running.ask(request(2, [20, 21], max_tokens=200), text(3, [20] * 8))
    for _ in range(3):
        running.step()
    assert any(isinstance(event, Vector) and event.id == 3 for event in running.events)


def test_a_request_for_a_model_that_is_not_loaded_fails_alone(llama: Path) -> None:
    running = Running({"llama": llama})
    running.ask(request(7, [20], model="gone"), request(8, [20], max_tokens=2))
    running.drain()
    (failed,) = running.of(Failed)
    assert isinstance(failed, Failed)
    assert (failed.id, failed.reason) == (7, "MODEL_NOT_READY")
    assert len(running.tokens(8)) == 2


def test_the_halves_run_when_what_the_failed_run_had_made_is_gone() -> None:
    """Else a batch that ran out of memory would leave its halves less than it had."""

    class Memory: ...

    made: list[weakref.ref[Memory]] = []
    held: list[int] = []

    def run(batch: list[int]) -> list[int]:
        mine = Memory()
        held.append(sum(each() is not None for each in made))
        made.append(weakref.ref(mine))
        if len(batch) > 1:
            raise RuntimeError("out of memory")
        return batch

    assert in_halves(run, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert held == [0] * 7


def test_while_anybody_decodes_prompts_and_texts_of_every_model_are_cut_to_the_budget(llama: Path, bert: Path) -> None:
    limits = Limits(step_tokens=512, encode_tokens=512, step_budget_seconds=1e-9)
    running = Running({"llama": llama, "bert": bert}, limits=limits)
    running.ask(request(9, [20] * 40, max_tokens=1), *(text(8, [20] * 40, index=i) for i in range(5)))
    running.drain()  # both lanes have learned what a token costs
    assert max(e.tokens for e in running.events if isinstance(e, Step)) == 200
    running.events.clear()
    running.ask(request(1, [20, 21], max_tokens=100))
    running.step()
    running.ask(request(2, [30] * 200, max_tokens=1), *(text(3, [20] * 40, index=i) for i in range(5)))
    for _ in range(20):
        running.step()
    steps = [e for e in running.events if isinstance(e, Step)]
    assert max(e.tokens for e in steps if e.model == "llama") <= 33  # the least step, and who decodes
    assert max(e.tokens for e in steps if e.model == "bert") == 40  # a text is never cut


def test_deadlines_stops_and_cancels_reach_every_lane(llama: Path, bert: Path) -> None:
    running = Running({"llama": llama, "bert": bert})
    running.ask(request(1, [20], deadline=0.0), text(2, [20]), text(3, [20]), request(4, [21], max_tokens=100))
    running.ask(Cancel(id=2, sent=0.0))
    running.step()
    running.events += running.worker.obey(Stop(id=4, candidate=0))
    running.drain()
    assert [(e.id, e.reason) for e in running.events if isinstance(e, Failed)] == [(1, "DEADLINE")]
    assert [e.id for e in running.events if isinstance(e, Vector)] == [3]
    (end,) = [e for e in running.events if isinstance(e, Token) and e.id == 4 and e.finish]
    assert (end.token, end.finish) == (-1, "stop")
