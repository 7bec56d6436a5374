"""The actions against the real kernel: what is banned cannot connect, what is not can, and the listing says so."""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import os
import re
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from denyspam.actions import _netlink
from denyspam.actions import _ruleset as ruleset
from denyspam.actions import nftables as module
from denyspam.actions.command import Command
from denyspam.actions.dryrun import Dryrun
from denyspam.actions.files import Files
from denyspam.actions.iptables import Iptables
from denyspam.actions.nftables import Nftables
from netns import CLIENTS4, CLIENTS6, SERVER4, SERVER6, Namespace, Network, inside

from denyspam.events import ActionError, Ban, Held, Target

NOW = 1_700_000_000.0
HOUR = 3600.0
PATIENCE = 30.0  # seconds for a condition to come about

real_kernel = pytest.mark.root
Firewall = Nftables | Iptables | Dryrun | Command | Files
Action = Callable[..., Firewall]


def legacy(**keywords: Any) -> Iptables:
    """The action on iptables, in a namespace where the legacy variant is in use; skips where there is none."""
    if os.geteuid() or not os.access("/run", os.W_OK):
        pytest.skip("/run/xtables.lock is root's")
    for program in "iptables-legacy", "ipset":
        if shutil.which(program) is None:
            pytest.skip(f"the program {program} is missing")
    pytest.importorskip("iptc", reason="the extra denyspam[iptables] is not installed")
    for program in "iptables-legacy", "ip6tables-legacy":
        done = subprocess.run([program, "-nL"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no legacy iptables in this kernel: {done.stderr.strip()}")
    return Iptables(**keywords)


KERNELS = [
    pytest.param(Nftables, marks=pytest.mark.root, id="Nftables"),
    pytest.param(legacy, marks=pytest.mark.root, id="Iptables"),
]
FOLDER = tempfile.TemporaryDirectory()


def command(**keywords: Any) -> Command:
    return Command(command=["sh", "-c", "cat >/dev/null"], **keywords)


def files(**keywords: Any) -> Files:
    return Files(path=f"{FOLDER.name}/{os.getpid()}", **keywords)


OTHERWISE = [pytest.param(Dryrun, id="Dryrun"), pytest.param(command, id="Command"), pytest.param(files, id="Files")]
every_action = pytest.mark.parametrize("action", [*KERNELS, *OTHERWISE])
firewalls = pytest.mark.parametrize("action", KERNELS)


def target(network: str, *ports: int) -> Target:
    return Target(ip_network(network), ports or (25,))


def ban(network: str | Target, seconds: float = HOUR) -> Ban:
    closed = network if isinstance(network, Target) else target(network)
    return Ban(closed, "relay", NOW, NOW + seconds, 5)


def targets(held: list[Held]) -> set[Target]:
    assert len({each.target for each in held}) == len(held)
    return {each.target for each in held}


def hosts(count: int) -> list[Target]:
    return [Target(ip_network((int(ip_address("10.0.0.0")) + number, 32)), (25,)) for number in range(count)]


def becomes(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def nft(text: str) -> str:
    return subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=True).stdout


# What every action keeps in mind


@every_action
@inside
def test_a_ban_is_held_until_its_end(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    assert firewall.start() == []
    firewall.ban([ban("192.0.2.10", 100), ban("2001:db8:0:1::/64", 200.5), ban("198.51.100.0/24", 300)], NOW)
    left = {str(each.target): each.left for each in firewall.held()}
    assert left.keys() == {"192.0.2.10", "2001:db8:0:1::/64", "198.51.100.0/24"}
    for name, most in ("192.0.2.10", 100), ("2001:db8:0:1::/64", 200.5), ("198.51.100.0/24", 300):
        assert most - PATIENCE < (left[name] or math.nan) <= most


@every_action
@inside
def test_a_ban_that_is_over_is_no_ban(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10", 0), ban("192.0.2.11", -5), ban("192.0.2.12", math.nan)], NOW)
    firewall.ban([], NOW)
    assert firewall.held() == []


@every_action
@inside
def test_release(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban(each) for each in hosts(10)], NOW)
    firewall.release(hosts(20)[5:])  # the last ten were never held
    firewall.release([target("192.0.2.99"), target("2001:db8::/48"), target("192.0.2.10", 465)])
    firewall.release([])
    assert targets(firewall.held()) == set(hosts(5))


@every_action
@inside
def test_one_is_asked_for(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    assert not firewall.holds(target("192.0.2.10")), "before anything is there"
    firewall.start()
    firewall.ban([ban("192.0.2.10"), ban("2001:db8:0:1::/64"), ban(target("198.51.100.0/24", 465, 587))], NOW)
    for held in target("192.0.2.10"), target("2001:db8:0:1::/64"), target("198.51.100.0/24", 465, 587):
        assert firewall.holds(held)
    for other in "192.0.2.11", "2001:db8:0:1::/128", "2001:db8:0:2::/64", "198.51.100.0/24", "2001:db8::/63":
        assert not firewall.holds(target(other))
    firewall.release([target("192.0.2.10")])
    assert not firewall.holds(target("192.0.2.10"))


@every_action
@inside
def test_a_second_ban_has_the_last_word(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10", HOUR), ban("192.0.2.11", 100)], NOW)
    firewall.ban([ban("192.0.2.10", 100), ban("192.0.2.11", HOUR), ban("192.0.2.12", HOUR)], NOW)
    firewall.ban([ban("192.0.2.12", HOUR), ban("192.0.2.12", 100)], NOW)
    left = {str(each.target): each.left or 0 for each in firewall.held()}
    assert left["192.0.2.10"] <= 100 and left["192.0.2.12"] <= 100
    assert left["192.0.2.11"] > 100


@every_action
@inside
def test_port_lists_are_kept_apart(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10"), ban(target("192.0.2.10", 465, 587))], NOW)
    firewall.release([target("192.0.2.10")])
    assert targets(firewall.held()) == {target("192.0.2.10", 465, 587)}


@every_action
@inside
def test_without_end_and_in_a_thousand_years(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10", math.inf), ban("192.0.2.11", 1e12), ban("192.0.2.12", 0.0001)], NOW)
    left = {str(each.target): each.left or 0 for each in firewall.held()}
    assert left["192.0.2.10"] > 99 * 365 * 86400 < left["192.0.2.11"]


@every_action
@inside
def test_the_shortest_prefixes_crash_nothing(network: Network, action: Action) -> None:
    wide = {target("0.0.0.0/0", 26), target("::/0", 26), target("128.0.0.0/1", 26), target("8000::/1", 26)}
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban(each) for each in wide], NOW)
    assert targets(firewall.held()) == wide


@every_action
@inside
def test_stop_keeps_or_clears(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10")], NOW)
    firewall.stop(keep=True)
    assert targets(firewall.start()) == {target("192.0.2.10")}
    firewall.stop(keep=False)
    assert firewall.start() == []
    firewall.stop(keep=False)
    firewall.stop(keep=False)  # nothing there: success


@every_action
@inside
def test_25000_in_one_call(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    many = hosts(25_000)
    firewall.ban([ban(each) for each in many], NOW)
    firewall.ban([ban(each, 2 * HOUR) for each in many[10_000:]], NOW)
    held = firewall.held()
    assert targets(held) == set(many)
    assert sum((each.left or 0) > HOUR for each in held) == 15_000
    firewall.release(many[:-1])
    assert targets(firewall.held()) == {many[-1]}


# What a connection meets


@firewalls
@inside
def test_the_banned_meet_a_closed_port_25(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    host4, other4 = CLIENTS4[:2]
    host6, neighbour6, other6 = CLIENTS6[:3]
    firewall.ban([ban(host4), ban("2001:db8:0:1::/64")], NOW)
    assert not network.connects(SERVER4, 25, host4)
    assert network.connects(SERVER4, 587, host4)
    assert network.connects(SERVER4, 25, other4)
    assert not network.connects(SERVER6, 25, host6)
    assert not network.connects(SERVER6, 25, neighbour6), "the same /64"
    assert network.connects(SERVER6, 587, host6)
    assert network.connects(SERVER6, 25, other6)
    firewall.release([target(host4), target("2001:db8:0:1::/64")])
    assert network.connects(SERVER4, 25, host4)
    assert network.connects(SERVER6, 25, neighbour6)


@firewalls
@inside
def test_other_widths(network: Network, action: Action) -> None:
    firewall = action(ports=(25,), ipv6_prefix=56)
    firewall.start()
    firewall.ban([ban("2001:db8:0:1::1/128"), ban("192.0.2.12/30"), ban("2001:db8:0:4::/62", 100)], NOW)
    assert not network.connects(SERVER6, 25, CLIENTS6[0])
    assert network.connects(SERVER6, 25, CLIENTS6[1]), "a single address is banned, not its /64"
    assert [network.connects(SERVER4, 25, source) for source in CLIENTS4[1:7]] == [True, *[False] * 4, True]
    assert not network.connects(SERVER6, 25, "2001:db8:0:4::1")
    firewall.release([target("192.0.2.12/30")])
    assert network.connects(SERVER4, 25, "192.0.2.13")


@firewalls
@inside
def test_ports_of_each_ban(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban(target(CLIENTS4[0], 465, 587)), ban(CLIENTS4[1])], NOW)
    assert network.connects(SERVER4, 25, CLIENTS4[0])
    assert not network.connects(SERVER4, 587, CLIENTS4[0])
    assert not network.connects(SERVER4, 25, CLIENTS4[1])
    assert network.connects(SERVER4, 587, CLIENTS4[1])


@firewalls
@inside
def test_the_kernel_opens_by_itself(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    began = time.monotonic()
    firewall.ban([ban(CLIENTS4[0], 1.5), ban("2001:db8:0:1::/64", 1.5)], NOW)
    firewall.stop(keep=True)  # whatever happens to the daemon
    connected = network.connects(SERVER4, 25, CLIENTS4[0]), network.connects(SERVER6, 25, CLIENTS6[0])
    if time.monotonic() - began < 1.5:
        assert connected == (False, False)
    assert becomes(lambda: network.connects(SERVER4, 25, CLIENTS4[0]))
    assert becomes(lambda: network.connects(SERVER6, 25, CLIENTS6[0]))
    assert time.monotonic() - began > 1.5, "not a moment early"
    assert becomes(lambda: firewall.held() == [])


@firewalls
@inside
def test_a_new_end_shorter_and_longer(network: Network, action: Action) -> None:
    firewall = action(ports=(25,))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0], HOUR), ban(CLIENTS4[1], 30)], NOW)
    firewall.ban([ban(CLIENTS4[0], 0.5), ban(CLIENTS4[1], HOUR)], NOW)
    assert becomes(lambda: network.connects(SERVER4, 25, CLIENTS4[0]))
    assert not network.connects(SERVER4, 25, CLIENTS4[1])


@firewalls
@pytest.mark.parametrize("verdict", sorted(ruleset.VERDICTS))
@inside
def test_verdicts_and_what_is_counted(network: Network, action: Action, verdict: str) -> None:
    firewall = action(ports=(25,), verdict=verdict)
    firewall.start()
    assert {(each.version, each.width, each.packets) for each in firewall.counters()} == {
        (4, 32, 0),
        (6, 64, 0),
        (6, 128, 0),
    }
    firewall.ban([ban(CLIENTS4[0])], NOW)
    assert not network.connects(SERVER4, 25, CLIENTS4[0], timeout=0.5)
    counted = {each[:3]: each for each in firewall.counters()}
    refused = counted.pop((4, 32, (25,)))
    assert refused.packets > 0 and refused.bytes >= 40 * refused.packets
    assert not any(each.packets for each in counted.values()), "each set has its own"
    firewall.start()  # mending forgets no count
    assert max(each.packets for each in firewall.counters()) >= refused.packets


# Where packets are looked at


def outcome(network: Network, address: str, source: str) -> str:
    """What a connect to port 25 meets: "open", "refused" or "silence"."""

    def connect() -> str:
        try:
            with socket.create_connection((address, 25), 2, (source, 0)):
                return "open"
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silence"

    return network.client.run(connect)


@firewalls
@inside
def test_the_answer_does_not_leave(network: Network, action: Action) -> None:
    firewall = action(ports=(25,), hooks=("output",))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0]), ban("2001:db8:0:1::/64")], NOW)
    for address, banned, other in (SERVER4, CLIENTS4[0], CLIENTS4[1]), (SERVER6, CLIENTS6[0], CLIENTS6[2]):
        assert outcome(network, address, banned) != "open"
        assert network.connects(address, 587, banned)
        assert outcome(network, address, other) == "open"
    assert {each[:2] for each in firewall.counters() if each.packets} == {(4, 32), (6, 64)}


@firewalls
@pytest.mark.parametrize("hooks", [("input",), ("input", "output"), ("prerouting",), ("prerouting", "output")])
@inside
def test_a_refusal_reaches_the_banned(network: Network, action: Action, hooks: tuple[str, ...]) -> None:
    if action is legacy and "prerouting" in hooks:
        with pytest.raises(ValueError, match="iptables refuses in input, forward, output"):
            Iptables(ports=(25,), hooks=hooks)
        return
    firewall = action(ports=(25,), hooks=hooks)
    firewall.start()
    firewall.ban([ban(CLIENTS4[0]), ban("2001:db8:0:1::/64")], NOW)
    assert outcome(network, SERVER4, CLIENTS4[0]) == "refused", "the reset is not taken for an answer to the banned"
    assert outcome(network, SERVER6, CLIENTS6[0]) == "refused"
    assert network.connects(SERVER4, 587, CLIENTS4[0])


PUBLISHED = """
table inet nat {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport 25 redirect to :587
    }
}
"""


@real_kernel
@pytest.mark.parametrize(("hook", "seen"), [("input", "open"), ("prerouting", "refused")])
@inside
def test_a_published_port(network: Network, hook: str, seen: str) -> None:
    nft(PUBLISHED)
    firewall = Nftables(ports=(25,), hooks=(hook,))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0])], NOW)
    assert outcome(network, SERVER4, CLIENTS4[0]) == seen, "after the translation the port is another one"
    assert outcome(network, SERVER4, CLIENTS4[1]) == "open"


MAIL_SERVER = """
import selectors, socket
selector = selectors.DefaultSelector()
for port in 25, 587:
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    selector.register(listener, selectors.EVENT_READ)
print("listening", flush=True)
while True:
    for key, _ in selector.select():
        key.fileobj.accept()[0].close()
"""
BEHIND4, BEHIND6 = "198.51.100.2", "2001:db9::2"


@pytest.fixture
def router(network: Network) -> Iterator[Network]:
    """The server as a router with a mail server behind it, at BEHIND4 and BEHIND6."""
    behind = Namespace([*network.server.prefix[:-1], "--", "unshare", "--net"])
    for namespace, text in (
        (network.server, f"link add veth1 type veth peer name veth0 netns {behind.pid}\nlink set veth1 up\n"),
        (network.server, "addr add 198.51.100.1/24 dev veth1\naddr add 2001:db9::1/64 dev veth1 nodad\n"),
        (behind, "link set lo up\nlink set veth0 up\naddr add 198.51.100.2/24 dev veth0\n"),
        (behind, "addr add 2001:db9::2/64 dev veth0 nodad\nroute add default via 198.51.100.1\n"),
        (behind, "-6 route add default via 2001:db9::1\n"),
        (network.client, "route add 198.51.100.0/24 via 192.0.2.1\nroute add 2001:db9::/64 via 2001:db8::1\n"),
    ):
        if text.startswith("-6"):
            namespace.check("ip", *text.split())
        else:
            namespace.check("ip", "-batch", "-", text=text)
    for name in "ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding":
        network.server.check("tee", f"/proc/sys/net/{name}", text="1")
    listener = behind.popen([sys.executable, "-c", MAIL_SERVER], stdout=subprocess.PIPE)
    try:
        assert listener.stdout and listener.stdout.readline() == b"listening\n"
        yield network
    finally:
        listener.kill()
        listener.communicate()
        behind.close()


@real_kernel
@inside
def test_a_router(router: Network) -> None:
    assert becomes(lambda: outcome(router, BEHIND4, CLIENTS4[0]) == outcome(router, BEHIND6, CLIENTS6[0]) == "open")
    firewall = Nftables(ports=(25,), hooks=("forward",))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0]), ban("2001:db8:0:1::/64")], NOW)
    both = (BEHIND4, CLIENTS4[0], CLIENTS4[1]), (BEHIND6, CLIENTS6[0], CLIENTS6[2])
    for address, banned, other in both:
        assert outcome(router, address, banned) == "refused"
        assert router.connects(address, 587, banned)
        assert outcome(router, address, other) == "open"
    assert outcome(router, SERVER4, CLIENTS4[0]) == "open", "the router's own port 25 was not asked for"
    rules = subprocess.run(
        ["nft", "-a", "list", "chain", "inet", "denyspam", "forward"], capture_output=True, check=True
    )
    for rule in rules.stdout.splitlines():
        if b" saddr " in rule:
            nft(f"delete rule inet denyspam forward handle {int(rule.split(b'# handle ')[1])}")
    for address, banned, other in both:
        assert outcome(router, address, banned) != "open", "what came in by another way is not answered by this one"
        assert router.connects(address, 587, banned)
        assert outcome(router, address, other) == "open"


@real_kernel
@inside
def test_other_hooks_after_a_restart(network: Network) -> None:
    Nftables(ports=(25,), hooks=("input", "forward", "output", "prerouting")).start()
    firewall = Nftables(ports=(25,), hooks=("prerouting",))
    firewall.start()
    listed = subprocess.run(["nft", "list", "table", "inet", "denyspam"], capture_output=True, check=True, text=True)
    assert re.findall(r"chain (\w+)", listed.stdout) == ["prerouting"]
    assert "priority -110" in listed.stdout or "dstnat - 10" in listed.stdout
    firewall.ban([ban(CLIENTS4[0])], NOW)
    assert outcome(network, SERVER4, CLIENTS4[0]) == "refused"


# Beside others in the kernel


OTHERS = """
table inet filter {
    set ipv4_32_ports_25 { type ipv4_addr; flags timeout; elements = { 10.1.1.1 timeout 9d }
    }
    chain input {
        type filter hook input priority -20; policy accept;
        ct state established accept
        tcp dport 25 counter accept
    }
}
table ip denyspam {
    chain input { type filter hook input priority 0; policy accept; }
}
"""


@real_kernel
@inside
def test_other_tables_are_left_alone_and_shield_nobody(network: Network) -> None:
    nft(OTHERS)

    def others() -> list[str]:
        return [
            subprocess.run(
                ["nft", "-s", "list", "table", *table], capture_output=True, check=True, text=True
            ).stdout.split("expires")[0]
            for table in (("inet", "filter"), ("ip", "denyspam"))
        ]

    before = others()
    firewall = Nftables(ports=(25,))
    assert firewall.start() == []
    firewall.ban([ban(CLIENTS4[0]), ban("10.1.1.1")], NOW)
    assert not network.connects(SERVER4, 25, CLIENTS4[0]), "their accept is not final"
    firewall.release([target("10.1.1.1")])
    firewall.stop(keep=False)
    assert others() == before


@firewalls
@inside
def test_a_second_instance_adopts(network: Network, action: Action) -> None:
    first = action(ports=(25,))
    first.start()
    first.ban([ban(CLIENTS4[0]), ban("2001:db8:0:1::/64"), ban(target("198.51.100.0/24", 465, 587))], NOW)
    del first  # as after kill -9
    second = action(ports=(26,), ipv6_prefix=48, verdict="drop")
    held = second.start()
    assert targets(held) == {target(CLIENTS4[0]), target("2001:db8:0:1::/64"), target("198.51.100.0/24", 465, 587)}
    assert all(HOUR - PATIENCE < (each.left or 0) <= HOUR for each in held)
    assert not network.connects(SERVER4, 25, CLIENTS4[0], timeout=0.5)
    second.release([target(CLIENTS4[0])])
    assert network.connects(SERVER4, 25, CLIENTS4[0])


@real_kernel
@inside
def test_start_says_when_there_is_nothing_to_add(network: Network) -> None:
    firewall = Nftables(ports=(25,))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0])], NOW)
    before = subprocess.run(["nft", "-s", "list", "table", "inet", "denyspam"], capture_output=True, check=True).stdout
    assert targets(firewall.start()) == targets(firewall.start()) == {target(CLIENTS4[0])}
    after = subprocess.run(["nft", "-s", "list", "table", "inet", "denyspam"], capture_output=True, check=True).stdout
    assert before.split(b"expires")[0] == after.split(b"expires")[0]
    assert before.count(b"reject with") == after.count(b"reject with") == 3, "no rule twice"


DAMAGE = {
    "the table deleted": ("delete table inet denyspam", False),
    "the whole ruleset flushed": ("flush ruleset", False),
    "the rules flushed": ("flush chain inet denyspam input", True),
    "the chain deleted": ("flush chain inet denyspam input\ndelete chain inet denyspam input", True),
    "a chain without a hook in its place": (
        "flush chain inet denyspam input\ndelete chain inet denyspam input\nadd chain inet denyspam input",
        True,
    ),
    "a chain that drops all": (
        "flush chain inet denyspam input\ndelete chain inet denyspam input\n"
        "add chain inet denyspam input { type filter hook input priority 7; policy drop; }",
        True,
    ),
    "a set without timeouts in its place": (
        "flush chain inet denyspam input\ndelete set inet denyspam ipv4_32_ports_25\n"
        "add set inet denyspam ipv4_32_ports_25 { type ipv4_addr; flags interval; }",
        False,
    ),
    "a counter gone": ("flush chain inet denyspam input\ndelete counter inet denyspam ipv4_32_ports_25", True),
    "strange things inside": (
        "add set inet denyspam ipv4_99_ports_25 { type ipv4_addr; }\nadd set inet denyspam x { type ifname; }\n"
        "add element inet denyspam ipv6_64_ports_25 { 2001:db8::1, 2001:db8:0:3:: }\n"
        "add rule inet denyspam input tcp dport 587 drop",
        True,
    ),
}


@real_kernel
@pytest.mark.parametrize("damage", DAMAGE)
@inside
def test_start_mends(network: Network, damage: str) -> None:
    command, kept = DAMAGE[damage]
    firewall = Nftables(ports=(25,))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0])], NOW)
    nft(command)
    assert (target(CLIENTS4[0]) in targets(firewall.start())) == kept
    firewall.ban([ban(CLIENTS4[0]), ban(CLIENTS4[1])], NOW)
    assert not network.connects(SERVER4, 25, CLIENTS4[0])
    assert not network.connects(SERVER4, 25, CLIENTS4[1])
    assert network.connects(SERVER4, 25, CLIENTS4[2])
    assert network.connects(SERVER4, 587, CLIENTS4[0])


@real_kernel
@inside
def test_elements_put_in_by_hand(network: Network) -> None:
    firewall = Nftables(ports=(25,))
    firewall.start()
    nft("add element inet denyspam ipv6_64_ports_25 { 2001:db8::1, 2001:db8:0:3:: }")
    assert firewall.held() == [Held(target("2001:db8:0:3::/64"), None)], "without end; ::1 is no base and never matches"


@real_kernel
@inside
def test_others_may_change_theirs_all_the_time(network: Network) -> None:
    firewall = Nftables(ports=(25,))
    firewall.start()
    before = _netlink.generation()
    child = os.fork()
    if not child:
        try:
            library = module._Library()
            while True:
                library.run("add table ip foreign\nadd set ip foreign s { type ipv4_addr\n}\n")
                library.run("delete table ip foreign\n")
        finally:
            os._exit(1)
    try:
        assert becomes(lambda: _netlink.generation() > before + 100)
        many = hosts(5000)
        for each in many[:200]:
            firewall.ban([ban(each)], NOW)
        firewall.ban([ban(each) for each in many], NOW)
        assert targets(firewall.start()) == targets(firewall.held()) == set(many)
        middle = _netlink.generation()
        assert becomes(lambda: _netlink.generation() > middle + 100), "they were still at it"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# What goes wrong


@real_kernel
@inside
def test_a_lost_table_is_told(network: Network) -> None:
    firewall = Nftables(ports=(25,))
    firewall.start()
    nft("delete table inet denyspam")
    with pytest.raises(ActionError, match="table inet denyspam is gone") as caught:
        firewall.ban([ban(each) for each in hosts(100)], NOW)
    assert not caught.value.permanent
    firewall.release(hosts(2))  # they are not held: success
    assert firewall.held() == []


@real_kernel
@inside
def test_a_full_set(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruleset, "SIZE", 100)
    firewall = Nftables(ports=(25,))
    firewall.start()
    with pytest.raises(ActionError, match="full") as caught:
        firewall.ban([*map(ban, hosts(150)), ban("2001:db8:0:1::/64")], NOW)
    assert not caught.value.permanent
    assert targets(firewall.held()) == {*hosts(100), target("2001:db8:0:1::/64")}, "what fits is in"
    firewall.ban([ban(each, 60) for each in hosts(100)], NOW)
    assert all((each.left or 0) <= 60 for each in firewall.held() if each.target in hosts(100))
    firewall.release(hosts(200)[99:])
    firewall.ban([ban("192.0.2.10")], NOW)
    assert len(firewall.held()) == 101


@real_kernel
@inside
def test_batches_are_halved_where_the_socket_buffer_is_small(
    unprivileged: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How much the socket takes without privilege depends on the host: find it.
    most = 2 * int(Path("/proc/sys/net/core/wmem_max").read_text()) // 30
    firewall = Nftables(ports=(25,))
    firewall.start()
    write, codes = firewall._write, list[int]()

    def counted(transaction: Any) -> int:
        codes.append(write(transaction))
        return codes[-1]

    monkeypatch.setattr(firewall, "_write", counted)
    count = 20_000
    while True:
        codes.clear()
        many = hosts(count)
        monkeypatch.setattr(module, "BATCH", count)
        firewall.ban([ban(each) for each in many], NOW)
        if codes.count(0) > 1 or count > most:
            break
        firewall.release(many)
        count *= 2
    assert codes[0] == errno.EMSGSIZE and codes.count(0) > 1, "one was too long, its parts were not"
    assert targets(firewall.held()) == set(many)


@real_kernel
@inside
def test_not_permitted(network: Network) -> None:
    # In a user namespace of its own this child has no privilege over the network namespace it is in.
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        if os.geteuid():
            pytest.skip("neither a user namespace nor another user to be had")
        os.setuid(65534)
    for verb in (
        lambda: Nftables(ports=(25,)).start(),
        lambda: Nftables(ports=(25,)).held(),
        lambda: Nftables(ports=(25,)).ban([ban(CLIENTS4[0])], NOW),
        lambda: Nftables(ports=(25,)).release([target(CLIENTS4[0])]),
        lambda: Nftables(ports=(25,)).stop(keep=False),
    ):
        with pytest.raises(ActionError, match="not permitted: run as root or with CAP_NET_ADMIN") as caught:
            verb()
        assert caught.value.permanent
    Nftables(ports=(25,)).stop(keep=True)


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY", "libnothing.so.7")
    with pytest.raises(ActionError, match=r"libnothing.so.7 is missing: install") as caught:
        module._load()
    assert caught.value.permanent


@real_kernel
@inside
def test_another_thread_is_our_bug(network: Network) -> None:
    firewall = Nftables(ports=(25,))
    firewall.start()
    caught: list[BaseException] = []

    def other() -> None:
        try:
            firewall.ban([ban(CLIENTS4[0])], NOW)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "two threads" in str(caught[0]) and not isinstance(caught[0], ActionError)
    firewall.stop(keep=True)
    thread = threading.Thread(target=other)  # after stop it may move
    thread.start()
    thread.join()
    assert len(caught) == 1


@real_kernel
@inside
def test_a_scope_id_is_not_a_command(network: Network) -> None:
    hostile = IPv6Network("2001:db8::/128")
    hostile.network_address = IPv6Address("2001:db8::%};flush ruleset;#")
    firewall = Nftables(ports=(25,))
    firewall.start()
    firewall.ban([Ban(Target(hostile, (25,)), "manual", NOW, NOW + HOUR, 0)], NOW)
    assert targets(firewall.held()) == {target("2001:db8::/128")}


@pytest.mark.parametrize("ports", [(), (0,), (65536,), (587, 25), (25, 25), tuple(range(1, 100))])
def test_port_lists_no_set_can_have(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no set can be made"):
        Nftables(ports=ports)


def test_words_that_are_none() -> None:
    with pytest.raises(ValueError, match="verdict 'accept': one of tcp reset, reject, drop"):
        Nftables(ports=(25,), verdict="accept")
    with pytest.raises(ValueError, match="hook 'postrouting': one of input, forward, output, prerouting"):
        Nftables(ports=(25,), hooks=("input", "postrouting"))
    with pytest.raises(ValueError, match="no hook"):
        Nftables(ports=(25,), hooks=())


# The pure half


@pytest.mark.parametrize("network", ["192.0.2.1/32", "0.0.0.0/0", "198.51.100.0/24", "2001:db8::/64", "::1/128"])
@pytest.mark.parametrize("ports", [(25,), (25, 465, 65535)])
def test_a_name_gives_back_its_store(network: str, ports: tuple[int, ...]) -> None:
    store = ruleset.store_of(target(network, *ports))
    assert ruleset.store_named(store.name) == store


@pytest.mark.parametrize(
    "name", ["", "ipv4_33_ports_25", "ipv5_32_ports_25", "ipv4_32_ports_", "ipv4_032_ports_25", "ipv4_32_ports_25_25",
             "ipv4_32_ports_0", "ipv4_32_ports_65536", "ipv4_32_ports_25x", "ipv6_64_ports_587_25"],
)  # fmt: skip
def test_names_that_are_not_ours(name: str) -> None:
    assert ruleset.store_named(name) is None


@pytest.mark.parametrize(
    ("seconds", "found"),
    [(3600, 3_600_000), (0.0001, 1), (1.5, 1500), (86_400, 86_400_000), (math.inf, 36_500 * 86_400_000)],
)
def test_timeouts_round_up(seconds: float, found: int) -> None:
    assert ruleset.milliseconds(seconds) == found


@real_kernel
@inside
def test_a_new_end_goes_in_after_the_old_one_is_out(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    # This kernel may change a timeout by adding alone; older ones ignore that silently, so what is sent counts.
    firewall = Nftables(ports=(25,))
    firewall.start()
    firewall.ban([ban("192.0.2.10")], NOW)
    carry, sent = _netlink.Writer._carry, list[list[int]]()

    def carried(writer: _netlink.Writer, messages: list[tuple[int, int, bytes]]) -> None:
        sent.append([message for message, _, _ in messages])
        carry(writer, messages)

    monkeypatch.setattr(_netlink.Writer, "_carry", carried)
    firewall.ban([ban("192.0.2.10", 9)], NOW)
    new, delete = _netlink.NEW_ELEMENTS, _netlink.DELETE_ELEMENTS
    assert sent == [[new], [new, delete, new]]


# The dry run


def test_the_dry_run_forgets_by_its_clock_and_says_what_it_would() -> None:
    clock = [0.0]
    firewall = Dryrun(ports=(25,), clock=lambda: clock[0])
    firewall.ban([ban("192.0.2.10", 10), ban("192.0.2.11", 20)], NOW)
    assert firewall.held() == [Held(target("192.0.2.10"), 10), Held(target("192.0.2.11"), 20)]
    clock[0] = 10.0
    assert firewall.held() == [Held(target("192.0.2.11"), 10)]


def test_the_dry_run_logs_each_decision(caplog: pytest.LogCaptureFixture) -> None:
    firewall = Dryrun(ports=(25, 465))
    with caplog.at_level(logging.INFO, "denyspam"):
        firewall.ban([ban(target("192.0.2.10", 25, 465), 60)], NOW)
        firewall.release([target("192.0.2.10", 25, 465), target("192.0.2.99", 25, 465)])
    assert caplog.messages == [
        "would ban 192.0.2.10 from port 25, 465 for 60 s: relay",
        "would release 192.0.2.10 to port 25, 465",
    ]


def test_the_dry_run_is_bounded_by_what_is_in_force() -> None:
    clock = [0.0]
    firewall = Dryrun(ports=(25,), clock=lambda: clock[0])
    for each in hosts(20_000):
        clock[0] += 1
        firewall.ban([ban(each, 100)], NOW)
    assert len(firewall._ends) < 1200
    assert len(firewall.held()) == 100


# The whole suite as somebody who is not root


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]


def interpreter(prefix: list[str]) -> list[str]:
    """A Python that `prefix` can run and that sees this environment's packages; skips where there is none."""
    packages = [path for path in sys.path if path.endswith("-packages")] or site.getsitepackages()
    script = f"import site, sys; [site.addsitedir(path) for path in {packages!r}]; import hypothesis, pytest; " + (
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}", "/usr/bin/python3"):
        command = [python, "-B", "-c", script]
        if not subprocess.run([*prefix, *command, "--version"], capture_output=True, check=False).returncode:
            return command
    pytest.skip("no Python that the user nobody can run and that sees pytest")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="it takes root to become somebody else")
@pytest.mark.skipif("DENYSPAM_INNER" in os.environ, reason="this is the inner run")
@pytest.mark.parametrize("wrapper", [[], ["unshare", "-Urnm"]], ids=["plain", "unshare"])
def test_unprivileged(wrapper: list[str]) -> None:
    """Plain, the fixtures make the user namespace; within `unshare`, the tests find themselves root of one."""
    here = Path(__file__).parent
    suite = [str(here / "test_netns.py"), *([str(here / "test_actions.py")] if wrapper else [])]
    if subprocess.run([*NOBODY, "unshare", "-Urn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host forbids user namespaces to ordinary users")
    prefix = [*NOBODY, *wrapper]
    command = [
        *prefix,
        *interpreter(prefix),
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-m",
        "root",
        "-k",
        "not Iptables",
        *suite,
    ]
    home = {"PATH": os.environ["PATH"], "DENYSPAM_INNER": "1", "HOME": "/"}
    done = subprocess.run(command, cwd=here.parent, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1]
    assert " passed" in last and " skipped" not in last, done.stdout[-2000:]
