"""Who may wait: a bounded queue in front of the engine, counted in requests and in tokens. No torch."""

from types import TracebackType
from typing import Self

from stretto.engine.config import Limits
from stretto.engine.errors import Overloaded

RETRY_SECONDS = 1.0


class Admission:
    """Counts what is admitted and has no result yet.

    A place is taken before anything is tokenised, by the input's bytes (a token is at least one), and corrected when
    the tokens are known; so that a burst is refused before it costs anything.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_requests = limits.max_queue_requests
        self._max_tokens = limits.max_queue_tokens
        self.num_requests = 0
        self.num_tokens = 0

    def reserve(self, tokens: int) -> "Place":
        """Take a place for about so many tokens; raises Overloaded with the limit that is reached.

        A single request that is larger than the whole queue may come in when nothing waits.
        """
        if self.num_requests >= self._max_requests:
            raise Overloaded(
                f"{self.num_requests} requests are waiting; the limit is {self._max_requests}. Try again later.",
                metadata={
                    "waiting_requests": str(self.num_requests),
                    "max_requests": str(self._max_requests),
                },
                retry_after=RETRY_SECONDS,
            )
        if self.num_tokens and self.num_tokens + tokens > self._max_tokens:
            raise Overloaded(
                f"{self.num_tokens} tokens are waiting and this request may bring {tokens}; "
                f"the limit is {self._max_tokens}. Try again later.",
                metadata={"waiting_tokens": str(self.num_tokens), "max_tokens": str(self._max_tokens)},
                retry_after=RETRY_SECONDS,
            )
        return Place(self, tokens)


class Place:
    """One request's place in the queue; `leave`, or the end of its context, gives it back, and may come again."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission = admission
        self._tokens = tokens
        self._waiting = True
        admission.num_requests += 1
        admission.num_tokens += tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def correct(self, tokens: int) -> None:
        """Now that they are counted, say how many tokens there are."""
        if self._waiting:
            self._admission.num_tokens += tokens - self._tokens
            self._tokens = tokens

    def leave(self) -> None:
        """The engine has begun to answer, or never will."""
        if self._waiting:
            self._waiting = False
            self._admission.num_requests -= 1
            self._admission.num_tokens -= self._tokens
