"""datagram: one syslog message, or one entry of the journal -> one line as a log file would have it. Pure.

    syslog(data, sender, now)                       b"<22>Mar  4 10:00:00 mx postfix/smtpd[7]: ..." -> b"Mar  4 ..."
    entry(usec, host, identifier, pid, message)     -> b"2026-03-04T10:00:00.000001+00:00 mx postfix/smtpd[7]: ..."

The priority is taken off, RFC 5424 is written as `STAMP HOST PROGRAM[PID]: TEXT`, which all filters know, and what a
sender left out is filled in, as RFC 3164 (4.3) asks of whoever passes a message on: the time of arrival where there is
no stamp, the sender's name where there is no host.

What Docker's log drivers (journald, syslog) hand over of a container is a line with a header of its own: program and
host are then those within, the time is the driver's, whose zone is known. Only under Docker's default tag, which is the
container's id: any other program's message that begins like a line of the mail server's may be a stranger's text.

A message is one line, whatever it holds: a newline inside is written #012, as rsyslog does, so that nobody's text can
begin a line of its own. Names of hosts and programs are one word each. NUL and all other bytes pass as they are.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache

PRIORITY = re.compile(rb"<\d{1,3}>")
# RFC 5424, 6: VERSION SP TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID SP MSGID SP STRUCTURED-DATA [SP MSG]
RFC5424 = re.compile(
    rb"1 (?P<stamp>-|\d{4}-\d\d-\d\dT\S{8,24}) (?P<host>\S{1,255}) (?P<program>\S{1,48}) (?P<pid>\S{1,128}) \S{1,32} "
    rb'(?:-|(?:\[(?:[^"\]\\]|\\.|"(?:[^"\\]|\\.)*")*\])+)(?: (?:\xef\xbb\xbf)?(?P<text>.*)|\Z)',
    re.S,
)
STAMP = re.compile(
    rb"(?:[A-Z][a-z]{2} [ \d]\d (?:\d{4} )?\d\d:\d\d:\d\d(?:\.\d{1,9})?"
    rb"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S{0,16})(?: |$)"
)
ALONE = re.compile(rb"[^\s:\[]{1,128}(?:\[\d{1,10}\])?: ")  # a program that no host stands before

PACKED = re.compile(rb"\S+ (?:docker/)?[0-9a-f]{12}(?:\[\d{1,10}\])?: (?:<\d{1,3}>)?")


def syslog(data: bytes, sender: bytes, now: float) -> bytes:
    """The line of a datagram, without a newline; b"" of an empty one. `sender` is who sent it, one word."""
    text = data.rstrip(b"\0\r\n")
    priority = PRIORITY.match(text)
    if priority is not None:
        text = text[priority.end() :]
    whole = RFC5424.match(text)
    if whole is not None:
        host, program, pid = whole["host"], whole["program"], whole["pid"]
        stamp = moment(now) if whole["stamp"] == b"-" else whole["stamp"]
        name = sender if host == b"-" else host
        tag = program + (b"[%s]" % pid if pid.isdigit() and len(pid) <= 10 else b"")
        return _one(stamp + b" " + _unpacked(b"%s %s: %s" % (name, tag, whole["text"] or b"")))
    if not text:
        return b""
    found = STAMP.match(text)
    stamp, rest = (moment(now) + b" ", text) if found is None else (found[0], text[found.end() :])
    if ALONE.match(rest):
        rest = b"%s %s" % (sender, rest)
    return _one(stamp + _unpacked(rest))


def entry(usec: int, host: bytes, identifier: bytes, pid: bytes, message: bytes) -> bytes:
    """The line of a journal's entry, without a newline; `usec` is __REALTIME_TIMESTAMP, "" stands for what it lacks."""
    seconds, fraction = divmod(usec, 1_000_000)
    name = word(identifier) or b"-"
    tag = b"%s[%s]: " % (name, pid) if pid.isdigit() and len(pid) <= 10 else name + b": "
    line = _unpacked(b"%s %s%s" % (word(host) or b"-", tag, _one(message)))
    return b"%s.%06d+00:00 %s" % (_second(seconds), fraction, line)


def _unpacked(line: bytes) -> bytes:
    """`HOST PROGRAM[PID]: TEXT` as it is, or what a container's program made of it."""
    outer = PACKED.match(line)
    stamp = None if outer is None else STAMP.match(line, outer.end())
    if stamp is None:
        return line
    inner = line[stamp.end() :]
    return line[: line.index(b" ") + 1] + inner if ALONE.match(inner) else inner


def word(name: bytes) -> bytes:
    """A host's or a program's name without what would end it: blanks, colons, brackets."""
    return name if name.isalnum() else re.sub(rb"[^\w./@+-]", b"_", name[:128])


def moment(now: float) -> bytes:
    """2026-03-04T10:00:00+00:00"""
    return _second(int(now)) + b"+00:00"


def _one(text: bytes) -> bytes:
    text = text.rstrip(b"\n")
    return text.replace(b"\n", b"#012") if b"\n" in text else text


@lru_cache(maxsize=16)
def _second(seconds: int) -> bytes:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S").encode()
    except (ValueError, OverflowError, OSError):  # the year 9999 is over: such a stamp is nobody's hit
        return b"9999-12-31T23:59:59"
