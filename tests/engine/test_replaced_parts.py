"""
Every part of a model can be replaced whole once it is loaded, and no model file knows: here by 8-bit stand-ins.

Each stand-in has int8 weights with a scale for every group of 32 inputs, quantises its inputs the same way and
multiplies integers (`torch._int_mm`). The tolerance is what 8 bits cost on the real weights, stated at each test.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stretto.engine.attention import Packed
from stretto.engine.checkpoint.headers import open_checkpoint
from stretto.engine.encoder import Encoder
from stretto.engine.messages import Encode
from stretto.engine.models.loading import build
from stretto.engine.models.parts import MLP, Embed, Head, LinearResidual, Norm, NormLinear, Rows
from stretto.engine.rotary import Rotary

CPU = torch.device("cpu")
GROUP = 32
TEXTS = [[101, *range(2000, 2000 + 7 * i), 102] for i in (1, 3, 3, 12)]


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [R, groups, 32] and scales [R, groups] of rows [R, K]; a group of zeros has scale 1."""
    grouped = x.unflatten(-1, (-1, GROUP))
    largest = grouped.abs().amax(-1)
    scales = torch.where(largest > 0, largest / 127, 1.0)
    return (grouped / scales[..., None]).round().to(torch.int8), scales


class Int8:
    """A product of rows with a weight [N, K], in integers group by group."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        values, self.scales = quantized(weight)
        self.groups = [values[:, i].T.contiguous() for i in range(values.shape[1])]
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        values, scales = quantized(x)
        parts = (
            torch._int_mm(values[:, i].contiguous(), group) * scales[:, i, None] * self.scales[:, i]
            for i, group in enumerate(self.groups)
        )
        out = torch.stack(list(parts)).sum(0)
        return out if self.bias is None else out + self.bias


class Int8Norm(nn.Module):
    def __init__(self, part: Norm) -> None:
        super().__init__()
        self.weight, self.eps = part.weight.detach(), part.eps
        self.bias = None if part.bias is None else part.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(
            x.var(-1, correction=0, keepdim=True) + self.eps
        ) * self.weight + self.bias


class Int8Embed(nn.Module):
    def __init__(self, part: Embed) -> None:
        super().__init__()
        self.table = quantized(part.token.weight)
        self.position = None if part.position is None else part.position.weight.detach()
        self.segment = None if part.segment is None else part.segment.weight.detach()
        self.norm = None if part.norm is None else Int8Norm(part.norm)

    def forward(self, rows: Rows) -> Tensor:
        values, scales = self.table
        x = (values[rows.ids] * scales[rows.ids][..., None]).flatten(-2)
        if self.segment is not None:
            x = x + self.segment[0]
        if self.position is not None:
            x = x + self.position[rows.positions]
        return x if self.norm is None else self.norm(x)


class Int8NormLinear(nn.Module):
    def __init__(self, part: NormLinear) -> None:
        super().__init__()
        self.product = Int8(part.weight, part.bias)
        self.heads, self.head_size = list(part.heads), part.head_size
        self.norm = nn.Identity() if part.norm is None else Int8Norm(part.norm)

    def forward(self, x: Tensor, rows: Rows) -> tuple[Tensor, ...]:
        return self.product(self.norm(x)).unflatten(-1, (-1, self.head_size)).split(self.heads, -2)


class Int8LinearResidual(nn.Module):
    def __init__(self, part: LinearResidual) -> None:
        super().__init__()
        self.product = Int8(part.weight, part.bias)
        self.outer_norm = nn.Identity() if part.outer_norm is None else Int8Norm(part.outer_norm)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor) -> Tensor:
        out: Tensor = self.outer_norm(residual + self.product(x))
        return out


class Int8MLP(nn.Module):
    def __init__(self, part: MLP) -> None:
        super().__init__()
        self.up, self.down = (Int8(one.weight, one.bias) for one in (part.up, part.down))
        self.gated, self.activation = part.gated, part.activation
        self.norm = nn.Identity() if part.norm is None else Int8Norm(part.norm)
        self.outer_norm = nn.Identity() if part.outer_norm is None else Int8Norm(part.outer_norm)

    def forward(self, x: Tensor, rows: Rows, residual: Tensor) -> Tensor:
        x = self.up(self.norm(x))
        if self.gated:
            gate, x = x.chunk(2, -1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        out: Tensor = self.outer_norm(residual + self.down(x))
        return out


class Int8Head(nn.Module):
    def __init__(self, part: Head) -> None:
        super().__init__()
        self.product = Int8(part.weight, None)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.product(hidden)


STAND_INS: dict[type[nn.Module], Any] = {
    Embed: Int8Embed,
    Norm: Int8Norm,
    NormLinear: Int8NormLinear,
    LinearResidual: Int8LinearResidual,
    MLP: Int8MLP,
    Head: Int8Head,
}


def replaced(model: nn.Module) -> None:
    """Put a stand-in in the place of every part; parts within parts go with the part around them."""
    for name, child in list(model.named_children()):
        if type(child) in STAND_INS:
            setattr(model, name, STAND_INS[type(child)](child))
        else:
            replaced(child)


def pair(folder: Path) -> tuple[Any, Any]:
    """The model as it is and with every part replaced: not one parameter of the plain parts is left."""
    plain, other = (build(open_checkpoint(folder), dtype=torch.float32, device=CPU) for _ in range(2))
    assert isinstance(other, nn.Module)
    replaced(other)
    assert not list(other.parameters())
    assert not [module for module in other.modules() if type(module) in STAND_INS]
    return plain, other


def test_a_minilm_of_other_parts_embeds_within_a_cosine_of_0_999(minilm: Path) -> None:
    plain, other = pair(minilm)
    batch = [Encode(id=i, index=0, model="m", ids=ids, pooling="mean", normalize=True) for i, ids in enumerate(TEXTS)]
    wanted, said = (
        np.stack([np.frombuffer(vector or b"", "<f4") for vector in Encoder(model, CPU).run(batch)])
        for model in (plain, other)
    )
    cosines = (wanted * said).sum(-1)
    assert cosines.min() > 0.999
    assert not np.array_equal(wanted, said), "the same parts were compared"


def test_a_smollm2_of_other_parts_has_the_logits_within_a_cosine_of_0_99(
    smollm2_gguf: Path, greedy: Callable[..., Any]
) -> None:
    plain, other = pair(smollm2_gguf)
    ids = [504, 3575, 282, 4649, 314]
    attend = Packed([len(ids)], CPU, Rotary())
    rows = Rows(ids=torch.tensor(ids), positions=attend.positions)
    with torch.inference_mode():
        wanted, said = (model.logits(model(rows, attend)) for model in (plain, other))
    assert F.cosine_similarity(wanted, said).min() > 0.99
    assert not torch.equal(wanted, said), "the same parts were compared"
    prompts = [ids, ids[:2] * 3]
    assert greedy(other, prompts, 4) == greedy(plain, prompts, 4)  # near ties part the texts later


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_the_stand_in_multiplies_as_well_as_8_bits_can(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 96), torch.randn(64, 96), torch.randn(64)
    wanted = F.linear(x, weight, bias)
    assert (Int8(weight, bias)(x) - wanted).norm() < 0.02 * wanted.norm()
