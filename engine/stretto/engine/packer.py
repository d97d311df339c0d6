"""Decide, before each step, which texts to encode together. No torch."""

import math
from bisect import insort
from collections import Counter
from dataclasses import dataclass

from stretto.engine.account import Tally
from stretto.engine.errors import DeadlineExpired, QueueTimeout
from stretto.engine.messages import Encode, Failed, Gauges, Vector
from stretto.engine.requests import Task


@dataclass(slots=True, eq=False)
class Text:
    """One text in flight."""

    request: Encode
    tally: Tally
    order: int

    @property
    def rank(self) -> tuple[int, int]:
        return -self.request.priority, self.order


class Packer:
    """First come, first served within a priority, up to a budget of tokens: packed rows have no padding to count.

    `plan` takes texts out for good: each ends in `commit`, or as the failure that its caller makes of it.
    """

    def __init__(self) -> None:
        self._waiting: list[Text] = []
        self._begun: set[int] = set()  # requests of which a step has taken a text; `cancel` ends each
        self._due = math.inf  # when the first of those that wait runs out of time
        self._arrivals = 0

    @property
    def idle(self) -> bool:
        return not self._waiting

    def gauges(self, model: str, now: float) -> Gauges:
        return Gauges(
            model=model,
            task=Task.EMBED,
            waiting=len({text.request.id for text in self._waiting}),
            waiting_tokens=sum(len(text.request.ids) for text in self._waiting),
            oldest_wait_seconds=max((now - text.tally.arrived for text in self._waiting), default=0.0),
        )

    def add(self, request: Encode, now: float) -> None:
        tally = Tally(arrived=now, queue_position=len(self._waiting))
        insort(self._waiting, Text(request, tally, self._arrivals), key=lambda text: text.rank)
        self._arrivals += 1
        self._due = min(self._due, self._end_of(request))

    def cancel(self, request_id: int) -> Task | None:
        """Forget a request and say what it was; None where none of its texts waits."""
        self._begun.discard(request_id)
        before = len(self._waiting)
        self._waiting = [text for text in self._waiting if text.request.id != request_id]
        return Task.EMBED if len(self._waiting) < before else None

    def expire(self, now: float) -> list[Failed]:
        """End what has run out of time before any step took it."""
        if now < self._due:
            return []
        events, kept = list[Failed](), list[Text]()
        for text in self._waiting:
            request = text.request
            if request.deadline is not None and now >= request.deadline:
                reason, message = DeadlineExpired.reason, "The deadline passed before this text was encoded."
            elif request.start_by is not None and now >= request.start_by and request.id not in self._begun:
                reason, message = QueueTimeout.reason, "No step took the request within its queue_timeout."
            else:
                kept.append(text)
                continue
            events.append(Failed(id=request.id, index=request.index, reason=reason, message=message))
        self._waiting = kept
        self._due = min((self._end_of(text.request) for text in kept), default=math.inf)
        return events

    def _end_of(self, request: Encode) -> float:
        start_by = None if request.id in self._begun else request.start_by
        return min((each for each in (request.deadline, start_by) if each is not None), default=math.inf)

    def plan(self, budget: int, now: float) -> list[Text]:
        """The next texts of together at most `budget` tokens; a longer one goes alone."""
        taken, used = 0, 0
        for text in self._waiting:
            used += len(text.request.ids)
            if taken and used > budget:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        for text in batch:
            text.tally.start(now)
            self._begun.add(text.request.id)
        return batch

    def commit(self, batch: list[Text], vectors: list[bytes], now: float) -> list[Vector]:
        """The events of texts that were encoded together."""
        own: Counter[int] = Counter()
        for text in batch:
            own[text.request.id] += len(text.request.ids)
        return [self._done(text, vector, len(batch), own, now) for text, vector in zip(batch, vectors, strict=True)]

    def _done(self, text: Text, vector: bytes, batch: int, own: Counter[int], now: float) -> Vector:
        request = text.request
        text.tally.step(batch=batch, others_tokens=own.total() - own[request.id])
        text.tally.result(now)
        return Vector(id=request.id, index=request.index, vector=vector, account=text.tally.close(now))
