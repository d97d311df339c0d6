"""
Everything that is raised on purpose, by what happened:

StrettoError
├── InvalidRequest            the caller asked for something impossible
│   ├── InputTooLong          more tokens than the model or its cache takes
│   ├── EmptyInput            nothing to compute
│   ├── BadTokenId            an id outside the vocabulary
│   ├── BatchTooLarge         more inputs than one request may hold
│   └── ReplyTooLarge         the reply would not fit a message
├── ModelNotFound             no such model is loaded
├── AdapterNotFound           no such adapter is loaded
├── TaskNotSupported          the model cannot do that
├── ModelNotReady             it is loading, or its load failed
├── VersionMismatch           another checkpoint answers under that name
├── Overloaded                the queue is full; try again later
├── QueueTimeout              no step took the request in time
├── DeadlineExpired           the caller's deadline passed
├── SlowReader                the caller stopped reading its stream
├── Draining                  the server is stopping
├── EngineLost                the engine process died; it is being restarted
├── EngineFailure             this request raised, or gave no number
├── CheckpointError           a checkpoint cannot be read, and why
└── SourceNotFound            a model source names nothing that can be had

`reason` is the stable word that clients see; the message is for people. Of an error, only these two, `field`,
`metadata` and `retry_after` reach a client.
"""

from typing import ClassVar


class StrettoError(Exception):
    """What every deliberate error is.

    `field` is the path of the request's field at fault ("config.sampling.top_p"), where there is one;
    `metadata` holds the figures of the message as strings; `retry_after` is in seconds.
    """

    reason: ClassVar[str] = "ENGINE_ERROR"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = metadata or {}
        self.retry_after = retry_after


class InvalidRequest(StrettoError):
    reason = "INVALID_PARAMETER"


class InputTooLong(InvalidRequest):
    reason = "INPUT_TOO_LONG"


class EmptyInput(InvalidRequest):
    reason = "EMPTY_INPUT"


class BadTokenId(InvalidRequest):
    reason = "BAD_TOKEN_ID"


class BatchTooLarge(InvalidRequest):
    reason = "BATCH_TOO_LARGE"


class ReplyTooLarge(InvalidRequest):
    reason = "REPLY_TOO_LARGE"


class ModelNotFound(StrettoError):
    reason = "MODEL_NOT_FOUND"


class AdapterNotFound(StrettoError):
    reason = "ADAPTER_NOT_FOUND"


class TaskNotSupported(StrettoError):
    reason = "TASK_NOT_SUPPORTED"


class ModelNotReady(StrettoError):
    reason = "MODEL_NOT_READY"


class VersionMismatch(StrettoError):
    reason = "VERSION_MISMATCH"


class Overloaded(StrettoError):
    reason = "QUEUE_FULL"


class QueueTimeout(StrettoError):
    reason = "QUEUE_TIMEOUT"


class DeadlineExpired(StrettoError):
    reason = "DEADLINE"


class SlowReader(StrettoError):
    reason = "SLOW_READER"


class Draining(StrettoError):
    reason = "DRAINING"


class EngineLost(StrettoError):
    reason = "ENGINE_LOST"


class EngineFailure(StrettoError):
    reason = "ENGINE_ERROR"


class CheckpointError(StrettoError):
    reason = "BAD_CHECKPOINT"


class SourceNotFound(StrettoError):
    reason = "SOURCE_NOT_FOUND"
