"""GenerationService: wire to engine and back, nothing else. Leaving the engine's `async with` cancels the request."""

from dataclasses import replace

from stretto.engine.core import Engine
from stretto.engine.errors import BatchTooLarge, InvalidRequest, ReplyTooLarge
from stretto.engine.requests import GenerateCall, Task
from stretto.engine.results import Delta, Finished, ModelCard, Progress, PromptScored, ScoredItem, Started
from stretto.server import generation_reading, writing
from stretto.server.call import Call
from stretto.server.choice import chosen
from stretto.server.gathering import Gathering, best, joined
from stretto.server.metrics import Metrics
from stretto.v1 import generation_pb2 as pb
from stretto.v1 import generation_pb2_grpc as rpc

# What a logprob takes in a reply: an id, its token's bytes, a float, a rank, tags and lengths. Rounded up.
LOGPROB_BYTES = 48
# What a continuation's score takes without its tokens. Rounded up.
SCORE_BYTES = 64
# Request id, usage, telemetry and provenance. Rounded up.
REPLY_OVERHEAD_BYTES = 4096


class GenerationService(rpc.GenerationServiceServicer):
    def __init__(self, engine: Engine, metrics: Metrics, *, max_inputs: int, max_response_bytes: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_inputs = max_inputs
        self._room = max(0, max_response_bytes - REPLY_OVERHEAD_BYTES)

    async def Generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        wishes = generation_reading.generate_wishes(request)
        asked, card = self._read(request, call, progress=False)
        asked = replace(asked, max_logprobs=self._room // LOGPROB_BYTES)
        begun: Started | None = None
        prompt: PromptScored | None = None
        ended: Finished | None = None
        gained: list[Delta] = []
        pace = self._metrics.pace(call)
        async with self._engine.generate(asked) as events:
            async for event in events:
                match event:
                    case Started():
                        begun = event
                        await _start(event, call)
                    case PromptScored():
                        prompt = event
                    case Finished():
                        ended = event
                        _end(event, call)
                    case list():
                        gained += event
                        call.answering = True
                        pace.note(event)
        assert begun is not None
        assert ended is not None, "the engine ended a request without saying so"
        whole = joined(gained)
        if asked.sampling.best_of is not None:
            whole = best(whole, asked.sampling.candidates)
        return writing.answer(
            request_id=call.request_id,
            begun=begun,
            prompt=prompt,
            whole=whole,
            ended=ended,
            card=card,
            wishes=wishes,
        )

    async def GenerateStream(self, request: pb.GenerateStreamRequest, call: Call) -> None:
        wishes = generation_reading.stream_wishes(request)
        asked, card = self._read(request.request, call, progress=wishes.progress)
        _refuse_best_of(asked)
        asked = replace(asked, max_message_logprobs=self._room // LOGPROB_BYTES)
        gathering = Gathering(wishes.min_tokens_per_message)
        pace = self._metrics.pace(call)
        async with self._engine.generate(asked) as events:
            async for event in events:
                match event:
                    case Started():
                        call.reports.append(event.report)
                        await call.write(writing.started(event, call.request_id, card))
                    case Progress():
                        await call.write(writing.progress(event))
                    case PromptScored():
                        await call.write(writing.prompt_scored(event))
                    case Finished():
                        _end(event, call)
                        if held := gathering.rest():
                            await call.write(writing.delta(held, wishes))
                        await call.write(writing.finished(event, card, wishes))
                    case list():
                        call.answering = True
                        pace.note(event)
                        if ready := gathering.take(event):
                            await call.write(writing.delta(ready, wishes))

    async def Score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        card = chosen(self._engine, request.model, Task.SCORE)
        call.model = card.name
        call.num_inputs = sum(len(item.continuations) for item in request.items)
        self._refuse_many(request, call.num_inputs)
        asked = generation_reading.score_call(request, card.name, call)
        asked = replace(asked, max_logprobs=(self._room - SCORE_BYTES * call.num_inputs) // LOGPROB_BYTES)
        answer = await self._engine.score(asked)
        call.usage, call.telemetry = answer.usage, answer.telemetry
        call.reports += [result.report for result in answer.results if isinstance(result, ScoredItem)]
        return writing.scores(
            answer,
            request_id=call.request_id,
            card=card,
            with_telemetry=request.options.include_telemetry,
        )

    def _read(self, request: pb.GenerateRequest, call: Call, *, progress: bool) -> tuple[GenerateCall, ModelCard]:
        card = chosen(self._engine, request.model, Task.GENERATE)
        call.model = card.name
        call.num_inputs = 1
        asked = generation_reading.generate_call(request, card.name, call, progress=progress)
        call.num_candidates = asked.sampling.drawn
        return asked, card

    def _refuse_many(self, request: pb.ScoreRequest, count: int) -> None:
        """Before anything is made of each of them."""
        most = max(count, len(request.items))
        if most > self._max_inputs:
            raise BatchTooLarge(
                f"items holds {len(request.items)} items with {count} continuations; the limit is {self._max_inputs}.",
                field="items",
                metadata={"inputs": str(most), "max_inputs": str(self._max_inputs)},
            )
        if (fit := self._room // SCORE_BYTES) < most:
            raise ReplyTooLarge(
                f"the scores of {most} continuations do not fit the reply; {fit} do. Send them in several requests.",
                field="items",
                metadata={"inputs": str(most), "max_inputs": str(fit)},
            )


def _refuse_best_of(asked: GenerateCall) -> None:
    """Which candidate is the best is known when all have ended; by then a stream has sent them."""
    sampling = asked.sampling
    if sampling.drawn > sampling.candidates:
        path = "config.sampling.best_of"
        raise InvalidRequest(
            f"{path} is {sampling.best_of}; in a stream it may not be above candidate_count, {sampling.candidates}.",
            field=path,
        )


async def _start(event: Started, call: Call) -> None:
    call.reports.append(event.report)
    await call.admit()


def _end(event: Finished, call: Call) -> None:
    call.usage = event.usage
    call.telemetry = event.telemetry
