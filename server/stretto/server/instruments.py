"""Every metric by name, type, labels and help: the list that dashboards are written against (docs/metrics.md)."""

from collections import defaultdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Small models answer in well under a millisecond a token; large ones load for minutes.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
COUNTS = tuple(float(1 << power) for power in range(18))

MODEL = ("model",)
MODEL_TASK = ("model", "task")
MODEL_KIND = ("model", "kind")
ADAPTED = ("model", "adapter", "task")  # no adapters yet: the label is empty, so that dashboards need not change
METHOD = ("grpc_type", "grpc_service", "grpc_method")


class Instruments:
    """Makes instruments in one registry, and remembers them by their labels."""

    def __init__(self, registry: CollectorRegistry, prefix: str = "stretto_") -> None:
        self._registry = registry
        self._prefix = prefix
        self._made: dict[frozenset[str], list[Counter | Gauge | Histogram]] = defaultdict(list)

    def expect(self, **labels: str) -> None:
        """Have the series with these labels, of every instrument that has just such labels, before anything happens.

        A rate is only right from a series' second sample on: one that begins with its first event hides that event.
        """
        for instrument in self._made[frozenset(labels)]:
            instrument.labels(**labels)

    def counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        made = Counter(self._prefix + name, text, labels, registry=self._registry)
        self._made[frozenset(labels)].append(made)
        return made

    def gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        made = Gauge(self._prefix + name, text, labels, registry=self._registry)
        self._made[frozenset(labels)].append(made)
        return made

    def histogram(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...],
        registry: CollectorRegistry | None = None,
    ) -> Histogram:
        made = Histogram(self._prefix + name, text, labels, registry=registry or self._registry, buckets=buckets)
        self._made[frozenset(labels)].append(made)
        return made


class RequestInstruments(Instruments):
    """What is counted of every request. `sizes` is the registry of what is a counter and a histogram by one name."""

    def __init__(self, registry: CollectorRegistry, sizes: CollectorRegistry) -> None:
        super().__init__(registry)
        self.total = self.counter("requests_total", "Requests that ended.", (*ADAPTED, "code", "reason"))
        self.in_progress = self.gauge("requests_in_progress", "Requests that are being answered.", MODEL_TASK)
        self.duration = self._seconds("request_duration_seconds", "From the request's arrival to its end.")
        self.queue = self._seconds("queue_duration_seconds", "From admission to the first step that took the request.")
        self.tokenization = self._seconds("tokenization_duration_seconds", "Text to token ids.")
        self.prefill = self._seconds("prefill_duration_seconds", "From the first step to the first result.")
        self.prompt_tokens = self.counter("prompt_tokens_total", "Tokens of prompts and inputs.", ADAPTED)
        self.cached_tokens = self.counter("cached_prompt_tokens_total", "Prompt tokens from the prefix cache.", ADAPTED)
        self.prompt_sizes = self.histogram(
            "prompt_tokens", "Tokens of the prompt or inputs of a request.", MODEL_TASK, COUNTS, sizes
        )
        self.inputs = self.histogram("inputs_per_request", "Prompts or texts in a request.", MODEL_TASK, COUNTS)
        self.truncated_inputs = self.counter("truncated_inputs_total", "Inputs that were cut.", MODEL_TASK)
        self.truncated_tokens = self.counter("truncated_tokens_total", "Tokens cut from inputs.", MODEL_TASK)
        self.chunked_inputs = self.counter(
            "chunked_inputs_total", "Inputs that were read in several chunks.", MODEL_TASK
        )
        self.unknown_tokens = self.counter("unknown_tokens_total", "Unknown tokens in inputs.", MODEL_TASK)
        self.rejections = self.counter(
            "admission_rejections_total", "Requests refused at the door.", ("task", "reason")
        )
        self.deadline_misses = self.counter(
            "deadline_misses_total", "Requests whose deadline passed, by what they had by then.", ("task", "phase")
        )
        self.cancellations = self.counter(
            "cancellations_total", "Requests that were cancelled, by what they had by then.", ("task", "phase")
        )
        self.cancel_to_free = self.histogram(
            "cancel_to_free_seconds",
            "From a request's cancel in the server to its blocks and its place being free in the engine.",
            ("task",),
            SECONDS,
        )

    def _seconds(self, name: str, text: str) -> Histogram:
        return self.histogram(name, text, MODEL_TASK, SECONDS)


class AnswerInstruments(Instruments):
    """What is counted of generated answers beside that."""

    def __init__(self, registry: CollectorRegistry, sizes: CollectorRegistry) -> None:
        super().__init__(registry)
        self.decode = self.histogram(
            "decode_duration_seconds", "From the first token to the last.", MODEL_TASK, SECONDS
        )
        self.first_token = self.histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", MODEL, SECONDS
        )
        self.inter_token = self.histogram(
            "inter_token_latency_seconds", "Between two tokens of a candidate.", MODEL, SECONDS
        )
        self.per_token = self.histogram(
            "time_per_output_token_seconds", "Decode time by tokens after the first.", MODEL, SECONDS
        )
        self.tokens = self.counter("completion_tokens_total", "Tokens generated.", ADAPTED)
        self.sizes = self.histogram("completion_tokens", "Tokens generated for a request.", MODEL_TASK, COUNTS, sizes)


class StepInstruments(Instruments):
    """What is counted of the engine's steps and its queues."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.total = self.counter("steps_total", "Steps of the engine.", MODEL_KIND)
        self.duration = self.histogram("step_duration_seconds", "How long a step took.", MODEL_KIND, SECONDS)
        self.sequences = self.histogram("step_batch_size", "Sequences or texts in a step.", MODEL_KIND, COUNTS)
        self.tokens = self.histogram("step_tokens", "Tokens computed in a step.", MODEL_KIND, COUNTS)
        self.padding = self.counter(
            "step_padding_tokens_total",
            "Places of gathered contexts that only pad them to the longest, in each layer.",
            MODEL_KIND,
        )
        self.queue_requests = self.gauge("queue_requests", "Requests that wait for a step.", MODEL_TASK)
        self.queue_tokens = self.gauge("queue_tokens", "Tokens of the requests that wait for a step.", MODEL_TASK)
        self.queue_age = self.gauge(
            "queue_oldest_age_seconds", "How long ago the oldest waiting request came.", MODEL_TASK
        )


class CacheInstruments(Instruments):
    """What is counted of a generating model's KV cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.blocks = self.gauge("kv_cache_blocks", "Blocks of the KV cache by state.", ("model", "state"))
        self.usage = self.gauge("kv_cache_usage_ratio", "Share of the KV cache's blocks that requests hold.", MODEL)
        self.queries = self.counter(
            "prefix_cache_queries_tokens_total", "Prompt tokens that were looked for in the cache.", MODEL
        )
        self.hits = self.counter("prefix_cache_hits_tokens_total", "Prompt tokens found in the prefix cache.", MODEL)
        self.preemptions = self.counter(
            "preemptions_total", "Sequences put back into the queue for want of cache blocks.", MODEL
        )


class ModelInstruments(Instruments):
    """What is said of models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.info = self.gauge(
            "model_info", "1 for a model that is ready, else 0.", ("model", "version", "dtype", "device")
        )
        self.load_seconds = self.histogram("model_load_duration_seconds", "How long a load took.", MODEL, LOAD_SECONDS)
        self.memory = self.gauge("model_memory_bytes", "Memory of a model by use.", MODEL_KIND)


class RpcInstruments(Instruments):
    """Calls under the names and labels that gRPC's dashboards are made for, those of go-grpc-prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry, prefix="grpc_server_")
        self.started = self.counter("started_total", "Calls that began.", METHOD)
        self.handled = self.counter("handled_total", "Calls that ended, by their status.", (*METHOD, "grpc_code"))
