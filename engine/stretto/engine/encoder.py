"""
Turn a batch of texts into vectors: run the model without padding, pool, cut, normalise.

Shapes: T tokens, B texts, V vectors, W width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stretto.engine.aggregation import SMALLEST_NORM
from stretto.engine.attention import Packed
from stretto.engine.messages import Encode
from stretto.engine.models.model import Model
from stretto.engine.models.parts import Rows
from stretto.engine.requests import Pooling
from stretto.engine.rotary import Rotary


class Encoder:
    def __init__(self, model: Model, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._rotary = Rotary()

    @torch.inference_mode()
    def run(self, batch: Sequence[Encode]) -> list[bytes | None]:
        """Each text's vectors, little-endian float32, in batch order; None where one holds what is no number.

        Texts of which every token keeps its vector stand last, so that those to be pooled stand together.
        """
        order = sorted(range(len(batch)), key=lambda i: (batch[i].pooling == Pooling.NONE, len(batch[i].ids)))
        texts = [batch[index] for index in order]
        hidden_TW = self._hidden(texts).float()
        counts = [len(text.ids) if text.pooling == Pooling.NONE else 1 for text in texts]
        owners = [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
        vectors = finished(chosen(hidden_TW, texts), owners).cpu().numpy().astype("<f4", copy=False)
        results: list[bytes | None] = [None] * len(batch)
        for index, text, own in zip(order, texts, np.split(vectors, np.cumsum(counts)[:-1]), strict=True):
            results[index] = own[:, : text.dimensions or None].tobytes() if np.isfinite(own).all() else None
        return results

    def _hidden(self, texts: Sequence[Encode]) -> Tensor:
        """The hidden states [T, W] of each text's own layer; layers above all of these are not computed."""
        lengths = [len(text.ids) for text in texts]  # equal lengths stand together and share a call
        attend = Packed(lengths, self._device, self._rotary)
        rows = Rows(ids=self._row([text.ids for text in texts]), positions=attend.positions)
        if any(text.segments for text in texts):
            rows = replace(rows, segments=self._row([text.segments or [0] * len(text.ids) for text in texts]))
        layers = [text.layer % (len(self._model.specs) + 1) for text in texts]
        hidden_TW: Tensor | None = None
        for layer, state_TW in enumerate(self._model.states(rows, attend)):
            if layer in layers and hidden_TW is not None:
                own = self._row([[each == layer] * length for each, length in zip(layers, lengths, strict=True)])
                hidden_TW = torch.where(own[:, None], state_TW, hidden_TW)
            elif layer in layers:
                hidden_TW = state_TW
            if layer == max(layers):
                break
        assert hidden_TW is not None
        return hidden_TW

    def _row(self, of_texts: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([number for text in of_texts for number in text], device=self._device)


def chosen(hidden_TW: Tensor, texts: Sequence[Encode]) -> Tensor:
    """The vectors [V, W] of the texts: one of each that is pooled, then one of each token of the others."""
    single = [text for text in texts if text.pooling != Pooling.NONE]
    if not single:
        return hidden_TW
    lengths = [len(text.ids) for text in single]
    pooled_BW = pooled(hidden_TW[: sum(lengths)], lengths, [Pooling(text.pooling) for text in single])
    return torch.cat([pooled_BW, hidden_TW[sum(lengths) :]])


def finished(vectors_VW: Tensor, texts: Sequence[Encode]) -> Tensor:
    """Cut each vector to its text's dimensions (the rest is 0), then bring it to length 1 where that is wanted."""
    device, width = vectors_VW.device, vectors_VW.shape[1]
    dimensions = torch.tensor([text.dimensions or width for text in texts], device=device)
    wanted = torch.tensor([text.normalize for text in texts], device=device)
    cut = vectors_VW.masked_fill(torch.arange(width, device=device) >= dimensions[:, None], 0.0)
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
