"""stamp: every form of time a log line begins with, over New Year, leap days and clock changes."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denyspam.stamp import Stamps

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts: int, zone: object = UTC) -> float:
    return datetime(*parts, tzinfo=zone).timestamp()  # type: ignore[arg-type,misc]


NOW = at(2026, 3, 4, 12)


@pytest.mark.parametrize(
    ("line", "time", "rest"),
    [
        (b"Mar  4 10:00:00 mx x: y", at(2026, 3, 4, 10), b"mx x: y"),
        (b"Mar 4 10:00:00 mx x: y", at(2026, 3, 4, 10), b"mx x: y"),
        (b"Mar 04 10:00:00.250 mx x: y", at(2026, 3, 4, 10) + 0.25, b"mx x: y"),
        (b"Mar  4 2025 10:00:00 mx x: y", at(2025, 3, 4, 10), b"mx x: y"),
        (b"<22>Mar  4 10:00:00 mx x: y", at(2026, 3, 4, 10), b"mx x: y"),
        (b"<22>1 2026-03-04T10:00:00Z mx x 1 - - y", at(2026, 3, 4, 10), b"mx x 1 - - y"),
        (b"2026-03-04T10:00:00.5+01:00 mx x: y", at(2026, 3, 4, 9) + 0.5, b"mx x: y"),
        (b"2026-03-04T10:00:00-0330 mx x: y", at(2026, 3, 4, 13, 30) - 7200 - 1800, b"mx x: y"),
        (b"2026-03-04 10:00:00 H=x", at(2026, 3, 4, 10), b"H=x"),
        (b"2026-03-04 10:00:00.123 +0100 H=x", at(2026, 3, 4, 9) + 0.123, b"H=x"),
        (b"1772614800 mx x: y", 1772614800.0, b"mx x: y"),
        (b"1772614800.75 mx x: y", 1772614800.75, b"mx x: y"),
        (b"@4000000069a7f9da1dcd6500 x: y", 0x69A7F9DA - 10 + 0.5, b"x: y"),
        (b"Wed Mar  4 10:00:00 2026 mail.info x[1]: y", at(2026, 3, 4, 10), b"mail.info x[1]: y"),  # OpenWrt
        (b"Wed 2026-03-04 10:00:00 CET mx x: y", at(2026, 3, 4, 10), b"mx x: y"),  # journalctl -o short-full
        (b"mailserver-1  | Mar  4 10:00:00 mx x: y", at(2026, 3, 4, 10), b"mx x: y"),  # docker compose logs
        ("Mär 04 10:00:00 mx x: y".encode(), at(2026, 3, 4, 10), b"mx x: y"),  # journalctl, LANG=de_DE
        ("déc. 24 10:00:00 mx x: y".encode(), at(2025, 12, 24, 10), b"mx x: y"),
        (b"[04-Mar-2026 10:00:00 +0100]: <ab> x", at(2026, 3, 4, 9), b"<ab> x"),  # PHP's error_log
        (b"[04/Mar/2026 10:00:00] x", at(2026, 3, 4, 10), b"x"),  # Kerio Connect
        (b"2026/03/04 10:00:00 mx x: y", at(2026, 3, 4, 10), b"mx x: y"),  # syslog-ng's templates
        (b"2026-03-04 10:00:00 SMTP call from x", at(2026, 3, 4, 10), b"SMTP call from x"),  # exim's word, no zone
    ],
)
def test_forms(line: bytes, time: float, rest: bytes) -> None:
    if b"-0330" in line:
        time = at(2026, 3, 4, 13, 30)
        found, end = Stamps(UTC).read(line, at(2026, 3, 4, 14))
    else:
        found, end = Stamps(UTC).read(line, NOW)
    assert found == pytest.approx(time, abs=1e-6)
    assert line[end:] == rest


@pytest.mark.parametrize(
    "line",
    [
        b"Feb 30 10:00:00 mx x: y",
        b"Foo  4 10:00:00 mx x: y",
        b"Mar  4 25:00:00 mx x: y",
        b"2026-02-30T10:00:00Z mx x: y",
        b"9999-99-99 10:00:00 H=x",
        b"9999-12-31T23:59:59-01:00 mx x: y",
        b"2026-03-04T10:00:00+99:00 mx x: y",
        b"[04-Mar-2026 10:00:00 +9900]: x",
        b"[04-Foo-2026 10:00:00]: x",
        b"Mar  4 12:10:01 mx x: y",  # ten minutes and a second ahead
        b"99999999999 mx x: y",
        b"@7fffffffffffffff00000000 x: y",
    ],
)
def test_impossible_times_are_none_but_the_line_goes_on(line: bytes) -> None:
    time, end = Stamps(UTC).read(line, NOW)
    assert time is None
    assert end > 0


def test_no_stamp() -> None:
    assert Stamps(UTC).read(b"{NONE} mx x: y", NOW) == (None, 0)


def test_ten_minutes_ahead_are_still_now() -> None:
    assert Stamps(UTC).read(b"Mar  4 12:10:00 mx x: y", NOW)[0] == NOW + 600


def test_new_year_looks_back() -> None:
    stamps = Stamps(UTC)
    assert stamps.read(b"Dec 31 23:59:59 mx x: y", at(2027, 1, 1, 0, 0, 1))[0] == at(2026, 12, 31, 23, 59, 59)
    assert stamps.read(b"Jan  1 00:00:02 mx x: y", at(2027, 1, 1, 0, 0, 3))[0] == at(2027, 1, 1, 0, 0, 2)
    # our clock is a little behind the log's: next year's first seconds are not last year's
    assert stamps.read(b"Jan  1 00:00:05 mx x: y", at(2026, 12, 31, 23, 59, 58))[0] == at(2027, 1, 1, 0, 0, 5)


def test_a_cached_stamp_changes_its_year_with_now() -> None:
    stamps = Stamps(UTC)
    line = b"Jun  1 00:00:00 mx x: y"
    assert stamps.read(line, at(2026, 6, 2))[0] == at(2026, 6, 1)
    assert stamps.read(line, at(2027, 5, 30))[0] == at(2026, 6, 1)
    assert stamps.read(line, at(2027, 6, 2))[0] == at(2027, 6, 1)
    assert stamps.read(line, at(2026, 6, 2))[0] == at(2026, 6, 1)


def test_leap_day() -> None:
    assert Stamps(UTC).read(b"Feb 29 10:00:00 mx x: y", at(2028, 3, 1))[0] == at(2028, 2, 29, 10)
    assert Stamps(UTC).read(b"Feb 29 10:00:00 mx x: y", at(2027, 3, 1))[0] == at(2024, 2, 29, 10)
    assert Stamps(UTC, 2027).read(b"Feb 29 10:00:00 mx x: y", at(2028, 3, 1))[0] is None


def test_given_year() -> None:
    assert Stamps(UTC, 2003).read(b"Nov  3 20:26:45 mx x: y", NOW)[0] == at(2003, 11, 3, 20, 26, 45)


def test_leap_second() -> None:
    time, _ = Stamps(UTC).read(b"2016-12-31T23:59:60Z mx x: y", NOW)
    assert time == at(2017, 1, 1)


def test_daylight_saving() -> None:
    stamps = Stamps(BERLIN)
    summer = at(2026, 7, 1)
    before, _ = stamps.read(b"Mar 29 01:59:59 mx x: y", summer)
    after, _ = stamps.read(b"Mar 29 03:00:00 mx x: y", summer)
    assert (before, after) == (at(2026, 3, 29, 0, 59, 59), at(2026, 3, 29, 1))
    winter = at(2026, 12, 1)
    repeated, _ = stamps.read(b"Oct 25 02:30:00 mx x: y", winter)
    assert repeated == at(2026, 10, 25, 0, 30)  # the first of the two
    assert stamps.read(b"Oct 25 03:00:00 mx x: y", winter)[0] == at(2026, 10, 25, 2)


def test_arrival_time() -> None:
    stamps = Stamps(UTC, arrival=True)
    line = b"Feb 30 10:00:00 mx x: y"
    time, end = stamps.read(line, NOW)
    assert (time, line[end:]) == (NOW, b"mx x: y")
    assert stamps.read(b"x: y", NOW) == (NOW, 0)


def test_the_cache_is_bounded() -> None:
    stamps = Stamps(UTC)
    for second in range(10_000):
        line = b"2026-03-04T%02d:%02d:%02dZ x" % (second // 3600, second // 60 % 60, second % 60)
        assert stamps.read(line, NOW)[0] == at(2026, 3, 4) + second
    assert len(stamps._hours) <= 4096


CLOCKS = st.builds(
    "{:02d}:{:02d}:{:02d}".format, st.sampled_from((1, 2, 3, 23, 24)), st.integers(0, 61), st.integers(0, 61)
)
DAYS = st.sampled_from(("Mar 28", "Mar 29", "Oct 25", "Oct  4", "Apr  5", "Feb 29", "Dec 31", "Jan  1", "Jan 1"))
ZONES = st.sampled_from(("", "Z", "+01:00", "-0330", " +0100", "+1", "+99:99", "Z+"))
TAILS = st.sampled_from((" ", "", ": ", " - ", " + ", " +0100 ", "x "))
STAMPS = st.builds("{} {}{}mx".format, DAYS, CLOCKS, TAILS) | st.builds(
    "2026-{}{}{}{}{}{}mx".format,
    st.sampled_from(("03-29", "10-25", "02-29", "04-05")),
    st.sampled_from("T "),
    CLOCKS,
    st.sampled_from(("", ".5", ",123456", ".1234567890", ".1e5", ".", "._5")),
    ZONES,
    TAILS,
)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"])
@given(
    st.lists(st.tuples(STAMPS, st.sampled_from((at(2026, 11, 22), at(2026, 3, 29, 1), at(2027, 1, 1)))), max_size=30)
)
def test_what_is_remembered_changes_nothing(zone: str, lines: list[tuple[str, float]]) -> None:
    stamps = Stamps(ZoneInfo(zone))
    for text, now in lines:
        line = text.encode()
        assert Stamps(ZoneInfo(zone)).parse(line, now) == stamps.read(line, now) == stamps.read(line, now)
