"""A .npy file of vectors that is written as they come, and appears when it is whole."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy

from stretto.cli.failure import CommandFailed, used_wrongly

if TYPE_CHECKING:
    from numpy.typing import NDArray


class VectorFile:
    """Rows go to a draft beside the file, which is renamed onto it at the end; no more than one row is held."""

    def __init__(self, path: Path) -> None:
        if path.suffix != ".npy":
            raise used_wrongly(f"--out must end in .npy, numpy's format; got {path}.")
        if not path.parent.is_dir():
            raise CommandFailed(f"{path.parent} is not a directory.", "Make it first.")
        self.path = path
        self.count = 0
        self.dimensions = 0
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._draft.open("wb")

    def add(self, row: "NDArray[numpy.float32]") -> None:
        if not self.count:
            self.dimensions = len(row)
            self._write_header()
        self._file.write(numpy.asarray(row, dtype="<f4").tobytes())
        self.count += 1

    def finish(self) -> bool:
        """Put the file in its place; whether another was there."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        replaced = self.path.exists()
        self._draft.replace(self.path)
        return replaced

    def _write_header(self) -> None:
        """Its size is the same for any count: numpy leaves room for the first number of a shape to grow."""
        numpy.lib.format.write_array_header_1_0(
            self._file, {"descr": "<f4", "fortran_order": False, "shape": (self.count, self.dimensions)}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)
