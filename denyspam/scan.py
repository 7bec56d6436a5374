"""scan: many filters over the bytes of one log -> findings. Pure; the hot path.

Most lines are dull. A block is searched for a few needles (`bytes.find`, at memory speed); only lines that hold one
are read by a `Reader`, which alone decides. So the needles can only cost time, never change an answer: every pattern
has a literal that contains one of them.

This engine is the reference for any faster one behind the same class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from denyspam.events import Finding
from denyspam.filter import Filter, Reader
from denyspam.pattern import IGNORE
from denyspam.stamp import Stamps

SHORTEST = 5  # bytes; a shorter needle finds every line


@lru_cache(maxsize=64)  # choosing takes some 50 ms for all shipped filters, and a daemon has many logs
def needles(filters: tuple[Filter, ...]) -> tuple[bytes, ...]:
    """Few byte strings of which at least one stands in every line that some pattern could take.

    Greedy cover: of all words of all literals the one that serves most patterns, the longer where equal, and again.
    A word that stands in a `sample none` line is too common, unless a pattern has no other.
    """
    waiting: list[tuple[set[bytes], Sequence[bytes]]] = []
    for found in filters:
        dull = b"\n".join(sample.line for sample in found.samples if sample.kind is None)
        for pattern in found.patterns:
            texts = pattern.literals
            words = {word for text in texts for word in (text, *text.split()) if len(word) >= SHORTEST}
            waiting.append(({word for word in words if word not in dull} or {pattern.needle}, texts))
    chosen: list[bytes] = []
    while waiting:
        served: dict[bytes, int] = {}
        for word in set().union(*(words for words, _ in waiting)):
            served[word] = sum(word in words for words, _ in waiting)
        best = max(served, key=lambda word: (served[word], len(word), word))
        chosen.append(best)
        waiting = [each for each in waiting if not any(best in text for text in each[1])]
    return tuple(chosen)


class Scanner:
    """The filters of one log `file`. `bad_address` and `bad_time` count what could be no hit."""

    def __init__(self, filters: Sequence[Filter], file: str, stamps: Stamps) -> None:
        self._file = file
        self._reader = Reader(filters, stamps)
        self._needles = needles(tuple(filters))

    @property
    def bad_address(self) -> int:
        return self._reader.bad_address

    @property
    def bad_time(self) -> int:
        return self._reader.bad_time

    def feed(self, block: bytes, offset: int, number: int, now: float) -> list[Finding]:
        """The findings of `block`, in order. It is whole lines; `offset` and `number` (0: unknown) of the first."""
        found: list[Finding] = []
        counted = 0
        for start in sorted(self._candidates(block)):
            end = block.find(b"\n", start)
            line = block[start:] if end < 0 else block[start:end]
            reading = self._reader.read(line, now)
            if reading is None or reading.pattern.kind == IGNORE:
                continue
            if number:
                number += block.count(b"\n", counted, start)
                counted = start
            found.append(
                Finding(
                    reading.time,
                    reading.pattern.kind,
                    reading.address,
                    reading.filter.name,
                    reading.host,
                    reading.queue_id,
                    reading.user,
                    self._file,
                    offset + start,
                    number,
                    line,
                    reading.count,
                )
            )
        return found

    def _candidates(self, block: bytes) -> set[int]:
        """Where the lines begin that hold a needle."""
        starts: set[int] = set()
        for needle in self._needles:
            at = block.find(needle)
            while at >= 0:
                starts.add(block.rfind(b"\n", 0, at) + 1)
                end = block.find(b"\n", at)
                if end < 0:
                    break
                at = block.find(needle, end)
        return starts
