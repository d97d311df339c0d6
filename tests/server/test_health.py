"""Proves that health follows the models, the engine and the drain, and that reflection is where it should be."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stretto.engine.errors import Overloaded
from stretto.server.config import load
from stretto.v1 import generation_pb2 as pb

Status = health_pb2.HealthCheckResponse
ALL = (
    "",
    "stretto.v1.GenerationService",
    "stretto.v1.EmbeddingService",
    "stretto.v1.ModelService",
    "stretto.v1.TokenizerService",
    "stretto.v1.ServerService",
    "stretto.model.writer",
    "stretto.model.reader",
)

WEIGHTLESS = {"stretto.v1.ModelService", "stretto.v1.TokenizerService", "stretto.v1.ServerService"}


async def serving(running):
    """The names that are serving."""
    stub = health_pb2_grpc.HealthStub(running.channel)
    answers = {name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ALL}
    return {name for name, status in answers.items() if status == Status.SERVING}


async def settled(running, expected):
    """Watch each name until exactly these are serving."""
    stub = health_pb2_grpc.HealthStub(running.channel)
    async with asyncio.timeout(5):
        for name in ALL:
            call = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            while (await call.read()).status != (Status.SERVING if name in expected else Status.NOT_SERVING):
                pass
            call.cancel()
    assert await serving(running) == expected


async def test_a_loaded_server_serves_under_every_name(running):
    await settled(running, set(ALL))
    assert (await running.get("/readyz"))[0] == 200


async def test_nothing_serves_before_the_models_are_ready(serve):
    async with serve(loaded=False) as running:
        assert await serving(running) == WEIGHTLESS
        status, reasons = await running.get("/readyz")
        assert (status, "writer is loading" in reasons) == (503, True)
        assert (await running.get("/healthz"))[0] == 200
        await running.server.load()
        await settled(running, set(ALL))


async def test_a_model_that_fails_takes_down_what_needs_it_and_nothing_else(running):
    running.engine.put("writer", state="failed", error="no tensor")
    await settled(running, WEIGHTLESS | {"stretto.v1.EmbeddingService", "stretto.model.reader"})
    assert await running.get("/readyz") == (503, "writer is failed\n")


async def test_a_lost_engine_serves_nothing_until_it_is_back(running):
    running.engine.alive = False
    running.engine.changed()
    await settled(running, WEIGHTLESS)
    assert (await running.get("/readyz"))[0] == 503
    running.engine.alive = True
    running.engine.changed()
    await settled(running, set(ALL))


async def test_who_watches_hears_of_the_change(running):
    await settled(running, set(ALL))
    stub = health_pb2_grpc.HealthStub(running.channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service="stretto.model.writer"))
    assert (await call.read()).status == Status.SERVING
    running.engine.put("writer", state="failed")
    assert (await call.read()).status == Status.NOT_SERVING
    call.cancel()


async def test_who_watches_goes_on_hearing_when_another_watcher_leaves(running):
    stub = health_pb2_grpc.HealthStub(running.channel)
    calls = [stub.Watch(health_pb2.HealthCheckRequest(service="stretto.model.writer")) for _ in range(3)]
    for call in calls:
        assert (await call.read()).status == Status.SERVING
    calls[0].cancel()
    for status in ("failed", "ready"):
        running.engine.put("writer", state=status)
        for call in calls[1:]:
            async with asyncio.timeout(5):
                assert (await call.read()).status == (Status.SERVING if status == "ready" else Status.NOT_SERVING)
    for call in calls[1:]:
        call.cancel()


async def test_a_watcher_that_does_not_read_holds_up_nothing(running):
    await settled(running, set(ALL))
    stuck = Stuck()
    name = health_pb2.HealthCheckRequest(service="stretto.model.writer")
    watching = asyncio.create_task(running.server._health.Watch(name, stuck))
    await asyncio.wait_for(stuck.writing.wait(), 5)
    running.engine.put("writer", state="failed")
    await settled(running, WEIGHTLESS | {"stretto.v1.EmbeddingService", "stretto.model.reader"})
    watching.cancel()


class Stuck:
    """The context of a call whose client reads nothing."""

    def __init__(self):
        self.writing = asyncio.Event()

    async def write(self, message):
        self.writing.set()
        await asyncio.Event().wait()


async def test_who_watches_hears_of_the_drain_at_once_and_every_name_but_an_unknown_one_stops(running):
    await settled(running, set(ALL))
    running.engine.go_on = asyncio.Event()
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a")))
    await call.read()
    watch = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == Status.SERVING
    drain = asyncio.create_task(running.server.drain(asyncio.Event()))
    async with asyncio.timeout(5):
        assert (await watch.read()).status == Status.NOT_SERVING
    assert await serving(running) == set()
    assert not drain.done()
    running.engine.go_on.set()
    while await call.read() is not grpc.aio.EOF:
        pass
    await drain


async def test_a_server_that_refuses_requests_for_want_of_room_is_healthy(running):
    await settled(running, set(ALL))
    running.engine.refusal = Overloaded("full")
    with pytest.raises(grpc.aio.AioRpcError):
        await running.generation.Generate(pb.GenerateRequest(text="a"))
    assert await serving(running) == set(ALL)
    assert (await running.get("/readyz"))[0] == 200


async def test_an_unknown_name_is_not_found_and_may_be_watched(running):
    stub = health_pb2_grpc.HealthStub(running.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    call = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await call.read()).status == Status.SERVICE_UNKNOWN
    call.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_under_both_of_its_names(running, version):
    ask = running.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await call.read()
    assert {each.name for each in answer.list_services_response.service} == {
        "stretto.v1.GenerationService",
        "stretto.v1.EmbeddingService",
        "stretto.v1.ModelService",
        "stretto.v1.TokenizerService",
        "stretto.v1.ServerService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    call.cancel()


async def test_reflection_can_be_turned_off(serve):
    async with serve(reflection="off") as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("reflection", "listen", "expected"),
    [
        ("auto", "127.0.0.1:1", True),
        ("auto", "[::1]:1", True),
        ("auto", "0.0.0.0:1", False),
        ("on", "0.0.0.0:1", True),
        ("off", "127.0.0.1:1", False),
    ],
)
def test_reflection_is_on_by_default_where_only_this_machine_can_ask(reflection, listen, expected):
    settings = load({"reflection": reflection, "listen": listen, "insecure": "true"}, {}, None)
    assert settings.reflects is expected
    assert replace(settings, reflection="on").reflects
