"""Lines that a person types, with history and arrow keys; or lines of a pipe."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from stretto.cli.failure import used_wrongly
from stretto.cli.texts import decoded

ReadLine = Callable[[], str]


def lines_of_input() -> ReadLine:
    """A function that gives the next line, and raises EOFError after the last and KeyboardInterrupt at Ctrl-C."""
    if sys.stdin is None:
        raise used_wrongly("standard input is closed.", "Pipe messages to it, one a line.")
    return _typed_lines() if sys.stdin.isatty() and sys.stdout.isatty() else _piped_line


def _typed_lines() -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    path = history_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # what was said to a model is nobody else's to read
    session: PromptSession[str] = PromptSession(history=FileHistory(str(path)))
    return lambda: session.prompt("> ")


def history_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "stretto" / "chat_history"


def _piped_line() -> str:
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return decoded(line, "standard input").rstrip("\r\n")
