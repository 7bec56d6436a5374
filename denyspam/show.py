"""show: times, durations and policies as people read them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, tzinfo
from functools import lru_cache

from denyspam.events import Policy

UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


@lru_cache(maxsize=1024)  # a flood's bans last equally long
def duration(seconds: float) -> str:
    """As a policy writes it, with the two largest units: 1h, 1h30m, 45s, 7d."""
    rest = max(0, round(seconds))
    parts = []
    for unit, size in UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2]) or "0s"


def moment(time: float | None, zone: tzinfo) -> str:
    """A time in `zone`, to the second: 2026-03-04 10:00:00; `-` for none."""
    return "-" if time is None else datetime.fromtimestamp(time, zone).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, noun: str) -> str:
    """1 ban, 2 bans, 3 policies"""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else many}"


def limit(policy: Policy) -> str:
    """5 in 15m"""
    return f"{policy.hits} in {duration(policy.within)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Columns as wide as what stands in them, those of `right` to the right; one without anything in it is left out."""
    shown = [column for column in range(len(head)) if any(row[column] for row in rows)]
    widths = {column: max(len(row[column]) for row in (head, *rows)) for column in shown}
    for row in (head, *rows):
        cells = (row[at].rjust(widths[at]) if at in right else row[at].ljust(widths[at]) for at in shown)
        yield "  ".join(cells).rstrip()


def line(text: bytes, width: int = 0) -> str:
    """A log line for a terminal: no control characters, cut to `width` where one is given."""
    shown = "".join(one if one.isprintable() else "\ufffd" for one in text.decode("utf-8", "replace"))
    return shown if not width or len(shown) <= width else shown[: width - 1] + "…"


def pointed(text: bytes, column: int, width: int = 100) -> tuple[str, str]:
    """(a line for a terminal, blanks and a caret under byte `column` of it), both cut to `width` around that place."""
    before, after = line(text[:column].replace(b"\t", b" ")), line(text[column:].replace(b"\t", b" "))
    room = width * 2 // 3
    if len(before) > room and len(before) + len(after) > width:
        before = "…" + before[len(before) - max(room, width - len(after)) + 1 :]
    if len(before) + len(after) > width:
        after = after[: width - len(before) - 1] + "…"
    return before + after, " " * len(before) + "^"
