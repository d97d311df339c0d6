"""Turn a planned batch into tensors, run the model, draw tokens."""

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
        first = 0
        for index, piece in enumerate(batch):
            if piece.scores:
                given = self._given(piece, hidden[first : first + piece.count])
                drawn = results[index] or Drawn(token=-1)
                healthy = drawn.healthy and given is not None
                results[index] = replace(drawn, given=given, healthy=healthy)
            first += piece.count
        return results

    def _given(self, piece: Slice, hidden: Tensor) -> Given | None:
        """The logprobs that a slice was asked for, a few rows at a time: a row of logits is large."""
        request, parts = piece.sequence.request, list[Given]()
        for start in range(piece.scores.start, piece.scores.stop, SCORED_ROWS):
            stop = min(start + SCORED_ROWS, piece.scores.stop)
            rows = hidden[start - 1 - piece.start : stop - 1 - piece.start]
            logits = self._model.logits(rows)[:, : self._limit_ids]
            part = scored(logits, piece.sequence.tokens[start:stop], request.top, request.also)
            if part is None:
                return None
            parts.append(part)
        return Given(
            logprobs=[each for part in parts for each in part.logprobs],
            ranks=[each for part in parts for each in part.ranks],
            tops=[each for part in parts for each in part.tops],
            alsos=[each for part in parts for each in part.alsos],
        )


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
