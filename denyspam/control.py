"""control: the unix socket between the daemon and its commands. One JSON object each way, one line each.

The kernel says who asks (SO_PEERCRED): root, the daemon's own user, and the members of one configured group; nobody
else is read from. Bounded: a request's length and its items, the time that it and the answer may take, the connections
at once and what is kept of them all together. Where there are too many the oldest is let go, where they are too large
the oldest of the large ones: whoever holds connections open or fills them keeps nobody from being answered.
"""

from __future__ import annotations

import grp
import json
import math
import os
import pwd
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from denyspam.sockets import clear

if TYPE_CHECKING:  # who merely asks needs it not, and should be quick
    import asyncio

REQUEST = 16 << 20  # bytes: a batch of 500,000 addresses
ITEMS = 1_000_000  # commas and opening brackets of a request: 16 MB of `{},` would become 340 MB of objects
SECONDS = 10.0  # for a request to arrive
ANSWER = 60.0  # for a slow reader to take the answer
CONNECTIONS = 128
# Taken at a time. Who has sent his request is read from some three turns of the loop later, and must still be there.
BACKLOG = 16
TIMEVAL = struct.Struct("@ll")
SMALL = 65536  # bytes; what a peer may make us keep at any time
HELD = 32 << 20  # bytes of requests and answers under way at once, but that one may always be as large as it is
LONGEST = 64 << 20  # bytes of an answer that inquire() takes: it asks for nothing of that length
PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred, unix(7)

_REFUSED = "not permitted to speak to {path}: run as root, or join the group of [daemon] group"
Handler = Callable[[dict[str, Any], str], Awaitable[dict[str, Any]]]


class Unreachable(Exception):
    """No daemon answers at the socket."""


class Forbidden(Exception):
    """The daemon, or the socket's mode, keeps this user out."""


def obstacle(path: str, *, written: bool = True) -> str | None:
    """Why no socket can be made at this path, as far as can be told without making one; None where one can.

    Not `written`: whoever asks is not who will make it.
    """
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "another file is there, which is no socket"
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return f"{folder} is no folder"
    return None if not written or os.access(folder, os.W_OK | os.X_OK) else f"not permitted to write to {folder}"


class Server:
    """Answers requests with the handler of the latest start(), `handler(request, user)`, which returns the answer."""

    def __init__(self) -> None:
        import asyncio

        self._path = ""
        self._group: str | None = None
        self._handler: Handler | None = None
        self._handled = asyncio.Event()  # there is one
        self._server: asyncio.Server | None = None
        self._peers: dict[asyncio.StreamWriter, int] = {}  # the oldest first: bytes kept for each

    async def start(self, path: str, group: str | None, handler: Handler) -> None:
        """Listen, or go on listening after a pause(). Raises OSError."""
        import asyncio

        if (path, group) != (self._path, self._group) or not os.path.exists(path):
            await self.stop()
        self._handler = handler
        self._handled.set()
        if self._server is not None:
            return
        self._path, self._group = path, group
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        clear(path)
        mask = os.umask(0o177)  # never open to all, not even for a moment
        try:
            self._server = await asyncio.start_unix_server(self._serve, path, limit=SMALL, backlog=BACKLOG)
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
            os.chmod(path, 0o660)

    def pause(self) -> None:
        """Requests wait for the next start()."""
        self._handler = None
        self._handled.clear()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            if os.path.exists(self._path):
                os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncio

        self._peers[writer] = 0
        if len(self._peers) > CONNECTIONS:
            self._let_go(next(iter(self._peers)))
        try:
            user = self._user(writer)
            if user is None:
                writer.write(_line({"error": "not permitted", "code": 77}))
                return
            line = await self._answer(reader, writer, user)
            if line is not None:
                self._keep(writer, len(line))
                writer.write(line)
                del line  # what is left of it waits in the writer
                await asyncio.wait_for(writer.drain(), ANSWER)
        except asyncio.TimeoutError:  # before OSError, which it is one of since Python 3.11
            writer.transport.abort()  # close() would wait for it to read
        except OSError:
            pass
        finally:
            self._peers.pop(writer, None)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> bytes | None:
        """As it is sent: its objects, ten times as large, are gone while it waits to be read."""
        import asyncio

        try:
            line = await asyncio.wait_for(self._request(reader, writer), SECONDS)
            if sum(map(line.count, (b",", b"[", b"{"))) > ITEMS:
                return _line({"error": f"more than {ITEMS:,} items in one request", "code": 2})
            request = json.loads(line) if line else None
        except (ValueError, RecursionError):
            return _line({"error": "not one line of JSON", "code": 2})
        if request is None:
            return None
        if not isinstance(request, dict):
            return _line({"error": "not a JSON object", "code": 2})
        while (handler := self._handler) is None:
            await self._handled.wait()
        return _line(await handler(request, user))

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The first line. ValueError where it is too long, OSError where the peer was let go."""
        line = bytearray()
        try:
            while chunk := await reader.read(SMALL):
                end = chunk.find(b"\n") + 1
                line += chunk[:end] if end else chunk
                self._keep(writer, len(line))
                if len(line) > REQUEST:
                    raise ValueError(f"a request of more than {REQUEST} bytes")
                if end:
                    break
            return bytes(line)
        finally:
            line.clear()  # an exception of a task keeps this frame, until Python looks for cycles

    def _keep(self, writer: asyncio.StreamWriter, size: int) -> None:
        """So many bytes are kept for this one: where all are too many, the oldest others that are large go."""
        if writer not in self._peers:
            raise ConnectionAbortedError
        self._peers[writer] = size
        if size > SMALL and sum(self._peers.values()) > HELD:
            for other in [one for one, kept in self._peers.items() if kept > SMALL and one is not writer]:
                self._let_go(other)
                if sum(self._peers.values()) <= HELD:
                    return

    def _let_go(self, writer: asyncio.StreamWriter) -> None:
        del self._peers[writer]
        writer.transport.abort()

    def _user(self, writer: asyncio.StreamWriter) -> str | None:
        """The peer's name where it may speak, else None."""
        peer = writer.get_extra_info("socket")
        _, uid, gid = PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            name = str(uid)
        if uid in (0, os.geteuid()):
            return name
        if self._group is None:
            return None
        try:
            wanted = grp.getgrnam(self._group).gr_gid
            allowed = wanted == gid or wanted in os.getgrouplist(name, gid)
        except (KeyError, OSError):
            return None
        return name if allowed else None


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def ask(path: str, request: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    """The daemon's answer. Raises Unreachable, Forbidden."""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            # The kernel keeps those in order who wait to be taken; with a timeout of Python's there is no waiting.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIMEVAL.pack(math.ceil(seconds), 0))
            peer.connect(path)
            peer.settimeout(seconds)
            with suppress(BrokenPipeError):  # refused unread: the reason can still be read
                peer.sendall(_line(request))
            with peer.makefile("rb") as stream:
                line = stream.readline()
    except OSError as error:
        raise _failure(path, error) from error
    return _answer(path, line)


async def inquire(path: str, request: dict[str, Any], seconds: float = 60.0) -> dict[str, Any]:
    """ask(), for those who have something else to do meanwhile. Raises Unreachable, Forbidden."""
    import asyncio

    writer = None
    try:
        opening = asyncio.open_unix_connection(path, limit=LONGEST)
        reader, writer = await asyncio.wait_for(opening, seconds)
        writer.write(_line(request))
        line = await asyncio.wait_for(reader.readline(), seconds)
    except (OSError, ValueError, asyncio.TimeoutError) as error:
        raise _failure(path, error) from error
    finally:
        if writer is not None:
            writer.close()
    return _answer(path, line)


def _failure(path: str, error: Exception) -> Unreachable | Forbidden:
    if isinstance(error, PermissionError):
        return Forbidden(_REFUSED.format(path=path))
    reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
    return Unreachable(f"denyspam does not answer at {path}: {reason}")


def _answer(path: str, line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise Unreachable(f"denyspam closed the connection at {path} without an answer")
    answer: dict[str, Any] = json.loads(line)
    if answer.get("code") == 77:
        raise Forbidden(_REFUSED.format(path=path))
    return answer
