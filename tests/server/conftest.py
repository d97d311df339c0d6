"""A real server on free ports, around a stand-in for the engine that answers what can be worked out by hand."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import numpy as np
import pytest

from stretto.engine.errors import DeadlineExpired, EmptyInput, EngineLost, ModelNotFound, Overloaded, StrettoError
from stretto.engine.requests import (
    Chat,
    EmbedCall,
    FinishReason,
    GenerateCall,
    Overflow,
    Pooling,
    Prompt,
    ScoreCall,
    Task,
    TextPrompt,
    TokenPrompt,
)
from stretto.engine.results import (
    Delta,
    EmbedAnswer,
    Embedding,
    Finished,
    GenerateEvent,
    InputReport,
    ModelCard,
    PositionLogprobs,
    Progress,
    PromptScored,
    ScoreAnswer,
    ScoredContinuation,
    ScoredItem,
    Started,
    Telemetry,
    TokenLogprob,
    Usage,
)
from stretto.engine.tokenizing import DetokenizeCall, TokenizeCall, Tokenized, TokenizerFile
from stretto.server.announcements import Announcement
from stretto.server.app import Server
from stretto.server.config import load
from stretto.server.credentials import read_credentials
from stretto.server.logs import open_log
from stretto.v1.embedding_pb2_grpc import EmbeddingServiceStub
from stretto.v1.generation_pb2_grpc import GenerationServiceStub
from stretto.v1.model_pb2_grpc import ModelServiceStub
from stretto.v1.server_pb2_grpc import ServerServiceStub
from stretto.v1.tokenizer_pb2_grpc import TokenizerServiceStub

WRITER = ModelCard(
    name="writer",
    source="./writer",
    state="ready",
    version="sha256:aa",
    architecture="llama",
    tasks=(Task.GENERATE, Task.SCORE),
    parameters=1000,
    vocab_size=512,
    context=128,
    max_input_tokens=127,
    embedding_dimensions=0,
    default_overflow={Task.GENERATE: Overflow.ERROR},
    default_sampling={"temperature": 0.5, "top_k": 40},
    has_chat_template=True,
    eos_token_ids=(2, 3),
    bos_token_id=1,
    device="cpu",
    dtype="float32",
    weight_bytes=4000,
    cache_bytes=8000,
    cache_blocks=10,
    cache_tokens=160,
    threads=2,
    kernels="torch",
    load_seconds=0.25,
    loaded_at=1_700_000_000.5,
)

READER = replace(
    WRITER,
    name="reader",
    source="./reader",
    version="sha256:bb",
    architecture="bert",
    tasks=(Task.EMBED,),
    embedding_dimensions=4,
    default_overflow={Task.EMBED: Overflow.TRUNCATE_END},
    default_pooling=Pooling.MEAN,
    default_normalize=True,
    default_sampling={},
    prompts={"query": "query: "},
    has_chat_template=False,
    eos_token_ids=(),
    bos_token_id=None,
    numerics="exact",
    cache_bytes=0,
    cache_blocks=0,
    cache_tokens=0,
)


class StandIn:
    """The surface of `Engine`, with answers in the open: the n-th token of a candidate is " n" and has the id n.

    A test may set: what entering raises (`refusal`), what comes after the first token or in place of a vector
    (`failure`), an event that tokens and vectors wait for (`go_on`), the text of a token (`piece`), and whether all
    tokens come at once (`piled_up`).
    """

    def __init__(self, observe: Callable[[object], None], changed: Callable[[], None]) -> None:
        self.alive = False
        self.observe = observe
        self.changed = changed
        self.calls: list[GenerateCall | ScoreCall | EmbedCall | TokenizeCall | DetokenizeCall] = []
        self.num_left = 0
        self.left = asyncio.Event()
        self.refusal: Exception | None = None
        self.failure: Exception | None = None
        self.go_on: asyncio.Event | None = None
        self.piece: str | None = None
        self.piled_up = False
        self.files: list[TokenizerFile] = []
        self._cards = {card.name: replace(card, state="loading") for card in (WRITER, READER)}

    async def start(self) -> None:
        self.alive = True

    async def ready(self) -> None:
        for name in self._cards:
            self.put(name, state="ready")

    async def close(self) -> None:
        self.alive = False

    def put(self, name: str, **changes: object) -> None:
        self._cards[name] = replace(self._cards[name], **changes)
        self.changed()

    def cards(self) -> list[ModelCard]:
        return list(self._cards.values())

    def card(self, name: str) -> ModelCard:
        if name not in self._cards:
            raise ModelNotFound(f"no model {name!r} is loaded.", field="model", metadata={"model": name})
        return self._cards[name]

    @asynccontextmanager
    async def generate(self, call: GenerateCall) -> AsyncIterator[AsyncIterator[GenerateEvent]]:
        self.calls.append(call)
        if self.refusal:
            raise self.refusal
        try:
            yield self._events(call)
        finally:
            self.num_left += 1
            self.left.set()

    async def _events(self, call: GenerateCall) -> AsyncIterator[GenerateEvent]:
        yield Started(report=InputReport(token_count=3, truncated_tokens=1), seed=call.sampling.seed)
        if call.progress:
            yield Progress(processed_tokens=3, total_tokens=3, queue_position=2)
        if call.output.prompt_logprobs:
            yield PromptScored(logprobs=(position(7, None), position(8, -1.5)))
        num_tokens = 5 if call.stopping.max_tokens is None else call.stopping.max_tokens
        deltas = [
            self._delta(call, candidate, place, num_tokens)
            for place in range(len(call.resume_after[0]) if call.resume_after else 0, max(1, num_tokens))
            for candidate in range(call.sampling.drawn)
        ]
        for place, piece in enumerate([deltas] if self.piled_up else [[delta] for delta in deltas]):
            await self._wait(call.options.deadline)
            yield piece
            if place == 0 and self.failure:
                raise self.failure
        usage = Usage(prompt_tokens=3, cached_prompt_tokens=2, completion_tokens=num_tokens * call.sampling.drawn)
        yield Finished(usage=usage, telemetry=_telemetry(call.options.received))

    def _delta(self, call: GenerateCall, candidate: int, place: int, num_tokens: int) -> Delta:
        last = place >= num_tokens - 1
        there = num_tokens > 0
        text = f" {place}" if self.piece is None else self.piece
        wanted = call.output.top_logprobs
        scored = TokenLogprob(token_id=place, token=text.encode(), logprob=-0.5, rank=1)
        top = tuple(replace(scored, token_id=other, rank=other + 1) for other in range(wanted or 0))
        return Delta(
            candidate=candidate,
            text=text if there else "",
            token_ids=(place,) if there else (),
            first_token_index=place,
            logprobs=(PositionLogprobs(chosen=scored, top=top),) if there and wanted is not None else (),
            finish=FinishReason.MAX_TOKENS if last else None,
            cumulative_logprob=-0.5 * (place + there) * (1 + candidate % 2),  # the odd ones are the less likely
        )

    async def score(self, call: ScoreCall) -> ScoreAnswer:
        """Each token of a continuation, a letter, has the logprob -0.5; an item whose context is "bad" fails, alone."""
        self.calls.append(call)
        results: list[ScoredItem | StrettoError] = []
        for item in call.items:
            if isinstance(item, StrettoError) or item.context == TextPrompt(text="bad"):
                results.append(item if isinstance(item, StrettoError) else EmptyInput("bad", field="items"))
                continue
            sizes = [len(each.text if isinstance(each, TextPrompt) else each.ids) for each in item.continuations]
            results.append(
                ScoredItem(
                    report=InputReport(token_count=2),
                    continuations=tuple(
                        ScoredContinuation(
                            logprob=-0.5 * size,
                            token_count=size,
                            is_greedy=size == 1,
                            tokens=(position(9, -0.5),) * size if call.with_tokens else (),
                        )
                        for size in sizes
                    ),
                )
            )
        return ScoreAnswer(
            results=tuple(results), usage=Usage(prompt_tokens=9), telemetry=_telemetry(call.options.received)
        )

    def check_embed(self, call: EmbedCall) -> None:
        if self.refusal and not isinstance(self.refusal, Overloaded | EngineLost):  # those come and go
            raise self.refusal

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """The vector of a text is (its length, 1, 2, ...), once for each character where nothing is pooled; an empty
        one fails, alone.
        """
        self.calls.append(call)
        if self.refusal:
            raise self.refusal
        try:
            await self._wait(call.options.deadline)
        finally:
            self.num_left += 1
            self.left.set()
        dimensions = call.dimensions or self.card("reader").embedding_dimensions
        results: list[Embedding | StrettoError] = []
        for place, given in enumerate(call.inputs):
            if isinstance(given, StrettoError):
                results.append(given)
                continue
            if isinstance(self.failure, StrettoError):
                results.append(self.failure)
                continue
            length = len(given.text if isinstance(given, TextPrompt) else given.ids)
            if length == 0:
                name = call.name_of(place)
                results.append(EmptyInput(f"{name} is empty.", field=name))
                continue
            vectors = np.array([length, *range(1, dimensions)], "<f4").tobytes()
            report = InputReport(token_count=length, unknown_token_count=1)
            ids = tuple(range(length)) if call.pooling is Pooling.NONE else ()
            results.append(
                Embedding(vectors=vectors * (len(ids) or 1), dimensions=dimensions, report=report, token_ids=ids)
            )
        usage = Usage(prompt_tokens=sum(each.report.token_count for each in results if isinstance(each, Embedding)))
        return EmbedAnswer(results=tuple(results), usage=usage, telemetry=_telemetry(call.options.received))

    async def tokenize(self, call: TokenizeCall, write: Callable[[list[Tokenized]], object]) -> object:
        """A token is a character, its id the code point."""
        self.calls.append(call)
        if self.refusal:
            raise self.refusal
        await self._wait(None)
        return write([_spelt(_characters(given), call) for given in call.inputs])

    async def detokenize(self, call: DetokenizeCall) -> list[str]:
        self.calls.append(call)
        await self._wait(None)
        return ["".join(map(chr, ids)) for ids in call.inputs]

    async def tokenizer_files(self, name: str) -> list[TokenizerFile]:
        """Two small files, the second of them empty, or what a test put into `files`."""
        return self.files or [
            TokenizerFile(name="tokenizer.json", content=name.encode()),
            TokenizerFile(name="tokenizer_config.json", content=b""),
        ]

    async def _wait(self, deadline: float | None) -> None:
        await asyncio.sleep(0)
        if self.go_on is None:
            return
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self.go_on.wait()
        except TimeoutError:
            raise DeadlineExpired("the request's deadline passed.", field="options.timeout") from None


def position(token_id: int, logprob: float | None) -> PositionLogprobs:
    chosen = TokenLogprob(token_id=token_id, token=b"t", logprob=logprob, rank=0 if logprob is None else 1)
    return PositionLogprobs(chosen=chosen, top=())


def _characters(given: Prompt) -> str:
    match given:
        case TextPrompt():
            return given.text + (given.pair or "")
        case TokenPrompt():
            return "".join(map(chr, given.ids))
        case Chat():
            return "".join(message.content for message in given.messages)


def _spelt(text: str, call: TokenizeCall) -> Tokenized:
    return Tokenized(
        count=len(text),
        ids=[ord(character) for character in text] if call.with_ids else (),
        pieces=[character.encode() for character in text] if call.with_pieces else (),
        offsets=[(at, at + 1) for at in range(len(text))] if call.with_offsets else (),
    )


def _telemetry(received: float) -> Telemetry:
    return Telemetry(
        received=1_700_000_000.25,
        tokenization_seconds=0.001,
        queue_seconds=0.002,
        prefill_seconds=0.003,
        decode_seconds=0.004,
        total_seconds=time.monotonic() - received,
        first_token_seconds=0.006,
        steps=5,
        min_batch=1,
        max_batch=3,
        mean_batch=1.5,
        co_batched_tokens=7,
        preemptions=1,
        peak_blocks=2,
        queue_position=4,
    )


class Announced(list[Announcement]):
    """What the server said, in order; `heard` waits until it has said something of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def append(self, what: Announcement) -> None:
        super().append(what)
        self._more.set()

    async def heard(self, kind: type, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while sum(isinstance(each, kind) for each in self) < times:
                self._more.clear()
                await self._more.wait()


@dataclass(kw_only=True)
class Running:
    """A server that runs, and everything a test may want to know of it."""

    server: Server
    engine: StandIn
    channel: grpc.aio.Channel
    target: str
    metrics_port: int
    log: io.StringIO
    announced: Announced

    def __post_init__(self) -> None:
        self.generation = GenerationServiceStub(self.channel)
        self.embedding = EmbeddingServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)
        self.tokenizer = TokenizerServiceStub(self.channel)
        self.info = ServerServiceStub(self.channel)

    async def get(self, path: str, request: bytes | None = None) -> tuple[int, str]:
        """One HTTP exchange with the metrics port: the status and the body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        writer.write(request or f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split(" ")[1]), body


Serve = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def serve() -> Serve:
    """`async with serve(stall_seconds=1) as running:` a server with these settings; not loaded if `loaded` is False."""

    @asynccontextmanager
    async def serving(
        *, loaded: bool = True, channel_options: Sequence[tuple[str, int]] = (), **flags: object
    ) -> AsyncIterator[Running]:
        free = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", "log_format": "json"}
        settings = load(free | flags, {}, None)
        log, announced = io.StringIO(), Announced()
        logger = open_log(format=settings.log_format, level=settings.log_level, stream=log, colours=False)
        credentials = read_credentials(settings)
        server = Server(settings, StandIn, credentials=credentials, logger=logger, announce=announced.append)  # type: ignore[arg-type]
        try:
            await server.open()
            listening = announced[0]
            if loaded:
                await server.load()
            async with grpc.aio.insecure_channel(str(listening.grpc), options=channel_options) as channel:
                yield Running(
                    server=server,
                    engine=server._engine,
                    channel=channel,
                    target=str(listening.grpc),
                    metrics_port=listening.metrics.port,
                    log=log,
                    announced=announced,
                )
        finally:
            await server.close()

    return serving


@pytest.fixture
async def running(serve: Serve) -> AsyncIterator[Running]:
    async with serve() as running:
        yield running
