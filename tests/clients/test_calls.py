"""Proves that both clients send what was asked and give back what was answered, and refuse what cannot be sent."""

import asyncio
import inspect
import pydoc
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from stretto.client import AsyncClient, Client, InvalidRequest, Progress, StrettoError
from stretto.client.calls import Calls
from stretto.client.options import EmbedOptions, ScoreOptions, StreamOptions
from stretto.v1 import common_pb2, generation_pb2

Call = Callable[..., Any]


async def awaited(target: str, name: str, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    async with AsyncClient(target) as client:
        result = getattr(client, name)(*positional, **named)
        if name != "stream":
            return await result
        return [piece async for piece in result], result


@pytest.fixture(params=["sync", "async"])
def call(request, server) -> Call:
    """Either client's call by its name; a stream comes as its pieces and itself."""

    def sync(name: str, *positional: Any, **named: Any) -> Any:
        with Client(server.target) as client:
            result = getattr(client, name)(*positional, **named)
            return (list(result), result) if name == "stream" else result

    def async_(name: str, *positional: Any, **named: Any) -> Any:
        return asyncio.run(awaited(server.target, name, positional, named))

    return sync if request.param == "sync" else async_


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("generate", "one three"),
        ("generate", [1, 22]),
        ("generate", [{"role": "user", "content": "one three"}]),
        ("chat", [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one three"}]),
    ],
)
def test_every_kind_of_prompt_is_answered(call: Call, name: str, prompt: Any) -> None:
    answer = call(name, prompt, request_id="mine")
    expected = "22 1" if prompt == [1, 22] else "three one"
    assert answer.text == expected
    assert answer.token_ids == tuple(len(word) for word in expected.split())
    assert (answer.finish_reason, answer.candidates[0].stop_string) == ("stop_string", "!")
    assert (answer.seed, answer.request_id, answer.input.truncated_tokens) == (2**64 - 1, "mine", 2)
    assert (answer.usage.prompt_tokens, answer.usage.cached_prompt_tokens, answer.usage.total_tokens) == (2, 1, 4)
    assert answer.telemetry is None


def test_telemetry_comes_in_seconds_to_who_asks(call: Call) -> None:
    telemetry = call("generate", "a", telemetry=True).telemetry
    assert (telemetry.queue_seconds, telemetry.step_count, telemetry.first_token_seconds) == (0.5, 4, None)


def test_a_stream_adds_up_to_the_whole_answer(call: Call) -> None:
    whole = call("generate", "one two three")
    pieces, stream = call("stream", "one two three")
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    assert [piece.finish_reason for piece in pieces] == [None, None, "max_tokens"]
    assert (stream.usage, stream.seed, stream.input.token_count) == (whole.usage, whole.seed, 3)


# What a call can be given, each with a value that differs from every default, and the fields that it sets.
SETTINGS: dict[str, tuple[Any, str, Any]] = {
    "model": ("talker", "model", "talker"),
    "max_tokens": (0, "config.stopping.max_tokens", 0),
    "min_tokens": (2, "config.stopping.min_tokens", 2),
    "stop": ("end", "config.stopping.stop_strings", ["end"]),
    "stop_token_ids": ([7, 8], "config.stopping.stop_token_ids", [7, 8]),
    "ignore_eos": (True, "config.stopping.ignore_eos", True),
    "include_stop": (True, "config.stopping.include_stop", True),
    "time_limit": (1.5, "config.stopping.time_limit", Duration(seconds=1, nanos=500_000_000)),
    "temperature": (0.0, "config.sampling.temperature", 0),
    "top_k": (0, "config.sampling.top_k", 0),
    "top_p": (0.5, "config.sampling.top_p", 0.5),
    "min_p": (0.25, "config.sampling.min_p", 0.25),
    "typical_p": (0.75, "config.sampling.typical_p", 0.75),
    "repetition_penalty": (1.25, "config.sampling.repetition_penalty", 1.25),
    "presence_penalty": (-0.5, "config.sampling.presence_penalty", -0.5),
    "frequency_penalty": (0.5, "config.sampling.frequency_penalty", 0.5),
    "penalty_window": (0, "config.sampling.penalty_window", 0),
    "no_repeat_ngram_size": (3, "config.sampling.no_repeat_ngram_size", 3),
    "logit_bias": ({5: -1.5, 7: 2.0}, "config.sampling.logit_bias", {5: -1.5, 7: 2.0}),
    "allowed_token_ids": ([1, 2], "config.sampling.allowed_token_ids", [1, 2]),
    "banned_token_ids": ((3,), "config.sampling.banned_token_ids", [3]),
    "banned_strings": (["no", "never"], "config.sampling.banned_strings", ["no", "never"]),
    "seed": (0, "config.sampling.seed", 0),
    "candidates": (2, "config.sampling.candidate_count", 2),
    "best_of": (4, "config.sampling.best_of", 4),
    "response_prefix": ("Sure", "response_prefix", "Sure"),
    "echo": (True, "config.output.echo", True),
    "skip_special_tokens": (False, "config.output.skip_special_tokens", False),
    "logprobs": (True, "config.output.include_logprobs", True),
    "top_logprobs": (0, "config.output.top_logprobs", 0),
    "logprob_token_ids": ([4], "config.output.logprob_token_ids", [4]),
    "prompt_logprobs": (True, "config.output.include_prompt_logprobs", True),
    "truncate": ("start", "overflow_policy", common_pb2.OVERFLOW_POLICY_TRUNCATE_START),
    "max_prompt_tokens": (9, "max_prompt_tokens", 9),
    "expected_model_version": ("v1", "expected_model_version", "v1"),
    "add_special_tokens": (False, "add_special_tokens", False),
    "parse_special_tokens": (False, "parse_special_tokens", False),
    "template": ("tools", "chat.template", "tools"),
    "template_arguments": (
        {"think": True},
        "chat.template_arguments",
        Struct(fields={"think": Value(bool_value=True)}),
    ),
    "add_generation_prompt": (False, "chat.add_generation_prompt", False),
    "priority": (-3, "options.priority", -3),
    "queue_timeout": (2.0, "options.queue_timeout", Duration(seconds=2)),
    "cache_salt": ("salt", "options.cache_salt", "salt"),
    "use_prefix_cache": (False, "options.bypass_prefix_cache", True),
    "telemetry": (True, "options.include_telemetry", True),
    "request_id": ("r", "options.request_id", "r"),
    "timeout": (30.0, "options.timeout", Duration(seconds=30)),
}
# What no argument sets: it belongs to the prompt, to the client itself, or to what no server does yet.
UNSET = {
    *("text", "token_ids", "chat.messages", "resume_after", "config.output.include_token_ids"),
    *("adapter", "options.fairness_key", "config.beam_search", "config.constraint", "config.speculation"),
    "config.output.include_text",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_argument_sets_its_field_and_no_other(call: Call, server, name: str) -> None:
    prompt = [{"role": "user", "content": "hi"}] if "template" in name or "generation" in name else "hi"
    value, path, expected = SETTINGS[name]
    same = {"request_id": "r", "timeout": 60}
    call("generate", prompt, **same)
    call("generate", prompt, **{**same, name: value})
    plain, made = server.requests
    owner = made
    for step in path.split(".")[:-1]:
        owner = getattr(owner, step)
    field = path.split(".")[-1]
    found = getattr(owner, field)
    assert (list(found) if isinstance(expected, list) else found) == expected
    if name != "request_id":
        assert plain != made
    before = plain
    for step in path.split(".")[:-1]:
        before = getattr(before, step)
    owner.ClearField(field)
    before.ClearField(field)
    assert _same(plain, made)


def _same(one: Message, other: Message) -> bool:
    """But for messages that are there and empty."""
    return json_format.MessageToDict(one) == json_format.MessageToDict(other)


def test_every_field_of_a_request_has_its_argument() -> None:
    told = {path for _, path, _ in SETTINGS.values()} | UNSET
    assert set(_fields(generation_pb2.GenerateRequest.DESCRIPTOR, "")) == told


def _fields(descriptor: Any, path: str) -> Iterator[str]:
    """The leaves, and what UNSET names whole."""
    for field in descriptor.fields:
        full = f"{path}{field.name}"
        kind = field.message_type
        branch = kind is not None and not field.is_repeated and kind.full_name.startswith("stretto.")
        if branch and full not in UNSET:
            yield from _fields(kind, f"{full}.")
        else:
            yield full


def test_all_three_ways_to_generate_send_the_same(call: Call, server) -> None:
    given = {
        name: value
        for name, (value, _, _) in SETTINGS.items()
        if name not in ("add_special_tokens", "parse_special_tokens")
    }
    messages = [{"role": "user", "content": "one two"}]
    call("generate", messages, **given)
    call("chat", messages, **given)
    call("stream", messages, **given)
    generated, chatted, streamed = server.requests
    assert generated == chatted == streamed


def test_a_stream_s_own_arguments_reach_the_server(call: Call, server) -> None:
    read: list[Progress] = []
    pieces, stream = call("stream", "a b", min_tokens_per_piece=3, on_progress=read.append, prompt_logprobs=True)
    assert server.stream_options == generation_pb2.StreamOptions(
        min_tokens_per_message=3, include_prefill_progress=True
    )
    assert [(progress.processed_tokens, progress.total_tokens) for progress in read] == [(1, 3), (3, 3)]
    assert [position.chosen.token_id for position in stream.prompt_logprobs] == [5]
    assert len(pieces) == 2


def test_prompt_logprobs_stand_on_the_answer(call: Call) -> None:
    (position,) = call("generate", "a", prompt_logprobs=True).prompt_logprobs
    assert (position.chosen.token_id, position.chosen.token, position.chosen.logprob) == (5, b"\xc3", -1)


def test_what_is_left_out_stays_unset(call: Call, server) -> None:
    call("chat", [{"role": "user", "content": "hi"}])
    (request,) = server.requests
    assert not request.config.sampling.ListFields()
    assert not request.config.stopping.ListFields()
    assert not request.HasField("add_special_tokens")
    assert len(request.options.request_id) == 32  # chosen by the client, so that a lost call has a name


def test_chat_carries_the_template_and_its_arguments(call: Call, server) -> None:
    call("chat", [{"role": "user", "content": "hi"}], template="tools", template_arguments={"think": True, "n": 2})
    (request,) = server.requests
    assert request.chat.template == "tools"
    assert dict(request.chat.template_arguments) == {"think": True, "n": 2}


def test_models_come_from_every_page(call: Call) -> None:
    models = call("models")
    assert [(model.id, model.state, model.tasks) for model in models] == [
        ("talker", "ready", ("generate",)),
        ("reader", "ready", ("embed",)),
    ]
    assert call("model", "reader") == models[1]
    assert models[1].prompts == {"query": "query: "}
    assert models[1].default_sampling == {"temperature": 0.5, "top_k": 0}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_tokens": -1}, "config.stopping.max_tokens"),
        ({"temperature": "hot"}, "config.sampling.temperature"),
        ({"seed": 2**64}, "config.sampling.seed"),
        ({"stop": ["\ud800"]}, "config.stopping.stop_strings"),
        ({"model": "\ud800"}, "model"),
        ({"truncate": "ends"}, "truncate"),
        ({"truncate": "chunk"}, "truncate"),
        ({"logit_bias": {-1: 0.5}}, "config.sampling.logit_bias"),
        ({"logit_bias": [1, 2]}, "config.sampling.logit_bias"),
        ({"banned_token_ids": [1, "a"]}, "config.sampling.banned_token_ids"),
        ({"allowed_token_ids": 7}, "config.sampling.allowed_token_ids"),
        ({"time_limit": -1}, "config.stopping.time_limit"),
        ({"template_arguments": {"a": {1}}}, "chat.template_arguments"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"template": "tools"}, "chat.template"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(call: Call, server, arguments, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        call("generate", "hello", **arguments)
    assert caught.value.field == field
    assert caught.value.reason == "INVALID_PARAMETER"
    assert not server.requests


@pytest.mark.parametrize(
    "prompt",
    [
        "\ud800",
        [],
        [-1],
        [1, "two"],
        None,
        7,
        b"bytes",
        [{"role": "user"}],
        [{"role": "user", "content": "a", "name": "b"}],
    ],
)
def test_a_prompt_of_no_known_kind_is_refused(call: Call, server, prompt: Any) -> None:
    with pytest.raises(InvalidRequest):
        call("generate", prompt)
    assert not server.requests


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": {"X-Upper": "a"}},
        {"metadata": {"grpc-timeout": "1"}},
        {"metadata": {"x-line": "two\nlines"}},
        {"metadata": {"x-bin": "a"}},
        {"token": "bad\ntoken"},
        {"token": ""},
        {"timeout": -1},
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_grpc_would_choke_on_is_refused(kind: type, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        kind("127.0.0.1:1", **options)
    assert "bad\ntoken" not in str(caught.value)


def test_the_token_and_the_metadata_go_with_every_call_and_into_no_repr(server) -> None:
    with Client(server.target, token="s3cret", metadata={"x-team": "a b"}) as client:
        client.generate("hi")
        list(client.stream("hi"))
        client.embed(["hi"])
        assert "s3cret" not in repr(client._connection)
    assert [(sent["authorization"], sent["x-team"]) for sent in server.metadata] == [("Bearer s3cret", "a b")] * 3


def test_the_target_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRETTO_TARGET", "127.0.0.1:7")
    with Client() as client, Client("127.0.0.1:8") as other:
        assert (client.target, other.target) == ("127.0.0.1:7", "127.0.0.1:8")
    monkeypatch.delenv("STRETTO_TARGET")
    with Client() as client:
        assert client.target == "127.0.0.1:50051"


NAMES = (
    "generate",
    "chat",
    "stream",
    "embed",
    "embed_stream",
    "score",
    "score_batch",
    "tokenize",
    "detokenize",
    "server_info",
    "models",
    "model",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_call_names_all_its_arguments_and_both_clients_share_it(name: str) -> None:
    signature = inspect.signature(getattr(Calls, name))
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    assert getattr(Client, name) is getattr(AsyncClient, name) is getattr(Calls, name)
    assert getattr(Calls, name).__doc__


def test_help_shows_each_argument_with_its_type_and_tells_of_it() -> None:
    for name in ("generate", "embed", "embed_stream", "score", "tokenize"):
        shown = pydoc.plain(pydoc.render_doc(getattr(Client, name)))
        assert "timeout: float | None = None" in shown
        assert "Unpack" not in shown
    told = " ".join(inspect.getdoc(getattr(Client, name)) for name in NAMES)
    options = set(get_type_hints(StreamOptions)) | set(get_type_hints(EmbedOptions)) | set(get_type_hints(ScoreOptions))
    untold = {name for name in options if f"`{name}" not in told}
    assert not untold


def test_an_argument_of_no_name_is_refused_as_python_does(call: Call, server) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        call("generate", "hello", temprature=1)
    with pytest.raises(TypeError, match="'min_tokens_per_piece'"):
        call("generate", "hello", min_tokens_per_piece=1)
    assert not server.requests


def test_the_three_ways_to_generate_take_the_same_arguments() -> None:
    generate, chat, stream = (
        set(inspect.signature(getattr(Calls, name)).parameters) for name in ("generate", "chat", "stream")
    )
    assert stream - generate == {"min_tokens_per_piece", "on_progress", "resume"}
    assert generate - stream == set()
    assert generate - chat == {"prompt", "add_special_tokens", "parse_special_tokens"}


def test_a_closed_client_says_so(server) -> None:
    client = Client(server.target)
    client.close()
    for name in ("generate", "stream"):
        with pytest.raises(StrettoError, match="closed") as caught:
            getattr(client, name)("hi")
        assert caught.value.reason == "CLIENT_CLOSED"


async def test_a_closed_async_client_says_so(server) -> None:
    client = AsyncClient(server.target)
    await client.generate("hi")
    await client.close()
    with pytest.raises(StrettoError, match="closed"):
        await client.generate("hi")
    with pytest.raises(StrettoError, match="closed"):
        client.stream("hi")


@pytest.mark.parametrize(
    "target",
    ["localhost", "localhost:", ":50051", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "http://here:50051"],
)
def test_a_target_without_a_host_and_a_port_is_refused(target: str) -> None:
    with pytest.raises(InvalidRequest, match=r"target must be HOST:PORT.*got") as caught:
        Client(target)
    assert caught.value.field == "target"


@pytest.mark.parametrize(
    "target", ["here:1", "[::1]:65535", "dns:///here:50051", "ipv4:127.0.0.1:1,127.0.0.1:2", "unix:/run/stretto"]
)
def test_a_target_may_be_an_address_or_of_one_of_grpcs_own_forms(target: str) -> None:
    with Client(target) as client:
        assert client.target == target
