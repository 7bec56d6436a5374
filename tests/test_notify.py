"""Telling people: by a real mail server, a real web server and real programs; by a daemon, once and not in storms."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from live import DENYSPAM, PATIENCE, Live, live, until, viruses
from netns import CLIENTS4, Network

from denyspam import notify
from denyspam.alarms import Alarm, Alarms, Change
from denyspam.digest import Digest
from denyspam.events import Ban, Event, Target
from denyspam.notify import Notifier, Undelivered, mail, run, webhook
from denyspam.settings import NotifySettings, parse

NOW = 1_772_614_800.0


def ban(address: str, rule: str = "virus", line: bytes = b"a line") -> Ban:
    event = Event(NOW, rule, address, "postfix", None, None, "/l", 0, 1, line)
    return Ban(Target(ip_network(address), (25,)), rule, NOW, NOW + 3600, 5, (event,))


def digest(line: bytes = b"a line") -> Digest:
    made = Digest()
    made.bans([ban("192.0.2.7", line=line)], {}, NOW)
    return made


# --- mail


class Inbox:
    """A mail server's memory."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, list[str], bytes]] = []
        self.refuses: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuses:
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.messages.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 OK"

    def read(self) -> EmailMessage:
        ((_, _, content),) = self.messages
        return message_from_bytes(content, policy=policy.default)  # type: ignore[return-value]


@contextmanager
def smtp(inbox: Inbox) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(inbox, hostname="127.0.0.1", port=port)
    server.start()
    try:
        yield "127.0.0.1", port
    finally:
        server.stop()


def test_a_mail_over_smtp() -> None:
    inbox = Inbox()
    with smtp(inbox) as server:
        mail(NotifySettings(mail=("a@example.org", "b@example.org"), server=server), digest(), "enforce")
    ((sender, recipients, _),) = inbox.messages
    message = inbox.read()
    assert sender.startswith("postmaster@")
    assert recipients == ["a@example.org", "b@example.org"]
    assert message["From"] == sender
    assert message["To"] == "a@example.org, b@example.org"
    assert message["Subject"].endswith(": 1 ban")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.tzinfo is not None
    assert message["Message-ID"].startswith("<")
    assert message.get_content_type() == "text/plain"
    assert "192.0.2.7" in message.get_content()


def test_log_text_cannot_leave_the_body() -> None:
    inbox = Inbox()
    with smtp(inbox) as server:
        hostile = b"x\r\n.\r\nQUIT\r\nMAIL FROM:<x@y>\r\nBcc: c@example.org\r\n\x00\xff" + b"z" * 5000
        mail(NotifySettings(mail=("a@example.org",), server=server, author="d@example.org"), digest(hostile), "watch")
    ((sender, recipients, content),) = inbox.messages
    assert (sender, recipients) == ("d@example.org", ["a@example.org"])
    assert "Bcc" not in inbox.read()
    assert content.isascii()
    assert max(map(len, content.splitlines())) < 998


def test_a_mail_through_a_program(tmp_path: Path) -> None:
    """As sendmail(8) is called: by arguments, without a shell, the message on its standard input."""
    program = tmp_path / "send mail; touch owned"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"{tmp_path}/arguments"\ncat >"{tmp_path}/message"\n')
    program.chmod(0o755)
    mail(NotifySettings(mail=("a@example.org",), server=str(program)), digest(), "enforce")
    assert (tmp_path / "arguments").read_text() == "-i\n-t\n"
    content = (tmp_path / "message").read_bytes()
    assert b"\r" not in content
    assert message_from_bytes(content, policy=policy.default)["To"] == "a@example.org"
    assert {path.name for path in tmp_path.iterdir()} == {program.name, "arguments", "message"}


def test_refused_recipients(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    inbox.refuses = {"a@example.org"}
    with smtp(inbox) as server:
        with pytest.raises(Undelivered, match=r"a@example\.org: 550 5\.1\.1 no such user"):
            mail(NotifySettings(mail=("a@example.org",), server=server), digest(), "enforce")
        assert inbox.messages == []
        mail(NotifySettings(mail=("a@example.org", "b@example.org"), server=server), digest(), "enforce")
    assert "for some recipients only: a@example.org: 550" in caplog.text
    assert len(inbox.messages) == 1


def test_no_mail_server() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            mail(NotifySettings(mail=("a@b",), server=probe.getsockname()), digest(), "enforce")


@contextmanager
def drip(data: bytes, pause: float = 0.05) -> Iterator[tuple[str, int]]:
    """A server that sends `data` again and again, a little at a time, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=talk, args=(peer,), daemon=True).start()
        except OSError:
            return

    def talk(peer: socket.socket) -> None:
        try:
            while True:
                peer.sendall(data)
                time.sleep(pause)
        except OSError:
            peer.close()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


class Farewell:
    """A mail server that takes a message, and does not come to the end of its goodbye."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = self._listener.getsockname()

    def __enter__(self) -> Farewell:
        threading.Thread(target=self._talk, daemon=True).start()
        return self

    def _talk(self) -> None:
        peer, _ = self._listener.accept()
        with peer, peer.makefile("rb") as lines, suppress(OSError):
            peer.sendall(b"220 hello\r\n")
            for line in lines:
                if line.startswith(b"QUIT"):
                    while True:
                        peer.sendall(b"221-and another thing\r\n")
                        time.sleep(0.05)
                if line.startswith((b"ehlo", b"mail", b"rcpt")):
                    peer.sendall(b"250 yes\r\n")
                elif line.startswith(b"data"):
                    peer.sendall(b"354 go on\r\n")
                elif line == b".\r\n":
                    peer.sendall(b"250 taken\r\n")

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def test_a_deadline_that_finds_no_connection_yet_finds_it_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that takes its time, or the first of many addresses."""
    monkeypatch.setattr(notify, "SECONDS", 0.2)
    real = socket.getaddrinfo

    def slow(*words: Any, **named: Any) -> Any:
        time.sleep(0.5)
        return real(*words, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with drip(b"HTTP/1.1 100 Continue\r\n\r\n") as (host, port), pytest.raises(Undelivered, match="not within"):
        webhook(f"http://{host}:{port}/", b"{}")


def test_who_answers_a_little_at_a_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is for the whole, not for each silence."""
    monkeypatch.setattr(notify, "SECONDS", 0.5)
    with drip(b"220-hello\r\n") as server, pytest.raises(Undelivered, match="not within"):
        mail(NotifySettings(mail=("a@b",), server=server), digest(), "enforce")
    with Farewell() as server:
        mail(NotifySettings(mail=("a@b",), server=server.place), digest(), "enforce")  # taken all the same
    with drip(b"X: y\r\n") as (host, port), pytest.raises(Undelivered, match="X: y"):
        webhook(f"http://{host}:{port}/", b"{}")
    with drip(b"HTTP/1.1 100 Continue\r\n\r\n") as (host, port), pytest.raises(Undelivered, match="not within"):
        webhook(f"http://{host}:{port}/", b"{}")


# --- webhook


class Hook:
    """A web server that remembers what was posted, and answers as it is told."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, dict[str, str], bytes]] = []
        self.status, self.headers = 200, {"Content-Length": "0"}
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posted.append((self.path, dict(self.headers), body))
                self.send_response(hook.status)
                for name, value in hook.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_post(hook: Hook) -> None:
    webhook(f"{hook.url}/a/b?c=d", b'{"text": "x"}')
    ((path, headers, body),) = hook.posted
    assert (path, body) == ("/a/b?c=d", b'{"text": "x"}')
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"].startswith("denyspam/")
    webhook(hook.url.replace("//", "//user:p%40ss@"), b"{}")
    assert hook.posted[1][0] == "/"
    assert hook.posted[1][1]["Authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize(("status", "said"), [(302, "redirects"), (307, "redirects"), (404, "404"), (500, "500")])
def test_what_is_not_taken(hook: Hook, status: int, said: str) -> None:
    hook.status, hook.headers["Location"] = status, f"{hook.url}/elsewhere"
    with pytest.raises(Undelivered, match=said):
        webhook(f"{hook.url}/secret", b"{}")
    assert [path for path, _, _ in hook.posted] == ["/secret"]


def test_an_answer_without_end_is_not_read(hook: Hook) -> None:
    hook.headers["Content-Length"] = str(10**12)
    webhook(hook.url, b"{}")
    assert len(hook.posted) == 1


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path, hook: Hook) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate))
    made = subprocess.run(["openssl", *words.split(), *names], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no openssl here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hook.server.socket = context.wrap_socket(hook.server.socket, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        webhook(hook.url.replace("http:", "https:"), b"{}")
    assert hook.posted == []


# --- command


def test_a_command_reads_it(tmp_path: Path) -> None:
    run(("/bin/sh", "-c", f'cat >"{tmp_path}/read"; pwd >"{tmp_path}/where"'), b'{"a": 1}\n')
    assert (tmp_path / "read").read_text() == '{"a": 1}\n'
    assert (tmp_path / "where").read_text() == "/\n"
    run(("/bin/true",), b"x" * 1_000_000)  # does not read


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(Undelivered, match=r"/bin/sh ended with 3: it is \\x1b\[2Jfull"):
        run(("/bin/sh", "-c", "echo first >&2; printf 'it is \\033[2Jfull' >&2; exit 3"), b"{}")
    with pytest.raises(FileNotFoundError):
        run(("/nowhere/program",), b"{}")


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", 0.5)
    with pytest.raises(Undelivered, match="was killed"):
        run(("/bin/sh", "-c", f'sleep 600 & echo $! >"{tmp_path}/pid"; wait'), b"{}")
    pid = int((tmp_path / "pid").read_text())

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    until(gone, "the child's end")


# --- when it is told


def notified(settings: NotifySettings, play: Callable[[Notifier, Alarms, Callable[[float], Any]], Any]) -> Notifier:
    """Plays in a loop; `wait(seconds)` ticks on, on the notifier's clock."""

    async def main() -> Notifier:
        notifier, alarms = Notifier(), Alarms()
        notifier.configure(settings, "enforce", {})

        async def wait(seconds: float) -> None:
            loop = asyncio.get_running_loop()
            until_ = loop.time() + seconds
            while loop.time() < until_ or any(channel.going for channel in notifier.channels.values()):
                notifier.tick(time.time(), alarms)
                await asyncio.sleep(0.01)

        await play(notifier, alarms, wait)
        return notifier

    return asyncio.run(main())


def settings(hook: Hook, **more: Any) -> NotifySettings:
    return NotifySettings(**{"webhook": f"{hook.url}/secret", "every": 0.5, **more})


def told(hook: Hook) -> list[int]:
    """The bans of each message."""
    return [json.loads(body)["bans"] for _, _, body in hook.posted]


def test_a_burst_is_one_message_and_the_next_waits(hook: Hook) -> None:
    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        for hundred in range(200):
            notifier.banned([ban(f"198.18.{hundred}.{n}") for n in range(100)], NOW)
        await wait(0.1)
        assert told(hook) == []  # gathering
        await wait(0.6)
        assert told(hook) == [20_000]
        for _ in range(20):
            notifier.banned([ban("192.0.2.7")], NOW)
            await wait(0.01)
        assert len(told(hook)) == 1
        await wait(1.0)

    notified(settings(hook), play)
    assert told(hook) == [20_000, 20]


def test_a_reload_forgets_nothing_and_sends_nothing_twice(hook: Hook) -> None:
    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        for _ in range(50):
            notifier.banned([ban("192.0.2.7")], NOW)
            notifier.configure(settings(hook), "enforce", {})
            await wait(0.0)
        await wait(1.0)
        notifier.configure(None, "enforce", {})
        notifier.banned([ban("192.0.2.7")], NOW)
        await wait(0.6)

    notified(settings(hook), play)
    assert sum(told(hook)) == 50
    assert len(told(hook)) <= 2


def test_bans_by_hand_are_not_told(hook: Hook) -> None:
    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        notifier.banned([ban("192.0.2.7", rule) for rule in ("manual", "forced", "adopted")], NOW)
        await wait(0.7)

    notified(settings(hook), play)
    assert hook.posted == []


def test_what_about(hook: Hook) -> None:
    change = Change(Alarm("log-stopped", "/l", NOW, "silent"))

    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        notifier.banned([ban("192.0.2.7")], NOW)
        notifier.changed(change, NOW)
        await wait(0.7)

    notified(settings(hook, about=("alarms",)), play)
    notified(settings(hook, about=("bans",)), play)
    notified(settings(hook), play)
    messages = [json.loads(body) for _, _, body in hook.posted]
    assert [(message["bans"], len(message["alarms"])) for message in messages] == [(0, 1), (1, 0), (1, 1)]


def test_what_cannot_be_delivered_waits_is_an_alarm_and_comes_later(hook: Hook) -> None:
    hook.status = 503

    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        for _ in range(4):
            notifier.banned([ban("192.0.2.7")], NOW)
            await wait(0.5)
        (channel,) = notifier.status()
        assert channel["fault"] == "it answers 503 Service Unavailable"
        assert channel["waiting"]
        assert alarms.changes(time.time()) == []  # a mail server that is started anew is none
        begins = [change for change in alarms.changes(time.time() + 100) if change.ended is None]
        assert [str(change.alarm) for change in begins] == ["notify webhook 127.0.0.1"]
        assert "secret" not in begins[0].alarm.text
        for change in begins:
            notifier.changed(change, NOW)
        hook.status = 200
        hook.posted.clear()
        await wait(1.5)
        assert [change.ended is not None for change in alarms.changes(time.time() + 1)] == [True]

    notifier = notified(settings(hook), play)
    assert told(hook) == [4]
    assert json.loads(hook.posted[0][2])["alarms"] == []  # not of itself
    (channel,) = notifier.status()
    assert (channel["sent"], channel["fault"], channel["waiting"]) == (1, None, False)
    assert channel["failed"] >= 2


def test_no_thread_is_left_or_the_way_out_has_a_bug(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        notifier.banned([ban("192.0.2.7")], NOW)
        (channel,) = notifier.channels.values()

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            await wait(0.6)
        assert channel.status()["fault"] == "can't start new thread"
        send = channel.send
        channel.send = lambda *_: {}["a bug"]
        await wait(1.0)
        assert channel.status()["fault"] == "'a bug'"
        channel.send = send
        await wait(1.5)

    notifier = notified(settings(hook), play)
    assert told(hook) == [1]
    assert notifier.status()[0]["fault"] is None


def test_one_way_that_hangs_holds_no_other_up(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SECONDS", 3.0)

    async def play(notifier: Notifier, alarms: Alarms, wait: Any) -> None:
        notifier.banned([ban("192.0.2.7")], NOW)
        began = time.monotonic()
        while not hook.posted:
            notifier.tick(time.time(), alarms)
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < PATIENCE
        assert notifier.channels[("command", "/bin/sleep 600")].going is not None
        await wait(0)

    notifier = notified(settings(hook, command=("/bin/sleep", "600")), play)
    assert {channel["channel"]: channel["fault"] is None for channel in notifier.status()} == {
        "webhook": True,
        "command": False,
    }


# --- settings

MINIMAL = "[log /var/log/mail.log]\n[policy]\nvirus = 5 in 15m -> ban 1h\n[notify]\n"


def test_settings() -> None:
    assert parse(MINIMAL.removesuffix("[notify]\n"), "x.conf").notify is None
    found = parse(
        MINIMAL
        + "mail = root, a.b+c@example.org\nserver = [::1]:2525\nwebhook = https://u:p@[2001:db8::1]:8443/x?y=z\n"
        "command = /bin/tell 'two words'\nevery = 1h\nabout = alarms\nfrom = d@example.org\n",
        "x.conf",
    ).notify
    assert found == NotifySettings(
        mail=("root", "a.b+c@example.org"),
        author="d@example.org",
        server=("::1", 2525),
        webhook="https://u:p@[2001:db8::1]:8443/x?y=z",
        command=("/bin/tell", "two words"),
        every=3600.0,
        about=("alarms",),
        line=4,
    )
    least = parse(MINIMAL + "mail = a@example.org\n", "x.conf").notify
    assert least == NotifySettings(mail=("a@example.org",), line=4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("every = 1h", "x.conf:4: [notify] tells nobody; write `mail = you@example.org`"),
        ("male = a@b", "x.conf:5: unknown key 'male' in [notify]; write one of mail, from"),
        ("mail = Me <a@b>", "x.conf:5: '<a@b>' is no mail address"),
        ("mail = a@b\\nBcc:c", "x.conf:5: 'a@b\\\\nBcc:c' is no mail address"),
        ("mail =", "x.conf:5: no mail address given"),
        ("mail = " + "a@b " * 21, "x.conf:5: more than 20 mail addresses"),
        ("mail = a@b\nserver = none", "x.conf:6: 'none' takes no mail"),
        ("mail = a@b\nserver = mx.example.org:25", "x.conf:6: 'mx.example.org:25' is no place"),
        ("webhook = file:///etc/passwd", "x.conf:5: this is no URL that can be posted to; write https://HOST/PATH"),
        ("webhook = https://", "x.conf:5: this is no URL"),
        ("webhook = https://a b/", "x.conf:5: this is no URL"),
        ("webhook = https://a:99999/", "x.conf:5: this is no URL"),
        ("command = tell", "x.conf:5: write the program's whole path"),
        ("mail = a@b\nabout = all", "x.conf:6: 'all' is not known here; write bans or alarms"),
    ],
)
def test_mistakes(lines: str, message: str) -> None:
    from denyspam.events import SettingsError

    with pytest.raises(SettingsError) as error:
        parse(MINIMAL + lines + "\n", "x.conf")
    assert message in str(error.value)


# --- the daemon


def teller(folder: Path) -> tuple[Path, Path]:
    """(a program, the file to which it adds a line of JSON each time)"""
    program, file = folder / "tell", folder / "told"
    program.write_text(f'#!/bin/sh\ncat >>"{file}"\n')
    program.chmod(0o755)
    return program, file


def messages(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.root
def test_a_daemon_tells_new_bans_once_and_restored_ones_never(tmp_path: Path, network: Network) -> None:
    program, file = teller(tmp_path)
    with live(tmp_path, network.server) as daemon:
        daemon.configure()
        with daemon.conf.open("a") as conf:
            conf.write(f"[notify]\ncommand = {program}\nevery = 1s\n")
        daemon.start()
        daemon.write(viruses(CLIENTS4[0], 5))
        until(lambda: messages(file), "the message")
        (message,) = messages(file)
        assert (message["bans"], message["policies"]) == (1, {"virus": 1})
        assert message["addresses"][0]["address"] == CLIENTS4[0]
        assert "Eicar-Signature" in message["addresses"][0]["line"]

        # A reload, somebody's flush of the table, a kill and a start: the ban is restored each time.
        reloaded(daemon)
        network.server.check("nft", "delete", "table", "inet", "denyspam")
        until(lambda: daemon.json("status")["firewall"]["repairs"] and daemon.held() == {CLIENTS4[0]}, "the repair")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert daemon.held() == {CLIENTS4[0]}
        daemon.ask("ban", "198.51.100.7")
        daemon.write(viruses(CLIENTS4[1], 5))
        until(lambda: len(messages(file)) > 1, "the next message")
        assert [message["bans"] for message in messages(file)] == [1, 1]
        assert messages(file)[1]["addresses"][0]["address"] == CLIENTS4[1]
        assert daemon.json("status")["notify"][0]["sent"] == 1
        assert "told by command" in daemon.ask("status").stdout
        assert daemon.ask("replay", str(daemon.log)).returncode == 0
        time.sleep(1.5)  # longer than `every`: a third one would be here
        assert len(messages(file)) == 2


@pytest.mark.root
def test_what_a_killed_daemon_had_not_told_is_told_after_the_next_start(tmp_path: Path, network: Network) -> None:
    program, file = teller(tmp_path)
    said = program.read_text()
    program.write_text("#!/bin/sh\nexit 1\n")  # nobody is told
    with live(tmp_path, network.server) as daemon:
        daemon.configure()
        daemon.start()
        daemon.write(viruses(CLIENTS4[0], 5))
        until(lambda: daemon.held() == {CLIENTS4[0]}, "a ban while nobody is to be told")
        daemon.stop()
        with daemon.conf.open("a") as conf:
            conf.write(f"[notify]\ncommand = {program}\nevery = 1s\n")
        daemon.start()
        daemon.write(viruses(CLIENTS4[1], 5))
        until(lambda: daemon.status()["notify"][0]["failed"], "a message that is not delivered")
        daemon.ask("ban", "198.51.100.7")
        daemon.stop(signal.SIGKILL)
        program.write_text(said)
        daemon.start()
        until(lambda: messages(file), "the message")
        until(lambda: told_up_to(daemon) == "3", "that it is written down")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        until(lambda: not daemon.status()["notify"][0]["waiting"], "nothing to tell")
        daemon.write(viruses(CLIENTS4[2], 5))
        until(lambda: len(messages(file)) > 1, "the next message")
        (message, another) = messages(file)
        assert [each["address"] for each in another["addresses"]] == [CLIENTS4[2]]
        assert [each["address"] for each in message["addresses"]] == [CLIENTS4[1]]


def told_up_to(daemon: Live) -> Any:
    with closing(sqlite3.connect(daemon.folder / "state/ledger.db")) as ledger:
        return (ledger.execute("SELECT value FROM facts WHERE name = 'told'").fetchone() or [None])[0]


def reloaded(daemon: Live) -> None:
    assert daemon.process
    before = daemon.json("status")["started"]
    os.kill(daemon.process.pid, signal.SIGHUP)

    def over() -> bool:
        said = daemon.ask("status", "--json")
        return said.returncode == 0 and json.loads(said.stdout)["started"] > before

    until(over, "the reload")


@pytest.mark.root
def test_an_alarm_goes_out_and_so_does_its_end(tmp_path: Path, network: Network) -> None:
    program, file = teller(tmp_path)
    with live(tmp_path, network.server) as daemon:
        taken = socket.socket(socket.AF_UNIX)
        taken.bind(str(tmp_path / "metrics"))
        taken.listen()
        daemon.configure(metrics=str(tmp_path / "metrics"))
        with daemon.conf.open("a") as conf:
            conf.write(f"[notify]\ncommand = {program}\nevery = 1s\n")
        daemon.start()
        until(lambda: messages(file), "the alarm")
        assert [(one["name"], one["ended"]) for one in messages(file)[0]["alarms"]] == [("metrics", None)]
        taken.close()
        until(lambda: len(messages(file)) > 1, "its end")
        (over,) = messages(file)[1]["alarms"]
        assert over["ended"] > over["since"]


def test_a_webhook_that_others_may_read_is_noted(tmp_path: Path) -> None:
    conf = tmp_path / "denyspam.conf"
    conf.write_text(MINIMAL + "webhook = https://h/secret\n")
    for mode, noted in ((0o644, True), (0o640, False), (0o600, False)):
        conf.chmod(mode)
        said = subprocess.run([*DENYSPAM, "check", "-c", str(conf)], capture_output=True, text=True, check=False)
        assert ("may read the webhook's URL" in said.stderr) == noted
        assert "secret" not in said.stderr + said.stdout


def test_a_program_that_is_not_there_is_found_by_check(tmp_path: Path) -> None:
    with live(tmp_path) as daemon:
        daemon.configure(action="dryrun")
        with daemon.conf.open("a") as conf:
            conf.write("[notify]\ncommand = /nowhere/tell\n")
        daemon.log.touch()
        said = daemon.ask("run")
        assert said.returncode == 78
        assert "there is no program '/nowhere/tell'" in said.stderr
