"""One step of a make target as people see it: a line that moves on a terminal, plain lines elsewhere."""

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

ERASE_LINE = "\r\x1b[K"


def on_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Step:
    """`[1/3] environment   .venv, Python 3.11 ... ok   41 s   (downloads: 214 MB)`."""

    def __init__(self, place: str, name: str, what: str) -> None:
        self._head = f"[{place}] {name:<13} {what}"
        self._started = time.monotonic()
        self._moving = on_terminal()
        self._said = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def doing(self, what: str, figures: str = "") -> None:
        """Say what goes on; figures change too often to be worth a line of their own outside a terminal."""
        if self._moving:
            width = shutil.get_terminal_size().columns - 1
            line = f"{self._head}   {self.seconds:.0f} s   {figures + '   ' if figures else ''}{what}"
            self._write(ERASE_LINE + line[:width])
        elif what != self._said:
            self._said = what
            self._write(f"{self._head}   {what}\n")

    def say(self, paragraph: str) -> None:
        """A whole paragraph, which stays on the screen."""
        self._write((ERASE_LINE if self._moving else "") + textwrap.fill(paragraph, 100) + "\n")

    def done(self, remark: str) -> None:
        erase = ERASE_LINE if self._moving else ""
        self._write(f"{erase}{self._head:<68}   ok {self.seconds:>4.0f} s   ({remark})\n")

    @contextmanager
    def line_kept(self) -> Iterator[None]:
        """Leave the moving line standing when what runs inside ends early: an error starts on a new line."""
        try:
            yield
        except BaseException:
            if self._moving:
                self._write("\n")
            raise

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
