"""world: one real mail server in namespaces of its own, and the network outside it.

    with World("exim", directory) as world:
        world.connect("10.77.0.10", port=25)    # a socket from that client of the outside
        world.log()                             # the server's growing log, a plain file on the host
        world.nsenter("denyspam", "run", ...)   # an argument vector that runs inside the server's network

A world is one process: PID 1 of its own pid, mount, network, uts and ipc namespaces, waiting on a pipe from us. When
the pipe closes, be it by `stop` or because we were killed, the kernel ends every process in there and undoes every
mount; nothing is ever looked up by name. Any number of worlds run side by side with the same addresses in each:

    10.77.0.1-4, fd77::1-4         the server: .1 plain, .2 (postfix) amavis behind it, .3 (postfix) postscreen
    10.77.0.10-99, fd77::10-99     the outside: even hosts 10-78 have a PTR, odd ones none, 13 a forged one, 60 and 61
                                   are on the block list bl.example.test, 62 is refused by the server's own list,
                                   80-99 are mail servers of partner.example that never do wrong
    fd78:0:0:N::10 and ::11        the outside too (N = 1 to 4): networks in which the server has no address

What runs is Debian bookworm's, unpacked once (one to two minutes, 450 MB) under DENYSPAM_TEST_BASE, default
`denyspam-servers` in the temporary directory: base <- common <- one layer per server, since the servers' packages
exclude each other. A layer's name holds a hash of what is in it, and it appears by rename, so a half-built one is
never used. A world lays an overlay of tmpfs over them, copies `common/` and `NAME/` of this folder in, and runs
`/start` of it.

It needs root and a Debian or Ubuntu host: `missing()` says what stands in the way.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import ipaddress
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent
BASE = Path(os.environ.get("DENYSPAM_TEST_BASE") or Path(tempfile.gettempdir()) / "denyspam-servers")
SUITE = "bookworm"
PACKAGES = {
    "base": "ca-certificates iproute2",
    "common": "clamav-daemon clamav-milter dnsmasq-base libsasl2-modules procps rsyslog sasl2-bin",
    "postfix": "postfix amavisd-new",
    "exim": "exim4-daemon-heavy exim4-config",
    "sendmail": "sendmail-bin sendmail-base sendmail-cf sensible-mda",
    "package": "systemd systemd-sysv dbus python3 nftables libnftables1 rsyslog postfix",  # over base
}
SERVERS = ("postfix", "exim", "sendmail")
LOGS = {"postfix": "mail.log", "exim": "exim4/mainlog", "sendmail": "mail.log"}
TOOLS = ("unshare", "nsenter", "ip", "chroot", "mount", "dpkg-deb", "apt-get")
MONITOR = "10.77.0.99"  # asks whether the server is up, and hangs up
UMASK = 0o022  # the servers run as many users, whatever the umask of the tests is
START = 300.0  # seconds for a server to come up: it takes a few, or hangs
CLONE_NEWNET = 0x40000000

# $1 lower, $2 upper, $3 work, $4 root. The /dev is private: /dev/log must be the world's, never the host's.
MOUNT = """
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
mount -t proc proc "$4/proc"
mount -t tmpfs -o mode=755 dev "$4/dev"
mknod -m 666 "$4/dev/null" c 1 3
mknod -m 666 "$4/dev/zero" c 1 5
mknod -m 666 "$4/dev/random" c 1 8
mknod -m 666 "$4/dev/urandom" c 1 9
mknod -m 666 "$4/dev/tty" c 5 0
ln -s /proc/self/fd "$4/dev/fd"; mkdir "$4/dev/shm" "$4/dev/pts"
mount -t tmpfs tmp "$4/tmp"; chmod 1777 "$4/tmp"
mount -t tmpfs -o mode=755 run "$4/run"; mkdir "$4/run/lock"
"""
# stdout says "ready"; then PID 1 waits until our end of its stdin closes (and reaps whoever is orphaned meanwhile).
HOLD = """
mount -t tmpfs world "$2"; mkdir "$2/up" "$2/work" "$2/root"
log=$3; set -- "$1" "$2/up" "$2/work" "$2/root"
%s
mkdir -p "$4/var/log"; mount --bind "$log" "$4/var/log"
hostname mx
echo ready
cat >/dev/null
"""
INSTALL = """
%s
printf '#!/bin/sh\\nexit 101\\n' > "$4/usr/sbin/policy-rc.d"; chmod 755 "$4/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
exec chroot "$4" sh -ec '
printf "Dpkg::Use-Pty 0;\\nAPT::Install-Recommends 0;\\nAPT::Sandbox::User root;\\n" > /etc/apt/apt.conf.d/99servers
echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/servers
[ -n "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null)" ] || apt-get update
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
apt-get install -y "$@"; apt-get clean' sh $PACKAGES
"""
PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


class Unavailable(Exception):
    """This host cannot carry a world, and why."""


def missing() -> str | None:
    """What stands in the way of a world on this host, in words for a skip reason; None where nothing does."""
    if os.geteuid() != 0:
        return "real mail servers need root (chroot, mounts, namespaces)"
    if not Path("/etc/debian_version").exists():
        return "real mail servers are unpacked by debootstrap and apt: Debian or Ubuntu only"
    absent = [tool for tool in TOOLS if not shutil.which(tool)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    probe = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are not permitted here: {probe.stderr.strip()}" if probe.returncode else None


# Layers


def layers(server: str, below: tuple[str, ...] = ("base", "common")) -> list[Path]:
    """The directories that make `server`, topmost first; builds what is not there yet. Raises Unavailable."""
    BASE.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = BASE.lstat()
    if owner.st_uid != os.geteuid() or owner.st_mode & 0o22:  # root is about to run what lies there
        raise Unavailable(f"{BASE} is not ours alone: remove it, or set DENYSPAM_TEST_BASE elsewhere")
    with open(BASE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stack: list[Path] = []
        recipe = SUITE + INSTALL
        for name in (*below, server):
            recipe += PACKAGES[name]
            layer = BASE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
            if not layer.exists():
                _build(name, layer, stack)
            stack.insert(0, layer)
    return stack


def _build(name: str, layer: Path, lower: list[Path]) -> None:
    part = layer.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for folder in ("up", "work", "root"):
        (part / folder).mkdir(parents=True)
    filesystem = subprocess.run(["stat", "-f", "-c", "%T", part], capture_output=True, text=True, check=False).stdout
    if "overlay" in filesystem:
        raise Unavailable(f"{BASE} lies on an overlay, which cannot carry another: set DENYSPAM_TEST_BASE elsewhere")
    if not lower:
        command = [*_debootstrap(part), "--variant=minbase", f"--include={','.join(PACKAGES[name].split())}", SUITE]
        command += [str(part / "up"), _mirror()]
    else:
        below = ":".join(map(str, lower))
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-ec", INSTALL % MOUNT, "sh", below]
        command += [str(part / folder) for folder in ("up", "work", "root")]
    report = BASE / f"{name}.log"
    environment = {**os.environ, "PACKAGES": PACKAGES[name]}
    with open(report, "wb") as out:
        made = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=False, umask=UMASK
        )
    if made.returncode:
        last = report.read_text(errors="replace").strip().splitlines()[-3:]
        raise Unavailable(f"cannot unpack the {name} layer (see {report}): {' / '.join(last)}")
    (part / "up").rename(layer)
    shutil.rmtree(part)


def _debootstrap(scratch: Path) -> list[str]:
    """The host's debootstrap, or one unpacked beside the layer: the host itself is never changed."""
    if shutil.which("debootstrap"):
        return ["debootstrap"]
    got = subprocess.run(
        ["apt-get", "download", "debootstrap"], cwd=scratch, capture_output=True, text=True, check=False
    )
    packages = list(scratch.glob("debootstrap*.deb"))
    if not packages:
        raise Unavailable(f"no debootstrap: apt-get install debootstrap ({got.stderr.strip()[-200:]})")
    subprocess.run(["dpkg-deb", "-x", packages[0], scratch / "tool"], check=True)
    tool = scratch / "tool/usr"
    return ["env", f"DEBOOTSTRAP_DIR={tool / 'share/debootstrap'}", str(tool / "sbin/debootstrap")]


def _mirror() -> str:
    """DENYSPAM_TEST_MIRROR, else the mirror this host's apt uses for the suite."""
    if chosen := os.environ.get("DENYSPAM_TEST_MIRROR"):
        return chosen
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {SUITE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(set(asked.stdout.split()))
    if not found:
        raise Unavailable("apt names no mirror of this release: name one by DENYSPAM_TEST_MIRROR")
    return found[0]


# The outside: what the server's resolver knows of it


def zone() -> str:
    """A dnsmasq configuration: the addresses, names and the block list of the module's opening. Nothing leaves."""
    listed = [ipaddress.ip_address(text) for text in ("10.77.0.60", "10.77.0.61", "fd77::60", "fd77::61")]
    lines = [
        "no-resolv",
        "no-hosts",
        "user=root",
        "listen-address=127.0.0.1",
        "bind-interfaces",
        "local=/./",
        "auth-ttl=60",
        "host-record=mx.example.test,10.77.0.1,fd77::1",
        "mx-host=example.test,mx.example.test",
        "address=/partner.example/10.77.0.80",
        "mx-host=partner.example,mail.partner.example",
        "ptr-record=13.0.77.10.in-addr.arpa,mail80.partner.example",
    ]
    lines += [f"host-record=mail{n}.partner.example,10.77.0.{n},fd77::{n}" for n in range(80, 100)]
    lines += [f"host-record=dsl-{n}.spam.example,10.77.0.{n},fd77::{n}" for n in range(10, 79, 2)]
    for address in listed:
        name = address.reverse_pointer.replace(".in-addr.arpa", "").replace(".ip6.arpa", "") + ".bl.example.test"
        lines += [f"address=/{name}/127.0.0.2", f"txt-record={name},Listed at bl.example.test"]
    return "\n".join(lines) + "\n"


# One server


class World:
    """One server in its namespaces, up between `start` and `stop` (or as a context).

    `directory` must exist and be ours; the logs are left in `directory/log` after the stop. `settings` are environment
    variables for `/start`: the server's variants are listed at the top of each `NAME/start`.
    """

    def __init__(self, server: str, directory: Path | str, **settings: str) -> None:
        self.server = server
        self.settings = settings
        self.directory = Path(directory)
        self.logs = self.directory / "log"
        self.holder: subprocess.Popen[str] | None = None
        self.pid = 0  # of the world's PID 1, as the host counts
        self._outside = -1

    def __enter__(self) -> World:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Up and answering on port 25 when this returns. Raises Unavailable, or RuntimeError with /start's output."""
        stack = layers(self.server)
        place = self.directory / "world"
        place.mkdir()
        self.logs.mkdir()
        self.logs.chmod(0o755)
        command = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec"]
        command += [HOLD % MOUNT, "sh", ":".join(map(str, stack)), str(place), str(self.logs)]
        self.holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, umask=UMASK)
        try:
            assert self.holder.stdout
            if self.holder.stdout.readline() != "ready\n":
                raise Unavailable("cannot mount a world here (see the messages of mount above)")
            self.pid = int(Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text())
            self._connect()
            self._furnish()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process of the world and undoes its mounts. A second call is nothing."""
        if self._outside >= 0:
            os.close(self._outside)
            self._outside = -1
        if self.holder and self.holder.stdin:
            self.holder.stdin.close()
            self.holder.wait(30)
            assert self.holder.stdout
            self.holder.stdout.close()
            self.holder = None
            (self.directory / "world").rmdir()

    def _connect(self) -> None:
        """Makes the outside (a network namespace that lives as long as our descriptor of it) and the wire to it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libc("unshare", CLONE_NEWNET)
            self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _libc("setns", home, CLONE_NEWNET)
            os.close(home)
        outside = f"/proc/{os.getpid()}/fd/{self._outside}"
        hosts = "addr add 10.77.0.{0}/24 dev veth0", "addr add fd77::{0}/64 dev veth0 nodad"
        strangers = [f"addr add fd78:0:0:{net}::{host}/128 dev veth0 nodad" for net in range(1, 5) for host in (10, 11)]
        there = [f"link add veth0 type veth peer name veth0 netns {outside}", "link set lo up", "link set veth0 up"]
        there += [host.format(number) for number in range(1, 5) for host in hosts] + ["route add fd78::/32 dev veth0"]
        here = ["link set lo up", "link set veth0 up"]
        here += [host.format(number) for number in range(10, 100) for host in hosts] + strangers
        _run(self.nsenter("ip", "-batch", "-"), "\n".join(there))
        _run(["nsenter", f"--net={outside}", "ip", "-batch", "-"], "\n".join(here))

    def _furnish(self) -> None:
        root = self.root
        for source in ("common", self.server):
            copy = ["cp", "-r", "--no-preserve=mode,ownership", f"{HERE / source}/.", str(root)]
            subprocess.run(copy, check=True, umask=UMASK)
        (root / "etc/dnsmasq.conf").write_text(zone())
        settings = [f"{key}={value}" for key, value in self.settings.items()]
        inside = ["nsenter", f"--target={self.pid}", "--all", "chroot", f"{self.directory}/world/root", "env", "-i"]
        with open(self.directory / "start.log", "w+") as report:
            started = subprocess.run(
                [*inside, PATH, "HOME=/root", "LC_ALL=C", *settings, "sh", "-e", "/start"],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=report,
                stderr=report,
                umask=UMASK,
                timeout=START,
            )
            report.seek(0)
            text = report.read()
        if started.returncode or not self._answers():
            raise RuntimeError(f"{self.server} did not start:\n{text}")

    def _answers(self) -> bool:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), self.connect(MONITOR) as peer:
                if peer.recv(200).startswith(b"220"):
                    peer.sendall(b"QUIT\r\n")
                    peer.recv(200)
                    return True
            time.sleep(0.1)
        return False

    @property
    def root(self) -> Path:
        """The server's root directory, seen from the host."""
        return Path(f"/proc/{self.pid}/root{self.directory.resolve()}/world/root")

    def log(self) -> Path:
        """The server's main log, a plain file of the host."""
        return self.logs / self.settings.get("LOG", LOGS[self.server])

    def nsenter(self, *command: str) -> list[str]:
        """The argument vector that runs `command` in the server's network, and else on the host."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def connect(self, source: str, port: int = 25, host: int = 1, patience: float = 20) -> socket.socket:
        """A connection from `source` to the server's address number `host` of the same family. Raises OSError."""
        server = f"fd77::{host}" if ":" in source else f"10.77.0.{host}"
        with self.outside():
            return socket.create_connection((server, port), patience, source_address=(source, 0))

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Moves the calling thread to the clients' network for a while. A socket stays where it was made."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _libc("setns", self._outside, CLONE_NEWNET)
            yield
        finally:
            _libc("setns", home, CLONE_NEWNET)
            os.close(home)


def _libc(name: str, *arguments: int) -> None:
    """setns(2) and unshare(2) act on the calling thread; Python has them from 3.12 on only."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
