"""The Debian package in a fresh Debian with a real systemd, Postfix and rsyslog: installed, used, upgraded, purged.

Two minutes and 500 MB at the first run, one later, and it builds the package: so it runs by `make deb-test`, as root,
and is skipped elsewhere. What it boots is a systemd of its own in namespaces of its own, with a cgroup of its own, over
the layers that tests/servers unpacks; all of it ends when our end of a pipe closes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import PATIENCE, until
from servers import world

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif("DENYSPAM_TEST_DEB" not in os.environ, reason="takes minutes and the network: make deb-test"),
]

# $1 lower layers, $2 a folder of ours, $3 the name of a cgroup. The outer shell waits for our end of its stdin to
# close, ends the inner one, and with it everything, and removes the cgroup.
OUTER = """
mkdir "$2/cgroups"; mount -t cgroup2 none "$2/cgroups"; mkdir "$2/cgroups/$3"
sh -ec 'echo $$ > "$1/cgroup.procs"; shift
exec unshare --pid --net --uts --ipc --cgroup --mount --fork --kill-child "$@"' \
    sh "$2/cgroups/$3" sh -ec "$INNER" sh "$1" "$2" >"$2/console" 2>&1 &
cat >/dev/null
kill -9 $! || true; wait || true
for try in 1 2 3 4 5 6 7 8 9; do
    find "$2/cgroups/$3" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.2
done
"""
INNER = """
mount -t tmpfs world "$2/world"; mkdir "$2/world/up" "$2/world/work" "$2/world/root"
root=$2/world/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/world/up,workdir=$2/world/work" "$root"
mount -t proc proc "$root/proc"; mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"; mkdir "$root/dev/pts" "$root/dev/shm"
mknod -m 666 "$root/dev/null" c 1 3; mknod -m 666 "$root/dev/zero" c 1 5; mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8; mknod -m 666 "$root/dev/urandom" c 1 9; mknod -m 666 "$root/dev/tty" c 5 0
ln -s /proc/self/fd "$root/dev/fd"; ln -s pts/ptmx "$root/dev/ptmx"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"; mount -t tmpfs -o mode=755 run "$root/run"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
rm -f "$root/usr/sbin/policy-rc.d"; echo mx.example.test >"$root/etc/hostname"
ip link set lo up
mkdir "$root/outside"; cd "$root"; pivot_root . outside; umount -l /outside; rmdir /outside
exec env -i container=denyspam PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system
"""


class Booted:
    """A Debian that runs: `do` runs a command in it and gives its output."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--target={self.pid}", "--all", "env", "-i", world.PATH, "sh", "-c", command]
        return subprocess.run(
            inside, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=4 * PATIENCE
        )

    def do(self, command: str) -> str:
        done = self.run(command)
        if done.returncode:
            journal = self.run("journalctl --no-pager -n 30 -u denyspam").stdout
            pytest.fail(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{journal}")
        return done.stdout

    def offend(self, address: str) -> None:
        """Five relay attempts, told by Postfix's own way into the log."""
        for number in range(5):
            self.do(
                "logger -p mail.info -t postfix/smtpd --id=7 -- "
                f"'NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 <a{number}@far.example>: "
                "Relay access denied; "
                f"from=<x@y.example> to=<a{number}@far.example> proto=ESMTP helo=<z>'"
            )

    def banned(self) -> list[str]:
        return [ban["address"] for ban in json.loads(self.do("denyspam list --json"))]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    if reason := world.missing():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("debian")
    (place / "world").mkdir()
    try:
        layers = ":".join(map(str, world.layers("package", below=("base",))))
    except world.Unavailable as error:
        pytest.skip(str(error))
    outer = subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", OUTER, "sh", layers, str(place), f"denyspam-test-{os.getpid()}"],
        stdin=subprocess.PIPE,
        env={**os.environ, "INNER": INNER},
        umask=world.UMASK,
    )
    try:
        yield Booted(until(lambda: booted(outer), "a systemd that runs"))
    finally:
        assert outer.stdin
        outer.stdin.close()
        outer.wait(PATIENCE)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def booted(outer: subprocess.Popen[bytes]) -> int | None:
    """The pid of its systemd, once that has started what it should."""
    assert outer.poll() is None, "the namespaces could not be made (see above)"
    for child in children(outer.pid):
        for pid in children(child):
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                state = Booted(pid).run("systemctl is-system-running").stdout.strip()
                return pid if state in ("running", "degraded") else None
    return None


@pytest.fixture(scope="module")
def package() -> Path:
    done = subprocess.run(["sh", "etc/deb.sh"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ROOT / done.stdout.split()[-1]


def test_a_life(debian: Booted, package: Path, tmp_path: Path) -> None:  # noqa: PLR0915 - one life, told in order
    shutil.copy(package, debian.root / "root/denyspam.deb")
    before = set(debian.do("find / -xdev -name '*denyspam*' ! -path '/root/*'").split())
    assert before == set()

    # Installed: it watches, as a user of its own with one capability, before Postfix.
    began = time.monotonic()
    said = debian.do("apt-get install -y /root/denyspam.deb")
    assert "/etc/denyspam/denyspam.conf: written" in said
    assert "It watches only" in said
    until(lambda: debian.run("denyspam status").returncode == 0, "ready")
    assert "mode = watch" in debian.do("cat /etc/denyspam/denyspam.conf")
    assert debian.do("systemctl is-active denyspam; systemctl is-enabled denyspam").split() == ["active", "enabled"]
    shown = debian.do("systemctl show denyspam -p Before -p StatusText -p User -p Type -p WatchdogUSec")
    assert {"postfix.service", "exim4.service"} <= set(re.findall(r"^Before=(.*)$", shown, re.M)[0].split())
    assert "User=denyspam\n" in shown
    assert re.search(r"^StatusText=holding 0 bans, reading 1 log", shown, re.M)
    status = debian.do("cat /proc/$(systemctl show -P MainPID denyspam)/status")
    assert re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\t(\w+)", status, re.M) == [f"{1 << 12:016x}"] * 4
    score = re.search(r"exposure level for denyspam.service: (\S+)", debian.do("systemd-analyze security denyspam"))
    assert score
    assert float(score[1]) <= 2.0

    # A first report, with nothing banned.
    debian.offend("203.0.113.9")
    until(lambda: debian.banned() == ["203.0.113.9"], "what would have been banned")
    assert time.monotonic() - began < 300
    assert "denyspam" not in debian.do("nft list tables")

    # Enforced: banned in the kernel, from inside the sandbox; and put back when somebody deletes it.
    edited = debian.do("cat /etc/denyspam/denyspam.conf") + "auth = 7 in 15m -> ban 1h\n"
    (debian.root / "etc/denyspam/denyspam.conf").write_text(edited)
    assert "It watches only" not in debian.do("denyspam setup --enforce")
    assert debian.do("cat /etc/denyspam/denyspam.conf") == edited.replace("mode = watch", "mode = enforce")
    until(lambda: debian.run("denyspam status").returncode == 0, "ready again")
    debian.offend("203.0.113.10")
    until(lambda: "203.0.113.10" in debian.do("nft list ruleset"), "the ban in the kernel")
    debian.do("nft flush ruleset")
    until(lambda: "203.0.113.10" in debian.do("nft list ruleset"), "the ban is back")
    pid = debian.do("systemctl show -P MainPID denyspam")
    debian.do("systemctl reload denyspam")
    until(lambda: debian.run("denyspam status").returncode == 0, "ready after the reload")
    assert debian.do("systemctl show -P MainPID denyspam") == pid

    # Watched and told of, from inside the sandbox: by HTTP on loopback, by mail through Postfix, by a command.
    told = "[notify]\nmail = root\ncommand = /usr/bin/tee /var/lib/denyspam/told\nevery = 2s\n"
    watched = (
        debian.do("cat /etc/denyspam/denyspam.conf").replace("[daemon]\n", "[daemon]\nmetrics = 127.0.0.1:9826\n")
        + told
    )
    edited = edited.replace("[daemon]\n", "[daemon]\nmetrics = 127.0.0.1:9826\n") + told
    (debian.root / "etc/denyspam/denyspam.conf").write_text(watched)
    debian.do("cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf; newaliases; systemctl restart postfix")
    debian.do("systemctl reload denyspam")
    until(lambda: len(json.loads(debian.do("denyspam status --json"))["notify"]) == 2, "the reload")
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9826/metrics').read().decode())"
    assert "denyspam_bans_active 2" in debian.do(f'python3 -c "{asked}"')
    debian.offend("203.0.113.11")
    until(lambda: "203.0.113.11" in debian.run("cat /var/lib/denyspam/told").stdout, "the command was told")
    until(lambda: "Subject: denyspam on mx" in debian.run("cat /var/mail/root").stdout, "the mail was delivered")
    told_by = json.loads(debian.do("denyspam status --json"))["notify"]
    assert [one["fault"] for one in told_by] == [None, None]

    # Upgraded: another process, the same bans and configuration.
    newer(package, debian.root / "root/newer.deb", tmp_path)
    debian.do("dpkg -i /root/newer.deb")
    until(lambda: debian.run("denyspam status").returncode == 0, "ready after the upgrade")
    assert debian.do("systemctl show -P MainPID denyspam") != pid
    assert "203.0.113.10" in debian.banned()
    assert debian.do("cat /etc/denyspam/denyspam.conf") == edited.replace("mode = watch", "mode = enforce")
    assert "denyspam: bash" not in debian.do("bash -n /usr/share/bash-completion/completions/denyspam")

    # Removed: no ban is left behind; what is configured is. Installed again: as it was.
    debian.do("dpkg -r denyspam")
    assert "denyspam" not in debian.do("nft list tables")
    assert debian.run("denyspam status").returncode == 127
    debian.do("test -e /etc/denyspam/denyspam.conf && test -e /var/lib/denyspam/ledger.db")
    debian.do("dpkg -i /root/newer.deb")
    until(lambda: debian.run("denyspam status").returncode == 0, "ready after it was installed again")
    assert debian.banned() == []

    # Purged: nothing.
    debian.do("dpkg -P denyspam")
    assert debian.do("find / -xdev -name '*denyspam*' ! -path '/root/*'").split() == []
    assert debian.do("nft list tables") == ""
    assert "denyspam" not in debian.do("systemctl --all --plain --no-legend")


def newer(package: Path, to: Path, tmp_path: Path) -> None:
    """The same package with a higher version."""
    subprocess.run(["dpkg-deb", "-R", package, tmp_path / "tree"], check=True)
    control = tmp_path / "tree/DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+newer", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tmp_path / "tree", to], check=True)
