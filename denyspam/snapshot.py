"""snapshot: what `top` and `web` show, made in bounded time however much the daemon holds. Edge; decides nothing.

One answer says it all: rates, the hottest addresses, the newest bans, the firewall's counters, the logs, what is wrong.
Whoever looks is told the same for FRESH seconds, so that a hundred screens cost no more than one. The counters of the
firewall are asked for beside it: while it is slow, its last word is shown. Searching all bans lets the daemon go on
after each PIECE of them; different questions are answered one after the other, with a rest as long as the last took.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from itertools import islice
from typing import Any, Protocol

from denyspam import __version__, show
from denyspam.enforce import Enforcer
from denyspam.events import ActionError, Ban, Target
from denyspam.join import Join
from denyspam.ledger import Ledger
from denyspam.logfile import LogFile, Logs
from denyspam.monitor import Monitor, ledger_fault
from denyspam.policy import Heat, Judge
from denyspam.recent import Recent
from denyspam.settings import Settings

FRESH = 0.4  # seconds
REST = 0.5  # seconds at most between two
KEPT = 8  # snapshots, of different questions
SHOWN = 100  # rows of each list, unless asked otherwise
MOST = 1_000  # that may be asked for
PIECE = 5_000  # bans searched before the daemon does something else: some milliseconds
MATCH = 100  # characters
TEXT = 400  # bytes of a hot address's newest line


class Showing(Protocol):
    """What is seen of a daemon."""

    settings: Settings
    ready: bool
    started: float
    judge: Judge
    join: Join
    ledger: Ledger
    enforcer: Enforcer
    logs: Logs
    pending: set[Target]
    withheld: dict[Target, str]
    recent: Recent
    monitor: Monitor
    bans: int
    releases: int
    repairs: int

    @property
    def kinds(self) -> dict[str, int]: ...


class Snapshot:
    """Makes the answer to `top`."""

    def __init__(self, daemon: Showing, row: Callable[[Ban], dict[str, Any]]) -> None:
        self._daemon = daemon
        self._row = row  # a ban as `list` has it
        self._made: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}
        self._turn = asyncio.Lock()
        self._busy = 0.0  # seconds that the last one took
        self._sets: list[dict[str, Any]] | None = None
        self._counting: asyncio.Task[None] | None = None

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The snapshot. In the request, `match` is what the addresses or rules shown contain, `most` how many rows."""
        match = str(request.get("match") or "").strip().lower()[:MATCH]
        most = max(0, min(int(request.get("most", SHOWN)), MOST))
        async with self._turn:
            self._made = {key: each for key, each in self._made.items() if time.monotonic() - each[0] < FRESH}
            if (match, most) not in self._made:
                await asyncio.sleep(min(self._busy, REST))  # no number of askers takes more than half of our time
                await self._count()
                began = time.monotonic()
                made = await self._snapshot(match, most)
                self._busy = time.monotonic() - began
                self._made[match, most] = began, made
                for key in list(self._made)[:-KEPT]:
                    del self._made[key]
            return self._made[match, most][1]

    async def _count(self) -> None:
        """Ask for the firewall's counters, and give them a moment."""
        if not self._daemon.ready:
            return
        if self._counting is None or self._counting.done():
            self._counting = asyncio.get_running_loop().create_task(self._counters())
        await asyncio.wait((self._counting,), timeout=0.1)

    async def _counters(self) -> None:
        try:
            self._sets = await self._daemon.enforcer.counters()
        except (ActionError, RuntimeError):  # refused, or its thread has ended with the daemon
            self._sets = None

    async def _snapshot(self, match: str, most: int) -> dict[str, Any]:
        daemon, now = self._daemon, time.time()
        bans = await self._bans(match, most)
        sets = self._sets
        return {
            "time": now,
            "host": socket.gethostname(),
            "version": __version__,
            "pid": os.getpid(),
            "started": daemon.started,
            "ready": daemon.ready,
            "mode": daemon.settings.mode,
            "action": daemon.settings.action,
            "rates": daemon.recent.rates(),
            "kinds": daemon.kinds,
            "hot": [_hot(each, now) for each in daemon.judge.hottest(now, most, match)],
            "bans": [self._row(ban) for ban in bans],
            "active": len(daemon.judge.active) - len(daemon.withheld),
            "withheld": len(daemon.withheld),
            "pending": len(daemon.pending),
            "decided": daemon.bans,
            "ended": daemon.releases,
            "tracked": daemon.judge.tracked,
            "unresolved": daemon.join.waiting,
            "firewall": {
                "packets": None if sets is None else sum(each["packets"] for each in sets),
                "bytes": None if sets is None else sum(each["bytes"] for each in sets),
                "sets": sets,
                "waiting": daemon.enforcer.waiting,
                "sessions": daemon.enforcer.ended,
                "repairs": daemon.repairs,
            },
            "logs": [_log(each) for each in daemon.logs.values()],
            "faults": list(self._faults()),
        }

    async def _bans(self, match: str, most: int) -> Sequence[Ban]:
        """The newest first."""
        active = self._daemon.judge.active
        if not match:
            return list(islice(reversed(active.values()), most))
        try:
            covering = self._daemon.judge.covering(ip_network(match))
        except ValueError:
            covering = []
        if covering:
            return covering[:most]
        found: list[Ban] = []
        every = list(active.values())
        every.reverse()
        for start in range(0, len(every), PIECE):
            piece = every[start : start + PIECE]
            some = (ban for ban in piece if match in ban.target.name or match in ban.rule.lower())
            found += islice(some, most - len(found))
            if len(found) >= most:
                break
            await asyncio.sleep(0)
        return found

    def _faults(self) -> Iterator[str]:
        """What an admin should see to, in a sentence each."""
        daemon = self._daemon
        if not daemon.ready:
            yield "starting: the logs are still being read"
        if daemon.enforcer.trouble:
            waiting = show.count(daemon.enforcer.waiting, "order")
            yield f"the firewall refuses: {daemon.enforcer.trouble} ({waiting} waiting)"
        fault = ledger_fault(daemon.ledger)
        if fault:
            yield f"the ledger: {fault} ({daemon.ledger.waiting} waiting)"
        for alarm in daemon.monitor.alarms.active():
            if alarm.name not in ("firewall", "ledger"):  # said above, at once
                yield f"{alarm}: {alarm.text}"
        for path, each in daemon.logs.items():
            if not each.source.present:
                yield f"{path} is not there"
            if each.source.lost:
                yield f"the place in {path} was lost {show.count(each.source.lost, 'time')}"


def _hot(heat: Heat, now: float) -> dict[str, Any]:
    event = heat.event
    return {
        "address": heat.key,
        "policy": heat.policy.name,
        "hits": heat.hits,
        "limit": heat.policy.hits,
        "within": heat.policy.within,
        "first": heat.first,
        "last": heat.last,
        "gone": max(0.0, heat.last + heat.policy.within - now),
        "kind": None if event is None else event.kind,
        "filter": None if event is None else event.filter,
        "text": None if event is None else event.text[:TEXT].decode("utf-8", "replace"),
    }


def _log(each: LogFile) -> dict[str, Any]:
    return {
        "path": each.path,
        "present": each.source.present,
        "behind": each.source.behind,
        "clock": each.clock,
        "lines": each.lines,
        "events": each.events,
        "bad_time": each.scanner.bad_time,
        "lost": each.source.lost,
    }
