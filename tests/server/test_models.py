"""Proves that ModelService shows what the engine's cards say, page by page."""

import grpc
import pytest

from stretto.v1 import common_pb2, generation_pb2
from stretto.v1 import model_pb2 as pb


async def test_a_generating_model_is_shown_with_everything_that_is_known(running):
    model = (await running.models.GetModel(pb.GetModelRequest(model="writer"))).model
    expected = pb.Model(
        id="writer",
        version="sha256:aa",
        state=pb.MODEL_STATE_READY,
        architecture="llama",
        tasks=[pb.MODEL_TASK_GENERATE, pb.MODEL_TASK_SCORE],
        parameter_count=1000,
        dtype="float32",
        quantization="none",
        device="cpu",
        numerics=common_pb2.NUMERICS_CLOSE,
        vocab_size=512,
        max_input_tokens=127,
        max_output_tokens=128,
        default_overflow_policy=common_pb2.OVERFLOW_POLICY_ERROR,
        has_chat_template=True,
        eos_token_ids=[2, 3],
        bos_token_id=1,
        weight_bytes=4000,
        kv_cache_bytes=8000,
        kv_cache_tokens=160,
        default_sampling=generation_pb2.SamplingConfig(temperature=0.5, top_k=40),
    )
    expected.load_time.FromMilliseconds(1_700_000_000_500)
    assert model == expected


async def test_an_embedding_model_is_shown_with_its_pooling_and_prompts(running):
    model = (await running.models.GetModel(pb.GetModelRequest(model="reader"))).model
    assert (model.tasks, model.embedding_dimensions) == ([pb.MODEL_TASK_EMBED], 4)
    assert model.default_pooling == common_pb2.POOLING_TYPE_MEAN
    assert (model.HasField("default_normalize"), model.default_normalize) == (True, True)
    assert model.default_overflow_policy == common_pb2.OVERFLOW_POLICY_TRUNCATE_END
    assert dict(model.prompts) == {"query": "query: "}
    assert not model.HasField("bos_token_id")
    assert not model.HasField("default_sampling")


async def test_a_cache_smaller_than_the_context_is_the_most_that_an_answer_can_have(running):
    running.engine.put("writer", cache_tokens=48)
    assert (await running.models.GetModel(pb.GetModelRequest(model="writer"))).model.max_output_tokens == 48


async def test_a_failed_model_says_why(running):
    running.engine.put("writer", state="failed", error="tensor x is missing")
    model = (await running.models.GetModel(pb.GetModelRequest(model="writer"))).model
    assert model.state == pb.MODEL_STATE_FAILED
    assert model.error.message == "tensor x is missing"


@pytest.mark.parametrize("page_size", [0, 1, 2, 3])
async def test_pages_hold_every_model_once(running, page_size):
    names, token = [], ""
    while True:
        page = await running.models.ListModels(pb.ListModelsRequest(page_size=page_size, page_token=token))
        assert page_size == 0 or len(page.models) <= page_size
        names += [model.id for model in page.models]
        token = page.next_page_token
        if not token:
            break
    assert names == ["reader", "writer"]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetModel", pb.GetModelRequest(model="nobody"), grpc.StatusCode.NOT_FOUND),
        ("GetModel", pb.GetModelRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        ("ListModels", pb.ListModelsRequest(page_token="nobody"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_there_is_refused(running, method, request_, code):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(running.models, method)(request_)
    assert caught.value.code() is code
