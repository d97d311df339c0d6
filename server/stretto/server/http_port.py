"""A plain HTTP port for machines: /metrics, /healthz and /readyz, and nothing else. Every wait and size is bounded."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

MAX_HEAD_BYTES = 8192
READ_SECONDS = 5.0
WRITE_SECONDS = 10.0
MAX_CONNECTIONS = 64

PLAIN = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    status: str
    body: bytes
    kind: str = PLAIN


class HttpPort:
    """Answers one request a connection. `metrics` gives the page; `unready` says why not, or nothing when ready."""

    def __init__(self, *, metrics: Callable[[], bytes], unready: Callable[[], list[str]]) -> None:
        self._metrics = metrics
        self._unready = unready
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and say on which port (for port 0, the one that was free)."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, and leave nobody who is connected waiting."""
        if self._server is not None:
            self._server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._serving.add(task)
        try:
            if len(self._serving) > MAX_CONNECTIONS:
                await _send(writer, Page(status="503 Service Unavailable", body=b"too many connections\n"), body=True)
            else:
                await self._exchange(reader, writer)
        except (ConnectionError, TimeoutError):
            pass  # whoever asked has gone, or does not read
        finally:
            self._serving.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        try:
            async with asyncio.timeout(READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            page = Page(status="408 Request Timeout", body=b"no whole request came\n")
        except asyncio.LimitOverrunError:
            page = Page(status="431 Request Header Fields Too Large", body=b"at most 8192 bytes of headers\n")
        except asyncio.IncompleteReadError:
            return
        else:
            method, page = self._answer(head)
        await _send(writer, page, body=method != "HEAD")

    def _answer(self, head: bytes) -> tuple[str, Page]:
        line = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(line) != 3 or not line[2].startswith("HTTP/1."):
            return "GET", Page(status="400 Bad Request", body=b"this port speaks HTTP/1.1\n")
        method, target, _ = line
        if method not in ("GET", "HEAD"):
            return method, Page(status="405 Method Not Allowed", body=b"GET and HEAD only\n")
        return method, self._page(target.partition("?")[0])

    def _page(self, path: str) -> Page:
        if path == "/metrics":
            return Page(status="200 OK", body=self._metrics(), kind=PROMETHEUS)
        if path == "/healthz":
            return Page(status="200 OK", body=b"alive\n")
        if path == "/readyz":
            reasons = self._unready()
            status = "503 Service Unavailable" if reasons else "200 OK"
            return Page(status=status, body="".join(f"{line}\n" for line in reasons or ["ready"]).encode())
        return Page(status="404 Not Found", body=b"/metrics, /healthz and /readyz are here\n")


async def _send(writer: asyncio.StreamWriter, page: Page, *, body: bool) -> None:
    head = (
        f"HTTP/1.1 {page.status}\r\nContent-Type: {page.kind}\r\nContent-Length: {len(page.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    async with asyncio.timeout(WRITE_SECONDS):
        writer.write(head.encode() + (page.body if body else b""))
        await writer.drain()
