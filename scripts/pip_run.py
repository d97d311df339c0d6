"""Runs pip in the environment: its output into a log, its progress onto the step's line."""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from progress import Step

TICK_SECONDS = 0.25
SECONDS_TO_CLEAN_UP = 5
UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
DOWNLOADING = re.compile(r"\s*Downloading (?P<file>\S+) \((?P<count>[\d.]+) (?P<unit>bytes|kB|MB|GB)\)")
PROGRESS = re.compile(r"Progress (?P<got>\d+) of (?P<all>\d+)")
# pip says this when all is downloaded and the environment begins to change.
INSTALLING = "Installing collected packages:"
# Small files come and go too fast to be read.
WORTH_A_LINE_BYTES = 5_000_000


class PipFailed(Exception):
    """pip ended with something else than success; the log says why."""


def bytes_announced(downloading: re.Match[str]) -> int:
    return int(float(downloading["count"]) * UNITS[downloading["unit"]])


@dataclass(slots=True)
class Downloads:
    """What pip has said of its downloads so far."""

    size_bytes: int = 0
    got_bytes: int = 0
    before_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.before_bytes + self.got_bytes

    def read(self, line: str) -> None:
        if found := DOWNLOADING.match(line):
            self.before_bytes += self.size_bytes
            self.size_bytes = bytes_announced(found)
            self.got_bytes = 0
        elif found := PROGRESS.match(line):
            self.got_bytes = int(found["got"])
            self.size_bytes = int(found["all"])

    def finish(self) -> None:
        """Small files come without progress: what was announced has arrived."""
        self.got_bytes = self.size_bytes


class Pip:
    """What pip does to one environment: how much it has downloaded, and whether it has begun to change anything."""

    def __init__(self, python: Path, log: TextIO, step: Step) -> None:
        self._python = python
        self._log = log
        self._step = step
        self.downloaded_bytes = 0
        self.changed = False

    def run(self, command: list[str], *arguments: str, doing: str) -> None:
        """Run some pip, of any age, to its end."""
        for _ in self._lines([*command, *arguments], doing):
            pass

    def lines(self, *arguments: str, doing: str) -> Generator[str]:
        """Run the environment's own pip, which is new enough to count bytes. Closing the generator ends pip."""
        return self._lines([str(self._python), "-m", "pip", *arguments, "--progress-bar", "raw"], doing)

    def _lines(self, command: list[str], doing: str) -> Generator[str]:
        downloads = Downloads()
        self._log.write(f"$ {' '.join(command)}\n")
        self._step.doing(doing)
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=settings()
        ) as process:
            try:
                for line in self._read(process, downloads, doing):
                    downloads.read(line)
                    self.changed = self.changed or line.startswith(INSTALLING)
                    if not PROGRESS.match(line):
                        self._log.write(line + "\n")
                        yield line
            except BaseException:
                stop(process)
                raise
            finally:
                self._log.flush()
        downloads.finish()
        self.downloaded_bytes += downloads.total_bytes
        if process.returncode != 0:
            raise PipFailed(f"pip ended with exit code {process.returncode}")

    def _read(self, process: subprocess.Popen[bytes], downloads: Downloads, doing: str) -> Iterator[str]:
        """The lines of a running pip, with the step's line kept moving while pip is silent."""
        assert process.stdout is not None
        unfinished, next_tick, what = b"", 0.0, doing
        while True:
            if select.select([process.stdout], [], [], TICK_SECONDS)[0]:
                piece = os.read(process.stdout.fileno(), 65_536)
                if not piece:
                    return
                *lines, unfinished = (unfinished + piece).split(b"\n")
                for line in (raw.decode(errors="replace").rstrip("\r") for raw in lines):
                    what = current(line, what)
                    yield line
            if time.monotonic() >= next_tick:
                self._step.doing(what, f"{(self.downloaded_bytes + downloads.total_bytes) / 1e6:.0f} MB")
                next_tick = time.monotonic() + TICK_SECONDS


def stop(process: subprocess.Popen[bytes]) -> None:
    """An interrupted pip removes its half-made files; a killed one does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(SECONDS_TO_CLEAN_UP)
    except subprocess.TimeoutExpired:
        process.kill()


def current(line: str, before: str) -> str:
    """What pip is at after this line; `before` if the line does not tell."""
    if found := DOWNLOADING.match(line):
        large = bytes_announced(found) >= WORTH_A_LINE_BYTES
        return f"{found['file'].rsplit('/', 1)[-1]} ({found['count']} {found['unit']})" if large else before
    if line.startswith(INSTALLING) and "," in line:
        return f"installing {line.count(',') + 1} packages"
    if line.startswith("  Installing build dependencies"):
        return "building stretto"
    return before


def settings() -> dict[str, str]:
    """The caller's own pip settings, less those that would install elsewhere than into the environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")}
    ours = {
        "PIP_USER": "0",
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | ours
