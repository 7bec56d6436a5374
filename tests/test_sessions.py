"""The session closer on real connections: the banned's end at once, all others stay."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network

import pytest
from netns import Network, inside, skipping

from denyspam import sessions
from denyspam.events import ActionError, Target

pytestmark = pytest.mark.root
PATIENCE = 20.0


def target(network: str, *ports: int) -> Target:
    return Target(ip_network(network), ports or (25,))


class Session:
    """A client's open connection, and the server's end of it."""

    def __init__(self, listener: socket.socket, source: str) -> None:
        self.source, self.port = source, listener.getsockname()[1]
        destination = "127.0.0.1" if "." in source else "::1"
        self.client = socket.create_connection((destination, self.port), PATIENCE, (source, 0))
        self.server = listener.accept()[0]
        self.server.settimeout(PATIENCE)

    def ended(self) -> bool:
        """As the server's process sees it: its read fails at once."""
        try:
            self.server.recv(1)
            return False
        except ConnectionAbortedError:
            return True

    def alive(self) -> bool:
        """A byte goes through, both ways."""
        self.client.sendall(b"x")
        self.server.sendall(b"y")
        return self.server.recv(1) == b"x" and self.client.recv(1) == b"y"

    def close(self) -> None:
        self.client.close()
        self.server.close()


@contextmanager
def opened(ports: Sequence[int], sources: Sequence[str], family: int = socket.AF_INET6) -> Iterator[list[Session]]:
    """A session to each port from each source; the listeners are dual-stack for AF_INET6."""
    with ExitStack() as stack:
        found: list[Session] = []
        for port in ports:
            listener = stack.enter_context(socket.socket(family))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", port))
            listener.listen(1000)
            for source in sources:
                found.append(Session(listener, source))
                stack.callback(found[-1].close)
        yield found


@pytest.fixture
def bare() -> Iterator[Network]:
    """The namespaces with no listener of their own."""
    yield from skipping(Network(ports=()))


def lanes(*hosts: str) -> None:
    """More IPv6 addresses on loopback; 127.0.0.0/8 is there."""
    for host in hosts:
        subprocess.run(["ip", "addr", "add", f"{host}/128", "dev", "lo", "nodad"], check=True)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "dual-stack"])
@pytest.mark.parametrize("network", ["127.0.0.7", "127.0.0.4/30"])
@inside
def test_the_banned_session_ends_and_no_other(bare: Network, network: str, family: int) -> None:
    with opened((25, 587), ("127.0.0.7", "127.0.0.8"), family) as (banned, innocent, *submission):
        assert sessions.close([target(network)]) == 1
        assert banned.ended()
        with pytest.raises(ConnectionResetError):
            banned.client.recv(1)
        assert innocent.alive()
        assert [each.alive() for each in submission] == [True, True]
        assert sessions.close([target(network)]) == 0, "there is nothing left to end"


@inside
def test_ipv6_by_width(bare: Network) -> None:
    lanes("fd00:1::1", "fd00:1::2", "fd00:2::1")
    with opened((25,), ("fd00:1::1", "fd00:1::2", "fd00:2::1", "127.0.0.7")) as (first, second, other, ipv4):
        assert sessions.close([target("fd00:1::2/128")]) == 1
        assert second.ended() and first.alive()
        assert sessions.close([target("fd00:1::/64")]) == 1
        assert first.ended() and other.alive() and ipv4.alive()


@inside
def test_everybody_and_nobody(bare: Network) -> None:
    lanes("fd00:1::1")
    with opened((25,), ("127.0.0.7", "fd00:1::1")) as (ipv4, ipv6):
        assert sessions.close([]) == sessions.close(iter([target("127.0.0.7", 465)])) == 0
        assert sessions.close([target("::/0")]) == 1
        assert ipv6.ended() and ipv4.alive()
        assert sessions.close([target("0.0.0.0/0")]) == 1
        assert ipv4.ended()


@inside
def test_several_port_lists(bare: Network) -> None:
    with opened((24, 25, 26, 465, 587, 588), ("127.0.0.7", "127.0.0.8")) as found:
        assert sessions.close([target("127.0.0.7", 465, 587), target("127.0.0.8", 25, 465)]) == 4
        gone = {(each.source, each.port) for each in found if each.port in (25, 465, 587) and not _quiet(each)}
        assert gone == {("127.0.0.7", 465), ("127.0.0.7", 587), ("127.0.0.8", 25), ("127.0.0.8", 465)}
        assert all(each.alive() for each in found if (each.source, each.port) not in gone)


def _quiet(session: Session) -> bool:
    """Open, with nothing to read."""
    session.server.setblocking(False)
    try:
        session.server.recv(1)
    except BlockingIOError:
        session.server.settimeout(PATIENCE)
        return True
    except ConnectionAbortedError:
        return False
    raise AssertionError("the client said something")


@inside
def test_our_own_connections_to_their_port_25_stay(bare: Network) -> None:
    # We are the client here: the offender's host runs a mail server too, and we deliver to it. Of this connection our
    # socket's remote address is the banned one, but the banned port is not ours.
    holder = bare.client.popen(["python3", "-c", SERVER], stdin=-1, stdout=-1, bufsize=0)
    try:
        assert holder.stdin and holder.stdout and holder.stdout.readline() == b"listening\n"
        with socket.create_connection(("192.0.2.10", 25), PATIENCE) as ours:
            assert sessions.close([target("192.0.2.10"), target("192.0.2.0/24"), target("0.0.0.0/0")]) == 0
            ours.sendall(b"EHLO\n")
            assert ours.recv(5) == b"EHLO\n"
    finally:
        holder.kill()
        holder.communicate()


SERVER = """
import socket
listener = socket.create_server(("192.0.2.10", 25))
print("listening", flush=True)
session = listener.accept()[0]
while data := session.recv(100):
    session.sendall(data)
"""


@inside
def test_half_closed_sessions_end_too(bare: Network) -> None:
    with opened((25,), ("127.0.0.7", "127.0.0.8")) as (theirs, ours):
        theirs.client.shutdown(socket.SHUT_WR)  # CLOSE_WAIT at the server
        ours.server.shutdown(socket.SHUT_WR)  # FIN_WAIT at the server
        assert theirs.server.recv(1) == b""
        assert sessions.close([target("127.0.0.7"), target("127.0.0.8")]) == 2
        with pytest.raises(OSError):
            theirs.server.sendall(b"221 bye")
        assert ours.ended()


@inside
def test_many_sockets_and_many_targets(bare: Network) -> None:
    sources = [f"127.1.{number >> 8}.{number & 255}" for number in range(400)]
    strangers = [target(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in range(20_000)]
    with opened((25, 587), sources) as found:
        assert sessions.close([*strangers, *map(target, sources[:350]), *map(target, sources[:10])]) == 350
        assert all(each.ended() for each in found[:350])
        assert all(each.alive() for each in found[350:])


@inside
def test_not_permitted(bare: Network) -> None:
    with opened((25,), ("127.0.0.7",)) as (session,):
        # In a user namespace of its own this child has no privilege over the network namespace it is in.
        if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
            if os.geteuid():
                pytest.skip("neither a user namespace nor another user to be had")
            os.setuid(65534)
        assert sessions.close([target("127.0.0.9")]) == 0, "nothing to end, nothing to complain of"
        with pytest.raises(ActionError, match="cannot be ended: not permitted: it takes CAP_NET_ADMIN") as caught:
            sessions.close([target("127.0.0.7")])
        assert caught.value.permanent
        assert session.alive()


def test_what_a_kernel_without_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every kernel at hand has socket listing; another netlink protocol number that none has stands for one without.
    monkeypatch.setattr(sessions, "NETLINK_SOCK_DIAG", 31)
    with pytest.raises(ActionError, match="no socket listing: load the module inet_diag") as caught:
        sessions.close([target("127.0.0.7")])
    assert caught.value.permanent
