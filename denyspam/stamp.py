"""stamp: the time at the start of a log line. Pure; `now` is an argument.

Reads, after an optional `<PRI>` and the RFC 5424 version `1 `, or after docker compose's `service-1  | `:
    Mar  4 10:00:00            classic syslog (RFC 3164), also with a fraction or with a year after the day; months also
                               as journalctl writes them where LANG is German, French, Spanish, Italian, Dutch, …
    Wed Mar  4 10:00:00 2026   OpenWrt's logd; Wed 2026-03-04 10:00:00 CET is journalctl's short-full
    [04-Mar-2026 10:00:00 +0100]: PHP's error_log, so Roundcube; [04/Mar/2026 10:00:00] is Kerio Connect's
    2026-03-04T10:00:00.5+01:00  RFC 3339; exim's 2026-03-04 10:00:00[.123][ +0100]; without a zone: the log's
    1772614800.5               epoch seconds
    @4000000069a7...           TAI64N, as daemontools write it (label minus 2**62 minus 10 s)

A stamp without a year means the latest such date that is at most 24 h ahead of `now` (so Feb 29 goes back to the last
leap year). Impossible dates and times more than 10 minutes ahead of `now` are None: they are nobody's hit.
The hour that a DST change repeats is read as its first pass, live and in replay alike.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo

AHEAD = 600.0  # seconds a stamp may be ahead of now: clocks of a mail host differ by seconds, not by minutes
DAY = 86400.0
CERTAIN = 300 * DAY  # a cached stamp without a year that is younger than this cannot mean another year
HOURS = 4096  # texts of hours remembered: half a year of a log, 1 MB
OLDEST = 8  # years back until every day of the calendar has occurred (1896-1904 apart)

MONTHS = {
    name.encode(): index + 1
    for index, names in enumerate(
        (
            "jan janv ene gen",
            "feb févr fev",
            "mar mär mars mrt",
            "apr avril abr",
            "may mai mei mag maj",
            "jun juin giu",
            "jul juil lug",
            "aug août ago",
            "sep sept set",
            "oct okt ott out",
            "nov",
            "dec déc dez dic des",
        )
    )
    for name in names.split()
}

_PASSED = {b"%02d:%02d" % (minute, second): minute * 60.0 + second for minute in range(60) for second in range(60)}
_PASSED_BLANK = {text + b" ": seconds for text, seconds in _PASSED.items()}  # one look tells both
_SIGNS = frozenset((b"+", b"-"))
_ZONES = frozenset((b"Z", *_SIGNS))
_POINTS = frozenset((b".", b","))

_STAMP = re.compile(
    rb"(?:[0-9A-Za-z][0-9A-Za-z_.-]{0,62} *\| )?(?:<\d{1,3}>)?(?:1 )?(?P<weekday>(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?(?:"
    rb"(?P<syslog>[A-Za-z\x80-\xff]{3,6}\.? {1,2}\d{1,2}(?: \d{4})? \d\d:\d\d:\d\d(?(weekday)(?: \d{4})?))"
    rb"(?P<f1>\.\d{1,9})?:?"
    rb"|(?P<iso>\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d)(?P<f2>[.,]\d{1,9})?(?P<zone>Z| ?[+-]\d\d:?\d\d)?"
    rb"(?(weekday)(?: [A-Z]{2,5})?)"
    rb"|\[(?P<day>\d{1,2})[-/](?P<month>[A-Z][a-z]{2})[-/](?P<year>\d{4})[ :](?P<clock>\d\d:\d\d:\d\d)(?:\.\d{1,6})?"
    rb"(?P<offset> [+-]\d{4})?\]:?"
    rb"|(?P<epoch>\d{9,11})(?P<f3>\.\d{1,9})?"
    rb"|@(?P<tai>[0-9a-f]{24})"
    rb")(?: |$)"
)


class Stamps:
    """The stamps of one log: `zone` for stamps that name none, `year` (or None) for those without one.

    `arrival=True` is the setting `stamp = none`: a stamp is skipped where there is one, and the time is `now`.
    """

    def __init__(self, zone: tzinfo, year: int | None = None, *, arrival: bool = False) -> None:
        self._zone = zone
        self._year = year
        self._arrival = arrival
        # The text of an hour, with the zone where one is named -> when it began; only hours of 3600 seconds
        self._hours: dict[bytes, float] = {}

    def read(self, line: bytes, now: float) -> tuple[float | None, int]:
        """(epoch seconds or None, offset of the first byte after the stamp and its blank; 0: there is no stamp).

        The usual forms in an hour that is known already cost two look-ups; `parse` reads any.
        """
        hour = self._hours.get(line[:10])  # ends in a colon, as no other of ten bytes does
        if hour is not None:
            passed = _PASSED_BLANK.get(line[10:16])
            if passed is not None:
                time = hour + passed
                if now - CERTAIN < time <= now + AHEAD:
                    return time, 16
        elif line[19:20] == b" " and line[20:21] not in _SIGNS:
            hour, passed = self._hours.get(line[:14]), _PASSED.get(line[14:19])
            if hour is not None and passed is not None:
                time = hour + passed
                if time <= now + AHEAD:
                    return time, 20
        elif line[13:14] == b":":
            end = line.find(b" ", 19, 42)
            rest = line[19:end]  # of a fraction and a zone
            zone = rest[-1:] if rest[-1:] == b"Z" else rest[-6:] if rest[-6:-5] in _SIGNS else rest[-5:]
            if not rest or zone[:1] not in _ZONES:
                zone = b""
            fraction = rest[: len(rest) - len(zone)]
            hour = self._hours.get(line[:14] + zone)
            passed = _PASSED.get(line[14:19])
            if hour is not None and passed is not None and end > 0 and (zone or line[end + 1 : end + 2] not in _SIGNS):
                time = hour + passed
                if not fraction:
                    if time <= now + AHEAD:
                        return time, end + 1
                elif fraction[:1] in _POINTS and len(fraction) <= 10 and fraction[1:].isdigit() and time <= now + AHEAD:
                    return time + float(b"0." + fraction[1:]), end + 1
        return self.parse(line, now)

    def parse(self, line: bytes, now: float) -> tuple[float | None, int]:
        """As `read`, without its memory."""
        found = _STAMP.match(line)
        if found is None:
            return (now if self._arrival else None), 0
        end = found.end()
        if self._arrival:
            return now, end
        syslog, fraction, iso, iso_fraction, zone, epoch, epoch_fraction, tai = found.group(
            "syslog", "f1", "iso", "f2", "zone", "epoch", "f3", "tai"
        )
        time: float | None
        if syslog is not None:
            time = self._syslog(syslog, now)
            if time is not None and len(syslog) == 15 and syslog == line[:15]:
                first, last = (self._syslog(syslog[:10] + clock, now) for clock in (b"00:00", b"59:59"))
                self._learn(line[:10], syslog[10:], time, first, last)
        elif iso is not None:
            time, fraction = self._iso(iso, zone), iso_fraction
            if time is not None and iso == line[:19]:
                first, last = (self._iso(iso[:14] + clock, zone) for clock in (b"00:00", b"59:59"))
                self._learn(line[:14] + (zone or b""), iso[14:], time, first, last)
        elif epoch is not None:
            time, fraction = float(epoch), epoch_fraction
        elif tai is None:
            day, name, year, clock, zone = found.group("day", "month", "year", "clock", "offset")
            month = MONTHS.get(name.lower(), 0)
            try:
                time = self._epoch(int(year), month, int(day), clock, _zone(zone))
            except ValueError:
                time = None
        else:
            time = int(tai[:16], 16) - 2**62 - 10 + int(tai[16:], 16) / 1e9
        if time is None or time > now + AHEAD:
            return None, end
        if fraction is not None:
            time += float(b"0." + fraction[1:])
        return time, end

    def _learn(self, key: bytes, passed: bytes, time: float, first: float | None, last: float | None) -> None:
        """Remember an hour, unless a clock change falls into it: `first` and `last` are its first and last second."""
        seconds = _PASSED.get(passed)
        if first is not None and last is not None and last - first == 3599 and seconds == time - first:
            if len(self._hours) >= HOURS:
                self._hours.clear()
            self._hours[key] = first

    def _syslog(self, text: bytes, now: float) -> float | None:
        name, day, *others = text.split()
        clock = next(word for word in others if b":" in word)
        year = next((int(word) for word in others if b":" not in word), self._year)
        month = MONTHS.get(name.rstrip(b".").lower(), 0)
        if year is not None:
            return self._epoch(year, month, int(day), clock)
        newest = datetime.fromtimestamp(now + DAY, self._zone).year
        for candidate in range(newest, newest - OLDEST - 1, -1):
            time = self._epoch(candidate, month, int(day), clock)
            if time is not None and time <= now + DAY:
                return time
        return None

    def _iso(self, text: bytes, zone: bytes | None) -> float | None:
        try:
            named = _zone(zone)
        except ValueError:
            return None
        return self._epoch(int(text[:4]), int(text[5:7]), int(text[8:10]), text[11:], named)

    def _epoch(self, year: int, month: int, day: int, clock: bytes, zone: tzinfo | None = None) -> float | None:
        hour, minute, second = map(int, clock.split(b":"))
        leap = second == 60  # a leap second: 23:59:60 is the second after 23:59:59
        try:
            moment = datetime(year, month, day, hour, minute, second - leap, tzinfo=zone or self._zone)
            return moment.timestamp() + leap
        except (ValueError, OverflowError):  # Feb 30, 9999-99-99; zones overflow in the years 1 and 9999
            return None


def _zone(text: bytes | None) -> tzinfo | None:
    """`Z`, `+01:00`, ` -0330`; None means the log's. Raises ValueError for a day and more."""
    if text is None or text == b"Z":
        return None if text is None else timezone.utc
    digits = text.strip().replace(b":", b"")
    minutes = int(digits[1:3]) * 60 + int(digits[3:5])
    return timezone(timedelta(minutes=-minutes if digits[:1] == b"-" else minutes))
