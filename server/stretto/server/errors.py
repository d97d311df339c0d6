"""How an error looks on the wire: one table from exception to status code, and the google.rpc details beside it."""

import math
import uuid

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from stretto.engine.errors import (
    AdapterNotFound,
    CheckpointError,
    DeadlineExpired,
    Draining,
    EngineFailure,
    EngineLost,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    QueueTimeout,
    SlowReader,
    SourceNotFound,
    StrettoError,
    TaskNotSupported,
    VersionMismatch,
)

DOMAIN = "stretto"
Code = grpc.StatusCode


class MalformedMessage(InvalidRequest):
    """The bytes of the request are not a message of its type."""

    reason = "MALFORMED_MESSAGE"


class Starting(StrettoError):
    """The server listens already, and does not know its models yet."""

    reason = "STARTING"


class Unauthenticated(StrettoError):
    """The call has no bearer token that this server knows."""

    reason = "UNAUTHENTICATED"


class TenantLimit(Overloaded):
    """One client asks more than one client may."""

    reason = "TENANT_LIMIT"


CODES: dict[type[StrettoError], grpc.StatusCode] = {
    InvalidRequest: Code.INVALID_ARGUMENT,
    ModelNotFound: Code.NOT_FOUND,
    AdapterNotFound: Code.NOT_FOUND,
    SourceNotFound: Code.NOT_FOUND,
    TaskNotSupported: Code.FAILED_PRECONDITION,
    ModelNotReady: Code.FAILED_PRECONDITION,
    VersionMismatch: Code.FAILED_PRECONDITION,
    CheckpointError: Code.FAILED_PRECONDITION,
    Overloaded: Code.RESOURCE_EXHAUSTED,
    QueueTimeout: Code.RESOURCE_EXHAUSTED,
    SlowReader: Code.RESOURCE_EXHAUSTED,
    DeadlineExpired: Code.DEADLINE_EXCEEDED,
    Starting: Code.UNAVAILABLE,
    Draining: Code.UNAVAILABLE,
    EngineLost: Code.UNAVAILABLE,
    EngineFailure: Code.INTERNAL,
    Unauthenticated: Code.UNAUTHENTICATED,
    StrettoError: Code.INTERNAL,
}

# How long to wait before trying again, where the error itself does not say. The others are not worth repeating.
RETRY_SECONDS: dict[type[StrettoError], float] = {
    Overloaded: 1.0,
    TenantLimit: 1.0,
    QueueTimeout: 1.0,
    Starting: 1.0,
    Draining: 1.0,
    EngineLost: 1.0,
}

RESOURCES: dict[type[StrettoError], str] = {
    ModelNotFound: "stretto.v1.Model",
    AdapterNotFound: "stretto.v1.Adapter",
    SourceNotFound: "stretto.v1.Model",
}

# A status travels in trailing metadata, of which a client takes 8 KiB; and a message may quote what a client sent.
MAX_MESSAGE_BYTES = 700
MAX_METADATA_BYTES = 200


def unexpected() -> EngineFailure:
    """What the caller hears of an error that nobody foresaw: nothing but where its text can be found."""
    error_id = uuid.uuid4().hex[:12]
    return EngineFailure(
        f"An unexpected error ended this request. The server's log has its text under error id {error_id}.",
        metadata={"error_id": error_id},
    )


def code_of(error: StrettoError) -> grpc.StatusCode:
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def retry_seconds(error: StrettoError) -> float | None:
    return error.retry_after if error.retry_after is not None else RETRY_SECONDS.get(type(error))


def status_of(error: StrettoError) -> status_pb2.Status:
    """The status of a whole request, or of one input among many."""
    code: tuple[int, str] = code_of(error).value
    status = status_pb2.Status(code=code[0], message=_cut(error.message, MAX_MESSAGE_BYTES))
    status.details.extend(_packed(detail) for detail in _details(error, status.message))
    return status


def _details(error: StrettoError, message: str) -> list[Message]:
    metadata = {key: _cut(value, MAX_METADATA_BYTES) for key, value in error.metadata.items()}
    found: list[Message] = [details.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.field is not None:
        violation = details.BadRequest.FieldViolation(field=_cut(error.field, MAX_METADATA_BYTES), description=message)
        found.append(details.BadRequest(field_violations=[violation]))
    if kind := RESOURCES.get(type(error)):
        name = metadata.get("model", metadata.get("adapter", ""))
        found.append(details.ResourceInfo(resource_type=kind, resource_name=name, description=message))
    if code_of(error) is Code.FAILED_PRECONDITION:
        failure = details.PreconditionFailure.Violation(
            type=error.reason, subject=metadata.get("model", ""), description=message
        )
        found.append(details.PreconditionFailure(violations=[failure]))
    if (seconds := retry_seconds(error)) is not None:
        delay = Duration()
        delay.FromNanoseconds(math.ceil(seconds * 1e9))
        found.append(details.RetryInfo(retry_delay=delay))
    return found


def _packed(detail: Message) -> Any:
    packed = Any()
    packed.Pack(detail)
    return packed


def _cut(text: str, limit: int) -> str:
    """The text, or as much of it as fits with a visible mark at the end."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "..."
