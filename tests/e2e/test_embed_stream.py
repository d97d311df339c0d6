"""EmbedStream over the whole server with the real sentence encoder: the vectors of Embed, and nothing left behind."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from numpy.typing import NDArray

from stretto.v1 import common_pb2, embedding_pb2_grpc
from stretto.v1 import embedding_pb2 as pb

LONG = " ".join(f"w{i}" for i in range(200))
QUESTION = "How do I reset my password?"


@pytest.fixture
def stub(server: Any) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield embedding_pb2_grpc.EmbeddingServiceStub(channel)  # type: ignore[no-untyped-call]


def texts(*given: str) -> list[common_pb2.TextInput]:
    return [common_pb2.TextInput(text=text) for text in given]


def vector(result: pb.EmbedResult) -> NDArray[np.float32]:
    (one,) = result.embedding.vectors
    return np.array(one.values, np.float32)


def streamed(stub: Any, given: list[str], **config: Any) -> list[pb.EmbedStreamResponse]:
    opening = pb.EmbedStreamRequest(config=pb.EmbedStreamConfig(config=pb.EmbedConfig(**config)))
    items = (
        pb.EmbedStreamRequest(item=pb.EmbedStreamItem(item_id=str(place), input=common_pb2.TextInput(text=text)))
        for place, text in enumerate(given)
    )
    return list(stub.EmbedStream(message for part in ([opening], items) for message in part))


def test_a_thousand_texts_through_a_stream_get_the_vectors_of_embed(stub: Any) -> None:
    given = [f"text number {place}: " + "word " * (place % 40) for place in range(1000)]
    started, *items, end = streamed(stub, given)
    assert started.started.model == "all-minilm-l6-v2"
    assert [each.item.item_id for each in items] == [str(place) for place in range(1000)]
    assert (end.summary.succeeded_count, end.summary.failed_count) == (1000, 0)
    answer = stub.Embed(pb.EmbedRequest(inputs=texts(*given)))
    assert end.summary.usage == answer.usage
    wanted = np.stack([vector(result) for result in answer.results])
    np.testing.assert_allclose(np.stack([vector(each.item.result) for each in items]), wanted, atol=1e-5)


def test_a_text_that_is_too_long_fails_alone_is_cut_or_is_chunked_as_it_is_asked(stub: Any) -> None:
    _, bad, good, _ = streamed(stub, [LONG, QUESTION], overflow_policy=common_pb2.OVERFLOW_POLICY_ERROR)
    info = error_details_pb2.ErrorInfo()
    assert bad.item.result.error.details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("INPUT_TOO_LONG", {"token_count": "531", "max": "256"})
    np.testing.assert_allclose(vector(good.item.result)[:4], [0.0069, -0.06302, -0.07204, -0.0325], atol=1e-4)
    _, cut, _ = streamed(stub, [LONG])
    assert cut.item.result.embedding.input == common_pb2.InputReport(
        token_count=256, truncated_tokens=275, chunk_count=1
    )
    _, chunked, _ = streamed(stub, [LONG], overflow_policy=common_pb2.OVERFLOW_POLICY_CHUNK)
    assert chunked.item.result.embedding.input == common_pb2.InputReport(token_count=535, chunk_count=3)
    assert np.linalg.norm(vector(chunked.item.result)) == pytest.approx(1, abs=1e-5)


def test_fewer_dimensions_are_the_first_of_the_vector_that_is_not_normalised(stub: Any) -> None:
    whole, short = (
        stub.Embed(pb.EmbedRequest(inputs=texts(QUESTION), config=pb.EmbedConfig(normalize=False, dimensions=count)))
        for count in (384, 64)
    )
    np.testing.assert_allclose(vector(short.results[0]), vector(whole.results[0])[:64], atol=1e-6)


def test_a_client_killed_in_the_middle_of_a_stream_leaves_nothing_behind(
    server: Any, stub: Any, eventually: Callable[..., None]
) -> None:
    code = f"""
import sys, grpc
from stretto.v1 import common_pb2, embedding_pb2 as pb, embedding_pb2_grpc
stub = embedding_pb2_grpc.EmbeddingServiceStub(grpc.insecure_channel(sys.argv[1]))
def messages():
    yield pb.EmbedStreamRequest(config=pb.EmbedStreamConfig())
    while True:
        yield pb.EmbedStreamRequest(item=pb.EmbedStreamItem(input=common_pb2.TextInput(text={LONG!r})))
for message in stub.EmbedStream(messages()):
    print("x", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code, server.target], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        for _ in range(20):
            victim.stdout.readline()
        victim.kill()

    def idle() -> bool:
        figures = server.metrics()
        names = ("stretto_requests_in_progress", "stretto_queue_requests", "stretto_queue_tokens")
        return not any(value for key, value in figures.items() if key.startswith(names))

    eventually(idle, 10.0)
    assert vector(stub.Embed(pb.EmbedRequest(inputs=texts(QUESTION))).results[0]).shape == (384,)
