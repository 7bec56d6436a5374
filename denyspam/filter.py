"""filter: what one line says. Pure.

A line is `stamp host program[pid]: body`, or, in a log of one program's own (`program bare`), `stamp body`. What stands
around the body is taken off before any pattern sees it: the RFC 5424 fields, Solaris `[ID 801593 mail.info] `,
`message repeated N times: [ … ]`, and exim's own stamp and `[pid] ` inside syslog or its mainlog. Exim tells syslog a
long or manifold entry in parts, `[1\\14] ` to `[14/14] `: the first is read, the others are headers and other text of a
client's, and no pattern may begin as they do.

A `Filter` is one filter file: whose lines, and patterns in order, the first that fits wins. A `Reader` applies several
filters to one line. One line says one thing at most.

Limits: one line counts up to 1000, by N of `message repeated` or by {times}. A user of the host who may write to syslog
can write any line, under any program's name; the log is believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_pton

from denyspam.events import CLIENT, HARMLESS, MAPPED, FilterError, address_text
from denyspam.pattern import IGNORE, Pattern, told, worded
from denyspam.stamp import Stamps
from denyspam.ways import choices

BARE = ("bare", "-")
REPEATED = 1000  # the most that one line counts
LONG = 600  # bytes: in a longer body to search for a literal costs more than that the anchored pattern begins to match
PROGRAMS = 1000  # program names remembered per reader; a log holds some tens
ADDRESSES = 16_384  # whose canonical form is remembered: 4 MB
CHOICES = 6  # parts of a pattern that may take one text in two ways: a line that fails is tried in 64; shipped ones: 4
SAMPLES_NOW = 4102444800.0  # 2100-01-01: a filter's samples are all in the past
NO_QUEUE = b"NOQUEUE"
NOBODYS = frozenset((IGNORE, CLIENT, *HARMLESS))  # kinds that mean nothing without an address

# Postfix's syslog_name may hold a service's name, which may be an address and port: postfix/127.0.0.1:10025/smtpd
_PROGRAM = (
    rb"[0-9A-Za-z][0-9A-Za-z_./-]{0,127}(?:(?:\[[0-9A-Fa-f:.]{2,45}\])?:[0-9A-Za-z_-]{1,32}/[0-9A-Za-z_./-]{1,64}|)"
)
_HEADER = re.compile(
    rb"(?:<(?:[a-z][a-z0-9]{2,9}|\d{1,2})\.(?:[a-z]{3,7}|\d)> )?"  # syslogd -v of the BSDs
    # busybox writes `mail.info `, AIX `mail:info ` after the host, OpenWrt in its place
    rb"(?:(?P<host>[^\s:]{1,255}|[0-9A-Fa-f:.]{2,45}) (?:[a-z][a-z0-9]{2,9}[.:][a-z]{3,7} )?"
    rb"(?P<program>" + _PROGRAM + rb")(?:\(pam_unix\))?(?P<pid>\[\d{1,10}\])?: "
    rb"|(?P<alone>" + _PROGRAM + rb")\[\d{1,10}\]: )"  # journalctl -o cat, collectors: no host
)
# RFC 5424, 6.3: structured data is `-` or [id name="value"…]…, with \" \\ \] escaped in values
_HEADER_5424 = re.compile(
    rb"(?P<host>\S{1,255}) (?P<program>\S{1,128}) \S{1,128} \S{1,32} "
    rb'(?:-|(?:\[(?:[^"\]\\]|\\.|"(?:[^"\\]|\\.)*")*\])+)(?: (?:\xef\xbb\xbf)?|\Z)'
)
# What a container's output has of its own in front: the stamp of `docker logs -t`, which was read; Kubernetes' stream
_TWICE = rb"[A-Z][a-z]{2} {1,2}\d{1,2} \d\d:\d\d:\d\d(?:\.\d{1,9})? |\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S{0,20} "
COLLECTED = re.compile(rb"std(?:out|err) [FP] (?:<\d{1,3}>)?(?:" + _TWICE + rb"|)|" + _TWICE)
TAGS = re.compile(
    rb"(?:std(?:out|err) [FP] )?"
    rb"(?:\[ID \d{1,10} [a-z0-9]{1,10}\.[a-z]{1,10}\] )?"
    rb"(?P<repeated>message repeated (?P<times>\d{1,9}) times: \[ ?)?"
    rb"(?:\[1[\\/]\d{1,5}\] )?"
    rb"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,9})? (?:[+-]\d{4} )?)?"
    rb"(?:\[(?:\d{1,10}|[a-z]{2,16})\] )?"  # exim's pid; collectors put the program's name there
)


def header_of(line: bytes, start: int) -> re.Match[bytes] | None:
    """What names host and program behind a stamp that ends at `start`: groups `host`, `program` or `alone`."""
    found = (_HEADER_5424 if line[:6].find(b">1 ") > 0 else _HEADER).match(line, start)
    if found is None:
        collected = COLLECTED.match(line, start)
        if collected is not None:
            return _HEADER.match(line, collected.end())
    return found


def untagged(line: bytes, start: int) -> tuple[bytes, int, int]:
    """(the body that patterns see, where it starts, how often the line says so) of a line whose header ends there."""
    tags = TAGS.match(line, start)
    count, whole = 1, line
    if tags is not None and tags.end() > start:
        start = tags.end()
        if tags["repeated"]:
            count = min(int(tags["times"]), REPEATED)
            whole = line.removesuffix(b"]").rstrip()
    return whole[start:], start, count


@dataclass(frozen=True, slots=True)
class Sample:
    """A line of the file with what it must come out as. `kind` None: as nothing."""

    line: bytes
    kind: str | None
    address: str | None
    queue_id: str | None
    user: str | None
    count: int
    number: int  # its line in the file


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """One filter file; equal to itself alone, so that it can be a key at no cost."""

    name: str
    programs: tuple[str, ...]  # globs; `*` does not run over `/`
    patterns: tuple[Pattern, ...]
    samples: tuple[Sample, ...]
    file: str

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(pattern.kind for pattern in self.patterns) - {IGNORE}

    @property
    def bare(self) -> bool:
        """Takes lines that name no program."""
        return any(program in BARE for program in self.programs)

    def takes(self, program: str) -> bool:
        return any(_glob(glob).fullmatch(program) for glob in self.programs if glob not in BARE)


@lru_cache(maxsize=1024)
def _glob(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", "[^/]*").replace(r"\?", "[^/]"))


@lru_cache(maxsize=ADDRESSES)
def canonical(text: bytes) -> str | None:
    """The address as everything else writes it, IPv4-mapped as IPv4; None where it is no address."""
    try:
        name = text.decode("ascii")
        packed = inet_pton(AF_INET6 if b":" in text else AF_INET, name)
    except (OSError, ValueError):
        return None
    if len(packed) == 4:
        return name  # there is one way only to write what is taken
    return address_text(packed[12:] if packed[:-4] == MAPPED else packed)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one line says by itself. `address` None: it belongs to the client of `queue_id`."""

    time: float | None
    host: str
    filter: Filter
    pattern: Pattern
    address: str | None
    queue_id: str | None
    user: str | None
    count: int


class Reader:
    """Several filters, in order, over single lines of one log. Counts `bad_address` and `bad_time`."""

    def __init__(self, filters: Sequence[Filter], stamps: Stamps) -> None:
        self.bad_address = 0
        self.bad_time = 0
        self._filters = tuple(filters)
        self._stamps = stamps
        self.bare = tuple(found for found in filters if found.bare)
        self._by_program: dict[bytes, tuple[Filter, ...]] = {}

    def read(self, line: bytes, now: float) -> Reading | None:
        """What `line` (without its newline) says, or None. `now`: for the year, and for stamps in the future."""
        line = line.rstrip(b"\r")
        time, start = self._stamps.read(line, now)
        host, filters, start = self.header(line, start)
        if not filters:
            return None
        body, start, count = untagged(line, start)
        said: Reading | None = None
        short = len(body) < LONG
        for found in filters:
            doubt = None
            for pattern in found.patterns:
                if (short and pattern.needle not in body) or (pattern.again is doubt and doubt is not None):
                    continue
                match = pattern.fit(body)
                if match is not None and pattern.doubtful(body, match):
                    doubt = pattern.again  # and so it is for every pattern that ends {said} alike
                    if said is None and pattern.kind not in NOBODYS:
                        # Somebody did it, and wrote so that nobody can tell who: told, and held against no one.
                        said = Reading(time, host, found, pattern, None, None, None, count)
                elif match is not None:
                    return self._reading(time, host, found, pattern, match, count)
        return said or self.nobodys(body, time, host, filters, count)

    @staticmethod
    def nobodys(
        body: bytes, time: float | None, host: str, filters: Sequence[Filter], count: int = 1
    ) -> Reading | None:
        """What a `body` says that no pattern takes: an offence of nobody's, where it may be one of several clients'."""
        for found in filters:
            pattern = told(found.patterns, body)
            if pattern is not None:
                return None if pattern.kind in NOBODYS else Reading(time, host, found, pattern, None, None, None, count)
        return None

    def header(self, line: bytes, start: int) -> tuple[str, tuple[Filter, ...], int]:
        """(host, the filters that read such a line, where its body starts); `start` is where its stamp ends."""
        header = header_of(line, start)
        if header is not None:
            groups = header.groupdict()
            program = groups["program"] or groups["alone"]
            takers = self._by_program.get(program)
            if takers is None:
                takers = self._takers(program)
            if takers or groups.get("pid") or groups.get("alone"):
                return (groups["host"] or b"").decode("utf-8", "replace"), takers, header.end()
        return "", self.bare, start

    def _reading(  # noqa: PLR0917
        self, time: float | None, host: str, found: Filter, pattern: Pattern, match: re.Match[bytes], count: int
    ) -> Reading | None:
        groups = match.groupdict()
        queue_id = groups.get("id")
        if queue_id == NO_QUEUE:
            queue_id = None
        text = groups.get("ip")
        address = None if text is None else canonical(text)
        if text is not None and address is None:
            self.bad_address += 1
            return None
        if address is None and queue_id is None and pattern.kind != IGNORE:
            return None
        if time is None:
            self.bad_time += 1
        if groups.get("times") is not None:
            count = min(max(1, int(groups["times"])) * count, REPEATED)
        user = groups.get("user")
        return Reading(
            time,
            host,
            found,
            pattern,
            address,
            None if queue_id is None else queue_id.decode("ascii"),
            user.decode("utf-8", "replace") if user else None,
            count,
        )

    def _takers(self, program: bytes) -> tuple[Filter, ...]:
        if len(self._by_program) >= PROGRAMS:
            self._by_program.clear()
        name = program.decode("utf-8", "replace")
        found = tuple(each for each in self._filters if each.takes(name))
        self._by_program[program] = found
        return found


def check(found: Filter) -> None:
    """Raises FilterError where a sample comes out otherwise, a pattern has none, is hidden, or none says `none`; and
    where a pattern could be tried in too many ways."""
    for index, later in enumerate(found.patterns):
        if len(choices(later.pieces)) > CHOICES:
            raise FilterError(
                "too many optional parts that begin alike, as in {? {name}}{? {word}}: each may take what the next"
                " one could, and the ways multiply on a hostile line; write one in the other, as in"
                " {? {name}{? {word}}}, or a pattern for each case",
                found.file,
                later.line,
                1,
            )
        for earlier in found.patterns[:index]:
            if later.examples and all(earlier.fit(example) for example in later.examples):
                raise FilterError(
                    f"the pattern of line {earlier.line} takes every line that this one could: put this one above it,"
                    " or delete it",
                    found.file,
                    later.line,
                    1,
                )
    shown: set[int] = set()
    reader = Reader((found,), Stamps(timezone.utc))
    for sample in found.samples:
        reading = reader.read(sample.line, SAMPLES_NOW)
        if reading is None:
            if sample.kind is not None:
                raise FilterError(
                    f"this sample should be {_expected(sample)}, but no pattern takes it", found.file, sample.number, 1
                )
            continue
        if reading.time is None:
            raise FilterError(
                "this sample has no time that can be read: begin it with a stamp such as `Mar  4 10:00:00`",
                found.file,
                sample.number,
                1,
            )
        got = Sample(
            sample.line,
            reading.pattern.kind,
            reading.address,
            reading.queue_id,
            reading.user,
            reading.count,
            sample.number,
        )
        if _said(got, sample) != _expected(sample):
            raise FilterError(
                f"this sample should be {_expected(sample)}, but the pattern of line {reading.pattern.line} says"
                f" {_said(got, sample)}",
                found.file,
                sample.number,
                1,
            )
        shown.add(reading.pattern.line)
    for pattern in found.patterns:
        if pattern.line not in shown:
            raise FilterError(
                f"no sample shows this pattern: add `sample {pattern.kind} ADDRESS` and, indented below it, a line"
                " it takes",
                found.file,
                pattern.line,
                1,
            )
    if not any(sample.kind is None for sample in found.samples):
        raise FilterError(
            "no `sample none`: add one and, indented below it, a line of this program that is no event",
            found.file,
            found.patterns[-1].line,
            1,
        )


def doubts(found: Filter) -> list[str]:
    """What may be unsafe in a filter that passes `check`, a sentence each: `FILE:LINE: warning: …`. See `worded`."""
    return [
        f"{found.file}:{pattern.line}: warning: what follows `{word}` is most often the client's own text; where it is,"
        f" he can write another address into {{{hole}}} before {{ip}}, since free text follows: write {{said}} for it"
        for pattern in found.patterns
        for hole, word in worded(pattern)
    ]


def _expected(sample: Sample) -> str:
    return _said(sample, sample)


def _said(got: Sample, asked: Sample) -> str:
    """`got` in the words of a sample's head; the id, user and count only where the head asks for them."""
    if got.kind is None or got.kind == IGNORE:
        return got.kind or "none"
    words = [got.kind]
    if got.address is not None:
        words.append(got.address)
    if asked.queue_id is not None or (got.address is None and got.kind != IGNORE):
        words.append(f"id {got.queue_id}")
    if asked.user is not None:
        words.append(f"user {got.user}")
    if asked.count != 1 or got.count != 1:
        words.append(f"times {got.count}")
    return " ".join(words)
