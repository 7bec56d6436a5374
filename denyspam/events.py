"""events: the nouns. Pure; every other module speaks in these and adds none of its own.

A *finding* is what one line says by itself; an *event* is an offence (or an acceptance) whose client is known as
well as it ever will be. Times are epoch seconds as float, from the line's own stamp. Addresses are canonical text
(IPv4-mapped as IPv4, IPv6 compressed and lower case); networks are `ipaddress` objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from socket import AF_INET, AF_INET6, inet_ntop
from typing import NamedTuple

Network = IPv4Network | IPv6Network

CLIENT = "client"  # the kind of a finding that only names a queue id's client
OFFENCES = ("virus", "relay", "reject", "auth", "protocol", "spam")
HARMLESS = ("accept", "defer")  # recognised, never counted
MAPPED = bytes(10) + b"\xff\xff"  # what ::ffff:192.0.2.7 begins with, packed
NO_STRIKE = ("released", "replaced")  # states of past bans
VERDICTS = ("virus", "spam")  # on a message: told again for the same queue id, they are one event


class Event(NamedTuple):
    """A line that a filter recognised. A named tuple, as there are a hundred thousand a second of them.

    `kind` is an offence, `accept`, `defer`, a filter's own kind, or CLIENT.
    `address` is None where the line names none: it then belongs to the client of (`host`, `queue_id`); and where that
    client never became known.
    `time` is None where the stamp is missing, impossible or in the future: never a hit.
    `times` is N on a line that says so (`message repeated N times`) until it is settled, then 1, N times over.
    """

    time: float | None
    kind: str
    address: str | None
    filter: str
    queue_id: str | None
    user: str | None
    file: str
    offset: int  # of the line's first byte in its file
    number: int  # 1-based line number in its file, 0 where unknown (a tail that began in the middle)
    text: bytes  # the line without its newline
    host: str = ""  # the host on the line, "" where the log names none
    times: int = 1


Finding = Event  # what one line says by itself; once its address is as known as it ever will be, it is called an event


@dataclass(frozen=True, slots=True)
class Policy:
    """One sentence of the policy: `name = hits in within -> ban duration, …`. Times in seconds."""

    name: str  # "relay", "relay.slow", "any"; unique
    kind: str  # "relay"; "any" counts every offence
    hits: int
    within: float
    duration: float
    ceiling: float | None = None  # `doubling to 7d`: the n-th ban lasts duration * 2**n, at most this
    forget: float | None = None  # `forget 30d`: a strike older than this no longer counts
    prefix: int | None = None  # `by net/24`: count and ban the network of this length
    ports: tuple[int, ...] | None = None  # None: the daemon's


class Target(tuple[str, tuple[int, ...]]):
    """What a ban closes: these local ports to this network. The key of a ban everywhere.

    A pair (name, ports), and not an object of two networks: there may be a million. `name` is the network's canonical
    text, one host without a prefix length: 192.0.2.7 or 2001:db8::/64; `ports` are sorted and unique.
    """

    __slots__ = ()

    def __new__(cls, network: Network, ports: tuple[int, ...]) -> Target:
        return tuple.__new__(cls, (_name(network), ports))

    @classmethod
    def named(cls, name: str, ports: tuple[int, ...]) -> Target:
        """Of a name that was another target's."""
        return tuple.__new__(cls, (name, ports))

    @property
    def name(self) -> str:
        return self[0]

    @property
    def ports(self) -> tuple[int, ...]:
        return self[1]

    @property
    def network(self) -> Network:
        """Made anew each time, at 5 µs."""
        return ip_network(self[0])

    def __str__(self) -> str:
        return self[0]

    def __repr__(self) -> str:
        return f"Target({self[0]}, {self[1]})"

    def __getnewargs__(self) -> tuple[Network, tuple[int, ...]]:
        return self.network, self.ports


def _name(network: Network) -> str:
    address = address_text(network.network_address.packed)
    return address if network.prefixlen == network.max_prefixlen else f"{address}/{network.prefixlen:d}"


def address_text(packed: bytes) -> str:
    """The canonical text of an address of 4 or 16 bytes; fifty times as fast as `ipaddress` where it can be."""
    if len(packed) == 4:
        return inet_ntop(AF_INET, packed)
    text = inet_ntop(AF_INET6, packed)
    return str(IPv6Address(packed)) if "." in text else text  # the C library writes ::102:304 as ::1.2.3.4


class Ban(NamedTuple):
    """A decision. It holds from `since` (inclusive) to `until` (exclusive), epoch seconds."""

    target: Target
    rule: str  # the policy's name, or "manual"
    since: float
    until: float
    hits: int
    evidence: tuple[Event, ...] = ()  # by time; the newest of the hits, bounded
    note: str = ""
    mark: tuple[str, int] | None = None  # file and offset of the deciding hit; None for a ban by hand


class Past(NamedTuple):
    """A ban as the ledger holds it: a row of its table, which says what `state` may be. `ended` is when it ended, None
    while it holds."""

    ban: Ban
    ended: float | None = None
    state: str = "active"
    id: int = 0
    end_note: str = ""

    @property
    def released(self) -> bool:
        """By hand, or replaced: not a strike."""
        return self.state in NO_STRIKE


@dataclass(frozen=True, slots=True)
class Grace:
    """An admin's word that a network is not to be banned before `until`, epoch seconds. A ban by hand ends it."""

    network: Network
    since: float
    until: float
    note: str = ""


class Release(NamedTuple):
    """The end of a ban: `expired`, `released` by hand, or `replaced`."""

    target: Target
    reason: str
    note: str = ""


class Held(NamedTuple):
    """An element the kernel holds, with the seconds it has left (None: without end)."""

    target: Target
    left: float | None


class SettingsError(ValueError):
    """The admin's text is wrong: `FILE:LINE: what, and what to write instead`. Exit code 78."""

    def __init__(self, message: str, file: str = "", line: int = 1, column: int | None = None) -> None:
        place = f"{file}:{line}" if column is None else f"{file}:{line}:{column}"
        super().__init__(f"{place}: {message}")
        self.message, self.file, self.line, self.column = message, file, line, column


class FilterError(SettingsError):
    """A filter file is wrong or unsafe: `FILE:LINE:COLUMN: what, and what to write instead`."""


class ActionError(RuntimeError):
    """The firewall refused. Logged and tried again; `permanent` where trying again cannot help (no permission)."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
