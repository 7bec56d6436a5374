"""The ledger on a real file: transactions, faults, damage."""

from __future__ import annotations

import os
import sqlite3
from ipaddress import ip_network
from pathlib import Path

import pytest

from denyspam.events import Ban, Event, Grace, Target
from denyspam.ledger import MEMORY, TABLES, Ledger, Row


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
    assert row == Row(
        number, Ban(target("2001:db8::/64"), "virus", 0, 3600, 3, (), "", ("/mail.log", 2)), "active", None, ""
    )
    assert [one["text"] for one in again.evidence(number)] == [b"\xff line 0", b"\xff line 1", b"\xff line 2"]
    assert again.positions() == {"/mail.log": ("here", 5.5)}
    assert again.decide(ban()) == number + 1


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
    assert ledger.since(0)[0].past.released
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
    assert ledger.waiting == 4
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


def test_a_newer_schema_is_refused(path: str) -> None:
    Ledger(path, 0).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(sqlite3.OperationalError, match="newer denyspam"):
        Ledger(path, 0)


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
    """The oldest bans go, each with its evidence (which may not stand alone), and positions take no room."""
    monkeypatch.setattr("denyspam.ledger.QUEUE", 40)
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


def test_a_ledger_of_the_first_schema_learns_of_graces(path: str) -> None:
    with sqlite3.connect(path) as old:
        old.executescript(TABLES.replace("CREATE TABLE IF NOT EXISTS graces", "CREATE TABLE forgotten"))
        old.execute("INSERT INTO facts VALUES ('settled', '1')")
        old.execute("PRAGMA user_version = 1")
    ledger = Ledger(path, 0)
    assert not ledger.lost
    ledger.grace(Grace(ip_network("192.0.2.7"), 10.0, 100.0))
    assert ledger.commit()
