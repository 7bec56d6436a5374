"""scan: many filters over the bytes of one log -> findings. Pure; the hot path.

Most lines are dull. A block is searched, in one pass and at memory speed, for the *needles*: byte strings of which one
at least stands in every line that some pattern could take. Only lines that hold one are looked at. So needles can only
cost time, never change an answer.

Such a line is read by one expression made of all patterns (`tree`), with what many lines share remembered: the hour of
a stamp, the program of a header, the canonical form of an address. What is out of the ordinary (RFC 5424, `message
repeated`, a line that may say two things) is left to a `Reader`, which reads any line, one pattern after the other; it
is the reference that this file must agree with.

Of the lines that only say whose a queue id is, no more than the id is read, as most are never asked (`hints`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from operator import itemgetter
from weakref import WeakValueDictionary

from denyspam.events import CLIENT, HARMLESS, Finding
from denyspam.filter import (
    COLLECTED,
    LONG,
    NO_QUEUE,
    NOBODYS,
    REPEATED,
    TAGS,
    Filter,
    Reader,
    Reading,
    Sample,
    canonical,
)
from denyspam.hints import Block, Hints, Line, asks
from denyspam.pattern import IGNORE, Endings, Pattern, Words, escaped, repeated
from denyspam.stamp import Stamps
from denyspam.tree import UNTAGGED, Tree

try:
    import hyperscan
except ImportError:  # neither x86_64 nor aarch64: slower, and the same answers
    hyperscan = None  # type: ignore[assignment]

BEHIND = 7  # bytes; a shorter text stands behind other words too often
SHORTEST = 3  # bytes; a shorter needle stands in every line
APART = 256  # bytes between two needles, on the average of a block: where there are fewer, its lines are counted
EACH = 4  # needles in a line, on the average: more are none of an honest log
SOME = 16  # needles that a short block may hold besides
AFTER = 32  # blocks; to search them so costs 2 microseconds a line
USUAL = 50  # a message that is taken is so much more frequent than anything else a filter has samples of
LONGEST = 300  # bytes of a host's and a program's name that are remembered
HEADERS = 4096  # of them; a log has some tens
TREES = 64  # of a set of filters, for sets of needles: 10 MB; a log has some ten
WAYS = 4096  # sets of needles remembered; a log has some tens

_UNTAGGED = re.compile(UNTAGGED)
made = tuple.__new__
# (the end of a needle, its number), in this order; and of each hint where its second text ends, in order
Search = Callable[[bytes], tuple[list[tuple[int, int]], list[list[int]]]]
Compile = Callable[[Sequence[bytes]], "hyperscan.Database"]


def needles(patterns: Sequence[Pattern], dull: Sequence[Sample]) -> tuple[bytes, ...]:
    """Needles for these patterns: rare ones, and of those few.

    How rare a text is, the `dull` samples tell: those of what is not wanted. Of a pattern's rarest texts that one is
    taken which serves most patterns, the longer where equal, and again.
    """
    usual = b"\n".join(each.line for each in dull if each.kind in ("accept", CLIENT))
    other = b"\n".join(each.line for each in dull if each.kind not in ("accept", CLIENT))

    @cache
    def frequency(text: bytes) -> int:
        return USUAL * usual.count(text) + other.count(text)

    waiting: dict[int, tuple[list[Words], tuple[Words, ...]]] = {}  # pattern -> its rarest texts, and all
    for number, pattern in enumerate(patterns):
        counts = {texts: sum(map(frequency, texts)) for texts in pattern.needles if _shortest(texts) >= SHORTEST}
        rarest = min(counts.values())
        waiting[number] = [texts for texts, count in counts.items() if count == rarest], pattern.needles
    joined = [b"\n".join(text for texts in pattern.needles for text in texts) for pattern in patterns]
    begins, everything = [0, *accumulate(len(text) + 1 for text in joined)], b"\n".join(joined)
    chosen: set[bytes] = set()
    served = Counter(texts for rare, _ in waiting.values() for texts in rare)
    ranks = {texts: (_shortest(texts), texts) for texts in served}
    while waiting:
        most = max(served.values())
        best = max([texts for texts, count in served.items() if count == most], key=ranks.__getitem__)
        chosen.update(best)
        for number in {bisect_left(begins, end) - 1 for end, _ in _places(best, everything)} & waiting.keys():
            rare, found = waiting[number]
            if any(_served(texts, best, chosen) for texts in found):
                del waiting[number]
                served.subtract(rare)
    return tuple(sorted(one for one in chosen if not any(other in one for other in chosen - {one})))


def _behind(pattern: Pattern) -> bytes | None:
    """The text right behind the queue id, where the line's body begins with that and the text is long enough."""
    text = pattern.needles[0][0] if pattern.pieces[0].startswith(b"(?P<id>") else b""
    return text if len(text) >= BEHIND and b"".join(pattern.pieces[1:]).startswith(escaped(text)) else None


def _further(patterns: Sequence[Pattern]) -> bytes:
    """The longest text that stands further on in every line that one of these patterns takes; may be empty."""
    shared = set.intersection(*({text for (text, *more) in each.needles[1:] if not more} for each in patterns))
    return max(sorted(shared), key=len, default=b"")


def _served(texts: Words, fresh: Words, chosen: set[bytes]) -> bool:
    """Whether each of `texts` holds a needle, some of them a `fresh` one."""
    return any(needle in text for text in texts for needle in fresh) and all(
        any(needle in text for needle in chosen) for text in texts
    )


def _shortest(texts: Words) -> int:
    return min(map(len, texts))


class _Needles:
    """The needles of some filters' patterns, and what those of a line tell: a line's `key` has a bit for each.

    The needles of hints follow the others. They stand right behind a queue id: of each the text, another one that
    stands further on in its line (or b""), and its bit.
    """

    def __init__(self, filters: Sequence[Filter], compile_: Compile, *, brief: bool) -> None:
        dull = {IGNORE, *HARMLESS, CLIENT} if brief else {IGNORE}
        patterns = [each for found in filters for each in found.patterns]
        firm = [each for each in patterns if each.kind not in dull]
        guessed: list[Pattern] = []  # hints are of these
        if brief and any("ip" not in each.holes for each in firm):
            clients = [each for each in patterns if each.kind == CLIENT]
            guessed = [each for each in clients if _behind(each)]
            firm += [each for each in clients if not _behind(each)]
        samples = [each for found in filters for each in found.samples if each.kind is None or each.kind in dull]
        texts = needles(firm, samples)
        hints: dict[bytes, list[Pattern]] = {}
        for each in guessed:
            hints.setdefault(_behind(each) or b"", []).append(each)
        both = [(text, _further(found)) for text, found in hints.items()]
        self.search = _naive(texts, both) if hyperscan is None else _hyperscan(texts, both, compile_)
        self.bits = [1 << number for number in range(len(texts))]
        self.bits.append(0)  # of the number -1
        self.hints = tuple(
            (text, _further(found), 1 << number) for number, (text, found) in enumerate(hints.items(), len(texts))
        )
        self._wanted = {id(each) for each in (*firm, *guessed)}
        self._demands = _demands(patterns, (*texts, *hints))
        # One tree for all patterns of one demand, which most of them share, as it takes some 20 ms to make.
        shared = Counter(demand for each in self._demands.values() for demand in each)
        self._main = {each: max(demands, key=shared.__getitem__, default=()) for each, demands in self._demands.items()}
        self._major = 0
        for demand in self._main.values():
            for mask in demand:
                self._major |= mask
        self._matters: dict[tuple[int, ...], set[tuple[tuple[int, ...], ...]]] = {}
        for each in patterns:
            if id(each) in self._wanted:
                self._matters.setdefault(self._main[id(each)], set()).add(self._demands[id(each)])
        self._trees: dict[tuple[tuple[Filter, ...], int], Tree | None] = {}
        self._others: dict[tuple[tuple[Filter, ...], Endings | None], Tree] = {}

    def vain(self, key: int) -> bool:
        """Whether no pattern that matters can take a line with these needles."""
        return not any(
            any(all(_met(demand, key) for demand in demands) for demands in each)
            for main, each in self._matters.items()
            if _met(main, key)
        )

    def others(self, filters: Sequence[Filter], again: Endings | None) -> Tree:
        """What else a line may be that is doubtful by the first that takes it, which ends {said} like this.

        All patterns behind the first that does so, but those that do so.
        """
        which = tuple(filters), again
        if which not in self._others:
            every = [(found.name, each) for found in filters for each in found.patterns]
            first = next(place for place, (_, each) in enumerate(every) if each.again is again)
            self._others[which] = Tree([each for each in every[first:] if each[1].again is not again], filters)
        return self._others[which]

    def tree(self, filters: tuple[Filter, ...], key: int) -> Tree | None:
        """The patterns that can take a line with these needles, and few others; None where none of them matters."""
        key &= self._major
        if len(self._trees) >= TREES and (filters, key) not in self._trees:
            key = self._major
        if (filters, key) not in self._trees:
            chosen = [
                (found.name, each) for found in filters for each in found.patterns if _met(self._main[id(each)], key)
            ]
            end = len(chosen)
            while end and id(chosen[end - 1][1]) not in self._wanted:
                end -= 1
            self._trees[filters, key] = Tree(chosen[:end], filters, dull=chosen[end:]) if end else None
        return self._trees[filters, key]


def _met(demand: tuple[int, ...], key: int) -> bool:
    """Whether a line with the needles of `key` holds one of these sets of them; a demand for none is met."""
    return not demand or any(mask & key == mask for mask in demand)


# A daemon has many logs with the same filters. Weak: a reload brings others, and those before took 20 MB.
_shared: WeakValueDictionary[tuple[tuple[Filter, ...], bool], _Needles] = WeakValueDictionary()


def _needles_of(filters: tuple[Filter, ...], compile_: Compile, *, brief: bool) -> _Needles:
    found = _shared.get((filters, brief))
    if found is None:
        found = _shared[filters, brief] = _Needles(filters, compile_, brief=brief)
    return found


def _demands(patterns: Sequence[Pattern], texts: Sequence[bytes]) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Of each pattern sets of needles (a bit for each): of each row, one set stands in every line that it takes."""
    words = list({word for each in patterns for row in each.needles for word in row})
    begins = [0, *accumulate(len(word) + 1 for word in words)]
    joined, held = b"\n".join(words), dict.fromkeys(words, 0)
    for end, number in _places(texts, joined):
        held[words[bisect_left(begins, end) - 1]] |= 1 << number
    rows = {id(each): [tuple(held[word] for word in row) for row in each.needles] for each in patterns}
    return {each: tuple(masks for masks in found if all(masks)) for each, found in rows.items()}


def _places(texts: Sequence[bytes], block: bytes) -> list[tuple[int, int]]:
    """Where in the block each of the texts ends, and its number; in this order."""
    found = []
    for number, text in enumerate(texts):
        at = block.find(text)
        while at >= 0:
            found.append((at + len(text), number))
            at = block.find(text, at + 1)
    return sorted(found)


def _naive(texts: Sequence[bytes], hints: Sequence[tuple[bytes, bytes]]) -> Search:
    """The search by the standard library: each text by itself."""

    def followed(text: bytes, further: bytes, block: bytes) -> list[int]:
        at, found = block.find(text), []
        while at >= 0:
            stop = block.find(b"\n", at)
            end = block.find(further, at + len(text), stop if stop >= 0 else len(block))
            if end >= 0:
                found.append(end + len(further))
            at = block.find(text, at + 1)
        return found

    def search(block: bytes) -> tuple[list[tuple[int, int]], list[list[int]]]:
        return _places(texts, block), [followed(*hint, block) for hint in hints]

    return search


def compiled(expressions: Sequence[bytes], *, once: bool = False) -> hyperscan.Database:
    """Intel's search for these expressions, or `once` in each text that is searched: 50 ms, and 14 MB meanwhile."""
    database, numbers = hyperscan.Database(), list(range(len(expressions)))
    flags = hyperscan.HS_FLAG_SINGLEMATCH if once else 0
    database.compile(expressions=expressions, ids=numbers, elements=len(numbers), flags=flags)
    return database


def _hyperscan(texts: Sequence[bytes], hints: Sequence[tuple[bytes, bytes]], compile_: Compile) -> Search:
    """The search by Intel's library: all texts in one pass, five times as fast as others on 150 of them.

    Every place where a text stands costs 0.3 microseconds, and a hostile line may hold one two thousand times. Behind a
    block that has more of them than honest lines have, some are searched line by line, for each text once.
    """
    expressions = [re.escape(text) for text in texts]
    expressions += [rb"[^\n]*".join(map(re.escape, hint)) if hint[1] else re.escape(hint[0]) for hint in hints]
    firm = len(texts)
    database = compile_(expressions)
    once = cache(partial(compiled, expressions, once=True))  # few logs need it
    hostile = 0  # blocks still to be searched line by line

    def search(block: bytes) -> tuple[list[tuple[int, int]], list[list[int]]]:
        nonlocal hostile
        if hostile:
            hostile -= 1
            return by_line(block)
        found: list[tuple[int, int]] = []
        ends: list[list[int]] = [[] for _ in hints]
        append = found.append

        def met(number: int, _begin: int, end: int, _flags: int, _context: object) -> None:
            if number < firm:
                append((end, number))
            else:
                ends[number - firm].append(end)

        database.scan(block, match_event_handler=met)
        hits = sum(map(len, ends), len(found))
        if hits > len(block) // APART + SOME and hits > block.count(b"\n") * EACH + SOME:
            hostile = AFTER
        found.sort()
        return found, ends

    def by_line(block: bytes) -> tuple[list[tuple[int, int]], list[list[int]]]:
        found: list[tuple[int, int]] = []
        ends: list[list[int]] = [[] for _ in hints]
        start, scan = 0, once().scan

        def met(number: int, _begin: int, end: int, _flags: int, _context: object) -> None:
            if number < firm:
                found.append((start + end, number))
            else:
                ends[number - firm].append(start + end)

        for line in block.split(b"\n"):
            scan(line, match_event_handler=met)
            start += len(line) + 1
        found.sort()
        return found, ends

    return search


# How lines with the same needles are read: as the last of them. A tuple, which is taken apart fastest.
# - what stood between its stamp and the digits of its pid; empty for a line without host and program
# - the length of that
# - its host
# - its patterns
# - their `match`, of a body without tags
_Way = tuple[bytes, int, str, "Tree | None", "Callable[[bytes, int], re.Match[bytes] | None]"]


def _nothing(_line: bytes, _start: int) -> None:
    return None


VAIN: _Way = (b"\n", 1, "", None, _nothing)  # whatever else stands in such a line, it says nothing
UNSEEN: _Way = (b"\n", 1, "", None, _nothing)  # no line begins so


class Scanner:
    """The filters of one log `file`. `bad_address` and `bad_time` count what could be no hit.

    With `hints` only what can become a hit comes out: neither `accept` nor `defer`, and of client lines those that are
    asked for; the others are kept there. `compile_` is `compiled`, or knows where what that made before is kept.
    """

    def __init__(
        self,
        filters: Sequence[Filter],
        file: str,
        stamps: Stamps,
        hints: Hints | None = None,
        compile_: Compile = compiled,
    ) -> None:
        self._file = file
        self._stamps = stamps
        self._filters = tuple(filters)
        self._reader = Reader(filters, stamps)
        self._hints = hints
        self._needles = _needles_of(self._filters, compile_, brief=hints is not None)
        self._dull = {IGNORE} if hints is None else {IGNORE, *HARMLESS}
        self._headers: dict[bytes, tuple[str, tuple[Filter, ...]]] = {}  # what stands before a pid
        self._ways: dict[int, _Way] = {}

    @property
    def bad_address(self) -> int:
        return self._reader.bad_address

    @property
    def bad_time(self) -> int:
        return self._reader.bad_time

    def feed(self, block: bytes, offset: int, number: int, now: float, place: int | None = None) -> list[Finding]:
        """The findings of `block`, in order. It is whole lines; `offset` and `number` (0: unknown) of the first.

        `place` is its place in the log as one endless stream, where that is not `offset`.
        """
        found: list[Finding] = []
        hits, ends = self._needles.search(block)
        keys: dict[int, int] = {}  # of the lines that hold firm needles
        where = offset if place is None else place
        told = Block(self._file, where, where + len(block), self._client, offset, now, keys)
        ids, lines, beside = self._hinted(block, ends, told)
        bits, ways, read = self._needles.bits, self._ways, self._read
        start = stop = key = counted = 0
        hits.append((len(block) + 1, -1))
        for end, needle in hits:
            if end <= stop:
                key |= bits[needle]
                continue
            if key:
                if beside and start in beside:
                    key |= beside[start]
                if (way := ways.get(key) or self._way(key)) is not VAIN:
                    keys[start] = key
                    if number:
                        number += block.count(b"\n", counted, start)
                        counted = start
                    finding = read(block[start:stop], way, key, offset + start, number, now)
                    if finding is not None:
                        found.append(finding)
            key = bits[needle]
            start = block.rfind(b"\n", stop, end) + 1
            stop = block.find(b"\n", end)
            if stop < 0:
                stop = len(block)
        if ids and self._hints is not None:
            clients = self._guess(told, ids, lines, found, self._hints)
            if clients:  # by offset
                return sorted((*found, *clients), key=itemgetter(7))
        return found

    def _hinted(
        self, data: bytes, ends: list[list[int]], block: Block
    ) -> tuple[list[bytes], list[Line], dict[int, int]]:
        """The lines that seem to say whose a queue id is: the ids, the lines, where one begins -> its hint's bit."""
        ids: list[bytes] = []
        lines: list[Line] = []
        beside: dict[int, int] = {}
        for (text, further, bit), places in zip(self._needles.hints, ends, strict=True):
            before, stop = len(lines), 0
            for place in places:
                if place <= stop:
                    continue
                start = data.rfind(b"\n", stop, place) + 1
                stop = data.find(b"\n", place)
                if stop < 0:
                    stop = len(data)
                line = data[start:stop]
                at = line.find(text)  # the first is the one that can begin the body
                if line[0] == 60:  # <: but what precedes the body may hold anything (RFC 5424)
                    _, _, body = self._reader.header(line, self._stamps.read(line, block.now)[1])
                    at = line.find(text, body)
                    if at < 0 or line.find(further, at + len(text)) < 0:
                        continue
                ids.append(line[line.rfind(b" ", 0, at) + 1 : at])
                lines.append((block, start, line))
            beside.update((line[1], bit) for line in lines[before:])
            if 0 < before < len(lines):
                order = sorted(range(len(lines)), key=lambda number: lines[number][1])
                ids, lines = [ids[number] for number in order], [lines[number] for number in order]
        return ids, lines, beside

    def _guess(
        self, block: Block, ids: list[bytes], lines: list[Line], found: list[Finding], hints: Hints
    ) -> list[Finding]:
        """The client lines that are asked for; the others are put off."""
        asked = {finding[4].encode() for finding in found if finding[4] is not None and asks(finding)}
        now = set(ids) if hints.every else hints.known.intersection(ids) | asked.intersection(ids)
        clients: list[Finding] = []
        if now:
            told = {finding[7] for finding in found if finding[1] == CLIENT}
            for queue_id, (_, start, line) in zip(ids, lines, strict=True):
                if queue_id in now and block.offset + start not in told:
                    told.add(block.offset + start)  # a line may hold a thousand needles, and says one thing
                    client = self._client(block, start, line)
                    if client is not None:
                        clients.append(client)
            lines = [line for queue_id, line in zip(ids, lines, strict=True) if queue_id not in now]
            ids = [queue_id for queue_id in ids if queue_id not in now]
        hints.keep(block, ids, lines)
        return clients

    def _client(self, block: Block, start: int, line: bytes) -> Finding | None:
        """The client line that begins there in a block."""
        key = block.keys.get(start, 0)
        for text, _, bit in self._needles.hints:
            if line.find(text) >= 0:
                key |= bit
        finding = self._read(line, self._ways.get(key) or self._way(key), key, block.offset + start, 0, block.now)
        return finding if finding is not None and finding[1] == CLIENT else None

    def _way(self, key: int) -> _Way:
        """Of needles that no line held so far."""
        if len(self._ways) >= WAYS:
            self._ways.clear()
        way = self._ways[key] = VAIN if self._needles.vain(key) else UNSEEN
        return way

    def _read(  # noqa: PLR0917
        self, line: bytes, way: _Way, key: int, offset: int, number: int, now: float
    ) -> Finding | None:
        """What a line with these needles says, as `_slowly` would say it."""
        if line[0] == 60 or line[-1] == 13:  # < and CR
            return self._slowly(line, offset, number, now)
        time, start = self._stamps.read(line, now)
        head, length, host, tree, fit = way
        match = None
        if length:
            if line.startswith(head, start):
                match = fit(line, start + length)
        elif _wordy(line, start):
            match = fit(line, start)
        if match is None:
            host, tree, match, start = self._otherwise(line, way, start, key)
            if start < 0:
                return self._slowly(line, offset, number, now)
        while True:
            if tree is None:
                return None
            if match is None:
                return self._nobodys(line, start, time, host, tree, offset, number, now)
            kind, name, ip, queue, doubts = tree.leaves[match.lastindex or 0] or tree.leaf(match)
            user, count = None, 1
            if doubts is None:
                break
            said, stops, word, pattern, ending, rest, rivals, login, times = doubts
            for text, others in rivals:
                if line.find(text) >= 0:  # `in` first asks whether `text` is a number, at twice the cost
                    body = line[match.start(1) :]
                    if any(needed in line and rival.fit(body) is not None for needed, rival in others):
                        return self._slowly(line, offset, number, now)
            if ending is not None and ending.match(line[: match.end() - 1 : -1]) is None:
                start, tree = match.start(1), rest()
                match = tree.match(line, start)
                continue
            if said and (quoted := match[said]) is not None:
                start, after = match.start(1), match.end(ip)
                for stop in stops:
                    if line.find(stop, after) >= 0 or (word and stop in quoted):
                        if pattern.unsure(line[start:], quoted, after - start):
                            return self._nobodys(line, start, time, host, tree, offset, number, now, (name, pattern))
                        break
            if login and (typed := match[login]):
                user = typed.decode("utf-8", "replace")
            if times and match[times]:
                count = min(max(1, int(match[times])), REPEATED)
            break
        address = queue_id = None
        if ip:
            address = canonical(match[ip])
            if address is None:
                self._reader.bad_address += 1
                return None
        if queue:
            text = match[queue]
            if text is not None and text != NO_QUEUE:
                queue_id = text.decode("ascii")
        if time is None:
            self._reader.bad_time += 1
        if kind in self._dull or (address is None and queue_id is None):
            return None
        # as Finding(…), without the 0.3 microseconds of that call
        return made(Finding, (time, kind, address, name, queue_id, user, self._file, offset, number, line, host, count))

    def _nobodys(  # noqa: PLR0917
        self,
        line: bytes,
        start: int,
        time: float | None,
        host: str,
        tree: Tree,
        offset: int,
        number: int,
        now: float,
        doubtful: tuple[str, Pattern] | None = None,
    ) -> Finding | None:
        """What a line says that no pattern of the tree takes, or this one first, of which it is `doubtful` where {said}
        ends; `start` is where its body does."""
        if doubtful is not None:
            name, pattern = doubtful
            if self._needles.others(tree.filters, pattern.again).match(line, start) is not None:
                return self._slowly(line, offset, number, now)
            if pattern.kind not in NOBODYS:
                return Finding(time, pattern.kind, None, name, None, None, self._file, offset, number, line, host, 1)
        if len(line) >= LONG or any(repeated(line, stop) for stop in tree.stops):
            reading = Reader.nobodys(line[start:], time, host, tree.filters)
            if reading is not None and tree.rest.match(line, start) is not None:
                return self._slowly(line, offset, number, now)
            return self._finding(reading, offset, number, line)
        return None

    def _otherwise(
        self, line: bytes, way: _Way, start: int, key: int
    ) -> tuple[str, Tree | None, re.Match[bytes] | None, int]:
        """(host, the patterns for such a line, their match, where its body starts; -1: leave it to the Reader).

        `way` led to nothing; `start` is where the stamp ends. The next line with these needles is read as this one.
        """
        host, filters, body = self._header(line, start)
        tree = self._needles.tree(filters, key) if filters else None
        if tree is None:
            return host, None, None, body
        if _UNTAGGED.match(line, body) is None:
            tags = TAGS.match(line, body)
            if tags is not None:
                if tags["repeated"]:
                    return host, tree, None, -1
                body = tags.end()
            return host, tree, tree.match(line, body), body
        head = line[start : max(start, line.rfind(b"[", start, body)) + 1] if body > start else b""
        if head and head[:-1] not in self._headers:
            return host, tree, tree.match(line, body), body
        fit = tree.usual if head else tree.untagged
        if way[4] is fit and way[0] == head and (head or _headless(line, start)):
            return host, tree, None, body  # tried
        self._ways[key] = (head, len(head), host, tree, fit)
        return host, tree, fit(line, start + len(head)), body

    def _header(self, line: bytes, start: int) -> tuple[str, tuple[Filter, ...], int]:
        """(host, the filters for such a line, where its body starts); `start` is where its stamp ends."""
        pid = line.find(b"[", start, start + LONGEST)
        end = line.find(b"]: ", pid, pid + 12) if pid > 0 else -1
        usual = end > 0 and line[pid + 1 : end].isdigit()
        if usual:
            known = self._headers.get(line[start:pid])
            if known is not None:
                return *known, end + 3
        if _headless(line, start):
            return "", self._reader.bare, start
        host, filters, body = self._reader.header(line, start)
        if usual and body == end + 3:
            if len(self._headers) >= HEADERS:
                self._headers.clear()
            self._headers[line[start:pid]] = host, filters
        return host, filters, body

    def _slowly(self, line: bytes, offset: int, number: int, now: float) -> Finding | None:
        return self._finding(self._reader.read(line, now), offset, number, line)

    def _finding(self, reading: Reading | None, offset: int, number: int, line: bytes) -> Finding | None:
        if reading is None or reading.pattern.kind in self._dull:
            return None
        return Finding(
            reading.time,
            reading.pattern.kind,
            reading.address,
            reading.filter.name,
            reading.queue_id,
            reading.user,
            self._file,
            offset,
            number,
            line,
            reading.host,
            reading.count,
        )


def _headless(line: bytes, start: int) -> bool:
    """Whether no header can stand there."""
    return _wordy(line, start) and COLLECTED.match(line, start) is None


def _wordy(line: bytes, start: int) -> bool:
    """Whether so many blanks stand there that no header does, but for one behind a container's own stamp, which no tree
    takes for a body (UNTAGGED)."""
    colon = line.find(b": ", start, start + LONGEST)
    return colon < 0 or line.count(b" ", start, colon) > 3
