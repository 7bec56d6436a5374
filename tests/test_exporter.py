"""The metrics' server: what it answers, and what a hostile client can do (nothing)."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from live import PATIENCE, live, until, viruses
from netns import CLIENTS4, Network
from prometheus_client.parser import text_string_to_metric_families

from denyspam import exporter
from denyspam.exporter import CONNECTIONS, Exporter

TEXT = "# HELP a b\n# TYPE a gauge\na 1\n"


def serve(place: str | tuple[str, int], peer: Callable[[], Any], text: str = TEXT) -> tuple[Any, int]:
    """(what `peer`, in a thread, makes of a server at `place`, how often the text was made)"""
    made = 0

    async def render() -> str:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        return text

    async def run() -> Any:
        broke: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broke.append(context))
        server = Exporter(place, render)
        await server.start()
        try:
            found = await asyncio.wait_for(asyncio.to_thread(peer), PATIENCE)
        finally:
            await server.stop()
        assert broke == []  # what reaches it would end the daemon
        return found

    return asyncio.run(run()), made


def connect(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE)
    made.connect(str(path))
    return made


def raw(path: Path, data: bytes) -> bytes:
    with connect(path) as peer:
        with suppress(OSError):
            peer.sendall(data)
        try:
            return peer.makefile("rb").read()
        except ConnectionResetError:
            return b""


def get(path: Path, what: str = "/metrics", verb: str = "GET") -> tuple[int, bytes, http.client.HTTPMessage]:
    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = connect(path)

    asked = Connection("localhost")
    asked.request(verb, what)
    answer = asked.getresponse()
    return answer.status, answer.read(), answer.headers


def test_a_scrape(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    (status, body, headers), _ = serve(str(path), lambda: get(path))
    assert (status, body) == (200, TEXT.encode())
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not path.exists()


def test_the_socket_is_as_open_as_loopback(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    before = os.umask(0o077)
    try:
        mode, _ = serve(str(path), lambda: stat.S_IMODE(path.stat().st_mode))
    finally:
        os.umask(before)
    assert mode == 0o666


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_over_loopback(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")

    def peer() -> bytes:
        asked = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        asked.request("GET", "/metrics?x=1")
        return asked.getresponse().read()

    assert serve((host, port), peer)[0] == TEXT.encode()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\x16\x03\x01\x02\x00 \x01 \r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000, b"HTTP/1.1 431 "),
    ],
)
def test_requests_of_all_kinds(tmp_path: Path, request_: bytes, answer: bytes) -> None:
    path = tmp_path / "sock"

    def peer() -> tuple[bytes, int]:
        return raw(path, request_), get(path)[0]

    (said, after), _ = serve(str(path), peer)
    # what was sent beyond the bound may reset the connection before the answer is read
    assert said.startswith(answer) or (b"431" in answer and said == b"")
    assert after == 200
    if b"HEAD" in request_:
        assert said.endswith(b"\r\n\r\n")
        assert f"Content-Length: {len(TEXT)}".encode() in said


def test_who_says_nothing_and_who_says_it_slowly_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "SECONDS", 0.3)
    path = tmp_path / "sock"

    def peer() -> int:
        with connect(path) as silent, connect(path) as slow:
            began = time.monotonic()
            with suppress(OSError):
                while time.monotonic() - began < PATIENCE:
                    slow.sendall(b"G")
                    time.sleep(0.05)
            assert time.monotonic() - began < PATIENCE, "a byte at a time holds it for ever"
            assert silent.recv(1) == b""
        return get(path)[0]

    assert serve(str(path), peer)[0] == 200


def test_more_connections_than_there_may_be_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    def peer() -> tuple[int, int]:
        silent = [connect(path) for _ in range(CONNECTIONS)]
        until(lambda: raw(path, b"GET /metrics HTTP/1.1\r\n\r\n") == b"", "no place left")
        for _ in range(300):
            assert raw(path, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        files = len(os.listdir("/proc/self/fd"))
        for each in silent:
            each.close()

        def answers() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return get(path)[0] == 200
            return False

        until(answers, "an answer once they are gone")
        return files, CONNECTIONS

    (files, most), _ = serve(str(path), peer)
    assert files < 2 * most + 50


def test_who_does_not_take_the_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "SECONDS", 0.3)
    path = tmp_path / "sock"

    def peer() -> int:
        lazy = [connect(path) for _ in range(CONNECTIONS)]
        for each in lazy:
            each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")

        def answers() -> int:
            with suppress(OSError, http.client.HTTPException):
                return len(get(path)[1])
            return 0

        size: int = until(answers, "a place after those who do not read")
        for each in lazy:
            each.close()
        return size

    assert serve(str(path), peer, "a 1\n" * 2_000_000)[0] == 8_000_000


def test_many_scrapes_make_one_text(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    statuses, made = serve(str(path), lambda: [get(path)[0] for _ in range(50)])
    assert statuses == [200] * 50
    assert made <= 3


def test_a_socket_of_a_killed_daemon_is_taken_and_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    assert serve(str(path), lambda: get(path)[0])[0] == 200
    path.write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        serve(str(path), lambda: None)
    assert path.read_text() == "mine"


def test_a_socket_that_nobody_takes_from_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))  # there is no room for another
        with pytest.raises(OSError, match="another program reads there"):
            serve(str(path), lambda: None)
    assert path.exists()


def test_a_flood_of_connections_is_taken_a_few_a_turn(tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def run() -> int:
        server = Exporter(str(path), lambda: asyncio.sleep(0, TEXT))
        await server.start()
        waiting = 0
        with ExitStack() as stack, suppress(BlockingIOError):
            for _ in range(200):  # while the loop does something else
                peer = stack.enter_context(socket.socket(socket.AF_UNIX))
                peer.setblocking(False)
                peer.connect(str(path))
                waiting += 1
        await server.stop()
        return waiting

    assert asyncio.run(run()) <= CONNECTIONS + 1


# --- the daemon


@pytest.mark.root
def test_a_daemon_is_scraped(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "metrics"
    with live(tmp_path, network.server) as daemon:
        daemon.configure(metrics=str(path))
        daemon.start()
        daemon.write(viruses(CLIENTS4[0], 5))
        until(lambda: daemon.held() == {CLIENTS4[0]}, "the ban")
        found = until(lambda: scraped(path, "denyspam_bans_active", 1), "the ban in the metrics")
        assert found["denyspam_events_total", "postfix"] == 5
        assert found["denyspam_bans_total", "virus"] == 1
        assert found["denyspam_refused_packets_total", "ipv4"] == 0
        assert CLIENTS4[0] not in get(path)[1].decode()
        said = daemon.ask("metrics")
        assert said.returncode == 0
        assert {name for name, _ in read(said.stdout)} == {name for name, _ in found}
        status = daemon.json("status")
        assert status["rules"] == {"virus": 1}
        assert status["logs"][str(daemon.log)]["lag_bytes"] == 0
        daemon.stop()
        assert not path.exists()
        assert daemon.ask("metrics").returncode == 69


@pytest.mark.root
def test_a_port_in_use_is_an_alarm_and_no_reason_not_to_ban(tmp_path: Path, network: Network) -> None:
    with live(tmp_path, network.server) as daemon:
        network.server.check("ip", "link", "set", "lo", "up")
        holder = network.server.popen(
            [
                "python3",
                "-c",
                "import socket; s=socket.create_server(('127.0.0.1', 9826)); print('.', flush=True); input()",
            ],
            stdin=-1,
            stdout=-1,
        )
        assert holder.stdout and holder.stdin and holder.stdout.readline()
        daemon.configure(metrics="127.0.0.1:9826")
        daemon.start()
        (alarm,) = until(lambda: daemon.json("status")["alarms"], "the alarm")
        assert (alarm["name"], alarm["subject"]) == ("metrics", "127.0.0.1:9826")
        assert "ALARM metrics 127.0.0.1:9826" in daemon.ask("status").stdout
        assert daemon.errors.read_text().count("alarm metrics") == 1
        daemon.write(viruses(CLIENTS4[0], 5))
        until(lambda: daemon.held() == {CLIENTS4[0]}, "the ban")
        holder.stdin.close()
        holder.wait()
        until(lambda: daemon.json("status")["alarms"] == [], "its end, by the next try")
        assert daemon.errors.read_text().count("alarm over") == 1


def read(text: str) -> dict[tuple[str, str], float]:
    """(name, the last of its labels' values) -> value"""
    return {
        (
            sample.name,
            next((sample.labels[one] for one in ("filter", "policy", "family") if one in sample.labels), ""),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(path: Path, name: str, value: float) -> dict[tuple[str, str], float] | None:
    found = read(get(path)[1].decode())
    return found if found[name, ""] == value else None
