"""Logprobs of given tokens are transformers', whatever was cut, cached, preempted or computed beside them."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from stretto.engine.config import Limits
from stretto.engine.messages import Draw, Event, Generate, Load, Reading, Ready, Scored, Step, Token
from stretto.engine.scoring import scored
from stretto.engine.worker import Worker

VOCABULARY, LIMIT = 96, 90
GREEDY = Draw(temperature=0.0)
PROMPT = [int(x) for x in torch.randint(1, LIMIT, (45,), generator=torch.Generator().manual_seed(3))]
SUFFIXES = [[5, 6, 7], [8], [5, 9, 10, 11, 12]]


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


def reference(folder: Path, ids: list[int]) -> Tensor:
    """The log-softmax [len(ids) - 1, LIMIT] of every position but the first."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1, :LIMIT].log_softmax(-1)


class Running:
    """A worker over the model, and everything that it said."""

    def __init__(self, folder: Path, *, blocks: int = 64, step_tokens: int = 64) -> None:
        self.worker = Worker(Limits(step_tokens=step_tokens))
        ready = self.worker.obey(
            Load(
                name="llama",
                path=str(folder),
                dtype="float32",
                device="cpu",
                cache_bytes=blocks * 16 * 2 * 2 * 2 * 8 * 4,
                limit_ids=LIMIT,
            )
        )
        assert isinstance(ready[0], Ready)
        self.events: list[Event] = []

    def ask(self, *requests: Generate) -> "Running":
        for request in requests:
            self.events += self.worker.obey(request)
        while not self.worker.idle:
            self.events += self.worker.step()
        return self

    def given(self, request_id: int, candidate: int = 0) -> dict[int, tuple[float, int, list[tuple[int, float]]]]:
        """What was told of each position; a position told twice fails."""
        found: dict[int, tuple[float, int, list[tuple[int, float]]]] = {}
        for event in self.events:
            if isinstance(event, Scored) and (event.id, event.candidate) == (request_id, candidate):
                for place, figures in enumerate(zip(event.logprobs, event.ranks, event.tops, strict=True), event.start):
                    assert place not in found
                    found[place] = figures
        return found


def prompt_request(request_id: int = 1, **more: object) -> Generate:
    settings: dict[str, object] = {"max_tokens": 4, "score_prompt": True, "top": 3, **more}
    return Generate(id=request_id, model="llama", prompt=PROMPT, draw=GREEDY, **settings)  # type: ignore[arg-type]


def score_request(request_id: int = 2, **more: object) -> Generate:
    settings: dict[str, object] = {"suffixes": SUFFIXES, **more}
    return Generate(
        id=request_id,
        model="llama",
        prompt=PROMPT,
        draw=GREEDY,
        max_tokens=0,
        candidates=len(SUFFIXES),
        score_suffixes=True,
        **settings,  # type: ignore[arg-type]
    )


def check(given: dict[int, tuple[float, int, list[tuple[int, float]]]], ids: list[int], expected: Tensor) -> None:
    for place, (logprob, rank, top) in given.items():
        row = expected[place - 1]
        assert logprob == pytest.approx(float(row[ids[place]]), abs=1e-4)
        assert rank == 1 + int((row > row[ids[place]]).sum())
        best = row.topk(len(top))
        assert [id_ for id_, _ in top] == best.indices.tolist()
        assert [value for _, value in top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("step_tokens", [1, 7, 64])
def test_a_prompt_is_scored_as_transformers_scores_it_however_it_is_cut(llama: Path, step_tokens: int) -> None:
    given = Running(llama, step_tokens=step_tokens).ask(prompt_request()).given(1)
    assert sorted(given) == list(range(1, len(PROMPT)))
    check(given, PROMPT, reference(llama, PROMPT))


def test_a_prompt_is_scored_whole_though_it_is_in_the_cache_and_writes_the_cache(llama: Path) -> None:
    running = Running(llama).ask(prompt_request(1))
    running.ask(prompt_request(2))
    assert running.given(2) == running.given(1)
    assert not any(event.prefix_hit for event in running.events if isinstance(event, Step))
    plain = running.ask(prompt_request(3, score_prompt=False))
    assert not plain.given(3)
    assert sum(event.prefix_hit for event in plain.events if isinstance(event, Step)) >= 32


@pytest.mark.parametrize("share_prefix", [True, False])
def test_continuations_are_scored_as_transformers_scores_them(llama: Path, share_prefix: bool) -> None:
    running = Running(llama).ask(score_request(share_prefix=share_prefix))
    for candidate, suffix in enumerate(SUFFIXES):
        ids = PROMPT + suffix
        given = running.given(2, candidate)
        assert sorted(given) == list(range(len(PROMPT), len(ids)))
        check(given, ids, reference(llama, ids))


def test_the_context_of_continuations_is_computed_once_but_for_its_last_block(llama: Path) -> None:
    steps = [event for event in Running(llama).ask(score_request()).events if isinstance(event, Step)]
    again = sum(len(PROMPT) % 16 + len(suffix) for suffix in SUFFIXES[1:])
    assert sum(step.tokens for step in steps) == len(PROMPT) + len(SUFFIXES[0]) + again


def test_scoring_says_no_token_and_ends_each_continuation(llama: Path) -> None:
    events = Running(llama).ask(score_request()).events
    ends = [event for event in events if isinstance(event, Token)]
    assert [(event.token, event.finish) for event in ends] == [(-1, "length")] * 3
    assert sorted(event.candidate for event in ends) == [0, 1, 2]


def test_scores_are_told_once_though_their_sequences_were_put_back(llama: Path) -> None:
    running = Running(llama, blocks=8, step_tokens=24)
    others = [Generate(id=10 + i, model="llama", prompt=PROMPT[i:20], draw=GREEDY, max_tokens=40) for i in range(3)]
    running.ask(*others, prompt_request(1, max_tokens=30), score_request(2))
    assert sum(event.preemptions for event in running.events if isinstance(event, Step)) > 0
    check(running.given(1), PROMPT, reference(llama, PROMPT))
    assert sorted(running.given(1)) == list(range(1, len(PROMPT)))
    for candidate, suffix in enumerate(SUFFIXES):
        check(running.given(2, candidate), PROMPT + suffix, reference(llama, PROMPT + suffix))


def test_what_was_said_before_is_scored_and_gone_on_from(llama: Path) -> None:
    """A resumed answer: the same tokens follow as if it had never broken, drawn by their positions."""
    draw = Draw(temperature=0.9, seed=7)
    asked = Generate(id=1, model="llama", prompt=PROMPT, draw=draw, max_tokens=12, candidates=2)
    whole = Running(llama).ask(asked)
    said = [[e.token for e in whole.events if isinstance(e, Token) and e.candidate == c] for c in range(2)]
    resumed = Generate(
        id=2,
        model="llama",
        prompt=PROMPT,
        draw=draw,
        max_tokens=12,
        candidates=2,
        suffixes=[said[0][:5], said[1][:8]],
        score_suffixes=True,
    )
    rest = Running(llama).ask(resumed)
    for candidate, cut in enumerate((5, 8)):
        tokens = [e.token for e in rest.events if isinstance(e, Token) and e.candidate == candidate]
        assert tokens == said[candidate][cut:]
        assert sorted(rest.given(2, candidate)) == list(range(len(PROMPT), len(PROMPT) + cut))


def test_progress_counts_from_the_queue_to_the_end_of_the_prompt(llama: Path) -> None:
    running = Running(llama, step_tokens=16)
    running.ask(prompt_request(1, progress=True, score_prompt=False))
    told = [event for event in running.events if isinstance(event, Reading)]
    assert [event.processed for event in told] == [0, 16, 32, 45]
    assert {event.total for event in told} == {45}
    assert [event.queue_position for event in told] == [0, 0, 0, 0]


@pytest.mark.parametrize("top", [0, 1, 4, 8])
def test_equal_logits_are_told_in_the_order_of_their_ids(top: int) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 3.0, 3.0, -1.0]])
    (given,) = scored(logits, [4], top, [7, 1])
    assert given is not None
    assert given.rank == 3
    order = sorted(range(8), key=lambda id_: (-float(logits[0, id_]), id_))
    assert [id_ for id_, _ in given.top] == order[:top]
    expected = logits.log_softmax(-1)[0]
    assert given.also == pytest.approx([float(expected[7]), float(expected[1])])


def test_an_id_that_cannot_be_drawn_has_no_likelihood_and_no_rank() -> None:
    (given,) = scored(torch.zeros(1, 4), [6], 0, [])
    assert given is not None
    assert (given.logprob, given.rank) == (-torch.inf, 0)


def test_logits_that_are_no_numbers_have_no_scores_and_leave_those_of_other_rows_alone() -> None:
    broken, whole = scored(torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), [0, 0], 0, [])
    assert broken is None
    assert whole is not None
    assert whole.logprob == pytest.approx(-math.log(2))
