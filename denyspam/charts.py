"""charts: numbers as pictures: bars for a terminal, and SVG for a page. Pure.

A terminal's are in eighths of a character, or plain ASCII; an SVG has no colours of its own: its parts have classes,
and the page's style sheet says how they look. Every picture on a page has its numbers in a table beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from denyspam.tally import Steps

EIGHTHS = " ▁▂▃▄▅▆▇█"
ASCII = " .:-=+*#"
DAY = 86_400


def bars(counts: Sequence[int], height: int, *, plain: bool = False) -> list[str]:
    """Columns as lines of text, the top one first; where anything is, a mark is seen."""
    most = max(counts, default=0)
    full = 1 if plain else 8
    levels = [0 if not count else max(1, round(count * height * full / most)) for count in counts]
    marks = " #" if plain else EIGHTHS
    return [
        "".join(marks[max(0, min(full, level - row * full))] for level in levels) for row in reversed(range(height))
    ]


def sparkline(counts: Sequence[int], most: int, *, plain: bool = False) -> str:
    """One line of text; `most` is the count that fills a character."""
    marks = ASCII if plain else EIGHTHS
    top = len(marks) - 1
    return "".join(marks[0 if not count else max(1, round(count * top / most))] for count in counts)


def moment(wall: float, size: int) -> str:
    """The beginning of a bucket: with a date alone where it is a day or more."""
    shown = datetime.fromtimestamp(wall, timezone.utc)
    return shown.strftime("%Y-%m-%d" if size >= DAY else "%m-%d %H:%M")


def nice(most: int) -> int:
    """The next count from `most` up that is easy to read on an axis: 1, 2, 4, 5, 10, 20, 40, 50, …"""
    size = 1
    while True:
        for factor in (1, 2, 4, 5):
            if factor * size >= most:
                return factor * size
        size *= 10


def picture(steps: Steps, height: int = 6, *, plain: bool = False) -> Iterator[str]:
    """All counts together, with both axes; no wider than the buckets and MARGIN."""
    total = steps.total()
    most = max(total, default=0)
    corner, side, floor = ("+", "|", "-") if plain else ("└", "│", "─")
    for row, text in enumerate(bars(total, height, plain=plain)):
        label = f"{most:,}" if row == 0 else ""
        yield f"{label:>{MARGIN - 2}} {side}{text.rstrip()}"
    yield f"{0:>{MARGIN - 2}} {corner}{floor * len(total)}"
    begin = moment(steps.start, steps.size)
    end = moment(steps.start + (len(total) - 1) * steps.size, steps.size)
    gap = len(total) - len(begin) - len(end)
    yield " " * MARGIN + (f"{begin}{' ' * gap}{end}" if gap > 0 else begin)


MARGIN = 9  # characters left of the first bucket
