"""Where a command's texts come from: its arguments, a file, or standard input."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stretto.cli.failure import CommandFailed, used_wrongly


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text and what to call it in a message: "text 2", "line 17 of texts.txt"."""

    text: str
    name: str


def whole_input(given: str | None) -> str:
    """The argument; without one, or for "-", everything on standard input."""
    if given is not None and given != "-":
        return given
    refuse_terminal()
    return decoded(sys.stdin.buffer.read(), "standard input")


def named_texts(given: list[str]) -> Iterator[Text]:
    return (Text(text=text, name=f"text {number}") for number, text in enumerate(given, 1))


def lines(stream: BinaryIO, name: str) -> Iterator[Text]:
    """One text a line; the end of the last line may be missing. An empty line is an empty text."""
    for number, line in enumerate(stream, 1):
        here = f"line {number} of {name}"
        yield Text(text=decoded(line.removesuffix(b"\n").removesuffix(b"\r"), here), name=here)


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}.", "Convert it first, with iconv."
        ) from None


def refuse_terminal() -> None:
    """Waiting silently for a person who expects an answer helps nobody."""
    if sys.stdin is None:
        raise used_wrongly("standard input is closed.", "Give a text as an argument, or pipe it in.")
    if sys.stdin.isatty():
        raise used_wrongly("there is no text.", "Give one as an argument, or pipe it to standard input.")
