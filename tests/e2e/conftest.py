"""Real servers for the end-to-end tests: `stretto serve` as a process of its own, and what is known of it."""

import json
import os
import signal
import subprocess
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from stretto.client import Client

SECONDS_TO_START = 180.0
SECONDS_TO_STOP = 45.0


class ServerProcess:
    """One `stretto serve`, followed through its log."""

    def __init__(self, *arguments: str) -> None:
        command = [
            *(str(Path(sysconfig.get_path("scripts")) / "stretto"), "serve", *arguments),
            *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"),
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"})
        self.log: list[dict[str, object]] = []
        self.other_lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("serving", SECONDS_TO_START)
        (listening,) = (entry for entry in self.log if entry.get("event") == "listening")
        self.target, self.metrics_address = str(listening["grpc"]), str(listening["metrics"])

    def wait_for(self, event: str, seconds: float) -> None:
        """Wait until the log says so; the server's end, or too much time, fails the test with the log."""
        deadline = time.monotonic() + seconds
        while not any(entry.get("event") == event for entry in self.log):
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no {event!r} in the server's log: {self.log} {self.other_lines[-20:]}")
            time.sleep(0.02)

    def children(self) -> list[int]:
        """The process ids below the server's: the fork server and the engine."""
        found, queue = list[int](), [self.process.pid]
        while queue:
            with suppress(FileNotFoundError, ProcessLookupError):
                pid = queue.pop()
                for task in Path(f"/proc/{pid}/task").iterdir():
                    queue += [int(child) for child in (task / "children").read_text().split()]
                found.append(pid)
        return found[1:]

    def engine(self) -> int:
        """The process id of the engine: the fork server's child."""
        return max(self.children())

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics, by their name and labels as they are written."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for key, value in self.metrics().items() if key.split("{")[0] == name)

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(SECONDS_TO_STOP)
        self._close()
        return code

    def kill(self) -> None:
        """End it without asking; nothing happens where it has ended."""
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.log.append(json.loads(line))
            else:
                self.other_lines.append(line)


@pytest.fixture(scope="session")
def models(smollm2_gguf: Path, minilm: Path) -> list[str]:
    """The two default models, as arguments of `stretto serve`."""
    return [f"smollm2-135m-instruct={smollm2_gguf}", f"all-minilm-l6-v2={minilm}"]


@contextmanager
def _servers() -> Iterator[Callable[..., ServerProcess]]:
    with ExitStack() as stack:

        def start(*arguments: str) -> ServerProcess:
            server = ServerProcess(*arguments)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers that a test may treat as badly as it likes; whatever is left of them ends with the test."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers for the tests of one file."""
    with _servers() as start:
        yield start


@pytest.fixture(scope="session")
def server(models: list[str]) -> Iterator[ServerProcess]:
    """One server with both models, for all tests that leave it as they found it."""
    running = ServerProcess(*models)
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0


def eventually(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something is so; a test fails when it does not become so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.01)


@pytest.fixture(name="eventually", scope="session")
def eventually_fixture() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="module")
def unharmed(server: ServerProcess, eventually: Callable[..., None]) -> Iterator[None]:
    """The same text, the same vector, the same engine process and every block back, after all that is done here."""

    def answers() -> tuple[str, list[float]]:
        with Client(server.target) as client:
            text = client.generate("1, 2, 3, 4, 5,", temperature=0, max_tokens=24, use_prefix_cache=False).text
            return text, np.asarray(client.embed(["A man eats food."]))[0].tolist()

    def idle() -> bool:
        metrics = server.metrics()
        held = sum(value for key, value in metrics.items() if "kv_cache_blocks" in key and 'state="held"' in key)
        return held == 0 and server.total("stretto_requests_in_progress") == 0

    before, engine = answers(), server.engine()
    yield
    eventually(idle, 10.0)
    assert answers() == before
    assert server.engine() == engine
    assert server.status("/readyz") == 200
    assert [entry for entry in server.log if entry.get("event") == "unexpected error"] == []
    assert [line for line in server.other_lines if "Traceback" in line] == []
