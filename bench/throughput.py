"""throughput: log lines a CPU second of `denyspam events --json FILE`, beside peers: `python -m bench.throughput`.

Each round runs every program once on an empty file, once on the FEW first lines and once on the whole log, one after
the other, so that all see the same machine. The least on the few is subtracted: start-up (reported by itself) and what
is compiled when a log first needs it. Output goes to a file.

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
FEWEST = 20_000  # lines of a quick run
FEW, MANY = 5_000, 200_000  # lines for the ratio: all that is compiled is compiled in the few

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


def reference(server: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "bench.reference", server, "FILE")


def run(command: Command, path: str, out: str = os.devnull) -> measure.Used:
    words = [path if word == "FILE" else word for word in command]
    return measure.child(words, stdin=None if "FILE" in command else path, out=out)


def compare(
    commands: Mapping[str, Command], server: str, lines: int, rounds: int, folder: Path, *, share: float | None = None
) -> dict[str, Any]:
    """Each program's lines a CPU second, start-up seconds, peak memory, and lines of output."""
    empty, few, path = (measure.log_file(folder, server, count, share=share) for count in (0, FEW, lines))
    idle: dict[str, list[float]] = {name: [] for name in commands}
    warm: dict[str, list[float]] = {name: [] for name in commands}
    busy: dict[str, list[measure.Used]] = {name: [] for name in commands}
    out = folder / "out"
    told: dict[str, int] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            idle[name].append(run(command, empty).cpu)
            warm[name].append(run(command, few).cpu)
            busy[name].append(run(command, path, str(out)))
            with out.open("rb") as said:
                told[name] = sum(1 for _ in said)
    return {
        name: {
            "lines_per_cpu_second": measure.spread(
                (lines - FEW) / max(used.cpu - min(warm[name]), 1e-3) for used in busy[name]
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
        commands = programs(server)
        slow = {name: commands.pop(name) for name in ("fail2ban",) if name in commands}
        found[server] = compare(commands, server, lines, rounds, folder)
        short = min(lines, SHORT)
        found[server] |= compare(slow, server, short, 1, folder)
    return found


def per_share(lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for server in SERVERS:
        found[server] = {}
        for share in SHARES:
            measure.note(f"throughput: {server}, {share:.0%} offences")
            (one,) = compare({"": (*EVENTS, "FILE")}, server, lines, rounds, folder, share=share).values()
            found[server][f"{share:.2f}"] = one["lines_per_cpu_second"]
    return found


def per_count(lines: int, rounds: int, folder: Path) -> dict[str, Any]:
    shipped = sorted(each.name for each in entry_points(group="denyspam.filters"))
    names = [*SERVERS, *(name for name in shipped if name not in SERVERS)]
    found = {}
    for count in sorted({1, 2, 4, 8, len(names)}):
        measure.note(f"throughput: {count} filters")
        chosen = [word for name in names[:count] for word in ("--filter", name)]
        (one,) = compare({"": (*EVENTS, *chosen, "FILE")}, "postfix", lines, rounds, folder).values()
        found[str(count)] = one["lines_per_cpu_second"]
    return found


def ratio(server: str, folder: Path, enough: float = float("inf"), rounds: int = 6) -> float:
    """Lines a CPU second with all filters, by the reference's in the same run.

    Each is timed on a FEW lines and on MANY, and the difference taken: start-up, and the expressions that are compiled
    when a log first needs them, are in both. From the least of each in so many rounds; from the second on, ends as
    soon as it is `enough`: one run alone of the reference, disturbed, would let any slowness pass.
    """
    few, many = (measure.log_file(folder, server, lines) for lines in (FEW, MANY))
    least: dict[tuple[Command, str], float] = {}
    commands = (reference(server), (*EVENTS, "FILE"))
    found = 0.0
    for done in range(1, rounds + 1):
        for key in ((command, path) for command in commands for path in (few, many)):
            least[key] = min(least.get(key, float("inf")), run(*key).cpu)
        theirs, ours = (max(least[command, many] - least[command, few], 1e-3) for command in commands)
        found = theirs / ours
        if found >= enough and done > 1:
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
