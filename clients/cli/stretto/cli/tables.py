"""Columns of text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, two spaces apart."""
    widths = [max(len(entry) for entry in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{entry:<{width}}" for entry, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
