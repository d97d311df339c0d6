"""Proves that every error has its code, reason and details on the wire, and that nothing unforeseen gets out."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from stretto.engine import errors
from stretto.engine.errors import StrettoError
from stretto.server.errors import CODES, code_of, status_of
from stretto.v1 import common_pb2, embedding_pb2
from stretto.v1 import generation_pb2 as pb

Code = grpc.StatusCode

# API.md's table of errors, by hand.
WIRE = {
    "INVALID_PARAMETER": Code.INVALID_ARGUMENT,
    "INPUT_TOO_LONG": Code.INVALID_ARGUMENT,
    "EMPTY_INPUT": Code.INVALID_ARGUMENT,
    "BATCH_TOO_LARGE": Code.INVALID_ARGUMENT,
    "REPLY_TOO_LARGE": Code.INVALID_ARGUMENT,
    "BAD_TOKEN_ID": Code.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": Code.NOT_FOUND,
    "ADAPTER_NOT_FOUND": Code.NOT_FOUND,
    "TASK_NOT_SUPPORTED": Code.FAILED_PRECONDITION,
    "MODEL_NOT_READY": Code.FAILED_PRECONDITION,
    "VERSION_MISMATCH": Code.FAILED_PRECONDITION,
    "QUEUE_FULL": Code.RESOURCE_EXHAUSTED,
    "QUEUE_TIMEOUT": Code.RESOURCE_EXHAUSTED,
    "SLOW_READER": Code.RESOURCE_EXHAUSTED,
    "DEADLINE": Code.DEADLINE_EXCEEDED,
    "DRAINING": Code.UNAVAILABLE,
    "ENGINE_LOST": Code.UNAVAILABLE,
    "ENGINE_ERROR": Code.INTERNAL,
}

DELIBERATE = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, StrettoError) and kind is not StrettoError
]


def unpacked(status):
    found = {}
    for packed in status.details:
        kind = getattr(details, packed.type_url.rpartition(".")[2])
        found[kind.__name__] = kind()
        assert packed.Unpack(found[kind.__name__])
    return found


def status_from(error):
    """The rich status of a failed call, which must agree with the plain one."""
    (raw,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return status


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("kind", DELIBERATE, ids=lambda kind: kind.__name__)
def test_every_deliberate_error_is_in_the_table_of_codes(kind):
    assert any(parent in CODES for parent in kind.__mro__ if parent is not StrettoError)
    if kind.reason in WIRE:
        assert code_of(kind("")) is WIRE[kind.reason]


@pytest.mark.parametrize("kind", [kind for kind in DELIBERATE if kind.reason in WIRE], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("method", ["Generate", "GenerateStream", "Embed"])
async def test_an_error_of_the_engine_reaches_the_caller_whole(running, kind, method):
    running.engine.refusal = kind("what happened", field="model", metadata={"limit": "7"}, retry_after=2.5)
    error = await failed(asked(running, method))
    found = unpacked(status_from(error))
    assert error.code() is WIRE[kind.reason]
    assert error.details() == "what happened"
    assert found["ErrorInfo"] == details.ErrorInfo(reason=kind.reason, domain="stretto", metadata={"limit": "7"})
    assert [(each.field, each.description) for each in found["BadRequest"].field_violations] == [
        ("model", "what happened")
    ]
    assert found["RetryInfo"].retry_delay == Duration(seconds=2, nanos=500_000_000)
    assert ("grpc-retry-pushback-ms", "2500") in tuple(error.trailing_metadata())


def asked(running, method):
    generate = pb.GenerateRequest(text="hello")
    if method == "Generate":
        return running.generation.Generate(generate)
    if method == "GenerateStream":
        return running.generation.GenerateStream(pb.GenerateStreamRequest(request=generate)).read()
    return running.embedding.Embed(embedding_pb2.EmbedRequest(inputs=[common_pb2.TextInput(text="a")]))


async def test_a_name_that_is_not_loaded_is_described_as_a_resource(running):
    error = await failed(running.generation.Generate(pb.GenerateRequest(model="nobody", text="a")))
    resource = unpacked(status_from(error))["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == ("stretto.v1.Model", "nobody")


async def test_an_adapter_is_not_found(running):
    error = await failed(running.generation.Generate(pb.GenerateRequest(adapter="mine", text="a")))
    found = unpacked(status_from(error))
    assert (error.code(), found["ErrorInfo"].reason) == (Code.NOT_FOUND, "ADAPTER_NOT_FOUND")
    assert found["ResourceInfo"].resource_name == "mine"


def test_a_failed_precondition_says_what_is_missing():
    error = errors.TaskNotSupported("reader cannot generate", metadata={"model": "reader"})
    (violation,) = unpacked(status_of(error))["PreconditionFailure"].violations
    assert (violation.type, violation.subject) == ("TASK_NOT_SUPPORTED", "reader")


@pytest.mark.parametrize("kind", [errors.Overloaded, errors.QueueTimeout, errors.Draining, errors.EngineLost])
def test_what_passes_says_when_to_come_back(kind):
    assert unpacked(status_of(kind("")))["RetryInfo"].retry_delay == Duration(seconds=1)


async def test_an_error_after_the_first_token_ends_the_stream_with_its_status(running):
    running.engine.failure = errors.EngineLost("the engine process died")
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a")))
    assert (await call.read()).HasField("started")
    assert (await call.read()).HasField("delta")
    error = await failed(call.read())
    assert error.code() is Code.UNAVAILABLE
    assert unpacked(status_from(error))["ErrorInfo"].reason == "ENGINE_LOST"


async def test_an_unforeseen_error_is_an_id_for_the_caller_and_a_traceback_for_the_log(running):
    running.engine.failure = RuntimeError("a secret at 0x7f00")
    error = await failed(running.generation.Generate(pb.GenerateRequest(text="a")))
    info = unpacked(status_from(error))["ErrorInfo"]
    assert (error.code(), info.reason) == (Code.INTERNAL, "ENGINE_ERROR")
    assert "secret" not in error.details()
    assert info.metadata["error_id"] in error.details()
    assert info.metadata["error_id"] in running.log.getvalue()
    assert "RuntimeError: a secret at 0x7f00" in running.log.getvalue()


@pytest.mark.parametrize("method", ["Generate", "GenerateStream", "Embed"])
@pytest.mark.parametrize("error", [RuntimeError("a secret"), ValueError("a secret"), MemoryError("a secret")])
async def test_no_method_tells_its_caller_what_nobody_foresaw(running, method, error):
    running.engine.refusal = error
    told = await failed(asked(running, method))
    assert unpacked(status_from(told))["ErrorInfo"].reason == "ENGINE_ERROR"
    assert "secret" not in str(told)
    assert "a secret" in running.log.getvalue()


async def test_a_deadline_of_the_message_ends_the_request(running):
    running.engine.go_on = asyncio.Event()
    options = common_pb2.RequestOptions(timeout=Duration(nanos=100_000_000))
    error = await failed(running.generation.Generate(pb.GenerateRequest(text="a", options=options)))
    assert unpacked(status_from(error))["ErrorInfo"].reason == "DEADLINE"


@pytest.mark.parametrize("letter", ["a", "é", "字", "😀", "\n"])
async def test_a_long_message_is_cut_so_that_the_status_arrives(running, letter):
    error = await failed(running.generation.Generate(pb.GenerateRequest(model=letter * 100_000, text="a")))
    assert error.code() is Code.NOT_FOUND
    assert error.details().endswith("...")
    assert unpacked(status_from(error))["ErrorInfo"].reason == "MODEL_NOT_FOUND"
