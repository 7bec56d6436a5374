"""monitor: what the daemon notices of itself and of its logs, second by second. Edge; decides nothing about bans.

It looks at what the others say of themselves (a fault of the ledger or of the firewall), asks the pure modules what is
out of the ordinary in a log, and says it: in our log, in `status`, in the metrics. Each alarm once at its begin and
once at its end (alarms). Served are the metrics too, where the settings say so: what keeps them from being served is an
alarm, and is tried again every RETRY seconds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from denyspam import metrics, show
from denyspam.alarms import Alarms, Change
from denyspam.enforce import Enforcer
from denyspam.exporter import Exporter
from denyspam.ledger import MEMORY, Ledger
from denyspam.logfile import LogFile
from denyspam.settings import Settings

log = logging.getLogger("denyspam")

RETRY = 5.0  # seconds between two tries to serve the metrics
PAGE = os.sysconf("SC_PAGE_SIZE")


class Monitored(Protocol):
    """What is looked at of a daemon."""

    settings: Settings
    ledger: Ledger
    enforcer: Enforcer
    logs: dict[str, LogFile]


class Monitor:
    """One daemon's, from its start to its end."""

    def __init__(self, daemon: Monitored, clock: Callable[[], float]) -> None:
        self._daemon = daemon
        self._clock = clock
        self.alarms = Alarms()
        self._exporter: Exporter | None = None
        self._retry = 0.0
        self._starting: asyncio.Task[None] | None = None

    async def serve(self, snapshot: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        """Serves the metrics of this snapshot, where the settings say so."""
        place = self._daemon.settings.metrics
        if place is not None:

            async def text() -> str:
                return metrics.render(await snapshot())

            self._exporter = Exporter(place, text)
            await self._start(self._exporter)

    async def stop(self) -> None:
        if self._exporter is not None:
            if self._starting is not None:
                await self._starting
            await self._exporter.stop()

    def tick(self, now: float) -> None:
        """To be called every second."""
        daemon, look = self._daemon, self.alarms.look
        look("ledger", ledger_fault(daemon.ledger), now)
        fault = daemon.enforcer.fault
        look("firewall", fault and f"{show.count(daemon.enforcer.waiting, 'order')} not taken: {fault}", now)
        self._listen()
        for change in self.alarms.changes(now):
            say(change)

    def of(self, path: str, now: float) -> dict[str, Any]:
        """What `status` tells of one log besides."""
        return {}

    def stepped(self, seconds: float, now: float) -> None:
        """The clock was set by so much; it is `now` since."""
        self.alarms.shift(seconds)
        self.alarms.set("clock-stepped", f"by {seconds:+.0f} s", now)
        self.alarms.clear("clock-stepped", now)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if self._exporter is not None and not self._exporter.listening and loop.time() >= self._retry:
            self._starting = loop.create_task(self._start(self._exporter))

    async def _start(self, exporter: Exporter) -> None:
        self._retry = asyncio.get_running_loop().time() + RETRY
        try:
            await exporter.start()
        except OSError as error:
            self.alarms.set("metrics", f"{exporter}: {error.strerror or error}", self._clock(), str(exporter))
        else:
            self.alarms.clear("metrics", self._clock(), str(exporter))


def ledger_fault(ledger: Ledger) -> str | None:
    """What is wrong with the ledger, for people."""
    return "it could not be opened; bans are remembered in memory only" if ledger.path == MEMORY else ledger.fault


def say(change: Change) -> None:
    """An alarm's begin or end, in our log."""
    alarm, ended = change
    if ended is not None:
        log.info("alarm over after %s: %s", show.duration(ended - alarm.since), alarm)
        return
    log.warning("alarm %s: %s", alarm, alarm.text)
    for sample in alarm.samples:
        log.warning("alarm %s: for example: %s", alarm, sample)


def process() -> dict[str, float | int | None]:
    """What this process costs: `cpu_seconds`, `resident_bytes`, `open_files`; None where the kernel does not tell."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    found: dict[str, float | int | None] = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "resident_bytes": None,
        "open_files": None,
    }
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/statm", encoding="ascii") as file:
            found["resident_bytes"] = int(file.read().split()[1]) * PAGE
        found["open_files"] = len(os.listdir("/proc/self/fd")) - 1  # but for the one that this took
    return found
