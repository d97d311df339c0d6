"""From the names that tensors have in a file to the canonical ones of their family. No torch."""

import re
from collections.abc import Mapping
from dataclasses import replace

from stretto.engine.checkpoint.tensor_info import TensorInfo
from stretto.engine.errors import CheckpointError
from stretto.engine.families.llama import LlamaConfig
from stretto.engine.families.registry import Config, Family
from stretto.engine.families.weights import WeightMap


def canonical(
    stored: Mapping[str, TensorInfo], map_: WeightMap, where: str
) -> tuple[dict[str, TensorInfo], tuple[str, ...], list[str]]:
    """The tensors by canonical name, the names of those that are known to have no use, and notes about the others.

    A name that nobody knows is kept: loading refuses it, since a tensor without use is a model not understood.
    """
    known = {name for sources in map_.sources.values() for name in sources}
    unused, transposed = _any_of(map_.unused), _any_of(map_.transposed)
    tensors: dict[str, TensorInfo] = {}
    ignored: list[str] = []
    for stored_name, tensor in stored.items():
        name = _renamed(stored_name, map_)
        if name not in known and not unused.fullmatch(name):
            prefixed = map_.prefix + name
            if prefixed in known or unused.fullmatch(prefixed):
                name = prefixed
        if unused.fullmatch(name):
            ignored.append(name)
        elif name in tensors:
            raise CheckpointError(f"{where} holds two tensors that are both {name!r}, one of them as {stored_name!r}.")
        else:
            turn = len(tensor.shape) == 2 and transposed.fullmatch(name) is not None
            shape = tensor.shape[::-1] if turn else tensor.shape
            tensors[name] = replace(tensor, name=name, shape=shape, transposed=turn)
    return tensors, tuple(sorted(ignored)), _own_heads(tensors, map_, where)


def from_gguf(stored: Mapping[str, TensorInfo], family: Family, config: Config, where: str) -> dict[str, TensorInfo]:
    """A GGUF file's tensors by Hugging Face name; names that the family does not know stay as they are."""
    names = family.gguf_names(config)
    tensors: dict[str, TensorInfo] = {}
    for theirs, tensor in stored.items():
        name = names.get(theirs, theirs)
        tensors[name] = replace(tensor, name=name, interleaved_heads=_interleaved(theirs, tensor, config, where))
    return tensors


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or "(?!)")


def _renamed(name: str, map_: WeightMap) -> str:
    for old, new in map_.renamed:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _own_heads(tensors: Mapping[str, TensorInfo], map_: WeightMap, where: str) -> list[str]:
    return [
        f"{where} holds {map_.sources[parameter][0]} although its configuration ties it to "
        f"{map_.sources[shared][0]}; the file's own is used."
        for parameter, shared in (map_.tied or {}).items()
        if map_.sources[parameter][0] in tensors
    ]


def _interleaved(theirs: str, tensor: TensorInfo, config: Config, where: str) -> int:
    """The heads by which the rows are interleaved: llama.cpp rotates neighbours, so it moves a Llama's rows."""
    if not isinstance(config, LlamaConfig):
        return 0
    kind = re.fullmatch(r"blk\.\d+\.attn_([qk])\.(?:weight|bias)", theirs)
    if kind is None:
        return 0
    heads = config.heads if kind[1] == "q" else config.key_heads
    if tensor.shape[0] % (2 * heads):
        raise CheckpointError(
            f"{where}: the tensor {theirs!r} has {tensor.shape[0]} rows, which {heads} heads can't share."
        )
    return heads
