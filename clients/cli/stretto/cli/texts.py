"""Where a command's texts come from: its arguments, a file, or standard input."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stretto.cli.failure import CommandFailed, used_wrongly


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text and what to call it in a message: "text 2", "line 17 of texts.txt"."""

    text: str
    name: str


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: one text a line of standard input")
    parser.add_argument("--file", type=Path, metavar="FILE", help="one text a line")
    parser.add_argument(
        "--json-input", action="store_true", help='each line is JSON: a string, or an object {"text": ...}'
    )


def texts_of(arguments: argparse.Namespace, opened: ExitStack) -> Iterator[Text]:
    """The texts that `add_text_arguments` let a person give, read as they are asked for; at least one."""
    if arguments.texts and (arguments.file or arguments.json_input):
        raise used_wrongly("texts, and --file or --json-input, exclude each other.", "Give one of them.")
    if arguments.texts:
        return (Text(text=text, name=f"text {number}") for number, text in enumerate(arguments.texts, 1))
    found = given_lines(arguments.file, opened)
    return (unwrapped(line) for line in found) if arguments.json_input else found


def given_lines(path: Path | None, opened: ExitStack) -> Iterator[Text]:
    """The lines of the file, or of standard input where there is none."""
    if path is not None:
        return _lines(opened.enter_context(path.open("rb")), str(path))
    refuse_terminal()
    return _lines(sys.stdin.buffer, "standard input")


def whole_input(given: str | None) -> str:
    """The argument; without one, or for "-", everything on standard input."""
    if given is not None and given != "-":
        return given
    refuse_terminal()
    return decoded(sys.stdin.buffer.read(), "standard input")


def unwrapped(line: Text) -> Text:
    """The text in a line of JSON."""
    value = parsed(line)
    if isinstance(value, dict) and set(value) == {"text"}:
        value = value["text"]
    if not isinstance(value, str):
        raise CommandFailed(
            f'{line.name} must be a JSON string, or an object that holds "text" alone.',
            "To keep the text of larger objects:  jq -c .text",
        )
    return Text(text=value, name=line.name)


def parsed(line: Text) -> object:
    """Any JSON value of a line."""
    try:
        value: object = json.loads(line.text)
    except ValueError as error:
        raise CommandFailed(f"{line.name} is not JSON: {error}.") from None
    return value


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


def _lines(stream: BinaryIO, name: str) -> Iterator[Text]:
    """One text a line; the end of the last line may be missing. An empty line is an empty text."""
    number = 0
    for number, line in enumerate(stream, 1):
        here = f"line {number} of {name}"
        yield Text(text=decoded(line.removesuffix(b"\n").removesuffix(b"\r"), here), name=here)
    if not number:
        raise CommandFailed(f"there are no texts: {name} is empty.")
