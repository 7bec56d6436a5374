"""grammar: filter files, policy sentences and durations, read with pyparsing. Pure.

The only module that imports pyparsing, and only when a text is to be read: a matching line would cost it 732 µs, its
import 0.05 s and 5 MB, so nothing that runs per line, and no command that reads no text of the admin's, comes here.

A filter file, one statement a line, `#` begins a comment line:
    filter NAME
    program GLOB, GLOB, …           `bare` for a log whose lines begin with the stamp and name no host and program
    let NAME = TEXT                 {NAME} in later texts
    KIND TEXT                       a pattern; see denyspam.pattern. KIND `client` says whose a queue id is,
    KIND regex "EXPRESSION"           `ignore` takes a line away from the patterns below
    sample KIND [ADDRESS] [id ID] [user NAME] [times N]
      LINE                          indented raw log lines, each of which must come out so
    sample none
      LINE
Every error is a FilterError or SettingsError with file:line:column and what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from denyspam.events import FilterError, Policy, SettingsError
from denyspam.filter import Filter, Sample, check
from denyspam.pattern import (
    HOLES,
    IGNORE,
    Choice,
    Hole,
    Literal,
    Maybe,
    Part,
    Pattern,
    PatternError,
    compile_parts,
    compile_regex,
    settle,
)

if TYPE_CHECKING:
    import pyparsing as pp

LARGEST = 1 << 20  # bytes of a filter file: the shipped ones have some ten thousand
LONGEST = 4096  # characters of one pattern
MOST_HITS = 10_000  # the times kept per address are this many floats
LONGEST_WINDOW = 31 * 86400.0  # the log is re-read over the longest window at every start
LONGEST_BAN = 10 * 365 * 86400.0

UNITS = {
    "s": (1, "s|secs?|seconds?"),
    "m": (60, "m|mins?|minutes?"),
    "h": (3600, "h|hrs?|hours?"),
    "d": (86400, "d|days?"),
    "w": (7 * 86400, "w|weeks?"),
}
UNIT = "|".join(f"(?P<{unit}>{words})" for unit, (_, words) in UNITS.items())
TERM = rf"[0-9]{{1,9}}(?:\.[0-9]{{1,3}})? ?(?:{UNIT})(?![A-Za-z.])"
KIND = r"[a-z][a-z0-9_-]{0,31}"
NAME = r"[a-z][a-z0-9_-]{0,63}"


class _Unread(Exception):
    """A text that its grammar does not take, from `place` on."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def _read(grammar: Callable[[], pp.ParserElement], text: str) -> pp.ParseResults:
    """What the whole of `text` says. Raises _Unread."""
    import pyparsing as pp

    try:
        return grammar().parse_string(text, parse_all=True)
    except pp.ParseBaseException as error:
        raise _Unread(error.loc) from None


# -- durations -------------------------------------------------------------------------------------------------------


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `15m`, `1h30m`, `7d`, `2w`, also written out: `1.5h`, `15 min`, `1 day 12 hours`.

    Raises ValueError saying what to write.
    """
    try:
        found: float = _read(_duration, text.strip())[0]
    except _Unread:
        raise ValueError(
            f"`{text.strip()[:40]}` is no duration: write a number and a unit, such as 30s, 15m, 1h30m, 7d or 2w"
        ) from None
    return found


@cache
def _duration() -> pp.ParserElement:
    import pyparsing as pp

    term = pp.Regex(TERM).set_parse_action(_seconds)
    return pp.OneOrMore(term).set_parse_action(lambda t: float(sum(t)))


def _seconds(term: pp.ParseResults) -> float:
    number = float(re.split("[ a-z]", term[0], maxsplit=1)[0])
    return number * next(seconds for unit, (seconds, _) in UNITS.items() if term[unit])


# -- policies --------------------------------------------------------------------------------------------------------


@cache
def _policy() -> pp.ParserElement:
    import pyparsing as pp

    number = pp.Regex(r"[0-9]{1,18}").set_parse_action(lambda t: int(t[0]))
    duration = _duration()
    word = pp.Keyword
    ports = pp.DelimitedList(number) if hasattr(pp, "DelimitedList") else pp.delimited_list(number)
    option = (
        (word("doubling") - word("to") - pp.Located(duration)("ceiling"))
        | (word("forget") - pp.Located(duration)("forget"))
        | (word("by") - (pp.Combine(pp.Literal("net/") - number)("net") | word("user")("user")))
        | (word("ports") - pp.Located(ports)("ports"))
        | (word("action") - pp.Regex(NAME)("action"))
    )
    return (
        pp.Located(number)("hits")
        - word("in")
        - pp.Located(duration)("within")
        - pp.Literal("->")
        - word("ban")
        - pp.Located(duration)("duration")
        + pp.Group(pp.ZeroOrMore(pp.Suppress(",") - pp.Group(pp.Located(option))))("options")
    )


EXAMPLE = (
    "write it as `5 in 15m -> ban 1h`, or `5 in 15m -> ban 30m, doubling to 7d, forget 30d, by net/24, ports 465, 587`"
)


def parse_policy(name: str, sentence: str, file: str, line: int, column: int = 1) -> Policy:
    """The policy of one configuration line `name = sentence`; the kind is `name` up to its first dot.

    Raises SettingsError; `column` is where `sentence` begins in its line, from 1.
    """

    def wrong(message: str, place: int = 0) -> SettingsError:
        return SettingsError(message, file, line, place + column)

    if not re.fullmatch(rf"{KIND}(?:\.[a-z0-9_-]{{1,64}})*", name):
        raise SettingsError(
            f"`{name[:60]}` is no name for a policy: write the kind, or the kind, a dot and a word of your own, as"
            " in relay.slow",
            file,
            line,
            1,
        )
    try:
        found = _read(_policy, sentence)
    except _Unread as error:
        rest = sentence[error.place :][:40]
        where = f"at `{rest}`" if rest else "at its end"
        raise wrong(f"cannot read the policy {where}: {EXAMPLE}", error.place) from None

    def value(located: pp.ParseResults) -> float:
        return float(located["value"][0])

    hits, within, duration = (value(found[key]) for key in ("hits", "within", "duration"))
    if not 1 <= hits <= MOST_HITS:
        raise wrong(f"{hits:.0f} hits: write a number from 1 to {MOST_HITS}", found["hits"]["locn_start"])
    if not 1 <= within <= LONGEST_WINDOW:
        raise wrong("the window must be from 1s to 31d", found["within"]["locn_start"])
    if not 1 <= duration <= LONGEST_BAN:
        raise wrong("a ban must last from 1s to 3650d", found["duration"]["locn_start"])
    options: dict[str, float | int | tuple[int, ...]] = {}
    for group in found["options"]:
        option = group["value"]
        place = len(sentence) - len(sentence[group["locn_start"] :].lstrip())
        key = str(option[0]) if option[0] != "by" else "by"
        if key in options:
            raise wrong(f"`{key}` twice: write it once", place)
        if key == "doubling":
            options[key] = value(option["ceiling"])
            if not duration <= value(option["ceiling"]) <= LONGEST_BAN:
                raise wrong("`doubling to` must name a duration from the first ban's to 3650d", place)
        elif key == "forget":
            options[key] = value(option["forget"])
            if not 1 <= value(option["forget"]) <= LONGEST_BAN:
                raise wrong("`forget` must name a duration from 1s to 3650d", place)
        elif key == "by":
            if "user" in option:
                raise wrong("`by user` is not built yet: leave it out to count by address, or write `by net/24`", place)
            options[key] = int(str(option["net"]).removeprefix("net/"))
            if not 8 <= int(str(option["net"]).removeprefix("net/")) <= 128:
                raise wrong("`by net/` takes a prefix length from 8 to 128, such as net/24", place)
        elif key == "ports":
            ports = tuple(int(port) for port in option["ports"]["value"])
            if not all(1 <= port <= 65535 for port in ports):
                raise wrong("a port is a number from 1 to 65535", place)
            options[key] = tuple(sorted(set(ports)))
        else:
            raise wrong(
                "`action` is not built yet: leave it out; the [daemon] section's action carries bans out", place
            )
    by, listed = options.get("by"), options.get("ports")
    return Policy(
        name,
        name.partition(".")[0],
        int(hits),
        within,
        duration,
        options.get("doubling"),  # type: ignore[arg-type]
        options.get("forget"),  # type: ignore[arg-type]
        by,  # type: ignore[arg-type]
        listed,  # type: ignore[arg-type]
    )


# -- a pattern's text ------------------------------------------------------------------------------------------------


@cache
def _text() -> pp.ParserElement:
    """TEXT -> parts. Blanks count, so no element may skip them."""
    import pyparsing as pp

    usual = pp.ParserElement.DEFAULT_WHITE_CHARS
    pp.ParserElement.set_default_whitespace_chars("")  # leave_whitespace() does not reach through a Forward
    try:
        return _text_elements()
    finally:
        pp.ParserElement.set_default_whitespace_chars(usual)


def _text_elements() -> pp.ParserElement:
    import pyparsing as pp

    part = pp.Forward()
    inside = pp.Forward()
    hole = pp.Regex(NAMED).set_parse_action(lambda s, place, t: Hole(t[0], place - 1))
    maybe = (pp.Suppress("?") - pp.OneOrMore(part)).set_parse_action(lambda s, place, t: Maybe(tuple(t), place - 1))
    branch = pp.Group(pp.OneOrMore(inside))
    several = (pp.Suppress("(") - branch - pp.OneOrMore(pp.Suppress("|") - branch) - pp.Suppress(")")).set_parse_action(
        lambda s, place, t: Choice(tuple(tuple(each) for each in t), place - 1)
    )
    bracket = pp.Suppress("{") - (maybe | several | hole) - pp.Suppress("}")
    part <<= pp.Regex(PIECES_ALONE.pattern).set_parse_action(_plain) | bracket
    inside <<= pp.Regex(rf"(?:{PLAIN_INSIDE}|{BRACKETS})+").set_parse_action(_plain) | bracket
    return pp.OneOrMore(part).parse_with_tabs()


# What holds no bracket in a bracket is taken in one piece: one element at a time takes pyparsing five times as long. Of
# ten texts nine hold none anywhere, and are not given to it at all: that is a fifth of what the filters take.
NAMED = r"\*|<?[A-Za-z][A-Za-z0-9_-]{0,63}>?"
ESCAPE = r"\\[{}\\|()# ]"
PLAIN = rf"\{{(?:{NAMED})\}}|{ESCAPE}|[^{{}}\\]"
PLAIN_INSIDE = rf"\{{(?:{NAMED})\}}|{ESCAPE}|[^{{}}\\|)]"
BRACKETS = rf"\{{\?(?:{PLAIN})+\}}|\{{\((?:{PLAIN_INSIDE})+(?:\|(?:{PLAIN_INSIDE})+)+\)\}}"
PIECES = re.compile(
    rf"\{{(?P<hole>{NAMED})\}}|\{{\?(?P<maybe>(?:{PLAIN})+)\}}|\{{\((?P<choice>(?:{PLAIN_INSIDE}|\|)+)\)\}}"
    rf"|(?P<literal>(?:{ESCAPE}|[^{{}}\\])+)"
)
PIECES_ALONE = re.compile(rf"(?:{PLAIN}|{BRACKETS})+")
BRANCH = re.compile(rf"(?:{PLAIN_INSIDE})+")


def _plain(text: str, place: int, tokens: pp.ParseResults) -> list[Part]:
    return list(_pieces(tokens[0], place))


def _pieces(text: str, place: int) -> Iterator[Part]:
    """The parts of a text without a bracket in a bracket."""
    for found in PIECES.finditer(text):
        column = place + found.start()
        if found["literal"]:
            yield Literal(re.sub(r"\\(.)", r"\1", found["literal"]).encode(), column)
        elif found["hole"]:
            yield Hole(found["hole"], column)
        elif found["maybe"]:
            yield Maybe(tuple(_pieces(found["maybe"], column + 2)), column)
        else:
            branches = BRANCH.finditer(found["choice"])
            yield Choice(tuple(tuple(_pieces(each[0], column + 2 + each.start())) for each in branches), column)


def _parts(text: str, lets: dict[str, tuple[Part, ...]]) -> tuple[Part, ...]:
    """The parts of a pattern's text, abbreviations replaced. Raises PatternError."""
    if len(text) > LONGEST:
        raise PatternError(f"a pattern of {len(text)} characters: write at most {LONGEST}")
    try:
        parts = _pieces(text, 0) if PIECES_ALONE.fullmatch(text) else _read(_text, text)
    except _Unread as error:
        raise PatternError(_unread(text, error.place), min(error.place, len(text))) from None
    except RecursionError:
        raise PatternError("brackets in brackets without end: write at most a few levels") from None
    return _replace(tuple(parts), lets)


def _unread(text: str, place: int) -> str:
    rest = text[place:]
    if rest.startswith("\\"):
        return "a backslash stands before { } \\ | ( ) # or a blank only: write \\\\ for a backslash"
    if rest.startswith("}"):
        return "a `}` without `{`: write \\} for the character itself"
    if not rest:
        return "a `{` that is not closed: write \\{ for the character itself"
    hole = "a hole is {word}, {?optional text} or {(one|another)}; write \\{ for the character itself"
    return f"cannot read `{rest[:20]}`: {hole}"


def _replace(parts: Sequence[Part], lets: dict[str, tuple[Part, ...]]) -> tuple[Part, ...]:
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Hole) and part.name in lets:
            found += lets[part.name]
        elif isinstance(part, Hole) and part.name not in HOLES:
            known = ", ".join(sorted({*HOLES, *lets}))
            hint = " (an address a client gave: {<rcpt>})" if part.name.strip("<>") == "rcpt" else ""
            raise PatternError(
                f"no hole is called {{{part.name}}}{hint}: write one of {known}, or `let {part.name} = …` above",
                part.column,
            )
        elif isinstance(part, Maybe):
            found.append(Maybe(_replace(part.parts, lets), part.column))
        elif isinstance(part, Choice):
            found.append(Choice(tuple(_replace(branch, lets) for branch in part.branches), part.column))
        else:
            found.append(part)
    return tuple(found)


# -- filter files ----------------------------------------------------------------------------------------------------


@cache
def _sample() -> pp.ParserElement:
    import pyparsing as pp

    word = pp.Regex(r"\S+")
    extra = (
        (pp.Keyword("id") - word("id"))
        | (pp.Keyword("user") - word("user"))
        | (pp.Keyword("times") - pp.Regex(r"[0-9]{1,4}")("times"))
    )
    address = ~(pp.Keyword("id") | pp.Keyword("user") | pp.Keyword("times")) + word("address")
    return pp.Keyword("none")("none") | (pp.Regex(KIND)("kind") - pp.Optional(address) + pp.ZeroOrMore(extra))


@cache
def _programs() -> pp.ParserElement:
    import pyparsing as pp

    glob = pp.Regex(r"-|[0-9A-Za-z*?][0-9A-Za-z_./*?-]{0,127}")
    return glob + pp.ZeroOrMore(pp.Suppress(",") - glob)


class _File:
    """One filter file while it is read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.name = ""
        self.programs: tuple[str, ...] = ()
        self.lets: dict[str, tuple[Part, ...]] = {}
        self.patterns: list[Pattern] = []
        self.samples: list[Sample] = []
        self.heading: Sample | None = None
        self.line = 0

    def wrong(self, message: str, column: int = 1) -> FilterError:
        return FilterError(message, self.file, self.line, column)

    def statement(self, text: str) -> None:
        keyword, rest = re.fullmatch(r"(\S+)\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        column = len(text) - len(rest)
        if keyword == "filter":
            if self.name or not re.fullmatch(NAME, rest):
                raise self.wrong("write `filter NAME` once, at the top; NAME has small letters, digits, - and _")
            self.name = rest
        elif not self.name:
            raise self.wrong("a filter file begins with `filter NAME`")
        elif keyword == "program":
            if self.programs:
                raise self.wrong("`program` twice: write one line, as in `program postfix/smtpd, postfix/cleanup`")
            try:
                self.programs = tuple(_read(_programs, rest))
            except _Unread as error:
                raise self.wrong(
                    "write `program NAME, NAME`; * stands for any text without a slash, `bare` for a log that"
                    " names no program",
                    column + error.place + 1,
                ) from None
        elif keyword == "let":
            self.let(rest, column)
        elif keyword == "sample":
            self.sample(rest, column)
        elif re.fullmatch(KIND, keyword):
            self.pattern(keyword, rest, column)
        else:
            raise self.wrong(
                f"cannot read `{keyword[:40]}`: a line begins with filter, program, let, sample, # or a kind in"
                " small letters"
            )

    def let(self, rest: str, column: int) -> None:
        found = re.fullmatch(rf"({NAME})\s*=\s*(\S.*)", rest)
        if found is None:
            raise self.wrong("write `let NAME = TEXT`, as in `let client = {name}[{ip}]`", column + 1)
        name, text = found.groups()
        if name in HOLES or name in self.lets:
            raise self.wrong(f"{{{name}}} is a hole already: choose another name", column + 1)
        try:
            self.lets[name] = _parts(text, self.lets)
        except PatternError as error:
            raise self.wrong(error.message, column + found.start(2) + error.column + 1) from None

    def pattern(self, kind: str, rest: str, column: int) -> None:
        if not self.programs:
            raise self.wrong("patterns need `program NAME` above them: the programs whose lines they read")
        if not rest:
            raise self.wrong(f"write the text of the line after `{kind}`", len(kind) + 1)
        if self.heading is not None:
            self.heading = None
        try:
            quoted = re.fullmatch(r'regex\s+"(.*)"', rest)
            if quoted is not None:
                found = compile_regex(kind, quoted[1], rest, self.line)
            elif rest.startswith("regex ") and '"' in rest:
                raise PatternError('write the expression in double quotes, to the end of the line: regex "…"')
            else:
                found = compile_parts(kind, _parts(rest, self.lets), rest, self.line)
        except PatternError as error:
            raise self.wrong(error.message, column + error.column + 1) from None
        self.patterns.append(found)

    def sample(self, rest: str, column: int) -> None:
        try:
            found = _read(_sample, rest).as_dict()
        except _Unread as error:
            raise self.wrong(
                "write `sample none`, `sample KIND ADDRESS` or `sample KIND id ID`; `user NAME` and"
                " `times N` may follow",
                column + error.place + 1,
            ) from None
        if "none" in found:
            self.heading = Sample(b"", None, None, None, None, 1, self.line)
            return
        kind = found["kind"]
        address = found.get("address")
        if address is not None:
            try:
                address = str(ip_address(address))
            except ValueError:
                raise self.wrong(
                    f"`{address[:60]}` is no address: write an IPv4 or IPv6 address, or `id` and the queue id",
                    column + 1,
                ) from None
        elif "id" not in found and kind != IGNORE:
            raise self.wrong(
                f"whose is it? Write `sample {kind} ADDRESS`, or `sample {kind} id ID` where only"
                " the queue id is named",
                column + 1,
            )
        self.heading = Sample(
            b"", kind, address, found.get("id"), found.get("user"), int(found.get("times", 1)), self.line
        )

    def indented(self, text: str) -> None:
        if self.heading is None:
            raise self.wrong("an indented line belongs under `sample …`: begin patterns and comments at the margin")
        if self.heading.kind is not None and self.heading.kind not in {pattern.kind for pattern in self.patterns}:
            raise FilterError(
                f"no pattern above is of the kind `{self.heading.kind}`", self.file, self.heading.number, 8
            )
        head = self.heading
        line = text.strip().encode("utf-8", "surrogateescape")
        self.samples.append(Sample(line, head.kind, head.address, head.queue_id, head.user, head.count, self.line))


def parse_filter(text: str, file: str, *, proved: bool = False) -> Filter:
    """The filter of a file's text. `file` is for messages only. Raises FilterError.

    Its samples are run, unless it is `proved`: known to pass.
    """
    if len(text) > LARGEST:
        raise FilterError(f"a filter of {len(text)} characters: one may have {LARGEST}; is this a log?", file, 1, 1)
    text = text.removeprefix("\ufeff")
    reading = _File(file)
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip()
        reading.line = number
        binary = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]", line)
        if binary is not None:
            raise reading.wrong("a control character: a filter is plain text in UTF-8", binary.start() + 1)
        if not line or line.startswith("#"):
            continue
        if line[0] in " \t":
            reading.indented(line)
        else:
            reading.statement(line)
    reading.line = max(1, text.count("\n"))
    if not reading.name:
        raise reading.wrong("an empty file: a filter begins with `filter NAME`")
    if not reading.patterns:
        raise reading.wrong(
            "no pattern: write a kind and the text of a line, as in `relay {id}: reject: RCPT from {name}[{ip}]: {*}`"
        )
    found = Filter(reading.name, reading.programs, settle(reading.patterns), tuple(reading.samples), file)
    if not proved:
        check(found)
    return found
