"""What one request has taken so far: its times, its steps and its company. No torch."""

from dataclasses import dataclass

from stretto.engine.messages import Account


@dataclass(slots=True, kw_only=True)
class Tally:
    """Kept beside a request while it is in flight; `close` turns it into the account that the caller sees."""

    arrived: float
    queue_position: int
    started: float | None = None
    first_result: float | None = None
    cached_tokens: int = 0
    steps: int = 0
    min_batch: int = 0
    max_batch: int = 0
    batches: int = 0
    co_batched_tokens: int = 0
    preemptions: int = 0
    peak_blocks: int = 0

    def start(self, now: float) -> None:
        if self.started is None:
            self.started = now

    def step(self, *, batch: int, others_tokens: int) -> None:
        """It took part in a step of `batch` sequences, beside `others_tokens` tokens of other requests."""
        self.steps += 1
        self.min_batch = min(self.min_batch or batch, batch)
        self.max_batch = max(self.max_batch, batch)
        self.batches += batch
        self.co_batched_tokens += others_tokens

    def result(self, now: float) -> None:
        if self.first_result is None:
            self.first_result = now

    def close(self, now: float) -> Account:
        started = now if self.started is None else self.started
        first = now if self.first_result is None else self.first_result
        return Account(
            queue_seconds=started - self.arrived,
            prefill_seconds=first - started,
            decode_seconds=now - first,
            cached_tokens=self.cached_tokens,
            steps=self.steps,
            min_batch=self.min_batch,
            max_batch=self.max_batch,
            mean_batch=self.batches / self.steps if self.steps else 0.0,
            co_batched_tokens=self.co_batched_tokens,
            preemptions=self.preemptions,
            peak_blocks=self.peak_blocks,
            queue_position=self.queue_position,
        )
