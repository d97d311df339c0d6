"""From words on a command line, or in a chat, to values; what a value must be is said with what was written."""

import argparse
import json
from collections.abc import Callable
from typing import Any

Reader = Callable[[str], Any]
CUTS = ("error", "end", "start", "middle")


class NotReadable(argparse.ArgumentTypeError):
    """What the value must be, and what it is."""


def whole_number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise NotReadable(f"must be a whole number; got {word!r}") from None


def number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise NotReadable(f"must be a number; got {word!r}") from None


def ids(word: str) -> list[int]:
    """Token ids, separated by commas."""
    try:
        return [int(part) for part in word.split(",")]
    except ValueError:
        raise NotReadable(f"must be token ids, as in 11,42; got {word!r}") from None


def biases(word: str) -> dict[int, float]:
    """What is added to the logits of tokens, by their ids."""
    try:
        pairs = [part.split("=") for part in word.split(",")]
        return {int(token): float(value) for token, value in pairs}
    except ValueError:
        raise NotReadable(f"must be ID=X, as in 11=-100 or 11=-100,42=2.5; got {word!r}") from None


def text(word: str) -> str:
    return word


def texts(word: str) -> list[str]:
    return [word]


def variables(word: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(word)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NotReadable(f"must be a JSON object, as in '{{\"enable_thinking\": false}}'; got {word!r}")
    return value


def cut(word: str) -> str:
    if word not in CUTS:
        raise NotReadable(f"must be one of {', '.join(CUTS)}; got {word!r}")
    return word


METAVARS: dict[Reader, str] = {
    whole_number: "N",
    number: "X",
    text: "TEXT",
    texts: "TEXT",
    ids: "ID,...",
    biases: "ID=X,...",
    variables: "JSON",
    cut: "HOW",
}
REPEATABLE: tuple[Reader, ...] = (texts, ids, biases)
