"""
The engine process and its successors, seen from the server process: who is asked, who waits for an answer. No torch.

An engine process that died is replaced by one that loads the same models. One event loop owns all of this.
"""

import asyncio
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from stretto.engine import errors
from stretto.engine.config import Limits
from stretto.engine.errors import EngineLost, SlowReader, StrettoError
from stretto.engine.link import Link
from stretto.engine.messages import (
    Cancel,
    Command,
    Event,
    Failed,
    Freed,
    Gauges,
    Load,
    LoadFailed,
    Logged,
    Reading,
    Ready,
    Scored,
    Step,
    Token,
    Vector,
)
from stretto.engine.watchdog import Watchdog

RESTART_SECONDS = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0)  # before each restart in a row; one that ran a minute ends the row
STEADY_SECONDS = 60.0
WATCH_SECONDS = 0.5  # between two looks at a silent engine; it speaks as often
MAX_UNREAD_TOKENS = 16_384  # of one request; the cache never waits for whoever reads them
DEATHS_AT_START = 3  # then it is no accident
LOG = logging.getLogger("stretto.engine")

REASONS: dict[str, type[StrettoError]] = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, StrettoError) and kind is not StrettoError
}
Answer = Token | Scored | Reading | Vector | Failed
News = Step | Gauges | Freed | Ready | LoadFailed


class Passage:
    """One request's way to the engine and back. `id` is what its messages carry."""

    def __init__(self, process: "EngineProcess", request_id: int) -> None:
        self.id = request_id
        self._process = process
        self._inbox = asyncio.Queue[Answer]()

    def send(self, commands: Sequence[Command]) -> None:
        """Ask the engine; what it answers comes back from now on. Raises EngineLost while there is none."""
        self._process.ask(self.id, self._inbox, commands)

    async def next(self) -> Answer:
        """The next event of this request."""
        return await self._inbox.get()

    async def pile(self, most: int) -> list[Answer]:
        """Wait for an event, and take everything that is there, up to `most` events."""
        events = [await self._inbox.get()]
        while not self._inbox.empty() and len(events) < most:
            events.append(self._inbox.get_nowait())
        return events


class EngineProcess:
    """Keeps an engine process running, and knows which request waits for which events.

    `loads` says what each new process is to load, `heard` gets what is no request's answer, `died` is called when a
    process is gone, and `given_up` with the reason when no further one is started. `settled` says whether the models
    of a process have been loaded once.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        loads: Callable[[], list[Load]],
        heard: Callable[[News], None],
        died: Callable[[], None],
        given_up: Callable[[str], None],
        settled: Callable[[], bool],
    ) -> None:
        self.alive = False
        self._limits = limits
        self._loads = loads
        self._heard = heard
        self._died = died
        self._given_up = given_up
        self._settled = settled
        self._inboxes: dict[int, asyncio.Queue[Answer]] = {}
        self._ids = itertools.count(1)
        self._link: Link | None = None
        self._closing = False
        self._following: asyncio.Task[None] | None = None

    def follow(self, first: Link) -> None:
        """Use this engine process, and its successors, from now on."""
        self._following = asyncio.create_task(self._follow(first))

    async def close(self) -> None:
        """End the engine process. Requests in flight get EngineLost: whoever wants them finished waits before."""
        self._closing = True
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        self._lose("the server is stopping")

    @contextmanager
    def passage(self) -> Iterator[Passage]:
        """A way for one request. Leaving the context, for any reason, cancels what is left of it in the engine."""
        way = Passage(self, next(self._ids))
        try:
            yield way
        finally:
            if self._inboxes.pop(way.id, None) is not None and self._link is not None:
                self._link.send([Cancel(id=way.id, sent=time.monotonic())])

    def ask(self, request_id: int, inbox: asyncio.Queue[Answer], commands: Sequence[Command]) -> None:
        """What `Passage.send` does."""
        if self._link is None:
            raise EngineLost("the engine process is being restarted. Try again.", retry_after=1.0)
        self._inboxes[request_id] = inbox
        self._link.send(commands)

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
            loads = self._loads()
            link.send(loads)
            watchdog = Watchdog(self._limits.hang_seconds, num_loads=len(loads))
            watching = asyncio.create_task(_watch(link, watchdog))
            try:
                async for events in link.events():
                    watchdog.hear(events)
                    for event in events:
                        self._take(event)
            finally:
                watching.cancel()
            if self._closing:
                return
            self._link = None  # first: whoever closes the engine meanwhile must not close the link again
            self._lose("the engine process hung" if watchdog.hung else "the engine process died")
            ending = _ending(await link.close())
            why = f"the engine process {watchdog.why if watchdog.hung else ending}"
            steady = self._settled() and time.monotonic() - begun > STEADY_SECONDS
            deaths = 1 if steady else deaths + 1
            LOG.error(why)
            if deaths == DEATHS_AT_START and not self._settled():
                self._given_up(f"{why}, {deaths} times while the models were loaded.")
                return
            link = await self._another(deaths)

    async def _another(self, deaths: int) -> Link:
        """A new engine process, as soon as it is time and the machine can give one."""
        while True:
            await asyncio.sleep(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS)) - 1])
            try:
                return await Link.start(self._limits)
            except OSError as error:
                LOG.error("an engine process cannot be started (%s); it is tried again", error)
                deaths += 1

    def _take(self, event: Event) -> None:
        if isinstance(event, Step | Gauges | Freed | Ready | LoadFailed):
            self._heard(event)
            return
        if isinstance(event, Logged):
            LOG.log(event.level, event.text)
            return
        if isinstance(event, Failed) and event.log:
            LOG.error(event.log)
        if (inbox := self._inboxes.get(event.id)) is None:
            return
        if isinstance(event, Token) and inbox.qsize() >= MAX_UNREAD_TOKENS:
            self._give_up_reader(event.id, inbox)
        else:
            inbox.put_nowait(event)

    def _give_up_reader(self, request_id: int, inbox: asyncio.Queue[Answer]) -> None:
        """End a request whose tokens nobody takes; what is there may still be read, the end of it says why."""
        message = f"{MAX_UNREAD_TOKENS} tokens wait to be read, the limit; the request was ended."
        inbox.put_nowait(Failed(id=request_id, reason=SlowReader.reason, message=message))
        del self._inboxes[request_id]
        if self._link is not None:
            self._link.send([Cancel(id=request_id, sent=time.monotonic())])

    def _lose(self, why: str) -> None:
        """Fail everything in flight: the engine process that held it is gone."""
        self.alive = False
        for request_id, inbox in self._inboxes.items():
            message = f"The request was lost: {why}. Nothing of it goes on; try again."
            inbox.put_nowait(Failed(id=request_id, reason=EngineLost.reason, message=message))
        self._died()


async def _watch(link: Link, watchdog: Watchdog) -> None:
    """Kill an engine process that hangs. Time in which this process itself did not run is not held against it."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if watchdog.hangs(WATCH_SECONDS):
            return link.kill()


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def error_of(event: Failed) -> StrettoError:
    """The exception that the engine process meant."""
    return REASONS[event.reason](event.message, retry_after=1.0 if event.reason == EngineLost.reason else None)
