"""live: a real `denyspam run` for a test, in a private network namespace, with a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netns import Namespace

from denyspam import control

# Seconds before a condition that must come true is given up.
PATIENCE = float(os.environ.get("DENYSPAM_PATIENCE", "60"))
DENYSPAM = (sys.executable, "-m", "denyspam.cli")
POLICY = "virus = 5 in 15m -> ban 1h\nrelay = 5 in 15m -> ban 1h\nreject = 20 in 15m -> ban 1h\n"


def until(condition: Callable[[], Any], what: str) -> Any:
    """Polls until `condition()` is true, and returns it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")


class Live:
    """A daemon's folder, and the daemon itself while it runs."""

    def __init__(self, folder: Path, namespace: Namespace | None = None) -> None:
        self.folder = folder
        self.namespace = namespace
        self.log = folder / "mail.log"
        self.conf = folder / "denyspam.conf"
        self.errors = folder / "stderr"
        self.process: subprocess.Popen[Any] | None = None
        self.configure()

    def configure(self, policy: str = POLICY, log: str = "filters = postfix\ntimezone = UTC\n", **daemon: str) -> None:
        keys = {"state": str(self.folder / "state"), "socket": str(self.folder / "sock"), **daemon}
        text = "[daemon]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        self.conf.write_text(f"{text}[log {self.log}]\n{log}[policy]\n{policy}")

    def command(self, *words: str) -> list[str]:
        return [*(self.namespace.prefix if self.namespace else ()), *DENYSPAM, *words, "-c", str(self.conf)]

    def launch(self) -> None:
        """Starts it, and does not wait."""
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(self.command("run"), stderr=errors, stdin=subprocess.DEVNULL)

    def start(self) -> None:
        """Starts it, and waits until it is ready."""
        self.launch()
        until(lambda: self.process and (self.process.poll() is not None or self.ask("status").returncode == 0), "ready")
        assert self.process and self.process.poll() is None, self.errors.read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def ask(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), check=False, capture_output=True, text=True, input=text, timeout=PATIENCE
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.ask(*words, "--json").stdout)

    def status(self) -> dict[str, Any]:
        """What `status --json` prints, asked here: a program of its own costs a quarter of a second each time."""
        found: dict[str, Any] = control.ask(str(self.folder / "sock"), {"command": "status"})["ok"]
        return found

    def banned(self) -> list[str]:
        return [ban["address"] for ban in self.json("list")]

    def held(self) -> set[str]:
        """The addresses in the kernel's sets of this namespace, as nft itself prints them."""
        assert self.namespace
        listed = json.loads(self.namespace.check("nft", "-j", "list", "table", "inet", "denyspam"))["nftables"]
        return {element["elem"]["val"] for each in listed for element in each.get("set", {}).get("elem", ())}

    def write(self, lines: Sequence[str]) -> None:
        with self.log.open("a") as log:
            log.writelines(f"{line}\n" for line in lines)


@contextmanager
def live(folder: Path, namespace: Namespace | None = None) -> Iterator[Live]:
    """A daemon's folder; what still runs at the end is stopped."""
    made = Live(folder, namespace)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def stamp(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(when))


def virus(address: str, when: float, queue_id: str = "4XyZq81Kw0z9P1") -> str:
    """What postfix's cleanup prints of a virus that clamav-milter found."""
    return (
        f"{stamp(when)} mx postfix/cleanup[2034]: {queue_id}: milter-reject: END-OF-MESSAGE from "
        f"unknown[{address}]: 5.7.1 virus Eicar-Signature detected by ClamAV - http://www.clamav.net/; "
        "from=<a@b.example> to=<u@example.org> proto=ESMTP helo=<b>"
    )


def relay(address: str, when: float) -> str:
    return (
        f"{stamp(when)} mx postfix/smtpd[2034]: NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 "
        "<a@b.example>: Relay access denied; from=<x@y.example> to=<a@b.example> proto=ESMTP helo=<z>"
    )


def viruses(address: str, count: int, when: float | None = None) -> list[str]:
    """`count` virus lines a second apart, each of its own message, the last one now."""
    last = int(time.time() if when is None else when)
    return [virus(address, last - count + 1 + n, f"4X{os.urandom(4).hex().upper()}") for n in range(count)]


def offend(log: Path, address: str, count: int = 2) -> None:
    """Writes the lines of `count` viruses."""
    with log.open("a") as file:
        file.writelines(f"{line}\n" for line in viruses(address, count))


def events(daemon: Live, kind: str = "virus") -> int:
    """What it has counted of a kind."""
    return sum(daemon.status()["events"].get(kind, {}).values())
