"""Lines that wait unread: what is kept of a block, and what it says when it is asked for."""

from __future__ import annotations

import gc
from datetime import timezone

from hypothesis import given
from hypothesis import strategies as st

from denyspam import scan
from denyspam.filter import Filter
from denyspam.hints import REACH, Block, Hints
from denyspam.plugins import Filters
from denyspam.scan import Scanner
from denyspam.stamp import Stamps


@given(
    st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=20),
    st.lists(st.tuples(st.sampled_from((b"A", b"B", b"C")), st.integers(0, 19)), max_size=30),
)
def test_lines_wait_as_they_stood(lines: list[bytes], chosen: list[tuple[bytes, int]]) -> None:
    """Each once for an id, in their order, with the needles that they hold besides."""
    asked: list[tuple[int, bytes, int | None]] = []
    keys = {0: 1, len(lines[0]) + 1: 2}
    starts = [sum(len(line) + 1 for line in lines[:number]) for number in range(len(lines))]
    whole = b"\n".join(lines)
    block = Block(
        "mail.log", 0, len(whole), lambda block, *line: asked.append((*line, block.keys.get(line[0]))), 0, 0.0, keys
    )
    chosen = sorted(((name, number % len(lines)) for name, number in chosen), key=lambda each: each[1])
    hints = Hints()
    hints.keep(block, [name for name, _ in chosen], [(block, starts[n], lines[n]) for _, n in chosen])
    assert set(hints.unread) == {name for name, _ in chosen}
    for name in list(hints.unread):
        asked.clear()
        assert list(hints.take(name)) == []
        numbers = dict.fromkeys(number for other, number in chosen if other == name)
        assert asked == [(starts[n], lines[n], keys.get(starts[n])) for n in numbers]
    assert not hints.unread and not hints._more and not hints._count


def _line(number: int, text: str) -> str:
    return f"2026-03-04T10:00:00Z mx postfix/smtpd[1]: {number:08X}0: {text}\n"


def test_what_nobody_asks_for_is_a_tenth_of_its_log() -> None:
    """And is let go of when its log has gone on for REACH."""
    filters: list[Filter] = [Filters("/nowhere").load("postfix")]
    hints = Hints()
    scanner = Scanner(filters, "mail.log", Stamps(timezone.utc), hints)
    place = number = 0
    while place < REACH + (4 << 20):
        dull = "".join(_line(number, f"dull {'x' * 100}") for _ in range(9))
        data = "".join(_line(number + n, f"client=a[192.0.2.{n}]") + dull for n in range(100)).encode()
        scanner.feed(data, place, 0, 1772618400.0, place)
        place, number = place + len(data), number + 100
    blocks = hints._blocks["mail.log"]
    assert sum(len(line) for _, _, line in hints.unread.values()) < REACH / 10
    assert REACH <= blocks[-1].end - blocks[0].end + len(data) <= REACH + 2 * len(data)
    assert len(hints.unread) == 100 * len(blocks)
    ((client, where),) = hints.take(next(iter(hints.unread)))
    assert (client.address, client.text[:20]) == ("192.0.2.0", b"2026-03-04T10:00:00Z")
    assert where == client.offset == blocks[0].place


def test_filters_of_before_a_reload_go() -> None:
    filters = [Filters("/nowhere").load("postfix")]
    gc.collect()
    before = len(scan._shared)
    scanner = Scanner(filters, "mail.log", Stamps(timezone.utc), Hints())
    again = Scanner(filters, "other.log", Stamps(timezone.utc), Hints())
    scanner.feed(b"Mar  4 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: x\n", 0, 0, 1772618400.0)
    assert scanner._needles is again._needles
    assert len(scan._shared) == before + 1
    del scanner, again
    gc.collect()
    assert len(scan._shared) == before
