"""tally: what a policy did with a log, in numbers: table, bans over time, two policies compared, the cost. Pure.

    Tally         a row for each policy and each kind without one; the bans over time
    Differences   the bans of one policy that no ban of another overlaps, and the other way round
    Cost          who was banned though mail was accepted from him, and what he did while banned

It decides nothing: a Judge does, and is asked what it would count before it decides. Memory does not grow with the log:
addresses are counted exactly up to SKETCH and above that estimated (0.4 %), times lie in at most STEPS buckets, and
Cost follows FOLLOWED addresses on either side at most; above that the stalest are let go, and counted.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton

from denyspam.events import HARMLESS, Ban, Event, Policy, address_text
from denyspam.policy import Judge

SKETCH = 65_536  # hashes kept of those counted; 1 / sqrt(SKETCH) is the error of the estimate
STEPS = 10_000  # buckets of time kept; a year of hours
SIZES = (60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400, 7 * 86_400, 28 * 86_400)  # seconds of a bucket
MONDAY = 3 * 86_400  # the epoch was a Thursday
FOLLOWED = 200_000  # addresses on either side; half a kilobyte each
LATE = 2 * 3600.0  # seconds by which a ban may be told after its own time: the horizon of a join, and some
HOURS = 3600


class Distinct:
    """How many different texts were added: exact up to SKETCH, then by the smallest hashes (k minimum values)."""

    def __init__(self) -> None:
        self._smallest: list[int] = []  # a heap of the negatives
        self._hashes: set[int] = set()

    def add(self, text: str) -> None:
        number = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        if number in self._hashes:
            return
        if len(self._smallest) < SKETCH:
            heapq.heappush(self._smallest, -number)
        elif number < -self._smallest[0]:
            self._hashes.remove(-heapq.heapreplace(self._smallest, -number))
        else:
            return
        self._hashes.add(number)

    @property
    def exact(self) -> bool:
        return len(self._smallest) < SKETCH

    def __len__(self) -> int:
        if self.exact:
            return len(self._smallest)
        return round((SKETCH - 1) * 2.0**64 / -self._smallest[0])


def median(lengths: Mapping[float, int]) -> float | None:
    """Of a count of each length; of an even number the lower one in the middle. None of none."""
    left = (sum(lengths.values()) + 1) // 2
    for length, count in sorted(lengths.items()):
        left -= count
        if left <= 0:
            return length
    return None


@lru_cache(maxsize=4096)
def _offset(hour: int, zone: tzinfo) -> float:
    moved = datetime.fromtimestamp(hour * HOURS, zone).utcoffset()
    return 0.0 if moved is None else moved.total_seconds()


def wall(time: float, zone: tzinfo) -> float:
    """What the clock on the wall shows, as if that were UTC: so that a day is a day when the clocks change."""
    return time + _offset(int(time // HOURS), zone)


@dataclass(frozen=True, slots=True)
class Steps:
    """Counts over time. The first bucket begins at `start`, each is `size` seconds long, by the clock on the wall."""

    start: float
    size: int
    counts: Mapping[str, Sequence[int]]  # name -> a count for each bucket

    @property
    def length(self) -> int:
        return max((len(each) for each in self.counts.values()), default=0)

    def total(self) -> list[int]:
        return [sum(column) for column in zip(*self.counts.values(), strict=True)]


class Series:
    """Counts by name and time, in buckets that widen when they become too many."""

    def __init__(self) -> None:
        self._size = SIZES[0]
        self._counts: Counter[tuple[str, int]] = Counter()

    def add(self, name: str, when: float, count: int = 1) -> None:
        """`when` is as wall() tells it."""
        self._counts[name, int(when - self._shift(self._size)) // self._size] += count
        if len(self._counts) > STEPS and self._size < SIZES[-1]:
            wider = SIZES[SIZES.index(self._size) + 1]
            self._counts, self._size = self._widened(wider), wider

    @staticmethod
    def _shift(size: int) -> int:
        return -MONDAY if size % (7 * 86_400) == 0 else 0

    def _widened(self, size: int) -> Counter[tuple[str, int]]:
        counts: Counter[tuple[str, int]] = Counter()
        old, new = self._shift(self._size), self._shift(size)
        for (name, bucket), count in self._counts.items():
            counts[name, (bucket * self._size + old - new) // size] += count
        return counts

    def steps(self, most: int, names: Sequence[str], span: tuple[float, float] | None = None) -> Steps:
        """At most `most` buckets, of the smallest usual size, over `span` or all that was added; `names` in order."""
        if span is None:
            buckets = [bucket for _, bucket in self._counts]
            if not buckets:
                return Steps(0.0, self._size, dict.fromkeys(names, ()))
            shift = self._shift(self._size)
            span = min(buckets) * self._size + shift, (max(buckets) + 1) * self._size + shift - 1
        sizes = [size for size in SIZES if size >= self._size]
        for size in (*sizes, *(SIZES[-1] * factor for factor in range(2, 1000))):
            shift = self._shift(size)
            first, last = (int(each - shift) // size for each in span)
            if last - first < max(1, most):
                break
        counts = {name: [0] * (last - first + 1) for name in names}
        for (name, bucket), count in self._widened(size).items():
            if name in counts and first <= bucket <= last:
                counts[name][bucket - first] += count
        return Steps(float(first * size + shift), size, counts)


@dataclass(slots=True)
class Row:
    """One policy's, or with `policy` None those of a kind that no policy counts."""

    name: str
    policy: Policy | None
    hits: int = 0
    bans: int = 0
    addresses: Distinct = field(default_factory=Distinct)
    first: float | None = None  # epoch seconds of a ban's deciding hit
    last: float | None = None
    lengths: Counter[float] = field(default_factory=Counter)  # seconds -> bans

    def add(self, ban: Ban) -> None:
        self.bans += 1
        self.addresses.add(ban.target.name)
        self.first = ban.since if self.first is None else min(self.first, ban.since)
        self.last = ban.since if self.last is None else max(self.last, ban.since)
        self.lengths[ban.until - ban.since] += 1

    @property
    def median(self) -> float | None:
        """Seconds of a ban; of an even number of them the lower one in the middle, which is a length that there is."""
        return median(self.lengths)


class Tally:
    """What a Judge does with events: feed() passes each one on to it, add() takes those of its bans that count."""

    def __init__(self, judge: Judge, zone: tzinfo) -> None:
        self._judge, self._zone = judge, zone
        self.rows = {policy.name: Row(policy.name, policy) for policy in judge.policies}
        self.kinds: Counter[str] = Counter()
        self.addresses = Distinct()  # banned
        self.bans = 0
        self.nobody = 0  # events without an address
        self.untimed = 0  # events whose time cannot be used
        self.first: float | None = None  # epoch seconds of the first and last event
        self.last: float | None = None
        self._series = Series()

    def feed(self, event: Event) -> list[Ban]:
        """The judge's decision. What is no offence is none of the numbers."""
        if event.kind in HARMLESS:
            return []
        self.kinds[event.kind] += 1
        time = event.time
        if time is None:
            self.untimed += 1
            return []
        if self.first is None or time < self.first:
            self.first = time
        if self.last is None or time > self.last:
            self.last = time
        if event.address is None:
            self.nobody += 1
            return []
        for policy in self._judge.counting(event):
            self.rows[policy.name].hits += 1
        bans = self._judge.decide(event)
        if bans:
            self._judge.expire(time)
        return bans

    def add(self, ban: Ban) -> None:
        """A decision that was carried out."""
        self.bans += 1
        self.addresses.add(ban.target.name)
        self.rows[ban.rule].add(ban)
        self._series.add(ban.rule, wall(ban.since, self._zone))

    def events(self, row: Row) -> int:
        """The events that its policy is about."""
        if row.policy is None:
            return self.kinds[row.name]
        return sum(count for kind, count in self.kinds.items() if row.policy.kind in (kind, "any"))

    def table(self) -> list[Row]:
        """A row for each policy, and for each offence seen that none counts."""
        kinds = {policy.kind for policy in self._judge.policies}
        alone = [kind for kind in self.kinds if kind not in kinds] if "any" not in kinds else []
        return [*self.rows.values(), *(Row(kind, None) for kind in sorted(alone))]

    def steps(self, most: int) -> Steps:
        """The bans over time, by policy, from the first event to the last."""
        if self.first is None or self.last is None:
            return Steps(0.0, SIZES[0], dict.fromkeys(self.rows, ()))
        return self._series.steps(most, list(self.rows), (wall(self.first, self._zone), wall(self.last, self._zone)))


# --- two policies -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Side:
    """A ban of one of the two, until it is known whether the other had one as well."""

    side: int
    ban: Ban
    met: bool = False


class Differences:
    """The bans of two policies (0 and 1) on the same logs: which of them overlap no ban of the other.

    They overlap where network, ports and time do: a ban that the other makes a little later, or of the whole /24, is
    the same ban. Keeps the bans that are not over yet.
    """

    def __init__(self) -> None:
        self.alone = (Counter[str](), Counter[str]())  # rule -> bans of this side only
        self.both = (0, 0)  # bans of each side that the other has too
        self.addresses = (Distinct(), Distinct())  # of the bans of this side only
        self._waiting: list[tuple[float, int, _Side]] = []  # a heap, by their beginnings
        self._inside: tuple[dict[str, list[_Side]], ...] = ({}, {})  # network -> bans of it and of parts of it
        self._widths: set[tuple[int, int]] = set()  # (version, prefix length) of all bans so far
        self._serial = 0

    def add(self, side: int, ban: Ban) -> None:
        """Each side's in the order decided."""
        found = _Side(side, ban)
        network = ban.target.network
        width = (network.version, network.prefixlen)
        if width not in self._widths:
            self._widths.add(width)
            for each in self._waiting:
                self._note(each[2], {width})
        self._note(found, self._widths)
        for other in self._overlapping(found):
            found.met = other.met = True
        self._serial += 1
        heapq.heappush(self._waiting, (ban.since, self._serial, found))

    def _names(self, ban: Ban, widths: set[tuple[int, int]]) -> Iterator[str]:
        """The networks of these widths that the ban's lies in, itself included."""
        network = ban.target.network
        for version, prefix in widths:
            if version == network.version and prefix <= network.prefixlen:
                yield str(network.supernet(new_prefix=prefix))

    def _note(self, found: _Side, widths: set[tuple[int, int]]) -> None:
        for name in self._names(found.ban, widths):
            self._inside[found.side].setdefault(name, []).append(found)

    def _overlapping(self, found: _Side) -> Iterator[_Side]:
        ban, network = found.ban, str(found.ban.target.network)
        for name in self._names(ban, self._widths):
            for other in self._inside[1 - found.side].get(name, ()):
                theirs = other.ban
                if name != network and str(theirs.target.network) != name:
                    continue  # another part of a network that neither bans whole
                if (
                    theirs.since < ban.until
                    and ban.since < theirs.until
                    and set(theirs.target.ports) & set(ban.target.ports)
                ):
                    yield other

    def passed(self, time: float) -> Iterator[tuple[int, Ban]]:
        """(side, ban) of those that the other does not have, once nothing can change that; by their beginnings."""
        while self._waiting and self._waiting[0][2].ban.until + LATE <= time:
            found = heapq.heappop(self._waiting)[2]
            side, ban = found.side, found.ban
            for name in self._names(ban, self._widths):
                same = self._inside[side][name]
                same.remove(found)
                if not same:
                    del self._inside[side][name]
            if found.met:
                self.both = (self.both[0] + (not side), self.both[1] + side)
            else:
                self.alone[side][ban.rule] += 1
                self.addresses[side].add(ban.target.name)
                yield side, ban


# --- what a policy costs, and saves -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Banned:
    """Somebody banned. `before`, `during` and `after` count the mail accepted from him, by when he was banned."""

    rule: str  # of the first ban
    first: float  # epoch seconds: when that began
    bans: int = 0
    before: int = 0
    during: int = 0
    after: int = 0

    @property
    def accepted(self) -> int:
        return self.before + self.during + self.after


class Cost:
    """Mail accepted from those who were banned, and what they did while banned. Feed before the judge decides."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._widths = tuple({policy.prefix for policy in judge.policies} or {None})
        self._accepted: OrderedDict[str, int] = OrderedDict()  # network -> messages, of those not banned; stalest first
        self._banned: OrderedDict[str, Banned] = OrderedDict()
        self.spans: dict[str, array[float]] = {}  # network -> since, until, since, until, … by time
        self.kinds: Counter[str] = Counter()  # events of banned clients while they were banned
        self.accepted = 0  # messages, of anybody
        self.nobody = 0  # of these, by a client that is not known
        self.forgotten = 0  # addresses let go

    def feed(self, event: Event) -> None:
        time, address = event.time, event.address
        accepted = event.kind == "accept"
        self.accepted += accepted
        if time is None or address is None:
            self.nobody += accepted
            return
        names = [name for name in {self._judge.key(address, width) for width in self._widths} if name is not None]
        held = [name for name in names if self._judge.holding(name, time)]
        if held:
            self.kinds[event.kind] += 1
        for name in names if accepted else ():
            who = self._banned.get(name)
            if who is None:
                self._accepted[name] = self._accepted.pop(name, 0) + 1
                self._trim(self._accepted)
            elif name in held:
                who.during += 1
            elif time < who.first:
                who.before += 1
            else:
                who.after += 1

    def add(self, ban: Ban) -> None:
        """It was decided."""
        name = ban.target.name
        who = self._banned.get(name)
        if who is None:
            who = self._banned[name] = Banned(ban.rule, ban.since, before=self._accepted.pop(name, 0))
            self._trim(self._banned)
        who.bans += 1
        self.spans.setdefault(name, array("d")).extend((ban.since, ban.until))

    def _trim(self, kept: OrderedDict[str, int] | OrderedDict[str, Banned]) -> None:
        if len(kept) > FOLLOWED:
            name, _ = kept.popitem(last=False)
            self.spans.pop(name, None)
            self.forgotten += 1

    @property
    def banned(self) -> int:
        return len(self._banned)

    def suspects(self) -> list[tuple[str, Banned]]:
        """(network, what was seen) of those banned that mail was accepted from; who would have lost most, first."""
        found = [(name, who) for name, who in self._banned.items() if who.accepted]
        return sorted(found, key=lambda each: (-each[1].during, -each[1].accepted, each[0]))


class Spans:
    """Who was banned when, asked for the addresses as they stand on lines."""

    def __init__(self, spans: Mapping[str, array[float]]) -> None:
        self._spans = {name: _joined(each) for name, each in spans.items()}
        self._widths: dict[int, set[int]] = {AF_INET: set(), AF_INET6: set()}
        for name in spans:
            network = ip_network(name)
            self._widths[AF_INET if network.version == 4 else AF_INET6].add(network.prefixlen)
        self.find = lru_cache(maxsize=65_536)(self._find)

    def _find(self, text: bytes) -> tuple[array[float], ...]:
        """The spans of all networks that this address lies in."""
        family = AF_INET6 if b":" in text else AF_INET
        try:
            packed = inet_pton(family, text.decode("ascii"))
        except (OSError, ValueError):
            return ()
        most, number = len(packed) * 8, int.from_bytes(packed, "big")
        found = []
        for width in self._widths[family]:
            low = most - width
            name = address_text((number >> low << low).to_bytes(most // 8, "big"))
            spans = self._spans.get(f"{name}/{width}" if low else name)
            if spans is not None:
                found.append(spans)
        return tuple(found)

    @staticmethod
    def cover(spans: array[float], time: float) -> bool:
        """Whether `time` lies in one of them; beginnings are inside, ends are not."""
        return bisect_right(spans, time) % 2 == 1


def _joined(spans: array[float]) -> array[float]:
    """In the order of time, and those that overlap (bans decided on late hits) as one."""
    joined = array("d")
    for since, until in sorted(zip(spans[::2], spans[1::2], strict=True)):
        if joined and since <= joined[-1]:
            joined[-1] = max(joined[-1], until)
        else:
            joined.extend((since, until))
    return joined
