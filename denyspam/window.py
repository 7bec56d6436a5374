"""window: N hits in M seconds, per key. Pure.

Exact: the hit times themselves, no buckets and no estimate; both ends of the window are inclusive. A hit may come late
(a queue id's client becomes known up to an hour after the offence) and is then inserted by its time, so times are kept
for `within + LATE` seconds behind the key's newest one, and never fewer than the newest N.
Bounded: above `capacity` keys the stalest are forgotten, a 64th of them at once; and whoever calls `tidy` forgets what
no hit that may still come could count with. In a key that never reached N hits
within M there are fewer than N hits in any M seconds, hence fewer than N * (2 + LATE / M) kept.
A million keys of one hit take 150 MB, the keys' own texts included: a key's hits are one string of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from struct import Struct

LATE = 3600.0  # seconds; the horizon of a join by queue id

HIT = Struct("=dI")  # time and serial
TIME = Struct("=d")
SIZE = HIT.size
FEW = 1000  # hits whose serials are taken out in one step: what knows how takes some tens of bytes for each


class Window:
    """The last hit times of each key for one policy: `hits` in `within` seconds.

    A hit is a time and a serial number, of 32 bits, that the caller can find its evidence by.
    """

    def __init__(self, hits: int, within: float, capacity: int = 1_000_000) -> None:
        self.hits = hits
        self.within = within
        self.capacity = capacity
        self._bytes = hits * SIZE
        self._serials = Struct("=" + "8xI" * hits).unpack if hits <= FEW else _serials
        # Key -> hits by time; the least recently hit key first. A plain dict, whose keys come anew with each hit: an
        # OrderedDict takes half as much memory again.
        self._keys: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str, time: float, serial: int) -> tuple[int, ...]:
        """Count a hit. Returns the serials of the N hits that are now within M seconds, oldest first, else ().

        The newest such N are returned where a late hit completes several.
        """
        before = self._keys.pop(key, None)
        if before is None:
            self._keys[key] = HIT.pack(time, serial)
            if len(self._keys) > self.capacity:
                self._let_go()
            return (serial,) if self.hits == 1 else ()
        if TIME.unpack_from(before, len(before) - SIZE)[0] > time:
            return self._late(key, before, time, serial)
        self._keys[key] = kept = before + HIT.pack(time, serial)
        last = len(kept) - self._bytes
        if last < 0:
            return ()
        if time - TIME.unpack_from(kept, last)[0] <= self.within:
            return self._serials(kept[last:])
        if last:
            self._keys[key] = self._recent(kept)
        return ()

    def _late(self, key: str, before: bytes, time: float, serial: int) -> tuple[int, ...]:
        """add() of a hit that is not the newest of its key."""
        at = len(before)
        while at and TIME.unpack_from(before, at - SIZE)[0] > time:
            at -= SIZE
        kept = before[:at] + HIT.pack(time, serial) + before[at:]
        self._keys[key] = self._recent(kept)
        # The newest run of N hits, this one among them, that spans at most M seconds.
        span = self._bytes - SIZE
        for last in range(min(at + span, len(kept) - SIZE), max(at, span) - SIZE, -SIZE):
            first = last - span
            if TIME.unpack_from(kept, last)[0] - TIME.unpack_from(kept, first)[0] <= self.within:
                return self._serials(kept[first : last + SIZE])
        return ()

    def _recent(self, kept: bytes) -> bytes:
        """Without what is too old to be of any window still."""
        oldest = TIME.unpack_from(kept, len(kept) - SIZE)[0] - self.within - LATE
        drop, most = 0, len(kept) - self._bytes
        while drop < most and TIME.unpack_from(kept, drop)[0] < oldest:
            drop += SIZE
        return kept[drop:]

    def _let_go(self) -> None:
        # Many at once: before the first key stand the places of all that went, and each search passes them again.
        for key in list(islice(self._keys, max(1, self.capacity >> 6))):
            del self._keys[key]

    def tidy(self, since: float) -> int:
        """Forget the keys that no hit from `since` on could count with; how many. At most a 16th of the capacity at
        once: 20 ms."""
        oldest, stale = since - self.within, []
        for key in islice(self._keys, max(1, self.capacity >> 4)):
            if TIME.unpack_from(kept := self._keys[key], len(kept) - SIZE)[0] >= oldest:
                break
            stale.append(key)
        for key in stale:
            del self._keys[key]
        return len(stale)

    def trim(self, key: str, times: int = 1) -> None:
        """Keep only the key's newest `times` N hits: for counting without deciding, where N is no bound."""
        kept = self._keys.get(key)
        if kept is not None and len(kept) > times * self._bytes:
            self._keys[key] = kept[-times * self._bytes :]

    def many(self, key: str, times: int) -> tuple[int, ...]:
        """For a limit `times` as high, after add(): the serials of the newest `times` N hits where they are within M
        seconds, else (). No more than those are kept."""
        self.trim(key, times)
        kept = self._keys.get(key, b"")
        if len(kept) < times * self._bytes:
            return ()
        first, last = TIME.unpack_from(kept, 0)[0], TIME.unpack_from(kept, len(kept) - SIZE)[0]
        return _serials(kept) if last - first <= self.within else ()

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def newest(self, most: int, now: float) -> Iterator[tuple[str, int, float]]:
        """(key, hits in the M seconds up to `now`, the newest hit's time) of the keys hit last, the last one first, of
        at most so many. To be used up before anything changes."""
        oldest = now - self.within
        for key in islice(reversed(self._keys), most):
            kept = self._keys[key]
            last = TIME.unpack_from(kept, len(kept) - SIZE)[0]
            if oldest <= last <= now and TIME.unpack_from(kept)[0] >= oldest:
                yield key, len(kept) // SIZE, last
            elif last >= oldest and (hits := self.hits_of(key, now)):
                yield key, len(hits), hits[-1][0]

    def hits_of(self, key: str, now: float) -> list[tuple[float, int]]:
        """(time, serial) of the key's hits in the M seconds up to `now`, oldest first."""
        kept = self._keys.get(key)
        if kept is None or TIME.unpack_from(kept, len(kept) - SIZE)[0] < now - self.within:
            return []
        return [(time, serial) for time, serial in HIT.iter_unpack(kept) if now - self.within <= time <= now]

    def forget(self, key: str) -> None:
        self._keys.pop(key, None)

    def count(self, key: str, now: float) -> int:
        """Hits of the key in the M seconds up to `now`."""
        return len(self.hits_of(key, now))


def _serials(kept: bytes) -> tuple[int, ...]:
    return tuple([serial for _, serial in HIT.iter_unpack(kept)])
