"""exporter: serves the metrics by HTTP, on a unix socket or a TCP address. Edge.

    curl --unix-socket /run/denyspam/metrics.sock http://localhost/metrics
    curl http://127.0.0.1:9826/metrics

GET and HEAD of /metrics, one request a connection; anything else is told 404, 405 or 400. Who asks is not asked: the
text has no address and no user in it (metrics), so the socket is open to this host's users as loopback is. The settings
refuse an address that other hosts reach unless `metrics_remote = yes` says so.

Bounded against whoever connects: CONNECTIONS at once (more are closed unheard), and as many taken in a turn of the
loop, REQUEST bytes that must come within SECONDS, an answer that must be taken within SECONDS; a text is made at most
once in FRESH seconds, however many ask.
Written by hand: http.server would need a thread and has no bounds, and a web framework is more than two verbs need.

What keeps it from listening (a port in use) is the caller's to say and to try again; the daemon bans without it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from denyspam.metrics import TYPE
from denyspam.sockets import clear

CONNECTIONS = 16  # a scraper opens one
REQUEST = 8192  # bytes of a request's head; a scraper's has some hundred
SECONDS = 5.0
FRESH = 1.0
INDEX = b"denyspam: the metrics are at /metrics\n"


class Exporter:
    """Serves `text()` at `place`: "/path/of.sock" or (host, port)."""

    def __init__(self, place: str | tuple[str, int], text: Callable[[], Awaitable[str]]) -> None:
        self._place = place
        self._text = text
        self._server: asyncio.Server | None = None
        self._open = 0
        self._made = -FRESH
        self._body = b""
        self._making: asyncio.Task[str] | None = None

    def __str__(self) -> str:
        if isinstance(self._place, str):
            return self._place
        host, port = self._place
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def listening(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Raises OSError."""
        if isinstance(self._place, tuple):
            host, port = self._place
            self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST, backlog=CONNECTIONS)
            return
        clear(self._place)
        self._server = await asyncio.start_unix_server(self._serve, self._place, limit=REQUEST, backlog=CONNECTIONS)
        os.chmod(self._place, 0o666)  # noqa: S103 - see above: as open as loopback is

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if isinstance(self._place, str):
            with suppress(FileNotFoundError):
                os.unlink(self._place)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                writer.transport.set_write_buffer_limits(0)  # so that drain() waits until all of it is taken
                writer.write(await self._answer(reader))
                await asyncio.wait_for(writer.drain(), SECONDS)
                writer.close()
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.transport.abort()  # after a close() with nothing left to send it does nothing

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
        except asyncio.LimitOverrunError:
            return _response("431 Request Header Fields Too Large", b"")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", b"")
        if words[0] not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"", "Allow: GET, HEAD\r\n")
        path = words[1].partition(b"?")[0]
        if path not in (b"/metrics", b"/"):
            return _response("404 Not Found", b"")
        body = INDEX if path == b"/" else await self._fresh()
        return _response("200 OK", body, head_only=words[0] == b"HEAD")

    async def _fresh(self) -> bytes:
        """The text, no older than FRESH; made once for all who wait for it."""
        if time.monotonic() - self._made >= FRESH:
            if self._making is None or self._making.done():
                self._making = asyncio.ensure_future(self._text())
            self._body = (await asyncio.shield(self._making)).encode("utf-8", "replace")
            self._made = time.monotonic()
        return self._body


def _response(status: str, body: bytes, more: str = "", *, head_only: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\nCache-Control: no-store\r\n{more}\r\n"
    )
    return head.encode() + (b"" if head_only else body)
