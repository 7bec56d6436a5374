"""Faults of those around: hostile clients of the control socket, storms of signals, an action that hangs, a second one.

All against a daemon that is a process of its own; others must be answered meanwhile, and its memory stay bounded. What
comes of each fault stands in docs/faults.md.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from live import PATIENCE, Live, live, until, virus, viruses
from netns import CLIENTS4, Network

SENDER, OTHER, THIRD = CLIENTS4[:3]
POLICY = "virus = 2 in 15m -> ban 6h\n"
MOST = 300_000  # kilobytes: what the bounds of control.py come to, with the daemon's own


@pytest.fixture
def daemon(daemon: Live) -> Live:
    daemon.configure(policy=POLICY)
    return daemon


def peak(pid: int) -> int:
    """Kilobytes, the most so far."""
    return int(next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in x).split()[1])


def connected(daemon: Live) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(daemon.folder / "sock"))
    made.settimeout(60)
    return made


def answered(daemon: Live) -> None:
    """Others are: a status and a ban, within the time that a command gives."""
    assert daemon.status()["ready"]
    assert daemon.ask("ban", SENDER).returncode == 0
    assert daemon.ask("release", SENDER).returncode == 0


def test_a_thousand_connections_that_say_nothing(daemon: Live) -> None:
    daemon.start()
    pid = daemon.status()["pid"]
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connected(daemon))
        answered(daemon)
        assert len(os.listdir(f"/proc/{pid}/fd")) < 200
    answered(daemon)


def test_long_requests_and_answers_that_nobody_reads(daemon: Live) -> None:
    daemon.start()
    pid = daemon.status()["pid"]
    many = "".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}\n" for n in range(10_000))
    assert daemon.ask("ban", "-", text=many).returncode == 0
    with ExitStack() as stack:
        for _ in range(30):  # each asks for more than a megabyte, and never reads
            stack.enter_context(connected(daemon)).sendall(b'{"command": "list"}\n')
        answered(daemon)
        piece = b"x" * 1_000_000
        for _ in range(12):
            peer = stack.enter_context(connected(daemon))
            with suppress(OSError):
                for _ in range(100):  # 100 MB without an end
                    peer.sendall(piece)
        held = [stack.enter_context(connected(daemon)) for _ in range(10)]
        for peer in held:  # 15 MB each, which stay unfinished
            with suppress(OSError):
                for _ in range(15):
                    peer.sendall(piece)
        answered(daemon)
    answered(daemon)
    assert peak(pid) < MOST
    assert daemon.status()["pid"] == pid


def test_garbage_half_requests_and_depth(daemon: Live) -> None:
    daemon.start()
    pid = daemon.status()["pid"]
    chance = random.Random(1)
    deep = [
        b'{"command": "ban", "addresses": ' + b"[" * depth + b"]" * depth + b"}"
        for depth in (100, 900, 980, 990, 998, 10**6)
    ]
    deep += [b'{"command": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}" for depth in (300, 990, 100_000)]
    words = (
        *deep,
        chance.randbytes(100_000).replace(b"\n", b""),
        b"\0" * 1000,
        b'{"command": "status\xff\xfe"}',
        b'{"command": "ba\\u0000n", "addresses": ["\\u0000", "\\ud800"]}',
        b'{"command": "ban", "addresses": ["198.51.100.1"], "note": "\\ud800\\u0000\\n\\r\\u001b[2J"}',
        b'{"command": "ban", "addresses": ["198.51.100.1"], "seconds": 1e999}',
        b'{"command": "release", "addresses": {"a": 1}, "grace": NaN}',
        b'{"command": "why", "address": [[[]]]}',
        b'{"command": "why", "address": 1' + b"0" * 5000 + b"}",
        b"[" + b"{}," * 5_000_000 + b"{}]",
        b'{"command": "ban", "addresses": [' + b'"",' * 4_000_000 + b'""]}',
        b'{"command": "list"} trailing',
        b"",
    )
    for word in words:
        with connected(daemon) as peer, suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(word + b"\n")
            answer = peer.makefile("rb").readline()
            assert not answer or json.loads(answer).keys() & {"ok", "error"}
    for _ in range(200):  # asks and is gone before the answer
        with connected(daemon) as peer:
            peer.sendall(b'{"command": "list"}\n' if chance.random() < 0.5 else b'{"comm')
    slow = connected(daemon)
    for byte in b'{"command": "status"}\n':  # by the byte
        slow.sendall(bytes((byte,)))
        time.sleep(0.01)
    assert json.loads(slow.makefile("rb").readline())["ok"]["ready"]
    slow.close()
    half = connected(daemon)  # half open: it will send no more, but reads
    half.sendall(b'{"command": "status"}')
    half.shutdown(socket.SHUT_WR)
    assert json.loads(half.makefile("rb").readline())["ok"]["ready"]
    half.close()
    answered(daemon)
    assert daemon.status()["pid"] == pid
    assert peak(pid) < MOST
    assert "Traceback" not in daemon.errors.read_text()
    assert "\x1b" not in daemon.errors.read_text()


def test_a_storm_of_hangups(daemon: Live) -> None:
    """A thousand in a second, the configuration changing and broken in between: few reloads, the last one counts."""
    daemon.start()
    assert daemon.process
    offend = viruses(SENDER, 1)
    daemon.write(offend)
    pid = daemon.status()["pid"]
    good = daemon.conf.read_text()
    for number in range(1000):
        if number % 10 == 0:
            daemon.conf.write_text(good[: random.randrange(len(good))] if number % 20 else f"{good}# {number}\n")
        daemon.process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    last = good.replace("ban 6h", "ban 7h")
    for mode in ("watch", "enforce"):
        daemon.conf.write_text(last.replace("[daemon]", f"[daemon]\nmode = {mode}"))
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.status()["mode"] == mode and daemon.status()["ready"], f"the last one: {mode}")  # noqa: B023
    daemon.write(viruses(SENDER, 1) + viruses(OTHER, 2))
    until(lambda: daemon.held() == {SENDER, OTHER}, "bans, one of a hit from before the storm")
    until(lambda: {ban["until"] - ban["since"] for ban in daemon.json("list")} == {7 * 3600.0}, "by the last policy")
    said = daemon.errors.read_text()
    assert said.count(": reloading") + said.count("not reloaded") < 60
    assert daemon.status()["pid"] == pid
    assert "Traceback" not in said


def test_stopped_for_a_while(daemon: Live) -> None:
    daemon.start()
    assert daemon.process
    pid = int(daemon.status()["pid"])
    os.kill(pid, signal.SIGSTOP)
    daemon.write(viruses(SENDER, 2))
    asking = subprocess.Popen(daemon.command("list"), stdout=subprocess.PIPE, text=True)
    for number in range(3):  # the log is rotated meanwhile, more often than old files are kept open
        daemon.log.rename(f"{daemon.log}.{9 - number}")
        daemon.write(viruses(f"198.51.100.{number}", 2))
        time.sleep(0.05)
    assert daemon.held() == set()
    os.kill(pid, signal.SIGCONT)
    until(lambda: daemon.held() == {SENDER, *(f"198.51.100.{n}" for n in range(3))}, "what came meanwhile")
    assert "ADDRESS" in asking.communicate()[0] or asking.returncode == 0


HANGS = '''
"""hang: an action whose verbs do not return while a file is there."""
import os, time
from denyspam.events import Held
class Hang:
    def __init__(self, **keywords):
        self.path, self.bans = os.path.join(os.path.dirname(__file__), "hung"), {}
    def wait(self):
        while os.path.exists(self.path):
            time.sleep(0.01)
    def start(self):
        self.wait()
        return []
    def ban(self, bans, now):
        self.wait()
        self.bans.update((ban.target, ban) for ban in bans)
    def release(self, targets):
        self.wait()
        for target in targets:
            self.bans.pop(target, None)
    def held(self):
        self.wait()
        return [Held(target, 1.0) for target in self.bans]
    def stop(self, keep):
        self.wait()
'''


def test_an_action_that_hangs(daemon: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are answered, the fault is said, what was ordered is carried out when it goes on, a stop is a stop."""
    actions = daemon.folder / "actions"  # a package of somebody's, as pip would install it
    hung = actions / "hung"
    (actions / "hang-1.dist-info").mkdir(parents=True)
    (actions / "hang-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hang\nVersion: 1\n")
    (actions / "hang-1.dist-info" / "entry_points.txt").write_text("[denyspam.actions]\nhang = hang:Hang\n")
    (actions / "hang.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(actions))
    daemon.configure(policy=POLICY, action="hang")
    daemon.start()
    hung.touch()
    daemon.write(viruses(SENDER, 2))
    until(lambda: daemon.status()["pending"] == 1, "the decision")
    began = time.monotonic()
    until(lambda: "no answer" in str(daemon.status()["firewall"]["fault"]), "the fault")
    assert time.monotonic() - began < 50
    assert daemon.ask("ban", OTHER).returncode == 0
    assert daemon.ask("why", SENDER).returncode == 0
    assert daemon.json("why", SENDER)["kernel"] is None
    hung.unlink()
    until(lambda: daemon.status()["pending"] == 0, "both are taken")
    assert daemon.status()["firewall"]["fault"] is None
    hung.touch()
    daemon.write(viruses(THIRD, 2))
    until(lambda: daemon.status()["pending"] == 1, "the decision")
    assert daemon.stop() == 0  # with the thread still hanging
    until(lambda: "stopped" in daemon.errors.read_text(), "its last word")


def test_two_that_enforce(daemon: Live, network: Network, tmp_path: Path) -> None:
    daemon.start()
    folder = tmp_path / "second"
    folder.mkdir()
    with live(folder, network.server) as second:
        second.log.touch()
        second.launch()
        assert second.process is not None and daemon.process is not None
        assert second.process.wait(PATIENCE) == 69
        assert f"another denyspam (pid {daemon.process.pid})" in second.errors.read_text()
        second.configure(mode="watch")
        second.start()
        second.configure()
        second.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded, going on as before: another denyspam" in second.errors.read_text(), "the refusal")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.errors.read_text().count("ready: ") == 2, "a reload keeps what it has")
        daemon.stop(signal.SIGKILL)
        second.process.send_signal(signal.SIGHUP)
        until(lambda: "action nftables" in second.errors.read_text(), "its turn")


def test_two_daemons_on_one_folder(daemon: Live) -> None:
    daemon.folder.joinpath("state").mkdir()
    many = [subprocess.Popen(daemon.command("run"), stderr=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        until(lambda: sum(each.poll() is None for each in many) == 1, "one is left")
        lost = [each for each in many if each.poll() is not None]
        assert {each.returncode for each in lost} == {69}
        for each in lost:
            assert "another denyspam" in each.communicate()[1]
        daemon.write([])
        until(lambda: daemon.status()["ready"], "the one is ready")
        daemon.write(viruses(SENDER, 2))
        until(lambda: daemon.held() == {SENDER}, "and bans")
    finally:
        for each in many:
            if each.poll() is None:
                each.terminate()
                each.communicate()


def test_others_are_answered_in_the_midst_of_it(daemon: Live) -> None:
    """Peers that come, fill and go all the time, from several threads, while commands and bans go on."""
    daemon.start()
    over = threading.Event()

    def bother(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            with suppress(OSError), ExitStack() as stack:
                for _ in range(40):
                    peer = stack.enter_context(connected(daemon))
                    peer.sendall(chance.choice((b"", b"{", b"x" * 50_000, b'{"command": "list"}\n', b"\xff\n")))

    threads = [threading.Thread(target=bother, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            answered(daemon)
            daemon.write(viruses(f"198.51.100.{number}", 2))
        until(lambda: daemon.held() == {f"198.51.100.{n}" for n in range(5)}, "the bans")
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_reloads_keep_no_memory(daemon: Live) -> None:
    daemon.start()
    assert daemon.process
    pid = daemon.status()["pid"]
    daemon.write([virus(f"10.0.{n >> 8}.{n & 255}", time.time(), f"4X{n:08X}") for n in range(30_000)])
    until(lambda: daemon.status()["events"].get("virus") == {"postfix": 30_000}, "all read")
    resident = []
    for number in range(4):
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.errors.read_text().count(": ready:") == number + 2, "ready again")  # noqa: B023
        status = Path(f"/proc/{pid}/status").read_text()
        resident.append(int(next(line for line in status.splitlines() if "VmRSS" in line).split()[1]))
    assert resident[-1] < 1.1 * resident[0], resident
