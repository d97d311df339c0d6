"""The vectors of the wire as floats, whichever encoding they came in; standard library alone."""

import struct
from collections.abc import Sequence

from stretto.client.errors import broken
from stretto.v1 import embedding_pb2

# Bytes a value, and how struct calls it.
CODES: dict[int, tuple[int, str]] = {
    embedding_pb2.EMBEDDING_ENCODING_FLOAT16: (2, "e"),
    embedding_pb2.EMBEDDING_ENCODING_BFLOAT16: (2, "H"),
    embedding_pb2.EMBEDDING_ENCODING_INT8: (1, "b"),
    embedding_pb2.EMBEDDING_ENCODING_UINT8: (1, "B"),
}
PLAIN = (embedding_pb2.EMBEDDING_ENCODING_UNSPECIFIED, embedding_pb2.EMBEDDING_ENCODING_FLOAT32)


def decoded(vector: embedding_pb2.DenseVector) -> Sequence[float]:
    """d floats. Signs become 1 and -1; int8 and uint8 are scaled back; a float16 is exactly what it was."""
    count, data = vector.dimensions, vector.data
    if vector.encoding in PLAIN:
        return vector.values
    if vector.encoding == embedding_pb2.EMBEDDING_ENCODING_BINARY:
        _check(len(data) == (count + 7) // 8, vector)
        return [1.0 if data[place // 8] >> (7 - place % 8) & 1 else -1.0 for place in range(count)]
    _check(vector.encoding in CODES, vector)
    size, code = CODES[vector.encoding]
    _check(len(data) == count * size, vector)
    values = struct.unpack(f"<{count}{code}", data)
    if vector.encoding == embedding_pb2.EMBEDDING_ENCODING_BFLOAT16:  # the upper half of a float32
        return struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(value << 16 for value in values)))
    if code in "bB":
        return [value * vector.scale + vector.offset for value in values]
    return values


def _check(well: bool, vector: embedding_pb2.DenseVector) -> None:
    if not well:
        raise broken(
            f"the server sent {len(vector.data)} bytes in encoding {vector.encoding} for {vector.dimensions} numbers."
        )
