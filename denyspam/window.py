"""window: N hits in M seconds, per key. Pure.

Exact: the hit times themselves, no buckets and no estimate; both ends of the window are inclusive. A hit may come late
(a queue id's client becomes known up to an hour after the offence) and is then inserted by its time, so times are kept
for `within + LATE` seconds behind the key's newest one, and never fewer than the newest N.
Bounded: above `capacity` keys the stalest key is forgotten. In a key that never reached N hits within M there are fewer
than N hits in any M seconds, hence fewer than N * (2 + LATE / M) kept.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator

LATE = 3600.0  # seconds; the horizon of a join by queue id


class Window:
    """The last hit times of each key for one policy: `hits` in `within` seconds.

    A hit is a time and a serial number that the caller can find its evidence by.
    """

    def __init__(self, hits: int, within: float, capacity: int = 1_000_000) -> None:
        self.hits = hits
        self.within = within
        self.capacity = capacity
        # key -> [time, serial, time, serial, …] by time; the least recently hit key first
        self._keys: OrderedDict[str, array[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, time: float, serial: int) -> tuple[int, ...]:
        """Count a hit. Returns the serials of the N hits that are now within M seconds, oldest first, else ().

        The newest such N are returned where a late hit completes several.
        """
        kept = self._keys.get(key)
        if kept is None:
            self._keys[key] = array("d", (time, serial))
            if len(self._keys) > self.capacity:
                self._keys.popitem(last=False)
            return (serial,) if self.hits == 1 else ()
        self._keys.move_to_end(key)
        at = len(kept)
        while at and kept[at - 2] > time:
            at -= 2
        kept[at:at] = array("d", (time, serial))
        found = self._full(kept, at)
        self._forget_old(kept)
        return found

    def _full(self, kept: array[float], at: int) -> tuple[int, ...]:
        """The newest run of N hits around position `at` that spans at most M seconds."""
        span = 2 * (self.hits - 1)
        for last in range(min(at + span, len(kept) - 2), max(at, span) - 2, -2):
            if kept[last] - kept[last - span] <= self.within:
                return tuple(int(serial) for serial in kept[last - span + 1 : last + 2 : 2])
        return ()

    def _forget_old(self, kept: array[float]) -> None:
        oldest = kept[-2] - self.within - LATE
        drop = 0
        while len(kept) - drop > 2 * self.hits and kept[drop] < oldest:
            drop += 2
        if drop:
            del kept[:drop]

    def trim(self, key: str) -> None:
        """Keep only the key's newest N hits: for counting without deciding, where N is no bound."""
        kept = self._keys.get(key)
        if kept is not None and len(kept) > 2 * self.hits:
            del kept[: -2 * self.hits]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def forget(self, key: str) -> None:
        self._keys.pop(key, None)

    def count(self, key: str, now: float) -> int:
        """Hits of the key in the M seconds up to `now`."""
        kept = self._keys.get(key, ())
        return sum(1 for time in kept[::2] if now - self.within <= time <= now)
