# ruff: noqa: E501  (tables of text)
"""No line costs much: a search for slow ones over every shipped pattern, by the fast path and by the simple one.

Lines of up to 8 KiB, the longest that the three servers print, are made of the patterns themselves: every optional part
present or none, every hole as long as it may be, hostile text (what ends {said}, near misses, open quotes, brackets)
in the holes and behind them. The dearest are then changed, piece by piece, for dearer ones.

A cost is compared with that of a plain regex over 8 KiB in the same process, so a slow or busy machine changes nothing;
what was dear once is measured again, as that may have been the machine. `REFERENCE` takes some 0.13 ms: a line of eight
of them costs a millisecond. Written with a fixed seed; DENYSPAM_WORST=SECONDS searches so long for each filter, with
another seed each time, and tells the dearest: `DENYSPAM_WORST=60 pytest -s tests/test_worst.py`.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timezone
from pathlib import Path

import pytest

from denyspam.events import FilterError
from denyspam.filter import BARE, Filter, Reader
from denyspam.grammar import parse_filter
from denyspam.hints import Hints
from denyspam.pattern import IGNORE, PATHS, Choice, Literal, Maybe, Part, Pattern
from denyspam.scan import Scanner, hyperscan
from denyspam.stamp import Stamps

FILTERS = [
    parse_filter(path.read_text(encoding="utf-8"), path.name)
    for path in sorted((Path(__file__).parent.parent / "filters").glob("*.filter"))
]
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
LONGEST = 8192 - 60  # of a body
SECONDS = float(os.environ.get("DENYSPAM_WORST", "0"))
LINES = 6  # made of each pattern
CHANGES = 400  # then tried, for each filter
KEPT = 6  # the dearest, of each path
AGREED = 200  # lines of each filter read by both paths
REFERENCE = re.compile(rb"(?:\w+|\W)*")
ORDINARY = (b"the quick brown fox, jumps; over 12 dogs " * 200)[:8192]
# A millisecond, and twice that for the atomic groups of 3.10 (see pattern.py): a product of choices costs hundreds.
BOUND = 8 if sys.version_info >= (3, 11) else 16

RUNS = (
    b"<", b"<>", b'"', b"\\", b'\\"', b"\\\\", b'"<', b'<"a"', b'"a" ', b'<"a\\\\"', b"[", b")", b") [", b",", b", ", b": ", b":", b" ", b".", b"(1",
    b"{", b"} ", b"4", b"a", b"\xff", b"a ", b" a", b" a,", b"a, ", b"a.", b"a:b ", b"x=y,", b"... ", b"mail ", b"virus", b"1.2.3.4", b"a[1.2.3.4]",
    b"from x[1.2.3.4]:", b", relay=[1.2.3.4]", b", relay=[1.2.3.4], reject=", b") [1.2.3.4]", b") [1.2.3.4] F=<", b") [1.2.3.4]: 535 ",
    b'" H=x (y) [1.2.3.4] ', b': Relay access denied; from=<"', b'> to=<"', b"rip=1.2.3.4, ", b"; from=<a@b> to=<c@d> proto=ESMTP", b",<a@b>",
)  # fmt: skip
VALUES = {
    "ip": (b"1.2.3.4", b"2001:db8::7", b":" * 45),
    "id": (b"4XyZq81Kw0z9P1", b"A" * 32, b"NOQUEUE"),
    "name": (b"a" * 255, b"a.b", b"1.2.3.4", b"a", b"::"),
    "code": (b"554", b"451"),
    "dsn": (b"5.7.1", b"4.7.1"),
    "times": (b"3", b"9" * 9),
    "port": (b"25", b"65535"),
    "number": (b"1", b"9" * 20),
    "verb": (b"RCPT", b"A" * 32, b"a"),
    "word": (b"a" * 255, b"x", b'"' * 255, b"(" * 255, b"a," * 127, b"a)" * 127, b"a:" * 127, b"[1.2.3.4]"),
    "quoted": (b'"a"', b'"' + b"a" * 1024 + b'"'),
    "words": (b"", b"a " * 12, (b"a" * 64 + b" ") * 12, b"a " * 11),
    "user": (b"bob", b"a" * 255, b"a "),
    **dict.fromkeys(
        PATHS,
        (
            b"<>", b'<"a b"@c>', b"<" + b"a" * 1024 + b">", b"<" + b'""' * 256 + b">", b"<" + b'"a"b' * 256 + b">", b'<"' + b"\\a" * 256 + b'">',
            b"<" + b"\\\\a" * 256 + b">", b'<"' + b"\\\\" * 256 + b'">', b'<"' + b'\\"' * 256 + b'">', b'<"' + b"a" * 1024 + b'"@b>',
        ),
    ),
}  # fmt: skip

Cost = Callable[[bytes], int]


class Maker:
    """Bodies of one filter's patterns."""

    def __init__(self, found: Filter, chance: random.Random) -> None:
        self.chance = chance
        self.runs = [*RUNS, *sorted({text for pattern in found.patterns for text in pattern.literals})]
        self.samples = [sample.line[40:] for sample in found.samples]
        self.same: dict[str, bytes] = {}

    def text(self, longest: int) -> bytes:
        run = b"".join(self.chance.choice(self.runs) for _ in range(self.chance.choice((1, 1, 1, 2, 3))))
        return run * max(1, min(longest // len(run), self.chance.choice((1, 3, 12, 64, 65, 8192, 8192))))

    def body(self, pattern: Pattern) -> bytes:
        self.same = {}  # a hole is mostly the same text everywhere: products need it
        body = self.parts(pattern.parts, self.chance.choice((0.0, 0.5, 1.0, 1.0)))
        body = body or self.chance.choice(self.samples)  # a `regex` has no parts
        place, how = self.chance.randrange(len(body) + 1), self.chance.randrange(6)
        ends = (body[:-1], body + b"\0", body + self.text(LONGEST), body[:place] + self.text(LONGEST) + body[place:])
        return ends[how][:LONGEST] if how < len(ends) else body[:LONGEST]

    def parts(self, parts: Sequence[Part], present: float) -> bytes:
        found = b""
        for part in parts:
            if isinstance(part, Literal):
                found += part.text
            elif isinstance(part, Maybe):
                found += self.parts(part.parts, present) if self.chance.random() < present else b""
            elif isinstance(part, Choice):
                found += self.parts(self.chance.choice(part.branches), present)
            elif part.name not in VALUES:
                found += self.text(LONGEST)
            else:
                value = self.chance.choice(VALUES[part.name])
                found += self.same.setdefault(part.name, value) if self.chance.random() < 0.8 else value
        return found

    def changed(self, body: bytes) -> bytes:
        place = self.chance.randrange(len(body) + 1)
        end = place + self.chance.choice((1, 2, 8, 64, 400))
        before, piece, after = body[:place], body[place:end], body[end:]
        return self.chance.choice((
            before + after,
            before + piece * self.chance.choice((2, 4, 16, 64, 500)) + after,
            before + self.text(400) + piece + after,
            before,
            before + self.text(LONGEST),
            before + bytes([self.chance.choice(b' ,:;"\\<>[]().a1=\0')]) + body[place + 1 :],
            before + self.text(LONGEST) + after,
        ))[:LONGEST]  # fmt: skip


def heads(found: Filter) -> list[bytes]:
    """What stands before a body, for each of the programs that a filter names."""
    programs = [glob.replace("*/", "postfix/").replace("*", "").encode() for glob in found.programs if glob not in BARE]
    named = [b"2026-03-04T10:00:00Z mx " + program + b"[1]: " for program in programs]
    return [*dict.fromkeys(named), *([b"2026-03-04 10:00:00 "] if found.bare else [])]


def reference() -> int:
    begin = time.thread_time_ns()
    REFERENCE.match(ORDINARY)
    return time.thread_time_ns() - begin


def paths(filters: Sequence[Filter]) -> dict[str, Cost]:
    reader = Reader(filters, Stamps(timezone.utc))
    scanner = Scanner(filters, "mail.log", Stamps(timezone.utc), Hints())

    def simple(line: bytes) -> int:
        begin = time.thread_time_ns()
        reader.read(line, NOW)
        return time.thread_time_ns() - begin

    def fast(line: bytes) -> int:
        block = line + b"\n"
        begin = time.thread_time_ns()
        scanner.feed(block, 0, 1, NOW)
        return time.thread_time_ns() - begin

    return {"simple": simple, "fast": fast}


def dearest(found: Filter, ways: dict[str, Cost], changes: int = CHANGES) -> dict[str, tuple[float, bytes]]:
    """The dearest line found for each path, with its cost in REFERENCEs."""
    chance = random.Random(None if SECONDS else 5)
    maker, begin = Maker(found, chance), heads(found)
    for cost in ways.values():
        for sample in found.samples:
            cost(sample.line)  # compiles what is compiled when first asked for
    best: dict[str, list[tuple[int, bytes, bytes]]] = {way: [] for way in ways}

    def tried(head: bytes, body: bytes) -> None:
        for way, cost in ways.items():
            kept = best[way]
            least = kept[-1][0] if len(kept) == KEPT else 0
            if cost(head + body) > least:
                again = min(cost(head + body) for _ in range(3))
                if again > least and all(body != other for _, _, other in kept):
                    kept.append((again, head, body))
                    kept.sort(reverse=True)
                    del kept[KEPT:]

    stop = time.process_time() + SECONDS
    for pattern in found.patterns:
        for _ in range(LINES):
            tried(chance.choice(begin), maker.body(pattern))
    turn = 0
    while turn < changes or (SECONDS and time.process_time() < stop):
        turn += 1
        _, head, body = chance.choice(chance.choice(list(best.values())))
        tried(head, maker.changed(body) if turn % 8 else maker.body(chance.choice(found.patterns)))
    result = {}
    for way, cost in ways.items():
        _, head, body = best[way][0]
        ratio = min(min(cost(head + body) for _ in range(5)) / reference() for _ in range(4))
        result[way] = ratio, head + body
    return result


SHIPPED = paths(FILTERS)


@pytest.mark.parametrize("found", FILTERS, ids=lambda found: found.name)
def test_no_line_costs_much(found: Filter) -> None:
    for way, (ratio, line) in dearest(found, SHIPPED).items():
        if SECONDS:
            print(f"\n{found.name} {way}: {ratio:.1f} of {BOUND}, {line!r:.300}")
        assert ratio < BOUND, (way, ratio, line)


@pytest.mark.parametrize("found", FILTERS, ids=lambda found: found.name)
def test_both_paths_say_the_same(found: Filter) -> None:
    chance = random.Random(None if SECONDS else 7)
    maker, begin = Maker(found, chance), heads(found)
    reader, scanner = Reader(FILTERS, Stamps(timezone.utc)), Scanner(FILTERS, "mail.log", Stamps(timezone.utc))
    for _ in range(AGREED):
        line = chance.choice(begin) + maker.body(chance.choice(found.patterns))[: chance.choice((200, 1000, LONGEST))]
        said, told = reader.read(line, NOW), scanner.feed(line + b"\n", 0, 1, NOW)
        expected = [] if said is None or said.pattern.kind == IGNORE else [said]
        assert [(each.pattern.kind, each.address, each.queue_id, each.user, each.count) for each in expected] == [
            (each.kind, each.address, each.queue_id, each.user, each.times) for each in told
        ], line


FILTER = """
filter product
program product
auth  login failed{optional}: from {{ip}}
sample auth 192.0.2.7
  Mar  4 10:00:00 mx product[1]: login failed: from 192.0.2.7
sample none
  Mar  4 10:00:00 mx product[1]: login
"""


def test_optional_parts_that_repeat_do_not_multiply() -> None:
    found = parse_filter(FILTER.format(optional="{? {name}}" * 16), "product.filter")
    for way, (ratio, line) in dearest(found, paths([found])).items():
        assert ratio < BOUND, (way, ratio, line)


def test_the_search_finds_a_product() -> None:
    """{name} and {word} by turns are not one text repeated, so they do multiply: an admin's own filter is refused."""
    text = FILTER.format(optional="{? {name}}{? {word}}" * 10)
    found = parse_filter(text, "x.filter", proved=True)
    assert max(ratio for ratio, _ in dearest(found, paths([found]), 25).values()) > 16
    with pytest.raises(FilterError, match=r"x\.filter:4:.*multiply"):
        parse_filter(text, "x.filter")


@pytest.mark.skipif(hyperscan is None, reason="hyperscan is not installed: it is for x86_64 and aarch64 only")
@pytest.mark.parametrize("text", [b"virus", b"... ", b": from=", b"reject: "])
def test_a_log_of_nothing_but_needles_is_read_fast(text: bytes) -> None:
    """Each costs a call from the engine, but only in the first block: 2,000 of them in a line took 0.6 ms."""
    _, fast = paths(FILTERS).values()
    line = b"2026-03-04T10:00:00Z mx postfix/smtpd[1]: " + text * (LONGEST // len(text))
    block = b"\n".join([line] * 32)
    fast(block)
    ratio = min(min(fast(block) for _ in range(3)) / 32 / reference() for _ in range(6))
    assert ratio < 1.5, ratio
