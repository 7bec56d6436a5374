"""Bans that the kernel holds and that stop nobody: noticed, and nothing else is."""

from __future__ import annotations

import sys
import time
from typing import Any

import live as lives
import pytest
from live import Live, relay, until, virus, viruses

from denyspam.events import Ban, Event, Target
from denyspam.unstopped import MOST, SETTLED, Unstopped

NOW = 1_772_614_800.0
CLIENT = "203.0.113.9"


def offence(when: float) -> Event:
    return Event(when, "virus", CLIENT, "postfix", None, None, "/l", 0, 1, b"x")


def ban(since: float) -> Ban:
    return Ban(Target.named(CLIENT, (25,)), "virus", since, since + 3600.0, 5)


def heard(moments: list[float], *, late: float = 0.0, since: float = NOW - SETTLED) -> str | None:
    unstopped = Unstopped()
    for moment in moments:
        unstopped.heard(offence(moment - late), ban(since), moment)
    return unstopped.sentence(moments[-1])


def test_who_offends_on_under_a_ban() -> None:
    said = heard([NOW + 30.0 * n for n in range(5)])
    assert said is not None
    assert "203.0.113.9 (virus), banned 12m before from port 25" in said
    assert "`hooks`" in said


def test_a_flood_is_no_shorter_than_it_lasts() -> None:
    assert heard([NOW + 0.01 * n for n in range(100 * MOST)]) is None
    assert heard([NOW + 0.1 * n for n in range(40 * MOST)]) is not None


@pytest.mark.parametrize(
    "quiet",
    [
        {"moments": [NOW + 30.0 * n for n in range(4)]},  # too few
        {"moments": [NOW + 5.0 * n for n in range(20)]},  # an open session that ends, a scanner's queue
        {"moments": [NOW + 30.0 * n for n in range(9)], "late": 61.0},  # a backlog: before the ban, perhaps
        {"moments": [NOW + 30.0 * n for n in range(9)], "since": NOW},  # just banned
        {"moments": [NOW + 300.0 * n for n in range(9)]},  # now and then
    ],
)
def test_what_is_no_alarm(quiet: dict[str, Any]) -> None:
    assert heard(**quiet) is None


def test_it_is_over_by_itself_and_follows_the_clock() -> None:
    unstopped = Unstopped()
    for n in range(5):
        unstopped.heard(offence(NOW + 30.0 * n), ban(NOW - SETTLED), NOW + 30.0 * n)
    unstopped.shift(-3600.0)
    assert unstopped.sentence(NOW + 120.0 - 3600.0) is not None
    assert unstopped.sentence(NOW + 1000.0 - 3600.0) is None


# The same daemon with less patience.
HASTY = """
from denyspam import unstopped
unstopped.SETTLED, unstopped.SPACED, unstopped.LASTS = 1.0, 0.1, 1.0
from denyspam.cli import main
main()
"""


@pytest.mark.root
def test_a_daemon_notices(daemon: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "DENYSPAM", (sys.executable, "-c", HASTY))
    daemon.start()
    daemon.write(viruses(CLIENT, 5))
    until(lambda: daemon.held() == {CLIENT}, "the ban")

    def told(*lines: str) -> dict[str, str]:
        daemon.write(lines)
        until(lambda: daemon.status()["logs"][str(daemon.log)]["lag_bytes"] == 0, "the lines to be read")
        return {alarm["name"]: alarm["text"] for alarm in daemon.status()["alarms"]}

    begun, times = time.monotonic(), 0
    while times < 15 or time.monotonic() < begun + 4.0:  # longer than one who counted would take to be an alarm
        times += 1  # of another kind than he is banned for: on another port, perhaps
        assert "bans-ineffective" not in told(relay(CLIENT, time.time()), virus("203.0.113.10", time.time() - 9e5))
    text = until(lambda: told(virus(CLIENT, time.time(), f"4Y{time.time_ns()}")).get("bans-ineffective"), "the alarm")
    assert f"{CLIENT} (virus)" in text
    assert "ALARM bans-ineffective" in daemon.ask("status").stdout
