"""How a download is shown: a bar where somebody watches, else a line when it starts and one when it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stretto.cli.sizes import byte_size
from stretto.engine.checkpoint.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class BarProgress:
    """One bar a download."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, visible=False)

    def start(self, name: str, total_bytes: int | None) -> None:
        self._task = self._bars.add_task(name, total=total_bytes)

    def advance(self, num_bytes: int) -> None:
        self._bars.advance(self._task, num_bytes)

    def finish(self) -> None:
        self._bars.stop_task(self._task)


class LineProgress:
    """Two lines a download, on standard error."""

    def __init__(self) -> None:
        self._name = ""
        self._bytes = 0

    def start(self, name: str, total_bytes: int | None) -> None:
        self._name, self._bytes = name, 0
        size = "" if total_bytes is None else f", {byte_size(total_bytes)}"
        print(f"downloading {name}{size}", file=sys.stderr, flush=True)

    def advance(self, num_bytes: int) -> None:
        self._bytes += num_bytes

    def finish(self) -> None:
        if self._bytes:  # else nothing came, and an error says why
            print(f"downloaded {self._name}, {byte_size(self._bytes)}", file=sys.stderr, flush=True)


@contextmanager
def watched() -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield LineProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield BarProgress(bars)
