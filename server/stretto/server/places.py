"""So many calls at a time and no more: a bound for what takes no place in the engine's queue."""

from collections.abc import Iterator
from contextlib import contextmanager

from stretto.engine.errors import Overloaded


class Places:
    """`what` is what the calls are called in the refusal."""

    def __init__(self, count: int, what: str) -> None:
        self._count = count
        self._what = what
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place; raises Overloaded when all are taken."""
        if self._taken >= self._count:
            raise Overloaded(
                f"{self._taken} {self._what} are running, the limit. Try again later.",
                metadata={"running": str(self._taken), "max_running": str(self._count)},
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
