"""ways: whether an expression can take a text in one way only. Pure.

Where patterns share a piece that may be read in several ways (`{?…}`, `{(…)}`), the reading that suits one of them may
hide that another reading suits an earlier one. `doubles` tells where that can happen at all: two readings of one text
are followed side by side, byte by byte, until no text is left that both can take. Most end after a few bytes: behind
`{?:{port}}` stands `: `, and a port begins with no blank.

What it knows of an expression is more than this can take, never less: lengths have no upper bound, looking around and
references are passed over. So it may see two ways where there is one; it never sees one where there are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

try:
    from re import _parser as sre_parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as sre_parser

ANY = (1 << 256) - 1
MOST = 4096  # pairs of places looked at from one choice on; then it counts as one that never ends
TAIL = 24  # pieces looked at behind those that are shared
_OLDER = re.compile(rb"\(\?=\(\?P<f\d+>|\)\)\(\?P=f\d+\)")  # what Python 3.10 has for an atomic group, see `pattern`
UNROLLED = 16  # of a repetition's least number: {5,32} is five and any more
_REFERENCE = re.compile(rb"\(\?P=(\w+)\)")


ONE = ("LITERAL", "NOT_LITERAL", "IN", "ANY")  # take one character

_CATEGORIES = {
    "CATEGORY_DIGIT": b"0123456789",
    "CATEGORY_SPACE": b" \t\n\r\v\f",
    "CATEGORY_WORD": b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_",
}


class _Part(NamedTuple):
    """A part of an expression: whether it may be empty, and the places where it begins and ends."""

    empty: bool
    first: tuple[int, ...]
    last: tuple[int, ...]
    run: int = 0  # its number, where it is nothing but a run that is as long as can be


class _Places:
    """The places of an expression (of each character or set in it), and which may follow which."""

    def __init__(self) -> None:
        self.takes: list[int] = []  # the bytes that each takes, as bits
        self.follow: list[set[int]] = []
        self.run: list[int] = []  # of a run that is as long as can be: its number; else 0
        self.plain: list[bool] = []  # nothing is counted or given up there: what may follow is the same for all ways
        self.group: list[int] = []  # of an atomic group that is not repeated: its number; else 0
        self.after: dict[int, set[int]] = {}  # such a run -> what follows it where it is empty

    def place(self, takes: int) -> _Part:
        number = len(self.takes)
        self.takes.append(takes)
        self.follow.append(set())
        self.run.append(0)
        self.plain.append(True)
        self.group.append(0)
        return _Part(False, (number,), (number,))

    def row(self, parts: Sequence[_Part]) -> _Part:
        empty = True
        first: tuple[int, ...] = ()
        last: tuple[int, ...] = ()
        skipped: set[int] = set()  # certain runs that may be empty
        for part in parts:
            for one in last:
                self.follow[one].update(part.first)
            for one in skipped:
                self.after.setdefault(one, set()).update(part.first)
            skipped = skipped | ({part.run} if part.run else set()) if part.empty else set()
            if empty:
                first += part.first
            last = last + part.last if part.empty else part.last
            empty = empty and part.empty
        runs = [part.run for part in parts if part.first]
        return _Part(empty, first, last, runs[0] if len(runs) == 1 else 0)

    def certain(self, place: int | None, one: int, other: int) -> bool:
        """Whether the choice is none: a run goes on while it can, an atomic group takes one text in one way."""
        group = self.group[one], self.group[other], 0 if place is None else self.group[place]
        if any(group) and (group[0] == group[1] or group[2] in group[:2]):
            return True
        for each, else_ in ((one, other), (other, one)):
            run = self.run[each]
            if run and (else_ in self.after.get(run, ()) or (place is not None and self.run[place] == run)):
                return True
        return False

    def read(self, nodes: Sequence[Any]) -> _Part:
        return self.row([self._node(str(name), argument) for name, argument in nodes])

    def _node(self, name: str, argument: Any) -> _Part:
        if name in ONE:
            return self.place(_set(name, argument))
        if name == "SUBPATTERN" and not argument[1]:
            return self.read(argument[-1])
        if name in ("ATOMIC_GROUP", "SUBPATTERN"):  # or one with a flag: see `_parsed`
            begin = len(self.takes)
            part = self.read(argument if name == "ATOMIC_GROUP" else argument[-1])
            self._dim(begin)
            self.group[begin:] = [begin + 1] * (len(self.group) - begin)
            return part
        if name == "BRANCH":
            parts = [self.read(branch) for branch in argument[1]]
            first, last = sum((part.first for part in parts), ()), sum((part.last for part in parts), ())
            return _Part(any(part.empty for part in parts), first, last)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            return self._repeat(name, *argument)
        if name in ("ASSERT", "ASSERT_NOT", "AT"):
            return _Part(True, (), ())
        return self._repeat("POSSESSIVE_REPEAT", 0, 2, [("ANY", None)])  # (?P=said): any text, and certain

    def _dim(self, begin: int) -> None:
        """The places from `begin` on are not plain, and in no group that is not repeated."""
        self.plain[begin:] = [False] * (len(self.plain) - begin)
        self.group[begin:] = [0] * (len(self.group) - begin)

    def _repeat(self, name: str, least: int, most: int, inner: Sequence[Any]) -> _Part:
        begin = len(self.takes)
        parts = [self.read(inner) for _ in range(min(least, UNROLLED))]
        if most > least or least > UNROLLED:
            more = self.read(inner)
            for one in more.last:
                self.follow[one].update(more.first)
            parts.append(_Part(True, more.first, more.last))
        found = self.row(parts)
        self._dim(begin)
        if name == "POSSESSIVE_REPEAT" and len(inner) == 1 and str(inner[0][0]) in ONE:
            for one in range(begin, len(self.takes)):
                self.run[one] = begin + 1
            return found._replace(run=begin + 1)
        return found._replace(run=0)


@lru_cache(maxsize=4096)
def doubles(
    shared: Sequence[bytes], here: Sequence[bytes], there: Sequence[Sequence[bytes]], again: bool = False
) -> frozenset[bytes]:
    """Texts of which one at least stands in every line that can be read twice; empty where none can.

    Once as the pieces `shared` and `here`, and then, from some choice in `shared` on otherwise, as `shared`
    and one of `there`. Where both come to the same place of `shared`, or to its end, after the same text, the first
    way could have gone on as the second does: no choice but a later one tells them apart. Not so with `again`: then
    what a piece took before may be asked for once more.
    """
    places = _Places()
    parts = [places.read(_parsed(piece)) for piece in shared]
    begin: set[int] = set()
    sides = [len(places.takes)]  # where the places of `shared` end, and those of `here`
    ends: set[int] = set()
    for tail in (here, *there):
        end = [places.read(_parsed(piece)) for piece in tail[:TAIL]]
        end.append(places.place(ANY))  # whatever follows
        ends.update(end[-1].first)
        begin.update(places.row([*parts, *end]).first)
        sides.append(len(places.takes))
    return frozenset(_Doubles(places, sides[0], sides[1], ends, again).texts(begin))


def refers(pieces: Sequence[bytes]) -> bool:
    """Whether one of the pieces asks for what another one took."""
    return any(b"(?P<%s>" % name not in piece for piece in pieces for name in _REFERENCE.findall(piece))


def choices(pieces: Sequence[bytes]) -> list[int]:
    """The pieces in which a text can be taken in two ways that lead to the same place, so that the next one may again.

    Each such piece at most doubles the ways in which a line that fails in the end is tried.
    """
    places = _Places()
    parts: list[_Part] = []
    piece_of: list[int] = []
    for number, piece in enumerate(pieces):
        parts.append(places.read(_parsed(piece)))
        piece_of += [number] * (len(places.takes) - len(piece_of))
    end = places.place(ANY)
    begin = set(places.row([*parts, end]).first)
    twice = _Doubles(places, len(places.takes), len(places.takes), set(end.first))
    return sorted({piece_of[min(pair)] for pair in twice.meeting(begin)})


class _Doubles:
    """Two ways through the same places, side by side."""

    def __init__(self, places: _Places, shared: int, here: int, ends: set[int], again: bool = True) -> None:
        self._places = places
        self._shared, self._here = shared, here
        self._ends, self._again = ends, again
        self._before: list[list[int]] = [[] for _ in places.takes]
        for one, following in enumerate(places.follow):
            for other in following:
                self._before[other].append(one)

    def _pairs(self, one: Iterable[int], other: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Pairs of these places that can take the same byte, the first on the way here, the second there."""
        takes, shared, here = self._places.takes, self._shared, self._here
        others = [each for each in other if not shared <= each < here]
        for first in one:
            if first < here:
                taken = takes[first]
                for second in others:
                    if taken & takes[second]:
                        yield first, second

    def texts(self, begin: set[int]) -> set[bytes]:
        found: set[bytes] = set()
        known: dict[tuple[int, int], bytes | None] = {}
        choices: list[tuple[int | None, set[int]]] = [(None, begin)]
        choices += enumerate(self._places.follow[: self._shared])
        for place, ways in choices:
            for pair in self._pairs(ways, ways):
                one, other = pair
                if one == other or (one >= self._shared <= other) or self._places.certain(place, one, other):
                    continue
                if pair not in known:
                    known[pair] = self._until(pair)
                text = known[pair]
                if text is not None:
                    found.add(self._until_here(place) + text)
        return {text for text in found if not any(other in text for other in found - {text})}

    def meeting(self, begin: set[int]) -> Iterator[tuple[int, int]]:
        """Pairs of places from which two ways for one text come to the same place again."""
        ways: list[tuple[int | None, set[int]]] = [(None, begin), *enumerate(self._places.follow)]
        for place, following in ways:
            for pair in self._pairs(following, following):
                if pair[0] < pair[1] and not self._places.certain(place, *pair) and self._meet(pair):
                    yield pair

    def _meet(self, pair: tuple[int, int]) -> bool:
        seen, waiting = {pair}, [pair]
        while waiting:
            one, other = waiting.pop()
            if one == other or len(seen) > MOST:
                return one not in self._ends
            for after in self._pairs(self._places.follow[one], self._places.follow[other]):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return False

    def _until(self, pair: tuple[int, int]) -> bytes | None:
        """What all texts begin with that can be read both ways from this pair on; None where there is none."""
        takes, follow = self._places.takes, self._places.follow
        text, forced = b"", True
        seen, waiting = {pair}, [pair]
        while waiting:
            one, other = waiting.pop()
            if one == other and self._places.plain[one] and not self._again:
                continue
            if one == other or one in self._ends or other in self._ends or len(seen) > MOST:
                return text
            both = takes[one] & takes[other]
            forced = forced and not waiting and not both & (both - 1)
            if forced:
                text += bytes([both.bit_length() - 1])
            for after in self._pairs(follow[one], follow[other]):
                leaving = not self._again and max(one, other) < self._shared <= min(after)
                if after not in seen and not leaving:
                    seen.add(after)
                    waiting.append(after)
        return None

    def _until_here(self, place: int | None) -> bytes:
        """What stands before a choice behind this place, as far as it is certain."""
        text, takes = b"", self._places.takes
        while place is not None and not takes[place] & (takes[place] - 1):
            text = bytes([takes[place].bit_length() - 1]) + text
            place = self._before[place][0] if len(self._before[place]) == 1 else None
        return text


def _set(name: str, argument: Any) -> int:
    """The bytes that a node of one character takes, as bits."""
    if name == "LITERAL":
        return 1 << int(argument)
    if name == "ANY":
        return ANY
    if name == "NOT_LITERAL":
        return ANY & ~(1 << int(argument))
    found, negated = 0, False
    for kind, value in argument:
        if str(kind) == "NEGATE":
            negated = True
        elif str(kind) == "LITERAL":
            found |= 1 << value
        elif str(kind) == "RANGE":
            found |= (2 << value[1]) - (1 << value[0])
        elif str(value) in _CATEGORIES:
            found |= sum(1 << one for one in _CATEGORIES[str(value)])
        else:
            return ANY
    return ANY & ~found if negated else found


@lru_cache(maxsize=4096)
def _parsed(piece: bytes) -> tuple[Any, ...]:
    if len(piece) == 1 and piece not in b".^$":
        return (("LITERAL", piece[0]),)
    piece = _OLDER.sub(lambda found: b"(?s:" if found[0][-1:] == b">" else b")", piece)
    named = {name for name in _REFERENCE.findall(piece) if b"(?P<%s>" % name not in piece}
    groups = b"".join(b"(?P<%s>)" % name for name in named)  # they are those of another piece
    return tuple(sre_parser.parse(groups + piece, re.DOTALL))
