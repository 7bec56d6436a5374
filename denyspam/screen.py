"""screen: the picture of `top`: a snapshot drawn as lines of styled text, for any size. Pure.

    draw(snapshot, view, width, height) -> Frame     `lines`: one a row, each of spans (text, style), exactly as wide

Styles are names (`bad`, `heat3`, …): what colours they are, or whether there are any, is the caller's business; nothing
is told by colour alone. What a stranger wrote reaches the picture through escaped() only: no control character, no
character that changes direction or joins its neighbour, and wide ones counted as two cells.
Below SMALLEST there is only a sentence. Times are epoch seconds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from functools import lru_cache
from typing import Any

from denyspam import show

Span = tuple[str, str]
Line = list[Span]
Places = dict[int, list[tuple[int, int, str, str]]]  # row -> (from column, to column, list, address)

SMALLEST = (60, 16)
WIDE = 118  # cells from which on there is a second column
SHADES = 8  # heat0 … heat7
ALL_KEYS = (
    *(("↑↓", "select"), ("⇥", "other list"), ("⏎", "why"), ("b", "ban"), ("r", "release"), ("/", "find")),
    *(("p", "pause"), ("?", "help"), ("q", "quit")),
)
KEYS = (ALL_KEYS, (*ALL_KEYS[2:6], *ALL_KEYS[7:]), ALL_KEYS[7:])  # the longest that has room
HOT, BANS = "hot", "bans"


@dataclass
class View:
    """What the one who looks has chosen."""

    focus: str = HOT
    selected: dict[str, str | None] = field(default_factory=lambda: {HOT: None, BANS: None})  # an address in each list
    match: str = ""
    paused: bool = False
    trouble: str = ""  # why there is nothing newer
    refused: Sequence[float] = ()  # packets a second, the newest last
    zone: tzinfo = timezone.utc
    now: float = 0.0
    color: bool = True
    keys: bool = True  # name them at the bottom


@dataclass
class Frame:
    """A picture, and what stands where in it."""

    lines: list[Line]
    rows: Places


# --- text -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def escaped(text: str) -> str:
    """`text` with everything that could move, hide or reorder other text written out as \\x1b or \\u202e."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(one: str) -> str:
    plain = (
        one.isprintable() and unicodedata.combining(one) == 0 and unicodedata.category(one) not in ("Mn", "Me", "Mc")
    )
    if plain and unicodedata.bidirectional(one) not in ("R", "AL", "AN"):
        return one
    return one.encode("unicode_escape").decode()


def cells(text: str) -> int:
    """How many cells of a terminal escaped text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def cut(text: str, width: int) -> str:
    """At most `width` cells of it."""
    if cells(text) <= width:
        return text
    room, kept = width - 1, []
    for one in text:
        room -= cells(one)
        if room < 0:
            break
        kept.append(one)
    return "".join(kept) + "…" if width > 0 else ""


def left(text: str, width: int) -> str:
    short = cut(text, width)
    return short + " " * (width - cells(short))


def right(text: str, width: int) -> str:
    short = cut(text, width)
    return " " * (width - cells(short)) + short


def fit(line: Iterable[Span], width: int) -> Line:
    """A line of exactly `width` cells."""
    fitted: Line = []
    for text, style in line:
        if width <= 0:
            break
        short = cut(text, width)
        fitted.append((short, style))
        width -= cells(short)
    if width > 0:
        fitted.append((" " * width, ""))
    return fitted


def number(value: float) -> str:
    """12,345 · 1.2M · 0.4"""
    if value >= 10_000_000:
        return f"{value / 1e6:,.0f}M"
    if value >= 1_000_000:
        return f"{value / 1e6:.1f}M"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def octets(value: float) -> str:
    """512 B · 1.2 KiB · 3.4 GiB"""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


# --- pieces -----------------------------------------------------------------------------------------------------------


Size = tuple[int, int]  # width, height


def box(title: Line, body: Sequence[Line], size: Size, style: str, corner: Sequence[Span] = ()) -> list[Line]:
    """A frame with a title in its upper edge, and `corner` at the end of that."""
    width, height = size
    inner = width - 2
    head: Line = [("╭─", style), (" ", ""), *title, (" ", "")]
    tail: Line = [(" ", ""), *corner, (" ", ""), ("─╮", style)] if corner else [("╮", style)]
    room = width - _width(head) - _width(tail)
    if room < 0:
        tail, room = [("╮", style)], width - _width(head) - 1
    top = (
        fit([*head, ("─" * max(0, room), style), *tail], width)
        if room >= 0
        else fit([*fit(head, width - 1), *tail], width)
    )
    middle = [[("│", style), *fit(line, inner), ("│", style)] for line in body[: height - 2]]
    middle += [[("│", style), (" " * inner, ""), ("│", style)] for _ in range(height - 2 - len(middle))]
    return [top, *middle, [("╰" + "─" * inner + "╯", style)]]


def _width(line: Iterable[Span]) -> int:
    return sum(cells(text) for text, _ in line)


def graph(values: Sequence[float], size: Size, style: str) -> list[Line]:
    """A curve in braille, two values a cell, the newest at the right, as high as the highest of them. Its styles are
    `style` with a shade's number, 0 at the bottom."""
    width, height = size
    room = 2 * width
    shown = [0.0] * (room - len(values)) + list(values[-room:])
    peak = max(shown, default=0.0)
    dots = [0 if value <= 0 or peak <= 0 else max(1, round(value / peak * 4 * height)) for value in shown]
    lines = []
    for row in range(height):
        base = 4 * (height - 1 - row)
        text = "".join(_braille(dots[at] - base, dots[at + 1] - base) for at in range(0, room, 2))
        shade = round((height - 1 - row) / max(1, height - 1) * (SHADES - 1))
        lines.append([(text, f"{style}{shade}")])
    return lines


def _braille(one: int, two: int) -> str:
    """One cell: its left column filled up to `one` dots from the bottom, its right one up to `two`."""
    fill_left, fill_right = (0, 0x40, 0x44, 0x46, 0x47), (0, 0x80, 0xA0, 0xB0, 0xB8)
    return chr(0x2800 + fill_left[max(0, min(4, one))] + fill_right[max(0, min(4, two))])


def meter(part: float, width: int, color: bool = True, *, calm: bool = False) -> Line:
    """A bar that is full at 1.0, from green to red; `calm` in one colour."""
    full = max(0, min(width, round(part * width)))
    if part > 0 and full == 0:
        full = 1
    if not color:
        return [("■" * full, ""), ("·" * (width - full), "dim")]
    shade = [("■", "calm" if calm else f"heat{at * (SHADES - 1) // max(1, width - 1)}") for at in range(full)]
    return [*shade, ("■" * (width - full), "empty")]


# --- the panels -------------------------------------------------------------------------------------------------------


def _header(found: dict[str, Any], view: View, width: int) -> Line:
    mode = ("ENFORCING", "good") if found.get("mode") == "enforce" else ("WATCHING ONLY", "warn")
    if not found.get("ready"):
        mode = ("STARTING", "warn")
    head: Line = [(" denyspam ", "brand"), (" ", "")]
    if found:
        up = show.duration(view.now - found["started"])
        head += [(escaped(found["host"]), "strong"), ("  ", ""), mode]
        head += [(f"  {escaped(found['action'])}  up {up}", "dim")]
    clock = datetime.fromtimestamp(view.now, view.zone)
    tail: Line = []
    if view.match:
        tail += [(f" /{escaped(view.match)} ", "badge"), (" ", "")]
    if view.paused:
        tail += [(" PAUSED ", "badge"), (" ", "")]
    tail += [(clock.strftime("%H:%M:%S "), "strong"), (clock.strftime("%Z "), "dim")]
    return [*fit(head, width - _width(tail)), *tail]


def _alarms(found: dict[str, Any], view: View, width: int) -> list[Line]:
    said = list(found.get("faults", ()))
    if view.trouble:
        since = f"no news for {show.duration(view.now - found['time'])}, " if found else ""
        said.insert(0, f"{since}trying again: {view.trouble}")
    return [fit([(" ▲ ", "alarm"), (" ", ""), (escaped(text), "bad")], width) for text in said[:3]]


def _traffic(found: dict[str, Any], view: View, width: int, height: int) -> list[Line]:
    rates = found["rates"]
    shown = [("lines", rates["lines"], "/s"), ("offences", rates["events"], "/s")]
    if width >= 70:
        shown.append(("refused", list(view.refused), " packets/s"))
    boxes = []
    for at, (name, values, unit) in enumerate(shown):
        each = width // len(shown) + (width % len(shown) if at == len(shown) - 1 else 0)
        inside = each - 2
        seen = values[-2 * inside :]
        now = number(seen[-1]) if seen else "-"
        corner: Line = [("peak ", "dim"), (number(max(seen)) if seen else "-", "label")]
        title: Line = [(name, "title"), (f" {now}", "strong"), (unit if each > 34 else "/s", "dim")]
        boxes.append(box(title, graph(values, (inside, height - 2), name), (each, height), "box-rate", corner))
    return _beside(boxes)


def _beside(columns: Sequence[list[Line]]) -> list[Line]:
    return [[span for part in parts for span in part] for parts in zip(*columns, strict=True)]


def visible(rows: Sequence[dict[str, Any]], selected: str | None, room: int) -> tuple[int, int]:
    """(the first row to show, the selected row's number or -1), so that the selected one is in sight."""
    at = next((index for index, row in enumerate(rows) if row["address"] == selected), -1)
    first = max(0, min(at - room // 2, len(rows) - room)) if at >= room else 0
    return first, at


STATES = {"pending": "not yet in the kernel", "withheld": "WITHHELD", "waiting": "withheld for a moment"}
Rows = list[tuple[int, str]]  # (the line in the panel, address)


def _table(
    view: View, name: str, rows: Sequence[dict[str, Any]], lines: Sequence[Line], room: int
) -> tuple[list[Line], Rows]:
    """What of a list is in sight, below its heading; `lines` are those of the rows."""
    shown: list[Line] = []
    places: Rows = []
    first, at = visible(rows, view.selected[name], room)
    for index in range(first, min(len(rows), first + room)):
        chosen = index == at and view.focus == name
        line = [(text, f"{style} selected") for text, style in lines[index]] if chosen else lines[index]
        places.append((len(shown) + 1, rows[index]["address"]))
        shown.append([(">" if chosen else " ", "accent"), *line])
    return shown, places


def _hottest(found: dict[str, Any], view: View, width: int, height: int) -> tuple[list[Line], Rows]:
    rows, inner, bar = found["hot"], width - 3, 10
    policy = min(14, max([7, *(cells(escaped(row["policy"])) for row in rows[:height])]))
    rest = inner - (2 + bar) - 10 - policy - 7 - 9  # for the address, and the line behind all
    address = max(10, min(rest, max([14, *(len(row["address"]) for row in rows[:height])])))
    said = rest - address
    head: Line = [(" ", ""), (left("ADDRESS", address), "head"), (left("  NEAR A BAN", bar + 12), "head")]
    head += [(left("POLICY", policy), "head"), (right("LAST", 7), "head"), (right("GONE IN", 9), "head")]
    head += [("  NEWEST LINE", "head")] if said > 16 else []
    lines = []
    for row in rows:
        count = f"{row['hits']} of {row['limit']}"
        line: Line = [(left(row["address"], address), "address"), ("  ", "")]
        line += meter(row["hits"] / row["limit"], bar, view.color)
        line += [(left(f" {count}", 10), "strong"), (left(escaped(row["policy"]), policy), "label")]
        line += [(right(_ago(view.now - row["last"]), 7), "text"), (right(show.duration(row["gone"]), 9), "text")]
        line += [("  ", ""), (left(escaped(_body(row)), said - 2), "dim")] if said > 16 else []
        lines.append(fit(line, inner))
    shown, places = _table(view, HOT, rows, lines, height - 3)
    body = [head, *(shown or [[("  nobody has an offence that still counts", "dim")]])]
    corner: Line = [(number(found["tracked"]), "label"), (" counted", "dim")]
    style = "box-hot" if view.focus != HOT else "box-focus"
    return box([("hottest", "title")], body, (width, height), style, corner), places


def _body(row: dict[str, Any]) -> str:
    """A line without what stands in every line of a log: from behind the program's name on."""
    text: str = row["text"] or ""
    _, colon, rest = text[:80].partition("]: ")
    return rest + text[80:] if colon else text


def _ago(seconds: float) -> str:
    return show.duration(seconds) if seconds >= 1 else "now"


def _bans(found: dict[str, Any], view: View, width: int, height: int) -> tuple[list[Line], Rows]:
    rows = found["bans"]
    inner = width - 3
    address = max([14, *(len(row["address"]) for row in rows[:height])])
    rule = min(14, max([7, *(len(escaped(row["rule"])) for row in rows[:height])]))
    address = max(10, min(address, inner - rule - 10 - 33))
    note = inner - address - rule - 10 - 33
    head: Line = [
        (" ", ""),
        (left("ADDRESS", address), "head"),
        (left("  RULE", rule + 4), "head"),
        (right("HITS", 5), "head"),
    ]
    head += [(right("BANNED", 9), "head"), (right("LEFT", 9), "head"), ("   ", ""), (left("", 10), "head")]
    head += [("  NOTE", "head")] if note > 8 else []
    lines = []
    for row in rows:
        rest, length = row["until"] - view.now, row["until"] - row["since"]
        line: Line = [
            (left(row["address"], address), "address"),
            ("  ", ""),
            (left(escaped(row["rule"]), rule), "label"),
        ]
        line += [(right(str(row["hits"] or ""), 7), "text"), (right(_ago(view.now - row["since"]), 9), "text")]
        line += [(right(show.duration(rest), 9), "strong"), ("   ", "")]
        line += meter(rest / length if length > 0 else 0, 10, view.color, calm=True)
        state = STATES.get(row["state"], "")
        said = ": ".join(filter(None, (state, escaped(row["note"]))))
        line += [("  ", ""), (said, "warn" if state else "dim")] if note > 8 else []
        lines.append(fit(line, inner))
    shown, places = _table(view, BANS, rows, lines, height - 3)
    nothing = "no ban matches" if view.match else "nobody is banned"
    body = [head, *(shown or [[(f"  {nothing}", "dim")]])]
    corner: Line = [(number(found["active"]), "label"), (" hold", "dim")]
    if found["withheld"]:
        corner += [(f", {number(found['withheld'])} withheld", "warn")]
    if found["pending"]:
        corner += [(f", {number(found['pending'])} not yet in the kernel", "warn")]
    style = "box-bans" if view.focus != BANS else "box-focus"
    title = "bans, the newest first" if not view.match else "bans that match"
    return box([(title, "title")], body, (width, height), style, corner), places


def _firewall(found: dict[str, Any], view: View, width: int, height: int) -> list[Line]:
    fire = found["firewall"]
    pairs: list[Line] = []
    if fire["packets"] is None:
        pairs.append([(" this action does not count packets", "dim")])
    else:
        pairs.append(_pair("refused", f"{number(fire['packets'])} packets", octets(fire["bytes"]), width))
        for each in fire["sets"]:
            if each["packets"]:
                ports = " ".join(map(str, each["ports"])) or "all"
                name = f"IPv{each['version']} /{each['width']} port {ports}"
                pairs.append(_pair(f"  {name}", number(each["packets"]), octets(each["bytes"]), width, "dim"))
    pairs.append(_pair("sessions ended", number(fire["sessions"]), "", width))
    pairs.append(_pair("put back", number(fire["repairs"]), "", width))
    if fire["waiting"]:
        pairs.append(_pair("waiting", number(fire["waiting"]), "", width, "warn"))
    corner: Line = [(escaped(found["action"]), "dim")]
    return box([("firewall", "title")], pairs, (width, height), "box-side", corner)


def _pair(name: str, value: str, more: str, width: int, style: str = "text") -> Line:
    inner = width - 3
    more = right(more, 11) if more else ""
    room = inner - cells(more) - cells(value) - 1
    return [
        (" ", ""),
        (left(name, max(1, room)), style),
        (value, "strong" if style == "text" else style),
        (more, "dim"),
    ]


def _kinds(found: dict[str, Any], view: View, width: int, height: int) -> list[Line]:
    kinds = list(found["kinds"].items())
    most = max((count for _, count in kinds), default=0)
    bar = max(5, width - 26)
    body: list[Line] = [
        [
            (" ", ""),
            (left(escaped(kind), 10), "text"),
            *meter(count / most, bar, view.color, calm=True),
            (right(number(count), 10), "strong"),
        ]
        for kind, count in kinds
    ]
    if not body:
        body = [[(" none since the start", "dim")]]
    return box([("offences by kind", "title")], body, (width, height), "box-side")


def _logs(found: dict[str, Any], view: View, width: int, height: int) -> list[Line]:
    body: list[Line] = []
    for each in found["logs"]:
        said, style = _state(each, view.now)
        room = width - 4 - cells(said)
        path = escaped(each["path"])
        if cells(path) > room:
            path = "…" + path[-max(1, room - 1) :]
        body.append([(" ", ""), (left(path, max(1, room)), "text"), (" ", ""), (said, style)])
        if height - 2 >= 2 * len(found["logs"]):
            events = f"   {number(each['lines'])} lines, {show.count(each['events'], 'event')}"
            last = f", newest {_ago(view.now - each['clock'])} ago" if each["lines"] else ""
            body.append([(events + last.replace("now ago", "now"), "dim")])
    return box([("logs", "title")], body, (width, height), "box-side")


def _state(each: dict[str, Any], now: float) -> tuple[str, str]:
    if not each["present"]:
        return "NOT THERE", "bad"
    if each["behind"]:
        return f"behind by {show.duration(now - each['clock'])}", "warn"
    return "up to date", "good"


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(found: dict[str, Any], view: View, width: int, height: int) -> Frame:
    """The picture of a snapshot ({} while there is none) in exactly `height` lines of `width` cells."""
    if width < SMALLEST[0] or height < SMALLEST[1]:
        said = f"make the window at least {SMALLEST[0]} x {SMALLEST[1]}; q quits"
        return Frame([fit([(said if at == 0 else "", "warn")], width) for at in range(height)], {})
    lines = [_header(found, view, width), *_alarms(found, view, width)]
    foot = [_footer(width)] if view.keys else []
    room = height - len(lines) - len(foot)
    rows: Places = {}
    if not found:
        said = "" if view.trouble else " asking the daemon …"
        lines += [fit([(said if at == 0 else "", "dim")], width) for at in range(room)]
    elif width >= WIDE and room >= 24:
        _two_columns(found, view, (width, room), lines, rows)
    else:
        _one_column(found, view, (width, room), lines, rows)
    return Frame([*lines, *foot], rows)


def _lists(found: dict[str, Any], view: View, size: Size, top: int, rows: Places) -> list[Line]:
    """Both lists above each other; the one that has less to show leaves the other room."""
    (width, height), least = size, 5
    upper = min(max(least, len(found["hot"]) + 3), max(least, height - least))
    lower = max(least, len(found["bans"]) + 3)
    upper = max(least, min(upper, height - min(lower, height // 2)))
    if upper + lower < height:
        upper = min(height - lower, max(upper, height // 2))
    drawn: list[Line] = []
    for name, panel, tall in ((HOT, _hottest, upper), (BANS, _bans, height - upper)):
        some, places = panel(found, view, width, tall)
        for at, address in places:
            rows.setdefault(top + len(drawn) + 1 + at, []).append((0, width, name, address))
        drawn += some
    return drawn


def _one_column(found: dict[str, Any], view: View, size: Size, lines: list[Line], rows: Places) -> None:
    width, room = size
    traffic = 5 if room < 30 else 7
    if room >= 19:
        lines += _traffic(found, view, width, traffic)
        room -= traffic
    logs = min(4, len(found["logs"]) + 2)
    below = logs if room >= 10 + logs else 0
    lines += _lists(found, view, (width, room - below), len(lines), rows)
    if below:
        half = width // 2
        lines += _beside([_logs(found, view, width - half, logs), _firewall(found, view, half, logs)])


def _two_columns(found: dict[str, Any], view: View, size: Size, lines: list[Line], rows: Places) -> None:
    width, room = size
    traffic = max(7, min(12, room // 4))
    lines += _traffic(found, view, width, traffic)
    room -= traffic
    side = max(42, min(58, width // 3))
    drawn = _lists(found, view, (width - side, room), len(lines), rows)
    counted = sum(1 for each in found["firewall"]["sets"] or () if each["packets"])
    fire = min(6 + counted, room // 3)
    kinds = max(3, min(len(found["kinds"]) + 2, room - fire - 4))
    column = _firewall(found, view, side, fire) + _kinds(found, view, side, kinds)
    column += _logs(found, view, side, room - len(column))
    lines += _beside([drawn, column])


def _footer(width: int) -> Line:
    keys = next(each for each in KEYS if sum(cells(key) + cells(what) + 3 for key, what in each) < width)
    return fit([(" ", ""), *(span for key, what in keys for span in ((key, "key"), (f" {what}  ", "dim")))], width)


def plain(frame: Frame) -> str:
    """The picture as text alone, a line a row, without blanks at the ends."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in frame.lines)
