"""pattern: literal text with typed {holes} -> one anchored regex over bytes. Pure.

    {id}: reject: RCPT from {name}[{ip}]{?:{port}}: {code} {dsn} {<rcpt>}: Relay access denied; {*}

Text outside holes is literal. Three kinds of hole:
- typed ones (`HOLES`), which the server prints: a bounded run of an exact character set that never contains the
  literal character that follows it, so there is one way only to read a line;
- `{<rcpt>}`, an SMTP path with its angle brackets: it cannot end inside quotes or before an escaped character.
  `{<raw>}` and `{<doubled>}` are the same of a server known to print a backslash as it came, or twice;
- the client's own text: `{*}` (anything), `{user}` (anything, kept as the login name) and `{said}`.
`{?…}` may be absent; `{(a|b)}` is one of several; a backslash makes `{ } \\` (and inside `{(…)}` also `| ( )`) literal.

What a stranger could forge is refused when the pattern is compiled, with the reason and what to write instead:
- a pattern that attributes to nobody: it needs one {ip}, or one {id} whose client another line names;
- the client's text on both sides of the address. It must be reachable from the line's start, or from its end, over
  literals and typed holes alone;
- a literal after the client's text: the client could write it, and so choose the kind. Unless it is the way from the
  line's end to the address, or all that follows, to the line's end, is literals, typed holes and at least one
  {<rcpt>}, as in `{*}: Relay access denied; from={<rcpt>} to={<rcpt>} helo={<rcpt>}`. That ending is read backwards,
  which is certain: within a quoted path every quote has a backslash before it, so the first one without is where
  the path's quotes begin, and no text inside can be taken for the words outside;
- an {ip} read from the end behind a character that may stand in an address: {*}:{ip} takes the end of a longer one;
- {said} is the one text of the client's that may stand before an address read from the start. It ends at the first
  place where its literal and an address follow. Where the same stands again, with words after it that the server prints
  there in any of the filter's patterns, the line says two things and is not taken. Nor is it where no such words follow
  the first place, but do a later one. `doubtful` and `told` know them, so that the offence is told of nobody. A {<raw>}
  or {<doubled>} among the words must be a whole one there: it must be a field that the server never cuts. {said} used
  again is the same text.

Limits: it cannot know which fields a server takes from the client unchanged. Never name such a field {word} or {name}:
`worded` finds those of which the words before them say so.
{times} is the N of one line that tells of N events; the client must not be able to write it.
Cost: linear in the line; no repetition inside a repetition except in {<rcpt>}, whose branches start differently.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import count, groupby, islice, takewhile
from sys import version_info
from typing import Any

try:
    from re import _parser as sre_parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as sre_parser

CLIENTS_TEXT = ("*", "user", "said")
PATHS = ("<rcpt>", "<raw>", "<doubled>")
JUMPS = {b".*": b"%s.*", b"(?P<user>.*)": b"(?P<user>%s.*)"}
ALIKE = 512  # bytes: lengths that differ by less are taken as one
STEP = 256  # bytes passed over at once
SHORTEST = 4  # bytes of the longest literal: it finds the lines worth a regex
IGNORE = "ignore"  # the kind of a pattern that takes a line away from those below: no finding

LONGEST_TOLD = 4096  # holes of one pattern: it is no longer than so many characters

DIGITS = frozenset(string.digits.encode())
ALNUM = frozenset((string.ascii_letters + string.digits).encode())
IP = frozenset(b"0123456789abcdefABCDEF:.")
ENDINGS = 64  # the places where {said} may seem to end: each costs some microseconds, so a line of more is nobody's
PLACES = 8  # of them those that more than the first byte of an ending stands at
SOUGHT = 1 << 15  # bytes looked through in vain for needles, to tell what a line of nobody's says
# A local part is at most 64 octets, RFC 5321 4.5.3.1.1, and one quoted string; RFC 822 knew more in a row. What is more
# than this is no path, and only what a client wrote to make its reading dear.
STRINGS = 4  # quoted ones, or escapes outside of them
ESCAPES = 32  # in a quoted string
SAID = b"(?P<said>.{0,8192}?)"  # 8192: exim's LOG_BUFFER_SIZE, the longest line of the three servers
VISIBLE = frozenset(range(33, 256)) - {127}


_SPECIAL = re.compile(rb"[.^$*+?{}\[\]|()\\]")
ESCAPED = tuple(_SPECIAL.sub(rb"\\\g<0>", bytes([code])) for code in range(256))

# A run that no byte of which can be anything else needs no second thought: four times as fast on a hostile line.
FINAL = b"+" if version_info >= (3, 11) else b""


def _final(expression: bytes) -> bytes:
    """`expression`, which has one way only to take a text, without second thoughts about it.

    Not by a possessive repetition of a group: that is broken up to Python 3.11.4.
    """
    return b"(?>" + expression + b")"


_TOKEN = re.compile(rb"\\[\x00-\xff]|\[\^?(?:\\[\x00-\xff]|[^\]\\])+\]|\(\?>|[\x00-\xff]")


def _older(expressions: Sequence[bytes]) -> list[bytes]:
    """The pieces of one expression as Python 3.10 takes them: a lookahead is atomic, what it took is taken again."""
    if FINAL or not any(b"(?>" in expression for expression in expressions):
        return [*expressions]
    numbers, found = count(), []
    for expression in expressions:
        tokens, ends = _TOKEN.findall(expression), []
        for place, token in enumerate(tokens):
            if token == b"(?>":
                group = b"f%d" % next(numbers)
                tokens[place] = b"(?=(?P<" + group + b">"
                ends.append(b"))(?P=" + group + b")")
            elif token == b"(":
                ends.append(b")")
            elif token == b")":
                tokens[place] = ends.pop()
        found.append(b"".join(tokens))
    return found


def _path(escape: bytes) -> bytes:
    """`<…>`, RFC 5321 4.1.2: text, quoted strings and escapes. Unrolled, so that every byte has one way to be taken."""
    plain, inside = rb'[^<>"\\]{0,1024}' + FINAL, rb'[^"\\]{0,1024}' + FINAL
    quoted = b'"' + inside + b'(?:"|(?:' + escape + inside + b'){1,%d}")' % ESCAPES
    return _final(b"<" + plain + b"(?:(?:" + escape + b"|" + _final(quoted) + b")" + plain + b"){0,%d}>" % STRINGS)


# How a server logs a\"b. What two backslashes before a quote mean, an escaped quote or the end of the quotes, only
# its way can tell: where that is not known such a path is not taken.
RAW = rb"\\[\x00-\xff]"  # as it came: a\"b
DOUBLED = rb"(?:\\\\(?:\\\\|[^\\])|\\[0-7]{3})"  # a\\"b, and octal digits for what cannot be printed
# Four of them are one of the text's, escaped, and that printed twice.
UNKNOWN = rb'\\(?:[^\\]|\\(?:\\\\|)(?![\\"]))'
# The line read backwards: a quote that a backslash follows is inside, any other begins the quoted string.
BACKWARDS = (
    rb'>[^<>"\\ ]{0,2048}+(?:"[^"]{0,2048}+(?:"\\[^"]{0,2048}+){0,%d}"(?!\\)[^<>"\\ ]{0,1024}+)?<' % ESCAPES
).replace(b"}+", b"}" + FINAL)


@dataclass(frozen=True, slots=True)
class HoleType:
    """What a typed hole takes: `low` to `high` bytes of `characters`; or the fixed `form`, where a run is not exact."""

    meaning: str
    characters: frozenset[int]
    low: int
    high: int
    examples: tuple[bytes, bytes, bytes]  # to see whether an earlier pattern hides a later one
    form: bytes | None = None
    backwards: bytes | None = None  # `form`, in a line read from its end
    last: frozenset[int] = frozenset(b">")  # and what it then begins with


HOLES = {
    "ip": HoleType(
        "the client's address, IPv4 or IPv6",
        IP,
        2,
        66,
        (b"192.0.2.200", b"2001:db8::c8", b"203.0.113.201"),
        # the prefix is sendmail's and RFC 5321's; %zone follows link-local addresses
        rb"(?:[Ii][Pp]v6:|)(?P<ip>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,44})"
        rb"(?:%[0-9A-Za-z_-]{1,15}|)",
    ),
    "id": HoleType(
        "a queue id; NOQUEUE is taken and means none",
        ALNUM | {45},
        5,
        32,
        (b"4XyZq81Kw0z9P1", b"0A1B2C3D4E", b"NOQUEUE"),
    ),
    "name": HoleType(
        "a host name, or `unknown`",
        ALNUM | frozenset(b"._-:@/+*"),
        1,
        255,
        (b"unknown", b"q7.zx.example", b"host-9.vv.example"),
    ),
    "code": HoleType("an SMTP reply code", DIGITS, 3, 3, (b"599", b"487", b"211")),
    "dsn": HoleType(
        "an enhanced status code, 5.7.1",
        DIGITS | {46},
        5,
        9,
        (b"5.99.98", b"4.97.96", b"2.95.94"),
        rb"[245]\.\d{1,3}\.\d{1,3}",
    ),
    "times": HoleType("how many events the line tells of", DIGITS, 1, 9, (b"3", b"12", b"1")),
    "port": HoleType("a port", DIGITS, 1, 5, (b"61234", b"7", b"40001")),
    "number": HoleType("digits", DIGITS, 1, 20, (b"918273", b"5", b"60606")),
    "verb": HoleType(
        "an SMTP verb or state, such as RCPT or END-OF-MESSAGE", ALNUM | {45}, 1, 32, (b"XQZV", b"W-J", b"K9")
    ),
    "word": HoleType("printed characters without a blank, by the server", VISIBLE, 1, 255, (b"xqzv", b"w=j.9", b"K8")),
    "<rcpt>": HoleType(
        "an address in angle brackets, with quoted strings and escapes",
        frozenset(b"<"),
        2,
        2048,
        (b"<qx@zv.example>", b'<"w j"@k.example>', b"<>"),
        _path(UNKNOWN),
        BACKWARDS,
    ),
    "<raw>": HoleType(
        "the same, printed with its backslashes as they came",
        frozenset(b"<"),
        2,
        2048,
        (b"<qx@zv.example>", b'<"w j"@k.example>', b"<>"),
        _path(RAW),
        BACKWARDS,
    ),
    "<doubled>": HoleType(
        "the same, each of its backslashes printed twice",
        frozenset(b"<"),
        2,
        2048,
        (b"<qx@zv.example>", b'<"w j"@k.example>', b"<>"),
        _path(DOUBLED),
        BACKWARDS,
    ),
    "quoted": HoleType(
        "text in double quotes, without a quote inside",
        frozenset(b'"'),
        2,
        1026,
        (b'"qx zv"', b'""', b'"w=j k"'),
        rb'"[^"]{0,1024}"',
    ),
    # a blank ends a word, so there is one way only to take them
    "words": HoleType(
        "up to twelve words of the server's own, with the blank behind them",
        VISIBLE,
        0,
        792,
        (b"", b"qx zv ", b"w-j. k "),
        rb"(?:[\x21-\xff]{1,64}" + FINAL + b" {1,2}){0,12}?",
        rb"(?: {1,2}[\x21-\xff]{1,64}){0,12}?",
        frozenset(b" "),
    ),
    "said": HoleType("what the client said, before its {ip}", VISIBLE, 0, 8192, (b"qx.zv", b"[192.0.2.9]", b"w-j")),
    "user": HoleType("a login name, by the client", VISIBLE, 0, 255, (b"qxzv", b"w.j", b"k@v.example")),
    "*": HoleType("any text, by the client or not", VISIBLE, 0, 0, (b"qxzv wj", b"", b"9kk vv")),
}


class PatternError(ValueError):
    """What is wrong and what to write instead; `column` counts from 0 in the pattern's text."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.message, self.column = message, column


@dataclass(frozen=True, slots=True)
class Literal:
    text: bytes
    column: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Hole:
    name: str
    column: int = field(default=0, compare=False)
    form: bytes | None = None  # of a `regex`: its own way to write this hole


@dataclass(frozen=True, slots=True)
class Maybe:
    parts: tuple[Part, ...]
    column: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[tuple[Part, ...], ...]
    column: int = field(default=0, compare=False)


Part = Literal | Hole | Maybe | Choice
Words = tuple[bytes, ...]  # pieces of an expression, each whole in itself


@dataclass(frozen=True, slots=True, eq=False)
class Endings:
    """Where a text of the client's may end, and what the server prints there, by what it began the line with."""

    place: bytes
    words: tuple[tuple[bytes, bytes], ...]
    begin: bytes = b""  # any of what it began the line with
    # with the patterns whose words they are, by group; of each its needles, those of few branches first
    owners: tuple[tuple[bytes, bytes, tuple[tuple[int, tuple[Words, ...]], ...]], ...] = ()

    def places(self, body: bytes, start: int = 0) -> tuple[list[int], bool]:
        """The ends of the addresses that it may be followed by, in the first PLACES that begin like one, and whether
        there are no more; one that a stop or a colon follows (`2001:db8::7. `) has two, since an {ip} takes these as
        well."""
        place, begin = compiled(self.place), _beginning(self.place)
        if begin:
            found: list[re.Match[bytes]] = []
            pieces = body[start:].split(begin, PLACES)
            whole = len(pieces) <= PLACES
            for piece in pieces[:-1]:
                start += len(piece)
                if not found or found[-1].end() <= start:
                    found += filter(None, [place.match(body, start)])
                start += len(begin)
        else:  # what it begins with may be absent
            found = [*islice(place.finditer(body, start), PLACES + 1)]
            whole = len(found) <= PLACES
        ends = [each.end() for each in found]
        return [end - back for end in ends for back in range(1 + (body[end - 1] in b".:"))], whole


@lru_cache(maxsize=65_536)  # never full: as many as the expressions of the filters in use
def compiled(expression: bytes) -> re.Pattern[bytes]:
    """Expressions are compiled when first asked for: it costs a millisecond each, and most are never needed."""
    return re.compile(_older([expression])[0], re.DOTALL)


@lru_cache(maxsize=4096)
def _beginning(expression: bytes) -> bytes:
    """The text that whatever it takes begins with; may be empty."""
    nodes = takewhile(lambda node: str(node[0]) == "LITERAL", sre_parser.parse(_older([expression])[0], re.DOTALL))
    return bytes([argument for _, argument in nodes])


@cache
def _together(words: Words) -> re.Pattern[bytes]:
    return compiled(_any([words]))


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """A compiled pattern. `match(body)`, after `settle`, gives the groups `ip`, `id`, `user`, `times` that it has."""

    kind: str
    parts: tuple[Part, ...]
    literals: tuple[bytes, ...]  # all of them stand in every line it takes; never empty
    holes: frozenset[str]
    source: str  # as written
    line: int  # in its file
    pieces: tuple[bytes, ...]  # of its expression, from left to right, each whole in itself
    needles: tuple[Words, ...]  # of each, one at least stands in every line it takes
    said: tuple[bytes, Words] = (b"", ())  # what ends {said}, and the server's words after {ip}; empty without it
    word: tuple[bytes, Words] = (b"", ())  # the same for a {word} in an optional part between {said} and {ip}
    stop: bytes = b""  # the literal after {said}
    begin: bytes | None = None  # what precedes {said}
    ending: bytes | None = None  # what must stand at the line's end; over the line read backwards
    again: Endings | None = None  # `said` of all patterns of the filter
    also: Endings | None = None  # `word` of all of them
    _regex: re.Pattern[bytes] | None = field(default=None, init=False, repr=False)  # once it has been asked for

    @property
    def regex(self) -> re.Pattern[bytes]:
        if self._regex is None:
            object.__setattr__(self, "_regex", compiled(b"".join(self.pieces)))
        assert self._regex is not None  # noqa: S101 - for the type checker
        return self._regex

    @property
    def examples(self) -> tuple[bytes, ...]:
        """Made-up bodies that it takes; none of a `regex`."""
        longest = max((len(part.branches) for part in self.parts if isinstance(part, Choice)), default=1)
        return tuple(example(self.parts, turn) for turn in range(6 if longest < 3 else 6 * longest) if self.parts)

    def match(self, body: bytes) -> re.Match[bytes] | None:
        found = self.fit(body)
        return None if found is None or self.doubtful(body, found) else found

    def fit(self, body: bytes) -> re.Match[bytes] | None:
        """As `match`, before any doubt."""
        found = self.regex.match(body)
        if found is None or self.ending is None or compiled(self.ending).match(body[: found.end() - 1 : -1]):
            return found
        return None

    def doubtful(self, body: bytes, found: re.Match[bytes]) -> bool:
        """Whether {said} may also end further on than in this match, so that another address would be the client's."""
        return self.again is not None and self.unsure(body, found["said"], found.end("ip"))

    def unsure(self, body: bytes, said: bytes | None, end: int) -> bool:
        """The same, of what {said} took and where {ip} ends."""
        if self.again is None or said is None:
            return False
        if self.also is not None and self.stop in said:
            return True  # the {word} may have held a blank there, and what follows may be the client's
        for endings in (self.again, self.also) if self.also else (self.again,):
            places, whole = endings.places(body, end)
            if not whole:
                return True
            if places and any(
                compiled(words).match(body, place)
                for begin, words in endings.words
                if compiled(begin).match(body)
                for place in places
            ):  # fmt: skip
                return True
        return False

    def follows(self, body: bytes, place: int) -> bool:
        """Whether the server's words after {ip} stand at `place`."""
        return _together(self.said[1]).match(body, place) is not None

    @property
    def needle(self) -> bytes:
        """The longest literal: the cheapest test before the regex."""
        return max(self.literals, key=len)


@lru_cache(maxsize=256)
def _endings(patterns: tuple[Pattern, ...]) -> tuple[tuple[Endings, bytes], ...]:
    """How the patterns end {said}, and what they end it with."""
    return tuple({pattern.again: pattern.stop for pattern in patterns if pattern.again is not None}.items())


def repeated(body: bytes, stop: bytes) -> bool:
    """Whether what ends a {said} stands there twice, or what it begins with so often that {said} finds no end."""
    first = body.find(stop)
    return first >= 0 and (
        body.find(stop, first + 1) >= 0
        or len(body.split(stop[:1], ENDINGS + 1)) > ENDINGS + 1  # to count all is dearer
    )


def told(patterns: tuple[Pattern, ...], body: bytes) -> Pattern | None:
    """The first of `patterns`, none of which matches, that would if {said} ended further on than where it first can.

    They are a filter's, as `settle` gave them.
    """
    first = len(patterns)
    held: dict[Words, bool] = {}  # whether one of these texts stands in the body; patterns share most of them
    left = SOUGHT

    def holds(texts: Words) -> bool:
        nonlocal left
        if texts not in held:
            cost = len(body) * len(texts)
            held[texts] = cost <= left and any(text in body for text in texts)
            left -= 0 if held[texts] or cost > left else cost
        return held[texts]

    for again, stop in _endings(patterns):
        if compiled(again.begin).match(body) is None or not repeated(body, stop):
            continue  # one address, or none
        begun = [(words, owners) for begin, words, owners in again.owners if compiled(begin).match(body)]
        places, _ = again.places(body)
        for words, owners in begun:
            found = {place: match for place in places if (match := compiled(words).match(body, place))}
            sure = {owners[(match.lastindex or 0) - 1][0] for match in found.values()}  # of each place the first
            for number, needles in owners:
                if not sure or number >= first:
                    break
                # The words alone are looser than the pattern: it takes its needles as well.
                able = number >= min(sure) and all(map(holds, needles))
                if able and (number in sure or any(patterns[number].follows(body, place) for place in found)):
                    first = number
    return patterns[first] if first < len(patterns) else None


# -- what a pattern must be ------------------------------------------------------------------------------------------


def _leaves(parts: Sequence[Part], inside: str = "") -> Iterator[tuple[Literal | Hole, str]]:
    """Literals and holes from left to right; with each the bracket it stands in: "", "{?…}" or "{(…)}"."""
    for part in parts:
        if isinstance(part, Maybe):
            yield from _leaves(part.parts, inside or "{?…}")
        elif isinstance(part, Choice):
            for branch in part.branches:
                yield from _leaves(branch, "{(…)}")
        else:
            yield part, inside


def _judge(kind: str, parts: Sequence[Part]) -> None:
    """Raises PatternError where the parts attribute to nobody or to whom a stranger likes. The rules: see the top."""
    leaves = list(_leaves(parts))
    places: dict[str, list[int]] = {}
    for index, (leaf, inside) in enumerate(leaves):
        if isinstance(leaf, Hole):
            places.setdefault(leaf.name, []).append(index)
            if inside == "{(…)}" and leaf.name in ("ip", "id", "times", "user", "said", "*"):
                raise PatternError(
                    f"{{{leaf.name}}} cannot stand in {{(…)}}: write one pattern for each case", leaf.column
                )
            if inside and leaf.name in ("ip", "*"):
                raise PatternError(
                    f"{{{leaf.name}}} cannot stand in {{?…}}: write one pattern with it and one without", leaf.column
                )
    for name in ("ip", "id", "times", "user"):
        if len(places.get(name, ())) > 1:
            second = leaves[places[name][1]][0].column
            raise PatternError(f"a second {{{name}}}: keep the client's and write {{word}} for the other", second)
    times, said = places.get("times", [None])[0], places.get("said", [None])[0]
    address, queue = places.get("ip", [None])[0], places.get("id", [None])[0]
    if kind != IGNORE and address is None and (queue is None or leaves[queue][1]):
        raise PatternError(
            "nobody to count this for: write {ip} where the client's address stands, or {id} for the queue id that"
            " leads to it"
        )
    if kind == "client" and (address is None or queue is None):
        raise PatternError("a client line says whose a queue id is: it needs both {id} and {ip}")

    free = [index for name in ("*", "user") for index in places.get(name, ())]
    first = min(free, default=len(leaves))
    decided = [leaf for leaf, inside in leaves[:first] if isinstance(leaf, Literal) and inside != "{?…}"]
    if not any(re.search(rb"[A-Za-z<=>]", literal.text) for literal in decided):
        where = leaves[first][0].column if first < len(leaves) else 0
        raise PatternError(
            "no fixed word before the free text: a client could make any line look so; begin with the words the"
            " server prints",
            where,
        )
    for name, place in (("id", queue), ("times", times), ("said", said)):
        if place is not None and place > first:
            raise PatternError(
                f"{{{name}}} after free text: the client could write it; put it before, or write {{word}}",
                leaves[place][0].column,
            )
    anchored = len(leaves)  # from here on, leaves lead from the line's end to the address
    if address is not None and address > first:
        before = max(index for index in free if index < address)
        if any(index > address for index in free):
            raise PatternError(
                "free text on both sides of {ip}: the client could write another address; spell out one side with"
                " literals and typed holes, or count by {id}",
                leaves[address][0].column,
            )
        if not (isinstance(leaves[before + 1][0], Literal) and not leaves[before + 1][1]):
            raise PatternError(
                "between free text and {ip} stands no literal: write the text that the server prints before it",
                leaves[address][0].column,
            )
        taken = getattr(leaves[address][0], "form", None) or IP  # a `regex` may read IPv4 alone, by [0-9.]
        for index in range(address - 1, before, -1):
            leaf, inside = leaves[index]
            if isinstance(leaf, Literal) and leaf.text[-1] in taken:
                raise PatternError(
                    f"`{leaf.text.decode(errors='replace')}` before an {{ip}} that is read from the line's end could"
                    " itself be a piece of an address: write a character that cannot, as in [{ip}] or relay={ip}",
                    leaf.column,
                )
            if not inside:
                break
        anchored = before + 1
    elif (
        first < len(leaves) and leaves[first][0] == Hole("*", leaves[first][0].column) and _closed(leaves[first + 1 :])
    ):
        anchored = first + 1
    for index in range(first + 1, anchored):
        leaf = leaves[index][0]
        if isinstance(leaf, Literal):
            text = leaf.text.decode(errors="replace")
            raise PatternError(
                f"`{text}` stands after free text, where the client could write it: end with {{*}} before it",
                leaf.column,
            )
    if said is not None and (address is None or address < said or address > first):
        raise PatternError(
            "{said} stands before the client's {ip}, as in ({said}) [{ip}]: elsewhere write {*}", leaves[said][0].column
        )
    if said is not None and not (
        isinstance(leaves[said + 1][0], Literal)
        and any(isinstance(leaf, Literal) and len(leaf.text) > 1 for leaf, _ in leaves[said + 1 : address])
    ):
        raise PatternError(
            "{said} needs a literal after it that ends it: write the text the server prints there",
            leaves[said][0].column,
        )


# What stands before a field that a client words, in the logs of mail and login servers; `for` and `as` also stand
# before a host's name. `from`, `name` and `id` are not among them: most often the server's.
CLIENTS_WORDS = frozenset((
    "user", "users", "username", "userid", "login", "account", "acct", "mailbox", "authid", "sasl_username", "ruser",
    "helo", "ehlo", "sender", "recipient", "rcpt", "mailfrom", "subject", "message-id", "msgid", "command", "cmd",
    "agent", "useragent", "user-agent", "attempt",
))  # fmt: skip
BEFORE_HOSTS = frozenset(("for", "as"))
_LAST_WORD = re.compile(rb"([A-Za-z][A-Za-z_-]*)[^0-9A-Za-z]*\Z")


def worded(pattern: Pattern) -> list[tuple[str, str]]:
    """The holes by which a client could write another address, as far as words tell: [(hole, the word before it)].

    He can where he words a typed hole before an {ip} that is read from the line's start, and free text stands behind:
    in `failed for user {word} from {ip}: {*}` the user `x from 192.0.2.7:` is another's address. Without free text
    behind, what he wrote leaves a rest that no pattern takes. Whether he words it only the server's source tells, so
    this goes by the word before the hole, and by what stands between a {name} and the address: a host's name and its
    address are parted by brackets and blanks alone.
    """
    parts = pattern.parts
    if not parts:
        quoted = re.fullmatch(r'regex\s+"(.*)"', pattern.source)
        parts = _regex_parts(quoted[1]) if quoted is not None else ()
    leaves = [leaf for leaf, _ in _leaves(parts)]
    address = next((index for index, leaf in enumerate(leaves) if isinstance(leaf, Hole) and leaf.name == "ip"), None)
    free = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Hole) and leaf.name in ("*", "user")]
    if address is None or not any(index > address for index in free):
        return []
    found = []
    before = ""  # the last word of the literals that stand right before the leaf
    for index, leaf in enumerate(leaves[:address]):
        if isinstance(leaf, Literal):
            last = _LAST_WORD.search(leaf.text)
            before = last[1].decode() if last is not None else "" if re.search(rb"[0-9]", leaf.text) else before
            continue
        between = b"".join(each.text for each in leaves[index:address] if isinstance(each, Literal))
        host = leaf.name == "name" and not re.search(rb"[0-9A-Za-z=]", between)
        if leaf.name in ("word", "name", "words", "quoted", "verb") and (
            before.lower() in CLIENTS_WORDS or (before.lower() in BEFORE_HOSTS and not host)
        ):
            found.append((leaf.name, before))
        before = ""
    return found


def _closed(leaves: Sequence[tuple[Literal | Hole, str]]) -> bool:
    """Whether nothing of the client's in `leaves`, a line's end, can be taken for their words: see the top."""
    if not leaves or leaves[0][1] or not isinstance(leaves[0][0], Literal):
        return False
    paths = [leaf for leaf, inside in leaves if isinstance(leaf, Hole) and leaf.name in PATHS and not inside]
    others = ("ip", "id", "times", *CLIENTS_TEXT)
    return bool(paths) and not any(isinstance(leaf, Hole) and leaf.name in others for leaf, _ in leaves)


# -- parts to regex --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Next:
    """What may follow a hole: literal beginnings (up to two bytes), holes' first characters, free text or the end."""

    literals: frozenset[bytes] = frozenset()
    holes: frozenset[int] = frozenset()
    free: bool = False

    def __or__(self, other: _Next) -> _Next:
        return _Next(self.literals | other.literals, self.holes | other.holes, self.free or other.free)


def _first(parts: Sequence[Part], after: _Next, backwards: bool = False) -> _Next:
    for index, part in enumerate(parts):
        if isinstance(part, Literal):
            return _Next(frozenset({part.text[:2]}))
        if isinstance(part, Hole):
            kind = HOLES[part.name]
            if backwards and kind.backwards is not None:
                return _Next(holes=kind.last)
            return _Next(free=True) if part.name in CLIENTS_TEXT else _Next(holes=kind.characters)
        rest = _first(parts[index + 1 :], after, backwards)
        if isinstance(part, Maybe):
            return _first(part.parts, rest, backwards) | rest
        found = _Next()
        for branch in part.branches:
            found |= _first(branch, rest, backwards)
        return found
    return after


def escaped(text: bytes) -> bytes:
    """`text` as an expression. As re.escape, which also escapes what need not be: that takes time to compile."""
    return _SPECIAL.sub(rb"\\\g<0>", text)


def _rests(parts: Sequence[Part], after: _Next, backwards: bool = False) -> list[_Next]:
    """What may follow each of `parts`."""
    found = [after]
    for index in range(len(parts) - 1, 0, -1):
        found.append(_first(parts[index : index + 1], found[-1], backwards))
    return found[::-1]


@lru_cache(maxsize=4096)
def _set(characters: frozenset[int]) -> bytes:
    """A character class, as ranges."""
    ranges: list[list[int]] = []
    for code in sorted(characters):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return b"[" + b"".join(map(_range, ranges)) + b"]"


def _range(ends: Sequence[int]) -> bytes:
    first, last = (b"\\" + bytes([end]) if end in b"\\]^-[&~|" else bytes([end]) for end in ends)
    return first if first == last else first + b"-" + last


def _hole(hole: Hole, after: _Next, backwards: bool = False) -> bytes:
    name, kind = hole.name, HOLES[hole.name]
    if backwards and kind.form is not None:
        if kind.backwards is None:
            raise PatternError(
                f"{{{name}}} cannot be read from the line's end: write {{word}} or end with {{*}} before it",
                hole.column,
            )
        return kind.backwards
    if name == "*":
        return b".*"
    if name == "said":
        return SAID
    if name == "user":  # before an anchor from the end all of it is the user's text, else it ends where a word does
        return b"(?P<user>.*)" if after.literals else rb"(?P<user>[^\s,;()<>\[\]]{0,255})"
    if name == "ip":
        for text in after.literals:
            if text[0] in IP and (text[0] not in b":." or len(text) < 2 or text[1] in IP):
                raise PatternError(
                    "{ip} runs into the text after it: write what ends the address there, as in [{ip}]:{port}",
                    hole.column,
                )
        if after.holes or after.free:
            raise PatternError(
                "{ip} needs a literal after it, or the end of the line: write the character that ends the address",
                hole.column,
            )
    elif kind.form is None and after.holes & kind.characters:
        raise PatternError(
            f"{{{name}}} runs into the hole after it: write the literal that stands between them", hole.column
        )
    if kind.form is not None:
        return kind.form
    return _run(name, frozenset([text[0] for text in after.literals]))


@lru_cache(maxsize=4096)
def _run(name: str, without: frozenset[int]) -> bytes:
    """As many of a hole's characters as it takes."""
    kind = HOLES[name]
    low, high = kind.low, kind.high
    run = _set(kind.characters - without) + (b"{%d}" % low if low == high else b"{%d,%d}" % (low, high) + FINAL)
    return b"(?P<%s>%s)" % (name.encode(), run) if name in ("id", "times") else run


def _regex(parts: Sequence[Part], after: _Next, backwards: bool = False) -> bytes:
    return b"".join(_pieces(parts, after, backwards))


def spelled(pattern: Pattern) -> tuple[list[tuple[Part, bytes]], bytes, list[Part]]:
    """A pattern's parts up to its last {*}, each with its expression; that of its ending, read backwards; its parts.

    Every hole is a group, `h0`, `h1`, … from left to right, the ending's `b0`, `b1`, … from right to left.
    For telling people how a line was read; `match` is what decides. Empty for a `regex`.
    """
    front, back = _split(pattern.parts)
    names = iter(f"h{number}" for number in range(LONGEST_TOLD))
    pieces: list[bytes] = []
    for index, part in enumerate(front):
        rest = _first(front[index + 1 :], _Next())
        pieces.append(_told(part, rest, False, names))
    if front:
        pieces, _ = _settle_said(pieces, front)
    names = iter(f"b{number}" for number in range(LONGEST_TOLD))
    behind, ending = list(_backwards(back)), b""
    for index, part in enumerate(behind):
        ending += _told(part, _first(behind[index + 1 :], _Next(free=True), True), True, names)
    return list(zip(front, pieces, strict=True)), b" {0,4}" + ending if behind else b"", behind


def holes_of(parts: Sequence[Part]) -> list[Hole]:
    """All holes from left to right, those in brackets too."""
    return [leaf for leaf, _ in _leaves(parts) if isinstance(leaf, Hole)]


def _told(part: Part, rest: _Next, backwards: bool, names: Iterator[str]) -> bytes:
    """The expression of a part, each hole in it a group of its own."""
    if isinstance(part, Literal):
        return escaped(part.text)
    if isinstance(part, Hole):
        return b"(?P<%s>%s)" % (next(names).encode(), _hole(part, rest, backwards))

    def row(parts: Sequence[Part]) -> bytes:
        return b"".join(
            _told(each, _first(parts[index + 1 :], rest, backwards), backwards, names)
            for index, each in enumerate(parts)
        )

    if isinstance(part, Maybe):
        return b"(?:" + row(part.parts) + b")?"
    return b"(?:" + b"|".join(row(branch) for branch in part.branches) + b")"


def _pieces(parts: Sequence[Part], after: _Next, backwards: bool = False) -> list[bytes]:
    """The expression of each part; a literal's byte by byte."""
    found: list[bytes] = []
    for part, rest in zip(parts, _rests(parts, after, backwards), strict=False):
        if isinstance(part, Literal):
            found += [ESCAPED[code] for code in part.text]
        elif isinstance(part, Hole):
            found.append(_hole(part, rest, backwards))
        elif isinstance(part, Maybe):
            found.append(b"(?:" + _regex(part.parts, rest, backwards) + b"|)")  # a third faster than (?:…)?
        elif part.branches == ((Hole("quoted"),), (Hole("word"),)):
            found.append(_value(rest))
        else:
            found.append(b"(?:" + b"|".join(_regex(branch, rest, backwards) for branch in part.branches) + b")")
    return found


def _value(rest: _Next) -> bytes:
    """{({quoted}|{word})}, where what ends with a quote is no word: else a line that fails is tried twice for each."""
    taken = HOLES["word"].characters - {text[0] for text in rest.literals}
    quoted, word = _hole(Hole("quoted"), rest) + b"(?!" + _set(taken) + b")", _hole(Hole("word"), rest)
    return _final(quoted + b"|" + word)


def _longest(parts: Sequence[Part]) -> int | None:
    """The most bytes that `parts` can take; None where that has no bound."""
    found = 0
    for part in parts:
        lengths: list[int | None]
        if isinstance(part, Literal):
            lengths = [len(part.text)]
        elif isinstance(part, Maybe):
            lengths = [_longest(part.parts)]
        elif isinstance(part, Choice):
            lengths = [_longest(branch) for branch in part.branches]
        else:
            lengths = [None if part.name in (*CLIENTS_TEXT, *PATHS) else HOLES[part.name].high]
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            return None
        found += max(known)
    return found


def _jump(pieces: list[bytes], parts: Sequence[Part]) -> list[bytes]:
    """Free text before what ends the line: all that cannot be its last part is passed over at once.

    Else each byte of it that looks like the first behind it costs a try: 0.6 ms in a line of 8 KiB commas.
    """
    free = [part for part in parts if isinstance(part, Hole) and part.name in ("*", "user")]
    last = next((place for place, piece in reversed([*enumerate(pieces)]) if piece in JUMPS), None)
    length = _longest(parts[list(parts).index(free[-1]) + 1 :]) if free else None
    if last is None or length is None:
        return pieces
    rest = length + 4 + -(length + 4) % ALIKE  # patterns that share what precedes shall share this
    over = _final(b"(?:.{%d}(?=.{%d}))*" % (STEP, rest))  # most lines are shorter, and at once told to be
    return [*pieces[:last], JUMPS[pieces[last]] % over, *pieces[last + 1 :]]


def _backwards(parts: Sequence[Part]) -> tuple[Part, ...]:
    """`parts` as they stand in the line read from its end."""
    found: list[Part] = []
    for part in reversed(parts):
        if isinstance(part, Literal):
            found.append(Literal(part.text[::-1], part.column))
        elif isinstance(part, Maybe):
            found.append(Maybe(_backwards(part.parts), part.column))
        elif isinstance(part, Choice):
            found.append(Choice(tuple(_backwards(branch) for branch in part.branches), part.column))
        else:
            found.append(part)
    return tuple(found)


def _split(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """`parts` up to their last {*}, and those behind it where they are read from the line's end for their own sake."""
    place = max((index for index, part in enumerate(parts) if part == Hole("*", part.column)), default=-1)
    if place < 0 or not _closed(list(_leaves(parts[place + 1 :]))):
        return parts, ()
    return parts[: place + 1], parts[place + 1 :]


def _merge(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring literals (an abbreviation's edge) as one, at every depth."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Literal) and isinstance(last, Literal):
            found[-1] = Literal(last.text + part.text, last.column)
        elif isinstance(part, Maybe):
            found.append(Maybe(_merge(part.parts), part.column))
        elif isinstance(part, Choice):
            found.append(Choice(tuple(_merge(branch) for branch in part.branches), part.column))
        else:
            found.append(part)
    return tuple(found)


def _repeats(part: Part, inner: tuple[Part, ...]) -> bool:
    """Whether `part` is an optional `inner`, or some of them one in the other."""
    return isinstance(part, Maybe) and (
        part.parts == inner or (part.parts[:-1] == inner and _repeats(part.parts[-1], inner))
    )


def _nest(parts: Sequence[Part]) -> tuple[Part, ...]:
    """`parts`, optional ones that are repeated side by side put one in the other, at every depth.

    {?, {word}}{?, {word}} takes what {?, {word}{?, {word}}} does, but has two ways to take one word, and ten of them
    1024 ways to take five: a line that fails further on would be tried with each.
    """
    found: list[Part] = []
    for part in reversed(parts):
        if isinstance(part, Choice):
            found.append(Choice(tuple(_nest(branch) for branch in part.branches), part.column))
        elif isinstance(part, Maybe):
            inner = _nest(part.parts)
            found.append(Maybe((*inner, found.pop()) if found and _repeats(found[-1], inner) else inner, part.column))
        else:
            found.append(part)
    return tuple(reversed(found))


def _since(parts: Sequence[Part], name: str = "said") -> list[Part] | None:
    """What stands after the hole `name`; inside a {?…} on to what stands after that."""
    for index, part in enumerate(parts):
        inner = _since(part.parts, name) if isinstance(part, Maybe) else None
        if inner is not None or (isinstance(part, Hole) and part.name == name):
            return [*(inner or ()), *parts[index + 1 :]]
    return None


def _until(parts: Sequence[Part], name: str = "said") -> list[Part] | None:
    """What stands before the hole `name`, as it is where that hole is there."""
    for index, part in enumerate(parts):
        inner = _until(part.parts, name) if isinstance(part, Maybe) else None
        if inner is not None or (isinstance(part, Hole) and part.name == name):
            return [*parts[:index], *(inner or ())]
    return None


def _settle_said(pieces: list[bytes], parts: Sequence[Part]) -> tuple[list[bytes], tuple[bytes, Words]]:
    """The client's words end at the first place where their literal and an address follow, whatever comes then.

    The first place is final: by (?>…), and before 3.11 by (?=(…)) and its repetition, since a lookahead is atomic.
    Also returns (the literal and address, the words).
    """
    since = _since(parts)
    if since is None:
        return pieces, (b"", ())
    place = next(index for index, part in enumerate(since) if isinstance(part, Hole) and part.name == "ip")
    again = next((hole for hole in holes_of(since[:place]) if hole.name == "said"), None)
    if again is not None:
        raise PatternError("a second {said} before {ip}: write {word} for this one", again.column)
    form = (HOLES["ip"].form or b"").replace(b"?P<ip>", b"?:")
    ending = _regex(since[:place], _Next(frozenset({b"0"}))) + form
    wall = since[place + 1 : place + 2]
    closed = escaped(wall[0].text[:1]) if wall and isinstance(wall[0], Literal) else b""
    said = SAID
    if isinstance(since[0], Literal):  # from one first character of the ending to the next: ten times as fast
        start = escaped(since[0].text[:1])
        other = b"[^" + start + b"]{0,8192}" + FINAL
        stop = b"(?!" + ending + closed + b")" + start
        said = b"(?P<said>" + _final(other + b"(?:" + stop + other + b"){0,%d}" % ENDINGS) + b")"
    first = next(index for index, piece in enumerate(pieces) if SAID in piece)
    settled = [piece.replace(SAID, b"(?P=said)") for piece in pieces]
    before, _, after = pieces[first].partition(SAID)
    if said is SAID or not FINAL:
        said = b"(?=" + said + ending + closed + b")(?P=said)"
    settled[first] = before + said + after.replace(SAID, b"(?P=said)")
    return settled, (ending, _loose(since[place + 1 :]))


def settle(patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    """A filter's patterns, those with {said} made to refuse a line that may be two of them.

    Where the client's words hold an ending of their own, the true one follows further on, with words that the server
    prints after the address in this pattern or in another that ends {said} alike.
    """
    after: dict[tuple[bytes, bytes], dict[bytes | None, list[Words]]] = {}
    owners: dict[bytes, dict[bytes, list[int]]] = {}
    for number, pattern in enumerate(patterns):
        if pattern.said[0]:
            after.setdefault((pattern.said[0], b""), {}).setdefault(pattern.begin, []).append(pattern.said[1])
            if pattern.begin is not None:
                owners.setdefault(pattern.said[0], {}).setdefault(pattern.begin, []).append(number)
        if pattern.word[0]:
            after.setdefault((pattern.said[0], pattern.word[0]), {}).setdefault(pattern.begin, []).append(
                pattern.word[1]
            )
    again = {
        (said, word): Endings(
            word or said,
            tuple((begin, _any(words)) for begin, words in by.items() if begin is not None),
            b"|".join(re.sub(rb"\?P<\w+>", b"?:", begin) for begin in by if begin is not None),
            ()
            if word
            else tuple(
                (
                    begin,
                    _first_of([patterns[number].said[1] for number in numbers]),
                    tuple((number, tuple(sorted(patterns[number].needles, key=len))) for number in numbers),
                )
                for begin, numbers in owners.get(said, {}).items()
            ),
        )
        for (said, word), by in after.items()
    }
    return tuple(
        replace(
            pattern,
            again=again.get((pattern.said[0], b"")),
            also=again.get((pattern.said[0], pattern.word[0])) if pattern.word[0] else None,
        )
        for pattern in patterns
    )


def _word_said(parts: Sequence[Part]) -> tuple[bytes, Words]:
    """As `_settle_said` for a second text of the client's, one {word}, as in "{said}" H={?({word}) }[{ip}].

    Where it holds a blank after all, and so an ending of its own, the true one follows further on.
    """
    since = _since(_since(parts) or (), "word")
    place = next((i for i, part in enumerate(since or ()) if isinstance(part, Hole) and part.name == "ip"), None)
    if since is None or place is None or not (isinstance(since[0], Literal) and since[0].text[:1] == b")"):
        return b"", ()
    form = (HOLES["ip"].form or b"").replace(b"?P<ip>", b"?:")
    return _regex(since[:place], _Next(frozenset({b"0"}))) + form, _loose(since[place + 1 :])


def _any(words: Sequence[Words]) -> bytes:
    """One expression for any of `words`, what they begin with in common written once."""
    if any(not each for each in words):
        return b""
    branches: dict[bytes, list[Words]] = {}
    for first, *rest in words:
        branches.setdefault(first, []).append(tuple(rest))
    return b"(?:" + b"|".join(first + _any(rest) for first, rest in branches.items()) + b")"


def _first_of(words: Sequence[Words]) -> bytes:
    """One expression for the first of `words` that fits, told by the number of its last group, from 1 on.

    What neighbours begin with in common is written once.
    """
    found: list[bytes] = []
    for first, alike in groupby(words, key=lambda each: each[:1]):
        rest = [each[1:] for each in alike]
        found += [first[0] + _first_of(rest)] if first else [b"()"] * len(rest)
    return b"(?:" + b"|".join(found) + b")"


def _loose(parts: Sequence[Part]) -> Words:
    """The server's words at the beginning of `parts`, up to where the client's begin."""
    found: list[bytes] = []
    rests = _rests(parts, _Next())
    for index, part in enumerate(parts):
        rest = parts[index + 1 :]
        if isinstance(part, Hole) and part.name in (*CLIENTS_TEXT, "words"):
            return tuple(found)
        if isinstance(part, Hole) and part.name in PATHS:
            return (*found, b"<")  # what a client writes there is not trusted to be a path
        names = {leaf.name for leaf, _ in _leaves([part]) if isinstance(leaf, Hole)}
        if isinstance(part, Choice) and names & {"quoted", *PATHS}:
            return (*found, rb"[\x21-\xff]")  # a certificate's name and the like
        if isinstance(part, Maybe) and names & {"quoted", *PATHS, *CLIENTS_TEXT}:
            return (*found, _any([_loose([*part.parts, *rest]), _loose(rest)]))
        found.append(re.sub(rb"\?P<(?:ip|id|times|user)>", b"?:", _regex([part], rests[index])))
    return (*found, rb" {0,4}\Z")


def example(parts: Sequence[Part], turn: int) -> bytes:
    """A made-up text that `parts` take; others for other turns."""
    found = b""
    for part in parts:
        if isinstance(part, Literal):
            found += part.text
        elif isinstance(part, Hole):
            found += HOLES[part.name].examples[turn % 3]
        elif isinstance(part, Maybe):
            found += example(part.parts, turn) if turn % 2 else b""
        else:
            found += example(part.branches[turn % len(part.branches)], turn)
    return found


def compile_parts(kind: str, parts: Sequence[Part], source: str = "", line: int = 1) -> Pattern:
    """The pattern for a line's body (what follows `program[pid]: `). Raises PatternError."""
    parts = _nest(_merge(parts))
    _judge(kind, parts)
    front, back = _split(parts)
    ending = b" {0,4}" + _regex(_backwards(back), _Next(free=True), True) if back else None
    pieces, said = _settle_said(_pieces(front, _Next()), front)
    last = front[-1]
    if isinstance(last, Hole) and last.name == "*":
        del pieces[-1]
        behind = [part.text for part in back if isinstance(part, Literal)]
        if behind:  # without it, the line's end needs no look
            pieces.append(b"(?=.*" + escaped(max(behind, key=len)) + b")")
    elif not (isinstance(last, Hole) and last.name == "user"):
        pieces = [*_jump(pieces, front), rb" {0,4}\Z"]  # blanks that some programs end their lines with
    literals = tuple(part.text for part in parts if isinstance(part, Literal))
    if max(map(len, literals), default=0) < SHORTEST:
        raise PatternError("too little fixed text to search for: write a pattern for each of the words in {(…)}")
    holes = frozenset(leaf.name for leaf, _ in _leaves(parts) if isinstance(leaf, Hole))
    since = _since(parts) or ()
    stop = since[0].text if since and isinstance(since[0], Literal) else b""
    return Pattern(
        kind,
        parts,
        literals,
        holes,
        source,
        line,
        tuple(_older(pieces)),
        tuple(_needles(parts)),
        said,
        _word_said(parts),
        stop,
        begin=_regex(_until(parts) or (), _Next(free=True)) if since else None,
        ending=ending,
    )


def _needles(parts: Sequence[Part]) -> Iterator[Words]:
    """Byte strings to look for: each literal alone, or, of a {(…)}, one of each branch."""
    for part in parts:
        if isinstance(part, Literal):
            yield (part.text,)
        elif isinstance(part, Choice):
            branches = [
                max((one for one in _needles(branch)), key=_shortest, default=(b"",)) for branch in part.branches
            ]
            yield tuple(text for texts in branches for text in texts)


def _shortest(texts: Words) -> int:
    return min(map(len, texts))


# -- the escape hatch ------------------------------------------------------------------------------------------------

_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_CATEGORIES = {
    "CATEGORY_DIGIT": DIGITS,
    "CATEGORY_WORD": ALNUM | {95},
    "CATEGORY_SPACE": frozenset(b" \t\n\r\v\f"),
}
_GROUPS = {  # a group, the characters it may take, and how to write it
    "ip": (IP, "(?P<ip>[0-9A-Fa-f:.]{2,45})"),
    "id": (ALNUM | {45}, "(?P<id>[0-9A-Za-z-]{5,32})"),
}


def _characters(node: Any) -> frozenset[int] | None:
    """What a node of one character takes; None where that is not one exact set: `.`, a negation, a group."""
    name, argument = str(node[0]), node[1]
    if name == "LITERAL":
        return frozenset({argument})
    if name != "IN":
        return None
    found: set[int] = set()
    for member, value in argument:
        if str(member) == "LITERAL":
            found.add(value)
        elif str(member) == "RANGE":
            found.update(range(value[0], value[1] + 1))
        elif str(value) in _CATEGORIES:
            found |= _CATEGORIES[str(value)]
        else:
            return None
    return frozenset(found)


def _next_characters(nodes: Sequence[Any]) -> frozenset[int]:
    """What may stand first in the text after a repetition, as far as it is exact."""
    for node in nodes[:1]:
        name, argument = str(node[0]), node[1]
        if name in _REPEATS:
            follow = _next_characters(list(argument[2]))
            return follow if argument[0] else follow | _next_characters(nodes[1:])
        if name == "SUBPATTERN":
            return _next_characters(list(argument[-1]))
        if name == "BRANCH":
            return frozenset().union(*(_next_characters(list(branch)) for branch in argument[1]))
        return _characters(node) or frozenset()
    return frozenset()


def _walk(nodes: Sequence[Any], names: dict[int, str], repeated: bool = False) -> Iterator[Part]:
    """A regex as parts for `_judge`: exact runs as {word}; what is open, or may run over what follows, as {*}."""
    for index, node in enumerate(nodes):
        name, argument = str(node[0]), node[1]
        if name in _REPEATS:
            low, high, inner = argument[0], argument[1], list(argument[2])
            if repeated:
                raise PatternError("a repetition inside a repetition: on a hostile line it would never end; write one")
            if (low, high) == (0, 1):
                yield Maybe(tuple(_walk(inner, names, True)))
                continue
            parts = list(_walk(inner, names, True))
            exact = all(isinstance(part, Literal) or (isinstance(part, Hole) and part.name == "word") for part in parts)
            overlap = _next_characters(inner) & _next_characters(nodes[index + 1 :])
            yield Hole("word" if exact and not overlap else "*")
        elif name == "SUBPATTERN" and argument[0] is None:
            yield from _walk(list(argument[-1]), names, repeated)
        elif name == "SUBPATTERN":
            yield _group(names[argument[0]], list(argument[-1]))
        elif name == "BRANCH":
            yield Choice(tuple(tuple(_walk(list(branch), names, repeated)) for branch in argument[1]))
        elif name == "LITERAL":
            yield Literal(bytes([argument]))
        elif name in ("IN", "ANY", "NOT_LITERAL"):
            yield Hole("*" if _characters(node) is None else "word")
        else:
            raise PatternError("only literals, sets, groups, | and repetitions: no looking around, no references")


def _group(name: str, inner: Sequence[Any]) -> Hole:
    if name in _GROUPS:
        allowed, form = _GROUPS[name]
        taken = _characters(next(iter(inner[0][1][2]))) if len(inner) == 1 and str(inner[0][0]) in _REPEATS else None
        if taken is None or not taken <= allowed:
            raise PatternError(f"write the group as {form}")
        return Hole(name, form=bytes(sorted(taken)))
    return Hole(name)


def _regex_parts(text: str) -> tuple[Part, ...]:
    """A regular expression as parts, with a {*} at its end unless it ends with `$`. Raises PatternError."""
    try:
        regex = re.compile(text.encode(), re.DOTALL)
        nodes = list(sre_parser.parse(text.encode(), re.DOTALL))
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if regex.flags != re.DOTALL or "(?-" in text:
        raise PatternError("it sets flags: it is read over bytes, and `.` takes any")
    if set(regex.groupindex) - {"ip", "id", "user"} or regex.groups > len(regex.groupindex):
        raise PatternError("its groups may be (?P<ip>…), (?P<id>…) and (?P<user>…); write (?:…) for others")
    if nodes and str(nodes[0][0]) == "AT" and "BEGINNING" in str(nodes[0][1]):
        del nodes[0]
    ends = bool(nodes) and str(nodes[-1][0]) == "AT" and str(nodes[-1][1]) in ("AT_END", "AT_END_STRING")
    names = {number: name for name, number in regex.groupindex.items()}
    parts = _merge([*_walk(nodes[:-1] if ends else nodes, names)])
    return parts if ends or parts[-1:] == (Hole("*"),) else (*parts, Hole("*"))


def compile_regex(kind: str, text: str, source: str = "", line: int = 1) -> Pattern:
    """The escape hatch: a regular expression with the groups (?P<ip>…), (?P<id>…), (?P<user>…), under the same rules.

    Anchored at the body's start; at its end only with `$`. What is open (`.`, a negated set) and what could run over
    the character that follows it counts as free text; (?P<ip>…) stands between literals.
    """
    parts = _regex_parts(text)
    _judge(kind, parts)
    for index, part in enumerate(parts):
        before, after = parts[index - 1] if index else None, parts[index + 1] if index + 1 < len(parts) else None
        if isinstance(part, Hole) and part.name == "ip":
            taken = part.form or b""  # [0-9.], IPv4 alone, may stand after a colon
            started = isinstance(before, Literal) and before.text[-1] not in taken
            ended = after is None or (isinstance(after, Literal) and after.text[0] not in taken)
            if not (started and ended):
                raise PatternError(
                    "(?P<ip>…) stands between literals that end it, as in \\[(?P<ip>[0-9A-Fa-f:.]{2,45})\\]"
                )
        if isinstance(part, Hole) and part.name in CLIENTS_TEXT and before in (Hole("*"), Hole("user")):
            raise PatternError("two open parts side by side: on a hostile line they would never end; write one")
    literals = tuple(part.text for part in parts if isinstance(part, Literal))
    if not literals:
        raise PatternError("no literal text: write words that stand in every such line")
    holes = frozenset(leaf.name for leaf, _ in _leaves(parts) if isinstance(leaf, Hole))
    whole = b"(?:" + text.encode() + b")"
    needles = tuple((literal,) for literal in literals)
    return Pattern(kind, (), literals, holes, source, line, (whole,), needles)
