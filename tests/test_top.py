"""The live screen against a real daemon: its snapshot, its keys, a real terminal (tmux), and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timezone
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from live import PATIENCE, Live, live, relay, until, virus, viruses
from netns import CLIENTS4, SERVER4, Network
from textual.widgets import Input

from denyspam.screen import BANS, HOT, plain
from denyspam.snapshot import MOST
from denyspam.top import Text, Top

SENDER, OTHER, QUIET = CLIENTS4[0], CLIENTS4[1], CLIENTS4[2]
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202e"

pytestmark = pytest.mark.root


@pytest.fixture
def daemon(tmp_path: Path, network: Network) -> Iterator[Live]:
    """It bans SENDER, and has seen three of five offences of OTHER."""
    with live(tmp_path, network.server) as made:
        made.start()
        made.write(viruses(SENDER, 5))
        made.write([relay(OTHER, time.time()).replace("<x@y.example>", f"<{HOSTILE}>") for _ in range(3)])
        until(lambda: made.json("status")["events"] == {"relay": {"postfix": 3}, "virus": {"postfix": 5}}, "the events")
        until(lambda: made.held() == {SENDER}, "the ban")
        yield made


# --- the snapshot


def test_one_snapshot_says_it_all(daemon: Live, network: Network) -> None:
    assert not network.connects(SERVER4, 25, SENDER)
    found = until(lambda: (one := daemon.json("top"))["firewall"]["packets"] and one["rates"]["lines"] and one, "rates")
    assert (found["ready"], found["mode"], found["action"], found["active"]) == (True, "enforce", "nftables", 1)
    (ban,) = found["bans"]
    assert (ban["address"], ban["rule"], ban["hits"], ban["state"]) == (SENDER, "virus", 5, "active")
    (hot,) = found["hot"]
    assert (hot["address"], hot["policy"], hot["hits"], hot["limit"]) == (OTHER, "relay", 3, 5)
    assert 0 < hot["gone"] <= 900
    assert f"from=<{HOSTILE}>" in hot["text"]
    assert found["firewall"]["bytes"] >= 40
    assert found["kinds"] == {"virus": 5, "relay": 3}
    assert found["logs"][0]["path"] == str(daemon.log)
    assert (found["logs"][0]["lines"], found["logs"][0]["events"]) == (8, 8)
    assert found["faults"] == []


def test_what_is_searched_for(daemon: Live) -> None:
    ask = asker(daemon)
    daemon.ask("ban", "203.0.113.0/28", "2001:db8:9::7", "--note", "by hand")
    assert [ban["address"] for ban in ask()["bans"]] == ["2001:db8:9::/64", "203.0.113.0/28", SENDER]
    assert [ban["address"] for ban in ask(match="manual")["bans"]] == ["2001:db8:9::/64", "203.0.113.0/28"]
    assert [ban["address"] for ban in ask(match="203.0.113.9")["bans"]] == ["203.0.113.0/28"]
    assert [ban["address"] for ban in ask(match="192.0.2.")["bans"]] == [SENDER]
    assert [hot["address"] for hot in ask(match="192.0.2.")["hot"]] == [OTHER]
    assert ask(match="192.0.2.")["active"] == 3
    assert [ban["address"] for ban in ask(most=1)["bans"]] == ["2001:db8:9::/64"]
    for odd in ({"match": HOSTILE}, {"match": ["x"]}, {"match": "\0"}, {"most": 0}, {"most": 10**30}, {"most": -5}):
        assert len(ask(**odd)["bans"]) <= MOST
    for wrong in ("x", None, [], float("nan")):
        assert "error" in asker(daemon, whole=True)(most=wrong)
    assert daemon.ask("status").returncode == 0


def test_many_bans_are_searched_while_the_daemon_goes_on(daemon: Live) -> None:
    daemon.ask("ban", "-", text="".join(f"10.{n >> 8}.{n & 255}.1\n" for n in range(20_000)))
    found = asker(daemon)(match="10.78.31.", most=5)
    assert [ban["address"] for ban in found["bans"]] == ["10.78.31.1"]
    assert len(asker(daemon)(most=10**6)["bans"]) == MOST


def test_many_different_questions_are_answered_in_turn(daemon: Live) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(30) as threads:
        found = list(threads.map(lambda number: asker(daemon)(match=f"192.0.2.1{number}", most=number), range(30)))
    assert [len(each["bans"]) for each in found] == [0] * 30  # SENDER is 192.0.2.10, of which no row was asked for
    with ThreadPoolExecutor(30) as threads:
        found = list(threads.map(lambda _: asker(daemon)(), range(30)))
    assert {tuple(ban["address"] for ban in each["bans"]) for each in found} == {(SENDER,)}


def asker(daemon: Live, whole: bool = False) -> Callable[..., dict[str, Any]]:
    from denyspam import control

    def ask(**request: Any) -> dict[str, Any]:
        answer = control.ask(str(daemon.folder / "sock"), {"command": "top", **request})
        return answer if whole else answer["ok"]

    return ask


def test_why_shows_what_counts_of_one_who_is_not_banned(daemon: Live) -> None:
    done = daemon.ask("why", OTHER)
    assert done.returncode == 1
    assert done.stdout.count("Relay access denied") == 3
    assert "\x1b" not in done.stdout
    assert [one["kind"] for one in daemon.json("why", OTHER)["seen"]] == ["relay"] * 3
    assert daemon.json("why", SENDER)["seen"] == []


# --- one picture


def test_once_prints_a_picture(daemon: Live) -> None:
    done = subprocess.run(
        daemon.command("top", "--once"),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160", "LINES": "40"},
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 40
    assert max(map(len, lines)) <= 160
    assert "\x1b" not in done.stdout
    assert SENDER in done.stdout
    assert "3 of 5" in done.stdout
    bare = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    done = subprocess.run(daemon.command("top", "--once"), capture_output=True, text=True, env=bare, check=True)
    assert done.stdout.count("\n") == 40


def test_what_is_no_terminal_is_told_what_to_do(daemon: Live) -> None:
    done = daemon.ask("top")
    assert done.returncode == 2
    assert "--once" in done.stderr


def test_without_textual_the_way_to_it_is_told(daemon: Live) -> None:
    (daemon.folder / "lacking/textual").mkdir(parents=True)
    (daemon.folder / "lacking/textual/__init__.py").write_text("raise ImportError('no', name='textual')\n")
    with terminal(daemon.command("top"), PYTHONPATH=str(daemon.folder / "lacking")) as screen:
        assert screen.wait() == 2
        assert re.search(r"needs textual.*pip install 'denyspam\[top\]'", screen.text.replace("\r\n", ""))


def test_no_daemon_no_screen(tmp_path: Path) -> None:
    with live(tmp_path) as nobody:
        assert nobody.ask("top").returncode == 69
        assert nobody.ask("top", "--json").returncode == 69


# --- the keys


class Pilot:
    """A Top that runs without a terminal, and what can be done with it."""

    def __init__(self, app: Top, pilot: Any) -> None:
        self.app, self.pilot = app, pilot

    @property
    def text(self) -> str:
        return plain(self.app.picture.frame)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what}; the screen was\n{self.text}"
            await self.pilot.pause(0.02)

    def told(self) -> str:
        return "\n".join(each.message for each in self.app._notifications)


def pilot(daemon: Live, play: Callable[[Pilot], Awaitable[None]], size: tuple[int, int] = (120, 40)) -> None:
    async def run() -> None:
        app = Top(str(daemon.folder / "sock"), timezone.utc, ("198.51.100.77",))
        async with app.run_test(size=size) as driver:
            made = Pilot(app, driver)
            await made.until(lambda: SENDER in made.text, "the first picture")
            await play(made)

    asyncio.run(run())


def test_the_keys_move_explain_and_leave(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        assert (top.app.view.focus, top.app.chosen) == (HOT, OTHER)
        await top.press("tab")
        assert (top.app.view.focus, top.app.chosen) == (BANS, SENDER)
        await top.press("down", "end", "home", "pagedown", "k", "j")
        assert top.app.chosen == SENDER
        await top.press("enter")
        await top.until(lambda: isinstance(top.app.screen, Text), "the reasons")
        shown = str(top.app.screen.query_one("VerticalScroll Static").render())
        assert f"{SENDER} is banned from port 25" in shown
        assert shown.count("Eicar-Signature") == 5
        await top.press("escape", "tab", "w")
        await top.until(lambda: isinstance(top.app.screen, Text), "the reasons of the other")
        shown = str(top.app.screen.query_one("VerticalScroll Static").render())
        assert shown.count("Relay access denied") == 3
        assert "\x1b" not in shown
        await top.press("escape", "question_mark")
        await top.until(lambda: isinstance(top.app.screen, Text), "help")
        await top.press("q")
        await top.until(lambda: not isinstance(top.app.screen, Text), "the end of help")
        await top.press("q")
        assert top.app.return_code == 0

    pilot(daemon, play)


def test_a_ban_and_a_release_are_asked_about_first(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        await top.press("b")
        fields = [each.value for each in top.app.screen.query(Input)]
        assert fields == [OTHER, "1h", ""]
        await top.press("escape")
        await top.press("b", *["tab"] * 2, *"storm", "enter")
        await top.until(lambda: f"banned {OTHER}" in top.told(), "the ban")
        await top.until(lambda: OTHER in [row["address"] for row in top.app.found["bans"]], "it in the list")
        assert daemon.held() == {SENDER, OTHER}
        top.app.choose(BANS, SENDER)
        await top.press("r", "n")
        assert daemon.held() == {SENDER, OTHER}
        await top.press("r", "y")
        await top.until(lambda: f"released {SENDER}" in top.told(), "the release")
        assert daemon.held() == {OTHER}
        await top.until(lambda: top.app.chosen == OTHER, "the other one chosen")
        await top.press("r", "g")
        await top.until(lambda: f"no policy bans {OTHER}" in top.told(), "the grace")
        assert daemon.held() == set()

    pilot(daemon, play)
    assert daemon.json("why", OTHER)["history"][0]["note"] == "storm"


def test_what_must_not_be_banned_is_not(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        for address, reason in (
            ("198.51.100.77", "your own SSH session"),
            ("127.0.0.1", "loopback"),
            ("x[/]", "no addr"),
        ):
            await top.press("b")
            top.app.screen.query(Input).first().value = address
            await top.press("enter")
            await top.until(lambda reason=reason: reason in top.told(), reason)  # type: ignore[misc]
        await top.press("b", "tab", *"never", "enter")
        await top.until(lambda: "how long" in top.told(), "no time")

    pilot(daemon, play)
    assert daemon.held() == {SENDER}


def test_find_and_pause(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        await top.press("slash", *"virus")
        await top.until(lambda: "nobody has an offence" in top.text, "only what matches")
        assert SENDER in top.text
        await top.press("enter")
        assert "/virus" in top.text
        await top.press("escape")
        await top.until(lambda: OTHER in top.text, "all again")
        await top.press("p")
        assert "PAUSED" in top.text
        before = top.text
        daemon.write([virus(QUIET, time.time(), "PAUSED1")])
        until(lambda: daemon.json("status")["events"]["virus"] == {"postfix": 6}, "the event")
        await top.pilot.pause(1.2)
        assert top.text == before
        await top.press("p")
        await top.until(lambda: QUIET in top.text, "it goes on")

    pilot(daemon, play)


def test_the_first_is_chosen_until_somebody_chooses(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        daemon.write([relay(QUIET, time.time()) for _ in range(4)])
        await top.until(lambda: top.app.chosen == QUIET, "the hottest now")
        await top.press("down")
        assert top.app.chosen == OTHER
        daemon.write([relay(CLIENTS4[3], time.time()) for _ in range(4)])
        await top.until(lambda: CLIENTS4[3] in top.text, "another, hotter one")
        assert top.app.chosen == OTHER
        await top.press("home")
        assert top.app.chosen == CLIENTS4[3]

    pilot(daemon, play)


def test_a_mouse_and_every_size(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        (row,) = [y for y, places in top.app.picture.frame.rows.items() if places[0][3] == SENDER]
        await top.pilot.click(offset=(10, row))
        assert (top.app.view.focus, top.app.chosen) == (BANS, SENDER)
        for size in ((80, 24), (200, 60), (20, 5), (1, 1), (120, 40)):
            await top.pilot.resize_terminal(*size)
            await top.until(lambda size=size: len(top.app.picture.frame.lines) == size[1], f"{size}")  # type: ignore[misc]
        assert SENDER in top.text

    pilot(daemon, play)


def test_a_daemon_that_stops_is_found_again(daemon: Live) -> None:
    async def play(top: Pilot) -> None:
        await asyncio.to_thread(daemon.stop)
        await top.until(lambda: "trying again" in top.text, "it says so")
        assert SENDER in top.text  # what was known last
        await top.press("tab", "r", "y")
        await top.until(lambda: "does not answer" in top.told(), "no release either")
        await asyncio.to_thread(daemon.start)
        await top.until(lambda: "trying again" not in top.text, "it is back")

    pilot(daemon, play)


# --- a real terminal


class Terminal:
    """A program on a pseudo terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], handle: int) -> None:
        self.process, self.handle, self.text = process, handle, ""

    def read(self) -> str:
        while select.select([self.handle], [], [], 0.02)[0]:
            try:
                data = os.read(self.handle, 65_536)
            except OSError:  # the last writer is gone
                break
            if not data:
                break
            self.text += data.decode(errors="replace")
        return self.text

    def until(self, words: str) -> None:
        until(lambda: words in re.sub(r"\x1b\[[\d;]*m", "", self.read()), words)

    def wait(self) -> int:
        until(lambda: self.read() is None or self.process.poll() is not None, "the end")
        self.read()
        return self.process.wait()


@contextmanager
def terminal(command: list[str], size: tuple[int, int] = (100, 30), **environment: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    before = termios.tcgetattr(theirs)
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLORTERM")}
    environment = {**clean, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environment}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    try:
        yield Terminal(process, ours)
        assert termios.tcgetattr(theirs) == before, "the terminal's modes are not as they were"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
        os.close(theirs)


SHOWN_AGAIN = ("\x1b[?1049l", "\x1b[?25h", "\x1b[?1000l")  # the first screen, the cursor, no mouse


def test_the_terminal_is_left_as_it_was(daemon: Live) -> None:
    for how in ("q", "\x03", signal.SIGTERM, signal.SIGHUP):
        with terminal(daemon.command("top")) as screen:
            screen.until("1 hold")
            if isinstance(how, str):
                os.write(screen.handle, how.encode())
            else:
                os.kill(child(screen.process.pid), how)
            assert screen.wait() == 0, how
            end = screen.text[screen.text.rindex("\x1b[?1049h") :]
            assert all(words in end for words in SHOWN_AGAIN), how


def child(pid: int) -> int:
    """nsenter becomes what it starts; nothing to look for, but a fork would be found here."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else pid


def test_a_bug_leaves_the_terminal_as_it_was_too(daemon: Live) -> None:
    (daemon.folder / "broken").mkdir()
    (daemon.folder / "broken/sitecustomize.py").write_text(
        "import denyspam.screen as s\ndraw = s.draw\ndef broken(found, *rest):\n"
        "    if found: raise KeyError('a bug')\n    return draw(found, *rest)\ns.draw = broken\n"
    )
    with terminal(daemon.command("top"), PYTHONPATH=str(daemon.folder / "broken")) as screen:
        assert screen.wait() != 0
        assert "a bug" in screen.text
        assert all(words in screen.text for words in SHOWN_AGAIN)


def test_no_color_means_none_and_hostile_text_is_no_command(daemon: Live) -> None:
    with terminal(daemon.command("top"), (200, 40), NO_COLOR="1") as screen:
        screen.until("1 hold")
        os.write(screen.handle, b"w")
        screen.until("Esc closes")
        os.write(screen.handle, b"\x03")
        assert screen.wait() == 0
        codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", screen.text) for code in found.split(";")}
        assert codes & {"1", "7"}
        assert not any(re.fullmatch(r"3[0-8]|4[0-8]|9\d|10\d", code) for code in codes), codes
        assert "owned" in screen.text
        for words in ("\x1b]0;owned", "\u202e", "\x1b[2J\x1b]"):
            assert words not in screen.text


def test_in_tmux(daemon: Live, tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")

    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "tmux"), "-f", os.devnull, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES"):  # set by a distributed test run, and then the size of every terminal
        environment.pop(name, None)
    command = " ".join(daemon.command("top"))
    tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "top", f"{command}; echo ended $?; exec cat")
    try:
        shown = until(lambda: "1 hold" in (text := tmux("capture-pane", "-p", "-t", "top")) and text, "80 x 24")
        assert SENDER in shown
        assert len(shown.splitlines()) == 24
        tmux("resize-window", "-t", "top", "-x", "200", "-y", "50")
        shown = until(
            lambda: "put back" in (text := tmux("capture-pane", "-p", "-t", "top")) and text, "the second column"
        )
        assert len(shown.splitlines()) == 50
        assert max(map(len, shown.splitlines())) == 200
        tmux("send-keys", "-t", "top", "Tab")
        tmux("send-keys", "-t", "top", "Enter")
        until(lambda: "Eicar-Signature" in tmux("capture-pane", "-p", "-t", "top"), "the reasons")
        tmux("send-keys", "-t", "top", "Escape")
        until(lambda: "Esc closes" not in tmux("capture-pane", "-p", "-t", "top"), "no reasons")
        tmux("send-keys", "-t", "top", "q")
        until(lambda: "ended 0" in tmux("capture-pane", "-p", "-t", "top"), "the end")
    finally:
        tmux("kill-server")


def test_a_screen_that_is_stopped_holds_up_nobody(daemon: Live) -> None:
    """Twenty peers ask and never read; another is stopped with a full pipe."""
    import socket

    peers = []
    for _ in range(20):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(daemon.folder / "sock"))
        peer.sendall(json.dumps({"command": "top"}).encode() + b"\n")
        peers.append(peer)
    with terminal(daemon.command("top")) as screen:
        screen.until("1 hold")
        os.kill(child(screen.process.pid), signal.SIGSTOP)
        daemon.write(viruses(QUIET, 5))
        until(lambda: daemon.held() == {SENDER, QUIET}, "the ban")
        os.kill(child(screen.process.pid), signal.SIGCONT)
        screen.until("2 hold")
        os.write(screen.handle, b"q")
        assert screen.wait() == 0
    for peer in peers:
        peer.close()


def test_stopped_and_continued_in_every_way(daemon: Live) -> None:
    """Ctrl-Z, SIGTSTP and SIGSTOP leave and take the terminal; the keys are read by one reader after each."""
    with terminal(daemon.command("top")) as screen:
        screen.until("1 hold")
        pid = child(screen.process.pid)
        before = threads(pid)
        for how in ("\x1a", signal.SIGTSTP, signal.SIGSTOP, signal.SIGSTOP, "\x1a"):
            if isinstance(how, str):
                os.write(screen.handle, how.encode())
            else:
                os.kill(pid, how)
            until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
            screen.read()
            screen.text = ""
            os.kill(pid, signal.SIGCONT)
            screen.until("1 hold")
            until(lambda: screen.read() and threads(pid) == before, "one reader")
        os.write(screen.handle, b"q")
        assert screen.wait() == 0


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_import_is_left_to_those_who_ask() -> None:
    script = (
        "import sys, denyspam.cli; print(*(name for name in sys.modules if name in ('textual', 'rich', 'starlette')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
