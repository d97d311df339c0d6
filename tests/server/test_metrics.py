"""Proves that the page of metrics is well formed, counts what happened, and takes no label from a client."""

import asyncio
import re

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stretto.engine.errors import Overloaded
from stretto.engine.messages import Gauges, Step
from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as embed_pb
from stretto.v1 import generation_pb2 as pb

FED = {
    "requests_total",
    "requests_in_progress",
    "request_duration_seconds",
    "queue_duration_seconds",
    "tokenization_duration_seconds",
    "prefill_duration_seconds",
    "decode_duration_seconds",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "time_per_output_token_seconds",
    "prompt_tokens_total",
    "cached_prompt_tokens_total",
    "completion_tokens_total",
    "prompt_tokens",
    "completion_tokens",
    "inputs_per_request",
    "truncated_inputs_total",
    "truncated_tokens_total",
    "unknown_tokens_total",
    "steps_total",
    "step_duration_seconds",
    "step_batch_size",
    "step_tokens",
    "preemptions_total",
    "prefix_cache_queries_tokens_total",
    "prefix_cache_hits_tokens_total",
    "queue_requests",
    "queue_tokens",
    "queue_oldest_age_seconds",
    "kv_cache_blocks",
    "kv_cache_usage_ratio",
    "admission_rejections_total",
    "deadline_misses_total",
    "cancellations_total",
    "model_info",
    "model_load_duration_seconds",
    "model_memory_bytes",
    "event_loop_lag_seconds",
}


async def samples(running):
    """Every sample of the page, by name and labels."""
    status, text = await running.get("/metrics")
    assert status == 200
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[("stretto_" + name, *sorted(labels.items()))]


async def generate(running, **fields):
    return await running.generation.Generate(pb.GenerateRequest(**{"text": "hello"} | fields))


async def test_every_family_is_there_once_with_its_help_and_type(running):
    _, text = await running.get("/metrics")
    types = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    helps = re.findall(r"^# HELP (\S+) \S.*$", text, re.MULTILINE)
    names = [name for name, _ in types]
    assert names == helps
    assert len(set(names)) == len(names)
    assert {name.removeprefix("stretto_") for name in names if name.startswith("stretto_")} == FED
    assert "process_resident_memory_bytes" in names
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types)
    assert "_created" not in text


async def test_a_request_is_counted_with_its_tokens_and_times(running):
    await generate(running)
    found = await samples(running)
    labels = {"model": "writer", "task": "generate"}
    assert value(found, "requests_total", **labels, code="OK", reason="") == 1
    assert value(found, "prompt_tokens_total", **labels) == 3
    assert value(found, "cached_prompt_tokens_total", **labels) == 2
    assert value(found, "completion_tokens_total", **labels) == 5
    assert value(found, "prompt_tokens_sum", **labels) == 3
    assert value(found, "completion_tokens_sum", **labels) == 5
    assert value(found, "truncated_inputs_total", **labels) == 1
    assert value(found, "truncated_tokens_total", **labels) == 1
    assert value(found, "inputs_per_request_sum", **labels) == 1
    assert value(found, "request_duration_seconds_count", **labels) == 1
    assert value(found, "queue_duration_seconds_sum", **labels) == pytest.approx(0.002)
    assert value(found, "tokenization_duration_seconds_sum", **labels) == pytest.approx(0.001)
    assert value(found, "prefill_duration_seconds_sum", **labels) == pytest.approx(0.003)
    assert value(found, "decode_duration_seconds_sum", **labels) == pytest.approx(0.004)
    assert value(found, "time_to_first_token_seconds_sum", model="writer") == pytest.approx(0.006)
    assert value(found, "inter_token_latency_seconds_count", model="writer") == 4
    assert value(found, "time_per_output_token_seconds_sum", model="writer") == pytest.approx(0.004 / 4)


async def test_an_embedding_is_counted_too(running):
    inputs = [common_pb2.TextInput(text=text) for text in ("abc", "", "d")]
    await running.embedding.Embed(embed_pb.EmbedRequest(inputs=inputs))
    found = await samples(running)
    labels = {"model": "reader", "task": "embed"}
    assert value(found, "requests_total", **labels, code="OK", reason="") == 1
    assert value(found, "inputs_per_request_sum", **labels) == 3
    assert value(found, "unknown_tokens_total", **labels) == 2
    assert ("stretto_completion_tokens_total", *sorted(labels.items())) not in found


async def test_the_buckets_start_well_under_a_millisecond(running):
    await generate(running)
    found = await samples(running)
    edges = [dict(key[1:])["le"] for key in found if key[0] == "stretto_inter_token_latency_seconds_bucket"]
    assert min(map(float, edges)) <= 0.0001


async def test_a_request_in_progress_is_seen(running):
    running.engine.go_on = asyncio.Event()
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a")))
    await call.read()
    labels = {"model": "writer", "task": "generate"}
    assert value(await samples(running), "requests_in_progress", **labels) == 1
    running.engine.go_on.set()
    while await call.read() is not grpc.aio.EOF:
        pass
    assert value(await samples(running), "requests_in_progress", **labels) == 0


async def test_names_that_clients_invent_are_no_labels(running):
    for name in ("invented1", "invented2"):
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(running, model=name)
    found = await samples(running)
    assert not [key for key in found if "invented" in str(key)]
    labels = {"model": "unknown", "task": "generate", "code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND"}
    assert value(found, "requests_total", **labels) == 2


async def test_rejections_cancellations_and_deadlines_are_counted_by_what_they_had(running):
    running.engine.refusal = Overloaded("full")
    with pytest.raises(grpc.aio.AioRpcError):
        await generate(running)
    running.engine.refusal, running.engine.go_on = None, asyncio.Event()
    with pytest.raises(grpc.aio.AioRpcError):
        await running.generation.Generate(pb.GenerateRequest(text="a"), timeout=0.1)
    await asyncio.wait_for(running.engine.left.wait(), 5)
    running.engine.left.clear()
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(text="a")))
    await call.read()
    call.cancel()
    await asyncio.wait_for(running.engine.left.wait(), 5)
    found = await samples(running)
    assert value(found, "admission_rejections_total", task="generate", reason="QUEUE_FULL") == 1
    assert value(found, "deadline_misses_total", task="generate", phase="waiting") == 1
    assert value(found, "cancellations_total", task="generate", phase="waiting") == 1


async def test_steps_and_gauges_of_the_engine_are_shown(running):
    running.engine.observe(
        Step(
            model="writer",
            kind="decode",
            seconds=0.5,
            sequences=3,
            tokens=4,
            preemptions=1,
            prefix_queried=10,
            prefix_hit=6,
        )
    )
    running.engine.observe(
        Gauges(
            model="writer",
            waiting=2,
            waiting_tokens=9,
            running=3,
            oldest_wait_seconds=1.5,
            blocks_free=5,
            blocks_held=2,
            blocks_published=1,
        )
    )
    found = await samples(running)
    assert value(found, "steps_total", model="writer", kind="decode") == 1
    assert value(found, "step_duration_seconds_sum", model="writer", kind="decode") == 0.5
    assert value(found, "step_batch_size_sum", model="writer", kind="decode") == 3
    assert value(found, "step_tokens_sum", model="writer", kind="decode") == 4
    assert value(found, "preemptions_total", model="writer") == 1
    assert value(found, "prefix_cache_queries_tokens_total", model="writer") == 10
    assert value(found, "prefix_cache_hits_tokens_total", model="writer") == 6
    assert value(found, "queue_requests", model="writer") == 2
    assert value(found, "queue_tokens", model="writer") == 9
    assert value(found, "queue_oldest_age_seconds", model="writer") == 1.5
    assert [
        value(found, "kv_cache_blocks", model="writer", state=state) for state in ("free", "held", "published")
    ] == [*(5, 2, 1)]
    assert value(found, "kv_cache_usage_ratio", model="writer") == 0.25


async def test_models_are_shown_with_what_they_take(running):
    found = await samples(running)
    facts = {"version": "sha256:aa", "dtype": "float32", "device": "cpu"}
    assert value(found, "model_info", model="writer", **facts) == 1
    assert value(found, "model_memory_bytes", model="writer", kind="weights") == 4000
    assert value(found, "model_memory_bytes", model="writer", kind="cache") == 8000
    assert value(found, "model_load_duration_seconds_sum", model="writer") == 0.25


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200),
        (b"GET /secret HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431),
    ],
)
async def test_the_metrics_port_answers_what_it_knows_and_bounds_what_it_reads(running, request_, status):
    answered, body = await running.get("", request_)
    assert answered == status
    assert body or request_.startswith(b"HEAD")
