"""What a guard withholds where no name is asked for: by habit, and as nonsense in the ledger leaves it."""

from __future__ import annotations

import json
from ipaddress import ip_network

from denyspam.events import Ban, Event, Policy, Target
from denyspam.fuse import DAYS, FLOOR
from denyspam.guard import FUSED, Guard
from denyspam.ledger import MEMORY, Ledger
from denyspam.policy import Judge
from denyspam.senders import Providers
from denyspam.settings import FuseSettings, SendersSettings, Settings

HOUR = 3600.0
START = 480_000 * HOUR


def ban(number: int, time: float) -> Ban:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    event = Event(time, "virus", address, "postfix", None, None, "/mail.log", number, 0, b"line")
    target = Target(ip_network(address), (25,))
    return Ban(target, "virus", time, time + 60, 5, (event,), "", ("/mail.log", number))


def guard(ledger: Ledger, bans: int) -> Guard:
    judge = Judge([Policy("virus", "virus", 5, 900, HOUR)])
    return Guard(Settings(fuse=FuseSettings(bans=bans)), Providers(()), ledger, judge, lambda _: None)


def past(days: int, each: int) -> Ledger:
    """A ledger with so many bans in each hour of the last days."""
    ledger = Ledger(MEMORY, 0)
    for hour in range(days * 24 + 1):
        for number in range(each):
            ledger.decide(ban(number, START - hour * HOUR - HOUR / 2), "expired", ended=START)
    assert ledger.commit()
    return ledger


def withheld(made: Guard, count: int, time: float) -> int:
    """How many of so many bans are withheld."""
    reasons = [made.reason(ban(number, time), time) for number in range(count)]
    assert all(reason == "" or str(reason).startswith(FUSED) for reason in reasons)
    return sum(map(bool, reasons))


def test_more_bans_than_fifty_times_the_habit() -> None:
    ledger = past(DAYS, 20)
    made = guard(ledger, 50)
    assert withheld(made, 1_500, START + 1) == 500  # the habit is 20, and what is more than 1,000 too many
    assert "1001 bans in an hour, and more than 1000 are out of the ordinary" in str(made.alarms()["fuse-blown"])
    made.save()
    ledger.commit()
    again = guard(ledger, 50)
    assert withheld(again, 5, START + 2) == 5  # over a restart
    assert [each.kind for each in again.resume(START + 3)] == ["any"]
    assert withheld(again, 5_000, START + 4) == 0
    assert withheld(made, 10, START + HOUR) == 10  # the hour before was one of those
    made.eased = False
    assert len(made.fused()) == 1
    assert withheld(made, 10, START + 2 * HOUR) == 0  # over by itself
    assert (made.eased, made.fused()) == (True, set())
    assert made.alarms()["fuse-blown"] is None


def test_a_young_installation_has_no_habit_and_a_quiet_one_a_floor() -> None:
    assert withheld(guard(past(DAYS - 1, 5), 50), 30_000, START + 1) == 0
    assert withheld(guard(past(DAYS, 1), 2), FLOOR + 50, START + 1) == 50


def test_off_no_number_is_too_many() -> None:
    assert withheld(guard(past(DAYS, 5), 0), 30_000, START + 1) == 0


def test_a_fuse_that_is_configured_no_more_withholds_nothing() -> None:
    ledger = Ledger(MEMORY, 0)
    ledger.fact("fuse", json.dumps({"blown": [["virus", 1.0, "x", 9, 9.0], ["any", 1.0, "y", 0, 0.0]], "resumed": {}}))
    ledger.commit()
    judge = Judge([Policy("virus", "virus", 5, 900, HOUR)])

    def blown(settings: Settings) -> set[str]:
        made = Guard(settings, Providers(()), ledger, judge, lambda _: None)
        return set(made._fuse.blown)

    assert blown(Settings(fuse=FuseSettings(bans=50))) == {"virus", "any"}
    assert blown(Settings(fuse=FuseSettings())) == {"virus"}
    assert blown(Settings(fuse=FuseSettings(share=0.0, bans=50))) == {"any"}
    assert blown(Settings(senders=SendersSettings(providers=False))) == set()
    made = Guard(Settings(senders=SendersSettings(providers=False)), Providers(()), ledger, judge, lambda _: None)
    assert made.reason(ban(1, START), START) == ""
    made.save()  # and so it is forgotten: not there again when [fuse] is, a month later
    ledger.commit()
    assert blown(Settings(fuse=FuseSettings(bans=50))) == set()


def test_nonsense_in_the_ledger_is_begun_anew() -> None:
    ledger = Ledger(MEMORY, 0)
    for name in ("fuse", "front"):
        ledger.fact(name, '{"blown": [[1]], "days": {"x": 3}}')
    ledger.sender(("192.0.2.7", 1, 2, 3, 4, 5))
    ledger.commit()
    made = guard(ledger, 0)
    assert made.alarms() == {"fuse-blown": None, "proxy": None, "resolver": None}
    assert made.status()["senders"] == 1
