# ruff: noqa: E501  (lines as the servers print them)
"""No text of a client's makes another address be counted: lines built by the servers' own printing rules.

HELO, MAIL, RCPT, AUTH user, commands and headers hold whatever hypothesis finds; the line must lead to the client or to
nobody. Where the server's own words come before any client's text, it must lead to the client.
"""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import OFFENCES, Finding
from denyspam.grammar import parse_filter
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
QUEUE = "624A00aa002034"
EXIM_QUEUE = "1abcde-00001I-1x"

PIECES = (
    "[1.2.3.4]", " [1.2.3.4]", ") [1.2.3.4]", ") [1.2.3.4]: 535 x", "[1.2.3.4]:25", "from x[1.2.3.4]:", "x[1.2.3.4]: SASL LOGIN",
    "H=(x) [1.2.3.4] F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted", ") [1.2.3.4] F=<", "F=<", "H=",
    ", relay=[1.2.3.4]", ", relay=x [1.2.3.4], reject=550 5.7.1 ", "relay=x [IPv6:::9]", "QID: from=<>, relay=[1.2.3.4]",
    QUEUE + ": from=<>, relay=[1.2.3.4]", "NOQUEUE: reject: RCPT from x[1.2.3.4]: 554 5.7.1 <a@b>: Relay access denied",
    "message repeated 1000 times: [ ", "]", "[", "(", ")", "<", ">", '"', "\\", '\\"', ";", ": ", ", ", " ", "@", "a", "b.example",
    "... User unknown", "... Relaying denied", "Greylisted", "virus", "rejected", "dropped: too many ", "\t", "\x1b", "\x00", "é",
    "I=[1.2.3.4]:25", "next input=", '" H=[1.2.3.4] next input="', '" H=x (y) [1.2.3.4] z', "P=esmtp S=1", "A" * 300, "stat=Sent",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map(
    lambda pieces: "".join(pieces).replace("\n", " ").replace("\r", " ")
)
ADDRESS = st.sampled_from(["203.0.113.7", "2001:db8::7"])
NAME = st.sampled_from(["unknown", "host7.example", "1.2.3.4.dyn.example"])


def scanner(*names: str) -> Scanner:
    filters = [parse_filter((FILTERS / f"{name}.filter").read_text(), name) for name in names]
    return Scanner(filters, "log", Stamps(timezone.utc))


SCANNER = scanner("postfix", "exim", "sendmail")


def findings(line: str) -> list[Finding]:
    return SCANNER.feed(line.encode("utf-8", "surrogatepass") + b"\n", 0, 1, NOW)


def leads_to(line: str, address: str) -> Finding | None:
    """The line's finding, which names `address`, or this session's queue id, or is none."""
    found = findings(line)
    assert len(found) <= 1, line
    for each in found:
        assert each.address in (address, None), line
        assert each.queue_id in (QUEUE, EXIM_QUEUE, None), line
        assert each.times == 1, line
        return each
    return None


def offence(line: str, address: str) -> Finding:
    found = leads_to(line, address)
    assert found is not None, line
    assert found.kind in OFFENCES, line
    return found


@settings(max_examples=400, deadline=None)
@given(NAME, ADDRESS, HOSTILE, HOSTILE, HOSTILE)
def test_postfix(name: str, ip: str, helo: str, sender: str, recipient: str) -> None:
    tail = f"from=<{sender}> to=<{recipient}> proto=ESMTP helo=<{helo}>"
    smtpd = f"{STAMP}postfix/smtpd[1]: "
    client = f"{name}[{ip}]"
    for reply in ("554 5.7.1", "550 5.1.1", "450 4.1.8"):
        assert (
            offence(f"{smtpd}NOQUEUE: reject: RCPT from {client}: {reply} <{recipient}>: x; {tail}", ip).address == ip
        )
    assert offence(f"{smtpd}warning: {client}: SASL LOGIN authentication failed: {helo}", ip).address == ip
    assert offence(f"{smtpd}improper command pipelining after EHLO from {client}: {helo}", ip).address == ip
    assert offence(f"{smtpd}warning: non-SMTP command from {client}: {helo}", ip).address == ip
    virus = f"{QUEUE}: milter-reject: END-OF-MESSAGE from {client}: 5.7.1 virus X detected; {tail}"
    assert offence(f"{STAMP}postfix/cleanup[1]: {virus}", ip).kind == "virus"
    leads_to(f"{STAMP}postfix/cleanup[1]: {QUEUE}: reject: header Subject: {helo} from {client}; {tail}: no", ip)
    leads_to(f"{STAMP}postfix/cleanup[1]: {QUEUE}: message-id={helo}", ip)
    leads_to(f"{STAMP}postfix/cleanup[1]: {QUEUE}: warning: header Subject: {helo} from {client}; {tail}", ip)
    leads_to(f"{STAMP}postfix/qmgr[1]: {QUEUE}: from=<{sender}>, size=1, nrcpt=1 (queue active)", ip)
    leads_to(f"{STAMP}postfix/smtp[1]: {QUEUE}: to=<{recipient}>, relay=x[192.0.2.1]:25, status=bounced ({helo})", ip)


@settings(max_examples=400, deadline=None)
@given(NAME, ADDRESS, HOSTILE, HOSTILE, HOSTILE)
def test_exim(name: str, ip: str, helo: str, sender: str, text: str) -> None:
    stamp = "2026-03-04 10:00:00 "
    for host in (f"({helo}) [{ip}]", f"{name} ({helo}) [{ip}]:4711", f"{name} [{ip}]", f"[{ip}] I=[192.0.2.25]:25"):
        leads_to(f"{stamp}H={host} F=<{sender}> rejected RCPT <{text}>: relay not permitted", ip)
        leads_to(f"{stamp}H={host} rejected EHLO or HELO {text}: forged", ip)
        leads_to(f"{stamp}H={host} sender verify fail for <{sender}>: no", ip)
        leads_to(f"{stamp}{EXIM_QUEUE} H={host} F=<{sender}> rejected after DATA: {text}", ip)
        leads_to(f"{stamp}plain authenticator failed for {host}: 535 Incorrect authentication data (set_id={text})", ip)
        leads_to(f'{stamp}SMTP call from {host} dropped: too many unrecognized commands (last was "{text}")', ip)
        leads_to(f'{stamp}SMTP protocol synchronization error (input sent without waiting for greeting): rejected '
                 f'connection from H={host} input="{text}"', ip)  # fmt: skip
        leads_to(f"{STAMP}exim[1]: {stamp}H={host} F=<{sender}> temporarily rejected RCPT <{text}>: Greylisted", ip)
    for host in (f"[{ip}]", f"{name} [{ip}]"):  # no HELO: nothing of the client's before the address
        assert offence(f"{stamp}H={host} rejected EHLO or HELO {text}: forged", ip).address == ip
        assert offence(f'{stamp}H={host} rejected connection in "connect" ACL: {text}', ip).address == ip


@settings(max_examples=400, deadline=None)
@given(ADDRESS, HOSTILE, HOSTILE, HOSTILE)
def test_sendmail(ip: str, sender: str, recipient: str, user: str) -> None:
    mta = f"{STAMP}sm-mta[1]: {QUEUE}: "
    printed = f"[IPv6:{ip}]" if ":" in ip else f"[{ip}]"
    for relay in (
        printed,
        f"host7.example {printed}",
        f"host7.example {printed} (may be forged)",
        f"x-1.2.3.4@{printed}",
    ):
        end = f", relay={relay}"
        refused = f"reject=550 5.7.1 <{recipient}>... Relaying denied"
        leads_to(f"{mta}ruleset=check_rcpt, arg1=<{recipient}>{end}, {refused}", ip)
        leads_to(f"{mta}ruleset=check_mail, arg1=<{sender}>{end}, reject=553 5.1.8 <{sender}>... Domain of", ip)
        assert (
            offence(f"{mta}AUTH failure (LOGIN): user not found (-20) SASL(-13): x, user={user}{end}", ip).address == ip
        )
        client = leads_to(
            f"{mta}from=<{sender}>, size=1, class=0, nrcpts=1, msgid=<{user}>, proto=SMTP, daemon=M{end}", ip
        )
        assert client is not None
        assert (client.kind, client.address, client.queue_id) == ("client", ip, QUEUE)
    leads_to(f"{mta}<{recipient}>... User unknown", ip)
    leads_to(f"{mta}to=<{recipient}>, delay=00:00:01, pri=1, stat=virus X", ip)
    leads_to(f"{mta}<-- RCPT TO:<{recipient}>", ip)


@pytest.mark.parametrize("piece", PIECES)
def test_a_very_long_helo(piece: str) -> None:
    long = (piece * (100_000 // len(piece.encode())))[:100_000]
    line = f"2026-03-04 10:00:00 H=({long}) [203.0.113.7] F=<a@b.example> rejected RCPT <c@d.example>: no"
    leads_to(line, "203.0.113.7")
    reject = f"{STAMP}postfix/smtpd[1]: NOQUEUE: reject: RCPT from unknown[203.0.113.7]: 550 5.1.1 <{long}>: x; helo=<{long}>"
    assert offence(reject, "203.0.113.7").address == "203.0.113.7"


@pytest.mark.parametrize("kind", ["Greylisted", "virus", "Greylisted, see http://a.example"])
def test_a_name_does_not_change_the_kind(kind: str) -> None:
    refused = f"{STAMP}postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[203.0.113.7]: 550 5.1.1 <{kind}@b.example>: User unknown"
    assert offence(refused, "203.0.113.7").kind == "reject"
    refused = f"{STAMP}postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[203.0.113.7]: 450 4.1.8 <{kind}@b.example>: x"
    assert offence(refused, "203.0.113.7").kind == "reject"
    relayed = f'2026-03-04 10:00:00 H=(z) [203.0.113.7] F=<"{kind}"@b.example> rejected RCPT <c@d.example>: relay not permitted'
    assert offence(relayed, "203.0.113.7").kind == "relay"
    relayed = f'{STAMP}sm-mta[1]: {QUEUE}: ruleset=check_rcpt, arg1=<"{kind}"@b.example>, relay=[203.0.113.7], '
    relayed += f'reject=550 5.7.1 <"{kind}"@b.example>... Relaying denied'
    assert offence(relayed, "203.0.113.7").kind == "relay"


def test_a_line_that_may_be_of_two_clients_is_told_and_accuses_nobody() -> None:
    fake = "x) [192.0.2.66] F=<a@b.example> rejected RCPT <c@d.example>: no"
    line = f"2026-03-04 10:00:00 H=({fake}) [203.0.113.7] F=<q@d.example> rejected RCPT <e@f.example>: no"
    found = offence(line, "203.0.113.7")
    assert (found.kind, found.address, found.queue_id) == ("reject", None, None)
