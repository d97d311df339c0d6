"""What an operator sees of a real server: a log in one format and without prompts, counts and health that go on."""

import json
import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stretto import client as stretto
from stretto.client import Client

CANARY = "canary7f3a"
Status = health_pb2.HealthCheckResponse


def ask_with_canaries(client: Client) -> None:
    """Requests with the canary in each place that holds a text, of which some are refused."""
    roles = ("system", "user", "assistant", "user")
    chat = [{"role": role, "content": CANARY} for role in roles]
    asks: list[Callable[[], object]] = [
        lambda: client.chat(chat, max_tokens=2),
        lambda: client.generate(CANARY, max_tokens=2, stop=[CANARY]),
        lambda: list(client.stream(CANARY, max_tokens=2, stop=[CANARY])),
        lambda: client.embed([CANARY, ""]),
        lambda: client.generate(CANARY, model=CANARY),
        lambda: client.generate(CANARY, top_p=7),
        lambda: client.generate(CANARY * 2000),
        lambda: client.chat([{"role": CANARY, "content": CANARY}], max_tokens=2),
        lambda: client.embed([CANARY], prompt_name=CANARY),
        lambda: next(iter(client.stream(CANARY, max_tokens=500))),
    ]
    for ask in asks:
        with suppress(stretto.StrettoError):
            ask()


def test_the_log_has_one_format_and_no_prompt_whatever_happens(
    start_server: Any, models: list[str], eventually: Any
) -> None:
    server = start_server(*models, "--log-level", "debug")
    with Client(server.target) as client:
        ask_with_canaries(client)
        page = json.dumps(server.metrics())
        os.kill(server.engine(), signal.SIGKILL)
        eventually(lambda: server.status("/readyz") == 200 and ready_again(server), 60)
        ask_with_canaries(client)
    assert server.stop() == 0
    written = json.dumps(server.log)
    lines = [entry for entry in server.log if entry["event"] == "request"]
    assert len(lines) == 21  # the client asks once what the server allows
    assert {entry["code"] for entry in lines} >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "CANCELLED"}
    assert "was killed by SIGKILL" in written
    assert CANARY not in written
    assert CANARY not in page
    assert server.other_lines == []


def ready_again(server: Any) -> bool:
    return sum(entry["event"] == "model ready" for entry in server.log) == 4


def test_counts_go_on_and_health_tells_when_the_engine_dies_and_comes_back(
    start_server: Any, models: list[str], eventually: Any
) -> None:
    server = start_server(*models)
    heard: queue.Queue[int] = queue.Queue()
    with Client(server.target) as client, grpc.insecure_channel(server.target) as channel:
        client.generate("Once upon a time", max_tokens=4)
        next(iter(client.stream("Once upon a time", max_tokens=500)))
        eventually(lambda: server.total("stretto_cancel_to_free_seconds_count") == 1)
        before = server.total("stretto_requests_total")
        name = health_pb2.HealthCheckRequest(service="stretto.model.smollm2-135m-instruct")
        watch = health_pb2_grpc.HealthStub(channel).Watch(name)
        threading.Thread(target=listen, args=(watch, heard), daemon=True).start()
        assert heard.get(timeout=5) == Status.SERVING
        os.kill(server.engine(), signal.SIGKILL)
        assert heard.get(timeout=5) == Status.NOT_SERVING
        assert heard.get(timeout=60) == Status.SERVING
        watch.cancel()
        eventually(lambda: server.status("/readyz") == 200, 60)
        client.generate("Once upon a time", max_tokens=4)
        assert server.total("stretto_requests_total") == before + 1


def test_health_answers_at_once_while_requests_are_refused_for_want_of_room(
    start_server: Any, models: list[str], eventually: Any
) -> None:
    server = start_server(*models, "--max-queue-requests", "1", "--max-sequences", "1")
    calm = threading.Event()

    def crowd() -> None:
        with Client(server.target) as client:
            while not calm.is_set():
                with suppress(stretto.StrettoError):
                    client.generate("Once upon a time", max_tokens=8)

    threads = [threading.Thread(target=crowd) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: server.total("stretto_admission_rejections_total") > 0, 30)
        with grpc.insecure_channel(server.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for _ in range(20):
                assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == Status.SERVING
        assert server.status("/readyz") == 200
    finally:
        calm.set()
        for thread in threads:
            thread.join()


def listen(watch: Any, heard: "queue.Queue[int]") -> None:
    with suppress(grpc.RpcError):
        for answer in watch:
            heard.put(answer.status)
