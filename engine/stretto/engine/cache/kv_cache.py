"""
The keys and values of past tokens, in fixed-size blocks, and attention over them.

Shapes: T rows of a step, B sequences of one row each, S longest context among them, N blocks of the longest table,
H query heads, K key heads, G = H / K, D head size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from stretto.engine.attention import Spec, attended
from stretto.engine.families.rope import Rope
from stretto.engine.rotary import Rotary, Turns, turned
from stretto.engine.sequence import Batch


def bytes_per_token(*, layers: int, key_heads: int, head_size: int, dtype: torch.dtype) -> int:
    """What one cached token costs, over all layers."""
    return 2 * layers * key_heads * head_size * dtype.itemsize


class KVCache:
    """Tensors only: which block is whose is the block pool's business. A slot is one token's place in a layer."""

    def __init__(
        self,
        *,
        layers: int,
        num_blocks: int,
        block_size: int,
        key_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        shape = (layers, num_blocks * block_size, key_heads, head_size)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def device(self) -> torch.device:
        return self.keys.device

    @torch.inference_mode()
    def zero(self, blocks: Sequence[int]) -> None:
        """Forget what a broken sequence wrote: a number that is none must not meet the blocks' next owner."""
        chosen = torch.tensor(blocks, device=self.device)
        for tensor in (self.keys, self.values):
            blocks_of = tensor.view(len(tensor), self.num_blocks, self.block_size, *tensor.shape[2:])
            blocks_of.index_fill_(1, chosen, 0.0)


class Paged:
    """Each row of a packed batch sees its own sequence's cache, up to itself.

    Rows that come alone (decoding) share one call over gathered contexts, padded to the longest; each longer slice has
    a call of its own. A padded place repeats the sequence's own first slot, never a slot of somebody else: masked
    weights are zero, but zero times NaN is NaN.
    """

    def __init__(self, cache: KVCache, batch: Batch, rotary: Rotary) -> None:
        self._cache = cache
        self._rotary = rotary
        self._turns: dict[Rope, Turns] = {}
        counts = np.array([piece.count for piece in batch])
        starts = np.array([piece.start for piece in batch])
        ends = counts.cumsum()
        positions = np.arange(counts.sum()) + np.repeat(starts - (ends - counts), counts)
        owners = np.repeat(np.arange(len(batch)), counts)
        self._longest = int((starts + counts).max())
        self.positions = self._move(positions)
        self.ends = self._move(ends - 1)  # the last row of each slice
        self._table_BN = self._move(_table(batch, cache.block_size))
        self._writes = self._slots(self._move(owners), self.positions)

        single = np.flatnonzero(counts == 1)
        self._single_rows = self._move(ends[single] - 1)
        self._contexts = self._gathered(single, starts[single] + 1) if len(single) else None
        self._spans = [
            (int(end - count), int(end), self._past(index, int(start), int(start + count)))
            for index, (end, count, start) in enumerate(zip(ends, counts, starts, strict=True))
            if count > 1
        ]

    def _move(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._cache.device)

    def _slots(self, owners: Tensor, positions: Tensor) -> Tensor:
        size = self._cache.block_size
        return self._table_BN[owners, positions // size] * size + positions % size

    def _gathered(self, owners: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The slots [B * S] of whole contexts, and what is added to the scores [B, 1, 1, S] to hide the padding."""
        places = torch.arange(int(lengths.max()), device=self._cache.device)
        inside = places < self._move(lengths)[:, None]
        slots = self._slots(self._move(owners)[:, None], torch.where(inside, places, 0))
        return slots.flatten(), self._bias(inside)[:, None, None]

    def _past(self, owner: int, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """The slots [stop] of a slice's context and the bias [rows, stop]; None: the slice is all there is."""
        if start == 0:
            return None
        places = torch.arange(stop, device=self._cache.device)
        slots = self._slots(torch.full_like(places, owner), places)
        return slots, self._bias(places <= places[start:, None])

    def _bias(self, seen: Tensor) -> Tensor:
        """What a mask adds to the scores, made once: sdpa would turn a boolean one into this in every layer."""
        bias = torch.zeros(seen.shape, dtype=self._cache.keys.dtype, device=seen.device)
        return bias.masked_fill_(~seen, -torch.inf)

    def __call__(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, spec: Spec) -> Tensor:
        if spec.rope is not None:
            q_THD, k_TKD = turned(q_THD, k_TKD, self._turns_of(spec.rope))
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys.index_copy_(0, self._writes, k_TKD)
        values.index_copy_(0, self._writes, v_TKD)
        if self._contexts is not None and not self._spans:
            return _decoded(q_THD, keys, values, *self._contexts, spec)
        out = q_THD.new_empty(len(q_THD), spec.heads * spec.head_size)
        if self._contexts is not None:
            singles = q_THD.index_select(0, self._single_rows)
            out.index_copy_(0, self._single_rows, _decoded(singles, keys, values, *self._contexts, spec))
        for start, stop, past in self._spans:
            if past is None:
                q, k, v = (x[start:stop] for x in (q_THD, k_TKD, v_TKD))
                out[start:stop] = attended(q, k, v, spec, causal=True)
            else:
                out[start:stop] = _continued(q_THD[start:stop], keys, values, *past, spec)
        return out

    def _turns_of(self, rope: Rope) -> Turns:
        if rope not in self._turns:
            cos, sin = self._rotary.tables(rope, self._longest, self._cache.device)
            self._turns[rope] = cos[self.positions], sin[self.positions]
        return self._turns[rope]


def padding(batch: Batch) -> int:
    """How many places of the contexts that `Paged` gathers for such a batch are padding, in each layer."""
    contexts = [piece.stop for piece in batch if piece.count == 1]
    return len(contexts) * max(contexts, default=0) - sum(contexts)


def _table(batch: Batch, block_size: int) -> NDArray[np.int64]:
    """The blocks of each sequence [B, N], as many as its slice reaches; what follows those is never read."""
    needed = [-(-piece.stop // block_size) for piece in batch]
    table = np.zeros((len(batch), max(needed)), dtype=np.int64)
    for row, piece, count in zip(table, batch, needed, strict=True):
        blocks = piece.sequence.blocks
        assert count <= len(blocks), f"a slice to {piece.stop} needs {count} blocks; its sequence holds {len(blocks)}"
        row[:count] = blocks[:count]
    return table


def _decoded(q_BHD: Tensor, keys: Tensor, values: Tensor, slots: Tensor, bias: Tensor, spec: Spec) -> Tensor:
    """One query a sequence. Heads that share a key head stand as its queries: no key is copied, a fifth less time."""
    rows, group = len(q_BHD), spec.heads // spec.key_heads
    k, v = (x.index_select(0, slots).view(rows, -1, *x.shape[1:]).transpose(1, 2) for x in (keys, values))
    q_BKGD = q_BHD.reshape(rows, spec.key_heads, group, spec.head_size)
    return sdpa(q_BKGD, k, v, attn_mask=bias.expand(-1, 1, group, -1), scale=spec.scale).flatten(1)


def _continued(q_THD: Tensor, keys: Tensor, values: Tensor, slots: Tensor, bias: Tensor, spec: Spec) -> Tensor:
    """Several queries of one sequence whose earlier tokens are in the cache."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, keys.index_select(0, slots), values.index_select(0, slots)))
    out = sdpa(q, k, v, attn_mask=bias, scale=spec.scale, enable_gqa=spec.heads != spec.key_heads)
    return out[0].transpose(0, 1).flatten(1)
