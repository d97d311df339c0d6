"""Proves that the page of metrics is as documented, counts what happened, and takes no label from a client."""

import asyncio
import json
import re
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from stretto.engine.errors import Overloaded
from stretto.engine.messages import Freed, Gauges, Step
from stretto.engine.requests import Task
from stretto.engine.results import InputReport
from stretto.server.call import Call
from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as embed_pb
from stretto.v1 import generation_pb2 as pb

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


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
    assert "process_resident_memory_bytes" in names
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types)
    assert "_created" not in text


async def test_a_request_is_counted_with_its_tokens_and_times(running):
    await generate(running)
    found = await samples(running)
    labels = {"model": "writer", "task": "generate"}
    adapted = labels | {"adapter": ""}
    assert value(found, "requests_total", **adapted, code="OK", reason="") == 1
    assert value(found, "prompt_tokens_total", **adapted) == 3
    assert value(found, "cached_prompt_tokens_total", **adapted) == 2
    assert value(found, "completion_tokens_total", **adapted) == 5
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


async def test_tokens_that_an_answer_is_resumed_with_are_not_generated_again(running):
    answer = await generate(running, resume_after=[common_pb2.TokenIds(ids=[0, 1, 2])])
    assert answer.usage.completion_tokens == 5
    found = await samples(running)
    assert value(found, "completion_tokens_total", model="writer", adapter="", task="generate") == 2
    assert value(found, "completion_tokens_sum", model="writer", task="generate") == 2
    assert value(found, "time_per_output_token_seconds_sum", model="writer") == pytest.approx(0.004)


async def test_the_tokens_of_an_answer_that_was_left_are_counted_as_they_came(running):
    labels = {"model": "writer", "adapter": "", "task": "generate"}
    limits = pb.GenerationConfig(stopping=pb.StoppingConfig(max_tokens=10_000))
    asked = pb.GenerateRequest(text="a", config=limits)
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=asked))
    for _ in range(4):  # that it has started, and three tokens
        await call.read()
    assert value(await samples(running), "completion_tokens_total", **labels) >= 3
    call.cancel()
    await asyncio.wait_for(running.engine.left.wait(), 5)
    counted = value(await samples(running), "completion_tokens_total", **labels)
    line = json.loads(running.log.getvalue().splitlines()[-1])
    assert line["tokens_out"] == counted >= 3
    assert line["tokens_in"] == 3  # known since it started


async def test_an_embedding_is_counted_too(running):
    inputs = [common_pb2.TextInput(text=text) for text in ("abc", "", "d")]
    await running.embedding.Embed(embed_pb.EmbedRequest(inputs=inputs))
    found = await samples(running)
    labels = {"model": "reader", "task": "embed"}
    assert value(found, "requests_total", **labels, adapter="", code="OK", reason="") == 1
    assert value(found, "inputs_per_request_sum", **labels) == 3
    assert value(found, "unknown_tokens_total", **labels) == 2
    assert not [key for key in found if key[0].startswith("stretto_completion") and ("model", "reader") in key]


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
    labels = {"model": "unknown", "adapter": "", "task": "generate"}
    labels |= {"code": "NOT_FOUND", "reason": "MODEL_NOT_FOUND"}
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
            padding=7,
            preemptions=1,
            prefix_queried=10,
            prefix_hit=6,
        )
    )
    running.engine.observe(
        Gauges(
            model="writer",
            task=Task.GENERATE,
            waiting=2,
            waiting_tokens=9,
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
    assert value(found, "step_padding_tokens_total", model="writer", kind="decode") == 7
    assert value(found, "preemptions_total", model="writer") == 1
    assert value(found, "prefix_cache_queries_tokens_total", model="writer") == 10
    assert value(found, "prefix_cache_hits_tokens_total", model="writer") == 6
    queue = {"model": "writer", "task": "generate"}
    assert value(found, "queue_requests", **queue) == 2
    assert value(found, "queue_tokens", **queue) == 9
    assert value(found, "queue_oldest_age_seconds", **queue) == 1.5
    assert [
        value(found, "kv_cache_blocks", model="writer", state=state) for state in ("free", "held", "published")
    ] == [*(5, 2, 1)]
    assert value(found, "kv_cache_usage_ratio", model="writer") == 0.25


async def test_what_stood_in_the_queue_and_the_cache_of_a_lost_engine_is_gone(running):
    gauges = Gauges(model="writer", task=Task.GENERATE, waiting=2, waiting_tokens=9, blocks_free=1, blocks_held=3)
    running.engine.observe(gauges)
    running.engine.put("writer", state="loading")
    async with asyncio.timeout(5):
        while value(found := await samples(running), "queue_requests", model="writer", task="generate"):
            pass
    assert value(found, "kv_cache_blocks", model="writer", state="held") == 0
    assert value(found, "kv_cache_usage_ratio", model="writer") == 0


async def test_the_time_from_a_cancel_to_its_room_being_free_is_shown(running):
    running.engine.observe(Freed(task=Task.GENERATE, seconds=0.004))
    found = await samples(running)
    assert value(found, "cancel_to_free_seconds_count", task="generate") == 1
    assert value(found, "cancel_to_free_seconds_sum", task="generate") == 0.004


async def test_texts_that_were_read_in_chunks_are_counted(running):
    call = Call(
        context=None,
        path="/stretto.v1.EmbeddingService/Embed",
        task="embed",
        request_id="",
        received=0.0,
        deadline=None,
        stall_seconds=1.0,
        max_response_bytes=1,
        model="reader",
        reports=[InputReport(token_count=9, chunk_count=count) for count in (1, 2, 3)],
    )
    running.server._metrics.observe_end(call, "OK", None)
    assert value(await samples(running), "chunked_inputs_total", model="reader", task="embed") == 2


async def test_calls_are_counted_under_the_names_of_grpcs_own_dashboards(running):
    await generate(running)
    with pytest.raises(grpc.aio.AioRpcError):
        await generate(running, model="nobody")
    found = await samples(running)
    method = {
        "grpc_type": "unary",
        "grpc_service": "stretto.v1.GenerationService",
        "grpc_method": "Generate",
    }
    stream = method | {"grpc_type": "server_stream", "grpc_method": "GenerateStream"}
    assert found[("grpc_server_started_total", *sorted(method.items()))] == 2
    ended = {
        code: found[("grpc_server_handled_total", *sorted((method | {"grpc_code": code}).items()))]
        for code in ("OK", "NotFound", "Canceled", "InvalidArgument")
    }
    assert ended == {"OK": 1, "NotFound": 1, "Canceled": 0, "InvalidArgument": 0}
    assert found[("grpc_server_started_total", *sorted(stream.items()))] == 0


async def test_every_series_whose_labels_are_known_is_there_before_the_first_request(running):
    before = await samples(running)
    await generate(running)
    await running.embedding.Embed(embed_pb.EmbedRequest(inputs=[common_pb2.TextInput(text="a")]))
    for kind in ("prefill", "decode", "mixed"):
        running.engine.observe(Step(model="writer", kind=kind, seconds=0.5, sequences=3, tokens=4))
    running.engine.observe(Step(model="reader", kind="encode", seconds=0.5, sequences=3, tokens=4))
    assert set(await samples(running)) == set(before)


@pytest.mark.parametrize("reason", ["QUEUE_FULL", "TENANT_LIMIT", "STARTING", "DRAINING", "MODEL_NOT_READY"])
async def test_each_reason_to_refuse_at_the_door_is_there_before_the_first_refusal(running, reason):
    assert value(await samples(running), "admission_rejections_total", task="embed", reason=reason) == 0


async def test_counts_outlive_the_engine_process(running):
    await generate(running)
    running.engine.alive = False
    running.engine.put("writer", state="loading")
    running.engine.alive = True
    running.engine.put("writer", state="ready", loaded_at=1_800_000_000.0)
    async with asyncio.timeout(5):
        while value(found := await samples(running), "model_load_duration_seconds_count", model="writer") < 2:
            pass
    labels = {"model": "writer", "adapter": "", "task": "generate"}
    assert value(found, "requests_total", **labels, code="OK", reason="") == 1


async def test_the_documentation_has_every_metric_with_its_type_labels_and_meaning(running):
    _, text = await running.get("/metrics")
    families = {
        (family.name + "_total" * (family.type == "counter"), family.type, labels(family), family.documentation)
        for family in text_string_to_metric_families(text)
    }
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {(name, kind, frozenset(re.findall(r"\w+", labels)), text) for name, kind, labels, text in rows}
    assert documented == families
    assert len(rows) == len(families)


def labels(family):
    (names,) = {frozenset(sample.labels) - {"le"} for sample in family.samples}
    return names


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
