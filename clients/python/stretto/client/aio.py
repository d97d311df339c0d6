"""The client for asyncio programs: the same calls as `Client`, awaited."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from stretto.client import methods
from stretto.client.answer import StreamedAnswer
from stretto.client.calls import Calls
from stretto.client.embeddings import Embeddings
from stretto.client.errors import Cancelled
from stretto.client.methods import Method, ReplyT, RequestT
from stretto.client.replies import read_embeddings, read_generation, read_model, read_models
from stretto.client.results import Generation, ModelInfo, Piece
from stretto.client.statuses import closed, translated
from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

ResultT = TypeVar("ResultT")
Events = grpc.aio.UnaryStreamCall[Message, generation_pb2.GenerateStreamResponse]


class AsyncStream(StreamedAnswer, AsyncIterator[Piece]):
    """Pieces of an answer as they come. Leaving it, by any way, cancels what is not done."""

    def __init__(self, start: Callable[[], Events], *, request_id: str, target: str) -> None:
        super().__init__(request_id=request_id, target=target)
        self._call: Events | None = None
        with translated(request_id=request_id, target=target):
            self._call = start()

    async def __anext__(self) -> Piece:
        try:
            while not self._waiting:
                await self._read()
        except BaseException:  # asyncio.CancelledError too: nobody waits for the rest any more
            self.close()
            raise
        return self._waiting.popleft()

    async def _read(self) -> None:
        if self._call is None:
            raise StopAsyncIteration
        try:
            with translated(request_id=self.request_id, target=self.target):
                event = await self._call.read()
        except asyncio.CancelledError:
            if self._call is None:  # closed while this was waiting
                raise StopAsyncIteration from None
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise self._cancelled_elsewhere() from None  # grpc raises this for a CANCELLED of the far side, too
        if not isinstance(event, generation_pb2.GenerateStreamResponse):
            self._check_end()
            raise StopAsyncIteration
        self._take(event)

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
        call, self._call = self._call, None
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
        if getattr(self, "_call", None) is not None:
            self.close()


Awaited = Coroutine[Any, Any, ResultT]


class AsyncClient(
    Calls[Awaited[Generation], AsyncStream, Awaited[Embeddings], Awaited[tuple[ModelInfo, ...]], Awaited[ModelInfo]]
):
    __doc__ = f"""{Calls.__doc__}
    Every call but `stream` is awaited; `stream` is looped over with `async for`. Arguments are checked when the call
    is written, before it is awaited. The connection belongs to the event loop of its first call.
    """

    _opened: grpc.aio.Channel | None
    _closed: bool

    def _open(self) -> None:
        self._opened, self._closed = None, False

    @property
    def _channel(self) -> grpc.aio.Channel:
        """Made at the first call: that is where the event loop is known."""
        if self._closed:
            raise closed(self.target)
        if self._opened is None:
            self._opened = self._connection.open_async()
        return self._opened

    async def close(self) -> None:
        """Give the connection back. Calls under way end with an error."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _generate(self, request: generation_pb2.GenerateRequest, seconds: float) -> Awaited[Generation]:
        return self._ask(methods.GENERATE, request, seconds, request.options.request_id, read_generation)

    def _stream(self, request: generation_pb2.GenerateStreamRequest, seconds: float) -> AsyncStream:
        method = methods.GENERATE_STREAM
        call = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        return AsyncStream(
            lambda: call(request, timeout=seconds, metadata=self._connection.metadata),
            request_id=request.request.options.request_id,
            target=self.target,
        )

    def _embed(self, request: embedding_pb2.EmbedRequest, seconds: float) -> Awaited[Embeddings]:
        def read(reply: embedding_pb2.EmbedResponse) -> Embeddings:
            return read_embeddings(reply, count=len(request.inputs), target=self.target)

        return self._ask(methods.EMBED, request, seconds, request.options.request_id, read)

    async def _models(self, seconds: float) -> tuple[ModelInfo, ...]:
        end = time.monotonic() + seconds
        found: tuple[ModelInfo, ...] = ()
        page = model_pb2.ListModelsRequest()
        while True:
            reply = await self._ask(methods.LIST_MODELS, page, max(end - time.monotonic(), 0), "", _same)
            found += read_models(reply)
            if not reply.next_page_token:
                return found
            page = model_pb2.ListModelsRequest(page_token=reply.next_page_token)

    def _model(self, name: str, seconds: float) -> Awaited[ModelInfo]:
        def read(reply: model_pb2.GetModelResponse) -> ModelInfo:
            return read_model(reply.model)

        return self._ask(methods.GET_MODEL, model_pb2.GetModelRequest(model=name), seconds, "", read)

    async def _ask(
        self,
        method: Method[RequestT, ReplyT],
        request: RequestT,
        seconds: float,
        request_id: str,
        read: Callable[[ReplyT], ResultT],
    ) -> ResultT:
        with translated(request_id=request_id, target=self.target):
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
            reply = await call(request, timeout=seconds, metadata=self._connection.metadata)
        return read(reply)


def _same(reply: Any) -> Any:
    return reply
