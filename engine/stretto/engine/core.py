"""
`Engine`: everything a server needs, in the server process: texts go in, texts and vectors come out. No torch.

It keeps what is loaded, so that an engine process that died is replaced by one that holds the same models. One event
loop owns it; nothing here is called from another thread.
"""

import asyncio
import itertools
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from stretto.engine import errors
from stretto.engine.admission import Admission, Place
from stretto.engine.config import Limits, LoadSpec
from stretto.engine.errors import (
    EngineLost,
    ModelNotFound,
    ModelNotReady,
    StrettoError,
    TaskNotSupported,
    VersionMismatch,
)
from stretto.engine.link import Link
from stretto.engine.messages import (
    Account,
    Cancel,
    Event,
    Failed,
    Gauges,
    LoadFailed,
    Ready,
    Step,
    Stop,
    Token,
    Vector,
)
from stretto.engine.requests import EmbedCall, GenerateCall, Options, Prompt, Task, TextPrompt, TokenPrompt
from stretto.engine.results import (
    Delta,
    EmbedAnswer,
    Embedding,
    Finished,
    GenerateEvent,
    ModelCard,
    Started,
    Telemetry,
    Usage,
)
from stretto.engine.served import PreparedText, Served
from stretto.engine.text.answer import Answer

RESTART_SECONDS = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)  # before each restart in a row; one that ran a minute ends the row
STEADY_SECONDS = 60.0
TOKENIZING_THREADS = 4
DEATHS_AT_START = 3  # then it is no accident
LOG = logging.getLogger("stretto.engine")
REASONS: dict[str, type[StrettoError]] = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, StrettoError) and kind is not StrettoError
}
Result = TypeVar("Result")
Inbox = asyncio.Queue[Token | Vector | Failed]


class Engine:
    """All loaded models behind one door.

    `observe` gets the figures of steps and queues for the metrics; `changed` is called when a model changes its state
    or the engine process dies. `alive` is False between the death of an engine process and its successor's start.
    """

    def __init__(
        self,
        loads: Sequence[LoadSpec],
        limits: Limits,
        *,
        observe: Callable[[Step | Gauges], None],
        changed: Callable[[], None],
    ) -> None:
        self.alive = False
        self.limits = limits
        self.admission = Admission(limits)
        self._loads = loads
        self._observe = observe
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._ids = itertools.count(1)
        self._link: Link | None = None
        self._closing = False
        self._tokenizing = ThreadPoolExecutor(TOKENIZING_THREADS, thread_name_prefix="tokenize")
        self._settled = asyncio.Event()  # every model is ready, or one has failed
        self._tasks: list[asyncio.Task[None]] = []

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
        self._tasks = [asyncio.create_task(self._follow(await first_link))]
        self._tasks += [asyncio.create_task(self._find_version(served)) for served in self._served.values()]

    async def ready(self) -> None:
        """Wait until every model can be asked; raises what is wrong with the first that can't be loaded."""
        await self._settled.wait()
        for served in self._served.values():
            if served.card.state == "failed":
                raise errors.CheckpointError(served.card.error)

    async def close(self) -> None:
        """End the engine process. Requests in flight get EngineLost: whoever wants them finished waits before."""
        self._closing = True
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        self._lose("the server is stopping")

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
        place = self.admission.reserve(_estimate([call.prompt], served.card.context))
        message_id, inbox = next(self._ids), Inbox()
        try:
            begun = time.monotonic()
            ids, report = await self._apart(lambda: served.prompt(call))
            tokenized = time.monotonic() - begun
            place.correct(len(ids))
            message, spec = served.generate_message(call, message_id, ids)
            self._open(message_id, inbox).send([message])
            answers = [Answer(spec, candidate) for candidate in range(message.candidates)]
            seed = message.draw.seed if message.draw.temperature > 0 else None
            yield self._answer(call, message_id, answers, Started(report=report, seed=seed), inbox, place, tokenized)
        finally:
            place.leave()
            self._forget(message_id)

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Embed every input; each fails on its own."""
        served = self._able(call.model, Task.EMBED, "")
        place = self.admission.reserve(_estimate(call.inputs, served.card.max_input_tokens))
        message_id, inbox = next(self._ids), Inbox()
        try:
            begun = time.monotonic()
            texts = await self._apart(lambda: served.texts(call))
            tokenized = time.monotonic() - begun
            prepared = {i: text for i, text in enumerate(texts) if isinstance(text, PreparedText)}
            place.correct(sum(len(text.ids) for text in prepared.values()))
            messages = [served.encode_message(call, message_id, i, text.ids) for i, text in prepared.items()]
            self._open(message_id, inbox).send(messages)
            outcomes = dict[int, Vector | StrettoError]()
            while len(outcomes) < len(prepared):
                event = await inbox.get()
                place.leave()
                match event:
                    case Vector():
                        outcomes[event.index] = event
                    case Failed(index=-1):
                        raise _error(event)
                    case Failed():
                        outcomes[event.index] = _error(event)
            return _embed_answer(call, texts, outcomes, tokenized)
        finally:
            place.leave()
            self._forget(message_id)

    async def _answer(
        self,
        call: GenerateCall,
        message_id: int,
        answers: list[Answer],
        started: Started,
        inbox: Inbox,
        place: Place,
        tokenized: float,
    ) -> AsyncIterator[GenerateEvent]:
        """The events of one call. What piles up while the caller is busy comes as one list of deltas."""
        yield started
        first: float | None = None
        account: Account | None = None
        while account is None:
            tokens: dict[int, list[Token]] = {}
            for event in await _all_of(inbox):
                if isinstance(event, Failed):
                    raise _error(event)
                assert isinstance(event, Token)
                tokens.setdefault(event.candidate, []).append(event)
                if (account := event.account) is not None:
                    break  # what came after the end is the engine's, not this request's
            place.leave()
            if first is None and any(token.token >= 0 for group in tokens.values() for token in group):
                first = time.monotonic()
            deltas = list[Delta]()
            for candidate, answer in enumerate(answers):
                if candidate in tokens and answer.finish is None:
                    deltas.append(answer.push(tokens[candidate]))
                    if answer.finish is not None and account is None:
                        self._send_stop(message_id, candidate)
            if deltas:
                yield deltas
        usage = Usage(
            prompt_tokens=started.report.token_count,
            cached_prompt_tokens=account.cached_tokens,
            completion_tokens=sum(answer.num_tokens for answer in answers),
        )
        yield Finished(usage=usage, telemetry=_telemetry(call.options, account, tokenized, first))

    async def _apart(self, work: Callable[[], Result]) -> Result:
        """Tokenise in a thread. The threads are few and their own, so that slow texts hold up nothing but texts."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    # The engine process

    async def _follow(self, link: Link) -> None:
        """Keep an engine running; what nobody foresaw leaves the server not ready, and says so, but never waiting."""
        try:
            await self._keep_running(link)
        except Exception:
            LOG.exception("the engine process can be followed no longer; the server has to be started again")
            self._lose("the server lost sight of the engine")

    async def _keep_running(self, link: Link) -> None:
        """Follow one engine process after the other, for as long as the server runs."""
        deaths = 0
        while True:
            begun = time.monotonic()
            self._link, self.alive = link, True
            link.send([served.load_message() for served in self._served.values()])
            async for events in link.events():
                for event in events:
                    self._take(event)
            if self._closing:
                return
            self._link = None  # first: whoever closes the engine meanwhile must not close the link again
            self._lose("the engine process died")
            why = f"the engine process {_ending(await link.close())}"
            steady = self._settled.is_set() and time.monotonic() - begun > STEADY_SECONDS
            deaths = 1 if steady else deaths + 1
            LOG.error(why)
            if deaths == DEATHS_AT_START and not self._settled.is_set():
                for name in self._served:
                    self._update(name, state="failed", error=f"{why}, {deaths} times while the models were loaded.")
                return
            link = await self._another(deaths)

    async def _another(self, deaths: int) -> Link:
        """A new engine process, as soon as it is time and the machine can give one."""
        while True:
            await asyncio.sleep(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1])
            try:
                return await Link.start(self.limits)
            except OSError as error:
                LOG.error("an engine process cannot be started (%s); it is tried again", error)
                deaths += 1

    def _take(self, event: Event) -> None:
        match event:
            case Token() | Vector() | Failed():
                if isinstance(event, Failed) and event.log:
                    LOG.error(event.log)
                if (inbox := self._inboxes.get(event.id)) is not None:
                    inbox.put_nowait(event)
            case Step() | Gauges():
                self._observe(event)
            case Ready():
                self._update(
                    event.name,
                    state="ready",
                    error="",
                    device=event.device,
                    dtype=event.dtype,
                    weight_bytes=event.weight_bytes,
                    cache_bytes=event.cache_bytes,
                    cache_tokens=event.cache_tokens,
                    load_seconds=event.seconds,
                    loaded_at=time.time(),
                )
            case LoadFailed():
                self._update(event.name, state="failed", error=event.message)

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

    def _lose(self, why: str) -> None:
        """Fail everything in flight: the engine process that held it is gone."""
        self.alive = False
        for message_id, inbox in self._inboxes.items():
            message = f"The request was lost: {why}. Nothing of it goes on; try again."
            inbox.put_nowait(Failed(id=message_id, reason=EngineLost.reason, message=message))
        for served in self._served.values():
            if served.card.state == "ready":
                served.card = replace(served.card, state="loading")
        self._changed()

    # Finding and sending

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
        if card.state != "ready" or not card.version:
            state = f"{card.name} is {'loading' if card.state == 'ready' else card.state}. {card.error}"
            raise ModelNotReady(state.strip(), field="model", metadata={"model": name}, retry_after=1.0)
        if expected_version and expected_version != card.version:
            raise VersionMismatch(
                f"{card.name} is {card.version}, not {expected_version}.",
                field="expected_model_version",
                metadata={"version": card.version},
            )
        return served

    def _open(self, message_id: int, inbox: Inbox) -> Link:
        """Where to send a request; the way back is open from here on."""
        if self._link is None:
            raise EngineLost("the engine process is being restarted. Try again.", retry_after=1.0)
        self._inboxes[message_id] = inbox
        return self._link

    def _forget(self, message_id: int) -> None:
        """Close the way back. The engine is told, in case anything of the request is left."""
        if self._inboxes.pop(message_id, None) is not None and self._link is not None:
            self._link.send([Cancel(id=message_id)])

    def _send_stop(self, message_id: int, candidate: int) -> None:
        if self._link is not None:
            self._link.send([Stop(id=message_id, candidate=candidate)])


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


async def _all_of(inbox: Inbox) -> list[Token | Vector | Failed]:
    """Wait for an event, and take everything that is there."""
    events = [await inbox.get()]
    while not inbox.empty():
        events.append(inbox.get_nowait())
    return events


def _error(event: Failed) -> StrettoError:
    return REASONS[event.reason](event.message, retry_after=1.0 if event.reason == EngineLost.reason else None)


def _estimate(prompts: Sequence[Prompt | StrettoError], most: int) -> int:
    """How many tokens inputs may bring to the queue: each at most one a byte, and none more than `most`."""
    return sum(min(_most_tokens(prompt), most) for prompt in prompts)


def _most_tokens(prompt: Prompt | StrettoError) -> int:
    match prompt:
        case TextPrompt():
            return len(prompt.text.encode(errors="replace"))
        case TokenPrompt():
            return len(prompt.ids)
        case StrettoError():
            return 0
        case _:
            return sum(len(message.content.encode(errors="replace")) for message in prompt.messages)


def _embed_answer(
    call: EmbedCall,
    texts: list[PreparedText | StrettoError],
    outcomes: dict[int, Vector | StrettoError],
    tokenized: float,
) -> EmbedAnswer:
    results: list[Embedding | StrettoError] = []
    for index, text in enumerate(texts):
        outcome = text if isinstance(text, StrettoError) else outcomes[index]
        if isinstance(outcome, Vector):
            assert isinstance(text, PreparedText)
            size = len(outcome.vector) // 4
            outcome_ = Embedding(vector=outcome.vector, dimensions=size, report=text.report)
            results.append(outcome_)
        else:
            results.append(outcome)
    accounts = [outcome.account for outcome in outcomes.values() if isinstance(outcome, Vector)]
    tokens = sum(result.report.token_count for result in results if isinstance(result, Embedding))
    usage = Usage(prompt_tokens=tokens)
    return EmbedAnswer(
        results=tuple(results),
        usage=usage,
        telemetry=_telemetry(call.options, _together(accounts), tokenized, None),
    )


def _together(accounts: list[Account]) -> Account:
    """The account of a request out of its texts': the longest times, and the steps' extremes."""
    if not accounts:
        return Account(queue_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0)
    return Account(
        queue_seconds=max(a.queue_seconds for a in accounts),
        prefill_seconds=max(a.prefill_seconds for a in accounts),
        decode_seconds=0.0,
        steps=max(a.steps for a in accounts),
        min_batch=min(a.min_batch for a in accounts),
        max_batch=max(a.max_batch for a in accounts),
        mean_batch=sum(a.mean_batch for a in accounts) / len(accounts),
        co_batched_tokens=max(a.co_batched_tokens for a in accounts),
        queue_position=min(a.queue_position for a in accounts),
    )


def _telemetry(options: Options, account: Account, tokenized: float, first: float | None) -> Telemetry:
    now = time.monotonic()
    return Telemetry(
        received=time.time() - (now - options.received),
        tokenization_seconds=tokenized,
        queue_seconds=account.queue_seconds,
        prefill_seconds=account.prefill_seconds,
        decode_seconds=account.decode_seconds,
        total_seconds=now - options.received,
        first_token_seconds=None if first is None else first - options.received,
        steps=account.steps,
        min_batch=account.min_batch,
        max_batch=account.max_batch,
        mean_batch=account.mean_batch,
        co_batched_tokens=account.co_batched_tokens,
        preemptions=account.preemptions,
        peak_blocks=account.peak_blocks,
        queue_position=account.queue_position,
    )
