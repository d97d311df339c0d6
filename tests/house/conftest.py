"""What the tests of the house share: the checkout, its files, and one real server for all of them."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS_TO_START = 180
SECONDS_TO_STOP = 45


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def files(root: Path) -> list[Path]:
    """Every file that is, or will be, under version control; generated code is not written by us."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name and "_pb2" not in name]
    return [root / name for name in names if (root / name).is_file()]


@pytest.fixture(scope="session")
def sources(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py"]


@pytest.fixture(scope="session")
def stretto() -> Path:
    """The console script of the environment that runs the tests."""
    return Path(sysconfig.get_path("scripts")) / "stretto"


@pytest.fixture(scope="session")
def server_target(stretto: Path, smollm2_gguf: Path, minilm: Path) -> Iterator[str]:
    """The address of a real `stretto serve` with the two models of the README under their own names."""
    command = [
        *(str(stretto), "serve", f"smollm2-135m-instruct={smollm2_gguf}", f"all-minilm-l6-v2={minilm}"),
        *("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}) as server:
        watchdog = threading.Timer(SECONDS_TO_START, server.kill)
        watchdog.start()
        try:
            target = address_once_serving(server)
            watchdog.cancel()
            drain = threading.Thread(target=read_to_the_end, args=(server,))
            drain.start()
            yield target
        finally:
            watchdog.cancel()
            server.send_signal(signal.SIGTERM)
            code = server.wait(SECONDS_TO_STOP)
    drain.join()
    assert code == 0, f"the server ended with exit code {code} when it was asked to stop"


def address_once_serving(server: subprocess.Popen[str]) -> str:
    """Read the log up to the line that says that every model is ready."""
    assert server.stderr is not None
    target, said = "", deque[str](maxlen=30)
    for line in server.stderr:
        said.append(line)
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "listening":
            target = event["grpc"]
        if event.get("event") == "serving":
            return target
    pytest.fail("stretto serve ended before it served; its log ends with\n" + "".join(said))


def read_to_the_end(server: subprocess.Popen[str]) -> None:
    """A server whose log nobody reads would stop when the pipe is full."""
    assert server.stderr is not None
    for line in server.stderr:
        sys.stderr.write(line)
