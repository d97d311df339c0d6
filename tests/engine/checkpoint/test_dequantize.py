"""Proves that quantised blocks become exactly the numbers that ggml's own reference gives."""

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as reference

from stretto.engine.checkpoint.dequantize import dequantize


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_of_any_bits_become_the_references_numbers(kind: str) -> None:
    block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    random = np.random.default_rng(5)
    stored = random.integers(0, 256, (64, 3 * num_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # any bits: some scales are no numbers
        expected = reference(stored, GGMLQuantizationType[kind])
    got = dequantize(torch.from_numpy(stored.reshape(-1)), kind, (64, 3 * block))
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_values_are_taken_as_they_are(kind: str) -> None:
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(6)).to(dtype)
    got = dequantize(values.view(-1).view(torch.uint8), kind, (4, 6))
    assert got.dtype == dtype
    assert got.equal(values)
