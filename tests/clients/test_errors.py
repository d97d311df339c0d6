"""Proves that every way a call can fail comes out as the error of that name, with what the server said of it."""

import asyncio
import copy
import socket

import grpc
import pytest

import stretto.client
from stretto.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InternalError,
    ModelNotFound,
    StrettoError,
    Unavailable,
)
from stretto.client.statuses import BY_CODE, BY_REASON

# The reasons that the API promises, each with its code.
REASONS = {
    "INVALID_PARAMETER": ("INVALID_ARGUMENT", "InvalidRequest"),
    "MALFORMED_MESSAGE": ("INVALID_ARGUMENT", "InvalidRequest"),
    "INPUT_TOO_LONG": ("INVALID_ARGUMENT", "InputTooLong"),
    "EMPTY_INPUT": ("INVALID_ARGUMENT", "EmptyInput"),
    "BATCH_TOO_LARGE": ("INVALID_ARGUMENT", "BatchTooLarge"),
    "REPLY_TOO_LARGE": ("INVALID_ARGUMENT", "ReplyTooLarge"),
    "BAD_CONSTRAINT": ("INVALID_ARGUMENT", "InvalidRequest"),
    "BAD_TOKEN_ID": ("INVALID_ARGUMENT", "BadTokenId"),
    "MODEL_NOT_FOUND": ("NOT_FOUND", "ModelNotFound"),
    "ADAPTER_NOT_FOUND": ("NOT_FOUND", "AdapterNotFound"),
    "TASK_NOT_SUPPORTED": ("FAILED_PRECONDITION", "TaskNotSupported"),
    "MODEL_NOT_READY": ("FAILED_PRECONDITION", "ModelNotReady"),
    "VERSION_MISMATCH": ("FAILED_PRECONDITION", "VersionMismatch"),
    "QUEUE_FULL": ("RESOURCE_EXHAUSTED", "Overloaded"),
    "QUEUE_TIMEOUT": ("RESOURCE_EXHAUSTED", "QueueTimeout"),
    "TENANT_LIMIT": ("RESOURCE_EXHAUSTED", "TenantLimit"),
    "MESSAGE_TOO_LARGE": ("RESOURCE_EXHAUSTED", "MessageTooLarge"),
    "SLOW_READER": ("RESOURCE_EXHAUSTED", "SlowReader"),
    "DEADLINE": ("DEADLINE_EXCEEDED", "DeadlineExceeded"),
    "DEADLINE_UNREACHABLE": ("DEADLINE_EXCEEDED", "DeadlineUnreachable"),
    "DRAINING": ("UNAVAILABLE", "Unavailable"),
    "STARTING": ("UNAVAILABLE", "Unavailable"),
    "ENGINE_LOST": ("UNAVAILABLE", "Unavailable"),
    "MODEL_SWAPPED": ("ABORTED", "Aborted"),
    "ENGINE_ERROR": ("INTERNAL", "InternalError"),
    "A_REASON_OF_NEXT_YEAR": ("PERMISSION_DENIED", "PermissionDenied"),
}


@pytest.fixture
def client(server):
    with Client(server.target) as client:
        yield client


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_has_its_error_and_keeps_what_was_said(client: Client, reason: str) -> None:
    code, kind = REASONS[reason]
    with pytest.raises(StrettoError) as caught:
        client.generate(f"fail:{code}:{reason}", request_id="r1")
    error = caught.value
    assert type(error) is getattr(stretto.client, kind)
    assert (error.code, error.reason, error.message) == (grpc.StatusCode[code], reason, "a message with 1.7.")
    assert (error.field, error.metadata, error.retry_after) == ("config.sampling.top_p", {"max": "64"}, 0.25)
    assert (error.request_id, error.target) == ("r1", client.target)


def test_an_unknown_model_is_named_with_the_server_s_own_request_id(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="nobody") as caught:
        client.model("nobody")
    assert caught.value.request_id == "made by the server"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_without_details_is_an_error_of_ours(client: Client, code: grpc.StatusCode) -> None:
    with pytest.raises(StrettoError) as caught:
        client.generate(f"fail:{code.name}:")
    assert type(caught.value) is BY_CODE.get(code, InternalError)
    assert caught.value.code is code
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "CANCELLED", "UNAVAILABLE", "INTERNAL", "UNKNOWN"])
async def test_the_async_client_raises_the_same(server, code: str) -> None:
    async with AsyncClient(server.target) as client:
        with pytest.raises(StrettoError) as unary:
            await client.generate(f"fail:{code}:SOME_REASON")
        with pytest.raises(StrettoError) as stream:
            [piece async for piece in client.stream(f"fail:{code}:SOME_REASON")]
    assert type(unary.value) is type(stream.value) is BY_CODE.get(grpc.StatusCode[code], InternalError)


def test_every_error_is_exported_and_has_a_door() -> None:
    kinds = {*BY_REASON.values(), *BY_CODE.values()}
    assert all(kind.__name__ in stretto.client.__all__ for kind in kinds)


def test_an_error_is_copied_with_all_it_knows_as_a_pool_of_processes_does(client: Client) -> None:
    with pytest.raises(StrettoError) as caught:
        client.generate("fail:RESOURCE_EXHAUSTED:QUEUE_FULL")
    caught.value.add_note("of worker 3")
    again = copy.deepcopy(caught.value)
    assert type(again) is type(caught.value)
    assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))


def test_the_timeout_of_a_call_ends_it(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match=client.target) as caught:
        client.generate("slow:", timeout=0.05)
    assert caught.value.reason == "DEADLINE"


def test_the_timeout_of_the_client_holds_where_a_call_has_none(server) -> None:
    with Client(server.target, timeout=0.05) as client, pytest.raises(DeadlineExceeded):
        client.generate("slow:")


def test_nothing_answers_is_said_with_the_address() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else gets the port and nobody answers
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(target) as client, pytest.raises(Unavailable) as caught:
            client.generate("hi")
        assert caught.value.message == f"nothing answers at {target} (connection refused)."
        assert caught.value.reason == "UNREACHABLE"
        with pytest.raises(Unavailable, match="nothing answers"):
            asyncio.run(ask(target))


async def ask(target: str) -> None:
    async with AsyncClient(target) as client:
        await client.generate("hi")


@pytest.mark.parametrize("kind", ["flaky", "dropped"])  # says UNAVAILABLE; is just stopping and says CANCELLED
def test_what_no_server_has_begun_is_asked_again(client: Client, server, kind: str) -> None:
    assert client.generate(f"{kind}: one", request_id="again").text == f"one {kind}:"
    assert server.attempts["again"] == 3


async def test_the_async_client_asks_again_too(server) -> None:
    async with AsyncClient(server.target) as client:
        assert (await client.generate("flaky: one", request_id="again")).text == "one flaky:"
        pieces = [piece.text async for piece in client.stream("flaky: one", request_id="stream")]
    assert "".join(pieces) == "one flaky:"
    assert server.attempts == {"again": 3, "stream": 3}


def test_what_a_server_refused_is_not_asked_again(client: Client, server) -> None:
    with pytest.raises(StrettoError):
        client.generate("fail:RESOURCE_EXHAUSTED:QUEUE_FULL", request_id="once")
    assert server.attempts["once"] == 1
