"""Any number of texts in requests that stay under the server's limits, and their replies put together again."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from google.rpc import status_pb2

from stretto.client.channel import MAX_MESSAGE_BYTES
from stretto.client.embeddings import Embedding, Embeddings
from stretto.client.errors import (
    BatchTooLarge,
    MessageTooLarge,
    ReplyTooLarge,
    StrettoError,
    broken,
    swapped,
    too_large,
)
from stretto.client.replies import read_embedding, read_provenance, read_telemetry, read_usage
from stretto.client.results import Provenance, ServerInfo, Telemetry, Usage
from stretto.client.texts import Text, write_text
from stretto.v1 import common_pb2, embedding_pb2

LOGGER = logging.getLogger("stretto.client")
# What a server says of a request that is above a limit of its own; a smaller one may pass.
ABOVE_A_LIMIT = (BatchTooLarge, MessageTooLarge, ReplyTooLarge)
IN_FLIGHT = 4  # requests at once: enough that the server never waits for the next one
ROOM_BYTES = 4096 * 4 + 128  # of a reply for each text; where vectors are longer, the server refuses and halves go
FRAME_BYTES = 6  # around each text in a request: the field's tag and a length
INPUT = re.compile(r"\binputs\[(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may hold. `stated`: by the server; else the least that any server of this API takes."""

    request_bytes: int = 4 << 20  # grpc's own
    response_bytes: int = 4 << 20
    inputs: int = 64
    stated: bool = False


def limits_of(info: ServerInfo) -> Limits:
    """A server that says nothing of a limit has none; this end has one."""
    return Limits(
        request_bytes=min(info.max_request_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES),
        response_bytes=min(info.max_response_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES),
        inputs=info.max_inputs_per_request or 2**31,
        stated=True,
    )


def unstated_limits(target: str) -> Limits:
    """For a server that is older than GetServerInfo; said once a client, as it makes requests smaller."""
    limits = Limits()
    LOGGER.info("%s does not say its limits; requests stay under %s", target, limits)
    return limits


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one request, and the place of each among all."""

    places: Sequence[int]
    inputs: Sequence[common_pb2.TextInput]


class Gathering:
    """Knows no channel: takes texts, gives batches to send, takes their replies or failures, gives the result."""

    def __init__(self, head: embedding_pb2.EmbedRequest, limits: Limits, target: str) -> None:
        self._head = head
        self._limits = limits
        self._target = target
        self.request_id = head.options.request_id
        self._room = limits.request_bytes - head.ByteSize() - 64  # a request's number behind the id
        self._most = max(1, min(limits.inputs, limits.response_bytes // ROOM_BYTES))
        self._open: list[tuple[int, common_pb2.TextInput]] = []
        self._open_bytes = 0
        self._count = 0
        self._requests = 0
        self._items: dict[int, Embedding] = {}
        self._usages: list[Usage] = []
        self._provenance: Provenance | None = None
        self._telemetry: list[Telemetry] = []

    def batches(self, texts: Iterable[Text]) -> Iterator[Batch]:
        """What to send, as far as the texts have come."""
        for text in texts:
            if (batch := self.add(text)) is not None:
                yield batch
        if (batch := self.rest()) is not None:
            yield batch

    def add(self, text: Text) -> Batch | None:
        """A batch to send, if the text does not fit it any more."""
        place, made = self._count, common_pb2.TextInput()
        write_text(made, text, f"inputs[{place}]")
        self._count += 1
        size = made.ByteSize() + FRAME_BYTES
        if size > self._room:
            self._fail(place, too_large(alone(place, size, self._limits), f"inputs[{place}]", self.request_id))
            return None
        full = self._open_bytes + size > self._room or len(self._open) == self._most
        batch = self._close() if full else None
        self._open.append((place, made))
        self._open_bytes += size
        return batch

    def rest(self) -> Batch | None:
        """The last batch; for no texts at all an empty one, which the server refuses in its own words."""
        return self._close() if self._open or not self._count else None

    def request(self, batch: Batch) -> embedding_pb2.EmbedRequest:
        made = embedding_pb2.EmbedRequest()
        made.CopyFrom(self._head)
        made.inputs.extend(batch.inputs)
        self._requests += 1
        if self._requests > 1:
            made.options.request_id = f"{self.request_id}-{self._requests}"
        return made

    def take(self, batch: Batch, reply: embedding_pb2.EmbedResponse) -> None:
        """A result too many or too few is refused, never paired up wrongly."""
        count = len(batch.places)
        if len(reply.results) != count:
            raise broken(f"the server answered {len(reply.results)} results for {count} texts.", reply.request_id)
        for place, result in zip(batch.places, reply.results, strict=True):
            item = read_embedding(place, result, request_id=reply.request_id, target=self._target)
            if item.error is not None:
                _renumber(item.error, batch)
            self._items[place] = item
        provenance = read_provenance(reply.provenance)
        if self._provenance is not None and self._provenance.model_version != provenance.model_version:
            raise swapped(self._provenance.model_version, provenance.model_version, self.request_id)
        self._provenance = provenance
        self._usages.append(read_usage(reply.usage))
        if reply.HasField("telemetry"):
            self._telemetry.append(read_telemetry(reply.telemetry))

    def smaller(self, batch: Batch, error: StrettoError) -> Iterator[Batch]:
        """What to send instead of a batch that was above a limit after all; what cannot be smaller has failed."""
        count = len(batch.places)
        if count > 1:
            half = count // 2
            yield Batch(batch.places[:half], batch.inputs[:half])
            yield Batch(batch.places[half:], batch.inputs[half:])
        elif count == 1 and not isinstance(error, BatchTooLarge):
            self._fail(batch.places[0], error)
        else:
            raise error

    @contextmanager
    def places(self, batch: Batch) -> Iterator[None]:
        """An error of a batch comes out with the texts' own places in it."""
        try:
            yield
        except StrettoError as error:
            _renumber(error, batch)
            raise

    def result(self) -> Embeddings:
        assert self._provenance is not None or self._items, "no reply was taken"
        return Embeddings(
            items=tuple(self._items[place] for place in range(self._count)),
            usage=_sum(self._usages),
            provenance=self._provenance or read_provenance(common_pb2.Provenance()),
            telemetry=tuple(self._telemetry),
            request_id=self.request_id,
        )

    def _close(self) -> Batch:
        batch = Batch([place for place, _ in self._open], [made for _, made in self._open])
        self._open, self._open_bytes = [], 0
        return batch

    def _fail(self, place: int, error: StrettoError) -> None:
        self._items[place] = failed_embedding(place, error)


def failed_embedding(place: int, error: StrettoError) -> Embedding:
    """A text that failed here, in the form in which a server tells it."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    return Embedding(index=place, error=error, input=None, token_ids=(), reply=embedding_pb2.EmbedResult(error=status))


def alone(place: int, size: int, limits: Limits) -> str:
    whose = "the server takes" if limits.stated else "is safe with a server that does not say what it takes"
    return f"inputs[{place}] makes a message of {size} bytes; at most {limits.request_bytes} {whose}."


def _renumber(error: StrettoError, batch: Batch) -> None:
    """The server counts the texts of a request, the caller those of the call."""

    def place(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"inputs[{batch.places[number]}]" if number < len(batch.places) else found[0]

    error.message = INPUT.sub(place, error.message)
    error.args = (error.message,)
    error.field = error.field and INPUT.sub(place, error.field)


def _sum(usages: Sequence[Usage]) -> Usage:
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
    )
