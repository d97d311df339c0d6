"""Proves that an answer of a real server that loses its connection again and again is the answer that it would be."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from stretto.client import Client

PROMPT = [{"role": "user", "content": "Write a poem about the sea, with emoji."}]
DRAWN = {"temperature": 1.0, "seed": 7, "max_tokens": 40, "ignore_eos": True, "candidates": 2, "logprobs": True}


class Cable:
    """A connection to the server that can be cut; who connects again is connected again."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self._far = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        while self._ends:
            end = self._ends.pop()
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._far)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)


@pytest.fixture
def cable(server: Any) -> Iterator[Cable]:
    cable = Cable(server.target)
    yield cable
    cable.close()


@pytest.mark.parametrize(
    "options", [DRAWN, DRAWN | {"stop": "the"}, {"max_tokens": 40, "temperature": 0, "echo": True}]
)
def test_a_stream_over_a_cable_that_is_cut_three_times_gives_the_answer_of_a_whole_one(
    server: Any, cable: Cable, options: dict[str, Any]
) -> None:
    with Client(server.target) as client:
        whole = client.chat(PROMPT, **options)
    texts = [""] * len(whole.candidates)
    ids: list[tuple[int, ...]] = [()] * len(texts)
    ends: list[tuple[str | None, str | None]] = [(None, None)] * len(texts)
    with Client(cable.target) as client, client.stream(PROMPT, **options) as stream:
        for count, piece in enumerate(stream):
            texts[piece.candidate] += piece.text
            ids[piece.candidate] += piece.token_ids
            if piece.finish_reason:
                ends[piece.candidate] = (piece.finish_reason, piece.stop_string)
            if count in (1, 5, 11):
                cable.cut()
    assert texts == [candidate.text for candidate in whole.candidates]
    assert ids == [candidate.token_ids for candidate in whole.candidates]
    assert ends == [(candidate.finish_reason, candidate.stop_string) for candidate in whole.candidates]
    assert stream.resumed >= 1  # what had arrived before the cut is read first
    assert stream.seed == whole.seed
    assert stream.usage is not None


def test_a_stream_whose_engine_is_killed_waits_for_the_next_one_and_gives_the_whole_answer(
    start_server: Callable[..., Any], models: list[str]
) -> None:
    server = start_server(models[0])
    with Client(server.target) as client:
        whole = client.generate("1, 2, 3, 4, 5,", temperature=0, max_tokens=40, ignore_eos=True)
        with client.stream("1, 2, 3, 4, 5,", temperature=0, max_tokens=40, ignore_eos=True, timeout=120) as stream:
            pieces = [next(stream)]
            os.kill(server.engine(), signal.SIGKILL)
            pieces += stream
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [token for piece in pieces for token in piece.token_ids] == list(whole.candidates[0].token_ids)
    assert stream.resumed >= 1
