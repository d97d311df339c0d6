"""
Malformed and hostile requests to a real server: each ends in one clean error, and after all of them the server answers
as it did before.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2

from stretto.v1 import common_pb2, embedding_pb2, generation_pb2

GENERATE, STREAM = "/stretto.v1.GenerationService/Generate", "/stretto.v1.GenerationService/GenerateStream"
EMBED, LIST, GET = (
    "/stretto.v1.EmbeddingService/Embed",
    "/stretto.v1.ModelService/ListModels",
    "/stretto.v1.ModelService/GetModel",
)
SCORE, INFO = "/stretto.v1.GenerationService/Score", "/stretto.v1.ServerService/GetServerInfo"
TOKENIZE, DETOKENIZE = "/stretto.v1.TokenizerService/Tokenize", "/stretto.v1.TokenizerService/Detokenize"
COUNTING = "1, 2, 3, 4, 5,"
NAN, INF, BIGGEST = math.nan, math.inf, 2**32 - 1
Code = grpc.StatusCode

pytestmark = pytest.mark.usefixtures("unharmed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A request, and what its refusal has to be and to name."""

    method: str = GENERATE
    data: bytes
    reason: str = "INVALID_PARAMETER"
    named: tuple[str, ...]
    code: grpc.StatusCode = Code.INVALID_ARGUMENT


def generate(
    *named: str, reason: str = "INVALID_PARAMETER", code: grpc.StatusCode = Code.INVALID_ARGUMENT, **fields: Any
) -> Row:
    """A row out of the fields of a GenerateRequest, `text` where no prompt is among them."""
    prompt = {} if fields.keys() & {"text", "token_ids", "chat"} else {"text": COUNTING}
    data = generation_pb2.GenerateRequest(**prompt, **fields).SerializeToString()
    return Row(data=data, named=named, reason=reason, code=code)


def sampling(name: str, value: Any, *more: str, reason: str = "INVALID_PARAMETER") -> Row:
    config = generation_pb2.GenerationConfig(sampling=generation_pb2.SamplingConfig(**{name: value}))
    return generate(f"config.sampling.{name}", *more, reason=reason, config=config)


def stopping(name: str, *more: str, reason: str = "INVALID_PARAMETER", **fields: Any) -> Row:
    config = generation_pb2.GenerationConfig(stopping=generation_pb2.StoppingConfig(**fields))
    return generate(f"config.stopping.{name}", *more, reason=reason, config=config)


def output(name: str, *more: str, reason: str = "INVALID_PARAMETER", **fields: Any) -> Row:
    config = generation_pb2.GenerationConfig(output=generation_pb2.OutputConfig(**fields))
    return generate(f"config.output.{name}", *more, reason=reason, config=config)


def options(name: str, *more: str, **fields: Any) -> Row:
    return generate(f"options.{name}", *more, options=json_format.ParseDict(fields, common_pb2.RequestOptions()))


def duration(name: str, seconds: int, nanos: int = 0) -> Row:
    asked = common_pb2.RequestOptions()
    getattr(asked, name).seconds, getattr(asked, name).nanos = seconds, nanos
    return generate(f"options.{name}", f"{seconds} s and {nanos} ns", options=asked)


def embed(*named: str, reason: str = "INVALID_PARAMETER", texts: int = 1, **config: Any) -> Row:
    request = embedding_pb2.EmbedRequest(
        inputs=[common_pb2.TextInput(text="a")] * texts, config=embedding_pb2.EmbedConfig(**config)
    )
    return Row(method=EMBED, data=request.SerializeToString(), named=named, reason=reason)


def chat(*messages: tuple[str, str], **more: Any) -> common_pb2.ChatPrompt:
    return common_pb2.ChatPrompt(
        messages=[common_pb2.ChatMessage(role=role, content=content) for role, content in messages], **more
    )


def raw(method: str, data: bytes, *named: str, reason: str = "MALFORMED_MESSAGE") -> Row:
    return Row(method=method, data=data, named=named, reason=reason)


def nested_dict(levels: int) -> dict[str, Any]:
    return {"deeper": nested_dict(levels - 1)} if levels else {}


def too_deep(levels: int) -> bytes:
    """The bytes of a chat whose template arguments are deeper than any protobuf library writes them."""
    value = b""
    for _ in range(levels):
        entry = b"\x0a\x01a" + b"\x12" + _length(b"\x2a" + _length(value) + value) + b"\x2a" + _length(value) + value
        value = b"\x0a" + _length(entry) + entry
    arguments = b"\x22" + _length(value) + value
    return b"\x2a" + _length(arguments) + arguments


def _length(value: bytes) -> bytes:
    size, out = len(value), bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size])


TEXT = generation_pb2.GenerateRequest(text=COUNTING).SerializeToString()
USER = ("user", "hi")
ROWS: dict[str, Row] = {
    **{
        f"garbage to {method.rpartition('/')[2]}": raw(method, b"\xff\xfe\xff garbage", "11 bytes")
        for method in (GENERATE, STREAM, EMBED, LIST, GET, SCORE, TOKENIZE, DETOKENIZE, INFO)
    },
    "a message cut short": raw(GENERATE, TEXT[:-3], f"{len(TEXT) - 3} bytes"),
    "a text that is no UTF-8": raw(GENERATE, b"\x1a\x02\xff\xfe", "4 bytes"),
    "half a surrogate pair in UTF-8": raw(GENERATE, b"\x1a\x03\xed\xa0\x80", "5 bytes"),
    "a number where a text belongs": raw(GENERATE, b"\x18\x01", "2 bytes", "does not know: 3"),
    "a field of tomorrow": raw(GENERATE, TEXT + b"\xf8\x3f\x01", "3 bytes", "does not know: 1023"),
    "a field of tomorrow inside": raw(GENERATE, TEXT + b"\x3a\x05\x0a\x03\xf8\x3f\x01", "3 bytes", "one of its"),
    "a length beyond the message": raw(GENERATE, b"\x1a\xff\xff\xff\xff\x0f", "6 bytes"),
    "a group that never ends": raw(GENERATE, b"\x1b" * 5000, "5000 bytes"),
    "arguments 100 levels deep": raw(GENERATE, too_deep(100), "bytes of this Generate request"),
    "nothing at all": raw(GENERATE, b"", "the request has no prompt", reason="EMPTY_INPUT"),
    "nothing at all in a stream": raw(STREAM, b"", "the request has no prompt", reason="EMPTY_INPUT"),
    "nothing to embed": raw(EMBED, b"", "inputs is empty", reason="EMPTY_INPUT"),
    "an empty text": generate("the prompt is empty", text="", reason="EMPTY_INPUT"),
    "no token ids": generate("the prompt is empty", token_ids=common_pb2.TokenIds(), reason="EMPTY_INPUT"),
    "no messages": generate("chat.messages is empty", chat=chat(), reason="EMPTY_INPUT"),
    "an id after the last": generate(
        "holds 49152; ids go from 0 to 49151", token_ids=common_pb2.TokenIds(ids=[1, 49152]), reason="BAD_TOKEN_ID"
    ),
    "the largest id": generate(
        "token_ids holds 4294967295", token_ids=common_pb2.TokenIds(ids=[BIGGEST]), reason="BAD_TOKEN_ID"
    ),
    "a million ids": generate(
        "1000000", "8191", token_ids=common_pb2.TokenIds(ids=[5] * 1_000_000), reason="INPUT_TOO_LONG"
    ),
    "a prompt of 3 MB": generate("the limit is 8191", text="word " * 600_000, reason="INPUT_TOO_LONG"),
    "a temperature that is none": sampling("temperature", NAN, "[0, 100]", "nan"),
    "a temperature below 0": sampling("temperature", -1.0, "[0, 100]", "-1"),
    "an endless temperature": sampling("temperature", INF, "[0, 100]", "inf"),
    "top_p 0": sampling("top_p", 0.0, "(0, 1]", "got 0"),
    "top_p above 1": sampling("top_p", 1.5, "(0, 1]", "got 1.5"),
    "top_p that is none": sampling("top_p", NAN, "(0, 1]", "nan"),
    "min_p below 0": sampling("min_p", -0.5, "[0, 1]", "-0.5"),
    "min_p endless": sampling("min_p", INF, "[0, 1]", "inf"),
    "typical_p that is none": sampling("typical_p", NAN),
    "a repetition penalty of 0": sampling("repetition_penalty", 0.0),
    "a repetition penalty that is none": sampling("repetition_penalty", NAN),
    "a presence penalty that is endless": sampling("presence_penalty", INF),
    "a frequency penalty that is none": sampling("frequency_penalty", -NAN),
    "a bias for an id after the last": sampling("logit_bias", {49152: 1.0}, reason=""),
    "a bias that is none": sampling("logit_bias", {5: NAN}),
    "a ban of an id after the last": sampling("banned_token_ids", [BIGGEST], reason=""),
    "only an id after the last allowed": sampling("allowed_token_ids", [49152], reason=""),
    "no candidates": sampling("candidate_count", 0, "[1, 8]", "got 0"),
    "four billion candidates": sampling("candidate_count", BIGGEST, "[1, 8]"),
    "best of four billion": sampling("best_of", BIGGEST),
    "more min_tokens than max_tokens": stopping("min_tokens", "4294967295", max_tokens=5, min_tokens=BIGGEST),
    "an empty stop string": stopping("stop_strings", "an empty string", stop_strings=[""]),
    "a stop string of 1 MB": stopping("stop_strings", "[1, 256]", "1e+06", stop_strings=["x" * 1_000_000]),
    "17 stop strings": stopping("stop_strings", "[0, 16]", "17", stop_strings=["x"] * 17),
    "100,000 stop tokens": stopping("stop_token_ids", "[0, 64]", "100000", stop_token_ids=[5] * 100_000),
    "a stop token after the last": stopping("stop_token_ids", "49152", reason="BAD_TOKEN_ID", stop_token_ids=[49152]),
    "21 logprobs": output("top_logprobs", "[0, 20]", "21", top_logprobs=21),
    "four billion logprobs": output("top_logprobs", "[0, 20]", top_logprobs=BIGGEST),
    "1,025 chosen logprobs": output("logprob_token_ids", "[0, 1024]", "1025", logprob_token_ids=[5] * 1025),
    "a chosen logprob after the last": output(
        "logprob_token_ids", "49152", reason="BAD_TOKEN_ID", logprob_token_ids=[49152]
    ),
    "an overflow policy that names nothing": generate("overflow_policy is 77", overflow_policy=77),  # type: ignore[arg-type]
    "a priority above the highest": options("priority", "[-100, 100]", "101", priority=101),
    "the lowest priority of all": options("priority", "[-100, 100]", "-2147483648", priority=-(2**31)),
    "a request id of two lines": options("request_id", "printable ASCII", requestId="a\nINFO forged"),
    "a request id of 3 MB": options("request_id", "128", "3000000", requestId="a" * 3_000_000),
    "a request id of letters from elsewhere": options("request_id", "printable ASCII", requestId="\u00e9"),
    "a salt of 3 MB": options("cache_salt", "3000000 bytes", "256", cacheSalt="x" * 3_000_000),
    "a timeout below 0": duration("timeout", -1),
    "a timeout of too many nanoseconds": duration("timeout", 1, 2_000_000_000),
    "a queue timeout below 0": duration("queue_timeout", 0, -1),
    "a queue timeout that overflows": duration("queue_timeout", 2**63 - 1),
    "a time limit that overflows": stopping(
        "time_limit", "9223372036854775807", time_limit={"seconds": 2**63 - 1}
    ),
    "a time limit below 0": stopping("time_limit", "-5", time_limit={"seconds": -5}),
    "a model that is none": generate("no model 'gpt-5'", model="gpt-5", reason="MODEL_NOT_FOUND", code=Code.NOT_FOUND),
    "a model that is a path": generate(
        "no model '../../etc/passwd'", model="../../etc/passwd", reason="MODEL_NOT_FOUND", code=Code.NOT_FOUND
    ),
    "a model with a name of 3 MB": generate(
        "no model 'xxx", model="x" * 3_000_000, reason="MODEL_NOT_FOUND", code=Code.NOT_FOUND
    ),
    "a model that only embeds": generate(
        "all-minilm-l6-v2 cannot generate", model="all-minilm-l6-v2", reason="TASK_NOT_SUPPORTED",
        code=Code.FAILED_PRECONDITION,
    ),
    "a version that is none": generate(
        "not sha256:0", expected_model_version="sha256:0", reason="VERSION_MISMATCH", code=Code.FAILED_PRECONDITION
    ),
    "an adapter that is none": generate("'nobody'", adapter="nobody", reason="ADAPTER_NOT_FOUND", code=Code.NOT_FOUND),
    "10,001 messages": generate("chat.messages holds 10001", "10000", chat=chat(*[USER] * 10_001)),
    "a role of 1 MB": generate("the limit is 8191", chat=chat(("x y " * 250_000, "hi")), reason="INPUT_TOO_LONG"),
    "a template that is none": generate("no chat template 'rag'", chat=chat(USER, template="rag")),
    "a template that is a path": generate("no chat template '../../etc'", chat=chat(USER, template="../../etc")),
    "arguments that the server sets": generate(
        "chat.template_arguments holds 'messages'",
        chat=chat(USER, template_arguments=json_format.ParseDict({"messages": []}, Struct())),
    ),
    "arguments thirty levels deep": generate(
        "chat.template_arguments holds 'deeper', which the template does not read",
        chat=chat(USER, template_arguments=json_format.ParseDict(nested_dict(30), Struct())),
    ),
    "100,000 arguments": generate(
        "chat.template_arguments holds 'k0', which the template does not read",
        chat=chat(USER, template_arguments=json_format.ParseDict({f"k{i}": 1 for i in range(100_000)}, Struct())),
    ),
    "special tokens for a chat": generate("add_special_tokens", chat=chat(USER), add_special_tokens=True),
    "2,049 inputs": embed("inputs holds 2049; the limit is 2048", texts=2049, reason="BATCH_TOO_LARGE"),
    "two million empty inputs": raw(EMBED, b"\x1a\x00" * 2_000_000, "2000000", "2048", reason="BATCH_TOO_LARGE"),
    "a pooling that names nothing": embed("config.pooling is 77", pooling=77),
    "an encoding that names nothing": embed("config.encoding", encoding=77),
    "an overflow policy of Embed that names nothing": embed("config.overflow_policy is 77", overflow_policy=77),
    "no dimensions": embed("config.dimensions must be", "got 0", dimensions=0),
    "a dimension too many": embed("config.dimensions is 385", "384", dimensions=385),
    "four billion dimensions": embed("config.dimensions", "4294967295", "384", dimensions=BIGGEST),
    "a prompt name that is a path": embed("config.prompt_name is '../x'", prompt_name="../x"),
    "a prompt text of 1 MB": embed("config.prompt_text", "1e+06", "4096", prompt_text="x" * 1_000_000),
    "a layer that is none": embed("config.layer", layer=-(2**31)),
}  # fmt: skip


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target, [("grpc.max_metadata_size", 1 << 20)]) as channel:
        yield channel


def failure(channel: grpc.Channel, method: str, data: bytes, **more: Any) -> grpc.RpcError:
    """The error that ends a call."""
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(method)(data, timeout=60, **more))  # which receives a single reply too
    return caught.value


def details(error: Any) -> tuple[str, list[str]]:
    """The reason, and the fields that are violated."""
    (packed,) = (value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    status = status_pb2.Status.FromString(packed)
    assert status.message == error.details()
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    assert info.domain == "stretto"
    return info.reason, [violation.field for violation in bad.field_violations]


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_bad_request_is_refused_with_what_is_wrong(channel: grpc.Channel, row: Row) -> None:
    error: Any = failure(channel, row.method, row.data)
    assert error.code() is row.code, error.details()
    assert all(part in error.details() for part in row.named), error.details()
    assert len(error.details().encode()) <= 700
    reason, fields = details(error)
    assert reason == row.reason or (row.reason == "" and reason in ("INVALID_PARAMETER", "BAD_TOKEN_ID"))
    assert fields or reason not in ("INVALID_PARAMETER", "BAD_TOKEN_ID", "INPUT_TOO_LONG", "EMPTY_INPUT")


def replied(channel: grpc.Channel, request: generation_pb2.GenerateRequest) -> generation_pb2.Candidate:
    reply = channel.unary_unary(GENERATE)(request.SerializeToString(), timeout=60)
    return generation_pb2.GenerateResponse.FromString(reply).candidates[0]


STRANGE: dict[str, dict[str, Any]] = {
    "the largest numbers": {
        "text": COUNTING,
        "max_prompt_tokens": BIGGEST,
        "config": {
            "sampling": {"temperature": 0.0, "top_k": BIGGEST, "seed": 2**64 - 1},
            "stopping": {"max_tokens": BIGGEST, "stop_strings": [", 9"]},
        },
        "options": {"timeout": "315576000000s", "priority": 100, "cache_salt": "x" * 256, "request_id": "x" * 128},
    },
    "a random draw with the largest seed": {
        "text": COUNTING,
        "config": {"sampling": {"top_k": 1, "seed": 2**64 - 1}, "stopping": {"stop_strings": [", 9"]}},
    },
    "every character that is a trap": {
        "text": "\u0000\u202e\ufeff\ud7ff\U0010ffff\r\n{{ 7 * 7 }} %s ${x}",
        "config": {"stopping": {"max_tokens": 1}},
    },
    "roles that nobody has": {
        "chat": {"messages": [{"role": "wizard", "content": "hi"}, {"role": "", "content": ""}]},
        "config": {"stopping": {"max_tokens": 1}},
    },
}  # fmt: skip


@pytest.mark.parametrize("fields", STRANGE.values(), ids=STRANGE)
def test_a_strange_request_that_can_be_honoured_is_answered(channel: grpc.Channel, fields: dict[str, Any]) -> None:
    candidate = replied(channel, json_format.ParseDict(fields, generation_pb2.GenerateRequest()))
    assert candidate.token_count > 0
    if fields.get("text") == COUNTING:
        assert candidate.text == " 6, 7, 8"


def test_a_text_of_3_megabytes_is_embedded_as_far_as_the_model_reads(channel: grpc.Channel) -> None:
    request = embedding_pb2.EmbedRequest(inputs=[common_pb2.TextInput(text="word " * 600_000)])
    reply = embedding_pb2.EmbedResponse.FromString(channel.unary_unary(EMBED)(request.SerializeToString(), timeout=60))
    (result,) = reply.results
    assert result.embedding.input.token_count == 256
    assert result.embedding.input.truncated_tokens == 600_002 - 256


@pytest.mark.parametrize(
    ("method", "data", "metadata", "code"),
    [
        ("/stretto.v1.GenerationService/Destroy", b"", (), Code.UNIMPLEMENTED),
        ("/nobody.v9.Service/Method", b"", (), Code.UNIMPLEMENTED),
        ("/", b"", (), Code.UNIMPLEMENTED),
        (GENERATE, TEXT, (("bomb", "x" * 100_000),), Code.RESOURCE_EXHAUSTED),
        (GENERATE, TEXT, tuple((f"bomb-{i}", "x" * 100) for i in range(1000)), Code.RESOURCE_EXHAUSTED),
        (GENERATE, b"\x1a" + bytes(5 << 20), (), Code.RESOURCE_EXHAUSTED),
        (EMBED, b"\x1a\x00" * 2_600_000, (), Code.RESOURCE_EXHAUSTED),
    ],
    ids=["no such method", "no such service", "no path", "a large header", "many headers", "5 MB", "5 MB of inputs"],
)
def test_what_no_service_gets_to_see_is_refused_by_its_code(
    channel: grpc.Channel, method: str, data: bytes, metadata: tuple[tuple[str, str], ...], code: grpc.StatusCode
) -> None:
    assert failure(channel, method, data, metadata=metadata).code() is code


def test_a_deadline_that_has_passed_is_a_deadline_and_leaves_nothing(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(GENERATE)(TEXT, timeout=1e-9)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED
