"""hints: lines that seem to say whose a queue id is, unread until somebody asks. Pure.

A busy server tells the client of every message, and hardly one in a hundred is asked for. Such lines are kept as they
stood, those of a block in one piece, with their queue ids; the block's other lines, nine tenths of it, go. `known` are
the ids that have been asked for: their lines are read at once. Bounded: a block is let go when its log has gone REACH
bytes further, or with it more than CAPACITY ids would be kept.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from denyspam.events import CLIENT, VERDICTS, Finding

ONCE = frozenset((*VERDICTS, "accept"))  # what is said of a message: told again, it is the same event
ASKING = ONCE | {CLIENT}
REACH = 32 << 20  # bytes
CAPACITY = 500_000  # ids


def asks(finding: Finding) -> bool:
    """Whether it matters whose the finding's queue id is, or was: not for an offence that names its address."""
    return finding[2] is None or finding[1] in ASKING


@dataclass(slots=True, eq=False)
class Block:
    """Whole lines, and the queue ids that some of them begin with. Places in it stay what they are in a thinned one."""

    data: bytes  # of a thinned one the lines that were kept, without newlines between them
    file: str
    place: int  # of the first byte in its log as one endless stream
    read: Callable[[Block, int], Finding | None]  # the client line around a byte; None where it is none after all
    offset: int  # of the first byte in its file
    now: float
    keys: Mapping[int, int]  # where lines begin that hold needles besides those of hints, and which
    ids: Sequence[bytes] = ()
    end: int = 0  # of all its lines, as `place`
    starts: array[int] | None = None  # of a thinned one: where its lines began,
    stops: array[int] | None = None  # and where they end in `data`

    def line(self, at: int) -> tuple[int, bytes]:
        """Where the line around this byte begins, and it, without its newline."""
        if self.starts is not None and self.stops is not None:
            number = bisect_right(self.starts, at) - 1
            return self.starts[number], self.data[self.stops[number - 1] if number else 0 : self.stops[number]]
        start, stop = self.data.rfind(b"\n", 0, at) + 1, self.data.find(b"\n", at)
        return start, self.data[start:] if stop < 0 else self.data[start:stop]

    def thin(self, places: Sequence[int]) -> None:
        """Keep the lines around these places, and no others."""
        data, keys = self.data, self.keys
        starts = sorted({data.rfind(b"\n", 0, at) + 1 for at in places})
        ends = [data.find(b"\n", start) for start in starts]
        if ends[-1] < 0:
            ends[-1] = len(data)
        lines = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        self.data = b"".join(lines)
        self.keys = {start: keys[start] for start in starts if start in keys} if keys else {}
        self.starts, self.stops = array("L", starts), array("L", accumulate(map(len, lines)))


class Hints:
    """The memory of one join and its scanners. With `every` nothing is put off: all ids are as good as known."""

    def __init__(self, *, every: bool = False, capacity: int = CAPACITY) -> None:
        self.known: set[bytes] = set()
        self.every = every
        self._capacity = capacity
        self.unread: dict[bytes, tuple[Block, int]] = {}  # by id: the block, and where in it
        self._more: dict[bytes, list[tuple[Block, int]]] = {}  # of an id that more lines seem to be of
        self._count = 0  # of those
        self._blocks: dict[str, deque[Block]] = {}

    def keep(self, block: Block, ids: Sequence[bytes], places: Sequence[int]) -> None:
        """Put the lines around these places of a block off."""
        if not ids:
            return
        unread = self.unread
        for queue_id, at in zip(ids, places, strict=True):
            if queue_id in unread:
                self._again(queue_id, block, at)
            else:
                unread[queue_id] = block, at
        block.ids = ids
        block.end = block.place + len(block.data)
        block.thin(places)
        blocks = self._blocks.setdefault(block.file, deque())
        blocks.append(block)
        reached = block.end - REACH
        while blocks and (blocks[0].end < reached or len(unread) + self._count > self._capacity):
            self._drop(blocks.popleft())

    def _again(self, queue_id: bytes, block: Block, at: int) -> None:
        """One more place for an id, unless it is in the line of the last: a line may hold the id a thousand times."""
        more = self._more.setdefault(queue_id, [])
        last, place = more[-1] if more else self.unread[queue_id]
        if last is not block or block.data.find(b"\n", place, at) >= 0:
            more.append((block, at))
            self._count += 1

    def _drop(self, block: Block) -> None:
        for queue_id in block.ids:
            if self.unread.get(queue_id, (None,))[0] is block:
                del self.unread[queue_id]
                more = self._more.pop(queue_id, [])
                left = [each for each in more if each[0] is not block]
                self._count -= len(more)
                if left:
                    self.unread[queue_id] = left[0]
                    self._more[queue_id] = left[1:]
                    self._count += len(left) - 1

    def take(self, queue_id: bytes) -> Iterator[tuple[Finding, int]]:
        """What the lines put off for this id say, in their order, and their places in their logs."""
        more = self._more.pop(queue_id, [])
        self._count -= len(more)
        for block, at in (self.unread.pop(queue_id), *more):
            finding = block.read(block, at)
            if finding is not None:
                yield finding, block.place + finding.offset - block.offset
