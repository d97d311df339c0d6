"""What a caller wishes of the draw: Sampling, and the bounds of its numbers and lists. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stretto.engine.bounds import within
from stretto.engine.errors import InvalidRequest

MAX_CANDIDATES = 8
# The numbers of Sampling: the least and the most; where the least is 0, some must be above it.
SAMPLING_BOUNDS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "penalty_window": (1, math.inf),
    "no_repeat_ngram_size": (0, 64),  # each token of it is looked for in all of the text, at every step
}
ABOVE_ZERO = frozenset({"top_p", "typical_p", "repetition_penalty"})
MAX_LOGIT_BIAS = 100
MAX_LOGIT_BIASES = 1024
MAX_LISTED_IDS = 4096
MAX_BANNED_STRINGS = 64
MAX_BANNED_STRING_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose the next token. Temperature 0 is greedy; None is the checkpoint's default.

    `candidates` answers are returned, of `best_of` that are drawn: those with the best mean logprob.
    A `penalty_window` of None is all of the text, and no `allowed_token_ids` are all ids.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_window: int | None = None
    no_repeat_ngram_size: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] = ()
    banned_token_ids: tuple[int, ...] = ()
    banned_strings: tuple[str, ...] = ()
    seed: int | None = None
    candidates: int = 1
    best_of: int | None = None

    @property
    def drawn(self) -> int:
        """How many candidates are drawn."""
        return self.candidates if self.best_of is None else self.best_of

    def __post_init__(self) -> None:
        for name, (low, high) in SAMPLING_BOUNDS.items():
            within(f"config.sampling.{name}", getattr(self, name), low, high, open_low=name in ABOVE_ZERO)
        self._check_lists()
        within("config.sampling.candidate_count", self.candidates, 1, MAX_CANDIDATES)
        within("config.sampling.best_of", self.best_of, self.candidates, MAX_CANDIDATES)

    def _check_lists(self) -> None:
        path = "config.sampling.logit_bias"
        within(path, len(self.logit_bias), 0, MAX_LOGIT_BIASES, what="the number of ")
        for token, bias in self.logit_bias.items():
            within(path, bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS, what=f"the bias of {token} in ")
        for name in ("allowed_token_ids", "banned_token_ids"):
            within(f"config.sampling.{name}", len(getattr(self, name)), 0, MAX_LISTED_IDS, what="the number of ")
        path = "config.sampling.banned_strings"
        if "" in self.banned_strings:
            raise InvalidRequest(f"{path} holds an empty string.", field=path)
        within(path, len(self.banned_strings), 0, MAX_BANNED_STRINGS, what="the number of ")
        for text in self.banned_strings:
            within(path, len(text.encode(errors="replace")), 1, MAX_BANNED_STRING_BYTES, what="the bytes of each of ")
