"""firewall: from a log line to the kernel, a flood, a lost table, a restart; memory; what a connect costs. Needs root.

All in private network namespaces with a real kernel; the host's firewall is not touched. When an element is in the
kernel is told by the kernel itself (bench/witness.py).

    latency    the deciding line is written; until its address is in the set: single bans, one after the other
    burst      three lines each of many offenders, written at once; until the last of them is in the set: also IPv6
    restored   100,000 bans by hand; somebody deletes the table; until the last one is back
    restart    the daemon is stopped and started over them; until `status` would exit 0; what it added meanwhile
    memory     the daemon's resident memory at 0, 10,000, 100,000 bans (--long: 1,000,000), its own, after a pause
    idle       seconds from the launch to ready with an empty ledger, and percent of a core while nothing is written
    connect    a TCP connect of a banned client (refused) and of an innocent one, at 1 and at 100,000 bans

fail2ban (nftables action, its postfix filter) and sshguard (nft-sets) get the same lines for latency and a burst of
2,000, where installed. The lines are Postfix's failed logins, which all three know; three of them ban.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import live
from netns import CLIENTS4, SERVER4, Network

from bench import measure
from bench.witness import Witness, until
from denyspam import control

HITS = 3
POLICY = f"auth = {HITS} in 15m -> ban 1h\n"
PATIENCE = 300.0  # seconds
IDLE = 3.0  # seconds before memory is read
FIRST4, FIRST6 = IPv4Address("11.0.0.1"), IPv6Address("2001:db8:8000::1")


def line(address: str) -> str:
    now = time.strftime("%b %e %H:%M:%S")
    return (
        f"{now} mx postfix/smtpd[2034]: warning: unknown[{address}]: SASL LOGIN authentication failed: "
        "authentication failure, sasl_username=info\n"
    )


def addresses(count: int, first: int = 0) -> list[str]:
    """Not neighbours: sshguard's set of intervals would merge them."""
    return [str(FIRST4 + 3 * (first + number)) for number in range(count)]


def networks(count: int) -> list[str]:
    """Hosts, each in a /64 of its own."""
    return [str(FIRST6 + (number << 64)) for number in range(count)]


def keys(hosts: Iterable[str]) -> list[bytes]:
    """As elements: IPv6 by /64."""
    packed = (ip_address(host).packed for host in hosts)
    return [key if len(key) == 4 else key[:8] + bytes(8) for key in packed]


class Watched:
    """A program under test in a namespace of its own: the log that it reads, and the witness of its bans."""

    def __init__(self, log: Path, witness: Witness) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self.witness = witness
        self.started = 0.0  # seconds it took until it was ready
        self.cpu: Callable[[], float] | None = None  # seconds of CPU that it has used

    def write(self, text: str) -> float:
        """Appends; the time just before."""
        begun = time.monotonic()
        data = text.encode()
        while data:
            data = data[os.write(self._log, data) :]
        return begun

    def latency(self, count: int, first: int = 1_000_000) -> dict[str, Any]:
        """Milliseconds from the deciding line to the kernel, for single bans."""
        found = []
        for address in addresses(count, first):
            self.write(line(address) * (HITS - 1))
            time.sleep(0.1)  # so that it is the last line that is waited for
            begun = self.write(line(address))
            end = self.witness.wait(keys([address]), 20, quiet=0)
            if end is not None:
                found.append((end - begun) * 1000)
        if not found:
            return {"bans": 0, "missed": count}
        return {
            "bans": len(found),
            "missed": count - len(found),
            "median_ms": measure.significant(measure.percentile(found, 0.5), 3),
            "p99_ms": measure.significant(measure.percentile(found, 0.99), 3),
            "max_ms": measure.significant(max(found), 3),
        }

    def burst(self, hosts: Sequence[str], patience: float = PATIENCE) -> dict[str, Any]:
        """Seconds from the write of all lines, mixed, to the last element."""
        self.witness.forget()
        text = "".join(line(address) for _ in range(HITS) for address in hosts)
        before = self.cpu() if self.cpu else 0.0
        begun = self.write(text)
        end = self.witness.wait(keys(hosts), patience)
        used = {"cpu_seconds": measure.significant(self.cpu() - before, 3)} if self.cpu else {}
        self.witness.look()
        came = len(self.witness.present.keys() & set(keys(hosts)))
        if end is None:
            return {"hosts": len(hosts), "came": came, "gave_up_after_s": patience}
        return {
            "hosts": len(hosts),
            "came": came,
            "seconds": measure.significant(end - begun, 3),
            "bans_per_second": round(len(hosts) / (end - begun)),
            **used,
        }


# --- denyspam ---------------------------------------------------------------------------------------------------------


@contextmanager
def denyspam(folder: Path, network: Network) -> Iterator[tuple[live.Live, Watched]]:
    """With all filters, as `setup` configures it where it does not know the server."""
    folder.mkdir()
    with live.live(folder, network.server) as made, Witness(network.server) as witness:
        made.log.touch()
        made.configure(POLICY, log="filters = auto\n")
        watched = Watched(made.log, witness)
        begun = time.monotonic()
        made.launch()
        end = until(lambda: ready(made), PATIENCE, 0.005)
        assert end, made.errors.read_text()
        watched.started = end - begun
        watched.cpu = lambda: cpu(made)
        yield made, watched
        made.stop()


def resident(made: live.Live) -> float:
    """MB of the daemon and its children."""
    assert made.process
    time.sleep(IDLE)
    total = 0
    waiting = [made.process.pid]
    while waiting:
        pid = waiting.pop()
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.split("VmRSS:")[1].split()[0])
        waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return round(total / 1024, 1)


def cpu(made: live.Live) -> float:
    """Seconds of CPU that the daemon has used, all its threads; in steps of 10 ms."""
    assert made.process
    fields = Path(f"/proc/{made.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(made: live.Live, seconds: float) -> float:
    """Percent of a core that the daemon takes while nothing is written, all its threads together."""
    assert made.process

    def nanoseconds() -> int:
        tasks = Path(f"/proc/{made.process.pid}/task").iterdir() if made.process else ()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    before = nanoseconds()
    time.sleep(seconds)
    return measure.significant((nanoseconds() - before) / 1e7 / seconds, 2)


def ban(made: live.Live, watched: Watched, hosts: Sequence[str]) -> float:
    """Bans by hand, in requests of 100,000; seconds until the last element is in the kernel."""
    begun = time.monotonic()
    for at in range(0, len(hosts), 100_000):
        part = hosts[at : at + 100_000]
        request = {"command": "ban", "addresses": part, "seconds": 86_400, "note": ""}
        answer = control.ask(str(made.folder / "sock"), request, PATIENCE)
        assert "error" not in answer, answer
    end = watched.witness.wait(keys(hosts), PATIENCE)
    assert end, "the bans did not come into the kernel"
    return end - begun


def ready(made: live.Live) -> bool:
    """Whether `denyspam status` would exit 0; without its start-up."""
    with suppress(control.Unreachable):
        answer = control.ask(str(made.folder / "sock"), {"command": "status"})
        return bool(answer.get("ok", {}).get("ready"))
    return False


def connects(network: Network, source: str, count: int) -> dict[str, Any]:
    """Microseconds of a connect from the client's address, and how many were refused."""

    def inside() -> tuple[list[float], int]:
        took, refused = [], 0
        for _ in range(count):
            with socket.socket() as peer:
                peer.bind((source, 0))
                peer.settimeout(5)
                begun = time.perf_counter()
                try:
                    peer.connect((SERVER4, 25))
                except ConnectionRefusedError:
                    refused += 1
                took.append((time.perf_counter() - begun) * 1e6)
        return took, refused

    took, refused = network.client.run(inside)
    return {
        "median_us": round(measure.percentile(took, 0.5)),
        "p99_us": round(measure.percentile(took, 0.99)),
        "refused": refused / count,
    }


def both(network: Network, count: int) -> dict[str, Any]:
    return {"banned": connects(network, CLIENTS4[0], count), "innocent": connects(network, CLIENTS4[1], count)}


def bursts(folder: Path, singles: int, flood: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with Network(ports=()) as network, denyspam(folder / "latency", network) as (_, watched):
        measure.note(f"firewall: {singles} single bans")
        found["latency"] = watched.latency(singles)
    floods = (("burst_2000", addresses(flood // 10)), ("burst", addresses(flood)), ("burst_ipv6", networks(flood)))
    for name, hosts in floods:
        with Network(ports=()) as network, denyspam(folder / name, network) as (_, watched):
            measure.note(f"firewall: {len(hosts)} offenders at once, {name}")
            found[name] = watched.burst(hosts)
    return found


def bulk(folder: Path, sizes: Sequence[int], many: int, count: int) -> dict[str, Any]:
    """Memory, connects, the lost table and the restart, with more and more bans."""
    memory: dict[str, float] = {}
    connect: dict[str, Any] = {}
    found: dict[str, Any] = {"memory_mb": memory, "connect": connect}
    with Network() as network, denyspam(folder / "bulk", network) as (made, watched):
        memory["0"] = resident(made)
        found["start_seconds"] = measure.significant(watched.started, 3)
        found["start_cpu_seconds"] = measure.significant(cpu(made), 3)
        found["idle_percent"] = idle(made, 2.0 if many < 10_000 else 20.0)
        ban(made, watched, CLIENTS4[:1])
        connect["1"] = both(network, count)
        before = 0
        for size in sizes:
            measure.note(f"firewall: {size} bans")
            took = ban(made, watched, addresses(size - before, before))
            found[f"by_hand_{size}"] = {
                "added": size - before,
                "seconds": measure.significant(took, 3),
                "bans_per_second": round((size - before) / took),
            }
            before = size
            memory[str(size)] = resident(made)
            if size != many:
                continue
            connect[str(many)] = both(network, count)
            hosts = keys([CLIENTS4[0], *addresses(many)])
            found["restored"] = restored(network, watched, hosts)
            found["restart"] = restart(made, watched, hosts)
            memory[f"{size} after a restart"] = resident(made)
    return found


def restored(network: Network, watched: Watched, hosts: Sequence[bytes]) -> dict[str, Any]:
    measure.note("firewall: the table is deleted")
    assert watched.cpu
    before = watched.cpu()
    watched.witness.forget()
    network.server.check("nft", "delete", "table", "inet", "denyspam")
    end = watched.witness.wait(hosts, PATIENCE)
    if end is None:
        return {"bans": len(hosts), "gave_up_after_s": PATIENCE}
    return {
        "bans": len(hosts),
        "seconds": measure.significant(end - watched.witness.deleted, 3),
        "cpu_seconds": measure.significant(watched.cpu() - before, 3),
    }


def restart(made: live.Live, watched: Watched, hosts: Sequence[bytes]) -> dict[str, Any]:
    measure.note("firewall: restart")
    time.sleep(IDLE)
    begun = time.monotonic()
    made.stop()
    stopped = time.monotonic()
    watched.witness.forget()
    made.launch()
    end = until(lambda: ready(made), PATIENCE, 0.005)
    assert end, made.errors.read_text()
    used = cpu(made)
    time.sleep(1)
    watched.witness.look()
    answer = control.ask(str(made.folder / "sock"), {"command": "status"})["ok"]
    return {
        "bans": answer["active"],
        "stop_seconds": measure.significant(stopped - begun, 3),
        "ready_seconds": measure.significant(end - stopped, 3),
        "ready_cpu_seconds": measure.significant(used, 3),
        "added_again": len(watched.witness.present),
        "expected": len(hosts),
    }


# --- peers ------------------------------------------------------------------------------------------------------------


@contextmanager
def running(network: Network, command: Sequence[str], said: Path) -> Iterator[subprocess.Popen[Any]]:
    """A peer in the namespace, in a process group of its own, which ends with the block."""
    with said.open("wb") as sink:
        process = network.server.popen(
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def peer(folder: Path, begin: Callable[[Path, Path], Sequence[str]], singles: int, flood: int) -> dict[str, Any]:
    """Latency and burst of a peer, each in a network of its own."""
    found: dict[str, Any] = {}
    for name in ("latency", "burst"):
        place = folder / name
        place.mkdir(parents=True)
        log = place / "mail.log"
        log.touch()
        with Network(ports=()) as network, Witness(network.server) as witness:
            watched = Watched(log, witness)
            with running(network, begin(place, log), place / "said"):
                # It is ready when it bans; the first may take its start-up, and is not counted.
                for number in range(60):
                    for address in addresses(1, 3_000_000 + number):
                        watched.write(line(address) * (HITS + 1))
                    if witness.wait(keys([address]), 1, quiet=0):
                        break
                else:
                    return {"fault": "it banned nobody", "said": (place / "said").read_text()[-1000:]}
                if name == "latency":
                    found[name] = watched.latency(singles)
                else:
                    time.sleep(1)
                    found[name] = watched.burst(addresses(flood), 180)
    return found


def fail2ban(place: Path, log: Path) -> Sequence[str]:
    """A server of its own: its distribution's filters and actions, one jail."""
    conf = place / "conf"
    shutil.copytree("/etc/fail2ban", conf)
    for old in ("jail.d", "jail.local", "fail2ban.local"):
        path = conf / old
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (conf / "fail2ban.local").write_text(
        f"[Definition]\nsocket = {place}/sock\npidfile = {place}/pid\ndbfile = {place}/db\n"
        f"logtarget = {place}/fail2ban.log\n"
    )
    (conf / "jail.local").write_text(
        "[DEFAULT]\nbanaction = nftables\nbackend = auto\nallowipv6 = auto\n\n[postfix]\nenabled = true\nport = smtp\n"
        f"mode = aggressive\nlogpath = {log}\nmaxretry = {HITS}\nfindtime = 15m\nbantime = 1h\nusedns = no\n"
    )
    return ["fail2ban-server", "-c", str(conf), "-s", str(place / "sock"), "-p", str(place / "pid"), "-f", "start"]


def sshguard(place: Path, log: Path) -> Sequence[str]:
    """Its pipeline, as its own script builds it: log, parser, blocker, firewall. An offence counts 10."""
    parser = measure.sshguard_parser() or ""
    home = Path(parser).parent
    blocker = f"{home}/sshg-blocker -a {HITS * 10} -p 3600 -s 900 -N 64 -n 32"
    script = f"{home}/sshg-logtail {log} | {parser} | {blocker} | {home}/sshg-fw-nft-sets"
    return ["sh", "-c", script]


PEERS: dict[str, tuple[str | None, Callable[[Path, Path], Sequence[str]]]] = {
    "fail2ban": (shutil.which("fail2ban-server"), fail2ban),
    "sshguard": (measure.sshguard_parser(), sshguard),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--long", action="store_true", help="also 1,000,000 bans: some minutes and much memory")
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("this needs root: it makes network namespaces and listens in them")
    quick = asked.quick
    singles, flood, many, count = (10, 500, 2_000, 200) if quick else (200, 20_000, 100_000, 2_000)
    sizes = [many // 10, many, *([1_000_000] if asked.long else [])]
    os.environ["TZ"] = "UTC"
    time.tzset()
    with measure.scratch() as folder:
        figures: dict[str, Any] = {**bursts(folder, singles, flood), **bulk(folder, sizes, many, count)}
        for name, (found, begin) in PEERS.items():
            if found is None or asked.no_peers:
                figures[name] = None
                measure.note(f"firewall: {name}: {'left out' if found else 'not installed'}")
                continue
            measure.note(f"firewall: {name}")
            figures[name] = peer(folder / name, begin, 5 if quick else 30, 50 if quick else 2_000)
    measure.finish("firewall", figures, write=asked.write)


if __name__ == "__main__":
    main()
