"""
The header of a safetensors file, and the index of a checkpoint that is cut into several of them. No torch.

A file is 8 bytes of header length, a JSON header, and the tensors' bytes. Everything the header says is checked
against the file before anything believes it: the tensors must fill the file without overlapping.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stretto.engine.checkpoint.documents import parse_json, present, read_object
from stretto.engine.checkpoint.tensor_info import TensorInfo
from stretto.engine.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 48

BYTES_OF = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def read_safetensors(path: Path, where: str) -> dict[str, TensorInfo]:
    """The tensors of one file by name; raises CheckpointError where the header and the file disagree."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _header_length(file.read(8), size, where)
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {error.strerror or error}.") from error
    if len(text) != length:
        raise CheckpointError(f"{where} ends inside its header.")
    try:
        header = parse_json(text.decode("utf-8"), f"the header of {where}")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"the header of {where} is not UTF-8 text: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"the header of {where} is a {type(header).__name__}; it should be a JSON object.")
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(name, said, path, start, size, where) for name, said in header.items()}
    _check_layout(tensors, start, size, where)
    return tensors


def read_index(folder: Path, index: Path, where: str) -> dict[str, TensorInfo]:
    """The tensors of a sharded checkpoint; the index and the headers of its files must agree both ways."""
    said = read_object(index, where).get("weight_map")
    if not isinstance(said, dict) or not all(isinstance(file, str) for file in said.values()):
        raise CheckpointError(f"{where} has no weight_map from tensor names to file names.")
    tensors: dict[str, TensorInfo] = {}
    for name in sorted(set(said.values())):
        if name != Path(name).name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{where} names {name!r}; shards are .safetensors files beside their index.")
        if not present(folder / name, f"{folder.name}/{name}"):
            raise CheckpointError(f"{where} names {name!r}, and there is no such file.")
        held = read_safetensors(folder / name, f"{folder.name}/{name}")
        _check_shard(said, name, held, where)
        tensors |= held
    lost = sorted(set(said) - set(tensors))
    if lost:
        raise CheckpointError(f"{where} puts {lost[0]!r} in {said[lost[0]]!r}, which does not hold it.")
    return tensors


def _header_length(first: bytes, size: int, where: str) -> int:
    if len(first) < 8:
        raise CheckpointError(f"{where} has {size} bytes; a safetensors file has at least 8.")
    length: int = struct.unpack("<Q", first)[0]
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{where} says that its header has {length:,} bytes; the file has {size:,}, "
            f"and the limit is {MAX_HEADER_BYTES:,}."
        )
    return length


def _tensor(name: str, said: Any, path: Path, start: int, size: int, where: str) -> TensorInfo:
    """One entry of the header, its numbers checked against each other and against the file."""
    label = f"{where}: tensor {name[:200]!r}"
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{label} should be described by dtype, shape and data_offsets.")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES_OF:
        raise CheckpointError(f"{label} has dtype {str(dtype)[:50]!r}, which stretto does not know.")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{label} has shape {str(shape)[:100]}; up to {MAX_DIMENSIONS} sizes are allowed.")
    if not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{label} has data_offsets {str(offsets)[:100]}; they should be two positions.")
    begin, end = offsets
    if begin > end or start + end > size:
        raise CheckpointError(f"{label} is said to be at [{begin}, {end}) of {size - start:,} bytes.")
    needed = math.prod(shape) * BYTES_OF[dtype]
    if needed != end - begin:
        raise CheckpointError(f"{label} of shape {shape} in {dtype} has {needed:,} bytes, not {end - begin:,}.")
    return TensorInfo(
        name=name, dtype=dtype, shape=tuple(shape), file=path, offset=start + begin, num_bytes=end - begin
    )


def _counts(value: Any) -> bool:
    """Whether this is a list of plain numbers that could be sizes or positions (a bool is none)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_DIMENSION for n in value)


def _check_layout(tensors: Mapping[str, TensorInfo], start: int, size: int, where: str) -> None:
    """The tensors follow each other from the header's end to the file's, with no hole and no overlap."""
    position = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.num_bytes)):
        if tensor.offset != position:
            fault = "overlaps the one before it" if tensor.offset < position else "leaves a hole before it"
            raise CheckpointError(f"{where}: tensor {tensor.name[:200]!r} {fault}.")
        position += tensor.num_bytes
    if position != size:
        raise CheckpointError(f"{where} has {size - position:,} bytes after its last tensor.")


def _check_shard(said: Mapping[str, str], file: str, held: Mapping[str, TensorInfo], where: str) -> None:
    for name in held:
        if said.get(name) != file:
            there = repr(said[name]) if name in said else "nowhere"
            raise CheckpointError(f"{file} holds {name[:200]!r}, which {where} puts {there}.")
