"""
Logprobs of tokens that were given: prompts, and continuations to be scored. No draw, and no rule that changes logits.

Shapes: N rows, V ids that may be drawn.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stretto.engine.sampler import ordered, rank_of
from stretto.engine.sequence import Given


def scored(logits_NV: Tensor, ids: Sequence[int], top: int, also: Sequence[int]) -> list[Given | None]:
    """What each row's float32 logits say of its id; None of a row that holds what is no number.

    An id that may never be drawn has the logprob -inf and the rank 0. `also` are ids that may.
    """
    size = logits_NV.shape[1]
    chosen = torch.tensor(ids, device=logits_NV.device)[:, None]
    known = chosen < size
    chosen = chosen.where(known, 0)
    logprobs = logits_NV.log_softmax(-1)
    top = min(top, size)
    top_ids = _likeliest(logits_NV, top) if top else chosen[:, :0]
    also_ids = torch.tensor(also, dtype=torch.int64, device=logits_NV.device).expand(len(ids), -1)
    columns = (
        logits_NV.amax(-1).isfinite()[:, None],
        logprobs.gather(1, chosen).masked_fill(~known, -torch.inf),
        rank_of(logits_NV, chosen)[:, None] * known,
        top_ids,
        logprobs.gather(1, top_ids),
        logprobs.gather(1, also_ids),
    )
    table = torch.cat([column.double() for column in columns], 1).tolist()
    return [_read(line, top) for line in table]


def _read(line: list[float], top: int) -> Given | None:
    healthy, logprob, rank, *rest = line
    if not healthy:
        return None
    ids, logprobs, also = rest[:top], rest[top : 2 * top], rest[2 * top :]
    likeliest = [(int(id_), value) for id_, value in zip(ids, logprobs, strict=True)]
    return Given(logprob=logprob, rank=int(rank), top=likeliest, also=also)


def _likeliest(logits_NV: Tensor, top: int) -> Tensor:
    """The first `top` ids of each row in the total order."""
    ids, exact = ordered(logits_NV, min(2 * top, logits_NV.shape[1]))
    if bool((exact < top).any()):  # more ids are equal than were looked at
        ids, _ = ordered(logits_NV, logits_NV.shape[1])
    return ids[:, :top]
