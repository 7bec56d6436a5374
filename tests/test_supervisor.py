"""What the supervisor is told: by the module, and by a real daemon that runs as the unit has it run."""

from __future__ import annotations

import asyncio
import grp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import DENYSPAM, PATIENCE, Live, live, stamp, until, virus, viruses
from netns import CLIENTS4, SERVER4, Network

from denyspam.supervisor import beat, interval, reloading, tell

ROOT = Path(__file__).parent.parent
NOBODY = 64_919  # a user id that no host gives to anybody


class Supervisor:
    """systemd's end of the socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(PATIENCE)

    def next(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(65_536).decode().split("\n"))

    def until(self, **wanted: str) -> dict[str, str]:
        """The next message in which each of these stands."""
        while True:
            told = self.next()
            if all(re.search(text, told.get(key, "")) for key, text in wanted.items()):
                return told


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def test_one_datagram_of_lines(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    tell(READY="1", STATUS="a log\nREADY=0\x00 and more")
    assert supervisor.next() == {"READY": "1", "STATUS": "a log READY=0\x00 and more"}


def test_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"denyspam-test-{os.getpid()}"
    supervisor = Supervisor(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    reloading()
    told = supervisor.next()
    assert told["RELOADING"] == "1"
    assert abs(int(told["MONOTONIC_USEC"]) - time.monotonic_ns() // 1000) < PATIENCE * 1e6
    supervisor.socket.close()


@pytest.mark.parametrize("path", [None, "", "relative", "/nowhere/at/all", "/dev/null"])
def test_nobody_listens(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if path is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    tell(READY="1")


def test_a_full_queue_holds_nobody_up(supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    for _ in range(5000):
        tell(WATCHDOG="1")


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [("", "", 5.0), ("3000000", "self", 1.0), ("3000000", "1", 5.0), ("600000000", "self", 5.0), ("x", "self", 5.0)],
)
def test_three_signs_of_life_in_the_watchdogs_time(
    microseconds: str, pid: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "self" else pid)
    assert interval() == seconds


def test_the_beat_goes_on_and_ends_without_a_supervisor(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    asyncio.run(beat(lambda: "unasked"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))

    async def some() -> None:
        beating = asyncio.create_task(beat(lambda: "well"))
        while len(told) < 3:
            told.append(await asyncio.to_thread(supervisor.next))
        beating.cancel()

    told: list[dict[str, str]] = []
    asyncio.run(some())
    assert told == [{"WATCHDOG": "1", "STATUS": "well"}] * 3


# --- the daemon as the unit runs it


def as_the_unit_has_it(daemon: Live) -> list[str]:
    """`denyspam run` as a user who holds what the unit's AmbientCapabilities= grants, in the group of the logs."""
    unit = (ROOT / "etc/denyspam.service").read_text(encoding="utf-8")
    (granted,) = re.findall(r"^AmbientCapabilities=(.*)$", unit, re.M)
    assert re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.M) == [granted]
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in granted.split())
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={grp.getgrnam('adm').gr_gid}"]
    user += [f"--inh-caps=-all,{names}", f"--ambient-caps=-all,{names}", f"--bounding-set=-all,{names}"]
    assert daemon.namespace
    run = [*DENYSPAM, "run", "-c", str(daemon.conf)]
    return [*daemon.namespace.prefix, *user, "--no-new-privs", "--", *run]


@pytest.fixture
def confined(tmp_path: Path, network: Network) -> Iterator[Live]:
    """A daemon's folder as the unit and Debian's rsyslog make it: the state its own, the log root's and adm's."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("to become another user takes root and setpriv (util-linux)")
    place = Path("/tmp") / f"denyspam-{tmp_path.parent.name}-{tmp_path.name}-{os.getpid()}"  # pytest's own is 0700
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    probe = subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-c", "import denyspam"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode != 0:
        pytest.skip("another user cannot read this checkout")
    for name in ("state", "run"):
        (place / name).mkdir(mode=0o750)
        os.chown(place / name, NOBODY, NOBODY)
    with live(place, network.server) as made:
        made.configure(socket=str(place / "run/sock"))
        made.log.touch()
        os.chown(made.log, 0, grp.getgrnam("adm").gr_gid)
        made.log.chmod(0o640)
        yield made
    shutil.rmtree(place)


def test_as_a_user_with_one_capability(confined: Live, network: Network) -> None:
    """The whole job: nftables, the news of it, the open sessions, inotify, the ledger, the socket; and systemd told."""
    path = confined.folder / "notify"
    supervisor = Supervisor(str(path))
    path.chmod(0o777)
    environment = {**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
    with confined.errors.open("ab") as errors:
        confined.process = subprocess.Popen(as_the_unit_has_it(confined), stderr=errors, env=environment)
    supervisor.until(READY="1", STATUS="holding 0 bans, reading 1 log")
    status = Path(f"/proc/{confined.process.pid}/status").read_text()
    assert re.search(rf"^Uid:\t{NOBODY}\t{NOBODY}", status, re.M)
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\t(\w+)", status, re.M) == [f"{1 << 12:016x}"] * 4, "CAP_NET_ADMIN"
    until(lambda: confined.ask("status").returncode == 0, "ready")
    sender = CLIENTS4[0]
    confined.write(viruses(sender, 4))
    assert network.connects(SERVER4, 25, sender)
    confined.write([virus(sender, time.time(), "FIFTH5")])
    until(lambda: confined.held() == {sender}, "the ban")
    assert not network.connects(SERVER4, 25, sender)
    supervisor.until(WATCHDOG="1", STATUS="holding 1 ban, reading 1 log")
    network.server.check("nft", "delete", "table", "inet", "denyspam")
    until(lambda: confined.json("status")["firewall"]["repairs"] == 1, "the table is made anew")
    confined.process.send_signal(signal.SIGHUP)
    supervisor.until(RELOADING="1", MONOTONIC_USEC=r"^\d+$")
    supervisor.until(READY="1")
    assert confined.stop() == 0
    supervisor.until(STOPPING="1")
    said = confined.errors.read_text()
    assert not re.search("not permitted|cannot|refused,", said), said
    assert {each.stat().st_uid for each in (confined.folder / "state").iterdir()} == {NOBODY}
    # Root's `flush` without the daemon leaves a ledger that the daemon can go on with.
    assert "released 1 ban" in confined.ask("flush").stdout
    assert confined.held() == set()
    assert {each.stat().st_uid for each in (confined.folder / "state").iterdir()} == {NOBODY}
    supervisor.socket.close()


def test_flush_follows_no_link_of_the_daemons_user(confined: Live, tmp_path: Path) -> None:
    """Whoever took over the daemon's user must not have root write elsewhere."""
    target = tmp_path / "roots"
    target.mkdir(mode=0o700)
    for name in ("ledger.db", "lock"):
        (confined.folder / "state" / name).unlink(missing_ok=True)
        (confined.folder / "state" / name).symlink_to(target / name)
        assert confined.ask("flush").returncode != 0
        assert list(target.iterdir()) == []
        (confined.folder / "state" / name).unlink()


def test_the_mail_server_does_not_wait_for_the_log(confined: Live, supervisor: Supervisor, tmp_path: Path) -> None:
    """systemd hears READY once the bans are in the kernel, while a log of minutes is still being read."""
    dull = f"{stamp(time.time())} mx postfix/smtpd[1]: connect from unknown[{CLIENTS4[0]}], and more words than it has"
    confined.write([dull] * 200_000)  # more than is read before the loop turns
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    confined.process = subprocess.Popen(
        confined.command("run"), stderr=confined.errors.open("ab"), env=environment, stdin=subprocess.DEVNULL
    )
    told = supervisor.until(READY="1")
    assert "reading up on the logs" in told["STATUS"]
    supervisor.until(STATUS=r"^holding \d+ bans?, reading 1 log$")
