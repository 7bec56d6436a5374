"""tree: the patterns of several filters as one expression. Pure.

Tried one by one, sixty patterns cost sixty beginnings of the same line. Here patterns share what they have in common at
their beginnings, and one match tells which of them is the first that fits, and what its holes took.

The order of the patterns holds: one moves before another only where the two differ in a literal byte at the same place,
so that no line can fit both. Where a piece that patterns share can be read in several ways (`ways`), an earlier one may
fit all the same: it is a rival, to be asked. A line where {said} could end twice is left to the patterns themselves
(`Reader`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import chain, count

from denyspam.filter import Filter
from denyspam.pattern import Pattern, compiled
from denyspam.ways import TAIL, doubles, refers

_GROUP = re.compile(rb"\((?:\?P(?:<(?P<name>\w+)>|=(?P<again>\w+)\)))")

# Nothing that TAGS take stands before the body, nor what a container's output has of its own (COLLECTED)
UNTAGGED = rb"(?!\[|message repeated |std(?:out|err) |[A-Z][a-z]{2} {1,2}\d|\d{4}-\d\d-\d\d[ T])"
TEXTS = 12  # where more of them tell that a rival may fit, it is asked at once: that is quicker than to look for them
PID = rb"\d{1,10}\]: "
NOTHING = b"(?!)"  # what no line fits


@dataclass(slots=True, eq=False)
class _Node:
    """A piece of an expression and what may follow it, in order; a leaf has a number and nothing behind it."""

    piece: bytes
    number: int
    leaf: int | None = None
    following: list[_Node] = field(default_factory=list)


# What may speak against a pattern that matched, and holes that few have. Tuples, these and `Leaf`, as they are taken
# apart for every line.
Doubts = tuple[
    int,  # {said}, by the number of its group; 0 for a hole it has not
    tuple[bytes, ...],  # where none of these follows the address, {said} ended at the only place it could,
    bool,  # and, where this holds, none of them stands in it; else the pattern
    Pattern,  # itself can tell
    "re.Pattern[bytes] | None",  # what must stand at the line's end, over the line read backwards; if it does not:
    "Callable[[], Tree]",  # the patterns after this one
    "tuple[tuple[bytes, tuple[tuple[bytes, Pattern], ...]], ...]",  # where the first text stands in the line:
    # earlier ones that may fit all the same, each with a text they need
    int,  # {user}
    int,  # {times}
]
# A pattern in the tree: its kind, its filter; {ip} and {id} by the numbers of their groups, 0 where it has none; its
# doubts, None where there is nothing else to it.
Leaf = tuple[str, str, int, int, "Doubts | None"]


def _literal(piece: bytes) -> bool:
    return len(piece) == 1 or (len(piece) == 2 and piece[:1] == b"\\")


def _shared(node: _Node, piece: bytes) -> _Node | None:
    """The last of the node's followers that begins with `piece`, when those behind it can fit no line that it fits."""
    for one in reversed(node.following):
        if one.leaf is None and one.piece == piece:
            return one
        if one.leaf is not None or not (_literal(one.piece) and _literal(piece)):
            return None
    return None


def _insert(root: _Node, pieces: Sequence[bytes], leaf: int, numbers: Iterator[int]) -> array[int]:
    """Put a pattern in; the numbers of the nodes of its pieces."""
    node, path = root, array("L")
    for piece in pieces:
        found = _shared(node, piece)
        if found is None:
            found = _Node(piece, next(numbers))
            node.following.append(found)
        path.append(found.number)
        node = found
    node.following.append(_Node(b"", next(numbers), leaf))
    return path


def _together(one: Sequence[int], other: Sequence[int]) -> int:
    """How many nodes two patterns share."""
    shared = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        shared += 1
    return shared


def _needed(rival: Pattern, pattern: Pattern) -> bytes:
    """The longest text that `rival` needs and `pattern` does not."""
    return max((text for text in rival.literals if text not in pattern.literals), key=len, default=b"")


class Tree:
    """`match(line, start)` gives the match, `leaves[match.lastindex]` the pattern; None where no pattern fits.

    A leaf is None until `leaf` has been asked for it. Where `stops` stand in a line more than once, a pattern with
    {said} may fit it all the same.
    """

    def __init__(
        self,
        patterns: Sequence[tuple[str, Pattern]],
        filters: Sequence[Filter],
        stops: tuple[bytes, ...] | None = None,
        dull: Sequence[tuple[str, Pattern]] = (),
    ) -> None:
        self.filters = filters  # whose patterns they are
        self._dull = dull
        self.patterns = patterns
        self.stops = tuple({pattern.stop for _, pattern in patterns if pattern.stop}) if stops is None else stops
        root, numbers = _Node(b"", 0), count(1)
        # Not the nodes: they are a megabyte.
        self._paths = [_insert(root, pattern.pieces, place, numbers) for place, (_, pattern) in enumerate(patterns)]
        self._numbers: dict[int, tuple[int, dict[bytes, int]]] = {}  # group of a leaf: its pattern, its holes' groups
        self._groups = 1  # the first is empty, where the body starts
        self._expression = self._write(root, {})
        self.leaves: list[Leaf | None] = [None] * (self._groups + 1)

    @cached_property
    def match(self) -> Callable[[bytes, int], re.Match[bytes] | None]:
        """From a body's start on."""
        return re.compile(b"()" + self._expression, re.DOTALL).match

    @cached_property
    def untagged(self) -> Callable[[bytes, int], re.Match[bytes] | None]:
        """The same, of a body without tags before it; else None."""
        return re.compile(UNTAGGED + b"()" + self._expression, re.DOTALL).match

    @cached_property
    def usual(self) -> Callable[[bytes, int], re.Match[bytes] | None]:
        """The same, from the digits of the pid on."""
        return re.compile(PID + UNTAGGED + b"()" + self._expression, re.DOTALL).match

    @cached_property
    def rest(self) -> Tree:
        """The patterns left out of it, behind its own, as they tell of no offence."""
        return Tree(self._dull, self.filters)

    def leaf(self, match: re.Match[bytes]) -> Leaf:
        """The pattern that matched, from now on in `leaves`."""
        group = match.lastindex or 0
        number, groups = self._numbers[group]
        name, pattern = self.patterns[number]
        ip, queue_id, said, user, times = (groups.get(hole, 0) for hole in (b"ip", b"id", b"said", b"user", b"times"))
        stops = (pattern.stop, b")") if pattern.word[0] else (pattern.stop,)
        ending = None if pattern.ending is None else compiled(pattern.ending)
        rest = cache(partial(Tree, self.patterns[number + 1 :], self.filters, self.stops, self._dull))
        rivals = self._rivals(number)
        plain = not (said or ending or rivals or user or times)
        doubts = None if plain else (said, stops, bool(pattern.word[0]), pattern, ending, rest, rivals, user, times)
        found = self.leaves[group] = (pattern.kind, name, ip, queue_id, doubts)
        return found

    def _rivals(self, number: int) -> tuple[tuple[bytes, tuple[tuple[bytes, Pattern], ...]], ...]:
        """Earlier patterns that may fit where this one matched, by what then stands in the line."""
        pattern, path = self.patterns[number][1], self._paths[number]
        pieces = pattern.pieces
        by_depth: dict[int, list[Pattern]] = {}
        for (_, rival), other in zip(self.patterns[:number], self._paths, strict=False):
            shared = _together(path, other)
            if shared:
                by_depth.setdefault(shared, []).append(rival)
        found: dict[bytes, list[tuple[bytes, Pattern]]] = {}
        for shared, rivals in by_depth.items():
            tails = {rival.pieces[shared : shared + TAIL] for rival in rivals}
            again = any(refers(rival.pieces) for rival in rivals)
            for text in doubles(pieces[:shared], pieces[shared : shared + TAIL], tuple(sorted(tails)), again):
                found.setdefault(text, []).extend((_needed(rival, pattern), rival) for rival in rivals)
        if len(found) > TEXTS:
            found = {b"": [*dict.fromkeys(chain.from_iterable(found.values()))]}
        return tuple((text, tuple(rivals)) for text, rivals in found.items())

    def _write(self, node: _Node, groups: dict[bytes, int]) -> bytes:
        """The expression from `node` on; `groups` are those on the way to it."""
        if node.leaf is not None:
            self._groups += 1
            self._numbers[self._groups] = node.leaf, groups
            return b"()"
        piece, groups = node.piece, dict(groups)

        def number(found: re.Match[bytes]) -> bytes:
            if found["again"] is not None:
                return b"(?P=s%d)" % groups[found["again"]]
            self._groups += 1
            groups[found["name"]] = self._groups
            return b"(?P<s%d>" % self._groups

        text = _GROUP.sub(number, piece)
        following = [self._write(one, groups) for one in node.following] or [NOTHING]
        return text + (following[0] if len(following) == 1 else b"(?:" + b"|".join(following) + b")")
