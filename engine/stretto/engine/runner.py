"""Turn a planned batch into tensors, run the model, draw tokens."""

import torch

from stretto.engine.cache.kv_cache import KVCache, Paged
from stretto.engine.models.model import Decoder
from stretto.engine.models.parts import Rows
from stretto.engine.rotary import Rotary
from stretto.engine.sampler import Ask, sample
from stretto.engine.sequence import Batch, Drawn, Slice


class Runner:
    """`limit_ids` ends what may be drawn: a vocabulary is often padded beyond the tokenizer's last id."""

    def __init__(self, model: Decoder, cache: KVCache, limit_ids: int) -> None:
        self._model = model
        self._cache = cache
        self._limit_ids = limit_ids
        self._rotary = Rotary()

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Drawn | None]:
        """What each slice drew, in batch order; None where it does not sample. A broken row is not `healthy`."""
        attend = Paged(self._cache, batch, self._rotary)
        ids = [token for piece in batch for token in piece.sequence.tokens[piece.start : piece.stop]]
        rows = Rows(ids=torch.tensor(ids, device=self._cache.device), positions=attend.positions)
        hidden = self._model(rows, attend)
        sampling = [index for index, piece in enumerate(batch) if piece.samples]
        results: list[Drawn | None] = [None] * len(batch)
        if not sampling:
            return results
        ends = attend.ends[torch.tensor(sampling, device=self._cache.device)]
        logits = self._model.logits(hidden[ends])[:, : self._limit_ids]
        for index, drawn in zip(sampling, sample(logits, [_ask(batch[i]) for i in sampling]), strict=True):
            results[index] = drawn
        return results


def _ask(piece: Slice) -> Ask:
    sequence, request = piece.sequence, piece.sequence.request
    return Ask(
        draw=request.draw,
        candidate=sequence.candidate,
        position=piece.stop,
        banned=request.stop_ids if sequence.generated < request.min_tokens else (),
        top=request.top,
        also=request.also,
    )
