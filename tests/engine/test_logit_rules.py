"""Every rule changes a row as transformers' processor of that rule does, or as plain Python, alone and in company."""

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from stretto.engine.ask import Ask
from stretto.engine.logit_rules import changed
from stretto.engine.messages import Draw

SIZE = 40
RULES: list[dict[str, Any]] = [
    {},
    {"repetition": 1.5},
    {"repetition": 0.5},
    {"presence": 0.75, "frequency": -0.25},
    {"frequency": 2.0, "window": 9},
    {"repetition": 1.3, "presence": 1.0, "window": 12},
    {"repetition": 3.0, "window": 1},
    {"no_repeat_ngram": 1},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 3},
    {"no_repeat_ngram": 60},
    {"bias": {3: 100.0, 7: -100.0, 0: 0.5}},
    {"allowed": [4, 39, 8, 4, 8]},
    {"banned": [0, 39, 12, 12]},
    {"banned_runs": [[5], [1, 2], [1, 3], [2, 1, 6], [9] * 50]},
    {
        "bias": {3: 2.0, 7: -3.0},
        "repetition": 1.5,
        "presence": 0.5,
        "frequency": 0.5,
        "no_repeat_ngram": 2,
        "banned": [9],
        "allowed": list(range(2, 30)),
        "banned_runs": [[2, 1], [3, 0]],
    },
]


def some_logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def some_tokens(seed: int, length: int = 30, kinds: int = 6) -> list[int]:
    """Few kinds, so that much is repeated."""
    return random.Random(seed).choices(range(kinds), k=length)


def asks_of(rules: list[dict[str, Any]]) -> list[Ask]:
    return [
        Ask(
            draw=Draw(temperature=0, **rule),
            candidate=0,
            position=30,
            tokens=some_tokens(seed=row),
            generated=row % 20,
            banned=(7, 8) if row % 3 == 2 else (),
        )
        for row, rule in enumerate(rules)
    ]


def with_count_penalties(logits: Tensor, ask: Ask) -> Tensor:
    """Presence and frequency in plain Python, of the answer inside the window."""
    draw, scores = ask.draw, logits.clone()
    begin = max(len(ask.tokens) - ask.generated, len(ask.tokens) - (draw.window or len(ask.tokens)))
    for id_, count in Counter(ask.tokens[begin:]).items():
        scores[id_] -= draw.presence + draw.frequency * count
    return scores


def by_transformers(logits: Tensor, ask: Ask) -> Tensor:
    """One row through the processors, in the order in which transformers makes its list of them."""
    draw, tokens = ask.draw, torch.tensor([ask.tokens])
    scores = logits[None]
    if draw.bias:
        scores = SequenceBiasLogitsProcessor([[[id_], bias] for id_, bias in draw.bias.items()])(tokens, scores)
    if draw.repetition != 1:
        scores = RepetitionPenaltyLogitsProcessor(draw.repetition)(tokens[:, -(draw.window or SIZE) :], scores)
    if draw.no_repeat_ngram:
        scores = NoRepeatNGramLogitsProcessor(draw.no_repeat_ngram)(tokens, scores)
    if draw.banned_runs:
        scores = NoBadWordsLogitsProcessor(draw.banned_runs)(tokens, scores)
    if ask.banned:
        ends = MinNewTokensLengthLogitsProcessor(tokens.shape[1], 1, list(ask.banned), device="cpu")
        scores = ends(tokens, scores)
    scores = with_count_penalties(scores[0], ask)[None]
    if draw.allowed:
        scores = PrefixConstrainedLogitsProcessor(lambda *_: draw.allowed, num_beams=1)(tokens, scores)
    if draw.banned:
        scores = SuppressTokensLogitsProcessor(draw.banned, device="cpu")(tokens, scores)
    return scores[0]


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
def test_a_rule_changes_the_logits_as_transformers_does(rule: dict[str, Any]) -> None:
    asks = asks_of([rule] * 20)
    logits = some_logits(len(asks))
    got = changed(logits, asks)
    assert got.equal(torch.stack([by_transformers(row, ask) for row, ask in zip(logits, asks, strict=True)]))
    assert not got.equal(logits)


def test_a_row_is_changed_alike_alone_and_in_any_company() -> None:
    asks = asks_of(RULES * 3)
    logits = some_logits(len(asks))
    before = logits.clone()
    together = changed(logits, asks)
    assert together.equal(torch.cat([changed(logits[i : i + 1], [ask]) for i, ask in enumerate(asks)]))
    order = random.Random(1).sample(range(len(asks)), len(asks))
    assert changed(logits[order], [asks[row] for row in order]).equal(together[order])
    assert logits.equal(before), "what is told of a token is of the model's own logits"


def test_without_a_rule_nothing_is_computed() -> None:
    logits = some_logits(3)
    assert changed(logits, [replace(ask, banned=()) for ask in asks_of([{}] * 3)]) is logits


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
def test_ids_that_the_logits_do_not_have_change_nothing(rule: dict[str, Any]) -> None:
    """Neither a prompt's, nor a list's."""
    padding = {
        "bias": {SIZE: 1.0, **rule.get("bias", {})},
        "banned": [SIZE + 9, *rule.get("banned", [])],
        "allowed": [*rule["allowed"], SIZE] if "allowed" in rule else [],
    }
    (ask,) = asks_of([rule])
    (plain,) = logits = some_logits(1)
    seen = replace(ask, tokens=[SIZE, SIZE + 50, *ask.tokens], draw=Draw(temperature=0, **rule | padding))
    assert changed(logits, [seen])[0].equal(by_transformers(plain, ask))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_shortest_texts_are_no_exception(rule: dict[str, Any], length: int) -> None:
    (ask,) = asks_of([rule])
    short = replace(ask, tokens=[1, 2][:length], generated=length)
    got = changed(some_logits(1), [short])[0]
    if length:
        assert got.equal(by_transformers(some_logits(1)[0], short))
    assert got[rule.get("allowed", [13])[0]] > -math.inf


@pytest.mark.parametrize("penalty", [1e-45, 1e-38, 100.0])
def test_the_most_extreme_repetition_penalty_still_leaves_numbers(penalty: float) -> None:
    asks = asks_of([{"repetition": penalty}] * 20)
    assert changed(some_logits(len(asks)), [replace(ask, banned=()) for ask in asks]).isfinite().all()
