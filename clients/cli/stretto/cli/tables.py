"""Columns of text."""

import re
from collections.abc import Sequence

FIGURE = re.compile(r"-|-?[\d,.]+[kMG]?( [kMGT]?B)?")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, two spaces apart; figures stand to the right under their heading."""
    columns = [_column(column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def _column(entries: Sequence[str]) -> list[str]:
    width = max(map(len, entries))
    right = all(FIGURE.fullmatch(entry) for entry in entries[1:])
    return [f"{entry:>{width}}" if right else f"{entry:<{width}}" for entry in entries]
