"""silence: how long a log may be silent before that is out of the ordinary, learned from the log itself. Pure.

    habit.observe(last, now)         every minute: when the log's last line came, and what time it is
    habit.limit(last, now)           seconds that a silence since `last` may last by habit; None: not known yet

Learned are, for every hour of the week, the longest silence over several weeks (a silence belongs to every hour that it
touches) and in how many of its minutes lines came. A silence is judged by the most tolerant of the hours that it has
touched, and of the next one: a log that stops in the middle of a busy day is given FACTOR times its longest silence at
that time of the week, and never less than LEAST; one that falls silent when its people go home as many times their
longest night, and HOLIDAYS besides. And MISSED lines or more must have been missed by then: where few come a day, a
long silence is chance.
An hour counts once it was seen in an earlier week; so nothing is said in the first one, but for a log that was never
silent for longer than RESTLESS in its first day and night. What was longest is forgotten by FORGET a week.
A silence that was an alarm is learned as twice the limit at most: a real one must not spoil the habit, and a false one
must not come again and again.

Times are epoch seconds; `zone` is the host's, as people's habits are local. State: a few numbers for each
hour of the week, saved as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, tzinfo

HOUR, WEEK = 3600.0, 7 * 86_400.0
SLOTS = 168
FACTOR = 4.0
ASLEEP, HOLIDAYS = 4 * HOUR, 48 * HOUR  # a silence of that kind in an hour's past means that nobody may be there
LEAST = 3600.0  # seconds: no silence shorter than this is worth a word
RESTLESS = 600.0
DAY = 24  # hours that must have been seen of a log that never sleeps
FORGET = 0.7  # of the longest silence is left after a week
MISSED = 15.0  # minutes with a line: that all of 15 are missing by chance happens once in 3 million times
NEWER = 0.3  # what an hour's minutes of this week weigh against those of the weeks before
BETWEEN = 300.0  # seconds between two calls of observe() that are one observation; more: we were not there


class Silence:
    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._longest = [0.0] * SLOTS  # seconds, in the weeks up to the one of `_weeks`
        self._weeks: list[int | None] = [None] * SLOTS  # the week in which the hour was last seen
        self._first: list[int | None] = [None] * SLOTS  # and first
        self._rates = [0.0] * SLOTS  # minutes with lines
        self._minutes = (-1, 0)  # of the hour at hand: which, and in how many of its minutes a line came
        self._last: float | None = None
        self._now: float | None = None

    def observe(self, last: float, now: float) -> None:
        """The log's last line came at `last`, as far as is known `now`."""
        before, then = self._last, self._now
        if before is not None and then is not None and now - then <= BETWEEN:
            if last > before:
                self._learn(before, then)
            self._see(now, last > before)
        self._last, self._now = last, now

    def limit(self, last: float, now: float) -> float | None:
        """How long a silence that began at `last` may be."""
        week = int(now // WEEK)
        longest = 0.0
        for slot in self._touched(last, now + HOUR):
            first = self._first[slot]
            if first is None or first >= week:
                return self._restless()
            longest = max(longest, self._longest[slot])
        holidays = HOLIDAYS if longest >= ASLEEP else 0.0
        return max(LEAST, FACTOR * longest + holidays, self._missing(last))

    def _missing(self, last: float) -> float:
        """The seconds after which MISSED lines are missed."""
        passed = last % HOUR  # zones of half hours are read as whole ones here
        missed, start = 0.0, last - passed
        for number in range(SLOTS):
            share = 1.0 - passed / HOUR if not number else 1.0
            missed += share * self._rates[self._slot(start + number * HOUR)]
            if missed >= MISSED:
                return (number + 1) * HOUR - passed
        return WEEK

    def _restless(self) -> float | None:
        seen = [longest for longest, first in zip(self._longest, self._first, strict=True) if first is not None]
        return LEAST if len(seen) > DAY and max(seen) <= RESTLESS else None

    def _see(self, now: float, heard: bool) -> None:
        slot, week = self._slot(now), int(now // WEEK)
        at, minutes = self._minutes
        if slot == at:
            self._minutes = slot, minutes + heard
        else:
            if at >= 0:
                new = self._first[at] == self._weeks[at] and not self._rates[at]
                self._rates[at] += (minutes - self._rates[at]) * (1.0 if new else NEWER)
            self._minutes = slot, int(heard)
        seen = self._weeks[slot]
        if seen is None:
            self._first[slot] = week
        elif week > seen:
            self._longest[slot] *= FORGET ** (week - seen)
        self._weeks[slot] = week

    def _learn(self, last: float, now: float) -> None:
        """A silence from `last` to `now` is over."""
        length = now - last
        limit = self.limit(last, now)
        if limit is not None and length > limit:
            length = 2 * limit
        for slot in self._touched(last, now):
            self._longest[slot] = max(self._longest[slot], length)

    def _touched(self, start: float, end: float) -> Iterator[int]:
        """The hours of the week from `start` to `end`."""
        if end - start >= WEEK:
            yield from range(SLOTS)
            return
        passed = datetime.fromtimestamp(start, self._zone).minute * 60.0 + 59
        first, count = self._slot(start), int((passed + end - start) // HOUR) + 1
        yield from ((first + number) % SLOTS for number in range(min(count, SLOTS)))

    def _slot(self, time: float) -> int:
        local = datetime.fromtimestamp(time, self._zone)
        return local.weekday() * 24 + local.hour

    def shift(self, seconds: float) -> None:
        """The clock was set by so much."""
        if self._last is not None and self._now is not None:
            self._last, self._now = self._last + seconds, self._now + seconds

    def text(self) -> str:
        """What was learned, for restore()."""
        longest, rates = ([round(one, 2) for one in numbers] for numbers in (self._longest, self._rates))
        return json.dumps([longest, rates, self._weeks, self._first])

    def restore(self, text: str) -> None:
        """What text() gave. ValueError where it is anything else."""
        try:
            longest, rates, weeks, first = json.loads(text)
            numbers = [float(one) for one in longest], [float(one) for one in rates]
            known = [_week(one) for one in weeks], [_week(one) for one in first]
        except TypeError as error:
            raise ValueError(str(error)) from error
        if {len(one) for one in (*numbers, *known)} != {SLOTS} or not all(0 <= n < 1e9 for one in numbers for n in one):
            raise ValueError("not the silences of a week")
        self._longest, self._rates = numbers
        self._weeks, self._first = known


def _week(value: object) -> int | None:
    if value is not None and not isinstance(value, int):
        raise ValueError(f"{value!r} is no week")
    return value
