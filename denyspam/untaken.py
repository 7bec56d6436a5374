"""untaken: of the lines that look like refusals, how many does no filter take? Pure.

    untaken.look(data, now)          some whole lines of a log, as few as one can afford
    untaken.rise(now)                what is wrong, in a sentence, or None

A line looks like a refusal by a word and an address. Left out are deliveries (what other servers said to this one) and
our own log. Taken is what some pattern takes, those of `ignore` and `client` too; so a filter's own dull lines are
never among the others. Looked at are at most READ such lines a call: it is a sample.

What is usual is the share of untaken ones in the hours so far, of which each moves it a little (ADAPTS), beginning with
UNKNOWN. It rises where, with MANY untaken ones lately, their share is LEAST at least and RISES times as high as usual;
that is over when the share is half of that, or has become usual: lines that an admin does not care for are no alarm for
ever. `samples` are the latest untaken ones, each of another shape.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from denyspam.filter import Filter, Reader
from denyspam.learn import shape
from denyspam.stamp import Stamps

READ = 8  # at 100 microseconds each
MANY = 20.0
LEAST, RISES, MOST = 0.2, 3.0, 0.95
UNKNOWN = 0.3
ADAPTS = 1 / 48  # of the way to an hour's share
ENOUGH = 10  # refusals that make an hour tell something
HALF_LIFE, HOUR = 1800.0, 3600.0
SAMPLES = 5
LONGEST = 2048  # bytes; a longer line is left out

REFUSAL = re.compile(
    rb"(?i)reject|refuse|denied|block(?:ed|list)|blacklist|(?:not|n't) (?:allowed|permitted|authorized)|unauthorized|"
    rb"auth\w*:? (?:\w+ )?fail|fail\w* (?:\w+ )?(?:auth|log-?in|password)|log-?in fail|bad (?:user|pass|auth)|banned|"
    rb"infected|virus"
)
ADDRESS = re.compile(rb"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[0-9A-Fa-f:]*::)[0-9A-Fa-f:]{4,39}|"
                     rb"(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4})(?![\w:]|\.\d)")  # fmt: skip
# Postfix' and sendmail's deliveries, exim's `=>`, `->`, `**`, `==` and what it says of remote servers; our own log.
OTHERS = re.compile(
    rb"\bstatus=(?:sent|deferred|bounced|expired|undeliverable)|\bstat=|\bdsn=\d\.\d+\.\d+, (?:status|stat)=|"
    rb" (?:[=-]>|\*\*|==|>>|\*>) |\bhost \S+\[[0-9A-Fa-f.:]+\] (?:said|refused)|remote (?:mail )?server|"
    rb"\bconnect to \S+\[|Connection refused|Received-SPF:|X-Virus-|denyspam\["
)


class Untaken:
    def __init__(self, filters: Sequence[Filter], stamps: Stamps) -> None:
        self._reader = Reader(filters, stamps)
        self.taken = 0
        self.untaken = 0
        self.usual = UNKNOWN  # share
        self._recent = [0.0, 0.0]  # taken and untaken, each worth half as much after HALF_LIFE
        self._then: float | None = None  # when that was
        self._hour = [0, 0]
        self._ends: float | None = None  # of that hour
        self._rising: float | None = None  # the share at which it began
        self._samples: dict[bytes, bytes] = {}  # shape -> line

    @property
    def samples(self) -> list[bytes]:
        return list(self._samples.values())

    def look(self, data: bytes, now: float) -> None:
        found = [0, 0]
        for line in data.splitlines():
            if len(line) > LONGEST or not REFUSAL.search(line) or not ADDRESS.search(line) or OTHERS.search(line):
                continue
            if self._reader.read(line, now) is not None:
                found[0] += 1
            else:
                found[1] += 1
                key = shape(line[-512:])
                self._samples.pop(key, None)
                if len(self._samples) >= SAMPLES:
                    del self._samples[next(iter(self._samples))]
                self._samples[key] = line
            if sum(found) >= READ:
                break
        self._pass(now)
        for at, count in enumerate(found):
            self._recent[at] += count
            self._hour[at] += count
        self.taken += found[0]
        self.untaken += found[1]

    def _pass(self, now: float) -> None:
        """Time has passed."""
        if self._then is not None and now > self._then:
            left = 0.5 ** ((now - self._then) / HALF_LIFE)
            self._recent = [one * left for one in self._recent]
        self._then = now
        if self._ends is None or not 0 <= self._ends - now <= HOUR:
            if sum(self._hour) >= ENOUGH:
                self.usual += (self._hour[1] / sum(self._hour) - self.usual) * ADAPTS
            self._hour, self._ends = [0, 0], now + HOUR

    def rise(self, now: float) -> str | None:
        self._pass(now)
        count, untaken = sum(self._recent), self._recent[1]
        share = untaken / count if count else 0.0
        if self._rising is None:
            if untaken >= MANY and share >= max(LEAST, min(MOST, RISES * self.usual)) and self.usual <= share / 2:
                self._rising = share
        elif untaken < MANY / 4 or share < self._rising / 2 or self.usual > share * 2 / 3:
            self._rising = None
        if self._rising is None:
            return None
        return (
            f"of the sampled lines that look like refusals {share:.0%} are taken by no filter, "
            f"{self.usual:.0%} are usual: has the format of the log changed?"
        )
