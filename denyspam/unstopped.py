"""unstopped: whether bans stop those whom they were made for. Pure.

    unstopped.heard(event, ban, now)    an offence, and the ban that holds for its client and was made for its kind
    unstopped.sentence(now)             what is wrong, or None

The kernel may hold a ban and its client come through all the same: by another chain (a container's published port, a
router), to another port than the ban closes, through a proxy, or to another host that logs to here. Each ban looks
well then, and none has an effect.

What counts is an offence told at most FRESH seconds ago, of a client banned for SETTLED seconds at least: until then an
open session may be ending, and mail that was taken before may be scanned. One in SPACED seconds is remembered, MOST in
all. It is wrong when OFTEN of them stand within WHILE seconds, the first LASTS seconds before the last, at least.
"""

from __future__ import annotations

from collections import deque

from denyspam import show
from denyspam.events import Ban, Event

FRESH = 60.0
SETTLED = 600.0
SPACED, MOST = 5.0, 64
OFTEN, WHILE, LASTS = 5, 900.0, 120.0
REASONS = (
    "their connections come by another chain (a container's published port, a router: `hooks` in denyspam.conf(5)), to "
    "another port (`ports`), by a proxy, or to another host"
)


class Unstopped:
    """One daemon's. Times are epoch seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST)
        self._last = ""

    def heard(self, event: Event, ban: Ban, now: float) -> None:
        if event.time is None or abs(now - event.time) > FRESH or now - ban.since < SETTLED:
            return
        ports, since = ", ".join(map(str, ban.target.ports)), show.duration(now - ban.since)
        self._last = f"{event.address} ({event.kind}), banned {since} before from port {ports}"
        if not self._times or now - self._times[-1] >= SPACED:
            self._times.append(now)

    def sentence(self, now: float) -> str | None:
        while self._times and now - self._times[0] > WHILE:
            self._times.popleft()
        if len(self._times) < OFTEN or self._times[-1] - self._times[0] < LASTS:
            return None
        return f"clients who are banned offend as before, at last {self._last}: {REASONS}"

    def shift(self, seconds: float) -> None:
        """The clock was set by so much."""
        self._times = deque((when + seconds for when in self._times), MOST)
