"""learn: lines that no filter takes, grouped by shape; a pattern's text for a group. Pure.

The shape of a line is its body with everything replaced that differs from one line to the next: addresses, numbers,
queue ids, text in quotes or angle brackets, words with digits or an @ in them. A shape is written in the filters' own
language, and so it is already the draft of a pattern.

`propose` makes of a shape the longest text that passes the language's checks and takes all of the group's examples: a
draft that ends with {*} as far to the right as can be. The kind is guessed from words that servers use; where none
stands there, it is for the admin to choose. What it cannot know is which words the client chose himself: see
`pattern`.

Memory: `SHAPES` groups of `EXAMPLES` lines of `LONGEST` bytes, whatever the log holds. Beyond that the rarest groups
are dropped, and their lines counted as `dropped`; a shape so frequent that it makes more than one line in `SHAPES`
is never among them for long (it is the lossy counting of Manku and Motwani, 2002, by size and not by age).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timezone

from denyspam import show
from denyspam.events import FilterError
from denyspam.filter import SAMPLES_NOW, Filter, Reader, canonical
from denyspam.grammar import parse_filter
from denyspam.stamp import Stamps

SHAPES = 4096
EXAMPLES = 5
LONGEST = 2048  # bytes of a line that is kept; longer ones differ in what a client wrote
ALIKE = 5  # shapes that differ in the same word, until it is taken for one that varies
WORDS = 40  # words of a shape that are tried
SHAPE = 512  # bytes of a body that make its shape

# A queue or session id inside a line: behind a word that says so, and with a digit in it.
LABELLED = (
    rb"(?P<labelled>"
    rb"(?P<label>(?<![\w-])(?:session|sid|qid|id|ID|[Qq]ueue|[Qq]ueue[ _-](?:id|ID)|mail_id|msgid|conn)(?:=|:? ))"
    rb"(?=[A-Za-z-]{0,31}\d)[0-9A-Za-z-]{5,32}(?=[\s:,;)\]>]|$))"
)
TOKEN = re.compile(
    LABELLED + rb"|(?P<rcpt><[^<>\s]{0,256}>)"
    rb'|(?P<quoted>"[^"]{0,256}")'
    rb"|(?P<hosted>(?<![^\s\[(=,;:])[A-Za-z0-9_.-]{1,255}(?=\[[0-9A-Fa-f:.]{3,45}\]))"
    rb"|(?P<spaced>(?<!\S)(?:unknown|[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){1,8})(?= \[[0-9A-Fa-f:.]{3,45}\]))"
    rb"|(?P<bracket>\[(?:[Ii][Pp]v6:)?(?P<inner>\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{2,44})\])"
    rb"(?P<port>:\d{1,5}(?!\d))?"
    rb"|(?P<bare>(?<![0-9A-Za-z.:])(?:(?:::[Ff]{4}:)?\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z]|\.\d|:[0-9A-Fa-f]*:)"
    rb"|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){1,6}:[0-9A-Fa-f]{0,4}(?<!(?<!:):)(?![0-9A-Za-z]|:[0-9A-Fa-f:]|\.\d)))"
    rb"(?P<its_port>:\d{1,5}(?![0-9A-Za-z:]))?"
    rb"|(?P<id>^(?:NOQUEUE|(?=[A-Za-z]*\d)(?:[0-9A-F]{8,15}|[0-9A-Za-z]{12,20})"
    rb"|[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4})(?=:? ))"
    rb"|(?P<dsn>(?<![0-9A-Za-z.])[245]\.\d{1,3}\.\d{1,3}(?![0-9A-Za-z.]))"
    rb"|(?P<code>(?<![0-9A-Za-z.])[245]\d\d(?=[ -]))"
    rb"|(?P<number>(?<![0-9A-Za-z.@_-])\d{1,20}(?![0-9A-Za-z@_-]|\.\d))"
    rb"|(?P<word>(?<![^\s\"<>,;()\[\]={}])[^\s\"<>,;()\[\]={}]{0,128}(?:\d|@)[^\s\"<>,;()\[\]={}]{0,128}[^\s\"<>,;()\[\]={}:.])"
)
WORD = re.compile(rb"(?<![\w{<?.-])[A-Za-z][\w.-]*(?![\w}>])")  # outside holes
HOLES = {
    "rcpt": b"{<rcpt>}",
    "quoted": b"{quoted}",
    "hosted": b"{name}",
    "spaced": b"{name}",
    "id": b"{id}",
    "dsn": b"{dsn}",
    "code": b"{code}",
    "number": b"{number}",
    "word": b"{word}",
}
LITERAL = re.compile(rb"[{}\\]")

# Words that servers use for what they refuse; the first that stands in the line decides.
KINDS = (
    ("virus", re.compile(rb"(?i)virus|infected|malware|trojan")),
    ("relay", re.compile(rb"(?i)\brelay(?:ing)?\b.*(?:denied|not |refused|reject)|(?:denied|not |refused).*\brelay")),
    (
        "auth",
        re.compile(
            rb"(?i)(?=.*(?:fail|den[iy]|invalid|incorrect|reject|refus|bad|wrong|mismatch|error|abort|unknown))"
            rb".*(?:authenti|\bauth\b|\bsasl\b|log-?in|password|credential)"
        ),
    ),
    ("spam", re.compile(rb"(?i)\bspam|\bjunk\b|\bdnsbl\b")),
    ("protocol", re.compile(rb"(?i)protocol|syntax|pipelining|too many errors|unrecognized|non-smtp")),
    ("reject", re.compile(rb"(?i)reject|refus|denied|block|unknown user|no such|not allowed|bann?ed|too many|\bdrop")),
)
HARMLESS = re.compile(rb"(?i)\baccepted\b|success|\bdelivered\b|\bconnected\b|\bqueued\b|\bsent\b|\bpassed\b|\bok\b")


@dataclass(slots=True)
class Group:
    """Lines of one shape by one program ("" in a log that names none)."""

    program: str
    shape: bytes  # in the filters' language, without a kind
    count: int = 0
    examples: list[bytes] = field(default_factory=list)  # whole lines, the first ones
    known: bool = False  # a pattern takes its lines away: nothing to learn

    @property
    def kind(self) -> str | None:
        """A guess; None where no word of the line tells."""
        body = self.shape
        if HARMLESS.search(body) and not re.search(rb"(?i)reject|refus|denied|fail|not ", body):
            return None
        found = next((kind for kind, words in KINDS if words.search(body)), None)
        return "client" if found is None and b"{id}" in body and b"{ip}" in body else found


class Groups:
    """The groups of a log, bounded. `dropped` counts lines of shapes that were too rare to keep."""

    def __init__(self, shapes: int = SHAPES) -> None:
        self.dropped = 0
        self.empty = True  # nobody has read a line of it
        self.unread: Counter[str] = Counter()  # lines by program, of programs that no filter reads
        self._shapes = shapes
        self._groups: dict[tuple[str, bytes], Group] = {}

    def add(self, program: str, body: bytes, line: bytes) -> Group:
        """Count a line; its group."""
        key = program, shape(body)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= 2 * self._shapes:
                self._drop()
            group = self._groups[key] = Group(*key)
        group.count += 1
        if len(group.examples) < EXAMPLES and len(line) <= LONGEST:
            group.examples.append(line)
        return group

    def found(self) -> list[Group]:
        """The most frequent first. Shapes that differ in one word only, and in it a lot, are one."""
        self._merge()
        every = (group for group in self._groups.values() if not group.known)
        return sorted(every, key=lambda group: -group.count)[: self._shapes]

    def _drop(self) -> None:
        self._merge()
        if len(self._groups) >= self._shapes:
            every = sorted(self._groups.values(), key=lambda group: -group.count)
            self.dropped += sum(group.count for group in every[self._shapes // 2 :])
            self._groups = {(group.program, group.shape): group for group in every[: self._shapes // 2]}

    def _merge(self) -> None:
        alike: dict[tuple[str, bool, bytes], list[Group]] = {}
        for group in self._groups.values():
            for word in itertools.islice(WORD.finditer(group.shape), 1, WORDS):
                key = group.shape[: word.start()] + b"{word}" + group.shape[word.end() :]
                alike.setdefault((group.program, group.known, key), []).append(group)
        for (program, known, merged), groups in sorted(alike.items(), key=lambda each: -len(each[1])):
            left = [group for group in groups if self._groups.get((group.program, group.shape)) is group]
            if len(left) < ALIKE:
                continue
            whole = self._groups.get((program, merged)) or Group(program, merged, known=known)
            for group in left:
                del self._groups[program, group.shape]
                whole.count += group.count
                whole.examples += group.examples[: EXAMPLES - len(whole.examples)]
            self._groups[program, merged] = whole


def shape(body: bytes) -> bytes:
    """A body in the filters' language, all that differs from line to line a hole. At most some hundred bytes."""
    return b"".join(_pieces(body))


def _pieces(body: bytes) -> list[bytes]:
    """The same, piece by piece: literals and holes. The first address is {ip}, others are words."""
    found, at = [], 0
    body, rest = body[:SHAPE], body[SHAPE:]
    taken: set[str] = set()

    def once(name: str, otherwise: bytes) -> bytes:
        if name in taken:
            return otherwise
        taken.add(name)
        return b"{%s}" % name.encode()

    for token in TOKEN.finditer(body):
        if token.end() == token.start():
            continue
        name = next((each for each in ("bracket", "labelled", "bare") if token[each]), token.lastgroup or "")
        pieces: list[bytes]
        if name == "bracket":
            pieces = [b"[", once("ip", b"{word}"), b"]"] if canonical(token["inner"]) else [b"[", b"{word}", b"]"]
            pieces += [b":", b"{port}"] if token["port"] else []
        elif name == "bare":
            pieces = [once("ip", b"{word}") if canonical(token["bare"]) else b"{word}"]
            pieces += [b":", b"{port}"] if token["its_port"] else []
        elif name == "id":
            pieces = [once("id", b"{word}")]
        elif name == "labelled":
            pieces = [_literal(token["label"]), once("id", b"{word}")]
        else:
            pieces = [HOLES[name]]
        if token.start() > at:
            found.append(_literal(body[at : token.start()]))
        found += pieces
        at = token.end()
    if at < len(body):
        found.append(_literal(body[at:]))
    if rest:
        found.append(b"{*}")
    return found


def _literal(text: bytes) -> bytes:
    return LITERAL.sub(rb"\\\g<0>", text)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A pattern's text with a guess of its kind; or, `text` "", why there is none."""

    kind: str | None
    text: str
    reason: str = ""
    addresses: tuple[str | None, ...] = ()  # of each example, in their order
    queue_ids: tuple[str | None, ...] = ()


def propose(group: Group) -> Proposal:
    """The longest text that the language takes and that reads all of the group's examples."""
    try:
        body = group.shape.decode("ascii")
    except UnicodeDecodeError:
        return Proposal(
            None, "", "it holds text that is not ASCII: write the pattern by hand, with {word} or {*} there"
        )
    if any(byte < 32 for byte in group.shape):
        return Proposal(None, "", "it holds control characters, which a filter file cannot")
    if not group.examples:
        return Proposal(None, "", f"its lines are longer than {LONGEST} bytes")
    pieces = re.findall(r"\{[^{}]*\}|(?:\\.|[^{}\\])+", body)
    reason = ""
    kind = group.kind or "reject"
    said = _said(pieces)
    for text in itertools.chain(_from_its_end(said), _drafts(said), _drafts(pieces)):
        try:
            found = _draft(kind, text, group)
        except FilterError as error:
            reason = reason or error.message
            continue
        from_each = [_read(found, line) for line in group.examples]
        if all(from_each):
            return Proposal(
                group.kind,
                text,
                addresses=tuple(each[0] for each in from_each if each),
                queue_ids=tuple(each[1] for each in from_each if each),
            )
        reason = reason or "it would not take all of its own examples"
    return Proposal(group.kind, "", reason)


def _said(pieces: Sequence[str]) -> list[str]:
    """With the first text in quotes before the address as what the client said: he may write quotes himself."""
    before = pieces[: pieces.index("{ip}")] if "{ip}" in pieces else []
    if "{quoted}" not in before:
        return list(pieces)
    place = pieces.index("{quoted}")
    joined = [*pieces[:place], '"', "{said}", '"', *pieces[place + 1 :]]
    found: list[str] = []
    for piece in joined:  # a literal behind the quote is one with it
        if found and not piece.startswith("{") and not found[-1].startswith("{"):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def _from_its_end(pieces: Sequence[str]) -> Iterable[str]:
    """With anything for what the client said, where the server's own words follow up to the line's end: the address is
    read from there."""
    if "{said}" in pieces and "{ip}" in pieces:
        behind = pieces[pieces.index("{ip}") + 1 :]
        if all(piece in ("{port}", "{number}") or not piece.startswith("{") for piece in behind):
            yield "".join(pieces).replace("{said}", "{*}").strip()


def _drafts(pieces: Sequence[str]) -> Iterable[str]:
    """The whole, and ever shorter beginnings of it behind the address or id, that end with {*}."""
    whole = list(pieces)
    yield "".join(whole).strip()
    first = next((index for name in ("{ip}", "{id}") for index, piece in enumerate(whole) if piece == name), len(whole))
    for end in range(len(whole) - 1, first, -1):
        if whole[end - 1] == "{*}":
            continue
        text = "".join(whole[:end])
        if re.search(r"\{[^{}]*\}$", text):  # a hole ends where a literal begins: its first character stays
            following = whole[end]
            if following.startswith("{"):
                continue
            text += following[: 2 if following.startswith("\\") else 1]
        yield text + "{*}"


def _draft(kind: str, text: str, group: Group) -> Filter:
    program = group.program or "bare"
    return parse_filter(f"filter draft\nprogram {program}\n{kind} {text}\n", "draft", proved=True)


def _read(found: Filter, line: bytes) -> tuple[str | None, str | None] | None:
    reading = Reader((found,), Stamps(timezone.utc)).read(line, SAMPLES_NOW)
    return None if reading is None else (reading.address, reading.queue_id)


# -- a new filter ----------------------------------------------------------------------------------------------------

HEAD = """\
# {name}.filter: what {program} says of a client; drafted from a log by `denyspam new-filter`.
#
# To do, from top to bottom; `denyspam check ./{name}.filter` says what is still missing, `denyspam explain` why a line
# is taken or not:
# - Is it an offence, and of which kind? virus, relay, reject, auth, protocol and spam are counted; accept and defer are
#   not. A pattern whose kind no word told stands behind a #: write the kind for KIND and take the # away, also from
#   its sample; or delete both.
# - Which words did the client choose? Where they may hold blanks or brackets write {{*}}, or {{user}} for a login name.
#   {{word}} and {{name}} are for what the server prints by itself.
# - Sample lines stay in this file: replace what is private in them.
filter {name}
program {program}
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pattern of a new filter with its sample; `reason` why it stands behind a #."""

    count: int
    kind: str | None
    text: str
    head: str  # of its sample, without the kind
    line: str
    reason: str = ""

    def pattern(self) -> str:
        lines = f"\n# {show.count(self.count, 'line')}" + (f": {self.reason}" if self.reason else "")
        return f"{lines}\n{'# ' * bool(self.reason)}{self.kind or 'KIND'} {self.text}\n"

    def sample(self) -> str:
        mark = "# " * bool(self.reason)
        return f"{mark}sample {self.kind or 'KIND'} {self.head}\n{mark}  {self.line}\n"


def skeleton(name: str, program: str, groups: Sequence[Group]) -> str:
    """The text of a filter file with a pattern and a sample for each of the groups that has an address or an id.

    What the language refuses stands behind a #, with the reason. Where a line that is no event is found, and a word
    tells one kind at least, the file passes `denyspam check` as it is. "" where no group has either.
    """
    entries: list[Entry] = []
    others: list[tuple[int, str]] = []
    for group in groups:
        line = next((text for text in map(_plain, group.examples) if text), "")
        if not line:
            continue
        proposal = propose(group)
        index = next((at for at, example in enumerate(group.examples) if _plain(example)), 0)
        if not proposal.text:
            others.append((group.count, line))
            continue
        address, queue_id = proposal.addresses[index], proposal.queue_ids[index]
        head = address if address is not None else f"id {queue_id}"
        reason = "" if proposal.kind else "no word of it tells the kind, or that it is an offence at all"
        entries.append(Entry(group.count, proposal.kind, proposal.text, head, line, reason))
    if not entries:
        return ""
    dull = [line for _, line in others] or [entry.line for entry in entries if entry.kind is None]
    kept: list[Entry] = []
    for entry in entries:
        wrong = ""
        try:
            if not entry.reason:
                tried = [*(one for one in kept if not one.reason), entry]
                parse_filter(_file(name, program, tried, dull[:3]), "draft")
        except FilterError as error:
            wrong = "" if "no `sample none`" in error.message else error.message
        kept.append(replace(entry, reason=entry.reason or wrong))
    return _file(name, program, kept, dull[:3])


def _file(name: str, program: str, entries: Sequence[Entry], dull: Sequence[str]) -> str:
    text = HEAD.format(name=name, program=program)
    text += "".join(entry.pattern() for entry in entries) + "\n"
    text += "".join(entry.sample() for entry in entries)
    if dull:
        return text + "sample none\n" + "".join(f"  {line}\n" for line in dull)
    return text + "# sample none\n#   write here a line that is no event: every filter has one\n"


def _plain(line: bytes) -> str:
    """A line as it may stand in a filter file; "" where it may not."""
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""
