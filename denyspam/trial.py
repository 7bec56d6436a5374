"""trial: what `replay` tells beyond its list: the summary, two configurations compared, what bans cost and save. Edge.

The list alone is what a pipe gets; on a terminal the summary follows it, and `--summary` and `--cost` print it instead
of the list. Two configurations are tried on one reading of the logs where they read them alike (filters, time zone),
else on two at once. `--cost` reads the logs a second time, for the lines that name who was banned: so not from a pipe.
All the thinking is done in tally.py; here is what is read and printed.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import shutil
import stat
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Protocol

from denyspam import charts, cores, replay, show
from denyspam.events import HARMLESS, Ban, Event, Network, SettingsError
from denyspam.filter import Filter
from denyspam.host import zone
from denyspam.plugins import load
from denyspam.policy import Judge
from denyspam.replay import Source
from denyspam.settings import Settings
from denyspam.sources import section_of
from denyspam.stamp import Stamps
from denyspam.tally import Cost, Differences, Row, Spans, Steps, Tally
from denyspam.workbench import WIDE, coloured, ink

STEPS = 120  # buckets of time in JSON
SHOWN = 10  # addresses named in the cost
HEIGHT = 6  # lines of the picture
BAR, HEAD, ONE, OTHER = "36", "1", "31", "32"  # SGR colours

# On a line where a client comes in, where the server logs that: Postfix, exim with +connect, sendmail from level 14.
CONNECT = re.compile(rb"(?<!dis)(?<!lost )\bconnect(?:ion)? from ")
ADDRESS = re.compile(rb"(?<!\w)(?:::ffff:)?([0-9A-Fa-f][0-9A-Fa-f:.]{5,37}[0-9A-Fa-f])(?!\w)")  # and times of day


class Configuration:
    """A configuration file and how the given logs are read by it. Raises SettingsError."""

    def __init__(self, conf: str, files: Sequence[str], year: int | None) -> None:
        self.conf = conf
        self.settings: Settings
        self.settings, logs = load(conf)
        every = list({each.name: each for filters in logs.values() for each in filters}.values())
        zones = {each.timezone for each in self.settings.logs}
        shared = zones.pop() if len(zones) == 1 else None
        self.sources = []
        for path in files:
            log = section_of(path, self.settings.logs)
            filters: Sequence[Filter] = every if log is None else logs[log.path]
            where = zone(shared if log is None else log.timezone)
            self.sources.append(Source(path, filters, where, year, log is not None and log.stamp == "none"))

    def reads_as(self, other: Configuration) -> bool:
        """Whether both find the same events in the logs."""
        return [_reading(each) for each in self.sources] == [_reading(each) for each in other.sources]


def _reading(source: Source) -> tuple[Any, ...]:
    return [(each.name, each.file) for each in source.filters], str(source.zone), source.year, source.arrival


class Trial:
    """One configuration's judge on the events, and the numbers."""

    def __init__(self, conf: str, settings: Settings, judge: Judge, here: tzinfo, *, cost: bool) -> None:
        self.conf = conf
        self.known = replay.Known(settings, judge)
        self.harmless = cost or self.known.harmless
        self.tally = Tally(judge, here)
        self.cost = Cost(judge) if cost else None
        self.saved: Saved | None = None

    def feed(self, event: Event) -> list[Ban]:
        self.known.hear(event)
        if self.cost is not None:
            self.cost.feed(event)
        bans = list(self.known.carried(self.tally.feed(event)))
        for ban in bans:
            self.tally.add(ban)
            if self.cost is not None:
                self.cost.add(ban)
        return bans


def bans(trial: Trial, sources: Sequence[Source], progress: Callable[[float], object]) -> Iterator[Ban]:
    """What the configuration bans. Raises Unreadable."""
    for event in cores.events(sources, progress, copies=False, harmless=trial.harmless):
        yield from trial.feed(event)


def differences(
    trials: Sequence[Trial], sources: Sequence[Sequence[Source]], progress: Callable[[float], object]
) -> Iterator[tuple[int, Ban] | Differences]:
    """(which of the two, its ban) of those the other does not have; at the end the counts. Raises Unreadable.

    `sources` of one or of both: read once, or both at the same time.
    """
    found, clock = Differences(), 0.0
    harmless = any(trial.harmless for trial in trials)
    streams = [cores.events(each, progress, copies=False, harmless=harmless) for each in sources]
    for time, side, event in _paired(streams):
        for which in (0, 1) if len(streams) == 1 else (side,):
            for ban in trials[which].feed(event):
                found.add(which, ban)
        if time > clock + 60:
            clock = time
            yield from found.passed(clock)
    yield from found.passed(float("inf"))
    yield found


def _paired(streams: Sequence[Iterable[Event]]) -> Iterator[tuple[float, int, Event]]:
    """(the newest time so far, which stream, event), by these times."""

    def timed(side: int, events: Iterable[Event]) -> Iterator[tuple[float, int, Event]]:
        clock = 0.0
        for event in events:
            if event.time is not None and event.time > clock:
                clock = event.time
            yield clock, side, event

    return heapq.merge(*(timed(side, each) for side, each in enumerate(streams)), key=lambda one: one[:2])


# --- the second reading -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Saved:
    """Lines that name somebody while he was banned; `bytes` with their newlines, `connections` where logged."""

    lines: int = 0
    bytes: int = 0
    connections: int = 0


def saved(
    sources: Sequence[Source], spans: Mapping[str, array[float]], progress: Callable[[float], object]
) -> Saved | None:
    """Of all the logs; None where one of them cannot be read twice. Raises Unreadable."""
    if not all(_regular(each.path) for each in sources):
        return None
    total = Saved()
    counts = cores.each(_saved, [(source, spans) for source in sources], [source.path for source in sources])
    for source, (lines, size, connections) in zip(sources, counts, strict=True):
        total.lines += lines
        total.bytes += size
        total.connections += connections
        progress(os.path.getsize(source.path))
    return total


def _saved(work: tuple[Source, Mapping[str, array[float]]]) -> tuple[int, int, int]:
    source, told = work
    stamps = Stamps(source.zone, source.year, arrival=source.arrival)
    spans = Spans(told)
    lines = size = connections = 0
    for block, now in replay.blocks(source.path):
        data, end = block.data, -1
        for match in ADDRESS.finditer(data):
            found = spans.find(match[1])
            if not found or match.start() < end:
                continue
            begin = data.rfind(b"\n", 0, match.start()) + 1
            last = data.find(b"\n", match.end())
            last = len(data) if last < 0 else last
            time = stamps.read(data[begin:last], now)[0]
            if time is not None and any(Spans.cover(each, time) for each in found):
                end = last
                lines += 1
                size += last + 1 - begin
                connections += CONNECT.search(data, begin, last) is not None
    return lines, size, connections


# --- in words ---------------------------------------------------------------------------------------------------------


def row(ban: Ban) -> dict[str, Any]:
    """A ban as `replay --json` prints it."""
    return {
        "time": ban.since,
        "address": ban.target.name,
        "rule": ban.rule,
        "hits": ban.hits,
        "until": ban.until,
    }


def line(ban: Ban, here: tzinfo) -> str:
    when, length = show.moment(ban.since, here), show.duration(ban.until - ban.since)
    return f"{when}  {ban.target!s:24}  {ban.rule:12}  {ban.hits:3} {'hit ' if ban.hits == 1 else 'hits'}  for {length}"


def side_line(side: int, ban: Ban, here: tzinfo) -> str:
    """As a difference: `-` is banned by the first configuration alone, `+` by the second."""
    return ink(f"{'-+'[side]} {line(ban, here)}", (ONE, OTHER)[side], coloured())


def width() -> int:
    return shutil.get_terminal_size((WIDE, 24)).columns if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE


def plain() -> bool:
    """Whether stdout shows no block characters: another encoding, a dumb terminal, the kernel's console."""
    try:
        charts.EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return True
    return os.environ.get("TERM") in ("dumb", "linux")


def summary(trial: Trial, here: tzinfo) -> Iterator[str]:
    """The table, the picture, and the cost where it was asked for."""
    tally, colours = trial.tally, coloured()
    if tally.first is None:
        yield "no event: no filter took a line"
        return
    begin, end = show.moment(tally.first, here), show.moment(tally.last, here)
    found = f"{sum(tally.kinds.values()):,} {'event' if sum(tally.kinds.values()) == 1 else 'events'}"
    yield ink(
        f"{begin} to {end}: {found}, {_count(tally.bans, 'ban')} of {_many(tally.addresses)}",
        HEAD,
        colours,
    )
    for number, what in ((tally.nobody, "an address"), (tally.untimed, "a usable time")):
        if number:
            yield f"{_count(number, 'event')} without {what}, held against nobody"
    yield ""
    yield from _table(tally, here, colours)
    if tally.bans:
        yield ""
        yield from _picture(tally, colours)
    if trial.cost is not None:
        yield ""
        yield from _cost(trial, trial.cost, colours)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _many(distinct: Any) -> str:
    number = len(distinct)
    noun = "address" if number == 1 else "addresses"
    return f"{number:,} {noun}" if distinct.exact else f"about {number:,} {noun}"


def _table(tally: Tally, here: tzinfo, colours: bool) -> Iterator[str]:
    def cells(row: Row) -> tuple[str, ...]:
        events = f"{tally.events(row):,}"
        if row.policy is None:
            return (row.name, "no policy", events, "", "", "", "", "", "")
        mark = "" if row.addresses.exact else "~"
        return (
            row.name,
            show.limit(row.policy),
            events,
            f"{row.hits:,}",
            f"{row.bans:,}",
            f"{mark}{len(row.addresses):,}",
            show.moment(row.first, here),
            show.moment(row.last, here),
            "-" if (middle := row.median) is None else show.duration(middle),
        )

    head = ("POLICY", "LIMIT", "EVENTS", "HITS", "BANS", "ADDRESSES", "FIRST", "LAST", "MEDIAN")
    whole = [cells(each) for each in tally.table()]
    for begin, end in ((0, 16), (5, 16), (5, 10)):  # the year stands above the table
        rows = [(*each[:6], *(text[begin:end] or text for text in each[6:8]), each[8]) for each in whole]
        lines = list(show.table(head, rows, right=(2, 3, 4, 5, 8)))
        if max(map(len, lines)) <= width():
            break
    yield ink(lines[0], HEAD, colours)
    yield from lines[1:]


def _picture(tally: Tally, colours: bool) -> Iterator[str]:
    room = max(20, width() - charts.MARGIN - 1)
    steps, ascii_only = tally.steps(room), plain()
    names = [name for name in steps.counts if any(steps.counts[name])]
    yield f"bans over time; a column is {show.duration(steps.size)}"
    for text in charts.picture(steps, HEIGHT, plain=ascii_only):
        yield text[: charts.MARGIN] + ink(text[charts.MARGIN :], BAR, colours)
    if len(names) > 1:
        for name in names:
            counts = steps.counts[name]
            drawn = charts.sparkline(counts, max(counts), plain=ascii_only)
            yield f"{name[: charts.MARGIN - 1]:>{charts.MARGIN - 1}} {ink(drawn.rstrip(), BAR, colours)}"
        yield " " * charts.MARGIN + "(each policy by its own highest column)"


def _cost(trial: Trial, cost: Cost, colours: bool) -> Iterator[str]:
    suspects = cost.suspects()
    lost = sum(who.during for _, who in suspects)
    yield ink("cost: who was banned though mail was accepted from the same address", HEAD, colours)
    yield (
        f"{len(suspects):,} of {cost.banned:,} banned addresses; {_count(lost, 'message')} of {cost.accepted:,} "
        "accepted would have met a ban"
    )
    if suspects:
        rows = [
            (name, who.rule, f"{who.bans:,}", f"{who.before:,}", f"{who.during:,}", f"{who.after:,}")
            for name, who in suspects[:SHOWN]
        ]
        head = ("ADDRESS", "RULE", "BANS", "ACCEPTED BEFORE", "WHILE BANNED", "AFTER")
        yield from ("  " + text for text in show.table(head, rows, right=range(2, 6)))
        if len(suspects) > SHOWN:
            yield f"  … and {len(suspects) - SHOWN:,} more; --json names them all"
    yield ""
    yield ink("saved: what they did while banned, which would not have happened", HEAD, colours)
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in cost.kinds.most_common() if kind not in HARMLESS)
    offences = sum(count for kind, count in cost.kinds.items() if kind not in HARMLESS)
    yield f"{_count(offences, 'offence')}{f' ({kinds})' if kinds else ''}"
    if trial.saved is None:
        yield "lines cannot be counted: that takes a second reading, and a pipe has only one"
    else:
        yield (
            f"{_count(trial.saved.lines, 'log line')} ({_size(trial.saved.bytes)}) that name them, "
            f"{trial.saved.connections:,} of these a new connection, where the server logs that"
        )
    yield ""
    yield ink("what these logs cannot tell", HEAD, colours)
    yield from (f"- {text}" for text in _unknown(cost))


def _unknown(cost: Cost) -> Iterator[str]:
    yield "whether accepted mail was wanted: some of it is spam that came through; and who had an address before"
    yield "what a banned client does: a mail server tries again for days, so most mail is late and not lost"
    yield "the port of a line: what came in on ports that a ban leaves open is counted as if it closed them"
    yield "lines that name a client by his queue id alone, so the lines saved are rather more; and any other log"
    if cost.nobody:
        yield f"who sent {cost.nobody:,} of the accepted messages: their lines name no client"
    if cost.forgotten:
        yield f"anything of {cost.forgotten:,} addresses: too many at once, the stalest were let go"


def difference_lines(found: Differences, trials: Sequence[Trial]) -> Iterator[str]:
    """How many bans of which rule only one of the two has."""
    for side, trial in enumerate(trials):
        rules = ", ".join(f"{rule} {count:,}" for rule, count in found.alone[side].most_common())
        yield (
            f"{'-+'[side]} only {trial.conf}: {_count(sum(found.alone[side].values()), 'ban')} of "
            f"{_many(found.addresses[side])}{f' ({rules})' if rules else ''}; "
            f"{found.both[side]:,} of its bans the other has too"
        )


def both_lines(trials: Sequence[Trial], here: tzinfo) -> Iterator[str]:
    """The summary of each, one after the other."""
    for trial in trials:
        yield ink(f"== {trial.conf}", HEAD, coloured())
        yield from summary(trial, here)
        yield ""


# --- in JSON ----------------------------------------------------------------------------------------------------------


def summary_json(trial: Trial) -> dict[str, Any]:
    """The summary as one object; times are epoch seconds, `over_time` is by this host's wall clock."""
    tally = trial.tally
    steps: Steps = tally.steps(STEPS)
    told: dict[str, Any] = {
        "conf": trial.conf,
        "first": tally.first,
        "last": tally.last,
        "events": sum(tally.kinds.values()),
        "without_address": tally.nobody,
        "without_time": tally.untimed,
        "kinds": dict(sorted(tally.kinds.items())),
        "bans": tally.bans,
        "addresses": len(tally.addresses),
        "exact": tally.addresses.exact,
        "policies": [
            {
                "name": each.name,
                "kind": each.name if each.policy is None else each.policy.kind,
                "limit": None if each.policy is None else show.limit(each.policy),
                "events": tally.events(each),
                "hits": each.hits,
                "bans": each.bans,
                "addresses": len(each.addresses),
                "first": each.first,
                "last": each.last,
                "median": each.median,
            }
            for each in tally.table()
        ],
        "over_time": {"start": steps.start, "step": steps.size, "bans": {k: list(v) for k, v in steps.counts.items()}},
    }
    if trial.cost is not None:
        told["cost"] = _cost_json(trial, trial.cost)
    return told


def _cost_json(trial: Trial, cost: Cost) -> dict[str, Any]:
    found = cost.suspects()
    return {
        "banned": cost.banned,
        "accepted": cost.accepted,
        "accepted_by_nobody": cost.nobody,
        "accepted_while_banned": sum(who.during for _, who in found),
        "forgotten": cost.forgotten,
        "addresses": [
            {
                "address": name,
                "rule": who.rule,
                "bans": who.bans,
                "before": who.before,
                "during": who.during,
                "after": who.after,
            }
            for name, who in found
        ],
        "saved": {
            "events": dict(sorted(cost.kinds.items())),
            "lines": None if trial.saved is None else trial.saved.lines,
            "bytes": None if trial.saved is None else trial.saved.bytes,
            "connections": None if trial.saved is None else trial.saved.connections,
        },
    }


def differences_json(found: Differences, trials: Sequence[Trial]) -> dict[str, Any]:
    return {
        "configurations": [
            {
                **summary_json(trial),
                "only": {
                    "bans": sum(found.alone[side].values()),
                    "addresses": len(found.addresses[side]),
                    "rules": dict(found.alone[side]),
                },
                "both": found.both[side],
            }
            for side, trial in enumerate(trials)
        ]
    }


# --- the command ------------------------------------------------------------------------------------------------------


class Bar(Protocol):
    """Shows how far it is, in bytes of the files; lines for stdout go by it, so as not to run into it."""

    def advance(self, count: float) -> None: ...
    def say(self, text: str) -> None: ...


class _Part:
    """A Bar of several readings of the files."""

    def __init__(self, bar: Bar, readings: int) -> None:
        self._bar, self._readings = bar, readings

    def advance(self, count: float) -> None:
        self._bar.advance(count / self._readings)

    def say(self, text: str) -> None:
        self._bar.say(text)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    conf: str
    files: Sequence[str]
    own: Iterable[Network]  # this host's addresses
    year: int | None = None
    as_json: bool = False
    summary: bool = False
    cost: bool = False
    compare: str | None = None

    @property
    def whole(self) -> bool:
        """The numbers instead of the list."""
        return self.summary or self.cost


def run(asked: Asked, here: tzinfo, bar: Bar) -> None:
    """Prints all of it. Raises Unreadable and SettingsError."""
    configurations = [Configuration(conf, asked.files, asked.year) for conf in (asked.conf, asked.compare) if conf]
    trials = [
        Trial(each.conf, each.settings, each.settings.judge(asked.own), here, cost=asked.cost)
        for each in configurations
    ]
    once = configurations[0].reads_as(configurations[-1])
    if not once and not all(map(_regular, asked.files)):
        message = "this reads with other filters, so the logs must be read twice; give files, no pipe"
        raise SettingsError(message, asked.compare or "")
    bar = _Part(bar, (1 if once else 2) + (len(trials) if asked.cost else 0))
    if asked.compare is None and not asked.whole and (asked.as_json or not sys.stdout.isatty()):
        _list(asked, configurations[0], here, bar)
        return
    found = None
    if asked.compare is None:
        for ban in bans(trials[0], configurations[0].sources, bar.advance):
            if not asked.whole:
                bar.say(line(ban, here))
    else:
        found = _compare(asked, configurations[: 1 if once else 2], trials, here, bar)
    for trial, each in zip(trials, configurations, strict=True):
        _note(trial.known)
        if trial.cost is not None:
            trial.saved = saved(each.sources, trial.cost.spans, bar.advance)
    if asked.as_json and asked.whole:
        print(json.dumps(summary_json(trials[0]) if found is None else differences_json(found, trials)))
    elif not asked.as_json:
        _tell(asked, found, trials, here, bar)


def _list(asked: Asked, configuration: Configuration, here: tzinfo, bar: Bar) -> None:
    """The bans alone, as fast as it goes."""
    count = 0
    judge = configuration.settings.judge(asked.own)
    known = replay.Known(configuration.settings, judge)
    found = cores.events(configuration.sources, bar.advance, copies=False, harmless=known.harmless)
    decided = replay.bans(judge, known.heard(found) if known.harmless else found)
    for ban in known.carried(decided) if known.wanted else decided:
        count += 1
        bar.say(json.dumps(row(ban)) if asked.as_json else line(ban, here))
    if not asked.as_json:
        print(show.count(count, "ban"), file=sys.stderr)
    _note(known)


def _note(known: replay.Known) -> None:
    for text in known.notes():
        print(f"denyspam: {text}", file=sys.stderr)


def _compare(
    asked: Asked,
    configurations: Sequence[Configuration],
    trials: Sequence[Trial],
    here: tzinfo,
    bar: Bar,
) -> Differences:
    """Prints the bans that only one of the two has; returns the counts."""
    for found in differences(trials, [each.sources for each in configurations], bar.advance):
        if isinstance(found, Differences):
            return found
        if not asked.whole:
            side, ban = found
            told = json.dumps({"only": trials[side].conf, **row(ban)}) if asked.as_json else side_line(side, ban, here)
            bar.say(told)
    raise AssertionError("the counts come last")


def _tell(asked: Asked, found: Differences | None, trials: Sequence[Trial], here: tzinfo, bar: Bar) -> None:
    """What follows the list, or stands instead of it."""
    if found is None:
        if not asked.whole and trials[0].tally.bans:
            bar.say("")
        for text in summary(trials[0], here):
            bar.say(text)
        return
    for text in both_lines(trials, here) if asked.whole else ():
        bar.say(text)
    for text in difference_lines(found, trials):
        print(text, file=sys.stdout if asked.whole or sys.stdout.isatty() else sys.stderr)


def _regular(path: str) -> bool:
    return path != "-" and stat.S_ISREG(os.stat(path).st_mode)
