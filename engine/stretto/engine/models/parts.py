"""
The parts that models are made of, cut where kernels fuse: a fast version replaces a whole part at load.

These are plain torch: they train, and they are what fast versions are tested against. Every part is called with the
rows that it computes, even where plain torch needs nothing of them: a fast one does.

Shapes: T rows (any leading dims), H heads of one product, D head size.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The tokens of one step: ids, positions in their texts, and segments (None: all in the first)."""

    ids: Tensor
    positions: Tensor
    segments: Tensor | None = None


def last(states: Iterable[Tensor]) -> Tensor:
    """The last of a model's hidden states, the others given up as they are passed."""
    return deque(states, maxlen=1).pop()


class Norm(nn.Module):
    """Layer norm or RMS norm of the last dimension, in float32 inside."""

    def __init__(self, width: int, kind: Literal["layer", "rms"], eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        weight, wide = self.weight.float(), x.float()
        if self.bias is None:
            return F.rms_norm(wide, weight.shape, weight, self.eps).to(x.dtype)
        return F.layer_norm(wide, weight.shape, weight, self.bias.float(), self.eps).to(x.dtype)


class Table(nn.Embedding):
    """A row for each id. On the meta device, where a loader makes its models, there is nothing to draw: torch's own
    draw would import a compiler there, which takes longer than reading the weights.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embed(nn.Module):
    """The sum of a row's tables: its token, and where there are such tables its position and segment; then a norm."""

    def __init__(
        self, width: int, *, tokens: int, positions: int = 0, segments: int = 0, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.token = Table(tokens, width)
        self.position = Table(positions, width) if positions else None
        self.segment = Table(segments, width) if segments else None
        self.norm = norm

    def forward(self, rows: Rows) -> Tensor:
        x: Tensor = self.token(rows.ids)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if rows.segments is None else self.segment(rows.segments))
        if self.position is not None:
            x = x + self.position(rows.positions)
        return x if self.norm is None else self.norm(x)


class NormLinear(nn.Linear):
    """A norm (where there is one), then several products of one input, each cut into heads [T, H, D]."""

    def __init__(
        self, width: int, *, heads: Sequence[int], head_size: int, bias: bool, norm: Norm | None = None
    ) -> None:
        super().__init__(width, sum(heads) * head_size, bias=bias)
        self.heads, self.head_size = tuple(heads), head_size
        self.norm = norm

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, ...]:  # type: ignore[override]
        products = super().forward(x if self.norm is None else self.norm(x))
        return torch.split(products.view(*x.shape[:-1], -1, self.head_size), list(self.heads), -2)


class LinearResidual(nn.Linear):
    """A product added to the residual, then a norm where the model has it outside."""

    def __init__(self, inputs: int, width: int, *, bias: bool, outer_norm: Norm | None = None) -> None:
        super().__init__(inputs, width, bias=bias)
        self.outer_norm = outer_norm

    def forward(self, x: Tensor, rows: Rows, residual: Tensor) -> Tensor:  # type: ignore[override]
        x = residual + super().forward(x)
        return x if self.outer_norm is None else self.outer_norm(x)


class MLP(nn.Module):
    """Norm?, up, activation, down, residual, norm?. Gated: `up` holds the gate's rows first; the gate is activated."""

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str,
        gated: bool,
        bias: bool,
        norm: Norm | None = None,
        outer_norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.gated, self.activation = gated, ACTIVATIONS[activation]
        self.norm, self.outer_norm = norm, outer_norm
        self.up = nn.Linear(width, 2 * hidden if gated else hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor) -> Tensor:
        x = self.up(x if self.norm is None else self.norm(x))
        if self.gated:
            gate, x = x.chunk(2, -1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        x = residual + self.down(x)
        return x if self.outer_norm is None else self.outer_norm(x)


class Head(nn.Linear):
    """From hidden states to logits, always float32."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__(width, vocab_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).float()
