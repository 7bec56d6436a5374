"""filter: what stands around a line's body, whose lines a filter takes, and the shipped filters' own samples."""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

import pytest

from denyspam.filter import Reader, Reading, canonical, doubts
from denyspam.grammar import parse_filter
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
NOW = 1772618400.0
DEMO = """\
filter demo
program demo*/smtpd, demo/*25/smtpd, demo/*smtps/smtpd, bare
relay no relay for [{ip}]: {*}
reject {id}: refused [{ip}]
sample relay 192.0.2.1
  Mar  4 10:00:00 mx demo/smtpd[1]: no relay for [192.0.2.1]: x
sample reject 192.0.2.1 id ABCDEF
  Mar  4 10:00:00 mx demo/smtpd[1]: ABCDEF: refused [192.0.2.1]
sample none
  Mar  4 10:00:00 mx demo/smtpd[1]: hello
"""


def read(line: str) -> Reading | None:
    return Reader([parse_filter(DEMO, "demo")], Stamps(timezone.utc)).read(line.encode(), NOW)


@pytest.mark.parametrize("path", sorted(FILTERS.glob("*.filter")), ids=lambda path: path.stem)
def test_shipped_filters_pass_their_own_samples(path: Path) -> None:
    found = parse_filter(path.read_text(encoding="utf-8"), path.name)
    assert found.name == path.stem
    assert doubts(found) == []
    if found.name in ("postfix", "exim", "sendmail"):
        assert {"accept", "reject", "relay", "virus", "auth", "protocol", "defer"} <= found.kinds


@pytest.mark.parametrize(
    ("line", "host", "count"),
    [
        ("Mar  4 10:00:00 mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("Mar  4 10:00:00 mx demo/smtpd: no relay for [192.0.2.1]: x", "mx", 1),
        ("Mar  4 10:00:00 mx demo2/smtpd[1]: [ID 801593 mail.info] no relay for [192.0.2.1]: x\r", "mx", 1),
        ("Mar  4 10:00:00 mx demo/smtpd[1]: message repeated 7 times: [ no relay for [192.0.2.1]: x]", "mx", 7),
        ("Mar  4 10:00:00 mx demo/smtpd[1]: message repeated 99999 times: [ no relay for [192.0.2.1]: x]", "mx", 1000),
        ("<22>1 2026-03-04T10:00:00Z mx demo/smtpd 1 - - no relay for [192.0.2.1]: x", "mx", 1),
        ('<22>1 2026-03-04T10:00:00Z mx demo/smtpd 1 - [a b="\\]"][c] no relay for [192.0.2.1]: x', "mx", 1),
        ("2026-03-04T10:00:00+00:00 demo/smtpd[1]: no relay for [192.0.2.1]: x", "", 1),
        ("Mar  4 10:00:00 mx mail.info demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),  # busybox
        ("Mar  4 10:00:00 mx mail:info demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),  # AIX
        ("Mar  4 10:00:00 <mail.info> mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),  # FreeBSD -vv
        ("Mar  4 10:00:00 <2.6> mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),  # FreeBSD -v
        ("Wed Mar  4 10:00:00 2026 mail.info demo/smtpd[1]: no relay for [192.0.2.1]: x", "mail.info", 1),  # OpenWrt
        ("Mar  4 10:00:00 2001:db8::25 demo/smtpd[1]: no relay for [192.0.2.1]: x", "2001:db8::25", 1),
        ("Mar  4 10:00:00 mx demo/smtpd(pam_unix)[1]: no relay for [192.0.2.1]: x", "mx", 1),  # old Linux-PAM
        ("2026-03-04 10:00:00 no relay for [192.0.2.1]: x", "", 1),
        # docker logs -t; Kubernetes' files
        ("2026-03-04T10:00:00.123456789Z Mar  4 10:00:00 mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("2026-03-04T10:00:00.123Z 2026-03-04T10:00:00+00:00 mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("2026-03-04T10:00:00.123Z stdout F Mar  4 10:00:00 mx demo/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("2026-03-04T10:00:00.123Z stderr F demo/smtpd[1]: no relay for [192.0.2.1]: x", "", 1),
        ("2026-03-04T10:00:00.123Z stdout F 2026-03-04 10:00:00 no relay for [192.0.2.1]: x", "", 1),
        # a service's name that is an address
        ("Mar  4 10:00:00 mx demo/10.0.0.1:10025/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("Mar  4 10:00:00 mx demo/[::1]:10025/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("Mar  4 10:00:00 mx demo/mx.example:smtps/smtpd[1]: no relay for [192.0.2.1]: x", "mx", 1),
        ("2026-03-04 10:00:00 [123] no relay for [192.0.2.1]: x", "", 1),
        ("Mar  4 10:00:00 mx demo/smtpd[1]: 2026-03-04 10:00:00.5 +0000 no relay for [192.0.2.1]: x", "mx", 1),
    ],
)
def test_around_the_body(line: str, host: str, count: int) -> None:
    found = read(line)
    assert found is not None
    assert (found.pattern.kind, found.address, found.host, found.count) == ("relay", "192.0.2.1", host, count)
    assert found.time == pytest.approx(NOW)


@pytest.mark.parametrize(
    "line",
    [
        "Mar  4 10:00:00 mx other[1]: no relay for [192.0.2.1]: x",
        "Mar  4 10:00:00 mx demo/a/smtpd[1]: no relay for [192.0.2.1]: x",
        "Mar  4 10:00:00 mx demo/smtpd[1]: x no relay for [192.0.2.1]: x",
        "Mar  4 10:00:00 mx demo/smtpd[1]:",
        "Mar  4 10:00:00",
        "",
        "\x00\xff",
    ],
)
def test_not_ours(line: str) -> None:
    assert read(line) is None


def test_noqueue_is_no_queue_id() -> None:
    found = read("Mar  4 10:00:00 mx demo/smtpd[1]: NOQUEUE: refused [192.0.2.1]")
    assert found is not None
    assert found.queue_id is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        (b"256.1.1.1", None),
        (b"1.2.3", None),
        (b"01.2.3.4", None),
        (b":::", None),
        (b"\xff", None),
    ],
)
def test_canonical(text: bytes, address: str | None) -> None:
    assert canonical(text) == address
