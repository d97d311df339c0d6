"""
How queries meet keys and values.

A model is handed an `Attend` and never asks which one: training, serving, encoding and inspection differ only here.
The caller's `Spec` says what kind of attention the layer has; the `Attend` knows where each row stands, so it turns
queries and keys by their positions (RoPE) and decides who sees whom.

Shapes: T tokens (packed rows, or any leading dims), H query heads, K key heads (H is a multiple of K), D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from stretto.engine.families.rope import Rope
from stretto.engine.rotary import Rotary, Turns, turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What kind of attention a layer has. `rope` None: the positions are already in the rows (learned tables)."""

    heads: int
    key_heads: int
    head_size: int
    scale: float
    causal: bool
    rope: Rope | None = None


class Attend(Protocol):
    """Attention of one layer: [T, H, D], [T, K, D], [T, K, D] -> [T, H * D]."""

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor: ...


class Visible(Attend, Protocol):
    """An `Attend` that holds all its keys in the call, so that who sees whom can be shown."""

    def turned(self, q_THD: Tensor, k_TKD: Tensor, spec: Spec) -> tuple[Tensor, Tensor]: ...

    def sees(self, q_THD: Tensor, spec: Spec) -> Tensor:
        """[T, T], true where a query (row) sees a key (column)."""
        ...


class Causal:
    """Every token sees itself and what came before. For training, on [batch, time, H, D]; positions count from 0."""

    def __init__(self) -> None:
        self._rotary = Rotary()

    def turned(self, q_THD: Tensor, k_TKD: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        if spec.rope is None:
            return q_THD, k_TKD
        length = q_THD.shape[-3]
        cos, sin = self._rotary.tables(spec.rope, length, q_THD.device)
        return turned(q_THD, k_TKD, (cos[:length], sin[:length]))

    def sees(self, q_THD: Tensor, spec: Spec) -> Tensor:
        length = q_THD.shape[-3]
        return torch.ones(length, length, dtype=torch.bool, device=q_THD.device).tril()

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor:
        q_THD, k_TKD = self.turned(q_THD, k_TKD, spec)
        return attended(q_THD, k_TKD, v_TKD, spec, causal=True)


class Packed:
    """Texts laid end to end without padding; each sees itself only, backwards or both ways as the spec says.

    Neighbours of equal length share one call, so texts sorted by length are cheapest. On a CPU this took from half the
    time of padding and masking (mixed lengths) to all of it (short texts), and a seventh of that of nested tensors.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device, rotary: Rotary) -> None:
        counts = np.asarray(lengths)
        ends = counts.cumsum()
        positions = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        self.positions = torch.from_numpy(positions).to(device)
        self._texts = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
        self._runs = [(length, len(list(run))) for length, run in groupby(lengths)]
        self._longest = max(lengths)
        self._rotary = rotary
        self._turns: dict[Rope, Turns] = {}

    def turned(self, q_THD: Tensor, k_TKD: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
        if spec.rope is None:
            return q_THD, k_TKD
        if spec.rope not in self._turns:
            cos, sin = self._rotary.tables(spec.rope, self._longest, self.positions.device)
            self._turns[spec.rope] = cos[self.positions], sin[self.positions]
        return turned(q_THD, k_TKD, self._turns[spec.rope])

    def sees(self, q_THD: Tensor, spec: Spec) -> Tensor:
        same = self._texts[:, None] == self._texts
        return same.tril() if spec.causal else same

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor:
        q_THD, k_TKD = self.turned(q_THD, k_TKD, spec)
        rows = [length * count for length, count in self._runs]
        parts = (torch.split(x, rows) for x in (q_THD, k_TKD, v_TKD))
        return torch.cat([_run(run, q, k, v, spec) for run, q, k, v in zip(self._runs, *parts, strict=True)])


class Watched:
    """Attends as the inner one does, and keeps each layer's weights [H, T, T] for people to look at."""

    def __init__(self, inner: Visible) -> None:
        self.inner = inner
        self.weights: dict[int, Tensor] = {}

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor:
        q, k = self.inner.turned(q_THD, k_TKD, spec)
        k = k.repeat_interleave(spec.heads // spec.key_heads, dim=-2)
        scores = torch.einsum("...qhd,...khd->...hqk", q.float(), k.float()) * spec.scale
        hidden = ~self.inner.sees(q_THD, spec)
        self.weights[layer] = scores.masked_fill(hidden, -torch.inf).softmax(-1).detach()
        return self.inner(layer, q_THD, k_TKD, v_TKD, spec)


def _run(run: tuple[int, int], q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor:
    """Some texts of one length, which stand one after another."""
    length, count = run
    q, k, v = (x.view(count, length, *x.shape[1:]) for x in (q_THD, k_TKD, v_TKD))
    return attended(q, k, v, spec, causal=spec.causal).flatten(0, 1)


def attended(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec, *, causal: bool) -> Tensor:
    """Attention of rows that stand at the same positions as their keys, on [..., time, heads, D]."""
    q, k, v = (x.transpose(-3, -2) for x in (q_THD, k_TKD, v_TKD))
    out = sdpa(q, k, v, is_causal=causal, scale=spec.scale, enable_gqa=spec.heads != spec.key_heads)
    return out.transpose(-3, -2).flatten(-2)
