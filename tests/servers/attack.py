"""attack: clients that misbehave in every way a mail server logs, and partners that do not.

    truth = attack(world)       # a list of Deed: who did what how often, as the client itself saw it

Each act is a function of (world, source) that speaks real SMTP and returns how many offences it committed, counted
on the wire: a refusal is counted when the client reads it. So what the log must hold is known without reading it.
Acts of different sources run at the same time, so that sessions interleave in the log as they do in life.

The text a client controls is hostile wherever a server prints it: it names VICTIM, a partner, as a client would who
wants that host banned.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from servers.world import MONITOR, World

VICTIM = "10.77.0.85"
# In two halves: as a whole it would make a virus scanner take this file away.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
SENDER = b"<carol@partner.example>"
USER = b"<alice@example.test>"
ELSEWHERE = b"<someone@elsewhere.example>"


@dataclass(frozen=True)
class Deed:
    """What one source did in one act: `count` offences of `kind` between the epoch seconds `begin` and `end`.

    `kind` is "none" for the innocent; then `count` is the number of messages the server took.
    """

    address: str
    kind: str
    count: int
    act: str
    begin: float
    end: float

    def label(self) -> dict[str, object]:
        """The deed as JSON."""
        return {**asdict(self), "begin": round(self.begin, 3), "end": round(self.end, 3)}


class Client:
    """One SMTP session. A context; a peer that hangs up early is normal, replies are then empty."""

    def __init__(
        self, world: World, source: str, *, port: int = 25, host: int = 1, early: bytes = b"", hello: bytes = b""
    ) -> None:
        self.peer = world.connect(source, port, host)
        self._rest = b""
        with contextlib.suppress(OSError):
            self.peer.sendall(early)
        self.banner = self.reply()
        self.hello = self.say(b"EHLO " + (hello or b"client.spam.example")) if not early else b""

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

    def mail(self, sender: bytes, recipients: list[bytes], message: bytes) -> list[bytes]:
        """One transaction; the replies to MAIL, to each RCPT, and to the message where it came so far."""
        replies = [self.say(b"MAIL FROM:", sender)]
        replies += [self.say(b"RCPT TO:", recipient) for recipient in recipients]
        if any(reply.startswith(b"2") for reply in replies[1:]) and self.say(b"DATA").startswith(b"3"):
            replies.append(self.say(message, b"\r\n."))
        else:
            self.say(b"RSET")
        return replies


def refused(replies: list[bytes]) -> int:
    """How many of the replies are permanent refusals."""
    return sum(reply.startswith(b"5") for reply in replies)


def message(body: bytes, subject: bytes = b"hello") -> bytes:
    return b"From: carol@partner.example\r\nTo: alice@example.test\r\nSubject: " + subject + b"\r\n\r\n" + body


# The acts: (world, source) -> offences seen on the wire

Act = Callable[[World, str], int]


def relay(times: int, sender: bytes = SENDER, recipient: bytes = ELSEWHERE, hello: bytes = b"") -> Act:
    """`times` sessions with one forbidden recipient each."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, hello=hello) as client:
                count += refused(client.mail(sender, [recipient], message(b"spam")))
        return count

    return act


def relay_many(world: World, source: str) -> int:
    """One session, one transaction, five forbidden recipients and one good one: the message is taken."""
    with Client(world, source) as client:
        names = [b"<user%d@elsewhere.example>" % number for number in range(5)]
        return refused(client.mail(SENDER, [*names[:3], USER, *names[3:]], message(b"spam")))


def unknown(times: int, per_session: int = 1) -> Act:
    """`times` sessions, each to `per_session` users that do not exist."""

    def act(world: World, source: str) -> int:
        count = 0
        for session in range(times):
            with Client(world, source) as client:
                for number in range(per_session):
                    name = b"<nobody%d.%d@example.test>" % (session, number)
                    count += refused(client.mail(SENDER, [name], message(b"spam")))
        return count

    return act


def bad_sender(times: int, sender: bytes = b"<x@no-such-domain.invalid>") -> Act:
    """`times` transactions from a sender whose domain does not exist."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source) as client:
                replies = client.mail(sender, [USER], message(b"spam"))
                count += any(reply[:1] in (b"4", b"5") for reply in replies)
        return count

    return act


def bad_helo(times: int) -> Act:
    """`times` sessions that greet with the server's own name."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, hello=b"mx.example.test") as client:
                count += refused([client.hello]) or refused(client.mail(SENDER, [USER], message(b"spam")))
        return count

    return act


def listed(times: int, host: int = 1) -> Act:
    """`times` sessions that are refused for where they come from, at whatever stage the server does that."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, host=host) as client:
                replies = [client.banner, client.hello]
                if client.hello:
                    replies += client.mail(SENDER, [USER], message(b"spam"))
                count += any(reply.startswith(b"5") for reply in replies)
        return count

    return act


def virus(times: int, subject: bytes = b"your invoice", host: int = 1) -> Act:
    """`times` messages that hold the test virus. Behind a content filter they are taken, and count all the same."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, host=host, hello=b"client.spam.example") as client:
                replies = client.mail(SENDER, [USER], message(EICAR, subject))
                count += len(replies) == 3 and (host == 2 or refused(replies[2:]) == 1)
        return count

    return act


def auth(times: int, method: bytes = b"PLAIN", user: bytes = b"alice", port: int = 587) -> Act:
    """`times` sessions with a wrong password."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, port=port) as client:
                if method == b"PLAIN":
                    reply = client.say(b"AUTH PLAIN ", base64.b64encode(b"\0" + user + b"\0wrong"))
                else:
                    client.say(b"AUTH LOGIN")
                    client.say(base64.b64encode(user))
                    reply = client.say(base64.b64encode(b"wrong"))
                count += refused([reply])
        return count

    return act


def early(times: int, host: int = 1) -> Act:
    """`times` sessions that talk before the banner."""

    def act(world: World, source: str) -> int:
        for _ in range(times):
            with Client(world, source, host=host, early=b"EHLO client.spam.example\r\nMAIL FROM:<a@b.example>\r\n") as client:
                client.reply()
                client.reply()
        return times

    return act


def pipelining(times: int) -> Act:
    """`times` sessions that send the next commands without waiting, where that was not offered."""

    def act(world: World, source: str) -> int:
        for _ in range(times):
            with Client(world, source, early=b"") as client:
                client.say(b"HELO client.spam.example\r\nMAIL FROM:", SENDER, b"\r\nRCPT TO:", USER, b"\r\nDATA")
                for _ in range(3):
                    client.reply()
        return times

    return act


def junk(world: World, source: str) -> int:
    """Sessions that do not speak SMTP: a web client, a TLS hello, unknown commands."""
    lines = [
        b"GET / HTTP/1.1\r\nHost: 10.77.0.85\r\nFrom: [10.77.0.85]\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(128, 160)),
        b"CONNECT 10.77.0.85:25 HTTP/1.0\r\n",
    ]
    for line in lines:
        with Client(world, source) as client:
            client.say(line)
    with Client(world, source) as client:
        for number in range(25):
            client.say(b"XYZZY%d lost connection after AUTH from unknown[10.77.0.85]" % number)
    return len(lines) + 1


def chain(*acts: Act) -> Act:
    """One act after the other, from one source."""

    def act(world: World, source: str) -> int:
        return sum(each(world, source) for each in acts)

    return act


# The good


def deliver(times: int, port: int = 25, host: int = 1, recipient: bytes = USER) -> Act:
    """`times` legitimate messages; counts those that the server took."""

    def act(world: World, source: str) -> int:
        count = 0
        for number in range(times):
            with Client(world, source, port=port, host=host, hello=b"mail.partner.example") as client:
                if port == 587:
                    client.say(b"AUTH PLAIN ", base64.b64encode(b"\0alice\0secret"))
                replies = client.mail(SENDER, [recipient], message(b"How are you?", b"letter %d" % number))
                count += len(replies) == 3 and replies[2].startswith(b"2")
        return count

    return act


def later(times: int, recipient: bytes = b"<grey@example.test>") -> Act:
    """`times` transactions put off with a 4xx that says nothing against the client; counts those."""

    def act(world: World, source: str) -> int:
        count = 0
        for _ in range(times):
            with Client(world, source, hello=b"mail.partner.example") as client:
                count += client.mail(SENDER, [recipient], message(b"Hello"))[1].startswith(b"4")
        return count

    return act


def quits(world: World, source: str) -> int:
    """Connects and leaves: a monitor."""
    for _ in range(3):
        with world.connect(source) as peer, contextlib.suppress(OSError):
            peer.recv(200)
            peer.sendall(b"QUIT\r\n")
            peer.recv(200)
    return 0


# Who does what

FAKE = b"[10.77.0.85]"
HELO = [
    b"[10.77.0.85]",
    b"x.example[10.77.0.85]:",
    b"H=victim(relay=[10.77.0.85])",
    b"relay=mail85.partner.example_[10.77.0.85]",
    b"from_unknown[10.77.0.85]:_554",
]
PATHS = [
    b'<"from=<>, relay=[10.77.0.85], reject=550 5.7.1 virus"@elsewhere.example>',
    b'<"x> H=mail85.partner.example [10.77.0.85] F=<y"@elsewhere.example>',
    b"<a@[10.77.0.85]>",
    b'<"6ALAXRMr000108: from=<>, relay=mail85.partner.example [10.77.0.85]"@elsewhere.example>',
    b'<"RCPT from mail85.partner.example[10.77.0.85]: 554 5.7.1 Greylisted"@elsewhere.example>',
    b'<"Greylisted\\", see"@elsewhere.example>',
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


def offenders(server: str) -> list[tuple[str, str, str, Act]]:
    """(source, kind, name of the act, act); each source does one thing."""
    rows: list[tuple[str, str, str, Act]] = [
        ("10.77.0.10", "relay", "relay, host with a name", relay(6)),
        ("10.77.0.11", "relay", "relay, host without a name", relay(5)),
        ("10.77.0.13", "relay", "relay, host with a forged name", relay(5)),
        ("10.77.0.16", "relay", "relay to five of six recipients of one message", relay_many),
        ("10.77.0.12", "reject", "unknown users", unknown(6)),
        ("10.77.0.15", "reject", "unknown users, one session", unknown(1, 8)),
        ("10.77.0.14", "reject", "sender domain does not exist", bad_sender(5)),
        ("10.77.0.17", "reject", "greets with the server's name", bad_helo(5)),
        ("10.77.0.60", "reject", "on a DNS block list", listed(5)),
        ("10.77.0.62", "reject", "on the local block list", listed(5)),
        ("10.77.0.20", "virus", "virus", virus(5)),
        ("10.77.0.21", "virus", "virus, host without a name", virus(4)),
        ("10.77.0.24", "auth", "AUTH PLAIN with a wrong password", auth(5)),
        ("10.77.0.25", "auth", "AUTH LOGIN with a wrong password", auth(5, b"LOGIN")),
        ("10.77.0.26", "auth", "AUTH LOGIN, hostile names", chain(*(auth(1, b"LOGIN", user) for user in USERS))),
        ("10.77.0.40", "auth", "AUTH PLAIN, hostile names", chain(*(auth(1, b"PLAIN", user) for user in USERS))),
        ("10.77.0.27", "protocol", "talks before the banner", early(5)),
        ("10.77.0.28", "protocol", "does not wait for replies", pipelining(5)),
        ("10.77.0.29", "protocol", "does not speak SMTP", junk),
        ("10.77.0.30", "relay", "relay, hostile HELO", chain(*(relay(1, hello=helo) for helo in HELO))),
        ("10.77.0.31", "relay", "relay, hostile sender", chain(*(relay(1, sender=path) for path in PATHS[:1]))),
        ("10.77.0.32", "relay", "relay, hostile recipient", chain(*(relay(1, recipient=path) for path in PATHS))),
        ("10.77.0.33", "virus", "virus, hostile subject", chain(*(virus(1, subject) for subject in SUBJECTS))),
        ("10.77.0.35", "reject", "hostile sender", chain(*(bad_sender(1, path) for path in PATHS[1:]))),
        ("fd77::10", "relay", "relay", relay(6)),
        ("fd77::12", "reject", "unknown users", unknown(6)),
        ("fd77::20", "virus", "virus", virus(5)),
        ("fd77::24", "auth", "AUTH PLAIN with a wrong password", auth(5)),
        ("fd77::60", "reject", "on a DNS block list", listed(5)),
        ("fd77::62", "reject", "on the local block list", listed(5)),
        ("fd77::27", "protocol", "talks before the banner", early(5)),
    ]
    if server == "postfix":
        rows += [
            ("10.77.0.22", "virus", "virus found by amavis", virus(5, host=2)),
            ("fd77::22", "virus", "virus found by amavis", virus(5, host=2)),
            ("10.77.0.23", "virus", "virus found by amavis, hostile subject",
             chain(*(virus(1, subject, host=2) for subject in SUBJECTS))),
            ("10.77.0.36", "protocol", "talks before postscreen's banner", early(3, host=3)),
            ("10.77.0.61", "reject", "on a DNS block list, postscreen", listed(3, host=3)),
            ("fd77::61", "reject", "on a DNS block list, postscreen", listed(3, host=3)),
        ]  # fmt: skip
    return rows


def innocents(server: str) -> list[tuple[str, str, str, Act]]:
    """The same for those that no filter may ever name."""
    rows: list[tuple[str, str, str, Act]] = [
        ("10.77.0.80", "none", "delivers", deliver(6)),
        ("10.77.0.82", "none", "delivers, and is put off now and then", chain(deliver(2), later(6))),
        ("10.77.0.83", "none", "mailbox full", later(6, b"<full@example.test>")),
        ("10.77.0.84", "none", "a user of 587", deliver(3, 587, recipient=ELSEWHERE)),
        (VICTIM, "none", "delivers; others claim to be it", deliver(6)),
        ("fd77::80", "none", "delivers", deliver(6)),
        (MONITOR, "none", "only looks whether the server answers", quits),
    ]
    if server == "postfix":
        rows.append(("10.77.0.86", "none", "delivers through amavis", deliver(3, host=2)))
    return rows


def attack(world: World, workers: int = 8) -> list[Deed]:
    """Everybody does what they do, `workers` at a time; returns when all have, in the order of the tables."""

    def one(row: tuple[str, str, str, Act]) -> Deed:
        source, kind, name, act = row
        begin = time.time()
        try:
            count = act(world, source)
        except (OSError, socket.timeout) as error:
            raise RuntimeError(f"{name} from {source}: {error}") from error
        return Deed(source, kind, count, name, begin, time.time())

    bad, good = offenders(world.server), innocents(world.server)
    step = max(1, len(bad) // len(good))
    rows = [row for n, first in enumerate(good) for row in (first, *bad[n * step : (n + 1) * step])]
    rows += bad[len(good) * step :]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, rows))
