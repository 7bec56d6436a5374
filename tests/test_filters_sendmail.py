# ruff: noqa: E501  (lines as the server prints them)
"""sendmail.filter over whole sessions: joins, one offence one hit, next hops, and text of the client's everywhere."""

from __future__ import annotations

from collections import Counter
from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import HARMLESS, OFFENCES, Event
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
SHIPPED = [parse_filter(path.read_text(), path.name) for path in sorted(FILTERS.glob("*.filter"))]
SCANNER = Scanner(SHIPPED, "log", Stamps(timezone.utc))
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
ID = "624A00aa002034"
MTA = "Mar  4 09:00:00 mx sm-mta[2034]: "
VICTIM = "198.51.100.66"
FROM = f"{MTA}{ID}: from=<a@b.example>, size=9, class=0, nrcpts=1, msgid=<1@b.example>, proto=ESMTP, daemon=MTA, relay=host9.example [203.0.113.9]"


def events(*lines: str) -> list[Event]:
    """All events of a log of these lines, harmless ones too."""
    join = Join()
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    found = [event for one in SCANNER.feed(data, 0, 1, NOW) for event in join.feed(one, one.offset)]
    return [*found, *join.flush()]


def offences(*lines: str) -> list[tuple[str, str | None]]:
    return [(event.kind, event.address) for event in events(*lines) if event.kind not in HARMLESS]


def test_a_virus_found_behind_a_solaris_sendmail() -> None:
    solaris = "Nov  3 20:25:58 smtp sendmail[7645]: [ID 801593 mail.info] hA3CPot1007645: "
    scanner = (
        "Nov  3 20:26:45 smtp mailscanner[3948]: >>> Virus 'W32/Yaha-P' found in file ./hA3CPot1007645/x.zip/setup.exe"
    )
    found = events(
        f"{solaris}from=<m@biz.example>, size=64607, class=0, nrcpts=1, msgid=<1@smtp.example>, proto=SMTP, daemon=MTA, relay=[203.0.113.253]",
        f"{solaris}to=<u@cc.example>, delay=00:00:06, mailer=relay, pri=30258, stat=queued",
        scanner,
        f"{solaris}to=<u@cc.example>, delay=00:00:59, xdelay=00:00:00, mailer=relay, pri=120258, relay=[198.51.100.89], dsn=2.0.0, stat=Sent (hA3CP8k1016181 Message accepted for delivery)",
        scanner.replace("20:26:45", "20:27:00"),
    )
    assert [(event.kind, event.address) for event in found] == [("accept", "203.0.113.253"), ("virus", "203.0.113.253")]
    assert found[1].text == scanner.encode()


def test_senders_alone_are_no_offence() -> None:
    lines = [
        FROM.replace(ID, f"{ID[:-1]}{number}").replace("203.0.113.9", f"203.0.113.{number}") for number in (1, 5, 1, 4)
    ]
    assert events(*lines, FROM[:150]) == []


@pytest.mark.parametrize("order", [1, -1])
def test_an_unknown_user_belongs_to_the_sender_line(order: int) -> None:
    lines = [f"{MTA}{ID}: <nobody@c.example>... User unknown", f"{MTA}{ID}: <none@c.example>... User unknown", FROM]
    assert offences(*lines[::order]) == [("reject", "203.0.113.9")] * 2


def test_a_virus_told_three_times_is_one() -> None:
    verdict = "virus Eicar detected by ClamAV"
    lines = [
        FROM,
        f"{MTA}{ID}: milter=clmilter, reject=550 5.7.1 {verdict}",
        f"{MTA}{ID}: Milter: data, reject=550 5.7.1 {verdict}",
        f"{MTA}{ID}: to=<u@c.example>, delay=00:00:00, pri=30143, stat={verdict}",
        f"{MTA}{ID}: to=<v@c.example>, delay=00:00:00, pri=30143, stat={verdict}",
    ]
    assert offences(*lines) == [("virus", "203.0.113.9")]


def test_three_failures_are_three_though_called_an_attack() -> None:
    failure = f"{MTA}{ID}: AUTH failure (LOGIN): authentication failure (-13) SASL(-13): authentication failure: checkpass failed, user=x, relay=[203.0.113.9]"
    for told in (
        "[203.0.113.9]: possible SMTP attack: command=AUTH, count=3",
        "possible SMTP attack: command=AUTH, count=3, relay=[203.0.113.9]",
    ):
        assert offences(failure, failure, failure, f"{MTA}{ID}: {told}") == [("auth", "203.0.113.9")] * 3


def test_a_cut_address_is_told_by_the_queue_id() -> None:
    failure = f"{MTA}{ID}: AUTH failure (LOGIN): authentication failure (-13) SASL(-13): checkpass failed, user=x, relay={'long.' * 16}example [203.0.113."
    left = f"{MTA}{ID}: {'long.' * 16}example [203.0.113.99] did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA"
    assert offences(failure, left) == [("auth", "203.0.113.99")]


@pytest.mark.parametrize(
    "line",
    [
        f"{MTA}{ID}: to=<a@c.example>, delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=30421, relay=mx.c.example. [{VICTIM}], dsn=5.1.1, stat=User unknown",
        f"{MTA}{ID}: to=<a@c.example>, delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=30421, relay=mx.c.example. [{VICTIM}], dsn=5.7.1, reply=550 5.7.1 virus, stat=Service unavailable",
        f"{MTA}{ID}: {ID[:-1]}5: DSN: User unknown",
        f"{MTA}{ID}: lost input channel from host9.example [203.0.113.9] to MTA after rcpt",
        f"{MTA}{ID}: timeout waiting for input from [203.0.113.9] during server cmd read",
        f"{MTA}{ID}: SYSERR(root): collect: I/O error on connection from [203.0.113.9], from=<a@b.example>",
        f"{MTA}STARTTLS=server, error: accept failed=-1, reason=wrong version number, SSL_error=1, errno=0, retry=-1, relay=[203.0.113.9]",
        f"{MTA}ruleset=try_tls, arg1=mx.c.example, relay=[{VICTIM}], reject=550 5.7.1 do not try TLS with mx.c.example",
        f"{MTA}{ID}: Authentication-Warning: mx: www set sender to a@b.example using -f",
        f"{MTA}rejecting connections on daemon MTA: load average: 20",
        f"{MTA}{ID}: Milter (greylist): to error state",
        f"{MTA}{ID}: Milter: to=<u@c.example>, reject=451 4.7.1 Greylisting in action, please come back in 00:05:00",
        f"{MTA}{ID}: ruleset=check_rcpt, arg1=<u@c.example>, relay=[203.0.113.9], reject=450 4.3.0 <u@c.example>... Temporary system failure",
        f"{MTA}{ID}: <-- MAIL FROM:<x>... Relaying denied, relay=[{VICTIM}]",
        f"{MTA}{ID}: Truncated MIME Content-Type header due to field size (length = 3000) (possible attack)",
    ],
)  # fmt: skip
def test_harmless(line: str) -> None:
    assert offences(FROM, line) == []


# -- what a client may say ------------------------------------------------------------------------------------------

PIECES = (
    f"[{VICTIM}]", f", relay=[{VICTIM}]", f", relay=x [{VICTIM}], reject=550 5.7.1 ", f", relay=x [{VICTIM}], reject=450 4.7.1 ",
    f", relay=[{VICTIM}], discard", f"{ID}: from=<>, relay=[{VICTIM}]", f"] [{VICTIM}] did not issue MAIL/EXPN/VRFY/ETRN during connection to M",
    "... Relaying denied", "... User unknown", "... Try again", ", reject=451 4.7.1 Greylisted", "virus", "spam", "Greylisted", "possible SMTP attack: command=AUTH, ",
    '"', "\\", '\\"', "(", ")", "<", ">", "[", "]", "@", ", ", ": ", " ", "a", "IPv6:::1", "stat=Sent", "quarantine=x", "é",
)  # fmt: skip
SAID = st.lists(st.sampled_from(PIECES) | st.text('ab ,=[]<>()"\\.:', max_size=6), max_size=10).map("".join)
QUOTED = SAID.map(
    lambda said: ('<"' + said.replace("\\", "\\\\").replace('"', '\\"') + '"@c.example>').replace("\\", "\\\\")
)
# a comment may hold a lone quote: `<a("x)"y>, relay=[…]"@c.example>` is taken by sendmail, and printed as it came
COMMENT = SAID.map(lambda said: '<a("x)"' + said.replace('"', "").replace("\\", "") + '"@c.example>')
RAW = SAID.map(lambda said: f"<{said}>")
PATH = QUOTED | COMMENT | RAW
CLIENT = st.sampled_from(
    [
        "[203.0.113.9]",
        "host9.example [203.0.113.9]",
        "host9.example [203.0.113.9] (may be forged)",
        "IDENT:u@h.example [203.0.113.9]",
    ]
)


@settings(max_examples=200, deadline=None)
@given(CLIENT, PATH, PATH, SAID)
def test_nobody_else_is_accused(client: str, sender: str, recipient: str, said: str) -> None:
    head, end = f"{MTA}{ID}: ", f", relay={client}"
    lines = [
        f"{head}ruleset=check_mail, arg1={sender}{end}, reject=553 5.1.8 {sender}... Domain of sender address does not exist",
        f"{head}ruleset=check_rcpt, arg1={recipient}{end}, reject=550 5.7.1 {recipient}... Relaying denied",
        f"{head}ruleset=check_rcpt, arg1={recipient}{end}, reject=550 5.7.1 {recipient}... bogus HELO name used: {said}",
        f"{head}ruleset=check_compat, arg1={sender}, arg2={recipient}{end}, reject=550 5.7.1 no",
        f"{head}ruleset=check_subject, arg1={said}{end}, reject=553 5.7.1 no",
        f"{head}ruleset=check_rcpt, arg1={recipient}{end}, discard",
        f"{head}{recipient}... User unknown",
        f"{head}Milter: to={recipient}, reject=550 5.7.1 no",
        f"{head}Milter: from={sender}, reject=451 4.7.1 Greylisted",
        f"{head}to={recipient}, delay=00:00:01, pri=1, stat=virus X",
        f"{head}to={recipient}, delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1, relay=x [192.0.2.1], dsn=5.1.1, stat={said}",
        f"{head}AUTH failure (LOGIN): no (-20) SASL(-13): no, user={said}{end}",
        f'{head}AUTH decode64 error [-5 for "{said}"]{end}',
        f"{head}{client}: probable open proxy: command={said}",
        f"{head}{client}: VRFY {said} [rejected]",
        f"{head}setsender: {said}: invalid or unparsable, received from {client}",
        f"{head}invalid domain name ({said}) from {client}",
        f"{head}<-- {said}",
        f"{head}--- 550 5.1.1 {recipient}... User unknown",
        f"{head}Milter (x) change: header Subject: from {said} to {said}",
        f"{head}from={sender}, size=1, class=0, nrcpts=0, msgid=<{said}>, proto=SMTP, daemon=M{end}",
    ]
    for event in events(*lines):
        assert event.address in ("203.0.113.9", None), event.text
        assert event.queue_id in (ID, None), event.text


@settings(max_examples=200, deadline=None)
@given(CLIENT, QUOTED | COMMENT, SAID)
def test_no_offence_is_talked_away(client: str, path: str, said: str) -> None:
    head, end = f"{MTA}{ID}: ", f", relay={client}"
    begin = f"{head}from=<a@b.example>, size=1, class=0, nrcpts=0, proto=SMTP, daemon=M{end}"
    wanted = {
        f"{head}ruleset=check_mail, arg1={path}{end}, reject=553 5.1.8 {path}... Domain of sender address does not exist": "reject",
        f"{head}ruleset=check_rcpt, arg1={path}{end}, reject=550 5.7.1 {path}... Relaying denied": "relay reject",
        f"{head}ruleset=check_rcpt, arg1={path}{end}, discard": "reject",
        f"{head}Milter: to={path}, reject=550 5.7.1 no": "reject",
        f"{head}AUTH failure (LOGIN): no (-20) SASL(-13): no, user={said}{end}": "auth",
        f"{head}{client}: probable open proxy: command={said}": "protocol",
    }
    for line, kinds in wanted.items():
        found = offences(begin, line)
        assert len(found) == 1, line
        assert found[0][0] in kinds.split(), line
        assert found[0][1] == "203.0.113.9", line


def test_every_kind_is_told_of() -> None:
    (own,) = (each for each in SHIPPED if each.name == "sendmail")
    kinds = Counter(pattern.kind for pattern in own.patterns)
    assert set(OFFENCES) <= set(kinds)
