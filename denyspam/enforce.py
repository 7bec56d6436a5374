"""enforce: what the firewall should hold, tried until it does. Edge.

Orders (ban this, release that) wait in a table with one place per target, the newest order winning, and go to the
action in batches, from one thread that is the action's alone. What the firewall refuses stays in the table and is
tried again after start() has mended what may be missing: after 1 s, then 2, 4, … 30 s; what start() then found is told,
since a table that somebody deleted took every ban with it. Only what was accepted is confirmed. `fault` is the
firewall's last word while anything is refused.

An action that hangs holds up bans, and nothing else: whoever asks is told so after PATIENCE, `trouble` says it, and
stop() leaves its thread behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from denyspam import sessions
from denyspam.events import ActionError, Ban, Held, Target
from denyspam.plugins import Action

log = logging.getLogger("denyspam")
T = TypeVar("T")
LONGEST_WAIT = 30.0  # seconds between two tries
BETWEEN = 0.25  # seconds between two looks
PATIENCE = 20.0  # seconds for the action to answer a command or to stop: two of them are less than systemd waits
AT_ONCE = 10_000  # bans that the action is given with one time: a tenth of a second's work


class _Batch(NamedTuple):
    """Orders that are with the thread."""

    orders: dict[Target, Ban | None]
    afresh: bool  # with a start() first
    began: float  # by the loop's clock
    done: asyncio.Future[list[Held] | None]


class _Thread(Executor):
    """One thread, which need not end for the process to end."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, verb: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = verb(*arguments, **named)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._work.put(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The thread ends after what was submitted; nobody waits for it."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # with all that it did


class Enforcer:
    """One action and its thread.

    On the loop, `confirmed` is called with the bans that the firewall took, `mended` with what is held after start()
    was called again (what is missing there must be ordered anew), `broke` with an error that is a bug.
    """

    def __init__(
        self,
        action: Action,
        clock: Callable[[], float],
        confirmed: Callable[[Sequence[Ban]], None],
        mended: Callable[[Sequence[Held]], None],
        broke: Callable[[BaseException], None],
        *,
        end_sessions: bool = False,
    ) -> None:
        self.fault: str | None = None
        self.ended = 0  # sessions
        self._action = action
        self._clock = clock
        self._confirmed = confirmed
        self._mended = mended
        self._broke = broke
        self._thread = _Thread("firewall")
        self._orders: dict[Target, Ban | None] = {}
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._batch: _Batch | None = None
        self._wait = 1.0
        self._tending: asyncio.Task[None] | None = None
        self._suspect = False
        self._looked = (-LONGEST_WAIT, 0.0)  # when the last look began, and how long it took
        self.looked = (0.0, 0.0)  # between when, by `clock`, the firewall held what start() or `mended` told
        self._ending: set[Target] | None = set() if end_sessions else None  # None: it is not wanted or cannot be done
        self._ender: asyncio.Task[None] | None = None
        self._enders = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sessions")

    async def start(self) -> list[Held]:
        """What the kernel already holds. Raises ActionError."""
        held = list(await self._call(self._begin))
        self._task = asyncio.create_task(self._run())
        return held

    @property
    def trouble(self) -> str | None:
        """What is to be told: the fault, or that there is no answer."""
        return self.fault or (f"no answer for {self._silence:.0f} s" if self._silence > PATIENCE else None)

    @property
    def _silence(self) -> float:
        return 0.0 if self._batch is None else asyncio.get_running_loop().time() - self._batch.began

    async def held(self) -> list[Held]:
        """What the kernel holds now. Raises ActionError."""
        return list(await self._ask(self._action.held))

    async def holds(self, targets: Iterable[Target]) -> bool:
        """Whether the kernel holds any of these now. Raises ActionError."""
        holds = getattr(self._action, "holds", None)
        if holds is None:
            held = {one.target for one in await self.held()}
            return any(target in held for target in targets)
        return await self._ask(lambda: any(holds(target) for target in targets))

    async def counters(self) -> list[dict[str, Any]] | None:
        """What the firewall refused so far, by set: `version` (4 or 6), `width` (the prefix length), `ports`, `packets`
        and `bytes`. None where the action does not count. Raises ActionError."""
        counters = getattr(self._action, "counters", None)
        if counters is None:
            return None
        names = ("version", "width", "ports", "packets", "bytes")
        return [{name: getattr(one, name) for name in names} for one in await self._ask(counters)]

    def look(self) -> None:
        """Somebody else may have changed our part of the firewall: mend it."""
        if self._suspect:
            return
        self._suspect = True
        loop = asyncio.get_running_loop()
        began, took = self._looked
        loop.call_at(max(loop.time(), began + max(BETWEEN, 2 * took)), self._wake.set)

    def tend(self) -> None:
        """The action's own upkeep, where it has any; called every second."""
        tend = getattr(self._action, "tend", None)
        if tend is not None and self.fault is None and (self._tending is None or self._tending.done()):
            self._tending = asyncio.get_running_loop().create_task(self._tend(tend))

    async def _tend(self, tend: Callable[[float], None]) -> None:
        try:
            await self._call(lambda: tend(self._clock()))
        except ActionError as error:
            self._suspect = True  # to be started again: what clears the fault, even where nothing is ordered
            self._refused(error)

    @property
    def ordered(self) -> Collection[Target]:
        """What the firewall has been told and has not taken yet."""
        return self._orders.keys()

    def ban(self, bans: Iterable[Ban]) -> None:
        self._orders.update((ban.target, ban) for ban in bans)
        self._stir()

    def release(self, targets: Iterable[Target]) -> None:
        self._orders.update((target, None) for target in targets)
        self._stir()

    def _stir(self) -> None:
        """Carry out what is ordered; while the firewall refuses, with the next try: all of it would be tried again with
        each ban of a flood."""
        if self._orders and self.fault is None:
            if self._batch is None and self._task is not None:
                self._hand_over()  # at once: in its next turn the loop may have other things to do first
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Orders that the firewall has not taken yet."""
        return len(self._orders)

    async def settled(self) -> None:
        """Until everything ordered so far has been taken or refused, or PATIENCE is over."""
        if self._orders or self._batch is not None:
            self._wake.set()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await asyncio.wait([waiter], timeout=max(0.0, PATIENCE - self._silence))

    async def stop(self, keep: bool) -> None:
        """Give what waits one last try, then let go of the action."""
        if self._task is not None and not self._task.done():
            self._wake.set()
            await self.settled()
            self._task.cancel()
        if self._ender is not None:
            await asyncio.wait([self._ender], timeout=PATIENCE)
            self._ender.cancel()  # it would ask a thread that is gone
        try:
            await self._ask(lambda: self._action.stop(keep))
        except ActionError as error:
            log.error("the firewall: %s", error)
        self._thread.shutdown()
        self._enders.shutdown()

    async def _ask(self, verb: Callable[[], T]) -> T:
        """As _call, for those who cannot wait for ever. Raises ActionError."""
        try:
            return await asyncio.wait_for(self._call(verb), max(0.0, PATIENCE - self._silence))
        except asyncio.TimeoutError:
            raise ActionError(f"no answer for {PATIENCE:.0f} s") from None

    async def _call(self, verb: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, verb)

    async def _run(self) -> None:
        try:
            await self._work()
        except Exception as error:
            self._broke(error)
            self._answer()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            if self._batch is None:
                self._wake.clear()
                if not self._orders and not self._suspect:
                    continue
                self._hand_over()
            # else it was handed over before our turn, and the wake may stand for what came after it, too
            assert self._batch is not None  # noqa: S101 - for the type checker
            orders, afresh, began, done = self._batch
            try:
                held = await done
            except ActionError as error:
                self._orders = {**orders, **self._orders}
                self._suspect = self._suspect or afresh
                self._wake.clear()  # not before the next try
                self._refused(error)
            else:
                if self.fault is not None:
                    log.warning("the firewall takes bans again")
                self.fault, self._wait = None, 1.0
                bans = [ban for ban in orders.values() if ban is not None]
                self._confirmed(bans)
                if held is not None:
                    self._looked = began, asyncio.get_running_loop().time() - began
                    self._mended(held)
                self._end_sessions(bans)
            self._batch = None
            if not self._orders or self.fault is not None:
                self._answer()

    def _hand_over(self) -> None:
        """Give the thread what is ordered."""
        loop = asyncio.get_running_loop()
        orders, self._orders = self._orders, {}
        afresh, self._suspect = self._suspect or self.fault is not None, False
        done = loop.run_in_executor(self._thread, self._carry, orders, afresh)
        self._batch = _Batch(orders, afresh, loop.time(), done)

    def _answer(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _begin(self) -> Sequence[Held]:
        began = self._clock()
        held = self._action.start()
        self.looked = began, self._clock()
        return held

    def _carry(self, orders: dict[Target, Ban | None], afresh: bool) -> list[Held] | None:
        """In the action's thread. What is held then, where the action had to be started again."""
        held = {one.target: one for one in self._begin()} if afresh else None
        released = [target for target, ban in orders.items() if ban is None]
        if released:
            self._action.release(released)
        bans = [ban for ban in orders.values() if ban is not None]
        for start in range(0, len(bans), AT_ONCE):
            self._action.ban(bans[start : start + AT_ONCE], self._clock())
        if held is None:
            return None
        for target in released:
            held.pop(target, None)
        now = self._clock()
        held.update((ban.target, Held(ban.target, ban.until - now)) for ban in bans)
        self.looked = self.looked[0], now
        return list(held.values())

    def _end_sessions(self, bans: Sequence[Ban]) -> None:
        """The banned clients' open sessions; those of bans that come while some are being ended follow together."""
        if self._ending is None or not bans:
            return
        self._ending.update(ban.target for ban in bans)
        if self._ender is None or self._ender.done():
            self._ender = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        try:
            await self._end_all()
        except Exception as error:
            self._broke(error)

    async def _end_all(self) -> None:
        while self._ending:
            targets = list(self._ending)
            try:
                self.ended += await asyncio.get_running_loop().run_in_executor(self._enders, sessions.close, targets)
            except ActionError as error:
                if error.permanent:
                    log.warning("%s; bans refuse new ones all the same", error)
                    self._ending = None
                    return
            self._ending.difference_update(targets)

    def _refused(self, error: ActionError) -> None:
        if str(error) != self.fault:
            log.error("the firewall refused, trying again: %s", error)
        self.fault = str(error)
        self._wait = LONGEST_WAIT if error.permanent else min(2 * self._wait, LONGEST_WAIT)
        asyncio.get_running_loop().call_later(self._wait / 2, self._wake.set)
