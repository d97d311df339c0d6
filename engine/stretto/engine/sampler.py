"""
Choose the next token of each row of logits, the whole batch at once.

Every row has one total order of its ids: higher logits first, lower ids first among equals. Greedy, top-k and top-p
follow that of the logits as `logit_rules.py` changed them; what is told of a token (logprob, rank, the alternatives) is
of the model's own. So equal logits mean the same thing everywhere. A draw is one uniform number and an inverse of the
cumulative sums in the order.

Filters go as in `_get_logits_processor` of transformers: temperature, top-k, top-p of what is left, min-p, typical. All
but the last keep a beginning of the order, so the likeliest `NARROW` ids nearly always settle a row; one that they do
not settle is done again over all ids, with the same answer. What is typical shows once all that is left is known.

Shapes: N rows, V ids that may be drawn, R rows that need the order, C ids of the order.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stretto.engine.ask import Ask
from stretto.engine.logit_rules import changed
from stretto.engine.sequence import Drawn
from stretto.engine.uniform import uniforms

NARROW = 1024
COLDEST = 1e-30  # as a divisor: any smaller temperature gives the same answers, without dividing by 0


def sample(logits_NV: Tensor, asks: Sequence[Ask]) -> list[Drawn]:
    """One token for each row, of the float32 logits of the ids that may be drawn."""
    changed_NV = changed(logits_NV, asks)
    drawn = _sample(logits_NV, changed_NV, asks, NARROW)
    again = [row for row, one in enumerate(drawn) if one is None]
    if again:
        rows = torch.tensor(again, device=logits_NV.device)
        own = logits_NV[rows]
        seen = own if changed_NV is logits_NV else changed_NV[rows]
        wide = _sample(own, seen, [asks[row] for row in again], logits_NV.shape[1])
        for row, one in zip(again, wide, strict=True):
            drawn[row] = one
    return [_settled(one) for one in drawn]


def _settled(drawn: Drawn | None) -> Drawn:
    assert drawn is not None, "all ids settle every row"
    return drawn


def _sample(logits_NV: Tensor, changed_NV: Tensor, asks: Sequence[Ask], width: int) -> list[Drawn | None]:
    """As `sample`, with None for rows that the likeliest `width` ids do not settle. One copy to the host."""
    device, size = logits_NV.device, logits_NV.shape[1]
    width = min(width, size)
    best = changed_NV.amax(-1)
    choice = best > -torch.inf
    healthy = logits_NV.amax(-1).isfinite() & (best.isfinite() | ~choice)
    logprobs = logits_NV.log_softmax(-1)
    token = changed_NV.argmax(-1)  # of equals the first, says torch: the lowest id
    settled = torch.ones_like(healthy)

    num_top = min(max(ask.top for ask in asks), size)
    top_ids = token.new_zeros(len(asks), num_top)
    ordering = [row for row, ask in enumerate(asks) if ask.draw.temperature > 0 or ask.top]
    if ordering:
        rows = torch.tensor(ordering, device=device)
        wishes = [asks[row] for row in ordering]
        ids_RC, exact_R = ordered(changed_NV[rows], max(width, num_top))
        drawn, known = _drawn(changed_NV[rows], ids_RC, exact_R, wishes)
        if num_top and changed_NV is not logits_NV:
            ids_RC, exact_R = ordered(logits_NV[rows], max(width, num_top))
        tops = torch.tensor([ask.top for ask in wishes], device=device)
        token = token.index_copy(0, rows, drawn)
        settled = settled.index_copy(0, rows, known & (exact_R >= tops.clamp(max=size)))
        top_ids = top_ids.index_copy(0, rows, ids_RC[:, :num_top])

    also_ids, asked = _also(asks, size, device)
    chosen = token[:, None]
    columns = (
        token[:, None],
        logprobs.gather(1, chosen),
        rank_of(logits_NV, chosen)[:, None],
        healthy[:, None],
        choice[:, None],
        settled[:, None],
        top_ids,
        logprobs.gather(1, top_ids),
        logprobs.gather(1, also_ids).masked_fill(~asked, -torch.inf),
    )
    table = torch.cat([column.double() for column in columns], 1).tolist()
    return [_read(line, ask, num_top) for line, ask in zip(table, asks, strict=True)]


def _read(line: list[float], ask: Ask, num_top: int) -> Drawn | None:
    token, logprob, rank, healthy, choice, settled, *rest = line
    if not settled:
        return None
    if not healthy:
        return Drawn(token=0, healthy=False)
    if not choice:
        return Drawn(token=0, choice=False)
    ids, logprobs, also = rest[:num_top], rest[num_top : 2 * num_top], rest[2 * num_top :]
    top = [(int(id_), logprob_) for id_, logprob_ in zip(ids[: ask.top], logprobs, strict=False)]
    return Drawn(token=int(token), logprob=logprob, rank=int(rank), top=top, also=also[: len(ask.also)])


def ordered(logits_RV: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The likeliest ids of each row in the total order, and how many of them are surely the row's first.

    Which of several equal values topk takes at its end is not said, so those equal to the last one do not count.
    """
    if width >= logits_RV.shape[1]:
        ids = logits_RV.sort(dim=-1, descending=True, stable=True).indices
        return ids, torch.full_like(ids[:, 0], ids.shape[1])
    values, ids = logits_RV.topk(width)
    exact = (values > values[:, -1:]).sum(-1)
    ids, by_id = ids.sort(-1)
    by_value = values.gather(1, by_id).sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(1, by_value), exact


def _drawn(changed_RV: Tensor, ids_RC: Tensor, exact_R: Tensor, asks: Sequence[Ask]) -> tuple[Tensor, Tensor]:
    """The token of each row, and whether the first `exact_R` ids of its order settle it. Sums are float64."""
    device, size, width = changed_RV.device, changed_RV.shape[1], ids_RC.shape[1]
    numbers = uniforms([(ask.draw.seed, ask.candidate, ask.position, ask.number) for ask in asks])
    draws = [ask.draw for ask in asks]
    wishes = [(draw.temperature, draw.top_k or size, draw.top_p, draw.min_p, draw.typical_p) for draw in draws]
    table = torch.from_numpy(np.column_stack((np.array(wishes, dtype=np.float64), numbers))).to(device)
    temperature, top_k, top_p, min_p, typical_p, number = (column[:, None] for column in table.T)
    greedy = temperature == 0
    heat = temperature.masked_fill(greedy, 1.0).clamp(min=COLDEST).float()

    weights_RV = ((changed_RV - changed_RV.amax(-1, keepdim=True)) / heat).exp()
    whole = weights_RV.sum(-1, keepdim=True, dtype=torch.float64)
    weights = weights_RV.gather(1, ids_RC).double()
    allowed = changed_RV.gather(1, ids_RC) > -torch.inf
    sums = weights.cumsum(-1)
    exact_R = exact_R.where(allowed[:, -1], size)  # the order holds all that are possible
    exact = torch.arange(width, device=device) < exact_R[:, None]

    among_k = allowed.cumsum(-1) <= top_k
    cut_by_k = (~among_k & exact).any(-1, keepdim=True)
    mass = torch.where(cut_by_k, (weights * among_k).cumsum(-1)[:, -1:], whole)
    nucleus = (sums - weights < top_p * mass) | (top_p >= 1)
    kept = among_k & nucleus & (weights >= min_p)
    cut = (~kept & allowed & exact).any(-1, keepdim=True)

    free = (top_k >= size) & (top_p >= 1) & (min_p == 0) & (typical_p >= 1)
    kept_weights = weights * kept
    if any(draw.typical_p < 1 for draw in draws):
        kept_weights = kept_weights * (_typical(kept_weights, typical_p) | (typical_p >= 1))
    kept_sums = kept_weights.cumsum(-1)
    target = number * torch.where(free, whole, kept_sums[:, -1:])
    place = (kept_sums <= target).sum(-1, keepdim=True)
    last = (kept_weights > 0).cumsum(-1).argmax(-1, keepdim=True)  # rounding may put the target at the very end
    place = torch.minimum(place, last)

    mass_known = cut_by_k | (top_k >= size) | (top_p >= 1)
    inside = kept_sums.gather(1, place) > target
    settled = (mass_known & cut) | (free & inside & exact.gather(1, place)) | (exact_R[:, None] >= size) | greedy
    first = changed_RV.argmax(-1, keepdim=True)
    return torch.where(greedy, first, ids_RC.gather(1, place))[:, 0], settled[:, 0]


def _typical(weights_RV: Tensor, mass: Tensor) -> Tensor:
    """Which ids' surprise is nearest to the expected one, up to their share of `mass`: as in TypicalLogitsWarper."""
    shares = weights_RV / weights_RV.sum(-1, keepdim=True)
    surprise = -shares.log()
    expected = -torch.xlogy(shares, shares).sum(-1, keepdim=True)
    strange, order = (surprise - expected).abs().sort(-1)
    reached = shares.gather(1, order).cumsum(-1)
    last = (reached < mass).sum(-1, keepdim=True).clamp(max=shares.shape[1] - 1)
    return (surprise - expected).abs() <= strange.gather(1, last)


def rank_of(logits_NV: Tensor, chosen: Tensor) -> Tensor:
    """1 for the first in the total order."""
    value = logits_NV.gather(1, chosen)
    ids = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    return 1 + ((logits_NV > value) | ((logits_NV == value) & (ids < chosen))).sum(-1)


def _also(asks: Sequence[Ask], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ids whose logprobs are asked for, padded with 0, and which of them exist."""
    longest = max(len(ask.also) for ask in asks)
    lines = [[*ask.also, *[-1] * (longest - len(ask.also))] for ask in asks]
    ids = torch.tensor(lines, dtype=torch.int64, device=device).reshape(len(asks), longest)
    exist = (ids >= 0) & (ids < size)
    return ids.where(exist, 0), exist
