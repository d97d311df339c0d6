"""EmbeddingService: wire to engine and back, nothing else."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from stretto.engine.core import Engine
from stretto.engine.errors import DeadlineExpired, ReplyTooLarge
from stretto.engine.requests import Task
from stretto.engine.results import Embedding, Usage
from stretto.server import embedding_reading, writing
from stretto.server.call import Call
from stretto.server.choice import chosen
from stretto.server.embedding_stream import EmbedFlow, opening_of
from stretto.server.embedding_writing import VectorWriter
from stretto.server.incoming import Incoming
from stretto.server.metrics import Metrics
from stretto.server.reading import check_inputs
from stretto.server.twin import twin_class
from stretto.v1 import embedding_pb2 as pb
from stretto.v1 import embedding_pb2_grpc as rpc


class EmbeddingService(rpc.EmbeddingServiceServicer):
    def __init__(self, engine: Engine, metrics: Metrics, *, max_inputs: int, max_response_bytes: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_inputs = max_inputs
        self._max_response_bytes = max_response_bytes
        self._response = twin_class("EmbedResponse")
        self._stream_response = twin_class("EmbedStreamResponse")

    async def Embed(self, request: pb.EmbedRequest, call: Call) -> Any:
        card = chosen(self._engine, request.model, Task.EMBED)
        call.model = card.name
        call.num_inputs = len(request.inputs)
        check_inputs(call.num_inputs, self._max_inputs)
        asked = embedding_reading.embed_call(request, card.name, call)
        writer = VectorWriter(request.config, card)
        self._refuse_unsendable(call.num_inputs, writer)
        room = writer.most_vectors(self._max_response_bytes, call.num_inputs)
        answer = await self._engine.embed(replace(asked, max_vectors=room))
        call.usage, call.telemetry = answer.usage, answer.telemetry
        call.reports += [result.report for result in answer.results if isinstance(result, Embedding)]
        reply = self._response(request_id=call.request_id)  # messages of the published classes go in as bytes
        for result in answer.results:
            writer.fill(reply.results.add(), result)
        reply.usage.MergeFromString(writing.usage(answer.usage).SerializeToString())
        reply.provenance.MergeFromString(writing.provenance(card).SerializeToString())
        if request.options.include_telemetry:
            reply.telemetry.MergeFromString(writing.telemetry(answer.telemetry).SerializeToString())
        return reply

    async def EmbedStream(self, incoming: Incoming[pb.EmbedStreamRequest], call: Call) -> None:
        opening = opening_of(incoming.first)
        card = chosen(self._engine, opening.model, Task.EMBED)
        call.model = card.name
        writer = VectorWriter(opening.config, card)
        asked = replace(
            embedding_reading.stream_call(opening, card.name, call),
            max_vectors_each=writer.most_vectors(self._max_response_bytes, 1),
        )
        self._engine.check_embed(asked)
        await call.write(pb.EmbedStreamResponse(started=writing.provenance(card)))
        flow = EmbedFlow(self._engine, self._metrics, asked, incoming, call, writer, self._stream_response)
        deadline = asked.options.deadline
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await flow.run()
        except TimeoutError:
            raise DeadlineExpired("The deadline passed before the stream's end.") from None
        summary = pb.EmbedStreamSummary(
            succeeded_count=flow.succeeded,
            failed_count=flow.failed,
            usage=writing.usage(call.usage or Usage(prompt_tokens=0)),
        )
        if opening.options.include_telemetry and call.telemetry is not None:
            summary.telemetry.CopyFrom(writing.telemetry(call.telemetry))
        await call.write(pb.EmbedStreamResponse(summary=summary))

    def _refuse_unsendable(self, count: int, writer: VectorWriter) -> None:
        """Before the work: each input has a vector at least. Where it may have more, the engine's door counts them."""
        limit, fit = self._max_response_bytes, writer.most_inputs(self._max_response_bytes)
        if count > fit:
            raise ReplyTooLarge(
                f"{count} vectors of {writer.dimensions} numbers do not fit a reply of {limit} bytes, the limit; "
                f"{fit} fit. Send them in several requests.",
                field="inputs",
                metadata={"inputs": str(count), "max_inputs": str(fit), "dimensions": str(writer.dimensions)},
            )
