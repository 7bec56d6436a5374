"""Alarms: each said once when it begins and once when it is over, whatever flickers; samples are nothing but text."""

from __future__ import annotations

import pytest

from denyspam.alarms import LONGEST, MOST, NAMES, SAMPLES, Alarms, escaped

BEGINS, ENDS = NAMES["firewall"].begins, NAMES["firewall"].ends


def told(alarms: Alarms, now: float) -> list[str]:
    """What changes(now) says: `+name` for a begin, `-name` for an end."""
    return [f"{'+' if ended is None else '-'}{alarm}" for alarm, ended in alarms.changes(now)]


def test_a_begin_and_an_end_are_said_once() -> None:
    alarms = Alarms()
    for second in range(200):
        alarms.set("firewall", f"fault {second}", 1000.0 + second)
        assert told(alarms, 1000.0 + second) == (["+firewall"] if second == BEGINS else [])
    (active,) = alarms.active()
    assert (active.since, active.text) == (1000.0, "fault 199")
    alarms.clear("firewall", 1200.0)
    assert told(alarms, 1200.0 + ENDS - 1) == []
    assert [change.ended for change in alarms.changes(1200.0 + ENDS)] == [1200.0]
    assert alarms.active() == []
    assert told(alarms, 9999.0) == []


def test_what_is_over_before_it_begins_is_never_said() -> None:
    alarms = Alarms()
    alarms.set("firewall", "for a moment", 0.0)
    alarms.clear("firewall", BEGINS - 1)
    assert told(alarms, BEGINS + 100) == []
    alarms.set("firewall", "and again", BEGINS + 101)
    assert told(alarms, BEGINS + 101) == []


def test_what_flickers_is_one_alarm() -> None:
    alarms = Alarms()
    found = []
    for second in range(1000):
        alarms.look("firewall", None if second % 30 > 25 and second > 60 else "it refuses", float(second))
        found += told(alarms, float(second))
    assert found == ["+firewall"]


def test_a_moment_may_be_an_alarm() -> None:
    alarms = Alarms()
    alarms.set("clock-stepped", "by +3600 s", 10.0)
    alarms.clear("clock-stepped", 10.0)
    assert told(alarms, 10.0) == ["+clock-stepped"]
    assert told(alarms, 300.0) == []
    assert told(alarms, 10.0 + NAMES["clock-stepped"].ends) == ["-clock-stepped"]


def test_subjects_are_apart() -> None:
    alarms = Alarms()
    alarms.set("log-stopped", "x", 1.0, "/a")
    alarms.set("log-stopped", "x", 2.0, "/b")
    assert told(alarms, 3.0) == ["+log-stopped /a", "+log-stopped /b"]
    alarms.clear("log-stopped", 4.0, "/a")
    assert told(alarms, 4.0) == ["-log-stopped /a"]


def test_a_step_of_the_clock_neither_begins_nor_ends_anything() -> None:
    alarms = Alarms()
    alarms.set("firewall", "x", 1000.0)
    alarms.shift(-86_400.0)
    assert told(alarms, 1000.0 - 86_400.0 + BEGINS - 1) == []
    assert told(alarms, 1000.0 - 86_400.0 + BEGINS) == ["+firewall"]
    alarms.clear("firewall", 2000.0 - 86_400.0)
    alarms.shift(86_400.0)
    assert told(alarms, 2000.0 + ENDS - 1) == []
    assert told(alarms, 2000.0 + ENDS) == ["-firewall"]


def test_bounded() -> None:
    alarms = Alarms()
    for number in range(10 * MOST):
        alarms.set("log-stopped", "x", 0.0, f"/{number}", [b"\xff" * 100_000] * 100)
    assert len(alarms.changes(0.0)) == MOST
    for alarm in alarms.active():
        assert len(alarm.samples) == SAMPLES
        assert all(len(sample) <= LONGEST for sample in alarm.samples)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain", "plain"),
        (b"a\r\nBcc: all@example.org\n.\n", "a\\x0d\\x0aBcc: all@example.org\\x0a.\\x0a"),
        (b"\x1b]0;owned\x07\x9b2J\x00", "\\x1b]0;owned\\x07\\x9b2J\\x00"),
        ("smörgås \u202e \U0001f600".encode(), "sm\\xf6rg\\xe5s \\u202e \\U0001f600"),
        (b"see https://evil.example/x", "see https[:]//evil.example/x"),
        (b"x" * 10_000, "x" * (LONGEST - 3) + "..."),
    ],
)
def test_a_sample_is_plain_text(text: bytes, shown: str) -> None:
    assert escaped(text) == shown
    assert escaped(text).isascii()
    assert escaped(text).isprintable()
