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


def block(data: bytes, keys: dict[int, int] | None = None) -> Block:
    return Block(data, "mail.log", 0, lambda *_: None, 0, 0.0, keys or {})


@given(st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), min_size=1, max_size=20), st.data())
def test_a_thinned_block_has_its_lines_where_they_stood(lines: list[bytes], data: st.DataObject) -> None:
    whole = block(b"\n".join(lines) + data.draw(st.sampled_from((b"", b"\n"))), {0: 1, len(lines[0]) + 1: 2})
    places = sorted(data.draw(st.sets(st.integers(0, len(b"\n".join(lines))), min_size=1)))
    wanted = [whole.line(place) for place in places]
    keys = [whole.keys.get(start) for start, _ in wanted]
    whole.thin(places)
    assert [whole.line(place) for place in places] == wanted
    assert [whole.keys.get(start) for start, _ in wanted] == keys
    assert len(whole.data) == sum(len(line) for _, line in set(wanted))


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
    assert sum(len(each.data) for each in blocks) < REACH / 10
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
