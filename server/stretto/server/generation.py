"""GenerationService: wire to engine and back, nothing else. Leaving the engine's `async with` cancels the request."""

from stretto.engine.core import Engine
from stretto.engine.requests import GenerateCall, Task
from stretto.engine.results import Delta, Finished, ModelCard, Started
from stretto.server import reading, writing
from stretto.server.call import Call
from stretto.server.choice import chosen
from stretto.server.gathering import Gathering, joined
from stretto.server.metrics import Metrics
from stretto.v1 import generation_pb2 as pb
from stretto.v1 import generation_pb2_grpc as rpc


class GenerationService(rpc.GenerationServiceServicer):
    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    async def Generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        wishes = reading.generate_wishes(request)
        asked, card = self._read(request, call)
        begun: Started | None = None
        ended: Finished | None = None
        gained: list[Delta] = []
        pace = self._metrics.pace(card.name)
        async with self._engine.generate(asked) as events:
            async for event in events:
                if isinstance(event, Started):
                    begun = event
                    await _start(event, call)
                elif isinstance(event, Finished):
                    ended = event
                    _end(event, call)
                elif isinstance(event, list):
                    gained += event
                    call.answering = True
                    pace.note(event)
        assert begun is not None
        assert ended is not None, "the engine ended a request without saying so"
        return writing.answer(
            request_id=call.request_id, begun=begun, whole=joined(gained), ended=ended, card=card, wishes=wishes
        )

    async def GenerateStream(self, request: pb.GenerateStreamRequest, call: Call) -> None:
        wishes = reading.stream_wishes(request)
        asked, card = self._read(request.request, call)
        gathering = Gathering(wishes.min_tokens_per_message)
        pace = self._metrics.pace(card.name)
        async with self._engine.generate(asked) as events:
            async for event in events:
                if isinstance(event, Started):
                    call.reports.append(event.report)
                    await call.write(writing.started(event, call.request_id, card))
                elif isinstance(event, Finished):
                    _end(event, call)
                    if held := gathering.rest():
                        await call.write(writing.delta(held, wishes))
                    await call.write(writing.finished(event, card, wishes))
                elif isinstance(event, list):
                    call.answering = True
                    pace.note(event)
                    if ready := gathering.take(event):
                        await call.write(writing.delta(ready, wishes))

    def _read(self, request: pb.GenerateRequest, call: Call) -> tuple[GenerateCall, ModelCard]:
        card = chosen(self._engine, request.model, Task.GENERATE)
        call.model = card.name
        call.num_inputs = 1
        asked = reading.generate_call(request, card.name, call)
        call.num_candidates = asked.sampling.candidates
        return asked, card


async def _start(event: Started, call: Call) -> None:
    call.reports.append(event.report)
    await call.admit()


def _end(event: Finished, call: Call) -> None:
    call.usage = event.usage
    call.telemetry = event.telemetry
