"""Streams for asyncio programs: an answer piece by piece, a corpus vector by vector."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from stretto.client.answer import StreamedAnswer
from stretto.client.corpus import WINDOW, Outgoing, StreamedCorpus
from stretto.client.embeddings import Embedding
from stretto.client.errors import Cancelled, StrettoError
from stretto.client.results import Piece
from stretto.client.statuses import translated
from stretto.client.texts import Text
from stretto.v1 import embedding_pb2, generation_pb2

ItemT = TypeVar("ItemT")
CallT = TypeVar("CallT", bound=grpc.aio.Call)
Texts = Iterable[Text] | AsyncIterable[Text]
Answer = grpc.aio.UnaryStreamCall[Message, generation_pb2.GenerateStreamResponse]
Corpus = grpc.aio.StreamStreamCall[Message, embedding_pb2.EmbedStreamResponse]


class AsyncFlow(AsyncIterator[ItemT], Generic[ItemT, CallT]):
    """Items as they come. Leaving them, by any way, cancels what is not done."""

    request_id: str
    target: str
    _call: CallT | None = None
    _closed = False
    _waiting: deque[ItemT]

    async def __anext__(self) -> ItemT:
        try:
            while not self._waiting:
                if self._closed:
                    raise StopAsyncIteration
                await self._advance()
        except BaseException:  # asyncio.CancelledError too: nobody waits for the rest any more
            self.close()
            raise
        return self._waiting.popleft()

    @abstractmethod
    async def _advance(self) -> None:
        """Take one event; raises StopAsyncIteration after the last."""

    async def _event(self, read: Awaitable[object]) -> object:
        """The next event, or grpc's mark of the end."""
        try:
            with translated(request_id=self.request_id, target=self.target):
                return await read
        except asyncio.CancelledError:
            if self._closed:  # while this was waiting
                raise StopAsyncIteration from None
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise self._cancelled_elsewhere() from None  # grpc raises this for a CANCELLED of the far side, too

    def _cancelled_elsewhere(self) -> Cancelled:
        return Cancelled(
            "the request was cancelled, and not by this client.",
            code=grpc.StatusCode.CANCELLED,
            reason="CANCELLED",
            request_id=self.request_id,
            target=self.target,
        )

    def close(self) -> None:
        """Cancel the request unless it is done; the loop over the stream, if any, ends."""
        call, self._call, self._closed = self._call, None, True
        self._waiting.clear()
        if call is not None:
            call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._call is not None:
            self.close()


class AsyncStream(StreamedAnswer, AsyncFlow[Piece, Answer]):
    __doc__ = f"""Pieces of an answer as they come. Leaving it, by any way, cancels what is not done.

    {StreamedAnswer.__doc__}"""

    def __init__(
        self,
        send: Callable[[generation_pb2.GenerateStreamRequest, float], Answer],
        request: generation_pb2.GenerateStreamRequest,
        options: Mapping[str, Any],
        *,
        seconds: float,
        target: str,
    ) -> None:
        super().__init__(request, options, seconds=seconds, target=target)
        self._send = send
        with translated(request_id=self.request_id, target=target):
            self._call = send(request, seconds)

    async def _advance(self) -> None:
        assert self._call is not None, "open until it is closed"
        try:
            event = await self._event(self._call.read())
        except StrettoError as error:
            await self._go_on(error)
            return
        if not isinstance(event, generation_pb2.GenerateStreamResponse):
            self._check_end()
            raise StopAsyncIteration
        self._take(event)

    async def _go_on(self, error: StrettoError) -> None:
        await asyncio.sleep(self._delay(error))
        if self._closed:  # while this was waiting
            raise StopAsyncIteration
        with translated(request_id=self.request_id, target=self.target):
            self._call = self._send(self._continued(), self._seconds_left)


class AsyncEmbeddingStream(StreamedCorpus, AsyncFlow[Embedding, Corpus]):
    __doc__ = f"""The vectors of a corpus as they come. Leaving it, by any way, cancels what is not done.

    {StreamedCorpus.__doc__}"""

    def __init__(
        self,
        open_: Callable[[], Awaitable[tuple[Corpus, Outgoing]]],
        texts: Texts,
        *,
        request_id: str,
        target: str,
    ) -> None:
        super().__init__(request_id=request_id, target=target)
        self._open = open_
        self._texts = texts
        self._room = asyncio.Semaphore(WINDOW)
        self._sending: asyncio.Task[None] | None = None
        self._ends: list[grpc.aio.AioRpcError] = []
        self._answers: AsyncIterator[embedding_pb2.EmbedStreamResponse] | None = None

    async def _advance(self) -> None:
        if self._call is None:
            self._call, self._outgoing = await self._open()
            self._call.add_done_callback(partial(note, self._ends))
            self._answers = aiter(self._call)  # `read` would lose what has come as soon as a write fails
            self._sending = asyncio.create_task(send(self._call, self._outgoing, self._texts, self._room))
        event = await self._event(self._read())
        if isinstance(event, embedding_pb2.EmbedStreamResponse):
            if self._take(event):
                self._room.release()
            return
        if self._ended():
            raise StopAsyncIteration

    async def _read(self) -> object:
        assert self._answers is not None, "opened with the call"
        try:
            return await anext(self._answers, None)
        except grpc.aio.AioRpcError as failure:
            raise next(iter(self._ends), failure) from None

    def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        super().close()


async def send(call: Corpus, outgoing: Outgoing, texts: Texts, room: asyncio.Semaphore) -> None:
    """It holds no reference to the stream, so that one that is dropped is cancelled."""
    with suppress(CallIsOver):
        await written(call, outgoing.first())
        try:
            async for text in each(texts):
                if (request := outgoing.item(text)) is not None:
                    await room.acquire()
                    await written(call, request)
        except CallIsOver:
            raise
        except Exception as error:
            outgoing.fault = error  # the reader raises it, after the results of what came before
        await call.done_writing()


def note(ends: list[grpc.aio.AioRpcError], call: Corpus) -> None:
    """How a call ended: its first status, for which grpc puts an INTERNAL of its own where a write fails after it.

    It holds no reference to the stream either. grpc calls this with the status at hand, so that nothing waits.
    """
    trailing = at_once(call.trailing_metadata()) or grpc.aio.Metadata()
    code, details = at_once(call.code()), at_once(call.details())
    ends.append(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details))


def at_once(ready: Coroutine[Any, Any, ItemT]) -> ItemT:
    """What a coroutine returns that has nothing to wait for."""
    try:
        ready.send(None)
    except StopIteration as end:
        value: ItemT = end.value
        return value
    raise AssertionError("it waits")


class CallIsOver(Exception):
    """There is nobody to write to; the reader learns why."""


async def written(call: Corpus, request: embedding_pb2.EmbedStreamRequest) -> None:
    try:
        await call.write(request)
    except (grpc.RpcError, asyncio.InvalidStateError) as error:
        raise CallIsOver from error


async def each(texts: Texts) -> AsyncIterator[Text]:
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
    else:
        for text in texts:
            yield text
