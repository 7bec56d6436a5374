"""workbench: what `explain` and its kin read and print. Edge: reads logs and files, writes to stdout.

The thinking is done by explain.py, learn.py and fail2ban.py. Colours stand on a terminal only, and never where
NO_COLOR is set (no-color.org); what they say is said in words as well.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import tzinfo
from typing import Any

from denyspam import show
from denyspam.events import CLIENT, HARMLESS, SettingsError
from denyspam.explain import Explanation, Span, explain
from denyspam.filter import Filter
from denyspam.pattern import CLIENTS_TEXT, IGNORE, PATHS
from denyspam.stamp import Stamps

WIDE = 100  # characters, where no terminal tells its own
SERVERS, CLIENTS, WHO, LOGIN, DULL = "32", "33", "1;31", "1;35", "2"
INKS = {
    "ip": WHO,
    "id": "1;36",
    "user": LOGIN,
    **dict.fromkeys((*CLIENTS_TEXT[:1], *CLIENTS_TEXT[2:], *PATHS), CLIENTS),
}


def coloured() -> bool:
    """Whether stdout may be written to in colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def ink(text: str, code: str, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours and text else text


# --- a wrong file -----------------------------------------------------------------------------------------------------


def source(error: SettingsError) -> Iterator[str]:
    """The line that an error names, and a caret under its column; nothing where the file is not there to be read."""
    try:
        with open(error.file, "rb") as file:
            lines = file.read(1 << 20).splitlines()
    except (OSError, ValueError):
        return
    if not 1 <= error.line <= len(lines) or not lines[error.line - 1].strip():
        return
    text = lines[error.line - 1].rstrip()
    characters = text.decode("utf-8", "replace")[: (error.column or 1) - 1]
    shown, caret = show.pointed(text, len(characters.encode("utf-8", "replace")))
    yield f"    {shown}"
    if error.column is not None:
        yield f"    {caret}"


# --- explain ----------------------------------------------------------------------------------------------------------


def explained(lines: Iterable[bytes], filters: Sequence[Filter], zone: tzinfo, year: int | None, as_json: bool) -> bool:
    """Prints how each line was read; whether every one of them was taken by a pattern."""
    stamps = Stamps(zone, year)
    every, first = True, True
    for line in lines:
        found = explain(line, filters, stamps, time.time())
        every = every and found.reading is not None
        if as_json:
            print(json.dumps(_row(found)))
            continue
        if not first:
            print()
        first = False
        for text in _told(found, filters, zone):
            print(text)
    return every


def _row(found: Explanation) -> dict[str, Any]:
    reading = found.reading
    return {
        "line": found.line.decode("utf-8", "replace"),
        "time": found.time,
        "host": found.host,
        "program": found.program,
        "body": found.body,
        "filters": [each.name for each in found.filters],
        "pattern": None
        if reading is None
        else {"file": reading.filter.file, "line": reading.pattern.line, "text": reading.pattern.source},
        "kind": None if reading is None else reading.pattern.kind,
        "address": None if reading is None else reading.address,
        "queue_id": None if reading is None else reading.queue_id,
        "user": None if reading is None else reading.user,
        "times": found.count if reading is None else reading.count,
        "doubtful": found.doubtful,
        "holes": [
            {
                "hole": span.hole,
                "text": found.line[span.start : span.end].decode("utf-8", "replace"),
                "start": span.start,
                "end": span.end,
            }
            for span in found.spans
        ],
        "nearest": [
            {
                "file": stop.filter.file,
                "line": stop.pattern.line,
                "text": stop.pattern.source,
                "column": stop.column,
                "expected": stop.expected,
            }
            for stop in found.nearest
        ],
    }


def _told(found: Explanation, filters: Sequence[Filter], zone: tzinfo) -> Iterator[str]:
    colours = coloured()
    yield _painted(found, colours)
    stamp = show.line(found.line[: found.stamp].rstrip())
    if not found.stamp:
        yield "  stamp    none at the line's beginning: it would be nobody's hit"
    elif found.time is None:
        yield f"  stamp    {stamp}: no time that can be (no such date, or more than 10 minutes ahead): nobody's hit"
    else:
        yield f"  stamp    {stamp} is {show.moment(found.time, zone)} here"
    yield f"  host     {show.line(found.host.encode()) or '- (the line names none)'}"
    yield f"  program  {show.line(found.program.encode()) or '- (the line names none)'}"
    if not found.filters:
        names = ", ".join(each.name for each in filters)
        yield f"  filters  none of {names} reads such a line: add the program to a filter's `program`"
        return
    yield f"  filters  {', '.join(each.name for each in found.filters)}"
    reading = found.reading
    if reading is None:
        yield from _untaken(found, colours)
        return
    yield f"  pattern  {reading.filter.file}:{reading.pattern.line}: {reading.pattern.kind} {reading.pattern.source}"
    width = max((len(span.hole) for span in found.spans), default=0) + 2
    for span in found.spans:
        text = show.line(found.line[span.start : span.end], WIDE)
        yield f"    {ink(f'{{{span.hole}}}'.ljust(width), INKS.get(span.hole, SERVERS), colours)}  {text}"
    yield f"  kind     {_kind(reading.pattern.kind)}" + (f", {reading.count} times" if reading.count != 1 else "")
    if reading.pattern.kind != IGNORE:
        yield f"  address  {ink(reading.address or '', WHO, colours) or _whose(found)}"
    if reading.queue_id is not None:
        yield f"  queue id {reading.queue_id}"
    if reading.user is not None:
        yield f"  user     {show.line(reading.user.encode())}"


def _kind(kind: str) -> str:
    if kind == IGNORE:
        return f"{kind}: this pattern takes the line away from those below it; no event"
    if kind == CLIENT:
        return f"{kind}: it says whose the queue id is; no event by itself"
    return f"{kind} (recognised, never counted)" if kind in HARMLESS else kind


def _whose(found: Explanation) -> str:
    if found.doubtful:
        return (
            "- DOUBTFUL: the client's text could end in two places, so two addresses could be the client's;"
            " told, and held against nobody"
        )
    return "- the client of the queue id, which another line names"


def _untaken(found: Explanation, colours: bool) -> Iterator[str]:
    if found.doubtful:
        yield "  pattern  none: the client's text could end in two places; the line is told of nobody"
        return
    if not found.nearest:
        yield "  pattern  none takes it, and none begins as it does; `denyspam learn` proposes one"
        return
    stop = found.nearest[0]
    if found.unreadable:
        yield f"  pattern  {stop.filter.file}:{stop.pattern.line} fits, but {found.unreadable} is no address"
    else:
        yield f"  pattern  none takes it; the nearest is {stop.filter.file}:{stop.pattern.line}"
    yield f"    {show.line(stop.pattern.kind.encode())} {show.line(stop.pattern.source.encode())}"
    width = max(40, shutil.get_terminal_size((WIDE + 4, 24)).columns - 4)
    text, caret = show.pointed(found.line, stop.column, width)
    yield f"    {text}"
    expected = show.line(stop.expected.encode())
    yield f"    {ink(caret, WHO, colours)} column {stop.column + 1}: here should stand {expected}"


def _painted(found: Explanation, colours: bool) -> str:
    """The line, what each hole took in the hole's ink."""
    if not colours:
        return show.line(found.line)
    text = ink(show.line(found.line[: found.body]), DULL, True)
    at = found.body
    for span in _apart(found.spans):
        text += show.line(found.line[at : span.start])
        text += ink(show.line(found.line[span.start : span.end]), INKS.get(span.hole, SERVERS), True)
        at = span.end
    return text + show.line(found.line[at:])


def _apart(spans: Sequence[Span]) -> Iterator[Span]:
    """Those that begin behind the end of the one before."""
    end = -1
    for span in spans:
        if span.start >= end and span.end > span.start:
            yield span
            end = span.end
