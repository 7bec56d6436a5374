"""fuse: when the mail server refuses those it knows, something is wrong with it, and nobody should be banned. Pure.

    fuse.hear(key, kind, good, time)    what was last heard of a host: "accept" or an offence; `good`: it is known
    fuse.blows(time) -> [Blown]         the kinds of offence that have begun to hit most of those who are known
    fuse.blown                          kind -> Blown, until it is over or resumed

The sign of a dead DNS list that lists everybody, of an emptied recipient map or of a bad virus signature is not that
many are refused: in a worm's outbreak thousands of strangers are, some who are known as well, and all of them are to be
banned. It is that those who are known are refused, and are accepted no more. So a kind of offence blows the fuse when

    it was the last word of at least `share` of the places that are known and were heard in the last `within` seconds
    (of the newest PLACES, where fewer were heard), and
    mail was accepted from less than half as many known places in that time as in the same time before.

In an outbreak the second is never so: who has it not goes on to send mail. Strangers never count, however many. A place
is a /16, or a /32 of IPv6: the hundred hosts of one provider are one. What is withheld then is bans for that kind
alone: while refused recipients are suspect, those who send viruses are banned all the same.

It is over by itself when the share has been below half of that for `within` seconds, or half as many places as before
are accepted. One that an admin resumes stays whole until that has been so once, or for RESUMED seconds.

`habit` is the other fuse, off unless asked for: more bans in an hour than so many times the busiest hour of the last
weeks. An outbreak looks just like that, which is why nobody should need it; it never blows in the first DAYS days, and
never below FLOOR bans.

Cheating: to blow it, an attacker needs hosts in most of the places that are known here, each of which had its mail
accepted on several days, and then only the bans for the one kind that he offends by are withheld.
Bounded: MOST places, ACCEPTED messages, a day. Not saved: what was heard is read again from the log at a start, and
before that has gone far enough back nothing blows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

PLACES = 20
MOST = 4_096
ACCEPTED = 20_000  # messages of those who are known;
SAME = 60.0  # those of one place in so many seconds are one
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
    before: int = 0  # known places that were accepted in the time before
    span: float = 0.0  # in so many seconds


class Fuse:
    """`share` is 0 to 1, `within` seconds."""

    def __init__(self, share: float, within: float) -> None:
        self._share = share
        self._within = within
        # place -> (when, what, when it was last noted as accepted), by when it was heard
        self._words: OrderedDict[str, tuple[float, str, float]] = OrderedDict()
        self._accepted: deque[tuple[float, str]] = deque()  # (when, place), by arrival
        self._counted = 0.0
        self._heard = 0  # words since
        self._last = ACCEPT
        self._low: dict[str, float] = {}  # kind that has blown -> since when its share is low
        self._resumed: dict[str, float] = {}  # kind -> when it was resumed
        self.blown: dict[str, Blown] = {}

    def hear(self, address: str, kind: str, good: bool, time: float) -> None:
        """An accepted message or an offence of a host; `good`: one that is known."""
        if not good:
            return
        where = place(address)
        _, _, noted = self._words.pop(where, (0.0, "", 0.0))
        self._last = kind
        self._heard += 1
        if kind == ACCEPT and abs(time - noted) >= SAME:
            noted = time
            self._accepted.append((time, where))
            while len(self._accepted) > ACCEPTED or self._accepted[0][0] < time - AGE:
                self._accepted.popleft()
        self._words[where] = time, kind, noted
        if len(self._words) > MOST:
            self._words.popitem(last=False)

    def blows(self, time: float) -> list[Blown]:
        """What blew now. Counts once in PAUSE seconds of the log's time or in PLACES words, where the last of them can
        have changed anything."""
        if self._last == ACCEPT and not self.blown and not self._resumed:
            return []
        if abs(time - self._counted) < PAUSE and self._heard < PLACES:
            return []
        self._counted, self._heard = time, 0
        places, kinds, span = self._count(time)
        if places < PLACES:
            return []
        found = []
        for kind in {*kinds, *self.blown, *self._resumed} - {EVERY}:
            low = kinds[kind] < self._share * places / 2
            if kind in self.blown:
                self._heal(self.blown[kind], low, time)
            elif kind in self._resumed:
                if low or time - self._resumed[kind] > RESUMED:
                    del self._resumed[kind]
            elif kinds[kind] >= self._share * places:
                now, before = self._places(time - span, time), self._places(time - 2 * span, time - span)
                if before >= PLACES / 2 and now < before / 2:
                    reason = (
                        f"{kind} is the last word to {kinds[kind]} of the last {places} places that are known, and "
                        f"mail is accepted from {now} of them, where it was from {before}"
                    )
                    self.blown[kind] = Blown(kind, time, reason, before, span)
                    found.append(self.blown[kind])
        return found

    def blow(self, kind: str, time: float, reason: str) -> bool:
        """For a reason of the caller's. False: it was resumed a short while ago."""
        if time - self._resumed.get(kind, -RESUMED) < RESUMED:
            return False
        self.blown[kind] = Blown(kind, time, reason)
        return True

    def _heal(self, blown: Blown, low: bool, time: float) -> None:
        kind = blown.kind
        if not low and (not blown.before or self._places(time - blown.span, time) < blown.before / 2):
            self._low.pop(kind, None)
        elif time - self._low.setdefault(kind, time) >= self._within:
            del self.blown[kind], self._low[kind]

    def _count(self, time: float) -> tuple[int, Counter[str], float]:
        """(places, how many of them each kind of offence was the last word of, the seconds in which they were heard)"""
        kinds: Counter[str] = Counter()
        places, oldest = 0, time
        for when, kind, _ in reversed(self._words.values()):
            if time - when > (self._within if places >= PLACES else AGE):
                break
            kinds[kind] += 1
            places += 1
            oldest = min(oldest, when)
        del kinds[ACCEPT]
        return places, kinds, max(self._within, time - oldest)

    def _places(self, after: float, until: float) -> int:
        """Known places that were accepted in that time."""
        return len({where for when, where in self._accepted if after < when <= until})

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
        self.blown = {
            str(kind): Blown(str(kind), float(since), str(reason), int(before), float(span))
            for kind, since, reason, before, span in blown
        }
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
