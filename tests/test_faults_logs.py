"""Faults of logs: rotated all the time, fifty at once, other things in their place, unreadable, full of garbage.

Real files that others rename, copy, cut and forbid, under a daemon that is a process of its own. Short here;
DENYSPAM_ROTATIONS sets how often the logs are rotated. What comes of each fault stands in docs/faults.md.
"""

from __future__ import annotations

import gzip
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from live import Live, events, offend, until, virus, viruses
from netns import CLIENTS4

from denyspam import control

SENDER, OTHER, THIRD = CLIENTS4[:3]
ROTATIONS = int(os.environ.get("DENYSPAM_ROTATIONS", "25"))
EVERY = 0.6  # seconds: a hundred a minute
POLICY = "virus = 2 in 15m -> ban 6h\n"
KEEPS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")  # then modes hold for root too


@pytest.fixture
def daemon(daemon: Live) -> Live:
    daemon.configure(policy=POLICY)
    return daemon


class Writer:
    """A mail server's log under load: every line an offence of its own id, so that each is counted once or missed.

    `rotate` is called between two writes, `every` seconds; it returns the file to go on with.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.count = 0
        self.file = log.open("ab", buffering=0)

    def write(self, lines: int) -> None:
        now = time.time()
        text = "".join(f"{virus(f'10.0.{n >> 8 & 255}.{n & 255}', now, f'4X{n:08X}')}\n" for n in self._next(lines))
        data = text.encode()
        cut = random.randrange(1, len(data))  # a writer's buffer ends anywhere
        self.file.write(data[:cut])
        self.file.write(data[cut:])

    def _next(self, lines: int) -> range:
        first, self.count = self.count, self.count + lines
        return range(first, self.count)

    def rename(self, number: int) -> None:
        """logrotate with `create` and `delaycompress`: the old name is written to for a while, and compressed later."""
        for age in (3, 2):
            old = self.log.with_name(f"mail.log.{age - 1}" + (".gz" if age > 2 else ""))
            if old.exists():
                new = self.log.with_name(f"mail.log.{age}.gz")
                if old.suffix == ".gz":
                    old.rename(new)
                else:
                    with old.open("rb") as source, gzip.open(f"{new}.tmp", "wb", 1) as target:
                        shutil.copyfileobj(source, target)
                    status = old.stat()
                    os.utime(f"{new}.tmp", ns=(status.st_atime_ns, status.st_mtime_ns))
                    os.rename(f"{new}.tmp", new)
                    old.unlink()
        self.log.rename(self.log.with_name("mail.log.1"))
        self.write(20)  # into the renamed one
        self.file.close()
        self.file = self.log.open("ab", buffering=0)

    def copytruncate(self, number: int) -> None:
        """With the writer waiting: what is written between the copy and the cut is lost by copytruncate itself."""
        shutil.copyfile(self.log, self.log.with_name("mail.log.1"))
        os.truncate(self.log, 0)


@pytest.mark.parametrize("how", ["rename", "copytruncate"])
def test_rotated_a_hundred_times_a_minute_under_load(daemon: Live, how: str) -> None:
    daemon.configure(policy="virus = 10000 in 15m -> ban 1h\n")
    writer = Writer(daemon.log)
    daemon.start()
    due = time.monotonic() + EVERY
    for number in range(ROTATIONS):
        while time.monotonic() < due:
            writer.write(50)
            time.sleep(0.02)
        due += EVERY
        getattr(writer, how)(number)
    writer.write(50)
    until(lambda: events(daemon) >= writer.count, f"all {writer.count} lines")
    time.sleep(1.5)  # were one read twice, it would be now
    assert events(daemon) == writer.count
    (log,) = daemon.status()["logs"].values()
    assert log["lost"] == 0


def test_copytruncate_under_a_writer_that_does_not_wait(daemon: Live) -> None:
    """What came between the copy and the cut is gone, by copytruncate's own nature; nothing is counted twice."""
    daemon.configure(policy="virus = 10000 in 15m -> ban 1h\n")
    writer = Writer(daemon.log)
    daemon.start()
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.002):
            writer.write(20)

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(10):
        time.sleep(EVERY / 2)
        writer.copytruncate(number)
    over.set()
    thread.join()
    before = writer.count
    writer.write(100)

    def read() -> bool:
        (log,) = daemon.status()["logs"].values()
        return bool(log["position"] == log["size"] and not log["behind"])

    until(read, "the end of the log")
    assert 0.5 * before < events(daemon) <= writer.count
    assert "Traceback" not in daemon.errors.read_text()


def test_fifty_logs_at_once(daemon: Live) -> None:
    logs = [daemon.folder / f"mail{number}.log" for number in range(50)]
    for log in logs:
        log.touch()
    text = "".join(f"[log {log}]\nfilters = postfix\ntimezone = UTC\n" for log in logs)
    daemon.conf.write_text(
        daemon.conf.read_text().replace(f"[log {daemon.log}]\nfilters = postfix\ntimezone = UTC\n", text)
    )
    daemon.start()
    for number, log in enumerate(logs):
        offend(log, f"198.51.100.{number}", 1)
        offend(log, "203.0.113.7", 1)
    until(lambda: events(daemon) >= 51, "the events of all")
    for log in logs:
        log.rename(f"{log}.1")
    for number, log in enumerate(logs):
        offend(log, f"198.51.100.{number}", 1)
    wanted = {"203.0.113.7", *(f"198.51.100.{number}" for number in range(50))}
    until(lambda: daemon.held() == wanted, "the second hits, of another file")
    assert daemon.process
    descriptors = len(os.listdir(f"/proc/{_pid(daemon)}/fd"))
    assert descriptors < 50 * 3 + 40
    daemon.stop()
    for log in logs:
        offend(log, "203.0.113.8", 1)
    daemon.start()
    until(lambda: daemon.held() == {*wanted, "203.0.113.8"}, "what came meanwhile")


def _pid(daemon: Live) -> int:
    return int(daemon.status()["pid"])


def test_other_things_in_the_logs_place(daemon: Live) -> None:
    daemon.configure(policy="virus = 3 in 15m -> ban 6h\n")
    elsewhere = daemon.folder / "elsewhere"
    elsewhere.mkdir()
    daemon.start()
    addresses = iter(range(1, 250))
    banned: set[str] = set()
    for what in ("a link", "a FIFO", "a folder", "a device", "a link to itself", "a socket"):
        address = f"198.51.100.{next(addresses)}"
        offend(daemon.log, address, 2)
        moved = daemon.folder / f"mail.log.{int(time.time() * 1000)}"
        daemon.log.rename(moved)
        match what:
            case "a link":
                (elsewhere / "target").touch()
                daemon.log.symlink_to(elsewhere / "target")
            case "a FIFO":
                os.mkfifo(daemon.log)
            case "a folder":
                daemon.log.mkdir()
            case "a device":
                daemon.log.symlink_to("/dev/zero")
            case "a link to itself":
                daemon.log.symlink_to(daemon.log)
            case "a socket":
                _socket(daemon.log)
        if what == "a link":
            offend(daemon.log, address, 1)
        else:
            until(lambda: not next(iter(daemon.status()["logs"].values()))["present"], f"seen: {what}")
            offend(moved, address, 1)  # by the writer that has it open still
        banned.add(address)
        until(lambda: daemon.held() == banned, f"the third hit: {what}")
        if daemon.log.is_dir() and not daemon.log.is_symlink():
            daemon.log.rmdir()
        else:
            daemon.log.unlink()
        daemon.log.touch()
        until(lambda: next(iter(daemon.status()["logs"].values()))["present"], f"back after {what}")
    offend(daemon.log, SENDER, 3)
    until(lambda: SENDER in daemon.held(), "a plain file again")
    assert "Traceback" not in daemon.errors.read_text()


def _socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def test_permissions_taken_away_and_given_back(daemon: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.configure(policy="virus = 3 in 15m -> ban 6h\n")
    daemon.log.touch()
    plain = daemon.command
    at = len(daemon.namespace.prefix) if daemon.namespace else 0
    monkeypatch.setattr(daemon, "command", lambda *words: [*plain(*words)[:at], *KEEPS, *plain(*words)[at:]])
    daemon.start()
    offend(daemon.log, SENDER, 2)
    until(lambda: events(daemon) == 2, "two")
    daemon.log.chmod(0)
    subprocess.run(["sh", "-c", f"cat >> {daemon.log}"], check=True, text=True, input=f"{viruses(SENDER, 1)[0]}\n")
    until(lambda: daemon.held() == {SENDER}, "an open file is read on")
    # Rotated, and the new one forbidden: what it holds is read when it may be read.
    daemon.log.rename(f"{daemon.log}.1")
    daemon.log.touch(mode=0)
    subprocess.run(
        ["sh", "-c", f"cat >> {daemon.log}"], check=True, text=True, input="".join(f"{x}\n" for x in viruses(OTHER, 3))
    )
    until(lambda: not next(iter(daemon.status()["logs"].values()))["present"], "it cannot be read")
    daemon.log.chmod(0o640)
    until(lambda: daemon.held() == {SENDER, OTHER}, "it can be read again")
    # The folder above.
    folder = daemon.log.parent
    daemon.stop()
    daemon.log.chmod(0)
    refused = daemon.ask("run")
    assert (refused.returncode, "not permitted to read" in refused.stderr) == (77, True)
    daemon.log.chmod(0o640)
    daemon.start()
    assert folder.exists()
    assert daemon.held() == {SENDER, OTHER}


def test_no_descriptors_left(daemon: Live) -> None:
    """A limit reached while it runs: commands and new files wait, nothing is lost, nothing ends."""
    daemon.start()
    offend(daemon.log, SENDER, 1)
    until(lambda: events(daemon) == 1, "one")
    pid = _pid(daemon)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    daemon.log.rename(f"{daemon.log}.1")
    offend(Path(f"{daemon.log}.1"), SENDER, 1)  # by the writer that has it open
    offend(daemon.log, OTHER, 2)
    # The old file is read on; to tell the kernel takes a descriptor.
    until(lambda: f"banned {SENDER}" in daemon.errors.read_text(), "a decision")
    asking = subprocess.Popen(daemon.command("list"), stdout=subprocess.PIPE, text=True)
    until(lambda: "no more connections" in daemon.errors.read_text(), "a connection that waits")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    until(lambda: daemon.held() == {SENDER, OTHER}, "the new file")
    assert SENDER in asking.communicate()[0]
    assert _pid(daemon) == pid


def test_no_memory_left(daemon: Live) -> None:
    """It ends, and says so; the next start goes on where it was."""
    daemon.start()
    offend(daemon.log, SENDER)
    until(lambda: daemon.held() == {SENDER}, "the ban")
    pid = _pid(daemon)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * 4096, pages * 4096))
    lines = [virus(f"10.1.{n >> 9}.{n >> 1 & 255}", time.time(), f"4X{n:08X}") for n in range(40_000)]
    daemon.write(lines)
    assert daemon.process
    process = daemon.process
    until(lambda: process.poll() is not None or _active(daemon) == 20_001, "an end, or enough of it")
    if daemon.process.poll() is not None:
        assert daemon.process.returncode != 0
        assert "MemoryError" in daemon.errors.read_text() or "memory" in daemon.errors.read_text()
        daemon.start()
    until(lambda: daemon.status()["active"] == 20_001, "all decisions")
    until(lambda: len(daemon.held()) == 20_001, "all bans")


def _active(daemon: Live) -> int:
    """Bans, or -1 while nobody answers."""
    try:
        return int(control.ask(str(daemon.folder / "sock"), {"command": "status"})["ok"]["active"])
    except control.Unreachable:
        return -1


def test_garbage_in_the_log(daemon: Live) -> None:
    daemon.start()
    pid = _pid(daemon)
    chance = random.Random(3)
    with daemon.log.open("ab") as file:
        file.write(chance.randbytes(2_000_000) + b"\n")
        file.write(b"\xff\xfe\xc3\x28" * 1000 + b"\n" + b"\r\n" * 1000 + b"\0" * 1_000_000 + b"\n")
        for _ in range(100):
            file.write(b"x" * 1_000_000)  # a line of 100 MB
        file.write(b"\n")
    until(lambda: next(iter(daemon.status()["logs"].values()))["overlong"] >= 2, "the lines too long")
    with daemon.log.open("ab") as file:
        lines = viruses(SENDER, 2)
        file.write(f"{lines[0]}\r\n".encode() + b"\0" * 512 + b"\n" + f"{lines[1]}\r\n".encode())
        file.write(b"\xe9\xff " + f"{viruses(OTHER, 1)[0]}\n{viruses(OTHER, 1)[0]}\n".encode())
        # What a crash of the host leaves: a block of NULs in the place of lines, and the next line behind it.
        file.write(b"\0" * 4096 + f"{viruses(THIRD, 1)[0]}\n{viruses(THIRD, 1)[0]}\n{viruses(THIRD, 1)[0]}\n".encode())
    until(lambda: daemon.held() == {SENDER, THIRD}, "sound lines among it")
    most = int(next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in x).split()[1])
    assert most < 150_000  # kilobytes
    assert daemon.stop(signal.SIGTERM) == 0
