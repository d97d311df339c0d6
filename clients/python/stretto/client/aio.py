"""The client for asyncio programs: the same calls as `Client`, awaited."""

import time
from collections import deque
from collections.abc import AsyncIterable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from stretto.client import methods
from stretto.client.aio_streams import AsyncEmbeddingStream, AsyncStream, Corpus, each
from stretto.client.calls import Calls
from stretto.client.corpus import Outgoing
from stretto.client.embeddings import Embeddings
from stretto.client.errors import NotImplementedByServer
from stretto.client.gathering import ABOVE_A_LIMIT, IN_FLIGHT, Batch, Gathering, Limits, limits_of, unstated_limits
from stretto.client.methods import Ask, ResultT
from stretto.client.replies import read_models
from stretto.client.results import Generation, ModelInfo, Scores, ServerInfo, Tokenizations
from stretto.client.statuses import closed, translated
from stretto.client.texts import Text
from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

AwaitedT = TypeVar("AwaitedT")
Awaited = Coroutine[Any, Any, AwaitedT]
Call = grpc.aio.UnaryUnaryCall[Message, embedding_pb2.EmbedResponse]


class AsyncClient(
    Calls[
        Awaited[Generation],
        AsyncStream,
        Iterable[Text] | AsyncIterable[Text],
        Awaited[Embeddings],
        AsyncEmbeddingStream,
        Awaited[Scores],
        Awaited[tuple[Scores, ...]],
        Awaited[Tokenizations],
        Awaited[tuple[str, ...]],
        Awaited[ServerInfo],
        Awaited[tuple[ModelInfo, ...]],
        Awaited[ModelInfo],
    ]
):
    __doc__ = f"""{Calls.__doc__}
    Every call is awaited but `stream` and `embed_stream`, which are looped over with `async for`. Arguments are checked
    when the call is written, before it is awaited. `embed` and `embed_stream` take async iterables, too. The connection
    belongs to the event loop of its first call.
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

    async def _answer(self, ask: Ask[ResultT]) -> ResultT:
        with translated(request_id=ask.request_id, target=self.target):
            call = self._channel.unary_unary(
                ask.method.path,
                request_serializer=ask.method.request.SerializeToString,
                response_deserializer=ask.method.reply.FromString,
            )
            reply = await call(ask.request, timeout=ask.seconds, metadata=self._connection.metadata)
        return ask.read(reply)

    _generation = _scores = _score_batch = _tokenizations = _strings = _server_info = _model = _answer

    async def _models(self, seconds: float) -> tuple[ModelInfo, ...]:
        end = time.monotonic() + seconds
        found: tuple[ModelInfo, ...] = ()
        page = model_pb2.ListModelsRequest()
        while True:
            reply = await self._answer(self._ask_models(page, max(end - time.monotonic(), 0)))
            found += read_models(reply)
            if not reply.next_page_token:
                return found
            page = model_pb2.ListModelsRequest(page_token=reply.next_page_token)

    def _stream(
        self, request: generation_pb2.GenerateStreamRequest, options: Mapping[str, Any], seconds: float
    ) -> AsyncStream:
        method = methods.GENERATE_STREAM
        call = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        metadata = self._connection.metadata
        return AsyncStream(
            lambda request, seconds: call(request, timeout=seconds, metadata=metadata),
            request,
            options,
            seconds=seconds,
            target=self.target,
        )

    async def _embeddings(
        self, texts: Iterable[Text] | AsyncIterable[Text], head: embedding_pb2.EmbedRequest, seconds: float
    ) -> Embeddings:
        gathering = Gathering(head, await self._limits(seconds), self.target)
        flying: deque[tuple[Batch, Call]] = deque()
        try:
            async for text in each(texts):
                if (batch := gathering.add(text)) is None:
                    continue
                if len(flying) == IN_FLIGHT:
                    await self._land(gathering, *flying.popleft(), seconds)
                flying.append((batch, self._send(gathering, batch, seconds)))
            if (batch := gathering.rest()) is not None:
                flying.append((batch, self._send(gathering, batch, seconds)))
            while flying:
                await self._land(gathering, *flying.popleft(), seconds)
        finally:
            for _, call in flying:
                call.cancel()
        return gathering.result()

    def _send(self, gathering: Gathering, batch: Batch, seconds: float) -> Call:
        method = methods.EMBED
        with translated(request_id=gathering.request_id, target=self.target):
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
            return call(gathering.request(batch), timeout=seconds, metadata=self._connection.metadata)

    async def _land(self, gathering: Gathering, batch: Batch, call: Call, seconds: float) -> None:
        try:
            with gathering.places(batch), translated(request_id=gathering.request_id, target=self.target):
                reply = await call
        except ABOVE_A_LIMIT as error:
            for smaller in gathering.smaller(batch, error):
                await self._land(gathering, smaller, self._send(gathering, smaller, seconds), seconds)
        else:
            gathering.take(batch, reply)

    def _embedding_stream(
        self, texts: Iterable[Text] | AsyncIterable[Text], head: embedding_pb2.EmbedRequest, seconds: float
    ) -> AsyncEmbeddingStream:
        channel, method = self._channel, methods.EMBED_STREAM

        async def open_() -> tuple[Corpus, Outgoing]:
            outgoing = Outgoing(head, await self._limits(min(seconds, self._connection.timeout)))
            call = channel.stream_stream(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
            with translated(request_id=head.options.request_id, target=self.target):
                return call(timeout=seconds, metadata=self._connection.metadata), outgoing

        return AsyncEmbeddingStream(open_, texts, request_id=head.options.request_id, target=self.target)

    async def _limits(self, seconds: float) -> Limits:
        """Asked once."""
        if self._known_limits is None:
            try:
                self._known_limits = limits_of(await self._answer(self._ask_server_info(seconds)))
            except NotImplementedByServer:
                self._known_limits = unstated_limits(self.target)
        return self._known_limits
