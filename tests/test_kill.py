"""`kill -9` at a random moment, again and again: the decisions are those of an uninterrupted run, and of replay.

The feed is 100,000 lines of postfix and sendmail, many sessions interleaved, with joins in both directions, rotated on
its way. The long form, some hundred kills in 34 runs, is `make faults`'s; DENYSPAM_KILLS sets the number of runs.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from live import PATIENCE, Live, live, stamp, until
from netns import Network

LINES = 100_000
SLOW = 5.0  # seconds
KILLS = int(os.environ.get("DENYSPAM_KILLS", "3"))
POLICY = """\
virus = 5 in 15m -> ban 30m, doubling to 4h
relay = 5 in 15m -> ban 1h
relay.slow = 12 in 2h -> ban 3h
any = 15 in 30m -> ban 2h
"""
LOG = "filters = postfix, sendmail\ntimezone = UTC\n"


def feed(seed: int, last: float) -> list[str]:
    """A mail log of 4 hours that ends at `last`."""
    chance = random.Random(seed)
    lines: list[str] = []
    while len(lines) < LINES:
        when = stamp(last - 4 * 3600 + 4 * 3600 * len(lines) / LINES)
        address = f"198.51.{chance.randrange(4)}.{chance.randrange(1, 255)}"
        number = f"{len(lines):08X}"
        match chance.randrange(8):
            case 0:
                lines.append(
                    f"{when} mx postfix/smtpd[21]: NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 "
                    "<a@b.example>: Relay access denied; from=<x@y.example> to=<a@b.example> proto=ESMTP helo=<z>"
                )
            case 1:
                lines.append(
                    f"{when} mx postfix/cleanup[22]: {number}: milter-reject: END-OF-MESSAGE from unknown[{address}]: "
                    "5.7.1 virus Eicar-Signature detected by ClamAV; from=<a@b.example> to=<u@x.example> proto=SMTP"
                )
            case 2:  # the address stands later
                queue_id = f"hA3{number}"
                lines += [f"{when} mx sendmail[23]: {queue_id}: <nobody{n}@x.example>... User unknown" for n in (1, 2)]
                lines.append(
                    f"{when} mx sendmail[23]: {queue_id}: from=<a@b.example>, size=0, class=0, nrcpts=0, proto=ESMTP, "
                    f"daemon=MTA, relay=host.example [{address}]"
                )
            case 3:  # the address stands earlier
                queue_id = f"hB3{number}"
                lines.append(
                    f"{when} mx sendmail[24]: {queue_id}: from=<a@b.example>, size=64607, class=0, nrcpts=1, "
                    f"msgid=<1@b.example>, proto=SMTP, daemon=MTA, relay=[{address}]"
                )
                lines.append(
                    f"{when} mx sendmail[24]: {queue_id}: Milter: data, reject=550 5.7.1 virus Eicar-Signature "
                    "detected by ClamAV - http://www.clamav.net/"
                )
            case _:
                lines.append(f"{when} mx postfix/smtpd[21]: connect from unknown[{address}]")
    return lines[:LINES]


Decision = tuple[str, str, float, float, int]


def decisions(daemon: Live) -> list[Decision]:
    with sqlite3.connect(daemon.folder / "state" / "ledger.db") as ledger:
        return ledger.execute("SELECT network, rule, since, until, hits FROM bans ORDER BY id").fetchall()


def active(decided: list[Decision], time: float) -> set[str]:
    """The addresses whose bans are not over at that time."""
    return {network for network, _, _, until, _ in decided if until > time}


def replayed(daemon: Live, *files: Path) -> list[Decision]:
    done = daemon.ask("replay", "--json", *map(str, files))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["address"], row["rule"], row["time"], row["until"], row["hits"]) for row in rows]


def write(daemon: Live, lines: list[str]) -> subprocess.Popen[bytes]:
    """A writer at full rate in pieces that end anywhere, with a rotation half way."""
    source = daemon.folder / "source"
    source.write_text("".join(f"{line}\n" for line in lines))
    program = (
        "import os, sys\n"
        "data, path = open(sys.argv[1], 'rb').read(), sys.argv[2]\n"
        "log = open(path, 'ab', 0)\n"
        "for at in range(0, len(data), 50_021):\n"
        "    if at >= len(data) // 2 and not os.path.exists(path + '.1'):\n"
        "        os.rename(path, path + '.1')\n"
        "        log.write(data[at:at + 33]); log.close()\n"
        "        rest = data[at + 33:at + 50_021]; cut = rest.find(b'\\n') + 1\n"
        "        old = open(path + '.1', 'ab', 0); old.write(rest[:cut]); old.close()\n"
        "        log = open(path, 'ab', 0); log.write(rest[cut:])\n"
        "    else:\n"
        "        log.write(data[at:at + 50_021])\n"
    )
    return subprocess.Popen(["python3", "-c", program, str(source), str(daemon.log)])


def read_to_the_end(daemon: Live) -> bool:
    status = daemon.ask("status", "--json")
    if status.returncode != 0:
        return False
    log = json.loads(status.stdout)["logs"][str(daemon.log)]
    return bool(log["present"] and not log["behind"] and log["size"] == log["position"])


def run(daemon: Live, lines: list[str], kills: int, chance: random.Random) -> list[Decision]:
    daemon.configure(policy=POLICY, log=LOG)
    daemon.start()
    writer = write(daemon, lines)
    for _ in range(kills):
        time.sleep(chance.uniform(0, 0.6))  # the random moment; nothing is asserted about it
        if daemon.process and daemon.process.poll() is None:
            daemon.stop(signal.SIGKILL)
        daemon.launch()
    assert writer.wait(PATIENCE) == 0
    until(lambda: read_to_the_end(daemon), "the end of the log")
    assert daemon.stop() == 0
    return decisions(daemon)


def test_killed_at_random_moments(tmp_path: Path, network: Network) -> None:
    seed = int(os.environ.get("DENYSPAM_SEED", str(random.randrange(1 << 32))))
    print(f"DENYSPAM_SEED={seed}")
    chance = random.Random(seed)
    lines = feed(seed, time.time() - 60)
    wanted: list[Decision] | None = None
    for number in range(KILLS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        with live(folder, network.server) as daemon:
            found = run(daemon, lines, 0 if number == 0 else chance.randrange(1, 6), chance)
            if wanted is None:
                wanted = found
                assert len(wanted) > 100
                plain = folder / "whole.log"
                plain.write_text("".join(f"{line}\n" for line in lines))
                assert replayed(daemon, plain) == wanted
            assert found == wanted
            before = time.time()
            held = daemon.held()
            # Some bans end while nft lists, some when the kernel began to count, a loaded machine's seconds later.
            assert active(wanted, time.time()) <= held <= active(wanted, before - SLOW)
            network.server.check("nft", "delete", "table", "inet", "denyspam")
