"""
What changes the logits before a draw: biases, penalties, bans and lists of what alone is allowed.

The order is that of `_get_logits_processor` in transformers: biases, then the repetition penalty. What it has not got
follows: presence and frequency penalties. Lists and bans come last; they take ids away whatever their logits, so that
their place among the others changes nothing. An id that may be drawn no more has -inf.

Every rule names cells, a row and an id each. They are found on the host, with numpy, and moved to the logits' device
at once; there each rule is one change of its cells. A rule that adds or divides names no cell twice.

Shapes: N rows, V ids that may be drawn.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stretto.engine.ask import Ask

MILDEST = 1e-30  # as a divisor: a smaller one would make infinities of logits

Ids = npt.NDArray[np.int64]
Figures = npt.NDArray[np.float64]


class _Cells:
    """The cells of one rule, and the figure that the rule has for each.

    Ids that may not be drawn at all are left out: a prompt may hold some, and the logits go to `size`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: list[Ids] = []
        self._ids: list[Ids] = []
        self._figures: list[Figures] = []

    @property
    def empty(self) -> bool:
        return not self._rows

    def add(self, row: int, ids: npt.ArrayLike, figures: npt.ArrayLike = 0.0) -> None:
        given = np.asarray(ids, dtype=np.int64)
        known = (given >= 0) & (given < self._size)
        self._rows.append(np.full(known.sum(), row))
        self._ids.append(given[known])
        self._figures.append(np.broadcast_to(np.asarray(figures, dtype=np.float64), given.shape)[known])

    def table(self) -> Figures:
        """Three lines: rows, ids, figures. A float64 holds every row and id."""
        parts = (self._rows, self._ids, self._figures)
        return np.stack([np.concatenate([np.empty(0), *part]) for part in parts])


def changed(logits_NV: Tensor, asks: Sequence[Ask]) -> Tensor:
    """The logits that the draws are made from: the same tensor where no row has a rule, else a new one."""
    biases, repeated, said, limited, allowed, banned = rules = [_Cells(logits_NV.shape[1]) for _ in range(6)]
    for row, ask in enumerate(asks):
        draw = ask.draw
        if draw.bias:
            biases.add(row, list(draw.bias), list(draw.bias.values()))
        if draw.repetition != 1 or draw.presence or draw.frequency or draw.no_repeat_ngram:
            _look_back(row, ask, repeated, said, banned)
        if draw.allowed:
            limited.add(row, [0])
            allowed.add(row, draw.allowed)
        if draw.banned or draw.banned_runs or ask.banned:
            banned.add(row, [*draw.banned, *ask.banned, *_ends_of_runs(ask.tokens, draw.banned_runs)])
    if all(rule.empty for rule in rules):
        return logits_NV
    return _with_rules(logits_NV, [rule.table() for rule in rules])


def _with_rules(logits_NV: Tensor, tables: list[Figures]) -> Tensor:
    table = torch.from_numpy(np.concatenate(tables, axis=1)).to(logits_NV.device)
    sizes = [table.shape[1] for table in tables]
    cells = zip(*(torch.split(line, sizes) for line in table[:2].long()), strict=True)
    bias, penalty, cost, _, _, _ = torch.split(table[2].to(logits_NV.dtype), sizes)
    biased, repeated, said, limited, allowed, banned = cells
    result = logits_NV.clone()
    result[biased] += bias
    values = result[repeated]
    result[repeated] = torch.where(values > 0, values / penalty, values * penalty)
    result[said] -= cost
    values = result[allowed]
    result.index_fill_(0, limited[0], -torch.inf)
    result[allowed] = values
    result[banned] = logits_NV.new_full((), -torch.inf)
    return result


def _look_back(row: int, ask: Ask, repeated: _Cells, said: _Cells, banned: _Cells) -> None:
    """The rules that go by the text so far."""
    draw, tokens = ask.draw, np.asarray(ask.tokens, dtype=np.int64)
    end = len(tokens)
    begin = 0 if draw.window is None else max(0, end - draw.window)
    if draw.repetition != 1:
        ids, _ = np.unique(tokens[begin:], return_counts=True)  # counting sorts, which is faster than numpy's hashing
        repeated.add(row, ids, max(draw.repetition, MILDEST))
    if draw.presence or draw.frequency:
        ids, counts = np.unique(tokens[max(begin, end - ask.generated) :], return_counts=True)
        said.add(row, ids, draw.presence + draw.frequency * counts)
    if draw.no_repeat_ngram:
        banned.add(row, _ends_of_ngrams(tokens, draw.no_repeat_ngram))


def _ends_of_ngrams(tokens: Ids, size: int) -> Ids:
    """The ids that have followed the last `size - 1` tokens before."""
    places = np.arange(size - 1, len(tokens))
    for back in range(1, size if places.size else 1):
        places = places[tokens[places - back] == tokens[-back]]
    return tokens[places]


def _ends_of_runs(tokens: Sequence[int], runs: Sequence[list[int]]) -> list[int]:
    """The last ids of those runs whose rest stands at the end of the text."""
    last = list(tokens[-1:])
    begins = [len(tokens) - len(run) + 1 for run in runs]
    return [
        run[-1]
        for begin, run in zip(begins, runs, strict=True)
        if run[-2:-1] in ([], last) and list(tokens[begin:]) == run[:-1]
    ]
