"""web: what `top` shows, as a page in a browser, on loopback or a unix socket. Edge.

    GET  /                     the page; it holds no data, only its script asks for some
    GET  /api/snapshot         the daemon's answer to `top`; `match` as there
    GET  /api/why?address=…    its answer to `why`
    POST /api/ban, /api/release, /api/token      {"address", "seconds", "note", "grace"}; with the token alone

Who may read: whoever reaches the place listened at. On loopback that is every user of this host; `private` asks for the
token before anything is told, and so does a place that other hosts reach. Who may ban and release: who has the token, a
file of mode 0600. It is sent as `Authorization: Bearer …` and kept by the page in its tab's memory: there is no cookie,
so no other page, and no other port of this host, can act in the reader's name. A Host that is not ours is refused (DNS
rebinding), and so is an Origin.

What strangers wrote reaches the page as JSON and stands there as text; the policy of the page (CSP) allows no script
but its own file, and no request but to here. Bounded: CONNECTIONS at once (one more ends the oldest that asks for
nothing), each for LIFE seconds at most, HEAD and BODY bytes of a request, ASKING questions to the daemon at a time; a
slow reader holds a connection, and nothing else.
It decides nothing, and needs no privilege but to speak to the control socket.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from denyspam import control
from denyspam.sockets import clear

CONNECTIONS = 256
LIFE = 60.0  # seconds
WAIT = 10.0  # seconds for the first request of a connection
HEAD = 16_384  # bytes of a request's head
BODY = 4_096  # and of its body
ASKING = 8
ROWS = 200  # of each list
PATIENCE = 10.0  # seconds for the daemon's answer
SHORTEST = 16  # characters of a token
TOKEN = re.compile(r"[!-~]+")
FILES = {
    "/": ("web.html", "text/html; charset=utf-8"),
    "/web.css": ("web.css", "text/css; charset=utf-8"),
    "/report.css": ("report.css", "text/css; charset=utf-8"),
    "/web.js": ("web.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]


class Unusable(Exception):
    """The page cannot be served so: why, and what to write instead."""


@dataclass(frozen=True)
class Place:
    """Where to listen: a unix socket's path, or an address and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def place(text: str, public: bool) -> Place:
    """What --listen says: PATH, ADDRESS:PORT or [ADDRESS]:PORT. Raises Unusable."""
    if text.startswith("/"):
        return Place(path=text)
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|localhost)):(\d{1,5})", text)
    try:
        if found is None:
            raise ValueError
        host = "127.0.0.1" if found[2] == "localhost" else found[1] or found[2]
        address, port = ipaddress.ip_address(host), int(found[3])
        if port > 65_535:
            raise ValueError
    except ValueError:
        raise Unusable(f"{text[:100]!r} is no place: write 127.0.0.1:8025, [::1]:8025, or a path from /") from None
    if not address.is_loopback and not public:
        raise Unusable(f"other hosts reach {host}: --public says that this is meant, and asks everybody for the token")
    return Place(host=str(address), port=port)


def names(at: Place, more: Sequence[str]) -> frozenset[str] | None:
    """What a Host may be, without its port; None for anything."""
    if at.path is not None:
        return frozenset(one.lower() for one in more) or None
    own = f"[{at.host}]" if ":" in at.host else at.host
    return frozenset({own, "localhost", "127.0.0.1", "[::1]", *(one.lower() for one in more)})


def listen(at: Place) -> socket.socket:
    """Raises Unusable."""
    try:
        if at.path is None:
            return socket.create_server((at.host, at.port), family=_family(at.host), backlog=CONNECTIONS)
        clear(at.path)
        server = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o117)  # its user and group, such as the web server in front
        try:
            server.bind(at.path)
        finally:
            os.umask(mask)
        server.listen(CONNECTIONS)
        return server
    except OSError as error:
        raise Unusable(
            f"cannot listen at {at}: {(error.strerror or '').partition(' (')[0]}; --listen names another place"
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def token(path: str | None) -> tuple[str, str]:
    """(the token, its file). That of the file named, which is made where it is missing; without a name a new one in the
    user's folder of runtime files. Raises Unusable."""
    fresh = path is None
    if path is None:
        folder = os.environ.get("RUNTIME_DIRECTORY") or os.environ.get("XDG_RUNTIME_DIR")
        folder = folder or ("/run" if os.geteuid() == 0 else None)
        if folder is None:
            raise Unusable("there is no folder for the token here: name one with --token-file, or say --read-only")
        path = os.path.join(folder, "denyspam-web.token")
    try:
        if fresh:
            with suppress(FileNotFoundError):
                os.unlink(path)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _kept(path), path
        with os.fdopen(handle, "w", encoding="ascii") as file:
            made = secrets.token_urlsafe(32)
            file.write(f"{made}\n")
        return made, path
    except OSError as error:
        raise Unusable(f"the token's file {path}: {error.strerror}") from error


def _kept(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077:
            raise Unusable(f"others may read the token in {path}: chmod 600 {path}")
        found = file.read(1000).strip()
    if len(found) < SHORTEST or not TOKEN.fullmatch(found):
        raise Unusable(f"the token in {path} must be {SHORTEST} visible letters at least, and one line")
    return found


# --- the answers ------------------------------------------------------------------------------------------------------


class Page:
    """The application. `secret` is the token (None: nobody acts), `private` whether reading takes it too, `names` what
    a Host may be (None: anything, as on a unix socket, which no browser reaches by itself)."""

    def __init__(
        self,
        daemon: str,
        secret: str | None,
        *,
        private: bool = False,
        names: frozenset[str] | None = None,
        peers: tuple[str, ...] = (),
    ) -> None:
        self._daemon, self._secret, self._private, self._names, self._peers = daemon, secret, private, names, peers
        self._asking = asyncio.Semaphore(ASKING)
        folder = files("denyspam.etc")
        self._files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
        self._app = Starlette(
            routes=[
                *(Route(path, self._file) for path in FILES),
                Route("/api/snapshot", self._snapshot),
                Route("/api/why", self._why),
                *(Route(f"/api/{name}", self._act, methods=["POST"]) for name in ("ban", "release", "token")),
            ],
            exception_handlers={404: _nothing, 405: _nothing},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Scope) -> None:
            if message["type"] == "http.response.start":
                more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        if scope["type"] != "http":
            return
        if not self._ours(Request(scope)):
            refusal = _told("this name is not the page's own; --name adds one", 421)
            await refusal(scope, receive, headed)
            return
        await self._app(scope, receive, headed)

    def _ours(self, request: Request) -> bool:
        """Whether it was asked for by a name of ours."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1:
            return False
        return self._names is None or re.sub(r":\d+$", "", hosts[0].lower()) in self._names

    async def _file(self, request: Request) -> Response:
        data, kind = self._files[request.url.path]
        return Response(data, media_type=kind)

    async def _snapshot(self, request: Request) -> Response:
        if self._private and not self._known(request):
            return _told("the token, please", 401)
        match = request.query_params.get("match", "")[:100]
        answer = await self._ask({"command": "top", "match": match, "most": ROWS})
        if "ok" in answer:
            answer["ok"]["may"] = {"act": self._secret is not None, "known": self._known(request)}
        return _json(answer)

    async def _why(self, request: Request) -> Response:
        if self._private and not self._known(request):
            return _told("the token, please", 401)
        address = request.query_params.get("address", "")[:100].partition("/")[0]
        return _json(await self._ask({"command": "why", "address": address}))

    async def _act(self, request: Request) -> Response:
        verb = request.url.path.rpartition("/")[2]
        if self._secret is None:
            return _told("this page is for reading only", 403)
        if not _from_here(request):
            return _told("only the page itself may ask this", 403)
        if not self._known(request):
            return _told("this is not the token", 401)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _told("JSON is wanted", 415)
        body = await _body(request)
        if body is None:
            return _told("too long", 413)
        try:
            found = json.loads(body)
            if not isinstance(found, dict):
                raise ValueError
        except (ValueError, RecursionError):
            return _told("not a JSON object", 400)
        if verb == "token":
            return _json({"ok": True})
        address, note = str(found.get("address", ""))[:100].strip(), str(found.get("note") or "")[:1000]
        asked: dict[str, Any] = {"command": verb, "addresses": [address], "note": note}
        if verb == "ban":
            asked.update(seconds=found.get("seconds"), sessions=list(self._peers))
        elif found.get("grace") is not None:
            asked["grace"] = found["grace"]
        return _json(await self._ask(asked))

    def _known(self, request: Request) -> bool:
        """Whether the request has the token."""
        if self._secret is None:
            return False
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._secret.encode())
        return same and scheme.lower() == "bearer"

    async def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        async with self._asking:
            try:
                return await control.inquire(self._daemon, asked, PATIENCE)
            except (control.Unreachable, control.Forbidden) as error:
                return {"error": str(error), "code": 69}


def _from_here(request: Request) -> bool:
    """Whether no other page had the browser ask: a browser always tells, a script of the admin's never does."""
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return False
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


async def _body(request: Request) -> bytes | None:
    """At most BODY bytes of it; None where there are more."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY:
            return None
    return body


def _json(answer: dict[str, Any]) -> Response:
    codes = {2: 400, 69: 503, 77: 503}
    return JSONResponse(answer, 200 if "error" not in answer else codes.get(answer.get("code", 69), 503))


def _told(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


async def _nothing(_: Request, error: Exception) -> Response:
    return _told("there is nothing here", getattr(error, "status_code", 404))


# --- serving ----------------------------------------------------------------------------------------------------------


class Bounded(H11Protocol):
    """A connection that ends after LIFE seconds, whatever its peer does, and after WAIT where nothing was asked. One
    too many ends the oldest, first of those that ask for nothing: whoever holds connections open keeps nobody out."""

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= CONNECTIONS:
            oldest: Any = min(self.connections, key=lambda each: (not each._idle(), each._began))  # type: ignore[union-attr]
            self.connections.discard(oldest)  # it is told of its end later
            oldest.transport.abort()
        super().connection_made(transport)
        self._began = self.loop.time()
        self._ends = [self.loop.call_later(WAIT, self._waited), self.loop.call_later(LIFE, transport.abort)]

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _waited(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for each in self._ends:
            each.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """Ends with 0 at SIGTERM and SIGINT, as the daemon does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def run(page: Page, server: socket.socket) -> None:
    """Serves the page until SIGTERM."""
    config = uvicorn.Config(
        page,
        http=Bounded,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=2 * CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD,
    )
    asyncio.run(Server(config).serve(sockets=[server]))
