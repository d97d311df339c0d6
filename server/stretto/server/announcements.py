"""What the server says of its own life to whoever started it: small values, which the command line puts into words."""

from dataclasses import dataclass

from stretto.engine.results import ModelCard
from stretto.server.quantities import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Both ports are open; health says NOT_SERVING until the models are ready. Metrics are plain HTTP always."""

    grpc: Address
    metrics: Address
    encrypted: bool
    asks_for_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReady:
    card: ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFailed:
    card: ModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Every model is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDown:
    """The engine process died; it is being restarted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The server takes no new requests and waits for those that run."""

    num_running: int
    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """How many of the running requests finished, and how many were cut."""

    num_finished: int
    num_cut: int


Announcement = Listening | ModelReady | ModelFailed | Serving | EngineDown | Stopping | Stopped
