"""guard: which of the bans that were decided are carried out, and which are withheld, and why. Edge: asks DNS.

    guard.hear(event)            before it is decided on: whom mail is accepted from, and who offends
    guard.lenient(address, time) how many times as high the limits are for him
    guard.reason(ban)            why it is withheld; "" where it is carried out; None: wait for what `verified` is told
    guard.fused()                what of that fuses have blown for; a ban withheld for another of theirs is over
    guard.save()                 what it learned, with the positions, to the ledger

A ban is withheld when all accepted mail comes through its address (a proxy stands there), when the fuse for its kind
has blown, or when the host is a big provider's. It is a ban to the policy all the same: decided, written down and
listed, at its end over; only the firewall never sees it. So log and policy alone decide when there is one, and what
DNS says, and when, changes nothing but that.
A ban that waits for a name waits `patience` seconds and no longer: then it is carried out, and taken back should the
answer turn out to be a provider's after all. AT_ONCE are asked for at a time, those that mail was accepted from first;
what finds no place before its time is up is carried out, and asked for when there is nothing else to ask. So a flood
from zones that do not answer can have a provider's host banned for as long as such a flood takes. Without [senders]
and [fuse] there is no guard, and nothing that it costs.

Never: bans (that is the policy's); forgets (what is withheld is in the ledger, and so is what that went by).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from denyspam import show
from denyspam.events import HARMLESS, Ban, Event, Target
from denyspam.fuse import ACCEPT, EVERY, Blown, Fuse, habit
from denyspam.ledger import Ledger
from denyspam.names import Names
from denyspam.policy import Judge
from denyspam.senders import Front, Providers, Senders
from denyspam.settings import FuseSettings, SendersSettings, Settings

log = logging.getLogger("denyspam")

AT_ONCE = 32  # questions in flight: a resolver's answer costs us some half a millisecond
OVERDUE = 10_000
SAID = 50_000  # hosts whose last verdict is remembered, so that it is written down once
WEEKS = 4 * 7 * 86_400.0  # of bans that a habit is learned from
PROXIES = 16  # addresses that are remembered to be some
SPARED, FUSED, FRONT = "spared: ", "the fuse: ", "a proxy: "  # what a reason begins with
LATE = "spared, late: "

Verdict = tuple[Ban, str]  # and why it is withheld, "" where it is carried out


class Guard:
    """One run's. `verified` is told of bans that waited; it is called on the loop. `before` has heard the same."""

    def __init__(  # noqa: PLR0917
        self,
        settings: Settings,
        providers: Providers,
        ledger: Ledger,
        judge: Judge,
        verified: Callable[[Sequence[Verdict]], None],
        before: Guard | None = None,
    ) -> None:
        self._settings = settings.senders or SendersSettings(days=0, providers=False)
        self._fuse_settings = settings.fuse or FuseSettings(share=0.0, front=False)
        self._judge = judge
        self._ledger = ledger
        self._verified = verified
        self._days = self._settings.days or SendersSettings().days
        self._senders = Senders(self._settings.within)
        self._senders.restore(ledger.senders())
        self._front = Front()
        self._fuse: Fuse = (
            Fuse(self._fuse_settings.share, self._fuse_settings.within) if before is None else before._fuse
        )
        self._dirty = False
        self.eased = True  # since the caller looked: something that had blown may be whole again
        self._restore(ledger.facts())
        self._hours: dict[int, int] = {}  # as the ledger has them, asked for anew each hour
        self._hour = self._bans = 0  # this hour, and its bans
        self.names: Names | None = None
        if self._settings.providers and len(providers):
            self.names = Names(providers, self._settings.resolver, self._settings.patience)
        if self._settings.days:
            judge.lenient, judge.lenience = self.lenient, self._settings.times
        self._said: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._waiting: OrderedDict[Target, tuple[Ban, str, float]] = OrderedDict()  # (address, deadline), by that
        self._unasked: deque[tuple[Ban, str]] = deque()  # with their addresses
        self._overdue: deque[tuple[Ban, str]] = deque(maxlen=OVERDUE)  # carried out before they were asked for
        self._flying: set[asyncio.Task[None]] = set()
        self._done: list[Verdict] = []
        self._timer: asyncio.TimerHandle | None = None
        self._proxies: set[str] = set()  # addresses of which a ban was withheld; at most FEW at a time, and some before
        self.unasked = 0  # bans carried out without an answer

    def _restore(self, facts: dict[str, str]) -> None:
        for name, restore in (("fuse", self._fuse.restore), ("front", self._front.restore)):
            try:
                if name in facts:
                    restore(json.loads(facts[name]))
            except (AttributeError, KeyError, TypeError, ValueError):
                log.error("the ledger's record of the %s is unreadable, beginning anew", name)
        settings = self._fuse_settings
        for kind in list(self._fuse.blown):  # by a fuse that is there no more, and so would never be whole again
            if not (settings.bans if kind == EVERY else settings.share):
                del self._fuse.blown[kind]
                self._dirty = True
                log.warning("there is no such fuse any more: bans for %s are carried out again", kind)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """An event of the log, before it is decided on."""
        time, kind, address = event[:3]
        if time is None or address is None or (kind != ACCEPT and kind in HARMLESS):
            return
        key = self._judge.key(address)
        if key is None:
            return
        known = self._senders.good(key, time) >= self._days
        self._senders.hear(key, kind == ACCEPT, time)
        if kind == ACCEPT:
            self._front.hear(key, time)
        if known and self._fuse_settings.share:
            self._fuse.hear(key, kind, known, time)
            before = len(self._fuse.blown)
            for blown in self._fuse.blows(time):
                self._blew(blown)
            if len(self._fuse.blown) < before:
                self._dirty = self.eased = True
                log.warning("the fuse is whole again: those who are known are accepted as before; banning goes on")

    def recall(self, event: Event) -> None:
        """One from before the restart: the ledger has what was learned of it, but for the last words."""
        time, kind, address = event[:3]
        if time is None or address is None or (kind != ACCEPT and kind in HARMLESS) or not self._fuse_settings.share:
            return
        key = self._judge.key(address)
        if key is not None and self._senders.good(key, time) >= self._days:
            self._fuse.hear(key, kind, True, time)

    def _blew(self, blown: Blown) -> None:
        self._dirty = True
        log.error("the fuse has blown, bans for %s are withheld: %s; look at the mail server", blown.kind, blown.reason)

    def lenient(self, address: str, time: float) -> int:
        """How many times as high the limits are: asked by the judge where one is reached."""
        key = self._judge.key(address) or address
        known = self._senders.good(key, time) >= self._days
        self._write(key, time, "known", "1" if known else "0")
        return self._settings.times if known else 1

    def _write(self, key: str, since: float, kind: str, verdict: str) -> None:
        """Keep what a decision went by, where it is not what was written last."""
        if self._said.get((key, kind)) != verdict:
            self._said[key, kind] = verdict
            if len(self._said) > SAID:
                self._said.popitem(last=False)
            self._ledger.verdict(key, since, kind, verdict)

    # --- what is decided ----------------------------------------------------------------------------------------------

    def reason(self, ban: Ban, now: float) -> str | None:
        """Why a ban of the policy is withheld, "" where it is carried out, None where that takes a name: it waits then,
        and `verified` is told."""
        reason = self._reason(ban, now)
        if reason:
            self._ledger.verdict(ban.target.name, ban.since, "withheld", reason)
        return reason

    def _reason(self, ban: Ban, now: float) -> str | None:
        address = ban.evidence[-1].address if ban.evidence else None
        if ban.mark is None or address is None:
            return ""  # by hand
        if self._fuse_settings.front and self._judge.key(address) in self._front.addresses():
            if address not in self._proxies:
                self._proxies = {*list(self._proxies)[-PROXIES:], address}
                log.error("a ban of %s is withheld: all accepted mail comes through it, as through a proxy", address)
            return f"{FRONT}all accepted mail of the last days came through it; let it tell us its clients, or allow it"
        if self._fuse_settings.bans:
            self._count(now)
        if self._fuse.blown:
            for kind in (EVERY, *{event.kind for event in ban.evidence}):
                if kind in self._fuse.blown:
                    return f"{FUSED}{self._fuse.blown[kind].reason}"
        return "" if self.names is None else self._named(ban, address)

    def _count(self, now: float) -> None:
        """One more ban in this hour: too many?"""
        times = self._fuse_settings.bans
        hour = int(now // 3600)
        if hour != self._hour:
            limit = habit(self._hours, now, times)
            if EVERY in self._fuse.blown and limit is not None and (hour > self._hour + 1 or self._bans < limit / 2):
                del self._fuse.blown[EVERY]
                self._dirty = self.eased = True
                log.warning("the fuse is whole again: no more bans than usual; banning goes on")
            self._hours = self._ledger.hours(now - WEEKS)
            self._hour, self._bans = hour, self._hours.get(hour, 0)
        self._bans += 1
        limit = habit(self._hours, now, times)
        if limit is not None and self._bans > limit and EVERY not in self._fuse.blown:
            said = f"{self._bans} bans in an hour, and more than {limit} are out of the ordinary"
            if self._fuse.blow(EVERY, now, said):
                self._blew(self._fuse.blown[EVERY])

    def _named(self, ban: Ban, address: str) -> str | None:
        assert self.names is not None  # noqa: S101 - for the type checker
        known = self.names.known(address)
        if known is None and not self.names.dead:
            self.wait(ban, address)
            return None
        return self._told(known)

    def _told(self, name: str | None, late: bool = False) -> str:
        """The reason that a name is, "" for none; None is no answer."""
        if name is None:
            self.unasked += 1
            if self.names is not None and self.names.dead and self._settings.unanswered == "notice":
                return f"{SPARED}DNS does not answer, and `unanswered = notice`"
        return f"{LATE if late else SPARED}{name}, forward-confirmed" if name else ""

    # --- waiting for a name -------------------------------------------------------------------------------------------

    def wait(self, ban: Ban, address: str) -> None:
        """Have `verified` told of this one, at most `patience` from now."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.patience
        self._waiting[ban.target] = ban, address, deadline
        self._waiting.move_to_end(ban.target)
        if self._senders.good(self._judge.key(address) or address, ban.since) > 0:
            self._unasked.appendleft((ban, address))
        else:
            self._unasked.append((ban, address))
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._late)
        self._ask()

    def _ask(self) -> None:
        while len(self._flying) < AT_ONCE and (self._unasked or self._overdue):
            ban, address = self._unasked.popleft() if self._unasked else self._overdue.pop()
            if self._unasked and ban.target not in self._waiting:
                self._overdue.append((ban, address))
                continue
            task = asyncio.get_running_loop().create_task(self._answer(ban, address))
            self._flying.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._flying.discard(task)
        if not task.cancelled():
            task.result()  # a bug ends the process
            self._ask()

    async def _answer(self, ban: Ban, address: str) -> None:
        assert self.names is not None  # noqa: S101 - for the type checker
        name = await self.names.ask(address)
        found = self._waiting.get(ban.target)
        if found is not None and found[0] is ban:
            del self._waiting[ban.target]
            self._tell(ban, self._told(name))
        elif name:
            self._tell(ban, self._told(name, late=True))

    def _late(self) -> None:
        """Time is up for the oldest."""
        loop = asyncio.get_running_loop()
        self._timer = None
        late = 0
        while self._waiting:
            target, (ban, _, deadline) = next(iter(self._waiting.items()))
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._late)
                break
            del self._waiting[target]
            late += 1
            self._tell(ban, self._told(None))
        if late:
            log.warning(
                "%s carried out unverified: DNS took longer than %g s", show.count(late, "ban"), self._settings.patience
            )

    def _tell(self, ban: Ban, reason: str) -> None:
        """All verdicts of a turn of the loop together: they are one transaction."""
        self._ledger.verdict(ban.target.name, ban.since, "withheld", reason)
        if not self._done:
            asyncio.get_running_loop().call_soon(self._flush)
        self._done.append((ban, reason))

    def _flush(self) -> None:
        done, self._done = self._done, []
        self._verified(done)

    # --- for the commands, and the ledger -----------------------------------------------------------------------------

    def resume(self, now: float) -> list[Blown]:
        """An admin says that all is well. What had blown."""
        found = self._fuse.resume(now)
        self._dirty = self.eased = True
        return found

    def fused(self) -> set[str]:
        """The reasons for which fuses withhold bans now."""
        return {f"{FUSED}{each.reason}" for each in self._fuse.blown.values()}

    def afresh(self) -> None:
        """The ledger is a new one: all of it is to be saved again."""
        self._senders.afresh()
        self._said.clear()
        self._front.changed = self._dirty = True

    def save(self) -> None:
        """To the ledger, uncommitted."""
        changed, gone = self._senders.changes()
        for row in changed:
            self._ledger.sender(row)
        for key in gone:
            self._ledger.forget_sender(key)
        if self._front.changed:
            self._ledger.fact("front", json.dumps(self._front.state()))
        if self._dirty:
            self._dirty = False
            self._ledger.fact("fuse", json.dumps(self._fuse.state()))

    def alarms(self) -> dict[str, str | None]:
        """What an admin should look at now, and what is no alarm, by the names of `alarms`."""
        blown = [
            f"bans for {each.kind} are withheld: {each.reason}; `denyspam resume` goes on"
            for each in self._fuse.blown.values()
        ]
        front = self._front.addresses()
        hidden = sorted(each for each in self._proxies if self._judge.key(each) in front)
        silent = None
        if self.names is not None and self.names.dead:
            what = "withheld" if self._settings.unanswered == "notice" else "carried out"
            silent = f"bans are {what} without knowing whose they are"
        return {
            "fuse-blown": "; ".join(blown) or None,
            "proxy": f"{', '.join(hidden)}; denyspam cannot tell who is behind, and bans nobody there"
            if hidden
            else None,
            "resolver": silent,
        }

    def about(self, address: str, now: float) -> str:
        """What is known of an address that mail was accepted from, as a sentence; "" for a stranger."""
        key = self._judge.key(address)
        good, bad = self._senders.days(key, now) if key else (0, 0)
        if not good and not bad:
            return ""
        days = f"mail was accepted from it: of the last {self._settings.within} days {good} were good and {bad} bad"
        if good - bad < self._days:
            return f"{days}; with {self._days} more good than bad it would be known"
        times = f"; limits are {self._settings.times} times as high" if self._settings.days else ""
        return f"{days}, so it is known{times}"

    def status(self) -> dict[str, Any]:
        """In numbers."""
        return {
            "senders": len(self._senders),
            "waiting": len(self._waiting),
            "asked": 0 if self.names is None else self.names.asked,
            "unverified": self.unasked,
        }

    def close(self) -> None:
        """What still waits is carried out at the next start."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._flying:
            task.cancel()
        if self.names is not None:
            self.names.close()
