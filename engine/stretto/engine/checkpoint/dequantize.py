"""The values of a tensor out of its bytes, as ggml defines the quantised types; torch, a tensor at a time.

A block holds 32 values of a row. Q8_0: a half scale d and 32 signed bytes q; a value is d*q. Q4_0: d and 16
bytes, two values in each, the first 16 values in the low halves; d*(q-8). Q4_1: d, a half offset m, 16 bytes;
d*q+m.
"""

import torch
from torch import Tensor

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK = 32


def dequantize(stored: Tensor, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A flat uint8 tensor as values, of the stored type or, where that is quantised, of float32."""
    if dtype in PLAIN:
        return stored.view(PLAIN[dtype]).view(shape)
    blocks = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1}[dtype]
    return blocks(stored).view(shape)


def _q8_0(stored: Tensor) -> Tensor:
    blocks = stored.view(-1, 2 + BLOCK)
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_0(stored: Tensor) -> Tensor:
    blocks = stored.view(-1, 2 + BLOCK // 2)
    return _nibbles(blocks[:, 2:]).sub_(8).mul_(_half(blocks, 0))


def _q4_1(stored: Tensor) -> Tensor:
    blocks = stored.view(-1, 4 + BLOCK // 2)
    return _nibbles(blocks[:, 4:]).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _half(blocks: Tensor, start: int) -> Tensor:
    """The half float at this byte of every block, as float32 (blocks, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """Two float32 values a byte: (blocks, 16) to (blocks, 32), the low halves first."""
    values = torch.empty(len(packed), BLOCK)
    values[:, : BLOCK // 2] = packed & 15
    values[:, BLOCK // 2 :] = packed >> 4
    return values
