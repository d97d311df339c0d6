"""Proves that any number of texts is embedded: in requests that the server takes, in order, never held whole."""

import asyncio
import gc
import itertools
import logging
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy
import pytest

from stretto.client import (
    Aborted,
    AsyncClient,
    Client,
    Embedding,
    InputTooLong,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    ReplyTooLarge,
    StrettoError,
    Unauthenticated,
)
from stretto.client.corpus import WINDOW
from stretto.client.gathering import IN_FLIGHT
from stretto.client.vectors import decoded
from stretto.v1 import common_pb2, embedding_pb2, server_pb2

PATIENCE = 10
Embed = Callable[..., Any]


def limits(**named: int) -> server_pb2.GetServerInfoResponse:
    return server_pb2.GetServerInfoResponse(**{"max_request_bytes": 1 << 20, **named})


@pytest.fixture(params=["sync", "async"])
def embed(request, server) -> Embed:
    """Either client's embed."""

    def sync(texts: Iterable[Any], **options: Any) -> Any:
        with Client(server.target) as client:
            return client.embed(texts, **options)

    async def awaited(texts: Any, **options: Any) -> Any:
        async with AsyncClient(server.target) as client:
            return await client.embed(texts, **options)

    return sync if request.param == "sync" else lambda texts, **options: asyncio.run(awaited(texts, **options))


@pytest.fixture(params=["sync", "async"])
def stream(request, server) -> Embed:
    """Either client's embed_stream: the items and the stream."""

    def sync(texts: Iterable[Any], **options: Any) -> Any:
        with Client(server.target) as client:
            made = client.embed_stream(texts, **options)
            return list(made), made

    async def awaited(texts: Any, **options: Any) -> Any:
        async with AsyncClient(server.target) as client:
            made = client.embed_stream(texts, **options)
            return [item async for item in made], made

    return sync if request.param == "sync" else lambda texts, **options: asyncio.run(awaited(texts, **options))


def numbered(count: int) -> Iterator[str]:
    return ("x" * number for number in range(1, count + 1))


def lengths(items: Iterable[Any]) -> list[float]:
    return [item.vector[0] for item in items]


def test_any_iterable_comes_back_in_order_from_requests_of_the_server_s_size(embed: Embed, server) -> None:
    server.limits = limits(max_inputs_per_request=3)
    vectors = embed(numbered(10), request_id="r", telemetry=True)
    assert lengths(vectors) == list(range(1, 11))
    assert vectors.shape == (10, 3)
    assert [item.index for item in vectors] == list(range(10))
    assert sorted(len(request.inputs) for request in server.requests) == [1, 3, 3, 3]
    assert sorted(request.options.request_id for request in server.requests) == ["r", "r-2", "r-3", "r-4"]
    assert (vectors.usage.prompt_tokens, vectors.usage.total_tokens) == (10, 20)
    assert [telemetry.step_count for telemetry in vectors.telemetry] == [4, 4, 4, 4]


def test_no_request_is_above_the_limit_in_bytes(embed: Embed, server) -> None:
    server.limits = limits(max_request_bytes=1000)
    assert lengths(embed(numbered(100))) == list(range(1, 101))
    assert len(server.requests) > 5
    assert max(request.ByteSize() for request in server.requests) <= 1000


def test_no_reply_is_asked_for_that_may_be_above_the_limit(embed: Embed, server) -> None:
    server.limits = limits(max_response_bytes=100_000)
    embed(numbered(30))
    assert max(len(request.inputs) for request in server.requests) * 4096 * 4 <= 100_000


def test_a_request_that_is_refused_for_its_size_goes_in_halves(embed: Embed, server) -> None:
    server.accepted_inputs = 3
    vectors = embed(numbered(20))
    assert lengths(vectors) == list(range(1, 21))
    assert vectors.usage.prompt_tokens == 20


def test_a_text_whose_reply_alone_is_refused_fails_alone(embed: Embed, server) -> None:
    server.accepted_inputs = 0
    vectors = embed(["a", "b"])
    assert [type(error) for error in vectors.errors.values()] == [ReplyTooLarge, ReplyTooLarge]


def test_the_limits_are_asked_once_for_each_client(server) -> None:
    with Client(server.target) as client:
        for _ in range(3):
            client.embed(["a"])
        list(client.embed_stream(["a"]))
    assert server.info_count == 1


def test_a_server_that_says_no_limits_gets_small_requests_and_the_log_says_so(embed: Embed, server, caplog) -> None:
    server.limits = None
    with caplog.at_level(logging.INFO, "stretto.client"):
        assert lengths(embed(numbered(200))) == list(range(1, 201))
    assert max(len(request.inputs) for request in server.requests) == 64
    assert "does not say its limits" in caplog.text


def test_several_requests_are_under_way_and_never_more_than_a_few(server) -> None:
    server.limits = limits(max_inputs_per_request=1)
    server.going_on.clear()

    def texts() -> Iterator[str]:
        for number in range(20):
            if number == IN_FLIGHT:  # the last that is read before the first request has to land
                with server.changed:
                    assert server.changed.wait_for(lambda: server.in_flight == IN_FLIGHT - 1, PATIENCE)
                server.going_on.set()
            yield "x" * (number + 1)

    with Client(server.target) as client:
        assert lengths(client.embed(texts())) == list(range(1, 21))
    assert IN_FLIGHT - 1 <= server.most_in_flight <= IN_FLIGHT


def test_a_text_above_the_message_limit_fails_alone_and_is_not_cut(embed: Embed, server) -> None:
    server.limits = limits(max_request_bytes=1000)
    vectors = embed(["a", "x" * 2000, "ccc"])
    assert isinstance(vectors[1].error, MessageTooLarge)
    assert (vectors[1].error.field, vectors[1].error.reason) == ("inputs[1]", "MESSAGE_TOO_LARGE")
    assert "1000" in vectors[1].error.message
    assert vectors[1].reply.error.message == vectors[1].error.message
    assert [vectors[0].vector[0], vectors[2].vector[0]] == [1, 3]
    assert not any("xx" in text.text for request in server.requests for text in request.inputs)


def test_errors_count_the_texts_of_the_call_not_of_a_request(embed: Embed, server) -> None:
    server.limits = limits(max_inputs_per_request=2)
    vectors = embed(["a", "b", "fail by place", "d"])
    assert vectors[2].error.message.startswith("inputs[2].text")
    with pytest.raises(InvalidRequest, match=r"^inputs\[3\]\.text is refused") as caught:
        embed(["a", "b", "c", "refused"])
    assert str(caught.value).startswith("inputs[3]")


def test_vectors_of_two_checkpoints_are_never_put_together(server) -> None:
    server.limits = limits(max_inputs_per_request=1)

    def texts() -> Iterator[str]:
        for number in range(10):
            if number == 7:
                server.version = "v2"
            yield "x"

    with Client(server.target) as client, pytest.raises(Aborted, match=r"'v1', then 'v2'"):
        client.embed(texts())


def test_no_texts_at_all_are_the_server_s_to_refuse(embed: Embed, server) -> None:
    embed(iter(()))
    assert [len(request.inputs) for request in server.requests] == [0]


@pytest.mark.parametrize("name", ["embed", "embed_stream"])
def test_an_error_of_the_texts_own_comes_out(server, name: str) -> None:
    server.limits = limits(max_inputs_per_request=1)

    def texts() -> Iterator[str]:
        yield from ("a", "b")
        raise KeyError("the reader's own")

    with Client(server.target) as client, pytest.raises(KeyError, match="reader's own"):
        list(getattr(client, name)(texts()))


def test_async_iterables_are_taken_too(server) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in numbered(10):
            await asyncio.sleep(0)
            yield text

    async def both() -> tuple[list[float], list[float]]:
        async with AsyncClient(server.target) as client:
            return lengths(await client.embed(texts())), lengths([item async for item in client.embed_stream(texts())])

    assert asyncio.run(both()) == (list(range(1, 11)), list(range(1, 11)))


def test_a_stream_gives_every_text_in_order_and_its_facts_at_the_end(stream: Embed, server) -> None:
    items, made = stream(itertools.chain(numbered(500), ["fail"]), request_id="r")
    assert lengths(items[:500]) == list(range(1, 501))
    assert [item.index for item in items] == list(range(501))
    assert isinstance(items[500].error, InputTooLong)
    assert (made.succeeded, made.failed, made.usage.prompt_tokens) == (500, 1, 501)
    assert made.provenance.model_version == "v1"


def test_a_stream_s_first_message_is_what_embed_asks(stream: Embed, embed: Embed, server) -> None:
    given = {"model": "reader", "pooling": "cls", "encoding": "int8", "truncate": "chunk", "timeout": 30.0}
    stream(["a"], **given, request_id="r")
    embed(["a"], **given, request_id="r")
    config, request = server.requests[0].config, server.requests[1]
    assert (config.model, config.config, config.options) == (request.model, request.config, request.options)


def test_a_text_too_large_for_a_stream_fails_in_its_place(stream: Embed, server) -> None:
    server.limits = limits(max_request_bytes=1000)
    items, made = stream(["x" * 2000, "a", "x" * 3000, "x" * 2000, "bb", "x" * 2000])
    assert [type(item.error) for item in items] == [
        *(MessageTooLarge, type(None), MessageTooLarge, MessageTooLarge, type(None), MessageTooLarge)
    ]
    assert [item.index for item in items] == list(range(6))
    assert (made.succeeded, made.failed) == (2, 4)


def test_a_result_of_another_text_is_never_paired_up(stream: Embed) -> None:
    with pytest.raises(InternalError, match="'7' where 1 was due"):
        stream(["a", "wrong name"])


def test_a_stream_never_reads_far_ahead_of_its_reader(server) -> None:
    taken, full = itertools.count(), threading.Event()

    def texts() -> Iterator[str]:
        for number in taken:
            if number == WINDOW:
                full.set()
            yield "unanswered"

    with Client(server.target) as client, client.embed_stream(texts()):
        assert full.wait(PATIENCE)
        for _ in range(20):  # time enough for who does not wait to go on
            client.models()
    assert server.left.get(timeout=PATIENCE)
    assert next(taken) <= WINDOW + 2  # one is in the hand that waits for room


async def test_an_async_stream_never_reads_far_ahead_of_its_reader(server) -> None:
    taken, full = itertools.count(), asyncio.Event()

    async def texts() -> AsyncIterator[str]:
        for number in taken:
            if number == WINDOW:
                full.set()
            await asyncio.sleep(0)
            yield "unanswered"

    async with AsyncClient(server.target) as client:
        async with client.embed_stream(texts()) as made:
            reading = asyncio.create_task(anext(made))
            await asyncio.wait_for(full.wait(), PATIENCE)
            for _ in range(20):
                await client.models()
            assert next(taken) <= WINDOW + 2
        with pytest.raises(StopAsyncIteration):
            await reading
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE)


def test_leaving_a_stream_cancels_it(server) -> None:
    with Client(server.target) as client:
        for item in client.embed_stream(itertools.chain(["a"], itertools.repeat("stall")), request_id="left"):
            assert item.vector[0] == 1
            break
        assert server.left.get(timeout=PATIENCE) == "left"


def test_dropping_a_stream_cancels_it(server) -> None:
    with Client(server.target) as client:
        made = client.embed_stream(itertools.chain(["a"], itertools.repeat("stall")), request_id="left")
        next(made)
        del made
        gc.collect()
        assert server.left.get(timeout=PATIENCE) == "left"


async def test_leaving_an_async_stream_cancels_it(server) -> None:
    async with AsyncClient(server.target) as client:
        async for _ in client.embed_stream(itertools.chain(["a"], itertools.repeat("stall")), request_id="left"):
            break
        gc.collect()
        assert await asyncio.to_thread(server.left.get, timeout=PATIENCE) == "left"


async def test_a_stream_that_is_refused_while_it_is_written_says_why(server) -> None:
    """grpc forgets the status for an INTERNAL of its own where a write fails after it."""
    server.refusing = True
    async with AsyncClient(server.target) as client:
        for _ in range(30):
            with pytest.raises(Unauthenticated, match="who"):
                await anext(client.embed_stream(["a text"] * 20))


async def test_what_was_answered_before_a_stream_broke_comes_though_more_was_being_sent(server) -> None:
    """A write that fails ends the call for grpc's `read` at once, whatever has come and was not read yet."""
    texts = [*["long " * 20_000] * 40, "lost", *["long " * 20_000] * 200]
    async with AsyncClient(server.target) as client:
        for _ in range(5):
            stream = client.embed_stream(texts)
            given = [(await anext(stream)).index]
            await asyncio.to_thread(server.left.get, timeout=30)
            with pytest.raises(StrettoError):
                await places(stream, given)
            assert given == list(range(40))


async def places(stream: AsyncIterator[Embedding], given: list[int]) -> None:
    async for embedding in stream:
        given.append(embedding.index)


def test_a_closed_client_says_so(server) -> None:
    client = Client(server.target)
    client.close()
    for name in ("embed", "embed_stream"):
        with pytest.raises(StrettoError, match="closed"):
            list(getattr(client, name)(["a"]))


def test_pairs_travel_as_pairs(embed: Embed, server) -> None:
    assert lengths(embed([("ab", "cde"), "f"])) == [6, 1]
    assert [text.HasField("text_pair") for text in server.requests[0].inputs] == [True, False]


def test_many_vectors_of_one_text_have_their_token_ids(embed: Embed) -> None:
    (item,) = embed(["tokens"], pooling="none")
    numpy.testing.assert_array_equal(item.vectors, [[7, 1], [8, 1], [9, 1]])
    assert item.vectors.dtype == numpy.float32
    assert item.token_ids == (7, 8, 9)
    with pytest.raises(InvalidRequest, match="3 vectors"):
        item.tolist()


VALUES = numpy.array([0.0, 1.0, -1.0, 0.333, -0.017, 65504.0, 1e-7, -2.5, 3.25], dtype=numpy.float32)


def test_every_encoding_is_read_as_numpy_reads_it() -> None:
    encodings = embedding_pb2.EmbeddingEncoding
    bfloat16 = (VALUES.view(numpy.uint32) >> 16).astype("<u2")
    whole = numpy.arange(-4, 5)
    cases = {
        "FLOAT16": (VALUES.astype("<f2").tobytes(), VALUES.astype("<f2").astype(numpy.float32)),
        "BFLOAT16": (bfloat16.tobytes(), (bfloat16.astype(numpy.uint32) << 16).view(numpy.float32)),
        "INT8": (whole.astype("<i1").tobytes(), (whole * 0.5 + 0.25).astype(numpy.float32)),
        "UINT8": ((whole + 4).astype("<u1").tobytes(), ((whole + 4) * 0.5 + 0.25).astype(numpy.float32)),
        "BINARY": (numpy.packbits(VALUES > 0).tobytes(), numpy.where(VALUES > 0, 1.0, -1.0)),
    }
    assert {f"EMBEDDING_ENCODING_{name}" for name in cases} == set(encodings.keys()[2:])
    for name, (data, expected) in cases.items():
        vector = embedding_pb2.DenseVector(
            data=data, encoding=encodings.Value(f"EMBEDDING_ENCODING_{name}"), dimensions=9, scale=0.5, offset=0.25
        )
        numpy.testing.assert_array_equal(numpy.array(decoded(vector), dtype=numpy.float32), expected, err_msg=name)


@pytest.mark.parametrize("encoding", [2, 3, 4, 5, 6, 99])
def test_bytes_of_another_length_or_encoding_are_refused(encoding: int) -> None:
    vector = embedding_pb2.DenseVector(data=struct.pack("<f", 1), encoding=encoding, dimensions=99)
    with pytest.raises(InternalError, match="4 bytes"):
        decoded(vector)


SETTINGS: dict[str, tuple[Any, str, Any]] = {
    "model": ("reader", "model", "reader"),
    "pooling": ("none", "config.pooling", common_pb2.POOLING_TYPE_NONE),
    "normalize": (False, "config.normalize", False),
    "dimensions": (2, "config.dimensions", 2),
    "encoding": ("uint8", "config.encoding", embedding_pb2.EMBEDDING_ENCODING_UINT8),
    "layer": (-2, "config.layer", -2),
    "prompt_name": ("query", "config.prompt_name", "query"),
    "prompt_text": ("passage: ", "config.prompt_text", "passage: "),
    "truncate": ("chunk", "config.overflow_policy", common_pb2.OVERFLOW_POLICY_CHUNK),
    "max_chunk_tokens": (64, "config.chunking.max_chunk_tokens", 64),
    "overlap_tokens": (8, "config.chunking.overlap_tokens", 8),
    "aggregation": ("none", "config.chunking.aggregation", common_pb2.CHUNK_AGGREGATION_NONE),
    "max_chunks": (3, "config.chunking.max_chunks", 3),
    "priority": (4, "options.priority", 4),
    "telemetry": (True, "options.include_telemetry", True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_argument_sets_its_field_and_no_other(embed: Embed, server, name: str) -> None:
    value, path, expected = SETTINGS[name]
    embed(["a"], request_id="r")
    embed(["a"], request_id="r", **{name: value})
    plain, made = server.requests
    assert plain != made
    *owners, field = path.split(".")
    found = plain
    for step in owners:
        found = getattr(found, step)
    setattr(found, field, expected)
    assert plain == made
