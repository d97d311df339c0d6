"""Proves that Embed's vectors are the engine's to the bit, that inputs fail alone, and that no reply is too large."""

import re

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as pb


def texts(*given):
    return [common_pb2.TextInput(text=text) for text in given]


def numbers(result):
    (vector,) = result.embedding.vectors
    assert (vector.dimensions, vector.encoding) == (len(vector.values), pb.EMBEDDING_ENCODING_FLOAT32)
    return np.array(vector.values, np.float32)


async def test_vectors_come_in_the_order_of_their_texts(running):
    answer = await running.embedding.Embed(pb.EmbedRequest(model="reader", inputs=texts("abc", "a")))
    assert [numbers(result).tolist() for result in answer.results] == [[3, 1, 2, 3], [1, 1, 2, 3]]
    assert [result.embedding.input.token_count for result in answer.results] == [3, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
    assert answer.provenance.model_version == "sha256:bb"
    assert answer.provenance.numerics == common_pb2.NUMERICS_EXACT


async def test_token_ids_are_an_input_too(running):
    inputs = [common_pb2.TextInput(token_ids=common_pb2.TokenIds(ids=[5, 6]))]
    answer = await running.embedding.Embed(pb.EmbedRequest(inputs=inputs))
    assert numbers(answer.results[0])[0] == 2


async def test_bad_inputs_fail_alone_with_their_place_and_reason(running):
    inputs = [
        *texts("abc", ""),
        common_pb2.TextInput(),
        common_pb2.TextInput(token_ids=common_pb2.TokenIds(ids=[1]), text_pair="b"),
        *texts("ab"),
    ]
    results = (await running.embedding.Embed(pb.EmbedRequest(inputs=inputs))).results
    assert [result.WhichOneof("result") for result in results] == ["embedding", "error", "error", "error", "embedding"]
    assert numbers(results[4])[0] == 2
    found = []
    for result in results[1:4]:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert result.error.details[0].Unpack(info)
        assert result.error.details[1].Unpack(bad)
        found.append((result.error.code, info.reason, bad.field_violations[0].field))
    invalid = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert found == [
        (invalid, "EMPTY_INPUT", "inputs[1]"),
        (invalid, "EMPTY_INPUT", "inputs[2]"),
        (invalid, "INVALID_PARAMETER", "inputs[3].text_pair"),
    ]


async def test_the_largest_reply_that_is_let_in_can_be_sent_and_one_more_is_refused(serve):
    limit = 65_536
    async with serve(max_response_bytes=limit) as running:
        running.engine.put("reader", embedding_dimensions=100)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.embedding.Embed(pb.EmbedRequest(inputs=texts(*["a"] * 1000)))
        assert not running.engine.calls, "the work was begun"
        fit = int(re.search(r"(\d+) fit", caught.value.details())[1])
        answer = await running.embedding.Embed(pb.EmbedRequest(inputs=texts(*["a"] * fit)))
        assert limit * 0.8 < answer.ByteSize() <= limit
        with pytest.raises(grpc.aio.AioRpcError):
            await running.embedding.Embed(pb.EmbedRequest(inputs=texts(*["a"] * (fit + 1))))


async def test_too_many_inputs_are_refused_before_anything_is_made_of_them(serve):
    async with serve(max_inputs=10) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.embedding.Embed(pb.EmbedRequest(inputs=[common_pb2.TextInput()] * 100_000))
        assert "holds 100000; the limit is 10" in caught.value.details()
        assert not running.engine.calls


async def test_a_reply_that_many_vectors_a_text_could_fill_tells_the_engine_how_many_it_holds(serve):
    limit = 65_536
    async with serve(max_response_bytes=limit) as running:
        running.engine.put("reader", embedding_dimensions=100)
        config = pb.EmbedConfig(pooling=common_pb2.POOLING_TYPE_NONE, encoding=pb.EMBEDDING_ENCODING_INT8)
        await running.embedding.Embed(pb.EmbedRequest(inputs=texts("a"), config=config))
        room = running.engine.calls[-1].max_vectors
        answer = await running.embedding.Embed(pb.EmbedRequest(inputs=texts("a" * room), config=config))
        assert len(answer.results[0].embedding.vectors) == room
        assert limit * 0.8 < answer.ByteSize() <= limit


async def test_a_vector_a_token_comes_with_the_tokens(running):
    config = pb.EmbedConfig(pooling=common_pb2.POOLING_TYPE_NONE)
    (result,) = (await running.embedding.Embed(pb.EmbedRequest(inputs=texts("abc"), config=config))).results
    assert [list(vector.values) for vector in result.embedding.vectors] == [[3, 1, 2, 3]] * 3
    assert list(result.embedding.token_ids.ids) == [0, 1, 2]


async def test_a_vector_that_an_encoding_cannot_hold_fails_alone(running):
    config = pb.EmbedConfig(encoding=pb.EMBEDDING_ENCODING_FLOAT16)
    inputs = texts("a" * 70_000, "a")
    bad, good = (await running.embedding.Embed(pb.EmbedRequest(inputs=inputs, config=config))).results
    assert "FLOAT16 goes to 65504" in bad.error.message
    assert np.frombuffer(good.embedding.vectors[0].data, "<f2").tolist() == [1, 1, 2, 3]


async def test_what_no_model_here_can_pool_is_refused_by_the_model(running):
    config = pb.EmbedConfig(pooling=common_pb2.POOLING_TYPE_SPARSE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.embedding.Embed(pb.EmbedRequest(inputs=texts("a"), config=config))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search("needs a masked-LM head; reader has none.* cls, mean", caught.value.details())


async def test_an_empty_request_is_refused(running):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.embedding.Embed(pb.EmbedRequest())
    assert "inputs is empty" in caught.value.details()


async def test_telemetry_comes_only_when_asked_for(running):
    asked = pb.EmbedRequest(inputs=texts("a"), options=common_pb2.RequestOptions(include_telemetry=True))
    assert (await running.embedding.Embed(asked)).telemetry.step_count == 5
    assert not (await running.embedding.Embed(pb.EmbedRequest(inputs=texts("a")))).HasField("telemetry")
