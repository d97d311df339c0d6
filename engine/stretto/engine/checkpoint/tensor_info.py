"""One tensor of a checkpoint: what it is called, what it holds and where its bytes are. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path

SAFETENSORS_FLOATS = ("F32", "F16", "BF16")
QUANTIZED = ("Q8_0", "Q4_0", "Q4_1")
LOADABLE = (*SAFETENSORS_FLOATS, *QUANTIZED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor by its Hugging Face name and shape (rows, columns); `offset` is absolute, in bytes.

    `dtype` is one of `LOADABLE`, or another safetensors type that only an unused tensor may have.
    `interleaved_heads` is above 0 where a GGUF file holds the rows of a query or key projection interleaved for
    rope, by that many heads. `transposed` where the file holds columns as rows; `shape` is then already the other way.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    num_bytes: int
    interleaved_heads: int = 0
    transposed: bool = False

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)
