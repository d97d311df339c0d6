"""What the engine answers, in the server process: texts, vectors, and what they cost. No torch, no wire format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stretto.engine.errors import StrettoError
from stretto.engine.requests import FinishReason, Overflow, Pooling, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """How one input became tokens. `token_count` is what the model read, after any cut."""

    token_count: int
    truncated_tokens: int = 0
    unknown_token_count: int = 0
    chunk_count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where the time went, in seconds, and what the request was batched with."""

    received: float  # seconds since the epoch
    tokenization_seconds: float
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    first_token_seconds: float | None
    steps: int
    min_batch: int
    max_batch: int
    mean_batch: float
    co_batched_tokens: int
    preemptions: int
    peak_blocks: int
    queue_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """`token` is the token's bytes: it may hold part of a character. `rank` 1 is the likeliest; 0 is not known.

    The first token of a prompt has no `logprob`: nothing stands before it.
    """

    token_id: int
    token: bytes
    logprob: float | None
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]  # best first, then the ids asked for by number


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First, once the request is admitted: what will be computed, with which seed (None: greedy)."""

    report: InputReport
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one candidate gained. `text` is whole characters; `finish` comes with the last delta of the candidate.

    The first `num_echoed` of the ids are the prompt's, which was to be echoed. `first_token_index` counts them too.
    `cumulative_logprob` None: an answer that was resumed after its end.
    """

    candidate: int
    text: str
    token_ids: tuple[int, ...]
    first_token_index: int
    num_echoed: int = 0
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish: FinishReason | None = None
    stop_string: str | None = None
    stop_token_id: int | None = None
    cumulative_logprob: float | None = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last, after every candidate's end."""

    usage: Usage
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of the prompt has been read; while it waits, its place in the queue."""

    processed_tokens: int
    total_tokens: int
    queue_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """Every token of the prompt with its logprob; once, before the first delta, where it was asked for."""

    logprobs: tuple[PositionLogprobs, ...]


GenerateEvent = Started | Progress | PromptScored | list[Delta] | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredContinuation:
    """`logprob` is the sum over its tokens; `is_greedy`: each of them was the likeliest. `tokens` where asked for."""

    logprob: float
    token_count: int
    is_greedy: bool
    tokens: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredItem:
    """One item's continuations, in the order asked; `report` is of its context."""

    continuations: tuple[ScoredContinuation, ...]
    report: InputReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreAnswer:
    """One result an item, in their order: its scores, or why it has none."""

    results: tuple[ScoredItem | StrettoError, ...]
    usage: Usage
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """One text's vector, or one a chunk or a token, in a row: little-endian float32, `dimensions` of them each.

    `token_ids` are there where each token has its own vector.
    """

    vectors: bytes
    dimensions: int
    report: InputReport
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedAnswer:
    """One result an input, in their order: a vector, or why that one has none."""

    results: tuple[Embedding | StrettoError, ...]
    usage: Usage
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model is and how it stands: what ListModels, GetModel, `stretto models` and the start-up screen say.

    `default_sampling` is what a request that says nothing of it comes to, by the names of `Sampling`.
    """

    name: str
    source: str
    state: Literal["loading", "ready", "failed"]
    error: str = ""
    version: str = ""
    architecture: str
    tasks: tuple[Task, ...]
    parameters: int
    vocab_size: int
    context: int
    max_input_tokens: int
    embedding_dimensions: int
    default_overflow: Mapping[Task, Overflow] = field(default_factory=dict)
    default_pooling: Pooling | None = None
    default_normalize: bool | None = None
    default_sampling: Mapping[str, int | float] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    has_chat_template: bool = False
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    device: str = ""
    dtype: str = ""
    quantization: str = "none"
    numerics: Literal["exact", "close"] = "close"
    weight_bytes: int = 0
    cache_bytes: int = 0
    cache_blocks: int = 0
    cache_tokens: int = 0
    threads: int = 0
    kernels: str = ""
    load_seconds: float = 0.0
    loaded_at: float = 0.0  # seconds since the epoch
    training_run: str = ""
    notes: tuple[str, ...] = ()

    @property
    def max_sequence_tokens(self) -> int:
        """How many tokens one sequence may have: the model's context, or the whole cache where that is smaller."""
        return min(self.context, self.cache_tokens or self.context)
