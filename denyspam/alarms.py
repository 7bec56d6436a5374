"""alarms: what is wrong for longer than a moment, said once when it begins and once when it is over. Pure.

    alarms.set("firewall", "it refuses bans: …", now)    it looks so now
    alarms.clear("firewall", now)                        it does not
    alarms.changes(now) -> [Change]                      what is to be said since the last call

A condition must hold for `begins` seconds before it is an alarm, and be gone for `ends` seconds before that is over, as
NAMES has it: what flickers is told once. `subject` tells several of one name apart, such as two logs.
Samples, and they alone, are log text: escaped, cut, and never part of the alarm's own text.
Bounded: MOST alarms at once, SAMPLES samples of LONGEST characters each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

MOST = 200  # a host has some tens of logs, and three alarms of each
SAMPLES = 5
LONGEST = 300  # characters of a sample


class Kind(NamedTuple):
    begins: float  # seconds that it must hold
    ends: float  # seconds that it must be gone
    text: str  # what it means


NAMES = {
    "log-stopped": Kind(0.0, 0.0, "a log is silent for longer than its habit"),
    "stamps-skewed": Kind(0.0, 0.0, "a log's stamps are not of the time at which its lines arrive"),
    "lines-untaken": Kind(0.0, 0.0, "lines look like refusals, and no filter takes them"),
    "bans-ineffective": Kind(0.0, 0.0, "clients who are banned offend as before"),
    "ledger": Kind(10.0, 60.0, "the ledger cannot be written"),
    "firewall": Kind(10.0, 60.0, "the firewall refuses bans"),
    "clock-stepped": Kind(0.0, 600.0, "the clock was stepped"),
    "fuse-blown": Kind(0.0, 0.0, "those are refused who are known: bans are withheld"),
    "proxy": Kind(0.0, 0.0, "all accepted mail comes through a proxy that hides its clients"),
    "resolver": Kind(0.0, 10.0, "DNS does not answer"),
    "metrics": Kind(0.0, 0.0, "the metrics cannot be served"),
    "notify": Kind(90.0, 0.0, "a notification cannot be delivered"),
}


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str  # of NAMES
    subject: str  # a log's path, a channel, or ""
    since: float  # epoch seconds
    text: str
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{' ' * bool(self.subject)}{self.subject}"


class Change(NamedTuple):
    """An alarm's begin, or its end at `ended`."""

    alarm: Alarm
    ended: float | None = None


class _Sight:
    """A condition that was seen."""

    __slots__ = ("alarm", "gone", "said")

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.gone: float | None = None  # since when it is not seen any more
        self.said = False


class Alarms:
    """All of them. Times are epoch seconds; `shift` follows a step of the clock."""

    def __init__(self) -> None:
        self._sights: dict[tuple[str, str], _Sight] = {}

    def set(self, name: str, text: str, now: float, subject: str = "", samples: Sequence[bytes | str] = ()) -> None:
        """It looks so now. The text may change while it holds; that is not said again."""
        sight = self._sights.get((name, subject))
        shown = tuple(escaped(one) for one in samples[:SAMPLES])
        if sight is None:
            if len(self._sights) < MOST:
                self._sights[name, subject] = _Sight(Alarm(name, subject, now, text, shown))
            return
        sight.gone = None
        sight.alarm = replace(sight.alarm, text=text, samples=shown)

    def clear(self, name: str, now: float, subject: str = "") -> None:
        """It does not look so, or no more."""
        sight = self._sights.get((name, subject))
        if sight is not None and sight.gone is None:
            sight.gone = now

    def look(self, name: str, text: str | None, now: float, subject: str = "") -> None:
        """set() with a text, clear() without one."""
        if text is None:
            self.clear(name, now, subject)
        else:
            self.set(name, text, now, subject)

    def changes(self, now: float) -> list[Change]:
        """What began and what ended since the last call. To be asked every second or so."""
        found = []
        for key, sight in list(self._sights.items()):
            kind = NAMES[sight.alarm.name]
            seen = (now if sight.gone is None else sight.gone) - sight.alarm.since
            if not sight.said and seen >= kind.begins:
                sight.said = True
                found.append(Change(sight.alarm))
            elif sight.gone is not None and (not sight.said or now - sight.gone >= kind.ends):
                del self._sights[key]
                if sight.said:
                    found.append(Change(sight.alarm, sight.gone))
        return found

    def active(self) -> list[Alarm]:
        """Those that were said to have begun, and not yet to be over; the oldest first."""
        return sorted((each.alarm for each in self._sights.values() if each.said), key=lambda alarm: alarm.since)

    def shift(self, seconds: float) -> None:
        """The clock was set by so much: how long things have lasted is the same as before."""
        for sight in self._sights.values():
            sight.alarm = replace(sight.alarm, since=sight.alarm.since + seconds)
            if sight.gone is not None:
                sight.gone += seconds


def escaped(text: bytes | str, longest: int = LONGEST) -> str:
    r"""Log text as plain ASCII of one line that is nothing but text: control characters, and all that is not ASCII, as
    \x1b; `://` as `[:]//`, so that no mail program makes a link of it."""
    whole = text if isinstance(text, str) else text[: 4 * longest].decode("utf-8", "backslashreplace")
    plain = whole[:longest].encode("ascii", "backslashreplace").decode("ascii")
    shown = "".join(one if " " <= one <= "~" else f"\\x{ord(one):02x}" for one in plain).replace("://", "[:]//")
    return shown if len(shown) <= longest and len(whole) <= longest else shown[: longest - 3] + "..."
