"""The cosines between texts, as a table or as lines of JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy

from stretto.cli.jsonlines import print_object

if TYPE_CHECKING:
    from numpy.typing import NDArray

ELLIPSIS = "\u2026"
LABEL_WIDTH = 7


def cosines(vectors: "Sequence[NDArray[numpy.float32]]") -> "NDArray[numpy.float64]":
    """[n, n]. A vector of zeros stays one: its cosine with anything is 0."""
    stacked = numpy.stack(vectors).astype(numpy.float64)
    lengths = numpy.linalg.norm(stacked, axis=1, keepdims=True)
    unit = stacked / numpy.where(lengths == 0, 1, lengths)
    return unit @ unit.T


def print_objects(texts: Sequence[str], matrix: "NDArray[numpy.float64]") -> None:
    """One row of the matrix a line."""
    for index, (text, row) in enumerate(zip(texts, matrix, strict=True)):
        print_object({"index": index, "text": text, "cosines": row.tolist()})


def table(texts: Sequence[str], matrix: "NDArray[numpy.float64]") -> str:
    """One row and one column a text."""
    digits = len(str(len(texts)))
    margin = " " * (digits + 2 + LABEL_WIDTH)
    rows = [margin + "".join(f"{number:>7}" for number in range(1, len(texts) + 1))]
    for number, (text, row) in enumerate(zip(texts, matrix, strict=True), 1):
        rows.append(f"{number:>{digits}}  {_label(text)}" + "".join(f"{cosine:>7.2f}" for cosine in row))
    return "\n".join(rows)


def _label(text: str) -> str:
    """The start of a text in a fixed number of characters, on one line."""
    line = " ".join(text.split())
    shown = line if len(line) <= LABEL_WIDTH else line[: LABEL_WIDTH - 1] + ELLIPSIS
    return f"{shown:<{LABEL_WIDTH}}"
