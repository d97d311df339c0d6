"""The client for programs that wait: one thread a call."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from stretto.client import methods
from stretto.client.answer import StreamedAnswer
from stretto.client.calls import Calls
from stretto.client.embeddings import Embeddings
from stretto.client.methods import Method, ReplyT, RequestT
from stretto.client.replies import read_embeddings, read_generation, read_model, read_models
from stretto.client.results import Generation, ModelInfo, Piece
from stretto.client.statuses import translated
from stretto.v1 import embedding_pb2, generation_pb2, model_pb2

if TYPE_CHECKING:
    from grpc import _CallIterator

ResultT = TypeVar("ResultT")


class Stream(StreamedAnswer, Iterator[Piece]):
    """Pieces of an answer as they come. Leaving it, by any way, cancels what is not done."""

    def __init__(
        self,
        start: "Callable[[], _CallIterator[generation_pb2.GenerateStreamResponse]]",
        *,
        request_id: str,
        target: str,
    ) -> None:
        super().__init__(request_id=request_id, target=target)
        self._call: _CallIterator[generation_pb2.GenerateStreamResponse] | None = None
        with translated(request_id=request_id, target=target):
            self._call = start()

    def __next__(self) -> Piece:
        try:
            while not self._waiting:
                self._read()
        except BaseException:  # KeyboardInterrupt too: nobody waits for the rest any more
            self.close()
            raise
        return self._waiting.popleft()

    def _read(self) -> None:
        if self._call is None:
            raise StopIteration
        with translated(request_id=self.request_id, target=self.target):
            event = next(self._call, None)
        if event is None:
            self._check_end()
            raise StopIteration
        self._take(event)

    def close(self) -> None:
        """Cancel the request unless it is done; the loop over the stream, if any, ends."""
        call, self._call = self._call, None
        self._waiting.clear()
        if call is not None:
            call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_call", None) is not None:
            self.close()


class Client(Calls[Generation, Stream, Embeddings, tuple[ModelInfo, ...], ModelInfo]):
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

    def _generate(self, request: generation_pb2.GenerateRequest, seconds: float) -> Generation:
        return self._ask(methods.GENERATE, request, seconds, request.options.request_id, read_generation)

    def _stream(self, request: generation_pb2.GenerateStreamRequest, seconds: float) -> Stream:
        method = methods.GENERATE_STREAM
        call = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        return Stream(
            lambda: call(request, timeout=seconds, metadata=self._connection.metadata),
            request_id=request.request.options.request_id,
            target=self.target,
        )

    def _embed(self, request: embedding_pb2.EmbedRequest, seconds: float) -> Embeddings:
        def read(reply: embedding_pb2.EmbedResponse) -> Embeddings:
            return read_embeddings(reply, count=len(request.inputs), target=self.target)

        return self._ask(methods.EMBED, request, seconds, request.options.request_id, read)

    def _models(self, seconds: float) -> tuple[ModelInfo, ...]:
        end = time.monotonic() + seconds
        found: tuple[ModelInfo, ...] = ()
        page = model_pb2.ListModelsRequest()
        while True:
            reply = self._ask(methods.LIST_MODELS, page, max(end - time.monotonic(), 0), "", _same)
            found += read_models(reply)
            if not reply.next_page_token:
                return found
            page = model_pb2.ListModelsRequest(page_token=reply.next_page_token)

    def _model(self, name: str, seconds: float) -> ModelInfo:
        def read(reply: model_pb2.GetModelResponse) -> ModelInfo:
            return read_model(reply.model)

        return self._ask(methods.GET_MODEL, model_pb2.GetModelRequest(model=name), seconds, "", read)

    def _ask(
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
            reply = call(request, timeout=seconds, metadata=self._connection.metadata)
        return read(reply)


def _same(reply: Any) -> Any:
    return reply
