"""Stamps against arrival: what is steady is told with its cure; what is not is nobody's fault."""

from __future__ import annotations

from datetime import timezone
from zoneinfo import ZoneInfo

import pytest

from denyspam.skew import BEGINS, Alongside, Skew

NOW = 1_772_614_800.0  # 2026-03-04 09:00 UTC


def fed(*parts: tuple[float, float], every: float = 10.0) -> float | None:
    """steady() after each part: so long a skew for so many seconds, a line every ten."""
    skew, now = Skew(), NOW
    for ahead, seconds in parts:
        for passed in range(0, int(seconds), int(every)):
            skew.add(ahead + passed % 3, now + passed)
        now += seconds
    return skew.steady()


def test_a_zone_that_is_ahead_is_told_soon_and_one_behind_later() -> None:
    assert fed((3600, 500)) is None
    assert fed((3600, 700)) == pytest.approx(3600, abs=3)
    assert fed((-3600, 4000)) is None
    assert fed((-3600, 5000)) == pytest.approx(-3600, abs=3)


def test_the_hour_that_summer_time_repeats_is_no_skew() -> None:
    assert fed((0, 3600), (-3600, 3600)) is None
    assert fed((0, 7200), (-3600, 3600), (0, 3600)) is None
    assert fed((0, 7200), (-3600, 3600), (0, 5000)) == pytest.approx(0, abs=3)


def test_a_backlog_told_late_is_no_skew() -> None:
    skew = Skew()
    for second in range(0, 20_000, 30):
        skew.add(-20_000 + second * 0.9, NOW + second)
    assert skew.steady() is None


def test_a_few_lines_are_not_enough() -> None:
    assert fed((3600, 15 * 600), every=600) is None
    assert fed((3600, 25 * 600), every=600) == pytest.approx(3600, abs=3)


def test_two_clocks_in_one_log_are_not_steady() -> None:
    skew = Skew()
    for second in range(0, 20_000, 30):
        skew.add(3600.0 if second % 60 else 0.0, NOW + second)
    assert skew.steady() is None


@pytest.mark.parametrize(
    ("line", "zone", "ahead", "cure"),
    [
        (b"Mar  4 10:00:00 mx a: b", "UTC", 3600, "set `timezone = Etc/GMT-1, or better Area/City` in [log /l]"),
        (b"Mar  4 08:00:00 mx a: b", "Europe/Berlin", 0, "they are written in a zone at UTC+01:00"),
        (b"Mar  4 09:00:00 mx a: b", "Europe/Berlin", -3600, "set `timezone = UTC` in [log /l]"),
        (b"Mar  4 04:00:00 mx a: b", "UTC", -18_000, "set `timezone = Etc/GMT+5, or better"),
        (
            b"Mar  4 14:30:00 mx a: b",
            "UTC",
            19_800,
            "a zone at UTC+05:30, and read as UTC+00:00; set `timezone = Area/City",
        ),
        (b"Mar  4 09:20:00 mx a: b", "UTC", 1200, "set the clock of the host that writes them, or `stamp = none`"),
        (b"2026-03-04T10:00:00+00:00 mx a: b", "UTC", 3600, "set the clock of the host that writes them"),
        (b"1772618400 mx a: b", "UTC", 3600, "set the clock of the host that writes them"),
        (b"2026-03-04 10:00:00 1abc H=x", "UTC", 3600, "set `timezone = Etc/GMT-1"),
    ],
)
def test_the_cure(line: bytes, zone: str, ahead: float, cure: str) -> None:
    alongside = Alongside(ZoneInfo(zone))
    if ahead:
        assert alongside.ahead(line, NOW) == pytest.approx(ahead)
    told = alongside.cure(ahead, line, NOW, "/l")
    assert cure in told
    if abs(ahead) >= BEGINS:
        assert ("none of its lines can count" in told) == (ahead > 0)


def test_the_zone_that_is_proposed_is_there_and_cures() -> None:
    line = b"Mar  4 10:00:00 mx a: b"
    assert "Etc/GMT-1" in Alongside(timezone.utc).cure(3600, line, NOW, "/l")
    assert Alongside(ZoneInfo("Etc/GMT-1")).ahead(line, NOW) == 0
    behind = b"Mar  4 04:00:00 mx a: b"
    assert Alongside(ZoneInfo("Etc/GMT+5")).ahead(behind, NOW) == 0


def test_a_line_without_a_stamp_says_nothing() -> None:
    assert Alongside(timezone.utc).ahead(b"no stamp here", NOW) is None
