"""windows: what counting costs as it grows: `python -m bench.windows`. No firewall, no log: the judge alone.

    tracked   addresses with a hit in a window, 10,000 to 1,000,000: CPU an event, and resident memory for all of them
              (the default policies; hits are spread at random over the addresses, and complete no ban)
    flood     twice as many random IPv6 /64s as the capacity: the memory must stay where a full window put it
    bans      bans that hold, 0 to 100,000: CPU an event of somebody who is not banned, and of somebody who is

Each size has a process of its own. CPU is of that process; the best of some rounds of the same number of events.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from random import Random
from typing import Any

from bench import measure
from denyspam.events import Ban, Event, Target
from denyspam.policy import Judge
from denyspam.settings import Settings, parse

EVENTS = 100_000  # timed
ROUNDS = 3
NOW = 1795132800.0
TRACKED = (10_000, 100_000, 1_000_000)
BANS = (0, 1_000, 10_000, 100_000)
FIRST = int(IPv4Address("11.0.0.0"))
NET = int(IPv6Address("2001:db8::"))


def judge(capacity: int | None = None) -> Judge:
    """By the shipped configuration's policies."""
    shipped = (measure.ROOT / "etc/denyspam.conf").read_text(encoding="utf-8")
    settings = parse(shipped, "etc/denyspam.conf")
    return Judge(settings.policies, capacity=Settings().capacity if capacity is None else capacity)


def event(address: str, at: float) -> Event:
    return Event(
        time=at,
        kind="reject",
        address=address,
        filter="postfix",
        queue_id=None,
        user=None,
        file="mail.log",
        offset=int(at),
        number=1,
        text=b"NOQUEUE: reject: RCPT from unknown[11.0.0.1]: 550 5.1.1 <info@example.org>: Recipient address rejected",
    )


def host(number: int) -> str:
    return str(IPv4Address(FIRST + number))


def resident() -> float:
    """MB of this process."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def microseconds(decide: Callable[[Event], object], make: Callable[[], Iterator[Event]]) -> float:
    """CPU an event, the best round; the events are made beforehand."""
    best = float("inf")
    for _ in range(ROUNDS):
        events = list(make())
        begun = time.process_time()
        for each in events:
            decide(each)
        best = min(best, (time.process_time() - begun) / len(events) * 1e6)
    return measure.significant(best, 3)


def tracked(count: int, timed: int = EVENTS) -> dict[str, Any]:
    chance = Random(count)
    made = judge()
    before = resident()
    for number in range(count):
        made.decide(event(host(number), NOW + number * 1e-6))
    memory = resident() - before
    clock = [NOW + 2.0]
    timed = min(timed, 5 * count)

    def some() -> Iterator[Event]:
        clock[0] += 7200.0  # the windows are empty again, and five hits of each address complete no ban
        return (event(host(chance.randrange(count)), clock[0] + n * 1e-6) for n in range(timed))

    return {"microseconds": microseconds(made.decide, some), "memory_mb": round(memory, 1), "tracked": made.tracked}


def flood(count: int, timed: int = EVENTS) -> dict[str, Any]:
    """`count` is the capacity."""
    chance = Random(count)
    made = judge(count)
    before = resident()

    def strangers(many: int) -> Iterator[Event]:
        return (event(str(IPv6Address(NET + (chance.getrandbits(32) << 64))), NOW) for _ in range(many))

    for each in strangers(count):
        made.decide(each)
    full = resident() - before
    for each in strangers(count):
        made.decide(each)
    twice = resident() - before
    cost = microseconds(made.decide, lambda: strangers(timed))
    return {"microseconds": cost, "full_mb": round(full, 1), "twice_mb": round(twice, 1), "tracked": made.tracked}


def bans(count: int, timed: int = EVENTS) -> dict[str, Any]:
    chance = Random(count)
    made = judge()
    for number in range(count):
        made.hold(Ban(Target(ip_network(host(number)), (25,)), "reject", NOW, NOW + 86_400, 20))
    clock = [NOW + 2.0]

    def decide(one: Event) -> None:
        made.decide(one)
        made.expire(clock[0])

    def innocent() -> Iterator[Event]:
        clock[0] += 7200.0
        return (event(host(2_000_000 + chance.randrange(10_000)), clock[0] + n * 1e-6) for n in range(timed))

    def banned() -> Iterator[Event]:
        return (event(host(chance.randrange(count)), clock[0] + n * 1e-6) for n in range(timed))

    found = {"innocent_microseconds": microseconds(decide, innocent)}
    if count:
        found["banned_microseconds"] = microseconds(decide, banned)
    return {**found, "bans": len(made.active)}


ONE = {"tracked": tracked, "flood": flood, "bans": bans}


def alone(what: str, count: int, timed: int, folder: Path) -> Any:
    """In a process of its own."""
    measure.note(f"windows: {what} {count}")
    out = folder / "out"
    measure.child([sys.executable, "-m", "bench.windows", "--one", what, str(count), str(timed)], out=str(out))
    return json.loads(out.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "COUNT", "EVENTS"), help="one measurement, here")
    asked = parser.parse_args(arguments)
    if asked.one:
        what, count, timed = asked.one
        print(json.dumps(ONE[what](int(count), int(timed))))
        return
    timed = EVENTS // 20 if asked.quick else EVENTS
    small = 100 if asked.quick else 1
    with measure.scratch() as folder:
        figures = {
            "events": timed,
            "tracked": {str(n): alone("tracked", n, timed, folder) for n in (n // small for n in TRACKED)},
            "flood": {str(n): alone("flood", n, timed, folder) for n in (TRACKED[-1] // small,)},
            "bans": {str(n): alone("bans", n, timed, folder) for n in (n // small for n in BANS)},
        }
    measure.finish("windows", figures, write=asked.write)


if __name__ == "__main__":
    main()
