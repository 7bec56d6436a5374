"""The heir of a memory knows what the run before knew, whenever it takes over, and what that decided meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from live import Live, live, relay, until, virus, viruses

from denyspam import memory
from denyspam.apart import Loaded
from denyspam.daemon import RELOADS
from denyspam.events import Ban
from denyspam.ledger import Ledger
from denyspam.memory import Memory
from denyspam.plugins import load

POLICY = "virus = 3 in 2m -> ban 1m\nrelay = 4 in 1m -> ban 1m, doubling to 10m\nany = 5 in 3m -> ban 2m\n"
BEGIN = 1772618400.0
SAID = "Mar  4 10:00:00 mx postfix/smtpd[2034]: never said before"


class Run:
    """What a daemon does with a memory, without all the rest."""

    def __init__(self, mine: Memory, ledger: Ledger) -> None:
        self.memory, self.ledger = mine, ledger
        self.heir: Memory | None = None
        self.rows: dict[str, int] = {}

    def begin(self) -> None:
        for row in self.memory.remember(self.ledger, BEGIN):
            if row.ended is None:
                self.rows[row.ban.target.name] = row.id
        asyncio.run(self.memory.recall(lambda: False))
        self.memory.settle()

    def read(self, now: float, limit: int) -> list[Ban]:
        decided = []
        for path, each in self.memory.logs.items():
            blocks = each.source.read(now, limit)
            for block in blocks:
                for finding, place in each.findings(block, now):
                    for event in self.memory.joined(finding, place):
                        decided += self.memory.judge.decide(event)
            if self.heir is not None:
                self.heir.take(path, blocks, now)
        for ban in decided:
            before = self.rows.pop(ban.target.name, None)
            if before is not None:
                self.ledger.end(before, "expired", now)
            self.rows[ban.target.name] = self.ledger.decide(ban, "active")
        for path, each in self.memory.logs.items():
            self.ledger.position(path, each.saved or "", each.clock)
        assert self.ledger.commit()
        return decided


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    log = tmp_path / "mail.log"
    log.touch()
    conf = tmp_path / "conf"
    conf.write_text(f"[log {log}]\nfilters = postfix\ntimezone = UTC\n[policy]\n{POLICY}")
    return load(str(conf))


def lines(chance: Random, count: int) -> Iterator[tuple[float, str]]:
    when = BEGIN
    for number in range(count):
        when += chance.choice((0, 1, 1, 2, 7))
        address = f"192.0.2.{chance.randrange(12)}"
        yield when, virus(address, when, f"4X{number:08X}") if chance.random() < 0.5 else relay(address, when)


@pytest.mark.parametrize("seed", range(4))
def test_whoever_decides_the_decisions_are_the_same(tmp_path: Path, loaded: Loaded, seed: int) -> None:
    """Run after run: each is given the memory of the one before, or makes its own beside it, in several rounds."""
    chance = Random(seed)
    log = tmp_path / "mail.log"
    ledger, other = Ledger(str(tmp_path / "ledger.db"), BEGIN), Ledger(str(tmp_path / "other.db"), BEGIN)
    run, alone = Run(Memory(loaded, (), ledger, BEGIN), ledger), Run(Memory(loaded, (), other, BEGIN), other)
    run.begin()
    alone.begin()
    found: list[Ban] = []
    wanted: list[Ban] = []
    with log.open("a") as file:
        for when, line in lines(chance, 800):
            print(line, file=file, flush=True)
            what = chance.randrange(40)
            if what < 20:
                found += run.read(when, chance.choice((100, 500, 5000)))
                wanted += alone.read(when, 5000)
            elif what == 20 and run.heir is None:
                run.heir = heir = Memory(loaded, (), ledger, when, before=run.memory)
                assert heir.can_inherit(run.memory)
                heir.remember(ledger, BEGIN)
                heir.begin()
            elif what == 21 and run.heir is not None:
                if not run.heir._history:
                    run.heir.remember(ledger, BEGIN)
                asyncio.run(run.heir.recall(lambda: False))
                run.heir.settle()
            elif what == 22 or (what == 23 and run.heir is not None):
                heir = run.heir or run.memory
                if heir is not run.memory and heir._history:  # it has been told what was decided by its beginning
                    asyncio.run(heir.recall(lambda: False))
                    heir.settle()
                heir.inherit(run.memory, ledger)
                run.memory.leave(heir, {})
                run = Run(heir, ledger)
                run.begin()
    found += run.read(when, 1 << 20)
    wanted += alone.read(when, 1 << 20)
    assert [ban[:5] for ban in found] == [ban[:5] for ban in wanted]
    assert len(wanted) > 50
    for each in (*run.memory.logs.values(), *alone.memory.logs.values()):
        each.source.close()
    ledger.close()
    other.close()


def test_what_a_memory_is_made_of(tmp_path: Path, loaded: Loaded) -> None:
    mine = Memory(loaded, (), Ledger(str(tmp_path / "ledger.db"), BEGIN), BEGIN)
    conf = tmp_path / "conf"
    text = conf.read_text()

    def serves(changed: str) -> bool:
        conf.write_text(changed)
        return mine.serves(load(str(conf)))

    assert serves(text)
    assert serves(f"# a comment\n[daemon]\nmode = watch\nhistory = 3d\n{text}[notify]\nmail = a@b.example\n")
    assert not serves(f"[daemon]\nallow = 192.0.2.1\n{text}")
    assert not serves(f"{text}spam = 3 in 1m -> ban 1m\n")
    assert not serves(text.replace("ban 2m", "ban 3m"))
    assert not serves(text.replace("filters = postfix", "filters = postfix, clamav"))
    assert not serves(text.replace("UTC", "Europe/Rome"))
    assert not serves(f"{text}[fuse]\n")
    own = tmp_path / "filters"
    own.mkdir()
    shipped = (Path(__file__).parent.parent / "filters" / "postfix.filter").read_text()
    (own / "postfix.filter").write_text(shipped)
    assert serves(text)
    (own / "postfix.filter").write_text(f"{shipped}\nignore  never said {{*}}\nsample ignore\n  {SAID}\n")
    assert not serves(text)
    for each in mine.logs.values():
        each.source.close()


def test_an_heir_that_is_given_too_much_is_lost(
    tmp_path: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "QUEUE", 200)
    ledger = Ledger(str(tmp_path / "ledger.db"), BEGIN)
    run = Run(Memory(loaded, (), ledger, BEGIN), ledger)
    run.begin()
    run.heir = Memory(loaded, (), ledger, BEGIN, before=run.memory)
    with (tmp_path / "mail.log").open("a") as file:
        file.writelines(f"{line}\n" for _, line in lines(Random(1), 100))
    run.read(BEGIN, 1 << 20)
    assert run.heir.lost
    run.heir.leave(None, {})
    run.memory.leave(None, {})
    ledger.close()


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Live]:
    """In an hour's log it has read 200,000 refusals of addresses that are allowed: that takes a second or two."""
    with live(tmp_path) as daemon:
        daemon.configure(mode="watch", allow="10.0.0.0/8")
        daemon.log.touch()
        daemon.start()
        when = time.time() - 3000
        refused = "".join(f"{relay(f'10.0.{n >> 8}.{n & 255}', when)}\n" for n in range(10_000))
        with daemon.log.open("a") as log:
            for _ in range(20):
                log.write(refused)
        until(lambda: daemon.status()["events"].get("relay", {}).get("postfix", 0) == 200_000, "all read")
        yield daemon


def reload(daemon: Live, text: str, said: str, times: int = 1) -> None:
    assert daemon.process
    daemon.conf.write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: said_of(daemon, said) == times, said)


def said_of(daemon: Live, text: str) -> int:
    return daemon.errors.read_text().count(text)


AGAIN, REFUSED, READY = "reading the logs again", "not reloaded, going on as before", ": ready:"


def test_bans_go_on_while_a_reload_reads_the_logs_again(busy: Live) -> None:
    """By the policy before, and then by the new one."""
    old = busy.conf.read_text()
    busy.write([*viruses("198.51.100.200", 3), *viruses("203.0.113.1", 5)])
    until(lambda: busy.banned() == ["203.0.113.1"], "a ban")
    new = old.replace("virus = 5", "virus = 4").replace("10.0.0.0/8", "10.0.0.0/8, 203.0.113.1")
    reload(busy, new, AGAIN)
    until(lambda: said_of(busy, "released 203.0.113.1"), "the release of what is allowed, at once")
    assert not said_of(busy, ": reloading")
    number = 0
    while not said_of(busy, ": reloading"):
        number += 1
        busy.write(viruses(f"198.51.100.{number}", 5))
        until(lambda: said_of(busy, f"banned 198.51.100.{number} "), "a ban meanwhile")  # noqa: B023
    assert number > 1, "nothing was seen of the reading"
    until(lambda: said_of(busy, READY) == 2, "the new configuration")
    busy.write(viruses("198.51.100.199", 4))
    until(lambda: "198.51.100.199" in busy.banned(), "a ban by the new policy")
    assert "198.51.100.200" not in busy.banned()
    busy.write(viruses("198.51.100.200", 1))
    until(lambda: "198.51.100.200" in busy.banned(), "a ban by the hits of before and a new one")
    assert len(busy.banned()) == number + 2
    assert busy.stop() == 0


def test_a_reload_is_overtaken_by_the_next(busy: Live) -> None:
    """Changed again while the logs are read: the newest alone; broken: as if not asked; changed back: at once."""
    old = busy.conf.read_text()
    fds = Path(f"/proc/{busy.status()['pid']}/fd")
    assert busy.process
    reload(busy, old.replace("10.0.0.0/8", "10.0.0.0/8, 203.0.113.1"), AGAIN)
    reload(busy, "[daemon", REFUSED)
    reload(busy, old.replace("virus = 5", "virus = 2"), AGAIN, 2)
    # `mode` alone is changed: nothing that the memory is made of.
    busy.conf.write_text(old.replace("mode = watch", "mode = enforce\naction = dryrun"))
    busy.process.send_signal(signal.SIGHUP)
    until(lambda: busy.status()["mode"] == "enforce", "the last of them")
    busy.write([*viruses("198.51.100.1", 4), *viruses("198.51.100.2", 5), *viruses("203.0.113.1", 5)])
    until(lambda: len(busy.banned()) == 2, "bans by the first policy")
    assert sorted(busy.banned()) == ["198.51.100.2", "203.0.113.1"]
    assert [each.resolve() for each in fds.iterdir()].count(busy.log.resolve()) == 1
    assert busy.stop() == 0


def test_a_run_that_gave_way_does_nothing_any_more(tmp_path: Path) -> None:
    """Also where it gave way in the middle of a backlog: all ends are told by the one that goes on."""
    with live(tmp_path) as daemon:
        daemon.configure(mode="watch", policy="relay = 1 in 1m -> ban 5s\n")
        daemon.log.touch()
        daemon.start()
        assert daemon.process
        until(lambda: time.time() > daemon.status()["started"] + RELOADS, "that a reload comes at once")
        daemon.process.send_signal(signal.SIGSTOP)  # so that it finds both, and gives way with most still to be read
        daemon.write([relay(f"198.18.{n >> 8}.{n & 255}", time.time()) for n in range(40_000)])
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGCONT)
        until(lambda: said_of(daemon, READY) == 2, "the next run")
        until(lambda: said_of(daemon, " banned ") == 40_000, "all of them")
        until(lambda: not daemon.json("list"), "their ends")
        said = daemon.errors.read_text()
        assert said.index(" banned ") < said.index(": reloading") < said.rindex(" banned ")
        assert said[said.rindex(READY) :].count(" released ") == daemon.status()["releases"]
