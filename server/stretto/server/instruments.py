"""Every metric by name, type, labels and help: the list that dashboards are written against."""

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


class RequestInstruments:
    """What is counted of requests. No `adapter` label yet: an absent label and an empty one are the same series."""

    def __init__(self, registry: CollectorRegistry, token_registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"stretto_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, labels: tuple[str, ...] = MODEL_TASK) -> Histogram:
            return Histogram(f"stretto_{name}", text, labels, registry=registry, buckets=SECONDS)

        def counts(name: str, text: str, into: CollectorRegistry) -> Histogram:
            return Histogram(f"stretto_{name}", text, MODEL_TASK, registry=into, buckets=COUNTS)

        self.total = counter("requests_total", "Requests that ended.", ("model", "task", "code", "reason"))
        self.in_progress = Gauge(
            "stretto_requests_in_progress", "Requests that are being answered.", MODEL_TASK, registry=registry
        )
        self.duration = seconds("request_duration_seconds", "From the request's arrival to its end.")
        self.queue = seconds("queue_duration_seconds", "From admission to the first step that took the request.")
        self.tokenization = seconds("tokenization_duration_seconds", "Text to token ids.")
        self.prefill = seconds("prefill_duration_seconds", "From the first step to the first result.")
        self.decode = seconds("decode_duration_seconds", "From the first token to the last.")
        self.first_token = seconds("time_to_first_token_seconds", "From arrival to the first token.", MODEL)
        self.inter_token = seconds("inter_token_latency_seconds", "Between two tokens of a candidate.", MODEL)
        self.per_token = seconds("time_per_output_token_seconds", "Decode time by tokens after the first.", MODEL)
        self.prompt_tokens = counter("prompt_tokens_total", "Tokens of prompts and inputs.", MODEL_TASK)
        self.cached_tokens = counter("cached_prompt_tokens_total", "Prompt tokens from the prefix cache.", MODEL_TASK)
        self.completion_tokens = counter("completion_tokens_total", "Tokens generated.", MODEL_TASK)
        self.prompt_sizes = counts("prompt_tokens", "Tokens of the prompt or inputs of a request.", token_registry)
        self.completion_sizes = counts("completion_tokens", "Tokens generated for a request.", token_registry)
        self.inputs = counts("inputs_per_request", "Prompts or texts in a request.", registry)
        self.truncated_inputs = counter("truncated_inputs_total", "Inputs that were cut.", MODEL_TASK)
        self.truncated_tokens = counter("truncated_tokens_total", "Tokens cut from inputs.", MODEL_TASK)
        self.unknown_tokens = counter("unknown_tokens_total", "Unknown tokens in inputs.", MODEL_TASK)
        self.rejections = counter("admission_rejections_total", "Requests refused at the door.", ("task", "reason"))
        self.deadline_misses = counter(
            "deadline_misses_total",
            "Requests whose deadline passed, by what they had by then.",
            ("task", "phase"),
        )
        self.cancellations = counter(
            "cancellations_total", "Requests that were cancelled, by what they had by then.", ("task", "phase")
        )


class StepInstruments:
    """What is counted of the engine's steps, its queue and its cache."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Counter:
            return Counter(f"stretto_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = MODEL) -> Gauge:
            return Gauge(f"stretto_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"stretto_{name}", text, MODEL_KIND, registry=registry, buckets=buckets)

        self.total = counter("steps_total", "Steps of the engine.", MODEL_KIND)
        self.duration = histogram("step_duration_seconds", "How long a step took.", SECONDS)
        self.sequences = histogram("step_batch_size", "Sequences or texts in a step.", COUNTS)
        self.tokens = histogram("step_tokens", "Tokens computed in a step.", COUNTS)
        self.preemptions = counter("preemptions_total", "Sequences put back into the queue for want of cache blocks.")
        self.prefix_queries = counter(
            "prefix_cache_queries_tokens_total", "Prompt tokens that were looked for in the cache."
        )
        self.prefix_hits = counter("prefix_cache_hits_tokens_total", "Prompt tokens found in the prefix cache.")
        self.queue_requests = gauge("queue_requests", "Requests that wait for a step.")
        self.queue_tokens = gauge("queue_tokens", "Tokens of the requests that wait for a step.")
        self.queue_age = gauge("queue_oldest_age_seconds", "How long the oldest waiting request has waited.")
        self.blocks = gauge("kv_cache_blocks", "Blocks of the KV cache by state.", ("model", "state"))
        self.cache_usage = gauge("kv_cache_usage_ratio", "Share of the KV cache's blocks that requests hold.")


class ModelInstruments:
    """What is said of models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.info = Gauge(
            "stretto_model_info",
            "1 for a model that is ready, else 0.",
            ("model", "version", "dtype", "device"),
            registry=registry,
        )
        self.load_seconds = Histogram(
            "stretto_model_load_duration_seconds",
            "How long a load took.",
            MODEL,
            registry=registry,
            buckets=LOAD_SECONDS,
        )
        self.memory = Gauge("stretto_model_memory_bytes", "Memory of a model by use.", MODEL_KIND, registry=registry)
