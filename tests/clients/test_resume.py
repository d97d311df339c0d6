"""Proves that a broken stream goes on where it broke, each character once, says so, and gives up in time."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stretto.client import AsyncClient, Client, ModelNotReady, Piece, StrettoError, Unavailable, VersionMismatch
from stretto.v1 import generation_pb2

Read = Callable[..., tuple[list[Piece], Any]]


@pytest.fixture(params=["sync", "async"])
def read(request) -> Read:
    """All pieces of a stream and the stream itself, by either client."""

    def sync(target: str, text: str, **options: Any) -> tuple[list[Piece], Any]:
        with Client(target) as client:
            stream = client.stream(text, **options)
            return list(stream), stream

    async def awaited(target: str, text: str, **options: Any) -> tuple[list[Piece], Any]:
        async with AsyncClient(target) as client:
            stream = client.stream(text, **options)
            return [piece async for piece in stream], stream

    def async_(target: str, text: str, **options: Any) -> tuple[list[Piece], Any]:
        return asyncio.run(awaited(target, text, **options))

    return sync if request.param == "sync" else async_


def joined(pieces: list[Piece], candidate: int = 0) -> tuple[str, list[int]]:
    mine = [piece for piece in pieces if piece.candidate == candidate]
    return "".join(piece.text for piece in mine), [id for piece in mine for id in piece.token_ids]


@pytest.mark.parametrize("word", ["broken", "killed"])
def test_a_broken_stream_goes_on_and_says_so(read: Read, server, caplog, word: str) -> None:
    with caplog.at_level(logging.WARNING, "stretto.client"):
        pieces, stream = read(server.target, f"four three {word} one", request_id="r")
    assert joined(pieces) == (f"one {word} three four", [3, 6, 5, 4])
    assert [piece.finish_reason for piece in pieces] == [None, None, None, "max_tokens"]
    assert stream.resumed == 1
    assert server.attempts["r"] == 2
    (record,) = caplog.records
    assert "request r broke after 2 tokens" in record.getMessage()


def test_what_is_asked_again_is_the_same_request_after_the_ids_that_came(read: Read, server) -> None:
    read(server.target, "three broken one", temperature=0.5, echo=True, prompt_logprobs=True, timeout=30.0)
    first, second = server.requests
    assert second.config.sampling.seed == 2**64 - 1
    assert second.expected_model_version == "v1"
    assert [list(ids.ids) for ids in second.resume_after] == [[3, 6]]
    assert not second.config.output.include_prompt_logprobs  # they came before the break
    assert 29 < second.options.timeout.ToTimedelta().total_seconds() < 30
    for changed in ("resume_after", "expected_model_version"):
        second.ClearField(changed)
    second.options.timeout.CopyFrom(first.options.timeout)
    second.config.output.CopyFrom(first.config.output)
    second.config.sampling.ClearField("seed")
    assert first == second


def test_text_that_the_server_held_back_at_the_break_comes_once(read: Read, server) -> None:
    unbroken, _ = read(server.target, "end bro+ken start")
    server.requests.clear()
    server.break_after = "bro+ken"
    pieces, stream = read(server.target, "end bro+ken start")
    assert stream.resumed == 1
    assert joined(pieces) == joined(unbroken)
    assert joined(pieces)[0] == "start broken end"


def test_every_candidate_goes_on_by_itself_and_the_finished_stay_finished(read: Read, server) -> None:
    pieces, stream = read(server.target, "four broken two one", candidates=3, temperature=1.0)
    assert [joined(pieces, index)[0] for index in range(3)] == ["one two broken four", "two broken four", "broken four"]
    assert sorted(piece.candidate for piece in pieces if piece.finish_reason) == [0, 1, 2]
    assert stream.resumed == 1
    assert [list(ids.ids) for ids in server.requests[-1].resume_after] == [[3, 3, 6], [3, 6, 4], [6, 4]]


def test_an_echoed_prompt_comes_once_and_is_no_part_of_what_is_resumed(read: Read, server) -> None:
    pieces, stream = read(server.target, "three broken one", echo=True)
    assert joined(pieces) == ("echo one broken three", [101, 102, 103, 3, 6, 5])
    assert stream.resumed == 1
    assert [list(ids.ids) for ids in server.requests[-1].resume_after] == [[3, 6]]


def test_the_best_of_several_is_not_resumed_once_some_of_it_came(read: Read, server) -> None:
    with pytest.raises(Unavailable):
        read(server.target, "three broken one", best_of=2, temperature=1.0)
    server.break_after = "nothing"
    pieces, _ = read(server.target, "two one", best_of=2, temperature=1.0)
    assert joined(pieces)[0] == "one two"


@pytest.mark.parametrize(("options", "attempts"), [({}, 5), ({"resume": False}, 1), ({"timeout": 0.4}, 2)])
def test_it_gives_up_with_the_server_s_own_error(read: Read, server, options: dict[str, Any], attempts: int) -> None:
    with pytest.raises(Unavailable) as caught:
        read(server.target, "doomed", request_id="r", **options)
    assert caught.value.reason == "ENGINE_LOST"
    assert server.attempts["r"] == attempts


def test_a_server_that_comes_back_is_given_the_time_to_load_its_model(read: Read, server) -> None:
    server.loading = 6  # more often than a broken stream is tried again
    pieces, stream = read(server.target, "four three broken one")
    assert joined(pieces) == ("one broken three four", [3, 6, 5, 4])
    assert stream.resumed == 1


def test_a_model_that_loads_for_ever_is_waited_for_until_the_timeout(read: Read, server) -> None:
    server.loading = 1000
    with pytest.raises(ModelNotReady):
        read(server.target, "four three broken one", timeout=1.0)


def test_a_model_that_loads_is_not_waited_for_where_nothing_broke(read: Read, server) -> None:
    with pytest.raises(ModelNotReady):
        read(server.target, "fail:FAILED_PRECONDITION:MODEL_NOT_READY", request_id="r")
    assert server.attempts["r"] == 1


def test_another_checkpoint_never_goes_on_with_an_answer(read: Read, server) -> None:
    with pytest.raises(VersionMismatch):
        read(server.target, "two swapped one", request_id="r")
    assert server.attempts["r"] == 2


@pytest.mark.parametrize("text", ["cut off here", "jump over tokens"])
def test_what_no_server_should_send_is_not_tried_again(read: Read, server, text: str) -> None:
    with pytest.raises(StrettoError):
        read(server.target, text, request_id="r")
    assert server.attempts["r"] == 1


def behind_one_name(*servers: Any) -> str:
    return f"ipv4:{','.join(server.target for server in servers)}"


def test_a_second_server_takes_over_a_stream_whose_server_dies(mortal, another) -> None:
    with Client(behind_one_name(mortal, another)) as client:
        stream = client.stream("last endless first")
        pieces = [next(stream), next(stream)]
        (dying,) = (server for server in (mortal, another) if server.requests)
        threading.Thread(target=dying.die).start()
        pieces += stream
    assert joined(pieces) == ("first endless last", [5, 7, 4])
    assert stream.resumed == 1


async def test_a_second_server_takes_over_an_async_stream(mortal, another) -> None:
    async with AsyncClient(behind_one_name(mortal, another)) as client:
        stream = client.stream("last endless first")
        pieces = [await anext(stream), await anext(stream)]
        (dying,) = (server for server in (mortal, another) if server.requests)
        threading.Thread(target=dying.die).start()
        pieces += [piece async for piece in stream]
    assert joined(pieces) == ("first endless last", [5, 7, 4])


def test_a_server_that_drains_is_passed_over(mortal, another) -> None:
    mortal.draining = True
    with Client(behind_one_name(mortal, another)) as client:
        answers = [client.generate("b a").text for _ in range(4)]
        streams = ["".join(piece.text for piece in client.stream("b a")) for _ in range(4)]
    assert answers == streams == ["a b"] * 4
    assert mortal.requests  # was asked, and said no


def test_a_server_that_is_gone_is_passed_over(mortal, another) -> None:
    with Client(behind_one_name(mortal, another)) as client:
        client.generate("warm")
        mortal.die()
        assert [client.generate("b a").text for _ in range(4)] == ["a b"] * 4


def test_a_lost_stream_of_two_candidates_before_its_first_token_is_simply_asked_again(read: Read, server) -> None:
    server.break_after = "nothing"
    pieces, stream = read(server.target, "two one", candidates=2)
    assert [joined(pieces, index)[0] for index in range(2)] == ["one two", "two"]
    assert stream.resumed == 1
    assert not server.requests[-1].resume_after
    assert isinstance(server.requests[-1], generation_pb2.GenerateRequest)
