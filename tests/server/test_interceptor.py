"""Proves what surrounds every request: malformed bytes, request ids, and a log line that holds no prompt."""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as embed_pb
from stretto.v1 import generation_pb2 as pb

CANARY = "canary7f3a"
METHODS = {
    "/stretto.v1.GenerationService/Generate": "unary_unary",
    "/stretto.v1.GenerationService/GenerateStream": "unary_stream",
    "/stretto.v1.EmbeddingService/Embed": "unary_unary",
    "/stretto.v1.EmbeddingService/EmbedStream": "stream_stream",
    "/stretto.v1.ModelService/GetModel": "unary_unary",
}


def lines(running):
    return [json.loads(line) for line in running.log.getvalue().splitlines()]


def request(**fields):
    return pb.GenerateRequest(**{"text": "hello"} | fields)


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(running, method, data):
    kind = METHODS[method]
    call = getattr(running.channel, kind)(method)(iter([data]) if kind == "stream_stream" else data)
    error = await failed(call.read() if kind.endswith("stream") else call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailing = dict(error.trailing_metadata())
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info.reason == "MALFORMED_MESSAGE"
    assert trailing["x-request-id"]


async def test_a_method_that_is_not_there_is_unimplemented(running):
    error = await failed(running.channel.unary_unary("/stretto.v1.GenerationService/Sing")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_callers_request_id_comes_back(running):
    call = running.generation.Generate(request(options=common_pb2.RequestOptions(request_id="my id-1")))
    assert (await call).request_id == "my id-1"
    assert ("x-request-id", "my id-1") in tuple(await call.trailing_metadata())
    assert running.engine.calls[-1].options.request_id == "my id-1"


async def test_a_request_without_an_id_is_given_one(running):
    first, second = [(await running.generation.Generate(request())).request_id for _ in range(2)]
    assert first != second
    assert len(first) == 32


async def test_a_bad_request_id_is_refused_under_one_that_the_server_made(running):
    error = await failed(
        running.generation.Generate(request(options=common_pb2.RequestOptions(request_id="\n" + CANARY)))
    )
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(dict(error.trailing_metadata())["x-request-id"]) == 32
    assert CANARY not in running.log.getvalue()


async def test_a_request_leaves_one_line_with_its_figures(running):
    await running.generation.Generate(request(options=common_pb2.RequestOptions(request_id="mine")))
    (line,) = lines(running)
    assert line.pop("total_ms") >= 0
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "id": "mine",
        "method": "Generate",
        "code": "OK",
        "model": "writer",
        "task": "generate",
        "tokens_in": 3,
        "cached": 2,
        "tokens_out": 5,
        "queue_ms": 2.0,
        "first_token_ms": 6.0,
    }


async def ask_with_canaries(running):
    """Requests that hold the canary wherever a caller may write: six that are answered, and three that are not."""
    roles = ("system", "user", "assistant", "user")
    chat = common_pb2.ChatPrompt(messages=[common_pb2.ChatMessage(role=role, content=CANARY) for role in roles])
    stopping = pb.GenerationConfig(stopping=pb.StoppingConfig(stop_strings=[CANARY]))
    await running.generation.Generate(request(text=CANARY, config=stopping))
    await running.generation.Generate(request(chat=chat))
    stream = running.generation.GenerateStream(pb.GenerateStreamRequest(request=request(text=CANARY, config=stopping)))
    while await stream.read() is not grpc.aio.EOF:
        pass
    await running.embedding.Embed(embed_pb.EmbedRequest(inputs=[common_pb2.TextInput(text=CANARY)]))
    await running.embedding.Embed(embed_pb.EmbedRequest(inputs=[common_pb2.TextInput(text="")] * 2))
    await failed(running.generation.Generate(request(model=CANARY)))
    await failed(running.generation.Generate(request(adapter=CANARY)))
    await failed(running.generation.Generate(request(options=common_pb2.RequestOptions(fairness_key=CANARY))))
    running.engine.failure = RuntimeError("a bug")
    await failed(running.generation.Generate(request(text=CANARY)))


async def test_nothing_that_a_caller_wrote_is_in_the_log_or_the_metrics(serve):
    async with serve(log_level="debug") as running:
        await ask_with_canaries(running)
        assert len(lines(running)) == 10
        assert "a bug" in running.log.getvalue()
        assert CANARY not in running.log.getvalue()
        assert CANARY not in (await running.get("/metrics"))[1]


async def test_what_callers_write_is_in_the_log_where_that_was_asked_for(serve):
    async with serve(log_prompts="true") as running:
        await running.generation.Generate(request(text=CANARY, options=common_pb2.RequestOptions(request_id="mine")))
        sent, ended = lines(running)
        assert (sent["event"], sent["id"], sent["method"]) == ("request as sent", "mine", "Generate")
        assert sent["sent"]["text"] == CANARY
        assert (ended["event"], ended["id"]) == ("request", "mine")


async def test_a_refused_request_leaves_its_reason(running):
    await failed(running.generation.Generate(request(model="nobody")))
    (line,) = lines(running)
    assert (line["code"], line["reason"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "model" not in line


async def test_a_cancelled_request_leaves_a_line(running):
    running.engine.go_on = asyncio.Event()
    call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=request()))
    await call.read()
    call.cancel()
    await asyncio.wait_for(running.engine.left.wait(), 5)
    assert [line["code"] for line in lines(running)] == ["CANCELLED"]


async def test_streams_that_are_left_in_the_middle_are_cancelled_and_nothing_else(running):
    asked = request(config=pb.GenerationConfig(stopping=pb.StoppingConfig(max_tokens=10_000)))

    async def leave_early(num_messages):
        call = running.generation.GenerateStream(pb.GenerateStreamRequest(request=asked))
        for _ in range(num_messages):
            await call.read()
        call.cancel()

    await asyncio.gather(*(leave_early(1 + place % 7) for place in range(100)))
    async with asyncio.timeout(10):
        while running.engine.num_left < 100:
            running.engine.left.clear()
            await running.engine.left.wait()
    assert {line["code"] for line in lines(running)} == {"CANCELLED"}
    assert len(lines(running)) == 100


async def test_a_request_larger_than_the_limit_never_arrives(serve):
    async with serve(max_request_bytes=10_000) as running:
        error = await failed(running.generation.Generate(request(text="x" * 20_000)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not running.engine.calls


BOMB = """
import sys, grpc
unlimited = [("grpc.max_send_message_length", -1)]
with grpc.insecure_channel(sys.argv[1], options=unlimited, compression=grpc.Compression.Gzip) as channel:
    try:
        channel.unary_unary(sys.argv[2])(bytes(64 << 20))
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""


def count_peak_from_here():
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def test_a_small_message_that_unpacks_into_a_large_one_is_refused_before_it_does(running):
    """Sixty-four megabytes of nothing are sixty-four kilobytes on the way. A process of its own packs them."""
    count_peak_from_here()
    before = peak_bytes()
    words = (sys.executable, "-c", BOMB, running.target, "/stretto.v1.GenerationService/Generate")
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    told, _ = await asyncio.wait_for(process.communicate(), 60)
    assert told.startswith(b"RESOURCE_EXHAUSTED")
    assert b"larger than max" in told  # the words by which our client knows MESSAGE_TOO_LARGE
    assert peak_bytes() - before < 32 << 20
    assert not running.engine.calls
