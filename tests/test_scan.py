"""scan: blocks of whole lines to findings; the needles never change an answer."""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.filter import Filter, Reader
from denyspam.grammar import parse_filter
from denyspam.pattern import IGNORE
from denyspam.scan import Scanner, needles
from denyspam.stamp import Stamps

FILTERS = [
    parse_filter(path.read_text(encoding="utf-8"), path.name)
    for path in sorted((Path(__file__).parent.parent / "filters").glob("*.filter"))
]
SAMPLES = [sample.line for found in FILTERS for sample in found.samples]
NOW = 1772618400.0


def scanner(filters: list[Filter] = FILTERS) -> Scanner:
    return Scanner(filters, "mail.log", Stamps(timezone.utc))


def test_where_a_finding_stands() -> None:
    dull = b"Mar  4 10:00:00 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n"
    hit = b"Mar  4 10:00:00 mx postfix/smtpd[1]: too many errors after RCPT from a[192.0.2.1]\n"
    found = scanner().feed(dull + hit + dull + hit, 1000, 7, NOW)
    assert [(8, 1000 + len(dull)), (10, 1000 + 2 * len(dull) + len(hit))] == [(f.number, f.offset) for f in found]
    assert [hit[:-1]] * 2 == [f.text for f in found]
    assert {("mail.log", "postfix", "protocol", "192.0.2.1", "mx", NOW)} == {
        (f.file, f.filter, f.kind, f.address, f.host, f.time) for f in found
    }
    assert [f.number for f in scanner().feed(dull + hit + dull + hit, 1000, 0, NOW)] == [0, 0]


def test_what_cannot_be_a_hit_is_counted() -> None:
    reader = scanner()
    lines = (
        b"Mar  4 10:00:00 mx postfix/smtpd[1]: too many errors after RCPT from a[999.0.2.1]\n"
        b"Feb 30 10:00:00 mx postfix/smtpd[1]: too many errors after RCPT from a[192.0.2.1]\n"
        b"Mar  4 10:11:00 mx postfix/smtpd[1]: too many errors after RCPT from a[192.0.2.1]\n"
    )
    found = reader.feed(lines, 0, 1, NOW)
    assert [(f.time, f.address) for f in found] == [(None, "192.0.2.1")] * 2
    assert (reader.bad_address, reader.bad_time) == (1, 2)


def test_every_sample_holds_a_needle() -> None:
    for found in FILTERS:
        few = needles((found,))
        assert len(few) < 30, found.name
        for sample in found.samples:
            if sample.kind is not None:
                assert any(needle in sample.line for needle in few), sample.line


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SAMPLES) | st.binary(max_size=80).map(lambda b: b.replace(b"\n", b"")), max_size=12))
def test_blocks_and_single_lines_agree(lines: list[bytes]) -> None:
    reader = Reader(FILTERS, Stamps(timezone.utc))
    expected = [
        (number, reading.pattern.kind, reading.address)
        for number, line in enumerate(lines, 1)
        if (reading := reader.read(line, NOW)) is not None and reading.pattern.kind != IGNORE
    ]
    block = b"".join(line + b"\n" for line in lines)
    assert expected == [(f.number, f.kind, f.address) for f in scanner().feed(block, 0, 1, NOW)]
    single, offset = scanner(), 0
    one_by_one = []
    for number, line in enumerate(lines, 1):
        one_by_one += single.feed(line + b"\n", offset, number, NOW)
        offset += len(line) + 1
    assert one_by_one == scanner().feed(block, 0, 1, NOW)


def test_first_filter_that_takes_a_line() -> None:
    text = """\
filter {name}
program postfix/smtpd
{kind} too many errors after {{verb}} from {{name}}[{{ip}}]
sample {kind} 192.0.2.1
  Mar  4 10:00:00 mx postfix/smtpd[1]: too many errors after RCPT from a[192.0.2.1]
sample none
  Mar  4 10:00:00 mx postfix/smtpd[1]: hello
"""
    one, two = (parse_filter(text.format(name=name, kind=kind), name) for name, kind in (("a", "spam"), ("b", "virus")))
    line = b"Mar  4 10:00:00 mx postfix/smtpd[1]: too many errors after RCPT from a[192.0.2.1]\n"
    for order in ([one, two], [two, one]):
        assert [(order[0].name, order[0].patterns[0].kind)] == [
            (f.filter, f.kind) for f in scanner(order).feed(line, 0, 1, NOW)
        ]
