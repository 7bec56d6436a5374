# ruff: noqa: E501  (lines as the servers print them)
"""forge: log lines whose every client-written field is hostile, each with its truth. `python tests/forge.py COUNT [SEED]`.

Lines are built by the printing rules of postfix, exim and sendmail: what a client says in HELO, MAIL, RCPT, AUTH, as a
command or in a header is put together from PIECES that imitate the server's own words and name VICTIM. All go through
the shipped filters and one memory of queue ids, in blocks; then it is counted per server:
    wrong     an event that accuses somebody else: must be 0
    lost      an offence that did not come out
    nobody    an offence that came out without its address
    changed   an offence that came out as another kind
    alarm     a harmless line that came out as an offence
with examples of each. A field that the server could not have printed so (unbalanced quotes in sendmail's path) counts
for `wrong` only.

Plain random with a seed, not hypothesis: a million lines take some minutes.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timezone
from pathlib import Path

from denyspam.events import HARMLESS, Event
from denyspam.filter import canonical
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
BLOCK = 2000  # cases that go through one memory
LONG = 2000  # one text in so many is
LONGEST = 100_000  # characters long at most
EXAMPLES = 3
VICTIM = "192.0.2.66"
CLIENTS = ("203.0.113.7", "198.51.100.250", "2001:db8::7", "2001:db8:1:2:3:4:5:6")
NAMES = ("host7.example", "1-2-3-4.dyn.example", "a.b")

PIECES = (
    "[V]", " [V]", ") [V]", ") [V]: 535 x", "[V]:25", "(V)", "V", "from x[V]:", "x[V]: SASL LOGIN", " from x[V]: ", "I=[V]:25",
    "H=(x) [V] F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted", ") [V] F=<", "F=<", "H=", " H=x (y) [V] z",
    ", relay=[V]", ", relay=x [V], reject=550 5.7.1 ", ", relay=x [V], reject=450 4.7.1 ", ", relay=x [V] (may be forged), discard",
    "relay=x [IPv6:::9]", "QID: from=<>, relay=[V]", "NOQUEUE: reject: RCPT from x[V]: 554 5.7.1 <a@b>: Relay access denied",
    ">, relay=[V], reject=550 5.7.1 <x@y.example>... Relaying denied", ": possible SMTP attack: command=AUTH, count=3",
    " did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA", "... User unknown", "... Relaying denied", "... Greylisted",
    ", reject=450 4.7.1 Greylisted", ", discard", ", quarantine=x", "Greylisted", "virus", "infected", "spam", "SPAM", "User unknown",
    "message repeated 1000 times: [ ", "rejected", "dropped: too many ", "temporarily rejected", "Relay access denied",
    "]", "[", "(", ")", "<", ">", '"', "'", "\\", '\\"', "{", "}", "%", ";", ": ", ":", ", ", ",", " ", "  ", "@", "=", "a", "b.example", "root",
    "\t", "\x1b", "\x00", "\r", "\x7f", "é", "\u202e", "stat=Sent", "stat=virus", "P=esmtp S=1", "next input=", "helo=<", "to=<", "proto=ESMTP",
    "2026-03-04T10:00:00Z mx sm-mta[1]: ", "Mar  4 10:00:00 mx postfix/smtpd[1]: ", "::ffff:V", "[IPv6:2001:db8::66]", "V]", "[V",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """Some lines of one session; the truth is about the first one that has a `kind`."""

    server: str
    lines: tuple[str, ...]
    judged: int  # which of the lines
    address: str
    kind: str | None  # None: no offence
    real: bool = True  # a server could print it


def text(chance: random.Random) -> str:
    """What a client may say, on one line."""
    pieces = [chance.choice(PIECES) for _ in range(chance.randrange(1, 9))]
    if chance.randrange(LONG) == 0:
        pieces *= max(1, chance.randrange(LONGEST) // (1 + sum(map(len, pieces))))
    return "".join(pieces).replace("V", VICTIM)


def octal(said: str) -> str:
    """As exim and sendmail print what is no character of theirs."""
    return "".join(c if " " <= c <= "~" or c > "\xa0" else f"\\{ord(c):03o}" for c in said)


def marked(said: str) -> str:
    """As postfix does."""
    return "".join(c if " " <= c <= "~" else "?" for c in said)


def cut(reason: str) -> str:
    """As postfix cuts a reason, smtpd_check.c: control characters are blanks there."""
    return "".join(c if " " <= c <= "~" else " " for c in reason)[:510]


def quoted(said: str) -> str:
    """As a quoted local part."""
    return '"' + said.replace("\\", "\\\\").replace('"', '\\"') + '"'


def postfix(chance: random.Random, number: int) -> Case:
    ip, name = chance.choice(CLIENTS), chance.choice(("unknown", *NAMES))
    client = f"{name}[{ip}]"
    said = marked(text(chance))
    helo = "".join("?" if c in ' <>()\\";@' else c for c in marked(text(chance)))  # smtpd.c, NEUTER_CHARACTERS
    # log_whatsup() quotes the paths, which the reason quotes bare; no command is longer than line_length_limit
    local, sender = (text(chance)[: chance.choice((300, 2000))] for _ in range(2))
    recipient, sender = f"{local}@b.example", f"{marked(quoted(sender))}@a.example"
    tail = f"; from=<{sender}> to=<{marked(quoted(local))}@b.example> proto=ESMTP helo=<{helo}>"
    tail += chance.choice(("", "", " sasl_method=PLAIN sasl_username=bob"))
    smtpd, cleanup = f"{STAMP}postfix/smtpd[1]: ", f"{STAMP}postfix/cleanup[1]: "
    queue = f"F{number:09X}"
    noqueue = f"{smtpd}NOQUEUE: reject: RCPT from {client}: "
    shapes: tuple[tuple[str | None, str], ...] = (
        ("relay", f"{noqueue}{cut(f'554 5.7.1 <{recipient}>: Relay access denied')}{tail}"),
        ("reject", f"{noqueue}{cut(f'550 5.1.1 <{recipient}>: Recipient address rejected: User unknown in local recipient table')}{tail}"),
        ("reject", f"{noqueue}{cut(f'450 4.1.1 <{recipient}>: Recipient address rejected: undeliverable address: no such user')}{tail}"),
        ("reject", f"{noqueue}504 5.5.2 <{helo}>: Helo command rejected: need fully-qualified hostname{tail}"),
        ("reject", f"{noqueue}450 4.7.25 Client host rejected: cannot find your hostname, [{ip}]{tail}"),
        ("reject", f"{noqueue}450 4.1.8 <{local}@a.example>: Sender address rejected: Domain not found{tail}"),
        ("auth", f"{smtpd}warning: {client}: SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username={said}"),
        ("protocol", f"{smtpd}improper command pipelining after EHLO from {client}: {said}"),
        ("protocol", f"{smtpd}warning: non-SMTP command from {client}: {said}"),
        ("virus", f"{cleanup}{queue}: milter-reject: END-OF-MESSAGE from {client}: 5.7.1 virus Eicar detected by ClamAV{tail}"),
        (None, f"{noqueue}450 4.2.0 <{recipient[:200]}>: Recipient address rejected: Greylisted, see http://postgrey.example/{tail}"),
        (None, f"{cleanup}{queue}: warning: header Subject: {said} from {client}{tail}"),
        (None, f"{cleanup}{queue}: message-id={said}"),
        (None, f"{STAMP}postfix/qmgr[1]: {queue}: from=<{sender}>, size=1, nrcpt=1 (queue active)"),
        (None, f"{STAMP}postfix/smtp[1]: {queue}: to=<{recipient}>, relay=x[192.0.2.1]:25, delay=1, dsn=5.0.0, status=bounced (host x[192.0.2.1] said: 550 {said} (in reply to RCPT TO command))"),
    )  # fmt: skip
    kind, line = chance.choice(shapes)
    # of a greylisted recipient's odd text a filter may think the worst
    real = kind is not None or "Greylisted, see" not in line
    # of a reason that was cut off nobody knows the end
    return Case("postfix", (line,), 0, ip, kind, real and not (line.startswith(noqueue) and len(recipient) > 430))


def exim(chance: random.Random, number: int) -> Case:
    ip = chance.choice(CLIENTS)
    helo, local, said = (octal(text(chance)) for _ in range(3))
    sender, recipient = f"{quoted(local)}@a.example", f"{quoted(octal(text(chance)))}@b.example"
    host = chance.choice((f"({helo}) ", f"host7.example ({helo}) ", "host7.example ", "")) + f"[{ip}]"
    host += chance.choice(("", ":4711", " I=[192.0.2.25]:25", ":4711 I=[192.0.2.25]:25"))
    stamp = chance.choice(("2026-03-04 10:00:00 ", "2026-03-04 10:00:00 [4711] ", f"{STAMP}exim[1]: "))
    queue = f"1{number:05d}-0000AB-1x"
    shapes: tuple[tuple[str | None, str], ...] = (
        ("relay", f"H={host} F=<{sender}> rejected RCPT <{recipient}>: relay not permitted"),
        ("reject", f"H={host} F=<{sender}> rejected RCPT <{recipient}>: Unrouteable address"),
        ("reject", f"H={host} rejected MAIL <{sender}>: invalid sender"),
        ("reject", f"H={host} rejected EHLO or HELO {said}: forged"),
        ("virus", f"{queue} H={host} F=<{sender}> rejected after DATA: This message contains a virus (Eicar)"),
        ("auth", f"login authenticator failed for {host}: 535 Incorrect authentication data (set_id={said})"),
        ("protocol", f'SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H={host} input="{said}"'),
        ("protocol", f'SMTP call from {host} dropped: too many unrecognized commands (last was "{said}")'),
        (None, f"H={host} F=<{sender}> temporarily rejected RCPT <{recipient}>: Greylisted"),
        (None, f'{queue} <= {sender} H={host} P=esmtp S=100 id={said} T="{said}"'),
        (None, f"{queue} ** {recipient} R=dns T=smtp: SMTP error from remote mail server after RCPT TO: host x [192.0.2.1]: 550 {said}"),
    )  # fmt: skip
    kind, line = chance.choice(shapes)
    # log.c, LOG_BUFFER_SIZE: a longer line is not printed
    real = len(line) < 8000 and (kind is not None or "Greylisted" not in line[-12:])
    return Case("exim", (stamp + line,), 0, ip, kind, real)


def _path(chance: random.Random, domain: str) -> tuple[str, bool]:
    """A MAIL or RCPT argument as sendmail prints it (backslashes doubled), and whether it would take it."""
    said = octal(text(chance))
    form = chance.randrange(8)
    if form < 4:
        return f"<{quoted(said)}@{domain}>".replace("\\", "\\\\"), True
    if form < 6:
        plain = "".join(c for c in said if c.isalnum() or c in ".=_-+")
        return f"<{plain.strip('.') or 'a'}@{domain}>", True
    if form == 6:  # a comment holds what it likes but unbalanced brackets
        return f"<a({''.join(c for c in said if c not in '()<>')})@{domain}>".replace("\\", ""), False
    return f"<{said}>", False


def sendmail(chance: random.Random, number: int) -> Case:
    ip = chance.choice(CLIENTS)
    # anynet_ntoa writes IPv6 in full
    printed = "IPv6:" + ":".join(f"{int(p, 16):x}" for p in _full(ip)) if ":" in ip else ip
    bracket = f"[{printed}]"
    client = chance.choice(
        (
            bracket,
            f"host7.example {bracket}",
            f"host7.example {bracket} (may be forged)",
            f"IDENT:u@host7.example {bracket}",
            f"u.192.0.2.66@{bracket}",
        )
    )
    queue = f"62{number:012d}"
    mta = f"{STAMP}{chance.choice(('sm-mta', 'sendmail', 'sendmail-in'))}[1]: {chance.choice(('', '[ID 801593 mail.info] '))}"
    head = f"{mta}{queue}: "
    sender, real_sender = _path(chance, "a.example")
    recipient, real = _path(chance, "b.example")
    quote = recipient if len(recipient) <= 203 else recipient[:98] + "..." + recipient[-98:]
    whole = len(recipient) <= 203
    said, user = octal(text(chance)), octal(text(chance))
    end = f", relay={client}"
    begin = f"{head}from={sender[:200]}, size=1, class=0, nrcpts=1, msgid=<{said[:100]}>, proto=ESMTP, daemon=MTA{end}"
    rcpt = f"{head}ruleset=check_rcpt, arg1={recipient}{end}"
    shapes: tuple[tuple[str | None, str, bool], ...] = (
        ("relay", f"{rcpt}, reject=550 5.7.1 {quote}... Relaying denied. Proper authentication required.", real and whole),
        ("reject", f"{rcpt}, reject=550 5.7.1 {quote}... Rejected: {printed} listed at bl.example", real),
        ("reject", f"{rcpt}, discard", real),
        ("reject", f"{head}ruleset=check_mail, arg1={sender}{end}, reject=553 5.1.8 {sender[:203]}... Domain of sender address does not exist", real_sender),
        ("reject", f"{mta}ruleset=check_relay, arg1=host7.example, arg2={printed}{end}, reject=550 5.7.1 Access denied", True),
        ("protocol", f"{mta}ruleset=check_relay, arg1=host7.example, arg2={printed}{end}, reject=421 4.3.2 Connection rate limit exceeded.", True),
        ("reject", f"{head}{quote}... User unknown", real and whole),
        ("reject", f"{head}Milter: to={recipient}, reject=550 5.7.1 Access denied", real),
        ("reject", f"{head}Milter: from={sender}, reject=554 5.7.1 Command rejected", real_sender),
        ("virus", f"{head}Milter: data, reject=550 5.7.1 virus Eicar detected by ClamAV", True),
        ("virus", f"{head}to={recipient[:500]}, delay=00:00:01, pri=30143, stat=virus Eicar detected by ClamAV", False),
        ("auth", f"{head}AUTH failure (LOGIN): user not found (-20) SASL(-13): user not found: checkpass failed, user={user}{end}", True),
        ("protocol", f"{head}{client}: probable open proxy: command={said[:40]}", True),
        ("protocol", f"{head}{client}: possible SMTP attack: command=HELO/EHLO, count=4", True),
        ("protocol", f"{head}rejecting commands from {bracket} {bracket} due to pre-greeting traffic after 0 seconds", True),
        ("reject", f"{head}{client}: VRFY {said[:203]} [rejected]", True),
        (None, f"{rcpt}, reject=451 4.7.1 Greylisting in action, please come back later", False),
        (None, f"{head}Milter: to={recipient}, reject=451 4.7.1 Greylisting in action", False),
        (None, f"{head}<-- RCPT TO:{recipient}", True),
        (None, f"{head}--- 550 5.1.1 {quote}... User unknown", True),
        (None, f"{head}Milter (x) change: header Subject: from {said} to {said}", True),
        (None, f"{head}to={recipient[:500]}, delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=30143, relay=x. [192.0.2.1], dsn=5.1.1, stat=User unknown", True),
        (None, f"{head}lost input channel from {client} to MTA after rcpt", True),
    )  # fmt: skip
    kind, line, possible = chance.choice(shapes)
    lines = (line, begin) if chance.randrange(2) else (begin, line)
    return Case("sendmail", lines, lines.index(line), ip, kind, possible)


def _full(ip: str) -> list[str]:
    left, _, right = ip.partition("::")
    parts = [part for part in left.split(":") if part], [part for part in right.split(":") if part]
    return [*parts[0], *["0"] * (8 - len(parts[0]) - len(parts[1])), *parts[1]]


SERVERS: tuple[Callable[[random.Random, int], Case], ...] = (postfix, exim, sendmail)


@dataclass
class Tally:
    """What came out; `examples` by (server, mark)."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, server: str, mark: str, case: Case | None = None, found: list[Event] | None = None) -> None:
        self.counts[server, mark] += 1
        kept = self.examples.setdefault((server, mark), [])
        if case is not None and len(kept) < EXAMPLES:
            said = [(event.kind, event.address) for event in found or ()]
            kept.append(f"{case.kind} {case.address} {said}\n      {case.lines[case.judged][:400]}")


def judge(tally: Tally, case: Case, found: list[Event], elsewhere: list[Event]) -> None:
    """Marks one case; `found` are the events of its judged line, `elsewhere` those of its other lines."""
    truth = canonical(case.address.encode())
    tally.add(case.server, "lines")
    offences = [event for event in found if event.kind not in HARMLESS]
    if any(event.address not in (truth, None) for event in (*found, *elsewhere)):
        tally.add(case.server, "wrong", case, [*found, *elsewhere])
    if any(event.kind not in HARMLESS for event in elsewhere):
        tally.add(case.server, "alarm", case, elsewhere)
    if not case.real:
        return
    if case.kind is None:
        if offences:
            tally.add(case.server, "alarm", case, offences)
        return
    tally.add(case.server, "offences")
    if not offences:
        tally.add(case.server, "lost", case, found)
    elif not any(event.address == truth for event in offences):
        tally.add(case.server, "nobody", case, found)
    elif offences[0].kind != case.kind or len(offences) > 1:
        tally.add(case.server, "changed", case, offences)


def blocks(count: int, seed: int) -> Iterator[list[Case]]:
    """`count` cases, BLOCK at a time."""
    chance = random.Random(seed)
    for first in range(0, count, BLOCK):
        yield [chance.choice(SERVERS)(chance, number) for number in range(first, min(first + BLOCK, count))]


def forge(count: int, seed: int = 1) -> Tally:
    """`count` cases through all shipped filters."""
    tally = Tally()
    filters = [parse_filter(path.read_text(encoding="utf-8"), path.name) for path in sorted(FILTERS.glob("*.filter"))]
    scanner = Scanner(filters, "log", Stamps(timezone.utc))
    for cases in blocks(count, seed):
        join = Join()
        lines = [line for case in cases for line in case.lines]
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
        events = [event for one in scanner.feed(data, 0, 1, NOW) for event in join.feed(one, one.offset)]
        by_line: dict[int, list[Event]] = {}
        for event in (*events, *join.flush()):
            by_line.setdefault(event.number, []).append(event)
        number = 1
        for case in cases:
            spread = [by_line.get(number + place, []) for place in range(len(case.lines))]
            number += len(case.lines)
            found = spread.pop(case.judged)
            judge(tally, case, found, [event for each in spread for event in each])
    return tally


MARKS = ("lines", "offences", "wrong", "lost", "nobody", "changed", "alarm")


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    tally = forge(count, seed)
    print(f"{'server':12}" + "".join(f"{mark:>10}" for mark in MARKS))
    for server in ("postfix", "exim", "sendmail"):
        print(f"{server:12}" + "".join(f"{tally.counts[server, mark]:10}" for mark in MARKS))
    for (server, mark), examples in sorted(tally.examples.items()):
        for example in examples:
            print(f"{server} {mark}: {example}")
    sys.exit(any(tally.counts[server, "wrong"] for server in ("postfix", "exim", "sendmail")))


if __name__ == "__main__":
    main()
