# ruff: noqa: E501  (lines as the server prints them)
"""exim.filter: every log_selector's way to write a client, and what no client can make of a line."""

from __future__ import annotations

import itertools
import time
from datetime import timezone
from pathlib import Path

import pytest

from denyspam.filter import Reader, Reading
from denyspam.grammar import parse_filter
from denyspam.stamp import Stamps

NOW = 1772618400.0
FILTER = parse_filter((Path(__file__).parent.parent / "filters" / "exim.filter").read_text(), "exim.filter")
STAMPS = (
    "2026-03-04 10:00:00 ",
    "2026-03-04 10:00:00.123 +0000 [1234] ",
    "Mar  4 10:00:00 mx exim[1234]: 2026-03-04 10:00:00 ",
    "Mar  4 10:00:00 mx exim4[1234]: [1\\14] 2026-03-04 10:00:00 [1234] ",
    "Mar  4 10:00:00 mx exim[1234]: [1/3] ",
    "2026-03-04T10:00:00.5+00:00 mx exim[1234]: ",
)
IDS = ("", "1abcde-00001I-1x ", "1abcde-0000000001I-001x ")
NAMES = ("", "host.example ", "(z) ", "([192.0.2.9]) ", "host.example ([IPv6:2001:db8::9]) ")
AFTER = (
    "",
    ":4711",
    ":4711 I=[192.0.2.25]:25",
    " I=[2001:db8::25]:25 U=root Ci=77 X=TLS1.3:TLS_AES_256_GCM_SHA384:256 CV=no",
    ' X=TLS1.2:x:256* CV=yes DN="C=XX,O=Some Where,CN=z" SNI="mx.example.org"',
)


def read(line: str) -> Reading | None:
    return Reader([FILTER], Stamps(timezone.utc)).read(line.encode(), NOW)


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7"])
def test_every_way_to_write_a_client(stamp: str, address: str) -> None:
    for queue, name, after in itertools.product(IDS, NAMES, AFTER):
        host = f"{name}[{address}]{after}"
        alone = host.partition(" X=")[0]  # only refusals by an ACL tell of TLS
        told = (
            ("relay", f"{queue}H={host} F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted"),
            ("relay", f"{queue}H={host} F=<> A=plain:bob rejected RCPT <c@d.example>: 550 5.7.1 Relaying denied"),
            ("reject", f"{queue}H={host} F=<a@b.example> SPF=fail rejected RCPT <c@d.example>"),
            ("virus", f"{queue}H={host} F=<a@b.example> rejected after DATA: Message rejected, it holds (malware) X"),
            ("spam", f"{queue}H={host} F=<a@b.example> rejected after DATA: rspamd gives 17 points"),
            ("reject", f"H={host} rejected EHLO or HELO virus: forged"),
            ("auth", f"dovecot_login authenticator failed for H={alone}: 535 Incorrect authentication data (set_id=bob)"),
            ("protocol", f'{queue}SMTP call from {alone} dropped: too many nonmail commands (last was "NOOP")'),
            ("defer", f"H={host} F=<a@b.example> temporarily rejected RCPT <c@d.example>: Mailbox full"),
        )  # fmt: skip
        for kind, text in told:
            found = read(stamp + text)
            assert found is not None, stamp + text
            assert (found.pattern.kind, found.address) == (kind, address), stamp + text
    found = read(f"{stamp} DSH=host.example [{address}] F=<a@b.example> rejected RCPT <c@d.example>: no")
    assert found is not None
    assert found.address == address


@pytest.mark.parametrize("name", NAMES)
def test_exim_3(name: str) -> None:
    host = f"{name}[203.0.113.7]"
    told = (
        ("relay", f"refused relay (host) to <c@d.example> from <> H={host} U=x"),
        ("relay", f"temporarily refused relay (sender & host_accept_relay) to c@d.example from <a@b.example> H={host}"),
        ("reject", f"verify failed for SMTP recipient c@d.example from <a@b.example> H={host}"),
        ("reject", f"recipients refused from {host} (RBL bl.example)"),
        ("reject", f"recipient <c@d.example> refused from {host} sender=<a@b.example> (RBL)"),
        ("reject", f"sender rejected: <a@b.example> H={host}"),
        ("reject", f"rejected MAIL FROM:<a@b.example> H={host} cannot route to sender: no"),
        ("reject", f"1abcde-00001I-1x rejected from {host}: cannot route to sender <a@b.example>"),
        ("defer", f"rejected from {host}: temporarily unable to verify sender address <a@b.example> (try later)"),
        ("auth", f"Authentication failed for {host}: 535 Incorrect authentication data"),
        ("protocol", f'SMTP syntax error in "HELO H=(y) [198.51.100.4] x" H={host}: unrecognized command'),
    )
    for kind, text in told:
        found = read("2001-03-04 10:00:00 " + text)
        assert found is not None, text
        assert (found.pattern.kind, found.address) == (kind, "203.0.113.7"), text
    for text in (
        f"rejected from <a@b.example> H={host}: message too large: 1 recipient size=99 max=9",
        f"{host} in RBL list at bl.example (warning mode)",
        f"recipients accepted from {host} (RBL bl.example/accept)",
        f"warning: cannot route to sender address <a@b.example> H={host}",
    ):
        assert read("2001-03-04 10:00:00 " + text) is None, text


@pytest.mark.parametrize(
    "text",
    [
        "refused relay (host) to <c@d.example> from <a@b.example> H=(%s) [203.0.113.7]",
        "recipients refused from (%s) [203.0.113.7] (RBL bl.example)",
        "sender rejected: <a@b.example> H=(%s) [203.0.113.7]",
        "Authentication failed for (%s) [203.0.113.7]: 535 Incorrect authentication data",
        "SMTP connection from (%s) [203.0.113.7] closed by DROP in ACL",
        "1abcde-00001I-1x F=<a@b.example> H=(%s) [203.0.113.7] P=esmtp rejected by local_scan(): no",
    ],
)
def test_a_helo_that_writes_what_follows_it_accuses_nobody_else(text: str) -> None:
    before, after = text.split("%s")
    for hello in (
        "x",
        "[198.51.100.4]",
        "x) [198.51.100.4",
        f"x) [198.51.100.4]{after.partition(']')[2]}",
        "x) [198.51.100.4] ",
    ):
        found = read(f"2001-03-04 10:00:00 {before}{hello}{after}")
        assert found is None or found.address in (None, "203.0.113.7"), hello


@pytest.mark.parametrize("part", ["[2\\14] ", "[14/14] ", "[11\\14] ", "[2/3] "])
def test_the_later_parts_of_a_syslog_entry_are_the_clients_text(part: str) -> None:
    for text in ("", "2026-03-04 10:00:00 ", "[1\\14] ", "[1234] "):
        line = f"Mar  4 10:00:00 mx exim[1]: {part}{text}H=(z) [198.51.100.4] F=<a@b.example> rejected RCPT <c@d.example>: no"
        assert read(line) is None


@pytest.mark.parametrize(
    "reason", ["Greylisted", "No such user virus@b.example", "spam", "Unknown user <relaying@b.example>", "warning"]
)
def test_a_refused_recipient_stays_refused(reason: str) -> None:
    found = read(
        f'2026-03-04 10:00:00 H=(z) [203.0.113.7] F=<"virus: spam"@b.example> rejected RCPT <c@d.example>: {reason}'
    )
    assert found is not None
    assert (found.pattern.kind, found.address) == ("reject", "203.0.113.7")


@pytest.mark.parametrize("unit", [") [1.2.3.4] F=<", ') [1.2.3.4] DN="', "a ", "relay ", '" H=[1.2.3.4] X=', "() "])
@pytest.mark.parametrize("line", [
    "H=(%s", "H=(%s) [203.0.113.7] F=<a@b.example> rejected RCPT <c@d.example>: no",
    "H=(z) [203.0.113.7] F=<a@b.example> rejected RCPT <c@d.example>: %s", "1abcde-00001I-1x <= %s H=(z) [203.0.113.7] P=esmtp",
])  # fmt: skip
def test_a_long_line_costs_no_more_than_it_is_long(line: str, unit: str) -> None:
    def cost(size: int) -> float:
        text = "2026-03-04 10:00:00 " + line % (unit * (size // len(unit)))
        taken = []
        for _ in range(5):
            begin = time.process_time()
            read(text)
            taken.append(time.process_time() - begin)
        return min(taken)

    assert cost(8192) < 0.05  # about 1 ms on an idle machine; without the bounds it were seconds


@pytest.mark.parametrize(
    "helo", ["x) [192.0.2.99]", "x) [192.0.2.99] ", "x) [192.0.2.99] F=<a@b> rejected RCPT <a@b>: x"]
)
@pytest.mark.parametrize("said", ["rejected RCPT <c@d.example>: Unrouteable address", "rejected after DATA: no"])
def test_half_an_ending_in_a_helo_hides_nothing(helo: str, said: str) -> None:
    """Told, of nobody: the words behind the first ending are not Exim's, yet the second may be the client's as well."""
    found = read(f"2026-03-04 10:00:00 H=({helo}) [203.0.113.77] F=<a@b.example> {said}")
    assert found is not None
    assert (found.pattern.kind, found.address) == ("reject", None)
