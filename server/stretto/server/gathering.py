"""Tokens gathered into fewer, larger pieces: what piled up goes out as one delta a candidate."""

from collections.abc import Iterable
from dataclasses import replace

from stretto.engine.results import Delta


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """One delta a candidate, in candidate order: its text, ids and logprobs in a row, and its end if it came."""
    parts: dict[int, list[Delta]] = {}
    for delta in deltas:
        parts.setdefault(delta.candidate, []).append(delta)
    return [_one(parts[candidate]) for candidate in sorted(parts)]


def _one(parts: list[Delta]) -> Delta:
    if len(parts) == 1:
        return parts[0]
    last = parts[-1]
    return Delta(
        candidate=last.candidate,
        text="".join(part.text for part in parts),
        token_ids=tuple(token for part in parts for token in part.token_ids),
        first_token_index=parts[0].first_token_index,
        num_echoed=sum(part.num_echoed for part in parts),
        logprobs=tuple(scored for part in parts for scored in part.logprobs),
        finish=last.finish,
        stop_string=last.stop_string,
        stop_token_id=last.stop_token_id,
        cumulative_logprob=last.cumulative_logprob,
    )


def best(whole: Iterable[Delta], count: int) -> list[Delta]:
    """The `count` candidates with the best mean logprob, the best first and numbered anew; of equals the earlier."""

    def mean(delta: Delta) -> float:
        num_tokens = len(delta.token_ids) - delta.num_echoed
        return (delta.cumulative_logprob or 0.0) / max(1, num_tokens)

    ranked = sorted(whole, key=mean, reverse=True)
    return [replace(delta, candidate=place) for place, delta in enumerate(ranked[:count])]


class Gathering:
    """Holds deltas back until they make `min_tokens`; the first, and any that ends a candidate, are never held."""

    def __init__(self, min_tokens: int) -> None:
        self._min_tokens = min_tokens
        self._held: list[Delta] = []
        self._first = True

    def take(self, deltas: list[Delta]) -> list[Delta]:
        """What to send now: everything held and given, or nothing yet."""
        self._held += deltas
        num_tokens = sum(len(delta.token_ids) for delta in self._held)
        ended = any(delta.finish for delta in deltas)
        return self.rest() if self._first or ended or num_tokens >= self._min_tokens else []

    def rest(self) -> list[Delta]:
        """All that is held."""
        held, self._held = self._held, []
        self._first = self._first and not held
        return joined(held)
