"""throughput: log lines a CPU second of `denyspam events --json FILE`, beside peers: `python -m bench.throughput`.

Each round runs every program once on an empty file and once on the log, one after the other, so that all see the same
machine. The least on the empty file is the start-up, reported by itself and subtracted. Output goes to a file.

    servers    each server's log, with all shipped filters and with the server's own only; the share of offences that
               came out; fail2ban-regex (its filter of the same name, aggressive, stopping at the first match) and
               sshguard's parser where installed; bench/reference.py. fail2ban gets a short log, once: it takes long
    offences   all filters, against the share of offences (0, 3, 10, 30 %)
    filters    Postfix's log against the number of filters, its own first

Peers do less: fail2ban knows one server at a time and joins no queue ids, sshguard hardly knows a mail line.
`--ratio` measures denyspam against the reference only; with `--write` that is what tests/test_bench.py expects.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from bench import measure
from bench.logs import OFFENCES

SERVERS = ("postfix", "exim", "sendmail")
LINES = 600_000
ROUNDS = 3
SHORT = 40_000  # lines for who reads fewer than 100,000 a second
SHARES = (0.0, 0.03, 0.1, 0.3)
FAIL2BAN = {"postfix": "postfix.conf", "exim": "exim.conf", "sendmail": "sendmail-reject.conf"}
EVENTS = (*measure.DENYSPAM, "events", "--json", "-c", os.devnull)
SECONDS = 0.6  # of CPU that one run for the ratio should take: enough for its noise to be small
FEWEST, MOST = 20_000, 300_000  # lines for that

EXPECTED = measure.ROOT / "bench/expected.json"

Command = Sequence[str]  # FILE in it stands for the log; without it the log is stdin


def programs(server: str) -> dict[str, Command]:
    """Everything that can be measured on this server's log."""
    found: dict[str, Command] = {
        "denyspam, all filters": (*EVENTS, "FILE"),
        "denyspam, own filter": (*EVENTS, "--filter", server, "FILE"),
        "reference": reference(server),
    }
    rules = Path("/etc/fail2ban/filter.d") / FAIL2BAN[server]
    regex = shutil.which("fail2ban-regex")
    if regex and rules.exists():
        options = ("--no-check-all", "--usedns=no", "--encoding=utf-8", "--print-no-missed", "--print-no-ignored")
        found["fail2ban"] = (regex, *options, "FILE", f"{rules}[mode=aggressive]")
    parser = measure.sshguard_parser()
    if parser:
        found["sshguard"] = (parser,)
    return found


def reference(server: str) -> Command:
    return (sys.executable, "-m", "bench.reference", server, "FILE")


def run(command: Command, path: str, out: str = os.devnull) -> measure.Used:
    words = [path if word == "FILE" else word for word in command]
    return measure.child(words, stdin=None if "FILE" in command else path, out=out)


def compare(commands: Mapping[str, Command], path: str, lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Each program's lines a CPU second, start-up seconds, peak memory, and lines of output."""
    empty = folder / "empty.log"
    empty.touch()
    idle: dict[str, list[float]] = {name: [] for name in commands}
    busy: dict[str, list[measure.Used]] = {name: [] for name in commands}
    out = folder / "out"
    told: dict[str, int] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            idle[name].append(run(command, str(empty)).cpu)
            busy[name].append(run(command, path, str(out)))
            told[name] = out.read_bytes().count(b"\n")
    return {
        name: {
            "lines_per_cpu_second": measure.spread(
                lines / max(used.cpu - min(idle[name]), 1e-3) for used in busy[name]
            ),
            "start_seconds": measure.spread(idle[name], 3),
            "peak_mb": round(max(used.peak for used in busy[name])),
            "lines_of_output": told[name],
        }
        for name in commands
    }


def per_server(lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for server in SERVERS:
        measure.note(f"throughput: {server}, {lines} lines")
        path = measure.log_file(folder, server, lines)
        commands = programs(server)
        slow = {name: commands.pop(name) for name in ("fail2ban",) if name in commands}
        found[server] = compare(commands, path, lines, rounds, folder)
        short = min(lines, SHORT)
        found[server] |= compare(slow, measure.log_file(folder, server, short), short, 1, folder)
    return found


def per_share(lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for server in SERVERS:
        found[server] = {}
        for share in SHARES:
            measure.note(f"throughput: {server}, {share:.0%} offences")
            path = measure.log_file(folder, server, lines, share=share)
            (one,) = compare({"": (*EVENTS, "FILE")}, path, lines, rounds, folder).values()
            found[server][f"{share:.2f}"] = one["lines_per_cpu_second"]
    return found


def per_count(lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    shipped = sorted(each.name for each in entry_points(group="denyspam.filters"))
    names = [*SERVERS, *(name for name in shipped if name not in SERVERS)]
    path = measure.log_file(folder, "postfix", lines)
    found = {}
    for count in sorted({1, 2, 4, 8, len(names)}):
        measure.note(f"throughput: {count} filters")
        chosen = [word for name in names[:count] for word in ("--filter", name)]
        (one,) = compare({"": (*EVENTS, *chosen, "FILE")}, path, lines, rounds, folder).values()
        found[str(count)] = one["lines_per_cpu_second"]
    return found


def ratio(server: str, folder: Path, enough: float = float("inf"), rounds: int = ROUNDS) -> float:
    """Lines a CPU second with all filters, by the reference's in the same run.

    From the least of each in so many rounds; from the second on, ends as soon as it is `enough`: one run alone of the
    reference, disturbed, would let any slowness pass. The log grows until reading it takes
    SECONDS, so that the start-up, which is subtracted, does not drown the difference.
    """
    events = (*EVENTS, "FILE")
    empty = measure.log_file(folder, server, 0)
    start, plain = (min(run(command, empty).cpu for _ in range(2)) for command in (events, reference(server)))
    lines, found, most = FEWEST, 0.0, rounds
    ours = theirs = float("inf")
    while rounds:
        path = measure.log_file(folder, server, lines)
        theirs = min(theirs, run(reference(server), path).cpu - plain)
        ours = max(min(ours, run(events, path).cpu - start), 1e-3)
        if ours < SECONDS / 2 and lines < MOST:
            lines = int(min(MOST, 1.2 * lines * SECONDS / ours))
            ours = theirs = float("inf")
            continue
        found = theirs / ours
        rounds -= 1
        if found >= enough and rounds < most - 1:
            break
    return found


def expected() -> dict[str, float]:
    """The ratios when they were last written."""
    known: dict[str, float] = json.loads(EXPECTED.read_text())
    return known


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--ratio", action="store_true", help="only against the reference, as the tests do")
    asked = parser.parse_args(arguments)
    lines, rounds = (FEWEST, 1) if asked.quick else (asked.lines, asked.rounds)
    with measure.scratch() as folder:
        if asked.ratio:
            found = {server: measure.significant(ratio(server, folder, rounds=rounds), 3) for server in SERVERS}
            print(json.dumps(found, indent=1))
            if asked.write:
                EXPECTED.write_text(json.dumps(found, indent=1) + "\n")
            return
        figures: dict[str, Any] = {
            "lines": lines,
            "rounds": rounds,
            "short": min(lines, SHORT),
            "expected_offences": {server: int(OFFENCES[server] * lines) for server in SERVERS},
            "servers": per_server(lines, rounds, folder),
        }
        less = (rounds + 1) // 2
        figures["filters"] = per_count(lines, less, folder)
        figures["offences"] = per_share(lines, less, folder)
        measure.finish("throughput", figures, write=asked.write)


if __name__ == "__main__":
    main()
