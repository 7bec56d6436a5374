"""logfile: one configured log: its tail, its scanner, and how far both have come. Edge."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from denyspam.events import Finding
from denyspam.filter import Filter
from denyspam.hints import Hints
from denyspam.host import zone
from denyspam.scan import Scanner
from denyspam.settings import LogSettings
from denyspam.stamp import Stamps
from denyspam.tail import Block, Position, Tail

log = logging.getLogger("denyspam")


class Unavailable(Exception):
    """The daemon cannot start: another one runs, or a file or folder cannot be used. `code` is the exit code."""

    def __init__(self, message: str, code: int = 69) -> None:
        super().__init__(message)
        self.code = code


def open_tail(path: str, position: Position | None, note: Callable[[str], None]) -> Tail:
    """The tail of a log. Unavailable where it cannot be one, or must not be read."""
    try:
        return Tail(path, position, from_start=False, note=note)
    except PermissionError as error:
        raise Unavailable(f"not permitted to read the log {path}", 77) from error
    except OSError as error:
        raise Unavailable(f"the log {path} cannot be read: {error.strerror}", 78) from error


class LogFile:
    """One configured log: its tail and its scanner."""

    def __init__(
        self,
        settings: LogSettings,
        filters: Sequence[Filter],
        saved: tuple[str, float] | None,
        now: float,
        hints: Hints | None,
    ) -> None:
        self.path = settings.path
        self._arrival = settings.stamp == "none"
        self._stamps = Stamps(zone(settings.timezone), arrival=self._arrival)
        self.scanner = Scanner(filters, self.path, self._stamps, hints)
        position = None
        self.clock = now  # the newest stamp up to where the log was read
        if saved is not None:
            try:
                position = Position.parse(saved[0])
                self.clock = saved[1]
            except ValueError as error:
                log.error("%s: its saved position is unreadable, going on at its end: %s", self.path, error)
        self._said = ""
        self.tail = open_tail(self.path, position, self.say)
        self._fed = 0  # bytes of the stream, over all rotations, since the re-reading began
        self.events = 0
        self.live = False  # caught up with what stood in the log at the start
        self.moved = True  # since the position was last written; where a first start begins must not be lost either

    def say(self, text: str) -> None:
        """What an admin should know of this log, once."""
        if text != self._said:
            self._said = text
            log.warning("%s", text)

    def findings(self, block: Block, now: float) -> list[tuple[Finding, int]]:
        """What a block says, each with its place in the log as one endless stream."""
        found = self.scanner.feed(block.data, block.offset, block.number, now, self._fed)
        if self._arrival and not self.live:  # a backlog without stamps must not look like one burst
            found = [one._replace(time=None) for one in found]
        base, self._fed = self._fed - block.offset, self._fed + len(block.data)
        last = self._stamps.read(block.data[block.data.rfind(b"\n", 0, -1) + 1 : -1], now)[0]
        if last is not None:
            self.clock = last
        self.moved = True
        return [(one, base + one.offset) for one in found]

    def history(self, since: float, now: float) -> Iterator[tuple[float, Finding | None, int]]:
        """(time, finding, place) of what stands before the position and is not older than `since`.

        After each block once without a finding: dull lines take time too.
        """
        if self._arrival:  # nobody knows any more when those lines came: counts start anew
            return
        clock, saved = 0.0, self.clock
        try:
            for block in self.tail.history(lambda line: (self._stamps.read(line, now)[0] or now) < since):
                for finding, place in self.findings(block, now):
                    clock = max(clock, finding.time or 0.0)
                    yield clock, finding, place
                yield clock, None, 0
        except GeneratorExit:  # stopped half way: the position is still where it was
            self.clock = saved
            raise
