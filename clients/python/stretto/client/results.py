"""What the server answered, as plain values: no field is a protobuf type but `reply`, the message that was read.

Words of the wire ("FINISH_REASON_MAX_TOKENS") are lower case and without their prefix here ("max_tokens"). Durations
are in seconds, sizes in bytes or tokens as their names say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import overload

from stretto.client.errors import StrettoError
from stretto.v1 import generation_pb2, model_pb2, server_pb2, tokenizer_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReport:
    """How one input became tokens. `token_count` is what the model read, after any cut, in `chunk_count` windows."""

    token_count: int
    truncated_tokens: int
    chunk_count: int
    unknown_token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a request cost. `cached_prompt_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Where the time went, in seconds, and what the request was batched with."""

    received_time: datetime
    tokenization_seconds: float
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    first_token_seconds: float | None
    step_count: int
    min_batch_size: int
    max_batch_size: int
    mean_batch_size: float
    co_batched_tokens: int
    preemption_count: int
    peak_kv_blocks: int
    queue_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Exactly which weights and which arithmetic answered."""

    model: str
    model_version: str
    device: str
    dtype: str
    quantization: str
    numerics: str
    training_run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """`token` is the token's bytes: it may hold part of a character. `rank` 1 is the likeliest.

    `logprob` is the log-softmax of the model's own logits, before temperature, penalties and filters.
    """

    token_id: int
    token: bytes
    logprob: float | None
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    """The token that was chosen at one position, and the alternatives, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer. `logprobs` is empty unless they were asked for."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stop_string: str | None
    stop_token_id: int | None
    cumulative_logprob: float
    logprobs: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A whole answer. `text`, `token_ids` and `finish_reason` are those of the first candidate.

    `prompt_logprobs` has one a token of the prompt, and is empty unless they were asked for. `seed` is the one that
    was used (None: nothing was drawn); the same seed gives the same answer again.
    """

    candidates: tuple[Candidate, ...]
    prompt_logprobs: tuple[PositionLogprobs, ...]
    usage: Usage
    input: InputReport
    provenance: Provenance
    telemetry: Telemetry | None
    seed: int | None
    request_id: str
    reply: generation_pb2.GenerateResponse = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        return self.candidates[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.candidates[0].token_ids

    @property
    def finish_reason(self) -> str:
        return self.candidates[0].finish_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one candidate gained: whole characters, and the ids that belong to them.

    `finish_reason` comes with the candidate's last piece, with what stopped it and the sum of its logprobs.
    """

    candidate: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]
    finish_reason: str | None
    stop_string: str | None
    stop_token_id: int | None
    cumulative_logprob: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a prompt is read; `queue_position` counts who is before it."""

    processed_tokens: int
    total_tokens: int
    queue_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How likely one continuation is. `logprob` is the sum over its tokens; `is_greedy`: each was the likeliest."""

    logprob: float
    mean_logprob: float
    perplexity: float
    token_count: int
    is_greedy: bool
    tokens: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Sequence[Score]):
    """One context's continuations, each its `Score`, in their order; or in `error` why it has none.

    Reading the scores of an item that failed raises its error. `usage` and `telemetry` are of the whole request.
    """

    items: tuple[Score, ...]
    error: StrettoError | None
    input: InputReport | None
    usage: Usage
    provenance: Provenance
    telemetry: Telemetry | None
    request_id: str
    reply: generation_pb2.ScoreResult = field(repr=False, compare=False)

    @overload
    def __getitem__(self, index: int) -> Score: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Score]: ...
    def __getitem__(self, index: int | slice) -> Score | Sequence[Score]:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> tuple[Score, ...]:
        if self.error is not None:
            raise self.error
        return self.items


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """One text's tokens. `pieces` are bytes: a token may hold part of a character. `offsets` count code points."""

    token_count: int
    token_ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizations(Sequence[Tokenization]):
    """The texts' tokens, in their order; `max_input_tokens` is what the model takes."""

    items: tuple[Tokenization, ...]
    max_input_tokens: int
    reply: tokenizer_pb2.TokenizeResponse = field(repr=False, compare=False)

    @overload
    def __getitem__(self, index: int) -> Tokenization: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tokenization]: ...
    def __getitem__(self, index: int | slice) -> Tokenization | Sequence[Tokenization]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """The server: what it is and what it allows in one request."""

    version: str
    api_versions: tuple[str, ...]
    uptime_seconds: float
    max_request_bytes: int
    max_response_bytes: int
    max_inputs_per_request: int
    max_queue_size: int
    max_batch_tokens: int
    device: str
    cpu_threads: int
    kernels: str
    reply: server_pb2.GetServerInfoResponse = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model of the server: what it is, what it can be asked, how it stands now."""

    id: str
    aliases: tuple[str, ...]
    version: str
    state: str
    architecture: str
    tasks: tuple[str, ...]
    parameter_count: int
    dtype: str
    quantization: str
    device: str
    numerics: str
    vocab_size: int
    max_input_tokens: int
    max_output_tokens: int
    default_overflow: str
    has_chat_template: bool
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    embedding_dimensions: int
    default_pooling: str
    default_normalize: bool | None
    default_sampling: Mapping[str, int | float]
    prompts: Mapping[str, str]
    weight_bytes: int
    kv_cache_bytes: int
    kv_cache_tokens: int
    load_time: datetime | None
    training_run: str
    error: StrettoError | None
    reply: model_pb2.Model = field(repr=False, compare=False)
