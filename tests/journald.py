"""journald: a real systemd-journald for a test, without systemd: in a mount namespace of its own, as a namespace of the
journal. It writes to a folder of the test's; `log` speaks its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

JOURNALD = "/usr/lib/systemd/systemd-journald"
REMOTE = "/usr/lib/systemd/systemd-journal-remote"
SCRIPT = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/log /var/log/journal
mount --bind "$1" /var/log/journal
mkdir -p /etc/systemd
mount -t tmpfs tmpfs /etc/systemd
printf '[Journal]\\nStorage=persistent\\nRateLimitBurst=0\\nSystemMaxFileSize=8M\\nSystemMaxUse=%s\\n' "$2" \
    >/etc/systemd/journald@test.conf
echo $$
exec {journald} test
"""


class Journald:
    """A running one; `folder` is where its files are, once there are some."""

    def __init__(self, folder: Path, most: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", SCRIPT.replace("{journald}", JOURNALD), "sh", str(folder), most],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout
        pid = self._process.stdout.readline().decode().strip()
        self._place = f"/proc/{pid}/root/run/systemd/journal.test/socket"
        deadline = time.monotonic() + 60
        while not (pid and os.path.exists(self._place) and self.files()):
            assert self._process.poll() is None, "journald did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # A namespace's folder has a name of its own, by which nobody finds it who looks for the host's journal.
        self.folder = self.files()[0].parent
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.journal"))

    def log(self, message: bytes, identifier: str = "postfix/smtpd", facility: int = 2, **fields: str) -> None:
        """One entry, as `identifier[2034]`."""
        fields = {"SYSLOG_IDENTIFIER": identifier, "SYSLOG_FACILITY": str(facility), "SYSLOG_PID": "2034", **fields}
        data = b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n"
        data += b"".join(f"{name}={value}\n".encode() for name, value in fields.items())
        self._socket.sendto(data, self._place)

    def rotate(self) -> None:
        """As `journalctl --rotate` asks it to."""
        before = len(self.files())
        self._process.send_signal(12)  # SIGUSR2
        deadline = time.monotonic() + 60
        while len(self.files()) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def vacuum(self) -> None:
        """As `journalctl --vacuum-files=1`: only the file that is being written stays."""
        for file in self.files():
            if "@" in file.name:
                file.unlink()

    def stop(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(60)
        if self._process.stdout:
            self._process.stdout.close()


def missing() -> str:
    """Why there can be no journald here; "" where there can."""
    if os.geteuid() != 0:
        return "needs root to mount: run the tests as root"
    if not os.path.exists(JOURNALD) or shutil.which("unshare") is None:
        return f"needs {JOURNALD}: apt-get install systemd"
    done = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False)
    return "" if done.returncode == 0 else f"needs leave to mount: {done.stderr.decode().strip()}"


@contextmanager
def journald(folder: Path, most: str = "100M") -> Iterator[Journald]:
    """One that is stopped at the end. Skips the test where there can be none."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    folder.mkdir(exist_ok=True)
    made = Journald(folder, most)
    try:
        yield made
    finally:
        made.stop()
