"""_remembered: what the actions share that have no kernel to ask: each target's end, by a clock of their own.

It behaves as a kernel would: a ban ends by itself, a second one of the same target replaces the first one's end, the
release of an absent one is success. After a restart of the daemon it is empty, as after a reboot: the caller then gives
all bans again. Memory is bounded by the bans in force: those over are forgotten when the number kept has doubled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from denyspam.events import Ban, Held, Target

from ._ruleset import Refused


class Remembered:
    """`held`, `holds` and `counters`, and the keywords that every action takes. `clock` counts seconds from anywhere.
    Width, verdict and hooks are a firewall's: nothing is made of them here."""

    def __init__(
        self,
        *,
        ports: tuple[int, ...],
        ipv6_prefix: int = 64,
        verdict: str = "tcp reset",
        hooks: tuple[str, ...] = ("input",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ports, self._clock = ports, clock
        self._ends: dict[Target, float] = {}  # by `clock`
        self._full = 1024

    def held(self) -> list[Held]:
        """What is in force by this memory."""
        clock = self._clock()
        return [Held(target, end - clock) for target, end in self._ends.items() if end > clock]

    def holds(self, target: Target) -> bool:
        return self._ends.get(target, -math.inf) > self._clock()

    def counters(self) -> list[Refused]:
        """Whoever refuses tells nothing back."""
        return []

    def _remember(self, left: Mapping[Target, float]) -> None:
        """Each target with the seconds that it has left."""
        clock = self._clock()
        self._ends.update((target, clock + seconds) for target, seconds in left.items())
        if len(self._ends) >= self._full:
            self._forget_over()

    def _forget_over(self) -> None:
        clock = self._clock()
        self._ends = {target: end for target, end in self._ends.items() if end > clock}
        self._full = max(1024, 2 * len(self._ends))


def lasting(bans: Sequence[Ban], now: float) -> dict[Target, float]:
    """Target -> seconds left at `now` (epoch seconds); a ban that is over already is no ban."""
    return {ban.target: ban.until - now for ban in bans if ban.until - now > 0}
