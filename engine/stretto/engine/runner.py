"""Turn a planned batch into tensors, run the model, draw tokens."""

from collections import defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from stretto.engine.ask import Ask
from stretto.engine.cache.kv_cache import KVCache, Paged
from stretto.engine.models.model import Decoder
from stretto.engine.models.parts import Rows
from stretto.engine.rotary import Rotary
from stretto.engine.sampler import sample
from stretto.engine.scoring import scored
from stretto.engine.sequence import Batch, Drawn, Given, Slice

SCORED_ROWS = 64


class Runner:
    """`limit_ids` ends what may be drawn: a vocabulary is often padded beyond the tokenizer's last id."""

    def __init__(self, model: Decoder, cache: KVCache, limit_ids: int) -> None:
        self._model = model
        self._cache = cache
        self._limit_ids = limit_ids
        self._rotary = Rotary()

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Drawn | None]:
        """What each slice drew and scored, in batch order; None where neither. A broken row is not `healthy`."""
        attend = Paged(self._cache, batch, self._rotary)
        ids = [token for piece in batch for token in piece.sequence.tokens[piece.start : piece.stop]]
        rows = Rows(ids=torch.tensor(ids, device=self._cache.device), positions=attend.positions)
        hidden = self._model(rows, attend)
        sampling = [index for index, piece in enumerate(batch) if piece.samples]
        results: list[Drawn | None] = [None] * len(batch)
        if sampling:
            ends = attend.ends[torch.tensor(sampling, device=self._cache.device)]
            logits = self._model.logits(hidden[ends])[:, : self._limit_ids]
            for index, drawn in zip(sampling, sample(logits, [_ask(batch[i]) for i in sampling]), strict=True):
                results[index] = drawn
        for index, given in self._scored(batch, hidden).items():
            drawn, told = results[index] or Drawn(token=-1), [each for each in given if each is not None]
            results[index] = replace(drawn, given=told, healthy=drawn.healthy and len(told) == len(given))
        return results

    def _scored(self, batch: Batch, hidden: Tensor) -> dict[int, list[Given | None]]:
        """What the slices that were asked for logprobs of their own tokens have to tell, by their place in the batch.

        Rows that ask alike go together, of whichever slices: the product with the whole vocabulary costs as much for
        one of them. A few at a time, since a row of logits is large.
        """
        asked: dict[tuple[int, tuple[int, ...]], list[tuple[int, int, int]]] = defaultdict(list)
        first = 0
        for index, piece in enumerate(batch):
            sequence, request = piece.sequence, piece.sequence.request
            rows = asked[request.top, tuple(request.also)] if piece.scores else []
            rows += [(index, first + place - 1 - piece.start, sequence.tokens[place]) for place in piece.scores]
            first += piece.count
        found: dict[int, list[Given | None]] = defaultdict(list)
        for (top, also), rows in asked.items():
            for start in range(0, len(rows), SCORED_ROWS):
                owners, places, ids = zip(*rows[start : start + SCORED_ROWS], strict=True)
                logits = self._model.logits(hidden[torch.tensor(places, device=self._cache.device)])
                for index, given in zip(owners, scored(logits[:, : self._limit_ids], ids, top, also), strict=True):
                    found[index].append(given)
        return found


def _ask(piece: Slice) -> Ask:
    sequence, request = piece.sequence, piece.sequence.request
    return Ask(
        draw=request.draw,
        candidate=sequence.candidate,
        position=piece.stop,
        tokens=sequence.tokens,
        generated=sequence.generated,
        banned=request.stop_ids if sequence.generated < request.min_tokens else (),
        top=request.top,
        also=request.also,
    )
