"""explain: how a line was read, hole by hole; or how far the nearest pattern fits. Pure.

`explain` asks the `Reader` what the line says, as the daemon would hear it, and then tells how it came to that. Where
no pattern takes the line, each one of the filters that read its program is laid against it: a pattern fits as far as
its longest beginning that matches, and the nearest one is that which fits furthest. In a `{?…}` or a `{(…)}` the place
is the furthest that any way through it reaches.

Limits: it is for single lines, at some tens of milliseconds each. In a pattern whose text the client may choose the
length of ({words}, {said}), the place where it stopped is where that hole begins. A `regex` is followed to the last
piece of it that stands outside brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from denyspam.filter import Filter, Reader, Reading, header_of, untagged
from denyspam.pattern import (
    HOLES,
    IGNORE,
    Choice,
    Hole,
    Literal,
    Maybe,
    Part,
    Pattern,
    compiled,
    holes_of,
    spelled,
)
from denyspam.stamp import Stamps

NEAR = 2  # bytes of literal text that fit, at least: any line begins with some {word}
LONGEST = 4096  # bytes of a body that patterns are laid against: where they part stands near its beginning


@dataclass(frozen=True, slots=True)
class Span:
    """What a hole took: from `start` to `end` in the line, counted in bytes from 0."""

    hole: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a pattern no longer fits: `column` in the line, in bytes from 0, and what should stand there."""

    filter: Filter
    pattern: Pattern
    column: int
    expected: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """How `line` was read. `reading` None: no event comes of it. Places are bytes of the line, from 0."""

    line: bytes
    time: float | None
    stamp: int  # where the stamp and its blank end; 0: there is none
    host: str
    program: str  # "" where the line names none
    body: int  # where that begins which patterns see
    count: int  # how often the line says that it happened
    filters: tuple[Filter, ...]  # those that read such a line
    reading: Reading | None
    spans: tuple[Span, ...]  # of the pattern that took it, from left to right
    doubtful: bool  # the client's text may end in two places: told, and held against nobody
    unreadable: str  # an {ip} that is no address; its pattern is the first of `nearest`
    nearest: tuple[Stop, ...]  # where no pattern took it: the nearest first


def explain(line: bytes, filters: Sequence[Filter], stamps: Stamps, now: float) -> Explanation:
    """`line` without its newline; `filters` in the order they are configured; `now` as for `Reader.read`."""
    line = line.rstrip(b"\r\n")
    reader = Reader(filters, stamps)
    time, stamp = stamps.read(line, now)
    host, takers, start = reader.header(line, stamp)
    header = header_of(line, stamp)
    program = ""
    if header is not None and (header.end() == start or not takers):
        groups = header.groupdict()
        program = (groups["program"] or groups.get("alone") or b"").decode("utf-8", "replace")
        host = host or (groups["host"] or b"").decode("utf-8", "replace")
    body, start, count = untagged(line, start)
    reading = reader.read(line, now) if takers else None
    spans: tuple[Span, ...] = ()
    nearest: tuple[Stop, ...] = ()
    doubtful, unreadable = False, ""
    if reading is not None:
        doubtful = reading.address is None and reading.queue_id is None and reading.pattern.kind != IGNORE
        spans = tuple(sorted(_spans(reading.pattern, body, start), key=lambda span: span.start))
    else:
        fitting = _fitting(takers, body)
        if fitting is not None:
            found, pattern, match = fitting
            doubtful = pattern.doubtful(body, match)
            text = match.groupdict().get("ip") or b""
            if not doubtful and text:
                unreadable = text.decode("ascii", "replace")
                nearest = (Stop(found, pattern, start + match.start("ip"), "an address"),)
        if not unreadable:
            nearest = tuple(_nearest(takers, body[:LONGEST], start))
    return Explanation(
        line, time, stamp, host, program, start, count, takers, reading, spans, doubtful, unreadable, nearest
    )


def _fitting(filters: Sequence[Filter], body: bytes) -> tuple[Filter, Pattern, re.Match[bytes]] | None:
    """The first pattern that fits, before any doubt."""
    for found in filters:
        for pattern in found.patterns:
            match = pattern.fit(body)
            if match is not None:
                return found, pattern, match
    return None


def _spans(pattern: Pattern, body: bytes, start: int) -> Iterator[Span]:
    """What each hole of a pattern took of the body, which begins at `start` of the line."""
    if not pattern.parts:
        match = pattern.regex.match(body)
        for name in pattern.regex.groupindex if match else ():
            if match is not None and match.start(name) >= 0:
                yield Span(name, start + match.start(name), start + match.end(name))
        return
    front, ending, behind = spelled(pattern)
    match = compiled(b"".join(piece for _, piece in front)).match(body)
    if match is None:  # {said} is told to end further on than where it first can
        return
    parts = [part for part, _ in front]
    last = parts[-1]
    end = match.end()
    if ending:
        backwards = compiled(ending).match(body[::-1])
        if backwards is None:
            return
        end = len(body) - backwards.end()
        for number, hole in enumerate(holes_of(behind)):
            low, high = backwards.span(f"b{number}")
            if low >= 0:
                yield Span(hole.name, start + len(body) - high, start + len(body) - low)
    for number, hole in enumerate(holes_of(parts)):
        low, high = match.span(f"h{number}")
        if low >= 0:
            high = end if hole is last and hole.name == "*" else high
            yield Span(hole.name, start + low, start + max(low, high))


# -- how far a pattern fits ------------------------------------------------------------------------------------------


def _nearest(filters: Sequence[Filter], body: bytes, start: int) -> Iterator[Stop]:
    """The three patterns that fit furthest, those of offences and upper lines first where they fit equally far."""
    stops = []
    for found in filters:
        for pattern in found.patterns:
            column, fixed, expected = _reach(pattern, body)
            if column > 0 and fixed >= NEAR:
                stops.append((Stop(found, pattern, start + column, expected), fixed))
    stops.sort(key=lambda each: (-each[0].column, -each[1], each[0].pattern.kind == IGNORE))
    for stop, _ in stops[:3]:
        yield stop


def _reach(pattern: Pattern, body: bytes) -> tuple[int, int, str]:
    """(the column in `body` where the pattern stops to fit, bytes of literals that did, what should stand there)."""
    if not pattern.parts:
        return _reach_regex(pattern, body)
    front, ending, _ = spelled(pattern)
    if ending:
        del front[-1]  # the {*} that would take all the rest
    parts = [part for part, _ in front]
    column, fixed, part = _furthest(body, b"", parts, [piece for _, piece in front])
    if part is not None:
        return column, fixed, told(part)
    if ending:
        return column, fixed, "a line that ends in `" + "".join(_shown(each) for each in _split_end(pattern)) + "`"
    return column, fixed, "the end of the line"


def _split_end(pattern: Pattern) -> Sequence[Part]:
    """The parts behind the last {*}."""
    place = max(index for index, part in enumerate(pattern.parts) if isinstance(part, Hole) and part.name == "*")
    return pattern.parts[place + 1 :]


def _furthest(
    body: bytes, before: bytes, parts: Sequence[Part], pieces: Sequence[bytes]
) -> tuple[int, int, Part | None]:
    """As `_reach`, behind what `before` matches; the part that did not fit is None where all of them did.

    A beginning of a beginning that matches matches too: so the longest one is found by halving.
    """

    def end(count: int) -> int:
        match = compiled(_plain(before + b"".join(pieces[:count]))).match(body)
        return -1 if match is None else match.end()

    def fixed(count: int) -> int:
        return sum(len(part.text) for part in parts[:count] if isinstance(part, Literal))

    low, high = 0, len(parts)  # as many fit; more do not
    while low < high:
        middle = (low + high + 1) // 2
        if end(middle) >= 0:
            low = middle
        else:
            high = middle - 1
    if low == len(parts):
        return end(low), fixed(low), None
    column, failed = end(low), parts[low]
    best: tuple[int, int, Part | None] = (column, fixed(low), failed)
    ways: list[tuple[int, Sequence[Part]]] = []
    if isinstance(failed, Literal):
        rest = body[column : column + len(failed.text)]
        same = next((at for at, byte in enumerate(failed.text) if rest[at : at + 1] != bytes([byte])), 0)
        best = column + same, fixed(low) + same, Literal(failed.text[same:])
    elif isinstance(failed, Choice):
        ways += [(low, branch) for branch in failed.branches]
    ways += [(index, part.parts) for index, part in enumerate(parts[:low]) if isinstance(part, Maybe)]
    for index, inner in ways:
        way = before + b"".join(pieces[:index])
        reached, literal, within = _furthest(body, way, inner, [_expression(each) for each in inner])
        if within is not None and reached > best[0]:
            best = reached, fixed(index) + literal, within
    return best


def _expression(part: Part) -> bytes:
    """Of a part that stands in a bracket, without what follows it there: it may take more than it would."""
    if isinstance(part, Literal):
        return re.escape(part.text)
    if isinstance(part, Hole):
        kind = HOLES[part.name]
        if kind.form is not None:
            return kind.form
        if part.name in ("*", "said", "user"):
            return b".{0,8192}?"
        return (
            b"[" + b"".join(b"\\x%02x" % code for code in sorted(kind.characters)) + b"]{%d,%d}" % (kind.low, kind.high)
        )
    if isinstance(part, Maybe):
        return b"(?:" + b"".join(map(_expression, part.parts)) + b")?"
    return b"(?:" + b"|".join(b"".join(map(_expression, branch)) for branch in part.branches) + b")"


def _plain(expression: bytes) -> bytes:
    """Without the names of groups, which a part repeated in a bracket would have twice; {said} is referred to."""
    return re.sub(rb"\(\?P<(?!said>)[a-z]+\d*>", b"(?:", expression)


def _reach_regex(pattern: Pattern, body: bytes) -> tuple[int, int, str]:
    """The same for a `regex`, cut where a piece ends that stands outside brackets."""
    text = b"".join(pattern.pieces).removeprefix(b"(?:").removesuffix(b")")
    places = _cuts(text)
    column, fits = 0, 0
    low, high = -1, len(places) - 1
    while low < high:
        middle = (low + high + 1) // 2
        match = re.compile(text[: places[middle]], re.DOTALL).match(body)
        if match is None:
            high = middle - 1
        else:
            low, column, fits = middle, match.end(), places[middle]
    rest = text[fits:].decode("utf-8", "replace")
    expected = f"what fits `{rest[:40]}{'…' * (len(rest) > 40)}`" if rest else "the end of the line"
    return column, len(re.sub(rb"[^A-Za-z=:]", b"", text[:fits])), expected


TOKEN = re.compile(
    rb"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))|(?P<other>\|)|.)(?:[*+?]|\{\d*,?\d*\})?[?+]?",
    re.DOTALL,
)


def _cuts(text: bytes) -> list[int]:
    """The places in a regular expression where a beginning of it may end: none where it is of several branches."""
    depth, found = 0, []
    for token in TOKEN.finditer(text):
        depth += bool(token["open"]) - bool(token["close"])
        if depth == 0 and token["other"]:
            return []
        if depth == 0:
            found.append(token.end())
    return found


# -- in words --------------------------------------------------------------------------------------------------------


def told(part: Part) -> str:
    """What should stand there, in words."""
    if isinstance(part, Hole):
        return f"{{{part.name}}}, {HOLES[part.name].meaning}"
    if isinstance(part, Choice):
        ways = ["".join(_shown(each) for each in branch) for branch in part.branches]
        more = f" or {len(ways) - 6} others" if len(ways) > 6 else ""
        return "one of " + ", ".join(f"`{way}`" for way in ways[:6]) + more
    return f"`{_shown(part)}`"


def written(parts: Sequence[Part]) -> str:
    """Parts as a filter file writes them."""
    return "".join(map(_shown, parts))


def _shown(part: Part, inside: bool = False) -> str:
    """A part as a filter file writes it, with abbreviations spelled out; `inside` a {(…)}."""
    if isinstance(part, Literal):
        special = r"([{}\\|()])" if inside else r"([{}\\])"
        return re.sub(special, r"\\\1", part.text.decode("utf-8", "replace"))
    if isinstance(part, Hole):
        return f"{{{part.name}}}"
    if isinstance(part, Maybe):
        return "{?" + "".join(_shown(each) for each in part.parts) + "}"
    return "{(" + "|".join("".join(_shown(each, True) for each in branch) for branch in part.branches) + ")}"
