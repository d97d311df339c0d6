"""ServerService: what this server is and what it allows. It answers before the models are ready, and to the last."""

import importlib.metadata
import time
from datetime import timedelta

from stretto.engine.core import Engine
from stretto.server.call import Call
from stretto.server.settings import Settings
from stretto.v1 import server_pb2 as pb
from stretto.v1 import server_pb2_grpc as rpc

API_VERSIONS = ("stretto.v1",)


class ServerService(rpc.ServerServiceServicer):
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._started = time.monotonic()
        self._version = importlib.metadata.version("stretto")  # read from the disk

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, call: Call) -> pb.GetServerInfoResponse:
        settings, limits = self._settings, self._settings.limits()
        ready = [card for card in self._engine.cards() if card.state == "ready"]
        return pb.GetServerInfoResponse(
            version=self._version,
            api_versions=API_VERSIONS,
            uptime=timedelta(seconds=time.monotonic() - self._started),
            max_request_bytes=settings.max_request_bytes,
            max_response_bytes=settings.max_response_bytes,
            max_inputs_per_request=settings.max_inputs,
            max_queue_size=settings.max_queue_requests,
            max_batch_tokens=limits.step_tokens,
            device="; ".join(sorted({card.device for card in ready})),
            cpu_threads=max((card.threads for card in ready), default=settings.threads),
            kernels="; ".join(sorted({card.kernels for card in ready})),
        )
