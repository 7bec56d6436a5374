"""logfile: the configured logs: of each its source, its scanner, and how far both have come. Edge.

A glob is a section for any number of files; one that appears while we run is read from its beginning, and so is one
that appeared while we did not (the glob itself has a row in the ledger: it was looked at before). A file's older parts
are its own tail's business. A file of a glob that is gone for GONE seconds is forgotten.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from denyspam import cached, sources
from denyspam.events import Finding
from denyspam.filter import Filter
from denyspam.hints import Hints
from denyspam.host import zone
from denyspam.lines import newlines
from denyspam.scan import Scanner
from denyspam.settings import LogSettings
from denyspam.sources import Source
from denyspam.stamp import Stamps
from denyspam.tail import Block, Identity, Position, Tail, identity_of

log = logging.getLogger("denyspam")

GONE = 60.0  # seconds after which a file that a glob found is forgotten: longer than any rotation leaves a log away
DISORDER = 120.0  # seconds by which a line may come later than any has come lately
DAY = 86_400.0
NOTHING = Position(()).text()  # of a log that was looked for and was not there: all that comes is new


class Unavailable(Exception):
    """The daemon cannot start: another one runs, or a file or folder cannot be used. `code` is the exit code."""

    def __init__(self, message: str, code: int = 69) -> None:
        super().__init__(message)
        self.code = code


class Once:
    """Says what an admin should know of a log, once. Apart, since a source keeps it when it goes to the next run."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, text: str) -> None:
        if text != self._said:
            self._said = text
            log.warning("%s", text)


class LogFile:
    """One log: its source and its scanner. `held` is a source that is open already. Raises Unavailable."""

    def __init__(  # noqa: PLR0917
        self,
        settings: LogSettings,
        filters: Sequence[Filter],
        saved: tuple[str, float] | None,
        now: float,
        hints: Hints | None,
        held: Source | None = None,
        *,
        from_start: bool = False,
        section: str | None = None,
    ) -> None:
        self.settings = settings
        self.section = section or settings.path  # of the configuration; a glob's is another than the file's path
        self.path = settings.path
        self._arrival = settings.stamp == "none"
        self._stamps = Stamps(zone(settings.timezone), arrival=self._arrival)
        self.scanner = Scanner(filters, self.path, self._stamps, hints, cached.search)
        self.clock = now if saved is None else saved[1]  # the newest stamp up to where the log was read
        self.say = Once()
        self.source = held or self._opened(None if saved is None else saved[0], now, from_start)
        self._fed = 0  # bytes of the stream, over all rotations, since the re-reading began
        self.late = 0.0  # seconds by which its findings came after their stamps lately, at most
        self.lines = 0  # read since the start, the re-read ones too
        self.events = 0
        self.live = False  # caught up with what stood in the log at the start
        self.gone: float | None = None  # since when its file is not there, by time.monotonic()
        self.moved = True  # since the position was last written; where a first start begins must not be lost either

    def _opened(self, position: str | None, now: float, from_start: bool) -> Source:
        try:
            try:
                return sources.opened(self.settings, position, self.say, now, from_start=from_start)
            except ValueError as error:
                log.error("%s: its saved position is unreadable, going on at its end: %s", self.path, error)
                return sources.opened(self.settings, None, self.say, now)
        except PermissionError as error:
            raise Unavailable(f"not permitted to read {sources.what(self.settings, error)}", 77) from error
        except (KeyError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"there is no group {self.settings.group!r}"
            raise Unavailable(f"{sources.what(self.settings, error)} cannot be read: {reason}", 78) from error

    @property
    def saved(self) -> str | None:
        """Its position, for the ledger; None where it cannot be read again."""
        position = self.source.position()
        return None if position is None else position.text()

    def facts(self, now: float) -> dict[str, Any]:
        """For `status`. `lag_*`: what is not read yet; by the stamps, while more is known to stand there."""
        source, own = self.source, self.source.facts()
        size = own.get("size")
        return {
            "kind": self.settings.kind,
            "again": source.position() is not None,  # it can be read again, after a restart
            "present": source.present,
            "ended": source.ended,
            "behind": source.behind,
            "lag_bytes": None if size is None else max(0, size - (own.get("position") or 0)),
            "lag_seconds": max(0.0, now - self.clock) if source.behind else 0.0,
            "clock": self.clock,
            "events": self.events,
            "overlong": source.overlong,
            "bad_address": self.scanner.bad_address,
            "bad_time": self.scanner.bad_time,
            "skipped": source.overlong + self.scanner.bad_address + self.scanner.bad_time,
            "lost": source.lost,
            **own,
        }

    def findings(self, block: Block, now: float) -> list[tuple[Finding, int]]:
        """What a block says, each with its place in the log as one endless stream."""
        now = block.arrived or now
        found = self.scanner.feed(block.data, block.offset, block.number, now, self._fed)
        if (
            self._arrival and not self.live and block.arrived is None
        ):  # a backlog without stamps must not look like one burst
            found = [one._replace(time=None) for one in found]
        base, self._fed = self._fed - block.offset, self._fed + len(block.data)
        last = self._stamps.read(block.data[block.data.rfind(b"\n", 0, -1) + 1 : -1], now)[0]
        if last is not None:
            self.clock = last
        if self.live:
            self.late = max(self.late, now - min([one.time for one in found if one.time is not None], default=now))
        self.moved = True
        self.lines += newlines(block.data)
        return [(one, base + one.offset) for one in found]

    def history(self, since: float, now: float) -> Iterator[tuple[float, Finding | None, int]]:
        """(time, finding, place) of what stands before the position and is not older than `since`.

        After each block once without a finding: dull lines take time too.
        """
        clock, saved = 0.0, self.clock
        try:
            for block in self.source.history(lambda line: (self._stamps.read(line, now)[0] or now) < since):
                if self._arrival and block.arrived is None:  # nobody knows any more when it came: counts start anew
                    return
                for finding, place in self.findings(block, now):
                    clock = max(clock, finding.time or 0.0)
                    yield clock, finding, place
                yield clock, None, 0
        except GeneratorExit:  # stopped half way: the position is still where it was
            self.clock = saved
            raise


class Logs(dict[str, LogFile]):
    """All logs by their names: those of the sections, and the files that globs found.

    `filters` are those of each section, `saved` the ledger's positions, `held` streams that are open already; those
    that no section wants are closed. `lent` are streams of a run that goes on. Raises Unavailable.
    """

    def __init__(  # noqa: PLR0917
        self,
        settings: Sequence[LogSettings],
        filters: Mapping[str, Sequence[Filter]],
        saved: Mapping[str, tuple[str, float]],
        now: float,
        hints: Hints | None,
        held: Mapping[str, Source] | None = None,
        lent: Mapping[str, Source] | None = None,
    ) -> None:
        super().__init__()
        self._filters, self._saved, self._hints = filters, dict(saved), hints
        self._globs = [each for each in settings if sources.globbed(each)]
        self._aside: dict[str, Identity | None] = {}  # names of a file that is read under another one
        self._refused: set[str] = set()  # said once
        streams = dict(held or {})
        for each in settings:
            if each not in self._globs and lent and each.path in lent and sources.fits(lent[each.path], each):
                self[each.path] = LogFile(each, filters[each.path], None, now, hints, lent[each.path])
            elif each not in self._globs:
                stream = streams.pop(each.path, None)
                if stream is not None and not sources.fits(stream, each):
                    stream.close()
                    stream = None
                if stream is not None:
                    sources.configure(stream, each)
                self[each.path] = LogFile(each, filters[each.path], saved.get(each.path), now, hints, stream)
        for stream in streams.values():
            stream.close()
        self.look(now, starting=True)

    @property
    def globs(self) -> list[str]:
        """Their names, as sections."""
        return [each.path for each in self._globs]

    def paths(self) -> dict[str, Callable[[], int] | None]:
        """What to watch: a file's path, anything else's descriptor."""
        return {path: None if isinstance(each.source, Tail) else each.source.fileno for path, each in self.items()}

    def streams(self) -> dict[str, Source]:
        """The open sources that cannot be read again, to be handed over to the next run."""
        return {path: each.source for path, each in self.items() if each.saved is None}

    def since(self, now: float) -> float:
        """No finding that comes from now on is older, as far as one can know; 0.0: one cannot. For every minute: how
        late a log was is forgotten by and by."""
        late = max((each.late for each in self.values()), default=0.0)
        for each in self.values():
            each.late *= 0.9
        if any(each.source.behind for each in self.values()):  # a backlog may be of any age
            return 0.0
        return now - min(DAY, late) - DISORDER

    def ended(self) -> bool:
        """Is there nothing left to wait for?"""
        return not self._globs and all(each.source.ended for each in self.values())

    def look(self, now: float, *, starting: bool = False) -> list[str]:
        """The files of globs that are new, by their paths; what is gone for long is forgotten. To be called every
        second or so. At the start also those that came while nobody looked."""
        if not self._globs:
            return []
        self._forget()
        fresh = []
        for section in self._globs:
            found = [path for path in sources.matching(section, self) if path not in self]
            for path in sorted(found, key=lambda path: path not in self._saved):  # whose place is known has it first
                before, from_start = self._saved.get(path), False
                if before is None and not self._moved(path):
                    if path in self._aside:
                        self._aside.pop(path)
                    elif not starting:
                        from_start = True
                    elif section.path in self._saved:
                        before = NOTHING, now
                elif before is None:
                    continue
                try:
                    self[path] = LogFile(
                        replace(section, path=path),
                        self._filters[section.path],
                        before,
                        now,
                        self._hints,
                        from_start=from_start,
                        section=section.path,
                    )
                except Unavailable as error:
                    # One of many: better the others than none.
                    if path not in self._refused:
                        self._refused.add(path)
                        log.warning("%s", error)
                    continue
                fresh.append(path)
        return fresh

    def _moved(self, path: str) -> bool:
        """Is this file open as another log, or as an older part of one? Later it is read from its end on."""
        identity = identity_of(path)
        real = os.path.realpath(path)
        if any(os.path.realpath(other) == real for other in self) or any(
            identity in each.source.identities for each in self.values() if isinstance(each.source, Tail)
        ):
            self._aside[path] = identity
            return True
        if path in self._aside and self._aside[path] != identity:
            del self._aside[path]  # another one by now
        return False

    def _forget(self) -> None:
        for path, each in list(self.items()):
            if each.section == path:
                continue
            if each.source.present:
                each.gone = None
            elif each.gone is None:
                each.gone = time.monotonic()
            elif time.monotonic() - each.gone > GONE:
                self._saved[path] = each.saved or NOTHING, each.clock
                each.source.close()
                del self[path]
