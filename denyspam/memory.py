"""memory: what a configuration makes of its logs: hits that count, bans, queue ids, copies. Edge: reads the logs.

A start makes it of the logs read again and of the ledger (DESIGN, "The log is the journal"):

    memory = Memory(loaded, own, ledger, now)         the logs at the places up to which they were decided on
    memory.remember(ledger, now)                      what was decided and ended by then
    await memory.recall(over)                         what stands before those places, counted without deciding
    memory.settle()

A reload that changes nothing of what a memory is made of (`serves`) hands it over as it is. Any other makes the *heir*,
a memory by the new configuration, in the same way and beside the run that goes on deciding meanwhile. What that run
reads from then on the heir is given too (`take`), packed, and reads it in the same order behind the rest, once the
ledger has told what was decided on it; when little is left, it takes over the open logs (`inherit`), and decides. So
what it knows is what a start at that moment would.

Never decides. Bounded: QUEUE bytes are kept for an heir; beyond that it is `lost`, and the next run reads by itself.
"""

from __future__ import annotations

import asyncio
import heapq
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from math import inf

from denyspam import sources
from denyspam.apart import Loaded
from denyspam.copies import Once
from denyspam.events import Event, Finding, Network, Past
from denyspam.filter import Filter
from denyspam.guard import Guard
from denyspam.host import zone
from denyspam.join import HOUR, Join
from denyspam.ledger import Ledger
from denyspam.logfile import DAY, DISORDER, LogFile, Logs
from denyspam.settings import LogSettings
from denyspam.sources import Source
from denyspam.tail import Block

SLICE = 0.02  # seconds of reading before the loop may do something else, such as read a quieter log
QUEUE = 64 << 20  # bytes, packed to a fifth: five minutes of 5,000 lines a second
TIDY = 10.0  # seconds of the log after which those are forgotten again who cannot count any more
NEAR = 1 << 20  # bytes that an heir may have left to read when it takes over: a twentieth of a second


class Memory:
    """One configuration's. `before` is the memory of the run that goes on, for an heir. Raises Unavailable, and
    sqlite3.Error."""

    def __init__(  # noqa: PLR0917
        self,
        loaded: Loaded,
        own: Iterable[Network],
        ledger: Ledger,
        now: float,
        streams: Mapping[str, Source] | None = None,
        before: Memory | None = None,
    ) -> None:
        settings, filters = loaded
        self.loaded = loaded
        self.made_of = made_of(loaded)
        self.judge = settings.judge(own)
        self.join = Join()
        self.guard: Guard | None = None  # hears what is read again
        saved = ledger.positions()
        lent: dict[str, Source] = {}
        if before is not None:
            saved.update({path: (each.saved, each.clock) for path, each in before.logs.items() if each.saved})
            lent = before.logs.streams()
        hints = None if settings.guarded else self.join.hints
        self.logs: Logs = Logs(settings.logs, filters, saved, now, hints, streams, lent)
        self._once = Once(len(self.logs))
        self._shared = set() if before is None else self.logs.keys() & before.logs.keys()
        self._now = now
        self._met = 0  # the number of the last ban whose place was passed
        self._last = 0  # and of the last that was remembered
        self._again: Iterator[tuple[float, Finding | None, int]] | None = None
        self._history = True  # still to be read
        self._queue: deque[tuple[str, float, Block, bytes]] = deque()  # (log, when it was read, without its data, that)
        self._packed = self.left = 0  # bytes of that; `left` unpacked
        self.lost = False

    def serves(self, loaded: Loaded) -> bool:
        """Whether another configuration would make the same of the same logs."""
        return self.made_of == made_of(loaded)

    def can_inherit(self, before: Memory) -> bool:
        """Whether the logs that both read are read in the same way: else an open one is of no use."""
        return all(_source(self.logs[path].settings) == _source(before.logs[path].settings) for path in self._shared)

    def joined(self, finding: Finding, place: int) -> Sequence[Event]:
        """The events that a finding completes; none where another log told the same line before, or this one."""
        if self._once.is_copy(finding):
            return ()
        return self.join.feed(finding, place)

    # --- reading again ------------------------------------------------------------------------------------------------

    def remember(self, ledger: Ledger, now: float, told: float = inf) -> list[Past]:
        """What was decided, ended and graced so far, for what is read next. The ledger's rows of bans that hold, and of
        those numbered above `told`. Raises sqlite3.Error."""
        since = now - self.judge.memory
        wanted = []
        self._last = 0

        def passing() -> Iterator[Past]:
            for row in ledger.since(min([*map(self._oldest, self.logs.values()), since])):
                self._last = row[3]
                if row[1] is None or row[3] > told:
                    wanted.append(row)
                yield row

        graces = ledger.graces(since)
        self.judge.remember(passing(), graces, self._met)
        return wanted

    def begin(self) -> None:
        """Find where in the logs to begin, while they are where they are: a stream keeps but the newest it said."""
        streams = (each.history(self._oldest(each), self._now) for each in self.logs.values())
        merged = heapq.merge(*streams, key=lambda one: one[0])
        self._again = chain([*islice(merged, 1)], merged)

    async def recall(self, over: Callable[[], bool]) -> bool:
        """Count what is to be read again, by slices, until it is `over`: then False."""
        pause = time.monotonic() + SLICE
        for _ in self._steps():
            if time.monotonic() > pause:
                await asyncio.sleep(0)
                if over():
                    return False
                pause = time.monotonic() + SLICE
        return True

    def settle(self) -> None:
        """All that was decided on what has been read is known."""
        self.judge.settle()
        self._met = self._last

    def _oldest(self, each: LogFile) -> float:
        """The stamp from which a log is read again."""
        return each.clock - max(policy.within for policy in self.loaded[0].policies) - HOUR

    def _steps(self) -> Iterator[None]:
        if self._history:
            if self._again is None:
                self.begin()
            late, tidied = 0.0, 0.0
            for clock, finding, place in self._again or ():
                if finding is not None:
                    late = max(late, clock - (finding.time or clock))
                    self._count(finding, place)
                elif clock > tidied + TIDY:  # an hour of addresses would be some tens of megabytes
                    tidied = clock
                    self.judge.tidy(min(clock - min(DAY, late) - DISORDER, self.join.oldest))
                yield
            self._again, self._history = None, False
            for each in self.logs.values():
                each.live = each.live or each.path in self._shared
            return
        for _ in range(len(self._queue)):  # of what comes meanwhile the ledger has not been asked yet
            path, now, block, packed = self._queue.popleft()
            data = zlib.decompress(packed)
            self._packed -= len(packed)
            self.left -= len(data)
            if path not in self.logs:
                self.logs.look(now)  # a glob's, new
            if path in self.logs:
                for finding, place in self.logs[path].findings(replace(block, data=data), now):
                    self._count(finding, place)
            yield

    def _count(self, finding: Finding, place: int) -> None:
        for event in self.joined(finding, place):
            if self.guard is not None:
                self.guard.recall(event)
            self.judge.recall(event)

    # --- from one run to the next -------------------------------------------------------------------------------------

    def take(self, path: str, blocks: Sequence[Block], now: float) -> None:
        """Some blocks that the run before has read and decided on."""
        for block in blocks if path in self.logs or self.logs.globs else ():
            packed = zlib.compress(block.data, 1)
            self._packed += len(packed)
            self.left += len(block.data)
            self._queue.append((path, now, replace(block, data=b""), packed))
        self.lost = self.lost or self._packed > QUEUE

    def inherit(self, before: Memory, ledger: Ledger) -> None:
        """Take over the open logs; the run before has decided on all that it read of them."""
        if before is self:
            self._met = ledger.newest
            return
        self.logs.look(time.time())  # what a glob has found meanwhile
        for path in self._shared - before.logs.keys():  # gone meanwhile
            self.logs.pop(path).source.close()
        for path in before.logs.keys() & self.logs.keys():
            mine, source = self.logs[path], before.logs[path].source
            if mine.source is not source:
                mine.source.close()
            mine.source, mine.live, mine.moved = source, True, True
            sources.configure(source, mine.settings)

    def leave(self, heir: Memory | None, kept: Mapping[str, Source]) -> None:
        """Close the logs that neither the next memory has nor the next run is given."""
        inherited = {id(each.source) for each in heir.logs.values()} if heir is not None else set()
        for path, each in self.logs.items():
            if path not in kept and id(each.source) not in inherited:
                each.source.close()


def made_of(loaded: Loaded) -> object:
    """What of a configuration a memory is made of, to be compared."""
    settings, filters = loaded
    return (
        (settings.ports, settings.allow, settings.ipv6_prefix, settings.capacity, settings.policies),
        (settings.senders, settings.fuse),
        [(replace(each, line=0), str(zone(each.timezone))) for each in settings.logs],
        {path: [_said(each) for each in found] for path, found in filters.items()},
    )


def kept(loaded: Loaded, before: Loaded) -> Loaded:
    """With the filters in use, wherever they are read as they were: what was made of them, megabytes each, stays."""
    settings, filters = loaded
    used = {each.file: each for found in before[1].values() for each in found}

    def same(new: Filter) -> Filter:
        old = used.get(new.file)
        alike = old is not None and old.samples == new.samples and _said(old) == _said(new)
        return old if old is not None and alike else new

    return settings, {path: [same(each) for each in found] for path, found in filters.items()}


def _said(one: Filter) -> object:
    return one.name, one.programs, [(each.kind, each.source, each.pieces) for each in one.patterns]


def _source(settings: LogSettings) -> object:
    """What an open log depends on, of its section."""
    return settings.kind, settings.place, settings.units, settings.match, settings.namespace
