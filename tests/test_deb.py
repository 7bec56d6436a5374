"""The Debian package in a fresh Debian with a real systemd, Postfix and rsyslog: installed, used, upgraded, purged.

Two minutes and 500 MB at the first run, then one; and it builds the package, and that of an older commit: so it runs by
`make deb-test`, as root, and is skipped elsewhere. What it boots is a systemd of its own in namespaces of its own, with
a cgroup of its own, over the layers that tests/servers unpacks; all of it ends when our end of a pipe closes.
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


OLDER = "8fb4d21"  # the last with version 3 of the ledger
# Five relay attempts by $1 from a process that lives on: of one that is gone, journald does not know the unit.
FROM_POSTFIX = """
echo $$ >/sys/fs/cgroup/system.slice/system-postfix.slice/postfix@-.service/cgroup.procs
exec python3 - "$@" <<'EOF'
import subprocess, sys, syslog
syslog.openlog("postfix/smtpd", syslog.LOG_PID, syslog.LOG_MAIL)
for number in range(5):
    syslog.syslog(
        f"NOQUEUE: reject: RCPT from unknown[{sys.argv[1]}]: 554 5.7.1 <a{number}@far.example>: Relay access denied; "
        f"from=<x@y.example> to=<a{number}@far.example> proto=ESMTP helo=<z>"
    )
subprocess.run(["journalctl", "--sync"], check=True)  # until journald has taken them, and seen us
EOF
"""
# Of a program that no filter knows: new-filter has something to draft from.
STRANGE = "".join(f"Nov 21 10:00:0{number} mx haraka[7]: login failed from 203.0.113.{number}\n" for number in range(5))
HOOK = """
import http.server, ssl
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/root/hooked", "ab") as file:
            file.write(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 8443), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/cert.pem", "/root/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
EVERYTHING = """[daemon]
mode = enforce
metrics = /run/denyspam/metrics.sock
group = adm
[log /var/log/mail.log]
filters = postfix
[journal]
units = postfix
[syslog /run/denyspam/log]
group = adm
[syslog 127.0.0.1:5514]
[senders]
accepted = 3 days in 30d -> 3x
providers = notice
resolver = 127.0.0.1
patience = 1s
[fuse]
senders = 80% in 15m
[notify]
webhook = https://localhost:8443/secret
every = 2s
about = bans
[policy]
relay = 5 in 15m -> ban 1h
"""
# Each as root in /root, with the code that it ends with.
COMMANDS = {
    "status": 0,
    "list": 0,
    "list --withheld": 0,
    "metrics": 0,
    "top --once": 0,
    "why 203.0.113.21": 0,
    "ban 203.0.113.30 --for 1h --note 'by hand'": 0,
    "release 203.0.113.30": 0,
    "resume": 1,  # no fuse has blown
    "check": 0,
    "events /var/log/mail.log": 0,
    "explain 'no line of a log'": 1,
    "learn /var/log/mail.log": 0,
    "replay --summary /var/log/mail.log": 0,
    "replay /var/log/journal": 0,
    "report -o report.html": 0,
    "report --json": 0,
    "setup --dry-run": 0,
    "new-filter haraka --from strange.log": 0,
    "import-fail2ban nothing.conf": 2,
    "flush": 0,
}


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

    def offend(self, address: str, how: str = "") -> None:
        """Five relay attempts, told by Postfix's own way into the log, or another for logger."""
        for number in range(5):
            self.do(
                f"logger {how} -p mail.info -t postfix/smtpd --id=7 -- "
                f"'NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 <a{number}@far.example>: "
                "Relay access denied; "
                f"from=<x@y.example> to=<a{number}@far.example> proto=ESMTP helo=<z>'"
            )

    def ready(self) -> None:
        until(lambda: self.run("denyspam status").returncode == 0, "ready")

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
    return built(ROOT)


def built(root: Path) -> Path:
    environment = {**os.environ, "PYTHONPATH": str(root)}  # an older one is not built with this one's modules
    done = subprocess.run(["sh", "etc/deb.sh"], cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return root / done.stdout.split()[-1]


@pytest.fixture
def installed(debian: Booted, package: Path) -> Iterator[Booted]:
    """It runs, as `apt install` left it; afterwards it is purged."""
    shutil.copy(package, debian.root / "root/denyspam.deb")
    debian.do("cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf; newaliases; systemctl restart postfix")
    debian.do("apt-get install -y /root/denyspam.deb")
    debian.ready()
    yield debian
    debian.do("dpkg -P denyspam")


def test_a_life(debian: Booted, package: Path, tmp_path: Path) -> None:  # noqa: PLR0915 - one life, told in order
    shutil.copy(package, debian.root / "root/denyspam.deb")
    before = set(debian.do("find / -xdev -name '*denyspam*' ! -path '/root/*'").split())
    assert before == set()

    # Installed: it watches, as a user of its own with one capability, before Postfix.
    began = time.monotonic()
    said = debian.do("apt-get install -y /root/denyspam.deb")
    assert "/etc/denyspam/denyspam.conf: written" in said
    assert "It watches only" in said
    assert "denyspam replay --summary /var/log/mail.log*" in said
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
    assert "203.0.113.9" in debian.do("denyspam report -o -")
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
    # The page, from inside its own sandbox: read, and acted by with the token that root may read.
    debian.do("systemctl start denyspam-web")
    score = re.search(r"level for denyspam-web.service: (\S+)", debian.do("systemd-analyze security denyspam-web"))
    assert score
    assert float(score[1]) <= 2.0
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8025/api/snapshot').read().decode())"
    until(lambda: "203.0.113.10" in debian.run(f'python3 -c "{asked}"').stdout, "the page has the ban")
    token = debian.do("cat /run/denyspam-web/denyspam-web.token").strip()
    debian.do(
        f"python3 -c \"import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8025/api/ban',"
        f' b\'{{\\"address\\": \\"198.51.100.99\\", \\"seconds\\": 600}}\','
        f" {{'Authorization': 'Bearer {token}', 'Content-Type': 'application/json'}}))\""
    )
    assert "198.51.100.99" in debian.do("nft list ruleset")
    debian.do("denyspam release 198.51.100.99; systemctl stop denyspam-web")
    assert debian.run("test -e /run/denyspam-web").returncode == 1

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


def test_every_source_and_all_that_is_told_in_the_sandbox(installed: Booted) -> None:
    root = installed.root / "root"
    installed.do(
        "cd /root; openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost; cp cert.pem /usr/local/share/ca-certificates/hook.crt;"
        " update-ca-certificates"
    )
    (root / "hook.py").write_text(HOOK)
    installed.do("systemd-run --unit=hook python3 /root/hook.py")
    (installed.root / "etc/denyspam/denyspam.conf").write_text(EVERYTHING)
    installed.do("denyspam check; systemctl restart denyspam")
    installed.ready()

    installed.offend("203.0.113.20")
    installed.offend("203.0.113.21", "-u /run/denyspam/log")
    installed.offend("203.0.113.22", "-d -n 127.0.0.1 -P 5514")
    everybody = [f"203.0.113.{last}" for last in (20, 21, 22, 23)]
    installed.do("systemctl stop syslog.socket rsyslog")  # the journal alone has the next
    try:
        (root / "from-postfix").write_text(FROM_POSTFIX)
        installed.do("sh /root/from-postfix 203.0.113.23")
        until(lambda: sorted(installed.banned()) == everybody, "a ban by each source")
    finally:
        installed.do("systemctl start syslog.socket rsyslog")
    until(lambda: all(one in installed.do("nft list ruleset") for one in everybody), "the bans in the kernel")
    until(lambda: all(one in installed.run("cat /root/hooked").stdout for one in everybody), "the webhook, by TLS")
    asked = "import socket as s; c = s.socket(s.AF_UNIX); c.connect('/run/denyspam/metrics.sock'); "
    asked += "c.send(b'GET /metrics HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n'); print(c.makefile().read())"
    assert "denyspam_bans_active 4" in installed.do(f'python3 -c "{asked}"')
    notes = installed.do("journalctl -b -o cat -u denyspam")
    assert "Permission denied" not in notes
    assert "not permitted" not in notes

    # Nothing that a command needs was left out of the package.
    (root / "strange.log").write_text(STRANGE)
    for command, code in COMMANDS.items():
        done = installed.run(f"cd /root; denyspam {command}")
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        helped = installed.run(f"denyspam {command.split()[0]} --help")
        assert helped.stdout.startswith(f"usage: denyspam {command.split()[0]}")
    installed.do("systemd-run --unit=page denyspam web --listen /run/page.sock --read-only")
    asked = asked.replace("/run/denyspam/metrics.sock", "/run/page.sock").replace("/metrics", "/api/snapshot")
    until(lambda: '"bans"' in installed.run(f'python3 -c "{asked}"').stdout, "the page's answer")
    installed.do("systemctl stop page hook; test -s /root/report.html")


def test_an_upgrade_from_an_older_ledger(installed: Booted, tmp_path: Path) -> None:
    archive = subprocess.run(["git", "archive", OLDER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("the history is not here")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    shutil.copy(built(tmp_path), installed.root / "root/older.deb")
    installed.do("dpkg -P denyspam; dpkg -i /root/older.deb; denyspam setup --enforce")
    installed.ready()
    installed.do("denyspam ban 203.0.113.40 --for 1d --note 'by hand'; denyspam ban 2001:db8:5::/64 --for 2h")
    installed.offend("203.0.113.41")
    until(lambda: len(installed.banned()) == 3, "three bans")
    installed.do("sed -i 's/^relay .*/relay = 4 in 20m -> ban 3h/' /etc/denyspam/denyspam.conf")
    bans, conf = (installed.do(each) for each in ("denyspam list --json", "cat /etc/denyspam/denyspam.conf"))

    installed.do("dpkg -i /root/denyspam.deb")
    installed.ready()
    assert json.loads(installed.do("denyspam list --json")) == json.loads(bans)
    assert installed.do("cat /etc/denyspam/denyspam.conf") == conf
    assert "Relay access denied" in installed.do("denyspam why 203.0.113.41")  # the offences came along
    kernel = installed.do("nft list ruleset")
    assert all(address in kernel for address in ("203.0.113.40", "203.0.113.41", "2001:db8:5::"))
    installed.offend("203.0.113.42")
    until(lambda: "203.0.113.42" in installed.do("nft list ruleset"), "it goes on")


def newer(package: Path, to: Path, tmp_path: Path) -> None:
    """The same package with a higher version."""
    subprocess.run(["dpkg-deb", "-R", package, tmp_path / "tree"], check=True)
    control = tmp_path / "tree/DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+newer", control.read_text(), flags=re.M))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tmp_path / "tree", to], check=True)
