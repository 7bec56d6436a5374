"""replay: old logs through today's filters and policy. Edge: reads files, plain, .gz .bz2 .xz .zst, or - for stdin;
and the systemd journal, given as a journal file or as a folder of them: the entries of the mail facility.

`findings` is one file's; `events` joins several, in the order of the lines' times; `bans` is what the policy would have
done. The file's mtime is "now": it tells the year of stamps that name none, and which stamps lie in the future.
"""

from __future__ import annotations

import heapq
import os
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from typing import BinaryIO

from denyspam import cached, journal, show
from denyspam.copies import Once
from denyspam.events import HARMLESS, Ban, Event, Finding
from denyspam.filter import Filter
from denyspam.fuse import ACCEPT
from denyspam.hints import Hints
from denyspam.join import Join
from denyspam.ledger import verdicts
from denyspam.lines import LineBuffer, Lines
from denyspam.policy import Judge
from denyspam.scan import Scanner
from denyspam.senders import Senders
from denyspam.settings import SendersSettings, Settings
from denyspam.stamp import Stamps
from denyspam.tail import decompress

CHUNK = 1 << 18  # as much as a core's cache holds


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be read, `-` for stdin, with the filters and the time of its log."""

    path: str
    filters: Sequence[Filter]
    zone: tzinfo
    year: int | None = None
    arrival: bool = False  # `stamp = none`: there is no time on the line


class Unreadable(Exception):
    """A log cannot be read; the message names it."""


# Of one log, in its order: (the newest time so far, finding, offset)
Stream = Iterator[tuple[float, Finding, int]]


def findings(source: Source, progress: Callable[[int], object] = lambda _: None, hints: Hints | None = None) -> Stream:
    """What a file says, `hints` as in Scanner. Raises Unreadable.

    `progress` is told bytes of the file as they are read (compressed ones as they are on the disk).
    """
    stamps = Stamps(source.zone, source.year, arrival=source.arrival)
    scanner = Scanner(source.filters, source.path, stamps, hints, cached.search)
    clock = 0.0
    for lines, now in blocks(source.path, progress):
        for finding in scanner.feed(lines.data, lines.offset, lines.number, now):
            if finding.time is not None and finding.time > clock:
                clock = finding.time
            yield clock, finding, finding.offset


def blocks(path: str, progress: Callable[[int], object] = lambda _: None) -> Iterator[tuple[Lines, float]]:
    """The lines of a file, in blocks, each with what is "now". Raises Unreadable."""
    if path.endswith(journal.FILES) or os.path.isdir(path):
        yield from _entries(path, progress)
        return
    with _opened(path) as raw:
        buffer = LineBuffer()
        now = time.time() if raw is sys.stdin.buffer else os.fstat(raw.fileno()).st_mtime
        for chunk in _chunks(raw, path, progress):
            for lines in buffer.feed(chunk) if chunk else buffer.flush():
                yield lines, now


def events(
    sources: Iterable[Source],
    progress: Callable[[int], object] = lambda _: None,
    *,
    copies: bool = True,
    harmless: bool = False,
) -> Iterator[Event]:
    """The events of several logs, their lines merged by time; each file's own order is kept.

    With `harmless` those of kind accept and defer too.
    Without `copies` a line that stands in two of the logs, or twice by exim's syslog, is taken once, as by the daemon.
    """
    join = Join()
    hints = None if harmless else join.hints
    return merged([findings(source, progress, hints) for source in sources], join, copies=copies)


def merged(streams: Sequence[Stream], join: Join, *, copies: bool) -> Iterator[Event]:
    """The events of these streams; see `events`."""
    once = None if copies else Once(len(streams))
    for _, finding, place in heapq.merge(*streams, key=lambda one: one[0]) if len(streams) > 1 else streams[0]:
        if once is None or not once.is_copy(finding):
            yield from join.feed(finding, place)
    yield from join.flush()


def bans(judge: Judge, found: Iterable[Event]) -> Iterator[Ban]:
    """What the policy would have done."""
    for event in found:
        decided = judge.decide(event)
        if decided and event.time is not None:
            judge.expire(event.time)
            yield from decided


class Known:
    """Who is known, and whose bans are withheld, in a replay: by the verdicts that the ledger has of that time. Where
    it has none, by the accepted mail in these logs, and nobody's name is looked up; `missing` counts such decisions.

    The fuse and a proxy are such verdicts too, and without them there are none.
    """

    def __init__(self, settings: Settings, judge: Judge) -> None:
        asked = settings.senders or SendersSettings(days=0, providers=False)
        self._days, self._times, self._names = asked.days, asked.times, asked.providers
        self._senders = Senders(asked.within)
        self._judge = judge
        self._known: dict[str, list[tuple[float, bool]]] = {}
        self._withheld: dict[tuple[str, float], str] = {}
        self._over: dict[tuple[str, float], float] = {}  # of those, when an early end came
        self.missing = 0
        self.withheld = 0
        self.path = os.path.join(settings.state, "ledger.db")
        self.wanted = settings.guarded
        rows = verdicts(self.path) if self.wanted else None
        self.ledger = rows is not None
        for network, since, kind, verdict in rows or ():
            if kind == "known":
                self._known.setdefault(network, []).append((since, verdict == "1"))
            elif kind == "over":
                self._over[network, since] = float(verdict)
            else:
                self._withheld[network, since] = verdict
        if self._days:
            judge.lenient, judge.lenience = self._lenient, self._times

    @property
    def harmless(self) -> bool:
        """Whether accepted mail is to be looked for."""
        return self._days > 0

    def hear(self, event: Event) -> None:
        """An event, before it is decided on."""
        time, kind, address = event[:3]
        if self._days and time is not None and address is not None and (kind == ACCEPT or kind not in HARMLESS):
            key = self._judge.key(address)
            if key is not None:
                self._senders.hear(key, kind == ACCEPT, time)

    def heard(self, found: Iterable[Event]) -> Iterator[Event]:
        """All of them, each before it is decided on."""
        for event in found:
            self.hear(event)
            yield event

    def _lenient(self, address: str, time: float) -> int:
        key = self._judge.key(address) or address
        rows = self._known.get(key, ())
        at = bisect_right(rows, (time, True))
        if at:
            known = rows[at - 1][1]
        else:
            self.missing += 1
            known = self._senders.good(key, time) >= self._days
        return self._times if known else 1

    def carried(self, decided: Iterable[Ban]) -> Iterator[Ban]:
        """Without those that were withheld. Each is to be taken before the next event is decided on."""
        for ban in decided:
            place = ban.target.name, ban.since
            reason = self._withheld.get(place)
            if place in self._over:
                self._judge.release(ban.target, self._over[place])
            self.missing += reason is None and self._names
            self.withheld += bool(reason)
            if not reason:
                yield ban

    def notes(self) -> Iterator[str]:
        """What of this the reader of a replay should know."""
        if self.withheld:
            yield f"{show.count(self.withheld, 'ban')} left out that the daemon withheld, says {self.path}"
        if self.wanted and (self.missing or not self.ledger):
            which = f"{show.count(self.missing, 'decision')} without a verdict in" if self.ledger else "no ledger"
            why = "known is of whom these logs have accepted mail, no name was looked up, and no fuse blows"
            yield f"{which} {self.path}: {why}"


def _entries(path: str, progress: Callable[[int], object]) -> Iterator[tuple[Lines, float]]:
    """The entries of a journal; what is "now" is now, since their stamps name the year."""
    now = time.time()
    try:
        if not journal.readable(journal.Selection(folder=path)):
            raise Unreadable(f"{path}: there is no journal in this folder")
        for usec, line in journal.entries(path):
            progress(len(line))
            yield Lines(line, usec, 0), now
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """The file's raw bytes; stdin stays open."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    with file:
        yield file


def _chunks(raw: BinaryIO, path: str, progress: Callable[[int], object]) -> Iterator[bytes]:
    """Pieces of the file's text; at its end b"", once."""
    read = 0
    try:
        stream = decompress(raw, os.path.splitext(path)[1])
        while chunk := stream.read(CHUNK):
            if raw is not sys.stdin.buffer and raw.seekable():  # a FIFO, as of `<(…)`, has no place to tell
                at = raw.tell()
                progress(at - read)
                read = at
            yield chunk
    except Exception as error:  # every decompressor has errors of its own
        raise Unreadable(f"{path}: {error}") from error
    yield b""
