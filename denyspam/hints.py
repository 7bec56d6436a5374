"""hints: lines that seem to say whose a queue id is, unread until somebody asks. Pure.

A busy server tells the client of every message, and hardly one in a hundred is asked for. Such lines are kept as they
stood, by their queue ids; the others of their block, nine tenths of it, go. `known` are the ids that have been asked
for: their lines are read at once. Bounded: a block's lines are let go when its log has gone REACH bytes further, or
with them more than CAPACITY ids would be kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    """What lines of one block have in common."""

    file: str
    place: int  # of the block's first byte in its log as one endless stream
    end: int  # and of its last
    read: Callable[[Block, int, bytes], Finding | None]  # such a line; None where it is no client's after all
    offset: int  # of the first byte in its file
    now: float
    keys: Mapping[int, int]  # where lines begin that hold needles besides those of hints, and which
    ids: Sequence[bytes] = ()


Line = tuple[Block, int, bytes]  # the block, where in it the line begins, and itself, without its newline


class Hints:
    """The memory of one join and its scanners. With `every` nothing is put off: all ids are as good as known."""

    def __init__(self, *, every: bool = False, capacity: int = CAPACITY) -> None:
        self.known: set[bytes] = set()
        self.every = every
        self._capacity = capacity
        self.unread: dict[bytes, Line] = {}  # by id
        self._more: dict[bytes, list[Line]] = {}  # of an id that more lines seem to be of
        self._count = 0  # of those
        self._blocks: dict[str, deque[Block]] = {}

    def keep(self, block: Block, ids: Sequence[bytes], lines: Sequence[Line]) -> None:
        """Put lines of a block off, each by the id at its place in `ids`; in their order."""
        if not ids:
            return
        unread = self.unread
        if unread.keys().isdisjoint(ids) and len(set(ids)) == len(ids):
            unread.update(zip(ids, lines, strict=True))
        else:
            for queue_id, line in zip(ids, lines, strict=True):
                if queue_id in unread:
                    self._again(queue_id, line)
                else:
                    unread[queue_id] = line
        block.ids = ids
        block.keys = {start: block.keys[start] for _, start, _ in lines if start in block.keys} if block.keys else {}
        blocks = self._blocks.setdefault(block.file, deque())
        blocks.append(block)
        reached = block.end - REACH
        while blocks and (blocks[0].end < reached or len(unread) + self._count > self._capacity):
            self._drop(blocks.popleft())

    def _again(self, queue_id: bytes, line: Line) -> None:
        """One more line of an id, unless it is the last: a line may hold the id a thousand times."""
        more = self._more.setdefault(queue_id, [])
        last = more[-1] if more else self.unread[queue_id]
        if last[0] is not line[0] or last[1] != line[1]:
            more.append(line)
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
        for block, start, line in (self.unread.pop(queue_id), *more):
            finding = block.read(block, start, line)
            if finding is not None:
                yield finding, block.place + finding.offset - block.offset
