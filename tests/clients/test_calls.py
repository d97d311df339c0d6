"""Proves that both clients send what was asked and give back what was answered, and refuse what cannot be sent."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from stretto.client import AsyncClient, Client, InvalidRequest, StrettoError
from stretto.client.calls import Calls
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


def test_every_argument_reaches_the_server_under_its_name(call: Call, server) -> None:
    call(
        "generate",
        "hello",
        model="talker",
        max_tokens=0,
        min_tokens=2,
        temperature=0.0,
        top_k=0,
        top_p=0.5,
        min_p=0.25,
        seed=0,
        candidates=2,
        stop="end",
        stop_token_ids=[7, 8],
        ignore_eos=True,
        include_stop=True,
        time_limit=1.5,
        logprobs=True,
        top_logprobs=0,
        echo=True,
        skip_special_tokens=False,
        truncate="start",
        max_prompt_tokens=9,
        add_special_tokens=False,
        parse_special_tokens=False,
        expected_model_version="v",
        priority=-3,
        queue_timeout=2.0,
        cache_salt="salt",
        use_prefix_cache=False,
        telemetry=True,
        request_id="r",
        timeout=30.0,
    )
    expected = generation_pb2.GenerateRequest(
        model="talker",
        text="hello",
        overflow_policy=common_pb2.OVERFLOW_POLICY_TRUNCATE_START,
        max_prompt_tokens=9,
        add_special_tokens=False,
        parse_special_tokens=False,
        expected_model_version="v",
    )
    sampling, stopping, output = expected.config.sampling, expected.config.stopping, expected.config.output
    sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p = 0, 0, 0.5, 0.25
    sampling.seed, sampling.candidate_count = 0, 2
    stopping.max_tokens, stopping.min_tokens = 0, 2
    stopping.stop_strings.append("end")
    stopping.stop_token_ids.extend([7, 8])
    stopping.ignore_eos = stopping.include_stop = True
    stopping.time_limit.FromMilliseconds(1500)
    output.include_token_ids = output.include_logprobs = output.echo = True
    output.top_logprobs, output.skip_special_tokens = 0, False
    options = expected.options
    options.request_id, options.priority, options.cache_salt = "r", -3, "salt"
    options.bypass_prefix_cache = options.include_telemetry = True
    options.queue_timeout.FromSeconds(2)
    options.timeout.FromSeconds(30)
    assert server.requests == [expected]


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


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"max_tokens": -1}, "config.stopping.max_tokens"),
        ({"temperature": "hot"}, "config.sampling.temperature"),
        ({"seed": 2**64}, "config.sampling.seed"),
        ({"stop": ["\ud800"]}, "config.stopping.stop_strings"),
        ({"model": "\ud800"}, "model"),
        ({"truncate": "ends"}, "truncate"),
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


def test_every_call_names_all_its_arguments_and_both_clients_share_them() -> None:
    for name in ("generate", "chat", "stream", "embed", "models", "model"):
        signature = inspect.signature(getattr(Calls, name))
        assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
        assert getattr(Client, name) is getattr(AsyncClient, name) is getattr(Calls, name)
        assert getattr(Calls, name).__doc__


def test_the_three_ways_to_generate_take_the_same_arguments() -> None:
    generate, chat, stream = (
        set(inspect.signature(getattr(Calls, name)).parameters) for name in ("generate", "chat", "stream")
    )
    assert stream - generate == {"min_tokens_per_piece"}
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
