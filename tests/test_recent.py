"""Rates by the second, also of a daemon that is late."""

from __future__ import annotations

from denyspam.recent import SECONDS, Recent


def test_what_happened_in_each_second() -> None:
    recent = Recent(("lines", "events"))
    for now, totals in ((100.0, (1000, 5)), (101.0, (1010, 5)), (102.0, (1040, 6))):
        recent.sample(now, totals)
    assert recent.rates() == {"lines": [10.0, 30.0], "events": [0.0, 1.0]}


def test_what_a_late_sample_brings_is_spread_over_its_seconds() -> None:
    recent = Recent(("lines",))
    for now, total in ((0.0, 0), (3.0, 30), (3.2, 33), (4.0, 40)):
        recent.sample(now, (total,))
    assert recent.rates() == {"lines": [10.0, 10.0, 10.0, 10.0]}


def test_no_more_than_so_many_seconds_are_kept() -> None:
    recent = Recent(("lines",))
    for now in range(2 * SECONDS):
        recent.sample(float(now), (now,))
    recent.sample(1e9, (2 * SECONDS,))  # the host slept
    assert len(recent.rates()["lines"]) == SECONDS


def test_totals_that_begin_anew_are_no_negative_rate() -> None:
    recent = Recent(("lines",))
    recent.sample(0.0, (500,))
    recent.sample(1.0, (3,))
    assert recent.rates() == {"lines": [0.0]}
