"""The ledger on a real file: transactions, faults, damage."""

from __future__ import annotations

import os
import sqlite3
from ipaddress import ip_network
from pathlib import Path

import pytest

from denyspam.events import Ban, Event, Grace, Past, Target
from denyspam.ledger import MEMORY, Ledger, verdicts


def target(text: str = "192.0.2.7/32", *ports: int) -> Target:
    return Target(ip_network(text), ports or (25,))


def ban(since: float = 0, text: str = "192.0.2.7/32", *ports: int) -> Ban:
    hits = tuple(
        Event(since, "virus", "192.0.2.7", "postfix", "A1", None, "/mail.log", offset, 0, b"\xff line %d" % offset)
        for offset in range(3)
    )
    return Ban(target(text, *ports), "virus", since, since + 3600, 3, hits, "", ("/mail.log", 2))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def states(ledger: Ledger) -> list[tuple[str, str]]:
    return [(str(row.ban.target), row.state) for row in ledger.since(0)]


def test_a_ban_and_its_reasons_survive(path: str) -> None:
    ledger = Ledger(path, 0)
    assert ledger.lost
    number = ledger.decide(ban(text="2001:db8::/64"))
    ledger.position("/mail.log", "here", 5.5)
    assert ledger.commit()
    ledger.confirm(number)
    ledger.settle()
    ledger.close()
    again = Ledger(path, 0)
    assert not again.lost
    (row,) = again.open()
    assert row == Past(
        Ban(target("2001:db8::/64"), "virus", 0, 3600, 3, (), "", ("/mail.log", 2)), None, "active", number, ""
    )
    assert [one["text"] for one in again.evidence(number)] == [b"\xff line 0", b"\xff line 1", b"\xff line 2"]
    assert again.positions() == {"/mail.log": ("here", 5.5)}
    assert again.decide(ban()) == number + 1


def test_many_are_confirmed_at_once_and_no_other(path: str) -> None:
    ledger = Ledger(path, 0)
    numbers = [ledger.decide(ban(text=f"192.0.2.{last}/32")) for last in range(7)]
    ledger.confirm(*[numbers[at] for at in (5, 1, 0, 3, 2)])
    ledger.confirm()
    assert ledger.commit()
    assert [state for _, state in states(ledger)] == [
        *("active", "active", "active", "active"),
        *("pending", "active", "pending"),
    ]


def test_no_ban_waits_for_what_was_written_before_it_to_be_moved_into_the_file(path: str) -> None:
    ledger = Ledger(path, 0)
    written = os.stat(path).st_size
    for _ in range(3):
        numbers = [ledger.decide(ban(text=f"10.0.{high}.{low}/32")) for high in range(60) for low in range(250)]
        assert ledger.commit()
        assert os.stat(path).st_size == written
        ledger.confirm(*numbers)
        assert ledger.commit()
        assert os.stat(path).st_size > written
        written = os.stat(path).st_size


def test_what_ended_stays_as_history(path: str) -> None:
    ledger = Ledger(path, 0)
    first, second = ledger.decide(ban(0)), ledger.decide(ban(5000, "192.0.2.7/32", 465, 587))
    ledger.end(first, "released", 10, "a mistake")
    ledger.commit()
    assert [row.id for row in ledger.open()] == [second]
    assert [(row.id, row.state, row.ended, row.end_note) for row in ledger.history(["192.0.2.7"])] == [
        (second, "pending", None, ""),
        (first, "released", 10, "a mistake"),
    ]
    assert ledger.open()[0].ban.target.ports == (465, 587)
    assert next(ledger.since(0)).released
    ledger.end(second, "expired", 9000)
    ledger.prune(4000)
    ledger.commit()
    assert states(ledger) == [("192.0.2.7", "expired")]
    assert ledger.evidence(first) == []


def test_a_locked_file_loses_nothing(path: str) -> None:
    ledger = Ledger(path, 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.decide(ban())
    assert not ledger.commit()
    assert ledger.fault and "locked" in ledger.fault
    assert ledger.waiting == 1
    other.execute("ROLLBACK")
    assert ledger.commit()
    assert ledger.fault is None
    assert len(ledger.open()) == 1


def test_a_full_disk_loses_nothing(path: str) -> None:
    ledger = Ledger(path, 0)
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to meet SQLITE_FULL
    for number in range(1000):
        ledger.decide(ban(number))
    assert not ledger.commit()
    assert ledger.fault and "full" in ledger.fault
    ledger._db.execute("PRAGMA max_page_count = 1000000")
    assert ledger.commit()
    assert len(ledger.open()) == 1000


def test_a_damaged_file_is_moved_aside(path: str) -> None:
    Path(path).write_bytes(b"this is no database" * 1000)
    ledger = Ledger(path, 1234)
    assert ledger.lost
    assert ledger.moved == f"{path}.damaged-1234"
    assert os.path.getsize(ledger.moved) == 19_000
    assert ledger.open() == []


def strange(path: str, how: str) -> None:
    match how:
        case "newer":
            Ledger(path, 0).close()
            with sqlite3.connect(path) as other:
                other.execute("PRAGMA user_version = 99")
        case "another program's":
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE moz_places (id INTEGER PRIMARY KEY)")
        case "other columns":
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE bans (id INTEGER PRIMARY KEY, address TEXT)")
        case "a table less":
            Ledger(path, 0).close()
            with sqlite3.connect(path) as other:
                other.execute("DROP TABLE graces")
        case "a folder":
            os.mkdir(path)
        case "a FIFO":
            os.mkfifo(path)
        case "a folder for a log of changes":
            Ledger(path, 0).close()
            os.mkdir(f"{path}-wal")
        case "cut":
            ledger = Ledger(path, 0)
            ledger.decide(ban())
            ledger.close()
            os.truncate(path, 5000)


@pytest.mark.parametrize(
    "how",
    [
        "newer",
        "another program's",
        "other columns",
        "a table less",
        "a folder",
        "a FIFO",
        "a folder for a log of changes",
        "cut",
    ],
)
def test_what_is_no_ledger_of_ours_is_moved_aside_untouched(path: str, how: str) -> None:
    strange(path, how)
    before = Path(path).read_bytes() if os.path.isfile(path) else None
    for number in (1, 2):
        ledger = Ledger(path, 7)
        ledger.decide(ban())
        assert ledger.commit()
        if number == 1:
            assert ledger.lost
            assert ledger.moved == f"{path}.damaged-7"
            assert before is None or Path(ledger.moved).read_bytes() == before
        assert len(ledger.open()) == number
        ledger.close()


def test_a_file_that_goes_while_it_is_open_is_noticed_and_nothing_waiting_is_lost(path: str) -> None:
    ledger = Ledger(path, 0)
    for number in (1, 2):
        assert ledger.decide(ban()) == number
        assert ledger.commit()
    assert ledger.trouble is None
    os.unlink(path)
    ledger.decide(ban(100))
    assert ledger.trouble == "it was deleted or replaced"
    ledger.set_aside(9)
    assert ledger.unwritten == 3
    assert ledger.trouble is None
    assert ledger.commit()
    ledger.close()
    assert [(row.id, row.ban.since) for row in Ledger(path, 0).open()] == [(3, 100)]


def test_damage_is_told_from_what_passes(path: str) -> None:
    ledger = Ledger(path, 0)
    with sqlite3.connect(path) as other:
        other.execute("DROP TABLE bans")
    ledger.decide(ban())
    assert not ledger.commit()
    assert ledger.trouble and "no such table" in ledger.trouble
    with pytest.raises(sqlite3.Error):
        ledger.open()


def test_a_copy_in_memory_of_what_cannot_be_opened(path: str) -> None:
    ledger = Ledger(path, 0)
    number = ledger.decide(ban())
    assert ledger.commit()  # into the log of changes alone
    copy = Ledger(MEMORY, 0)
    copy.copy(path)
    assert [row.id for row in copy.open()] == [number]
    assert len(copy.evidence(number)) == 3
    assert copy.decide(ban(5)) == number + 1
    assert copy.commit()
    assert len(ledger.open()) == 1


def test_a_crash_before_the_kernel_was_looked_at_leaves_a_lost_ledger(path: str) -> None:
    Ledger(path, 0).close()
    ledger = Ledger(path, 0)
    assert ledger.lost
    ledger.settle()
    ledger.close()
    assert not Ledger(path, 0).lost


def test_a_locked_file_can_be_opened_and_read(path: str) -> None:
    first = Ledger(path, 0)
    first.decide(ban())
    first.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger = Ledger(path, 0)
    assert len(ledger.open()) == 1
    ledger.decide(ban())
    assert not ledger.commit()
    other.execute("ROLLBACK")
    assert ledger.commit()
    assert len(ledger.open()) == 2


def test_a_long_fault_keeps_the_newest_bans_and_positions(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest bans go, each with its evidence, and positions take no room."""
    monkeypatch.setattr("denyspam.ledger.QUEUE", 10)
    ledger = Ledger(path, 0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(50):
        ledger.decide(ban(number))
        ledger.position("/mail.log", str(number), 0)
        assert not ledger.commit()
    other.execute("ROLLBACK")
    assert ledger.commit()
    assert [row.ban.since for row in ledger.open()] == list(range(40, 50))
    assert ledger.positions() == {"/mail.log": ("49", 0)}


def test_in_memory_where_there_is_no_file(path: str) -> None:
    ledger = Ledger(MEMORY, 0)
    ledger.decide(ban())
    assert ledger.commit()


def test_graces_survive_until_they_are_pruned(path: str) -> None:
    one = Grace(ip_network("192.0.2.7"), 10.0, 100.0, "a customer")
    two = Grace(ip_network("2001:db8::/64"), 20.0, 2000.0)
    ledger = Ledger(path, 0)
    ledger.grace(Grace(one.network, 5.0, 6.0))
    ledger.grace(one)
    ledger.grace(two)
    ledger.close()
    ledger = Ledger(path, 0)
    assert ledger.graces(50) == [one, two]
    assert ledger.graces(100) == [two]
    ledger.prune(500)
    ledger.commit()
    assert ledger.graces(0) == [two]
    ledger.end_grace(two.network)
    ledger.commit()
    assert ledger.graces(0) == []


SCHEMA_1 = """
CREATE TABLE bans (
    id INTEGER PRIMARY KEY, network TEXT NOT NULL, ports TEXT NOT NULL, rule TEXT NOT NULL, since REAL NOT NULL,
    until REAL NOT NULL, hits INTEGER NOT NULL, note TEXT NOT NULL, state TEXT NOT NULL, file TEXT, offset INTEGER,
    ended REAL, end_note TEXT
);
CREATE INDEX bans_open ON bans (state) WHERE ended IS NULL;
CREATE INDEX bans_network ON bans (network);
CREATE INDEX bans_until ON bans (until);
CREATE TABLE evidence (
    ban INTEGER NOT NULL REFERENCES bans (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    time REAL, kind TEXT, address TEXT, filter TEXT, file TEXT, offset INTEGER, text BLOB,
    PRIMARY KEY (ban, number)
) WITHOUT ROWID;
CREATE TABLE positions (log TEXT PRIMARY KEY, position TEXT NOT NULL, clock REAL NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
INSERT INTO facts VALUES ('settled', '1');
INSERT INTO positions VALUES ('/mail.log', 'here', 5.5);
INSERT INTO bans VALUES (1, '192.0.2.7', '25', 'virus', 0, 60, 2, '', 'expired', '/mail.log', 9, 60, '');
INSERT INTO bans VALUES (2, '2001:db8::/64', '465 587', 'manual', 5, 3605, 0, 'a note', 'active', NULL, NULL, NULL, '');
INSERT INTO bans VALUES (7, '192.0.2.7', '25', 'virus', 90, 3690, 2, '', 'pending', '/mail.log', 99, NULL, '');
INSERT INTO evidence VALUES (7, 0, 89.5, 'virus', '192.0.2.7', 'postfix', '/a log', 80, x'ff6f6e65');
INSERT INTO evidence VALUES (7, 1, 90.0, 'virus', '192.0.2.7', 'postfix', '/a log', 99, x'74776f0d');
INSERT INTO evidence VALUES (1, 0, 0.0, 'virus', '192.0.2.7', 'postfix', '/mail.log', 9, x'');
PRAGMA user_version = 1;
"""


# What the next schema added
SCHEMA_2 = """
CREATE TABLE graces (network TEXT PRIMARY KEY, since REAL NOT NULL, until REAL NOT NULL, note TEXT NOT NULL);
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("later", ["", SCHEMA_2])
def test_a_ledger_of_an_older_schema_is_taken_over(path: str, later: str) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(SCHEMA_1 + later)
    Ledger(path, 0).close()
    ledger = Ledger(path, 0)  # a second time there is nothing left to do
    assert not ledger.lost
    assert ledger.positions() == {"/mail.log": ("here", 5.5)}
    assert [
        (row.id, str(row.ban.target), row.ban.target.ports, row.state, row.ban.mark) for row in ledger.since(0)
    ] == [
        (1, "192.0.2.7", (25,), "expired", ("/mail.log", 9)),
        (2, "2001:db8::/64", (465, 587), "active", None),
        (7, "192.0.2.7", (25,), "pending", ("/mail.log", 99)),
    ]
    assert [row.id for row in ledger.open()] == [2, 7]
    assert [(one["time"], one["offset"], one["file"], one["text"]) for one in ledger.evidence(7)] == [
        (89.5, 80, "/a log", b"\xffone"),
        (90.0, 99, "/a log", b"two\r"),
    ]
    assert [one["text"] for one in ledger.evidence(1)] == [b""]
    assert ledger.evidence(2) == []
    ledger.grace(Grace(ip_network("192.0.2.7"), 10.0, 100.0))
    ledger.prune(1000)
    assert ledger.commit()
    assert ledger.evidence(1) == []


def test_a_ledger_of_schema_3_gets_what_the_guard_writes(path: str) -> None:
    ledger = Ledger(path, 0)
    number = ledger.decide(ban(5))
    ledger.settle()
    ledger.close()
    with sqlite3.connect(path) as old:
        old.executescript("DROP TABLE senders; DROP TABLE verdicts; PRAGMA user_version = 3;")
    ledger = Ledger(path, 0)
    assert (ledger.moved, ledger.lost, [row.id for row in ledger.open()]) == (None, False, [number])
    assert verdicts(path) == []
    for key, row in (("192.0.2.7", (1, 2, 3, 4, 5)), ("192.0.2.8", (1, 1, 0, 0, 0)), ("192.0.2.7", (2, 1, 0, 9, 4))):
        ledger.sender((key, *row))
    ledger.verdict("192.0.2.7", 3.5, "known", "1")
    ledger.verdict("192.0.2.7", 2.5, "withheld", "spared: x.example")
    ledger.fact("fuse", "{}")
    assert ledger.commit()
    assert ledger.senders() == [
        ("192.0.2.8", 1, 1, 0, 0, 0),
        ("192.0.2.7", 2, 1, 0, 9, 4),
    ]  # the one heard last stands last
    assert verdicts(path) == [("192.0.2.7", 2.5, "withheld", "spared: x.example"), ("192.0.2.7", 3.5, "known", "1")]
    assert ledger.facts() == {"settled": "1", "fuse": "{}"}
    ledger.forget_sender("192.0.2.8")
    ledger.prune(3.0)
    assert ledger.commit()
    assert [key for key, *_ in ledger.senders()] == ["192.0.2.7"]
    assert [since for _, since, _, _ in verdicts(path) or ()] == [3.5]


def test_a_withheld_ban_is_open_until_its_end_and_no_habit(path: str) -> None:
    ledger = Ledger(path, 0)
    first, second = ledger.decide(ban(7200)), ledger.decide(ban(7300, "192.0.2.8/32"))
    ledger.withhold(first, "spared: x.example")
    ledger.commit()
    assert [(row.state, row.ban.note) for row in ledger.open()] == [("withheld", "spared: x.example"), ("pending", "")]
    ledger.confirm(first, second)
    ledger.commit()
    assert [row.state for row in ledger.open()] == ["withheld", "active"]
    assert ledger.hours(0) == {2: 1}
    ledger.carry_out(first)
    ledger.confirm(first)
    ledger.commit()
    assert [(row.state, row.ban.note) for row in ledger.open()] == [("active", ""), ("active", "")]
    ledger.withhold(first, "spared, late: x.example")
    ledger.end(first, "expired", 9999)
    ledger.commit()
    row = next(ledger.since(0))
    assert (row.state, row.ban.note) == ("expired", "spared, late: x.example")


def test_verdicts_of_no_ledger(tmp_path: Path) -> None:
    assert verdicts(str(tmp_path / "none.db")) is None
    (tmp_path / "junk.db").write_bytes(b"junk" * 1000)
    assert verdicts(str(tmp_path / "junk.db")) is None
    (tmp_path / "a?b#c%20.db").write_bytes(b"")
    assert verdicts(str(tmp_path / "a?b#c%20.db")) is None
