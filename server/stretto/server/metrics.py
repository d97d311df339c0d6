"""What Prometheus scrapes: every counter, gauge and histogram of this server, fed by requests, steps and models."""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from stretto.engine.errors import Draining, ModelNotReady, Overloaded, StrettoError
from stretto.engine.messages import Gauges, Step
from stretto.engine.results import Delta, InputReport, ModelCard, Telemetry, Usage
from stretto.server.call import Call
from stretto.server.errors import Starting
from stretto.server.instruments import SECONDS, ModelInstruments, RequestInstruments, StepInstruments

UNKNOWN = "unknown"  # the model label where no loaded model was chosen: names that clients invent are no labels

REJECTIONS = (Overloaded, Starting, Draining, ModelNotReady)


class Metrics:
    """The registry and those who write to it; everything happens on the event loop's thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # prompt_tokens and prompt_tokens_total are two families in Prometheus's format and one in OpenMetrics, whose
        # rule a registry enforces; so the histograms of tokens have a registry of their own.
        self._token_registry = CollectorRegistry()
        self._requests = RequestInstruments(self._registry, self._token_registry)
        self._steps = StepInstruments(self._registry)
        self._models = ModelInstruments(self._registry)
        self._loop_lag = Histogram(
            "stretto_event_loop_lag_seconds",
            "How late the event loop woke a task that had slept.",
            registry=self._registry,
            buckets=SECONDS,
        )
        self._loaded_at: dict[str, float] = {}
        self._seen: set[tuple[str, str]] = set()  # (model, task) of every request in progress that was ever shown
        ProcessCollector(registry=self._registry)

    def text(self, in_flight: Iterable[Call]) -> bytes:
        """The whole page, in Prometheus's text format."""
        running = Tally((call.model or UNKNOWN, call.task) for call in in_flight)
        self._seen |= running.keys()
        for labels in self._seen:
            self._requests.in_progress.labels(*labels).set(running[labels])
        return generate_latest(_WithoutCreated(self._registry)) + generate_latest(_WithoutCreated(self._token_registry))

    def observe(self, event: Step | Gauges) -> None:
        """What the engine says of itself."""
        if isinstance(event, Step):
            self._observe_step(event)
        else:
            self._observe_gauges(event)

    def observe_models(self, cards: Sequence[ModelCard]) -> None:
        """How the models stand, after any of them changed."""
        self._models.info.clear()
        for card in cards:
            self._models.info.labels(card.name, card.version, card.dtype, card.device).set(card.state == "ready")
            if card.state == "ready" and self._loaded_at.get(card.name) != card.loaded_at:
                self._loaded_at[card.name] = card.loaded_at
                self._models.load_seconds.labels(card.name).observe(card.load_seconds)
                self._models.memory.labels(card.name, "weights").set(card.weight_bytes)
                self._models.memory.labels(card.name, "cache").set(card.cache_bytes)

    def observe_lag(self, seconds: float) -> None:
        self._loop_lag.observe(seconds)

    def observe_call(self, call: Call, code: str, error: StrettoError | None) -> None:
        """One request that ended, however it did."""
        model, task = call.model or UNKNOWN, call.task
        reason = error.reason if error else ""
        self._requests.total.labels(model, task, code, reason).inc()
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
            self._count_tokens(model, task, call.usage)
        if call.telemetry and call.usage:
            self._time(model, task, call.telemetry, call.usage.completion_tokens / call.num_candidates)

    def observe_inputs(self, call: Call, reports: Iterable[InputReport]) -> None:
        """Inputs of a stream, as they come: it may have more than anybody could keep until its end."""
        self._count_inputs(call.model, call.task, reports)

    def pace(self, model: str) -> "Pace":
        """A watch on the gaps between one request's tokens."""
        return Pace(self._requests.inter_token.labels(model))

    def _count_inputs(self, model: str, task: str, reports: Iterable[InputReport]) -> None:
        for report in reports:
            if report.truncated_tokens:
                self._requests.truncated_inputs.labels(model, task).inc()
                self._requests.truncated_tokens.labels(model, task).inc(report.truncated_tokens)
            if report.unknown_token_count:
                self._requests.unknown_tokens.labels(model, task).inc(report.unknown_token_count)

    def _count_tokens(self, model: str, task: str, usage: Usage) -> None:
        self._requests.prompt_tokens.labels(model, task).inc(usage.prompt_tokens)
        self._requests.cached_tokens.labels(model, task).inc(usage.cached_prompt_tokens)
        self._requests.prompt_sizes.labels(model, task).observe(usage.prompt_tokens)
        if task == "generate":
            self._requests.completion_tokens.labels(model, task).inc(usage.completion_tokens)
            self._requests.completion_sizes.labels(model, task).observe(usage.completion_tokens)

    def _time(self, model: str, task: str, telemetry: Telemetry, tokens_each: float) -> None:
        self._requests.tokenization.labels(model, task).observe(telemetry.tokenization_seconds)
        self._requests.queue.labels(model, task).observe(telemetry.queue_seconds)
        self._requests.prefill.labels(model, task).observe(telemetry.prefill_seconds)
        if telemetry.first_token_seconds is not None and task == "generate":
            self._requests.decode.labels(model, task).observe(telemetry.decode_seconds)
            self._requests.first_token.labels(model).observe(telemetry.first_token_seconds)
        if tokens_each > 1:
            self._requests.per_token.labels(model).observe(telemetry.decode_seconds / (tokens_each - 1))

    def _observe_step(self, step: Step) -> None:
        self._steps.total.labels(step.model, step.kind).inc()
        self._steps.duration.labels(step.model, step.kind).observe(step.seconds)
        self._steps.sequences.labels(step.model, step.kind).observe(step.sequences)
        self._steps.tokens.labels(step.model, step.kind).observe(step.tokens)
        if step.kind != "encode":
            self._steps.preemptions.labels(step.model).inc(step.preemptions)
            self._steps.prefix_queries.labels(step.model).inc(step.prefix_queried)
            self._steps.prefix_hits.labels(step.model).inc(step.prefix_hit)

    def _observe_gauges(self, now: Gauges) -> None:
        self._steps.queue_requests.labels(now.model).set(now.waiting)
        self._steps.queue_tokens.labels(now.model).set(now.waiting_tokens)
        self._steps.queue_age.labels(now.model).set(now.oldest_wait_seconds)
        total = now.blocks_free + now.blocks_held + now.blocks_published
        if total:
            self._steps.blocks.labels(now.model, "free").set(now.blocks_free)
            self._steps.blocks.labels(now.model, "held").set(now.blocks_held)
            self._steps.blocks.labels(now.model, "published").set(now.blocks_published)
            self._steps.cache_usage.labels(now.model).set(now.blocks_held / total)


class Pace:
    """The gaps between the tokens of one request's candidates. Several tokens at once share their gap evenly."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._last: dict[int, float] = {}

    def note(self, deltas: Iterable[Delta]) -> None:
        now = time.monotonic()
        gained: Tally[int] = Tally()
        for delta in deltas:
            gained[delta.candidate] += len(delta.token_ids)
        for candidate, num_tokens in gained.items():
            if num_tokens == 0:
                continue
            if candidate in self._last:
                for _ in range(num_tokens):
                    self._histogram.observe((now - self._last[candidate]) / num_tokens)
            self._last[candidate] = now


class _WithoutCreated(Collector):
    """A registry without the `_created` samples, which Prometheus's text format would show as gauges of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
