"""hints: lines that seem to say whose a queue id is, unread until somebody asks. Pure.

A busy server tells the client of every message, and hardly one in a hundred is asked for. Of such a line no more is
kept than its queue id and its place in the block it came with. `known` are the ids that have been asked for: their
lines are read at once. Bounded: a block is let go when its log has gone REACH bytes further, or with it more than
CAPACITY ids would be kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from denyspam.events import Finding

REACH = 32 << 20  # bytes
CAPACITY = 500_000  # ids


@dataclass(slots=True, eq=False)
class Block:
    """Whole lines, and the queue ids that some of them begin with."""

    data: bytes
    file: str
    place: int  # of the first byte in its log as one endless stream
    read: Callable[[Block, int], Finding | None]  # the client line around a byte; None where it is none after all
    offset: int  # of the first byte in its file
    now: float
    ids: list[bytes] = field(default_factory=list)


class Hints:
    """The memory of one join and its scanners. With `every` nothing is put off: all ids are as good as known."""

    def __init__(self, *, every: bool = False, capacity: int = CAPACITY) -> None:
        self.known: set[bytes] = set()
        self.every = every
        self._capacity = capacity
        self._unread: dict[bytes, tuple[Block, int]] = {}
        self._blocks: dict[str, deque[Block]] = {}

    def __contains__(self, queue_id: bytes) -> bool:
        return queue_id in self._unread

    def keep(self, block: Block, places: Iterator[tuple[bytes, int]]) -> None:
        """Put these lines of a block off; none of the ids is in here yet."""
        for queue_id, at in places:
            self._unread[queue_id] = block, at
            block.ids.append(queue_id)
        blocks = self._blocks.setdefault(block.file, deque())
        blocks.append(block)
        reached = block.place + len(block.data) - REACH
        while blocks and (blocks[0].place + len(blocks[0].data) < reached or len(self._unread) > self._capacity):
            old = blocks.popleft()
            for queue_id in old.ids:
                if self._unread.get(queue_id, (None,))[0] is old:
                    del self._unread[queue_id]

    def take(self, queue_id: bytes) -> tuple[Finding | None, int]:
        """What the line put off for this id says, and its place in its log. KeyError where there is none."""
        block, at = self._unread.pop(queue_id)
        finding = block.read(block, at)
        return finding, block.place + (0 if finding is None else finding.offset - block.offset)
