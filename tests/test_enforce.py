"""The enforcer carries out every order, whenever it comes. The action here only remembers: the kernel's are in
test_actions.py, and both together in test_daemon.py and test_faults*.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_network

import pytest

from denyspam import sessions
from denyspam.enforce import Enforcer
from denyspam.events import ActionError, Ban, Held, Target


def ban(number: int) -> Ban:
    return Ban(Target(ip_network(f"192.0.2.{number}"), (25,)), "virus", 0.0, 3600.0, 5)


class Remembering:
    """An action that works while it is `free`, and refuses as often as told."""

    def __init__(self, refuse: int = 0) -> None:
        self.holds_now: dict[Target, float] = {}
        self.batches: list[int] = []
        self.starts = 0
        self.refuse = refuse
        self.free = threading.Event()
        self.free.set()

    def start(self) -> Sequence[Held]:
        self.starts += 1
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        self.free.wait()
        if self.refuse:
            self.refuse -= 1
            raise ActionError("full")
        self.batches.append(len(bans))
        self.holds_now.update((each.target, each.until) for each in bans)

    def release(self, targets: Iterable[Target]) -> None:
        for target in targets:
            self.holds_now.pop(target, None)

    def held(self) -> Sequence[Held]:
        return [Held(target, left) for target, left in self.holds_now.items()]

    def stop(self, keep: bool) -> None:
        pass


def with_enforcer(
    action: Remembering, course: Callable[[Enforcer], Awaitable[None]], *, end_sessions: bool = False
) -> list[Ban]:
    """Runs `course`; the bans that were confirmed."""
    confirmed: list[Ban] = []
    broken: list[BaseException] = []

    async def run() -> None:
        enforcer = Enforcer(
            action, lambda: 0.0, confirmed.extend, lambda held: None, broken.append, end_sessions=end_sessions
        )
        await enforcer.start()
        await asyncio.sleep(0)  # so that its task waits
        await asyncio.wait_for(course(enforcer), 60)
        await enforcer.stop(keep=True)

    asyncio.run(run())
    assert not broken
    return confirmed


async def taken(enforcer: Enforcer) -> None:
    """Until nothing waits; by itself, without settled(), which would wake it."""
    while enforcer.waiting or enforcer._batch is not None:
        await asyncio.sleep(0.001)


def test_what_is_ordered_in_one_turn_of_the_loop_is_all_carried_out() -> None:
    action = Remembering()

    async def course(enforcer: Enforcer) -> None:
        enforcer.ban([ban(1)])  # handed over at once
        enforcer.ban([ban(2), ban(3)])  # and this before the enforcer's own turn
        enforcer.release([ban(2).target])
        await taken(enforcer)

    assert with_enforcer(action, course) == [ban(1), ban(3)]
    assert set(action.holds_now) == {ban(1).target, ban(3).target}


def test_a_look_in_the_same_turn_is_not_forgotten() -> None:
    action = Remembering()

    async def course(enforcer: Enforcer) -> None:
        enforcer.look()
        await taken(enforcer)
        while action.starts < 2:
            await asyncio.sleep(0.001)
        await taken(enforcer)
        enforcer.ban([ban(1)])
        enforcer._suspect = True  # as look() does, whose time comes
        enforcer._wake.set()
        while action.starts < 3:
            await asyncio.sleep(0.001)

    with_enforcer(action, course)


def test_what_comes_while_the_action_works_goes_together() -> None:
    action = Remembering()

    async def course(enforcer: Enforcer) -> None:
        action.free.clear()
        enforcer.ban([ban(1)])
        for number in range(2, 50):
            enforcer.ban([ban(number)])
            await asyncio.sleep(0)
        action.free.set()
        await taken(enforcer)

    assert len(with_enforcer(action, course)) == 49
    assert action.batches == [1, 48]


def test_a_refusal_is_tried_again_later_with_all_that_came_since() -> None:
    action = Remembering(refuse=1)

    async def course(enforcer: Enforcer) -> None:
        began = asyncio.get_running_loop().time()
        enforcer.ban([ban(1)])
        enforcer.ban([ban(2)])
        while enforcer.fault is None:
            await asyncio.sleep(0.001)
        enforcer.ban([ban(3)])
        await taken(enforcer)
        assert asyncio.get_running_loop().time() - began > 0.9

    assert sorted(with_enforcer(action, course)) == [ban(1), ban(2), ban(3)]
    assert (action.batches, action.starts) == ([3], 2)


def test_sessions_that_are_being_ended_at_a_stop_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of the bans that came meanwhile, before the threads go."""
    ended: list[Target] = []
    begun = threading.Event()

    def slowly(targets: Iterable[Target]) -> int:
        begun.set()
        threading.Event().wait(0.3)
        ended.extend(targets)
        return 1

    monkeypatch.setattr(sessions, "close", slowly)

    async def course(enforcer: Enforcer) -> None:
        enforcer.ban([ban(1)])
        await asyncio.to_thread(begun.wait)
        enforcer.ban([ban(2)])

    with_enforcer(Remembering(), course, end_sessions=True)
    assert ended == [ban(1).target, ban(2).target]
