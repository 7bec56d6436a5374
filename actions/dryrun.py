"""dryrun: decides, logs and remembers, and touches no firewall. What `mode = watch` runs on.

Behaves as a kernel would: a ban ends by itself, a second ban of the same target replaces the first one's end, a
release of an absent one is success. Memory is bounded by the bans in force: those over are forgotten when the number
kept has doubled. `held` after a restart is empty, as after a reboot; the ledger knows the rest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from denyspam.events import Ban, Held, Target

from ._ruleset import Refused

log = logging.getLogger("denyspam")


class Dryrun:
    """The five verbs, on a dictionary. Takes the keywords of every action; `clock` counts seconds, from anywhere."""

    def __init__(
        self,
        *,
        ports: tuple[int, ...],
        ipv6_prefix: int = 64,
        verdict: str = "tcp reset",
        hooks: tuple[str, ...] = ("input",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ends: dict[Target, float] = {}  # by `clock`, as the kernel's timeouts are by the kernel's
        self._full = 1024

    def start(self) -> list[Held]:
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Remembers each until its end; `now` in epoch seconds. A ban that is over already is no ban."""
        clock = self._clock()
        for ban in bans:
            left = ban.until - now
            if left > 0:
                self._ends[ban.target] = clock + left
                log.info("would ban %s from port %s for %.0f s: %s", ban.target, _ports(ban.target), left, ban.rule)
        if len(self._ends) >= self._full:
            self._ends = {target: end for target, end in self._ends.items() if end > clock}
            self._full = max(1024, 2 * len(self._ends))

    def release(self, targets: Iterable[Target]) -> None:
        for target in targets:
            if self._ends.pop(target, 0.0) > self._clock():
                log.info("would release %s to port %s", target, _ports(target))

    def held(self) -> list[Held]:
        clock = self._clock()
        return [Held(target, end - clock) for target, end in self._ends.items() if end > clock]

    def stop(self, keep: bool) -> None:
        if not keep:
            self._ends.clear()

    def holds(self, target: Target) -> bool:
        return self._ends.get(target, 0.0) > self._clock()

    def counters(self) -> list[Refused]:
        """Nothing is refused."""
        return []


def _ports(target: Target) -> str:
    return ", ".join(map(str, target.ports))
