"""replay: old logs through today's filters and policy. Edge: reads files, plain, .gz .bz2 .xz .zst, or - for stdin.

`findings` is one file's; `events` joins several, in the order of the lines' times; `bans` is what the policy would have
done. The file's mtime is "now": it tells the year of stamps that name none, and which stamps lie in the future.
"""

from __future__ import annotations

import heapq
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from typing import BinaryIO

from denyspam.copies import Copies
from denyspam.events import Ban, Event, Finding
from denyspam.filter import Filter
from denyspam.hints import Hints
from denyspam.join import Join
from denyspam.lines import LineBuffer, Lines
from denyspam.policy import Judge
from denyspam.scan import Scanner
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
    scanner = Scanner(source.filters, source.path, stamps, hints)
    clock = 0.0
    for lines, now in blocks(source.path, progress):
        for finding in scanner.feed(lines.data, lines.offset, lines.number, now):
            if finding.time is not None and finding.time > clock:
                clock = finding.time
            yield clock, finding, finding.offset


def blocks(path: str, progress: Callable[[int], object] = lambda _: None) -> Iterator[tuple[Lines, float]]:
    """The lines of a file, in blocks, each with what is "now". Raises Unreadable."""
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
    Without `copies` a line that stands in two of the logs is taken once, as the daemon does.
    """
    join = Join()
    hints = None if harmless else join.hints
    return merged([findings(source, progress, hints) for source in sources], join, copies=copies)


def merged(streams: Sequence[Stream], join: Join, *, copies: bool) -> Iterator[Event]:
    """The events of these streams; see `events`."""
    once = None if copies or len(streams) < 2 else Copies()
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
