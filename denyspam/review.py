"""review: the bans of a period, as numbers for people: what `report` tells. Pure.

    Review.add(entry)     each ban of the ledger that began in the period, with the lines of its evidence
    Review.withhold(…)    those that were decided and not carried out
    Review.told(most)     everything, as one object for JSON and for the page alike

Where an address is comes from records of .mmdb files, whoever made them: place() reads those of MaxMind, DB-IP, IPinfo
and their kin. Notes and log lines are passed on as they are: whoever prints them makes them harmless.
Memory: about half a kilobyte for each banned address.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from ipaddress import ip_network
from typing import Any, NamedTuple

from denyspam.events import Ban
from denyspam.tally import Series, median, wall

HOUR, DAY = 3600.0, 86_400.0
BUCKETS = 92  # of the bans over time: three months of days
LENGTHS = (  # of a ban, in seconds, and what it is called
    (600.0, "up to 10 minutes"),
    (HOUR, "up to 1 hour"),
    (6 * HOUR, "up to 6 hours"),
    (DAY, "up to 1 day"),
    (7 * DAY, "up to 7 days"),
    (30 * DAY, "up to 30 days"),
    (float("inf"), "longer"),
)
OFTEN = ((1, 1), (2, 4), (5, 9), (10, None))  # bans of one address, from and to
GROUPS = {4: 24, 6: 64}  # what counts as one network
BY_HAND = ("manual", "forced")
BY_HAND_KIND, ADOPTED = "by hand", "adopted"
TEXT = 160  # characters of a text that others wrote


class Line(NamedTuple):
    """A log line of a ban's evidence."""

    time: float
    kind: str
    filter: str
    text: bytes


class Entry(NamedTuple):
    """A ban of the ledger. `ended` is None while it holds; times are epoch seconds."""

    ban: Ban
    state: str
    ended: float | None
    end_note: str
    line: Line | None  # that decided it
    filters: Mapping[str, tuple[int, float]]  # of its evidence: name -> (lines, time of the last)


class Place(NamedTuple):
    """Where an address is: each "" or 0 where that is not known."""

    country: str = ""  # ISO 3166, two letters
    name: str = ""
    number: int = 0  # of the autonomous system
    holder: str = ""


def place(records: Iterable[Any]) -> Place:
    """What the records of one address in some databases say together; whatever they are made of."""
    found = Place()
    for record in records:
        if not isinstance(record, Mapping):
            continue
        country = record.get("country")
        if not isinstance(country, Mapping):
            country = {"iso_code": record.get("country_code") or country, "name": record.get("country_name") or country}
        names = country.get("names")
        code = _text(country.get("iso_code") or country.get("code"))
        name = _text(names.get("en") if isinstance(names, Mapping) else country.get("name"))
        number = record.get("autonomous_system_number") or record.get("asn")
        holder = record.get("autonomous_system_organization") or record.get("as_name") or record.get("name")
        digits = str(number or "").upper().removeprefix("AS")
        found = Place(
            found.country or (code.upper() if len(code) == 2 and code.isalpha() and code.isascii() else ""),
            found.name or (name if len(name) > 2 else ""),
            found.number or (int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else 0),
            found.holder or (_text(holder) if number else ""),
        )
    return found


def _text(value: Any) -> str:
    return value[:TEXT] if isinstance(value, str) else ""


def network(name: str) -> str:
    """The /24 or /64 of a target's name; what is wider stands for itself."""
    if ":" not in name and "/" not in name:  # nearly all, in a tenth of the time
        return f"{name[: name.rindex('.')]}.0/24"
    if name.endswith(f"/{GROUPS[6]}"):
        return name
    found = ip_network(name)
    prefix = GROUPS[found.version]
    return str(found if found.prefixlen <= prefix else found.supernet(new_prefix=prefix))


@dataclass(slots=True)
class _Sum:
    """Bans that have something in common."""

    bans: int = 0
    hits: int = 0
    addresses: set[str] = field(default_factory=set)
    first: float | None = None
    last: float | None = None
    lengths: Counter[float] = field(default_factory=Counter)
    released: int = 0  # by hand, before their end

    def add(self, entry: Entry) -> None:
        ban = entry.ban
        self.bans += 1
        self.hits += ban.hits
        self.addresses.add(ban.target.name)
        self.first = ban.since if self.first is None else min(self.first, ban.since)
        self.last = ban.since if self.last is None else max(self.last, ban.since)
        self.lengths[ban.until - ban.since] += 1
        self.released += entry.state == "released"

    def told(self) -> dict[str, Any]:
        return {
            "bans": self.bans,
            "hits": self.hits,
            "addresses": len(self.addresses),
            "first": self.first,
            "last": self.last,
            "median": median(self.lengths),
            "released": self.released,
        }


def _together(sums: Iterable[_Sum]) -> _Sum:
    whole = _Sum()
    for each in sums:
        whole.bans += each.bans
        whole.hits += each.hits
        whole.addresses |= each.addresses
        whole.first = min(filter(None, (whole.first, each.first)), default=None)
        whole.last = max(filter(None, (whole.last, each.last)), default=None)
        whole.lengths.update(each.lengths)
        whole.released += each.released
    return whole


@dataclass(slots=True)
class _Address:
    bans: int = 0
    first: float = 0.0
    last: float = 0.0
    held: float = 0.0  # seconds, up to the report; once where ports are banned apart
    until: float = 0.0  # the end of these
    rule: str = ""


class Review:
    """The period from `begin` to `end`, epoch seconds; `end` is when the report is made."""

    def __init__(self, begin: float, end: float, zone: tzinfo, locate: Callable[[str], Place] | None = None) -> None:
        self.begin, self.end = begin, end
        self._zone = zone
        self._locate = locate  # where the network of a name is
        self._kinds: defaultdict[str, _Sum] = defaultdict(_Sum)
        self._rules: defaultdict[str, _Sum] = defaultdict(_Sum)
        self._series = Series()
        self._addresses: dict[str, _Address] = {}
        self._filters: dict[str, list[float]] = {}  # name -> [lines, time of the last]
        self._examples: dict[str, Entry] = {}
        self._hands: list[Entry] = []
        self._withheld: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """In the order in which they began."""
        ban = entry.ban
        kind = kind_of(entry)
        self._kinds[kind].add(entry)
        self._rules[ban.rule].add(entry)
        self._series.add(kind, wall(ban.since, self._zone))
        who = self._addresses.get(ban.target.name)
        if who is None:
            who = self._addresses[ban.target.name] = _Address(first=ban.since)
        who.bans += 1
        who.last, who.rule = ban.since, ban.rule
        end = min(ban.until, self.end, ban.until if entry.ended is None else entry.ended)
        who.held += max(0.0, end - max(ban.since, who.until))
        who.until = max(who.until, end)
        for name, (lines, last) in entry.filters.items():
            counts = self._filters.setdefault(name, [0, 0.0])
            counts[0] += lines
            counts[1] = max(counts[1], last)
        if entry.line is not None:
            self._examples[ban.rule] = entry
        if ban.rule in BY_HAND or entry.state == "released":
            self._hands.append(entry)

    def withhold(self, entry: Entry) -> None:
        """A ban that was decided, and not carried out; its note says why."""
        self._withheld.append(entry)

    def told(self, most: int = 10) -> dict[str, Any]:
        """All numbers; of each list that could be long the first `most` rows. Times are epoch seconds."""
        names = sorted(self._kinds, key=lambda kind: -self._kinds[kind].bans)
        steps = self._series.steps(BUCKETS, names, (wall(self.begin, self._zone), wall(self.end, self._zone) - 1))
        return {
            **_together(self._rules.values()).told(),
            "over_time": {
                "start": steps.start,
                "step": steps.size,
                "bans": {k: list(v) for k, v in steps.counts.items()},
            },
            "kinds": [{"kind": kind, **self._kinds[kind].told()} for kind in names],
            "policies": [
                {"name": rule, **sums.told()}
                for rule, sums in sorted(self._rules.items(), key=lambda each: -each[1].bans)
            ],
            **self._places(most),
            "durations": self._durations(),
            "often": [
                {
                    "from": low,
                    "to": high,
                    "addresses": sum(low <= each.bans <= (high or each.bans) for each in self._addresses.values()),
                }
                for low, high in OFTEN
            ],
            "repeated": self._repeated(most),
            "filters": [
                {"name": name, "lines": int(lines), "last": last}
                for name, (lines, last) in sorted(self._filters.items(), key=lambda each: -each[1][0])
            ],
            "examples": [_example(entry) for _, entry in sorted(self._examples.items())],
            "by_hand": [_hand(entry) for entry in reversed(self._hands[-most:])],
            "by_hand_count": len(self._hands),
            "withheld": [_hand(entry) for entry in reversed(self._withheld[-most:])],
            "withheld_count": len(self._withheld),
        }

    def _durations(self) -> list[dict[str, Any]]:
        counts = Counter[str]()
        for length, count in _together(self._rules.values()).lengths.items():
            counts[next(text for limit, text in LENGTHS if length <= limit + 0.5)] += count
        return [{"label": text, "bans": counts[text]} for _, text in LENGTHS]

    def _repeated(self, most: int) -> list[dict[str, Any]]:
        again = [(name, who) for name, who in self._addresses.items() if who.bans > 1]
        again.sort(key=lambda each: (-each[1].bans, -each[1].held, each[0]))
        return [
            {
                "address": name,
                "bans": who.bans,
                "first": who.first,
                "last": who.last,
                "held": who.held,
                "rule": who.rule,
                **self._place(name)._asdict(),
            }
            for name, who in again[:most]
        ]

    def _place(self, name: str) -> Place:
        return Place() if self._locate is None else self._locate(name)

    def _places(self, most: int) -> dict[str, Any]:
        """The worst networks, countries and autonomous systems, by bans."""
        networks: dict[str, list[float]] = {}  # bans, addresses, last
        countries: dict[tuple[str, str], list[int]] = {}
        systems: dict[tuple[int, str], list[int]] = {}
        for name, who in self._addresses.items():
            sums = networks.setdefault(network(name), [0, 0, 0.0])
            sums[0], sums[1], sums[2] = sums[0] + who.bans, sums[1] + 1, max(sums[2], who.last)
            if self._locate is None:
                continue
            where = self._locate(name)
            for counts in (
                countries.setdefault((where.country, where.name), [0, 0]),
                systems.setdefault((where.number, where.holder), [0, 0]),
            ):
                counts[0], counts[1] = counts[0] + who.bans, counts[1] + 1
        worst = sorted(networks.items(), key=lambda each: (-each[1][0], -each[1][1], each[0]))
        return {
            "networks": [
                {
                    "network": name,
                    "bans": int(bans),
                    "addresses": int(addresses),
                    "last": last,
                    **self._place(name)._asdict(),
                }
                for name, (bans, addresses, last) in worst[:most]
            ],
            "network_count": len(networks),
            "located": self._locate is not None,
            "countries": [
                {"country": code, "name": name, "bans": counts[0], "addresses": counts[1]}
                for (code, name), counts in _most(countries, most)
                if code or name
            ],
            "systems": [
                {"number": number, "holder": holder, "bans": counts[0], "addresses": counts[1]}
                for (number, holder), counts in _most(systems, most)
                if number
            ],
        }


def _most(counted: Mapping[Any, list[int]], most: int) -> list[tuple[Any, list[int]]]:
    known = [(key, counts) for key, counts in counted.items() if any(key)]
    return sorted(known, key=lambda each: (-each[1][0], -each[1][1], each[0]))[:most]


def kind_of(entry: Entry) -> str:
    """Of the deciding hit; else what the policy's name begins with."""
    if entry.ban.rule in BY_HAND:
        return BY_HAND_KIND
    if entry.line is not None:
        return entry.line.kind
    return entry.ban.rule.partition(".")[0]


def _example(entry: Entry) -> dict[str, Any]:
    """The newest ban of a policy, with the line that decided it."""
    line = entry.line
    assert line is not None  # noqa: S101 - for the type checker
    return {
        "rule": entry.ban.rule,
        "address": entry.ban.target.name,
        "time": entry.ban.since,
        "until": entry.ban.until,
        "hits": entry.ban.hits,
        "kind": line.kind,
        "filter": line.filter,
        "line": line.text.decode("utf-8", "replace"),
    }


def _hand(entry: Entry) -> dict[str, Any]:
    return {
        "address": entry.ban.target.name,
        "rule": entry.ban.rule,
        "since": entry.ban.since,
        "until": entry.ban.until,
        "note": entry.ban.note,
        "state": entry.state,
        "ended": entry.ended,
        "end_note": entry.end_note,
    }
