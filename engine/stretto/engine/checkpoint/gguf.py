"""
A GGUF file's header: its key-values and where its tensors are, for versions 2 and 3. No torch.

The file may be anything. Every count is compared with the bytes that are left before something of that size is
made, so a wrong file is refused in milliseconds. The layout is that of ggml's docs/gguf.md: magic, version,
counts, key-values, tensor descriptions, padding, and the tensors' bytes, each at a multiple of the alignment.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from stretto.engine.checkpoint.tensor_info import LOADABLE, TensorInfo
from stretto.engine.errors import CheckpointError

MAX_ENTRIES = 65_536  # key-values, and tensors
MAX_STRING_BYTES = 64 * 1024 * 1024
MAX_NAME_BYTES = 65_535
MAX_ARRAY = 10_000_000
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32
FIRST_READ = 1 << 22

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
BLOCKS = {"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20)}


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFFile:
    """What the header says; tensor names are the file's own, shapes are turned to rows and columns."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]


def read_gguf(path: Path, where: str) -> GGUFFile:
    """Read the header; raises CheckpointError with what is wrong and where."""
    try:
        with path.open("rb") as file:
            return _read(_Cursor(file, path.stat().st_size, where), path)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror or error}.") from error


class _Cursor:
    """Reads a file forwards, and refuses to pass its end; bytes come in growing steps, most often one."""

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self.size = size
        self.where = where
        self.position = 0
        self._file = file
        self._data = file.read(min(size, FIRST_READ))

    @property
    def left(self) -> int:
        return self.size - self.position

    def fault(self, text: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} is not a GGUF file that stretto can read: {text} (at byte {self.position:,})."
        )

    def take(self, count: int) -> bytes:
        self._fill(self.position + count)
        start, self.position = self.position, self.position + count
        return self._data[start : self.position]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, limit: int, what: str) -> str:
        length = self.number("Q")
        if length > min(limit, self.left):
            raise self.fault(f"{what} of {length:,} bytes; {self.left:,} are left and the limit is {limit:,}")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(f"{what} that is not UTF-8: {error}") from error

    def texts(self, count: int) -> list[str]:
        """Many strings: the loop is unrolled by hand, because a tokenizer has a hundred thousand."""
        position, data, have, unpack = (
            self.position,
            self._data,
            len(self._data),
            struct.Struct("<Q").unpack_from,
        )
        found: list[str] = []
        try:
            for _ in range(count):
                if position + 8 > have:
                    data, have = self._fill(position + 8)
                (length,) = unpack(data, position)
                position += 8
                if position + length > have:
                    if length > MAX_STRING_BYTES:
                        raise self.fault(f"a string of {length:,} bytes; the limit is {MAX_STRING_BYTES:,}")
                    data, have = self._fill(position + length)
                found.append(data[position : position + length].decode("utf-8"))
                position += length
        except UnicodeDecodeError as error:
            raise self.fault(f"a string of an array that is not UTF-8: {error}") from error
        self.position = position
        return found

    def _fill(self, end: int) -> tuple[bytes, int]:
        """Have the bytes up to `end`, which must be inside the file."""
        if end > self.size:
            raise self.fault(f"{end - self.size:,} bytes are missing")
        if end > len(self._data):
            wanted = min(self.size, max(end, 2 * len(self._data)))
            self._data += self._file.read(wanted - len(self._data))
            if end > len(self._data):
                raise self.fault("the file became shorter while it was read")
        return self._data, len(self._data)


def _read(cursor: _Cursor, path: Path) -> GGUFFile:
    if cursor.left < 24:
        raise cursor.fault(f"it has {cursor.size} bytes; the smallest has 24")
    if cursor.take(4) != b"GGUF":
        raise cursor.fault("it does not start with GGUF")
    version = cursor.number("I")
    if version not in (2, 3):
        big_endian = " (a big-endian file?)" if version & 0xFFFF == 0 else ""
        raise cursor.fault(f"version {version}{big_endian}; stretto reads 2 and 3")
    num_tensors = _count(cursor, "tensors", 32)
    num_keys = _count(cursor, "key-values", 13)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.text(MAX_NAME_BYTES, "a key")
        if key in metadata:
            raise cursor.fault(f"the key {key[:200]!r} is there twice")
        metadata[key] = _value(cursor, key)
    return GGUFFile(metadata=metadata, tensors=_tensors(cursor, num_tensors, _alignment(cursor, metadata), path))


def _count(cursor: _Cursor, what: str, least_bytes: int) -> int:
    """A count of entries, each of which takes at least so many bytes."""
    count: int = cursor.number("Q")
    if count > min(MAX_ENTRIES, cursor.left // least_bytes):
        raise cursor.fault(f"{count:,} {what}; {cursor.left:,} bytes are left and the limit is {MAX_ENTRIES:,}")
    return count


def _value(cursor: _Cursor, key: str) -> Any:
    kind = cursor.number("I")
    if kind == STRING:
        return cursor.text(MAX_STRING_BYTES, f"{key[:200]!r}, a string")
    if kind == ARRAY:
        return _array(cursor, key)
    if kind not in SCALARS:
        raise cursor.fault(f"the key {key[:200]!r} has the unknown type {kind}")
    return _checked(cursor, kind, [cursor.number(SCALARS[kind])])[0]


def _array(cursor: _Cursor, key: str) -> list[Any]:
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind != STRING and kind not in SCALARS:
        raise cursor.fault(
            f"the key {key[:200]!r} is an array of type {kind}; stretto reads arrays of scalars and strings"
        )
    each = 8 if kind == STRING else struct.calcsize(SCALARS[kind])
    if count > min(MAX_ARRAY, cursor.left // each):
        raise cursor.fault(
            f"the key {key[:200]!r} is an array of {count:,}; {cursor.left:,} bytes are left, "
            f"and the limit is {MAX_ARRAY:,}"
        )
    if kind == STRING:
        return cursor.texts(count)
    code = f"<{count}{SCALARS[kind]}"
    return _checked(cursor, kind, list(struct.unpack(code, cursor.take(struct.calcsize(code)))))


def _checked(cursor: _Cursor, kind: int, values: list[Any]) -> list[Any]:
    if kind != BOOL:
        return values
    if any(value > 1 for value in values):
        raise cursor.fault("a bool that is neither 0 nor 1")
    return [value == 1 for value in values]


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fault(
            f"general.alignment is {str(alignment)[:50]}; it should be a power of two up to {MAX_ALIGNMENT:,}"
        )
    return alignment


def _tensors(cursor: _Cursor, count: int, alignment: int, path: Path) -> dict[str, TensorInfo]:
    """The tensor descriptions; their offsets count from the first aligned byte after all of them."""
    described = [_description(cursor, alignment, path) for _ in range(count)]
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    end = start
    for relative in sorted(described, key=lambda tensor: tensor.offset):
        tensor = replace(relative, offset=start + relative.offset)
        if tensor.name in tensors:
            raise cursor.fault(f"the tensor {tensor.name[:200]!r} is there twice")
        if tensor.offset < end:
            raise cursor.fault(f"the tensor {tensor.name[:200]!r} overlaps the one before it")
        end = tensor.offset + tensor.num_bytes
        if end > cursor.size:
            raise cursor.fault(
                f"the tensor {tensor.name[:200]!r} ends at byte {end:,} of {cursor.size:,}; "
                "the file is cut short or wrong"
            )
        tensors[tensor.name] = tensor
    return tensors


def _description(cursor: _Cursor, alignment: int, path: Path) -> TensorInfo:
    """One tensor; its offset is relative still, since the data starts after the last description."""
    name = cursor.text(MAX_NAME_BYTES, "a tensor's name")
    label = f"the tensor {name[:200]!r}"
    rank = cursor.number("I")
    if not 1 <= rank <= MAX_DIMENSIONS:
        raise cursor.fault(f"{label} has {rank} dimensions; 1 to {MAX_DIMENSIONS} are allowed")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    kind, offset = cursor.number("I"), cursor.number("Q")
    dtype = TYPES.get(kind, f"type {kind}")
    if dtype not in LOADABLE:
        raise CheckpointError(
            f"{cursor.where}: {label} is {dtype}, which stretto does not read.\nIt reads: {', '.join(LOADABLE)}."
        )
    values, block_bytes = BLOCKS[dtype]
    if shape[-1] % values:
        raise cursor.fault(f"{label} has rows of {shape[-1]} values; {dtype} holds them in blocks of {values}")
    num_bytes = math.prod(shape) // values * block_bytes
    if not 0 < num_bytes <= cursor.size or offset % alignment or offset > cursor.size:
        raise cursor.fault(
            f"{label} of shape {shape} at offset {offset:,} cannot be in a file of {cursor.size:,} bytes"
        )
    return TensorInfo(name=name, dtype=dtype, shape=shape, file=path, offset=offset, num_bytes=num_bytes)
