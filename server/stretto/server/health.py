"""grpc.health.v1 for the server as a whole (""), for each service, and for each model (`stretto.model.<name>`)."""

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

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


class Health:
    """The standard servicer, and the rule by which its answers follow the engine and the drain."""

    def __init__(self) -> None:
        self.servicer = aio.HealthServicer()

    async def refresh(self, engine: Engine, *, draining: bool) -> None:
        for name, serving in _standing(engine, draining=draining).items():
            await self.servicer.set(name, Status.SERVING if serving else Status.NOT_SERVING)


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
    return {
        "": not unready(engine, draining=draining),
        MODELS: not draining,
        SERVER: not draining,
        TOKENIZER: not draining and bool(cards),  # it needs no weights, and no engine process
        **{service: any(task in card.tasks for card in ready) for service, task in NEEDS.items()},
        **{f"stretto.model.{card.name}": card in ready for card in cards},
    }
