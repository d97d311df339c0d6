"""A .npy file of vectors that appears when it is whole, and not at all before."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy

from stretto.cli.failure import CommandFailed, used_wrongly

if TYPE_CHECKING:
    from numpy.typing import NDArray


class VectorFile:
    """Rows are gathered in memory (four bytes a number), then written beside the file and renamed onto it."""

    def __init__(self, path: Path) -> None:
        if path.suffix != ".npy":
            raise used_wrongly(f"--out must end in .npy, numpy's format; got {path}.")
        if not path.parent.is_dir():
            raise CommandFailed(f"{path.parent} is not a directory.", "Make it first.")
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._rows: list[NDArray[numpy.float32]] = []

    @property
    def count(self) -> int:
        return len(self._rows)

    @property
    def dimensions(self) -> int:
        return len(self._rows[0])

    def add(self, row: "NDArray[numpy.float32]") -> None:
        self._rows.append(row)

    def finish(self) -> None:
        with self._draft.open("wb") as file:
            numpy.save(file, numpy.stack(self._rows), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        self._draft.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draft.unlink(missing_ok=True)
