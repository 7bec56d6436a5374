# ruff: noqa: E501  (lines as the programs print them)
"""Programs that judge mail for the server: whose a verdict is, that it counts once, and that no client can bend it.

Hostile lines are built by the programs' own printing rules: amavis writes control characters and backslashes as
escapes, rspamd replaces blanks in a Message-ID, MIMEDefang escapes commas, MailScanner and clamav-milter print what they
were given.
"""

from __future__ import annotations

import re
from datetime import timezone
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import CLIENT, HARMLESS, Event, Finding
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
QUEUE = "4Xyzq81Kw0z9P1"
TASK = "00812-05"
TRUE = "203.0.113.7"


def scanner(*names: str, now: float = NOW) -> Scanner:
    filters = [parse_filter((FILTERS / f"{name}.filter").read_text(), name) for name in names]
    return Scanner(filters, "log", Stamps(timezone.utc))


SCANNER = scanner("amavis", "clamav", "mailscanner", "mimedefang", "rspamd", "spamd")
# One line of the server that names the client, so that joins need not wait for its own filters
CLIENT_LINE = f"{STAMP}postfix/smtpd[7]: {QUEUE}: client=host7.example[{TRUE}]"


def findings(line: str) -> list[Finding]:
    return SCANNER.feed(line.encode("utf-8", "surrogatepass") + b"\n", 0, 1, NOW)


def only(line: str) -> Finding | None:
    """The line's finding, which leads to this client or is none; one that accuses nobody is none."""
    found = [each for each in findings(line) if each.address or each.queue_id]
    assert len(found) <= 1, line
    for each in found:
        assert each.address in (TRUE, None), line
        assert each.queue_id in (QUEUE, TASK), line
        assert each.address or each.queue_id == QUEUE, line
        return each
    return None


def events(*lines: str, names: tuple[str, ...], now: float = NOW) -> list[Event]:
    """The offences in a log of these lines."""
    log = scanner(*names)
    join = Join()
    data = "".join(line + "\n" for line in lines).encode()
    found = [event for one in log.feed(data, 0, 1, now) for event in join.feed(one, one.offset)]
    return [event for event in (*found, *join.flush()) if event.kind not in HARMLESS]


def told(*lines: str, names: tuple[str, ...]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.address) for event in events(*lines, names=names)]


# -- forged text -----------------------------------------------------------------------------------------------------

PIECES = (
    "[1.2.3.4]", " [1.2.3.4]:25", "]", "[", "(", ")", "<", ">", '"', "\\", '\\"', ";", ": ", ", ", " ", "@", "a", "b.example", ",",
    ") {DiscardedInbound}, [1.2.3.4]:25 <", ") {A}, [1.2.3.4] [1.2.3.4] <a@b> -> <c@d>, Queue-ID: FORGED1, ", "), [1.2.3.4] <",
    "{RejectedInbound}, ", ", Queue-ID: FORGED1, ", "> -> <c@d>, Queue-ID: FORGED1, Message-ID: <", ",<a@b>", "-> <",
    "(00812-06) Blocked INFECTED (X), [1.2.3.4] <", ">, qid: <FORGED1>, ip: 1.2.3.4, from: <", "(default: T (reject): [1/1] [CLAM_VIRUS(",
    "(default: F (no action): [0/1] []", "rspamd_task_write_log: id: <", ",MDLOG,FORGED1,virus,", "%2C", "virus,", "MDLOG,FORGED1,spam,",
    "Infected message FORGED1 came from 1.2.3.4", " came from 1.2.3.4", "/./FORGED1/x", "Message FORGED1 from 1.2.3.4 (a) to b is spam",
    ") to b.example is spam, ", ") to b.example is not spam, ", " infected by X", "Message FORGED1 from <a>", ">>> Virus 'X' found in file ./FORGED1/",
    "message repeated 9 times: [ ", "x[1.2.3.4]:", "relay=[1.2.3.4]", "\t", "\x1b", "é", "A" * 300, "1.2.3.4", "FORGED1",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map(
    lambda pieces: "".join(pieces).replace("\n", " ").replace("\r", " ")
)


def quoted(local: str) -> str:
    """An SMTP path with a quoted local part, as RFC 5321 writes it."""
    return '<"' + re.sub(r'(["\\])', r"\\\1", local) + '"@b.example>'


ESCAPES = {"\t": "\\t", "\\": "\\\\"}


def sanitised(text: str) -> str:
    """amavisd, sanitize_str(): controls and backslashes as escapes."""
    return re.sub(r"[\x00-\x1f\x7f\\]", lambda found: ESCAPES.get(found[0], f"\\x{ord(found[0]):02X}"), text)


# where amavis prints the client: policy banks, LOCAL, client, first Received hop, protocol; and before it what it did
WHERE = st.tuples(
    st.sampled_from(["", " {DiscardedInbound,Quarantined}", " {RelayedInternal}"]),
    st.sampled_from(["", " LOCAL", " MYNETS", " MYNETS/ORIGINATING LOCAL"]),
    st.sampled_from([":40112", "", " [198.51.100.4]", ":40112 [198.51.100.4] ESMTP/SMTP"]),
).map(lambda parts: f"{parts[0]},{parts[1]} [{TRUE}]{parts[2]}")


@settings(max_examples=500, deadline=None)
@given(WHERE, HOSTILE, HOSTILE, HOSTILE, st.booleans())
def test_amavis(where: str, sender: str, recipient: str, message: str, named: bool) -> None:
    queue = f", Queue-ID: {QUEUE}" if named else ""
    end = f"{queue}, Message-ID: <{sanitised(message)}>, mail_id: kaZ01, Hits: -, size: 428, 85 ms"
    path = sanitised(f"{quoted(sender)} -> {quoted(recipient)}")
    head, tail = f"{STAMP}amavis[812]: ({TASK}) ", f"{where} {path}{end}"
    for verdict, kind in (
        ("Passed INFECTED (Eicar-Test-Signature)", "virus"),
        ("Blocked INFECTED (Win.Test.EICAR_HDB-1, Other(44d88612:68))", "virus"),
        ("Blocked SPAM", "spam"),
        ("Blocked SPAMMY", "spam"),
        ("Blocked BAD-HEADER-3", "reject"),
    ):
        found = only(head + verdict + tail)
        assert found is not None, verdict + tail
        assert (found.kind, found.address) == (kind, TRUE)
    for verdict in ("Passed CLEAN", "Passed SPAMMY", "Passed SPAM", "Blocked MTA-BLOCKED", "Passed BAD-HEADER-3"):
        assert findings(head + verdict + tail) == []


@settings(max_examples=500, deadline=None)
@given(WHERE, HOSTILE, HOSTILE)
def test_amavis_file_names(where: str, name: str, sender: str) -> None:
    end = f"Queue-ID: {QUEUE}, Message-ID: <1@b.example>, mail_id: kaZ01, Hits: -, size: 428, 85 ms"
    for verdict in ("Blocked BANNED", "Passed BANNED"):
        line = (
            f"({TASK}) {verdict} (.exe,{sanitised(name)}){where} {sanitised(quoted(sender))} -> <u@example.org>, {end}"
        )
        found = only(f"{STAMP}amavis[812]: {line}")
        assert found is None or (found.kind == "reject" and verdict.startswith("Blocked"))


@settings(max_examples=500, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_clamav_milter(sender: str, recipient: str, subject: str) -> None:
    end = f"from <{sender}> to <{recipient}> with subject '{subject}' message-id '<{sender}>' date '{recipient}'"
    found = only(f"{STAMP}clamav-milter[612]: Message {QUEUE} {end} infected by Eicar-Test-Signature")
    assert found is not None
    assert (found.kind, found.address, found.queue_id) == ("virus", None, QUEUE)
    assert findings(f"{STAMP}clamav-milter[612]: Clean message {QUEUE} {end}") == []
    assert findings(f"{STAMP}clamav-milter[612]: Message from <{sender}> to <{recipient}> infected by X") == []


@settings(max_examples=500, deadline=None)
@given(HOSTILE, HOSTILE)
def test_mailscanner(sender: str, name: str) -> None:
    head = f"{STAMP}MailScanner[948]: "
    for scanned in (
        f">>> Virus 'W32/Any-A' found in file ./{QUEUE}/{name}",
        f"Clamd::INFECTED:: Eicar-Test-Signature :: ./{QUEUE}.A1B2C/{name}",
        f"ClamAVModule::INFECTED:: Eicar-Test-Signature:: ./{QUEUE}/{name}",
        f"/var/spool/MailScanner/incoming/12345/./{QUEUE}.A1B2C/{name}: Eicar FOUND",
        f"ALERT: [Eicar-Test-Signatur virus] ./{QUEUE}/{name} <<< Contains code of the Eicar-Test-Signatur virus",
        f"Infected message {QUEUE} came from {TRUE}",
    ):
        found = only(head + scanned)
        assert found is not None
        assert (found.kind, found.queue_id) == ("virus", QUEUE)
    spam = only(f"{head}Message {QUEUE} from {TRUE} ({sender}) to example.org is spam, SpamAssassin (score=9)")
    assert spam is None or (spam.kind, spam.address, spam.queue_id) == ("spam", TRUE, QUEUE)
    only(f"{head}Message {QUEUE} from {TRUE} ({sender}) to example.org is not spam, SpamAssassin (score=1)")
    only(f"{head}Content Checks: Detected and have disarmed {name} in HTML message in {QUEUE} from {sender}")
    only(f"{head}Filename Checks: Executable ({QUEUE} {name})")


@settings(max_examples=300, deadline=None)
@given(st.text("abcXYZ019.-_=+/'!#$%&*?^{|}~@", max_size=60), HOSTILE)
def test_mailscanner_spam_of_an_ordinary_sender(sender: str, report: str) -> None:
    line = f"{STAMP}MailScanner[948]: Message {QUEUE}.A1B2C from {TRUE} ({sender}) to example.org,example.net is "
    found = only(f"{line}spam, SpamAssassin ({report})")
    assert found is not None
    assert (found.kind, found.address, found.queue_id) == ("spam", TRUE, QUEUE)
    assert findings(f"{line}not spam, SpamAssassin ({report})") == []


@settings(max_examples=500, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_rspamd(message: str, sender: str, symbol: str) -> None:
    printed = re.sub(r"[^\x21-\x7e]", "?", message)  # g_ascii_isgraph
    for head in (f"{STAMP}rspamd[712]: <ab12cd>; proxy; ", "2026-03-04 10:00:00 #712(normal) <ab12cd>; task; "):
        whose = f"rspamd_task_write_log: id: <{printed}>, qid: <{QUEUE}>, ip: {TRUE}, from: "
        end = f": [21.50/15.00] [BAYES_SPAM(5.10){{{symbol}}}]), len: 812, digest: <00>, rcpts: <{sender}>"
        only(f"{head}{whose}{quoted(sender)}, (default: T (reject){end}")
        only(f"{head}{whose}<{sender}>, (default: T (reject){end}")
        only(f"{head}{whose}<{sender}>, (default: F (no action){end}")
        whose = f"rspamd_task_write_log: id: <1@b.example>, qid: <{QUEUE}>, ip: {TRUE}, from: <a@b.example>, "
        found = only(f"{head}{whose}(default: T (reject){end}")
        assert found is not None
        assert (found.kind, found.address, found.queue_id) == ("spam", TRUE, QUEUE)
        assert findings(f"{head}{whose}(default: F (no action){end}") == []


@settings(max_examples=300, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_mimedefang(value: str, sender: str, subject: str) -> None:
    def field(text: str) -> str:  # percent_encode_for_graphdefang
        return re.sub(r"[^\x20-\x7e]|[%\\,]", lambda found: f"%{ord(found[0]):02X}", text)

    end = ",".join(field(text) for text in (value, TRUE, f"<{sender}>", "<u@example.org>", subject))
    for kind in ("virus", "spam"):
        found = only(f"{STAMP}mimedefang.pl[412]: MDLOG,{QUEUE},{kind},{end}")
        assert found is not None
        assert (found.kind, found.address, found.queue_id) == (kind, None, QUEUE)
    for event in ("mail_in", "bad_filename", "non_rfc822"):
        assert findings(f"{STAMP}mimedefang.pl[412]: MDLOG,{QUEUE},{event},{end}") == []


@settings(max_examples=300, deadline=None)
@given(HOSTILE, HOSTILE)
def test_openbsd_spamd(sender: str, text: str) -> None:
    head = f"{STAMP}spamd[412]: "
    for list_, kind in (("BLACK", "reject"), ("GREY", "defer")):
        (found,) = findings(f"{head}({list_}) {TRUE}: <{sender}> -> <{text}>")
        assert (found.kind, found.address) == (kind, TRUE)
    for name in ("From", "Subject", "Body"):
        assert findings(f"{head}{TRUE}: {name}: {text}") == []


# -- one offence, one hit --------------------------------------------------------------------------------------------

MILTER = f"{STAMP}clamav-milter[612]: Message {QUEUE} from <a@b.example> to <u@example.org> with subject 'x' message-id '<1@b.example>' date 'x' infected by Eicar"
AMAVIS = f"{STAMP}amavis[812]: ({TASK}) Blocked INFECTED (Eicar) {{DiscardedInbound}}, [{TRUE}]:40112 <a@b.example> -> <u@example.org>, Queue-ID: {QUEUE}, mail_id: kaZ01, Hits: -, size: 428, 85 ms"
CLEANUP = f"{STAMP}postfix/cleanup[8]: {QUEUE}: milter-reject: END-OF-MESSAGE from host7.example[{TRUE}]: 5.7.1 virus Eicar detected by ClamAV; from=<a@b.example> to=<u@example.org> proto=ESMTP helo=<x>"


def test_a_virus_told_by_milter_scanner_and_server_counts_once() -> None:
    names = ("postfix", "amavis", "clamav")
    lines = (MILTER, CLEANUP, AMAVIS)
    for order in (lines, lines[::-1], (AMAVIS, MILTER, CLEANUP), (CLEANUP, AMAVIS, MILTER)):
        assert told(CLIENT_LINE, *order, names=names) == [("virus", TRUE)]
    assert told(CLIENT_LINE, MILTER, names=names) == [("virus", TRUE)]
    assert told(MILTER, CLIENT_LINE, names=names) == [("virus", TRUE)]


def test_a_message_that_amavis_blocked_for_one_and_passed_for_another_counts_once() -> None:
    passed = AMAVIS.replace("Blocked", "Passed").replace("{DiscardedInbound}", "{RelayedTaggedInbound}")
    assert told(AMAVIS, passed, names=("amavis",)) == [("virus", TRUE)]
    unnamed = [line.replace(f"Queue-ID: {QUEUE}, ", "") for line in (AMAVIS, passed)]
    assert told(*unnamed, names=("amavis",)) == [("virus", TRUE)]


def test_sendmail_clamav_milter() -> None:
    queue = "624A00aa002034"
    line = f"{STAMP}sm-mta[9]: {queue}: "
    lines = (
        f"{line}from=<a@b.example>, size=325, class=0, nrcpts=1, msgid=<1@b.example>, proto=ESMTP, daemon=MTA-v4, relay=host7.example [{TRUE}]",
        MILTER.replace(QUEUE, queue),
        f"{line}Milter: data, reject=550 5.7.1 virus Eicar detected by ClamAV - http://www.clamav.net/",
        f"{line}to=<u@example.org>, delay=00:00:01, pri=30143, stat=virus Eicar detected by ClamAV - http://www.clamav.net/",
    )
    assert told(*lines, names=("sendmail", "clamav")) == [("virus", TRUE)]


def test_rspamd_and_the_refusal_of_the_server_count_once() -> None:
    said = f"{STAMP}rspamd[712]: <ab12cd>; proxy; rspamd_task_write_log: id: <1@b.example>, qid: <{QUEUE}>, ip: {TRUE}, from: <a@b.example>, (default: T (reject): [21.50/15.00] [BAYES_SPAM(5.10){{}}]), len: 812"
    server = CLEANUP.replace("virus Eicar detected by ClamAV", "Spam message rejected")
    for order in ((said, server), (server, said)):
        assert told(CLIENT_LINE, *order, names=("postfix", "rspamd")) == [("spam", TRUE)]


def test_mailscanner_behind_postfix_tells_a_virus_of_each_file_and_of_the_message() -> None:
    head = f"{STAMP}MailScanner[948]: "
    lines = (
        f"{head}Clamd::INFECTED:: Eicar :: ./{QUEUE}.A1B2C/a.zip",
        f"{head}Clamd::INFECTED:: Eicar :: ./{QUEUE}.A1B2C/eicar.com",
        f"{head}Infected message {QUEUE}.A1B2C came from {TRUE}",
    )
    assert told(CLIENT_LINE, *lines, names=("postfix", "mailscanner")) == [("virus", TRUE)]
    assert told(*lines, names=("mailscanner",)) == [("virus", TRUE)]


# -- sendmail and MailScanner on Solaris -----------------------------------------------------------------------------

SOLARIS = """\
Nov  3 20:25:58 smtp3 sendmail[7645]: [ID 801593 mail.info] hA3CPot1007645: from=<marketing44@disney.biz>, size=64607, class=0, nrcpts=1, msgid=<200311031225.hA3CPot1007645@smtp3.example>, proto=SMTP, daemon=MTA, relay=[163.25.154.253]
Nov  3 20:25:58 smtp3 sendmail[7645]: [ID 801593 mail.info] hA3CPot1007645: to=<u@cc.example>, delay=00:00:06, mailer=relay, pri=30258, stat=queued
Nov  3 20:26:45 smtp3 mailscanner[3948]: >>> Virus 'W32/Yaha-P' found in file ./hA3CPot1007645/disney.zip/setup.exe
Nov  3 20:26:51 smtp3 sendmail[7958]: [ID 801593 mail.info] hA3CPot1007645: to=<u@cc.example>, delay=00:00:59, xdelay=00:00:00, mailer=relay, pri=120258, relay=[140.115.17.89], dsn=2.0.0, stat=Sent (hA3CP8k1016181 Message accepted for delivery)
Nov  3 20:27:00 smtp3 mailscanner[3948]: >>> Virus 'W32/Yaha-P' found in file ./hA3CPot1007645/disney.zip/setup.exe
"""
BURST = [
    f"Nov  3 20:29:10 smtp3 sendmail[8{number}]: [ID 801593 mail.info] hA3CTA{number}008{number}: from=<news{number}@bulk.example>, size=4807, class=0, nrcpts=1, msgid=<{number}@bulk.example>, proto=ESMTP, daemon=MTA, relay=mail{number}.bulk.example [216.22.24.{number}]"
    for number in (81, 85, 81, 84)
]
CUT = "Nov  3 20:29:10 smtp3 sendmail[8082]: [ID 801593 mail.info] hA3CTA82008082: from=<news82@bulk.example>, size=4807, class=0, nrc"
THEN = 1067893200.0  # 2003-11-03 21:00 UTC


def test_solaris() -> None:
    names = ("sendmail", "mailscanner")
    log = [*SOLARIS.splitlines(), *BURST, CUT]
    assert [(event.kind, event.address, event.time, event.number) for event in events(*log, names=names, now=THEN)] == [
        ("virus", "163.25.154.253", 1067891205.0, 3)  # 20:26:45
    ]
    every = scanner(*names).feed("\n".join(log).encode() + b"\n", 0, 1, THEN)
    assert {one.address for one in every if one.kind == CLIENT} == {
        "163.25.154.253", "216.22.24.81", "216.22.24.85", "216.22.24.84"
    }  # fmt: skip


def test_solaris_when_the_server_speaks_last() -> None:
    """The same with names and numbers of our own, the virus told before the server names the client."""
    line = "Jan  5 03:00:0{} relay2 {}: "
    log = (
        line.format(1, "mailscanner[51]") + ">>> Virus 'W32/Other-B' found in file ./i053001x012345/photo.zip/photo.scr",
        line.format(2, "sendmail[52]") + "[ID 801593 mail.info] i053001x012345: to=<v@example.org>, delay=00:00:01, mailer=relay, pri=30000, relay=[198.51.100.89], dsn=2.0.0, stat=Sent (ok)",
        line.format(3, "sendmail[53]") + f"[ID 801593 mail.info] i053001x012345: from=<x@b.example>, size=9, class=0, nrcpts=1, msgid=<9@b.example>, proto=SMTP, daemon=MTA, relay=host7.example [{TRUE}] (may be forged)",
        line.format(4, "mailscanner[51]") + ">>> Virus 'W32/Other-B' found in file ./i053001x012345/photo.zip/photo.scr",
    )  # fmt: skip
    assert [(event.kind, event.address, event.number) for event in events(*log, names=("sendmail", "mailscanner"))] == [
        ("virus", TRUE, 1)
    ]
