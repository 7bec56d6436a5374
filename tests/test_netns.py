"""The private network is what it says, and leaves the namespace the tests started in alone."""

from __future__ import annotations

import os
import subprocess

import pytest
from netns import CLIENTS4, CLIENTS6, SERVER4, SERVER6, Namespace, Network, Unavailable, inside

pytestmark = pytest.mark.root


def interfaces() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_every_client_reaches_the_listener(network: Network) -> None:
    for source in CLIENTS4:
        assert network.connects(SERVER4, 25, source)
    for source in CLIENTS6:
        assert network.connects(SERVER6, 587, source)
    assert not network.connects(SERVER4, 26, CLIENTS4[0]), "nobody listens there"


def test_here_nothing_changes() -> None:
    before = interfaces(), os.readlink("/proc/self/ns/net")
    try:
        with Network() as network:
            inner = network.server.run(lambda: os.readlink("/proc/self/ns/net"))
            assert inner != before[1] != network.client.run(lambda: os.readlink("/proc/self/ns/net")) != inner
            network.server.check("ip", "link", "add", "other", "type", "veth")
            assert (interfaces(), os.readlink("/proc/self/ns/net")) == before
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_a_child_returns_raises_and_skips(network: Network) -> None:
    assert network.server.run(lambda: [1, "a"]) == [1, "a"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        network.server.run(lambda: 1 // 0)
    with pytest.raises(pytest.skip.Exception, match="no reason"):
        network.server.run(lambda: pytest.skip("no reason"))
    with pytest.raises(AssertionError, match="without a word"):
        network.server.run(lambda: os._exit(3))


def test_a_command_fails_with_its_own_words(network: Network) -> None:
    with pytest.raises(AssertionError, match="nosuch"):
        network.server.check("ip", "link", "show", "nosuch")


def test_inside_one_may_go_to_the_other_side(network: Network) -> None:
    def body() -> tuple[bool, str]:
        return network.connects(SERVER4, 25, CLIENTS4[0]), network.server.check("ip", "-brief", "address")

    connected, addresses = network.server.run(body)
    assert connected
    assert SERVER4 in addresses


@inside
def test_the_decorator_is_inside(network: Network) -> None:
    assert os.path.samefile("/proc/self/ns/net", f"/proc/{network.server.pid}/ns/net")


def test_the_unprivileged_one_has_no_power_over_the_host(unprivileged: Network) -> None:
    def body() -> None:
        with pytest.raises(PermissionError):
            os.nice(-1)  # needs CAP_SYS_NICE over the host

    unprivileged.server.run(body)
    assert unprivileged.connects(SERVER6, 25, CLIENTS6[0])


def test_nothing_is_left(network: Network) -> None:
    try:
        with Network() as other:
            holders = [other.server.pid, other.client.pid]
            process = other.server.popen(["cat"], stdin=subprocess.PIPE)
            process.communicate(b"")
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in holders)


def test_refusal_is_told_in_the_hosts_words() -> None:
    with pytest.raises(Unavailable, match="nonsense"):
        Namespace(["unshare", "--nonsense"])
