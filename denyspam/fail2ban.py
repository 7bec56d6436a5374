"""fail2ban: its filters and jails, written as ours. Pure: configuration text comes through a function that reads.

Only configuration is read: `filter.d/NAME.conf` with its includes and `.local` overrides, and the jails. It gives:
- `Jail`: what a jail says, as a sentence of the policy, with notes on what has no equal here;
- `Imported`: a filter file. Each failregex becomes one or more patterns in our own language, under its checks, with
  made-up samples. What cannot be said in it, or would be said wider than it was meant, stands there as a comment with
  the reason.

How a regular expression is read: the prefix of syslog lines is taken off (our filters do that themselves), `<HOST>`
and its kin are {ip}; runs of characters are {word}, {number} and so on; free text before the address is {said}, after
it {*}; a lookahead that forbids is a pattern of kind `ignore` above the others; an expression without an address is
counted by its queue id, and the line that only names the address becomes `client`.

Limits, told in the files: a {word} holds no blank, where `[^x]*` may; `(?i)` is read as all capitals and all small.
Conditions on other lines, commands (`ignorecommand`) and actions are not brought over. Addresses that stand as DNS
names are not resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timezone
from ipaddress import ip_network
from sys import version_info
from typing import Any

from denyspam import show
from denyspam.events import CLIENT, HARMLESS, FilterError
from denyspam.explain import written
from denyspam.filter import SAMPLES_NOW, Reader
from denyspam.grammar import parse_filter
from denyspam.pattern import IGNORE, Choice, Hole, Literal, Maybe, Part, Pattern, example, holes_of
from denyspam.stamp import Stamps

if version_info >= (3, 11):
    from re import _parser as sre_parser  # type: ignore[attr-defined]
else:
    import sre_parse as sre_parser

Read = Callable[[str], str | None]  # the text of a file below fail2ban's folder; None where it is not there

DEPTH = 40  # replacements in replacements
PATTERNS = 200  # of one filter
WAYS = 48  # patterns that one expression may become
PREFIX, ADDRESS = "\ue000", "\ue001"  # stand for the syslog prefix and the address while an expression is read
# What an expression without fail2ban's prefix may begin with: anything or the host, a program's name and its number.
OWN = re.compile(
    r"\^?(?:\.[*+]\??|\\s[*+]|\\S\+|\\b|(?<!^)\ )*(?P<name>[A-Za-z](?:[\w/]|\\?[.-])*)"
    r"(?:\\\[(?:\\d|\[0-9\])(?:\+|\{1,\d+\})\\\]|\(\?:\\\[(?:\\d|\[0-9\])\+\\\]\)\??):(?:\\s[+*]?| )"
)
USER = ("\ue002", "\ue003")

IP4 = r"\d{1,3}(?:\.\d{1,3}){3}"
IP6 = rf"(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{IP4}|[0-9A-Fa-f]{{0,4}})"
ADDRESSES = ("HOST", "ADDR", "IP4", "IP6", "DNS", "SUBNET", "CIDR")
PORTS = {
    "smtp": 25, "smtps": 465, "submissions": 465, "urd": 465, "ssmtp": 465, "submission": 587, "imap": 143,
    "imap2": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "sieve": 4190, "http": 80, "https": 443, "ssh": 22,
}  # fmt: skip
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 2629746, "y": 31556952}


# Not of any expression that fail2ban could read from a file; some stand for pieces while expressions are taken apart.
STRANGE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ImportFailed(ValueError):
    """What is asked for is not there, or cannot be understood; the message names it."""


# -- configuration files ---------------------------------------------------------------------------------------------


class Options:
    """Sections of options as fail2ban reads them: a later file overrides, and `known/NAME` is what it overrode."""

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, str]] = {}
        self.known: dict[tuple[str, str], str] = {}

    def add(self, path: str, read: Read, *, depth: int = 0) -> bool:
        """Read a file with what it includes; whether it is there."""
        text = read(path)
        if text is None or depth > DEPTH:
            return False
        found = parse(text)
        folder = path.rpartition("/")[0]
        includes = found.pop("INCLUDES", {})

        def include(names: str) -> None:
            for name in names.split():
                self.add(f"{folder}/{name}".lstrip("/"), read, depth=depth + 1)

        include(includes.get("before", ""))
        for section, options in found.items():
            for name, value in options.items():
                old = self.sections.setdefault(section, {}).get(name)
                if old is not None:
                    self.known[section, name] = old
                self.sections[section][name] = value
        include(includes.get("after", ""))
        return True

    def get(self, section: str, name: str) -> str | None:
        """An option as it is written, of the section or of [DEFAULT]."""
        inner, _, option = name.rpartition("/")
        if inner == "known":
            default = self.sections.get("DEFAULT", {}).get(option)
            return self.known.get((section, option), self.known.get(("DEFAULT", option), default))
        if inner:
            return self.get("DEFAULT" if inner == "default" else inner, option)
        if name == "__name__":
            return section
        return self.sections.get(section, {}).get(name, self.sections.get("DEFAULT", {}).get(name))

    def value(self, section: str, name: str) -> str | None:
        """The same with every %(name)s replaced."""
        text = self.get(section, name)
        return None if text is None else self.filled(section, text)

    def filled(self, section: str, text: str, depth: int = 0) -> str:
        if depth > DEPTH:
            raise ImportFailed(f"[{section}]: replacements without end in {text[:60]!r}")

        def one(found: re.Match[str]) -> str:
            if found[0] == "%%":
                return "%"
            inner = found[1].rpartition("/")[0]
            value = self.get(section, found[1])
            where = inner if inner in self.sections else section
            return found[0] if value is None else self.filled(where, value, depth + 1)

        return re.sub(r"%%|%\(([^)]+)\)s", one, text)


def parse(text: str) -> dict[str, dict[str, str]]:
    """The sections of an ini file: indented lines go on with the option above; # and ; begin comments. Raises
    ImportFailed."""
    if strange := STRANGE.search(text):
        raise ImportFailed(f"this is no text: it holds the character {strange[0]!r}")
    found: dict[str, dict[str, str]] = {}
    section, name = "DEFAULT", ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if line[0] in " \t" and name:
            found[section][name] += "\n" + re.sub(r"\s;.*$", "", stripped)
            continue
        if stripped[0] == "[" and stripped.endswith("]"):
            section, name = stripped[1:-1], ""
            found.setdefault(section, {})
            continue
        option = re.match(r"([^=:\s][^=:]*?)\s*[=:]\s*(.*)$", stripped)
        if option is not None:
            name = option[1]
            found.setdefault(section, {})[name] = re.sub(r"(^|\s);.*$", "", option[2])
    return found


# -- a filter's expressions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expressions:
    """A fail2ban filter: its expressions as written out, tags of addresses and users still in them."""

    name: str
    prefix: str  # prefregex, "" without one
    failures: tuple[str, ...]
    ignored: tuple[str, ...]
    daemon: str  # expression of the program's name


def expressions(name: str, read: Read, options: dict[str, str], *, whole: bool = False) -> Expressions:
    """The filter `name` with these options, as in `postfix[mode=auth]`. `whole`: the syslog prefix spelled out too.

    Raises ImportFailed where there is no such filter.
    """
    path = name if "/" in name else f"filter.d/{name}.conf"
    found = Options()
    there = [found.add(each, read) for each in dict.fromkeys((path, path.removesuffix(".conf") + ".local"))]
    if not any(there):
        raise ImportFailed(f"there is no filter {path}")
    if not whole and "__prefix_line" in found.sections.get("DEFAULT", {}):
        found.sections["DEFAULT"]["__prefix_line"] = PREFIX
    options = {**options}
    for section in ("Definition", "Init"):
        for option in list(found.sections.get(section, {})):
            options.setdefault(option, found.value(section, option) or "")
    for option in list(found.sections.get("DEFAULT", {})):
        options.setdefault(option, found.value("Definition", option) or "")
    for option, value in options.items():  # an option of the jail's is one of the file's, for %(…)s too
        found.sections.setdefault("Definition", {}).setdefault(option, value)

    def tag(match: re.Match[str]) -> str:
        key = match[1]
        if key in ADDRESSES or key.startswith(("F-", "SKIPLINES")):
            return match[0]
        section, _, option = key.rpartition("/")
        value = found.value(section, option) if section else options.get(key)
        return match[0] if value is None else value

    def final(option: str) -> str:
        text = options.get(option, "")
        for _ in range(DEPTH):
            filled = re.sub(r"<([A-Za-z_][\w/.-]*)>", tag, text)
            if filled == text:
                break
            text = filled
        return text

    def several(option: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in final(option).splitlines() if line.strip())

    base = path.rpartition("/")[2].removesuffix(".conf")
    return Expressions(base, final("prefregex"), several("failregex"), several("ignoreregex"), final("_daemon"))


# -- their side, to compare with -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Theirs:
    """The expressions as Python's `re` runs them: what fail2ban would find in one line."""

    prefix: re.Pattern[str] | None
    failures: tuple[re.Pattern[str], ...]
    ignored: tuple[re.Pattern[str], ...]
    skipped: tuple[str, ...]  # that Python cannot run, or that need another line

    def find(self, text: str) -> str | None:
        """The address of a line without its date, as it stands there; "" where it names none; None: no failure."""
        host: str | None = None
        if self.prefix is not None:
            found = self.prefix.search(text)
            if found is None:
                return None
            host = _host(found)
            text = found["CONTENT"] if "CONTENT" in self.prefix.groupindex else text
        if any(each.search(text) for each in self.ignored):
            return None
        for each in self.failures:
            found = each.search(text)
            if found is not None:
                return _host(found) or host or ""
        return None


def _host(found: re.Match[str]) -> str | None:
    return next((text for name, text in found.groupdict().items() if name.startswith("host") and text), None)


def theirs(found: Expressions) -> Theirs:
    """`found` must be written out whole."""
    skipped: list[str] = []

    def run(text: str) -> re.Pattern[str] | None:
        count = iter(range(1000))

        def address(tag: re.Match[str]) -> str:
            number = next(count)
            if tag[1] == "IP4":
                return f"(?P<host{number}>{IP4})"
            if tag[1] == "IP6":
                return rf"\[?(?P<host{number}>{IP6})\]?"
            either = rf"\[?(?:::ffff:)?(?P<host{number}a>{IP4})\]?|\[?(?P<host{number}b>{IP6})\]?"
            return f"(?:{either}" + (")" if tag[1] == "ADDR" else rf"|(?P<dns{number}>[\w\-.^_]*\w))")

        text = re.sub(r"<(HOST|ADDR|IP4|IP6)>", address, text)
        text = text.replace("<F-CONTENT>", "(?P<CONTENT>").replace("</F-CONTENT>", ")")
        text = re.sub(r"</F-[A-Z0-9_]+>", ")", re.sub(r"<F-[A-Z0-9_]+>", "(?:", text))
        flags = re.IGNORECASE if "(?i)" in text else 0
        try:
            return re.compile(text.replace("(?i)", ""), flags)
        except (re.error, OverflowError) as error:
            skipped.append(f"{text[:80]}: {error}")
            return None

    def some(texts: Sequence[str]) -> tuple[re.Pattern[str], ...]:
        return tuple(each for each in map(run, texts) if each is not None)

    alone = [text for text in found.failures if "<F-NOFAIL>" not in text]
    prefix = run(found.prefix) if found.prefix else None
    return Theirs(prefix, some(alone), some(found.ignored), tuple(skipped))


# -- an expression as parts of ours ----------------------------------------------------------------------------------


class _Unable(Exception):
    """Why an expression has no equal here."""


OPEN = Hole("*")
LONG = Hole("name")  # a word that may hold blanks, while an expression is read
LOOKS = "it looks ahead"
AHEAD = b"\0%d\0"  # a literal that stands for what is looked ahead at
CUT = Literal(b"")  # `\b`: what is not the end of a word ends here


def _parts(text: str) -> tuple[list[Part], _Reader]:
    """An expression as parts, and what its lookaheads forbid and ask for. Raises _Unable."""
    text = re.sub(r"<(?:HOST|ADDR|IP4|IP6)>", ADDRESS, text)
    text = re.sub(r"<F-(?:USER|ALT_USER\d*)>(.*?)</F-(?:USER|ALT_USER\d*)>", r"(?:\1)", text)
    text = re.sub(r"</F-[A-Z0-9_]+>", ")", re.sub(r"<F-[A-Z0-9_]+>", "(?:", text))
    text = re.sub(r"\(\?i\)([^()]*)", _both_cases, text)
    unknown = re.search(r"<(?:DNS|SUBNET|CIDR|SKIPLINES)>", text)
    if unknown is not None:
        raise _Unable(f"{unknown[0]} has no equal here")
    try:
        nodes = list(sre_parser.parse(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise _Unable(f"Python cannot read it: {error}") from None
    reader = _Reader({})
    return _joined(reader.parts(nodes)), reader


def _both_cases(found: re.Match[str]) -> str:
    return "|".join("|".join(dict.fromkeys((word, word.lower(), word.upper()))) for word in found[1].split("|"))


DIGIT, BLANK = frozenset("0123456789"), frozenset(" \t")
WORDLIKE = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
CATEGORIES = {"CATEGORY_DIGIT": DIGIT, "CATEGORY_WORD": WORDLIKE, "CATEGORY_SPACE": BLANK}
PRINTED = frozenset(map(chr, range(33, 127)))


@dataclass
class _Reader:
    """Nodes of Python's own parser of expressions -> parts."""

    groups: dict[int, list[Part]]
    forbidden: list[list[Part]] = field(default_factory=list)
    ahead: list[list[Part]] = field(default_factory=list)

    def parts(self, nodes: Sequence[Any], before: Sequence[Part] = ()) -> list[Part]:
        found: list[Part] = []
        for index, (code, argument) in enumerate(nodes):
            name = str(code)
            if name == "LITERAL":
                found.append(Hole("ip") if chr(argument) == ADDRESS else Literal(chr(argument).encode()))
            elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
                found += self.repeat(argument, nodes[index + 1 :], [*before, *found])
            elif name == "SUBPATTERN":
                inner = self.parts(list(argument[-1]), [*before, *found])
                if argument[0] is not None:
                    self.groups[argument[0]] = inner
                found += inner
            elif name == "GROUPREF":
                found += self.groups.get(argument, [Hole("word")])
            elif name == "BRANCH":
                found += self.branch(argument[1], [*before, *found])
            elif name == "IN":
                found += self.one(argument)
            elif name in ("ANY", "NOT_LITERAL", "CATEGORY"):
                found.append(Hole("word"))
            elif name == "AT":
                if "END" in str(argument):
                    found.append(Literal(b"\n"))
                elif "BOUNDARY" in str(argument):
                    found.append(CUT)
            elif name == "ASSERT_NOT" and argument[0] > 0:
                self.forbid([*before, *found], self.parts(list(argument[1])))
            elif name == "ASSERT" and argument[0] > 0:
                self.ahead.append(self.parts(list(argument[1])))
                found.append(Literal(AHEAD % (len(self.ahead) - 1)))
            else:
                raise _Unable("it looks behind, or at what our language has no word for")
        return found

    def forbid(self, before: Sequence[Part], inner: Sequence[Part]) -> None:
        if not before or not inner:
            raise _Unable("it looks ahead at the beginning of a group")
        self.forbidden.append([*before, *inner, OPEN])

    def branch(self, branches: Sequence[Any], before: Sequence[Part]) -> list[Part]:
        ways = [self.parts(list(branch), before) for branch in branches]
        bare = [[part for part in way if _text(part) not in ("IPv6:", "{?IPv6:}")] for way in ways]
        if all(_joined_text(way) == "{ip}" for way in map(_unprefixed, bare)):
            return [Hole("ip")]
        full = [tuple(way) for way in ways if way]
        chosen: list[Part] = [Choice(tuple(full))] if len(full) > 1 else list(full[0]) if full else []
        return chosen if len(full) == len(ways) else [Maybe(tuple(chosen))]

    def one(self, members: Sequence[Any]) -> list[Part]:
        """One character of a set."""
        taken = _characters(members)
        if taken is None:
            return [Hole("word")]
        if taken <= BLANK:
            return [Literal(b" ")]
        if taken == DIGIT:
            return [Hole("number")]
        if len(taken) <= 12:
            order = sorted(taken)
            return (
                [Choice(tuple((Literal(each.encode()),) for each in order))]
                if len(order) > 1
                else [Literal(order[0].encode())]
            )
        return [Hole("word")]

    def repeat(self, argument: Any, after: Sequence[Any], before: Sequence[Part]) -> list[Part]:
        low, high, inner = argument[0], argument[1], list(argument[2])
        if len(inner) == 1 and str(inner[0][0]) in ("IN", "ANY", "NOT_LITERAL", "LITERAL"):
            return _run(str(inner[0][0]), inner[0][1], low, high, after)
        if (low, high) == (0, 1):
            parts = self.parts(inner, before)
            return [Maybe(tuple(parts))] if parts else []
        if str(inner[0][0]) == "SUBPATTERN" and len(inner) == 1:
            inner = list(inner[0][1][-1])
        known = len(self.forbidden)
        try:
            parts = self.parts(inner, before)
        except _Unable:
            parts = [OPEN]
        del self.forbidden[known:]  # what is open takes that too
        if low == high and low <= 8 and not any(hole.name in ("*", "ip") for hole in holes_of(parts)):
            return parts * int(low)
        return [OPEN]


def _run(name: str, argument: Any, low: int, high: Any, after: Sequence[Any]) -> list[Part]:
    """A repetition of one set of characters."""
    taken = _characters(argument) if name == "IN" else frozenset({chr(argument)}) if name == "LITERAL" else None
    if taken is not None and taken <= BLANK:
        more: list[Part] = [Maybe((Literal(b" "),))] if high > 1 else []
        return [Literal(b" "), *more] if low else [Maybe((Literal(b" "),))]
    if taken is not None and len(taken) == 1:
        letter = Literal(next(iter(taken)).encode())
        return [letter] * low if low == high else [*[letter] * low, Maybe((letter,))]
    hole = Hole("word")
    if taken == DIGIT:
        hole = Hole("code") if low == high == 3 else Hole("number")
    elif taken is not None and taken <= WORDLIKE | {"-"} and low >= 1 and _colon(after) and taken > DIGIT:
        hole = Hole("id")
    elif name == "ANY" or (taken is None and not _excludes_blank(name, argument)):
        # `[^x]*` before its `x` is a word, as long as it holds no blank; anything else is open
        stops = _stops(name, argument)
        following = _next(after)
        hole = LONG if following is not None and following in stops else OPEN
        if hole != OPEN and following == "[":  # a host's name before its address, with a blank between them or not
            return [Maybe((Hole("word"),)), Maybe((Literal(b" "),))]
    return [hole] if low else [Maybe((hole,))] if hole != OPEN else [OPEN]


def _characters(members: Sequence[Any]) -> frozenset[str] | None:
    """What a set takes; None where that is a negation."""
    found: set[str] = set()
    for code, value in members:
        name = str(code)
        if name == "LITERAL":
            found.add(chr(value))
        elif name == "RANGE":
            found.update(map(chr, range(value[0], value[1] + 1)))
        elif name == "CATEGORY" and str(value) in CATEGORIES:
            found |= CATEGORIES[str(value)]
        else:
            return None
    return frozenset(found)


def _stops(name: str, members: Any) -> frozenset[str]:
    """What a negated set does not take."""
    if name == "NOT_LITERAL":
        return frozenset({chr(members)})
    return frozenset(chr(value) for code, value in members if str(code) == "LITERAL") if name == "IN" else frozenset()


def _excludes_blank(name: str, members: Any) -> bool:
    if name != "IN":
        return name == "NOT_LITERAL" and chr(members) == " "
    for code, value in members:
        if str(code) == "CATEGORY" and str(value) == "CATEGORY_NOT_SPACE":
            return True
    return str(members[0][0]) == "NEGATE" and any(
        (str(code) == "LITERAL" and value == 32) or (str(code) == "CATEGORY" and str(value) == "CATEGORY_SPACE")
        for code, value in members
    )


def _next(nodes: Sequence[Any]) -> str | None:
    """The literal character that follows for certain."""
    if nodes and str(nodes[0][0]) == "LITERAL":
        return chr(nodes[0][1])
    if nodes and str(nodes[0][0]) == "SUBPATTERN":
        return _next(list(nodes[0][1][-1]))
    return None


def _colon(nodes: Sequence[Any]) -> bool:
    return len(nodes) > 1 and _next(nodes) == ":" and _next(nodes[1:]) == " "


def _both(ahead: Sequence[Part], rest: Sequence[Part]) -> list[Part]:
    """What looks ahead over a word, and what reads that word: one after the other. Raises _Unable."""
    ahead = _joined(ahead, holes=False)
    rest = [part for part in rest if part not in (OPEN, CUT)]
    first = rest[0] if rest else None
    if (
        len(ahead) > 2
        and isinstance(ahead[0], Literal)
        and ahead[1] == Hole("word")
        and isinstance(first, Literal)
        and first.text.startswith(ahead[0].text)
        and not any(isinstance(part, Literal) and b" " in part.text for part in rest[1:])
    ):
        ends = [part for part in rest if not (isinstance(part, Maybe) and written(part.parts) == ":")]
        return [*ends, *(Hole("words") if part == OPEN else part for part in ahead[2:]), OPEN]
    raise _Unable(LOOKS)


def _text(part: Part) -> str:
    return written([part])


def _joined_text(parts: Sequence[Part]) -> str:
    return written(parts)


def _unprefixed(parts: Sequence[Part]) -> list[Part]:
    """Without `IPv6:` before the address, which {ip} reads itself."""
    text = written(_joined(parts))
    return [Hole("ip")] if text in ("{ip}", "IPv6:{ip}", "{?IPv6:}{ip}") else list(parts)


def _hole(part: Part) -> Part:
    """The hole that may be absent, or the part itself."""
    return part.parts[0] if isinstance(part, Maybe) and len(part.parts) == 1 else part


def _joined(parts: Iterable[Part], *, holes: bool = True) -> list[Part]:
    """Neighbouring literals as one; with `holes`, those that touch as one {word}."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Maybe):
            part = Maybe(tuple(_joined(part.parts)))  # noqa: PLW2901 - the same part, tidied
        elif isinstance(part, Choice):
            part = Choice(tuple(tuple(_joined(branch)) for branch in part.branches))  # noqa: PLW2901
        inner = _hole(part)
        if isinstance(part, Literal) and isinstance(last, Literal) and CUT not in (part, last):
            found[-1] = Literal(last.text + part.text)
        elif not holes or not isinstance(last, Hole) or not isinstance(inner, Hole) or Hole("ip") in (last, inner):
            found.append(part)
        elif OPEN in (last, inner):
            found[-1] = OPEN
        elif last != inner or last != Hole("number"):
            found[-1] = Hole("word")
    return found


# -- parts as patterns -----------------------------------------------------------------------------------------------

SPLIT = ("ip", "*", "said")  # what may not stand in brackets


def _ways(parts: Sequence[Part]) -> list[list[Part]]:
    """`parts` without brackets around what may not stand in them: every way through those by itself."""
    found: list[list[Part]] = [[]]
    for part in parts:
        options: list[list[Part]] = [[part]]
        if isinstance(part, Maybe) and (_splits(part.parts) or _names_id(part.parts)):
            options = [*_ways(part.parts), []]
        elif isinstance(part, Choice) and _names_id([part], True):
            options = [way for branch in part.branches for way in _ways(branch)]
        found = [[*way, *option] for way in found for option in options]
        if len(found) > WAYS:
            raise _Unable(f"it would become more than {WAYS} patterns")
    return [_joined(way) for way in found]


def _names_id(parts: Sequence[Part], inside: bool = False) -> bool:
    """Whether an {id}, or what may not stand in any bracket, stands in a {(…)} of these."""
    for part in parts:
        if isinstance(part, Choice):
            if any(_names_id(branch, True) for branch in part.branches):
                return True
        elif isinstance(part, Maybe):
            if _names_id(part.parts, inside):
                return True
        elif (inside and part == Hole("id")) or _splits([part]):
            return True
    return False


def _splits(parts: Sequence[Part]) -> bool:
    flat = _flat(parts)
    return any((isinstance(part, Hole) and part.name in SPLIT) or part == CUT or _ends(part) for part in flat)


def _flat(parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Maybe):
            yield from _flat(part.parts)
        elif isinstance(part, Choice):
            for branch in part.branches:
                yield from _flat(branch)
        else:
            yield part


def _ends(part: Part) -> bool:
    return isinstance(part, Literal) and (b"\n" in part.text or b"\0" in part.text)


def _resolved(way: Sequence[Part], ahead: Sequence[Sequence[Part]]) -> list[Part]:
    """A way with what it looks ahead at instead of what it reads there. Raises _Unable."""
    for index, part in enumerate(way):
        if isinstance(part, Literal) and b"\0" in part.text:
            before, number, after = part.text.split(b"\0", 2)
            rest = _joined([Literal(after), *way[index + 1 :]])
            return _resolved([*way[:index], Literal(before), *_both(ahead[int(number)], rest)], ahead)
    return _joined(part for part in way if part != Literal(b"") or part == CUT)


def _finished(way: Sequence[Part], ahead: Sequence[Sequence[Part]] = ()) -> list[Part]:
    """A way up to its `$`, or with {*} behind it where it has none; what {*} would swallow anyway left out."""
    found: list[Part] = []
    ended = False
    for part in _resolved(way, ahead):
        if isinstance(part, Literal):
            text, mark, _ = part.text.partition(b"\n")
            text = text.replace(PREFIX.encode(), b"")
            if text:
                found.append(Literal(text))
            if mark:
                ended = True
                break
        else:
            found.append(part)
    while ended and found and written([found[-1]]) in ("{? }", " "):
        del found[-1]
    if not ended:
        found.append(OPEN)
    last = max((index for index, part in enumerate(found) if part == OPEN), default=-1)
    needed = [part for part in found[last + 1 :] if not isinstance(part, Maybe)]
    if last >= 0 and not re.search(r"[A-Za-z0-9{]", written(needed)):
        del found[last + 1 :]
    return _quoted(_joined(found))


def _quoted(parts: Sequence[Part]) -> list[Part]:
    """`<` word `>` as an SMTP path."""
    found = list(parts)
    for width in (3, 1):
        index = 0
        while index + width + 1 < len(found):
            before, inner, after = found[index], found[index + 1 : index + 1 + width], found[index + 1 + width]
            if (
                isinstance(before, Literal)
                and before.text.endswith(b"<")
                and isinstance(after, Literal)
                and after.text.startswith(b">")
                and written(inner)
                in (
                    "{word}@{word}",
                    "{name}@{word}",
                    "{name}@{name}",
                    "{word}@{name}",
                    "{word}",
                    "{name}",
                    "{?{name}}",
                    "{?{word}}",
                    "{*}",
                )
            ):
                path: list[Part] = [Literal(before.text[:-1]), Hole("<rcpt>"), Literal(after.text[1:])]
                found[index : index + width + 2] = [part for part in path if part != Literal(b"")]
            index += 1
    return found


def _candidates(way: Sequence[Part]) -> Iterator[list[Part]]:
    """What a way may be written as, the nearest to what was meant first.

    A text with blanks in it is as many words where the address is read from the line's end, else one word.
    """
    address = next((index for index, part in enumerate(way) if part == Hole("ip")), len(way))
    ended = OPEN not in way[address:]  # for all ends of a way alike: {said} must know the others
    for parts in _shapes(way):
        if LONG in holes_of(parts):
            if ended:
                yield _with(parts, (Hole("words"), Hole("word")))
            yield _with(parts, (Hole("word"),))
        else:
            yield parts


def _with(parts: Sequence[Part], instead: tuple[Part, ...]) -> list[Part]:
    """`parts` with something `instead` of LONG."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, Maybe):
            found.append(Maybe(tuple(_with(part.parts, instead))))
        elif isinstance(part, Choice):
            found.append(Choice(tuple(tuple(_with(branch, instead)) for branch in part.branches)))
        else:
            found += instead if part == LONG else (part,)
    return found


def _shapes(way: Sequence[Part]) -> Iterator[list[Part]]:
    address = next((index for index, part in enumerate(way) if part == Hole("ip")), None)
    if address is None:
        yield list(way)
        text = written(way)
        if text.startswith(("{?{id}: }", "{?{word}: }")):
            yield [Hole("id"), Literal(b": "), *way[1:]]
        return
    after = list(way[address + 1 :])
    if after[:1] == [OPEN]:
        ends: list[list[Part]] = [[], [Literal(b","), OPEN], [Literal(b" "), OPEN], [Literal(b":"), OPEN]]
    else:
        ends = [after]
    opens = [index for index, part in enumerate(way[:address]) if part == OPEN]
    befores = [list(way[:address])]
    if opens:
        befores = []
        # read from the line's end where nothing of the client's follows: then there is no doubt to be had
        for name in ("said", "*", "words", "word") if OPEN in after else ("*", "said", "words", "word"):
            before = list(way[:address])
            for index in opens:
                before[index] = Hole(name if index == opens[-1] else "words")
            befores.append(before)
    for end in ends:
        inner = [index for index, part in enumerate(end[:-1]) if part == OPEN]
        tails = [end]
        if inner:
            tails.append(_in_quotes(end))
            tails.append([Hole("words") if index in inner else part for index, part in enumerate(end)])
        for before in befores:
            for tail in tails:
                if _pathed(before) != before:
                    yield _worded([*_pathed(before), Hole("ip"), *tail])
                if Hole("said") not in before:
                    yield _worded([*_greeted(before), Hole("ip"), *tail])
                yield _worded([*before, Hole("ip"), *tail])


def _greeted(parts: Sequence[Part]) -> list[Part]:
    """The last word in parentheses or quotes before the address, a HELO or a login, as what the client said."""
    found = list(parts)
    for index in range(len(found) - 1, -1, -1):
        part = found[index]
        if isinstance(part, Maybe):
            found[index] = Maybe(tuple(_greeted(part.parts)))
        around = written(found[:index])[-1:] + written(found[index + 1 :])[:1]
        if around in ("()", '""') and written([part]) in ("{word}", "{?{word}}", "{name}", "{?{name}}"):
            found[index] = Hole("said")
        if found[index] != part:
            break
    return found


def _pathed(parts: Sequence[Part]) -> list[Part]:
    """The last path before the address as what the client said: he may write `>` and all that follows there."""
    found = list(parts)
    for index in range(len(found) - 1, -1, -1):
        part = found[index]
        if isinstance(part, Maybe):
            found[index] = Maybe(tuple(_pathed(part.parts)))
        if part == Hole("<rcpt>"):
            found[index : index + 1] = [Literal(b"<"), Hole("said"), Literal(b">")]
        if found[index] != part:
            rest = [Hole("words") if each in (OPEN, Hole("said")) else each for each in found[:index]]
            return _joined([*rest, *found[index:]])
    return found


def _in_quotes(parts: Sequence[Part]) -> list[Part]:
    """Open text between double quotes as {quoted}."""
    found = list(parts)
    for index in range(len(found) - 2):
        before, inner, after = found[index : index + 3]
        if not isinstance(before, Literal) or not isinstance(after, Literal) or inner != OPEN:
            continue
        if before.text.endswith(b'"') and after.text.startswith(b'"'):
            found[index : index + 3] = [Literal(before.text[:-1]), Hole("quoted"), Literal(after.text[1:])]
    return [part for part in found if part != Literal(b"")]


def _expression(parts: Sequence[Part]) -> str:
    """Parts as a regular expression for IPv4, where the address ends in a colon: {ip} could run over that.

    Raises _Unable.
    """
    return _row(parts) + ("$" if parts[-1] != OPEN else "")


def _row(parts: Sequence[Part]) -> str:
    found = ""
    for index, part in enumerate(parts):
        following = next(iter(parts[index + 1 :]), None)
        stop = following.text[:1].decode() if isinstance(following, Literal) else ""
        if isinstance(part, Literal):
            found += re.sub(r"([][().*+?{}|^$\\\\])", r"\\\1", part.text.decode())
        elif isinstance(part, Maybe):
            found += f"(?:{_row(part.parts)})?"
        elif isinstance(part, Choice):
            found += "(?:" + "|".join(_row(branch) for branch in part.branches) + ")"
        elif part.name == "ip":
            found += "(?P<ip>[0-9.]{7,15})"
        elif part.name in ("number", "port", "code", "times"):
            found += "[0-9]+"
        elif part.name == "*" and index == len(parts) - 1:
            found += ".*"
        elif part.name == "quoted":
            found += '"[ !#-~]*"'
        elif part.name in ("word", "name", "verb", "id"):
            found += "[" + _ranges(PRINTED - {stop}) + "]+"
        else:
            raise _Unable("our language has no safe way to say it")
    return found


def _ranges(characters: frozenset[str]) -> str:
    """As they stand in a set."""
    found, codes = "", sorted(map(ord, characters))
    while codes:
        last = next((at for at, code in enumerate(codes) if code != codes[0] + at), len(codes)) - 1
        ends = [re.sub(r"[]\\\\^[-]", r"\\\g<0>", chr(code)) for code in (codes[0], codes[last])]
        found += ends[0] if last == 0 else "-".join(ends)
        codes = codes[last + 1 :]
    return found


def _worded(parts: Sequence[Part]) -> list[Part]:
    """A {words} brings the blank behind it: so the text that follows begins without one, or a word stands between."""
    found: list[Part] = []
    for part in parts:
        if found and found[-1] == Hole("words") and isinstance(part, Literal) and part.text[:1] == b" ":
            last = found[-2] if len(found) > 1 else None
            if isinstance(last, Literal) and not last.text.endswith(b" "):
                found.append(LONG)
                found.pop(-2)
            else:
                if not isinstance(last, Literal):
                    found.insert(len(found) - 1, Literal(b" "))
                part = Literal(part.text[1:])  # noqa: PLW2901 - the same part, without its blank
        if part != Literal(b""):
            found.append(part)
    return _joined(found)


# -- a filter file ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Imported:
    """A filter file's text that passes the check; `lost` says what stands in it as a comment, and why."""

    name: str
    kind: str
    text: str
    patterns: int
    lost: tuple[tuple[str, str], ...]  # (expression, reason)


@dataclass(frozen=True, slots=True)
class _Made:
    """A pattern of the file, and the parts it was written from."""

    kind: str
    text: str
    parts: tuple[Part, ...]


@dataclass(slots=True)
class _Block:
    """What comes of one expression."""

    source: str
    title: str
    patterns: list[_Made] = field(default_factory=list)
    ignores: list[_Made] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    looked: bool = False  # a lookahead was read: with other expressions, the same one cannot be


def convert(found: Expressions, name: str, kind: str, source: str) -> Imported:
    """The filter file `name` whose offences are of `kind`. ImportFailed where nothing of it can be brought over."""
    named = _named(found)
    programs = _programs(named)
    blocks = []
    for number, text in enumerate(named.ignored, 1):
        blocks.append(_block(named, text, f"ignoreregex {number}", IGNORE, programs))
    for number, text in enumerate(named.failures, 1):
        chosen = CLIENT if "<F-NOFAIL>" in text else kind
        blocks.append(_block(named, text, f"failregex {number}", chosen, programs))
    for block, text in zip(blocks, (*found.ignored, *found.failures), strict=True):
        block.source = text
    if any(block.looked for block in blocks):
        for block in (block for block in blocks if block.patterns):
            block.reasons = [reason for reason in block.reasons if not reason.endswith(LOOKS)]
    text = _settled(name, programs, blocks, source)
    lost = tuple((block.source, reason) for block in blocks for reason in block.reasons)
    count = sum(len(block.patterns) + len(block.ignores) for block in blocks)
    return Imported(name, kind, text, count, lost)


def _block(found: Expressions, text: str, title: str, kind: str, programs: list[str]) -> _Block:
    block = _Block(text, title)
    body = text.removeprefix("^") if text.startswith("^") else ".*" + text
    prefix = found.prefix.removeprefix("^")
    head, mark, _ = prefix.partition("<F-CONTENT>")
    combined = head + f"(?:{body})" + ("" if body.endswith("$") else ".*") if mark else body
    combined = combined.lstrip("^")
    if PREFIX not in combined:  # exim's own pid, and the blank that follows the date
        combined = re.sub(r"^\(\?: \\\[\\d\+\\\]\| \\w\+ exim\\\[\\d\+\\\]:\)\?", "", combined).removeprefix(" ")
    try:
        parts, reader = _parts(combined)
        seen: set[str] = set()
        for each in reader.forbidden:
            for way in _ways(_joined(each)):
                if any(isinstance(part, Literal) and b"\0" in part.text for part in way):
                    continue  # of a branch that looks ahead at something else
                _choose(block.ignores, IGNORE, _finished(way), programs, seen)
        every = _ways(parts)
    except _Unable as error:
        block.ignores.clear()
        block.reasons.append(str(error))
        return block
    reasons = []
    for whole_way in every:
        way = whole_way
        try:
            way = _finished(whole_way, reader.ahead)
            _choose(block.patterns, kind, way, programs, seen)
            block.looked |= b"\0" in b"".join(part.text for part in whole_way if isinstance(part, Literal))
        except _Unable as error:
            if block.patterns and not {"ip", "id"} & {hole.name for hole in holes_of(way)}:
                continue  # the same without a queue id: nobody's
            reasons.append(str(error) if len(every) == 1 else f"of its lines, {written(way)}: {error}")
    if block.patterns:
        reasons = [reason for reason in reasons if "nobody to count" not in reason and "whose a queue id" not in reason]
    block.reasons += reasons
    return block


def _choose(into: list[_Made], kind: str, way: Sequence[Part], programs: list[str], seen: set[str]) -> None:
    """Add what our language takes of a way: the first candidate, of those that end differently behind {ip} each.

    Raises _Unable where it takes none.
    """
    reason, ends = "", set()
    for parts in _candidates(way):
        address = next((index for index, part in enumerate(parts) if part == Hole("ip")), -1)
        end = re.sub(r"\{(?:words|quoted)\}| |\"", "{*}", written(parts[address + 1 :])) if address >= 0 else ""
        end = re.sub(r"(?:\{(?:\*|word)\})+", "{*}", end)
        if end in ends:
            continue
        text = _without_multilog(written(parts), programs)
        if kind == CLIENT:
            text = re.sub(r"^\{\?\{id\}: \}", "{id}: ", text)
        try:
            made = _accepted(kind, text)
            if made is None and re.search(r"\{ip\}[:.]", text):
                text = f'regex "{_expression(parts)}"'
                made = _accepted(kind, text)
        except (FilterError, _Unable) as error:
            reason = reason or str(getattr(error, "message", error))
            continue
        if made is None:
            continue
        ends.add(end)
        if text not in seen:
            seen.add(text)
            into.append(_Made(kind, text, tuple(parts)))
    if ends:
        return
    place, choice = next(((at, part) for at, part in enumerate(way) if isinstance(part, Choice)), (-1, None))
    if choice is not None and reason.startswith("too little fixed text"):
        for branch in choice.branches:
            _choose(into, kind, _joined([*way[:place], *branch, *way[place + 1 :]]), programs, seen)
        return
    raise _Unable(reason or "nobody to count it for")


def _accepted(kind: str, text: str) -> Pattern | None:
    """The pattern; None where its address runs into what follows, which a `regex` for IPv4 may cure.

    Raises FilterError.
    """
    try:
        return parse_filter(f"filter x\nprogram x\n{kind} {text}\n", "x", proved=True).patterns[0]
    except FilterError as error:
        if "{ip} runs into" in error.message:
            return None
        raise


def _without_multilog(text: str, programs: list[str]) -> str:
    """`1234.5678 rblsmtpd: …` is read as of the program rblsmtpd, the number as its host."""
    found = re.match(r"\{number\}\.\{number\} ([a-z][a-z-]*): ", text)
    if found is None:
        return text
    if found[1] not in programs:
        programs.append(found[1])
    return text[found.end() :]


def _named(found: Expressions) -> Expressions:
    """Where each expression begins with a program's name and number, with the syslog prefix of that program instead."""
    heads = [OWN.match(text) for text in found.failures]
    names = dict.fromkeys(head["name"] for head in heads if head is not None)
    if found.prefix or not all(heads):
        return found
    failures, ignored = (
        tuple(OWN.sub(f"^{PREFIX}", text, count=1) for text in texts) for texts in (found.failures, found.ignored)
    )
    return replace(found, failures=failures, ignored=ignored, daemon="|".join(names))


def _programs(found: Expressions) -> list[str]:
    every = found.prefix + "".join(found.failures)
    if PREFIX not in every:
        return ["bare", "exim*"] if "exim" in every or "exim" in found.name else ["bare"]
    try:
        names = _globs(list(sre_parser.parse(found.daemon or r"\S*")))
    except (re.error, OverflowError, RecursionError):
        names = ["*"]
    return sorted(set(names)) if 0 < len(names) <= 64 else ["*"]


def _globs(nodes: Sequence[Any]) -> list[str]:
    """Names of programs that an expression takes; `*` for any run."""
    found = [""]
    for code, argument in nodes:
        name = str(code)
        if name == "LITERAL":
            ways = [chr(argument)]
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            inner = _globs(list(argument[2])) if tuple(argument[:2]) == (0, 1) else ["*"]
            ways = ["", *inner] if argument[0] == 0 and inner != ["*"] else inner
        elif name == "SUBPATTERN":
            ways = _globs(list(argument[-1]))
        elif name == "BRANCH":
            ways = [way for branch in argument[1] for way in _globs(list(branch))]
        elif name == "IN":
            taken = _characters(argument)
            ways = sorted(taken) if taken is not None and len(taken) < 5 else ["?"]
        elif name == "ANY":
            ways = ["?"]
        else:
            ways = [""]
        found = [before + way for before in found for way in ways][:256]
    return [re.sub(r"\?\*|\*+", "*", name) for name in found]


def _settled(name: str, programs: list[str], blocks: list[_Block], source: str) -> str:
    """The file's text, with a made-up sample for each pattern; a pattern that can have none is left out, and said."""
    for _ in range(PATTERNS):
        text, places = _rendered(name, programs, blocks, source)
        made = parse_filter(text, f"{name}.filter", proved=True) if places else None
        if made is None:
            raise ImportFailed(f"{source}: nothing of it can be said in our language:\n{text}")
        samples, hidden = _samples(made.patterns, places, Reader((made,), Stamps(timezone.utc)), programs)
        if not hidden:
            text += samples + f"sample none\n  {_head(programs)}started\n"
            parse_filter(text, f"{name}.filter")
            return text
        for line in hidden:
            block, pattern = places[line]
            for each in (block.patterns, block.ignores):
                if pattern in each:
                    each.remove(pattern)
            note = f"left out, as another pattern takes all of its lines: {pattern.kind} {pattern.text}"
            block.reasons += [] if block.patterns else [note]
    raise ImportFailed(f"{source}: too many patterns")  # never: each turn leaves one out


def _rendered(
    name: str, programs: list[str], blocks: list[_Block], source: str
) -> tuple[str, dict[int, tuple[_Block, _Made]]]:
    lines = [
        f"# {name}.filter: {source}, by `denyspam import-fail2ban`.",
        "# Each pattern stands below the expression it was made of. The samples are made up. A {word} holds no blank,",
        "# where `[^x]*` may: `denyspam import-fail2ban … --log FILE` lists what the two read differently.",
        f"filter {name}",
        f"program {', '.join(programs)}",
    ]
    places: dict[int, tuple[_Block, _Made]] = {}
    for wanted in ("ignores", "patterns"):
        for block in blocks:
            patterns: list[_Made] = getattr(block, wanted)
            if wanted == "patterns" or patterns:
                lines += ["", f"# {block.title}: {_comment(block.source)}"]
            if wanted == "patterns":
                lines += [f"# NOT IMPORTED: {_comment(reason)}" for reason in block.reasons]
            for made in patterns:
                lines.append(f"{made.kind} {made.text}")
                places[len(lines)] = block, made
    return "\n".join(lines) + "\n\n", places


def _comment(text: str) -> str:
    shown = show.line(text.replace(PREFIX, "<prefix>").encode("utf-8", "replace"))
    return shown if len(shown) <= 400 else shown[:399] + "…"


def _head(programs: Sequence[str]) -> str:
    if programs[0] == "bare":
        return "2026-03-04 10:00:00 "
    return f"Mar  4 10:00:00 mx {re.sub('[*?]', 'x', programs[0])}[7]: "


def _samples(
    patterns: Sequence[Pattern], places: dict[int, tuple[_Block, _Made]], reader: Reader, programs: Sequence[str]
) -> tuple[str, list[int]]:
    """(samples for all patterns, the lines of those that nothing is left for)."""
    text, hidden = "", []
    heads = [_head([program]) for program in programs]
    for pattern in patterns:
        bodies = pattern.examples or [example(places[pattern.line][1].parts, turn) for turn in range(24)]
        for head, body in ((head, body) for body in bodies for head in heads):
            line = head + body.decode("latin-1").rstrip()
            reading = reader.read(line.encode("latin-1"), SAMPLES_NOW)
            if reading is None or reading.pattern is not pattern or not line.isascii():
                continue
            who = reading.address or (f"id {reading.queue_id}" if reading.queue_id else "")
            if pattern.kind != IGNORE and not who:
                continue
            words = [pattern.kind, "" if pattern.kind == IGNORE else who]
            text += f"sample {' '.join(words).strip()}\n  {line}\n"
            break
        else:
            hidden.append(pattern.line)
    return text, hidden


# -- jails -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jail:
    """A jail's settings, as ours."""

    name: str
    filter: str  # the name of fail2ban's
    options: dict[str, str]  # of the filter, as in postfix[mode=auth]
    policy: str  # the sentence
    logs: tuple[str, ...]
    allow: tuple[str, ...]
    notes: tuple[str, ...]  # what is not brought over


def jails(read: Read, more: Sequence[str]) -> Options:
    """All jails; `more` are the names of the files in jail.d, sorted."""
    found = Options()
    for path in (
        "jail.conf",
        *(f"jail.d/{name}" for name in more if name.endswith(".conf")),
        "jail.local",
        *(f"jail.d/{name}" for name in more if name.endswith(".local")),
    ):
        found.add(path, read)
    return found


def jail(found: Options, name: str) -> Jail:
    """Raises ImportFailed where there is none of that name."""
    if name not in found.sections or name == "DEFAULT":
        raise ImportFailed(f"there is no jail {name[:100]!r}")
    notes: list[str] = []

    def value(option: str, otherwise: str = "") -> str:
        text = found.value(name, option)
        return otherwise if text is None else text.strip()

    if value("enabled").lower() not in ("true", "1", "yes", "on"):
        notes.append("that it is not enabled in fail2ban: here it counts, unless its line is taken out")
    filter_name, options = spec(value("filter", name))
    sentence = f"{_hits(value('maxretry', '5'), notes)} in {_length(value('findtime', '10m'), 'findtime', notes)}"
    seconds = duration(value("bantime", "10m"))
    if seconds is None or seconds < 0:
        notes.append("bantime without end: ours lasts ten years")
    length = "3650d" if seconds is None or seconds < 0 else show.duration(min(max(1, seconds), 3650 * 86400))
    sentence += f" -> ban {length}"
    if value("bantime.increment").lower() in ("true", "1", "yes", "on"):
        most = duration(value("bantime.maxtime", "4w"))
        most = min(max(most or 0, seconds or 0, 1), 3650 * 86400)
        sentence += f", doubling to {show.duration(most)}"
        for option in ("bantime.factor", "bantime.formula", "bantime.multipliers", "bantime.rndtime"):
            if value(option):
                notes.append(f"{option} = {value(option)}: ours doubles from ban to ban")
    ports = _ports(value("port"), notes)
    if ports:
        sentence += f", ports {', '.join(map(str, ports))}"
    logs = [path for path in value("logpath").split() if path not in ("head", "tail")]
    for path in [path for path in logs if "*" in path or "?" in path]:
        notes.append(f"logpath {path}: write a [log …] section for each file")
        logs.remove(path)
    if not logs:
        notes.append(f"no log file (backend = {value('backend', 'auto')}): write a [log …] section")
    allow = []
    for word in value("ignoreip").replace(",", " ").split():
        try:
            network = str(ip_network(word, strict=False))
            allow.append(network if "/" in word else word)
        except ValueError:
            notes.append(f"ignoreip {word}: write its addresses, DNS names are not looked up")
    if value("ignorecommand"):
        notes.append(f"ignorecommand {value('ignorecommand')}: write the addresses into `allow`")
    if value("ignoreself", "true").lower() in ("false", "0", "no", "off"):
        notes.append("ignoreself = false: this host's own addresses are always spared here")
    return Jail(name, filter_name, options, sentence, tuple(logs), tuple(allow), tuple(notes))


def spec(text: str) -> tuple[str, dict[str, str]]:
    """`postfix[mode=auth, x="y"]` -> name and options."""
    name, _, rest = text.replace("\n", " ").partition("[")
    pairs = re.findall(r'([\w./-]+)\s*=\s*(?:"([^"]*)"|\'([^\']*)\'|([^,\]]*))', rest)
    return name.strip(), {key: (double or single or plain).strip() for key, double, single, plain in pairs}


def duration(text: str) -> float | None:
    """Seconds of `600`, `10m`, `1d 2h`; None for what is none."""
    found = re.findall(r"(-?\d+(?:\.\d+)?)\s*(mo|[a-z]?)[a-z]*", text.strip().lower())
    if not found or any(unit not in UNITS for _, unit in found):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in found)


def _length(text: str, name: str, notes: list[str]) -> str:
    seconds = duration(text)
    if seconds is None or not 1 <= seconds <= 31 * 86400:
        notes.append(f"{name} = {text}: ours is from 1s to 31d")
    return show.duration(min(max(seconds or 600, 1), 31 * 86400))


def _hits(text: str, notes: list[str]) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        notes.append(f"maxretry = {text}: ours is from 1 to 10000")
        return 5
    return int(text)


def _ports(text: str, notes: list[str]) -> list[int]:
    found = set()
    for word in text.replace(",", " ").split():
        if word.isdigit() and 1 <= int(word) <= 65535:
            found.add(int(word))
        elif word in PORTS:
            found.add(PORTS[word])
        elif word in ("0:65535", "all"):
            notes.append("all ports: ours are those of [daemon], or write `ports …`")
        else:
            notes.append(f"port {word}: write its number")
    return sorted(found)


RESERVED = ("any", CLIENT, IGNORE, *HARMLESS, "filter", "program", "let", "sample", "none")


def kind_of(name: str) -> str:
    """A jail's own kind: so it counts its own lines, as it did."""
    kind = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:28] or "jail"
    return f"{kind}-f2b" if kind in RESERVED or not kind[0].isalpha() else kind


def configuration(found: Sequence[tuple[Jail, Imported]]) -> str:
    """The sentences of several jails, as one configuration file."""
    logs: dict[str, list[str]] = {}
    for each, imported in found:
        for path in each.logs:
            logs.setdefault(path, []).append(imported.name)
    lines = ["# From fail2ban's jails, by `denyspam import-fail2ban`. Each jail counts a kind of its own, as it did."]
    allow = list(dict.fromkeys(word for each, _ in found for word in each.allow))
    if allow:
        lines += ["[daemon]", f"allow = {', '.join(allow)}", ""]
    for path, names in logs.items():
        lines += [f"[log {path}]", f"filters = {', '.join(dict.fromkeys(names))}", ""]
    lines.append("[policy]")
    for each, imported in found:
        lines.append(f"# jail {each.name}, filter {each.filter}")
        lines += [f"# NOT IMPORTED: {_comment(note)}" for note in each.notes]
        lines.append(f"{imported.kind} = {each.policy}")
    return "\n".join(lines) + "\n"
