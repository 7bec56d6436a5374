"""Drift on a real ruleset: what others do to our table is noticed, all else is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from denyspam.actions import nftables as module
from denyspam.actions.nftables import Nftables
from netns import Network, inside

from denyspam import drift
from denyspam.drift import Drift
from denyspam.events import ActionError, Ban, Target

pytestmark = pytest.mark.root
PATIENCE = 30.0
NOW = 1_700_000_000.0


def bans(count: int, seconds: float = 3600.0) -> list[Ban]:
    first = int(ip_address("10.0.0.0"))
    networks = [ip_network((first + number, 32)) for number in range(count)]
    return [Ban(Target(each, (25,)), "relay", NOW, NOW + seconds, 5) for each in networks]


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def started(count: int = 3) -> Nftables:
    firewall = Nftables(ports=(25,))
    firewall.start()
    firewall.ban(bans(count), NOW)
    return firewall


FOREIGN = {
    "flush ruleset": "flush ruleset",
    "the table deleted": "delete table inet denyspam",
    "the table flushed": "flush table inet denyspam",
    "an element deleted": "delete element inet denyspam ipv4_32_ports_25 { 10.0.0.1 }",
    "an element added": "add element inet denyspam ipv4_32_ports_25 { 10.9.9.9 }",
    "the set flushed": "flush set inet denyspam ipv4_32_ports_25",
    "the rules flushed": "flush chain inet denyspam input",
    "a rule put before ours": "insert rule inet denyspam input accept",
    "the chain deleted": "flush chain inet denyspam input\ndelete chain inet denyspam input",
    "the table asleep": "add table inet denyspam { flags dormant; }",
    "ours among others": "add table ip one\nflush set inet denyspam ipv4_32_ports_25\nadd table ip two",
}


@pytest.mark.parametrize("change", FOREIGN)
@inside
def test_what_others_do_to_our_table(network: Network, change: str) -> None:
    firewall = started()
    ear = Drift()
    assert ear.reason == "" and ear.fileno is not None
    assert not ear.read()
    nft(FOREIGN[change])
    assert select.select([ear.fileno], [], [], PATIENCE)[0]
    assert ear.read()
    assert not ear.read(), "once"
    firewall.start()
    firewall.ban(bans(3), NOW)
    assert not ear.read(), "mending is our own doing"
    nft("flush ruleset")
    assert ear.read()


@inside
def test_a_rule_deleted_by_its_handle(network: Network) -> None:
    started()
    ear = Drift()
    listed = subprocess.run(
        ["nft", "-a", "list", "chain", "inet", "denyspam", "input"], capture_output=True, check=True
    )
    handle = int(listed.stdout.split(b"# handle ")[2].split()[0])
    nft(f"delete rule inet denyspam input handle {handle}")
    assert ear.read()


OTHERS = """
add table ip denyspam
add table inet denyspam2
add table inet container {{ comment "inet denyspam"; }}
add set inet container denyspam {{ type ipv4_addr; }}
add element inet container denyspam {{ 10.0.{0}.1, 10.0.{0}.2 }}
add chain ip denyspam input {{ type filter hook input priority 0; }}
add rule ip denyspam input ip saddr 10.0.{0}.1 drop comment "denyspam"
delete table inet container
delete table ip denyspam
"""


@inside
def test_the_tables_of_others_are_theirs(network: Network) -> None:
    started()
    ear = Drift()
    library = """if 1:
        import sys
        from denyspam.actions.nftables import _Library
        library, text = _Library(), sys.stdin.read()
        for number in range(1000):
            said = library.run(text.format(number % 250))
            assert not said, said
        print("done")
    """
    with subprocess.Popen(
        [sys.executable, "-c", library], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout and ear.fileno is not None
        other.stdin.write(OTHERS)
        other.stdin.close()
        heard = 0
        while other.poll() is None or select.select([ear.fileno], [], [], 0)[0]:
            if select.select([ear.fileno], [], [], 0.05)[0]:
                heard += 1
                assert not ear.read()
        assert other.stdout.read() == "done\n"
    assert heard, "they were heard, and told apart"
    nft("delete table inet denyspam")
    assert ear.read()


@pytest.mark.parametrize("before", [True, False], ids=["library first", "ear first"])
@inside
def test_our_own_bans_at_full_rate(network: Network, before: bool) -> None:
    firewall = Nftables(ports=(25,))
    if before:
        firewall.start()
    ear = Drift()
    if not before:
        firewall.start()
        firewall.ban(bans(1), NOW)
        assert not ear.read()
    for each in bans(300):
        firewall.ban([each], NOW)
        assert not ear.read()
    firewall.ban(bans(60_000), NOW)  # some MB of announcements, more than the socket would hold
    firewall.release(each.target for each in bans(30_000))
    assert not ear.read()
    assert not select.select([ear.fileno], [], [], 0)[0], "the kernel dropped them: nothing even woke us"
    firewall.stop(keep=False)
    assert not ear.read()


@inside
def test_another_socket_of_the_library_is_ours_too(network: Network) -> None:
    started()
    ear = Drift()
    second = module._Library()  # as when the library opens its socket anew
    assert second.run("delete element inet denyspam ipv4_32_ports_25 { 10.0.0.1 }\n") == ""
    assert not ear.read()


@inside
def test_the_kernels_timeouts_are_no_drift(network: Network) -> None:
    firewall = started(0)
    firewall.ban(bans(5, 0.2), NOW)
    ear = Drift()
    end = time.monotonic() + PATIENCE
    while firewall.held():
        assert time.monotonic() < end
    assert not ear.read()


@inside
def test_more_than_the_socket_holds_means_look(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "RECEIVE_BUFFER", 4096)
    ear = Drift()
    elements = ", ".join(f"10.0.{number >> 8}.{number & 255}" for number in range(5000))
    nft(f"add table ip x\nadd set ip x s {{ type ipv4_addr; }}\nadd element ip x s {{ {elements} }}\n")
    assert ear.read()
    assert not ear.read()


@inside
def test_the_loop_is_woken(network: Network) -> None:
    started()

    async def heard() -> bool:
        ear, found = Drift(), asyncio.get_running_loop().create_future()
        assert ear.fileno is not None
        asyncio.get_running_loop().add_reader(ear.fileno, lambda: ear.read() and found.set_result(True))
        await asyncio.to_thread(nft, "flush ruleset")
        return bool(await asyncio.wait_for(found, PATIENCE))

    assert asyncio.run(heard())


@inside
def test_without_the_group_the_generation_is_asked(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "GROUP", 4711)  # the kernel has no such group
    ear = Drift()
    assert ear.fileno is None and "Invalid argument" in ear.reason
    assert not ear.read()
    nft("add table ip x")
    assert ear.read()
    assert not ear.read()


@inside
def test_not_permitted(network: Network) -> None:
    if os.geteuid():
        pytest.skip("it takes root to become somebody else")
    os.setuid(65534)
    ear = Drift()
    assert ear.fileno is None and ear.reason
    assert not ear.read(), "where nothing can be seen nothing is said"
    ear.close()


def test_closing_gives_everything_back() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    makers: list[Callable[[], Drift]] = [Drift] * 5
    for each in [make() for make in makers]:
        each.close()
        each.close()
    assert drift.port_ids() is not None and descriptors() == before


@inside
def test_mending_as_fast_as_somebody_flushes(network: Network) -> None:
    firewall = started(0)
    ear = Drift()
    assert ear.fileno is not None
    given: list[Ban] = []
    flusher = "for i in $(seq 30); do nft flush ruleset; nft add table ip x; sleep 0.05; done"
    with subprocess.Popen(["sh", "-c", flusher]) as other:
        repairs = 0
        while other.poll() is None:
            given.append(bans(len(given) + 1)[-1])
            with contextlib.suppress(ActionError):  # the announcement of what was flushed is there already
                firewall.ban(given[-1:], NOW)
            while ear.read():
                repairs += 1
                try:
                    firewall.start()
                    firewall.ban(given, NOW)
                except ActionError:
                    select.select([ear.fileno], [], [], PATIENCE)  # flushed under our hands: announced again
    while ear.read():
        firewall.start()
        firewall.ban(given, NOW)
    assert repairs >= 10
    assert {each.target for each in firewall.held()} == {each.target for each in given}
