"""Bars on a terminal, nothing without one."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")


def counted(items: Iterable[ItemT], total: int | None, *, unit: str, what: str) -> Iterator[ItemT]:
    """The items, with a bar of how many a second and how long it will take, where somebody can see it."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[speed]}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total, speed="-")
        for item in items:
            yield item
            progress.advance(task)
            if speed := progress.tasks[0].speed:
                progress.update(task, speed=f"{speed:,.0f}")
