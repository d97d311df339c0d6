"""
What is asked of the engine, in the server process: texts, chats and wishes, before anything is a token.

`served.py` turns these into the `Generate` and `Encode` messages of `messages.py`. Values refuse nonsense when they
are made; an error's `field` is the path that a caller of the API knows. Optional means "as the checkpoint says".
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stretto.engine.bounds import within
from stretto.engine.errors import EmptyInput, InvalidRequest
from stretto.engine.sampling import Sampling

MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_PROMPT_TEXT_BYTES = 4096
MAX_CHUNKS = 1024  # of one input
MAX_CALL_CHUNKS = 16 * MAX_CHUNKS  # each is a message to the engine, which takes no other meanwhile


class Task(enum.StrEnum):
    """What a model can be asked."""

    GENERATE = "generate"
    SCORE = "score"
    EMBED = "embed"


class Overflow(enum.StrEnum):
    """What to do with an input that is too long; never silent, the report counts what was cut."""

    ERROR = "error"
    TRUNCATE_END = "truncate_end"
    TRUNCATE_START = "truncate_start"
    TRUNCATE_MIDDLE = "truncate_middle"
    CHUNK = "chunk"


class Aggregation(enum.StrEnum):
    """How the vectors of one input's chunks become its vector. NONE keeps them all."""

    WEIGHTED_MEAN = "weighted_mean"
    MEAN = "mean"
    MAX = "max"
    FIRST = "first"
    NONE = "none"


class Pooling(enum.StrEnum):
    """How the hidden states of one text become one vector; NONE keeps one a token."""

    CLS = "cls"
    MEAN = "mean"
    MAX = "max"
    LAST_TOKEN = "last_token"
    WEIGHTED_MEAN = "weighted_mean"
    MEAN_SQRT_LEN = "mean_sqrt_len"
    NONE = "none"


class FinishReason(enum.StrEnum):
    """Why a candidate ended."""

    EOS_TOKEN = "eos_token"
    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    MAX_TOKENS = "max_tokens"
    CONTEXT_LENGTH = "context_length"
    TIME_LIMIT = "time_limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a chat. Control tokens written in it stay text."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """`pair` is the second text of a pair, where the model reads pairs."""

    text: str
    pair: str | None = None
    add_special_tokens: bool = True
    parse_special_tokens: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    messages: tuple[Message, ...]
    template: str = ""
    add_generation_prompt: bool = True
    arguments: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages:
            raise EmptyInput("chat.messages is empty; a chat needs at least one message.", field="chat.messages")


Prompt = TextPrompt | TokenPrompt | Chat


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When to stop. `time_limit` is in seconds from the request's arrival."""

    max_tokens: int | None = None
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if "" in self.strings:
            raise InvalidRequest(
                "config.stopping.stop_strings holds an empty string.", field="config.stopping.stop_strings"
            )
        strings, ids = "config.stopping.stop_strings", "config.stopping.stop_token_ids"
        within(strings, len(self.strings), 0, MAX_STOP_STRINGS, what="the number of ")
        for text in self.strings:
            within(strings, len(text.encode()), 1, MAX_STOP_STRING_BYTES, what="the bytes of each of ")
        within(ids, len(self.token_ids), 0, MAX_STOP_TOKEN_IDS, what="the number of ")
        within("config.stopping.max_tokens", self.max_tokens, 0, math.inf)
        within("config.stopping.min_tokens", self.min_tokens, 0, math.inf)
        within("config.stopping.time_limit", self.time_limit, 0, math.inf)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"config.stopping.min_tokens is {self.min_tokens}, above max_tokens, {self.max_tokens}.",
                field="config.stopping.min_tokens",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What to send back of each token. `top_logprobs` None: no logprobs at all."""

    echo: bool = False
    skip_special_tokens: bool = True
    top_logprobs: int | None = None
    logprob_token_ids: tuple[int, ...] = ()
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        within("config.output.top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        within("config.output.logprob_token_ids", len(self.logprob_token_ids), 0, 1024, what="the number of ")

    @property
    def logprobs_each(self) -> int:
        """How many entries a position has, where logprobs are told."""
        return 1 + (self.top_logprobs or 0) + len(self.logprob_token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one call is scheduled. `deadline` and `start_by` are CLOCK_MONOTONIC seconds, the same in both processes."""

    request_id: str
    received: float
    priority: int = 0
    deadline: float | None = None
    start_by: float | None = None
    use_prefix_cache: bool = True
    cache_salt: str = ""
    tenant: str = ""

    @property
    def scope(self) -> bytes:
        """What separates the prefix cache: whose request it is, and the salt that he chose."""
        return f"{len(self.tenant)}:{self.tenant}{self.cache_salt}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCall:
    """`response_prefix` is the forced start of the answer; it stands behind the prompt and is not said again.

    `resume_after` holds, for each candidate, the ids that a stream had given before it broke, without an echoed prompt:
    the answer goes on after them. `progress` asks for how far the prompt is read. `max_logprobs` is how many entries
    fit the reply (None: any number); `max_message_logprobs` how many fit one message of a stream.
    """

    model: str
    prompt: Prompt
    sampling: Sampling
    stopping: Stopping
    output: Output
    options: Options
    overflow: Overflow | None = None
    max_prompt_tokens: int | None = None
    expected_version: str = ""
    response_prefix: str = ""
    resume_after: tuple[tuple[int, ...], ...] = ()
    progress: bool = False
    max_logprobs: int | None = None
    max_message_logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreItem:
    """A context and what might follow it. No context: the model's first token stands before."""

    context: TextPrompt | TokenPrompt | None
    continuations: tuple[TextPrompt | TokenPrompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCall:
    """How likely given continuations are. An item that could not be read stands here as its error.

    `max_logprobs` is how many tokens' logprobs fit the reply (None: any number).
    """

    model: str
    items: tuple[ScoreItem | InvalidRequest, ...]
    options: Options
    overflow: Overflow | None = None
    with_tokens: bool = False
    max_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise EmptyInput("items is empty; a Score request needs at least one.", field="items")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How a long input is cut into windows. `max_chunk_tokens` None is the model's maximum; special tokens count."""

    max_chunk_tokens: int | None = None
    overlap_tokens: int = 0
    aggregation: Aggregation = Aggregation.WEIGHTED_MEAN
    max_chunks: int = MAX_CHUNKS

    def __post_init__(self) -> None:
        within("config.chunking.max_chunks", self.max_chunks, 1, MAX_CHUNKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """Texts, or token ids taken as they are given (no special tokens are added to those).

    An input that could not even be read stands here as its error, so that the others keep their places.
    `prompt_name` and `prompt_text` exclude each other; both None is the checkpoint's default prompt. `chunking` is for
    the overflow policy CHUNK alone. `max_vectors` is what the reply has room for, in all and of any one input.
    `input_path` is what errors call an input, `{}` being its place.
    """

    model: str
    inputs: tuple["TextPrompt | TokenPrompt | InvalidRequest", ...]
    options: Options
    pooling: Pooling | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    prompt_name: str | None = None
    prompt_text: str | None = None
    overflow: Overflow | None = None
    chunking: Chunking | None = None
    layer: int = -1
    max_vectors: int | None = None
    max_vectors_each: int | None = None
    input_path: str = "inputs[{}]"

    def __post_init__(self) -> None:
        prefix = len((self.prompt_text or "").encode(errors="replace"))  # it is put before every input
        within("config.prompt_text", prefix, 0, MAX_PROMPT_TEXT_BYTES, what="the bytes of ")
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidRequest("config.dimensions must be at least 1; got 0.", field="config.dimensions")
        if self.chunking is not None and self.overflow is not Overflow.CHUNK:
            raise InvalidRequest(
                "config.chunking is set, and config.overflow_policy is not OVERFLOW_POLICY_CHUNK: nothing is cut into "
                "chunks.",
                field="config.chunking",
            )
        aggregation = (self.chunking or Chunking()).aggregation
        if self.overflow is Overflow.CHUNK and self.pooling is Pooling.NONE and aggregation is not Aggregation.NONE:
            raise InvalidRequest(
                f"config.chunking.aggregation is {aggregation}; with config.pooling none every token keeps its vector, "
                "and it can only be none.",
                field="config.chunking.aggregation",
            )

    @property
    def keeps_all(self) -> bool:
        """Whether one input may get more than one vector."""
        chunks = self.chunking is not None and self.chunking.aggregation is Aggregation.NONE
        return chunks or self.pooling is Pooling.NONE

    def name_of(self, index: int) -> str:
        """The path of an input."""
        return self.input_path.format(index)
