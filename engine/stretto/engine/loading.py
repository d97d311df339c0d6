"""Turn a checkpoint into a model that can be stepped: weights in memory, a cache, an encoder and a runner around it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stretto.engine.attention import Spec
from stretto.engine.cache.kv_cache import KVCache, bytes_per_token
from stretto.engine.checkpoint.headers import Checkpoint, open_checkpoint
from stretto.engine.config import Limits
from stretto.engine.device import choose_device, choose_dtype, describe, free_bytes
from stretto.engine.encoder import Encoder
from stretto.engine.errors import CheckpointError
from stretto.engine.messages import Load, Ready
from stretto.engine.models.loading import build
from stretto.engine.models.model import Decoder
from stretto.engine.requests import Task
from stretto.engine.runner import Runner

DEFAULT_CACHE_BYTES = 512 << 20
KERNELS = "torch"  # what computes the parts
CACHE_SHARE = 0.5  # of what is free once the weights are there, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model's two ways of working, over the same weights. It has a runner and a cache where it can generate."""

    encoder: Encoder
    runner: Runner | None
    cache: KVCache | None
    ready: Ready


def load(command: Load, limits: Limits) -> LoadedModel:
    """Read, build and size one model; raises StrettoError with the figures when it does not fit."""
    begun = time.monotonic()
    checkpoint = open_checkpoint(Path(command.path))
    device = choose_device(command.device)
    dtype = choose_dtype(command.dtype, device)
    _check_room(checkpoint, dtype, device)
    model = build(checkpoint, dtype=dtype, device=device)
    cache = None
    if Task.GENERATE in checkpoint.tasks:
        cache = _cache(model.specs, checkpoint.context, command.cache_bytes, limits, dtype, device)
    weight_bytes = sum(t.numel() * t.element_size() for t in {p.data_ptr(): p for p in model.parameters()}.values())
    ready = Ready(
        name=command.name,
        device=describe(device),
        dtype=str(dtype).removeprefix("torch."),
        weight_bytes=weight_bytes,
        cache_bytes=cache.keys.nbytes + cache.values.nbytes if cache else 0,
        cache_blocks=cache.num_blocks if cache else 0,
        cache_tokens=cache.num_blocks * cache.block_size if cache else 0,
        threads=torch.get_num_threads(),
        kernels=KERNELS,
        seconds=time.monotonic() - begun,
    )
    runner = Runner(model, cache, command.limit_ids) if cache and isinstance(model, Decoder) else None
    return LoadedModel(encoder=Encoder(model, device), runner=runner, cache=cache, ready=ready)


def _check_room(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
    need, free = checkpoint.parameter_count * dtype.itemsize, free_bytes(device)
    if need > free:
        raise CheckpointError(
            f"{checkpoint.path} needs {need / 1e9:.1f} GB for its weights in {str(dtype).removeprefix('torch.')}; "
            f"{free / 1e9:.1f} GB are free on {describe(device)}.\nA narrower --dtype needs less."
        )


def _cache(
    specs: Sequence[Spec], context: int, asked: int, limits: Limits, dtype: torch.dtype, device: torch.device
) -> KVCache:
    """A cache of the bytes that were asked for; else enough for one full context, within what is free."""
    size, layers, key_heads, head_size = limits.block_size, len(specs), specs[0].key_heads, specs[0].head_size
    per_block = size * bytes_per_token(layers=layers, key_heads=key_heads, head_size=head_size, dtype=dtype)
    full = -(-context // size) * per_block
    num_bytes = asked or min(max(full, DEFAULT_CACHE_BYTES), int(free_bytes(device) * CACHE_SHARE))
    if num_bytes > free_bytes(device):
        raise CheckpointError(
            f"a cache of {num_bytes / 1e9:.2f} GB does not fit the {free_bytes(device) / 1e9:.2f} GB that are free on "
            f"{describe(device)}.\nA smaller --cache-memory does."
        )
    if num_bytes < per_block:
        raise CheckpointError(
            f"a cache of {num_bytes} bytes holds no block: {size} tokens need {per_block} bytes.\nRaise --cache-memory."
        )
    return KVCache(
        layers=layers,
        num_blocks=num_bytes // per_block,
        block_size=size,
        key_heads=key_heads,
        head_size=head_size,
        dtype=dtype,
        device=device,
    )
