"""The door that requests pass: who is inside, and whether anyone else may come in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from stretto.engine.errors import Draining
from stretto.server.call import Call
from stretto.server.errors import Starting


class Gate:
    """The set of calls in flight. None enters before `open` and after `shut`.

    From then on `finished` and `cut` count how those inside left.
    """

    def __init__(self) -> None:
        self._inside: set[Call] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._cutting = False
        self._open = False
        self.draining = False
        self.finished = 0
        self.cut = 0

    @property
    def in_flight(self) -> frozenset[Call]:
        return frozenset(self._inside)

    @contextmanager
    def passing(self, call: Call) -> Iterator[None]:
        if not self._open:
            raise Starting("the server is starting and does not know its models yet; try again.")
        if self.draining:
            raise Draining("the server is stopping and takes no new requests; try again, or try another server.")
        self._inside.add(call)
        self._empty.clear()
        was_cut = False
        try:
            yield
        except asyncio.CancelledError:
            was_cut = self._cutting
            if not was_cut:
                raise
            raise Draining("the server stopped before this request was done; try again, or another server.") from None
        finally:
            self._leave(call, was_cut=was_cut)

    def open(self) -> None:
        """Let calls in."""
        self._open = True

    def shut(self) -> None:
        """Let nobody else in."""
        self.draining = True

    def cut_the_rest(self) -> None:
        """End everybody inside with Draining. From now on a cancelled call is one that the server cut."""
        self._cutting = True
        for call in self._inside:
            if call.running is not None:
                call.running.cancel()

    async def empty(self) -> None:
        """Return when nobody is inside."""
        await self._empty.wait()

    def _leave(self, call: Call, *, was_cut: bool) -> None:
        self._inside.remove(call)
        if self.draining:
            self.cut += was_cut
            self.finished += not was_cut
        if not self._inside:
            self._empty.set()
