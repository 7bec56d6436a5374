"""workbench: what `explain` and its kin read and print. Edge: reads logs and files, writes to stdout.

The thinking is done by explain.py, learn.py and fail2ban.py. Colours stand on a terminal only, and never where
NO_COLOR is set (no-color.org); what they say is said in words as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from denyspam import fail2ban, replay, show
from denyspam.events import CLIENT, HARMLESS, FilterError, SettingsError
from denyspam.explain import Explanation, Span, explain
from denyspam.filter import Filter, Reader, canonical, doubts, header_of, untagged
from denyspam.grammar import parse_filter
from denyspam.learn import Group, Groups, propose, skeleton
from denyspam.pattern import CLIENTS_TEXT, IGNORE, PATHS
from denyspam.scan import Scanner
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


# --- learn and new-filter ---------------------------------------------------------------------------------------------

PROGRAMS = 1000  # of those that no filter reads: a log names a few, an attack on it any number
SYSLOG = re.compile(rb"[A-Z][a-z]{2} [ \d]\d |\d{4}-\d\d-\d\dT|<\d{1,3}>")  # such a line names its program, if any


def untaken(
    paths: Sequence[str], filters: Sequence[Filter], zone: tzinfo, every: bool, progress: Callable[[int], object]
) -> Groups:
    """The lines that no filter takes: of the programs that the filters read, or of `every` one."""
    groups = Groups()
    for path in paths:
        stamps = Stamps(zone)
        learner = _Learner(Reader(filters, stamps), stamps, every, groups)
        scanner = Scanner(filters, path, stamps)
        for block, now in replay.blocks(path, progress):
            groups.empty = groups.empty and not block.data
            taken = {finding.offset for finding in scanner.feed(block.data, block.offset, 0, now)}
            start = 0
            while start < len(block.data):
                end = block.data.index(b"\n", start)
                if block.offset + start not in taken and end > start:
                    learner.learn(block.data[start:end], now)
                start = end + 1
    return groups


@dataclass(frozen=True, slots=True)
class _Learner:
    """Puts a line that no pattern of an event takes where it belongs."""

    reader: Reader
    stamps: Stamps
    every: bool
    groups: Groups

    def learn(self, line: bytes, now: float) -> None:
        line = line.rstrip(b"\r")
        stamp = self.stamps.read(line, now)[1]
        _, takers, start = self.reader.header(line, stamp)
        header, syslog = header_of(line, stamp), SYSLOG.match(line) is not None
        program = ""
        if header is not None and (syslog or header.end() == start):
            names = header.groupdict()
            program = (names["program"] or names.get("alone") or b"").decode("utf-8", "replace")
            start = header.end()
            takers = tuple(each for each in takers if each.takes(program))
        elif syslog:
            takers = ()
        body, _, _ = untagged(line, start)
        if not body.strip():
            return
        if not (self.every or takers):
            if len(self.groups.unread) < PROGRAMS or program in self.groups.unread:
                self.groups.unread[program] += 1
            return
        group = self.groups.add(program, body, line)
        if group.count == 1:
            group.known = self.reader.read(line, now) is not None


def learned(groups: Groups, most: int, as_json: bool) -> None:
    """Prints the groups, the most frequent first."""
    found = groups.found()
    if as_json:
        rows = [_group_row(number, group) for number, group in enumerate(found[:most], 1)]
        print(json.dumps({"groups": rows, "more": max(0, len(found) - most), "dropped": groups.dropped}))
        return
    width = len(str(found[0].count)) if found else 1
    for number, group in enumerate(found[:most], 1):
        print(
            f"{number:3}  {group.count:{width}} x  {show.line(group.program.encode())}: {show.line(group.shape, 200)}"
        )
        for example in group.examples[:1]:
            print(f"     {' ' * width}    {show.line(example, 200)}")
    if not found:
        every = "every line is taken by a filter, or of a program that no filter reads"
        print("there is no line in it" if groups.empty else every, file=sys.stderr)
    if groups.unread:
        most_lines = groups.unread.most_common(5)
        programs = ", ".join(f"{show.line(name.encode()) or 'none named'} ({count})" for name, count in most_lines)
        others = f" and {len(groups.unread) - 5} more" if len(groups.unread) > 5 else ""
        print(
            f"programs that no filter reads, and their lines: {programs}{others}; --all learns those", file=sys.stderr
        )
    if len(found) > most:
        print(f"… and {show.count(len(found) - most, 'shape')} more (-n shows them)", file=sys.stderr)
    if groups.dropped:
        print(f"{show.count(groups.dropped, 'line')} of rare shapes were not kept", file=sys.stderr)


def _group_row(number: int, group: Group) -> dict[str, Any]:
    return {
        "number": number,
        "count": group.count,
        "program": group.program,
        "shape": group.shape.decode("utf-8", "replace"),
        "kind": group.kind,
        "examples": [example.decode("utf-8", "replace") for example in group.examples],
    }


def proposed(group: Group, as_json: bool) -> bool:
    """Prints a pattern for one group; whether there is one."""
    found = propose(group)
    if as_json:
        print(json.dumps({"kind": found.kind, "text": found.text or None, "reason": found.reason or None}))
        return bool(found.text)
    if not found.text:
        print(f"denyspam: no pattern for this shape: {found.reason}", file=sys.stderr)
        return False
    print(f"program {group.program or 'bare'}")
    print(f"{found.kind or 'KIND'} {found.text}")
    for example, address, queue_id in zip(group.examples[:1], found.addresses, found.queue_ids, strict=False):
        print(f"sample {found.kind or 'KIND'} {address or f'id {queue_id}'}")
        print(f"  {show.line(example)}")
    if found.kind is None:
        print("no word of it tells the kind: write it for KIND, if it is an offence at all", file=sys.stderr)
    else:
        print(f"the kind, {found.kind}, is a guess by the line's words", file=sys.stderr)
    if re.search(r"\{quoted\}.*\{ip\}", found.text):
        print("{quoted} before {ip}: only where the program never prints a quote inside it", file=sys.stderr)
    return True


def main_program(groups: Groups) -> str | None:
    """That of most of the lines; None where there are none."""
    counts: Counter[str] = Counter()
    for group in groups.found():
        counts[group.program] += group.count
    return counts.most_common(1)[0][0] if counts else None


def new_filter(name: str, program: str, groups: Groups, path: str) -> list[str]:
    """Writes the file `path`, which must not be there; what is to be said of it. Raises FileExistsError, and
    LookupError where no pattern can be made: then nothing is written."""
    chosen = [group for group in groups.found() if group.program == program][:12]
    text = skeleton(name, program or "bare", chosen)
    if not text:
        whose = show.line(program.encode()) or "programs that the log does not name"
        raise LookupError(
            f"in no line of {whose} stands an address or a queue id, to tell whose it is: no pattern can be made"
            if chosen
            else f"there is no line of {whose} that no filter takes"
        )
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    said = [
        f"{path}: {show.count(text.count(chr(10) + 'sample '), 'sample')} of {show.line(program.encode()) or 'bare'}"
    ]
    try:
        made = parse_filter(text, path)
        said.append(f"it passes `denyspam check {path}`; look at every kind in it all the same")
        said += doubts(made)
    except FilterError as error:
        said.append(f"not finished: {error}")
    return said


# --- import-fail2ban --------------------------------------------------------------------------------------------------

SHOWN = 20  # differences of one jail, and of one sort


@dataclass(frozen=True, slots=True)
class Taken:
    """A jail, or a filter by itself (`jail` None), brought over, and the expressions to compare with."""

    imported: fail2ban.Imported
    theirs: fail2ban.Theirs
    jail: fail2ban.Jail | None


def brought(names: Sequence[str], root: str) -> list[Taken]:
    """Each jail, filter (`postfix[mode=auth]`) or file, as ours. Raises fail2ban.ImportFailed."""
    folder = os.path.join(root, "jail.d")
    more = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    jails = fail2ban.jails(_within(root), more)
    return [_brought(name, root, jails) for name in names]


def _brought(name: str, root: str, jails: fail2ban.Options) -> Taken:
    jail: fail2ban.Jail | None = None
    read = _within(root)
    if "/" in name or name.endswith(".conf"):
        if not os.path.isfile(name):
            raise fail2ban.ImportFailed(f"there is no file {name}")
        read = _within(os.path.dirname(os.path.abspath(name)))
        filter_name, options, source = f"./{os.path.basename(name)}", {}, f"from fail2ban's {os.path.basename(name)}"
        own = os.path.basename(name).removesuffix(".conf")
    elif name in jails.sections:
        jail = fail2ban.jail(jails, name)
        filter_name, options, own = jail.filter, dict(jail.options), name
        source = f"fail2ban's jail {name}, filter {jail.filter}"
    else:
        filter_name, options = fail2ban.spec(name)
        own, source = "-".join([filter_name, *options.values()]), f"fail2ban's filter {name}"
        if all(read(f"filter.d/{filter_name}.{ending}") is None for ending in ("conf", "local")):
            raise fail2ban.ImportFailed(f"there is no jail and no filter {name[:100]!r} in {root}")
    found = fail2ban.expressions(filter_name, read, dict(options))
    whole = fail2ban.expressions(filter_name, read, dict(options), whole=True)
    kind = fail2ban.kind_of(own)
    return Taken(fail2ban.convert(found, f"f2b-{kind}", kind, source), fail2ban.theirs(whole), jail)


def _within(root: str) -> Callable[[str], str | None]:
    def read(path: str) -> str | None:
        try:
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
                return file.read(1 << 20)
        except OSError:
            return None

    return read


def told_of(found: Sequence[Taken]) -> Iterator[str]:
    """How much of each came over, and what did not."""
    for each in found:
        made = each.imported
        yield f"{made.name}: {show.count(made.patterns, 'pattern')} of kind {made.kind}"
        for expression, reason in made.lost:
            yield f"  not imported: {reason}"
            yield f"    {show.line(expression.replace(fail2ban.PREFIX, '<prefix>').encode(), 200)}"
        for note in each.jail.notes if each.jail else ():
            yield f"  not imported: {note}"


def configuration(found: Sequence[Taken]) -> str:
    """The configuration of the jails among them; "" where there is none."""
    pairs = [(each.jail, each.imported) for each in found if each.jail is not None]
    return fail2ban.configuration(pairs) if pairs else ""


def written_to(folder: str, found: Sequence[Taken]) -> list[str]:
    """Writes filters and configuration below `folder`; their names. Raises OSError."""
    texts = {os.path.join(folder, "filters", f"{each.imported.name}.filter"): each.imported.text for each in found}
    if any(each.jail for each in found):
        texts[os.path.join(folder, "fail2ban.conf")] = configuration(found)
    for path in texts:
        if os.path.lexists(path):
            raise FileExistsError(17, "is there already; nothing was written", path)
    os.makedirs(os.path.join(folder, "filters"), exist_ok=True)
    for path, text in texts.items():
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    return list(texts)


@dataclass(frozen=True, slots=True)
class Difference:
    """A line that the two read differently. An address "" was not named."""

    file: str
    line: int
    theirs: str | None
    ours: str | None
    text: bytes


def compared(taken: Taken, paths: Sequence[str], zone: tzinfo) -> tuple[int, list[Difference]]:
    """(lines that both take, with the same address; the others that one of them takes)."""
    made = parse_filter(taken.imported.text, taken.imported.name, proved=True)
    stamps = Stamps(zone)
    reader = Reader((made,), stamps)
    both, found = 0, []
    for path in paths:
        for block, now in replay.blocks(path):
            for number, line in enumerate(block.data.splitlines(), block.number):
                reading = reader.read(line, now)
                ours = None
                if reading is not None and reading.pattern.kind == taken.imported.kind:
                    ours = reading.address or ""
                text = line[max(0, stamps.read(line, now)[1] - 1) :].decode("utf-8", "replace")
                theirs = taken.theirs.find(text)
                if theirs:
                    theirs = canonical(theirs.encode()) or theirs
                if ours is not None and ours == theirs:
                    both += 1
                elif ours or theirs is not None:  # one without an address is held against nobody
                    found.append(Difference(path, number, theirs, ours, line))
    return both, found


def proved(found: Sequence[Taken], paths: Sequence[str], zone: tzinfo) -> Iterator[tuple[str, int, list[Difference]]]:
    """For each its name, the lines both take, and the differences."""
    for each in found:
        both, differences = compared(each, paths, zone)
        yield each.imported.name, both, differences


def proof_lines(name: str, both: int, found: Sequence[Difference]) -> Iterator[str]:
    yield f"{name}: {show.count(both, 'line')} alike, {len(found)} not"
    for sort, chosen in (
        ("only fail2ban", [each for each in found if each.ours is None]),
        ("only denyspam", [each for each in found if each.theirs is None]),
        ("other address", [each for each in found if each.ours is not None and each.theirs is not None]),
    ):
        for each in chosen[:SHOWN]:
            who = f"{each.theirs or '-'} / {each.ours or '-'}" if sort == "other address" else each.theirs or each.ours
            yield f"  {sort}  {each.file}:{each.line}: {who or 'no address on the line'}"
            yield f"    {show.line(each.text, 200)}"
        if len(chosen) > SHOWN:
            yield f"  {sort}  … and {len(chosen) - SHOWN} more"


def import_json(found: Sequence[Taken], proofs: Sequence[tuple[str, int, list[Difference]]]) -> str:
    filters = [
        {
            "name": each.imported.name,
            "kind": each.imported.kind,
            "text": each.imported.text,
            "patterns": each.imported.patterns,
            "lost": [{"expression": text, "reason": reason} for text, reason in each.imported.lost],
            "policy": each.jail.policy if each.jail else None,
            "notes": list(each.jail.notes) if each.jail else [],
        }
        for each in found
    ]
    rows = [
        {
            "name": name,
            "alike": both,
            "differences": [
                {
                    "file": each.file,
                    "line": each.line,
                    "fail2ban": each.theirs,
                    "denyspam": each.ours,
                    "text": each.text.decode("utf-8", "replace"),
                }
                for each in differences
            ],
        }
        for name, both, differences in proofs
    ]
    return json.dumps({"filters": filters, "configuration": configuration(found), "proof": rows})
