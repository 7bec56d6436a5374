"""enforce: what the firewall should hold, tried until it does. Edge.

Orders (ban this, release that) wait in a table with one place per target, the newest order winning, and go to the
action in batches, from one thread that is the action's alone. What the firewall refuses stays in the table and is
tried again after start() has mended what may be missing: after 1 s, then 2, 4, … 30 s; what start() then found is told,
since a table that somebody deleted took every ban with it. Only what was accepted is confirmed. `fault` is the
firewall's last word while anything is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from denyspam.events import ActionError, Ban, Held, Target
from denyspam.plugins import Action

log = logging.getLogger("denyspam")
T = TypeVar("T")
LONGEST_WAIT = 30.0  # seconds between two tries


class Enforcer:
    """One action and its thread.

    On the loop, `confirmed` is called with the bans that the firewall took, `mended` with what start() found held when
    it was called again after a refusal (what is missing there must be ordered anew), `broke` with an error that is a
    bug.
    """

    def __init__(
        self,
        action: Action,
        clock: Callable[[], float],
        confirmed: Callable[[Sequence[Ban]], None],
        mended: Callable[[Sequence[Held]], None],
        broke: Callable[[BaseException], None],
    ) -> None:
        self.fault: str | None = None
        self._action = action
        self._clock = clock
        self._confirmed = confirmed
        self._mended = mended
        self._broke = broke
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="firewall")
        self._orders: dict[Target, Ban | None] = {}
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._wait = 1.0

    async def start(self) -> list[Held]:
        """What the kernel already holds. Raises ActionError."""
        held = list(await self._call(self._action.start))
        self._task = asyncio.create_task(self._run())
        return held

    async def held(self) -> list[Held]:
        """What the kernel holds now. Raises ActionError."""
        return list(await self._call(self._action.held))

    def ban(self, bans: Iterable[Ban]) -> None:
        self._orders.update((ban.target, ban) for ban in bans)
        if self._orders:
            self._wake.set()

    def release(self, targets: Iterable[Target]) -> None:
        self._orders.update((target, None) for target in targets)
        if self._orders:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Orders that the firewall has not taken yet."""
        return len(self._orders)

    async def settled(self) -> None:
        """Until everything ordered so far has been taken or refused."""
        if self._orders or not self._idle:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def stop(self, keep: bool) -> None:
        """Give what waits one last try, then let go of the action."""
        if self._task is not None and not self._task.done():
            self._wake.set()
            await self.settled()
            self._task.cancel()
        try:
            await self._call(lambda: self._action.stop(keep))
        except ActionError as error:
            log.error("the firewall: %s", error)
        self._thread.shutdown()

    _idle = True  # no batch is with the thread

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
            self._wake.clear()
            if not self._orders:
                continue
            orders, self._orders = self._orders, {}
            self._idle = False
            try:
                held = await self._call(lambda: self._carry(orders))  # noqa: B023 - awaited before the next turn
            except ActionError as error:
                self._orders = {**orders, **self._orders}
                self._refused(error)
            else:
                if self.fault is not None:
                    log.warning("the firewall takes bans again")
                self.fault, self._wait = None, 1.0
                self._confirmed([ban for ban in orders.values() if ban is not None])
                if held is not None:
                    self._mended(held)
            self._idle = True
            if not self._orders or self.fault is not None:
                self._answer()

    def _answer(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _carry(self, orders: dict[Target, Ban | None]) -> list[Held] | None:
        """In the action's thread. What was held before, where the action had to be started again."""
        held = None if self.fault is None else list(self._action.start())
        released = [target for target, ban in orders.items() if ban is None]
        if released:
            self._action.release(released)
        bans = [ban for ban in orders.values() if ban is not None]
        if bans:
            self._action.ban(bans, self._clock())
        return held

    def _refused(self, error: ActionError) -> None:
        if str(error) != self.fault:
            log.error("the firewall refused, trying again: %s", error)
        self.fault = str(error)
        self._wait = LONGEST_WAIT if error.permanent else min(2 * self._wait, LONGEST_WAIT)
        asyncio.get_running_loop().call_later(self._wait / 2, self._wake.set)
