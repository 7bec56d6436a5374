"""ledger: bans, why they were made, how they ended, and how far each log was read; an SQLite file in WAL mode.

A decision and the reading positions it followed from are written in one transaction, so that after a crash no line is
decided on twice and none is skipped. Writes never stop the daemon: what cannot be written (a full disk, a locked file)
is kept in memory in its order, `fault` says why, and the next commit() tries again. A file that is no ledger (damaged,
of other tables, of a newer denyspam, a folder) is moved aside and a new one begun (`lost` is then True). While it is
open `trouble` says that it was damaged, deleted or replaced: what may be done then is set_aside().
Not noticed: bytes changed within a text or a number to others that are as possible.
synchronous=NORMAL: after a power failure the last transactions may be gone, each of them whole; the log is then read
again from the position before. Texts are bytes as they stood in the log, at most 1,000 of each line.
Bounded: QUEUE rows wait at most, above that the oldest is let go; past bans are pruned by the caller's age limit.
20,000 bans with their lines are written, and confirmed later, in a fifth of a second: one row for the ban, one for all
of its lines (apart, since confirming a ban writes its page again), each kind of statement in bulk.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from ipaddress import ip_network
from itertools import groupby
from operator import itemgetter
from socket import AF_INET, AF_INET6, inet_pton
from types import NoneType
from typing import Any
from urllib.parse import quote

from denyspam.events import Ban, Grace, Network, Past, Target

QUEUE = 1_000_000
SCHEMA = 4
MEMORY = ":memory:"  # a path that is no file: for a daemon that cannot have one

TABLES = """
CREATE TABLE IF NOT EXISTS bans (
    id INTEGER PRIMARY KEY,
    network TEXT NOT NULL,      -- as Target prints it: 192.0.2.7 or 2001:db8::/64
    ports TEXT NOT NULL,        -- "25" or "465 587"
    rule TEXT NOT NULL,         -- the policy's name, "manual", "forced" or "adopted"
    since REAL NOT NULL,        -- epoch seconds, by the log
    until REAL NOT NULL,
    hits INTEGER NOT NULL,
    note TEXT NOT NULL,
    state TEXT NOT NULL,        -- pending (the kernel has not answered), active, withheld, expired, released, replaced
    file TEXT,                  -- of the deciding hit; NULL for a ban by hand
    offset INTEGER,
    ended REAL,                 -- epoch seconds, by the clock
    end_note TEXT
);
CREATE INDEX IF NOT EXISTS bans_unended ON bans (id) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS bans_network ON bans (network);
CREATE INDEX IF NOT EXISTS bans_until ON bans (until);
CREATE TABLE IF NOT EXISTS lines (
    ban INTEGER PRIMARY KEY REFERENCES bans (id) ON DELETE CASCADE,
    text BLOB NOT NULL          -- two lines a hit, by time: "TIME KIND ADDRESS FILTER OFFSET FILE", and the log's
);
CREATE TABLE IF NOT EXISTS positions (
    log TEXT PRIMARY KEY,       -- the configured path
    position TEXT NOT NULL,     -- tail.Position as JSON
    clock REAL NOT NULL         -- the newest stamp up to there, epoch seconds
);
CREATE TABLE IF NOT EXISTS graces (
    network TEXT PRIMARY KEY,   -- as Target prints it
    since REAL NOT NULL,        -- epoch seconds, by the clock
    until REAL NOT NULL,
    note TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS senders (
    network TEXT PRIMARY KEY,   -- as it is counted
    day INTEGER NOT NULL,       -- the newest on which anything was heard, days since 1970, UTC
    accepted INTEGER NOT NULL,  -- messages on that day
    offences INTEGER NOT NULL,
    good INTEGER NOT NULL,      -- a bit for each day before that; bit 0 is the day before it
    bad INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS verdicts (
    network TEXT NOT NULL,      -- as it is counted or banned
    since REAL NOT NULL,        -- from this hit's time on, epoch seconds, until the next
    kind TEXT NOT NULL,         -- known: by accepted mail, "1" or "0"; withheld: the ban of that time, why, or "";
                                -- over: the end of one that the fuse withheld, epoch seconds
    verdict TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS verdicts_since ON verdicts (since);
"""


made = tuple.__new__  # a named tuple of its values, at a third of what the call takes
INSERT_BAN = "INSERT INTO bans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_LINES = "INSERT INTO lines VALUES (?, ?)"
MOVED = 1000  # pages in the log of changes from which on they are moved into the file: SQLite's own default
FILES = ("", "-wal", "-shm")  # what SQLite's files are called behind the ledger's name

# What a row may be: SQLite keeps anything in any column, and so does a disk. All rows of a question are looked at
# together, column by column: a hundred thousand take a twentieth of the time of a look by SQL at each.
COLUMNS = "id, network, ports, rule, since, until, hits, note, state, file, offset, ended, end_note"
KINDS: tuple[set[Any], ...] = (
    *({int}, {str}, {str}, {str}, {float, int}, {float, int}, {int}, {str}, {str}),
    *({str, NoneType}, {int, NoneType}, {float, int, NoneType}, {str}),
)
STRANGER = re.compile(r"[^0-9a-f:./]")  # in no network's name
PORTS = re.compile(r"[1-9][0-9 ]*")
LATEST = 1e12  # epoch seconds
AT_ONCE = 1_000  # rows
# Of the messages of other errors than those of a damaged file: the tables are not ours, or a text is none.
STRANGE = re.compile(r"no such (table|column|index)|has \d+ columns|has no column|could not decode", re.IGNORECASE)


def damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no sound ledger: not a lock, a full disk or our own mistake."""
    return (
        type(error) is sqlite3.DatabaseError
        or isinstance(error, sqlite3.IntegrityError)
        or STRANGE.search(str(error)) is not None
    )


class Ledger:
    """The open file. One thread. `path` is created with its folder's permissions, mode 0640."""

    def __init__(self, path: str, now: float) -> None:
        self.path = path
        self.fault: str | None = None
        self.lost = False  # nothing is known of what the kernel holds; until settle()
        self._bans: deque[tuple[tuple[Any, ...], bytes]] = deque()  # new rows, each with its lines; written first
        self._todo: deque[tuple[str, Sequence[Any]]] = deque()
        self._positions: dict[str, tuple[str, float]] = {}  # not written yet; apart, since only the newest matter
        self._next = 1  # numbers only grow: what waits for the file before may go into the next one
        self._damage: str | None = None
        self._db = sqlite3.connect(MEMORY)
        try:
            self._open()
        except sqlite3.Error as error:
            if not damaged(error):
                raise
            self.why = str(error)
            self.set_aside(now)

    moved: str | None = None  # where a damaged file was put,
    why: str | None = None  # and what was wrong with it

    def set_aside(self, now: float) -> None:
        """Move a damaged file out of the way and begin a new one; what waits to be written is written there. Raises
        OSError, sqlite3.Error: then it can be tried again."""
        self._db.close()
        self._db = sqlite3.connect(MEMORY)
        self.moved = None
        place = f"{self.path}.damaged-{int(now)}"
        while os.path.lexists(place):
            place += "+"
        for end in FILES:
            if os.path.lexists(self.path + end):
                os.replace(self.path + end, place + end)
                self.moved = place
        self._damage = "it could not be opened"
        self._open()

    def reopen(self) -> None:
        """What was opened on a read-only disk stays read-only. Raises OSError, sqlite3.Error; then again."""
        self._db.close()
        self._db = sqlite3.connect(MEMORY)
        self._open()

    @property
    def trouble(self) -> str | None:
        """Why nothing of what is written will be found again: the file is damaged, or not at its place any more."""
        if self._damage is None and self.path != MEMORY:
            here = zip(self._opened, self._places(), strict=True)
            if any(then is not None and then != now for then, now in here):
                self._damage = "it was deleted or replaced"
        return self._damage

    @property
    def unwritten(self) -> int:
        """The number from which on bans were noted and are not in the file yet."""
        return self._bans[0][0][0] if self._bans else self._next

    @property
    def newest(self) -> int:
        """The number of the last ban that was decided."""
        return self._next - 1

    def copy(self, path: str) -> None:
        """Take over, in memory, what a file holds that can be read but not opened, as on a read-only file system.
        Raises OSError, sqlite3.Error."""
        with tempfile.TemporaryDirectory() as folder:
            copied = os.path.join(folder, "ledger.db")
            for end in FILES[:2]:
                if os.path.exists(path + end):
                    shutil.copyfile(path + end, copied + end)
            other = Ledger(copied, 0.0)
            try:
                deque(other.since(0.0), maxlen=0)  # unsound rows are better not known at all
                other._db.backup(self._db)
            finally:
                other._db.close()
        self._next = 1 + int(self._db.execute("SELECT coalesce(max(id), 0) FROM bans").fetchone()[0])

    def _places(self) -> list[tuple[int, int] | None]:
        """Device and inode of the file and its log of changes."""
        found: list[tuple[int, int] | None] = []
        for end in FILES[:2]:
            try:
                status = os.stat(self.path + end)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_dev, status.st_ino))
        return found

    def _open(self) -> None:
        for path in (self.path + end for end in FILES):
            if os.path.exists(path) and not os.path.isfile(path):
                raise sqlite3.DatabaseError(f"{path} is not a file")
        # 0.25 s: long enough for a reader's snapshot to end, short enough that no ban waits for a locked file.
        self._db = sqlite3.connect(self.path, timeout=0.25, isolation_level=None)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA journal_size_limit = 16777216")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise sqlite3.DatabaseError(f"written by a newer denyspam (schema {version})")
        self._check_tables(version)
        self._db.execute("PRAGMA journal_mode = WAL")
        if version < SCHEMA:  # else nothing is written: a full disk or another's lock must not keep us from reading
            self._db.executescript(TABLES)
            self._convert()
            if self.path != MEMORY:
                os.chmod(self.path, 0o640)
        self.lost = self._db.execute("SELECT 1 FROM facts WHERE name = 'settled'").fetchone() is None
        last = int(self._db.execute("SELECT coalesce(max(id), 0) FROM bans").fetchone()[0])
        self._next = max(self._next, 1 + last)
        self._opened = self._places()
        self._damage = None

    def _check_tables(self, version: int) -> None:
        """Before anything is written: another program's file is not to get our tables."""
        with closing(sqlite3.connect(MEMORY)) as ours:
            ours.executescript(TABLES)
            wanted, found = _columns(ours), _columns(self._db)
        known = version > 0 or not found.keys() - wanted.keys()
        complete = version < SCHEMA or not wanted.keys() - found.keys()
        if not (known and complete and all(found[each] >= wanted[each] for each in wanted.keys() & found.keys())):
            raise sqlite3.DatabaseError("its tables are not those of a ledger")

    def _convert(self) -> None:
        """The evidence of schemas 1 and 2, a row for each line, to `lines`, in one transaction. What schema 4 added is
        there by now, empty."""
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'evidence'").fetchone():
            rows = self._db.execute(
                "SELECT ban, time, kind, address, filter, offset, file, text FROM evidence ORDER BY ban, number"
            )
            self._db.executemany(
                INSERT_LINES,
                ((ban, b"".join(_packed(*row[1:]) for row in same)) for ban, same in groupby(rows, key=itemgetter(0))),
            )
            self._db.execute("DROP TABLE evidence")
            self._db.execute("DROP INDEX bans_open")
        self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        self._db.execute("COMMIT")

    # --- writing: queued, and done by commit() ------------------------------------------------------------------------

    def decide(self, ban: Ban, state: str = "pending", ended: float | None = None) -> int:
        """Note a ban with its evidence; returns its number for end() and confirm()."""
        number, self._next = self._next, self._next + 1
        (network, ports), rule, since, until, hits, evidence, note, mark = ban
        file, offset = mark or (None, None)
        lines = b"".join(
            [
                _packed(time, kind, address, name, at, where, text)
                for time, kind, address, name, _, _, where, at, _, text, _, _ in evidence
            ]
        )
        row = (number, network, _listed(ports), rule, since, until, hits, note, state, file, offset, ended, "")
        if self.fault is not None:
            self._make_room()
        self._bans.append((row, lines))
        return number

    def confirm(self, *numbers: int) -> None:
        """The kernel holds these. A flood's numbers follow each other, and are told by the first and the last."""
        ordered = sorted(numbers)
        first = 0
        for at, number in enumerate(ordered, 1):
            if at == len(ordered) or ordered[at] != number + 1:
                between = ordered[first], number
                self._put("UPDATE bans SET state = 'active' WHERE id BETWEEN ? AND ? AND state = 'pending'", between)
                first = at

    def end(self, number: int, state: str, now: float, note: str = "") -> None:
        """It is over: `state` is expired, released or replaced."""
        self._put(
            "UPDATE bans SET state = ?, ended = ?, end_note = ? WHERE id = ? AND ended IS NULL",
            (state, now, note, number),
        )

    def position(self, log: str, position: str, clock: float) -> None:
        """How far a log has been read and decided on."""
        self._positions[log] = position, clock

    def grace(self, grace: Grace) -> None:
        """Note it; it replaces the network's earlier one."""
        name = str(Target(grace.network, ()))
        self._put("INSERT OR REPLACE INTO graces VALUES (?, ?, ?, ?)", (name, grace.since, grace.until, grace.note))

    def end_grace(self, network: Network) -> None:
        """A ban by hand took its place."""
        self._put("DELETE FROM graces WHERE network = ?", (str(Target(network, ())),))

    def withhold(self, number: int, why: str) -> None:
        """It was decided, and is not carried out."""
        self._put("UPDATE bans SET state = 'withheld', note = ? WHERE id = ? AND ended IS NULL", (why, number))

    def carry_out(self, number: int) -> None:
        """It was withheld, and is to be carried out after all."""
        self._put("UPDATE bans SET state = 'pending', note = '' WHERE id = ? AND state = 'withheld'", (number,))

    def sender(self, row: Sequence[Any]) -> None:
        """What is known of one from whom mail was accepted: a row of `senders`."""
        self._put("INSERT OR REPLACE INTO senders VALUES (?, ?, ?, ?, ?, ?)", row)

    def forget_sender(self, network: str) -> None:
        self._put("DELETE FROM senders WHERE network = ?", (network,))

    def verdict(self, network: str, since: float, kind: str, verdict: str) -> None:
        """What a decision went by, beside the log."""
        self._put("INSERT INTO verdicts VALUES (?, ?, ?, ?)", (network, since, kind, verdict))

    def fact(self, name: str, value: str) -> None:
        """Something to be found again under this name, in place of what was."""
        self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def settle(self) -> None:
        """Every ban that the kernel holds is in here. Not told by the file being there, which a crash leaves."""
        if self.lost:
            self.fact("settled", "1")
            self.lost = False

    def prune(self, before: float) -> None:
        """Forget bans and graces that were over before a time."""
        self._put("DELETE FROM graces WHERE until < ?", (before,))
        self._put("DELETE FROM verdicts WHERE since < ?", (before,))
        self._put("DELETE FROM bans WHERE ended IS NOT NULL AND until < ? AND ended < ?", (before, before))

    def _put(self, sql: str, values: Sequence[Any]) -> None:
        if self.fault is not None:
            self._make_room()
        self._todo.append((sql, values))

    def _make_room(self) -> None:
        if len(self._bans) + len(self._todo) >= QUEUE:
            if len(self._bans) > len(self._todo):
                self._bans.popleft()
            else:
                self._todo.popleft()

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._bans) + len(self._todo) + len(self._positions)

    def commit(self) -> bool:
        """Write what is queued, in one transaction. False: not written (see `fault`), kept for the next call."""
        if not self.waiting:
            return True
        try:
            # Moving pages into the file waits for the disk twice: not while a new ban waits to be given to the kernel.
            self._db.execute(f"PRAGMA wal_autocheckpoint = {0 if self._bans else MOVED}")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(INSERT_BAN, (row for row, _ in self._bans))
            self._db.executemany(INSERT_LINES, ((row[0], lines) for row, lines in self._bans if lines))
            for sql, same in groupby(self._todo, key=itemgetter(0)):
                self._db.executemany(sql, (values for _, values in same))
            positions = ((log, *where) for log, where in self._positions.items())
            self._db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", positions)
            self._db.execute("COMMIT")
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            self._note(error)
            if self._db.in_transaction:
                self._db.rollback()
            return False
        self._bans.clear()
        self._todo.clear()
        self._positions.clear()
        self.fault = None
        return True

    def _note(self, error: sqlite3.Error) -> None:
        self.fault = str(error)
        if damaged(error):
            self._damage = self.fault

    # --- reading ------------------------------------------------------------------------------------------------------

    def open(self) -> list[Past]:
        """The bans that have not ended, oldest first; without evidence. Raises sqlite3.Error, as all that read."""
        with self._reading():
            return [*self._rows("WHERE ended IS NULL ORDER BY since, id")]

    def since(self, time: float) -> Iterator[Past]:
        """The bans that held at `time` or later, whatever became of them, in the order decided; without evidence. As
        they are read, since of a year's bans little is kept: nothing may be written meanwhile."""
        with self._reading():
            yield from self._rows("WHERE until >= ? OR ended IS NULL ORDER BY id", (time,))

    def graces(self, time: float) -> list[Grace]:
        """Those that ended after `time`, or have not ended yet, in the order in which they were given."""
        with self._reading():
            rows = self._db.execute("SELECT * FROM graces WHERE until > ? ORDER BY since", (time,))
            return [
                Grace(ip_network(network), float(since), float(until), str(note))
                for network, since, until, note in rows
            ]

    def history(self, networks: Sequence[str], limit: int = 20) -> list[Past]:
        """The latest bans of these networks (as Target prints them), newest first; without evidence."""
        marks = ", ".join("?" * len(networks))
        with self._reading():
            return [*self._rows(f"WHERE network IN ({marks}) ORDER BY id DESC LIMIT ?", (*networks, limit))]

    def evidence(self, number: int) -> list[Mapping[str, Any]]:
        """The lines of a ban: time, kind, address, filter, file, offset, text (bytes)."""
        with self._reading():
            found = self._db.execute("SELECT text FROM lines WHERE ban = ?", (number,)).fetchone()
            parts = bytes(found[0]).split(b"\n")[:-1] if found else []
            return [_unpacked(head, text) for head, text in zip(parts[::2], parts[1::2], strict=True)]

    def positions(self) -> dict[str, tuple[str, float]]:
        """log -> (position, clock)"""
        with self._reading():
            rows = self._db.execute("SELECT * FROM positions")
            return {str(log): (str(text), float(clock)) for log, text, clock in rows}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._note(error)
            raise
        except (ValueError, TypeError, OverflowError, OSError) as error:  # what stands there is not what was written
            self._damage = str(error)
            raise sqlite3.DatabaseError(self._damage) from error

    def senders(self) -> list[tuple[str, int, int, int, int, int]]:
        """The rows of `senders`, the one written longest ago first."""
        with self._reading():
            rows = self._db.execute("SELECT * FROM senders ORDER BY rowid")
            return [
                (str(key), int(day), int(accepted), int(offences), int(good), int(bad))
                for key, day, accepted, offences, good, bad in rows
            ]

    def facts(self) -> dict[str, str]:
        with self._reading():
            return {str(name): str(value) for name, value in self._db.execute("SELECT * FROM facts")}

    def hours(self, since: float) -> dict[int, int]:
        """hour (epoch seconds / 3600) -> bans that policies decided in it, withheld ones not counted."""
        with self._reading():
            rows = self._db.execute(
                "SELECT CAST(since / 3600 AS INTEGER), count(*) FROM bans"
                " WHERE until >= ? AND since >= ? AND file IS NOT NULL AND note = '' GROUP BY 1",
                (since, since),
            )
            return {int(hour): int(count) for hour, count in rows}

    def _rows(self, where: str, values: Sequence[Any] = ()) -> Iterator[Past]:
        cursor = self._db.execute(f"SELECT {COLUMNS} FROM bans {where}", values)  # noqa: S608
        ports: dict[str, tuple[int, ...]] = {}  # a handful of lists, shared by all
        same: dict[str, str] = {}  # and of texts
        while rows := cursor.fetchmany(AT_ONCE):
            if not _sound(rows):
                raise ValueError("a row of it makes no sense")
            for number, network, listed, rule, since, until, hits, note, state, file, offset, ended, end_note in rows:
                if listed not in ports:
                    ports[listed] = tuple(map(int, listed.split()))
                if ended is None:  # it will be given to the kernel
                    inet_pton(AF_INET6 if ":" in network else AF_INET, network.partition("/")[0])
                target = made(Target, (network, ports[listed]))
                mark = None if file is None else (same.setdefault(file, file), offset)
                ban = made(Ban, (target, same.setdefault(rule, rule), since, until, hits, (), note, mark))
                yield made(Past, (ban, ended, same.setdefault(state, state), number, end_note))

    def close(self) -> None:
        self.commit()
        self._db.close()


def _sound(rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether these rows of COLUMNS can be what was written."""
    columns = list(zip(*rows, strict=True))
    _, network, ports, _, since, until, _, _, _, file, offset, ended, _ = columns
    times = [*since, *until, *filter(None, ended)]
    return (
        all(set(map(type, column)) <= kinds for column, kinds in zip(columns, KINDS, strict=True))
        and -LATEST < min(times) <= max(times) < LATEST
        and STRANGER.search("".join(network)) is None
        and all(map(PORTS.fullmatch, set(ports)))
        and set(zip(map(type, file), map(type, offset), strict=True)) <= {(NoneType, NoneType), (str, int)}
    )


def _columns(db: sqlite3.Connection) -> dict[str, set[str]]:
    """table -> its columns"""
    found: dict[str, set[str]] = {}
    for table, column in db.execute(
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    ):
        found.setdefault(table, set()).add(column)
    return found


def verdicts(path: str) -> list[tuple[str, float, str, str]] | None:
    """The rows of a ledger's `verdicts`, by time, also while a daemon writes it; None where it cannot be read."""
    if not os.path.exists(path):
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as db:
            return db.execute("SELECT * FROM verdicts ORDER BY since, rowid").fetchall()
    except sqlite3.Error:
        return None


@lru_cache(maxsize=256)
def _listed(ports: tuple[int, ...]) -> str:
    return " ".join(map(str, ports))


def _packed(  # noqa: PLR0917
    time: float | None, kind: str, address: str | None, name: str, offset: int, file: str, text: bytes
) -> bytes:
    return f"{time} {kind} {address} {name} {offset} {file}\n".encode("utf-8", "surrogateescape") + text + b"\n"


def _unpacked(head: bytes, text: bytes) -> Mapping[str, Any]:
    time, kind, address, name, offset, file = head.decode("utf-8", "surrogateescape").split(" ", 5)
    return {
        "time": float(time),
        "kind": kind,
        "address": address,
        "filter": name,
        "file": file,
        "offset": int(offset),
        "text": text,
    }
