"""demo: the main job on an example, for a host without a mail server. `make run` ends here when it finds none.

Everything is real but the mail: this process moves into a network namespace of its own (as root, or unprivileged
through a user namespace), makes a second one for the clients and a veth pair between them, listens on 25 and 587,
starts `denyspam run` with a temporary configuration, and writes the lines that Postfix, exim and sendmail would write,
at a pace one can read. What the firewall does is then tried by connecting. The host's network, firewall and folders are
not touched; everything ends with this process.

    python -m denyspam.demo [--pace SECONDS]       exit code 0: every step came out; 1: one did not; 77: not permitted

The lines are invented in the servers' own formats; the addresses are those of RFC 5737 and RFC 3849.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from typing import Any

SERVER, SERVER6 = "192.0.2.25", "2001:db8:25::25"
VIRUS_SENDER = "203.0.113.9"
RELAY_PROBER = "198.51.100.23"
GUESSER6 = "2001:db8:bad:1::7"  # banned with its /64
NEIGHBOUR = "203.0.113.10"  # an innocent in the same network
DEADLINE = 10.0  # seconds any step may take; each is polled, none is timed
CONNECT = 0.4  # seconds after which a connect without an answer is one that was dropped: two namespaces are close
SHORT = 5  # seconds of the ban that expires by itself: enough for a connect on a machine that is busy
CLONE_NEWNET = 0x40000000  # sched.h

CONFIGURATION = """\
[daemon]
state  = {folder}/state
socket = {folder}/denyspam.sock
[log {folder}/mail.log]
filters = postfix, sendmail
[log {folder}/mainlog]
filters = exim
[policy]
virus  = 5 in 15m -> ban 1h
relay  = 5 in 15m -> ban {short}s
reject = 5 in 15m -> ban 1h
"""

STAMPS = {"mail.log": "%b %e %H:%M:%S mx", "mainlog": "%Y-%m-%d %H:%M:%S"}
# What the servers write behind it. {n} makes the queue ids differ: a verdict told twice for one message is one offence.
POSTFIX_VIRUS = (
    "postfix/cleanup[2042]: 4F1C0{n}A7E1: milter-reject: END-OF-MESSAGE from unknown[{address}]: 5.7.1 "
    "virus Eicar-Signature detected by ClamAV; from=<billing@shop.example> to=<ann@example.org> proto=ESMTP helo=<pc7>"
)
SENDMAIL_RELAY = (
    "sendmail[3177]: 5AB9h{n}Xc003177: ruleset=check_rcpt, arg1=<v{n}@far.example>, "
    "relay=[{address}], reject=550 5.7.1 <v{n}@far.example>... Relaying denied"
)
EXIM_REJECT = "H=(mail) [{address}] F=<news@list.example> rejected RCPT <user{n}@example.org>: Unrouteable address"


class Surprise(Exception):
    """A step did not come out as it must."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m denyspam.demo", description="denyspam on an example")
    parser.add_argument("--pace", type=float, default=0.3, help="seconds between two log lines (default: %(default)s)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        return _enter(options.pace)
    with ExitStack() as stack:
        try:
            Demonstration(stack, options.pace).play()
        except Surprise as surprise:
            print(f"\nThis did not come out as it must: {surprise}", file=sys.stderr)
            return 1
    return 0


def _enter(pace: float) -> int:
    """Starts this module again in a namespace of its own, which the kernel removes with the last process in it."""
    private = ["unshare", "--net"]
    if os.geteuid() != 0:
        private += ["--user", "--map-root-user"]
    lacking = [program for program in ("unshare", "ip") if shutil.which(program, path=_path()) is None]
    if lacking:
        why = f"{' and '.join(lacking)} not found"
    else:
        why = subprocess.run([*private, "true"], capture_output=True, text=True, check=False).stderr.strip()  # noqa: S603
    if why:
        print(f"denyspam: the demonstration needs root and network namespaces ({why})", file=sys.stderr)
        return 77
    again = [sys.executable, "-m", "denyspam.demo", "--inside", "--pace", str(pace)]
    sys.stdout.flush()
    return subprocess.run([*private, *again], env={**os.environ, "PATH": _path()}, check=False).returncode  # noqa: S603


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Demonstration:
    """The stage (two namespaces, listeners, the daemon) and the play."""

    def __init__(self, stack: ExitStack, pace: float) -> None:
        self.stack, self.pace, self.number = stack, pace, 0
        self.width = max(80, shutil.get_terminal_size((120, 0)).columns)
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="denyspam-demo-"))
        self.configuration = os.path.join(self.folder, "denyspam.conf")
        self.logs = {name: os.path.join(self.folder, name) for name in STAMPS}
        self.written = dict.fromkeys(self.logs, 0)  # lines, all of them offences
        self.program = os.path.join(os.path.dirname(sys.executable), "denyspam")
        self.server = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _libc("unshare", CLONE_NEWNET)
        self.clients = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._network()
        for address in (SERVER, SERVER6):
            for port in (25, 587):
                self._listen(address, port)

    # --- the stage

    def _network(self) -> None:
        """clients -- veth -- server. This thread comes in the clients' namespace and leaves in the server's."""
        ours = [f"{address}/32" for address in (VIRUS_SENDER, RELAY_PROBER, NEIGHBOUR)] + [f"{GUESSER6}/128"]
        _ip(f"link add client type veth peer name server netns /proc/{os.getpid()}/fd/{self.server}")
        _plug("client", ours, [SERVER, SERVER6])
        _libc("setns", self.server, CLONE_NEWNET)
        _plug("server", [f"{SERVER}/32", f"{SERVER6}/128"], [one.split("/")[0] for one in ours])

    @contextmanager
    def _at_the_clients(self) -> Iterator[None]:
        """A socket keeps the namespace it was made in, so this thread need only go there to make one."""
        _libc("setns", self.clients, CLONE_NEWNET)
        try:
            yield
        finally:
            _libc("setns", self.server, CLONE_NEWNET)

    def _listen(self, address: str, port: int) -> None:
        listener = socket.create_server((address, port), family=_family(address))
        self.stack.callback(listener.close)

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # closed: the play is over
                with connection:
                    connection.sendall(b"220 mx.example ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()

    def _start(self) -> None:
        with open(self.configuration, "w", encoding="ascii") as file:
            file.write(CONFIGURATION.format(folder=self.folder, short=SHORT))
        for path in self.logs.values():
            with open(path, "w", encoding="ascii"):
                pass
        output = self.stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115
        daemon = subprocess.Popen(  # noqa: S603
            [self.program, "run", "-c", self.configuration], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )

        def stop() -> None:
            daemon.terminate()
            try:
                daemon.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                daemon.kill()

        self.stack.callback(stop)

        def ready() -> bool:
            if daemon.poll() is not None:
                output.seek(0)
                raise Surprise(f"denyspam ended with {daemon.returncode}:\n{output.read()}")
            return self._denyspam("status").returncode == 0

        _until(ready, "denyspam is ready")

    # --- what is done and seen

    def _denyspam(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            [self.program, *words, "-c", self.configuration], capture_output=True, text=True, check=False
        )

    def _show(self, *words: str) -> None:
        shown = " ".join(f'"{word}"' if " " in word else word for word in words)
        print(f"\n$ denyspam {shown}")
        done = self._denyspam(*words)
        print(done.stdout + done.stderr, end="")
        if done.returncode != 0:
            raise Surprise(f"`denyspam {shown}` ended with {done.returncode}")

    def _listed(self) -> list[dict[str, Any]]:
        done = self._denyspam("list", "--json")
        if done.returncode != 0:
            raise Surprise(f"`denyspam list --json` ended with {done.returncode}: {done.stderr}")
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    def _write(self, log: str, line: str, address: str, times: int) -> None:
        for _ in range(times):
            self.number += 1
            said = line.format(address=address, n=self.number)
            stamp = datetime.now(timezone.utc).astimezone().strftime(STAMPS[log])
            with open(self.logs[log], "a", encoding="ascii") as file:
                file.write(f"{stamp} {said}\n")
            self.written[log] += 1
            shown = f"  {log}: {said}"
            print(shown if len(shown) <= self.width else f"{shown[: self.width - 3]}...", flush=True)
            time.sleep(self.pace)

    def _until_read(self, log: str) -> None:
        """Until the daemon has seen every line written: only then does "not banned" say anything."""
        _until(lambda: self._read(log) == self.written[log], f"denyspam has read {log}")

    def _read(self, log: str) -> int:
        done = self._denyspam("status", "--json")
        return int(json.loads(done.stdout)["logs"][self.logs[log]]["events"]) if done.returncode == 0 else -1

    def _answers(self, address: str, port: int) -> bool:
        """A real connect from the client's address to the server; a greeting read means it is served."""
        family = _family(address)
        with self._at_the_clients():
            client = socket.socket(family, socket.SOCK_STREAM)
        with client:
            client.settimeout(CONNECT)
            try:
                client.bind((address, 0))
                client.connect((SERVER if family == socket.AF_INET else SERVER6, port))
                return client.recv(64).startswith(b"220")
            except OSError:
                return False

    def _connect(self, address: str, port: int, *, served: bool) -> None:
        """Says what a connect gets, once it is what it must be."""
        _until(
            lambda: self._answers(address, port) is served,
            f"{address} to port {port} is {'accepted' if served else 'refused'}",
        )
        print(f"  {address} connects to port {port}: {'accepted' if served else 'REFUSED'}", flush=True)

    def _banned(self, address: str) -> bool:
        return any(row["address"] == address for row in self._listed())

    def _until_banned(self, address: str) -> None:
        _until(lambda: self._banned(address), f"{address} is banned")

    # --- the play

    def play(self) -> None:
        print(
            "\ndenyspam, demonstrated in a network namespace of its own: nothing of this host is touched.\n"
            f"  mail server: {SERVER}, ports 25 and 587     policy: five offences in 15 minutes\n"
        )
        self._start()

        print(f"{VIRUS_SENDER} sends viruses; Postfix and its virus scanner refuse them:")
        self._connect(VIRUS_SENDER, 25, served=True)
        self._write("mail.log", POSTFIX_VIRUS, VIRUS_SENDER, 4)
        self._until_read("mail.log")
        if self._listed():
            raise Surprise("somebody was banned after four lines")
        self._connect(VIRUS_SENDER, 25, served=True)
        self._write("mail.log", POSTFIX_VIRUS, VIRUS_SENDER, 1)
        self._until_banned(VIRUS_SENDER)
        self._connect(VIRUS_SENDER, 25, served=False)
        self._connect(VIRUS_SENDER, 587, served=True)
        self._connect(NEIGHBOUR, 25, served=True)

        print(f"\n{GUESSER6} guesses recipients at exim's; IPv6 is banned by /64:")
        self._write("mainlog", EXIM_REJECT, GUESSER6, 5)
        self._until_banned("2001:db8:bad:1::/64")
        self._connect(GUESSER6, 25, served=False)

        self._show("list")
        self._show("why", VIRUS_SENDER)
        self._show("release", VIRUS_SENDER, "--note", "shown")
        self._connect(VIRUS_SENDER, 25, served=True)

        print(f"\n{RELAY_PROBER} probes sendmail for an open relay; this ban lasts {SHORT} seconds:")
        self._write("mail.log", SENDMAIL_RELAY, RELAY_PROBER, 4)
        self._until_read("mail.log")
        self._connect(RELAY_PROBER, 25, served=True)
        self._write("mail.log", SENDMAIL_RELAY, RELAY_PROBER, 1)
        self._connect(RELAY_PROBER, 25, served=False)
        print("  waiting ...", flush=True)
        self._connect(RELAY_PROBER, 25, served=True)
        _until(lambda: not self._banned(RELAY_PROBER), f"{RELAY_PROBER} is no longer listed")

        print("\nAll of it came out. On a mail server, `sudo make run` does this with its own logs and firewall.")


# --- helpers ----------------------------------------------------------------------------------------------------------


def _until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not reached():
        if time.monotonic() > end:
            raise Surprise(f"{DEADLINE:.0f} seconds went by and it is not so that {what}")
        time.sleep(0.02)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _plug(device: str, addresses: Sequence[str], peers: Sequence[str]) -> None:
    """Brings one end of the veth pair up; without duplicate address detection, which takes a second."""
    _ip("link set lo up")
    for address in addresses:
        _ip(f"address add {address} dev {device}{' nodad' if ':' in address else ''}")
    _ip(f"link set {device} up")
    for peer in peers:
        _ip(f"route add {peer} dev {device}")


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise Surprise(f"`ip {words}`: {done.stderr.strip()}")


def _libc(call: str, *arguments: int) -> None:
    """unshare(2) and setns(2), which `os` has from Python 3.12 only; both move the calling thread alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        raise Surprise(f"{call}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main())
