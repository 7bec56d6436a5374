"""Faults while bans arrive at full rate: at the end the kernel holds the ledger's open bans, and nothing crashed.

The faults are real: the ruleset flushed by somebody, a set too small (ENFILE), a table that another program owns
(EPERM). A system clock that jumps is made in the daemon's own process, where nothing but its clock is touched, since
this host has one clock. Short here; DENYSPAM_FAULTS sets the seconds that each fault lasts.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import live as lives
import pytest
from live import Live, until, virus
from netns import Namespace, Network

SECONDS = float(os.environ.get("DENYSPAM_FAULTS", "2"))
BETWEEN = 0.1  # seconds between two flushes
RATE = 50  # offenders a hundredth of a second
POLICY = "virus = 2 in 15m -> ban 6h\n"
TABLE = "inet denyspam"


class Flood(threading.Thread):
    """Offenders without end, each with two viruses."""

    def __init__(self, daemon: Live, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.count = 0
        self._daemon, self._clock = daemon, clock
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            now, first = self._clock(), self.count
            self.count += RATE
            self._daemon.write(
                [
                    virus(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", now, f"4X{number:08X}{hit}")
                    for number in range(first, self.count)
                    for hit in range(2)
                ]
            )

    def __enter__(self) -> Flood:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def daemon(daemon: Live) -> Live:
    daemon.configure(policy=POLICY)
    return daemon


def nft(server: Namespace, text: str) -> bool:
    return subprocess.run([*server.prefix, "nft", text], check=False, capture_output=True).returncode == 0


def open_bans(daemon: Live) -> dict[str, float]:
    """address -> until, of the ledger's open bans"""
    with sqlite3.connect(daemon.folder / "state" / "ledger.db") as ledger:
        return dict(ledger.execute("SELECT network, until FROM bans WHERE ended IS NULL AND state = 'active'"))


def agree(daemon: Live, count: int) -> None:
    """Once all is quiet, all were banned, and kernel and ledger say the same."""

    def quiet() -> bool:
        assert daemon.process is not None and daemon.process.poll() is None, daemon.errors.read_text()[-2000:]
        status = daemon.json("status")
        log, firewall = status["logs"][str(daemon.log)], status["firewall"]
        read = log["position"] == log["size"] and not status["pending"]
        return bool(read and not firewall["waiting"] and firewall["fault"] is None and status["active"] == count)

    until(quiet, f"{count} bans in force")
    until(lambda: daemon.held() == open_bans(daemon).keys(), "the kernel holds what the ledger says")
    assert len(open_bans(daemon)) == count
    assert "Traceback" not in daemon.errors.read_text()


def test_flushed_all_the_time(daemon: Live, network: Network) -> None:
    daemon.start()
    with Flood(daemon) as flood:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for harm in ("flush ruleset", f"delete table {TABLE}", f"flush set {TABLE} ipv4_32_ports_25"):
                nft(network.server, harm)
                time.sleep(BETWEEN)
    agree(daemon, flood.count)
    assert daemon.json("status")["firewall"]["repairs"] > 0


def test_a_full_set(daemon: Live, network: Network) -> None:
    daemon.start()
    small = (
        f"flush chain {TABLE} input; delete set {TABLE} ipv4_32_ports_25; "
        f"add set {TABLE} ipv4_32_ports_25 {{ type ipv4_addr; flags timeout; size 100; }}"
    )
    with Flood(daemon) as flood:
        until(lambda: nft(network.server, small), "a set that takes a hundred")
        until(lambda: "full" in str(daemon.json("status")["firewall"]["fault"]), "the set is full")
        time.sleep(SECONDS)
    assert len(daemon.held()) == 100
    assert nft(network.server, f"delete table {TABLE}")
    agree(daemon, flood.count)


def test_a_permission_lost_and_regained(daemon: Live, network: Network) -> None:
    daemon.start()
    command = [*network.server.prefix, "nft", "-i"]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with Flood(daemon) as flood, owner:
        assert owner.stdin

        def refused() -> bool:
            # Between the two commands the daemon may have mended its table: then again.
            assert owner.stdin
            owner.stdin.write(f"delete table {TABLE}; add table {TABLE} {{ flags owner; }}\n")
            owner.stdin.flush()
            return "not permitted" in str(daemon.json("status")["firewall"]["fault"])

        until(refused, "somebody else's table")
        time.sleep(SECONDS)
        owner.stdin.close()  # its table goes with it, and nobody announces that
        owner.wait()
    # It tries again within half a minute by itself; a command makes it try at once.
    assert daemon.ask("ban", "192.0.2.99").returncode == 0
    agree(daemon, flood.count + 1)


# A daemon whose clock is as many seconds off as a file says.
STEPPED = """
import sys, time
system, path = time.time, sys.argv.pop(1)
def stepped():
    with open(path) as file:
        return system() + float(file.read())
time.time = stepped
from denyspam.cli import main
main()
"""


@contextmanager
def stepped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    offset = folder / "offset"

    def step(seconds: float) -> None:
        (folder / "next").write_text(str(seconds))
        os.replace(folder / "next", offset)

    step(0)
    monkeypatch.setattr(lives, "DENYSPAM", (sys.executable, "-c", STEPPED, str(offset)))
    yield step


def test_the_clock_steps(daemon: Live, network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    off, steps = 0.0, 0
    with stepped(tmp_path, monkeypatch) as step:
        daemon.start()
        with Flood(daemon, lambda: time.time() + off):
            for off in (3600.0, 0.0, -3600.0, 86_400.0, -86_400.0):
                step(off)
                steps += 1
                until(lambda: daemon.errors.read_text().count("the clock was stepped") == steps, "the step was seen")  # noqa: B023
                time.sleep(SECONDS / 5)
        # How many depends on when it read what: stamps an hour ahead of its clock, from before a step, are no hits.
        until(lambda: _read(daemon), "the end of the log")
        before = daemon.json("status")["active"]
        daemon.write(
            [virus(f"198.51.100.{n}", time.time() + off, f"5X{n:08X}{hit}") for n in range(9) for hit in (1, 2)]
        )
        count = before + 9
        agree(daemon, count)
        left = _left(network.server)
        now = time.time() + off
        assert not {one for one, end in open_bans(daemon).items() if abs(left[one] - (end - now)) > 10}


def _read(daemon: Live) -> bool:
    log = daemon.json("status")["logs"][str(daemon.log)]
    return bool(log["position"] == log["size"])


def _left(server: Namespace) -> dict[str, float]:
    """address -> seconds left, as nft itself prints them"""
    units = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
    listed = server.check("nft", "list", "table", *TABLE.split())
    found = re.findall(r"([\d.]+) timeout \S+ expires (\S+?)[,\s]", listed)
    return {
        address: sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[dhms])", text))
        for address, text in found
    }
