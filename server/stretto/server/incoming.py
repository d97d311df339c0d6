"""What a client streams to us, message by message."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class Incoming(Generic[M]):
    """The messages of one call. `first` is None where the client closed its side without one."""

    def __init__(self, first: M | None, receive: Callable[[], Awaitable[M | None]]) -> None:
        self.first = first
        self._receive = receive

    async def next(self) -> M | None:
        """The next message after the first; None when the client has closed its side."""
        return await self._receive()
