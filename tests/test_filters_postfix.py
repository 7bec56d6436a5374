# ruff: noqa: E501  (lines as the server prints them)
"""Postfix's lines, built by its own printing rules (src/smtpd, src/postscreen, src/cleanup) with hostile values.

The filter's samples say what each line means; here every class of pattern meets text that hypothesis finds wherever
the client has a say. The line must lead to the client or to nobody, and where the server's words come first, to an
offence of the same kind whatever the client says.
"""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from denyspam.events import OFFENCES, Finding
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTER = parse_filter((Path(__file__).parent.parent / "filters" / "postfix.filter").read_text(), "postfix.filter")
SCANNER = Scanner([FILTER], "log", Stamps(timezone.utc))
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
QUEUE = "4XyZq81Kw0z9P1"

PIECES = (
    "[1.2.3.4]", " from x[1.2.3.4]", "from x[1.2.3.4]:", "x[1.2.3.4]: SASL LOGIN authentication failed: no", ";", ">", "<", ">: ", '"',
    "\\", "@", ", ", ": ", "[", "]", " ", "a", "b.example", "Relay access denied", "Recipient address rejected: Greylisted", "virus",
    "spam", "Improper use of SMTP command pipelining", "Service unavailable; Client host [1.2.3.4] blocked using x", "4.7.1 ", "450 4.2.0 ",
    "NOQUEUE: reject: RCPT from x[1.2.3.4]: 554 5.7.1 no", QUEUE + ": client=x[1.2.3.4]", ", orig_client=x[1.2.3.4]", ", relay=127.0.0.1[127.0.0.1]:10024",
    "status=sent (250 2.7.0 Ok, discarded, id=1 - INFECTED: x)", "Connection lost", " authentication failed: ", ", sasl_username=x", "all server ports busy",
    "message repeated 900 times: [ ", " for service smtp", "(queue active)", "bare <LF> received", "é", "\x1b", "A" * 200,
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=10).map(
    lambda pieces: "".join(pieces).replace("\n", "?").replace("\r", "?")
)
ADDRESS = st.sampled_from(["203.0.113.7", "2001:db8::7"])
CLIENT = st.sampled_from(["unknown[{}]", "host7.example[{}]", "1.2.3.4.dyn.example[{}]", "unknown[{}]:4711"])
STAGE = st.sampled_from(
    [
        "CONNECT",
        "HELO",
        "EHLO",
        "MAIL",
        "RCPT",
        "VRFY",
        "DATA",
        "BDAT",
        "ETRN",
        "END-OF-MESSAGE",
        "UNKNOWN",
        "DATA+content",
        "BDAT+content",
    ]
)
PROGRAM = st.sampled_from(
    [
        "postfix/smtpd",
        "postfix-mx/smtpd",
        "postfix/submission/smtpd",
        "postfix/smtps-haproxy/smtpd",
        "postfix/25/smtpd",
        "mx-in/smtpd",
    ]
)


def findings(body: str, program: str = "postfix/smtpd") -> list[Finding]:
    line = f"{STAMP}{program}[17]: {body}\n"
    return SCANNER.feed(line.encode("utf-8", "surrogatepass"), 0, 1, NOW)


def said(body: str, address: str | None, program: str = "postfix/smtpd") -> str | None:
    """The kind of the line's finding, which names `address` (or, where None, nobody) and this session's queue id."""
    found = findings(body, program)
    assert len(found) <= 1, body
    for one in found:
        assert address == one.address, body
        assert one.queue_id in (QUEUE, None), body
        assert one.times == 1, body
        return one.kind
    return None


def tail(sender: str, recipient: str, helo: str) -> str:
    return f"from=<{sender}> to=<{recipient}> proto=ESMTP helo=<{helo}>"


@settings(max_examples=300, deadline=None)
@given(CLIENT, ADDRESS, STAGE, PROGRAM, HOSTILE, HOSTILE, HOSTILE)
def test_refusals(  # noqa: PLR0917
    name: str, ip: str, stage: str, program: str, sender: str, recipient: str, helo: str
) -> None:
    refused = f"reject: {stage.replace('+', ' ')} from {name.format(ip)}"
    end = tail(sender, recipient, helo)
    for queue in ("NOQUEUE", QUEUE):
        for reply in (
            f"554 5.7.1 <{recipient}>: Recipient address rejected: no",
            f"550 5.1.1 <{recipient}>: Recipient address rejected: User unknown in local recipient table",
            f"554 5.7.1 <{recipient}>: Relay access denied",
            f"554 <{recipient}>: Relay access denied",
            f"504 5.5.2 <{helo}>: Helo command rejected: need fully-qualified hostname",
            f"404 4.5.2 <{helo}>: Helo command rejected: need fully-qualified hostname",
            f"503 5.5.0 <{sender}>: Sender address rejected: Improper use of SMTP command pipelining",
        ):
            assert said(f"{queue}: {refused}: {reply}; {end}", ip, program) in OFFENCES
        for reply in (
            f"450 4.1.8 <{sender}>: Sender address rejected: Domain not found",
            f"450 4.7.25 Client host rejected: cannot find your hostname, [{ip}]",
            f"450 Client host rejected: cannot find your hostname, [{ip}]",
            f"450 4.7.1 Service unavailable; Client host [{ip}] blocked using bl.example; {helo}",
            f"554 5.7.1 Service unavailable; Sender address [{sender}] blocked using bl.example",
        ):
            assert said(f"{queue}: {refused}: {reply}; {end}", ip, program) == "reject"
        assert said(f"{queue}: {refused}: bare <LF> received; {end}", ip, program) == "protocol"
        for reply in (
            "450 4.7.1 Service unavailable",
            "451 4.3.5 Server configuration error",
            "452 4.3.1 Insufficient system storage",
            "421 4.3.0 mx.example.org Server local data error",
        ):
            assert said(f"{queue}: {refused}: {reply}; {end}", ip, program) == "defer"
        for action in ("reject_warning", "discard", "hold", "filter", "redirect", "warn", "info", "permit"):
            untold = f"{queue}: {action}: {stage.replace('+', ' ')} from {name.format(ip)}: <{recipient}>: x; {end}"
            assert said(untold, ip, program) is None


@settings(max_examples=300, deadline=None)
@given(CLIENT, ADDRESS, STAGE, HOSTILE, HOSTILE, HOSTILE)
def test_milters(  # noqa: PLR0917
    name: str, ip: str, stage: str, sender: str, recipient: str, helo: str
) -> None:
    client, end = name.format(ip), tail(sender, recipient, helo)
    where = f"{QUEUE}: milter-reject: {stage.replace('+', ' ')} from {client}"
    for program, code in (("postfix/smtpd", "550 "), ("postfix/cleanup", "")):
        for text, kind in (
            ("5.7.1 virus Eicar detected by ClamAV - http://www.clamav.net/", "virus"),
            ("5.7.1 This message contains a virus", "virus"),
            ("5.7.0 Reject, id=01234-05 - INFECTED: Eicar", "virus"),
            ("5.7.1 Spam message rejected", "spam"),
            ("5.7.1 Command rejected", "reject"),
            ("5.5.0 Service unavailable", "defer"),
        ):
            assert said(f"{where}: {code}{text}; {end}", ip, program) == kind
    assert said(f"{where}: 4.7.1 Try again later; {end}", ip, "postfix/cleanup") == "defer"
    assert said(f"{QUEUE}: milter-hold: END-OF-MESSAGE from {client}: milter triggers HOLD action; {end}", ip) is None
    assert (
        said(f"{QUEUE}: milter-discard: END-OF-MESSAGE from {client}: milter triggers DISCARD action; {end}", ip)
        is None
    )


@settings(max_examples=300, deadline=None)
@given(CLIENT, ADDRESS, HOSTILE, HOSTILE, HOSTILE)
def test_header_checks_count_by_queue_id(name: str, ip: str, sender: str, recipient: str, text: str) -> None:
    end = f"{text} from {name.format(ip)}; {tail(sender, recipient, text)}: 5.7.1 no"
    for context in ("header Subject:", "body", "mime-header", "nested-header"):
        assert said(f"{QUEUE}: reject: {context} {end}", None, "postfix/cleanup") == "reject"
        for action in ("warning", "info", "hold", "discard", "filter", "redirect", "prepend", "replace"):
            assert said(f"{QUEUE}: {action}: {context} {end}", None, "postfix/cleanup") is None


@settings(max_examples=300, deadline=None)
@given(CLIENT, ADDRESS, HOSTILE, HOSTILE)
@example("unknown[{}]", "203.0.113.7", " authentication failed: Connection lost", "LOGIN")
def test_sessions(name: str, ip: str, text: str, user: str) -> None:
    client = name.format(ip)
    for reason in ("authentication failure", "(reason unavailable)", "UGFzc3dvcmQ6", "bad protocol / cancel", ""):
        for after in ("", f", sasl_username={user}"):
            assert said(f"warning: {client}: SASL LOGIN authentication failed: {reason}{after}", ip) == "auth"
    lost = f"warning: {client}: SASL LOGIN authentication failed: Connection lost to authentication server, sasl_username={user}"
    assert said(lost, ip) is None
    quoted = f'"{text}"'
    for mechanism in ("x[1.2.3.4]:", quoted, f"x{quoted}"):  # src/smtpd/smtpd_token.c: quotes stay
        assert said(f"warning: {client}: SASL {mechanism} authentication failed: no mechanism available", ip) == "auth"
    for body in (
        f"improper command pipelining after EHLO from {client}: {text}",
        f"NOQUEUE: improper command pipelining after DATA content from {client}: {text}",
        f"warning: non-SMTP command from {client}: {text}",
        f"warning: Illegal address syntax from {client} in MAIL command: {text}",
        f"warning: {QUEUE}: malformed BDAT command syntax from {client}: {text}",
    ):
        assert said(body, ip) == "protocol"
    for body in (
        f"warning: {client}: request longer than 2048: {text}...",
        f'{client}: replacing command "{text}" with "{text}"',
        f"< {client}: {text}",
        f"disconnect from {client} ehlo=1 auth=0/3 quit=1 commands=2/5",
    ):
        assert said(body, ip) is None


@settings(max_examples=200, deadline=None)
@given(ADDRESS, HOSTILE, HOSTILE, HOSTILE)
def test_postscreen(ip: str, sender: str, recipient: str, text: str) -> None:
    client, program = f"[{ip}]:4711", "postfix/postscreen"
    for body in (
        f"PREGREET 14 after 0.07 from {client}: {text}",
        f"COMMAND PIPELINING from {client} after {text}: {text}",
        f"NON-SMTP COMMAND from {client} after CONNECT: {text}",
        f"BARE NEWLINE from {client} after {text}",
        f"COMMAND LENGTH LIMIT from {client} after {text}",
    ):
        assert said(body, ip, program) == "protocol"
    end = f"from=<{sender}>, to=<{recipient}>, proto=ESMTP, helo=<{text}>"
    refused = f"NOQUEUE: reject: RCPT from {client}"
    assert (
        said(f"{refused}: 550 5.7.1 Service unavailable; client [{ip}] blocked using bl.example; {end}", ip, program)
        == "reject"
    )
    assert said(f"{refused}: 550 5.5.1 Protocol error; {end}", ip, program) == "reject"
    assert said(f"{refused}: 450 4.3.2 Service currently unavailable; {end}", ip, program) == "defer"


@settings(max_examples=300, deadline=None)
@given(CLIENT, ADDRESS, HOSTILE, HOSTILE)
def test_whose_the_queue_id_is(name: str, ip: str, user: str, recipient: str) -> None:
    client = name.format(ip)
    assert said(f"{QUEUE}: client={client}, sasl_method=PLAIN, sasl_username={user}", ip) == "client"
    assert said(f"{QUEUE}: client=localhost[127.0.0.1], orig_queue_id=0A1B2C3D4E, orig_client={client}", ip) == "client"
    sasl = f"{QUEUE}: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username={user}, orig_client={client}"
    assert said(sasl, "127.0.0.1") == "client"  # what follows the user name may be the user's
    assert said(f"{QUEUE}: message-id=<{user}>", None, "postfix/cleanup") is None
    assert said(f"{QUEUE}: from=<{user}>, size=1, nrcpt=1 (queue active)", None, "postfix/qmgr") in ("accept", None)


@settings(max_examples=300, deadline=None)
@given(HOSTILE, HOSTILE)
def test_deliveries_quote_others(recipient: str, text: str) -> None:
    to = f"{QUEUE}: to=<{recipient.replace('>', '')}>, relay=mx.b.example[192.0.2.25]:25, delay=1, delays=0/0/1/0, dsn=5.7.1, "
    for program in (
        "postfix/smtp",
        "postfix/lmtp",
        "postfix/local",
        "postfix/pipe",
        "postfix/virtual",
        "postfix/error",
    ):
        said_by = f"host mx.b.example[192.0.2.25] said: 554 5.7.0 Reject, id=1 - INFECTED: {text}"
        if '"' not in recipient and "\\" not in recipient:  # quoted, it may hold a delivery to a filter of its own
            assert said(f"{to}status=bounced ({said_by} (in reply to end of DATA command))", None, program) is None
        assert said(f"{QUEUE}: {said_by}", None, program) is None
        assert said(f"{QUEUE}: host mx.b.example[192.0.2.25] refused to talk to me: {text}", None, program) is None


def test_a_verdict_told_by_filter_and_delivery_is_one() -> None:
    log = [
        f"postfix/smtpd[1]: {QUEUE}: client=unknown[203.0.113.7]",
        f"postfix/qmgr[1]: {QUEUE}: from=<a@b.example>, size=325, nrcpt=2 (queue active)",
        *(
            f"postfix/smtp[1]: {QUEUE}: to=<{user}@example.org>, relay=127.0.0.1[127.0.0.1]:10024, delay=0.8, "
            "delays=0/0/0/0.8, dsn=2.7.0, status=sent (250 2.7.0 Ok, discarded, id=15303-02 - INFECTED: Eicar-Signature)"
            for user in ("u", "v")
        ),
    ]
    block = "".join(f"{STAMP}{line}\n" for line in log).encode()
    join = Join()
    events = [event for one in SCANNER.feed(block, 0, 1, NOW) for event in join.feed(one, one.offset)]
    assert [(event.kind, event.address) for event in [*events, *join.flush()]] == [
        ("accept", "203.0.113.7"),
        ("virus", "203.0.113.7"),
    ]
