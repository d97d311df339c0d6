"""A lane is one model's one kind of work: its queue, and what computes it."""

import time
import traceback
import uuid
from collections.abc import Callable
from typing import Protocol, TypeVar

from stretto.engine.cache.block_pool import BlockPool
from stretto.engine.cache.kv_cache import KVCache, padding
from stretto.engine.config import Limits
from stretto.engine.encoder import Encoder
from stretto.engine.errors import EngineFailure, InvalidRequest, StrettoError
from stretto.engine.messages import Command, Encode, Event, Failed, Gauges, Generate, Kind, Step, Stop
from stretto.engine.pace import Pace
from stretto.engine.packer import Packer, Text
from stretto.engine.requests import Task
from stretto.engine.runner import Runner
from stretto.engine.scheduler import Scheduler
from stretto.engine.sequence import Batch, Drawn, Sequence, Slice

MOST_PATIENCE = 4.0  # times the step budget, for a burst of prompts

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lane(Protocol):
    """What the loop needs of a lane. `spent` is the time it has had, in seconds: the loop's to keep."""

    spent: float

    @property
    def idle(self) -> bool: ...

    @property
    def decoding(self) -> bool:
        """Whether somebody here waits for his next token, so that every lane's steps must be short."""
        ...

    def takes(self, command: Command) -> bool: ...
    def add(self, command: Command, now: float) -> list[Event]: ...
    def cancel(self, request_id: int) -> Task | None:
        """Forget a request; says what it was, None where there was nothing of it."""
        ...

    def stop(self, command: Stop, now: float) -> list[Event]: ...
    def expire(self, now: float) -> list[Event]: ...
    def step(self, seconds: float | None) -> list[Event]: ...
    def gauges(self, now: float) -> list[Gauges]: ...


class CausalLane:
    """Generation: a scheduler says which tokens, a runner computes them."""

    def __init__(self, model: str, runner: Runner, cache: KVCache, limits: Limits) -> None:
        self.spent = 0.0
        self._model = model
        self._runner = runner
        self._cache = cache
        self._limits = limits
        self._pace = Pace()
        self.scheduler = Scheduler(BlockPool(cache.num_blocks, cache.block_size), limits.max_sequences)

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    @property
    def decoding(self) -> bool:
        return self.scheduler.num_decoding > 0

    def takes(self, command: Command) -> bool:
        return isinstance(command, Generate)

    def add(self, command: Command, now: float) -> list[Event]:
        assert isinstance(command, Generate)
        return list(self.scheduler.add(command, now))

    def cancel(self, request_id: int) -> Task | None:
        return self.scheduler.cancel(request_id)

    def stop(self, command: Stop, now: float) -> list[Event]:
        return list(self.scheduler.stop(command.id, command.candidate, now))

    def expire(self, now: float) -> list[Event]:
        return list(self.scheduler.expire(now))

    def step(self, seconds: float | None) -> list[Event]:
        begun = time.monotonic()
        most = self._limits.step_tokens
        batch = self.scheduler.plan(most, self._pace.tokens_in(self._patience(seconds), most), begun)
        if not batch:
            return []
        results = in_halves(self._runner.run, batch)
        events: list[Event] = []
        for request_id, why in _culprits(batch, results).items():
            events.append(self._fail(request_id, why))
        alive = [(piece, drawn) for piece, drawn in zip(batch, results, strict=True) if piece.sequence.blocks]
        now = time.monotonic()
        drawn = [draw for _, draw in alive if not isinstance(draw, Exception)]
        events += self.scheduler.commit([piece for piece, _ in alive], drawn, now)
        events.append(self._report(batch, now - begun))
        return events

    def gauges(self, now: float) -> list[Gauges]:
        return self.scheduler.gauges(self._model, now)

    def _patience(self, seconds: float | None) -> float | None:
        """How long the prompts of a step may hold up those who decode: longer where few do and many wait to be read.

        Else a burst of prompts would trickle in behind the first of it, which is done reading after one step.
        """
        reading, decoding = self.scheduler.num_reading, self.scheduler.num_decoding
        if seconds is None or not decoding:
            return seconds
        return seconds * min(MOST_PATIENCE, max(1.0, reading / decoding))

    def _fail(self, request_id: int, why: Exception | None) -> Failed:
        """End a request that can't go on; what it left in the cache must hurt nobody."""
        if isinstance(why, StrettoError):  # it has been computed, and well
            self.scheduler.cancel(request_id)
            return Failed(id=request_id, reason=why.reason, message=why.message)
        self._cache.zero(self.scheduler.fail(request_id))
        return accident(request_id, -1, why or ArithmeticError("the logits hold no numbers"))

    def _report(self, batch: Batch, seconds: float) -> Step:
        tokens, decoding = sum(piece.count for piece in batch), [piece.count == 1 for piece in batch]
        kind: Kind = "decode" if all(decoding) else "mixed" if any(decoding) else "prefill"
        self._pace.learn(tokens, seconds)
        scheduler = self.scheduler
        step = Step(
            model=self._model,
            kind=kind,
            seconds=seconds,
            sequences=len(batch),
            tokens=tokens,
            padding=padding(batch),
            preemptions=scheduler.preemptions,
            prefix_queried=scheduler.prefix_queried,
            prefix_hit=scheduler.prefix_hit,
        )
        scheduler.preemptions = scheduler.prefix_queried = scheduler.prefix_hit = 0
        return step


class EncodeLane:
    """Embedding: a packer says which texts, an encoder computes them."""

    decoding = False

    def __init__(self, model: str, encoder: Encoder, limits: Limits) -> None:
        self.spent = 0.0
        self._model = model
        self._encoder = encoder
        self._limits = limits
        self._pace = Pace()
        self.packer = Packer()

    @property
    def idle(self) -> bool:
        return self.packer.idle

    def takes(self, command: Command) -> bool:
        return isinstance(command, Encode)

    def add(self, command: Command, now: float) -> list[Event]:
        assert isinstance(command, Encode)
        self.packer.add(command, now)
        return []

    def cancel(self, request_id: int) -> Task | None:
        return self.packer.cancel(request_id)

    def stop(self, command: Stop, now: float) -> list[Event]:
        return []  # a text has no candidates

    def expire(self, now: float) -> list[Event]:
        return list(self.packer.expire(now))

    def step(self, seconds: float | None) -> list[Event]:
        begun = time.monotonic()
        batch = self.packer.plan(self._pace.tokens_in(seconds, self._limits.encode_tokens), begun)
        if not batch:
            return []
        results = in_halves(self._encode, batch)
        now = time.monotonic()
        tokens = sum(len(text.request.ids) for text in batch)
        self._pace.learn(tokens, now - begun)
        events: list[Event] = []
        done: list[tuple[Text, bytes]] = []
        for text, result in zip(batch, results, strict=True):
            if isinstance(result, bytes):
                done.append((text, result))
            else:
                why = result or ArithmeticError("the vector holds no numbers")
                events.append(accident(text.request.id, text.request.index, why))
        events += self.packer.commit([text for text, _ in done], [vector for _, vector in done], now)
        events.append(Step(model=self._model, kind="encode", seconds=now - begun, sequences=len(batch), tokens=tokens))
        return events

    def gauges(self, now: float) -> list[Gauges]:
        return [self.packer.gauges(self._model, now)]

    def _encode(self, batch: list[Text]) -> list[bytes | None]:
        return self._encoder.run([text.request for text in batch])


def in_halves(run: Callable[[list[Item]], list[Result]], batch: list[Item]) -> list[Result | Exception]:
    """Run a batch; where that raises, run its halves, so that only the item at fault is left with the exception.

    Running an item again is harmless: it writes the same keys and values to the same places.
    """
    try:
        return list(run(batch))
    except Exception as error:
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2  # out here: in the except clause all that the failed run had allocated is still held
    return in_halves(run, batch[:middle]) + in_halves(run, batch[middle:])


def _culprits(batch: list[Slice], results: list[Drawn | Exception | None]) -> dict[int, Exception | None]:
    """The requests that can't go on: what they raised or asked for, or None where their logits were no numbers."""
    found: dict[int, Exception | None] = {}
    for piece, result in zip(batch, results, strict=True):
        if isinstance(result, Exception):
            found[piece.sequence.request.id] = result
        elif result is not None and not result.healthy:
            found.setdefault(piece.sequence.request.id, None)
        elif result is not None and not result.choice:
            found.setdefault(piece.sequence.request.id, _no_choice(piece.sequence))
    return found


def _no_choice(sequence: Sequence) -> InvalidRequest:
    return InvalidRequest(
        f"config.sampling leaves no token to go on with after {sequence.generated} tokens of the answer: "
        "what it allows is all banned, by its own bans or by config.stopping.min_tokens."
    )


def accident(request_id: int, index: int, why: Exception) -> Failed:
    """The end of a request that raised or gave no numbers: an error id for the caller, what happened for the log."""
    error_id = uuid.uuid4().hex[:12]
    return Failed(
        id=request_id,
        index=index,
        reason=EngineFailure.reason,
        message=f"The engine could not compute this; the others go on. The server's log has it as error {error_id}.",
        log=f"error {error_id}: a request failed in the engine\n{''.join(traceback.format_exception(why)).rstrip()}",
    )
