"""Drawing a whole batch at once equals drawing row by row in plain Python, and that keeps what transformers keeps."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from msgspec import structs
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from stretto.engine.ask import Ask
from stretto.engine.logit_rules import changed
from stretto.engine.messages import Draw
from stretto.engine.sampler import NARROW, sample
from stretto.engine.sequence import Drawn
from stretto.engine.uniform import uniforms

WORD = (1 << 64) - 1
GREEDY = Draw(temperature=0)
DRAWS = [
    GREEDY,
    Draw(temperature=1.0),
    Draw(temperature=0.7, top_k=5),
    Draw(temperature=1.3, top_p=0.8),
    Draw(temperature=1.0, min_p=0.05),
    Draw(temperature=2.0, top_k=40, top_p=0.9, min_p=0.02),
    Draw(temperature=0.3, top_k=2000, top_p=0.999),
    Draw(temperature=6.0),  # flat: the likeliest ids hold little of it
    Draw(temperature=6.0, top_p=0.97),
    Draw(temperature=6.0, top_k=3000, min_p=0.001),
    Draw(temperature=2.0, top_k=1100, top_p=0.6),  # a nucleus of a mass that only the full order knows
    Draw(temperature=1e-38),
    Draw(temperature=1.0, typical_p=0.9),
    Draw(temperature=6.0, typical_p=0.2),
    Draw(temperature=1.0, typical_p=0.5, top_k=50),
    Draw(temperature=1.5, typical_p=0.7, top_k=40, top_p=0.9, min_p=0.02),
]
RULES: list[dict[str, Any]] = [
    {},
    {"repetition": 1.8, "presence": 1.0, "frequency": 0.5},
    {"bias": {3: 7.0, 0: -100.0}, "banned": [1, 2]},
    {"allowed": [0, 3, 5, 6], "no_repeat_ngram": 2},
]


def uniform(seed: int, candidate: int, position: int, number: int) -> float:
    """SplitMix64's finalizer over Python's whole numbers."""
    state = 0
    for part in (seed, candidate, position, number):
        state = (state + part + 0x9E3779B97F4A7C15) & WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
        state ^= state >> 31
    return (state >> 11) / 2**53


def total_order(logits: list[float]) -> list[int]:
    return sorted(range(len(logits)), key=lambda id_: (-logits[id_], id_))


def kept(logits: list[float], draw: Draw, banned: tuple[int, ...] = ()) -> dict[int, float]:
    """The ids that may be drawn and their weights, in order."""
    order = [id_ for id_ in total_order(logits) if id_ not in banned]
    heat = max(draw.temperature, 1e-30)
    weights = {id_: math.exp((logits[id_] - logits[order[0]]) / heat) for id_ in order}
    if draw.top_k:
        weights = dict(list(weights.items())[: draw.top_k])
    if draw.top_p < 1:
        goal, reached, few = draw.top_p * math.fsum(weights.values()), 0.0, {}
        for id_, weight in weights.items():
            if reached < goal:
                few[id_] = weight
            reached += weight
        weights = few
    weights = {id_: weight for id_, weight in weights.items() if weight >= draw.min_p}
    return typical(weights, draw.typical_p) if draw.typical_p < 1 else weights


def typical(weights: dict[int, float], mass: float) -> dict[int, float]:
    """Those whose surprise is nearest to the expected one, until they have the mass; in the order of before."""
    whole = math.fsum(weights.values())
    surprise = {id_: -math.log(weight / whole) if weight else math.inf for id_, weight in weights.items()}
    expected = math.fsum(surprise[id_] * weight / whole for id_, weight in weights.items() if weight)
    strange = {id_: abs(each - expected) for id_, each in surprise.items()}
    reached = 0.0
    for id_ in sorted(weights, key=strange.__getitem__):
        reached += weights[id_] / whole
        if reached >= mass:
            break
    return {each: weight for each, weight in weights.items() if strange[each] <= strange[id_]}


def drawn_plainly(logits: list[float], ask: Ask) -> int:
    banned = tuple(ask.banned)
    if ask.draw.temperature == 0:
        return next(id_ for id_ in total_order(logits) if id_ not in banned)
    weights = kept(logits, ask.draw, banned)
    target = uniform(ask.draw.seed, ask.candidate, ask.position, ask.number) * math.fsum(weights.values())
    reached = 0.0
    for id_, weight in weights.items():
        reached += weight
        if reached > target:
            return id_
    return max(weights, key=list(weights).index)


def some_logits(rows: int, size: int, *, step: float = 0.0, scale: float = 3.0, seed: int = 0) -> Tensor:
    """Normal ones; `step` rounds them, so that many are equal."""
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * scale
    return (logits / step).round() * step if step else logits


def asks_of(draws: list[Draw], position: int = 5) -> list[Ask]:
    return [
        Ask(draw=structs.replace(draw, seed=100 + row), candidate=row % 3, position=position + row)
        for row, draw in enumerate(draws)
    ]


@pytest.mark.parametrize("size", [7, 300, NARROW, NARROW + 1, 4000])
@pytest.mark.parametrize("step", [0.0, 0.5, 4.0])
def test_a_batch_draws_what_plain_python_draws_row_by_row(size: int, step: float) -> None:
    draws = DRAWS * 4
    logits, asks = some_logits(len(draws), size, step=step), asks_of(draws)
    got = [drawn.token for drawn in sample(logits, asks)]
    assert got == [drawn_plainly(row, ask) for row, ask in zip(logits.tolist(), asks, strict=True)]


@pytest.mark.parametrize("draw", [draw for draw in DRAWS if draw.temperature >= 0.3], ids=str)
def test_what_may_be_drawn_is_what_transformers_keeps(draw: Draw) -> None:
    (logits,) = some_logits(1, 4000)
    warpers: list[Any] = [TemperatureLogitsWarper(draw.temperature)]
    warpers += [TopKLogitsWarper(draw.top_k)] if draw.top_k else []
    warpers += [TopPLogitsWarper(draw.top_p)] if draw.top_p < 1 else []
    warpers += [MinPLogitsWarper(draw.min_p)] if draw.min_p else []
    warpers += [TypicalLogitsWarper(draw.typical_p)] if draw.typical_p < 1 else []
    left = logits[None]
    for warper in warpers:
        left = warper(None, left)
    assert set(kept(logits.tolist(), draw)) == set(left[0].isfinite().nonzero()[:, 0].tolist())


def with_rules(asks: list[Ask]) -> list[Ask]:
    """Every rule in turn, over a text of few ids."""
    rules = RULES * (1 + len(asks) // len(RULES))
    return [
        replace(ask, draw=structs.replace(ask.draw, **rule), tokens=[3, 5, 6, 3, 5, row % 7], generated=4)
        for row, (ask, rule) in enumerate(zip(asks, rules, strict=False))
    ]


@pytest.mark.parametrize("size", [7, 300, 4000])
def test_a_draw_is_made_from_the_changed_logits(size: int) -> None:
    draws = [draw for draw in DRAWS for _ in range(5 * len(RULES))]
    logits = some_logits(len(draws), size, step=0.25)
    asks = with_rules(asks_of(draws))
    seen = changed(logits, asks).tolist()
    got = [drawn.token for drawn in sample(logits, asks)]
    gone = [tuple(id_ for id_, value in enumerate(row) if value == -math.inf) for row in seen]
    plain = [replace(ask, banned=ids) for ask, ids in zip(asks, gone, strict=True)]
    assert got == [drawn_plainly(row, ask) for row, ask in zip(seen, plain, strict=True)]


def test_a_row_whose_rules_leave_nothing_says_so_and_its_neighbours_draw_as_ever() -> None:
    logits = some_logits(len(DRAWS), 3000)
    asks = with_rules(asks_of(DRAWS))
    clean = sample(logits, asks)
    stuck = [replace(ask, draw=structs.replace(ask.draw, allowed=[7], banned=[7])) for ask in asks]
    mixed = [stuck[row] if row % 2 else ask for row, ask in enumerate(asks)]
    got = sample(logits, mixed)
    assert [(one.healthy, one.choice) for one in got] == [(True, row % 2 == 0) for row in range(len(asks))]
    assert got[::2] == clean[::2]


def test_a_row_is_drawn_alike_alone_and_in_any_company() -> None:
    draws = DRAWS * 4
    logits = some_logits(len(draws), 4000, step=0.25)
    asks = with_rules([replace(ask, top=3, also=(1, 2), banned=(0, 5)) for ask in asks_of(draws)])
    together = sample(logits, asks)
    assert together == [sample(logits[row : row + 1], [ask])[0] for row, ask in enumerate(asks)]
    order = random.Random(3).sample(range(len(draws)), len(draws))
    shuffled = sample(logits[order], [asks[row] for row in order])
    assert shuffled == [together[row] for row in order]


@pytest.mark.parametrize("size", [64, 4000])
def test_of_equal_logits_the_lowest_id_wins_and_top_k_keeps_no_more_than_k(size: int) -> None:
    logits = some_logits(1, size)
    logits[0, [33, 40, 41]] = 50.0
    rows = logits.expand(200, -1)
    assert sample(logits, [Ask(draw=GREEDY, candidate=0, position=1)])[0].token == 33
    ones = [Ask(draw=Draw(temperature=1, top_k=1, seed=seed), candidate=0, position=1) for seed in range(200)]
    twos = [Ask(draw=Draw(temperature=1, top_k=2, seed=seed), candidate=0, position=1) for seed in range(200)]
    assert {drawn.token for drawn in sample(rows, ones)} == {33}
    assert {drawn.token for drawn in sample(rows, twos)} == {33, 40}


def test_when_all_logits_are_equal_a_filter_still_keeps_its_number() -> None:
    rows = torch.zeros(500, 3000)
    asks = [Ask(draw=Draw(temperature=1, top_k=3, seed=seed), candidate=0, position=1) for seed in range(500)]
    assert {drawn.token for drawn in sample(rows, asks)} == {0, 1, 2}


@pytest.mark.parametrize("varied", ["seed", "candidate", "position"])
def test_draws_follow_the_probabilities_along_every_counter(varied: str) -> None:
    count, logits = 20_000, some_logits(1, 12, scale=1.0)
    plain = {"seed": 7, "candidate": 0, "position": 11}
    counters = [{**plain, varied: number} for number in range(count)]
    asks = [
        Ask(draw=Draw(temperature=1.0, seed=one["seed"]), candidate=one["candidate"], position=one["position"])
        for one in counters
    ]
    seen = torch.bincount(torch.tensor([drawn.token for drawn in sample(logits.expand(count, -1), asks)]), minlength=12)
    wanted = logits[0].softmax(-1) * count
    assert ((seen - wanted) ** 2 / wanted).sum() < 31.3  # chi-square of 11 degrees: passed by chance but 1 in 1,000


def test_the_same_seed_gives_each_candidate_a_draw_of_its_own() -> None:
    logits = some_logits(1, 4000).expand(8, -1)
    asks = [Ask(draw=Draw(temperature=2.0, seed=3), candidate=candidate, position=4) for candidate in range(8)]
    assert len({drawn.token for drawn in sample(logits, asks)}) > 1


def test_uniforms_equal_the_same_rounds_on_pythons_numbers() -> None:
    draws = [(0, 0, 0, 0), (1, 2, 3, 4), (WORD, 7, 2**40, 0), (-1, 0, 0, 1), (2**63, 1, 0, 0)]
    assert uniforms(draws).tolist() == [uniform(*draw) for draw in draws]
    assert all(0 <= number < 1 for number in uniforms([(seed, 0, 0, 0) for seed in range(1000)]))


def test_what_is_told_of_a_token_is_of_the_models_own_logits() -> None:
    """Neither the temperature nor what is banned nor any other rule changes a logprob or a rank."""
    draws = DRAWS * 4
    logits = some_logits(len(draws), 4000, step=0.25)
    asks = [replace(ask, top=7, also=(9, 0, 4000, -1), banned=(11, 12)) for ask in asks_of(draws)]
    asks[len(DRAWS) :] = with_rules(asks[len(DRAWS) :])
    for row, drawn in zip(logits, sample(logits, asks), strict=True):
        wanted, order = row.double().log_softmax(-1), total_order(row.tolist())
        assert drawn.rank == order.index(drawn.token) + 1
        assert drawn.logprob == pytest.approx(float(wanted[drawn.token]), abs=1e-5)
        assert [id_ for id_, _ in drawn.top] == order[:7]
        assert [logprob for _, logprob in drawn.top] == pytest.approx(wanted[order[:7]].tolist(), abs=1e-5)
        assert drawn.also[:2] == pytest.approx(wanted[[9, 0]].tolist(), abs=1e-5)
        assert drawn.also[2:] == [-math.inf, -math.inf]


def test_each_row_tells_as_much_as_it_was_asked() -> None:
    logits = some_logits(3, 10)
    asks = [Ask(draw=GREEDY, candidate=0, position=0, top=top, also=(1,) * top) for top in (0, 20, 4)]
    told = sample(logits, asks)
    assert [len(drawn.top) for drawn in told] == [0, 10, 4]
    assert [len(drawn.also) for drawn in told] == [0, 20, 4]


@pytest.mark.parametrize("draw", DRAWS, ids=str)
def test_what_is_banned_is_never_drawn(draw: Draw) -> None:
    (logits,) = some_logits(1, 3000)
    banned = tuple(total_order(logits.tolist())[:5])
    seeded = [structs.replace(draw, seed=seed) for seed in range(40)]
    asks = [Ask(draw=one, candidate=0, position=0, banned=banned) for one in seeded]
    got = {drawn.token for drawn in sample(logits.expand(40, -1), asks)}
    assert not got & set(banned)
    assert got <= set(kept(logits.tolist(), draw, banned)) if draw.temperature else len(got) == 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, "all -inf"])
@pytest.mark.parametrize("size", [50, 3000])
def test_a_row_that_is_no_number_fails_alone(poison: float | str, size: int) -> None:
    logits, asks = some_logits(len(DRAWS), size), [replace(ask, top=2) for ask in asks_of(DRAWS)]
    clean = sample(logits, asks)
    broken = logits.clone()
    for row in (0, 4):
        if isinstance(poison, str):
            broken[row] = -math.inf
        else:
            broken[row, 17] = poison
    got = sample(broken, asks)
    assert [drawn.healthy for drawn in got] == [row not in (0, 4) for row in range(len(DRAWS))]
    assert [drawn for drawn in got if drawn.healthy] == [one for row, one in enumerate(clean) if row not in (0, 4)]


def test_all_is_computed_where_the_logits_are_until_one_last_copy() -> None:
    """The meta device stands for a GPU: meeting a tensor of the host's, or asking for a value, raises another error."""
    logits = torch.empty(len(DRAWS), 4000, device="meta")
    asks = with_rules([replace(ask, top=3, also=(1, 2), banned=(0, 5)) for ask in asks_of(DRAWS)])
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor") as stopped:
        sample(logits, asks)
    assert ".tolist()" in str(stopped.traceback[-1].statement)


def test_some_ids_may_be_impossible() -> None:
    logits = some_logits(1, 50)
    logits[0, 10:] = -math.inf
    asks = [Ask(draw=Draw(temperature=5.0, seed=seed), candidate=0, position=0, top=12) for seed in range(50)]
    told = sample(logits.expand(50, -1), asks)
    assert all(isinstance(drawn, Drawn) and drawn.healthy and drawn.token < 10 for drawn in told)
    assert told[0].top[10][1] == -math.inf
