"""Streams for programs that wait: an answer piece by piece, a corpus vector by vector."""

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from stretto.client.answer import StreamedAnswer
from stretto.client.corpus import WINDOW, Outgoing, StreamedCorpus
from stretto.client.embeddings import Embedding
from stretto.client.errors import StrettoError
from stretto.client.results import Piece
from stretto.client.statuses import translated
from stretto.client.texts import Text
from stretto.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from grpc import _CallIterator

ItemT = TypeVar("ItemT")
EventT = TypeVar("EventT")
Answers = Callable[
    [generation_pb2.GenerateStreamRequest, float], "_CallIterator[generation_pb2.GenerateStreamResponse]"
]
Vectors = Callable[
    [Iterator[embedding_pb2.EmbedStreamRequest], float], "_CallIterator[embedding_pb2.EmbedStreamResponse]"
]


class Flow(Iterator[ItemT], Generic[ItemT, EventT]):
    """Items as they come. Leaving them, by any way, cancels what is not done."""

    _call: "_CallIterator[EventT] | None" = None
    _waiting: deque[ItemT]

    def __next__(self) -> ItemT:
        try:
            while not self._waiting:
                if self._call is None:
                    raise StopIteration
                self._read(self._call)
        except BaseException:  # KeyboardInterrupt too: nobody waits for the rest any more
            self.close()
            raise
        return self._waiting.popleft()

    @abstractmethod
    def _read(self, call: "_CallIterator[EventT]") -> None:
        """Take one event; raises StopIteration after the last."""

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
        if self._call is not None:
            self.close()


class Stream(StreamedAnswer, Flow[Piece, generation_pb2.GenerateStreamResponse]):
    __doc__ = f"""Pieces of an answer as they come. Leaving it, by any way, cancels what is not done.

    {StreamedAnswer.__doc__}"""

    def __init__(
        self,
        send: Answers,
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

    def _read(self, call: "_CallIterator[generation_pb2.GenerateStreamResponse]") -> None:
        try:
            with translated(request_id=self.request_id, target=self.target):
                event = next(call, None)
        except StrettoError as error:
            self._go_on(error)
            return
        if event is None:
            self._check_end()
            raise StopIteration
        self._take(event)

    def _go_on(self, error: StrettoError) -> None:
        if self._call is not None:
            time.sleep(self._delay(error))
        if self._call is None:  # closed by another thread
            raise StopIteration
        with translated(request_id=self.request_id, target=self.target):
            self._call = self._send(self._continued(), self._seconds_left)


class EmbeddingStream(StreamedCorpus, Flow[Embedding, embedding_pb2.EmbedStreamResponse]):
    __doc__ = f"""The vectors of a corpus as they come. Leaving it, by any way, cancels what is not done.

    {StreamedCorpus.__doc__}"""

    def __init__(
        self, send: Vectors, outgoing: Outgoing, texts: Iterable[Text], *, seconds: float, target: str
    ) -> None:
        super().__init__(request_id=outgoing.head.options.request_id, target=target)
        self._outgoing = outgoing
        self._room = Room()
        with translated(request_id=self.request_id, target=target):
            self._call = send(requests(outgoing, texts, self._room), seconds)

    def _read(self, call: "_CallIterator[embedding_pb2.EmbedStreamResponse]") -> None:
        with translated(request_id=self.request_id, target=self.target):
            event = next(call, None)
        if event is not None:
            if self._take(event):
                self._room.give_back()
        elif self._ended():
            raise StopIteration

    def close(self) -> None:
        super().close()
        self._room.close()  # after the cancel, or the server would take it for the end of the texts


class Room:
    """How many more texts may be under way. Taken by grpc's thread, given back by the reader's."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(WINDOW)
        self._closed = False

    def take(self) -> bool:
        """False where nobody reads any more."""
        self._free.acquire()
        return not self._closed

    def give_back(self) -> None:
        self._free.release()

    def close(self) -> None:
        self._closed = True
        self._free.release()


def requests(outgoing: Outgoing, texts: Iterable[Text], room: Room) -> Iterator[embedding_pb2.EmbedStreamRequest]:
    """Read by a thread of grpc's. It holds no reference to the stream, so that one that is dropped is cancelled."""
    yield outgoing.first()
    try:
        for text in texts:
            request = outgoing.item(text)
            if request is None:
                continue
            if not room.take():
                return
            yield request
    except BaseException as error:
        outgoing.fault = error  # the reader raises it, after the results of what came before
