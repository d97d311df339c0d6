"""EmbeddingService: wire to engine and back, nothing else."""

from typing import Any

from stretto.engine.core import Engine
from stretto.engine.errors import BatchTooLarge, ReplyTooLarge
from stretto.engine.requests import EmbedCall, Task
from stretto.engine.results import EmbedAnswer, Embedding, ModelCard
from stretto.server import reading, writing
from stretto.server.call import Call
from stretto.server.choice import chosen
from stretto.server.errors import status_of
from stretto.server.twin import embed_response_class
from stretto.v1 import embedding_pb2 as pb
from stretto.v1 import embedding_pb2_grpc as rpc

# What a result takes beside its numbers: tags, lengths, encoding, dimensions and the report. Rounded up.
RESULT_OVERHEAD_BYTES = 64
# Request id, usage, telemetry and provenance. Rounded up.
REPLY_OVERHEAD_BYTES = 4096


class EmbeddingService(rpc.EmbeddingServiceServicer):
    def __init__(self, engine: Engine, *, max_inputs: int, max_response_bytes: int) -> None:
        self._engine = engine
        self._max_inputs = max_inputs
        self._max_response_bytes = max_response_bytes
        self._response = embed_response_class()

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> Any:
        card = chosen(self._engine, request.model, Task.EMBED)
        call.model = card.name
        call.num_inputs = len(request.inputs)
        self._refuse_too_many(call.num_inputs)
        asked = reading.embed_call(request, card.name, call)
        self._refuse_unsendable(asked, card)
        answer = await self._engine.embed(asked)
        call.usage, call.telemetry = answer.usage, answer.telemetry
        call.reports += [result.report for result in answer.results if isinstance(result, Embedding)]
        return self._written(answer, card, call, with_telemetry=request.options.include_telemetry)

    def _refuse_too_many(self, count: int) -> None:
        """Before anything is made of each of them: four megabytes hold two million empty inputs."""
        if count > self._max_inputs:
            raise BatchTooLarge(
                f"inputs holds {count} texts; the limit is {self._max_inputs}.",
                field="inputs",
                metadata={"inputs": str(count), "max_inputs": str(self._max_inputs)},
            )

    def _refuse_unsendable(self, asked: EmbedCall, card: ModelCard) -> None:
        dimensions = min(asked.dimensions or card.embedding_dimensions, card.embedding_dimensions)
        result_bytes = 4 * dimensions + RESULT_OVERHEAD_BYTES
        fit = max(0, self._max_response_bytes - REPLY_OVERHEAD_BYTES) // result_bytes
        if len(asked.inputs) <= fit:
            return
        raise ReplyTooLarge(
            f"{len(asked.inputs)} vectors of {dimensions} numbers do not fit a reply of {self._max_response_bytes} "
            f"bytes, the limit; {fit} fit. Send them in several requests.",
            field="inputs",
            metadata={"inputs": str(len(asked.inputs)), "max_inputs": str(fit), "dimensions": str(dimensions)},
        )

    def _written(self, answer: EmbedAnswer, card: ModelCard, call: Call, *, with_telemetry: bool) -> Any:
        """The reply as a twin, into which messages of the published classes go as bytes."""
        reply = self._response(request_id=call.request_id)
        for result in answer.results:
            written = reply.results.add()
            if isinstance(result, Embedding):
                written.embedding.vectors.add(
                    values=result.vector,
                    encoding=pb.EMBEDDING_ENCODING_FLOAT32,
                    dimensions=result.dimensions,
                )
                written.embedding.input.MergeFromString(writing.report(result.report).SerializeToString())
            else:
                written.error.MergeFromString(status_of(result).SerializeToString())
        reply.usage.MergeFromString(writing.usage(answer.usage).SerializeToString())
        reply.provenance.MergeFromString(writing.provenance(card).SerializeToString())
        if with_telemetry:
            reply.telemetry.MergeFromString(writing.telemetry(answer.telemetry).SerializeToString())
        return reply
