"""The client for programs that wait: one thread a call."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from stretto.client import methods
from stretto.client.calls import Calls
from stretto.client.corpus import Outgoing
from stretto.client.embeddings import Embeddings
from stretto.client.errors import NotImplementedByServer
from stretto.client.gathering import ABOVE_A_LIMIT, IN_FLIGHT, Batch, Gathering, Limits, limits_of, unstated_limits
from stretto.client.methods import Ask, ResultT
from stretto.client.replies import read_models
from stretto.client.results import Generation, ModelInfo, Scores, ServerInfo, Tokenizations
from stretto.client.statuses import translated
from stretto.client.streams import EmbeddingStream, Stream
from stretto.client.texts import Text
from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

if TYPE_CHECKING:
    from grpc import _CallFuture

Flying = deque[tuple[Batch, "_CallFuture[embedding_pb2.EmbedResponse]"]]


class Client(
    Calls[
        Generation,
        Stream,
        Iterable[Text],
        Embeddings,
        EmbeddingStream,
        Scores,
        tuple[Scores, ...],
        Tokenizations,
        tuple[str, ...],
        ServerInfo,
        tuple[ModelInfo, ...],
        ModelInfo,
    ]
):
    __doc__ = Calls.__doc__

    _channel: grpc.Channel

    def _open(self) -> None:
        self._channel = self._connection.open()

    def close(self) -> None:
        """Give the connection back. Calls under way end with an error."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, ask: Ask[ResultT]) -> ResultT:
        with translated(request_id=ask.request_id, target=self.target):
            call = self._channel.unary_unary(
                ask.method.path,
                request_serializer=ask.method.request.SerializeToString,
                response_deserializer=ask.method.reply.FromString,
            )
            reply = call(ask.request, timeout=ask.seconds, metadata=self._connection.metadata)
        return ask.read(reply)

    _generation = _scores = _score_batch = _tokenizations = _strings = _server_info = _model = _answer

    def _models(self, seconds: float) -> tuple[ModelInfo, ...]:
        end = time.monotonic() + seconds
        found: tuple[ModelInfo, ...] = ()
        page = model_pb2.ListModelsRequest()
        while True:
            reply = self._answer(self._ask_models(page, max(end - time.monotonic(), 0)))
            found += read_models(reply)
            if not reply.next_page_token:
                return found
            page = model_pb2.ListModelsRequest(page_token=reply.next_page_token)

    def _stream(
        self, request: generation_pb2.GenerateStreamRequest, options: Mapping[str, Any], seconds: float
    ) -> Stream:
        method = methods.GENERATE_STREAM
        call = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        metadata = self._connection.metadata
        return Stream(
            lambda request, seconds: call(request, timeout=seconds, metadata=metadata),
            request,
            options,
            seconds=seconds,
            target=self.target,
        )

    def _embeddings(self, texts: Iterable[Text], head: embedding_pb2.EmbedRequest, seconds: float) -> Embeddings:
        gathering = Gathering(head, self._limits(seconds), self.target)
        flying: Flying = deque()
        try:
            for batch in gathering.batches(texts):
                if len(flying) == IN_FLIGHT:
                    self._land(gathering, *flying.popleft(), seconds)
                flying.append((batch, self._send(gathering, batch, seconds)))
            while flying:
                self._land(gathering, *flying.popleft(), seconds)
        finally:
            for _, call in flying:
                call.cancel()
        return gathering.result()

    def _send(self, gathering: Gathering, batch: Batch, seconds: float) -> "_CallFuture[embedding_pb2.EmbedResponse]":
        method = methods.EMBED
        with translated(request_id=gathering.request_id, target=self.target):
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
            return call.future(gathering.request(batch), timeout=seconds, metadata=self._connection.metadata)

    def _land(
        self,
        gathering: Gathering,
        batch: Batch,
        call: "_CallFuture[embedding_pb2.EmbedResponse]",
        seconds: float,
    ) -> None:
        try:
            with gathering.places(batch), translated(request_id=gathering.request_id, target=self.target):
                reply = call.result()
        except ABOVE_A_LIMIT as error:
            for smaller in gathering.smaller(batch, error):
                self._land(gathering, smaller, self._send(gathering, smaller, seconds), seconds)
        else:
            gathering.take(batch, reply)
        finally:
            call.cancel()  # nobody waits any more, whatever ended this

    def _embedding_stream(
        self, texts: Iterable[Text], head: embedding_pb2.EmbedRequest, seconds: float
    ) -> EmbeddingStream:
        method = methods.EMBED_STREAM
        outgoing = Outgoing(head, self._limits(min(seconds, self._connection.timeout)))
        call = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        metadata = self._connection.metadata
        return EmbeddingStream(
            lambda requests, seconds: call(requests, timeout=seconds, metadata=metadata),
            outgoing,
            texts,
            seconds=seconds,
            target=self.target,
        )

    def _limits(self, seconds: float) -> Limits:
        """Asked once."""
        if self._known_limits is None:
            try:
                self._known_limits = limits_of(self._answer(self._ask_server_info(seconds)))
            except NotImplementedByServer:
                self._known_limits = unstated_limits(self.target)
        return self._known_limits
