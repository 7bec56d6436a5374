"""fuse: when the mail server refuses those it knows, something is wrong with it, and nobody should be banned. Pure.

    fuse.hear(key, kind, good, time)    what was last heard of a host: "accept" or an offence; `good`: it is known
    fuse.blows(time) -> [Blown]         the kinds of offence that have begun to hit most of those who are known
    fuse.blown                          kind -> Blown, until it is over or resumed

The sign of a dead DNS list that lists everybody, of an emptied recipient map or of a bad virus signature is not that
many are refused: in a worm's outbreak thousands of strangers are, and are to be banned. It is that those are refused
from whom mail was accepted on days before (`senders`). So a kind of offence blows the fuse when it was the last word
of at least `share` of the places that are known and were heard in the last `within` seconds, or of the newest PLACES
where fewer were heard. Strangers never count, however many. A place is a /16, or a /32 of IPv6: the hundred hosts of
one provider are one. What is withheld then is bans for that kind alone: while refused recipients are suspect, those
who send viruses are banned all the same.

It is over by itself when the share has been below half of that for `within` seconds. One that an admin resumes stays
whole until that has been so once, or for RESUMED seconds.

`habit` is the other fuse, off unless asked for: more bans in an hour than so many times the busiest hour of the last
weeks. An outbreak looks just like that, which is why nobody should need it; it never blows in the first DAYS days, and
never below FLOOR bans.

Cheating: to blow it, an attacker needs hosts in most of the places that are known here, each of which had its mail
accepted on several days, and then only the bans for the one kind that he offends by are withheld.
Bounded: MOST places. Not saved: what was heard is read again from the log at a start.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

PLACES = 20
MOST = 4_096
AGE = 86_400.0  # seconds after which a word counts no more
RESUMED = 86_400.0  # seconds
PAUSE = 1.0  # seconds of the log between two counts
ACCEPT = "accept"
EVERY = "any"  # the kind that stands for all of them

FLOOR = 200  # bans in an hour
DAYS = 7  # of bans that a habit takes


class Blown(NamedTuple):
    """A fuse that has blown, for bans of this kind. Times are epoch seconds, by the log."""

    kind: str
    since: float
    reason: str


class Fuse:
    """`share` is 0 to 1, `within` seconds."""

    def __init__(self, share: float, within: float) -> None:
        self._share = share
        self._within = within
        self._words: OrderedDict[str, tuple[float, str]] = OrderedDict()  # place -> (when, what), by when it was heard
        self._counted = 0.0
        self._heard = 0  # words since
        self._low: dict[str, float] = {}  # kind that has blown -> since when its share is low
        self._resumed: dict[str, float] = {}  # kind -> when it was resumed
        self.blown: dict[str, Blown] = {}

    def hear(self, address: str, kind: str, good: bool, time: float) -> None:
        """An accepted message or an offence of a host; `good`: one that is known."""
        if not good:
            return
        where = place(address)
        self._words.pop(where, None)
        self._words[where] = time, kind
        self._heard += 1
        if len(self._words) > MOST:
            self._words.popitem(last=False)

    def blows(self, time: float) -> list[Blown]:
        """What blew now. Counts once in PAUSE seconds of the log's time, or in PLACES words."""
        if abs(time - self._counted) < PAUSE and self._heard < PLACES:
            return []
        self._counted, self._heard = time, 0
        places, kinds = self._count(time)
        found = []
        for kind in {*kinds, *self.blown, *self._resumed} - {EVERY}:
            low = places < PLACES or kinds[kind] < self._share * places / 2
            high = places >= PLACES and kinds[kind] >= self._share * places
            if kind in self.blown:
                self._heal(kind, low and places >= PLACES, time)
            elif kind in self._resumed:
                if (low and places >= PLACES) or time - self._resumed[kind] > RESUMED:
                    del self._resumed[kind]
            elif high:
                reason = (
                    f"{kind} is the last word of {kinds[kind]} of the {places} places that sent accepted mail before"
                )
                self.blown[kind] = Blown(kind, time, reason)
                found.append(self.blown[kind])
        return found

    def blow(self, kind: str, time: float, reason: str) -> bool:
        """For a reason of the caller's. False: it was resumed a short while ago."""
        if time - self._resumed.get(kind, -RESUMED) < RESUMED:
            return False
        self.blown[kind] = Blown(kind, time, reason)
        return True

    def _heal(self, kind: str, low: bool, time: float) -> None:
        if not low:
            self._low.pop(kind, None)
        elif time - self._low.setdefault(kind, time) >= self._within:
            del self.blown[kind], self._low[kind]

    def _count(self, time: float) -> tuple[int, Counter[str]]:
        """(places, how many of them each kind of offence was the last word of)"""
        kinds: Counter[str] = Counter()
        places = 0
        for when, kind in reversed(self._words.values()):
            if time - when > (self._within if places >= PLACES else AGE):
                break
            kinds[kind] += 1
            places += 1
        del kinds[ACCEPT]
        return places, kinds

    def resume(self, time: float) -> list[Blown]:
        """By an admin's word. Those that had blown."""
        found = list(self.blown.values())
        self._resumed.update((each.kind, time) for each in found)
        self.blown.clear()
        self._low.clear()
        return found

    # --- over a restart -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """As JSON takes it."""
        return {"blown": [list(each) for each in self.blown.values()], "resumed": self._resumed}

    def restore(self, state: Mapping[str, object]) -> None:
        """What state() gave. Raises KeyError, TypeError, ValueError for anything else."""
        blown, resumed = state["blown"], state["resumed"]
        if not isinstance(blown, list) or not isinstance(resumed, dict):
            raise TypeError(state)
        self.blown = {str(kind): Blown(str(kind), float(since), str(reason)) for kind, since, reason in blown}
        self._resumed = {str(kind): float(time) for kind, time in resumed.items()}


def place(address: str) -> str:
    """The /16 of an IPv4 address or /64, the /32 of an IPv6 one, as text."""
    if ":" not in address:
        first, second, _ = address.split(".", 2)
        return f"{first}.{second}"
    packed = ip_address(address.partition("/")[0]).packed
    return packed[:4].hex()


def habit(hours: Mapping[int, int], now: float, times: int) -> int | None:
    """Bans an hour above which `times` the habit is exceeded; None where there is no habit yet.

    `hours`: the hour (epoch seconds / 3600) -> bans decided in it, of the last weeks.
    """
    this = int(now // 3600)
    past = {hour: count for hour, count in hours.items() if hour < this}
    if not past or this - min(past) < DAYS * 24:
        return None
    return max(FLOOR, times * max(past.values()))
