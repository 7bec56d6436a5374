"""events: the nouns. Pure; every other module speaks in these and adds none of its own.

A *finding* is what one line says by itself; an *event* is an offence (or an acceptance) whose client is known as
well as it ever will be. Times are epoch seconds as float, from the line's own stamp. Addresses are canonical text
(IPv4-mapped as IPv4, IPv6 compressed and lower case); networks are `ipaddress` objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network

CLIENT = "client"  # the kind of a finding that only names a queue id's client
OFFENCES = ("virus", "relay", "reject", "auth", "protocol", "spam")
HARMLESS = ("accept", "defer")  # recognised, never counted
VERDICTS = ("virus", "spam")  # on a message: told again for the same queue id, they are one event


@dataclass(frozen=True, slots=True)
class Finding:
    """One recognised line. `kind` is an offence, `accept`, `defer`, a filter's own kind, or CLIENT.

    `address` is None where the line names none: it then belongs to the client of (`host`, `queue_id`).
    `time` is None where the stamp is missing, impossible or in the future: never a hit.
    `count` is N on a line that says `message repeated N times`, else 1.
    """

    time: float | None
    kind: str
    address: str | None
    filter: str
    host: str  # the host on the line, "" where the log names none
    queue_id: str | None
    user: str | None
    file: str
    offset: int  # of the line's first byte in its file
    number: int  # 1-based line number in its file, 0 where unknown (a tail that began in the middle)
    text: bytes  # the line without its newline
    count: int = 1


@dataclass(frozen=True, slots=True)
class Event:
    """A finding whose address is settled: its own, its queue id's, or None for good."""

    time: float | None
    kind: str
    address: str | None
    filter: str
    queue_id: str | None
    user: str | None
    file: str
    offset: int
    number: int
    text: bytes


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


@dataclass(frozen=True, slots=True)
class Target:
    """What a ban closes: these local ports to this network. The key of a ban everywhere."""

    network: Network
    ports: tuple[int, ...]  # sorted, unique

    def __str__(self) -> str:
        network = self.network
        host = network.prefixlen == network.max_prefixlen
        return str(network.network_address) if host else str(network)


@dataclass(frozen=True, slots=True)
class Ban:
    """A decision. It holds from `since` (inclusive) to `until` (exclusive), epoch seconds."""

    target: Target
    rule: str  # the policy's name, or "manual"
    since: float
    until: float
    hits: int
    evidence: tuple[Event, ...] = ()  # by time; the newest of the hits, bounded
    note: str = ""
    mark: tuple[str, int] | None = None  # file and offset of the deciding hit; None for a ban by hand


@dataclass(frozen=True, slots=True)
class Past:
    """A ban as the ledger remembers it. `ended` is when it ended, None while it holds."""

    ban: Ban
    ended: float | None = None
    released: bool = False  # by hand: not a strike


@dataclass(frozen=True, slots=True)
class Grace:
    """An admin's word that a network is not to be banned before `until`, epoch seconds. A ban by hand ends it."""

    network: Network
    since: float
    until: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a ban: `expired`, `released` by hand, or `replaced`."""

    target: Target
    reason: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Held:
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
