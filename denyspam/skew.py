"""skew: whether a log's stamps are of the time at which its lines arrive. Pure.

    skew.add(stamp - arrival, now)       of a line that was read as it came, at most one in BETWEEN counts
    skew.steady()                        seconds that stamps are ahead (or, below 0, behind), once that is steady

Steady is what MANY lines agree on, to the ALIKE seconds, over a time: stamps ahead for AHEAD, stamps behind for BEHIND,
since they are an hour behind, for an hour, in the night when summer time ends. A backlog that is told late does not
agree with itself. `cure` says what to do about it; nothing is ever guessed.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta, timezone, tzinfo

from denyspam import show
from denyspam.stamp import DAY, Stamps

BETWEEN = 30.0
MANY = 20
ALIKE = 120.0
AHEAD, BEHIND = 600.0, 4500.0
KEPT = int(2 * BEHIND / BETWEEN)
BEGINS, ENDS = 600.0, 300.0  # seconds of skew that are an alarm, and that are none any more
QUARTER = 900.0  # zones differ by quarters of an hour
FARTHEST = 14 * 3600.0


class Skew:
    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (when, ahead)

    def add(self, ahead: float, now: float) -> None:
        if self._seen and (now < self._seen[-1][0] or abs(ahead - self._seen[-1][1]) > ALIKE):
            self._seen.clear()
        if not self._seen or now - self._seen[-1][0] >= BETWEEN:
            self._seen.append((now, ahead))

    def clear(self) -> None:
        """The clock was set."""
        self._seen.clear()

    def steady(self) -> float | None:
        if len(self._seen) < MANY:
            return None
        values = sorted(ahead for _, ahead in self._seen)
        middle = values[len(values) // 2]
        span = self._seen[-1][0] - self._seen[0][0]
        if values[-1] - values[0] > ALIKE or span < (AHEAD if middle > 0 else BEHIND):
            return None
        return middle


class Alongside:
    """The stamps of a log, read without the limits that lines are held to: also those of the future."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._stamps = Stamps(zone)
        self._others = [Stamps(timezone(timedelta(hours=hours))) for hours in (0, 1)]

    def ahead(self, line: bytes, now: float) -> float | None:
        """How far this line's stamp is ahead of `now`; None where it has none."""
        time, _ = self._stamps.parse(line, now + DAY)
        return None if time is None else time - now

    def cure(self, ahead: float, line: bytes, now: float, path: str) -> str:
        """What such a skew is, and what to do about it; `line` is one of them."""
        side = "ahead of" if ahead > 0 else "behind"
        told = f"stamps are {show.duration(abs(ahead))} {side} their arrival"
        effect = "none of its lines can count" if ahead > 0 else "its bans end too early"
        times = {stamps.parse(line, now + 2 * DAY)[0] for stamps in self._others}
        offset = datetime.fromtimestamp(now, self._zone).utcoffset() or timedelta()
        turns = round(ahead / QUARTER)
        wanted = offset + timedelta(seconds=turns * QUARTER)
        zoned = len(times) == 1  # whatever zone is assumed, the stamp says its own
        if zoned or abs(ahead - turns * QUARTER) > ALIKE or abs(wanted).total_seconds() > FARTHEST:
            return f"{told}, so {effect}: set the clock of the host that writes them, or `stamp = none` in [log {path}]"
        return (
            f"{told}, so {effect}: they are written in a zone at {_utc(wanted)}, and read as {_utc(offset)}; "
            f"set `timezone = {_name(wanted)}` in [log {path}]"
        )


def _utc(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"UTC{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _name(offset: timedelta) -> str:
    """A zone that is there; the sign of Etc/GMT is the other way round."""
    hours, rest = divmod(offset.total_seconds(), 3600)
    if rest:
        return "Area/City"
    return f"Etc/GMT{-hours:+.0f}, or better Area/City" if hours else "UTC"
