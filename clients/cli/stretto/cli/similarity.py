"""The table of cosines between texts."""

import math
from collections.abc import Sequence

ELLIPSIS = "\u2026"
LABEL_WIDTH = 7


def table(texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> str:
    """One row and one column a text."""
    unit = [_unit(vector) for vector in vectors]
    digits = len(str(len(texts)))
    margin = " " * (digits + 2 + LABEL_WIDTH)
    rows = [margin + "".join(f"{number:>7}" for number in range(1, len(texts) + 1))]
    for number, (text, vector) in enumerate(zip(texts, unit, strict=True), 1):
        cosines = "".join(f"{_dot(vector, other):>7.2f}" for other in unit)
        rows.append(f"{number:>{digits}}  {_label(text)}{cosines}")
    return "\n".join(rows)


def _unit(vector: Sequence[float]) -> list[float]:
    """A vector of zeros stays one: its cosine with anything is shown as 0."""
    length = math.sqrt(_dot(vector, vector)) or 1.0
    return [value / length for value in vector]


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def _label(text: str) -> str:
    """The start of a text in a fixed number of characters, on one line."""
    line = " ".join(text.split())
    shown = line if len(line) <= LABEL_WIDTH else line[: LABEL_WIDTH - 1] + ELLIPSIS
    return f"{shown:<{LABEL_WIDTH}}"
