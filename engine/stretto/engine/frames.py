"""
How messages cross a socket: as length-prefixed msgpack, in frames of bounded size.

A frame is four bytes of length, little-endian, and that many bytes: a list of messages. It stays under FRAME_BYTES, so
that no pile of vectors delays a token for long; one message that is larger (a vector of each token) has its own.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

FRAME_BYTES = 1 << 20
LENGTH = struct.Struct("<I")

T = TypeVar("T")


def frames(messages: Sequence[T], encoder: msgspec.msgpack.Encoder) -> Iterator[bytes]:
    """The messages as frames; a pile that is too large for one frame is halved until it fits."""
    body = encoder.encode(messages)
    if len(body) > FRAME_BYTES and len(messages) > 1:
        middle = len(messages) // 2
        yield from frames(messages[:middle], encoder)
        yield from frames(messages[middle:], encoder)
    else:
        yield LENGTH.pack(len(body)) + body


def read_frame(source: socket.socket) -> bytes | None:
    """The next frame's body, blocking; None when the other end is gone, with or without a goodbye."""
    head = _read_exactly(source, LENGTH.size)
    return None if head is None else _read_exactly(source, LENGTH.unpack(head)[0])


def _read_exactly(source: socket.socket, count: int) -> bytes | None:
    parts, missing = list[bytes](), count
    while missing:
        try:
            part = source.recv(min(missing, FRAME_BYTES))
        except ConnectionError:  # it closed without reading what was on its way to it
            return None
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
