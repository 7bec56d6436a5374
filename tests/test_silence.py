"""How long a log may be silent: learned from made-up servers, week after week, minute by minute."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import timezone
from zoneinfo import ZoneInfo

import pytest

from denyspam.silence import LEAST, SLOTS, Silence

HOUR, DAY = 3600.0, 86_400.0
MONDAY = 1_772_409_600.0  # 2026-03-02 00:00 UTC
HOLIDAYS = (24, 59, 60, 61, 62, 63)  # a Thursday, and a week off

Rate = Callable[[float, int], float]  # (hour of the day, day since the first) -> lines an hour


def office(hour: float, day: int) -> float:
    """People who write by day, on working days; a line now and then else."""
    if day % 7 >= 5 or day in HOLIDAYS:
        return 0.02
    return 8.0 if 8 <= hour < 18 else 0.1


def small(hour: float, day: int) -> float:
    return 3.0 if 7 <= hour < 23 else 0.0


def tiny(hour: float, day: int) -> float:
    """Five lines a day, whenever."""
    return 5 / 24


def busy(hour: float, day: int) -> float:
    return 60.0


def nightly(hour: float, day: int) -> float:
    """One report each night, and nothing else."""
    return 30.0 if 3 <= hour < 3.2 else 0.0


def lines(rate: Rate, days: float, seed: int) -> Iterator[float]:
    chance, peak = random.Random(seed), 60.0 if rate is busy else 30.0 if rate is nightly else 8.0
    time = MONDAY
    while time < MONDAY + days * DAY:
        time += chance.expovariate(peak / HOUR)
        passed = time - MONDAY
        if chance.random() < rate(passed / HOUR % 24, int(passed // DAY)) / peak:
            yield time


def alarms(
    rate: Rate, days: float, *, seed: int = 1, stops: float = 1e9, habit: Silence | None = None
) -> list[tuple[float, float]]:
    """(when, after how long a silence), both in days since the start, of every alarm."""
    habit = habit or Silence(timezone.utc)
    found: list[tuple[float, float]] = []
    coming = lines(rate, days, seed)
    last, following, told = MONDAY, next(coming, 1e18), False
    for minute in range(int(days * 1440)):
        now = MONDAY + minute * 60.0
        while following <= now:
            if following < MONDAY + stops * DAY:
                last, told = following, False
            following = next(coming, 1e18)
        habit.observe(last, now)
        if now - last > LEAST and not told and minute % 10 == 0:
            limit = habit.limit(last, now)
            if limit is not None and now - last > limit:
                told = True
                found.append(((now - MONDAY) / DAY, (now - last) / DAY))
    return found


@pytest.mark.parametrize("rate", [office, small, tiny, busy, nightly])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_false_alarm(rate: Rate, seed: int) -> None:
    assert alarms(rate, 70, seed=seed) == []


@pytest.mark.parametrize(
    ("rate", "stops", "within"),
    [
        (busy, 1.5, 1.1 / 24),  # its second day
        (busy, 20.6, 1.5 / 24),
        (busy, 26.1, 1.5 / 24),  # also in the night of a Saturday
        (office, 29.5, 6 / 24),  # on a Tuesday, at noon: before they go home
        (small, 29.4, 12 / 24),
        (tiny, 29.0, 7.0),
    ],
)
def test_a_log_that_stops_is_told(rate: Rate, stops: float, within: float) -> None:
    (found,) = alarms(rate, stops + 8, stops=stops)
    assert stops < found[0] <= stops + within + 0.5 / 24


def test_nothing_is_said_of_a_log_that_is_not_known() -> None:
    assert alarms(office, 7, stops=3.5) == []
    assert alarms(busy, 0.9, stops=0.5) == []


def test_a_real_stop_does_not_spoil_the_habit_and_a_false_alarm_is_not_repeated() -> None:
    habit = Silence(timezone.utc)
    alarms(busy, 15, habit=habit)
    now = MONDAY + 15 * DAY
    for minute in range(3 * 1440):  # three days without a line
        habit.observe(now, now + minute * 60.0)
    after = now + 3 * DAY
    habit.observe(after, after)
    limit = habit.limit(after - HOUR, after)
    assert limit is not None
    assert 2 * HOUR <= limit <= 12 * HOUR


def test_what_was_learned_can_be_kept() -> None:
    habit = Silence(ZoneInfo("Europe/Berlin"))
    alarms(office, 15, habit=habit)
    again = Silence(ZoneInfo("Europe/Berlin"))
    again.restore(habit.text())
    now = MONDAY + 15.5 * DAY
    assert again.limit(now - 60, now) == pytest.approx(habit.limit(now - 60, now), abs=1)
    assert len(habit.text()) < 10_000


@pytest.mark.parametrize(
    "text", ["", "x", "[]", "[1, 2, 3, 4]", "null", '{"a": 1}', "[[], [], [], []]", "[[[]], 1, 2, 3]"]
)
def test_what_is_not_what_was_kept_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Silence(timezone.utc).restore(text)
    numbers = [0.0] * SLOTS
    with pytest.raises(ValueError):
        Silence(timezone.utc).restore(f"[{numbers}, {numbers}, {numbers}, {numbers[1:]}]")


def test_a_time_without_us_is_no_silence() -> None:
    """Two calls far apart: the daemon was not there."""
    habit = Silence(timezone.utc)
    alarms(busy, 15, habit=habit)
    away = MONDAY + 16 * DAY
    habit.observe(away, away)
    limit = habit.limit(away, away)
    assert limit is not None
    assert limit < 2 * HOUR


def test_a_step_of_the_clock_is_no_silence() -> None:
    habit = Silence(timezone.utc)
    alarms(busy, 15, habit=habit)
    habit.shift(DAY)
    now = MONDAY + 16 * DAY
    habit.observe(now - 30, now)
    limit = habit.limit(now, now)
    assert limit is not None
    assert limit < 2 * HOUR
