"""grpc_server_*: each call of Stretto's own services counted by method and status, as gRPC's dashboards expect it."""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from prometheus_client import CollectorRegistry

from stretto.server.instruments import RpcInstruments

# By (client streams, server streams).
TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class RpcCounts:
    """The methods are known from the protos, so that each series is there before its first call.

    A path of any other service, or one that a client made up, is not counted.
    """

    def __init__(self, registry: CollectorRegistry, services: Sequence[str]) -> None:
        self._instruments = RpcInstruments(registry)
        self._labels: dict[str, dict[str, str]] = {}
        for service in services:
            for method in descriptor_pool.Default().FindServiceByName(service).methods:
                labels = self._labels[f"/{service}/{method.name}"] = _labels(service, method)
                self._instruments.expect(**labels)
                for code in grpc.StatusCode:
                    self._instruments.expect(**labels, grpc_code=_code(code.name))

    def begun(self, path: str) -> None:
        if path in self._labels:
            self._instruments.started.labels(**self._labels[path]).inc()

    def ended(self, path: str, code: str) -> None:
        if path in self._labels:
            self._instruments.handled.labels(**self._labels[path], grpc_code=_code(code)).inc()


def _labels(service: str, method: MethodDescriptor) -> dict[str, str]:
    kind = TYPES[method.client_streaming, method.server_streaming]
    return {"grpc_type": kind, "grpc_service": service, "grpc_method": method.name}


def _code(name: str) -> str:
    """A status as Go writes it: InvalidArgument, and two that follow no rule."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(name) or name.title().replace("_", "")
