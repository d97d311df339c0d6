"""The vectors of texts: a sequence with one entry a text, which is also an array wherever numpy is asked for one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast, overload

from stretto.client.errors import StrettoError, invalid
from stretto.client.results import InputReport, Provenance, Telemetry, Usage
from stretto.client.vectors import decoded
from stretto.v1 import embedding_pb2

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """One text: its vector, or in `error` why it has none (then `input` is None).

    Its length is the number of dimensions; iterating gives floats; `numpy.asarray(embedding)` is [d] float32. A text
    with one vector a token (`token_ids` says which) or a window has them in `vectors`. Reading the vector of a text
    that failed raises its error. `reply` holds what came, in the encoding that was asked for.
    """

    index: int
    error: StrettoError | None
    input: InputReport | None
    token_ids: tuple[int, ...]
    reply: embedding_pb2.EmbedResult = field(repr=False, compare=False)

    @property
    def vector(self) -> "NDArray[numpy.float32]":
        """[d] float32; a list of d floats where numpy is not installed."""
        return _array(self._values()) if _numpy_installed() else _lists(self.tolist())

    @property
    def vectors(self) -> "NDArray[numpy.float32]":
        """[v, d] float32, one a token or a window, [1, d] else; lists of floats where numpy is not installed."""
        rows = [list(decoded(vector)) for vector in self._read()]
        return _array(rows) if _numpy_installed() else _lists(rows)

    def tolist(self) -> list[float]:
        """d floats, with numpy or without."""
        return list(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def __iter__(self) -> Iterator[float]:
        return iter(self._values())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "NDArray[Any]":
        return _converted(_array(self._values()), dtype, copy)

    def _values(self) -> Sequence[float]:
        vectors = self._read()
        if len(vectors) != 1:
            raise invalid(f"text {self.index} has {len(vectors)} vectors; read its `vectors`.", "config.pooling")
        return decoded(vectors[0])

    def _read(self) -> Sequence[embedding_pb2.DenseVector]:
        if self.error is not None:
            raise self.error
        return self.reply.embedding.vectors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Embeddings(Sequence[Embedding]):
    """n vectors of d dimensions, in the order of the texts.

    `embeddings[i]` is an `Embedding`: its `vector`, or its `error`. `embeddings.vectors` and
    `numpy.asarray(embeddings)` are [n, d] float32, `embeddings.shape` is (n, d); if a text failed these three raise
    its error, so that a row never goes missing unseen: look at `errors`, or at each `error`, first. `usage` is the sum
    of all requests that it took, `telemetry` has one entry a request where it was asked for.
    """

    items: tuple[Embedding, ...]
    usage: Usage
    provenance: Provenance
    telemetry: tuple[Telemetry, ...]
    request_id: str

    @property
    def errors(self) -> dict[int, StrettoError]:
        """The texts that failed, by their place in the batch; empty when all is well."""
        return {item.index: item.error for item in self.items if item.error is not None}

    @property
    def vectors(self) -> "NDArray[numpy.float32]":
        """[n, d] float32; a list of n lists of d floats where numpy is not installed. Made anew at each reading."""
        return self._matrix() if _numpy_installed() else _lists(self.tolist())

    @property
    def shape(self) -> tuple[int, int]:
        self._check()
        return len(self.items), len(self.items[0])

    def tolist(self) -> list[list[float]]:
        """n lists of d floats, with numpy or without."""
        self._check()
        return [item.tolist() for item in self.items]

    @overload
    def __getitem__(self, index: int) -> Embedding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Embedding]: ...
    def __getitem__(self, index: int | slice) -> Embedding | Sequence[Embedding]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        failed = f", {len(self.errors)} failed" if self.errors else ""
        return f"<Embeddings of {len(self)} texts{failed}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "NDArray[Any]":
        return _converted(self._matrix(), dtype, copy)

    def _matrix(self) -> "NDArray[numpy.float32]":
        import numpy

        self._check()
        return numpy.stack([_array(item._values()) for item in self.items])

    def _check(self) -> None:
        """Raise the first failure, with a note where there are more."""
        if not (failed := self.errors):
            return
        first = next(iter(failed.values()))
        if len(failed) > 1 and not getattr(first, "__notes__", None):
            first.add_note(f"{len(failed)} of {len(self.items)} texts failed: {sorted(failed)}.")
        raise first


def _lists(rows: list[Any]) -> "NDArray[numpy.float32]":
    """What stands in for an array where there is no numpy, and so no type of its own either."""
    return cast("NDArray[numpy.float32]", rows)


def _numpy_installed() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def _array(values: Sequence[float] | Sequence[Sequence[float]]) -> "NDArray[numpy.float32]":
    import numpy

    return numpy.array(values, dtype=numpy.float32)


def _converted(array: "NDArray[numpy.float32]", dtype: Any, copy: bool | None) -> "NDArray[Any]":
    """The array protocol's two wishes. The array was made for this call, so nobody else holds it."""
    if copy is False:
        raise ValueError("embeddings become an array only by being copied")
    return array if dtype is None else array.astype(dtype, copy=False)
