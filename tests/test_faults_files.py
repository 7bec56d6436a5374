"""Faults of files: disks that are full, read-only or gone, a ledger that is damaged, logs that are no logs any more.

The faults are real: file systems of some kilobytes in a mount namespace of the test's own, a daemon there, its
files harmed by others. At the end of each the daemon is the same process (or said why not), it bans, and kernel and
ledger agree. What comes of each fault stands in docs/faults.md, which test_docs_faults.py holds to these tests.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from live import Live, events, live, offend, until, virus, viruses
from mounts import Mounts
from netns import CLIENTS4, Network, Unavailable

SENDER, OTHER, THIRD = CLIENTS4[:3]
POLICY = "virus = 2 in 15m -> ban 6h\n"


@pytest.fixture
def daemon(daemon: Live) -> Live:
    daemon.configure(policy=POLICY)
    return daemon


@pytest.fixture
def mounted(tmp_path: Path, network: Network) -> Iterator[tuple[Live, Mounts]]:
    """A daemon in a mount namespace of its own, which has an empty folder `disk`."""
    try:
        mounts = Mounts(network.server)
    except Unavailable as reason:
        pytest.skip(str(reason))
    (tmp_path / "disk").mkdir()
    with live(tmp_path, mounts) as made:
        made.configure(policy=POLICY)
        yield made, mounts
    mounts.close()


def log_of(daemon: Live) -> dict[str, object]:
    (found,) = daemon.status()["logs"].values()
    return dict(found)


def open_bans(ledger: Path) -> set[str]:
    with TemporaryDirectory() as folder:  # SQLite would not find its way into another mount namespace
        for end in ("", "-wal"):
            if os.path.exists(f"{ledger}{end}"):
                shutil.copyfile(f"{ledger}{end}", f"{folder}/copy{end}")
        with closing(sqlite3.connect(f"{folder}/copy")) as file:
            return {name for (name,) in file.execute("SELECT network FROM bans WHERE ended IS NULL")}


def agree(daemon: Live, *addresses: str, ledger: Path | None = None) -> None:
    """These are banned, and no others, in the kernel and in the ledger."""
    until(lambda: daemon.held() == set(addresses), f"the kernel holds {addresses}")
    until(lambda: not daemon.status()["ledger"]["waiting"], "the ledger is written")
    assert open_bans(ledger or daemon.folder / "state" / "ledger.db") == set(addresses)
    assert "Traceback" not in daemon.errors.read_text()


# --- the log's disk ---------------------------------------------------------------------------------------------------


def test_the_logs_folder_is_unmounted_and_mounted_again(mounted: tuple[Live, Mounts]) -> None:
    daemon, mounts = mounted
    disk, folder = daemon.folder / "disk", daemon.folder / "log"
    folder.mkdir()
    mounts.tmpfs(disk, "1m")
    daemon.log = folder / "mail.log"
    daemon.configure(policy="virus = 5 in 15m -> ban 6h\n")
    mounts.check("mount", "--bind", str(disk), str(folder))
    log = mounts.inner(disk / "mail.log")
    log.touch()
    daemon.start()
    offend(log, SENDER, 3)
    until(lambda: events(daemon) == 3, "three")
    mounts.check("umount", "--lazy", str(folder))
    until(lambda: not log_of(daemon)["present"], "its absence")
    offend(log, SENDER, 1)  # by a writer that has it open
    assert daemon.ask("ban", OTHER).returncode == 0
    mounts.check("mount", "--bind", str(disk), str(folder))
    until(lambda: log_of(daemon)["present"], "its return")
    offend(log, SENDER, 1)
    agree(daemon, SENDER, OTHER)
    assert events(daemon) == 5
    assert log_of(daemon)["lost"] == 0
    # Another disk in its place: what is there is new, and read from its beginning.
    mounts.check("umount", "--lazy", str(folder))
    mounts.tmpfs(folder, "1m")
    offend(mounts.inner(folder / "mail.log"), THIRD, 5)
    agree(daemon, SENDER, OTHER, THIRD)
    assert events(daemon) == 10


def test_the_logs_disk_is_full_and_free_again(mounted: tuple[Live, Mounts]) -> None:
    daemon, mounts = mounted
    folder = daemon.folder / "disk"
    mounts.tmpfs(folder, "64k")
    daemon.log = folder / "mail.log"
    daemon.configure(policy=POLICY)
    log = mounts.inner(daemon.log)
    log.touch()
    daemon.start()
    whole = 0
    with log.open("ab", buffering=0) as file:
        while True:
            line = f"{virus(SENDER, time.time(), f'4X{whole:08X}')}\n".encode()
            if file.write(line) < len(line):
                break  # the disk is full in the middle of a line: what a mail server's log looks like then
            whole += 1
        until(lambda: events(daemon) == whole, "the whole lines")
        mounts.check("mount", "-o", "remount,size=1m", str(folder))
        # The next line continues the torn one: one line, of nobody or of the client that stands in it.
        file.write(f"{virus(OTHER, time.time(), '5X00000001')}\n".encode())
        file.write(f"{virus(THIRD, time.time(), '5X00000002')}\n{virus(THIRD, time.time(), '5X00000003')}\n".encode())
        agree(daemon, SENDER, THIRD)
    assert whole + 2 <= events(daemon) <= whole + 3


# --- the ledger -------------------------------------------------------------------------------------------------------


def harm(ledger: Path, how: str) -> None:
    """What happens to a ledger that nobody has open."""
    chance = random.Random(5)
    match how:
        case "overwritten":
            data = bytearray(ledger.read_bytes())
            for _ in range(len(data) // 50):
                data[chance.randrange(100, len(data))] = chance.randrange(256)
            ledger.write_bytes(data)
        case "cut":
            os.truncate(ledger, os.path.getsize(ledger) // 2 - 100)
        case "empty":
            os.truncate(ledger, 0)
        case "noise":
            ledger.write_bytes(chance.randbytes(20_000))
        case "a folder":
            ledger.unlink()
            ledger.mkdir()
        case "a strange row":
            with closing(sqlite3.connect(ledger)) as file:
                file.execute("UPDATE bans SET network = '999.1.1.1', until = 'later'")
                file.commit()
        case "other tables":
            with closing(sqlite3.connect(ledger)) as file:
                file.executescript("DROP TABLE bans; CREATE TABLE bans (id, address)")
        case "newer":
            with closing(sqlite3.connect(ledger)) as file:
                file.execute("PRAGMA user_version = 99")
        case "gone":
            ledger.unlink()


HARMS = (
    "overwritten",
    "cut",
    "empty",
    "noise",
    "a folder",
    "a strange row",
    "other tables",
    "newer",
    "gone",
)


def test_a_ledger_damaged_before_the_start(daemon: Live) -> None:
    ledger = daemon.folder / "state" / "ledger.db"
    daemon.start()
    offend(daemon.log, SENDER)
    agree(daemon, SENDER)
    daemon.stop()
    for number, how in enumerate(HARMS, 1):
        harm(ledger, how)
        daemon.errors.unlink()
        daemon.start()
        assert daemon.banned().count(SENDER) == 1, how
        said = daemon.errors.read_text()
        assert "adopted" in said, (how, said)
        if how not in {"gone", "empty"}:  # to SQLite a file without a byte is a new one
            assert "the ledger was damaged" in said, (how, said)
        offend(daemon.log, f"198.51.100.{number}")
        agree(daemon, SENDER, *(f"198.51.100.{each}" for each in range(1, number + 1)))
        assert daemon.stop() == 0
    assert len(list(ledger.parent.glob("ledger.db.damaged-*[0-9]"))) >= len(HARMS) - 3


def test_a_ledger_damaged_while_it_runs(daemon: Live) -> None:
    ledger = daemon.folder / "state" / "ledger.db"
    daemon.start()
    pid = daemon.status()["pid"]
    banned = [SENDER]
    assert daemon.ask("ban", SENDER, "--force").returncode == 0
    for number, how in enumerate(("overwritten", "cut", "empty", "noise", "a folder", "gone", "moved", "no wal"), 1):
        before = daemon.errors.read_text().count("the ledger was damaged")
        if how == "moved":
            os.rename(ledger, ledger.with_suffix(".old"))
        elif how == "no wal":
            ledger.with_name("ledger.db-wal").unlink()
        else:
            harm(ledger, how)
        banned.append(f"198.51.100.{number}")
        offend(daemon.log, banned[-1])
        until(lambda: daemon.held() == set(banned), f"the ban all the same: {how}")
        if how in {"a folder", "gone", "moved", "no wal"}:
            until(lambda: daemon.errors.read_text().count("the ledger was damaged") > before, f"noticed: {how}")  # noqa: B023
            agree(daemon, *banned)
    assert daemon.status()["pid"] == pid
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    daemon.start()
    agree(daemon, *banned)
    rules = {ban["address"]: ban["rule"] for ban in daemon.json("list")}
    assert rules == {SENDER: "manual", **dict.fromkeys(banned[1:], "virus")}


def test_a_damage_inside_is_noticed_when_it_is_read(daemon: Live) -> None:
    ledger = daemon.folder / "state" / "ledger.db"
    daemon.start()
    for number in range(1, 100):
        offend(daemon.log, f"198.51.100.{number}")
    many = {f"198.51.100.{number}" for number in range(1, 100)}
    until(lambda: daemon.held() == many, "the bans")
    daemon.stop()
    daemon.start()  # with nothing of it in memory
    data = bytearray(ledger.read_bytes())
    for page in range(1, len(data) // 4096):
        data[4096 * page : 4096 * page + 512] = b"\xaa" * 512
    with ledger.open("r+b") as file:
        file.write(data)
    until(lambda: daemon.ask("why", "198.51.100.7").returncode != 69, "an answer")
    until(lambda: daemon.ask("ban", SENDER).returncode == 0, "a ban")
    offend(daemon.log, OTHER)
    until(lambda: daemon.held() == {*many, OTHER, SENDER}, "the bans")
    daemon.stop()
    daemon.start()
    agree(daemon, *many, OTHER, SENDER)


def test_the_ledgers_disk_is_full_and_free_again(mounted: tuple[Live, Mounts]) -> None:
    daemon, mounts = mounted
    state = daemon.folder / "disk"
    mounts.tmpfs(state, "400k")
    daemon.configure(policy=POLICY, state=str(state))
    daemon.start()
    banned: list[str] = []
    while not daemon.status()["ledger"]["fault"]:
        banned += [
            f"198.{18 + len(banned) // 62500}.{len(banned) // 250 % 250}.{len(banned) % 250 + n}" for n in range(50)
        ]
        daemon.write([line for one in banned[-50:] for line in viruses(one, 2)])
        until(lambda: daemon.status()["active"] == len(banned), "the decisions")  # noqa: B023
    assert "full" in daemon.status()["ledger"]["fault"]
    banned.append(SENDER)
    offend(daemon.log, SENDER)
    until(lambda: daemon.held() == set(banned), "bans all the same")
    # Killed at the worst moment: the log is read again, and the kernel has what was decided.
    daemon.stop(signal.SIGKILL)
    daemon.start()
    until(lambda: daemon.held() == set(banned), "the same bans")
    mounts.check("mount", "-o", "remount,size=20m", str(state))
    until(lambda: daemon.status()["ledger"]["fault"] is None, "it is written again")
    agree(daemon, *banned, ledger=mounts.inner(state / "ledger.db"))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_read_only_disk_at_the_start(mounted: tuple[Live, Mounts], end: int) -> None:
    daemon, mounts = mounted
    state = daemon.folder / "disk"
    mounts.tmpfs(state, "4m")
    daemon.configure(policy=POLICY, state=str(state))
    daemon.start()
    offend(daemon.log, SENDER)
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.stop(end)  # killed, it leaves the ban in the log of changes alone, which SQLite can then read
    mounts.check("mount", "-o", "remount,ro", str(state))
    mounts.check("nft", "flush", "ruleset")
    daemon.start()
    assert daemon.held() == {SENDER}
    offend(daemon.log, OTHER)
    until(lambda: daemon.held() == {SENDER, OTHER}, "the ban")
    until(lambda: daemon.status()["ledger"]["fault"], "the fault")
    refused = daemon.ask("run")
    assert (refused.returncode, "another denyspam runs" in refused.stderr) == (69, True)
    mounts.check("mount", "-o", "remount,rw", str(state))
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)  # or within a minute by itself
    until(lambda: daemon.status()["ledger"]["fault"] is None, "it is used again")
    agree(daemon, SENDER, OTHER, ledger=mounts.inner(state / "ledger.db"))
    daemon.stop()
    mounts.check("mount", "-o", "remount,ro", str(state))
    flushed = daemon.ask("flush")
    assert (flushed.returncode, flushed.stdout) == (69, "")
    assert daemon.held() == set()


def test_a_disk_that_becomes_read_only(mounted: tuple[Live, Mounts]) -> None:
    """As the kernel does after an error of the disk, with everything open."""
    daemon, mounts = mounted
    state, image = daemon.folder / "disk", daemon.folder / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    made = subprocess.run(["mke2fs", "-q", "-t", "ext4", str(image)], check=False, capture_output=True, text=True)
    done = subprocess.run(
        [*mounts.prefix, "mount", "-o", "loop", str(image), str(state)], check=False, capture_output=True, text=True
    )
    if made.returncode or done.returncode:
        pytest.skip(f"no disk in a file here: {made.stderr}{done.stderr}")
    daemon.configure(policy=POLICY, state=str(state))
    daemon.start()
    offend(daemon.log, SENDER)
    until(lambda: daemon.held() == {SENDER}, "the ban")
    mounts.check("mount", "-o", "remount,abort", str(state))
    offend(daemon.log, OTHER)
    until(lambda: daemon.held() == {SENDER, OTHER}, "the ban")
    until(lambda: daemon.status()["ledger"]["fault"], "the fault")
    assert daemon.ask("why", OTHER).returncode in {0, 69}
    assert daemon.ask("ban", THIRD).returncode == 0
    daemon.stop()
    daemon.start()
    assert daemon.status()["active"] == 3
    until(lambda: daemon.status()["firewall"]["waiting"] == 0, "what is to be dropped")
    assert daemon.held() == {SENDER, OTHER, THIRD}
    assert daemon.stop() == 0
    mounts.check("umount", str(state))
