"""How `stretto serve` tells its start and its end: a screen on a terminal, one log line each elsewhere."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from structlog.typing import FilteringBoundLogger

from stretto.cli.sizes import byte_size
from stretto.engine.requests import Task
from stretto.engine.results import ModelCard
from stretto.server.announcements import (
    Announcement,
    EngineDown,
    Listening,
    ModelFailed,
    ModelReady,
    Serving,
    Stopped,
    Stopping,
)

DEFAULT_TARGET = "127.0.0.1:50051"


class Lines:
    """One log line a fact."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger

    def announce(self, what: Announcement) -> None:
        match what:
            case Listening():
                self._logger.info(
                    "listening",
                    grpc=str(what.grpc),
                    metrics=str(what.metrics),
                    encrypted=what.encrypted,
                    tokens=what.asks_for_token,
                )
                if readable_on_the_way(what):
                    self._logger.warning("not encrypted: texts and tokens can be read on their way from other machines")
            case ModelReady(card=card):
                self._logger.info("model ready", **_facts(card))
            case ModelFailed(card=card):
                self._logger.error("model failed", model=card.name, error=card.error)
            case Serving():
                self._logger.info("serving")
            case EngineDown():
                self._logger.error("the engine process died and is being restarted")
            case Stopping():
                self._logger.info("stopping", running=what.num_running, grace_seconds=what.grace_seconds)
            case Stopped():
                self._logger.info("stopped", finished=what.num_finished, cut=what.num_cut)


class Screen:
    """The start-up screen, on standard error. A context: leaving it puts the terminal in order."""

    def __init__(self, names: Sequence[str], *, grace_seconds: float, coloured: bool) -> None:
        self._width = max(len(name) for name in names)
        self._grace_seconds = grace_seconds
        self._console = Console(stderr=True, no_color=not coloured, highlight=False)
        self._waiting = self._console.status(f"loading {', '.join(names)}")
        self._listening: Listening | None = None
        self._ready: dict[str, ModelCard] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.stop()

    def announce(self, what: Announcement) -> None:
        match what:
            case Listening():
                self._listening = what
                self._waiting.start()
            case ModelReady(card=card):
                self._say(*model_lines(card, width=self._width))
                self._ready[card.name] = card
            case ModelFailed(card=card):
                self._say(f"  {card.name}   failed: {card.error}")
            case Serving():
                self._waiting.stop()
                if self._listening is not None:
                    self._say(*serving_lines(self._listening, list(self._ready.values()), self._grace_seconds))
            case EngineDown():
                self._say("The engine process died and is being restarted; running requests were lost.")
            case Stopping():
                self._say(stopping_line(what))
            case Stopped():
                self._say(f"Stopped: {_requests(what.num_finished)} finished, {what.num_cut} cut.")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)


def model_lines(card: ModelCard, *, width: int) -> list[str]:
    """A model that is ready: what it does, what it takes, and below that what was chosen for it."""
    tasks = " ".join(card.tasks)
    kind = card.dtype if card.quantization == "none" else card.quantization
    first = (
        f"  {card.name:<{width}}   {tasks:<14}   {kind:<9} {byte_size(card.weight_bytes):>9}"
        f"   ready in {card.load_seconds:.1f} s"
    )
    chosen = [f"on {card.device}", f"{card.kernels} kernels"]
    if card.cache_tokens:
        cache = f"{card.cache_blocks:,} blocks for {card.cache_tokens:,} tokens"
        chosen.append(f"cache of {byte_size(card.cache_bytes)}: {cache}")
    return [first, *(f"      {note}" for note in [", ".join(chosen), *card.notes])]


def serving_lines(listening: Listening, cards: list[ModelCard], grace_seconds: float) -> list[str]:
    """Where to reach the server, and what to try first."""
    how = "TLS" if listening.encrypted else "plain text"
    reach = "this machine only" if listening.grpc.is_loopback else "other machines can reach it"
    who = ", asks for a token" if listening.asks_for_token else ""
    warning = "            not encrypted: texts and tokens can be read on their way from other machines"
    return [
        "",
        f"  gRPC      {listening.grpc}      ({how}, {reach}{who})",
        *([warning] if readable_on_the_way(listening) else []),
        f"  metrics   http://{listening.metrics}/metrics      health  /healthz /readyz",
        "",
        *(f"  {'Try' if first else '':<7}   {command}" for first, command in _numbered(_commands(listening, cards))),
        f"  Stop with Ctrl-C: running requests get {grace_seconds:g} s to finish.",
    ]


def readable_on_the_way(listening: Listening) -> bool:
    """Other machines may call, and what they say is there for all machines between."""
    return not listening.encrypted and not listening.grpc.is_loopback


def stopping_line(what: Stopping) -> str:
    if what.num_running == 0:
        return "Stopping."
    return (
        f"Stopping: {_requests(what.num_running)} may take {what.grace_seconds:g} s more to finish; "
        "Ctrl-C again cuts them."
    )


def _commands(listening: Listening, cards: list[ModelCard]) -> list[str]:
    target = str(listening.grpc)
    prefix = "" if target == DEFAULT_TARGET else f"STRETTO_TARGET={target} "
    prefix += program()
    suffix = " --tls-ca CERT.pem" if listening.encrypted else ""
    suffix += " --token-file TOKEN.txt" if listening.asks_for_token else ""
    tasks = {task for card in cards for task in card.tasks}
    commands = []
    if any(card.has_chat_template for card in cards):
        commands.append(" chat")
    if Task.EMBED in tasks:
        commands.append(' embed "A man eats food." "A person is eating." --similarity')
    if Task.GENERATE in tasks:
        commands.append(' generate "The capital of France is" --max-tokens 8')
    return [prefix + command + suffix for command in commands]


def program() -> str:
    """How a person calls this program in the next terminal: by its name, or where it lies if no path leads there."""
    if shutil.which("stretto"):
        return "stretto"
    here = Path(sys.argv[0]).resolve()
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def _numbered(commands: list[str]) -> list[tuple[bool, str]]:
    return [(place == 0, command) for place, command in enumerate(commands)]


def _facts(card: ModelCard) -> dict[str, object]:
    return {
        "model": card.name,
        "tasks": " ".join(card.tasks),
        "device": card.device,
        "dtype": card.dtype,
        "quantization": card.quantization,
        "weight_bytes": card.weight_bytes,
        "threads": card.threads,
        "kernels": card.kernels,
        "cache_bytes": card.cache_bytes,
        "cache_blocks": card.cache_blocks,
        "cache_tokens": card.cache_tokens,
        "load_seconds": round(card.load_seconds, 3),
        "version": card.version,
        "notes": "; ".join(card.notes),
    }


def _requests(number: int) -> str:
    return f"{number} request" if number == 1 else f"{number} requests"
