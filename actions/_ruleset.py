"""_ruleset: the text that builds the table `inet denyspam`, and what its listing means. Pure.

    table inet denyspam {
        set ipv4_32_ports_25 { type ipv4_addr; flags timeout; size 1048576 }      one per family, width and port list
        counter ipv4_32_ports_25 { packets 17 bytes 884 }                          what its rule refused
        chain input {
            type filter hook input priority -10; policy accept;
            tcp dport { 25 } ip saddr @ipv4_32_ports_25 counter name … reject with tcp reset
            tcp dport { 25 } ip6 saddr & ffff:ffff:ffff:ffff:: @ipv6_64_ports_25 counter name … reject with tcp reset
        }
        chain output { … tcp sport { 25 } tcp flags & rst == 0 ip daddr @ipv4_32_ports_25 … }      where asked for
        chain forward { … both … }                                                                 where asked for
        chain prerouting { … as input, before destination NAT … }                                  where asked for
    }

One base chain a hook. On the way in a rule looks at the source, on the way out at the destination: where a packet of
the banned comes by a way that passes no chain of ours, the answer to it does not leave. A reset does: it is what the
refusal itself sends, and what ends an open session.

Every set is a plain hash set; a network stands in it by its base address, and the rule masks the packet's source to
the set's width before it looks. Interval sets are not used: with timeouts they merge neighbours into one element with
the shorter time, and one insert costs 26 ms at 5,000 elements, where a hash set takes any number at 0.1 ms. The price
is one lookup per width in use on packets to the ports concerned: at most 33 + 129 a port list, three in practice.

A set's name says family, width and ports, so a listing alone gives back every Target (adoption).

Never text from outside: elements are put in as bytes (`_netlink.py`); in the text here stand numbers and words of the
tables below alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntoa, inet_ntop, inet_pton
from typing import NamedTuple

from denyspam.events import Held, Network, Target, address_text

TABLE = "inet denyspam"
# A chain is named like its hook. The priority: before `filter` (0): a refusal is final at any priority, but so no other
# chain counts or logs it first; before `dstnat` (-100), so that prerouting sees the ports as they are published.
PRIORITIES = {"input": -10, "forward": -10, "output": -10, "prerouting": -110}
INWARD = {"input", "forward", "prerouting"}
OUTWARD = {"forward", "output"}
VERDICTS = {"tcp reset": "reject with tcp reset", "reject": "reject", "drop": "drop"}
SIZE = 1 << 20  # elements a set takes before ENFILE: the bound of what strangers can grow, 200 MB of kernel memory
LONGEST = 36_500 * 86_400  # seconds, 100 years: the kernel's limit is 584
NAME_LIMIT = 200  # characters; the kernel's limit is 255

NAME = re.compile(r"ipv([46])_(\d{1,3})_ports_(\d{1,5}(?:_\d{1,5})*)")
WIDEST = {4: 32, 6: 128}
made = tuple.__new__  # a named tuple of its values, at a third of what the call takes
FAMILY = {4: AF_INET, 6: AF_INET6}


class Store(NamedTuple):
    """One set of the table: which addresses (family 4 or 6, prefix length) are kept from which local ports."""

    version: int
    width: int
    ports: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"ipv{self.version:d}_{self.width:d}_ports_" + "_".join(f"{port:d}" for port in self.ports)


def store_of(target: Target) -> Store:
    return place(target)[0]


def place(target: Target) -> tuple[Store, bytes]:
    """The target's set and its key there. Out of a text that was an address or network, or OSError."""
    name, ports = target
    host, _, width = name.partition("/")
    if ":" in name:
        return _store(6, width, ports), inet_pton(AF_INET6, host)
    return _store(4, width, ports), inet_pton(AF_INET, host)


@lru_cache(maxsize=1024)  # those in use are a handful
def _store(version: int, width: str, ports: tuple[int, ...]) -> Store:
    return Store(version, int(width) if width else WIDEST[version], ports)


def store_named(name: str) -> Store | None:
    """The store of that name; None for a set that is none of ours."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    store = Store(int(match[1]), int(match[2]), tuple(map(int, match[3].split("_"))))
    return store if store.name == name and valid(store) else None


def valid(store: Store) -> bool:
    """Whether the kernel can have it: ports sorted, unique, 1 to 65535, a width of the family, a name not too long."""
    return (
        store.version in WIDEST
        and 0 <= store.width <= WIDEST[store.version]
        and bool(store.ports)
        and list(store.ports) == sorted(set(store.ports))
        and store.ports[0] > 0
        and store.ports[-1] < 1 << 16
        and len(store.name) <= NAME_LIMIT
    )


def element(network: Network) -> str:
    return inet_ntop(FAMILY[network.version], network.network_address.packed)


def milliseconds(seconds: float) -> int:
    """Rounded up, so that a ban never ends early; capped at LONGEST. `seconds` is positive."""
    return math.ceil(min(seconds, LONGEST) * 1000)


# The statements. nft 1.0.6 wants every closing brace on its own line.


def add_set(store: Store) -> str:
    return f"add set {TABLE} {store.name} {{ type ipv{store.version:d}_addr\nflags timeout\nsize {SIZE}\n}}\n"


def add_counter(store: Store) -> str:
    return f"add counter {TABLE} {store.name}\n"


def add_rules(store: Store, hook: str, verdict: str) -> str:
    """`hook` is a key of PRIORITIES, `verdict` one of VERDICTS."""
    name = store.name
    ports = ", ".join(f"{port:d}" for port in store.ports)
    family = "ip" if store.version == 4 else "ip6"
    bits = WIDEST[store.version]
    mask = ""
    if store.width < bits:
        number = ((1 << store.width) - 1) << (bits - store.width)
        mask = " & " + inet_ntop(FAMILY[store.version], number.to_bytes(bits // 8, "big"))
    end = f"{mask} @{name} counter name {name} {VERDICTS[verdict]}\n"
    # The ports first: a packet to another service is done with after one comparison a rule.
    text = ""
    if hook in INWARD:
        text += f"add rule {TABLE} {hook} tcp dport {{ {ports}\n}} {family} saddr{end}"
    if hook in OUTWARD:
        text += f"add rule {TABLE} {hook} tcp sport {{ {ports}\n}} tcp flags & rst == 0 {family} daddr{end}"
    return text


def frame(hooks: Iterable[str], chains: Mapping[str, bool]) -> str:
    """The table and an empty base chain for each hook. `chains` are those there, and whether they have our shape: one
    of another shape, or of a hook that is no longer asked for, goes."""
    hooks = list(hooks)
    text = f"add table {TABLE}\n"
    for name, good in chains.items():
        if name not in hooks or not good:
            text += f"flush chain {TABLE} {name}\ndelete chain {TABLE} {name}\n"
    for hook in hooks:
        shape = f"type filter hook {hook} priority {PRIORITIES[hook]:d}\npolicy accept\n"
        text += f"add chain {TABLE} {hook} {{ {shape}}}\nflush chain {TABLE} {hook}\n"
    return text


class Listing(NamedTuple):
    """What a table holds. A set with a name of ours but another shape stands in `broken`, never in `stores`."""

    stores: dict[Store, list[Held]]
    broken: list[str]
    chains: dict[str, bool]  # those named like a hook; False: with another type, hook, priority or policy
    counters: set[str]


class Refused(NamedTuple):
    """What was refused for one set: its family (4 or 6), prefix length and ports, since the set was made."""

    version: int
    width: int
    ports: tuple[int, ...]
    packets: int
    bytes: int


def targets(store: Store, elements: Mapping[bytes, int | None]) -> list[Held]:
    """The meaning of a set's elements, key -> milliseconds left; of one with bits beyond the set's width, which never
    matches a packet, none."""
    low = WIDEST[store.version] - store.width
    end = f"/{store.width:d}" if low else ""
    beyond = (1 << low) - 1
    ports = store.ports
    text = address_text if store.version == 6 else inet_ntoa
    return [
        made(Held, (made(Target, (text(key) + end, ports)), None if left is None else left / 1000))
        for key, left in elements.items()
        if not beyond or not int.from_bytes(key, "big") & beyond
    ]
