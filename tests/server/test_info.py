"""Proves that GetServerInfo says what the settings say, and answers when nothing else does."""

import asyncio
import importlib.metadata

from stretto.server.announcements import Stopped, Stopping
from stretto.v1 import generation_pb2
from stretto.v1 import server_pb2 as pb


async def asked(running):
    return await running.info.GetServerInfo(pb.GetServerInfoRequest())


async def test_it_says_what_the_server_was_told(serve):
    told = {"max_request_bytes": 70_000, "max_response_bytes": 80_000, "max_inputs": 7, "max_queue_requests": 9}
    async with serve(**told) as running:
        info = await asked(running)
    assert info.version == importlib.metadata.version("stretto")
    assert list(info.api_versions) == ["stretto.v1"]
    assert (info.max_request_bytes, info.max_response_bytes) == (70_000, 80_000)
    assert (info.max_inputs_per_request, info.max_queue_size, info.cpu_threads) == (7, 9, 2)
    assert (info.device, info.kernels) == ("cpu", "torch")


async def test_nothing_is_left_out(serve):
    async with serve(threads=1) as running:
        info = await asked(running)
    assert {field.name for field, _ in info.ListFields()} == {field.name for field in info.DESCRIPTOR.fields}


async def test_the_uptime_grows(running):
    first, second = [(await asked(running)).uptime.ToNanoseconds() for _ in range(2)]
    assert 0 < first < second < 60e9


async def test_the_devices_are_those_of_the_models_that_are_ready(running):
    running.engine.put("reader", device="cuda:0")
    assert (await asked(running)).device == "cpu; cuda:0"
    running.engine.put("writer", state="failed")
    assert (await asked(running)).device == "cuda:0"


async def test_it_answers_before_the_models_are_known_and_while_the_server_stops(serve):
    async with serve(loaded=False, threads=3) as running:
        before = await asked(running)
        assert (before.device, before.cpu_threads, before.kernels) == ("", 3, "")
        await running.server.load()
        running.engine.go_on = asyncio.Event()
        request = generation_pb2.GenerateStreamRequest(request=generation_pb2.GenerateRequest(text="a"))
        await running.generation.GenerateStream(request).read()
        drain = asyncio.create_task(running.server.drain(asyncio.Event()))
        await running.announced.heard(Stopping)
        assert (await asked(running)).device == "cpu"
        assert not drain.done()
        running.engine.go_on.set()
        await drain
        assert running.announced[-1] == Stopped(num_finished=1, num_cut=0)
