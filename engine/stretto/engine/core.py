"""
`Engine`: everything a server needs, in the server process: texts go in, texts and vectors come out. No torch.

It keeps what is loaded, so that an engine process that died is replaced by one that holds the same models. One event
loop owns it; nothing here is called from another thread.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from stretto.engine import errors
from stretto.engine.admission import Admission, Place
from stretto.engine.answers import embed_answer, score_answer
from stretto.engine.config import Limits, LoadSpec
from stretto.engine.continuations import PreparedItem, Scoring, prepared, score_message
from stretto.engine.errors import (
    EngineLost,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    StrettoError,
    TaskNotSupported,
    VersionMismatch,
)
from stretto.engine.generation import followed
from stretto.engine.link import Link
from stretto.engine.messages import (
    Failed,
    Figures,
    Freed,
    Gauges,
    Generate,
    LoadFailed,
    Ready,
    Scored,
    Step,
    Stop,
    Token,
    Vector,
)
from stretto.engine.process import EngineProcess, News, error_of
from stretto.engine.requests import EmbedCall, GenerateCall, Prompt, ScoreCall, ScoreItem, Task, TextPrompt, TokenPrompt
from stretto.engine.results import EmbedAnswer, GenerateEvent, InputReport, ModelCard, ScoreAnswer, Started
from stretto.engine.served import Served
from stretto.engine.text.answer import Answer
from stretto.engine.tokenizing import (
    DetokenizeCall,
    TokenizeCall,
    Tokenized,
    TokenizerFile,
    detokenized,
    tokenized,
    tokenizer_files,
)

TOKENIZING_THREADS = 4
SPARE_THREADS = 2  # for who wants ids or texts only, so that a crowd of them holds up no prompt
Result = TypeVar("Result")


class Engine:
    """All loaded models behind one door.

    `observe` gets the figures of steps and queues for the metrics; `changed` is called when a model changes its state
    or the engine process dies.
    """

    def __init__(
        self,
        loads: Sequence[LoadSpec],
        limits: Limits,
        *,
        observe: Callable[[Figures], None],
        changed: Callable[[], None],
    ) -> None:
        self.limits = limits
        self.admission = Admission(limits)
        self._loads = loads
        self._observe = observe
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._settled = asyncio.Event()  # every model is ready, or one has failed
        self._process = EngineProcess(
            limits,
            loads=lambda: [served.load_message() for served in self._served.values()],
            heard=self._hear,
            died=self._await_another,
            given_up=self._give_up,
            settled=self._settled.is_set,
        )
        self._tokenizing = ThreadPoolExecutor(TOKENIZING_THREADS, thread_name_prefix="tokenize")
        self._spare = ThreadPoolExecutor(SPARE_THREADS, thread_name_prefix="spare")
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """False between the death of an engine process and its successor's start."""
        return self._process.alive

    # Its life

    async def start(self) -> None:
        """Read the checkpoints' headers and start the engine process; raises CheckpointError for a bad one."""
        opening = [asyncio.to_thread(Served.open, spec) for spec in self._loads]
        first_link = asyncio.create_task(Link.start(self.limits))
        try:
            for served in await asyncio.gather(*opening):
                self._served[served.spec.name] = served
        except BaseException:
            await (await first_link).close()
            raise
        self._process.follow(await first_link)
        self._tasks = [asyncio.create_task(self._find_version(served)) for served in self._served.values()]

    async def ready(self) -> None:
        """Wait until every model can be asked; raises what is wrong with the first that can't be loaded."""
        await self._settled.wait()
        for served in self._served.values():
            if served.card.state == "failed":
                raise errors.CheckpointError(served.card.error)

    async def close(self) -> None:
        """End the engine process. Requests in flight get EngineLost: whoever wants them finished waits before."""
        await self._process.close()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for threads in (self._tokenizing, self._spare):
            threads.shutdown(wait=False, cancel_futures=True)

    def cards(self) -> list[ModelCard]:
        return [served.card for served in self._served.values()]

    def card(self, name: str) -> ModelCard:
        """One model by its name; raises ModelNotFound with the names there are."""
        return self._find(name).card

    # What it is asked

    @asynccontextmanager
    async def generate(self, call: GenerateCall) -> AsyncIterator[AsyncIterator[GenerateEvent]]:
        """Admit a call and follow it. Leaving the context, for any reason, cancels what is left of it."""
        served = self._able(call.model, Task.GENERATE, call.expected_version)
        size = _estimate([call.prompt], served.card.context)
        with self.admission.reserve(size) as place, self._process.passage() as way:
            begun = time.monotonic()
            report, message, answers = await self._apart(lambda: _prepared(served, call, way.id))
            tokenized = time.monotonic() - begun
            place.correct(len(message.prompt))
            ended = [index for index, answer in enumerate(answers) if answer.finish is not None]
            if message.score_prompt and 0 in ended:
                raise InvalidRequest(
                    "config.output.include_prompt_logprobs is true, and the first answer of resume_after has ended: "
                    "they came before it.",
                    field="config.output.include_prompt_logprobs",
                )
            way.send([message, *(Stop(id=way.id, candidate=index) for index in ended)])
            seed = message.draw.seed if message.draw.temperature > 0 else None
            yield followed(call, way, place, answers, Started(report=report, seed=seed), tokenized)

    async def score(self, call: ScoreCall) -> ScoreAnswer:
        """How likely each item's continuations are; each item fails on its own."""
        served = self._able(call.model, Task.SCORE, "")
        with self.admission.reserve(_estimate(_texts_of(call), served.card.context)) as place:
            begun = time.monotonic()
            items = await self._apart(lambda: prepared(served, call))
            tokenized = time.monotonic() - begun
            place.correct(sum(item.num_tokens for item in items if isinstance(item, PreparedItem)))
            scoring = (self._scored(served, call, item, place) for item in items)
            outcomes = await asyncio.gather(*scoring, return_exceptions=True)
            return score_answer(served, call, outcomes, tokenized)

    async def _scored(
        self, served: Served, call: ScoreCall, item: PreparedItem | StrettoError, place: Place
    ) -> Scoring:
        """One item's figures; raises what is wrong with it."""
        if isinstance(item, StrettoError):
            raise item
        scoring = Scoring(item)
        with self._process.passage() as way:
            way.send([score_message(served, call, item, way.id)])
            while scoring.account is None:
                event = await way.next()
                place.leave()
                match event:
                    case Failed():
                        raise error_of(event)
                    case Scored():
                        scoring.take(event)
                    case Token():
                        scoring.account = event.account
        return scoring

    def check_embed(self, call: EmbedCall) -> None:
        """Raise what `embed` would raise for a call like this one, whatever its inputs are."""
        self._able(call.model, Task.EMBED, "").inputs.rules(call)

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Embed every input; each fails on its own."""
        served = self._able(call.model, Task.EMBED, "")
        rules = served.inputs.rules(call)
        size = _estimate(call.inputs, served.card.max_input_tokens * rules.most_windows)
        with self.admission.reserve(size) as place, self._process.passage() as way:
            begun = time.monotonic()
            texts = await self._apart(lambda: served.inputs.read(call, rules))
            tokenized = time.monotonic() - begun
            messages = served.inputs.messages(call, rules, way.id, texts)
            place.correct(sum(len(message.ids) for message in messages))
            way.send(messages)
            outcomes = dict[int, Vector | StrettoError]()
            while len(outcomes) < len(messages):
                event = await way.next()
                place.leave()
                match event:
                    case Vector():
                        outcomes[event.index] = event
                    case Failed(index=-1):
                        raise error_of(event)
                    case Failed():
                        outcomes[event.index] = error_of(event)
            return embed_answer(call, rules, texts, [outcomes[i] for i in range(len(messages))], tokenized)

    async def _apart(self, work: Callable[[], Result]) -> Result:
        """Tokenise in a thread. The threads are few and their own, so that slow texts hold up nothing but texts."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    # What needs no weights, and so neither a model that is ready nor an engine process

    async def tokenize(self, call: TokenizeCall, write: Callable[[list[Tokenized]], Result]) -> Result:
        """What `write` makes of the tokens, in the same thread: a million of them take it a second."""
        served = self._find(call.model)
        return await self._spared(lambda: write(tokenized(served, call)))

    async def detokenize(self, call: DetokenizeCall) -> list[str]:
        served = self._find(call.model)
        return await self._spared(lambda: detokenized(served, call))

    async def tokenizer_files(self, name: str) -> list[TokenizerFile]:
        served = self._find(name)
        return await self._spared(lambda: tokenizer_files(served))

    async def _spared(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._spare, work)

    # What the engine process says of itself and its models

    def _hear(self, news: News) -> None:
        match news:
            case Step() | Gauges() | Freed():
                self._observe(news)
            case Ready():
                self._update(
                    news.name,
                    state="ready",
                    error="",
                    device=news.device,
                    dtype=news.dtype,
                    weight_bytes=news.weight_bytes,
                    cache_bytes=news.cache_bytes,
                    cache_blocks=news.cache_blocks,
                    cache_tokens=news.cache_tokens,
                    threads=news.threads,
                    kernels=news.kernels,
                    load_seconds=news.seconds,
                    loaded_at=time.time(),
                )
            case LoadFailed():
                self._update(news.name, state="failed", error=news.message)

    def _await_another(self) -> None:
        """The engine process is gone; its successor says when its models are ready."""
        for served in self._served.values():
            if served.card.state == "ready":
                served.card = replace(served.card, state="loading")
        self._changed()

    def _give_up(self, why: str) -> None:
        for name in self._served:
            self._update(name, state="failed", error=why)

    def _update(self, name: str, **changes: object) -> None:
        served = self._served[name]
        served.card = replace(served.card, **changes)  # type: ignore[arg-type]
        states = [card.state if card.version else "loading" for card in self.cards()]
        if "failed" in states or all(state == "ready" for state in states):
            self._settled.set()
        self._changed()

    async def _find_version(self, served: Served) -> None:
        try:
            version = await asyncio.to_thread(served.version)
        except errors.CheckpointError as error:
            self._update(served.spec.name, state="failed", error=error.message)
        else:
            self._update(served.spec.name, version=version)

    # Finding

    def _find(self, name: str) -> Served:
        if name not in self._served:
            loaded = ", ".join(self._served) or "none"
            raise ModelNotFound(
                f"no model {name!r} is loaded; there are: {loaded}.", field="model", metadata={"model": name}
            )
        return self._served[name]

    def _able(self, name: str, task: Task, expected_version: str) -> Served:
        """The model of that name, if it does this task and can be asked now."""
        served = self._find(name)
        card = served.card
        if task not in card.tasks:
            able = [other.spec.name for other in self._served.values() if task in other.card.tasks]
            raise TaskNotSupported(
                f"{name} cannot {task}; it can: {', '.join(card.tasks)}.  "
                f"Loaded models that can: {', '.join(able) or 'none'}.",
                field="model",
                metadata={"model": name, "task": task},
            )
        if not self.alive:
            raise EngineLost("the engine process is being restarted. Try again.", retry_after=1.0)
        if card.state == "loading" and card.loaded_at:
            raise EngineLost(f"the engine process died, and {name} is being loaded again. Try again.", retry_after=1.0)
        if card.state != "ready" or not card.version:
            state = f"{card.name} is {'loading' if card.state == 'ready' else card.state}. {card.error}"
            wait = None if card.state == "failed" else 1.0  # what failed to load stays so
            raise ModelNotReady(state.strip(), field="model", metadata={"model": name}, retry_after=wait)
        if expected_version and expected_version != card.version:
            raise VersionMismatch(
                f"{card.name} is {card.version}, not {expected_version}.",
                field="expected_model_version",
                metadata={"model": name, "version": card.version},
            )
        return served


def _prepared(served: Served, call: GenerateCall, message_id: int) -> tuple[InputReport, Generate, list[Answer]]:
    """All that is to be tokenised or detokenised before the engine is asked: an answer that is resumed may be long."""
    ids, report = served.prompt(call)
    message, spec = served.generate_message(call, message_id, ids)
    return report, message, [Answer(spec, candidate) for candidate in range(message.candidates)]


def _estimate(prompts: Sequence[Prompt | StrettoError], most: int) -> int:
    """How many tokens inputs may bring to the queue: each at most one a byte, and none more than `most`."""
    return sum(min(_most_tokens(prompt), most) for prompt in prompts)


def _texts_of(call: ScoreCall) -> list[Prompt | StrettoError]:
    """Everything of a Score call that becomes tokens."""
    items = [item for item in call.items if isinstance(item, ScoreItem)]
    return [text for item in items for text in (item.context, *item.continuations) if text is not None]


def _most_tokens(prompt: Prompt | StrettoError) -> int:
    match prompt:
        case TextPrompt():
            return len((prompt.text + (prompt.pair or "")).encode(errors="replace"))
        case TokenPrompt():
            return len(prompt.ids)
        case StrettoError():
            return 0
        case _:
            return sum(len(message.content.encode(errors="replace")) for message in prompt.messages)
