"""agree: the fast path against the simple one, over made-up logs: `python tests/agree.py LINES [SEED]`.

A third of the lines each for Postfix, exim and sendmail (bench/logs.py), through all shipped filters: once by needles,
tree and hints, once line by line, one pattern after the other, with every client line read. Exits with 1 where an event
differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timezone
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.logs import Log  # noqa: E402
from denyspam.events import HARMLESS, Event, Finding  # noqa: E402
from denyspam.filter import Filter, Reader  # noqa: E402
from denyspam.grammar import parse_filter  # noqa: E402
from denyspam.join import Join  # noqa: E402
from denyspam.pattern import IGNORE  # noqa: E402
from denyspam.scan import Scanner  # noqa: E402
from denyspam.stamp import Stamps  # noqa: E402


class Simple:
    """What the fast path must agree with."""

    def __init__(self, filters: list[Filter]) -> None:
        self._reader = Reader(filters, Stamps(timezone.utc))
        self._join = Join()

    def feed(self, block: bytes, offset: int, number: int, now: float) -> Iterator[Event]:
        for place, line in enumerate(block.split(b"\n")[:-1]):
            said = self._reader.read(line, now)
            if said is not None and said.pattern.kind != IGNORE:
                found = said.filter.name, said.queue_id, said.user, "log", offset, number + place, line
                finding = Finding(said.time, said.pattern.kind, said.address, *found, said.host, said.count)
                yield from self._join.feed(finding, offset)
            offset += len(line) + 1

    def flush(self) -> list[Event]:
        return self._join.flush()


class Fast:
    """As `denyspam events` and the daemon read."""

    def __init__(self, filters: list[Filter]) -> None:
        self._join = Join()
        self._scanner = Scanner(filters, "log", Stamps(timezone.utc), self._join.hints)

    def feed(self, block: bytes, offset: int, number: int, now: float) -> Iterator[Event]:
        for finding in self._scanner.feed(block, offset, number, now):
            yield from self._join.feed(finding, finding.offset)

    def flush(self) -> list[Event]:
        return self._join.flush()


def compare(server: str, lines: int, seed: int) -> tuple[int, list[str]]:
    """(the events of a log, the first places where the two paths differ)."""
    filters = [
        parse_filter(path.read_text(encoding="utf-8"), path.name) for path in (ROOT / "filters").glob("*.filter")
    ]
    filters.sort(key=lambda found: found.name)
    log, simple, fast = Log(server, lines, seed=seed), Simple(filters), Fast(filters)
    count, offset, number = 0, 0, 1
    apart: list[str] = []
    blocks = log.blocks()
    while len(apart) < 5:
        block = next(blocks, None)
        if block is None:
            one, two = simple.flush(), fast.flush()
        else:
            one, two = (list(path.feed(block, offset, number, log.until)) for path in (simple, fast))
            offset, number = offset + len(block), number + block.count(b"\n")
        one = [event for event in one if event.kind not in HARMLESS]
        if one != two:
            apart += [f"{a}\n  {b}" for a, b in zip(one, two, strict=False) if a != b][:1] or [
                f"{len(one)}, {len(two)}"
            ]
        count += len(one)
        if block is None:
            break
    return count, apart


def main() -> None:
    lines, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    bad = False
    for server in ("postfix", "exim", "sendmail"):
        count, apart = compare(server, lines // 3, seed)
        print(f"{server}: {lines // 3} lines, {count} events, {'alike' if not apart else 'NOT alike'}", flush=True)
        for place in apart:
            print(place)
        bad |= bool(apart)
    sys.exit(bad)


if __name__ == "__main__":
    main()
