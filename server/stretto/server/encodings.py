"""Vectors in every encoding of the wire, from rows of float32. `embedding.proto` says what each one means."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stretto.engine.errors import InvalidRequest
from stretto.v1 import embedding_pb2 as pb

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One vector on the wire: value = data * scale + offset where a scale is said."""

    data: bytes
    scale: float = 0.0
    offset: float = 0.0


def _float32(vector: Vector) -> Encoded:
    return Encoded(data=vector.tobytes())


def _float16(vector: Vector) -> Encoded:
    with np.errstate(over="ignore"):  # said below
        halves = vector.astype("<f2")
    _check_range(np.isfinite(halves), vector, "FLOAT16", 65504.0)
    return Encoded(data=halves.tobytes())


def _bfloat16(vector: Vector) -> Encoded:
    """The upper halves of the float32 bits, rounded to the nearest, ties to even."""
    bits = vector.view("<u4").astype(np.uint64)
    halves = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    _check_range(halves & 0x7FFF != 0x7F80, vector, "BFLOAT16", 3.3895e38)
    return Encoded(data=halves.tobytes())


def _int8(vector: Vector) -> Encoded:
    """Even on both sides of 0, so that 0 stays 0."""
    scale = float(np.float32(float(np.abs(vector).max()) / 127))
    return Encoded(data=_steps(vector, 0.0, scale, -127, 127).astype(np.int8).tobytes(), scale=scale)


def _uint8(vector: Vector) -> Encoded:
    """From the smallest value to the largest."""
    low, high = float(vector.min()), float(vector.max())
    scale = float(np.float32((high - low) / 255))
    return Encoded(data=_steps(vector, low, scale, 0, 255).astype(np.uint8).tobytes(), scale=scale, offset=low)


def _binary(vector: Vector) -> Encoded:
    return Encoded(data=np.packbits(vector > 0).tobytes())


@dataclass(frozen=True, slots=True)
class Encoding:
    encode: Callable[[Vector], Encoded]
    bits: int  # of one number

    def num_bytes(self, dimensions: int) -> int:
        return -(-dimensions * self.bits // 8)


ENCODINGS: Final[Mapping[int, Encoding]] = {
    pb.EMBEDDING_ENCODING_FLOAT32: Encoding(_float32, 32),
    pb.EMBEDDING_ENCODING_FLOAT16: Encoding(_float16, 16),
    pb.EMBEDDING_ENCODING_BFLOAT16: Encoding(_bfloat16, 16),
    pb.EMBEDDING_ENCODING_INT8: Encoding(_int8, 8),
    pb.EMBEDDING_ENCODING_UINT8: Encoding(_uint8, 8),
    pb.EMBEDDING_ENCODING_BINARY: Encoding(_binary, 1),
}


def _steps(vector: Vector, offset: float, scale: float, low: int, high: int) -> NDArray[np.float64]:
    """How many scales each value is from the offset; 0 where all values are equal."""
    return np.clip(np.rint((vector.astype(np.float64) - offset) / (scale or 1.0)), low, high)


def _check_range(held: NDArray[np.bool_], vector: Vector, name: str, most: float) -> None:
    if not held.all():
        raise InvalidRequest(
            f"the vector holds {vector[~held][0]:g}, and EMBEDDING_ENCODING_{name} goes to {most:g}. Normalise it, or "
            "take another encoding.",
            field="config.encoding",
        )
