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
MARGIN = 9  # characters left of a picture's first bucket


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


# --- for a page -------------------------------------------------------------------------------------------------------


def columns(steps: Steps, identity: str, title: str) -> str:
    """All counts together over time, as SVG that fills its place; nice(most) is its height, and stands beside it.

    `identity` and `title` are ours, and everything else is a number or a date: nothing needs escaping.
    """
    total = steps.total()
    most = nice(max(total, default=0))
    parts = [
        f'<svg class="columns" viewBox="0 0 {max(1, len(total))} 100" preserveAspectRatio="none" role="img" '
        f'aria-labelledby="{identity}-title"><title id="{identity}-title">{title}</title>'
    ]
    parts += [f'<path class="grid" d="M0 {y}H{max(1, len(total))}"/>' for y in (0, 50, 100)]
    for at, count in enumerate(total):
        if count:
            height = max(1.0, 100 * count / most)
            when = moment(steps.start + at * steps.size, steps.size)
            parts.append(
                f'<rect x="{at + 0.12:.2f}" y="{100 - height:.2f}" width="0.76" height="{height:.2f}">'
                f"<title>{when}: {count:,}</title></rect>"
            )
    return "".join((*parts, "</svg>"))


def bar(count: int, most: int) -> str:
    """A share as a bar, beside its number: so it says nothing to who cannot see it."""
    width = 100 * count / most if most else 0
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/><rect width="{width:.2f}" height="10"/></svg>'
    )


def trend(counts: Sequence[int]) -> str:
    """A row of columns, each as high as its share of the highest; beside its sum."""
    most = max(counts, default=0)
    parts = [
        f'<rect x="{at + 0.1:.1f}" y="{20 - height:.1f}" width="0.8" height="{height:.1f}"/>'
        for at, count in enumerate(counts)
        if count and (height := max(1.5, 20 * count / most))
    ]
    size = max(1, len(counts))
    return (
        f'<svg class="trend" viewBox="0 0 {size} 20" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )
