"""Proves that leaving a stream, by any way, cancels it on the server, and that a torn one never passes for whole."""

import asyncio
import gc

import pytest

from stretto.client import AsyncClient, Cancelled, Client, InternalError, Unavailable

PATIENCE = 10  # seconds that a cancel may take on a busy machine; it takes milliseconds


@pytest.fixture
def client(server):
    with Client(server.target) as client:
        yield client


def test_break_cancels(client: Client, server) -> None:
    for piece in client.stream("endless story", request_id="left"):
        assert piece.text == "story "
        break
    assert server.left.get(timeout=PATIENCE) == "left"


def test_an_exception_in_the_loop_cancels(client: Client, server) -> None:
    def read() -> None:
        for _ in client.stream("endless story", request_id="left"):
            raise RuntimeError("the reader's own")

    with pytest.raises(RuntimeError, match="reader's own"):
        read()
    assert server.left.get(timeout=PATIENCE) == "left"


def test_dropping_a_stream_cancels(client: Client, server) -> None:
    stream = client.stream("endless story", request_id="left")
    next(stream)
    del stream
    gc.collect()
    assert server.left.get(timeout=PATIENCE) == "left"


def test_a_stream_is_a_context_and_ends_after_it(client: Client, server) -> None:
    with client.stream("endless story", request_id="left") as stream:
        next(stream)
    assert server.left.get(timeout=PATIENCE) == "left"
    assert list(stream) == []
    assert stream.usage is None


async def test_break_cancels_an_async_stream(server) -> None:
    async with AsyncClient(server.target) as client:
        async for _ in client.stream("endless story", request_id="left"):
            break
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE) == "left"


async def test_dropping_an_async_stream_cancels(server) -> None:
    async with AsyncClient(server.target) as client:
        stream = client.stream("endless story", request_id="left")
        await anext(stream)
        del stream
        gc.collect()
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE) == "left"


async def test_an_async_stream_is_a_context(server) -> None:
    async with AsyncClient(server.target) as client:
        async with client.stream("endless story", request_id="left") as stream:
            await anext(stream)
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE) == "left"
        assert [piece async for piece in stream] == []


async def test_cancelling_the_task_that_reads_cancels_the_request(server) -> None:
    async with AsyncClient(server.target) as client:
        first = asyncio.Event()

        async def read() -> None:
            async for _ in client.stream("endless story", request_id="left"):
                first.set()

        task = asyncio.create_task(read())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE) == "left"


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("broken", Unavailable, "ENGINE_LOST"),
        ("cut off here", InternalError, "MALFORMED_REPLY"),
        ("jump over tokens", InternalError, "MALFORMED_REPLY"),
        ("killed", Cancelled, "CANCELLED"),
    ],
)
class TestATornStream:
    """What came before the tear is given, then the error."""

    def test_raises(self, client: Client, server, text, error, reason) -> None:
        with pytest.raises(error) as caught:
            list(client.stream(text, request_id="torn", resume=False))
        assert (caught.value.reason, caught.value.request_id) == (reason, "torn")
        assert server.attempts["torn"] == 1  # and is not asked again

    async def test_raises_in_the_async_client(self, server, text, error, reason) -> None:
        async with AsyncClient(server.target) as client:
            with pytest.raises(error) as caught:
                [piece async for piece in client.stream(text, request_id="torn", resume=False)]
        assert (caught.value.reason, caught.value.request_id) == (reason, "torn")
        assert server.attempts["torn"] == 1
