"""One datagram, one line: both syslog formats, what senders leave out, and what nobody may slip in."""

from __future__ import annotations

import pytest

from denyspam.datagram import entry, syslog
from denyspam.filter import header_of
from denyspam.stamp import Stamps

NOW = 1772618400.25  # 2026-03-04 10:00:00 UTC
BODY = b"NOQUEUE: reject: RCPT from unknown[203.0.113.9]: 554"


@pytest.mark.parametrize(
    "data, line",
    [
        (b"<22>Mar  4 10:00:00 mx postfix/smtpd[7]: x", b"Mar  4 10:00:00 mx postfix/smtpd[7]: x"),
        (b"Mar  4 10:00:00 mx postfix/smtpd[7]: x\n", b"Mar  4 10:00:00 mx postfix/smtpd[7]: x"),
        # glibc's syslog(3) names no host
        (b"<22>Mar  4 10:00:00 postfix/smtpd[7]: x\0", b"Mar  4 10:00:00 192.0.2.1 postfix/smtpd[7]: x"),
        (b"<22>Mar  4 10:00:00 exim: x", b"Mar  4 10:00:00 192.0.2.1 exim: x"),
        # appliances name no time, some not even a host
        (b"<22>postfix/smtpd[7]: x", b"2026-03-04T10:00:00+00:00 192.0.2.1 postfix/smtpd[7]: x"),
        (b"<22>mx postfix/smtpd[7]: x", b"2026-03-04T10:00:00+00:00 mx postfix/smtpd[7]: x"),
        (b"<22>2026-03-04T10:00:00.5Z mx exim[7]: x", b"2026-03-04T10:00:00.5Z mx exim[7]: x"),
        (
            b'<22>1 2026-03-04T10:00:00.000001+01:00 mx postfix/smtpd 7 - [a@1 b="\\]"][c] \xef\xbb\xbfx y',
            b"2026-03-04T10:00:00.000001+01:00 mx postfix/smtpd[7]: x y",
        ),
        (b"<22>1 - - exim - - - x", b"2026-03-04T10:00:00+00:00 192.0.2.1 exim: x"),
        (b"<22>1 2026-03-04T10:00:00Z mx exim 7 ID47 -", b"2026-03-04T10:00:00Z mx exim[7]: "),
        # Docker's syslog driver, of a container whose programs write lines of their own
        (
            b"<30>Mar  4 11:00:00 0123456789ab[999]: Mar  4 10:00:00 mail postfix/smtpd[7]: x",
            b"Mar  4 11:00:00 mail postfix/smtpd[7]: x",
        ),
        (
            b"<30>1 2026-03-04T11:00:00+01:00 mx 0123456789ab 999 ID47 - <22>Mar  4 10:00:00 postfix/smtpd[7]: x",
            b"2026-03-04T11:00:00+01:00 mx postfix/smtpd[7]: x",
        ),
        (
            b"<30>Mar  4 10:00:00 mx docker/0123456789ab[999]: 2026-03-04 10:00:00 #7(main) <x>; task; y",
            b"Mar  4 10:00:00 #7(main) <x>; task; y",
        ),
        (b"<30>Mar  4 10:00:00 mx 0123456789ab[999]: x: y", b"Mar  4 10:00:00 mx 0123456789ab[999]: x: y"),
        # any other program may be told what to log
        (
            b"<30>Mar  4 10:00:00 mx app[9]: Mar  4 10:00:00 mx postfix/smtpd[7]: x",
            b"Mar  4 10:00:00 mx app[9]: Mar  4 10:00:00 mx postfix/smtpd[7]: x",
        ),
        (b"", b""),
        (b"\n\0", b""),
        (b"<22>", b""),
        # no line of its own for anybody
        (
            b"<22>Mar  4 10:00:00 mx exim[7]: a\nMar  4 10:00:00 mx postfix/smtpd[7]: b",
            b"Mar  4 10:00:00 mx exim[7]: a#012Mar  4 10:00:00 mx postfix/smtpd[7]: b",
        ),
    ],
)
def test_syslog(data: bytes, line: bytes) -> None:
    assert syslog(data, b"192.0.2.1", NOW) == line


def test_every_form_is_read_as_the_same_host_and_program() -> None:
    stamps = Stamps(__import__("datetime").timezone.utc)
    for data in (
        b"<22>Mar  4 10:00:00 mx postfix/smtpd[7]: " + BODY,
        b"<22>Mar  4 10:00:00 postfix/smtpd[7]: " + BODY,
        b"<22>1 2026-03-04T10:00:00Z mx postfix/smtpd 7 - - " + BODY,
        b"<22>1 - mx postfix/smtpd 7 - - " + BODY,
        b"<22>mx postfix/smtpd[7]: " + BODY,
        b"<22>postfix/smtpd[7]: " + BODY,
    ):
        line = syslog(data, b"mx", NOW)
        time, start = stamps.read(line, NOW)
        assert time == 1772618400, line
        header = header_of(line, start)
        assert header is not None, line
        assert (header["host"], header["program"], line[header.end() :]) == (b"mx", b"postfix/smtpd", BODY)


def test_entry() -> None:
    usec = 1772618400_000_042
    assert (
        entry(usec, b"mx", b"postfix/smtpd", b"7", b"x") == b"2026-03-04T10:00:00.000042+00:00 mx postfix/smtpd[7]: x"
    )
    packed = entry(usec, b"mx", b"0123456789ab", b"999", b"Mar  4 11:00:00 mail postfix/smtpd[7]: x")
    assert packed == b"2026-03-04T10:00:00.000042+00:00 mail postfix/smtpd[7]: x"
    assert entry(usec, b"", b"", b"", b"x").endswith(b"+00:00 - -: x")
    assert entry(usec, b"a b", b"x[1]: y\nz", b"7; rm", b"\0\n\xff\n").endswith(b" a_b x_1___y_z: \0#012\xff")
    assert entry(10**18, b"mx", b"a", b"1", b"x").startswith(b"9999-12-31T23:59:59.")
