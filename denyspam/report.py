"""report: the ledger of a period as one page for people, or as JSON. Edge: reads the ledger, asks the daemon, writes.

The ledger is read as it is, also while the daemon writes it, and nothing is ever written to it or beside it: with a
write-ahead log there, by SQLite's read-only way; without one, nobody writes, and the file is opened as unchangeable.
The daemon is asked for what only it knows; without it, or without permission, the report says so and goes on.
The page (etc/report.html, etc/report.css, by jinja2 with every text escaped) needs no network: no script, no picture,
no address of any other page, and a policy (CSP) that forbids what is not in it. In texts that others wrote, the
address of a page is printed as hxxp with other slashes, so that nothing in it leads anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import tzinfo
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2

from denyspam import __version__, charts, control, show
from denyspam.events import Ban, Target
from denyspam.ledger import SCHEMA
from denyspam.review import BY_HAND_KIND, Entry, Line, Place, Review, place
from denyspam.settings import Settings
from denyspam.tally import Steps

DAY = 86_400

SECONDS = 10.0  # to wait for the daemon: a report without it is better than none
STEP = 1_000  # bans, between two words on the progress
OLDEST = 3  # schema whose tables this can read
ATTEMPTS = 3  # to read a ledger that a daemon begins to write in the very moment
MEANING = {
    "virus": "sent a virus",
    "relay": "tried to send through this server",
    "reject": "sent what is refused: unknown recipients, bad senders, listed hosts",
    "auth": "guessed passwords",
    "protocol": "broke the rules of the protocol",
    "spam": "sent spam",
    BY_HAND_KIND: "banned by an administrator",
    "adopted": "found in the firewall at a start",
}


class Unreadable(Exception):
    """The ledger or a database cannot be read; the message names it. `code` is the exit code."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


# --- the ledger -------------------------------------------------------------------------------------------------------

# A policy's ban with a note was withheld: decided and not carried out, and the note says why.
BANS = """
SELECT network, ports, rule, since, until, hits, note, state, ended, end_note, lines.text,
    file IS NOT NULL AND note <> ''
FROM bans LEFT JOIN lines ON lines.ban = bans.id WHERE since >= ? AND since < ? ORDER BY since, bans.id
"""
BEFORE = """
SELECT count(*), count(DISTINCT network) FROM bans
WHERE since >= ? AND since < ? AND NOT (file IS NOT NULL AND note <> '')
"""
HOLDING = """
SELECT count(*) FROM bans WHERE ended IS NULL AND until > ? AND NOT (file IS NOT NULL AND note <> '')
"""


def reviewed(
    path: str, make: Callable[[], Review], progress: Callable[[int, int], object] | None = None
) -> tuple[Review, dict[str, Any]]:
    """The period's bans of the ledger at `path`, and what else it tells. `progress` is told how many bans of how many
    are read, now and then. Raises Unreadable."""
    for attempt in range(ATTEMPTS):
        review = make()
        told: dict[str, Any] = {"path": path, "found": False, "oldest": None, "holding": 0, "before": None, "read": {}}
        try:
            os.stat(path)
            written = os.path.exists(path + "-wal")
            with closing(_opened(path, written)) as database:
                told.update(_read(database, review, progress))
        except FileNotFoundError:
            return review, told
        except (PermissionError, sqlite3.Error) as error:
            if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
                message = f"not permitted to read {path}: run as root, or as a member of its group"
                raise Unreadable(message, 77) from error
            if attempt + 1 == ATTEMPTS:
                raise Unreadable(f"{path} cannot be read: {error}") from error
            continue
        if written or not os.path.exists(path + "-wal"):  # else a daemon began to write while it was read
            break
    return review, {**told, "found": True}


def _opened(path: str, written: bool) -> sqlite3.Connection:
    """The ledger, to be read only. `written`: there is a write-ahead log, so somebody may write it."""
    how = "mode=ro" if written else "immutable=1"
    return sqlite3.connect(f"file:{quote(os.path.abspath(path))}?{how}", uri=True, timeout=5.0, isolation_level=None)


def _read(
    database: sqlite3.Connection, review: Review, progress: Callable[[int, int], object] | None
) -> dict[str, Any]:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise sqlite3.NotSupportedError(f"it was written by a newer denyspam (schema {version}, this reads {SCHEMA})")
    if version < OLDEST:
        raise sqlite3.NotSupportedError("it was written by an older denyspam; `denyspam run` renews it when it starts")
    begin, end = review.begin, review.end
    database.execute("BEGIN")  # all of it as of one moment
    whole = database.execute("SELECT count(*) FROM bans WHERE since >= ? AND since < ?", (begin, end)).fetchone()[0]
    for done, (entry, withheld) in enumerate(_entries(database.execute(BANS, (begin, end))), 1):
        (review.withhold if withheld else review.add)(entry)
        if progress is not None and done % STEP == 0:
            progress(done, whole)
    oldest = database.execute("SELECT min(since) FROM bans").fetchone()[0]
    earlier = 2 * begin - end
    bans, addresses = database.execute(BEFORE, (earlier, begin)).fetchone()
    return {
        "oldest": oldest,
        "holding": database.execute(HOLDING, (end,)).fetchone()[0],
        "before": {"bans": bans, "addresses": addresses} if oldest is not None and oldest <= earlier else None,
        "read": dict(database.execute("SELECT log, clock FROM positions ORDER BY log")),
    }


def _entries(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Entry, bool]]:
    """Each with whether it was withheld."""
    for network, ports, rule, since, until, hits, note, state, ended, end_note, lines, withheld in rows:
        ban = Ban(Target.named(network, _ports(ports)), rule, since, until, hits, note=note)
        yield Entry(ban, state, ended, end_note or "", *_evidence(lines or b"")), bool(withheld)


@lru_cache(maxsize=64)
def _ports(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _evidence(packed: bytes) -> tuple[Line | None, dict[str, tuple[int, float]]]:
    """(the deciding line, filter -> lines and the time of its last) of a ban's lines, as ledger.py writes them."""
    # Millions of lines, of which little is told: so only what is needed of a head is read.
    parts = packed.split(b"\n")
    heads = [head.split(b" ", 4) for head in parts[:-1:2]]
    if any(head[0] == b"None" for head in heads):  # a hit without a time is none
        kept = [at for at, head in enumerate(heads) if head[0] != b"None"]
        heads, parts = [heads[at] for at in kept], [part for at in kept for part in parts[2 * at : 2 * at + 2]]
    if not heads:
        return None, {}
    time, kind, _, name, _ = heads[-1]
    last = {head[3]: head[0] for head in heads}
    names = [head[3] for head in heads]
    filters = {each.decode("utf-8", "replace"): (names.count(each), float(when)) for each, when in last.items()}
    line = Line(
        float(time), kind.decode("utf-8", "replace"), name.decode("utf-8", "replace"), parts[2 * len(heads) - 1]
    )
    return line, filters


# --- where from -------------------------------------------------------------------------------------------------------


@contextmanager
def located(paths: Sequence[str]) -> Iterator[Callable[[str], Place] | None]:
    """A function that finds the place of a network's name in these .mmdb files; None of no file. Raises Unreadable."""
    if not paths:
        yield None
        return
    try:
        import maxminddb  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unreadable("reading a .mmdb takes the package maxminddb: pip install 'denyspam[mmdb]'") from None
    with ExitStack() as stack:
        databases = []
        for path in paths:
            try:
                databases.append(stack.enter_context(maxminddb.open_database(path)))
            except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
                raise Unreadable(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

        def look(database: Any, address: str) -> Any:
            try:
                return database.get(address)
            except (ValueError, maxminddb.InvalidDatabaseError):  # IPv6 in one of IPv4 alone, a damaged page
                return None

        @lru_cache(maxsize=65_536)
        def locate(name: str) -> Place:
            address = name.partition("/")[0]
            return place(look(database, address) for database in databases)

        yield locate


# --- all of it --------------------------------------------------------------------------------------------------------


def told(  # noqa: PLR0917
    settings: Settings,
    begin: float,
    end: float,
    zone: tzinfo,
    databases: Sequence[str] = (),
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Everything that the page shows, as `report --json` prints it. `progress` as for reviewed(). Raises Unreadable."""
    with located(databases) as locate:
        path = os.path.join(settings.state, "ledger.db")
        review, found = reviewed(path, lambda: Review(begin, end, zone, locate), progress)
        numbers = review.told()
    daemon = _daemon(settings)
    status = daemon.get("status") or {}
    return {
        "host": socket.gethostname(),
        "version": __version__,
        "begin": begin,
        "end": end,
        "zone": str(zone),
        "ledger": {key: found[key] for key in ("path", "found", "oldest")},
        "holding": found["holding"],
        "before": found["before"],
        **numbers,
        "daemon": daemon["text"],
        "since": status.get("started"),
        "mode": status.get("mode"),
        "firewall": status.get("firewall"),
        "events": status.get("events") or {},
        "alarms": status.get("alarms") or [],
        "logs": _logs(settings, found["read"], status.get("logs") or {}),
        "silent": _silent(settings, numbers, status.get("events") or {}),
    }


def _daemon(settings: Settings) -> dict[str, Any]:
    """Its status, and in words whether it answers."""
    try:
        answer = control.ask(settings.socket, {"command": "status"}, SECONDS)
    except control.Forbidden:
        return {"text": "was not asked: that takes root, or its group"}
    except (control.Unreachable, ValueError):
        return {"text": "does not run, or does not answer"}
    status = answer.get("ok")
    if not isinstance(status, dict):
        return {"text": "does not answer"}
    return {"text": "runs" if status.get("ready") else "is starting", "status": status}


def _logs(settings: Settings, read: Mapping[str, float], logs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each log: how far it is read, by the ledger and the daemon, and what could not be used."""
    keys = ("present", "behind", "events", "overlong", "bad_address", "bad_time", "lost")
    paths = dict.fromkeys((*(each.path for each in settings.logs), *logs, *read))
    return [
        {
            "path": path,
            "clock": logs.get(path, {}).get("clock", read.get(path)),
            **{key: logs.get(path, {}).get(key) for key in keys},
        }
        for path in paths
    ]


def _silent(settings: Settings, numbers: Mapping[str, Any], events: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The filters named in the configuration that no ban and no event of this daemon is of."""
    heard = {each["name"] for each in numbers["filters"]} | {name for each in events.values() for name in each}
    asked = dict.fromkeys(name for log in settings.logs for name in log.filters if name != "auto")
    return [name for name in asked if name not in heard]


# --- the page ---------------------------------------------------------------------------------------------------------


def page(numbers: Mapping[str, Any], zone: tzinfo) -> str:
    """The report as HTML. What is marked as safe in the template are the style sheet and the charts, of numbers."""
    folder = files("denyspam.etc")
    style = folder.joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.urlsafe_b64encode(hashlib.sha256(style.encode()).digest()).decode()
    steps = Steps(numbers["over_time"]["start"], numbers["over_time"]["step"], numbers["over_time"]["bans"])
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=lambda number: f"{number:,}",
        moment=lambda time: show.moment(time, zone)[:16],
        day=lambda time: show.moment(time, zone)[:10],
        duration=lambda seconds: "-" if seconds is None else show.duration(seconds),
        foreign=foreign,
        share=share,
        bar=charts.bar,
        trend=charts.trend,
    )
    template = environment.from_string(folder.joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(
        report=numbers,
        style=style,
        digest=digest,
        steps=steps,
        total=steps.total(),
        columns=charts.columns(steps, "over-time", "Bans over time"),
        top=charts.nice(max(steps.total(), default=0)),
        labels=[charts.moment(steps.start + at * steps.size, steps.size) for at in range(steps.length)],
        short=5 if steps.size < DAY <= steps.size * steps.length / 3 else None,  # a date without its hour
        meaning=MEANING,
        sentences=list(sentences(numbers)),
    )


def share(count: int, whole: int) -> str:
    """In percent, and what is not nothing never as nothing."""
    percent = 100 * count / whole
    return "< 1 %" if 0 < percent < 1 else f"{percent:.0f} %"


def foreign(text: str, width: int = 0) -> str:
    """A text that somebody else wrote, for a page: printable, and with nothing in it that could be a link."""
    shown = show.line(text.encode("utf-8", "replace"), width)
    return re.sub("http(?=s?:)", "hxxp", shown.replace("//", "\u2044\u2044"), flags=re.I)


def sentences(numbers: Mapping[str, Any]) -> Iterator[str]:
    """The period in words, for who reads no tables."""
    bans = numbers["bans"]
    if not bans:
        yield (
            "Nobody was banned."
            if numbers["ledger"]["found"]
            else "There is no ledger yet: nothing was ever banned here."
        )
    else:
        worst = numbers["kinds"][0]
        percent = round(100 * worst["bans"] / bans)
        what = MEANING.get(worst["kind"], f"did what the kind {worst['kind']} stands for")
        yield (
            f"{_many(numbers['addresses'], 'address was', 'addresses were')} banned {_times(bans)}; "
            f"in {percent} % of the cases because they {what}."
        )
        again = sum(each["addresses"] for each in numbers["often"][1:])
        if again:
            yield f"{_many(again, 'address', 'addresses')} came back after a ban and had to be banned again."
        if numbers["released"]:
            yield f"{_many(numbers['released'], 'ban was', 'bans were')} ended early by an administrator."
    if numbers["withheld_count"]:
        yield f"{_many(numbers['withheld_count'], 'ban was', 'bans were')} decided, and withheld."
    wrong = [each for each in numbers["logs"] if each["present"] is False]
    if numbers["alarms"]:
        yield f"{_many(len(numbers['alarms']), 'alarm needs', 'alarms need')} attention: see Health."
    elif wrong:
        yield f"{_many(len(wrong), 'log is', 'logs are')} not there: see Health."


def _many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def write(text: str, path: str) -> None:
    """As a whole or not at all; what is no file (a pipe, /dev/stdout) is written to as it is. Raises OSError."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
    path = os.path.realpath(path)
    descriptor, made = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".denyspam-", suffix=".html")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
        os.replace(made, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(made)
        raise
