"""soak: a daemon under load for minutes or hours, with all that a host does to it: `python tests/soak.py --minutes 30`.

RATE lines a second of a made-up postfix log (bench/logs.py, 30 % of the sessions hostile, with those of forge.py among
them) are written with the stamps of now, and rotated every minute: renamed, written on for a moment, compressed one
rotation later. Meanwhile the ruleset is flushed or the table deleted every FLUSH seconds, the configuration is reloaded
every RELOAD seconds in a storm of SIGHUPs (with another comment, with a policy that no host ever reaches, for which the
logs are read again, and broken), and the control socket is filled with silent, long and senseless peers.

At the end, or it fails:
    same decisions     the ledger's are those of `denyspam replay` of the same lines, to the second
    kernel == ledger   what nft lists is what the ledger holds
    flat               memory is never above LARGEST, and from LONG on that of the last third not above that of the
                       middle one by more than GROWTH
    nothing leaked     descriptors and threads are as many as a minute after the start
    nothing crashed    one process, no traceback

Bans are short and the window too, so that what is remembered stops growing within the first third.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import forge
import live as lives
from live import Live, live, until
from netns import Network

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.logs import Log

RATE = 5000  # lines a second
PIECE = 0.02  # seconds between two writes
FORGED = 100  # one of so many lines is
FLUSH, RELOAD, SAMPLE, TELL = 20.0, 45.0, 5.0, 60.0  # seconds
PATIENCE = 600.0  # seconds; a loaded machine's backlog
GROWTH, LONG = 1.10, 600.0  # shorter, the queue ids of the last 32 MB of log are still being collected
LARGEST = 200 << 10  # KiB
POLICY = """\
virus = 3 in 2m -> ban 2m
relay = 5 in 2m -> ban 3m, doubling to 6m
reject = 10 in 2m -> ban 2m
auth = 5 in 2m -> ban 2m
any = 15 in 3m -> ban 4m
"""
NEVER = "virus.never = 10000 in 2m -> ban 1m\n"
Decision = tuple[str, str, float, float, int]


def texts(seed: int) -> Iterator[str]:
    """Lines without their stamps, for ever: what follows the host's name."""
    chance = Random(seed)
    for part in range(1_000_000):
        for block in Log("postfix", 500_000, seed=seed + part, hostile=0.3, stamp="rfc3339").blocks():
            for line in block.decode().splitlines():
                yield line.split(" ", 2)[2]
                if chance.randrange(FORGED) == 0:
                    for forged in forge.postfix(chance, chance.getrandbits(32)).lines:
                        yield forged.split(" ", 2)[2]


class Writer(threading.Thread):
    """The mail server, and logrotate."""

    def __init__(self, log: Path, rotation: float, seed: int) -> None:
        super().__init__()
        self.log, self.rotation = log, rotation
        self.count = 0
        self.rotated: list[Path] = []  # in their order
        self.error: BaseException | None = None
        self._texts = texts(seed)
        self._over = threading.Event()
        self._compressing: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:  # told by finish(), in the main thread
            self.error = error

    def _run(self) -> None:
        began = due = time.monotonic()
        file = self.log.open("ab", buffering=0)
        turn = began + self.rotation
        while not self._over.is_set():
            file.write(self._piece(int(RATE * PIECE)))
            if time.monotonic() > turn:
                turn += self.rotation
                old = self.log.with_name(f"{self.log.name}-{time.time():.0f}")
                self.log.rename(old)
                file.write(self._piece(50))
                file.close()
                file = self.log.open("ab", buffering=0)
                self._compress()
                self.rotated.append(old)
            due += PIECE
            self._over.wait(max(0.0, due - time.monotonic()))
        file.close()

    def _piece(self, count: int) -> bytes:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00 mx ", time.gmtime())
        self.count += count
        return "".join([f"{stamp}{next(self._texts)}\n" for _ in range(count)]).encode("utf-8", "surrogateescape")

    def _compress(self) -> None:
        """The one before the last, as `delaycompress` does."""
        if self._compressing is not None:
            self._compressing.wait()
        if self.rotated:
            self._compressing = subprocess.Popen(["nice", "gzip", "-1", str(self.rotated[-1])])
            self.rotated[-1] = Path(f"{self.rotated[-1]}.gz")

    def finish(self) -> None:
        self._over.set()
        self.join()
        if self._compressing is not None:
            self._compressing.wait()
        if self.error is not None:
            raise self.error

    def whole(self) -> Iterator[bytes]:
        """All that was written, in pieces."""
        for path in (*self.rotated, self.log):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                while data := file.read(1 << 20):
                    yield data


@dataclass
class Sample:
    """What the daemon costs at a time."""

    seconds: float  # since the start
    resident: int  # KiB
    descriptors: int
    threads: int
    cpu: float  # seconds

    def __str__(self) -> str:
        return (
            f"{self.seconds:7.0f} s  {self.resident / 1024:6.1f} MB  {self.descriptors:3d} descriptors  "
            f"{self.threads:2d} threads  {self.cpu:7.1f} CPU s"
        )


@dataclass
class Outcome:
    """What a soak found."""

    lines: int = 0
    decisions: int = 0
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def print(self) -> None:
        every = max(1, len(self.samples) // 20)
        for one in (*self.samples[::every], self.samples[-1]):
            print(one)
        print(f"{self.lines} lines, {self.decisions} decisions")
        print("\n".join(self.faults) or "no fault")


def sample(pid: int, began: float) -> Sample:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    times = (process / "stat").read_text().rpartition(")")[2].split()
    return Sample(
        time.monotonic() - began,
        int(status["VmRSS"].split()[0]),
        len(os.listdir(process / "fd")),
        int(status["Threads"]),
        (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
    )


def bother(path: Path, chance: Random) -> None:
    """A hostile client of the control socket, for as long as it likes."""
    peers: list[socket.socket] = []
    for _ in range(chance.randrange(1, 100)):
        with suppress(OSError):
            peer = socket.socket(socket.AF_UNIX)
            peers.append(peer)
            peer.settimeout(0.2)
            peer.connect(str(path))
            said = (b"", b'{"command": "list"}\n', b"[" * 100_000 + b"\n", chance.randbytes(200_000), b'{"command": ')
            peer.sendall(said[chance.randrange(5)])
    time.sleep(chance.random())
    for peer in peers:
        peer.close()


def decided(daemon: Live) -> list[Decision]:
    with closing(sqlite3.connect(daemon.folder / "state" / "ledger.db")) as ledger:
        return ledger.execute("SELECT network, rule, since, until, hits FROM bans ORDER BY id").fetchall()


def replayed(daemon: Live, writer: Writer) -> list[Decision]:
    """Of one stream: that the same line may stand in two logs is nothing that a single log knows."""
    command = [*daemon.command("replay", "--json", "-")]
    with tempfile.TemporaryFile() as answer:
        replay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer)
        assert replay.stdin
        for data in writer.whole():
            replay.stdin.write(data)
        replay.stdin.close()
        assert replay.wait(3600) == 0
        answer.seek(0)
        rows = [json.loads(line) for line in answer]
    return [(row["address"], row["rule"], row["time"], row["until"], row["hits"]) for row in rows]


def difference(found: list[Decision], wanted: list[Decision]) -> str:
    """ "" where they are equal."""
    if found == wanted:
        return ""
    more, fewer = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    return f"{len(found)} decisions instead of {len(wanted)}; too many {more[:3]}, missing {fewer[:3]}"


def reloaded(good: str, number: int) -> str:
    """The configuration of the n-th reload: the same, the same, another, none."""
    return (f"{good}# {number}\n", f"{good}# {number}\n", f"{good}{NEVER}", "[daemon")[number % 4]


def soak(  # noqa: PLR0917
    folder: Path, network: Network, seconds: float, rotation: float, seed: int = 1, every: float | None = None
) -> Outcome:
    """The whole of it; see the module's docstring. `every`: seconds between two reloads; by itself six at least."""
    outcome, chance = Outcome(), Random(seed)
    every = min(RELOAD, seconds / 6) if every is None else every
    with live(folder, network.server) as daemon:
        daemon.configure(policy=POLICY)
        good = daemon.conf.read_text()
        writer = Writer(daemon.log, rotation, seed)
        daemon.log.touch()
        daemon.start()
        pid = int(daemon.status()["pid"])
        assert daemon.process
        began = time.monotonic()
        writer.start()
        flush, reload, take = began + FLUSH / 2, began + every, began + SAMPLE
        tell = began + TELL
        reloads = 0
        while (now := time.monotonic()) < began + seconds and daemon.process.poll() is None:
            if now > flush:
                flush = now + min(FLUSH, seconds / 6)
                harm = chance.choice(("flush ruleset", "delete table inet denyspam", "flush table inet denyspam"))
                subprocess.run([*network.server.prefix, "nft", harm], check=False, capture_output=True)
                threading.Thread(target=bother, args=(folder / "sock", Random(reloads))).start()
            if now > reload:
                reload = now + every
                reloads += 1
                daemon.conf.write_text(reloaded(good, reloads))
                for _ in range(100):
                    daemon.process.send_signal(signal.SIGHUP)
            if now > take:
                take = now + SAMPLE
                outcome.samples.append(sample(pid, began))
            if now > tell:
                tell = now + TELL
                print(f"{outcome.samples[-1]}  {writer.count} lines  {daemon.status()['bans']} bans", flush=True)
            time.sleep(0.05)
        writer.finish()
        daemon.conf.write_text(good)
        outcome.lines = writer.count
        _judge(daemon, writer, outcome, began, pid)
    return outcome


def _judge(daemon: Live, writer: Writer, outcome: Outcome, began: float, pid: int) -> None:
    faults = outcome.faults
    assert daemon.process
    if daemon.process.poll() is not None:
        faults.append(f"it ended with {daemon.process.returncode}: {daemon.errors.read_text()[-2000:]}")
        return

    def read() -> bool:
        status = daemon.status()
        (log,) = status["logs"].values()
        firewall = status["firewall"]
        done = not log["lag_bytes"] and not log["behind"] and not status["pending"]
        return bool(status["ready"] and done and not firewall["waiting"] and firewall["fault"] is None)

    until(read, "the end of the log")
    time.sleep(12)  # a rotated file is let go of after ten seconds, silent peers too
    outcome.samples.append(sample(pid, began))
    if daemon.status()["pid"] != pid or "Traceback" in daemon.errors.read_text():
        faults.append("it crashed")

    def same() -> bool:
        held = daemon.held()
        with closing(sqlite3.connect(daemon.folder / "state" / "ledger.db")) as ledger:
            rows = ledger.execute("SELECT network FROM bans WHERE ended IS NULL").fetchall()
        return held == {name.partition("/")[0] for (name,) in rows}

    try:
        until(same, "the kernel holds what the ledger says")
    except AssertionError as error:
        faults.append(str(error))
    faults += _judge_samples(outcome.samples)
    if daemon.stop() != 0:
        faults.append("it did not stop with 0")
    found = decided(daemon)
    outcome.decisions = len(found)
    wrong = difference(found, replayed(daemon, writer))
    faults += [wrong] if wrong else []


def _judge_samples(samples: list[Sample]) -> list[str]:
    faults = []
    third = len(samples) // 3
    middle = statistics.median(one.resident for one in samples[third : 2 * third])
    last = statistics.median(one.resident for one in samples[2 * third :])
    most = max(one.resident for one in samples)
    if most > LARGEST:
        faults.append(f"memory was at {most / 1024:.1f} MB")
    if samples[-1].seconds > LONG and last > GROWTH * middle:
        faults.append(f"memory grows: {middle / 1024:.1f} MB in the middle third, {last / 1024:.1f} in the last")
    first, end = samples[min(2, third)], samples[-1]
    if end.descriptors > first.descriptors + 3 or end.threads > first.threads:
        faults.append(f"descriptors {first.descriptors} -> {end.descriptors}, threads {first.threads} -> {end.threads}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reload", type=float, default=RELOAD, help="seconds between two reloads (%(default).0f)")
    parser.add_argument("--keep", action="store_true", help="do not remove the folder of logs at the end")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="denyspam-soak-"))
    lives.PATIENCE = PATIENCE
    with Network(ports=()) as network:
        outcome = soak(folder, network, asked.minutes * 60, min(60.0, asked.minutes * 6), asked.seed, asked.reload)
    outcome.print()
    said = (folder / "stderr").read_text()
    print(f"{said.count(': ready:') - 1} reloads, {said.count(chr(10))} lines of its own log")
    if asked.keep:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    sys.exit(bool(outcome.faults))


if __name__ == "__main__":
    main()
