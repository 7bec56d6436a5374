"""score: what the shipped filters find in labelled lines. `make score`.

Reads a corpus of labelled lines where there is one (DENYSPAM_CORPUS, by default ../shared/corpus/corpus_dev.jsonl: it
belongs to others and is no part of the project), and the project's own captures of real servers. Prints, per server and
kind: offences, found with the right address, of the right kind, wrong addresses; and false alarms. `-v` lists what
went wrong.

A line of the corpus is JSON: `mta`, `line`, `event`, `ip`, `hostile`, and optionally `group` and `seq` (the order in
one log), `doubt` (left out), `ctx_ip` (the address that the session's other lines give).
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import timezone
from functools import cache
from pathlib import Path
from typing import Any

from denyspam.events import HARMLESS, Event
from denyspam.filter import Filter, canonical
from denyspam.join import Join
from denyspam.plugins import Filters
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

HERE = Path(__file__).parent
CORPUS = Path(os.environ.get("DENYSPAM_CORPUS", HERE.parent.parent / "shared" / "corpus" / "corpus_dev.jsonl"))
NOW = 1_800_000_000.0
KINDS = {"auth_fail": "auth", "relay": "relay", "virus": "virus", "spam": "spam", "protocol": "protocol"}


@cache
def shipped() -> list[Filter]:
    return Filters("/nonexistent/denyspam.conf").named([])


def events(lines: Iterable[bytes], file: str) -> dict[int, list[Event]]:
    """Line number -> the events of a log."""
    scanner = Scanner(shipped(), file, Stamps(timezone.utc))
    join = Join()
    data = b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines)
    found = [event for one in scanner.feed(data, 0, 1, NOW) for event in join.feed(one, one.offset)]
    by_line: dict[int, list[Event]] = defaultdict(list)
    for event in [*found, *join.flush()]:
        by_line[event.number].append(event)
    return by_line


def judge(row: dict[str, Any], found: list[Event]) -> Iterator[str]:
    """The marks that one labelled line gets."""
    offences = [event for event in found if event.kind not in HARMLESS]
    truth = {canonical(ip.encode()) for ip in (row["ip"], row.get("ctx_ip")) if ip}
    if any(event.address is not None and event.address not in truth for event in offences) and truth:
        yield "wrong"
    if row.get("doubt"):
        return
    if not row["hostile"]:
        if offences:
            yield "alarm"
        return
    if not truth:
        return
    yield "offence"
    right = [event for event in offences if event.address in truth]
    if right:
        yield "found"
        wanted = KINDS.get(row["event"], "reject")
        yield "kind" if any(event.kind == wanted for event in right) else "otherwise"
    else:
        yield "missed"


def corpus(rows: list[dict[str, Any]], verbose: bool) -> None:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[f"{row['mta']} {row.get('group') or number}"].append(row)
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, group in groups.items():
        group.sort(key=lambda row: row.get("seq") or 0)
        by_line = events((row["line"].encode("utf-8", "surrogateescape") for row in group), name)
        for number, row in enumerate(group, 1):
            for mark in judge(row, by_line[number]):
                table[row["mta"], KINDS.get(row["event"], row["event"])][mark] += 1
                if verbose and mark in ("missed", "wrong", "alarm", "otherwise"):
                    said = [(event.kind, event.address, event.filter) for event in by_line[number]]
                    print(f"{mark} {row['mta']} {row['event']} {row['ip']} {said}\n    {row['line'][:300]!r}")
    marks = ("offence", "found", "kind", "wrong", "alarm")
    print(f"{'server':13}{'event':18}" + "".join(f"{mark:>9}" for mark in marks))
    total: Counter[str] = Counter()
    for (mta, event), count in sorted(table.items()):
        total += count
        print(f"{mta:13}{event:18}" + "".join(f"{count[mark]:9}" for mark in marks))
    print(f"{'all':31}" + "".join(f"{total[mark]:9}" for mark in marks))
    print(f"found with the right address: {100 * total['found'] / max(1, total['offence']):.1f} %")


def captures() -> None:
    """The project's own logs of real servers, against what the attacking clients saw."""
    print(f"\n{'capture':31}" + "".join(f"{mark:>9}" for mark in ("offence", "found", "kind", "innocent")))
    for path in sorted((HERE / "captures").glob("*.labels.json")):
        name = path.name.removesuffix(".labels.json")
        deeds = json.loads(path.read_text())["deeds"]
        lines = path.with_name(f"{name}.log").read_bytes().split(b"\n")
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        for found in events(lines, name).values():
            for event in found:
                if event.kind not in HARMLESS:
                    seen[event.address or "?"][event.kind] += 1
        done = {deed["address"]: Counter(deed["offences"]) for deed in deeds if deed["offences"]}
        found_all = sum(min(kinds.total(), seen[address].total()) for address, kinds in done.items())
        found_kind = sum((kinds & seen[address]).total() for address, kinds in done.items())
        innocent = sum(kinds.total() for address, kinds in seen.items() if address not in done)
        print(f"{name:31}{sum(kinds.total() for kinds in done.values()):9}{found_all:9}{found_kind:9}{innocent:9}")


def main() -> None:
    verbose = "-v" in sys.argv[1:]
    if CORPUS.exists():
        print(f"{CORPUS.name}: lines labelled by others")
        corpus([json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()], verbose)
    else:
        print("no corpus of labelled lines here (DENYSPAM_CORPUS names one)")
    captures()


if __name__ == "__main__":
    main()
