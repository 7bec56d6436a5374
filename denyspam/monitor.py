"""monitor: what the daemon notices of itself and of its logs, second by second. Edge; decides nothing about bans.

It looks at what the others say of themselves (a fault of the ledger or of the firewall), asks the pure modules what is
out of the ordinary in a log (silence, skew, untaken), and says it: in our log, in `status`, in the metrics. Each alarm
once at its begin and once at its end (alarms). Served are the metrics too, where the settings say so: what keeps them
from being served is an alarm, and is tried again every RETRY seconds.

A section of the configuration is one log here: a glob's files of yesterday are silent for good, and its files of today
are what goes on.

Of a log that is read it takes the last SAMPLE bytes at most once a second, whatever comes: looked at later, on the
tick. What it has learned of a log is kept in the ledger, hourly and at a stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from denyspam import metrics, show
from denyspam.alarms import Alarms, Change
from denyspam.enforce import Enforcer
from denyspam.events import Ban, Event, Target
from denyspam.exporter import Exporter
from denyspam.filter import Filter
from denyspam.former import carrier
from denyspam.host import zone
from denyspam.keeper import KERNEL
from denyspam.ledger import MEMORY, Ledger
from denyspam.logfile import Logs
from denyspam.notify import Notifier
from denyspam.policy import Judge
from denyspam.settings import LogSettings, Settings
from denyspam.silence import Silence
from denyspam.skew import BEGINS, ENDS, Alongside, Skew
from denyspam.stamp import Stamps
from denyspam.unstopped import Unstopped
from denyspam.untaken import Untaken

log = logging.getLogger("denyspam")

RETRY = 5.0  # seconds between two tries to serve the metrics
SAMPLE = 8192  # bytes: some fifty lines
SPARE = 0.005  # seconds a tick for the samples of all logs
KEEP = 3600.0  # seconds between two times that what was learned is kept
HEARD = 8  # events of a reading that are asked for the ban that should have stopped them: 3 microseconds each
SHORT = 600.0  # seconds of a restart: a log that was silent before is thought to have been silent meanwhile
PAGE = os.sysconf("SC_PAGE_SIZE")


class Monitored(Protocol):
    """What is looked at of a daemon."""

    settings: Settings
    filters: dict[str, list[Filter]]
    ledger: Ledger
    enforcer: Enforcer
    judge: Judge
    logs: Logs
    notifier: Notifier
    pending: set[Target]
    withheld: dict[Target, str]


class _Log:
    """What is noticed of one log: of all the files of its section."""

    def __init__(self, settings: LogSettings, filters: list[Filter], kept: str | None, now: float) -> None:
        self.path = settings.path
        place = zone(settings.timezone)
        self.silence = Silence(zone(None))
        self.skew: Skew | None = None if settings.stamp == "none" else Skew()
        self.alongside = Alongside(place)
        self.untaken = Untaken(filters, Stamps(place))
        self.heard = now  # when its last line came
        self.started = now
        self.sample: bytes | None = None  # of the last second
        self.fresh = False  # that its end was read as it came
        self.line = b""
        if kept is not None:
            self._restore(kept, now)

    def _restore(self, kept: str, now: float) -> None:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(kept)
            self.silence.restore(found["silence"])
            self.untaken.usual = min(1.0, max(0.0, float(found["usual"])))
            heard = float(found["heard"])
            if heard <= now <= float(found["now"]) + SHORT:
                self.heard = heard

    def kept(self, now: float) -> str:
        return json.dumps(
            {"silence": self.silence.text(), "usual": self.untaken.usual, "heard": self.heard, "now": now}
        )

    def sees(self, data: bytes, now: float, fresh: bool) -> None:
        self.heard = now
        if self.sample is None:
            cut = data.find(b"\n", max(0, len(data) - SAMPLE)) + 1 if len(data) > SAMPLE else 0
            self.sample, self.fresh = data[cut:], fresh
        elif fresh and not self.fresh:
            self.fresh = False

    def tick(self, now: float, alarms: Alarms) -> None:
        sample, self.sample = self.sample, None
        if sample is not None:
            self.untaken.look(sample, now)
            line = sample[sample.rfind(b"\n", 0, -1) + 1 :].rstrip(b"\r\n")
            ahead = self.alongside.ahead(line, now) if self.skew is not None and self.fresh else None
            if ahead is not None and self.skew is not None:
                self.skew.add(ahead, now)
                self.line = line
                self._skewed(now, alarms)
        rise = self.untaken.rise(now)
        if rise is None:
            alarms.clear("lines-untaken", now, self.path)
        else:
            text = f"{rise} `denyspam learn {self.path if self.path.startswith('/') else 'FILE'}` shows them"
            alarms.set("lines-untaken", text, now, self.path, self.untaken.samples)

    def _skewed(self, now: float, alarms: Alarms) -> None:
        ahead = None if self.skew is None else self.skew.steady()
        if ahead is not None and abs(ahead) >= BEGINS:
            alarms.set("stamps-skewed", self.alongside.cure(ahead, self.line, now, self.path), now, self.path)
        elif ahead is not None and abs(ahead) < ENDS:
            alarms.clear("stamps-skewed", now, self.path)

    def minutely(self, now: float, alarms: Alarms, present: bool) -> None:
        self.silence.observe(self.heard, now)
        limit = self.silence.limit(self.heard, now)
        silent = now - self.heard
        if limit is not None and silent > limit:
            what = "has no new line" if present else "is not there, and had no new line"
            text = f"it {what} for {show.duration(silent)}; by its habit that is {show.duration(limit)} at most"
            alarms.set("log-stopped", text, now, self.path)
        elif silent < 120.0:
            alarms.clear("log-stopped", now, self.path)


class Monitor:
    """One daemon's, from its start to its end."""

    def __init__(self, daemon: Monitored, clock: Callable[[], float]) -> None:
        self._daemon = daemon
        self._clock = clock
        self.alarms = Alarms()
        now = clock()
        facts = daemon.ledger.facts()
        self._logs = {
            each.path: _Log(each, daemon.filters[each.path], facts.get(f"habit {each.path}"), now)
            for each in daemon.settings.logs
        }
        self._unstopped = Unstopped()
        self._kernel = carrier(daemon.settings) in KERNEL  # there a banned client does not even reach the mail server
        self._keep = now + KEEP
        self._turn = 0
        self._told = ""
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
        self.keep(self._clock())
        if self._exporter is not None:
            if self._starting is not None:
                await self._starting
            await self._exporter.stop()

    def tick(self, now: float) -> None:
        """To be called every second."""
        daemon, look = self._daemon, self.alarms.look
        look("ledger", ledger_fault(daemon.ledger), now)
        fault = daemon.enforcer.trouble
        look("firewall", fault and f"{show.count(daemon.enforcer.waiting, 'order')} not taken: {fault}", now)
        look("bans-ineffective", self._unstopped.sentence(now), now)
        self._look(now)
        self._listen()
        for change in self.alarms.changes(now):
            say(change)
            daemon.notifier.changed(change, now)
        daemon.notifier.tick(now, self.alarms)
        told = daemon.notifier.told()
        if told != self._told:
            self._told = told
            daemon.ledger.fact("told", told)

    def _look(self, now: float) -> None:
        """At the samples, each log first in its turn, for as long as the loop can spare."""
        logs = list(self._logs.values())
        self._turn = (self._turn + 1) % max(1, len(logs))
        deadline = asyncio.get_running_loop().time() + SPARE
        for each in logs[self._turn :] + logs[: self._turn]:
            if asyncio.get_running_loop().time() > deadline:
                each.sample = None
            each.tick(now, self.alarms)

    def sees(self, path: str, data: bytes, now: float) -> None:
        """Some whole lines of a log, as they were read."""
        each = self._daemon.logs[path]
        self._logs[each.section].sees(data, now, each.live and not each.source.behind)

    def hears(self, events: Sequence[Event], now: float) -> None:
        """What these were read as; of many, the newest are looked at."""
        for event in events[-HEARD:] if self._kernel else ():
            ban = self._stopping(event)
            if ban is not None:
                self._unstopped.heard(event, ban, now)

    def _stopping(self, event: Event) -> Ban | None:
        """The ban that the kernel holds for its client, and that was made for offences of its kind."""
        judge = self._daemon.judge
        for policy in judge.policies:
            if event.address is None or policy.kind not in (event.kind, "any"):
                continue
            target = Target.named(judge.key(event.address, policy.prefix) or "", policy.ports or judge.ports)
            ban = judge.active.get(target)
            held = target not in self._daemon.pending and target not in self._daemon.withheld
            if ban is not None and ban.rule == policy.name and held:
                return ban
        return None

    def minutely(self, now: float) -> None:
        there = {each.section for each in self._daemon.logs.values() if each.source.present}
        for section, each in self._logs.items():
            each.minutely(now, self.alarms, section in there)
        if now >= self._keep:
            self.keep(now)

    def keep(self, now: float) -> None:
        """Have the ledger remember what was learned; to be committed by the caller."""
        self._keep = now + KEEP
        for path, each in self._logs.items():
            self._daemon.ledger.fact(f"habit {path}", each.kept(now))

    def of(self, path: str, now: float) -> dict[str, Any]:
        """What `status` tells of one log besides."""
        each = self._logs[self._daemon.logs[path].section]
        return {
            "silent": max(0.0, now - each.heard),
            "silence_limit": each.silence.limit(each.heard, now),
            "skew": None if each.skew is None else each.skew.steady(),
            "refusals_taken": each.untaken.taken,
            "refusals_untaken": each.untaken.untaken,
        }

    def stepped(self, seconds: float, now: float) -> None:
        """The clock was set by so much; it is `now` since."""
        self.alarms.shift(seconds)
        self._unstopped.shift(seconds)
        for each in self._logs.values():
            each.heard += seconds
            each.silence.shift(seconds)
            if each.skew is not None:
                each.skew.clear()
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


def give_back() -> None:
    """What was freed goes back to the kernel, a millisecond's work: by itself glibc keeps tens of megabytes of it after
    a reload or a flood. Other C libraries have no such call, and no such need."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
