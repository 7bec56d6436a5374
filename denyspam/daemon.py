"""daemon: logs in, bans out, for as long as the host runs. Edge; the only module that knows all the others.

One thread (the asyncio loop) reads, decides and writes the ledger; the firewall has a thread of its own (enforce).
A start goes: what the ledger knows and what the kernel holds -> bans that the kernel lacks ->
the logs re-read up to the last position, counting without deciding -> the logs from there on, deciding -> elements
that nobody knows dropped (or adopted, with a new ledger) -> ready. A reload is a start too, but its run is given a
memory of the logs that has read them already, while this one went on deciding (memory.py).

A decision is written as pending, with the positions it followed from, before the firewall is told.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from denyspam import former, show, supervisor
from denyspam.answers import FORCED, MANUAL, Answers
from denyspam.apart import Loaded
from denyspam.control import Server, obstacle
from denyspam.drift import Drift
from denyspam.enforce import Enforcer
from denyspam.events import Ban, Event, Held, SettingsError, Target
from denyspam.guard import FUSED, LATE, Guard, Verdict
from denyspam.host import own_addresses
from denyspam.keeper import claim
from denyspam.ledger import MEMORY, Ledger
from denyspam.logfile import NOTHING, Unavailable
from denyspam.memory import NEAR, SLICE, Memory, kept
from denyspam.monitor import Monitor, give_back
from denyspam.notify import Notifier, unusable
from denyspam.plugins import load, load_action, load_providers
from denyspam.recent import Recent
from denyspam.senders import Providers
from denyspam.settings import Settings
from denyspam.sources import NotPermitted, Source, usable
from denyspam.state import moved, usable_ledger
from denyspam.watch import Watch

log = logging.getLogger("denyspam")

PIECE = 65_536  # bytes of a log read at once: some 5 ms of a hostile log
FLOOD = 4 * PIECE  # and of one that we are behind with: fewer and larger transactions
DRIFT = 2.0  # seconds the kernel's time left may differ from ours before it is set anew
RETRY = 0.9  # seconds between two tries to write a ledger that fails: below a tick, so that each one tries
ROUNDS = 10  # in which an heir reads what has come meanwhile, each time less
RELOADS = 1.0  # seconds between two reloads: a storm of SIGHUPs is one, and one more for what came meanwhile
TOLD = 500  # decisions in one write to the log
made = tuple.__new__
KIND_AND_FILTER, FILE = attrgetter("kind", "filter"), attrgetter("file")


class _Open(NamedTuple):
    """A ban's open row in the ledger. The ban is the judge's, without its evidence."""

    row: int
    ban: Ban


class Daemon:
    """One run between two reloads. `serve()` returns what ended it: "stop" or "reload"."""

    def __init__(  # noqa: PLR0917
        self,
        conf: str,
        loaded: Loaded,
        ledger: Ledger,
        notifier: Notifier,
        control: Server,
        flush: bool = False,
        streams: dict[str, Source] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.conf = conf
        self.flush = flush  # empty the kernel's sets at a stop
        self.settings, self.filters = loaded
        # Open sources that cannot be read again: at the start those of the run before, at the end ours for the next.
        self.streams = {} if streams is None else streams
        self.ledger = ledger
        self._control = control
        self.next: Loaded = loaded
        self.heir: Memory | None = None  # what the next run is given
        self._coming: Memory | None = None  # that, while it is made, and then
        self._preparing: asyncio.Task[None] | None = None
        self.ready = False
        self.started = time.time()
        self.counts: Counter[tuple[str, str]] = Counter()  # (kind, filter) -> events
        self.late = 0  # bans that were over before they were decided
        self.bans = 0
        self.releases = 0
        self._rows: dict[Target, _Open] = {}
        self.pending: set[Target] = set()  # of those, the ones that the firewall has not taken yet
        self._unconfirmed: set[Target] = set()  # of those, the ones that the ledger still calls pending
        self._said_fault = False
        self._retry = 0.0  # when a ledger that failed is written again, by time.monotonic()
        self._done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._asked: asyncio.TimerHandle | None = None  # a reload
        self._reloaded = asyncio.get_running_loop().time()  # or tried to, or started
        self._reading: set[str] = set()  # logs with a continuation of their reading scheduled
        self._own = own_addresses()
        self._skew = time.time() - time.monotonic()
        settings = self.settings
        self._memory = memory or Memory(loaded, self._own, ledger, self.started, self.streams)
        self._memory.loaded = loaded
        self.judge, self.join, self.logs = self._memory.judge, self._memory.join, self._memory.logs
        self.judge.spare(self._own)
        # Decided, and not carried out, with the reason; "" while that is looked for.
        self.withheld: dict[Target, str] = {}
        self.guard: Guard | None = None
        if settings.guarded:
            providers = Providers(()) if settings.senders is None else load_providers(conf)
            self.guard = Guard(settings, providers, ledger, self.judge, self._verified, self._memory.guard)
        self._memory.guard = self.guard
        self.enforcer = Enforcer(
            load_action(settings),
            time.time,
            self._confirmed,
            self._mended,
            self._broke,
            end_sessions=settings.end_sessions and settings.mode == "enforce",
        )
        self._reasons = {each.name: f"{each.name} {show.limit(each)}" for each in settings.policies}
        self.repairs = 0  # bans that somebody else had taken out of the kernel
        self.rules: Counter[str] = Counter()  # policy -> bans
        self.notifier = notifier
        notifier.configure(settings.notify, settings.mode, self._reasons)
        self.monitor = Monitor(self, time.time)
        self.recent = Recent(("lines", "events", "bans"))

    # --- one run --------------------------------------------------------------------------------------------------

    async def serve(self) -> str:
        """Everything between start and stop. Raises ActionError where the firewall cannot be used at all."""
        settings = self.settings
        # A bug must end the process, for the supervisor to start a sound one: wherever the loop would only log it.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._unexpected(context))
        # What is made from here on stays: looking for garbage among a million bans takes a second, again and again.
        gc.disable()
        drift = self._ear()  # before the first look at the kernel, so that no change falls in between
        answers = Answers(self)
        scheduler = AsyncIOScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
        watch: Watch | None = None
        try:
            try:
                await self._control.start(settings.socket, settings.group, answers.answer)
            except OSError as error:
                raise Unavailable(f"the socket {settings.socket} cannot be made: {error.strerror or error}") from error
            await self.monitor.serve(answers.status)
            for pattern in self.logs.globs:
                self.ledger.position(pattern, NOTHING, self.started)  # it was looked at: what comes later is new
            self._save()
            # Both take their time, on two cores: the kernel's list and the ledger's.
            starting = asyncio.create_task(self.enforcer.start())
            await asyncio.sleep(0)
            self._remember()
            either: list[asyncio.Future[Any]] = [starting, self._done]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():  # stopped while the firewall did not answer
                starting.cancel()
                return await self._done
            held = dict(await starting)
            if await asyncio.get_running_loop().run_in_executor(None, former.clear, settings, self.ledger.facts()):
                self.ledger.fact(former.FACT, former.carrier(settings))
            self._restore(held)
            self._telling = asyncio.create_task(self._tell_ready())
            if not await self._memory.recall(self._done.done):
                return await self._done  # stopped meanwhile: nothing may be decided on counters half rebuilt
            self._memory.settle()
            watch = Watch(asyncio.get_running_loop(), (), self._wake)
            watch.follow(self.logs.paths())
            await self._catch_up()
            if self._done.done():
                return await self._done
            self._reconcile(held)
            if drift is not None and drift.fileno is not None:
                asyncio.get_running_loop().add_reader(drift.fileno, self._heard, drift)
            # A coroutine: apscheduler runs plain functions in threads of its own.
            self._upkeep = scheduler.add_job(self._minutely, "interval", minutes=1, args=(drift,))
            scheduler.add_listener(lambda event: self._broke(event.exception), EVENT_JOB_ERROR)
            scheduler.start()
            gc.freeze()
            gc.enable()
            self.ready = True
            self._tick(watch)
            bans, logs = show.count(len(self.judge.active), "ban"), show.count(len(self.logs), "log")
            log.info("ready: holding %s, reading %s, action %s", bans, logs, self._action_name())
            return await self._done
        finally:
            await self._leave(scheduler, watch, drift)

    async def _tell_ready(self) -> None:
        """To the supervisor, once the kernel has the ledger's bans: the mail server, which is started after us, need
        not wait for what the logs say."""
        await self.enforcer.settled()
        supervisor.tell(READY="1", STATUS=self.status())

    async def _leave(self, scheduler: AsyncIOScheduler, watch: Watch | None, drift: Drift | None) -> None:
        """Let go of everything, in the opposite order; the bans stay in the kernel, unless it is to be flushed."""
        self.ready = False
        if self._ticker is not None:
            self._ticker.cancel()
        if scheduler.running:
            scheduler.shutdown(wait=False)
        if watch is not None:
            watch.close()
        if drift is not None:
            if drift.fileno is not None:
                asyncio.get_running_loop().remove_reader(drift.fileno)
            drift.close()
        if self.guard is not None:
            self.guard.close()
        why = self._done.result() if self._done.done() and self._done.exception() is None else "fault"
        stopped = why == "stop"
        if stopped:
            gc.freeze()  # the process ends: Python would look at all that it holds, three times
        else:
            gc.unfreeze()
            gc.enable()
        self._control.pause()
        if stopped:
            await self._control.stop()
        await self.monitor.stop()
        if self._coming is not self.heir:
            self._abandon()
        self._save()
        await self.enforcer.stop(keep=not (stopped and self.flush))
        self._commit()
        if self._timer is not None:  # not before the last await: a ban by hand meanwhile arms it anew
            self._timer.cancel()
        self.streams.clear()
        if self.heir is not None:
            self.heir.inherit(self._memory, self.ledger)
        elif not stopped:
            self.streams.update(self.logs.streams())
        self._memory.leave(self.heir, self.streams)
        asyncio.get_running_loop().set_exception_handler(None)  # it would keep all of this run in memory

    def stop(self, why: str = "stop") -> None:
        if not self._done.done():
            self._done.set_result(why)

    def _broke(self, error: BaseException | None) -> None:
        if error is not None and not self._done.done():
            self._done.set_exception(error)

    def _unexpected(self, context: dict[str, Any]) -> None:
        """What the loop has nobody else to tell: a bug, but for a connection for which no descriptor or memory is left;
        those that wait are taken a second later."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            log.error("no more connections of commands can be taken now: %s", error.strerror)
        else:
            self._broke(error)

    def hangup(self) -> None:
        """SIGHUP: reload, once we are ready, and not at each one of a storm."""
        if self._asked is None:
            loop = asyncio.get_running_loop()
            self._asked = loop.call_at(max(loop.time(), self._reloaded + RELOADS), self._obey_hangup)

    def _obey_hangup(self) -> None:
        self._asked, self._reloaded = None, asyncio.get_running_loop().time()
        if self.ready and not self._done.done():
            self.reload()
        else:
            self.hangup()

    def let_go(self) -> bool:
        """No signal is obeyed any more: a timer would keep all of this run in memory. Whether a reload is still asked
        for, which is the next run's business then."""
        asked = self._asked is not None
        if self._asked is not None:
            self._asked.cancel()
        return asked

    def reload(self) -> None:
        """Take the files as they are now, or say what is wrong with them and go on as before."""
        if self.ledger.fault is not None:
            log.error("not reloaded: the ledger cannot be written (%s), and a reload reads it", self.ledger.fault)
            return
        try:
            loaded = kept(load(self.conf), (self.settings, self.filters))
            gc.collect()  # what the reading left behind, before anything that stays is made between it
            load_action(loaded[0])
            carrier = former.carrier(loaded[0])
            claimed = None if carrier == former.carrier(self.settings) else claim(carrier)
            if claimed is not None:
                claimed.close()  # the next run takes it
            fits(loaded[0], self.logs.streams())
            if loaded[0].socket != self.settings.socket:
                can_listen(loaded[0])
        except (SettingsError, Unavailable) as error:
            log.error("not reloaded, going on as before: %s", error)
            return
        if loaded[0].state != self.settings.state:
            log.error("not reloaded: `state` is a matter of a restart")
            return
        self._succeed(loaded)

    def _succeed(self, loaded: Loaded) -> None:
        """Go over to another configuration: at once where it makes the same of the logs, else when it has read them."""
        if self._coming is not None and self._coming.serves(loaded):
            self.next = loaded
            return
        self._abandon()
        if self._memory.serves(loaded):
            self._give_way(loaded, self._memory)
            return
        try:
            self._coming = coming = Memory(loaded, self._own, self.ledger, time.time(), before=self._memory)
        except Unavailable as error:
            log.error("not reloaded, going on as before: %s", error)
            return
        if not coming.can_inherit(self._memory):
            self._abandon()
            self._give_way(loaded, None)
            return
        if loaded[0].guarded:
            coming.guard = Guard(loaded[0], Providers(()), self.ledger, coming.judge, lambda _: None)
        self.next = loaded
        if self._tell(coming):
            log.info("reading the logs again by the new configuration; until then the one before goes on")
            coming.begin()
            self.judge.allow((*self.settings.allow, *loaded[0].allow))  # what has been allowed does not wait
            self._release_spared("never banned by the configuration that is coming")
            self._preparing = asyncio.create_task(self._prepare(coming))
            self._preparing.add_done_callback(lambda task: None if task.cancelled() else self._broke(task.exception()))

    def _give_way(self, loaded: Loaded, heir: Memory | None) -> None:
        """To the next run; without an heir it reads the logs by itself."""
        self.next, self.heir = loaded, heir
        log.info("reloading")
        supervisor.reloading()
        self.stop("reload")

    def _abandon(self) -> None:
        """What is coming is wanted no more."""
        if self._preparing is not None:
            self._preparing.cancel()
        if self._coming is not None:
            self._coming.leave(None, self.logs.streams())
            self.judge.allow(self.settings.allow)
        self._coming = self._preparing = None

    def _tell(self, coming: Memory) -> bool:
        """What was decided on the lines that it has been given. False: it cannot be told."""
        self._save()
        if self.ledger.waiting:
            log.error("not reloaded, going on as before: the ledger cannot be written (%s)", self.ledger.fault)
            self._abandon()
            return False
        coming.remember(self.ledger, time.time())
        return True

    async def _prepare(self, coming: Memory) -> None:
        """Have it read up on the logs while we go on, and give way when it has."""
        gc.disable()  # as in serve()
        try:
            for _ in range(ROUNDS):
                if not await coming.recall(self._done.done):
                    return
                coming.settle()
                if coming.lost or coming.left < NEAR:
                    break
                if not self._tell(coming):
                    return
        finally:
            gc.enable()
        if coming.lost:
            log.warning("the logs grow faster than they can be read again beside: the next run reads them by itself")
            self._abandon()
        self._give_way(self.next, self._coming)

    def _remember(self) -> None:
        """The ledger's bans, but for those that ended since, or whose address is allowed by now."""
        newest = self.ledger.newest
        told = self.notifier.begin(self.ledger.facts().get("told"), newest)
        rows = self._memory.remember(self.ledger, self.started, told)
        active = self.judge.active
        for ban, ended, state, number, _ in rows:
            if ended is None:
                target = ban[0]
                self._rows[target] = made(_Open, (number, active[target]))
                if state == "withheld":
                    self.withheld[target] = ban.note
                elif state == "pending" and self._unsure(number, ban):
                    self.withheld[target] = ""
                elif state == "pending":
                    self.pending.add(target)
                    self._unconfirmed.add(target)
        # With a note, that of why, it was withheld.
        newer = [row.ban for row in rows if row.id > told]
        news = [ban for ban in newer if not ban.note and ban.target not in self.withheld]
        self.notifier.banned(news, self.started, newest)
        self._expire()
        self._release_spared("never banned by the configuration as it is now")

    def _unsure(self, number: int, ban: Ban) -> bool:
        """Whether a ban that was not carried out before the restart waits for a name; then it does again."""
        if self.guard is None or self.guard.names is None or ban.mark is None:
            return False
        address = next((one["address"] for one in reversed(self.ledger.evidence(number))), None)
        if address is not None:
            self.guard.wait(ban, address)
        return address is not None

    def _release_spared(self, why: str) -> None:
        spared = {
            target: ban
            for target, ban in self.judge.active.items()
            if ban.rule != FORCED and self.judge.spared_target(target)
        }
        if spared:
            self.end(spared, "denyspam", why)

    def _restore(self, held: Mapping[Target, float | None]) -> int:
        """Give the kernel what it lacked when it was looked at; how many of those bans it had taken before."""
        found = held.get
        start, end = self.enforcer.looked
        least, most = -end - DRIFT, DRIFT - start
        lacking = []
        for target, ban in self.judge.active.items():
            left, until = found(target, -1.0), ban[3]
            if left is not None and not until + least <= left <= until + most and target not in self.withheld:
                lacking.append(ban)
        before = len(self.pending)
        self.pending.update(ban.target for ban in lacking)
        lost = len(self.pending) - before
        self.enforcer.ban(lacking)
        self._confirm(self.pending.difference(ban.target for ban in lacking))
        if lacking:
            log.info("restoring %s", show.count(len(lacking), "ban"))
        return lost

    def _mended(self, held: Sequence[Held]) -> None:
        """Our part of the firewall was made anew or looked at: what it holds must be what we hold."""
        missing = self._restore(dict(held))
        ours = {*self.judge.active, *self.enforcer.ordered}
        unknown = [one.target for one in held if one.target not in ours]
        self.enforcer.release(unknown)
        if missing or unknown:
            self.repairs += missing
            lost, strange = show.count(missing, "ban"), show.count(len(unknown), "element")
            log.warning("somebody else changed our part of the firewall: %s were gone, %s not ours", lost, strange)

    def _ear(self) -> Drift | None:
        """Where the kernel tells of changes of its rules: of nftables only, and only where we have some."""
        if self.settings.mode != "enforce" or self.settings.action != "nftables":
            return None
        drift = Drift()
        if drift.fileno is None:
            log.info("changes of the firewall by others are looked for every minute: %s", drift.reason)
        return drift

    def _heard(self, drift: Drift) -> None:
        if drift.read():
            self.enforcer.look()

    async def _catch_up(self) -> None:
        """Read and decide up to the ends of the logs as they are now; of a stream nothing stands there."""
        for path, each in self.logs.items():
            if each.saved is None:
                each.live = True
                continue
            self._read(path)
            while each.source.behind and not self._done.done():
                await asyncio.sleep(0)
                self._read(path)
            each.live = True

    def _reconcile(self, held: Mapping[Target, float | None]) -> None:
        """What the kernel held and nobody knows of: dropped, or adopted where the ledger may not have been told."""
        now = time.time()
        active = self.judge.active
        unknown = held.keys() - active.keys()
        untold = "is new" if self.ledger.lost else "cannot be written" if self.ledger.fault is not None else ""
        self.ledger.settle()
        if not unknown:
            self._commit()
            return
        if untold:
            adopted = [
                Ban(target, "adopted", now, now + (MANUAL if left is None else left), 0)
                for target, left in held.items()
                if target in unknown
            ]
            for ban in adopted:
                self.judge.hold(ban)
                self._rows[ban.target] = _Open(self.ledger.decide(ban, "active"), self.judge.active[ban.target])
            log.warning("the ledger %s: adopted %s that the kernel holds", untold, show.count(len(adopted), "ban"))
        else:
            self.enforcer.release(unknown)
            log.info("dropped %s of the kernel's that no ban stands for", show.count(len(unknown), "element"))
        self._commit()
        self._arm()

    # --- reading and deciding -------------------------------------------------------------------------------------

    def _wake(self, path: str) -> None:
        if path not in self._reading:
            self._read(path)

    def _read(self, path: str) -> None:
        """Read a log to its end, or for a SLICE and then again after the loop's other work."""
        self._reading.discard(path)
        if self._done.done():  # what this run would decide on now, nobody would carry out
            return
        each = self.logs[path]
        pause = time.monotonic() + SLICE
        while True:
            try:
                blocks = each.source.read(time.monotonic(), FLOOD if each.source.behind else PIECE)
            except OSError as error:  # the disk failed under an open file
                each.say(f"the log cannot be read now: {error}")
                return
            now = time.time()
            if blocks:
                self.monitor.sees(path, blocks[-1].data, now)
            events = [
                event
                for block in blocks
                for finding, place in each.findings(block, now)
                for event in self._memory.joined(finding, place)
            ]
            self._count(events)
            decide = self.judge.decide if self.guard is None else self._decide
            bans = [ban for event in events for ban in decide(event)]
            if bans:
                self.decided(bans, now)
            self.monitor.hears(events, now)
            if self._coming is not None:
                self._coming.take(path, blocks, now)
            if not each.source.behind or time.monotonic() > pause:
                break
        if each.source.behind and self.ready:
            self._reading.add(path)
            asyncio.get_running_loop().call_soon(self._read, path)

    def _decide(self, event: Event) -> list[Ban]:
        if self.guard is not None:
            self.guard.hear(event)
        return self.judge.decide(event)

    def _count(self, events: Sequence[Event]) -> None:
        if events and log.isEnabledFor(logging.DEBUG):
            tell([f"{e.kind} by {e.address or 'nobody known'} ({e.filter}, {e.file} at {e.offset})" for e in events])
        self.counts.update(map(KIND_AND_FILTER, events))
        for path, count in Counter(map(FILE, events)).items():
            self.logs[path].events += count

    def decided(self, bans: Sequence[Ban], now: float) -> None:
        """Write down what was decided, with the positions, then tell the firewall."""
        fresh = []
        new = []  # the same, with their evidence
        said = []
        active = self.judge.active
        for ban in bans:
            target = ban.target
            holds = active.get(target)
            if holds is not None and holds.until > ban.until:
                over = ban.until <= now
                self.late += over
                state = "expired" if ban.until <= holds.since else "replaced"  # as the judge counts strikes
                self.ledger.decide(ban, state, ended=min(now, ban.until))
                said.append(self._sentence(ban, " (over already)" if over else " (another ban holds longer)"))
                continue
            before = self._rows.get(target)
            if before is not None:
                self._close(target, "replaced" if before.ban.until > ban.since else "expired", now)
            if ban.until <= now:
                self.late += 1
                self.ledger.decide(ban, "expired", ended=ban.until)
                said.append(self._sentence(ban, " (over already)"))
                continue
            held = holds or ban._replace(evidence=())
            reason = "" if self.guard is None else self.guard.reason(ban, now)
            if reason != "":
                self._withhold(ban, held, reason, said)
                continue
            self._rows[target] = made(_Open, (self.ledger.decide(ban), held))
            self.pending.add(target)
            self._unconfirmed.add(target)
            fresh.append(held)
            new.append(ban)
            said.append(self._sentence(ban))
        self.bans += len(bans)
        self.rules.update([ban.rule for ban in bans])
        self._save()
        self.enforcer.ban(fresh)
        self._arm()
        tell(said)
        self.notifier.banned(new, now, self.ledger.newest)

    def _withhold(self, ban: Ban, held: Ban, reason: str | None, said: list[str]) -> None:
        """Write a ban down that is not carried out, or not yet (None)."""
        row = self.ledger.decide(ban)
        if reason is not None:
            self.ledger.withhold(row, reason)
            self.notifier.withheld(1, time.time())
            said.append(self._sentence(ban, f": {reason}", "withheld"))
        self._rows[ban.target] = _Open(row, held)
        self.withheld[ban.target] = reason or ""

    def _verified(self, verdicts: Sequence[Verdict]) -> None:
        """What bans waited for is known: they are carried out, or stay withheld."""
        fresh, new, said = [], [], []
        for ban, reason in verdicts:
            row = self._rows.get(ban.target)
            if row is None or row.ban.since != ban.since or (ban.target in self.withheld) == reason.startswith(LATE):
                continue  # it ended meanwhile, or another took its place
            if reason:
                self.ledger.withhold(row.row, reason)
                self.withheld[ban.target] = reason
                if reason.startswith(LATE):
                    self.pending.discard(ban.target)
                    self._unconfirmed.discard(ban.target)
                    self.enforcer.release([ban.target])
            else:
                self._carry_out(ban.target, row)
                fresh.append(row.ban)
                new.append(ban)
            said.append(self._sentence(ban, f": {reason}", "withheld") if reason else self._sentence(ban))
        self._commit()  # without the positions: the logs may still be in the middle of being re-read
        self.enforcer.ban(fresh)
        tell(said)
        self.notifier.banned(new, time.time())
        self.notifier.withheld(len(said) - len(new), time.time())

    def _carry_out(self, target: Target, row: _Open) -> None:
        del self.withheld[target]
        self.ledger.carry_out(row.row)
        self.pending.add(target)
        self._unconfirmed.add(target)

    def resume(self, user: str, ban: bool) -> dict[str, Any]:
        """Go on after the fuse blew; with `ban` what it withheld, and still holds, is carried out."""
        if self.guard is None:
            raise ValueError("there is no fuse: the configuration has no [fuse]")
        held = [target for target, reason in self.withheld.items() if reason.startswith(FUSED)]
        blown = self.guard.resume(time.time())
        fresh = []
        for target in held if ban else ():
            row = self._rows[target]
            self._carry_out(target, row)
            self.ledger.verdict(target.name, row.ban.since, "withheld", "")
            fresh.append(row.ban)
        self._ease(f"resumed by {user}")
        self._save()
        self.enforcer.ban(fresh)
        log.info("resumed by %s: %d of %s carried out", user, len(fresh), show.count(len(held), "withheld ban"))
        return {"blown": [each._asdict() for each in blown], "withheld": len(held), "banned": len(fresh)}

    def _ease(self, note: str) -> None:
        """End what a fuse withheld that is whole again, or gone: these clients are counted like any other from now on,
        and from nothing."""
        now, fused = time.time(), set()
        if self.guard is not None:
            self.guard.eased, fused = False, self.guard.fused()
        over = [target for target, why in self.withheld.items() if why.startswith(FUSED) and why not in fused]
        for target in over:
            self.judge.release(target, now)
            row = self._close(target, "released", now, note)
            if row is not None:
                self.ledger.verdict(target.name, row.ban.since, "over", repr(now))
        if over:
            log.info("%s: %s over, their clients are counted again", note, show.count(len(over), "withheld ban"))
            self._commit()
            self._arm()

    def carried(self) -> Iterator[Ban]:
        """The bans that hold and are not withheld."""
        return (ban for target, ban in self.judge.active.items() if target not in self.withheld)

    def _sentence(self, ban: Ban, more: str = "", verb: str = "banned") -> str:
        reason = self._reasons.get(ban.rule, ban.rule)
        why = _why(reason, ban.until - ban.since, frozenset([event[3] for event in ban.evidence]))
        note = f" [{ban.note}]" if ban.note else ""
        return f"{verb} {ban.target.name} {why}{note}{more}"

    def _confirmed(self, bans: Sequence[Ban]) -> None:
        self._confirm({ban.target for ban in bans})

    def _confirm(self, targets: set[Target]) -> None:
        self.pending -= targets
        self.ledger.confirm(*[self._rows[target].row for target in targets & self._unconfirmed])
        self._unconfirmed -= targets
        self._commit()

    # --- ends -----------------------------------------------------------------------------------------------------

    def _close(self, target: Target, state: str, now: float, note: str = "") -> _Open | None:
        """End the target's open row, where it has one."""
        row = self._rows.pop(target, None)
        self.pending.discard(target)
        self._unconfirmed.discard(target)
        self.withheld.pop(target, None)
        if row is not None:
            self.ledger.end(row.row, state, now, note)
        return row

    def end(self, bans: dict[Target, Ban], user: str, note: str) -> None:
        """Release these by hand."""
        now = time.time()
        said = []
        for target, ban in list(bans.items()):
            self.judge.release(target, now)
            self._close(target, "released", now, f"by {user}: {note}" if note else f"by {user}")
            self.releases += 1
            said.append(f"released {target} after {show.duration(now - ban.since)}: by {user}")
        tell(said)
        self.enforcer.release(bans)
        self._commit()
        self._arm()

    def _expire(self) -> None:
        """The bans that are over; the kernel has ended them by itself, unless the clock was stepped."""
        now = time.time()
        over = self.judge.expire(now)
        said = []
        for release in over:
            withheld = release.target in self.withheld
            row = self._close(release.target, "expired", now)
            if row is not None and not withheld:
                self.releases += 1
                said.append(f"released {release.target} after {show.duration(row.ban.until - row.ban.since)}")
        tell(said)
        if over:
            self._commit()
            if abs(time.time() - time.monotonic() - self._skew) > DRIFT:
                self.enforcer.release(release.target for release in over)
        self._arm()

    def _arm(self) -> None:
        """Wake when the next ban is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.judge.deadline
        if deadline is not None:
            delay = min(max(0.0, deadline - time.time()), 86_400.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    # --- upkeep ---------------------------------------------------------------------------------------------------

    def _tick(self, watch: Watch) -> None:
        # Not a job of apscheduler, which goes by the wall clock: set back by an hour, it would sleep for one.
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick, watch)
        for path in self.logs.look(time.time()):
            self.logs[path].live = True
        watch.follow(self.logs.paths())
        watch.poll()
        if self.logs.ended():
            log.info("stdin is at its end, and there is no other log: stopping")
            self.stop()
        self.enforcer.tend()
        if self.ledger.trouble is not None:
            self._begin_ledger_anew(self.ledger.trouble)
        lines = sum(each.lines for each in self.logs.values())
        self.recent.sample(time.monotonic(), (lines, self.counts.total(), self.bans))
        if any(each.moved for each in self.logs.values()) or self.ledger.waiting:
            self._save()
        skew = time.time() - time.monotonic()
        if abs(skew - self._skew) > DRIFT:
            log.warning("the clock was stepped by %+.0f s: setting the kernel's times anew", skew - self._skew)
            self._expire()
            self.enforcer.ban(self.carried())
            self._upkeep.reschedule("interval", minutes=1)
            self.monitor.stepped(skew - self._skew, time.time())
        self._skew = skew
        if self.withheld and (self.guard is None or self.guard.eased):
            self._ease("the fuse is whole again")
        if self.guard is not None:
            for name, text in self.guard.alarms().items():
                self.monitor.alarms.look(name, text, time.time())
        self.monitor.tick(time.time())

    async def _minutely(self, drift: Drift | None) -> None:
        unheard = drift is not None and drift.fileno is None and drift.read()
        if unheard or (self.settings.mode == "enforce" and self.settings.action == "iptables"):
            self.enforcer.look()
        own = self._own
        with suppress(OSError):  # no descriptor left: in a minute then
            own = own_addresses()
        if own != self._own:
            self._own = own
            self.judge.spare(own)
            self._release_spared("an own address by now")
        self.monitor.minutely(time.time())
        give_back()
        self.judge.tidy(min(self.logs.since(time.time()), self.join.oldest))
        if self.ledger.path == MEMORY and usable_ledger(self.settings.state):
            log.warning("the ledger can be used again: reloading with it")
            self.stop("reload")
        self.ledger.prune(time.time() - max(self.settings.history, self.judge.memory))
        self._commit()

    def _begin_ledger_anew(self, why: str) -> None:
        """The file is damaged or gone: what holds and how far the logs were read goes into a new one."""
        try:
            self.ledger.set_aside(time.time())
        except (OSError, sqlite3.Error) as error:
            self.ledger.fault = f"{why}; a new one cannot be begun: {error}"
            self._say_fault()
            return
        log.error("the ledger was damaged (%s): %s", why, moved(self.ledger))
        if self._coming is not None:  # it goes by the old one's numbers
            self._abandon()
            self.hangup()
        unwritten = self.ledger.unwritten
        for target, (row, ban) in self._rows.items():
            if row < unwritten:
                reason = self.withheld.get(target)
                state = "pending" if target in self._unconfirmed or reason is not None else "active"
                self._rows[target] = _Open(self.ledger.decide(ban, state), ban)
                if reason:
                    self.ledger.withhold(self._rows[target].row, reason)
        if self.guard is not None:
            self.guard.afresh()
        for grace in self.judge.graces(time.time()):
            self.ledger.grace(grace)
        for each in self.logs.values():
            each.moved = True
        self.ledger.settle()
        self._retry = 0.0
        self._save()

    def _save(self) -> None:
        """Write how far every log was read, with whatever else waits for the ledger."""
        for path, each in self.logs.items():
            if each.moved:
                position = each.saved
                if position is not None:
                    self.ledger.position(path, position, each.clock)
                each.moved = False
        if self.guard is not None:
            self.guard.save()
        self._commit()

    def _commit(self) -> None:
        if self._said_fault and time.monotonic() < self._retry:
            return  # a locked file costs a quarter of a second each time
        self._retry = time.monotonic() + RETRY
        if self.ledger.commit():
            if self._said_fault:
                log.warning("the ledger is written again")
            self._said_fault = False
        else:
            self._say_fault()
            if "readonly" in (self.ledger.fault or "") and usable_ledger(self.settings.state):
                with suppress(OSError, sqlite3.Error):
                    self.ledger.reopen()

    def _say_fault(self) -> None:
        if not self._said_fault:
            self._said_fault = True
            log.error("the ledger cannot be written, banning goes on without it: %s", self.ledger.fault)

    @property
    def kinds(self) -> dict[str, int]:
        """Events by kind."""
        kinds: Counter[str] = Counter()
        for (kind, _), count in self.counts.items():
            kinds[kind] += count
        return dict(kinds.most_common())

    def status(self) -> str:
        """One line for the supervisor."""
        held = len(self.judge.active) - len(self.withheld)
        words = [f"holding {show.count(held, 'ban')}, reading {show.count(len(self.logs), 'log')}"]
        words += [] if self.ready else ["reading up on the logs"]
        words += ["reading the logs again for a reload"] if self._coming is not None else []
        words += [f"NOT THERE: {path}" for path, each in self.logs.items() if not each.source.present]
        words += [f"FAULT: {fault}" for fault in (self.ledger.fault, self.enforcer.trouble) if fault]
        return "; ".join(words)

    def _action_name(self) -> str:
        return "dryrun (mode = watch)" if self.settings.mode == "watch" else self.settings.action


@lru_cache(maxsize=256)
def _why(reason: str, seconds: float, filters: frozenset[str]) -> str:
    """What the bans of a flood have in common in the log."""
    where = f" ({', '.join(sorted(filters))})" if filters else ""
    return f"for {show.duration(seconds)}: {reason}{where}"


def tell(sentences: Sequence[str]) -> None:
    """Logs one line a decision: some at a time, in one record and one write, since a line by itself costs as much as
    the ban. The program's formatter begins each line as if it stood alone."""
    for start in range(0, len(sentences), TOLD):
        log.info("%s", "\n".join(sentences[start : start + TOLD]))


def fits(settings: Settings, held: Mapping[str, Source]) -> None:
    """What a configuration that reads well may still lack on this host. Raises SettingsError, Unavailable."""
    lacking = unusable(settings.notify)
    if lacking is not None:
        raise SettingsError(lacking[1], settings.file, settings.lines.get(f"notify.{lacking[0]}", 1))
    try:
        for _ in usable(settings, held):
            pass  # a log that is not there yet is said when it is opened
    except NotPermitted as error:
        raise Unavailable(str(error), 77) from error


def can_listen(settings: Settings) -> None:
    """Better said before the old socket is closed. Raises SettingsError."""
    reason = obstacle(settings.socket)
    if reason is not None:
        line = settings.lines.get("daemon.socket", 1)
        raise SettingsError(f"the socket {settings.socket[:100]} cannot be made: {reason}", settings.file, line)
