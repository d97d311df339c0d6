"""A real Prometheus scrapes a server under load, and promtool finds nothing to say about the page."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stretto.client import Client

SECONDS_OF_LOAD = 20.0
CONFIG = """\
global:
  scrape_interval: 1s
scrape_configs:
- job_name: stretto
  static_configs:
  - targets: ["{target}"]
"""

pytestmark = pytest.mark.slow


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not on the PATH: install Prometheus (Debian: apt-get install prometheus)"
    return found


class Prometheus:
    """A Prometheus of its own on a free port, which scrapes one server every second."""

    def __init__(self, target: str, folder: Path) -> None:
        (folder / "prometheus.yml").write_text(CONFIG.format(target=target))
        command = [
            *(program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"),
            *(f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"),
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = ""
        while "Server is ready" not in said:
            line = self._process.stderr.readline()
            assert line, said
            said += line
        self._address = re.findall(r'msg="Listening on" address=(\S+)', said)[0]
        self._rest = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._rest.start()

    def query(self, expression: str) -> dict[str, float]:
        """The value of each series, by its labels as JSON."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{query}", timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success"
        return {json.dumps(each["metric"]): float(each["value"][1]) for each in answer["data"]["result"]}

    def total(self, expression: str) -> float:
        return sum(self.query(expression).values())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._rest.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture
def prometheus(server: Any, tmp_path: Path) -> Iterator[Prometheus]:
    running = Prometheus(server.metrics_address, tmp_path)
    yield running
    running.stop()


def load(target: str, until: float) -> tuple[int, int]:
    """Generate, embed and cancel until it is time; how many tokens and texts came."""
    tokens = texts = 0
    with Client(target) as client:
        while time.monotonic() < until:
            for piece in client.stream("Once upon a time", max_tokens=24, temperature=0):
                tokens += len(piece.token_ids)
            texts += len(client.embed(["A man eats food.", "The stock market fell."]))
            next(iter(client.stream("Once upon a time", max_tokens=500)))  # left at once: a cancel
    return tokens, texts


def test_promtool_has_nothing_to_say_about_the_page(server: Any) -> None:
    load(server.target, time.monotonic() + 1)
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as reply:
        page = reply.read()
    done = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_prometheus_scrapes_a_server_under_load(server: Any, prometheus: Prometheus, eventually: Any) -> None:
    counted: list[tuple[int, int]] = []
    end = time.monotonic() + SECONDS_OF_LOAD
    clients = [threading.Thread(target=lambda: counted.append(load(server.target, end))) for _ in range(3)]
    for client in clients:
        client.start()
    eventually(lambda: prometheus.total("up") == 1, 10)
    eventually(lambda: prometheus.total("rate(stretto_completion_tokens_total[10s])") > 0, 20)
    eventually(lambda: prometheus.total("stretto_requests_in_progress") > 0, 20)
    for client in clients:
        client.join()
    tokens, texts = (sum(each) for each in zip(*counted, strict=True))
    eventually(lambda: prometheus.total("stretto_requests_in_progress") == 0, 10)

    assert len(counted) == len(clients)
    assert prometheus.query("up") == {
        '{"__name__": "up", "instance": "' + server.metrics_address + '", "job": "stretto"}': 1
    }
    assert prometheus.total("rate(stretto_completion_tokens_total[20s])") > 0
    assert prometheus.total('stretto_completion_tokens_total{adapter=""}') >= tokens > 0
    assert prometheus.total('stretto_inputs_per_request_sum{task="embed"}') >= texts > 0
    assert prometheus.total("stretto_cancel_to_free_seconds_count") > 0
    slowest = "histogram_quantile(0.99, sum by (le) (stretto_cancel_to_free_seconds_bucket))"
    assert 0 < prometheus.total(slowest) < 5
    assert prometheus.total("min_over_time(up[15s])") == 1
