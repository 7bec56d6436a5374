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
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, cached_property, lru_cache
from operator import itemgetter

from denyspam.events import CLIENT, HARMLESS, Finding
from denyspam.filter import NO_QUEUE, REPEATED, TAGS, Filter, Reader, Reading, Sample, canonical
from denyspam.hints import Block, Hints
from denyspam.pattern import ENDINGS, IGNORE, Pattern, Words
from denyspam.stamp import Stamps
from denyspam.tree import Tree

try:
    import hyperscan
except ImportError:  # neither x86_64 nor aarch64: slower, and the same answers
    hyperscan = None  # type: ignore[assignment]

BEHIND = 7  # bytes; a shorter text stands behind other words too often
SHORTEST = 3  # bytes; a shorter needle stands in every line
USUAL = 50  # a message that is taken is so much more frequent than anything else a filter has samples of
LONGEST = 300  # bytes of a host's and a program's name that are remembered
HEADERS = 4096  # of them; a log has some tens
TAGGED = frozenset(bytes([one]) for one in b"[m0123456789")  # what TAGS begin with

made = tuple.__new__
Search = Callable[[bytes], Sequence[tuple[int, int]]]  # (the end of a needle, its number), in this order


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

    waiting: list[tuple[list[Words], tuple[Words, ...], bytes]] = []
    for pattern in patterns:
        counts = {texts: sum(map(frequency, texts)) for texts in pattern.needles if _shortest(texts) >= SHORTEST}
        rarest = min(counts.values())
        rare = [texts for texts, count in counts.items() if count == rarest]
        waiting.append((rare, pattern.needles, b"\n".join(text for texts in pattern.needles for text in texts)))
    chosen: set[bytes] = set()
    while waiting:
        served = Counter(texts for rare, _, _ in waiting for texts in rare)
        best = max(served.items(), key=lambda each: (each[1], _shortest(each[0]), each[0]))
        chosen.update(best[0])
        waiting = [
            each
            for each in waiting
            if not any(needle in each[2] for needle in best[0])  # most of them, and soon told
            or not any(_served(texts, best[0], chosen) for texts in each[1])
        ]
    return tuple(sorted(one for one in chosen if not any(other in one for other in chosen - {one})))


def _behind(pattern: Pattern) -> bytes | None:
    """The text right behind the queue id, where the line's body begins with that and the text is long enough."""
    text = pattern.needles[0][0] if pattern.pieces[0].startswith(b"(?P<id>") else b""
    return text if len(text) >= BEHIND and b"".join(pattern.pieces[1:]).startswith(re.escape(text)) else None


def _served(texts: Words, fresh: Words, chosen: set[bytes]) -> bool:
    """Whether each of `texts` holds a needle, some of them a `fresh` one."""
    return any(needle in text for text in texts for needle in fresh) and all(
        any(needle in text for needle in chosen) for text in texts
    )


def _shortest(texts: Words) -> int:
    return min(map(len, texts))


@lru_cache(maxsize=64)  # a daemon has many logs with the same filters
def _search(filters: tuple[Filter, ...], brief: bool) -> tuple[Search, int, tuple[bytes, ...]]:
    """The search of a block, and the needles of hints: their numbers follow those of the others, of which this many.

    The needle of a hint stands right behind a queue id.
    """
    dull = {IGNORE, *HARMLESS, CLIENT} if brief else {IGNORE}
    patterns = [each for found in filters for each in found.patterns]
    firm = [each for each in patterns if each.kind not in dull]
    guessed: list[Pattern] = []
    if brief and any("ip" not in each.holes for each in firm):
        clients = [each for each in patterns if each.kind == CLIENT]
        guessed = [each for each in clients if _behind(each)]
        firm += [each for each in clients if not _behind(each)]
    samples = [each for found in filters for each in found.samples if each.kind is None or each.kind in dull]
    texts, hints = needles(firm, samples), tuple({text for each in guessed if (text := _behind(each))})
    search = _naive((*texts, *hints)) if hyperscan is None else _hyperscan((*texts, *hints))
    return search, len(texts), hints


def _naive(texts: Sequence[bytes]) -> Search:
    """The search by the standard library: each text by itself."""

    def search(block: bytes) -> list[tuple[int, int]]:
        found = []
        for number, text in enumerate(texts):
            at = block.find(text)
            while at >= 0:
                found.append((at + len(text), number))
                at = block.find(text, at + 1)
        return sorted(found)

    return search


def _hyperscan(texts: Sequence[bytes]) -> Search:
    """The search by Intel's library: all texts in one pass, five times as fast as others on 150 of them."""
    database = hyperscan.Database()
    database.compile(expressions=[re.escape(text) for text in texts], ids=list(range(len(texts))), elements=len(texts))

    def search(block: bytes) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        append = found.append

        def met(number: int, _begin: int, end: int, _flags: int, _context: object) -> None:
            append((end, number))

        database.scan(block, match_event_handler=met)
        found.sort()
        return found

    return search


class Scanner:
    """The filters of one log `file`. `bad_address` and `bad_time` count what could be no hit.

    With `hints` only what can become a hit comes out: neither `accept` nor `defer`, and of client lines those that are
    asked for; the others are kept there.
    """

    def __init__(self, filters: Sequence[Filter], file: str, stamps: Stamps, hints: Hints | None = None) -> None:
        self._file = file
        self._stamps = stamps
        self._reader = Reader(filters, stamps)
        self._hints = hints
        self._search, self._firm, self._texts = _search(tuple(filters), hints is not None)
        self._dull = {IGNORE} if hints is None else {IGNORE, *HARMLESS}
        self._headers: dict[bytes, tuple[str, Tree | None]] = {}  # what stands before a pid

    @cached_property
    def _bare(self) -> Tree | None:
        """For lines that name no program: not made, at 0.2 s and 3 MB, before there is one."""
        return _tree(self._reader.bare) if self._reader.bare else None

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
        guesses: list[tuple[bytes, int, int]] = []  # queue id, where it ends, and the needle behind it
        firm, read = self._firm, self._read
        stop = counted = 0
        for end, needle in self._search(block):
            if needle >= firm:
                at = end - len(self._texts[needle - firm])
                start = block.rfind(b" ", max(0, at - 33), at) + 1
                if start:
                    guesses.append((block[start:at], at, needle))
            elif end > stop:
                start = block.rfind(b"\n", stop, end) + 1
                stop = block.find(b"\n", end)
                if stop < 0:
                    stop = len(block)
                if number:
                    number += block.count(b"\n", counted, start)
                    counted = start
                finding = read(block[start:stop], offset + start, number, now)
                if finding is not None:
                    found.append(finding)
        if guesses and self._hints is not None:
            where = offset if place is None else place
            lines = Block(block, self._file, where, self._client, offset, now)
            clients = self._guess(guesses, found, lines, self._hints)
            if clients:  # by offset
                return sorted((*found, *clients), key=itemgetter(7))
        return found

    def _guess(
        self, guesses: list[tuple[bytes, int, int]], found: list[Finding], block: Block, hints: Hints
    ) -> list[Finding]:
        """The client lines that are asked for; the others are put off."""
        asked = {finding.queue_id.encode() for finding in found if finding.queue_id is not None}
        told = {finding.offset for finding in found if finding.kind == CLIENT}
        known, later = hints.known, {}
        clients = []
        read = refused = 0  # up to where: a line may hold a thousand needles, and says one thing
        silent: set[int] = set()  # needles that are not of this line's program
        for queue_id, at, needle in guesses:
            if queue_id not in known and queue_id not in asked and not hints.every:
                if queue_id not in later and queue_id not in hints:
                    later[queue_id] = at
                    continue
                if at >= refused:
                    silent.clear()
                if needle in silent:
                    continue
                if not self._speaks(block, at, needle):  # two lines for one id: the later may be a client's own words
                    silent.add(needle)
                    refused = (block.data.find(b"\n", at) + 1) or len(block.data)
                    continue
                known.add(queue_id)
            if at < read:
                continue
            client = self._client(block, at)
            read = (block.data.find(b"\n", at) + 1) or len(block.data)
            if client is not None and client.offset not in told:
                clients.append(client)
        if later:
            hints.keep(block, iter(later.items()))
        return clients

    def _client(self, block: Block, at: int) -> Finding | None:
        """The client line around this byte of a block."""
        start, stop = block.data.rfind(b"\n", 0, at) + 1, block.data.find(b"\n", at)
        line = block.data[start:] if stop < 0 else block.data[start:stop]
        finding = self._read(line, block.offset + start, 0, block.now)
        return finding if finding is not None and finding.kind == CLIENT else None

    def _speaks(self, block: Block, at: int, needle: int) -> bool:
        """Whether the program of this line has client lines with this needle."""
        start = block.data.rfind(b"\n", 0, at) + 1
        line = block.data[start:at]
        tree = self._header(line, self._stamps.read(line, block.now)[1])[1]
        return tree is None or self._texts[needle - self._firm] in map(_behind, tree.clients) or line[:1] == b"<"

    def _read(self, line: bytes, offset: int, number: int, now: float) -> Finding | None:
        """What a line says, as `_slowly` would say it."""
        if line[:1] == b"<" or line[-1:] == b"\r":
            return self._slowly(line, offset, number, now)
        time, start = self._stamps.read(line, now)
        host, tree, start = self._header(line, start)
        if tree is None:
            return None
        if line[start : start + 1] in TAGGED:
            tags = TAGS.match(line, start)
            if tags is not None:
                if tags["repeated"]:
                    return self._slowly(line, offset, number, now)
                start = tags.end()
        match, leaves = tree.match(line, start), tree.leaves
        while match is not None:
            kind, name, ip, queue, user, times, said, stops, word, ending, rest, rivals = leaves[match.lastindex or 0]
            for text, rival in rivals:
                if text in line and rival.fit(line[start:]) is not None:
                    return self._slowly(line, offset, number, now)
            if ending is None or ending.match(line[: match.end() - 1 : -1]):
                break
            match, leaves = rest().match(line, start), rest().leaves
        else:
            for stop in tree.stops:
                if line.count(stop) > 1 or line.count(stop[:1]) > ENDINGS:
                    reading = Reader.nobodys(line[start:], time, host, tree.filters)
                    return self._finding(reading, offset, number, line)
            return None
        if said and match.start(said) >= 0:
            after = match.end(ip)
            for stop in stops:
                if line.find(stop, after) >= 0 or (word and stop in match[said]):
                    return self._slowly(line, offset, number, now)
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
        who = match[user].decode("utf-8", "replace") if user and match[user] else None
        count = min(max(1, int(match[times])), REPEATED) if times and match[times] else 1
        # as Finding(…), without the 0.3 microseconds of that call
        return made(Finding, (time, kind, address, name, queue_id, who, self._file, offset, number, line, host, count))

    def _header(self, line: bytes, start: int) -> tuple[str, Tree | None, int]:
        """(host, the patterns for such a line, where its body starts); `start` is where its stamp ends."""
        pid = line.find(b"[", start, start + LONGEST)
        end = line.find(b"]: ", pid, pid + 12) if pid > 0 else -1
        usual = end > 0 and line[pid + 1 : end].isdigit()
        if usual:
            known = self._headers.get(line[start:pid])
            if known is not None:
                return known[0], known[1], end + 3
        colon = line.find(b": ", start, start + LONGEST)
        if colon < 0 or line.count(b" ", start, colon) > 3:  # no header holds so many blanks
            return "", self._bare, start
        host, filters, body = self._reader.header(line, start)
        tree = _tree(filters) if filters else None
        if usual and body == end + 3:
            if len(self._headers) >= HEADERS:
                self._headers.clear()
            self._headers[line[start:pid]] = host, tree
        return host, tree, body

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


@lru_cache(maxsize=256)
def _tree(filters: tuple[Filter, ...]) -> Tree:
    return Tree([(found.name, pattern) for found in filters for pattern in found.patterns], filters)
