"""Proves how a server starts and stops: ports that are taken, requests that finish, requests that are cut, signals."""

import asyncio
import os
import signal
import socket

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stretto.engine.errors import Overloaded
from stretto.server.announcements import EngineDown, Listening, ModelFailed, ModelReady, Stopped, Stopping
from stretto.server.app import Signals, options
from stretto.server.config import load
from stretto.server.ports import CannotListen, holder
from stretto.v1 import generation_pb2 as pb


def generate(running):
    return running.generation.Generate(pb.GenerateRequest(text="a"))


async def begun(running):
    """A stream that waits for its first token."""
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a")))
    await call.read()
    return call


async def until(true):
    """Let the loop run until something is so."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became so")


async def draining(running, hurry):
    """Begin to drain; returns when the server says so."""
    drain = asyncio.create_task(running.server.drain(hurry))
    await running.announced.heard(Stopping)
    return drain


async def test_what_runs_when_the_server_stops_finishes_and_nothing_new_begins(running):
    running.engine.go_on = asyncio.Event()
    call = await begun(running)
    drain = await draining(running, asyncio.Event())
    health = health_pb2_grpc.HealthStub(running.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await running.get("/readyz"))[0] == 503
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(running)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "DRAINING" in running.log.getvalue()
    running.engine.go_on.set()
    kinds = [(await call.read()).WhichOneof("event") for _ in range(6)]
    assert kinds == ["delta"] * 5 + ["finished"]
    assert await call.read() is grpc.aio.EOF
    await drain
    assert running.announced[-2:] == [Stopping(num_running=1, grace_seconds=30), Stopped(num_finished=1, num_cut=0)]


async def test_before_the_models_are_known_nothing_is_answered(serve):
    async with serve(loaded=False) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "STARTING" in running.log.getvalue()
        await running.server.load()
        assert (await generate(running)).candidates


def draining_details(error):
    """The reason and whether there is a time to come back, of a call that was cut."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    found = status_pb2.Status.FromString(raw).details
    return error_details_pb2.ErrorInfo.FromString(found[0].value).reason, len(found)


async def test_what_does_not_finish_in_the_grace_is_cut_and_told_so(serve):
    async with serve(grace_seconds=0.2) as running:
        running.engine.go_on = asyncio.Event()
        stream = await begun(running)
        unary = generate(running)
        await until(lambda: len(running.engine.calls) == 2)
        drain = asyncio.create_task(running.server.drain(asyncio.Event()))
        for waiting in (stream.read(), unary):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await waiting
            assert draining_details(caught.value) == ("DRAINING", 2)
        await drain
        assert running.announced[-1] == Stopped(num_finished=0, num_cut=2)
        assert running.engine.num_left == 2
        assert "CANCELLED" not in running.log.getvalue()


async def test_a_stream_that_nobody_reads_does_not_hold_up_the_stop(serve):
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    async with serve(grace_seconds=0.2, channel_options=small_window) as running:
        running.engine.piece = "x" * 1_000_000
        await begun(running)
        await asyncio.wait_for(running.server.drain(asyncio.Event()), 5)
        assert running.announced[-1] == Stopped(num_finished=0, num_cut=1)


async def test_health_answers_while_nothing_else_gets_in(running):
    running.engine.refusal = Overloaded("512 requests are waiting; the limit is 512.")
    health = health_pb2_grpc.HealthStub(running.channel)
    for _ in range(50):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(running)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_thousand_streams_of_one_channel_are_all_ours_to_answer(running):
    """Above its own limit of streams grpc refuses without a word, and its clients call that UNAVAILABLE."""
    running.engine.go_on = asyncio.Event()
    async with asyncio.timeout(60):
        streams = await asyncio.gather(*(begun(running) for _ in range(1000)))
        running.engine.go_on.set()
        messages = await asyncio.gather(*(stream.read() for stream in streams))
    assert {message.WhichOneof("event") for message in messages} == {"delta"}


async def test_a_second_signal_cuts_at_once(running):
    running.engine.go_on = asyncio.Event()
    await begun(running)
    hurry = asyncio.Event()
    drain = await draining(running, hurry)
    assert not drain.done()
    hurry.set()
    await asyncio.wait_for(drain, 5)
    assert running.announced[-1] == Stopped(num_finished=0, num_cut=1)


async def test_the_life_of_a_server_is_announced(running):
    await running.announced.heard(ModelReady, times=2)
    assert isinstance(running.announced[0], Listening)
    assert [each.card.name for each in running.announced if isinstance(each, ModelReady)] == ["writer", "reader"]
    running.engine.alive = False
    running.engine.put("reader", state="failed", error="broken")
    await running.announced.heard(ModelFailed)
    assert any(isinstance(each, EngineDown) for each in running.announced)


@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
async def test_a_port_that_is_taken_is_refused_with_who_holds_it_and_what_to_do(serve, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen) as caught:
            async with serve(**{name: f"127.0.0.1:{port}"}):
                pass
    assert f"process {os.getpid()} (" in str(caught.value)
    assert f"--{name.replace('_', '-')} 127.0.0.1:" in str(caught.value)


async def test_a_second_server_is_refused_on_the_same_port(running, serve):
    with pytest.raises(CannotListen):
        async with serve(listen=running.target):
            pass


async def test_an_address_that_this_machine_has_not_is_refused(serve):
    with pytest.raises(CannotListen, match="cannot listen on 192"):
        async with serve(listen="192.0.2.1:1", insecure="true"):
            pass


def test_a_free_port_is_held_by_nobody():
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    assert holder(port) is None


async def test_the_first_signal_asks_and_the_second_insists():
    signals = Signals()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(signals.first.wait(), 5)
        assert not signals.second.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(signals.second.wait(), 5)
        assert signals.number == signal.SIGINT
    finally:
        signals.forget()


async def test_a_watcher_that_breaks_ends_the_wait(running):
    async def broken():
        raise RuntimeError("a bug")

    running.server._tasks.append(asyncio.create_task(broken()))
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(running.server.race(asyncio.Event().wait()), 5)


def test_the_limits_of_messages_are_those_of_the_settings():
    found = dict(options(load({"max_request_bytes": "5000", "max_response_bytes": "9000"}, {}, None)))
    assert found["grpc.max_receive_message_length"] == 5000
    assert found["grpc.max_send_message_length"] == 9000
    assert found["grpc.so_reuseport"] == 0
