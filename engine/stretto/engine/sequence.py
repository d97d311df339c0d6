"""A candidate in flight, the piece of it that one step computes, and what a step draws for it."""

from dataclasses import dataclass, field

from stretto.engine.messages import Generate


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one candidate, and how many of them the cache already holds.

    Prefill and decode are the same thing seen at different lengths: each step computes some of the `pending` tokens,
    and a sequence with one pending token is decoding. `order` is its place among all arrivals. `to_score` are the
    positions of given tokens whose logprobs are still to be told. Until it is admitted its `tokens` are the request's
    own prompt, which thousands of candidates may share; what stands behind that waits in `suffix`.
    """

    request: Generate
    candidate: int
    tokens: list[int]
    order: int = 0
    computed: int = 0
    to_score: range = range(0)
    suffix: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # the digests of its full blocks, as far as they were needed

    @classmethod
    def begun(cls, request: Generate, candidate: int) -> "Sequence":
        """A candidate as it is asked for: the prompt, and what stands behind it already."""
        suffix = request.suffixes[candidate] if request.suffixes else []
        first = 1 if request.score_prompt and candidate == 0 else len(request.prompt)
        last = len(request.prompt) + (len(suffix) if request.score_suffixes else 0)
        return cls(request, candidate, request.prompt, to_score=range(first, last), suffix=suffix)

    def admitted(self) -> None:
        """Have a list of its own, which grows with each token that is drawn."""
        if self.tokens is self.request.prompt:
            self.tokens, self.suffix = [*self.tokens, *self.suffix], []

    @property
    def pending(self) -> int:
        """Tokens not yet in the cache."""
        return len(self.tokens) + len(self.suffix) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller runs earlier and is evicted later: by priority, then by arrival."""
        return -self.request.priority, self.order


@dataclass(frozen=True, slots=True)
class Slice:
    """The tokens of one sequence that one step computes: positions `start` to `stop`."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def samples(self) -> bool:
        """Whether this slice reaches the last known token, so that the next one can be drawn."""
        return self.stop == len(self.sequence.tokens) and self.sequence.request.max_tokens > 0

    @property
    def scores(self) -> range:
        """The positions whose logprobs this slice can tell: each is said by the row of the token before it."""
        wanted = self.sequence.to_score
        return range(max(wanted.start, self.start + 1), max(wanted.start, min(wanted.stop, self.stop + 1)))

    @property
    def count(self) -> int:
        return self.stop - self.start


Batch = list[Slice]


@dataclass(frozen=True, slots=True)
class Given:
    """The logprob of a token that was given; figures as in `Drawn`."""

    logprob: float
    rank: int
    top: list[tuple[int, float]]
    also: list[float]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The next token of one sequence, or why there is none.

    `healthy` False: its logits were no numbers. `choice` False: its rules left nothing to draw. A slice that draws
    nothing and was asked for logprobs has the token -1; `given` are those of its own tokens.

    `logprob` is the log-softmax of the model's own logits, `rank` 1 the likeliest; `top` are the likeliest ids and
    their logprobs, best first, and `also` the logprobs of the ids that were asked for (-inf: no such id).
    """

    token: int
    logprob: float = 0.0
    rank: int = 0
    top: list[tuple[int, float]] = field(default_factory=list)
    also: list[float] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    healthy: bool = True
    choice: bool = True
