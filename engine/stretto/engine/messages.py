"""
The messages between the server process and the engine process: token ids in; token ids, vectors and figures out.

Commands go to the engine, events come back. `link.py` moves them; both are tagged msgspec structs. Times are
CLOCK_MONOTONIC seconds, which the two processes share. `id` is unique among the requests of one server process.
"""

from typing import Literal

import msgspec

from stretto.engine.requests import Task

Kind = Literal["prefill", "decode", "mixed", "encode"]
Finish = Literal["stop", "length", "time"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """What every message is."""


# Commands


class Load(Message, frozen=True, kw_only=True):
    """Read a checkpoint and get it ready. `cache_bytes` 0: the engine chooses. `limit_ids` ends what may be drawn."""

    name: str
    path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    device: str
    cache_bytes: int
    limit_ids: int


class Draw(Message, frozen=True, kw_only=True):
    """How to choose tokens; everything is decided. Temperature 0 is greedy; what is not said is off.

    `repetition` counts prompt and answer, `presence` and `frequency` the answer, each its last `window` tokens (None:
    all). `allowed` empty allows every id. The last id of each of `banned_runs` may not follow the ids before it.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    window: int | None = None
    no_repeat_ngram: int = 0
    bias: dict[int, float] = {}
    allowed: list[int] = []
    banned: list[int] = []
    banned_runs: list[list[int]] = []
    seed: int = 0


class Generate(Message, frozen=True, kw_only=True):
    """Continue a prompt `candidates` times.

    `suffixes` has for each candidate what stands behind the prompt already: what it had said, or what is to be scored.
    `score_prompt` asks for the logprobs of the prompt's tokens, with the first candidate, `score_suffixes` for those
    of every suffix. `progress` asks for how far the prompt is read. `stop_ids` end a candidate and are reported as its
    last token. `top` is how many alternatives to report with each token, `also` the ids whose logprobs to report as
    well; the chosen token's logprob always comes. `scope` separates the prefix cache (tenant and salt). `stop_at` ends
    the request with what there is.
    """

    id: int
    model: str
    prompt: list[int]
    draw: Draw
    max_tokens: int
    min_tokens: int = 0
    candidates: int = 1
    suffixes: list[list[int]] = []
    score_prompt: bool = False
    score_suffixes: bool = False
    progress: bool = False
    stop_ids: list[int] = []
    top: int = 0
    also: list[int] = []
    priority: int = 0
    deadline: float | None = None
    start_by: float | None = None
    stop_at: float | None = None
    scope: bytes = b""
    share_prefix: bool = True

    @property
    def task(self) -> Task:
        """What the caller asked for: who wants no token of his own has given suffixes to be scored."""
        return Task.SCORE if self.score_suffixes and self.max_tokens == 0 else Task.GENERATE


class Encode(Message, frozen=True, kw_only=True):
    """Make one vector of one text, or with the pooling "none" one of each token. `index` is its place in the request.

    `segments` has each id's segment; empty: all in the first. `dimensions` 0 keeps all. `layer` counts the hidden
    states as transformers does: 0 the embeddings, -1 the last.
    """

    id: int
    index: int
    model: str
    ids: list[int]
    segments: list[int] = []
    layer: int = -1
    pooling: str
    normalize: bool
    dimensions: int = 0
    priority: int = 0
    deadline: float | None = None
    start_by: float | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """Forget everything that has this id, which was no longer wanted at `sent`.

    Only `Freed` follows, where there was anything to forget, and events that are on their way already.
    """

    id: int
    sent: float


class Stop(Message, frozen=True, kw_only=True):
    """End one candidate: its text is complete. Its finish event follows, unless it had ended by itself."""

    id: int
    candidate: int


Command = Load | Generate | Encode | Cancel | Stop


# Events


class Ready(Message, frozen=True, kw_only=True):
    """A model can be asked."""

    name: str
    device: str
    dtype: str
    weight_bytes: int
    cache_bytes: int
    cache_blocks: int
    cache_tokens: int
    threads: int
    kernels: str
    seconds: float


class LoadFailed(Message, frozen=True, kw_only=True):
    name: str
    message: str


class Account(Message, frozen=True, kw_only=True):
    """What one request (all its candidates, or one text) took."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cached_tokens: int = 0
    steps: int = 0
    min_batch: int = 0
    max_batch: int = 0
    mean_batch: float = 0.0
    co_batched_tokens: int = 0
    preemptions: int = 0
    peak_blocks: int = 0
    queue_position: int = 0


class Token(Message, frozen=True, kw_only=True):
    """One more token of a candidate, or its end. `token` -1: none (the end came without one, as with max_tokens 0).

    `logprob` is the log-softmax of the model's own logits; `rank` 1 is the likeliest. `account` comes with the last
    event of the request.
    """

    id: int
    candidate: int
    token: int
    logprob: float = 0.0
    rank: int = 0
    top: list[tuple[int, float]] = []
    also: list[float] = []
    finish: Finish | None = None
    account: Account | None = None


class Scored(Message, frozen=True, kw_only=True):
    """Logprobs of given tokens, those at `start` and on of one candidate; figures as in `Token`, one entry a token."""

    id: int
    candidate: int
    start: int
    logprobs: list[float]
    ranks: list[int]
    tops: list[list[tuple[int, float]]] = []
    alsos: list[list[float]] = []


class Reading(Message, frozen=True, kw_only=True):
    """How much of a prompt has been read; `queue_position` is 0 once it is being read."""

    id: int
    processed: int
    total: int
    queue_position: int = 0


class Vector(Message, frozen=True, kw_only=True):
    """One text's vector, or its vectors in a row; little-endian float32."""

    id: int
    index: int
    vector: bytes
    account: Account


class Failed(Message, frozen=True, kw_only=True):
    """The request ended badly; `index` -1 means all of it, else one text of it. `reason` is an error's `reason`.

    `message` is for the caller. `log` is what happened, with its traceback, for the server's log and nobody else.
    """

    id: int
    index: int = -1
    reason: str
    message: str
    log: str = ""


class Freed(Message, frozen=True, kw_only=True):
    """A cancelled request is gone from every queue and holds no block, so many seconds after its cancel was sent."""

    task: Task
    seconds: float


class Logged(Message, frozen=True, kw_only=True):
    """What the engine process has to say to its operator; `level` is one of logging's."""

    level: int
    text: str


class Step(Message, frozen=True, kw_only=True):
    """What one step was, for the metrics. Counts since the last step of the same model.

    `padding` is how many places beside its tokens' own it computed only to be thrown away.
    """

    model: str
    kind: Kind
    seconds: float
    sequences: int
    tokens: int
    padding: int = 0
    preemptions: int = 0
    prefix_queried: int = 0
    prefix_hit: int = 0


class Gauges(Message, frozen=True, kw_only=True):
    """How a model's queue for one task stands now, and beside that for generation its cache."""

    model: str
    task: Task
    waiting: int
    waiting_tokens: int
    oldest_wait_seconds: float = 0.0
    blocks_free: int = 0
    blocks_held: int = 0
    blocks_published: int = 0


Figures = Step | Gauges | Freed
Event = Ready | LoadFailed | Token | Scored | Reading | Vector | Failed | Freed | Logged | Step | Gauges
