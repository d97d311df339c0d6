"""One EmbedStream from its first item to its last: read ahead within a window, asked together, answered in order."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stretto.engine.answers import joined
from stretto.engine.core import Engine
from stretto.engine.errors import DeadlineExpired, InvalidRequest, Overloaded, QueueTimeout
from stretto.engine.requests import MAX_CALL_CHUNKS, Chunking, EmbedCall, Overflow, TextPrompt, TokenPrompt
from stretto.engine.results import EmbedAnswer, Embedding, Usage
from stretto.server.call import Call
from stretto.server.embedding_writing import VectorWriter
from stretto.server.incoming import Incoming
from stretto.server.metrics import Metrics
from stretto.server.reading import text_input
from stretto.v1 import embedding_pb2 as pb

MAX_CALLS = 4  # of the engine in flight, so that it always has the next one when it is done with one
CALL_ITEMS = 64
WINDOW_BYTES = 4 << 20  # of items that are read and not yet answered; the others wait on the client's side
MAX_ITEM_ID_BYTES = 256
RETRY_SECONDS = 0.05  # before a full queue is asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    id: str
    input: TextPrompt | TokenPrompt | InvalidRequest
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that were asked together."""

    items: Sequence[Item]
    answer: asyncio.Task[EmbedAnswer]


def opening_of(first: pb.EmbedStreamRequest | None) -> pb.EmbedStreamConfig:
    """What a stream opens with; raises where that is not a config."""
    kind = None if first is None else first.WhichOneof("message")
    if first is None or kind != "config":
        came = "the stream ended" if first is None else f"{kind} came" if kind else "an empty message came"
        raise InvalidRequest(f"config must be the first message of a stream; {came} before it.", field="config")
    return first.config


class EmbedFlow:
    """A task of its own reads, as far as the window lets it; up to MAX_CALLS others ask the engine; `run` answers.

    A lone item is asked at once; while all calls are in flight, what comes gathers for the next.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        asked: EmbedCall,
        incoming: Incoming[pb.EmbedStreamRequest],
        call: Call,
        writer: VectorWriter,
        response: Any,
    ) -> None:
        self.succeeded = 0
        self.failed = 0
        self._engine = engine
        self._metrics = metrics
        self._asked = asked
        self._incoming = incoming
        self._call = call
        self._writer = writer
        self._response = response  # the twin of EmbedStreamResponse
        self._call_items = _call_items(asked)
        self._unasked: deque[Item] = deque()
        self._batches: deque[Batch] = deque()
        self._num_items = 0
        self._num_bytes = 0
        self._came = asyncio.Event()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Answer every item; raises what ends the stream, after all that came before it is answered."""
        reading = asyncio.create_task(self._read())
        try:
            while (batch := await self._oldest(reading)) is not None:
                answer = await batch.answer
                self._batches.popleft()
                self._ask()
                await self._write(batch, answer)
        finally:
            left = [reading, *(batch.answer for batch in self._batches)]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (message := await self._incoming.next()) is not None:
                item = _item(message)
                await self._room(item.num_bytes)
                self._num_items += 1
                self._num_bytes += item.num_bytes
                self._unasked.append(item)
                self._ask()
                self._came.set()
        finally:
            self._came.set()

    async def _room(self, num_bytes: int) -> None:
        """Wait until the window has room; an empty one has room for any item."""
        most = MAX_CALLS * self._call_items
        while self._num_items and (self._num_items >= most or self._num_bytes + num_bytes > WINDOW_BYTES):
            self._freed.clear()
            await self._freed.wait()

    def _ask(self) -> None:
        while self._unasked and len(self._batches) < MAX_CALLS:
            items = [self._unasked.popleft() for _ in range(min(len(self._unasked), self._call_items))]
            self._batches.append(Batch(items, asyncio.create_task(self._embed(items))))

    async def _embed(self, items: Sequence[Item]) -> EmbedAnswer:
        """Ask the engine. A full queue is no failure of a stream: it is asked again, for as long as there is time."""
        options = self._asked.options
        if options.start_by is not None:  # it counts from when a batch is there to be taken
            options = replace(options, start_by=time.monotonic() + options.start_by - options.received)
        asked = replace(self._asked, inputs=tuple(item.input for item in items), options=options)
        while True:
            try:
                return await self._engine.embed(asked)
            except Overloaded:
                if options.start_by is not None and time.monotonic() >= options.start_by:
                    raise QueueTimeout("the queue stayed full for the whole of queue_timeout.") from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _oldest(self, reading: asyncio.Task[None]) -> Batch | None:
        """The next batch to answer; None after the last. Raises what ended the reading."""
        while not self._batches:
            if reading.done():
                reading.result()
                return None
            self._came.clear()
            await self._came.wait()
        return self._batches[0]

    async def _write(self, batch: Batch, answer: EmbedAnswer) -> None:
        call = self._call
        call.answering = True
        call.num_inputs += len(batch.items)
        before = call.usage.prompt_tokens if call.usage else 0
        call.usage = Usage(prompt_tokens=before + answer.usage.prompt_tokens)
        call.telemetry = joined(call.telemetry, answer.telemetry)
        self._metrics.observe_inputs(
            call, [result.report for result in answer.results if isinstance(result, Embedding)]
        )
        for item, result in zip(batch.items, answer.results, strict=True):
            if isinstance(result, DeadlineExpired | QueueTimeout):
                raise result  # no item's fault: the stream is out of time
            reply = self._response()
            reply.item.item_id = item.id
            succeeded = self._writer.fill(reply.item.result, result)
            self.succeeded += succeeded
            self.failed += not succeeded
            await call.write(reply)
            self._num_items -= 1
            self._num_bytes -= item.num_bytes
            self._freed.set()


def _call_items(asked: EmbedCall) -> int:
    """How many items may be asked together: their chunks have a limit, and several vectors of one may fill a reply."""
    if asked.keeps_all:
        return 1
    if asked.overflow is Overflow.CHUNK:
        return min(CALL_ITEMS, MAX_CALL_CHUNKS // (asked.chunking or Chunking()).max_chunks)
    return CALL_ITEMS


def _item(message: pb.EmbedStreamRequest) -> Item:
    kind = message.WhichOneof("message")
    if kind == "config":
        raise InvalidRequest("config came again; only the first message of a stream is one.", field="config")
    if kind is None:
        raise InvalidRequest("an empty message came; after the config each has an item.", field="item")
    given = message.item
    raw = given.item_id.encode()
    if len(raw) <= MAX_ITEM_ID_BYTES:
        return Item(id=given.item_id, input=text_input(given.input, "item.input"), num_bytes=message.ByteSize())
    refused = InvalidRequest(
        f"item.item_id has {len(raw)} bytes; the limit is {MAX_ITEM_ID_BYTES}. The answer has the first of them.",
        field="item.item_id",
    )
    cut = raw[:MAX_ITEM_ID_BYTES].decode(errors="ignore")
    return Item(id=cut, input=refused, num_bytes=message.ByteSize())
