"""tree: the patterns of several filters as one expression. Pure.

Tried one by one, sixty patterns cost sixty beginnings of the same line. Here patterns share what they have in common at
their beginnings, and one match tells which of them is the first that fits, and what its holes took.

The order of the patterns holds: one moves before another only where the two differ in a literal byte at the same place,
so that no line can fit both. A line where {said} could end twice is left to the patterns themselves (`Reader`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

from denyspam.events import CLIENT
from denyspam.filter import Filter
from denyspam.pattern import Pattern, compiled

_GROUP = re.compile(rb"\((?:\?P(?:<(?P<name>\w+)>|=(?P<again>\w+)\)))")


@dataclass(slots=True)
class _Node:
    """A piece of an expression and what may follow it, in order; a leaf has a number and nothing behind it."""

    piece: bytes
    leaf: int | None = None
    following: list[_Node] = field(default_factory=list)


class Leaf(NamedTuple):
    """A pattern in the tree; its holes by the numbers of their groups, 0 where it has none."""

    kind: str
    filter: str
    ip: int
    id: int
    user: int
    times: int
    said: int
    stops: tuple[bytes, ...]  # where none of these follows the address, {said} ended at the only place it could,
    word: bool  # and, with `word`, where none of them stands in it
    ending: re.Pattern[bytes] | None  # what must stand at the line's end, over the line read backwards; if it does not:
    rest: Callable[[], Tree]  # the patterns after this one
    rivals: tuple[tuple[bytes, Pattern], ...]  # earlier ones that may fit all the same, each with a text they need


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


def _insert(root: _Node, pieces: Sequence[bytes], leaf: int) -> list[int]:
    """Put a pattern in; the leaves of those with which it shares a piece that can be read in several ways.

    Such a piece is read as suits any of them, so the first of them that fits need not be the first in the order.
    """
    node, rivals = root, None
    for piece in pieces:
        found = _shared(node, piece)
        if found is None:
            found = _Node(piece)
            node.following.append(found)
        elif rivals is None and piece.startswith(b"(?:"):
            rivals = list(_leaves(found))
        node = found
    node.following.append(_Node(b"", leaf))
    return rivals or []


def _leaves(node: _Node) -> Iterator[int]:
    if node.leaf is not None:
        yield node.leaf
    for one in node.following:
        yield from _leaves(one)


def _needed(rival: Pattern, pattern: Pattern) -> bytes:
    """The longest text that `rival` needs and `pattern` does not."""
    return max((text for text in rival.literals if text not in pattern.literals), key=len, default=b"")


class Tree:
    """`match(line, start)` gives the match, `leaves[match.lastindex]` the pattern; None where no pattern fits.

    Where `stops` stand in a line more than once, a pattern with {said} may fit it all the same.
    """

    def __init__(
        self,
        patterns: Sequence[tuple[str, Pattern]],
        filters: Sequence[Filter] = (),
        rivals: Sequence[tuple[tuple[bytes, Pattern], ...]] = (),
    ) -> None:
        self.filters = filters  # whose patterns they are
        root = _Node(b"")
        shared = [_insert(root, pattern.pieces, number) for number, (_, pattern) in enumerate(patterns)]
        self._rivals = rivals or [
            tuple((_needed(patterns[one][1], pattern), patterns[one][1]) for one in found)
            for (_, pattern), found in zip(patterns, shared, strict=True)
        ]
        self._patterns = patterns
        self._groups = 0
        self.clients = tuple(pattern for _, pattern in patterns if pattern.kind == CLIENT)
        self.stops = tuple({pattern.stop for _, pattern in patterns if pattern.stop})
        leaves: dict[int, Leaf] = {}
        self.match = re.compile(self._write(root, {}, leaves), re.DOTALL).match
        nothing = Leaf("", "", 0, 0, 0, 0, 0, (), False, None, lambda: self, ())
        self.leaves = [leaves.get(group, nothing) for group in range(self._groups + 1)]

    def _write(self, node: _Node, groups: dict[bytes, int], leaves: dict[int, Leaf]) -> bytes:
        """The expression from `node` on; `groups` are those on the way to it."""
        if node.leaf is not None:
            self._groups += 1
            name, pattern = self._patterns[node.leaf]
            ip, queue_id, user, times, said = (
                groups.get(hole, 0) for hole in (b"ip", b"id", b"user", b"times", b"said")
            )
            stops = (pattern.stop, b")") if pattern.word[0] else (pattern.stop,)
            ending = None if pattern.ending is None else compiled(pattern.ending)
            after = node.leaf + 1
            rest = cache(partial(Tree, self._patterns[after:], (), self._rivals[after:]))
            rivals = self._rivals[node.leaf]
            leaves[self._groups] = Leaf(
                pattern.kind, name, ip, queue_id, user, times, said, stops, bool(pattern.word[0]), ending, rest, rivals
            )
            return b"()"
        piece, groups = node.piece, dict(groups)

        def number(found: re.Match[bytes]) -> bytes:
            if found["again"] is not None:
                return b"(?P=s%d)" % groups[found["again"]]
            self._groups += 1
            groups[found["name"]] = self._groups
            return b"(?P<s%d>" % self._groups

        text = _GROUP.sub(number, piece)
        following = [self._write(one, groups, leaves) for one in node.following]
        return text + (following[0] if len(following) == 1 else b"(?:" + b"|".join(following) + b")")
