"""notify: tells people of bans and alarms: by mail, to a webhook, through a command. Edge.

What is told is gathered (digest) for GATHER seconds, or `every` where that is less, and goes out as one message; after
it, no channel is used again within `every`. So a burst of 20,000 bans is one message, and a thousand reloads are none.
Told are bans as they are decided, by policies alone: none by hand, none that a start, a reload or a repair restores,
none of a replay. A channel that fails is tried again after a minute, then 2, 4, … up to `every`; what waits for it goes
into its next message, which stays small however long that takes. It is an alarm, told in the log and by the others.

Each delivery has a thread of its own, which ends with the process: nothing here holds the daemon up, and each way has a
deadline for the whole of it, SECONDS, not only for each silence of the other end.

mail: by SMTP to `server`, or to its standard input where that is a program (`/usr/sbin/sendmail -i -t`). SMTP to
loopback is the default since in the unit's sandbox no program gains a privilege: Postfix' sendmail, which is setgid
postdrop, cannot queue there. No TLS, no login: that is the local mail server's business.
webhook: an HTTP POST of JSON; no redirect is followed, no proxy asked, certificates are checked, and of the answer only
the status is read. Its path is taken for a secret: no message of ours shows more than the host.
command: run with its arguments, never a shell, JSON on its standard input.

What waits when the process ends, however it does: its bans are told after the next start, from the ledger, which knows
the newest that all channels have told (`told`, written within two seconds of a delivery: one message comes twice where
the end is in these). An alarm begins anew there, if it is still one; what else waited is in the log.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from denyspam import __version__
from denyspam.alarms import Alarms, Change, escaped
from denyspam.digest import Digest
from denyspam.events import Ban
from denyspam.host import zone
from denyspam.settings import NotifySettings

if TYPE_CHECKING:
    from http.client import HTTPConnection

log = logging.getLogger("denyspam")

GATHER = 60.0  # seconds from the first news to the message
FIRST = 60.0  # seconds after a failure, doubled with each
SECONDS = 60.0  # for a delivery
MAILNAME = "/etc/mailname"  # Debian's name for this host in addresses
UNTOLD = ("manual", "forced", "adopted")  # rules of bans that no policy decided


class Undelivered(Exception):
    """The other end did not take it; the message says why, without a secret."""


class Channel:
    """One way out: what waits for it, and how it went so far."""

    def __init__(self, kind: str, place: str, send: Callable[[Digest, str], None]) -> None:
        self.kind, self.place = kind, place
        self.waiting = Digest()
        self.sent = self.failed = 0
        self.told: int | None = None  # the newest row of the ledger that is; None: not looked up yet
        self.fault: str | None = None
        self.send = send
        self.going: Digest | None = None  # with its thread
        self._since: float | None = None  # by the loop's clock: when the first of what waits came
        self._next = 0.0  # before that it is not used
        self._wait = FIRST

    @property
    def name(self) -> str:
        return f"{self.kind} {self.place}"

    def tick(self, time: float, every: float, mode: str) -> None:
        """Send what waits, where it is time."""
        if not self.waiting or self.going is not None:
            return
        if self._since is None:
            self._since = time
        if time < max(self._next, self._since + min(GATHER, every)):
            return
        self.going, self.waiting, self._since = self.waiting, Digest(), None
        self._next = time + every
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=self._carry, args=(self.going, mode, every, loop), name=f"notify {self.kind}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # as many threads as may be
            self._done(str(error), every)

    def _carry(self, digest: Digest, mode: str, every: float, loop: asyncio.AbstractEventLoop) -> None:
        fault: str | None = None
        try:
            self.send(digest, mode)
        except Exception as error:  # whatever the other end made of it: a channel is never left waiting
            fault = escaped(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(self._done, fault, every)

    def _done(self, fault: str | None, every: float) -> None:
        digest, self.going = self.going, None
        if fault is None:
            self.sent += 1
            self.fault, self._wait = None, FIRST
            if digest is not None:
                self.told = max(self.told or 0, digest.row)
            return
        self.failed += 1
        self.fault = fault
        if digest is not None:
            self.waiting.before(digest)
        self._next = asyncio.get_running_loop().time() + min(self._wait, every)
        self._wait = min(2 * self._wait, every)

    def status(self) -> dict[str, Any]:
        return {
            "channel": self.kind,
            "to": self.place,
            "sent": self.sent,
            "failed": self.failed,
            "waiting": bool(self.waiting or self.going),
            "fault": self.fault,
        }


class Notifier:
    """All channels. One for the life of the process, so that a reload forgets nothing and sends nothing twice."""

    def __init__(self) -> None:
        self._settings = NotifySettings()
        self._mode = ""
        self._reasons: Mapping[str, str] = {}
        self._began = False
        self.channels: dict[tuple[str, str], Channel] = {}

    def configure(self, settings: NotifySettings | None, mode: str, reasons: Mapping[str, str]) -> None:
        """Take these settings; channels that stay keep what waits. `reasons`: policy -> how people read it."""
        self._settings = settings or NotifySettings()
        self._mode, self._reasons = mode, reasons
        before = self.channels
        self.channels = {}
        for kind, place, shown, send in _ways(self._settings):
            channel = before.get((kind, place)) or Channel(kind, shown, send)
            channel.send = send
            self.channels[kind, place] = channel

    def begin(self, kept: str | None, newest: int) -> int:
        """A run begins, and `newest` is the ledger's last row. Which one is the last that is no news: at a start
        by the `told` of the process before this one; a reload has no news."""
        told = int(kept) if kept and kept.isdigit() and not self._began else newest
        self._began = True
        for channel in self.channels.values():
            channel.told = told if channel.told is None else channel.told
        return told

    def told(self) -> str:
        """The newest row of the ledger that every channel has told; "" where bans are not told."""
        if not self.channels or "bans" not in self._settings.about:
            return ""
        return str(min(channel.told or 0 for channel in self.channels.values()))

    def banned(self, bans: Sequence[Ban], now: float, row: int = 0) -> None:
        """New bans, in force; `row` is the newest of the ledger by now."""
        if self.channels and "bans" in self._settings.about:
            told = [ban for ban in bans if ban.rule not in UNTOLD]
            if told:
                for channel in self.channels.values():
                    channel.waiting.bans(told, self._reasons, now)
                    channel.waiting.row = max(channel.waiting.row, row)

    def withheld(self, count: int, now: float) -> None:
        """Bans that were decided and are not carried out."""
        if count and "bans" in self._settings.about:
            for channel in self.channels.values():
                channel.waiting.withhold(count, now)

    def changed(self, change: Change, now: float) -> None:
        """An alarm's begin or end. No channel is told of itself: it would never be done."""
        if "alarms" in self._settings.about:
            for channel in self.channels.values():
                if change.alarm.name != "notify" or change.alarm.subject != channel.name:
                    channel.waiting.change(change, now)

    def tick(self, now: float, alarms: Alarms) -> None:
        """To be called every second."""
        for channel in self.channels.values():
            channel.tick(asyncio.get_running_loop().time(), self._settings.every, self._mode)
            alarms.look("notify", channel.fault, now, channel.name)

    def leave(self) -> None:
        """The process ends."""
        for channel in self.channels.values():
            for digest in (channel.going, channel.waiting):
                if digest:
                    log.info("not told before the end by %s: %s", channel.name, digest.subject("this host"))

    def status(self) -> list[dict[str, Any]]:
        return [channel.status() for channel in self.channels.values()]


def unusable(settings: NotifySettings | None) -> tuple[str, str] | None:
    """(the key, what is wrong) where a program of the settings is not there."""
    if settings is None:
        return None
    server = settings.server if isinstance(settings.server, str) else ""
    for key, path in (("server", server), ("command", settings.command[0] if settings.command else "")):
        if path and not os.access(path, os.X_OK):
            return key, f"there is no program {path[:100]!r} that can be run; write the path of one"
    return None


def exposed(settings: NotifySettings | None, file: str) -> str | None:
    """What an admin should know where others may read a secret in his configuration."""
    if settings is None or not settings.webhook:
        return None
    with suppress(OSError):
        if os.stat(file).st_mode & stat.S_IROTH:
            return (
                f"all users of this host may read the webhook's URL in {file}: chgrp denyspam {file}; chmod 640 {file}"
            )
    return None


Way = tuple[str, str, str, Callable[[Digest, str], None]]


def _ways(settings: NotifySettings) -> Iterator[Way]:
    """(kind, what makes it itself, what may be shown of that, how to send)"""
    if settings.mail:
        to = ", ".join(settings.mail)
        yield "mail", f"{to} {settings.server} {settings.author}", to, lambda digest, mode: mail(settings, digest, mode)
    if settings.webhook:
        url = settings.webhook
        yield "webhook", url, urlsplit(url).hostname or "", lambda digest, mode: webhook(url, _json(digest, mode))
    if settings.command:
        command = settings.command
        yield "command", " ".join(command), command[0], lambda digest, mode: run(command, _json(digest, mode))


def _json(digest: Digest, mode: str) -> bytes:
    return json.dumps(digest.data(_host(), mode)).encode() + b"\n"


def _host() -> str:
    """This host's name in addresses. Asks the resolver: never on the loop."""
    with suppress(OSError, UnicodeDecodeError), open(MAILNAME, encoding="ascii") as file:
        name = file.readline(256).strip()
        if name and name.replace("-", "").replace(".", "").isalnum():
            return name
    return socket.getfqdn()


# --- the ways out, each in its channel's thread; Undelivered and what its library raises where it fails ---------------


@contextmanager
def _deadline(close: Callable[[], object]) -> Iterator[None]:
    """Calls `close` when what is done within takes longer than SECONDS."""

    def watch() -> None:
        wait = SECONDS
        while not done.wait(wait):  # and again: it may only now have found a name's address, or the next of many
            late.set()
            wait = 1.0
            with suppress(OSError):
                close()

    late, done = threading.Event(), threading.Event()
    threading.Thread(target=watch, name="notify deadline", daemon=True).start()
    try:
        yield
    except (Undelivered, OSError, ValueError) as error:
        if late.is_set():
            raise Undelivered(f"not within {SECONDS:.0f} s") from error
        raise
    finally:
        done.set()


def _shut(found: socket.socket | None) -> None:
    if found is not None:
        socket.socket.shutdown(found, socket.SHUT_RDWR)  # TLS' own takes the ground from under the other thread


# What follows imports what it needs: smtplib and http.client bring OpenSSL, 7 MB that most daemons never need.


def mail(settings: NotifySettings, digest: Digest, mode: str) -> None:
    import smtplib  # noqa: PLC0415
    from email.message import EmailMessage  # noqa: PLC0415
    from email.policy import SMTP  # noqa: PLC0415
    from email.utils import formatdate, make_msgid  # noqa: PLC0415

    host = _host()
    author = settings.author or f"postmaster@{host}"
    message = EmailMessage(SMTP)
    message["From"] = author
    message["To"] = ", ".join(settings.mail)
    message["Subject"] = digest.subject(host)
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid("denyspam", host)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nothing shall answer it by itself
    message.set_content(digest.text(host, mode, zone(None)), charset="us-ascii", cte="7bit")
    if isinstance(settings.server, str):
        run((settings.server, "-i", "-t"), message.as_bytes(policy=SMTP.clone(linesep="\n")))
        return
    hello = host if "." in host else "[127.0.0.1]"  # servers refuse names that are not fully qualified
    server = smtplib.SMTP(local_hostname=hello, timeout=SECONDS)  # connects to nobody yet
    with _deadline(lambda: _shut(server.sock)), server:  # its end, which waits for the answer to QUIT, is within
        server.connect(*settings.server)
        try:
            refused = server.send_message(message, author, settings.mail)
        except smtplib.SMTPRecipientsRefused as error:
            raise Undelivered(_refusals(error.recipients)) from None
    if refused:
        log.warning("a notification was taken for some recipients only: %s", _refusals(refused))


def _refusals(refused: Mapping[str, tuple[int, bytes]]) -> str:
    return escaped("; ".join(f"{to}: {code} {text.decode('ascii', 'replace')}" for to, (code, text) in refused.items()))


def webhook(url: str, body: bytes) -> None:
    from http.client import HTTPException  # noqa: PLC0415

    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": f"denyspam/{__version__}", "Connection": "close"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode('ascii')}"
    peer = _peer(parts)
    try:
        with _deadline(lambda: _shut(peer.sock)):
            try:
                peer.request("POST", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", body, headers)
                answer = peer.getresponse()
            except HTTPException as error:
                raise Undelivered(str(error) or type(error).__name__) from error
    finally:
        peer.close()
    if 300 <= answer.status < 400:
        raise Undelivered(f"it redirects ({answer.status}), which is not followed: write the other URL")
    if not 200 <= answer.status < 300:
        raise Undelivered(f"it answers {answer.status} {answer.reason}")


def _peer(parts: SplitResult) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415

    host = parts.hostname or ""
    if parts.scheme == "https":
        from ssl import create_default_context  # noqa: PLC0415

        return HTTPSConnection(host, parts.port, timeout=SECONDS, context=create_default_context())
    return HTTPConnection(host, parts.port, timeout=SECONDS)


def run(command: Sequence[str], text: bytes) -> None:
    """Runs a program with `text` on its standard input."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603 - the admin's own words, and no log text among them
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True, cwd="/"
        )
        try:
            process.communicate(text, SECONDS)  # one that does not read its input is no failure
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Undelivered(f"{command[0]} did not end within {SECONDS:.0f} s, and was killed") from None
        if process.returncode:
            said.seek(0)
            words = escaped(said.read(1000).strip().rpartition(b"\n")[2], 150)
            raise Undelivered(f"{command[0]} ended with {process.returncode}{': ' * bool(words)}{words}")
