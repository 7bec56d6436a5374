"""attack: clients that misbehave in every way a mail server logs, and partners that do not.

    truth = attack(world)       # a list of Deed: who did what how often, as the client itself saw it

Each act is a function of (world, source) that speaks real SMTP and returns the offences it committed by kind, counted
on the wire: a refusal counts when the client reads it. So what the log must hold is known without reading it.
Acts of different sources run at the same time, so that sessions interleave in the log as they do in life.

The text a client controls is hostile wherever a server prints it: it names VICTIM, a partner, as a client would who
wants that host banned, or it imitates a harmless line.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from servers.world import MONITOR, World

VICTIM = "10.77.0.85"
# In two halves: as a whole it would make a virus scanner take this file away.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SENDER = b"<carol@partner.example>"
USER = b"<alice@example.test>"
ELSEWHERE = b"<someone@elsewhere.example>"


Act = Callable[[World, str], "Counter[str]"]


@dataclass(frozen=True)
class Deed:
    """What one source did in one act between the epoch seconds `begin` and `end`.

    `offences`: kind -> how many; empty for the innocent. `also`: kinds under which this server tells of the same act
    a second time (a refused DNSBL client is a "DNSBL rank" and a "reject" to postscreen); at most as often again.
    """

    address: str
    act: str
    offences: dict[str, int]
    also: list[str]
    begin: float
    end: float

    def label(self) -> dict[str, object]:
        """The deed as JSON."""
        return {**asdict(self), "begin": round(self.begin, 3), "end": round(self.end, 3)}


class Client:
    """One SMTP session. A context; a peer that hangs up early is normal, replies are then empty."""

    def __init__(
        self,
        world: World,
        source: str,
        *,
        port: int = 25,
        host: int = 1,
        hello: bytes = b"client.spam.example",
        early: bytes = b"",
    ) -> None:
        self.peer = world.connect(source, port, host, patience=4 if early else 20)
        self._rest = b""
        with contextlib.suppress(OSError):
            self.peer.sendall(early)
        self.banner = self.reply()
        self.hello = b"" if early else self.say(b"EHLO ", hello)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.peer.sendall(b"QUIT\r\n")
            self.reply()
        self.peer.close()

    def reply(self) -> bytes:
        """The next reply, its lines joined; empty where the server has hung up."""
        text = b""
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                text += line + newline
                if line[3:4] != b"-":
                    return text
                continue
            try:
                more = self.peer.recv(65536)
            except OSError:
                more = b""
            if not more:
                return text
            self._rest += more

    def say(self, *command: bytes) -> bytes:
        """Sends one command (or raw bytes) and reads the reply."""
        try:
            self.peer.sendall(b"".join(command) + b"\r\n")
        except OSError:
            return b""
        return self.reply()

    def mail(self, sender: bytes, recipients: Sequence[bytes], message: bytes) -> list[bytes]:
        """One transaction; the replies to MAIL, to each RCPT, and to the message where it came so far."""
        replies = [self.say(b"MAIL FROM:", sender)]
        replies += [self.say(b"RCPT TO:", recipient) for recipient in recipients]
        if any(reply.startswith(b"2") for reply in replies[1:]) and self.say(b"DATA").startswith(b"3"):
            replies.append(self.say(message, b"\r\n."))
        else:
            self.say(b"RSET")
        return replies


def refused(reply: bytes) -> bool:
    """A permanent refusal."""
    return reply.startswith(b"5")


def kind_of(reply: bytes) -> str:
    """`relay` or `reject`, by the words of the three servers; the client's own text comes before them."""
    return "relay" if re.search(rb"(Relay access denied|Relaying denied|relay not permitted)", reply) else "reject"


def message(body: bytes, subject: bytes = b"hello") -> bytes:
    stamp = b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d@partner.example>\r\n" % time.time_ns()
    head = b"From: carol@partner.example\r\nTo: alice@example.test\r\n" + stamp
    return head + b"Subject: " + subject + b"\r\n\r\n" + body


SPAM = message(b"buy this")


# The bad


def chain(*acts: Act) -> Act:
    """One act after the other, from one source."""

    def act(world: World, source: str) -> Counter[str]:
        return sum((each(world, source) for each in acts), Counter())

    return act


def transaction(
    times: int = 1,
    *,
    sender: bytes = SENDER,
    recipients: Sequence[bytes] = (USER,),
    hello: bytes = b"client.spam.example",
) -> Act:
    """`times` sessions of one transaction; every refusal of a recipient (or of the sender, or of the client) counts.

    A 450 for a sender's domain that does not exist counts too: it says something against the client.
    """

    def act(world: World, source: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(times):
            with Client(world, source, hello=hello) as client:
                if refused(client.banner) or refused(client.hello):
                    # sendmail refuses an impossible greeting without a word in the log
                    seen["reject"] += refused(client.banner) or world.server != "sendmail"
                    continue
                mail, *others = client.mail(sender, recipients, SPAM)
                if refused(mail):
                    seen["reject"] += 1
                    continue
                for reply in others[: len(recipients)]:
                    if refused(reply) or b"4.1.8" in reply:
                        seen[kind_of(reply)] += 1
        return seen

    return act


def relay(times: int, **how: bytes) -> Act:
    """`times` sessions with one forbidden recipient each."""
    return transaction(times, recipients=[ELSEWHERE], **how)


def strangers(number: int, domain: bytes = b"example.test") -> list[bytes]:
    """Recipients that do not exist."""
    return [b"<nobody%d@%s>" % (each, domain) for each in range(number)]


def listed(times: int) -> Act:
    """`times` sessions with postscreen, which tells a listed client only at RCPT."""

    def act(world: World, source: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(times):
            with Client(world, source, host=3) as client:
                seen["reject"] += refused(client.mail(SENDER, [USER], SPAM)[1])
        return seen

    return act


def virus(times: int, subject: bytes = b"your invoice", host: int = 1) -> Act:
    """`times` messages that hold the test virus. Behind a content filter they are taken, and count all the same."""

    def act(world: World, source: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(times):
            with Client(world, source, host=host) as client:
                *_, last = client.mail(SENDER, [USER], message(EICAR, subject))
                seen["virus"] += last.startswith(b"2" if host == 2 else b"5")
        return seen

    return act


def auth(times: int, method: bytes = b"PLAIN", user: bytes = b"alice", port: int = 587) -> Act:
    """`times` sessions with a wrong password."""

    def act(world: World, source: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(times):
            with Client(world, source, port=port) as client:
                if method == b"PLAIN":
                    reply = client.say(b"AUTH PLAIN ", base64.b64encode(b"\0" + user + b"\0wrong"))
                else:
                    client.say(b"AUTH LOGIN")
                    client.say(base64.b64encode(user))
                    reply = client.say(base64.b64encode(b"wrong"))
                seen["auth"] += reply.startswith(b"535")
        return seen

    return act


def guesses(times: int, user: bytes = b"alice") -> Act:
    """`times` wrong passwords in one session, as far as the server lets it."""

    def act(world: World, source: str) -> Counter[str]:
        seen: Counter[str] = Counter()
        with Client(world, source, port=587) as client:
            for _ in range(times):
                client.say(b"AUTH LOGIN")
                client.say(base64.b64encode(user))
                seen["auth"] += client.say(base64.b64encode(b"wrong")).startswith(b"535")
        return seen

    return act


def early(times: int, host: int = 1) -> Act:
    """`times` sessions that talk before the banner."""

    def act(world: World, source: str) -> Counter[str]:
        for _ in range(times):
            with Client(world, source, host=host, early=b"EHLO client.spam.example\r\nMAIL FROM:<a@b.example>\r\n"):
                pass
        return Counter(protocol=times)

    return act


def pipelining(times: int) -> Act:
    """`times` sessions that greet and go on without waiting."""

    def act(world: World, source: str) -> Counter[str]:
        for _ in range(times):
            with Client(world, source) as client:
                client.say(b"HELO client.spam.example\r\nMAIL FROM:", SENDER, b"\r\nRCPT TO:", USER, b"\r\nDATA")
                for _ in range(3):
                    client.reply()
        return Counter(protocol=times)

    return act


def junk(*said: bytes, times: int = 1) -> Act:
    """One session that says something else than SMTP, `times` times over; one offence, or each where exim logs each."""

    def act(world: World, source: str) -> Counter[str]:
        unknown = 0
        with Client(world, source) as client:
            for _ in range(times):
                unknown += client.say(*said).startswith(b"500")
        each = world.server == "exim" and world.settings.get("SELECTOR") == "+all"
        return Counter(protocol=1 + (unknown if each else 0))

    return act


# The good: no offences, and what they came for must have worked


def deliver(times: int, port: int = 25, host: int = 1, recipient: bytes = USER) -> Act:
    """`times` legitimate messages, taken."""

    def act(world: World, source: str) -> Counter[str]:
        for number in range(times):
            with Client(world, source, port=port, host=host, hello=b"mail.partner.example") as client:
                if port == 587:
                    client.say(b"AUTH PLAIN ", base64.b64encode(b"\0alice\0secret"))
                replies = client.mail(SENDER, [recipient], message(b"How are you?", b"letter %d" % number))
                if len(replies) != 3 or not replies[2].startswith(b"2"):
                    raise RuntimeError(f"a legitimate message from {source} was not taken: {replies}")
        return Counter()

    return act


def later(times: int, recipient: bytes) -> Act:
    """`times` transactions put off with a 4xx that says nothing against the client."""

    def act(world: World, source: str) -> Counter[str]:
        for _ in range(times):
            with Client(world, source, hello=b"mail.partner.example") as client:
                replies = client.mail(SENDER, [recipient], SPAM)
                if not replies[1].startswith(b"4"):
                    raise RuntimeError(f"{recipient!r} was not put off: {replies}")
        return Counter()

    return act


def quits(times: int) -> Act:
    """Connects, reads the banner and leaves: a monitor."""

    def act(world: World, source: str) -> Counter[str]:
        for _ in range(times):
            with world.connect(source) as peer:
                peer.recv(200)
                peer.sendall(b"QUIT\r\n")
                peer.recv(200)
        return Counter()

    return act


# Who does what

HELLOS = [
    b"[10.77.0.85]",
    b"x.example[10.77.0.85]:",
    b"H=victim(relay=[10.77.0.85])",
    b"relay=mail85.partner.example_[10.77.0.85]",
    b"from_unknown[10.77.0.85]:_554",
]
# Local parts for a quoted path: `<"HERE"@domain>`. Postfix prints the path without its quotes before the reason.
NAMES = [
    b"from=<>, relay=[10.77.0.85], reject=550 5.7.1 virus",
    b"x> H=mail85.partner.example [10.77.0.85] F=<y",
    b"6ALAXRMr000108: from=<>, relay=mail85.partner.example [10.77.0.85]",
    b"x>, relay=mail85.partner.example [10.77.0.85], reject=550 5.7.1 <y",
    b"RCPT from mail85.partner.example[10.77.0.85]: 554 5.7.1 Greylisted",
    b"x>: Recipient address rejected: Greylisted, see <y",
    b"x>... Greylisted, please try again later <y",
    b'Greylisted\\", see',
]
USERS = [
    b"bob, relay=[10.77.0.85]",
    b"bob H=(x) [10.77.0.85]: 535",
    b"unknown[10.77.0.85]: SASL LOGIN authentication failed",
    b"x)\r\n[10.77.0.85]",
    b"\x1b[31m\xff\xfe\"'<>",
]
SUBJECTS = [
    b"from=<>, relay=mail85.partner.example [10.77.0.85]",
    b"virus FOUND from [10.77.0.85]\tpassed CLEAN",
    b'"; client=mail85.partner.example[10.77.0.85]',
    b"6ALAXRMr000108: from=<>, size=1, relay=[10.77.0.85]",
    b"\x1b[2J\xff\x80 H=[10.77.0.85]",
]


def paths(domain: bytes) -> list[bytes]:
    return [b'<"' + name + b'"@' + domain + b">" for name in NAMES]


@dataclass(frozen=True)
class Row:
    source: str
    act: str
    do: Act
    also: str = ""
    servers: str = "postfix exim sendmail"


BAD = [
    Row("10.77.0.10", "relay, host with a name", relay(6)),
    Row("10.77.0.11", "relay, host without a name", relay(5)),
    Row("10.77.0.13", "relay, host with a forged name", relay(5)),
    Row("10.77.0.16", "relay to five of six recipients of one message that is taken",
        transaction(recipients=[*strangers(3, b"elsewhere.example"), USER, *strangers(2, b"other.example")])),
    Row("10.77.0.12", "unknown users", transaction(6, recipients=strangers(1))),
    Row("10.77.0.15", "unknown users, one message", transaction(1, recipients=strangers(8))),
    Row("10.77.0.14", "sender domain does not exist", transaction(5, sender=b"<x@no-such-domain.invalid>")),
    # sendmail has no such rule of its own
    Row("10.77.0.17", "greets with the server's name", transaction(5, hello=b"mx.example.test"),
        servers="postfix exim"),
    Row("10.77.0.60", "on a DNS block list", transaction(5)),
    # exim with smtp_connection tells a dropped call once more; without a rejectlog that line may be all there is
    Row("10.77.0.62", "on the local block list", transaction(5), also="reject"),
    Row("10.77.0.20", "virus", virus(5)),
    Row("10.77.0.21", "virus, host without a name", virus(4)),
    Row("10.77.0.24", "AUTH PLAIN with a wrong password", auth(5)),
    Row("10.77.0.25", "AUTH LOGIN with a wrong password", auth(5, b"LOGIN")),
    Row("10.77.0.26", "AUTH LOGIN, hostile names", chain(*(auth(1, b"LOGIN", user) for user in USERS))),
    Row("10.77.0.40", "AUTH PLAIN, hostile names", chain(*(auth(1, b"PLAIN", user) for user in USERS))),
    Row("10.77.0.42", "AUTH LOGIN again and again in one session", guesses(6)),
    Row("10.77.0.27", "talks before the banner", early(5), also="protocol"),
    Row("10.77.0.28", "does not wait for replies", pipelining(5), also="protocol reject"),
    Row("10.77.0.29", "a web client", junk(b"GET / HTTP/1.1\r\nHost: 10.77.0.85\r\nFrom: [10.77.0.85]\r\n"),
        servers="postfix exim"),
    Row("10.77.0.37", "unknown commands", junk(b"XYZZY lost connection from unknown[10.77.0.85]", times=30),
        servers="postfix exim"),
    Row("10.77.0.30", "relay, hostile HELO", chain(*(relay(1, hello=hello) for hello in HELLOS)), also="protocol"),
    Row("10.77.0.31", "relay, hostile sender", chain(*(relay(1, sender=path) for path in paths(b"partner.example")))),
    Row("10.77.0.32", "relay, hostile recipient",
        chain(*(transaction(recipients=[path]) for path in paths(b"elsewhere.example")))),
    Row("10.77.0.34", "unknown users, hostile names",
        chain(*(transaction(recipients=[path]) for path in paths(b"example.test")))),
    Row("10.77.0.35", "sender domain does not exist, hostile sender",
        chain(*(transaction(sender=path) for path in paths(b"no-such-domain.invalid")))),
    Row("10.77.0.33", "virus, hostile subject", chain(*(virus(1, subject) for subject in SUBJECTS))),
    Row("fd77::10", "relay", relay(6)),
    Row("fd77::12", "unknown users", transaction(6, recipients=strangers(1))),
    Row("fd77::20", "virus", virus(5)),
    Row("fd77::24", "AUTH PLAIN with a wrong password", auth(5)),
    # sendmail's dnsbl looks IPv4 addresses up only
    Row("fd77::60", "on a DNS block list", transaction(5), servers="postfix exim"),
    Row("fd77::62", "on the local block list", transaction(5)),
    Row("fd77::27", "talks before the banner", early(5), also="protocol"),
    Row("10.77.0.22", "virus found by amavis", virus(5, host=2), servers="postfix"),
    Row("fd77::22", "virus found by amavis", virus(5, host=2), servers="postfix"),
    Row("10.77.0.23", "virus found by amavis, hostile subject",
        chain(*(virus(1, subject, host=2) for subject in SUBJECTS)), servers="postfix"),
    Row("10.77.0.36", "talks before postscreen's banner", early(3, host=3), also="protocol", servers="postfix"),
    Row("10.77.0.61", "on a DNS block list, postscreen", listed(3), also="reject", servers="postfix"),
    Row("fd77::61", "on a DNS block list, postscreen", listed(3), also="reject", servers="postfix"),
    Row("10.77.0.81", "a partner's one typo", chain(deliver(3), transaction(recipients=strangers(1)))),
]  # fmt: skip
GOOD = [
    Row("10.77.0.80", "delivers", deliver(6)),
    Row("10.77.0.82", "delivers, and is greylisted", chain(deliver(2), later(6, b"<grey@example.test>"))),
    Row("10.77.0.83", "writes to a full mailbox", later(6, b"<full@example.test>")),
    Row("10.77.0.84", "a user of 587", deliver(3, 587, recipient=ELSEWHERE)),
    Row(VICTIM, "delivers; others claim to be it", deliver(6)),
    Row("fd77::80", "delivers", deliver(6)),
    Row("10.77.0.86", "delivers through amavis", deliver(3, host=2), servers="postfix"),
    Row(MONITOR, "only looks whether the server answers", quits(3)),
]


def attack(world: World, acts: str = "", workers: int = 8) -> list[Deed]:
    """Everybody whose act matches the pattern `acts` does it, `workers` at a time; returns when all have."""

    def one(row: Row) -> Deed:
        begin = time.time()
        offences = row.do(world, row.source)
        return Deed(row.source, row.act, dict(offences), row.also.split(), begin, time.time())

    rows, good = (
        [row for row in table if world.server in row.servers and re.search(acts, row.act)] for table in (BAD, GOOD)
    )
    step = len(rows) // (len(good) or 1)
    for position, row in enumerate(good):
        rows.insert(position * (step + 1), row)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, rows))
