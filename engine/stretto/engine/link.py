"""
The way between the server process and the engine process: one socket pair, length-prefixed msgpack, no pickle.

A list of commands goes one way, a list of events the other (`frames.py`). The engine ends when the socket does: nobody
but the server process holds the other end.
"""

import asyncio
import importlib
import multiprocessing
import os
import socket
from collections.abc import AsyncIterator, Sequence
from multiprocessing.context import ForkServerProcess

import msgspec

from stretto.engine.config import Limits
from stretto.engine.frames import FRAME_BYTES, LENGTH, frames
from stretto.engine.messages import Command, Event

# How long torch's threads spin before they sleep. OpenMP's own 300,000 is no faster on an idle machine, and makes a
# step ten times slower as soon as one other process wants a core (docs/decisions/0005).
SPIN_COUNT = "4000"


def run_engine(end: socket.socket, limits: Limits) -> None:
    """What the engine process runs. The worker is loaded by name, so that this module loads no torch in the server."""
    importlib.import_module("stretto.engine.worker").serve(end, limits)


class Link:
    """The server process's end: an engine process and the socket to it. One event loop owns it."""

    def __init__(self, process: ForkServerProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[Event])

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @classmethod
    async def start(cls, limits: Limits) -> "Link":
        """Start an engine process. The fork server loads torch once, so that a second start takes milliseconds."""
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when the fork server loads torch
        ours, theirs = socket.socketpair()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stretto.engine.worker"])
        process = context.Process(target=run_engine, args=(theirs, limits), name="stretto-engine", daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=2 * FRAME_BYTES)
        return cls(process, reader, writer)

    def send(self, commands: Sequence[Command]) -> None:
        """Hand commands over without waiting, so that a handler that is being cancelled can still cancel.

        What may pile up is bounded by admission. An engine that is gone is told nothing: the end of `events` says so.
        """
        if not self._writer.is_closing():
            for frame in frames(commands, self._encoder):
                self._writer.write(frame)

    async def events(self) -> AsyncIterator[list[Event]]:
        """What the engine says, a frame at a time, until its process is gone."""
        try:
            while True:
                length = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))[0]
                yield self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def kill(self) -> None:
        """End the engine process though it may hear nothing; the end of `events` follows. `close` does it itself."""
        if not self._writer.is_closing():
            self._process.kill()

    async def close(self) -> int | None:
        """End the engine process (it ends at end-of-file) and return its exit code; kill it if it lingers."""
        self._writer.close()
        await asyncio.to_thread(self._process.join, 5)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        code = self._process.exitcode
        self._process.close()
        return code
