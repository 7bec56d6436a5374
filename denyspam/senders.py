"""senders: who has sent us mail that was taken, and who is one of the big providers by his name. Pure.

    senders.hear(key, accepted, time)     a message of his was accepted; or (False) he offended
    senders.good(key, time) -> int        good days less bad ones, of those before the day of `time`
    providers.match(name) -> str | None   the entry of the list that a host's name stands under

A *good day* (UTC) is one on which more mail was accepted from a host than it offended, a *bad day* one on which it
offended more. The day that is not over counts neither way: an offender cannot earn anything on the day of his offence,
and a host that is known does not lose its name in the middle of a burst. So standing is earned by days, not by
messages: one spam that came through buys nothing, and days of offending take away what days of sending brought.
What is never enough to be known: to be known of somewhere else, a name, a single day.

`Front` looks for the other thing that accepted mail tells: that all of it comes from hardly any address. No server
that the world may send to is like that; one behind a proxy or a filter service is.

Bounded: `capacity` hosts, above it those go that were accepted from longest ago, a 64th at once; each keeps a day's two
numbers and two bits a day. Only hosts of which mail was ever accepted are kept at all. Late events (a join) count for
the host's newest day.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from denyspam.events import SettingsError

DAY = 86_400
CAPACITY = 100_000  # hosts; some 30 MB
LONGEST_NAME = 253  # characters of a host name, RFC 1035
NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}", re.A)
FEW = 4  # addresses of which all mail comes: the nodes of a proxy
FRONT_DAYS = 3  # that are looked at
FRONT_LEAST = DAY  # seconds between the first and the last message that they must span
FRONT_MESSAGES = 100
FRONT_SHARE, FRONT_ENOUGH = 20, 20  # a node of a front has a twentieth of the messages, or twenty

Row = tuple[str, int, int, int, int, int]  # key, day, accepted, offences, good, bad: as the ledger keeps it


class Senders:
    """Hosts from which mail was accepted in the last `days` days. Keys are those that hits are counted by."""

    def __init__(self, days: int, capacity: int = CAPACITY) -> None:
        self._mask = (1 << days) - 1
        self._capacity = capacity
        # key -> [day, accepted, offences, good, bad]; the bits of days before `day`, bit 0 the day before it. The one
        # accepted from longest ago first.
        self._hosts: dict[str, list[int]] = {}
        self._changed: set[str] = set()
        self._gone: set[str] = set()

    def __len__(self) -> int:
        return len(self._hosts)

    def hear(self, key: str, accepted: bool, time: float) -> None:
        """A message accepted from this host, or an offence of it."""
        host = self._hosts.pop(key, None) if accepted else self._hosts.get(key)
        day = int(time // DAY)
        if host is None:
            if not accepted:
                return
            host = [day, 0, 0, 0, 0]
            self._gone.discard(key)
        elif day > host[0]:
            host[:] = [day, 0, 0, *self._settled(host, day)]
        if accepted:
            self._hosts[key] = host
            host[1] += 1
            if len(self._hosts) > self._capacity:
                self._let_go()
        else:
            host[2] += 1
        self._changed.add(key)

    def _settled(self, host: list[int], day: int) -> tuple[int, int]:
        """(good, bad) as seen from a later day."""
        then, accepted, offences, good, bad = host
        shift = day - then - 1
        if shift >= self._mask.bit_length():
            return 0, 0
        return (
            (good << 1 | (accepted > offences)) << shift & self._mask,
            (bad << 1 | (offences > accepted)) << shift & self._mask,
        )

    def good(self, key: str, time: float) -> int:
        """Good days less bad ones before the day of `time`; 0 for a stranger."""
        good, bad = self.days(key, time)
        return good - bad

    def days(self, key: str, time: float) -> tuple[int, int]:
        """(good days, bad days) before the day of `time`."""
        host = self._hosts.get(key)
        if host is None:
            return 0, 0
        day = int(time // DAY)
        good, bad = (host[3], host[4]) if day <= host[0] else self._settled(host, day)
        return good.bit_count(), bad.bit_count()

    def _let_go(self) -> None:
        for key in list(islice(self._hosts, max(1, self._capacity >> 6))):
            del self._hosts[key]
            self._changed.discard(key)
            self._gone.add(key)

    # --- over a restart -----------------------------------------------------------------------------------------------

    def restore(self, rows: Iterable[Row]) -> None:
        """What the ledger kept, in the order in which it is to be forgotten."""
        for key, *host in rows:
            self._hosts[key] = host
        while len(self._hosts) > self._capacity:
            self._let_go()

    def afresh(self) -> None:
        """All of it is to be told as new."""
        self._changed.update(self._hosts)

    def changes(self) -> tuple[list[Row], list[str]]:
        """(what is new, who is forgotten) since the last call."""
        if not self._changed and not self._gone:
            return [], []
        changed = [(key, *self._hosts[key]) for key in self._changed]
        gone = list(self._gone)
        self._changed.clear()
        self._gone.clear()
        return changed, gone  # type: ignore[return-value]


class Front:
    """Do all accepted messages come from hardly any address? Then these stand in front of us, and hide their clients.

    At least FRONT_MESSAGES in the last FRONT_DAYS days, over FRONT_LEAST seconds, from at most FEW addresses. A flood
    of one offender makes most sessions too; it is no front as long as a fifth host has sent us mail in these days. Nor
    is one in front who had a message or two accepted beside: that would be a cheap way never to be banned.
    """

    def __init__(self) -> None:
        self._days: dict[int, dict[str, int]] = {}  # day -> address -> messages; one address too many is kept as a sign
        self._first = 0.0
        self._last = 0.0
        self.changed = False

    def hear(self, address: str, time: float) -> None:
        """A message accepted from this address."""
        day = int(time // DAY)
        known = self._days.get(day)
        if known is None:
            if self._days and day < max(self._days):
                return  # late
            known = self._days[day] = {}
            for old in [each for each in self._days if each <= day - FRONT_DAYS]:
                del self._days[old]
            self._first = time if len(self._days) == 1 else max(self._first, float(min(self._days) * DAY))
        self._last = max(self._last, time)
        if address in known or len(known) <= FEW:
            known[address] = known.get(address, 0) + 1
            self.changed = True

    def addresses(self) -> frozenset[str]:
        """Those in front of us; none where mail comes from the world."""
        found: Counter[str] = Counter()
        for known in self._days.values():
            found.update(known)
        messages = found.total()
        if len(found) > FEW or messages < FRONT_MESSAGES or self._last - self._first < FRONT_LEAST:
            return frozenset()
        least = min(messages / FRONT_SHARE, FRONT_ENOUGH)
        return frozenset(address for address, count in found.items() if count >= least)

    def state(self) -> dict[str, object]:
        """As JSON takes it."""
        self.changed = False
        return {
            "days": {str(day): known for day, known in self._days.items()},
            "first": self._first,
            "last": self._last,
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """What state() gave. Raises KeyError, TypeError, ValueError, AttributeError for anything else."""
        days, first, last = state["days"], state["first"], state["last"]
        if not isinstance(days, dict) or not isinstance(first, (int, float)) or not isinstance(last, (int, float)):
            raise TypeError(state)
        self._days = {int(day): {str(one): int(count) for one, count in known.items()} for day, known in days.items()}
        self._first, self._last = float(first), float(last)


class Providers:
    """The list of big providers: host names, each standing for all names under it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def __len__(self) -> int:
        return len(self._names)

    def match(self, name: str) -> str | None:
        """The entry that `name` stands under, whole labels only: a name in small letters, without the last dot."""
        if len(name) > LONGEST_NAME or NAME.fullmatch(name) is None:
            return None
        return next((each for each in _parents(name) if each in self._names), None)


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        yield name
        name = name.partition(".")[2]


def parse_providers(text: str, file: str) -> Providers:
    """A list of names, one a line; `#` begins a comment. Raises SettingsError."""
    names = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip().lower().strip(".")
        if not name:
            continue
        if len(name) > LONGEST_NAME or NAME.fullmatch(name) is None:
            raise SettingsError(
                f"{name[:100]!r} is no name of hosts; write one a line, with a dot in it, such as google.com",
                file,
                number,
            )
        names.append(name)
    return Providers(names)
