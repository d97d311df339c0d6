"""Decide, before each step, which tokens of which sequences to compute. No torch: it counts, it does not compute."""

from bisect import insort
from dataclasses import dataclass, field

import msgspec

from stretto.engine.account import Tally
from stretto.engine.cache.block_pool import BlockPool, block_key, scope_key
from stretto.engine.errors import DeadlineExpired, QueueTimeout
from stretto.engine.messages import Failed, Finish, Gauges, Generate, Reading, Scored, Token
from stretto.engine.requests import Task
from stretto.engine.sequence import Batch, Drawn, Sequence, Slice


@dataclass(slots=True, eq=False)
class _Request:
    """What the candidates of one request have in common. `followers` wait until the first has read the prompt."""

    request: Generate
    tally: Tally
    live: list[Sequence]
    followers: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Continuous batching: running sequences first, then as many waiting ones as fit.

    `plan` says what to compute and `commit` takes in what came out; between the two nothing else may be called.
    Every request ends exactly once: with its last candidate's finish, or in `Failed`, or by `cancel` without a word.
    """

    def __init__(self, pool: BlockPool, max_sequences: int) -> None:
        self.pool = pool
        self.preemptions = self.prefix_queried = self.prefix_hit = 0
        self._max_sequences = max_sequences
        self._requests: dict[int, _Request] = {}
        self._waiting: list[Sequence] = []  # both lists are kept in the order of `rank`
        self._running: list[Sequence] = []
        self._arrivals = 0

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def num_decoding(self) -> int:
        """How many wait for their next token, so that this step must be short."""
        return sum(sequence.pending == 1 and sequence.generated > 0 for sequence in self._running)

    @property
    def num_reading(self) -> int:
        """How many wait for their first token, running or not."""
        return len(self._running) - self.num_decoding + len(self._waiting)

    def gauges(self, model: str, now: float) -> list[Gauges]:
        """How the queues stand that the tasks have in common here, and with the first the cache."""
        generate, score = (self._queue_of(task, model, now) for task in (Task.GENERATE, Task.SCORE))
        pool = self.pool
        blocks = {"blocks_free": pool.free, "blocks_held": pool.held, "blocks_published": pool.published}
        return [msgspec.structs.replace(generate, **blocks), score]

    def _queue_of(self, task: Task, model: str, now: float) -> Gauges:
        waiting = [sequence for sequence in self._waiting if sequence.request.task is task]
        requests = {sequence.request.id for sequence in waiting}
        return Gauges(
            model=model,
            task=task,
            waiting=len(requests),
            waiting_tokens=sum(sequence.pending for sequence in waiting),
            oldest_wait_seconds=max((now - self._requests[id_].tally.arrived for id_ in requests), default=0.0),
        )

    def add(self, request: Generate, now: float) -> list[Reading]:
        """Take a request in. It must fit the pool when alone: the caller has checked that."""
        tally = Tally(arrived=now, queue_position=len(self._waiting))
        candidates = [Sequence.begun(request, i) for i in range(request.candidates)]
        entry = self._requests[request.id] = _Request(request, tally, candidates)
        if request.share_prefix:
            candidates, entry.followers = candidates[:1], candidates[1:]
        for sequence in candidates:
            self._queue(sequence)
        if not request.progress:
            return []
        place = self._waiting.index(candidates[0])
        return [Reading(id=request.id, processed=0, total=len(request.prompt), queue_position=place)]

    def cancel(self, request_id: int) -> Task | None:
        """Forget a request and say what it was: its blocks are free at once. None: it may have ended meanwhile."""
        entry = self._requests.pop(request_id, None)
        if entry is None:
            return None
        for sequence in entry.live:
            self._drop(sequence)
        return entry.request.task

    def stop(self, request_id: int, candidate: int, now: float) -> list[Token]:
        """Finish one candidate whose text is complete; nothing to say where it had ended by itself."""
        entry = self._requests.get(request_id)
        live = entry.live if entry else []
        return [self._end(sequence, "stop", now) for sequence in live if sequence.candidate == candidate]

    def fail(self, request_id: int) -> list[int]:
        """Forget a request that raised or gave no numbers.

        Its blocks are findable no longer; returns those that nobody holds now, which may hold NaNs and must be zeroed.
        """
        entry = self._requests[request_id]
        blocks = sorted({block for sequence in entry.live for block in sequence.blocks})
        self.pool.withdraw(blocks)
        self.cancel(request_id)
        return [block for block in blocks if not self.pool.in_use(block)]

    def expire(self, now: float) -> list[Token | Failed]:
        """End what has run out of time: past its deadline, not started in time, or at its own time limit."""
        events: list[Token | Failed] = []
        for entry in list(self._requests.values()):
            request = entry.request
            if request.deadline is not None and now >= request.deadline:
                text = "The deadline passed before the answer was done."
                events.append(Failed(id=request.id, reason=DeadlineExpired.reason, message=text))
                self.cancel(request.id)
            elif request.start_by is not None and now >= request.start_by and entry.tally.started is None:
                others = sum(sequence.request.id != request.id for sequence in self._waiting)
                text = (
                    f"No step took the request within its queue_timeout; {others} sequences of other requests are "
                    "waiting."
                )
                events.append(Failed(id=request.id, reason=QueueTimeout.reason, message=text))
                self.cancel(request.id)
            elif request.stop_at is not None and now >= request.stop_at:
                events += [self._end(sequence, "time", now) for sequence in list(entry.live)]
        return events

    def plan(self, budget: int, prefill_budget: int, now: float) -> Batch:
        """Choose a step of at most `budget` tokens; who is not decoding takes at most `prefill_budget` of them."""
        batch: Batch = []
        before = len(self._running)
        for sequence in sorted(self._running, key=lambda s: s.pending > 1):  # stable: who decodes comes first
            room = budget if sequence.pending == 1 else min(budget, prefill_budget)
            if room and sequence.blocks and self._grow(sequence, room):
                batch.append(self._slice(sequence, room))
                budget -= batch[-1].count
                prefill_budget -= batch[-1].count if sequence.pending > 1 else 0
        evicted = len(self._running) < before
        while self._waiting and not evicted and len(self._running) < self._max_sequences:
            room = min(budget, prefill_budget)
            if not room or not self._admit(self._waiting[0], room, now):
                break
            sequence = self._waiting.pop(0)
            insort(self._running, sequence, key=lambda s: s.rank)
            batch.append(self._slice(sequence, room))
            budget -= batch[-1].count
            prefill_budget -= batch[-1].count
        return [piece for piece in batch if piece.sequence.blocks]  # an eviction may have followed the slice

    def commit(self, batch: Batch, drawn: list[Drawn | None], now: float) -> list[Token | Scored | Reading]:
        """Record that the batch was computed, with a healthy draw for each slice that samples or scores."""
        total = sum(piece.count for piece in batch)
        own: dict[int, int] = {}
        for piece in batch:
            own[piece.sequence.request.id] = own.get(piece.sequence.request.id, 0) + piece.count
        for request_id, tokens in own.items():
            tally = self._requests[request_id].tally
            tally.step(batch=len(batch), others_tokens=total - tokens)
            blocks = sum(len(sequence.blocks) for sequence in self._requests[request_id].live)
            tally.peak_blocks = max(tally.peak_blocks, blocks)
        events: list[Token | Scored | Reading] = []
        for piece, draw in zip(batch, drawn, strict=True):
            events += _told(piece, draw)
            events += self._take_in(piece, draw, now)
        return events

    def _take_in(self, piece: Slice, draw: Drawn | None, now: float) -> list[Token]:
        sequence, request = piece.sequence, piece.sequence.request
        self._publish(sequence, piece.stop)
        sequence.to_score = range(piece.scores.stop, sequence.to_score.stop)
        if piece.stop < len(sequence.tokens):
            return []
        entry = self._requests[request.id]
        entry.tally.result(now)
        self._let_follow(entry)
        if draw is None or draw.token < 0:  # max_tokens is 0: what is given was to be read, and it is
            return [self._end(sequence, "length", now)]
        sequence.tokens.append(draw.token)
        finish: Finish | None = None
        if draw.token in request.stop_ids:
            finish = "stop"
        elif sequence.generated == request.max_tokens:
            finish = "length"
        event = Token(
            id=request.id,
            candidate=sequence.candidate,
            token=draw.token,
            logprob=draw.logprob,
            rank=draw.rank,
            top=draw.top,
            also=draw.also,
            finish=finish,
        )
        return [self._finish(sequence, event, now) if finish else event]

    def _end(self, sequence: Sequence, finish: Finish, now: float) -> Token:
        """Finish a candidate without a further token."""
        return self._finish(
            sequence,
            Token(id=sequence.request.id, candidate=sequence.candidate, token=-1, finish=finish),
            now,
        )

    def _finish(self, sequence: Sequence, event: Token, now: float) -> Token:
        """Retire a candidate; the last one's event carries the account of the whole request."""
        entry = self._requests[event.id]
        entry.live.remove(sequence)
        self._drop(sequence)
        if entry.live:
            self._let_follow(entry)  # the first may be stopped before it has read the prompt
            return event
        del self._requests[event.id]
        return msgspec.structs.replace(event, account=entry.tally.close(now))

    def _let_follow(self, entry: _Request) -> None:
        """The prompt is read, or never will be by the first candidate: the others need not wait for it any longer."""
        for follower in entry.followers:
            if follower in entry.live:
                self._queue(follower)
        entry.followers = []

    def _queue(self, sequence: Sequence) -> None:
        sequence.order, self._arrivals = self._arrivals, self._arrivals + 1
        insort(self._waiting, sequence, key=lambda s: s.rank)

    def _slice(self, sequence: Sequence, room: int) -> Slice:
        return Slice(sequence, sequence.computed, sequence.computed + min(sequence.pending, room))

    def _admit(self, sequence: Sequence, room: int, now: float) -> bool:
        """Give a waiting sequence its published prefix and its first blocks, or nothing at all."""
        sequence.admitted()
        self._match(sequence)
        if self._missing(sequence, sequence.pending) > self.pool.available:
            self._forget(sequence)
            return False
        tally = self._requests[sequence.request.id].tally
        if tally.started is None:
            tally.cached_tokens = sequence.computed
        tally.start(now)
        if sequence.request.share_prefix:
            self.prefix_queried += len(sequence.tokens)
            self.prefix_hit += sequence.computed
        self._fill(sequence, room)
        return True

    def _grow(self, sequence: Sequence, room: int) -> bool:
        """Give a running sequence its next blocks, taking them from the last in rank if need be."""
        while self._missing(sequence, room) > self.pool.available:
            victim = self._running[-1]
            self._running.remove(victim)
            self._forget(victim)
            insort(self._waiting, victim, key=lambda s: s.rank)
            self._requests[victim.request.id].tally.preemptions += 1
            self.preemptions += 1
            if victim is sequence:
                return False
        self._fill(sequence, room)
        return True

    def _missing(self, sequence: Sequence, room: int) -> int:
        target = sequence.computed + min(sequence.pending, room)
        return -(-target // self.pool.block_size) - len(sequence.blocks)

    def _fill(self, sequence: Sequence, room: int) -> None:
        sequence.blocks += [self.pool.take() for _ in range(self._missing(sequence, room))]

    def _match(self, sequence: Sequence) -> None:
        """Share the longest published prefix of the tokens, short of the first row that has something to say.

        That is the last token's, of which the next one is drawn, or the one before the first that is to be scored.
        """
        if not sequence.request.share_prefix:
            return
        silent = (sequence.to_score.start if sequence.to_score else len(sequence.tokens)) - 1
        for index in range(silent // self.pool.block_size):
            block = self.pool.share(self._key(sequence, index))
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.computed = len(sequence.blocks) * self.pool.block_size

    def _publish(self, sequence: Sequence, stop: int) -> None:
        """Move a sequence on to `stop`, and make the blocks that this filled findable."""
        size = self.pool.block_size
        if sequence.request.share_prefix:
            for index in range(sequence.computed // size, stop // size):
                self.pool.publish(self._key(sequence, index), sequence.blocks[index])
        sequence.computed = stop

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """The digest of a full block of the sequence; each is computed once, when it is first needed."""
        size, keys = self.pool.block_size, sequence.keys
        while len(keys) <= index:
            before = keys[-1] if keys else scope_key(sequence.request.scope)
            start = len(keys) * size
            keys.append(block_key(before, sequence.tokens[start : start + size]))
        return keys[index]

    def _drop(self, sequence: Sequence) -> None:
        """Take a sequence out of whichever list it is in."""
        for place in (self._running, self._waiting):
            if sequence in place:
                place.remove(sequence)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0


def _told(piece: Slice, draw: Drawn | None) -> list[Scored | Reading]:
    """What a slice says beside its draw: the logprobs of given tokens, and how far the prompt is read."""
    sequence, request = piece.sequence, piece.sequence.request
    events = list[Scored | Reading]()
    if draw is not None and draw.given:
        events.append(
            Scored(
                id=request.id,
                candidate=sequence.candidate,
                start=piece.scores.start,
                logprobs=[each.logprob for each in draw.given],
                ranks=[each.rank for each in draw.given],
                tops=[each.top for each in draw.given],
                alsos=[each.also for each in draw.given],
            )
        )
    if request.progress and sequence.candidate == 0 and piece.start < len(request.prompt):
        total = len(request.prompt)
        events.append(Reading(id=request.id, processed=min(piece.stop, total), total=total))
    return events
