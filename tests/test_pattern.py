# ruff: noqa: E501  (lines as the servers print them)
"""pattern: holes and what they take; one way only to read a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denyspam.grammar import _parts
from denyspam.pattern import HOLES, Pattern, PatternError, compile_parts, compile_regex, settle, worded


def compiled(text: str, kind: str = "reject") -> Pattern:
    return settle([compile_parts(kind, _parts(text, {}))])[0]


def taken(text: str, body: bytes) -> dict[str, bytes | None] | None:
    match = compiled(text).match(body)
    if match is None:
        return None
    return {
        name: said for name, said in match.groupdict().items() if not name[-1].isdigit()
    }  # on Python 3.10: f0, f1, …


@pytest.mark.parametrize(
    ("printed", "address"),
    [
        (b"192.0.2.1", b"192.0.2.1"),
        (b"2001:db8::1", b"2001:db8::1"),
        (b"::1", b"::1"),
        (b"IPv6:2001:db8:0:0:0:0:0:1", b"2001:db8:0:0:0:0:0:1"),
        (b"::ffff:192.0.2.1", b"::ffff:192.0.2.1"),
        (b"fe80::1%eth0", b"fe80::1"),
        (b"192.0.2.1.5", None),
        (b"unknown", None),
        (b"", None),
    ],
)
def test_ip(printed: bytes, address: bytes | None) -> None:
    found = taken("from [{ip}]: {*}", b"from [" + printed + b"]: x")
    assert address == (found and found["ip"])


def test_a_hole_ends_at_its_delimiter() -> None:
    assert taken("from {word}: [{ip}] {*}", b"from a: b: [192.0.2.1] x") is None
    assert taken("from {name}[{ip}]", b"from a.example[192.0.2.1][192.0.2.2]") is None
    assert taken("from {name}[{ip}]", b"from a.example[192.0.2.1]") == {"ip": b"192.0.2.1"}


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        (b"<a@b.example>", True),
        (b"<>", True),
        (b'<"a> [192.0.2.9] <"@b.example>', True),
        (b'<"a\\">"@b.example>', True),
        (b"<a\\>b@c.example>", True),
        (b'<"a@b.example>', False),  # would end inside quotes
        (b'<"a\\\\"@b.example>', False),  # a doubled backslash before a quote: nobody knows
        (b"<a<b@c.example>", False),
        (b"<a@b.example", False),
    ],
)
def test_path(path: bytes, whole: bool) -> None:
    found = taken("to {<rcpt>} from [{ip}]", b"to " + path + b" from [192.0.2.1]")
    assert ({"ip": b"192.0.2.1"} if whole else None) == found


def test_address_from_the_end() -> None:
    pattern = "AUTH failure, user={user}, relay={?{name} }[{ip}]{? (may be forged)}"
    line = b"AUTH failure, user=bob, relay=[192.0.2.8] H=(x) [192.0.2.9], relay=a.example [192.0.2.1] (may be forged)"
    found = taken(pattern, line)
    assert found == {"ip": b"192.0.2.1", "user": b"bob, relay=[192.0.2.8] H=(x) [192.0.2.9]"}


def test_a_second_said_before_the_address_is_refused() -> None:
    with pytest.raises(PatternError, match=r"a second \{said\}"):
        compiled('error in "{said}" {?H={?({said}) }}[{ip}] refused {*}')


def test_said() -> None:
    pattern = "H=({said}) [{ip}] rejected {*}"
    assert taken(pattern, b"H=([192.0.2.9]) [192.0.2.1] rejected x") == {"said": b"[192.0.2.9]", "ip": b"192.0.2.1"}
    assert taken(pattern, b"H=(a) [192.0.2.1] rejected x) [192.0.2.9]") == {"said": b"a", "ip": b"192.0.2.1"}
    assert taken(pattern, b"H=(x) [192.0.2.9] rejected y) [192.0.2.1] rejected z") is None
    twice = "arg1={said}, relay=[{ip}], reject={said}... denied{*}"
    assert taken(twice, b"arg1=a, relay=[192.0.2.1], reject=a... denied") == {"said": b"a", "ip": b"192.0.2.1"}
    assert taken(twice, b"arg1=a, relay=[192.0.2.1], reject=b... denied") is None


def test_optional_alternative_and_escaped() -> None:
    pattern = compiled("{(a|b \\) c)} from \\{[{ip}]{?:{port}}\\}")
    for body in (b"a from {[192.0.2.1]}", b"b ) c from {[192.0.2.1]:25}"):
        assert pattern.regex.match(body), body
    assert not pattern.regex.match(b"c from {[192.0.2.1]}")


@pytest.mark.parametrize(
    "text", ["x {word} y [{ip}]", "query {id} {name} {code} {dsn} {port} {number} {verb} [{ip}] {*}"]
)
def test_examples_are_taken(text: str) -> None:
    pattern = compiled(text)
    assert pattern.examples
    for example in pattern.examples:
        assert pattern.regex.match(example), example
        assert all(literal in example for literal in pattern.literals)
        assert pattern.needle in example


def test_regex() -> None:
    pattern = compile_regex("auth", r"bad login: user=(?P<user>[a-z]{1,20}) from \[(?P<ip>[0-9A-Fa-f:.]{2,45})\]$")
    match = pattern.regex.match(b"bad login: user=bob from [192.0.2.1]")
    assert match
    assert match.groupdict() == {"user": b"bob", "ip": b"192.0.2.1"}
    assert pattern.holes >= {"ip", "user"}


def test_the_manual_names_every_hole() -> None:
    manual = (Path(__file__).parent.parent / "docs/filters.md").read_text(encoding="utf-8")
    assert [name for name in HOLES if f"`{{{name}}}`" not in manual] == []


def test_times() -> None:
    assert taken("failed {times} attempts from [{ip}]", b"failed 12 attempts from [192.0.2.1]") == {
        "times": b"12",
        "ip": b"192.0.2.1",
    }
    with pytest.raises(PatternError, match="after free text"):
        compiled("from [{ip}]: {*} failed {times} attempts")


@pytest.mark.parametrize(
    "text", ["login {*}:{ip}", "login {*}, a={?x:}{ip}", "login {*} be{ip}", "login {user}={?:}{ip}"]
)
def test_an_address_from_the_end_cannot_be_a_piece_of_one(text: str) -> None:
    with pytest.raises(PatternError, match="piece of an address"):
        compiled(text)


def test_an_address_from_the_end_behind_what_is_none() -> None:
    for text, body in (
        ("login {*}, rip={ip}", b"login rip=192.0.2.9, rip=192.0.2.1"),
        ("login {*}, relay={?{word} }[{ip}]", b"login [192.0.2.9], relay=[192.0.2.1]"),
    ):
        assert taken(text, body) == {"ip": b"192.0.2.1"}


RELAY = "reject: {verb} from [{ip}]: {*}: Relay access denied; from={<rcpt>} to={<rcpt>}{? helo={<rcpt>}}"


@pytest.mark.parametrize(
    ("rest", "relay"),
    [
        ("<a@b>: Relay access denied; from=<c@d> to=<a@b> helo=<e>", True),
        ("<a@b>: Relay access denied; from=<> to=<a@b>", True),
        ('<x>: User unknown; from=<y@b>: Relay access denied; from=<c@d> to=<"x>: User unknown; from=<y"@b>', True),
        ('<a@b>: Relay access denied; from=<"\\"> to=<\\"x"@d> to=<"\\\\"@b> helo=<e>', True),
        # the client's own words, in the recipient, where the reason is another
        ('<x>: Relay access denied; from=<c@d> to=<y@b>: no; from=<c@d> to=<"x>: Relay access denied; from=<c@d> to=<y"@b>', False),
        ('<z@b>: no; from=<"x>: Relay access denied; from=<c@d> to=<y"@d> to=<z@b>', False),
        ('<z@b>: no; from=<"x>: Relay access denied; from=<\\"> to=<\\"@d"@d> to=<z@b>', False),
        ("<a@b>: Relay access denied; from=<c@d>", False),
    ],
)  # fmt: skip
def test_what_is_read_from_the_end(rest: str, relay: bool) -> None:
    pattern = compiled(RELAY, "relay")
    assert (pattern.match(b"reject: RCPT from [192.0.2.1]: " + rest.encode()) is not None) == relay


LOCAL = st.text(st.sampled_from('"\\<>:;=@ afromdenied') | st.characters(max_codepoint=255), max_size=30) | st.lists(
    st.sampled_from(["x>", ": Relay access denied", "; from=<", "> to=<", '"', "\\", "a@b", " helo=<e>"]), max_size=12
).map("".join)


def quoted(local: str) -> str:
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(LOCAL, LOCAL, st.sampled_from(["Relay access denied", "User unknown"]))
def test_no_quoted_text_passes_for_the_words_outside(sender: str, recipient: str, reason: str) -> None:
    line = f"reject: RCPT from [192.0.2.1]: <{recipient}@b>: {reason}; from=<{quoted(sender)}@c> to=<{quoted(recipient)}@b>"
    found = compiled(RELAY, "relay").match(line.encode("latin-1"))
    assert (found is not None) == (reason == "Relay access denied")


@pytest.mark.parametrize(
    "text",
    [
        "reject {id}: {*}: Relay access denied",  # nothing of a known form up to the end
        "reject {id}: {*}: denied; from={<rcpt>} said {*}",
        "reject {id}: {*}: denied; from={?{<rcpt>}}",
        "reject {id}: {*}{<rcpt>}: denied",
        "reject {id}: {*}: {code} denied; from={<rcpt>} {dsn}",
    ],
)
def test_what_is_not_closed_to_the_end(text: str) -> None:
    with pytest.raises(PatternError):
        compiled(text)


@pytest.mark.parametrize(
    ("hole", "path", "whole"),
    [
        ("<raw>", b'<"a\\"b"@c>', True),
        ("<raw>", b'<"a\\\\"@c>', True),
        ("<raw>", b'<"a\\\\"b"@c>', False),
        ("<doubled>", b'<"a\\\\"b"@c>', True),
        ("<doubled>", b'<"a\\\\\\\\"@c>', True),
        ("<doubled>", b'<"a\\\\\\\\"b"@c>', False),
        ("<doubled>", b'<"a\\\\"@c>', False),
        ("<doubled>", b'<"a\\033"@c>', True),
    ],
)
def test_backslashes(hole: str, path: bytes, whole: bool) -> None:
    assert (
        taken("to {HOLE} from [{ip}]".replace("HOLE", hole), b"to " + path + b" from [192.0.2.1]") is not None
    ) == whole


def test_every_hole_says_what_it_is() -> None:
    assert all(hole.meaning for hole in HOLES.values())
    assert {"ip", "id", "name", "code", "dsn", "port", "user", "<rcpt>", "word", "verb", "number", "*"} <= set(HOLES)


def test_a_regex_may_read_ipv4_alone_after_a_colon() -> None:
    pattern = compile_regex("auth", r"login failed .*:(?P<ip>[0-9.]{7,15})$")
    found = pattern.match(b"login failed x:198.51.100.4:192.0.2.7")
    assert found is not None
    assert found["ip"] == b"192.0.2.7"
    assert pattern.match(b"login failed x:2001:db8::7") is None
    with pytest.raises(PatternError):
        compile_regex("auth", r"login failed .*:(?P<ip>[0-9A-Fa-f:.]{2,45})$")


@pytest.mark.parametrize(
    ("text", "forged"),
    [
        ("login failed for {word} from {ip} {*}", b"login failed for x from 192.0.2.99 from 203.0.113.7 over TLS"),
        ("login failed for user {name} at {ip}: {*}", b"login failed for user x at 192.0.2.99: at 203.0.113.7: no"),
        ("bad password: user={word}, ip={ip}, {*}", b"bad password: user=x, ip=192.0.2.99, y, ip=203.0.113.7, no"),
        ("login failed for user {quoted} from {ip}, {*}", b'login failed for user "x" from 192.0.2.99, " from 203.0.113.7, '),
        ("{(user|login)} {word} of {ip} failed {*}", b"user x of 192.0.2.99 failed of 203.0.113.7 failed twice"),
        ("refused: helo=<{word}> client=[{ip}] {*}", b"refused: helo=<x> client=[192.0.2.99] > client=[203.0.113.7] now"),
        ("refused {?subject {word} }from [{ip}] {*}", b"refused subject x from [192.0.2.99] from [203.0.113.7] x"),
    ],
)  # fmt: skip
def test_a_typed_hole_that_the_client_words_is_named(text: str, forged: bytes) -> None:
    pattern = compiled(text)
    found = pattern.match(forged)
    assert found is not None
    assert found["ip"] == b"192.0.2.99"  # so the warning is right
    assert len(worded(pattern)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "login failed for {word} from {ip}",  # what he writes leaves a rest that no pattern takes
        "login failed for{said} from {ip} {*}",
        "login failed for {user} from {ip}",
        "connections for {name}[{ip}]: {*}",  # a host's name
        "rejected from {name} [{ip}]:{port} {*}",
        "session {word} of {ip} refused {*}",
        "{id}: reject: RCPT from {name}[{ip}]: {*}",
    ],
)
def test_a_typed_hole_that_the_server_prints_is_not(text: str) -> None:
    assert worded(compiled(text)) == []


def test_a_regex_that_the_client_words_is_named() -> None:
    text = r"login failed for user [a-z@]+ on (?P<ip>[0-9A-Fa-f:.]{2,45}), .*"
    assert worded(compile_regex("auth", text, f'regex "{text}"')) == [("word", "user")]
    text = r"login failed for user [a-z@]+ on (?P<ip>[0-9A-Fa-f:.]{2,45})$"
    assert worded(compile_regex("auth", text, f'regex "{text}"')) == []
