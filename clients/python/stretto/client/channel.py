"""Where a client connects and how the connection behaves: target, credentials, keepalive, retries, sizes."""

import json
import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from stretto.client.errors import invalid

DEFAULT_TARGET = "127.0.0.1:50051"
MAX_MESSAGE_BYTES = 64 << 20
SERVICES = ("GenerationService", "EmbeddingService", "TokenizerService", "ModelService", "ServerService")

# Retried: what no server has begun, and what has no side effects. A server sends its headers when it admits a Generate
# or opens a stream, and grpc never retries after headers; of Embed and Score they come with the answer. CANCELLED is
# what a server that is just stopping says to a call that it has not taken yet.
# RESOURCE_EXHAUSTED is not retried: who asks a full queue again makes it fuller; the caller gets `retry_after`.
# retryThrottling is the retry budget: after fifty failures more than a tenth of the successes retries stop.
# Where a name has several addresses, calls take turns, so that a retry asks another server than the one that stops.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": f"stretto.v1.{service}"} for service in SERVICES],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
)
MAX_PORT = 65535
GRPC_FORM = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds|passthrough):")
METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
METADATA_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Everything that the two kinds of channel are made from."""

    target: str
    timeout: float
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...] = field(repr=False)  # holds the token

    def open(self) -> grpc.Channel:
        if self.credentials is None:
            return grpc.insecure_channel(self.target, OPTIONS)
        return grpc.secure_channel(self.target, self.credentials, OPTIONS)

    def open_async(self) -> grpc.aio.Channel:
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, OPTIONS)
        return grpc.aio.secure_channel(self.target, self.credentials, OPTIONS)


def connection(
    target: str | None,
    *,
    timeout: float,
    token: str | None,
    tls: bool,
    root_certificates: Path | str | None,
    metadata: Mapping[str, str] | None,
) -> Connection:
    """Refuses here what grpc would only refuse in the middle of a call."""
    return Connection(
        target=_target(target or os.environ.get("STRETTO_TARGET") or DEFAULT_TARGET),
        timeout=checked_timeout(timeout),
        credentials=_credentials(tls, root_certificates),
        metadata=tuple(_metadata(token, metadata or {})),
    )


def _target(target: str) -> str:
    """HOST:PORT, or one of grpc's own forms (dns:///name:port, ipv4:address:port,address:port, unix:path)."""
    host, _, port = target.rpartition(":")
    # grpc itself takes any number, and calls port 34463 for 99999.
    is_address = bool(host) and "/" not in host and port.isascii() and port.isdigit() and 0 < int(port) <= MAX_PORT
    if not (is_address or GRPC_FORM.match(target)):
        raise invalid(
            f"target must be HOST:PORT, as in {DEFAULT_TARGET}, with a port of 1 to {MAX_PORT}; got {target!r}.",
            "target",
        )
    return target


def checked_timeout(timeout: float) -> float:
    """Seconds; a call without an end is refused."""
    if not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        raise invalid(f"timeout must be a positive number of seconds; got {timeout!r}.", "timeout")
    return float(timeout)


def _credentials(tls: bool, root_certificates: Path | str | None) -> grpc.ChannelCredentials | None:
    if not tls and root_certificates is None:
        return None
    return grpc.ssl_channel_credentials(None if root_certificates is None else _roots(Path(root_certificates)))


def _roots(file: Path) -> bytes:
    """grpc says of a file without certificates only that a handshake failed."""
    data = file.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise invalid(
            f"root_certificates must be a file of certificates in PEM; {file} is none.", "root_certificates"
        ) from None
    return data


def _metadata(token: str | None, metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs = list(metadata.items())
    for key, value in pairs:
        if not METADATA_KEY.fullmatch(key) or key.startswith("grpc-") or key.endswith("-bin"):
            raise invalid(
                f"metadata key {key!r} is not allowed: lower-case letters, digits, '_', '.' and '-' only, "
                "no 'grpc-' in front, no '-bin' at the end.",
                "metadata",
            )
        if not METADATA_VALUE.fullmatch(value):
            raise invalid(f"metadata value of {key!r} holds something else than printable ASCII.", "metadata")
    if token is not None:
        if not token or not METADATA_VALUE.fullmatch(token):
            raise invalid("token is empty or holds something else than printable ASCII.", "token")
        pairs.append(("authorization", f"Bearer {token}"))
    return pairs
