"""grpc.health.v1 for the server as a whole (""), for each service, and for each model (`stretto.model.<name>`)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stretto.engine.core import Engine
from stretto.engine.requests import Task

GENERATION = "stretto.v1.GenerationService"
EMBEDDING = "stretto.v1.EmbeddingService"
MODELS = "stretto.v1.ModelService"
TOKENIZER = "stretto.v1.TokenizerService"
SERVER = "stretto.v1.ServerService"
SERVICES = (GENERATION, EMBEDDING, MODELS, TOKENIZER, SERVER)

# What a service needs at least one ready model for.
NEEDS = {GENERATION: Task.GENERATE, EMBEDDING: Task.EMBED}

Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # a package without types; what later versions add is its to refuse
    """The standard service, and the rule by which its answers follow the engine and the drain.

    grpc's own servicer for asyncio does not do: when one watcher leaves, the others hear nothing more, and one that
    does not read holds a lock that every change of a state needs.
    """

    def __init__(self) -> None:
        self._standing: Mapping[str, bool] = {}
        self._changed = asyncio.Event()  # set once, then replaced: whoever waits is woken once a change

    def refresh(self, engine: Engine, *, draining: bool) -> None:
        """Take in how everything stands now; whoever asks from here on hears it."""
        self._standing = _standing(engine, draining=draining)
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        if request.service not in self._standing:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name is served here")
        return Status(status=self._status(request.service))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Send the status now and after each change; a name that is not there yet may come."""
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                await context.write(Status(status=status))
                told = status
            await changed.wait()

    def _status(self, name: str) -> Any:
        if name not in self._standing:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if self._standing[name] else Status.NOT_SERVING


def unready(engine: Engine, *, draining: bool) -> list[str]:
    """Why the server as a whole is not ready, in words; nothing when it is."""
    reasons = ["the server is stopping"] if draining else []
    if not engine.alive:
        reasons.append("the engine process is down")
    return reasons + [f"{card.name} is {card.state}" for card in engine.cards() if card.state != "ready"]


def _standing(engine: Engine, *, draining: bool) -> dict[str, bool]:
    cards = engine.cards()
    up = engine.alive and not draining
    ready = [card for card in cards if up and card.state == "ready"]
    able = {task for card in ready for task in card.tasks}
    return {
        "": not unready(engine, draining=draining),
        MODELS: not draining,
        SERVER: not draining,
        TOKENIZER: not draining and bool(cards),  # it needs no weights, and no engine process
        **{service: task in able for service, task in NEEDS.items()},
        **{f"stretto.model.{card.name}": card in ready for card in cards},
    }
