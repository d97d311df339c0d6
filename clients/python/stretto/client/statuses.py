"""From a gRPC failure to the exception that names it: the only place that reads status details."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from stretto.client import errors

BY_REASON: dict[str, type[errors.StrettoError]] = {
    "INPUT_TOO_LONG": errors.InputTooLong,
    "EMPTY_INPUT": errors.EmptyInput,
    "BAD_TOKEN_ID": errors.BadTokenId,
    "BATCH_TOO_LARGE": errors.BatchTooLarge,
    "REPLY_TOO_LARGE": errors.ReplyTooLarge,
    "ADAPTER_NOT_FOUND": errors.AdapterNotFound,
    "TASK_NOT_SUPPORTED": errors.TaskNotSupported,
    "MODEL_NOT_READY": errors.ModelNotReady,
    "VERSION_MISMATCH": errors.VersionMismatch,
    "QUEUE_TIMEOUT": errors.QueueTimeout,
    "TENANT_LIMIT": errors.TenantLimit,
    "DEADLINE_UNREACHABLE": errors.DeadlineUnreachable,
    "MESSAGE_TOO_LARGE": errors.MessageTooLarge,
    "SLOW_READER": errors.SlowReader,
}
BY_CODE: dict[grpc.StatusCode, type[errors.StrettoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.ABORTED: errors.Aborted,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByServer,
}
CODES = {code.value[0]: code for code in grpc.StatusCode}
LARGER_THAN_MAX = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")
NO_CONNECTION = (
    ("CERTIFICATE_VERIFY_FAILED", "UNTRUSTED", "shows a certificate that none of the trusted authorities has signed."),
    ("Hostname Verification Check failed", "UNTRUSTED", "shows a certificate that is for another name."),
    ("WRONG_VERSION_NUMBER", "NOT_ENCRYPTED", "does not speak TLS, and this client does."),
    (
        "last error: UNAVAILABLE: ",
        "HUNG_UP",
        "closes every connection: either it stops, or it speaks TLS and this client does not.",
    ),
)
DETAILS, REQUEST_ID = "grpc-status-details-bin", "x-request-id"


class Failure(Protocol):
    """What a failed call is, in both of grpc's flavours."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def from_status(status: status_pb2.Status, *, request_id: str, target: str) -> errors.StrettoError:
    """The exception for a google.rpc.Status: of a whole call, or of one input of a batch."""
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, metadata, field, retry_after = "", {}, None, None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            field = violations[0].field if violations else None
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
        elif detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR):
            request_id = error_details_pb2.RequestInfo.FromString(detail.value).request_id or request_id
    message = status.message or f"the server answered {code.name} and no message."
    if not reason:
        reason, message = _in_our_words(code, message, target)
    kind = BY_REASON.get(reason) or BY_CODE.get(code, errors.InternalError)
    return kind(
        message,
        code=code,
        reason=reason,
        field=field,
        request_id=metadata.get("request_id") or request_id,
        metadata=metadata,
        retry_after=retry_after,
        target=target,
    )


def from_failure(failure: Failure, *, request_id: str, target: str) -> errors.StrettoError:
    """The exception for a failed call."""
    code, message = failure.code(), failure.details() or ""
    trailers = _trailers(failure)
    request_id = trailers.get(REQUEST_ID) or request_id
    status = _details(trailers.get(DETAILS, b""))
    if status is None or status.code != code.value[0]:
        status = status_pb2.Status(code=code.value[0], message=message)
    return from_status(status, request_id=request_id, target=target)


@contextmanager
def translated(*, request_id: str, target: str) -> Iterator[None]:
    """Whatever grpc raises inside comes out as a StrettoError."""
    try:
        yield
    except grpc.RpcError as failure:
        raise from_failure(failure, request_id=request_id, target=target) from None
    except ValueError as failure:  # grpc's word for a closed channel
        if "closed" not in str(failure):
            raise
        raise closed(target) from None
    except grpc.aio.UsageError:
        raise closed(target) from None


def closed(target: str) -> errors.ClientClosed:
    return errors.ClientClosed(
        f"this client of {target} is closed; make a new one.",
        code=grpc.StatusCode.FAILED_PRECONDITION,
        reason="CLIENT_CLOSED",
        target=target,
    )


def _trailers(failure: Failure) -> dict[str, Any]:
    """Text, or bytes under keys that end in -bin; none where the far side never answered."""
    pairs: Iterable[tuple[str, Any]] = failure.trailing_metadata() or ()  # type: ignore[assignment]
    return {pair[0]: pair[1] for pair in pairs}


def _details(data: bytes) -> status_pb2.Status | None:
    """The rich status in the trailers; one that is torn is as good as none, the plain code and message remain."""
    try:
        return status_pb2.Status.FromString(data) if data else None
    except DecodeError:
        return None


def _in_our_words(code: grpc.StatusCode, message: str, target: str) -> tuple[str, str]:
    """Reason and message of a status without details: grpc's own, on this end or the other."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := LARGER_THAN_MAX.search(message)):
        end = "the server" if message.startswith("SERVER:") else "this client"
        return "MESSAGE_TOO_LARGE", f"a message of {sizes[1]} bytes is above the limit of {end}, {sizes[2]}."
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            "DEADLINE",
            f"no whole answer of {target} within the timeout; a longer one, or a smaller `max_tokens`, helps.",
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return _of_the_connection(message, target)
    return code.name, message


def _of_the_connection(message: str, target: str) -> tuple[str, str]:
    """Why there is no connection, by the words that grpc has for it."""
    for words, reason, sentence in NO_CONNECTION:
        if words in message:
            return reason, f"{target} {sentence}"
    cause = message.rsplit(": ", 1)[-1].rstrip("]")
    if "errors resolving" in message or "resolution" in message:
        return "UNKNOWN_HOST", f"{target} has no address ({cause[:1].lower()}{cause[1:]})."
    if "connect" in message:
        return "UNREACHABLE", f"nothing answers at {target} ({cause[:1].lower()}{cause[1:]})."
    return "CONNECTION_LOST", f"the connection to {target} broke: {message}"
