"""Lines that look like refusals and that no filter takes: a rise is told, what is usual is not."""

from __future__ import annotations

from datetime import timezone
from itertools import pairwise

import pytest
from live import relay, virus

from denyspam.filter import SAMPLES_NOW
from denyspam.plugins import Filters
from denyspam.stamp import Stamps
from denyspam.untaken import READ, SAMPLES, Untaken

FILTERS = Filters("/nowhere/denyspam.conf")
NOW = 1_772_614_800.0
CHANGED = (
    b"Mar  4 09:00:00 mx postfix/smtpd[7]: NOQUEUE: RCPT rejected, client=x[203.0.113.%d]: 554 Relay access denied"
)
DULL = b"Mar  4 09:00:00 mx postfix/smtpd[7]: connect from unknown[203.0.113.9]"


def made(*names: str) -> Untaken:
    return Untaken(FILTERS.named(names), Stamps(timezone.utc))


def block(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


TAKEN = relay("203.0.113.9", NOW).encode()


def test_what_a_filter_takes_is_no_alarm() -> None:
    untaken = made("postfix")
    for minute in range(200):
        untaken.look(block(*[TAKEN] * 5, *[DULL] * 50), NOW + minute * 300)
        assert untaken.rise(NOW + minute * 300) is None
    assert (untaken.taken, untaken.untaken) == (1000, 0)
    assert untaken.usual < 0.3


def test_a_changed_format_is_told_with_samples_and_is_over_with_it() -> None:
    untaken, now = made("postfix"), NOW
    for _ in range(864):
        now += 300
        untaken.look(block(*[TAKEN] * 5), now)
    told = []
    for minute in range(120):
        now += 60
        untaken.look(block(*[CHANGED % (minute % 250)] * 5), now)
        told.append(untaken.rise(now))
    assert told[0] is None
    assert told[-1] is not None
    assert "has the format of the log changed?" in told[-1]
    assert untaken.samples == [CHANGED % 119]  # one of each shape
    for _ in range(60):
        now += 300
        untaken.look(block(*[TAKEN] * 5), now)
    assert untaken.rise(now) is None


def test_filters_that_never_fit_are_told_too_and_become_usual() -> None:
    untaken, now = made("exim"), NOW
    told = []
    for _ in range(5 * 288):
        now += 300
        untaken.look(block(*[TAKEN] * 4, virus("203.0.113.9", NOW).encode()), now)
        told.append(untaken.rise(now) is not None)
    assert told[24]
    assert told[12 * 12]
    assert not told[-1], "for ever"
    changes = sum(one != other for one, other in pairwise(told))
    assert changes == 2


def test_a_share_that_is_usual_is_no_alarm() -> None:
    untaken, now = made("postfix"), NOW
    for minute in range(288):
        now += 300
        lines = [TAKEN, TAKEN, CHANGED % 9] if minute % 7 else [CHANGED % 9] * 3
        untaken.look(block(*lines), now)
        assert untaken.rise(now) is None


def test_a_handful_is_no_alarm() -> None:
    untaken = made("postfix")
    for hour in range(100):
        untaken.look(block(CHANGED % 1), NOW + hour * 600)
        assert untaken.rise(NOW + hour * 600) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Mar  4 09:00:00 mx postfix/smtp[7]: 3AB: to=<a@b.example>, relay=mx.b.example[192.0.2.7]:25, delay=1,"
        b" dsn=5.7.1, status=bounced (host mx.b.example[192.0.2.7] said: 550 rejected (in reply to RCPT TO command))",
        b"2026-03-04 09:00:00 1abCDe-000001-2f ** a@b.example R=dnslookup T=remote_smtp H=mx.b.example [192.0.2.7]:"
        b" SMTP error from remote mail server after RCPT TO:<a@b.example>: 550 rejected",
        b"Mar  4 09:00:00 mx sm-mta[7]: 624A00: to=<a@b.example>, relay=mx.b.example. [192.0.2.7], dsn=5.0.0,"
        b" stat=Service unavailable, rejected",
        b"Mar  4 09:00:00 mx denyspam[7]: alarm lines-untaken /l: for example: rejected 192.0.2.7",
        b"Mar  4 09:00:00 mx postfix/smtp[7]: connect to mx.b.example[192.0.2.7]:25: Connection refused",
        DULL,
        b"Mar  4 09:00:00 mx postfix/qmgr[7]: 3AB: from=<rejected@b.example>, size=1, nrcpt=1 (queue active)",
    ],
)
def test_deliveries_and_our_own_words_are_left_out(line: bytes) -> None:
    untaken = made()
    untaken.look(block(line), NOW)
    assert (untaken.taken, untaken.untaken) == (0, 0)


def test_of_the_shipped_samples_few_dull_lines_look_like_refusals() -> None:
    """A bound on false signs: the filters' own dull lines, which are chosen to be hard."""
    filters = FILTERS.named(())
    dull = [sample.line for each in filters for sample in each.samples if sample.kind is None]
    untaken = Untaken(filters, Stamps(timezone.utc))
    for line in dull:
        untaken.look(block(line), SAMPLES_NOW)
    assert untaken.untaken < len(dull) / 10


def test_bounded() -> None:
    untaken = made("postfix")
    shapes = [b"Mar  4 09:00:00 mx postfix/smtpd[7]: %s rejected 192.0.2.7" % bytes([97 + n] * 8) for n in range(26)]
    untaken.look(block(*shapes), NOW)
    assert untaken.untaken == READ
    assert len(untaken.samples) == SAMPLES
    untaken.look(b"rejected 192.0.2.7 " * 10_000 + b"\n" + b"\xff\x00\n" * 1000, NOW)
    assert untaken.untaken == READ
