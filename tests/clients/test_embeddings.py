"""Proves that a batch of vectors is an array and a sequence, and that a text that failed never goes unseen."""

import subprocess
import sys

import numpy
import pytest

from stretto.client import AsyncClient, Client, Embeddings, InputTooLong, InternalError, InvalidRequest
from stretto.v1 import common_pb2, embedding_pb2

TEXTS = ["a man eats", "food", "", "two words"]
BY_HAND = [[len(text), len(text.split()), 1] for text in TEXTS]


@pytest.fixture
def client(server):
    with Client(server.target) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
async def embed(request, server):
    """Either client's embed, awaited."""
    if request.param == "async":
        async with AsyncClient(server.target) as client:
            yield client.embed
    else:
        with Client(server.target) as client:

            async def awaited(texts, **named) -> Embeddings:
                return client.embed(texts, **named)

            yield awaited


async def test_a_good_batch_is_an_array(embed) -> None:
    vectors = await embed(TEXTS)
    expected = numpy.array(BY_HAND, dtype=numpy.float32)
    for array in (vectors.vectors, numpy.asarray(vectors), numpy.stack([item.vector for item in vectors])):
        assert array.dtype == numpy.float32
        numpy.testing.assert_array_equal(array, expected)
    assert vectors.shape == (4, 3)
    assert numpy.asarray(vectors, dtype=numpy.float64).dtype == numpy.float64
    assert vectors.vectors.flags.writeable
    assert vectors.tolist() == BY_HAND
    assert not vectors.errors


def test_it_is_a_sequence_of_vectors(client: Client) -> None:
    vectors = client.embed(TEXTS)
    assert len(vectors) == 4
    assert [list(vector) for vector in vectors] == BY_HAND
    assert list(vectors[-1]) == BY_HAND[-1]
    assert [len(vector) for vector in vectors[1:3]] == [3, 3]
    assert numpy.dot(vectors[0], vectors[1]) == numpy.dot(BY_HAND[0], BY_HAND[1])
    assert vectors[0].input.token_count == 3


def test_what_a_person_sees_of_many_vectors_is_short(client: Client) -> None:
    assert repr(client.embed(TEXTS)) == "<Embeddings of 4 texts>"
    assert repr(client.embed([*TEXTS, "fail"])) == "<Embeddings of 5 texts, 1 failed>"


async def test_a_text_that_fails_leaves_the_others(embed) -> None:
    vectors = await embed(["good", "fail one", "fine too", "fail two"], request_id="r")
    assert list(vectors[0].vector) == [4, 1, 1]
    assert list(vectors[2].vector) == [8, 2, 1]
    assert isinstance(vectors[1].error, InputTooLong)
    assert vectors[1].error.request_id == "r"
    assert vectors[0].error is None
    assert sorted(vectors.errors) == [1, 3]


@pytest.mark.parametrize("use", [numpy.asarray, lambda it: it.vectors, lambda it: it.shape, lambda it: it.tolist()])
def test_the_array_of_a_batch_with_failures_raises_the_first(client: Client, use) -> None:
    with pytest.raises(InputTooLong, match="fail one") as caught:
        use(client.embed(["good", "fail one", "fail two"]))
    assert caught.value.__notes__ == ["2 of 3 texts failed: [1, 2]."]


def test_the_vector_of_a_failed_text_raises_its_error(client: Client) -> None:
    (failed,) = client.embed(["fail"])
    for use in (lambda: failed.vector, lambda: list(failed), lambda: numpy.asarray(failed)):
        with pytest.raises(InputTooLong):
            use()


def test_a_reply_of_another_length_is_never_paired_up(client: Client) -> None:
    with pytest.raises(InternalError, match="1 results for 2 texts"):
        client.embed(["good", "one too few"])


def test_every_argument_reaches_the_server(client: Client, server) -> None:
    client.embed(
        [[1, 2], [3]],
        model="reader",
        pooling="last_token",
        normalize=False,
        dimensions=2,
        prompt_name="query",
        truncate="middle",
        priority=4,
        request_id="r",
        timeout=30,
    )
    expected = embedding_pb2.EmbedRequest(
        model="reader",
        inputs=[common_pb2.TextInput(token_ids=common_pb2.TokenIds(ids=ids)) for ids in ([1, 2], [3])],
        config=embedding_pb2.EmbedConfig(
            pooling=common_pb2.POOLING_TYPE_LAST_TOKEN,
            normalize=False,
            dimensions=2,
            prompt_name="query",
            overflow_policy=common_pb2.OVERFLOW_POLICY_TRUNCATE_MIDDLE,
        ),
        options=common_pb2.RequestOptions(request_id="r", priority=4),
    )
    expected.options.timeout.FromSeconds(30)
    assert server.requests == [expected]


@pytest.mark.parametrize(
    ("texts", "named", "field"),
    [
        ("one text", {}, "inputs"),
        (["a"], {"pooling": "average"}, "pooling"),
        (["a"], {"dimensions": -1}, "config.dimensions"),
        (["a"], {"prompt_name": "a", "prompt_text": "b"}, "config.prompt_name"),
        (["a", "\ud800"], {}, "inputs[1].text"),
        ([[1], [-1]], {}, "inputs[1].token_ids.ids"),
        ([None], {}, "inputs[0]"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(client: Client, server, texts, named, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.embed(texts, **named)
    assert caught.value.field == field
    assert not server.requests


def test_a_reply_may_be_larger_than_grpc_allows_by_itself(client: Client) -> None:
    assert client.embed(["big"]).shape == (1, 1_200_000)


def test_without_numpy_vectors_are_lists(server) -> None:
    script = f"""
import sys
sys.modules["numpy"] = None
from stretto.client import Client
with Client({server.target!r}) as client:
    vectors = client.embed({TEXTS!r})
    assert vectors.vectors == vectors.tolist() == {BY_HAND!r}, vectors.vectors
    assert vectors[1].vector == {BY_HAND[1]!r}
    assert vectors.shape == (4, 3)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_client_loads_neither_torch_nor_numpy_nor_msgspec() -> None:
    script = """
import sys
import stretto.client
loaded = {"torch", "numpy", "msgspec", "stretto.engine", "stretto.server", "stretto.cli"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
