"""The whole server: two ports, the engine, and the way from the first signal to the last reply."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2_grpc
from structlog.typing import FilteringBoundLogger

from stretto.engine.config import LoadSpec
from stretto.engine.core import Engine
from stretto.engine.messages import Figures
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
from stretto.server.credentials import Credentials
from stretto.server.embedding import EmbeddingService
from stretto.server.gate import Gate
from stretto.server.generation import GenerationService
from stretto.server.health import SERVICES, Health, unready
from stretto.server.http_port import HttpPort
from stretto.server.info import ServerService
from stretto.server.interceptor import Interceptor
from stretto.server.metrics import Metrics
from stretto.server.models import ModelService
from stretto.server.ports import CannotListen, cannot_listen, check_free
from stretto.server.quantities import Address
from stretto.server.rates import Rate, Rates
from stretto.server.reflection import add_reflection
from stretto.server.settings import Settings
from stretto.server.tokenizing import TokenizerService
from stretto.v1 import embedding_pb2_grpc, generation_pb2_grpc, model_pb2_grpc, server_pb2_grpc, tokenizer_pb2_grpc

LAG_SECONDS = 0.25  # between two looks at the event loop
FLUSH_SECONDS = 0.5  # for replies that are written and not yet sent
CLEANUP_SECONDS = 5.0  # for what a cut request leaves behind

Announce = Callable[[Announcement], None]
MakeEngine = Callable[[Callable[[Figures], None], Callable[[], None]], Engine]


async def run(
    settings: Settings,
    loads: Sequence[LoadSpec],
    *,
    credentials: Credentials,
    logger: FilteringBoundLogger,
    announce: Announce,
) -> int:
    """Serve until a signal; the exit code. Raises StrettoError for what keeps the server from starting."""

    def make_engine(observe: Callable[[Figures], None], changed: Callable[[], None]) -> Engine:
        return Engine(loads, settings.limits(), observe=observe, changed=changed)

    signals = Signals()
    server = Server(settings, make_engine, credentials=credentials, logger=logger, announce=announce)
    try:
        await server.open()
        await server.race(server.load(), signals.first.wait())
        if not signals.first.is_set():
            announce(Serving())
            await server.race(signals.first.wait())
            await server.drain(signals.second)
            return 128 + signals.number if signals.second.is_set() else 0
        return 128 + signals.number
    finally:
        await server.close()
        signals.forget()


class Signals:
    """SIGINT and SIGTERM: the first asks the server to stop, the second to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    def forget(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    def _take(self, number: int) -> None:
        self.number = number
        (self.second if self.first.is_set() else self.first).set()


class Server:
    """Everything that one server process owns, from its ports to its engine."""

    def __init__(
        self,
        settings: Settings,
        make_engine: MakeEngine,
        *,
        credentials: Credentials,
        logger: FilteringBoundLogger,
        announce: Announce,
    ) -> None:
        self._settings = settings
        self._tls = credentials.tls
        self._announce = announce
        self._changed = asyncio.Event()
        self._metrics = Metrics(SERVICES)
        self._gate = Gate()
        self._health = Health()
        self._engine = make_engine(self._metrics.observe, self._changed.set)
        self._http = HttpPort(metrics=self._page, unready=self._unready)
        self._grpc = grpc.aio.server(
            interceptors=[
                Interceptor(
                    self._gate,
                    self._metrics,
                    logger,
                    tokens=credentials.tokens,
                    rates=rates(settings),
                    stall_seconds=settings.stall_seconds,
                    max_response_bytes=settings.max_response_bytes,
                    log_prompts=settings.log_prompts,
                )
            ],
            options=options(settings),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open both ports. Requests are refused and health says NOT_SERVING until the models are ready."""
        self._register()
        self._health.refresh(self._engine, draining=False)
        listening = Listening(
            grpc=self._bind(),
            metrics=await self._bind_http(),
            encrypted=self._tls is not None,
            asks_for_token=self._settings.token_file is not None,
        )
        await self._grpc.start()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._watch_lag())]
        self._announce(listening)

    async def load(self) -> None:
        """Start the engine and wait for its models; raises what is wrong with the first that cannot be had."""
        await self._engine.start()
        self._gate.open()
        self._changed.set()
        await self._engine.ready()
        self._health.refresh(self._engine, draining=False)

    async def race(self, *awaitables: Awaitable[object]) -> None:
        """Wait for the first of these, and stop waiting for the others. A watcher that breaks ends the wait too."""
        racing = [asyncio.ensure_future(each) for each in awaitables]
        try:
            done, _ = await asyncio.wait({*racing, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            await _cancelled(racing)

    async def drain(self, hurry: asyncio.Event) -> None:
        """Take nothing new, let what runs finish within the grace (or until hurried), and cut the rest."""
        self._gate.shut()
        self._health.refresh(self._engine, draining=True)
        grace = self._settings.grace_seconds
        self._announce(Stopping(num_running=len(self._gate.in_flight), grace_seconds=grace))
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self.race(self._gate.empty(), hurry.wait())
        self._gate.cut_the_rest()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEANUP_SECONDS):
                await self._gate.empty()
        await self._grpc.stop(FLUSH_SECONDS)
        self._announce(Stopped(num_finished=self._gate.finished, num_cut=self._gate.cut))

    async def close(self) -> None:
        """Give everything back; after a drain there is nothing left to hurt."""
        await _cancelled(self._tasks)
        await self._grpc.stop(0)
        await self._http.close()
        await self._engine.close()

    def _register(self) -> None:
        generation = GenerationService(
            self._engine,
            self._metrics,
            max_inputs=self._settings.max_inputs,
            max_response_bytes=self._settings.max_response_bytes,
        )
        embedding = EmbeddingService(
            self._engine,
            self._metrics,
            max_inputs=self._settings.max_inputs,
            max_response_bytes=self._settings.max_response_bytes,
        )
        models = ModelService(self._engine)
        tokenizer = TokenizerService(
            self._engine,
            max_inputs=self._settings.max_inputs,
            max_response_bytes=self._settings.max_response_bytes,
        )
        server = ServerService(self._engine, self._settings)
        services: list[tuple[Callable[..., None], object]] = [
            (generation_pb2_grpc.add_GenerationServiceServicer_to_server, generation),
            (embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server, embedding),
            (model_pb2_grpc.add_ModelServiceServicer_to_server, models),
            (tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server, tokenizer),
            (server_pb2_grpc.add_ServerServiceServicer_to_server, server),
            (health_pb2_grpc.add_HealthServicer_to_server, self._health),
        ]
        for add, service in services:
            add(service, self._grpc)
        if self._settings.reflects:
            add_reflection([*SERVICES, "grpc.health.v1.Health"], self._grpc)

    def _bind(self) -> Address:
        wanted = self._settings.listen
        check_free(wanted, "--listen")  # asked first: grpc's own refusal says neither why nor who
        try:
            if self._tls is None:
                port = self._grpc.add_insecure_port(str(wanted))
            else:
                port = self._grpc.add_secure_port(str(wanted), self._tls)
        except RuntimeError as error:
            raise CannotListen(f"cannot listen on {wanted}: {error}. Choose another with --listen.") from None
        return Address(wanted.host, port)

    async def _bind_http(self) -> Address:
        wanted = self._settings.metrics_listen
        try:
            return Address(wanted.host, await self._http.start(wanted.host, wanted.port))
        except OSError as error:
            raise cannot_listen(wanted, "--metrics-listen", error) from None

    def _page(self) -> bytes:
        return self._metrics.text(self._gate.in_flight)

    def _unready(self) -> list[str]:
        return unready(self._engine, draining=self._gate.draining)

    async def _follow(self) -> None:
        """After every change of the engine: health, metrics, and a word to whoever started us."""
        states: dict[str, str] = {}
        alive = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._health.refresh(self._engine, draining=self._gate.draining)
            self._metrics.observe_models(self._engine.cards())
            if alive and not self._engine.alive:
                self._announce(EngineDown())
            alive = self._engine.alive
            for card in self._engine.cards():
                if card.state != states.get(card.name) and card.state in ("ready", "failed"):
                    self._announce(ModelReady(card=card) if card.state == "ready" else ModelFailed(card=card))
                states[card.name] = card.state

    async def _watch_lag(self) -> None:
        while True:
            due = time.monotonic() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._metrics.observe_lag(max(0.0, time.monotonic() - due))


def options(settings: Settings) -> list[tuple[str, int]]:
    """How grpc treats connections: bounded sizes, pings of our own, and no second server on the same port."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", settings.max_response_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
        # Above this grpc itself refuses, with a bare RST_STREAM: far above what our own queue refuses with a reason.
        ("grpc.max_concurrent_streams", max(4096, 2 * settings.max_queue_requests)),
        # Our own queue refuses with a reason; these would drop calls of a burst with none.
        ("grpc.server.max_pending_requests", 100_000),
        ("grpc.server.max_pending_requests_hard_limit", 200_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def rates(settings: Settings) -> Rates:
    """What one client may ask."""

    def rate(per_second: float, burst: int, unit: str) -> Rate | None:
        return Rate(per_second=per_second, burst=burst or max(1.0, per_second), unit=unit) if per_second else None

    return Rates(
        requests=rate(settings.client_request_rate, settings.client_request_burst, "requests"),
        tokens=rate(settings.client_token_rate, settings.client_token_burst, "tokens"),
        max_streams=settings.client_streams,
    )


async def _cancelled(tasks: Sequence[asyncio.Future[object]] | Sequence[asyncio.Task[None]]) -> None:
    """Cancel these and wait until they are done; what they raised was seen where it mattered."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
