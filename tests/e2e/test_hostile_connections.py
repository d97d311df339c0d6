"""Connections that break the rules of HTTP/2 or gRPC, written byte by byte: nobody else notices."""

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from stretto.client import Client
from stretto.v1 import generation_pb2

GENERATE = "/stretto.v1.GenerationService/Generate"
TEXT = generation_pb2.GenerateRequest(text="1, 2, 3, 4, 5,").SerializeToString()

pytestmark = pytest.mark.usefixtures("unharmed")


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    """A frame of HTTP/2, by hand: no client library sends what is sent here."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(stream: int = 1, **changed: str) -> bytes:
    """The headers of a call to Generate, each spelt out."""
    plain = {
        ":method": "POST",
        ":scheme": "http",
        ":path": GENERATE,
        ":authority": "a",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    said = plain | {name.replace("_", "-"): value for name, value in changed.items()}
    fields = (b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in said.items())
    return frame(HEADERS, END_HEADERS, b"".join(fields), stream)


def message(data: bytes, *, size: int | None = None, compressed: int = 0) -> bytes:
    return bytes([compressed]) + struct.pack(">I", len(data) if size is None else size) + data


DATA, HEADERS, RESET, END, END_HEADERS = 0, 1, 3, 1, 4
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b"", 0)
CANCEL = frame(RESET, 0, struct.pack(">I", 8))
RAW: dict[str, tuple[bytes, bytes]] = {
    "compressed garbage": (
        HELLO + headers(grpc_encoding="gzip") + frame(DATA, END, message(b"garbage", compressed=1)),
        b"Decompression failed",
    ),
    "an encoding that is none": (
        HELLO + headers(grpc_encoding="lzma") + frame(DATA, END, message(TEXT, compressed=1)),
        b"grpc-encoding",
    ),
    "compressed without saying how": (
        HELLO + headers() + frame(DATA, END, message(TEXT, compressed=1)),
        b"no encoding configured",
    ),
    "a deadline that is none": (
        HELLO + headers(grpc_timeout="soon") + frame(DATA, END, message(TEXT)),
        b"grpc-timeout",
    ),
    "a message of four gigabytes": (
        HELLO + headers() + frame(DATA, 0, message(b"abc", size=2**32 - 1)),
        b"larger than max",
    ),
    "headers that are no HPACK": (HELLO + frame(HEADERS, END_HEADERS, b"\xff" * 50), b"Failed parsing HTTP/2"),
    "another content type": (HELLO + headers(content_type="text/html") + frame(DATA, END, b"<html>"), b""),
    "half a message and silence": (HELLO + headers() + frame(DATA, 0, message(TEXT, size=1000)), b""),
    "half a message and the end": (HELLO + headers() + frame(DATA, END, message(TEXT, size=1000)), b""),
    "headers and silence": (HELLO + headers(), b""),
    "a reset before the message": (HELLO + headers() + CANCEL, b""),
    "a reset in the middle": (HELLO + headers() + frame(DATA, 0, message(TEXT, size=1000)) + CANCEL, b""),
    "a reset of what runs": (HELLO + headers() + frame(DATA, END, message(TEXT)) + CANCEL, b""),
    "a frame of 16 MB": (HELLO + b"\xff\xff\xff\0\0\0\0\0\1", b""),
    "data for no stream": (HELLO + frame(DATA, END, message(TEXT)), b""),
    "5,000 empty settings": (HELLO + frame(4, 0, b"", 0) * 5000, b""),
    "HTTP/1.1": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "a hello of TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), b""),
    "noise": (b"\xff\0" * 500, b""),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("sent", "answer"), RAW.values(), ids=RAW)
def test_what_no_library_would_send_leaves_everybody_else_alone(
    server: Any, client: Client, sent: bytes, answer: bytes
) -> None:
    host, _, port = server.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        while answer not in received and (part := connection.recv(65536)):
            received += part
        assert answer in received
        client.models()
    client.models()


def test_a_thousand_calls_that_are_reset_at_once_leave_nothing_running(server: Any) -> None:
    host, _, port = server.target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(HELLO)
        for stream in range(1, 2001, 2):
            reset = frame(RESET, 0, struct.pack(">I", 8), stream)
            connection.sendall(headers(stream) + frame(DATA, END, message(TEXT), stream) + reset)
