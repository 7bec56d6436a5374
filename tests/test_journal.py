"""A real journald writes, journal reads: forward, again, across rotation and vacuum, and what no line may become."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from journald import REMOTE, Journald, journald
from live import Live, live, until

from denyspam.journal import Journal, Place, Selection

NOW = time.time()
FIRST = Place("", 0).text()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Journald]:
    with journald(tmp_path / "journal") as made:
        yield made


def opened(writer: Journald, saved: str | None = None, notes: list[str] | None = None, **selection: object) -> Journal:
    chosen = Selection(str(writer.folder), **selection)  # type: ignore[arg-type]
    place = None if saved is None else Place.parse(saved)
    return Journal("journal", chosen, place, [].append if notes is None else notes.append, NOW)  # type: ignore[arg-type]


def lines(journal: Journal, count: int) -> list[bytes]:
    """The next `count` lines without their stamps, hosts and newlines."""
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(block.data.split(b" ", 2)[2].rstrip(b"\n") for block in journal.read(time.monotonic()))
        return len(found) >= count

    until(enough, f"{count} lines")
    assert journal.read(time.monotonic()) == []
    return found


def kept(journal: Journal) -> list[bytes]:
    return [block.data.split(b" ", 2)[2].rstrip(b"\n") for block in journal.history(lambda _: False)]


def test_only_what_comes_and_then_where_it_was_left(writer: Journald) -> None:
    writer.log(b"before")
    until(lambda: kept(opened(writer, Place("", int(time.time() * 1e6)).text())), "the first entry")
    journal = opened(writer)
    assert journal.read(0.0) == []
    assert kept(journal) == [b"postfix/smtpd[2034]: before"]
    writer.log(b"one")
    writer.log(b"not mail", facility=3)
    writer.log(b"two")
    assert lines(journal, 2) == [b"postfix/smtpd[2034]: one", b"postfix/smtpd[2034]: two"]
    saved = journal.position().text()
    journal.close()
    writer.log(b"three")
    again = opened(writer, saved)
    assert kept(again) == [b"postfix/smtpd[2034]: " + word for word in (b"before", b"one", b"two")]
    assert lines(again, 1) == [b"postfix/smtpd[2034]: three"]
    assert again.lost == 0


def test_times_and_offsets_are_those_of_the_entries(writer: Journald) -> None:
    journal = opened(writer)
    start = time.time()
    for number in range(20):
        writer.log(b"%d" % number)
    found: list[tuple[int, bytes]] = []
    until(lambda: found.extend((b.offset, b.data) for b in journal.read(0.0)) or len(found) == 20, "twenty")
    assert [offset for offset, _ in found] == sorted({offset for offset, _ in found})
    assert start - 1 < found[0][0] / 1e6 < time.time() + 1
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(found[0][0] // 1_000_000)).encode()
    assert found[0][1].startswith(stamp + b".%06d+00:00 " % (found[0][0] % 1_000_000))
    saved = journal.position().text()
    assert [(b.offset, b.data) for b in opened(writer, saved).history(lambda _: False)] == found


def test_history_goes_back_as_far_as_it_is_asked_to(writer: Journald) -> None:
    journal = opened(writer)
    for number in range(3000):
        writer.log(b"%d" % number)
    until(lambda: (journal.read(0.0), journal.position().cursor)[1] and kept(journal)[-1].endswith(b"2999"), "all")
    again = opened(writer, journal.position().text())
    found = [b.data.split()[-1] for b in again.history(lambda line: int(line.split()[-1]) < 2500)]
    assert int(found[0]) < 2500
    assert found == [b"%d" % number for number in range(int(found[0]), 3000)]


def test_rotation_while_reading_and_between(writer: Journald) -> None:
    journal = opened(writer)
    writer.log(b"one")
    lines(journal, 1)
    writer.rotate()
    writer.log(b"two")
    assert lines(journal, 1) == [b"postfix/smtpd[2034]: two"]
    saved = journal.position().text()
    journal.close()
    writer.log(b"three")
    writer.rotate()
    writer.log(b"four")
    again = opened(writer, saved)
    assert kept(again) == [b"postfix/smtpd[2034]: one", b"postfix/smtpd[2034]: two"]
    assert lines(again, 2) == [b"postfix/smtpd[2034]: three", b"postfix/smtpd[2034]: four"]


def test_a_damaged_part_is_skipped_and_said(writer: Journald, tmp_path: Path) -> None:
    """As a power failure leaves one: what is good before it is given out, and what is written later."""
    for number in range(500):
        writer.log(b"%d" % number)
    lines(opened(writer, FIRST), 500)
    writer.rotate()
    writer.log(b"new")
    lines(opened(writer, FIRST), 501)
    (old,) = [file for file in writer.files() if "@" in file.name]
    (new,) = [file for file in writer.files() if "@" not in file.name]
    data = old.read_bytes()
    used = len(data.rstrip(b"\0"))
    stopped = []
    for at in range(40, 100, 10):
        folder = tmp_path / f"copy{at}"
        folder.mkdir()
        place = used * at // 100
        (folder / old.name).write_bytes(data[:place] + bytes(400) + data[place + 400 :])
        journal = Journal("journal", Selection(str(folder)), Place("", 0), stopped.append, NOW)
        found = [block.data.split()[-1] for _ in range(3) for block in journal.read(0.0)]
        shutil.copy(new, folder)
        until(lambda: found.extend(b.data.split()[-1] for b in journal.read(0.0)) or found[-1:] == [b"new"], "new")  # noqa: B023
        assert len(found) == len(set(found))
        journal.close()
    assert any("a part of it is damaged, and skipped" in each for each in stopped)


def test_vacuumed_while_away_is_said_and_nothing_that_is_left_is_skipped(writer: Journald) -> None:
    journal = opened(writer)
    writer.log(b"one")
    lines(journal, 1)
    saved = journal.position().text()
    journal.close()
    writer.rotate()
    writer.log(b"two")
    writer.vacuum()
    notes: list[str] = []
    again = opened(writer, saved, notes)
    assert kept(again) == []
    assert lines(again, 1) == [b"postfix/smtpd[2034]: two"]
    assert (again.lost, len(notes)) == (1, 1)
    assert "not in it any more" in notes[0]


def test_vacuumed_while_reading(writer: Journald) -> None:
    journal = opened(writer)
    writer.log(b"one")
    lines(journal, 1)
    writer.rotate()
    writer.vacuum()
    writer.log(b"two")
    assert lines(journal, 1) == [b"postfix/smtpd[2034]: two"]


def test_another_selection_at_the_next_start_loses_nothing(writer: Journald) -> None:
    """The entry of the position is none of those that are asked for by then: no entry is missed, and none is lost."""
    journal = opened(writer)
    writer.log(b"one")
    lines(journal, 1)
    saved = journal.position().text()
    writer.log(b"two", identifier="other", facility=3)
    notes: list[str] = []
    again = opened(writer, saved, notes, match=("SYSLOG_IDENTIFIER=other",))
    assert lines(again, 1) == [b"other[2034]: two"]
    assert (again.lost, notes) == (0, [])


def test_a_message_is_one_line_whatever_it_holds(writer: Journald) -> None:
    journal = opened(writer)
    forged = b"x\nMar  4 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject"
    writer.log(forged)
    writer.log(b"\x00\xff\x01 binary\n")
    writer.log(b"named", identifier="postfix/smtpd[1]: a b")
    writer.log(b"long" * 20_000)
    writer.log(b"the last")
    assert lines(journal, 4) == [
        b"postfix/smtpd[2034]: x#012Mar  4 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject",
        b"postfix/smtpd[2034]: \x00\xff\x01 binary",
        b"postfix/smtpd_1___a_b[2034]: named",
        b"postfix/smtpd[2034]: the last",
    ]
    assert journal.overlong == 1


def test_units_are_what_journald_says_and_not_what_a_sender_says(writer: Journald) -> None:
    """The test's own processes are in no unit; a field that begins with _ cannot be sent."""
    journal = opened(writer, units=("postfix",))
    writer.log(b"forged", _SYSTEMD_UNIT="postfix.service")
    writer.log(b"plain")
    everything = opened(writer, Place("", int(NOW * 1e6) - 1).text())
    assert [line.split()[-1] for line in lines(everything, 2)] == [b"forged", b"plain"]
    assert journal.read(0.0) == []


def test_not_there_yet(tmp_path: Path) -> None:
    notes: list[str] = []
    machine = Path("/etc/machine-id").read_text().strip()
    folder = tmp_path / "journal" / f"{machine}.test"
    journal = Journal("journal", Selection(str(folder)), None, notes.append, NOW)
    assert (journal.present, len(notes), journal.read(0.0), journal.fileno()) == (False, 1, [], -1)
    with journald(tmp_path / "journal") as writer:
        writer.log(b"the first")
        assert lines(journal, 1) == [b"postfix/smtpd[2034]: the first"]
        assert journal.present
    journal.close()


def virus(address: str) -> bytes:
    return (
        f"4XyZq81Kw0z9P1: milter-reject: END-OF-MESSAGE from unknown[{address}]: 5.7.1 virus Eicar-Signature detected "
        "by ClamAV - http://www.clamav.net/; from=<a@b.example> to=<u@example.org> proto=ESMTP helo=<b>"
    ).encode()


def relay(address: str) -> bytes:
    return (
        f"NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 <a@b.example>: Relay access denied; "
        "from=<x@y.example> to=<a@b.example> proto=ESMTP helo=<z>"
    ).encode()


def configure(daemon: Live, writer: Journald, keys: str = "") -> None:
    daemon.configure(mode="watch")
    text = daemon.conf.read_text()
    daemon.conf.write_text(
        text.replace(f"[log {daemon.log}]", f"[journal {writer.folder}]").replace("timezone = UTC", keys)
    )


def test_the_daemon_bans_by_it_and_keeps_its_counts(writer: Journald, tmp_path: Path) -> None:
    with live(tmp_path) as daemon:
        configure(daemon, writer)
        daemon.start()
        for _ in range(3):
            writer.log(relay("203.0.113.9"))
        until(lambda: daemon.json("status")["events"] == {"relay": {"postfix": 3}}, "three")
        daemon.stop(9)
        writer.log(relay("203.0.113.9"))
        writer.rotate()
        daemon.start()
        assert daemon.banned() == []
        writer.log(relay("203.0.113.9"))
        until(lambda: daemon.banned() == ["203.0.113.9"], "the ban")
        why = daemon.json("why", "203.0.113.9")
        assert len(why["lines"]) == 5
        assert {each["file"] for each in why["lines"]} == {f"journal {writer.folder}"}
        before = daemon.json("list")
        replayed = [json.loads(line) for line in daemon.ask("replay", "--json", str(writer.folder)).stdout.splitlines()]
        assert [(ban["address"], ban["time"]) for ban in replayed] == [("203.0.113.9", before[0]["since"])]
        daemon.stop(9)
        daemon.start()  # the ban's hits are not counted a second time
        writer.log(relay("203.0.113.9"))
        until(lambda: daemon.json("status")["events"] == {"relay": {"postfix": 1}}, "one more")
        assert daemon.json("list") == before


def test_old_journals_by_events(writer: Journald, tmp_path: Path) -> None:
    for _ in range(2):
        writer.log(relay("203.0.113.9"))
    journal = opened(writer, Place("", int(NOW * 1e6) - 1).text())
    lines(journal, 2)
    with live(tmp_path) as daemon:
        for name in (writer.folder, writer.files()[0]):
            done = daemon.ask("events", "--filter", "postfix", str(name))
            assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr


@pytest.mark.skipif(
    not Path(REMOTE).exists(), reason="apt-get install systemd-journal-remote writes other hosts' journals"
)
def test_journals_of_other_hosts(tmp_path: Path) -> None:
    """As systemd-journal-remote collects them."""
    folder = tmp_path / "remote"
    folder.mkdir()
    base = int((NOW - 60) * 1e6)
    entries = "".join(
        f"__REALTIME_TIMESTAMP={base + number}\n__MONOTONIC_TIMESTAMP={number + 1}\n_BOOT_ID={'ab' * 16}\n"
        f"_HOSTNAME=far\nSYSLOG_FACILITY=2\nSYSLOG_IDENTIFIER=postfix/smtpd\nMESSAGE={number}\n\n"
        for number in range(3)
    )
    subprocess.run(
        [REMOTE, "--split-mode=none", f"--output={folder}/far.journal", "-"],
        input=entries.encode(), check=True, capture_output=True,
    )  # fmt: skip
    journal = Journal("journal", Selection(str(folder)), Place("", base), [].append, NOW)
    assert [block.data.split()[1:] for block in journal.read(0.0)] == [
        [b"far", b"postfix/smtpd:", b"1"],
        [b"far", b"postfix/smtpd:", b"2"],
    ]
