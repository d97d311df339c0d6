"""
Rotary positions: the tables of cosines and sines, and turning queries and keys by them.

The halves of a head are rotated against each other, as in Hugging Face's checkpoints. Always in float32.

Shapes: T tokens, H heads (queries' or keys'), D head size, C half of it, L table length.
"""

import torch
from torch import Tensor

from stretto.engine.families.rope import Rope

Turns = tuple[Tensor, Tensor]  # cosines and sines, each [T, 1, C]


class Rotary:
    """The tables of every rope that was asked for, made once for each device and again when a longer text comes."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Rope, torch.device], Turns] = {}

    def tables(self, rope: Rope, length: int, device: torch.device) -> Turns:
        """Cosines and sines [L, 1, C] of at least `length` positions."""
        made = self._tables.get((rope, device))
        if made is None or len(made[0]) < length:
            made = self._tables[rope, device] = _tables(rope, max(256, 1 << (length - 1).bit_length()), device)
        return made


def _tables(rope: Rope, length: int, device: torch.device) -> Turns:
    with torch.inference_mode(False):  # a table first needed by serving must still be good for training
        frequencies = torch.tensor(rope.inverse_frequencies, dtype=torch.float32, device=device)
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles_L1C = (positions[:, None] * frequencies)[:, None]  # in float32, as the models were trained
        return angles_L1C.cos(), angles_L1C.sin()


def turned(q_THD: Tensor, k_TKD: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
    """Queries and keys, each row turned by its position."""
    cos, sin = turns
    assert 2 * cos.shape[-1] == q_THD.shape[-1], "a rope that turns part of a head is a family that is not here yet"
    first, second = torch.cat((q_THD, k_TKD), -2).float().chunk(2, -1)
    both = torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(q_THD.dtype)
    q, k = torch.split(both, [q_THD.shape[-2], k_TKD.shape[-2]], -2)
    return q, k
