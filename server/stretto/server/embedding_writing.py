"""From the engine to the wire: vectors in the encoding that was asked for, and how many of them a reply holds."""

from typing import Any

import numpy as np

from stretto.engine.errors import StrettoError
from stretto.engine.results import Embedding, ModelCard
from stretto.server import embedding_reading, writing
from stretto.server.errors import status_of
from stretto.v1 import common_pb2
from stretto.v1 import embedding_pb2 as pb

# Beside its numbers, each rounded up: a vector's tags, lengths, encoding, dimensions, scale and offset; a token's id; a
# result's tags, lengths and report; a reply's request id, usage, telemetry and provenance, or a stream's item id.
VECTOR_OVERHEAD_BYTES = 28
TOKEN_ID_BYTES = 5
RESULT_OVERHEAD_BYTES = 44
REPLY_OVERHEAD_BYTES = 4096


class VectorWriter:
    """Writes the results of one call."""

    def __init__(self, config: pb.EmbedConfig, card: ModelCard) -> None:
        self._number, self._encoding = embedding_reading.encoding_of(config)
        self.dimensions = min(config.dimensions or card.embedding_dimensions, card.embedding_dimensions)
        token_bytes = TOKEN_ID_BYTES if config.pooling == common_pb2.POOLING_TYPE_NONE else 0
        self._vector_bytes = self._encoding.num_bytes(self.dimensions) + VECTOR_OVERHEAD_BYTES + token_bytes

    def most_inputs(self, reply_bytes: int) -> int:
        """How many inputs a reply holds at one vector each."""
        return max(0, reply_bytes - REPLY_OVERHEAD_BYTES) // (RESULT_OVERHEAD_BYTES + self._vector_bytes)

    def most_vectors(self, reply_bytes: int, num_inputs: int) -> int:
        """How many vectors a reply to that many inputs holds."""
        return max(0, reply_bytes - REPLY_OVERHEAD_BYTES - num_inputs * RESULT_OVERHEAD_BYTES) // self._vector_bytes

    def fill(self, written: Any, result: Embedding | StrettoError) -> bool:
        """Write one result into a twin of EmbedResult; whether it is a success."""
        try:
            if isinstance(result, StrettoError):
                raise result
            self._fill(written.embedding, result)
        except StrettoError as error:
            written.error.MergeFromString(status_of(error).SerializeToString())
            return False
        return True

    def _fill(self, written: Any, result: Embedding) -> None:
        for row in np.frombuffer(result.vectors, "<f4").reshape(-1, result.dimensions):
            encoded = self._encoding.encode(row)
            vector = written.vectors.add(
                encoding=self._number, dimensions=result.dimensions, scale=encoded.scale, offset=encoded.offset
            )
            setattr(vector, "values" if self._number == pb.EMBEDDING_ENCODING_FLOAT32 else "data", encoded.data)
        written.input.MergeFromString(writing.report(result.report).SerializeToString())
        if result.token_ids:
            written.token_ids.ids.extend(result.token_ids)
