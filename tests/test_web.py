"""The live page against a real daemon: who may read and act, hostile peers and texts, and a real browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from browser import browsing
from live import PATIENCE, Live, live, relay, until, viruses
from netns import CLIENTS4, Network

from denyspam import web

SENDER, OTHER = CLIENTS4[0], CLIENTS4[1]
HOSTILE = "<img/src=x onerror=alert(1)>\x1b[2J\u202e"
ACTING = {"Content-Type": "application/json"}

pytestmark = pytest.mark.root


class Served:
    """A `denyspam web`, beside a daemon that bans SENDER."""

    def __init__(self, daemon: Live, *words: str, port: int | None = None) -> None:
        self.daemon = daemon
        self.port = port or free()
        self.errors = daemon.folder / f"web{self.port}"
        where = () if "--listen" in words else ("--listen", f"127.0.0.1:{self.port}")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*live_command(daemon), "web", *where, *words, "-c", str(daemon.conf)], stderr=errors
            )
        until(lambda: self.process.poll() is not None or "the page is at" in self.errors.read_text(), "the page")

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    @property
    def token(self) -> str:
        found = re.search(r"the token is in (.*)", self.errors.read_text())
        assert found
        return Path(found[1]).read_text().strip()

    def request(self, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
        """(status, headers, body)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = json.dumps(body).encode() if body is not None else None
        connection.request(verb, path, data, sent)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        return answer.status, dict(answer.headers), json.loads(text) if "json" in kind else text.decode()

    def act(self, what: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, _, found = self.request("POST", f"/api/{what}", body, **{**ACTING, **headers})
        return status, found

    @property
    def known(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


def live_command(daemon: Live) -> list[str]:
    """Not in the namespace: the page listens on this host's loopback."""
    return daemon.command()[len(daemon.namespace.prefix if daemon.namespace else ()) : -2]


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from netns import skipping

    folder = tmp_path_factory.mktemp("web")
    for network in skipping(Network(ports=())):
        with live(folder, network.server) as made:
            made.start()
            made.write(viruses(SENDER, 5))
            made.write([relay(OTHER, time.time()).replace("<x@y.example>", f"<{HOSTILE}>") for _ in range(3)])
            until(lambda: made.banned() == [SENDER], "the ban")
            yield made


@pytest.fixture(scope="module")
def page(daemon: Live) -> Iterator[Served]:
    served = Served(daemon, "--token-file", str(daemon.folder / "token"))
    yield served
    if served.process.poll() is None:
        served.stop()


# --- reading


def test_the_page_has_no_data_and_asks_nobody_else(page: Served) -> None:
    status, headers, text = page.request("GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert not re.search(r"https?://|\son\w+=|style=|<script>", text)
    assert SENDER not in text
    for path in re.findall(r'(?:href|src)="(?!data:)([^"#]+)"', text):
        status, headers, found = page.request("GET", f"/{path}")
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        assert "http://" not in found.replace("http://www.w3.org/2000/svg", "")


def test_everybody_reads(page: Served, daemon: Live) -> None:
    status, headers, found = page.request("GET", "/api/snapshot?most=x")
    assert status == 200
    assert headers["content-type"] == "application/json"
    assert [ban["address"] for ban in found["ok"]["bans"]] == [SENDER]
    assert [hot["address"] for hot in found["ok"]["hot"]] == [OTHER]
    assert found["ok"]["may"] == {"act": True, "known": False}
    assert page.request("GET", f"/api/snapshot?match={OTHER}")[2]["ok"]["bans"] == []
    assert page.request("GET", f"/api/why?address={OTHER}")[2]["ok"]["seen"][0]["text"].count(HOSTILE) == 1
    assert page.request("GET", "/api/why?address=nobody")[0] == 400
    assert page.request("GET", "/nothing")[0] == 404
    assert page.request("GET", "/../etc/passwd")[0] == 404
    assert page.request("PUT", "/")[0] == 405
    assert page.request("GET", "/api/ban")[0] == 405


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "evil.example:8025", "[::2]"])
def test_another_name_is_refused(page: Served, host: str) -> None:
    for path in ("/", "/api/snapshot"):
        assert page.request("GET", path, Host=host)[0] == 421
    assert page.act("ban", {"address": "203.0.113.50"}, Host=host, **page.known)[0] == 421


def test_our_names_are_taken(page: Served) -> None:
    for host in ("localhost", "127.0.0.1", f"LOCALHOST:{page.port}", "[::1]:1"):
        assert page.request("GET", "/api/snapshot", Host=host)[0] == 200


# --- acting


def test_the_token_bans_and_releases(page: Served, daemon: Live) -> None:
    assert oct((daemon.folder / "token").stat().st_mode & 0o777) == "0o600"
    status, found = page.act("ban", {"address": "203.0.113.7", "seconds": 600, "note": HOSTILE}, **page.known)
    assert status == 200
    assert [ban["address"] for ban in found["ok"]["banned"]] == ["203.0.113.7"]
    assert "203.0.113.7" in daemon.held()
    status, found = page.act("release", {"address": "203.0.113.7", "grace": 60}, **page.known)
    assert found["ok"]["released"] == ["203.0.113.7"]
    assert daemon.held() == {SENDER}
    assert page.act("release", {"address": "203.0.113.7"}, **page.known)[1]["ok"]["missing"] == ["203.0.113.7"]
    assert page.act("ban", {"address": "127.0.0.1", "seconds": 60}, **page.known)[1]["ok"]["refused"]
    assert page.act("token", {}, **page.known) == (200, {"ok": True})


def test_nobody_else_does(page: Served, daemon: Live) -> None:
    wanted = {"address": "203.0.113.50", "seconds": 600}
    right = page.known["Authorization"]
    for wrong in ("", "Bearer", "Bearer x", right[:-1], f"{right}x", right.replace("Bearer", "Basic"), "Bearer \xff"):
        assert page.act("ban", wanted, Authorization=wrong)[0] == 401
    assert page.act("ban", wanted)[0] == 401
    assert page.act("ban", wanted, Cookie=f"token={page.token}")[0] == 401
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},  # another port of this host
    ):
        assert page.act("ban", wanted, **page.known, **foreign)[0] == 403
    assert page.act("ban", wanted, **page.known, **{"Content-Type": "text/plain"})[0] == 415
    assert page.act("ban", {**wanted, "note": "x" * 10_000}, **page.known)[0] == 413
    for odd in ([], "x", None, {"address": ["x"], "seconds": 60}, {"address": "203.0.113.50", "seconds": "soon"}):
        assert page.act("ban", odd, **page.known)[0] == 400
    assert daemon.held() == {SENDER}
    assert page.act("ban", wanted, **page.known, Origin=f"http://127.0.0.1:{page.port}")[0] == 200
    assert page.act("release", wanted, **page.known, Sec_Fetch_Site="same-origin")[0] == 200


def test_read_only_private_and_a_proxy(daemon: Live) -> None:
    path = str(daemon.folder / "web.sock")
    reading, private, behind = (
        Served(daemon, "--read-only"),
        Served(daemon, "--private", "--token-file", str(daemon.folder / "token2"), "--name", "mx.example.org"),
        Served(daemon, "--listen", path, "--read-only", port=1),
    )
    try:
        assert reading.request("GET", "/api/snapshot")[2]["ok"]["may"] == {"act": False, "known": False}
        assert reading.act("ban", {"address": "203.0.113.50"}, Authorization="Bearer ")[0] == 403
        assert private.request("GET", "/")[0] == 200
        for url in ("/api/snapshot", f"/api/why?address={SENDER}"):
            assert private.request("GET", url)[0] == 401
            assert private.request("GET", url, Host="mx.example.org", **private.known)[0] == 200
        assert oct(os.stat(path).st_mode & 0o777) == "0o660"
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            peer.sendall(b"GET /api/snapshot HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
            assert peer.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    finally:
        codes = [reading.stop(), private.stop(signal.SIGINT), behind.stop()]
    assert codes == [0, 0, 0]


def test_where_and_how_it_may_listen(tmp_path: Path, daemon: Live) -> None:
    assert web.place("localhost:80", False) == web.Place(host="127.0.0.1", port=80)
    assert web.place("[::1]:80", False) == web.Place(host="::1", port=80)
    assert web.place("/run/x", False) == web.Place(path="/run/x")
    for wrong in (
        "0.0.0.0:80",
        "[::]:80",
        "192.0.2.1:80",
        "127.0.0.1",
        "80",
        "127.0.0.1:99999",
        "evil.example:80",
        "x/y",
    ):
        with pytest.raises(web.Unusable):
            web.place(wrong, False)
    assert web.place("0.0.0.0:80", True).host == "0.0.0.0"
    assert daemon.ask("web", "--listen", "0.0.0.0:1").returncode == 2
    token = tmp_path / "token"
    for text, mode in (("x" * 40, 0o644), ("short", 0o600), ("two lines of text\nhere", 0o600), ("", 0o600)):
        token.write_text(text)
        token.chmod(mode)
        with pytest.raises(web.Unusable):
            web.token(str(token))
    token.unlink()
    made, _ = web.token(str(token))
    assert web.token(str(token)) == (made, str(token))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(web.Unusable):
        web.listen(web.Place(path=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "precious"


def test_a_second_one_leaves_the_token_of_the_first(page: Served, daemon: Live, tmp_path: Path) -> None:
    token = tmp_path / "denyspam-web.token"
    token.write_text("of the page that is served there\n")
    done = subprocess.run(
        [*live_command(daemon), "web", "--listen", f"127.0.0.1:{page.port}", "-c", str(daemon.conf)],
        env={**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, "Address already in use; --listen names" in done.stderr) == (2, True), done.stderr
    assert token.read_text() == "of the page that is served there\n"


# --- hostile peers


def test_slow_many_and_wrong_peers(page: Served) -> None:
    peers = []
    for _ in range(web.CONNECTIONS + 30):
        peer = socket.create_connection(("127.0.0.1", page.port))
        peer.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        peers.append(peer)
    assert page.request("GET", "/api/snapshot")[0] == 200
    for peer in peers[-web.CONNECTIONS // 2 :]:  # these ask for something, and are never done
        with suppress(OSError):
            peer.sendall(b"alhost\r\nContent-Length: 9\r\n\r\n")
    assert page.request("GET", "/api/snapshot")[0] == 200
    for peer in peers:
        peer.close()
    for wrong in (
        *(b"\x16\x03\x01\x02\x00" * 100, b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        *(b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", b"\r\n" * 1000),
        b"POST /api/ban HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ):
        with socket.create_connection(("127.0.0.1", page.port)) as peer:
            peer.sendall(wrong)
            peer.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert not peer.makefile("rb").readline().startswith(b"HTTP/1.1 2")
    until(lambda: page.request("GET", "/api/snapshot")[0] == 200, "it serves")


@pytest.mark.parametrize("bound", ["LIFE", "WAIT"])
def test_a_connection_ends_whatever_its_peer_does(
    bound: str, daemon: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import denyspam.web as web\nweb.{bound} = 0.5\nweb.CONNECTIONS = 2\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    served = Served(daemon, "--read-only")
    try:
        with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            began = time.monotonic()
            with suppress(ConnectionResetError):
                assert slow.recv(1) == b""
            assert time.monotonic() - began < PATIENCE
        until(lambda: served.request("GET", "/")[0] == 200, "it serves")
    finally:
        assert served.stop() == 0


def test_a_daemon_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    with live(tmp_path) as away:
        done = away.ask("web", "--listen", "127.0.0.1:1")
        assert done.returncode == 69
    sent: list[Any] = []
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/api/snapshot", "query_string": b""}
    scope["headers"] = [(b"host", b"x")]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(web.Page(str(tmp_path / "nobody"), None)(scope, receive, send))
    assert sent[0]["status"] == 503
    assert "does not answer" in json.loads(sent[1]["body"])["error"]


# --- a browser


def test_in_a_browser(page: Served, daemon: Live, tmp_path: Path) -> None:
    with browsing(tmp_path) as browser:
        browser.call("Page.navigate", url=f"http://127.0.0.1:{page.port}/")
        browser.until(f"document.querySelector('#bans tbody')?.textContent.includes('{SENDER}')")
        assert browser.run("document.querySelector('#hot tbody tr th').firstChild.textContent") == OTHER
        assert "3 of 5" in browser.run("document.querySelector('#hot tbody').textContent")
        labels = "[...document.querySelectorAll('button')].filter((one) => !one.hidden).map((one) => one.textContent)"
        assert "Release" not in browser.run(labels)

        # why, with hostile text that stays text
        browser.run("document.querySelector('#hot tbody button').click()")
        browser.until("document.querySelector('dialog').open")
        text = browser.run("document.querySelector('dialog pre').textContent")
        assert "<img/src=x onerror=alert(1)>\\u001b[2J\\u202e" in text
        assert browser.run("document.images.length") == 0
        browser.run("document.querySelector('#no').click()")

        # a wrong token, the right one, a release and a ban
        for token, told in (("wrong-token-of-some-length", "this is not the token"), (page.token, "unlocked")):
            browser.run("document.querySelector('#enter').click()")
            browser.run(f"document.querySelector('dialog input').value = {json.dumps(token)}")
            browser.run("document.querySelector('#yes').click()")
            browser.until(f"document.querySelector('#told').textContent.includes({json.dumps(told)})")
        browser.until(f"{labels}.includes('Release')")
        browser.run("document.querySelector('#bans td.acts button + button').click()")
        browser.until("document.querySelector('dialog').open")
        browser.run("document.querySelector('#yes').click()")
        browser.until(f"document.querySelector('#told').textContent.includes('released {SENDER}')")
        assert daemon.held() == set()
        browser.run("document.querySelector('#new').click()")
        browser.run(f"document.querySelector('dialog input').value = '{SENDER}'")
        browser.run("document.querySelector('#yes').click()")
        browser.until(f"document.querySelector('#told').textContent.includes('banned {SENDER}')")
        assert daemon.held() == {SENDER}

        # search, and a page that goes away
        typed = (
            "(text) => { const one = document.querySelector('#match');"
            " one.value = text; one.dispatchEvent(new Event('input')) }"
        )
        browser.run(f"({typed})('198.51')")
        browser.until("document.querySelector('#bans tbody').textContent === 'No ban matches.'")
        browser.run(f"({typed})('')")
        browser.until(f"document.querySelector('#bans tbody').textContent.includes('{SENDER}')")
        for wide in (360, 1280):
            shape = {"width": wide, "height": 800, "deviceScaleFactor": 1, "mobile": wide < 500}
            browser.call("Emulation.setDeviceMetricsOverride", **shape)
            assert browser.run("document.documentElement.scrollWidth <= window.innerWidth"), wide
        assert [text for text in browser.said if "401" not in text] == []  # it tells of each answer that is no 200
        home = f"http://127.0.0.1:{page.port}/"
        assert [url for url in browser.asked if not url.startswith((home, "data:"))] == []
        page.stop()
        browser.until("document.querySelector('#alerts').textContent.includes('trying again')")
