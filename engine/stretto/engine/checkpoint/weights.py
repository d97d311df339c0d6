"""Fill a model with the weights of a checkpoint, one tensor at a time, cast once; nothing is left out quietly.

The bytes are read, not mapped: a mapped file that somebody shortens kills the process, a short read raises.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stretto.engine.checkpoint.dequantize import dequantize
from stretto.engine.checkpoint.headers import Checkpoint
from stretto.engine.checkpoint.tensor_info import LOADABLE, TensorInfo
from stretto.engine.errors import CheckpointError

NAMED = 8  # how many tensors a refusal names


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
    """Give each parameter its values, in `dtype` on `device`; a CheckpointError leaves the model as it was.

    The model may be on the meta device: parameters are replaced, buffers are left as they are. Its parameters
    are exactly those of the family's WeightMap. One that is tied shares its partner's memory, unless the file
    holds another tensor for it.
    """
    map_ = checkpoint.family.weights(checkpoint.config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    tied = {
        parameter: shared
        for parameter, shared in (map_.tied or {}).items()
        if map_.sources[parameter][0] not in checkpoint.tensors
    }
    plan = {name: sources for name, sources in map_.sources.items() if name not in tied}
    assert shapes.keys() == map_.sources.keys(), shapes.keys() ^ map_.sources.keys()
    _check(checkpoint, plan, shapes)
    loaded: dict[str, nn.Parameter] = {}
    for name, sources in plan.items():
        value = torch.empty(shapes[name], dtype=dtype, device=device)
        _fill(value, [checkpoint.tensors[source] for source in sources])
        loaded[name] = nn.Parameter(value, requires_grad=False)
    for parameter, shared in (map_.tied or {}).items():
        if parameter in tied or torch.equal(loaded[parameter], loaded[shared]):
            loaded[parameter] = loaded[shared]
    # Not get_submodule: it takes a part called `type` for the method of that name.
    owners = dict(model.named_modules(remove_duplicate=False))
    for name, filled in loaded.items():
        owner, _, leaf = name.rpartition(".")
        owners[owner].register_parameter(leaf, filled)


def read_tensor(tensor: TensorInfo) -> Tensor:
    """The values of one tensor, rows in Hugging Face's order; float32 where the stored type is quantised."""
    stored = torch.empty(tensor.num_bytes, dtype=torch.uint8)
    try:
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            count = file.readinto(stored.numpy().data)
    except OSError as error:
        raise CheckpointError(f"{tensor.file} cannot be read: {error.strerror or error}.") from error
    if count != tensor.num_bytes:
        raise CheckpointError(
            f"{tensor.file} became shorter: {tensor.name} has {count:,} of {tensor.num_bytes:,} bytes."
        )
    values = dequantize(stored, tensor.dtype, tensor.shape[::-1] if tensor.transposed else tensor.shape)
    values = values.T if tensor.transposed else values
    return _in_order(values, tensor.interleaved_heads) if tensor.interleaved_heads else values


def _fill(value: Tensor, sources: list[TensorInfo]) -> None:
    """Stack the sources along the first dimension."""
    start = 0
    for source in sources:
        stop = start + source.shape[0]
        value[start:stop].copy_(read_tensor(source))
        start = stop


def _in_order(values: Tensor, heads: int) -> Tensor:
    """Undo GGUF's order of rope's rows: a head's two halves, which Hugging Face rotates, alternate there."""
    return values.view(heads, -1, 2, *values.shape[1:]).transpose(1, 2).reshape(values.shape)


def _check(checkpoint: Checkpoint, plan: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing, unused and misshapen tensors, and those of a type that is no weight's."""
    held = checkpoint.tensors
    wanted = [source for sources in plan.values() for source in sources]
    missing = [source for source in wanted if source not in held]
    unused = sorted(set(held) - set(wanted))
    strange = [
        f"{source} is {held[source].dtype}"
        for source in wanted
        if source in held and held[source].dtype not in LOADABLE
    ]
    misshapen = [
        f"{', '.join(sources)} {' and '.join(_shape(held[source].shape) for source in sources)}, "
        f"which should make {_shape(shapes[name])}"
        for name, sources in plan.items()
        if all(source in held for source in sources)
        and not _fits(shapes[name], [held[source].shape for source in sources])
    ]
    faults = (
        ("tensors are missing", missing),
        (
            f"tensors are not used by a {checkpoint.architecture}",
            [f"{_printable(name)} {_shape(held[name].shape)}" for name in unused],
        ),
        (f"tensors are no weights that stretto reads ({', '.join(LOADABLE)})", strange),
        ("parameters do not fit the configuration", misshapen),
    )
    said = [f"{len(names)} {what}: {_some(names)}." for what, names in faults if names]
    if said:
        raise CheckpointError(f"{checkpoint.path} does not hold what {checkpoint.where} describes. " + " ".join(said))


def _fits(shape: tuple[int, ...], sources: list[tuple[int, ...]]) -> bool:
    rest = all(source[1:] == shape[1:] and len(source) == len(shape) for source in sources)
    return rest and sum(source[0] for source in sources) == shape[0]


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _printable(name: str) -> str:
    """A name that only the file knows may hold anything."""
    return name[:100].encode("unicode_escape").decode()


def _some(names: list[str]) -> str:
    return "; ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
