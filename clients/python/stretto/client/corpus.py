"""What a stream of texts has sent and been told so far: the bookkeeping that both kinds of stream share."""

from collections import deque

from stretto.client.embeddings import Embedding
from stretto.client.errors import broken, too_large
from stretto.client.gathering import Limits, alone, failed_embedding
from stretto.client.replies import read_embedding, read_provenance, read_telemetry, read_usage
from stretto.client.results import Provenance, Telemetry, Usage
from stretto.client.texts import Text, write_text
from stretto.v1 import embedding_pb2

WINDOW = 256  # texts under way at once, so that the corpus is never held whole


class Outgoing:
    """The texts on their way. Those that are too large by themselves are not sent: they are in `failed`.

    Written by who sends, read by who receives: a text's failure is there before a later text is sent.
    """

    def __init__(self, head: embedding_pb2.EmbedRequest, limits: Limits) -> None:
        self.head = head
        self.count = 0
        self.failed: dict[int, Embedding] = {}
        self.fault: BaseException | None = None
        self._limits = limits

    def first(self) -> embedding_pb2.EmbedStreamRequest:
        config = embedding_pb2.EmbedStreamConfig(
            model=self.head.model, config=self.head.config, options=self.head.options
        )
        return embedding_pb2.EmbedStreamRequest(config=config)

    def item(self, text: Text) -> embedding_pb2.EmbedStreamRequest | None:
        place = self.count
        made = embedding_pb2.EmbedStreamRequest()
        made.item.item_id = str(place)
        write_text(made.item.input, text, f"inputs[{place}]")
        self.count += 1
        if (size := made.ByteSize()) <= self._limits.request_bytes:
            return made
        request_id = self.head.options.request_id
        error = too_large(alone(place, size, self._limits), f"inputs[{place}]", request_id)
        self.failed[place] = failed_embedding(place, error)
        return None


class StreamedCorpus:
    """Facts of the stream: `provenance` from its start; `usage`, `telemetry`, and how many texts `succeeded` and
    `failed`, from its end on.
    """

    _outgoing: Outgoing

    def __init__(self, *, request_id: str, target: str) -> None:
        self.request_id = request_id
        self.target = target
        self.provenance: Provenance | None = None
        self.usage: Usage | None = None
        self.telemetry: Telemetry | None = None
        self.succeeded = 0
        self.failed = 0
        self._next = 0
        self._waiting: deque[Embedding] = deque()

    def _take(self, event: embedding_pb2.EmbedStreamResponse) -> bool:
        """True for a text's result."""
        match event.WhichOneof("message"):
            case "started":
                self.provenance = read_provenance(event.started)
            case "item":
                self._take_item(event.item)
                return True
            case "summary":
                self.usage = read_usage(event.summary.usage)
                if event.summary.HasField("telemetry"):
                    self.telemetry = read_telemetry(event.summary.telemetry)
            case _:
                pass  # a kind newer than this client adds nothing here
        return False

    def _take_item(self, item: embedding_pb2.EmbedStreamItemResult) -> None:
        self._take_failed()
        if item.item_id != str(self._next):
            raise broken(f"the server answered text {item.item_id!r} where {self._next} was due.", self.request_id)
        self._give(read_embedding(self._next, item.result, request_id=self.request_id, target=self.target))

    def _take_failed(self) -> None:
        """Those before the next result, which never left."""
        while (failed := self._outgoing.failed.pop(self._next, None)) is not None:
            self._give(failed)

    def _give(self, embedding: Embedding) -> None:
        self._waiting.append(embedding)
        self._next += 1
        if embedding.error is None:
            self.succeeded += 1
        else:
            self.failed += 1

    def _ended(self) -> bool:
        """Every text has its result and was given, and the server said that it is done."""
        self._take_failed()
        if self._waiting:
            return False
        if self._outgoing.fault is not None:
            raise self._outgoing.fault
        if self.usage is None or self._next != self._outgoing.count:
            raise broken(
                f"the stream ended after {self._next} of {self._outgoing.count} texts, or without its last message.",
                self.request_id,
            )
        return True
