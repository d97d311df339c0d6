"""
What a call can raise, by what happened; nothing else of the transport ever reaches the caller.

StrettoError
├── InvalidRequest            the request asks for something impossible
│   ├── InputTooLong          more tokens than the model or its cache takes
│   ├── EmptyInput            nothing to compute
│   ├── BadTokenId            an id outside the vocabulary
│   ├── BatchTooLarge         more inputs than one request may hold
│   └── ReplyTooLarge         the reply would not fit a message
├── ModelNotFound             no such model is loaded
├── AdapterNotFound           no such adapter is loaded
├── FailedPrecondition        the server cannot do this as things stand
│   ├── TaskNotSupported      the model cannot do that
│   ├── ModelNotReady         it is loading, or its load failed
│   └── VersionMismatch       another checkpoint answers under that name
├── Overloaded                too much is waiting; try again after `retry_after` seconds
│   ├── QueueTimeout          no step took the request in time
│   └── TenantLimit           the caller's own rate or share is used up
├── MessageTooLarge           a message above the limit of one end
├── SlowReader                the stream was read too slowly
├── DeadlineExceeded          the time that the call was given is over
│   └── DeadlineUnreachable   the server saw at the door that it would be
├── Unavailable               nothing answers, or the server is starting, stopping or recovering
├── Unauthenticated           no valid token came with the call
├── PermissionDenied          the token does not allow this
├── Cancelled                 somebody other than the caller cancelled it
├── Aborted                   the model was replaced meanwhile
├── NotImplementedByServer    an older server, or not a stretto server at all
├── InternalError             the server failed; its log has the rest under the request id
└── ClientClosed              the client was closed before the call
"""

from collections.abc import Mapping
from functools import partial

import grpc


class StrettoError(Exception):
    """What every error of this package is.

    `code` is the gRPC status, `reason` the stable word of the server ("INPUT_TOO_LONG"), `field` the path of the
    request's field at fault ("config.sampling.top_p") or None, `metadata` the figures of the message as strings,
    `retry_after` the seconds to wait that the server asked for or None, `target` the address that was called
    ("" where the request never left this process).
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str,
        field: str | None = None,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        target: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field = field
        self.request_id = request_id
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        """How a pool of processes sends it back: by itself Exception gives the message alone to `__init__`."""
        made = partial(type(self), self.message, code=self.code, reason=self.reason)
        return made, (), vars(self)


class InvalidRequest(StrettoError):
    """The request asks for something impossible; `field` says where. Raised by this package, too, before it calls."""


class InputTooLong(InvalidRequest):
    """More tokens than the model takes: see metadata for both figures."""


class EmptyInput(InvalidRequest):
    """There is nothing to compute."""


class BadTokenId(InvalidRequest):
    """A token id outside the vocabulary."""


class BatchTooLarge(InvalidRequest):
    """More inputs than one request may hold."""


class ReplyTooLarge(InvalidRequest):
    """The reply would not fit a message; the message says how many inputs do."""


class ModelNotFound(StrettoError):
    """No such model is loaded."""


class AdapterNotFound(StrettoError):
    """No such adapter is loaded."""


class FailedPrecondition(StrettoError):
    """The server cannot do this as things stand."""


class TaskNotSupported(FailedPrecondition):
    """The model cannot do that; the message says what it can."""


class ModelNotReady(FailedPrecondition):
    """The model is loading, or its load failed."""


class VersionMismatch(FailedPrecondition):
    """Another checkpoint than the expected one answers under that name."""


class Overloaded(StrettoError):
    """Too much is waiting already; try again after `retry_after` seconds."""


class QueueTimeout(Overloaded):
    """No step took the request within its queue_timeout."""


class TenantLimit(Overloaded):
    """The caller's own rate or share is used up, whatever the others do."""


class MessageTooLarge(StrettoError):
    """A request or a reply is above the message limit of one end."""


class SlowReader(StrettoError):
    """The server ended a stream whose reader stalled."""


class DeadlineExceeded(StrettoError):
    """The call's `timeout` is over. `max_tokens` or `time_limit` end an answer before; a stream keeps its pieces."""


class DeadlineUnreachable(DeadlineExceeded):
    """The server saw at the door that what waits before the call takes longer than its `timeout`."""


class Unavailable(StrettoError):
    """Nothing answers, or the server is starting, stopping or recovering; `reason` says which.

    Without a connection it is UNREACHABLE, UNKNOWN_HOST, HUNG_UP, or of TLS UNTRUSTED or NOT_ENCRYPTED.
    """


class Unauthenticated(StrettoError):
    """No valid token came with the call."""


class PermissionDenied(StrettoError):
    """The token does not allow this."""


class Cancelled(StrettoError):
    """Somebody other than the caller cancelled the call."""


class Aborted(StrettoError):
    """The model was replaced while it answered."""


class NotImplementedByServer(StrettoError):
    """The server does not know this call."""


class InternalError(StrettoError):
    """The server failed, or sent what no server should; its log has the rest under `request_id`."""


class ClientClosed(StrettoError):
    """The client was closed before the call."""


def invalid(message: str, field: str) -> InvalidRequest:
    """A refusal of this package's own: the request never left."""
    return InvalidRequest(message, code=grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_PARAMETER", field=field)


def too_large(message: str, field: str, request_id: str) -> MessageTooLarge:
    """One text alone is above the limit of a message."""
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return MessageTooLarge(message, code=code, reason="MESSAGE_TOO_LARGE", field=field, request_id=request_id)


def swapped(before: str, now: str, request_id: str) -> Aborted:
    """Vectors of two checkpoints do not belong together."""
    message = f"the model was replaced between two requests of one call: {before!r}, then {now!r}."
    return Aborted(message, code=grpc.StatusCode.ABORTED, reason="MODEL_SWAPPED", request_id=request_id)


def broken(message: str, request_id: str = "") -> InternalError:
    """The server sent what no server should."""
    return InternalError(message, code=grpc.StatusCode.INTERNAL, reason="MALFORMED_REPLY", request_id=request_id)
