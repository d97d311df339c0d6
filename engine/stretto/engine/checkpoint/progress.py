"""How a download tells how far it is. No torch."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.2


class Progress(Protocol):
    """Hears of one download at a time; `advance` may come from another thread than `start` and `finish`."""

    def start(self, name: str, total_bytes: int | None) -> None: ...

    def advance(self, num_bytes: int) -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def start(self, name: str, total_bytes: int | None) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass


@contextmanager
def growing(folder: Path, name: str, total_bytes: int | None, progress: Progress) -> Iterator[None]:
    """Report how a folder grows while somebody else writes into it; never more than the total."""
    before = _folder_bytes(folder)
    reported = 0
    done = threading.Event()

    def report() -> None:
        nonlocal reported
        grown = _folder_bytes(folder) - before
        grown = grown if total_bytes is None else min(grown, total_bytes)
        if grown > reported:
            progress.advance(grown - reported)
            reported = grown

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            report()

    progress.start(name, total_bytes)
    watcher = threading.Thread(target=watch, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        report()
        progress.finish()


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # passes over what goes while it looks
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except OSError:
                continue
    return total
