"""One request on its way through the server: who it is, how long it may take, and what became of it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from stretto.engine.errors import ReplyTooLarge, SlowReader
from stretto.engine.results import InputReport, Telemetry, Usage


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """What a service is given as its context. One task writes it: the request's own.

    `received` and `deadline` are CLOCK_MONOTONIC seconds. `model` is the name of a loaded model once one was chosen,
    so that nothing a client made up gets further; what follows it is for the log line and the metrics.
    """

    context: Any  # grpc.aio's ServicerContext; messages are bytes on it
    path: str  # of the method: /stretto.v1.GenerationService/Generate
    task: str
    request_id: str
    received: float
    deadline: float | None
    stall_seconds: float
    max_response_bytes: int
    client: str = ""  # the name of the token that came with it; what one client computes another never sees
    streaming: bool = False  # it may be answered with more than one message
    running: asyncio.Task[Any] | None = None  # for whoever has to cut it short
    model: str = ""
    usage: Usage | None = None
    telemetry: Telemetry | None = None
    reports: list[InputReport] = field(default_factory=list)
    num_inputs: int = 0
    num_candidates: int = 1
    num_generated: int = 0  # tokens, as they come
    answering: bool = False  # something of the answer exists: no longer waiting for a first result

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]

    async def admit(self) -> None:
        """Tell the caller, who may wait long for the first byte, that the request was taken."""
        await self.context.send_initial_metadata(())

    def sendable(self, message: Message) -> bytes:
        """The message's bytes; raises ReplyTooLarge where no client would get them."""
        data = message.SerializeToString()
        if len(data) > self.max_response_bytes:
            raise ReplyTooLarge(
                f"the reply has {len(data)} bytes; the limit is {self.max_response_bytes}. "
                "Ask for less, or for smaller messages of a stream.",
                metadata={"bytes": str(len(data)), "max_bytes": str(self.max_response_bytes)},
            )
        return data

    async def write(self, message: Message) -> None:
        """Send one message of a stream; whoever does not read is not waited for."""
        data = self.sendable(message)
        try:
            async with asyncio.timeout(self.stall_seconds):
                await self.context.write(data)
        except TimeoutError:
            raise SlowReader(
                f"the stream was not read for {self.stall_seconds:g} s, the limit; it was ended.",
                metadata={"stall_seconds": f"{self.stall_seconds:g}"},
            ) from None
