"""Proves that scores, tokens, texts of tokens and the server's own figures come back as they were answered."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stretto.client import AsyncClient, Client, InputTooLong, InvalidRequest, NotImplementedByServer
from stretto.v1 import common_pb2, generation_pb2, tokenizer_pb2

Call = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request, server) -> Call:
    """Either client's call by its name."""

    def sync(name: str, *positional: Any, **named: Any) -> Any:
        with Client(server.target) as client:
            return getattr(client, name)(*positional, **named)

    async def awaited(name: str, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        async with AsyncClient(server.target) as client:
            return await getattr(client, name)(*positional, **named)

    def async_(name: str, *positional: Any, **named: Any) -> Any:
        return asyncio.run(awaited(name, positional, named))

    return sync if request.param == "sync" else async_


def test_each_continuation_has_its_score(call: Call) -> None:
    scores = call("score", "context", ["a", "bcd"], token_logprobs=True, request_id="r")
    assert [(score.logprob, score.token_count, score.is_greedy) for score in scores] == [(-1, 1, True), (-3, 3, False)]
    assert (scores[1].mean_logprob, scores[1].perplexity) == (-1, 2.5)
    assert [position.chosen.token_id for position in scores[1].tokens] == [ord(letter) for letter in "bcd"]
    assert (scores.input.token_count, scores.usage.total_tokens, scores.request_id) == (7, 2, "r")
    assert scores.error is None


def test_a_context_that_fails_raises(call: Call) -> None:
    with pytest.raises(InputTooLong):
        call("score", "fail", ["a"])


def test_an_item_of_a_batch_fails_by_itself(call: Call) -> None:
    good, failed, also_good = call("score_batch", iter([("c", ["a"]), ("fail", ["b"]), ("d", ["e", "fg"])]))
    assert [[score.logprob for score in scores] for scores in (good, also_good)] == [[-1], [-1, -2]]
    assert isinstance(failed.error, InputTooLong)
    for use in (len, list, lambda scores: scores[0]):
        with pytest.raises(InputTooLong):
            use(failed)


def test_every_argument_of_score_reaches_the_server(call: Call, server) -> None:
    named = {"model": "m", "token_logprobs": True, "truncate": "start", "priority": 2, "queue_timeout": 1.0}
    call("score", [1, 2], ["a", [3]], **named, request_id="r", cache_salt="s", use_prefix_cache=False, timeout=30.0)
    ids = common_pb2.TokenIds
    expected = generation_pb2.ScoreRequest(
        model="m",
        include_token_logprobs=True,
        overflow_policy=common_pb2.OVERFLOW_POLICY_TRUNCATE_START,
        options=common_pb2.RequestOptions(request_id="r", priority=2, cache_salt="s", bypass_prefix_cache=True),
    )
    item = expected.items.add(context=common_pb2.TextInput(token_ids=ids(ids=[1, 2])))
    item.continuations.add(text="a")
    item.continuations.add(token_ids=ids(ids=[3]))
    expected.options.timeout.FromSeconds(30)
    expected.options.queue_timeout.FromSeconds(1)
    assert server.requests == [expected]


def test_texts_become_tokens(call: Call) -> None:
    tokens = call("tokenize", (text for text in ["one three", "four"]), pieces=True, offsets=True)
    assert [item.token_ids for item in tokens] == [(3, 5), (4,)]
    assert [item.token_count for item in tokens] == [2, 1]
    assert tokens[0].pieces == (b"one", b"three")
    assert tokens[0].offsets == ((0, 3),)
    assert tokens.max_input_tokens == 512


def test_messages_become_the_tokens_of_their_template(call: Call, server) -> None:
    (tokens,) = call("tokenize", [{"role": "user", "content": "a bc"}], template="t", template_arguments={"n": 1})
    assert tokens.token_ids == (1, 2)
    (request,) = server.requests
    assert (request.chat.template, dict(request.chat.template_arguments)) == ("t", {"n": 1})
    assert not request.inputs


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("model", "m", "model", "m"),
        ("add_special_tokens", False, "add_special_tokens", False),
        ("parse_special_tokens", False, "parse_special_tokens", False),
        ("offsets", True, "include_offsets", True),
        ("pieces", True, "include_pieces", True),
        ("count_only", True, "count_only", True),
    ],
)
def test_every_argument_of_tokenize_reaches_the_server(call: Call, server, name, value, field, expected) -> None:
    call("tokenize", ["a"], **{name: value})
    made = tokenizer_pb2.TokenizeRequest(inputs=[common_pb2.TextInput(text="a")], **{field: expected})
    assert server.requests == [made]


def test_tokens_become_texts(call: Call, server) -> None:
    assert call("detokenize", [[1, 2], [], (3,)], model="m", skip_special_tokens=False) == ("x xx", "", "xxx")
    ids = common_pb2.TokenIds
    assert server.requests == [
        tokenizer_pb2.DetokenizeRequest(
            model="m", inputs=[ids(ids=[1, 2]), ids(), ids(ids=[3])], skip_special_tokens=False
        )
    ]


def test_the_server_tells_of_itself(call: Call) -> None:
    info = call("server_info")
    assert (info.version, info.api_versions, info.uptime_seconds) == ("1.2.3", ("v1",), 90.5)
    assert (info.max_request_bytes, info.max_response_bytes) == (64 << 20, 64 << 20)
    assert (info.max_inputs_per_request, info.max_queue_size, info.max_batch_tokens) == (2048, 7, 8)
    assert (info.device, info.cpu_threads, info.kernels) == ("cpu", 2, "portable")


def test_an_older_server_tells_nothing_of_itself(call: Call, server) -> None:
    server.limits = None
    with pytest.raises(NotImplementedByServer):
        call("server_info")


@pytest.mark.parametrize(
    ("name", "positional", "named", "field"),
    [
        ("tokenize", ("one text",), {}, "inputs"),
        ("tokenize", ([7],), {}, "inputs[0]"),
        ("tokenize", (["a"],), {"template": "t"}, "chat.template"),
        ("tokenize", ([{"role": "user"}],), {}, "chat.messages[0]"),
        ("detokenize", ([[-1]],), {}, "inputs[0].ids"),
        ("detokenize", ([1],), {}, "inputs[0].ids"),
        ("score", ("a", "bc"), {}, "items[0].continuations"),
        ("score", (None, ["b"]), {}, "items[0].context"),
        ("score", ("a", ["b", "\ud800"]), {}, "items[0].continuations[1].text"),
        ("score", ("a", ["b"]), {"truncate": "end"}, "truncate"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_field(call: Call, server, name, positional, named, field) -> None:
    with pytest.raises(InvalidRequest) as caught:
        call(name, *positional, **named)
    assert caught.value.field == field
    assert not server.requests
