"""The control socket: who may speak, and what a hostile peer can do (nothing)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from denyspam import control
from denyspam.control import CONNECTIONS, Server, Unreachable, ask


async def echo(request: dict[str, Any], user: str) -> dict[str, Any]:
    return {"ok": request, "user": user}


def serve(path: Path, peer: Callable[[], Any], group: str | None = None) -> Any:
    """What `peer`, in a thread, makes of a server at `path`."""

    async def run() -> Any:
        server = Server()
        await server.start(str(path), group, echo)
        try:
            return await asyncio.wait_for(asyncio.to_thread(peer), 60)
        finally:
            await server.stop()

    return asyncio.run(run())


def raw(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        return peer.makefile("rb").read()


def test_question_and_answer(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    answer = serve(path, lambda: ask(str(path), {"command": "list"}))
    assert answer["ok"] == {"command": "list"}
    assert not path.exists()


@pytest.mark.parametrize(
    "data", [b"nonsense\n", b"[1]\n", b"\xff\x00\n", b"[" * 100_000 + b"\n", b'{"a": 1', b"", b"\n"]
)
def test_garbage_is_told_or_dropped(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sock"

    def peer() -> Any:
        answer = raw(path, data)
        return answer, ask(str(path), {})

    answer, after = serve(path, peer)
    assert not answer or json.loads(answer)["code"] == 2
    assert after["ok"] == {}


def test_a_request_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST", 100_000)
    path = tmp_path / "sock"

    def peer() -> Any:
        with socket.socket(socket.AF_UNIX) as mad:
            mad.connect(str(path))
            try:
                for _ in range(1000):
                    mad.sendall(b"x" * 10_000)
            except OSError:
                pass
            else:
                raise AssertionError("10 MB were taken")
        return ask(str(path), {})

    assert serve(path, peer)["ok"] == {}


def test_a_peer_that_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SECONDS", 0.2)
    path = tmp_path / "sock"

    def peer() -> Any:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(2 * CONNECTIONS)]
        for one in silent:
            one.connect(str(path))
        ended = [one.recv(100) for one in silent]
        for one in silent:
            one.close()
        return ended, ask(str(path), {})

    ended, after = serve(path, peer)
    assert set(ended) <= {b"", b'{"error": "not one line of JSON", "code": 2}\n'}
    assert after["ok"] == {}


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert serve(path, lambda: ask(str(path), {}))["ok"] == {}

    async def two() -> None:
        first, second = Server(), Server()
        await first.start(str(path), None, echo)
        try:
            with pytest.raises(OSError, match="another program reads there"):
                await second.start(str(path), None, echo)
        finally:
            await first.stop()

    asyncio.run(two())


def test_questions_between_two_runs_wait_for_the_second(tmp_path: Path) -> None:
    path, other = tmp_path / "sock", tmp_path / "other"

    async def second_run(request: dict[str, Any], user: str) -> dict[str, Any]:
        return {"by": "the second"}

    async def run() -> None:
        server = Server()
        await server.start(str(path), None, echo)
        server.pause()
        asked = [asyncio.create_task(asyncio.to_thread(ask, str(path), {})) for _ in range(3)]
        done, _ = await asyncio.wait(asked, timeout=0.2)
        assert not done
        await server.start(str(path), None, second_run)
        assert await asyncio.gather(*asked) == 3 * [{"by": "the second"}]
        path.unlink()
        await server.start(str(path), None, echo)
        assert (await asyncio.to_thread(ask, str(path), {}))["ok"] == {}
        await server.start(str(other), None, echo)
        assert not path.exists()
        assert (await asyncio.to_thread(ask, str(other), {}))["ok"] == {}
        await server.stop()
        assert not other.exists()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="No such file"):
        ask(str(tmp_path / "none"), {})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user: run the tests as root")
def test_only_root_and_the_group(tmp_path: Path) -> None:
    """nobody is kept out by the socket's mode, and by the peer's credentials where the mode is opened."""
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            os.chmod(parent, parent.stat().st_mode | 0o011)
    path = tmp_path / "sock"
    program = (
        "import contextlib, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(sys.argv[1])\n"
        "with contextlib.suppress(BrokenPipeError): s.sendall(b'{}\\n')\n"
        "print(s.makefile().readline())"
    )

    def as_nobody(*options: str) -> str:
        command = [
            "setpriv",
            "--reuid=nobody",
            *options,
            "--no-new-privs",
            "/usr/bin/python3",
            "-c",
            program,
            str(path),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
        return done.stdout or done.stderr

    plain = ("--regid=nogroup", "--clear-groups")
    assert "PermissionError" in serve(path, lambda: as_nobody(*plain))

    def opened() -> str:
        os.chmod(path, 0o666)
        return as_nobody(*plain)

    assert '"code": 77' in serve(path, opened)
    assert '"ok": {}' in serve(path, lambda: as_nobody("--regid=adm", "--clear-groups"), group="adm")
