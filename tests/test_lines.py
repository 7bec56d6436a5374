"""lines: any chunking gives the same lines, offsets and numbers; a line too long is never shown, not even in part."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from denyspam.lines import LineBuffer, Lines

LIMIT = 8


def taken_apart(blocks: list[Lines]) -> list[tuple[int, int, bytes]]:
    """(offset, number, line) of every line of the blocks."""
    result = []
    for block in blocks:
        offset, number = block.offset, block.number
        assert block.data.endswith(b"\n")
        for line in block.data.split(b"\n")[:-1]:
            result.append((offset, number, line))
            offset += len(line) + 1
            number += 1
    return result


def by_hand(data: bytes, limit: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """The same by the plain definition: lines of at most `limit` bytes; the number of longer ones."""
    result, overlong, offset = [], 0, 0
    pieces = data.split(b"\n")
    for number, line in enumerate(pieces, 1):
        if len(line) > limit:
            overlong += 1
        elif line or number < len(pieces):
            result.append((offset, number, line))
        offset += len(line) + 1
    return result, overlong


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x01", b"\n").replace(b"\x02", b"\n")), st.data())
@example(b"12345678\n123456789\n\n", None)
@example(b"\n\r\n\x00\xff\n123456789", None)
def test_any_chunking_is_the_same(data: bytes, draw: st.DataObject | None) -> None:
    expected, overlong = by_hand(data, LIMIT)
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=8)) if draw else range(len(data))
    for places in ([], sorted(cuts), range(len(data))):
        buffer = LineBuffer(LIMIT)
        blocks: list[Lines] = []
        start = 0
        for end in [*places, len(data)]:
            blocks += buffer.feed(data[start:end])
            start = end
        whole = taken_apart(blocks)
        assert [line for line in expected if line[0] + len(line[2]) < len(data)] == whole
        if buffer.offset < len(data):
            assert data[: buffer.offset][-1:] in (b"", b"\n")  # a place to go on from is the start of a line
        assert expected == taken_apart(blocks + buffer.flush())
        assert overlong == buffer.overlong
        assert len(data) == buffer.offset


@given(st.lists(st.integers(0, 20), max_size=40), st.integers(1, 12), st.integers(1, 60))
def test_lengths_around_the_limit(lengths: list[int], limit: int, chunk: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    expected, overlong = by_hand(data, limit)
    buffer = LineBuffer(limit)
    blocks = [block for at in range(0, len(data), chunk) for block in buffer.feed(data[at : at + chunk])]
    assert expected == taken_apart(blocks)
    assert overlong == buffer.overlong


def test_one_block_a_chunk() -> None:
    buffer = LineBuffer(offset=100, number=7)
    assert buffer.feed(b"ab") == []
    assert [Lines(b"abc\nd\n", 100, 7)] == buffer.feed(b"c\nd\ne")
    assert (buffer.offset, buffer.number) == (106, 9)
    assert [Lines(b"e\n", 106, 9)] == buffer.flush()
    assert (buffer.offset, buffer.number) == (107, 10)
    assert buffer.flush() == []


def test_a_long_line_splits_the_block_and_bounds_the_memory() -> None:
    buffer = LineBuffer(LIMIT)
    assert [Lines(b"a\n", 0, 1), Lines(b"b\n", 12, 3)] == buffer.feed(b"a\n123456789\nb\n")
    for _ in range(1000):
        assert buffer.feed(b"x" * 1000) == []
    assert len(buffer._rest) == 0
    assert buffer.offset == 14  # going on from here meets the whole line again, not its middle
    assert [Lines(b"c\n", 14 + 1_000_001, 5)] == buffer.feed(b"\nc\n")
    assert buffer.overlong == 2


def test_unknown_number_stays_unknown() -> None:
    buffer = LineBuffer(offset=5, number=0)
    assert [Lines(b"a\nb\n", 5, 0)] == buffer.feed(b"a\nb\n")
    assert [Lines(b"c\n", 9, 0)] == buffer.feed(b"c\n")


@pytest.mark.parametrize("size", [65536, 65537])
def test_the_default_limit(size: int) -> None:
    buffer = LineBuffer()
    assert (65536 // size) == len(buffer.feed(b"x" * size + b"\n"))
    assert size // 65537 == buffer.overlong
