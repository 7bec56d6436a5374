"""ledger: bans, why they were made, how they ended, and how far each log was read; an SQLite file in WAL mode.

A decision and the reading positions it followed from are written in one transaction, so that after a crash no line is
decided on twice and none is skipped. Writes never stop the daemon: what cannot be written (a full disk, a locked file)
is kept in memory in its order, `fault` says why, and the next commit() tries again. A file that is no database is moved
aside and a new one begun (`lost` is then True).
synchronous=NORMAL: after a power failure the last transactions may be gone, each of them whole; the log is then read
again from the position before. Texts are bytes as they stood in the log, at most 1,000 of each line.
Bounded: QUEUE rows wait at most, above that the oldest is let go; past bans are pruned by the caller's age limit.
20,000 bans with their lines are written, and confirmed later, in a fifth of a second: one row for the ban, one for all
of its lines (apart, since confirming a ban writes its page again), each kind of statement in bulk.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from denyspam.events import Ban, Grace, Network, Past, Target

QUEUE = 1_000_000
SCHEMA = 3
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
    state TEXT NOT NULL,        -- pending (decided, the kernel has not answered), active, expired, released, replaced
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
"""


made = tuple.__new__  # a named tuple of its values, at a third of what the call takes
INSERT_BAN = "INSERT INTO bans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_LINES = "INSERT INTO lines VALUES (?, ?)"


class Row(NamedTuple):
    """A ban as the ledger holds it. Times are epoch seconds; `state` is that of the table."""

    id: int
    ban: Ban
    state: str
    ended: float | None
    end_note: str

    @property
    def past(self) -> Past:
        return made(Past, (self.ban, self.ended, self.state in ("released", "replaced")))


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no sound database: not a lock, a full disk or our own mistake, which are subclasses."""
    return type(error) is sqlite3.DatabaseError


class Ledger:
    """The open file. One thread. `path` is created with its folder's permissions, mode 0640."""

    def __init__(self, path: str, now: float) -> None:
        self.path = path
        self.fault: str | None = None
        self.lost = False  # nothing is known of what the kernel holds; until settle()
        self._bans: deque[tuple[tuple[Any, ...], bytes]] = deque()  # new rows, each with its lines; written first
        self._todo: deque[tuple[str, Sequence[Any]]] = deque()
        self._positions: dict[str, tuple[str, float]] = {}  # not written yet; apart, since only the newest matter
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not damaged(error):
                raise
            self.set_aside(now)

    moved: str | None = None  # where a damaged file was put

    def set_aside(self, now: float) -> None:
        """Move a damaged file out of the way and begin a new one; what waits to be written is written there."""
        self._db.close()
        self.moved = f"{self.path}.damaged-{int(now)}"
        for end in ("", "-wal", "-shm"):
            if os.path.exists(self.path + end):
                os.replace(self.path + end, self.moved + end)
        self._open()

    def _open(self) -> None:
        # 0.25 s: long enough for a reader's snapshot to end, short enough that no ban waits for a locked file.
        self._db = sqlite3.connect(self.path, timeout=0.25, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA journal_size_limit = 16777216")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise sqlite3.OperationalError(f"{self.path} was written by a newer denyspam (schema {version})")
        if version < SCHEMA:  # else nothing is written: a full disk or another's lock must not keep us from reading
            self._db.executescript(TABLES)
            self._convert()
            if self.path != MEMORY:
                os.chmod(self.path, 0o640)
        self.lost = self._db.execute("SELECT 1 FROM facts WHERE name = 'settled'").fetchone() is None
        self._next = 1 + int(self._db.execute("SELECT coalesce(max(id), 0) FROM bans").fetchone()[0])

    def _convert(self) -> None:
        """The evidence of schemas 1 and 2, a row for each line, to `lines`, in one transaction."""
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
        target, rule, since, until, hits, evidence, note, mark = ban
        file, offset = mark or (None, None)
        lines = b"".join(
            _packed(one.time, one.kind, one.address, one.filter, one.offset, one.file, one.text) for one in evidence
        )
        ports = " ".join(map(str, target.ports))
        row = (number, target.name, ports, rule, since, until, hits, note, state, file, offset, ended, "")
        self._make_room()
        self._bans.append((row, lines))
        return number

    def confirm(self, number: int) -> None:
        """The kernel holds it."""
        self._put("UPDATE bans SET state = 'active' WHERE id = ? AND state = 'pending'", (number,))

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

    def settle(self) -> None:
        """Every ban that the kernel holds is in here. Not told by the file being there, which a crash leaves."""
        if self.lost:
            self._put("INSERT OR REPLACE INTO facts VALUES ('settled', '1')", ())
            self.lost = False

    def keep(self, name: str, value: str) -> None:
        """A fact of this name, for kept()."""
        self._put("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def prune(self, before: float) -> None:
        """Forget bans and graces that were over before a time."""
        self._put("DELETE FROM graces WHERE until < ?", (before,))
        self._put("DELETE FROM bans WHERE ended IS NOT NULL AND until < ? AND ended < ?", (before, before))

    def _put(self, sql: str, values: Sequence[Any]) -> None:
        self._make_room()
        self._todo.append((sql, values))

    def _make_room(self) -> None:
        if len(self._bans) + len(self._todo) >= QUEUE and self.fault is not None:
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
            self.fault = str(error)
            if self._db.in_transaction:
                self._db.rollback()
            return False
        self._bans.clear()
        self._todo.clear()
        self._positions.clear()
        self.fault = None
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    def open(self) -> list[Row]:
        """The bans that have not ended, oldest first; without evidence."""
        return self._rows("WHERE ended IS NULL ORDER BY since, id")

    def since(self, time: float) -> list[Row]:
        """The bans that held at `time` or later, whatever became of them, in the order decided; without evidence."""
        return self._rows("WHERE until >= ? OR ended IS NULL ORDER BY id", (time,))

    def graces(self, time: float) -> list[Grace]:
        """Those that ended after `time`, or have not ended yet, in the order in which they were given."""
        rows = self._db.execute("SELECT * FROM graces WHERE until > ? ORDER BY since", (time,))
        return [Grace(ip_network(network), since, until, note) for network, since, until, note in rows]

    def history(self, networks: Sequence[str], limit: int = 20) -> list[Row]:
        """The latest bans of these networks (as Target prints them), newest first; without evidence."""
        marks = ", ".join("?" * len(networks))
        return self._rows(f"WHERE network IN ({marks}) ORDER BY id DESC LIMIT ?", (*networks, limit))

    def evidence(self, number: int) -> list[Mapping[str, Any]]:
        """The lines of a ban: time, kind, address, filter, file, offset, text (bytes)."""
        found = self._db.execute("SELECT text FROM lines WHERE ban = ?", (number,)).fetchone()
        parts = found[0].split(b"\n")[:-1] if found else []
        return [_unpacked(head, text) for head, text in zip(parts[::2], parts[1::2], strict=True)]

    def kept(self, name: str) -> str | None:
        """What keep() wrote last."""
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def positions(self) -> dict[str, tuple[str, float]]:
        """log -> (position, clock)"""
        return {log: (text, clock) for log, text, clock in self._db.execute("SELECT * FROM positions")}

    def _rows(self, where: str, values: Sequence[Any] = ()) -> list[Row]:
        names = "id, network, ports, rule, since, until, hits, note, state, file, offset, ended, end_note"
        rows = self._db.execute(f"SELECT {names} FROM bans {where}", values)  # noqa: S608
        ports: dict[str, tuple[int, ...]] = {}  # a handful of lists, shared by all
        same: dict[str, str] = {}  # and of texts
        found = []
        for number, network, listed, rule, since, until, hits, note, state, file, offset, ended, end_note in rows:
            if listed not in ports:
                ports[listed] = tuple(map(int, listed.split()))
            target = made(Target, (network, ports[listed]))
            mark = None if file is None else (same.setdefault(file, file), offset)
            ban = made(Ban, (target, same.setdefault(rule, rule), since, until, hits, (), note, mark))
            found.append(made(Row, (number, ban, state, ended, end_note)))
        return found

    def close(self) -> None:
        self.commit()
        self._db.close()


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
