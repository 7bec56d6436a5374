"""The whole of it, for real: a running mail server, its growing log, the daemon, the kernel, and clients that connect.

Each server runs in a network of its own (`servers.world`), the daemon beside it in the same network; attackers and
partners stand outside. A client is banned when its address stands in the kernel's set and its next connect to port 25
fails. Every test has attackers of its own; the partners are everybody's.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from servers import attack, world
from servers.attack import Act
from servers.world import World

pytestmark = pytest.mark.servers

DENYSPAM = str(Path(sys.executable).with_name("denyspam"))
PATIENCE = 30.0  # seconds for what takes milliseconds on an idle machine
CONFIGURATION = """\
[daemon]
state  = {state}
socket = {state}/socket
action = nftables
# Each act is checked against what its client was told: the session of the last one must not be ended before that.
end_sessions = no
[log {log}]
filters = auto
timezone = UTC
[policy]
virus  = 5 in 15m -> ban 1h
relay  = 5 in 15m -> ban 1h
reject = 20 in 15m -> ban 1h
"""


@dataclass(frozen=True)
class Host:
    """A mail host: the server, and the daemon that reads its log."""

    world: World
    configuration: Path

    def denyspam(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command, as an administrator of this host types it."""
        command = self.world.nsenter(DENYSPAM, *words, "-c", str(self.configuration))
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def in_kernel(self, address: str) -> bool:
        """Whether the address stands in a set of the firewall."""
        command = self.world.nsenter("nft", "list", "table", "inet", "denyspam")
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.search(rf"(?<![\w.:]){re.escape(address)}(?![\w.:])", table) is not None

    def opens(self, source: str, port: int) -> bool:
        """Whether a connect succeeds (and the server greets)."""
        with contextlib.suppress(OSError), self.world.connect(source, port, patience=3) as peer:
            peer.settimeout(PATIENCE)
            return peer.recv(200).startswith(b"220")
        return False

    def delivers(self, source: str) -> bool:
        """Whether a legitimate message from there is taken."""
        try:
            attack.deliver(1)(self.world, source)
        except OSError:
            return False
        return True

    def commits(self, source: str, act: Act, kind: str, times: int) -> None:
        """Lets `source` act, and sees to it that the server refused exactly so often."""
        assert act(self.world, source) == {kind: times}


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module", params=world.SERVERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One of the servers with the daemon, ready; at the end nothing of it is left."""
    reason = world.missing() or (None if shutil.which("nft") else "not installed: nft")
    if reason:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp(request.param)
    server = World(request.param, directory)
    try:
        server.start()
    except world.Unavailable as error:
        pytest.skip(str(error))
    try:
        with _daemon(server, directory) as running:
            yield running
    finally:
        pid = server.pid
        server.stop()
        assert not Path(f"/proc/{pid}").exists()


@contextlib.contextmanager
def _daemon(server: World, directory: Path) -> Iterator[Host]:
    configuration = directory / "denyspam.conf"
    state = directory / "state"
    state.mkdir()
    configuration.write_text(CONFIGURATION.format(state=state, log=server.log()))
    host = Host(server, configuration)
    said = directory / "daemon.log"
    with said.open("w") as out:
        command = server.nsenter(DENYSPAM, "run", "-c", str(configuration))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        ready = eventually(lambda: process.poll() is not None or host.denyspam("status").returncode == 0)
        assert ready, said.read_text()
        assert process.poll() is None, said.read_text()
        yield host
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, said.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("network", ["10.77.0.", "fd77::"], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", ["virus", "relay"])
def test_the_fifth_offence_bans_and_a_release_lifts(host: Host, kind: str, network: str) -> None:
    act: Callable[[int], Act] = attack.virus if kind == "virus" else attack.relay
    hosts = {"virus": ("50", "52"), "relay": ("51", "53")}[kind]  # the latter without a name
    four, five, partner = (network + number for number in (*hosts, "80"))
    host.commits(four, act(4), kind, 4)
    host.commits(five, act(4), kind, 4)
    assert host.opens(five, 25)
    host.commits(five, act(1), kind, 1)

    assert eventually(lambda: host.in_kernel(five))
    assert not host.opens(five, 25)
    assert host.opens(five, 587)
    assert not host.in_kernel(four)  # its lines stand before those of the one that is banned
    assert host.opens(four, 25)
    assert host.delivers(partner)
    banned = json.loads(host.denyspam("list", "--json").stdout)
    assert [(ban["rule"], ban["hits"]) for ban in banned if ban["address"] == five] == [(kind, 5)]
    assert host.denyspam("why", five).returncode == 0

    assert host.denyspam("release", five).returncode == 0
    assert eventually(lambda: not host.in_kernel(five))
    assert host.opens(five, 25)


def test_the_hosts_of_one_64_are_one(host: Host) -> None:
    host.commits("fd78:0:0:1::10", attack.relay(3), "relay", 3)
    host.commits("fd78:0:0:1::11", attack.relay(2), "relay", 2)
    assert eventually(lambda: not host.opens("fd78:0:0:1::11", 25))
    assert not host.opens("fd78:0:0:1::10", 25)
    assert host.opens("fd78:0:0:1::10", 587)
    assert host.delivers("fd78:0:0:2::10")


def test_what_a_client_writes_bans_nobody_else(host: Host) -> None:
    for row in attack.BAD:
        if "hostile" in row.act and host.world.server in row.servers:
            with contextlib.suppress(OSError):  # refused, before it has done its worst
                row.do(host.world, row.source)
            if row.act in {"relay, hostile sender", "virus, hostile subject"}:
                assert eventually(partial(host.in_kernel, row.source)), row.act
    assert not host.in_kernel(attack.VICTIM)
    assert host.delivers(attack.VICTIM)


TELL = """
from denyspam.digest import Digest
from denyspam.events import Ban, Event, Target
from denyspam.notify import mail
from denyspam.settings import NotifySettings
line = b"\\r\\n.\\r\\nRSET\\r\\nBcc: bob@example.test\\r\\n" + b"\\xff" * 900
event = Event(1.0, "virus", "203.0.113.9", "postfix", None, None, "/l", 0, 1, line)
digest = Digest()
digest.bans([Ban(Target.named("203.0.113.9", (25,)), "virus", 1.0, 2.0, 5, (event,))] * 100, {}, 1.0)
settings = NotifySettings(mail=("alice@example.test",), author="alice@example.test", server=("10.77.0.1", 25))
mail(settings, digest, "enforce")
"""


def test_a_notification_is_taken(host: Host) -> None:
    """By the server itself, as the daemon hands it over; on the address that all of these listen on."""
    done = subprocess.run(
        host.world.nsenter(sys.executable, "-c", TELL), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert eventually(lambda: ".denyspam@" in host.world.log().read_text(errors="replace"))


def test_nobody_else_was_banned(host: Host) -> None:
    banned = {ban["address"] for ban in json.loads(host.denyspam("list", "--json").stdout)}
    partners = {row.source for row in attack.GOOD}
    assert not banned & partners
    assert not [source for source in partners if host.in_kernel(source)]
    assert all(host.delivers(source) for source in ("10.77.0.80", attack.VICTIM, "fd77::80"))


def test_a_killed_test_run_leaves_nothing_behind(tmp_path: Path) -> None:
    reason = world.missing()
    if reason:
        pytest.skip(reason)
    script = f"""
import signal
from servers.world import World
world = World("exim", {str(tmp_path)!r})
world.start()
print(world.pid, flush=True)
signal.pause()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        first = run.stdout.readline()
        run.kill()
    assert first, "the world did not start"
    assert eventually(lambda: not Path(f"/proc/{int(first)}").exists())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
