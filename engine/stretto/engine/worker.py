"""The engine process: one loop over all loaded models; commands come in, steps are planned, computed and sent."""

import logging
import os
import queue
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TypeAlias

import msgspec
import torch

from stretto.engine.config import Limits
from stretto.engine.errors import ModelNotReady, StrettoError
from stretto.engine.frames import frames, read_frame
from stretto.engine.lanes import CausalLane, EncodeLane, Lane
from stretto.engine.loading import LoadedModel, load
from stretto.engine.messages import (
    Cancel,
    Command,
    Encode,
    Event,
    Failed,
    Freed,
    Gauges,
    Generate,
    Load,
    LoadFailed,
    Logged,
    Stop,
)

LOG = logging.getLogger("stretto.engine")
GAUGES_SECONDS = 0.5  # how often an engine says how its queues stand, also when it has nothing else to say
LAST_WORDS_SECONDS = 2.0

# What goes to the server, in this order; an event of threading's is set once all before it has gone.
Outbox: TypeAlias = queue.SimpleQueue[list[Event] | threading.Event]


class Worker:
    """Owns every model, its cache and its queues, on one thread. Everybody else sends it messages.

    `step` computes one step of one model: of those with work, the one that has had the least time so far, in measured
    seconds. A model that was idle gets no credit for that.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: dict[str, list[Lane]] = {}
        self._clock = 0.0  # what the lane that was stepped last had had by then; it never goes back
        self._gauges_due = 0.0

    @property
    def idle(self) -> bool:
        return all(lane.idle for lane in self._all())

    def obey(self, command: Command) -> list[Event]:
        """Take one command in; returns what there is to say at once."""
        match command:
            case Load():
                return [self._load(command)]
            case Generate() | Encode() if command.model not in self._lanes:
                return [_not_loaded(command)]
            case Generate() | Encode():
                lane = next(lane for lane in self._lanes[command.model] if lane.takes(command))
                if lane.idle:
                    lane.spent = max(lane.spent, self._clock)
                return lane.add(command, time.monotonic())
            case Cancel():
                ended = [task for lane in self._all() if (task := lane.cancel(command.id)) is not None]
                return [Freed(task=task, seconds=time.monotonic() - command.sent) for task in ended]
            case Stop():
                return [event for lane in self._all() for event in lane.stop(command, time.monotonic())]
        return []

    def step(self) -> list[Event]:
        """Compute one step, if there is anything to compute, and return its events."""
        now = time.monotonic()
        events = [event for lane in self._all() for event in lane.expire(now)]
        busy = [lane for lane in self._all() if not lane.idle]
        if busy:
            lane = min(busy, key=lambda lane: lane.spent)
            self._clock = max(self._clock, lane.spent)
            hurry = any(other.decoding for other in busy)
            events += lane.step(self._limits.step_budget_seconds if hurry else None)
            lane.spent += time.monotonic() - now
        if self.idle or now >= self._gauges_due:
            self._gauges_due = now + GAUGES_SECONDS
            events += self.gauges(now)
        return events

    def gauges(self, now: float) -> list[Gauges]:
        """How every queue and every cache stands."""
        return [each for lane in self._all() for each in lane.gauges(now)]

    def _load(self, command: Load) -> Event:
        try:
            model = load(command, self._limits)
        except StrettoError as error:
            return LoadFailed(name=command.name, message=error.message)
        except Exception as error:  # no memory, most likely; what else is loaded goes on
            LOG.exception("%s could not be loaded", command.name)
            return LoadFailed(name=command.name, message=f"{command.path} could not be loaded: {error}")
        self._lanes[command.name] = self._lanes_of(command.name, model)
        return model.ready

    def _lanes_of(self, name: str, model: LoadedModel) -> list[Lane]:
        lanes: list[Lane] = [EncodeLane(name, model.encoder, self._limits)]
        if model.runner is not None and model.cache is not None:
            lanes.append(CausalLane(name, model.runner, model.cache, self._limits))
        return lanes

    def _all(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes]


def _not_loaded(command: Generate | Encode) -> Failed:
    """The end of a request whose model this engine process could not load: it was sent before that was known."""
    message = f"{command.model} could not be loaded by the engine process that is running now."
    return Failed(id=command.id, reason=ModelNotReady.reason, message=message)


def serve(end: socket.socket, limits: Limits) -> None:
    """Run the engine on this end of the socket until the other end closes, which ends the process at once.

    The terminal's Ctrl-C and a supervisor's SIGTERM reach the whole process group: how to stop is the server's to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if limits.threads:
        torch.set_num_threads(limits.threads)
    inbox: queue.SimpleQueue[list[Command]] = queue.SimpleQueue()
    outbox: Outbox = queue.SimpleQueue()
    logging.getLogger().addHandler(_Words(outbox))
    logging.captureWarnings(True)
    threading.Thread(target=_read, args=(end, inbox, outbox), name="reader", daemon=True).start()
    threading.Thread(target=_write, args=(end, outbox), name="writer", daemon=True).start()
    worker = Worker(limits)
    try:
        while True:
            for event in _obey_all(worker, inbox):
                outbox.put([event])
            if events := worker.step():
                outbox.put(events)
    except BaseException:
        LOG.exception("the engine loop failed; the server starts a new engine process")
        _die(outbox)


def _obey_all(worker: Worker, inbox: queue.SimpleQueue[list[Command]]) -> list[Event]:
    """Obey every command that is there; when there is nothing else to do, wait for one, but never long."""
    events: list[Event] = []
    if worker.idle:
        with suppress(queue.Empty):
            for command in inbox.get(timeout=GAUGES_SECONDS):
                events += worker.obey(command)
    while not inbox.empty():
        for command in inbox.get():
            events += worker.obey(command)
    return events


class _Words(logging.Handler):
    """What this process logs goes to the server, whose log has one format and one writer."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.put([Logged(level=record.levelno, text=self.format(record))])


def _die(outbox: Outbox) -> None:
    """End this process; its last words go first, if anybody takes them."""
    said = threading.Event()
    outbox.put(said)
    said.wait(LAST_WORDS_SECONDS)
    os._exit(70)


def _read(end: socket.socket, inbox: queue.SimpleQueue[list[Command]], outbox: Outbox) -> None:
    decoder = msgspec.msgpack.Decoder(list[Command])
    try:
        while (body := read_frame(end)) is not None:
            inbox.put(decoder.decode(body))
    except Exception:
        LOG.exception("the engine cannot read its commands")
        _die(outbox)
    os._exit(0)


def _write(end: socket.socket, outbox: Outbox) -> None:
    encoder = msgspec.msgpack.Encoder()
    try:
        while True:
            events = outbox.get()
            if isinstance(events, threading.Event):
                events.set()
                continue
            for frame in frames(events, encoder):
                end.sendall(frame)
    except OSError:  # the other end is gone
        os._exit(0)
