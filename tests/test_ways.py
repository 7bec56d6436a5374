"""Whether an expression can be read in two ways; and that patterns which share a piece keep their order."""

from __future__ import annotations

import re
from datetime import timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.filter import Filter, Reader
from denyspam.grammar import _parts
from denyspam.pattern import PatternError, compile_parts, settle
from denyspam.scan import Scanner
from denyspam.stamp import Stamps
from denyspam.ways import doubles

NOW = 1772618400.0


@pytest.mark.parametrize(
    ("shared", "here", "there", "texts"),
    [
        ("a", "b", "c", []),
        ("a", "b", "b", []),  # read in one way, however alike the rest is
        ("(?:a|)", "b", "c", []),
        ("(?:a|)", "b", "a~b", ["ab"]),
        ("(?:a|)", "a~b", "b", ["ab"]),
        ("(?:a|)", "a~c", "b", []),
        ("(?::[0-9]{1,5}|)", ":~ ~x", ":~ ~y", []),
        ("(?::[0-9]{1,5}|)", " ~x", ":~5~ ~y", []),
        ("(?:ab|a)", "c", "b~d", []),
        ("(?:ab|a)", "c", "b~c", ["abc"]),
        ("(?: [a-z]{1,9}|)", " ~x", " ~y", [" x", " y"]),  # as in ` y x`
        ("(?: [a-z]{1,9}|)~ ~[0-9]", "x", "y", []),
        ("(?:a|)~(?:a|)", "b", "b", []),  # which of the two it was makes no difference
        ("(?:a|)~(?:a|)", "b", "a~b", ["ab"]),
        ("(?:ab|a)~(?:b|)", "c", "c", []),
        ("(?:ab|a)~(?:b|)~x?", "c", "c", ["ab"]),  # what is repeated is counted: it may be another one of them
        (".*", "a", "b", ["a", "b"]),
        ("[a-z]{1,9}~ ", "a", "b", []),
        (r"\(~(?=(?P<said>.*?)\))(?P=said)~\)", "a", "b", []),
        ("(?:a |)", " ~ ~e", "(?:[^ ]{1,64} {1,2}){0,12}?~ ~e", ["a "]),
        ("(?: C=[0-9]{1,9}|)~(?: D|)~(?: C=[0-9]{1,9}|)", "x", "x~y", []),
        ("(?: C=[0-9]{1,9}|)~(?: D|)~(?: C=[0-9]{1,9}|)", " ~D", "x", [" C=", " D"]),
    ],
)  # fmt: skip
def test_what_a_line_that_can_be_read_twice_holds(shared: str, here: str, there: str, texts: list[str]) -> None:
    pieces, one, other = (tuple(each.encode().split(b"~")) for each in (shared, here, there))
    assert {text.encode() for text in texts} == doubles(pieces, one, (other,))


@pytest.mark.skipif(not hasattr(re, "NOFLAG"), reason="no possessive runs before Python 3.11")
def test_a_possessive_run_goes_on_while_it_can() -> None:
    assert not doubles((b"[a-z]{0,9}+",), (b"a",), ((b"b",),))
    assert doubles((b"[a-z]{0,9}",), (b"a",), ((b"b",),))
    assert doubles((b"(?:[a-z]{1,9}+|)",), (b"a",), ((b"b",),))


PIECES = (
    "{? {word}}", "{?:{port}}", "{?a }", "{?ab }", "{?a}", "{(a|ab)}", "{(x|x y|{word})}", "{words}", "{?{verb} }",
    "{? {number}}{? {word}}", " ", " a", " ab", ":", ": ", "b", "x y", " 1", "{?({word})}", "{?\\(a\\) }", "{word} ",
    "{?{name}}", "{(a |)}",
)  # fmt: skip
TEXTS = (b" ", b"a", b"ab", b":", b": ", b"b", b"x", b"x y", b" 1", b"1", b"(a)", b" (a) ", b"a ", b"", b"y")


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    begin = draw(st.lists(st.sampled_from(PIECES), max_size=3))
    patterns = []
    for _ in range(draw(st.integers(2, 5))):
        middle = begin[: draw(st.integers(0, len(begin)))] + draw(st.lists(st.sampled_from(PIECES), max_size=3))
        text = "word [{ip}]" + "".join(middle) + draw(st.sampled_from((" end", "b{*}", " a{*}", "")))
        kind = draw(st.sampled_from(("virus", "spam", "relay", "defer", "ignore")))
        try:
            patterns.append(compile_parts(kind, _parts(text, {}), text))
        except PatternError:
            continue
    return Filter("x", ("x",), settle(patterns), (), "x")


@settings(max_examples=300, deadline=None)
@given(filters(), st.lists(st.lists(st.sampled_from(TEXTS), max_size=7), max_size=10))
def test_the_first_that_fits_is_the_first_in_the_file(found: Filter, tails: list[list[bytes]]) -> None:
    bodies = [b"word [192.0.2.1]" + b"".join(tail) + end for tail in tails for end in (b"", b" end", b"b", b" a")]
    lines = [
        b"Mar  4 10:00:00 mx x[1]: " + body for body in (*bodies, *(b for p in found.patterns for b in p.examples))
    ]
    reader = Reader((found,), Stamps(timezone.utc))
    expected = [None if (said := reader.read(line, NOW)) is None else said.pattern.kind for line in lines]
    if all(pattern.kind == "ignore" for pattern in found.patterns):
        return
    scanner = Scanner([found], "x", Stamps(timezone.utc))
    said = {each.number: each.kind for each in scanner.feed(b"".join(line + b"\n" for line in lines), 0, 1, NOW)}
    assert [kind if kind != "ignore" else None for kind in expected] == [said.get(n) for n in range(1, len(lines) + 1)]
