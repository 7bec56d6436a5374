"""recent: how much happened in each of the last seconds. Pure.

Fed with running totals, about once a second; a busy daemon may be late, and what then happened is spread evenly over
the seconds it took. Bounded: SECONDS of them. Never a measure to bill by: `status` has the totals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

SECONDS = 300


class Recent:
    """Rates of some totals, by the second; `names` says which."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._rates = {name: deque[float](maxlen=SECONDS) for name in self._names}
        self._before: tuple[float, Sequence[int]] | None = None

    def sample(self, now: float, totals: Sequence[int]) -> None:
        """The totals, in the order of the names, as they are at `now`: seconds of a clock that nobody steps."""
        if self._before is None:
            self._before = now, totals
            return
        before, old = self._before
        slots = round(now - before)
        if slots < 1:  # too early: it counts with the next
            return
        for name, total, was in zip(self._names, totals, old, strict=True):
            self._rates[name].extend([max(0, total - was) / (now - before)] * min(slots, SECONDS))
        self._before = now, totals

    def rates(self) -> dict[str, list[float]]:
        """By name, a number for each of the last seconds, the newest last."""
        return {name: [round(rate, 2) for rate in rates] for name, rates in self._rates.items()}
