"""Proves who gets in: tokens by their hashes, every method of every service, and no word of a token anywhere."""

import argparse
import hashlib
import json
from contextlib import suppress

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stretto.cli import token as command
from stretto.cli.failure import CommandFailed
from stretto.server.auth import Tokens, new_token, read_tokens
from stretto.server.config import ConfigError
from stretto.server.errors import Unauthenticated
from stretto.v1 import generation_pb2 as pb

ALICE, BOB = "alice-canary-5e1f", "bob-canary-77aa"
HEALTH = "/grpc.health.v1.Health/"


def line(name, token):
    return f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()}"


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        path = tmp_path / "tokens.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def file(written):
    return written("# who may call", "", line("alice", ALICE), line("bob", BOB))


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.fixture
async def registered(monkeypatch):
    """Every method that any server gets from now on, by its path, as grpc is told of it."""
    found = []
    kind = type(grpc.aio.server())
    add = kind.add_generic_rpc_handlers

    def note(server, handlers):
        found.extend(path for handler in handlers for path in handler._method_handlers)
        add(server, handlers)

    monkeypatch.setattr(kind, "add_generic_rpc_handlers", note)
    return found


async def test_without_a_token_every_method_but_health_is_refused(registered, serve, file):
    async with serve(token_file=str(file), reflection="on") as running:
        assert len(registered) > 8
        for method in registered:
            call = running.channel.stream_stream(method)(iter([b""]))
            if method.startswith(HEALTH):
                await call.read()
                call.cancel()
                continue
            error = await failed(call.read())
            assert (method, error.code()) == (method, grpc.StatusCode.UNAUTHENTICATED)
        assert not running.engine.calls


async def test_with_a_token_no_method_is_refused_for_want_of_one(registered, serve, file):
    async with serve(token_file=str(file), reflection="on") as running:
        for method in registered:
            call = running.channel.stream_stream(method)(iter([b""]), metadata=bearer(ALICE))
            with suppress(grpc.aio.AioRpcError):
                await call.read()
            call.cancel()
            assert (method, await call.code()) != (method, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_refusal_says_what_to_send_and_carries_its_reason(serve, file):
    async with serve(token_file=str(file)) as running:
        error = await failed(running.generation.Generate(pb.GenerateRequest(text="a")))
        trailing = dict(error.trailing_metadata())
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(info)
        assert (info.reason, info.domain) == ("UNAUTHENTICATED", "stretto")
        assert "authorization: Bearer TOKEN" in error.details()
        assert trailing["x-request-id"]
        (seen,) = [json.loads(each) for each in running.log.getvalue().splitlines()]
        assert (seen["code"], seen["method"]) == ("UNAUTHENTICATED", "Generate")


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", ALICE),),
        (("authorization", f"Basic {ALICE}"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer"),),
        (("authorization", f"Bearer  {ALICE}"),),
        (("authorization", f"Bearer {ALICE}x"),),
        (("authorization", f"Bearer {line('alice', ALICE)}"),),
        (("authorization", f"Bearer {hashlib.sha256(ALICE.encode()).hexdigest()}"),),
        (("authorization", "Bearer " + ALICE * 300),),
        (("authorization-bin", f"Bearer {ALICE}".encode()),),
        (("x-api-key", ALICE),),
        bearer(ALICE) * 2,
        bearer(ALICE) + bearer(BOB),
        bearer("wrong") + bearer(ALICE),
    ],
    ids=range(14),
)
async def test_anything_but_one_known_bearer_token_is_refused(serve, file, metadata):
    async with serve(token_file=str(file)) as running:
        error = await failed(running.generation.Generate(pb.GenerateRequest(text="a"), metadata=metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(file, scheme):
    assert read_tokens(file).name_of([("authorization", f"{scheme} {BOB}")]) == "bob"


async def test_health_needs_no_token(serve, file):
    async with serve(token_file=str(file)) as running:
        answer = await health_pb2_grpc.HealthStub(running.channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_name_of_a_token_is_the_tenant_and_is_in_the_log(serve, file):
    async with serve(token_file=str(file)) as running:
        for token in (ALICE, BOB):
            await running.generation.Generate(pb.GenerateRequest(text="a"), metadata=bearer(token))
        assert [call.options.tenant for call in running.engine.calls] == ["alice", "bob"]
        assert [json.loads(each)["client"] for each in running.log.getvalue().splitlines()] == ["alice", "bob"]


async def test_no_token_gets_into_logs_errors_or_metrics(serve, file):
    async with serve(token_file=str(file), log_level="debug") as running:
        running.engine.failure = RuntimeError("a bug")
        told = ""
        for metadata in (bearer(ALICE), bearer(f"{BOB}x"), (("authorization", f"Basic {BOB}"),), bearer(ALICE) * 2):
            told += str(await failed(running.generation.Generate(pb.GenerateRequest(text="a"), metadata=metadata)))
        told += running.log.getvalue() + (await running.get("/metrics"))[1] + repr(read_tokens(file))
        assert "a bug" in told
        assert "canary" not in told


def problems(path):
    with pytest.raises(ConfigError) as caught:
        read_tokens(path)
    return caught.value.problems


def test_every_mistake_in_a_file_is_told_at_once_with_its_line_and_nothing_is_quoted(written):
    good = line("alice", ALICE)
    path = written(
        good,
        ALICE,
        f"bob {BOB}",
        "",
        "carol sha256:1234",
        f"dave sha256:{'G' * 64}",
        f"erin md5:{'a' * 64}",
        line("alice", BOB),
        line("frank", ALICE),
        f"{good} more",
        line("a/b", "x"),
    )
    found = problems(path)
    assert [int(problem.split(":")[1]) for problem in found] == [2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert f"{path}:8: has the name of line 1." in found
    assert f"{path}:9: has the hash of line 1." in found
    assert "canary" not in " ".join(found)


@pytest.mark.parametrize("text", [[], ["# nobody"], [""]])
def test_a_file_without_anybody_is_refused(written, text):
    assert "names nobody" in problems(written(*text))[0]


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path):
    assert problems(tmp_path / "none.txt") == [f"{tmp_path / 'none.txt'}: cannot be read: No such file or directory."]
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    assert "is not text in UTF-8" in problems(tmp_path / "raw")[0]


def asked(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_command_shows_a_token_once_and_its_line_apart(capsys, written):
    assert asked("carol") == 0
    out, err = capsys.readouterr()
    said = err.splitlines()[-1]
    assert read_tokens(written(said)).name_of(bearer(out.strip())) == "carol"
    assert out.strip() not in err
    assert len(out.strip()) == 43


def test_the_command_makes_another_token_each_time(capsys):
    made = []
    for _ in range(20):
        asked("carol", "--json")
        made.append(json.loads(capsys.readouterr().out))
    assert len({each["token"] for each in made}) == 20
    assert made[0]["line"] == line("carol", made[0]["token"])


@pytest.mark.parametrize("name", ["", "two words", "a:b", "-x", "x" * 65, "\n"])
def test_a_name_that_no_line_could_have_is_refused(name):
    with pytest.raises(CommandFailed) as caught:
        asked("--", name)
    assert caught.value.exit_code == 2
    with pytest.raises(ValueError, match="letters"):
        new_token(name)


def test_nobody_is_known_to_an_empty_list():
    with pytest.raises(Unauthenticated):
        Tokens([]).name_of(bearer(ALICE))
