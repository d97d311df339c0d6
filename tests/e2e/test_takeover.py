"""A server that is told to stop under load loses nobody: what runs is finished, what comes goes to the next server."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stretto.client import Client

STREAMS, EMBEDDERS = 4, 2
PROMPTS = ["1, 2, 3, 4, 5,", "The capital of France is", "Once upon a time", "def main():"]


def whole(client: Client, prompt: str) -> list[int]:
    return [token for piece in client.stream(prompt, temperature=0, max_tokens=16) for token in piece.token_ids]


@pytest.mark.parametrize("grace", ["30", pytest.param("1", marks=pytest.mark.slow)])
def test_a_server_that_stops_under_load_loses_no_call_and_the_next_one_takes_over(
    start_server: Callable[..., Any], models: list[str], eventually: Callable[..., None], grace: str
) -> None:
    """With a short grace running streams are cut, and resumed by the other server; the caller sees whole answers."""
    first, second = (start_server(*models, "--grace-seconds", grace) for _ in range(2))
    target = f"ipv4:{first.target},{second.target}"
    wrong: list[str] = []
    counts = {"streams": 0, "embeds": 0}
    enough = threading.Event()

    with Client(second.target) as client:
        expected = {prompt: whole(client, prompt) for prompt in PROMPTS}
        vector = client.embed(["a text"])[0].tolist()

    def stream_on(client: Client, number: int) -> None:
        while not enough.is_set():
            prompt = PROMPTS[number % len(PROMPTS)]
            try:
                if whole(client, prompt) != expected[prompt]:
                    wrong.append(f"{prompt!r} got another answer")
                counts["streams"] += 1
            except Exception as error:
                wrong.append(f"{prompt!r}: {error!r}")

    def embed_on(client: Client) -> None:
        while not enough.is_set():
            try:
                if client.embed(["a text"])[0].tolist() != pytest.approx(vector, abs=1e-5):
                    wrong.append("another vector")
                counts["embeds"] += 1
            except Exception as error:
                wrong.append(f"embed: {error!r}")

    with Client(target, timeout=60) as client:
        threads = [threading.Thread(target=stream_on, args=(client, number)) for number in range(STREAMS)]
        threads += [threading.Thread(target=embed_on, args=(client,)) for _ in range(EMBEDDERS)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: min(counts.values()) > STREAMS, 60.0)
            first.process.send_signal(signal.SIGTERM)
            code = first.process.wait(45)
            before = dict(counts)
            eventually(lambda: all(counts[kind] > before[kind] + STREAMS for kind in counts), 60.0)
        finally:
            enough.set()
            for thread in threads:
                thread.join()

    assert not wrong, wrong
    assert code == 0
    (stopped,) = (entry for entry in first.log if entry.get("event") == "stopped")
    assert stopped["cut"] == 0 or grace == "1"
    assert any(entry.get("event") == "request" for entry in first.log)
    assert second.stop() == 0
