"""What Prometheus scrapes: every counter, gauge and histogram of this server, fed by requests, steps and models."""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from stretto.engine.errors import Draining, ModelNotReady, Overloaded, StrettoError
from stretto.engine.messages import Figures, Freed, Gauges, Step
from stretto.engine.requests import Task
from stretto.engine.results import Delta, InputReport, ModelCard, Telemetry, Usage
from stretto.server.call import Call
from stretto.server.errors import Starting, TenantLimit
from stretto.server.instruments import (
    SECONDS,
    AnswerInstruments,
    CacheInstruments,
    ModelInstruments,
    RequestInstruments,
    StepInstruments,
)
from stretto.server.rpc_counts import RpcCounts

UNKNOWN = "unknown"  # the model label where no loaded model was chosen: names that clients invent are no labels

NO_ADAPTER = ""

REJECTIONS = (Overloaded, TenantLimit, Starting, Draining, ModelNotReady)
PHASES = ("waiting", "answering")
STATES = ("free", "held", "published")
KINDS = {Task.GENERATE: ("prefill", "decode", "mixed"), Task.EMBED: ("encode",)}


class Metrics:
    """The registry and those who write to it; everything happens on the event loop's thread."""

    def __init__(self, services: Sequence[str]) -> None:
        self._registry = CollectorRegistry()
        # prompt_tokens and prompt_tokens_total are two families in Prometheus's format and one in OpenMetrics, whose
        # rule a registry enforces; so the histograms of tokens have a registry of their own.
        self._token_registry = CollectorRegistry()
        self._requests = RequestInstruments(self._registry, self._token_registry)
        self._answers = AnswerInstruments(self._registry, self._token_registry)
        self._steps = StepInstruments(self._registry)
        self._cache = CacheInstruments(self._registry)
        self._models = ModelInstruments(self._registry)
        self._loop_lag = Histogram(
            "stretto_event_loop_lag_seconds",
            "How late the event loop woke a task that had slept.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._rpcs = RpcCounts(self._registry, services)
        self._loaded_at: dict[str, float] = {}
        self._seen: set[tuple[str, str]] = set()  # (model, task) of every request in progress that was ever shown
        ProcessCollector(registry=self._registry)

    def text(self, in_flight: Iterable[Call]) -> bytes:
        """The whole page, in Prometheus's text format."""
        running = Tally((call.model or UNKNOWN, call.task) for call in in_flight if call.task)
        self._seen |= running.keys()
        for labels in self._seen:
            self._requests.in_progress.labels(*labels).set(running[labels])
        return generate_latest(_WithoutCreated(self._registry)) + generate_latest(_WithoutCreated(self._token_registry))

    def observe(self, event: Figures) -> None:
        """What the engine says of itself."""
        match event:
            case Step():
                self._observe_step(event)
            case Gauges():
                self._observe_gauges(event)
            case Freed():
                self._requests.cancel_to_free.labels(event.task).observe(event.seconds)

    def observe_models(self, cards: Sequence[ModelCard]) -> None:
        """How the models stand, after any of them changed."""
        self._models.info.clear()
        for card in cards:
            self._expect(card)
            if card.state != "ready":  # its queues and its cache went with the engine process, or never were
                for task in card.tasks:
                    self._observe_gauges(Gauges(model=card.name, task=task, waiting=0, waiting_tokens=0))
            self._models.info.labels(card.name, card.version, card.dtype, card.device).set(card.state == "ready")
            if card.state == "ready" and self._loaded_at.get(card.name) != card.loaded_at:
                self._loaded_at[card.name] = card.loaded_at
                self._models.load_seconds.labels(card.name).observe(card.load_seconds)
                self._models.memory.labels(card.name, "weights").set(card.weight_bytes)
                self._models.memory.labels(card.name, "cache").set(card.cache_bytes)

    def observe_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def observe_start(self, path: str) -> None:
        """One call that began, of the method with this path."""
        self._rpcs.begun(path)

    def observe_end(self, call: Call, code: str, error: StrettoError | None) -> None:
        """One call that ended, however it did."""
        self._rpcs.ended(call.path, code)
        if call.task:
            self._observe_request(call, code, error)

    def _observe_request(self, call: Call, code: str, error: StrettoError | None) -> None:
        model, task = call.model or UNKNOWN, call.task
        reason = error.reason if error else ""
        self._requests.total.labels(model, NO_ADAPTER, task, code, reason).inc()
        self._requests.duration.labels(model, task).observe(time.monotonic() - call.received)
        phase = "answering" if call.answering else "waiting"
        if code == "CANCELLED":
            self._requests.cancellations.labels(task, phase).inc()
        if code == "DEADLINE_EXCEEDED":
            self._requests.deadline_misses.labels(task, phase).inc()
        if isinstance(error, REJECTIONS):
            self._requests.rejections.labels(task, reason).inc()
        if call.num_inputs:
            self._requests.inputs.labels(model, task).observe(call.num_inputs)
        self._count_inputs(model, task, call.reports)
        if call.usage:
            self._count_tokens(model, task, call.usage, call.num_generated)
        if call.telemetry and call.usage:
            self._time(model, task, call.telemetry, call.num_generated / call.num_candidates)

    def observe_inputs(self, call: Call, reports: Iterable[InputReport]) -> None:
        """Inputs of a stream, as they come: it may have more than anybody could keep until its end."""
        self._count_inputs(call.model, call.task, reports)

    def pace(self, call: Call) -> "Pace":
        """Counts one request's tokens as they come, and watches the gaps between them."""
        tokens = self._answers.tokens.labels(call.model, NO_ADAPTER, call.task)
        return Pace(call, tokens, self._answers.inter_token.labels(call.model))

    def _expect(self, card: ModelCard) -> None:
        """Have every series of a model before its first request."""
        name = {"model": card.name}
        self._models.expect(**name)
        for task in card.tasks:
            self._requests.expect(task=task)
            for phase in PHASES:
                self._requests.expect(task=task, phase=phase)
            for rejection in REJECTIONS:
                self._requests.expect(task=task, reason=rejection.reason)
            self._requests.expect(**name, adapter=NO_ADAPTER, task=task, code="OK", reason="")
            for instruments in (self._requests, self._steps):
                instruments.expect(**name, task=task)
            self._requests.expect(**name, adapter=NO_ADAPTER, task=task)
            for kind in KINDS.get(task, ()):
                self._steps.expect(**name, kind=kind)
        if Task.GENERATE in card.tasks:
            self._answers.expect(**name)
            self._answers.expect(**name, task=Task.GENERATE)
            self._answers.expect(**name, adapter=NO_ADAPTER, task=Task.GENERATE)
            self._cache.expect(**name)
            for state in STATES:
                self._cache.expect(**name, state=state)

    def _count_inputs(self, model: str, task: str, reports: Iterable[InputReport]) -> None:
        for report in reports:
            if report.truncated_tokens:
                self._requests.truncated_inputs.labels(model, task).inc()
                self._requests.truncated_tokens.labels(model, task).inc(report.truncated_tokens)
            if report.chunk_count > 1:
                self._requests.chunked_inputs.labels(model, task).inc()
            if report.unknown_token_count:
                self._requests.unknown_tokens.labels(model, task).inc(report.unknown_token_count)

    def _count_tokens(self, model: str, task: str, usage: Usage, num_generated: int) -> None:
        """Tokens that an answer was resumed with are in its usage, and were generated before."""
        self._requests.prompt_tokens.labels(model, NO_ADAPTER, task).inc(usage.prompt_tokens)
        self._requests.cached_tokens.labels(model, NO_ADAPTER, task).inc(usage.cached_prompt_tokens)
        self._requests.prompt_sizes.labels(model, task).observe(usage.prompt_tokens)
        if task == Task.GENERATE:
            self._answers.sizes.labels(model, task).observe(num_generated)

    def _time(self, model: str, task: str, telemetry: Telemetry, tokens_each: float) -> None:
        self._requests.tokenization.labels(model, task).observe(telemetry.tokenization_seconds)
        self._requests.queue.labels(model, task).observe(telemetry.queue_seconds)
        self._requests.prefill.labels(model, task).observe(telemetry.prefill_seconds)
        if telemetry.first_token_seconds is not None and task == Task.GENERATE:
            self._answers.decode.labels(model, task).observe(telemetry.decode_seconds)
            self._answers.first_token.labels(model).observe(telemetry.first_token_seconds)
        if tokens_each > 1:
            self._answers.per_token.labels(model).observe(telemetry.decode_seconds / (tokens_each - 1))

    def _observe_step(self, step: Step) -> None:
        self._steps.total.labels(step.model, step.kind).inc()
        self._steps.duration.labels(step.model, step.kind).observe(step.seconds)
        self._steps.sequences.labels(step.model, step.kind).observe(step.sequences)
        self._steps.tokens.labels(step.model, step.kind).observe(step.tokens)
        self._steps.padding.labels(step.model, step.kind).inc(step.padding)
        if step.kind != "encode":
            self._cache.preemptions.labels(step.model).inc(step.preemptions)
            self._cache.queries.labels(step.model).inc(step.prefix_queried)
            self._cache.hits.labels(step.model).inc(step.prefix_hit)

    def _observe_gauges(self, now: Gauges) -> None:
        self._steps.queue_requests.labels(now.model, now.task).set(now.waiting)
        self._steps.queue_tokens.labels(now.model, now.task).set(now.waiting_tokens)
        self._steps.queue_age.labels(now.model, now.task).set(now.oldest_wait_seconds)
        if now.task is Task.GENERATE:
            blocks = (now.blocks_free, now.blocks_held, now.blocks_published)
            for state, count in zip(STATES, blocks, strict=True):
                self._cache.blocks.labels(now.model, state).set(count)
            self._cache.usage.labels(now.model).set(now.blocks_held / max(1, sum(blocks)))


class Pace:
    """The tokens of one request's candidates, and the gaps between them. Several at once share their gap evenly."""

    def __init__(self, call: Call, tokens: Counter, gaps: Histogram) -> None:
        self._call = call
        self._tokens = tokens
        self._gaps = gaps
        self._last: dict[int, float] = {}

    def note(self, deltas: Iterable[Delta]) -> None:
        now = time.monotonic()
        gained: Tally[int] = Tally()
        for delta in deltas:
            gained[delta.candidate] += len(delta.token_ids) - delta.num_echoed
        self._call.num_generated += gained.total()
        self._tokens.inc(gained.total())
        for candidate, num_tokens in gained.items():
            if num_tokens == 0:
                continue
            if candidate in self._last:
                for _ in range(num_tokens):
                    self._gaps.observe((now - self._last[candidate]) / num_tokens)
            self._last[candidate] = now


class _WithoutCreated(Collector):
    """A registry without the `_created` samples, which Prometheus's text format would show as gauges of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
