"""scan: blocks of whole lines to findings; the needles never change an answer."""

from __future__ import annotations

import os
from datetime import timezone
from pathlib import Path

import pytest
from agree import compare
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam import scan
from denyspam.events import HARMLESS, Event, Finding
from denyspam.filter import Filter, Reader
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.pattern import IGNORE
from denyspam.scan import Scanner, needles
from denyspam.stamp import Stamps

FILTERS = [
    parse_filter(path.read_text(encoding="utf-8"), path.name)
    for path in sorted((Path(__file__).parent.parent / "filters").glob("*.filter"))
]
SAMPLES = [sample.line for found in FILTERS for sample in found.samples]
# Queue ids known by other lines, in the words of a client, told again
CLIENTS = [
    b"Mar  4 10:00:00 mx postfix/smtpd[2034]: %s: %s" % (name, body)
    for name in (b"0A1B2C3D4E", b"4XyZq81Kw0z9P1", b"624A00aa002034")
    for body in (
        b"client=host7.example[192.0.2.77]",
        b"client=: client=x[192.0.2.78]",
        b"reject: RCPT from a[192.0.2.1]: 550 5.1.1 <a>: no: client=b[192.0.2.79]",
    )
] + [
    b"Mar  4 10:00:00 mx sm-mta[2034]: 624A00aa002034: from=<a@b.example>, size=1, class=0, relay=[192.0.2.80]",
    b"Mar  4 10:00:01 mx sm-mta[2034]: 624A00aa002034: from=<>, relay=c.example [192.0.2.81]",
    b"Mar  4 10:00:01 mx sm-mta[2034]: 624A00aa002034: <x@b.example>... User unknown",
    b"Mar  4 10:00:01 mx sm-mta[2034]: 624A00aa002035: <: from=<>, relay=[192.0.2.82]>... User unknown",
    b"Mar  4 10:00:02 mx sm-mta[2034]: 624A00aa002034: [192.0.2.83] did not issue MAIL/EXPN/VRFY/ETRN during"
    b" connection to MTA",
    b'<22>1 2026-03-04T10:00:02Z mx postfix/smtpd 2034 - [a b="0A1B2C3D4E: client=x"] 4XyZq81Kw0z9P1:'
    b" client=d[192.0.2.84]",
    b'<22>1 2026-03-04T10:00:03Z mx sm-mta 2034 - [a b=": from="] 624A00aa002034: from=<>, relay=[192.0.2.85]',
]
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
        few = needles([pattern for pattern in found.patterns if pattern.kind != IGNORE], [])
        for sample in found.samples:
            if sample.kind not in (None, IGNORE):
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


CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.log"))


def settled(blocks: list[bytes], *, brief: bool = True) -> list[Event]:
    join, events, offset, number = Join(), [], 0, 1
    scanner = Scanner(FILTERS, "mail.log", Stamps(timezone.utc), join.hints if brief else None)
    for block in blocks:
        for finding in scanner.feed(block, offset, number, NOW):
            events += join.feed(finding, finding.offset)
        offset, number = offset + len(block), number + block.count(b"\n")
    events += join.flush()
    return [event for event in events if event.kind not in HARMLESS]


def simply(data: bytes) -> list[Event]:
    """Every line by the one pattern after the other, every client line read: what the fast path must agree with."""
    reader, join = Reader(FILTERS, Stamps(timezone.utc)), Join()
    events, offset = [], 0
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        said = reader.read(line, NOW)
        if said is not None and said.pattern.kind != IGNORE:
            found = said.filter.name, said.queue_id, said.user, "mail.log", offset, number, line, said.host, said.count
            events += join.feed(Finding(said.time, said.pattern.kind, said.address, *found), offset)
        offset += len(line) + 1
    events += join.flush()
    return [event for event in events if event.kind not in HARMLESS]


@pytest.mark.parametrize("log", CAPTURES, ids=lambda log: log.name)
def test_the_fast_path_tells_what_the_simple_one_tells(log: Path) -> None:
    data = log.read_bytes()
    expected = simply(data)
    assert expected
    assert expected == settled([data])
    lines = data.splitlines(keepends=True)
    assert expected == settled(lines)
    assert expected == settled([data], brief=False)


def test_a_harmless_line_says_nobodys_offence() -> None:
    """It names the client of the queue id, but a scanner that looks for offences alone does not read it."""
    head = b"Mar  4 10:00:00 mx sm-mta[2034]: 624A00aa002034: "
    data = (
        head + b"Milter: to=<virus@example.org>, reject=550 5.7.1 virus\n"
        + head + b"ruleset=check_rcpt, arg1=<u@example.org>, relay=host8.example [192.0.2.8], reject=451 4.7.1 later\n"
    )  # fmt: skip
    assert [event.address for event in simply(data)] == [None]
    assert simply(data) == settled([data]) == settled([data], brief=False)


def test_a_line_that_is_to_be_ignored_is_nobodys_offence_neither() -> None:
    """The pattern that takes it is no offence's, and none of the tree; another one would, if {said} ended later."""
    line = b"2026-03-04 10:00:00 H=(rejected ) [192.0.2.8] I=[x] Ci=A DN=[ Warning: ) [192.0.2.9"
    assert simply(line + b"\n") == settled([line + b"\n"]) == settled([line + b"\n"], brief=False) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SAMPLES) | st.sampled_from(CLIENTS), max_size=30))
def test_hints_change_nothing(lines: list[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    assert simply(data) == settled([data])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SAMPLES + CLIENTS * 5), min_size=1, max_size=12), st.sampled_from(SAMPLES), st.data())
def test_a_line_full_of_needles_changes_nothing(lines: list[bytes], before: bytes, data: st.DataObject) -> None:
    """Its block, and some behind it, are searched line by line."""
    text = data.draw(st.sampled_from((b"virus", b"... ", b": from=", b": client=x[192.0.2.9]: client=")))
    lines.insert(data.draw(st.integers(0, len(lines))), before[: data.draw(st.integers(0, len(before)))] + text * 1000)
    whole, more = (b"".join(line + b"\n" for line in some) for some in (lines, reversed(lines)))
    assert settled([whole, more]) == simply(whole + more)


def test_without_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    data = CAPTURES[0].read_bytes()
    expected = settled([data])
    monkeypatch.setattr(scan, "hyperscan", None)
    scan._shared.clear()
    assert expected == settled([data])
    scan._shared.clear()


def test_lines_with_ever_other_needles_make_few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "TREES", 3)
    needed = scan._Needles(FILTERS, scan.compiled, brief=True)
    takers = tuple(found for found in FILTERS if found.name == "postfix")
    made = [needed.tree(takers, bit | other) for bit in needed.bits[:40] for other in needed.bits[40:80]]
    assert len({id(tree) for tree in made if tree is not None}) <= 4
    assert needed.tree(takers, -1) is needed.tree(takers, needed.bits[0] | needed._major)


def test_a_piece_that_can_be_read_in_two_ways_is_not_shared_blindly() -> None:
    text = """\
filter x
program x
defer   from [{ip}] p={word}{? {word}} temporarily rejected by us
reject  from [{ip}] p={word}{? {word}} rejected by us
sample defer 192.0.2.1
  Mar  4 10:00:00 mx x[1]: from [192.0.2.1] p=a temporarily rejected by us
  Mar  4 10:00:00 mx x[1]: from [192.0.2.1] p=a b temporarily rejected by us
sample reject 192.0.2.1
  Mar  4 10:00:00 mx x[1]: from [192.0.2.1] p=a b rejected by us
sample none
  Mar  4 10:00:00 mx x[1]: hello
"""
    found = parse_filter(text, "x")
    for sample in found.samples:
        assert [sample.kind] * (sample.kind is not None) == [
            f.kind for f in scanner([found]).feed(sample.line + b"\n", 0, 1, NOW)
        ]


@pytest.mark.parametrize("server", ["postfix", "exim", "sendmail"])
def test_made_up_logs_come_out_alike(server: str) -> None:
    count, apart = compare(server, int(os.environ.get("DENYSPAM_LINES", "6000")), seed=2)
    assert apart == []
    assert count > 100
