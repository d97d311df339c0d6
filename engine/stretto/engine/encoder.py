"""
Turn a batch of texts into vectors: run the model without padding, pool, cut, normalise.

Shapes: T tokens, B texts, W width.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stretto.engine.attention import Packed
from stretto.engine.messages import Encode
from stretto.engine.models.model import Model
from stretto.engine.models.parts import Rows
from stretto.engine.requests import Pooling
from stretto.engine.rotary import Rotary

SMALLEST_NORM = 1e-12  # sentence-transformers' own: a vector of zeros stays one


class Encoder:
    def __init__(self, model: Model, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._rotary = Rotary()

    @torch.inference_mode()
    def run(self, batch: Sequence[Encode]) -> list[bytes | None]:
        """Each text's vector, little-endian float32, in batch order; None where it holds what is no number."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index].ids))  # equal lengths share a call
        texts = [batch[index] for index in order]
        lengths = [len(text.ids) for text in texts]
        attend = Packed(lengths, self._device, self._rotary)
        ids = torch.tensor([id_ for text in texts for id_ in text.ids], device=self._device)
        hidden_TW = self._model(Rows(ids=ids, positions=attend.positions), attend).float()
        pooled_BW = pooled(hidden_TW, lengths, [Pooling(text.pooling) for text in texts])
        vectors = finished(pooled_BW, texts).cpu().numpy().astype("<f4", copy=False)
        results: list[bytes | None] = [None] * len(batch)
        for index, text, vector, finite in zip(order, texts, vectors, np.isfinite(vectors).all(1), strict=True):
            results[index] = vector[: text.dimensions or None].tobytes() if finite else None
        return results


def finished(pooled_BW: Tensor, texts: Sequence[Encode]) -> Tensor:
    """Cut each vector to its dimensions (the rest is 0), then bring it to length 1 where that is wanted."""
    device, width = pooled_BW.device, pooled_BW.shape[1]
    dimensions = torch.tensor([text.dimensions or width for text in texts], device=device)
    wanted = torch.tensor([text.normalize for text in texts], device=device)
    cut = pooled_BW.masked_fill(torch.arange(width, device=device) >= dimensions[:, None], 0.0)
    norms = cut.norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)
    return torch.where(wanted[:, None], cut / norms, cut)


def pooled(hidden_TW: Tensor, lengths: Sequence[int], poolings: Sequence[Pooling]) -> Tensor:
    """One vector [B, W] of each text, by its own pooling."""
    counts_B1 = torch.tensor(lengths, device=hidden_TW.device)[:, None]
    kinds = list(dict.fromkeys(poolings))
    vectors = torch.stack([POOLINGS[kind](hidden_TW, counts_B1) for kind in kinds])
    places = torch.tensor([kinds.index(pooling) for pooling in poolings], device=hidden_TW.device)
    return vectors[places, torch.arange(len(poolings), device=hidden_TW.device)]


def _cls(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    return hidden_TW[(counts_B1.cumsum(0) - counts_B1)[:, 0]]


def _last_token(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    return hidden_TW[(counts_B1.cumsum(0) - 1)[:, 0]]


def _mean(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    return _reduced(hidden_TW, counts_B1, "sum") / counts_B1


def _mean_sqrt_len(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    return _reduced(hidden_TW, counts_B1, "sum") / counts_B1.sqrt()


def _max(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    return _reduced(hidden_TW, counts_B1, "max")


def _weighted_mean(hidden_TW: Tensor, counts_B1: Tensor) -> Tensor:
    """The n-th token of a text weighs n."""
    befores = (counts_B1.cumsum(0) - counts_B1).repeat_interleave(counts_B1[:, 0], 0, output_size=len(hidden_TW))
    weights_T1 = torch.arange(1, len(hidden_TW) + 1, device=hidden_TW.device)[:, None] - befores
    return _reduced(hidden_TW * weights_T1, counts_B1, "sum") / (counts_B1 * (counts_B1 + 1) / 2)


def _reduced(hidden_TW: Tensor, counts_B1: Tensor, how: Literal["sum", "max"]) -> Tensor:
    """Each text by itself and from its first token on, so that its neighbours do not change a bit of it."""
    return torch.segment_reduce(hidden_TW, how, lengths=counts_B1[:, 0], axis=0, unsafe=True)


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    Pooling.CLS: _cls,
    Pooling.MEAN: _mean,
    Pooling.MAX: _max,
    Pooling.LAST_TOKEN: _last_token,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.MEAN_SQRT_LEN: _mean_sqrt_len,
}
