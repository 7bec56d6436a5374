"""grammar: durations, policy sentences, and what a filter file must not contain, each with its message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from denyspam.events import FilterError, Policy, SettingsError
from denyspam.grammar import PIECES_ALONE, _pieces, _read, _text, parse_duration, parse_filter, parse_policy


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("1h", 3600),
        ("7d", 604800),
        ("2w", 1209600),
        ("1h30m", 5400),
        (" 1h ", 3600),
        ("15 min", 900),
        ("1.5h", 5400),
        ("1 day 12 hours", 129600),
        ("1h 30m", 5400),
        ("90 seconds", 90),
        ("1hour", 3600),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "15", "m", "1.5", "-1h", "1hm", "1h,30m", "1y", "1month", "1.h", "٣m", "9999999999s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration: write a number and a unit, such as 30s, 15m"):
        parse_duration(text)


def test_policies() -> None:
    assert parse_policy("virus", "5 in 15m -> ban 1h", "f", 3) == Policy("virus", "virus", 5, 900, 3600)
    assert parse_policy("relay.slow", "50 in 1d -> ban 1d", "f", 3) == Policy("relay.slow", "relay", 50, 86400, 86400)
    assert parse_policy("virus", "5 in 15 minutes -> ban 1 hour", "f", 3) == Policy("virus", "virus", 5, 900, 3600)
    everything = "5 in 15m->ban 30m, doubling to 7d, forget 30d, by net/24, ports 587, 465,587"
    assert parse_policy("any", everything, "f", 3) == Policy(
        "any", "any", 5, 900, 1800, 604800, 2592000, 24, (465, 587)
    )


@pytest.mark.parametrize(
    ("name", "sentence", "column", "message"),
    [
        ("virus", "", 1, "cannot read the policy at its end: write it as `5 in 15m -> ban 1h`"),
        ("virus", "5 in 15 -> ban 1h", 6, "cannot read the policy at `15 -> ban 1h`"),
        ("virus", "five in 15m -> ban 1h", 1, "cannot read the policy at `five"),
        ("virus", "5 in 15m -> ban 1h, twice", 21, "cannot read the policy at `twice`"),
        ("virus", "0 in 15m -> ban 1h", 1, "0 hits: write a number from 1 to 10000"),
        ("virus", "10001 in 15m -> ban 1h", 1, "10001 hits: write a number from 1 to 10000"),
        ("virus", "5 in 32d -> ban 1h", 6, "the window must be from 1s to 31d"),
        ("virus", "5 in 15m -> ban 0s", 17, "a ban must last from 1s to 3650d"),
        ("virus", "5 in 15m -> ban 1h, ports 0", 21, "a port is a number from 1 to 65535"),
        ("virus", "5 in 15m -> ban 1h, ports 65536", 21, "a port is a number from 1 to 65535"),
        ("virus", "5 in 15m -> ban 1h, by net/7", 21, "`by net/` takes a prefix length from 8 to 128"),
        ("virus", "5 in 15m -> ban 1h, by user", 21, "`by user` is not built yet"),
        ("virus", "5 in 15m -> ban 1h, action notify", 21, "`action` is not built yet"),
        ("virus", "5 in 15m -> ban 1h, forget 1d, forget 2d", 32, "`forget` twice: write it once"),
        ("virus", "5 in 15m -> ban 1h, doubling to 1m", 21, "`doubling to` must name a duration from the first ban's"),
        ("Virus", "5 in 15m -> ban 1h", 1, "`Virus` is no name for a policy"),
    ],
)
def test_wrong_policies(name: str, sentence: str, column: int, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_policy(name, sentence, "denyspam.conf", 7)
    assert str(error.value).startswith(f"denyspam.conf:7:{column}: {message}")


HEAD = "filter demo\nprogram demo\n"
GOOD = "relay no relay for [{ip}]: {*}\n"
SAMPLES = """\
sample relay 192.0.2.1
  Mar  4 10:00:00 mx demo[1]: no relay for [192.0.2.1]: x
sample none
  Mar  4 10:00:00 mx demo[1]: hello
"""


def test_a_small_filter() -> None:
    found = parse_filter(HEAD + GOOD + SAMPLES, "demo.filter")
    assert (found.name, found.programs, sorted(found.kinds)) == ("demo", ("demo",), ["relay"])


@pytest.mark.parametrize("change", ["\ufeff{}", "{}\n\n# end", "# first\n{}"])
def test_tolerated(change: str) -> None:
    text = change.replace("{}", (HEAD + GOOD + SAMPLES).replace("relay no", "relay\tno").replace("  Mar", "\tMar"))
    assert parse_filter(text.replace("\n", "\r\n"), "demo.filter").patterns


def refused(text: str) -> str:
    with pytest.raises(FilterError) as error:
        parse_filter(text, "d")
    return str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        # nobody to attribute to
        ("relay no relay for anybody {*}", "d:3:7: nobody to count this for: write {ip}"),
        ("client {id}: client={name}", "d:3:8: a client line says whose a queue id is: it needs both {id} and {ip}"),
        ("client client=[{ip}]", "d:3:8: a client line says whose a queue id is"),
        ("relay from [{ip}] to [{ip}]", "d:3:23: a second {ip}"),
        # what a client could forge
        ("relay no {*} [{ip}] for {*}", "d:3:15: free text on both sides of {ip}"),
        ("relay user={user} [{ip}] for {*}", "d:3:20: free text on both sides of {ip}"),
        ("relay no relay for {*}{ip}", "d:3:23: between free text and {ip} stands no literal"),
        ("relay {*} [{ip}]", "d:3:7: no fixed word before the free text"),
        ("relay {id}: {*}", "d:3:13: no fixed word before the free text"),
        ("relay from [{ip}]: {*} relay denied", "d:3:23: ` relay denied` stands after free text"),
        ("relay from [{ip}]: {user} denied {*}", "d:3:26: ` denied ` stands after free text"),
        ("relay from {*}, relay=[{ip}], reject={*}", "d:3:24: free text on both sides"),
        ("relay said {*}, {id}", "d:3:17: {id} after free text"),
        ("relay from [{ip}] {said} x", "d:3:19: {said} stands before the client's {ip}"),
        ("relay from {said}{ip}", "d:3:12: {said} needs a literal after it"),
        # holes
        ("relay from [{ipp}]", "d:3:13: no hole is called {ipp}: write one of"),
        ("relay to {rcpt} from [{ip}]", "d:3:10: no hole is called {rcpt} (an address a client gave: {<rcpt>})"),
        ("relay from {ip}:{port}", "d:3:12: {ip} runs into the text after it"),
        ("relay from {ip}{*}", "d:3:12: {ip} needs a literal after it"),
        ("relay from {word}{name} [{ip}]", "d:3:12: {word} runs into the hole after it"),
        ("relay {?from [{ip}]}", "d:3:15: {ip} cannot stand in {?…}"),
        ("relay from {([{ip}]|x)}", "d:3:15: {ip} cannot stand in {(…)}"),
        ("relay from [{ip", "d:3:16: a `{` that is not closed"),
        ("relay from [{ip}]}", "d:3:18: a `}` without `{`"),
        ("relay from [{ip}] \\d", "d:3:19: a backslash stands before"),
        ("relay from [{$}]", "d:3:14: cannot read `$}]`"),
        ("relay {(a|b)} [{ip}]", "d:3:7: too little fixed text to search for"),
        ("relay", "d:3:6: write the text of the line after `relay`"),
        ("relay " + "x" * 5000 + "[{ip}]", "d:3:7: a pattern of 5006 characters"),
        # the escape hatch
        ('relay regex "from \\[(?P<ip>.*)\\]"', "d:3:7: write the group as (?P<ip>[0-9A-Fa-f:.]{2,45})"),
        ('relay regex "from .* \\[(?P<ip>[0-9.]+)\\] .*"', "d:3:7: free text on both sides of {ip}"),
        ('relay regex "from [^x]* \\[(?P<ip>[0-9.]+)\\] "', "d:3:7: free text on both sides of {ip}"),
        ('relay regex "from [a-z \\[]* \\[(?P<ip>[0-9.]+)\\] "', "d:3:7: free text on both sides of {ip}"),
        ('relay regex "from (?:a+)+ \\[(?P<ip>[0-9.]+)\\]"', "d:3:7: a repetition inside a repetition"),
        ('relay regex "from (?=x)\\[(?P<ip>[0-9.]+)\\]"', "d:3:7: only literals, sets, groups, | and repetitions"),
        ('relay regex "from \\d+(?P<ip>[0-9.]+) "', "d:3:7: free text on both sides of {ip}"),
        ('relay regex "from (?:x|y)(?P<ip>[0-9.]+) "', "d:3:7: (?P<ip>…) stands between literals that end it"),
        ('relay regex "from .*.*x(?P<ip>[0-9.]+)$"', "d:3:7: two open parts side by side"),
        ('relay regex "(?i)from \\[(?P<ip>[0-9.]+)\\]"', "d:3:7: it sets flags"),
        ('relay regex "from (x) \\[(?P<ip>[0-9.]+)\\]"', "d:3:7: its groups may be"),
        ('relay regex "from [(?P<ip>[0-9.]+)"', "d:3:7: not a regular expression"),
        ('relay regex "relay: .*denied"', "d:3:7: nobody to count this for"),
        # statements
        ("RELAY from [{ip}]", "d:3:1: cannot read `RELAY`"),
        ("let ip = x", "d:3:5: {ip} is a hole already"),
        ("let x", "d:3:5: write `let NAME = TEXT`"),
        ("program other", "d:3:1: `program` twice"),
        ("filter other", "d:3:1: write `filter NAME` once"),
        ("sample relay", "d:3:8: whose is it?"),
        ("sample relay 192.0.2.999", "d:3:8: `192.0.2.999` is no address"),
        ("  Mar  4 10:00:00 mx demo[1]: x", "d:3:1: an indented line belongs under `sample"),
        ("relay from \x01[{ip}]", "d:3:12: a control character"),
    ],
)
def test_refused_patterns(pattern: str, message: str) -> None:
    assert refused(HEAD + pattern + "\n" + SAMPLES).startswith(message)


def test_a_regex_under_the_same_rules_is_taken() -> None:
    regex = 'relay regex "no relay for \\[(?P<ip>[0-9A-Fa-f:.]{2,45})\\]: [^x]*"\n'
    assert parse_filter(HEAD + regex + SAMPLES, "d").patterns[0].holes == {"ip", "*"}


def test_order_and_completeness() -> None:
    assert refused("").startswith("d:1:1: an empty file")
    assert refused("program x\n").startswith("d:1:1: a filter file begins with `filter NAME`")
    assert refused("filter demo\nrelay x [{ip}]\n").startswith("d:2:1: patterns need `program NAME` above them")
    assert refused("filter demo\nprogram a b\n").startswith("d:2:11: write `program NAME, NAME`")
    assert refused(HEAD).startswith("d:2:1: no pattern")
    assert refused(HEAD + GOOD).startswith("d:3:1: no sample shows this pattern")
    assert refused(HEAD + GOOD + SAMPLES[: SAMPLES.index("sample none")]).startswith("d:3:1: no `sample none`")


def test_hidden_pattern() -> None:
    hidden = HEAD + GOOD + "virus no relay for [{ip}]: {(virus|worm)} {*}\n" + SAMPLES
    assert refused(hidden).startswith("d:4:1: the pattern of line 3 takes every line that this one could")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sample relay 192.0.2.1", "sample relay 192.0.2.2", "d:5:1: this sample should be relay 192.0.2.2, but the"),
        ("sample none", "sample relay 192.0.2.1", "d:7:1: this sample should be relay 192.0.2.1, but no pattern takes"),
        (
            "demo[1]: hello",
            "demo[1]: no relay for [192.0.2.1]: x",
            "d:7:1: this sample should be none, but the pattern",
        ),
        ("  Mar  4 10:00:00 mx demo[1]: no", "  mx demo[1]: no", "d:5:1: this sample has no time that can be read"),
        ("sample none", "sample virus 192.0.2.1", "d:6:8: no pattern above is of the kind `virus`"),
        (
            "sample relay 192.0.2.1",
            "sample relay 192.0.2.1 times 2",
            "d:5:1: this sample should be relay 192.0.2.1 times",
        ),
    ],
)
def test_samples_that_come_out_otherwise(old: str, new: str, message: str) -> None:
    text = HEAD + GOOD + SAMPLES
    assert old in text
    assert refused(text.replace(old, new)).startswith(message)


def test_a_log_is_no_filter() -> None:
    assert "is this a log?" in refused("x" * 10_000_000)
    assert refused("\x7fELF\x00\x00").startswith("d:1:1: a control character")
    assert refused(HEAD + "relay " + "{?" * 2000).startswith("d:3:")


def test_what_the_grammar_is_spared_it_would_read_alike() -> None:
    texts = [
        line.split(None, 1)[1].removeprefix(" ")
        for file in sorted((Path(__file__).parent.parent / "filters").glob("*.filter"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"[a-z]\S* ", line) and not line.startswith(("filter ", "program ", "sample "))
    ]
    texts += [r"\{ {?a {ip}} {(a|b {name}\||{ip})} \# {<rcpt>}", "{?{?a}}", "{(a|{?b})}", "{(a)}", "a}", "{?", "\\a"]
    alone = [text for text in texts if PIECES_ALONE.fullmatch(text)]
    assert 300 < len(alone) < len(texts) - 6
    for text in alone:
        assert list(_pieces(text, 0)) == list(_read(_text, text)), text
