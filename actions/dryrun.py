"""dryrun: decides, logs and remembers (`_remembered.py`), and touches no firewall. What `mode = watch` runs on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from denyspam.events import Ban, Held, Target

from ._remembered import Remembered, lasting

log = logging.getLogger("denyspam")


class Dryrun(Remembered):
    """The five verbs, on a dictionary."""

    def start(self) -> list[Held]:
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Remembers each until its end; `now` in epoch seconds. A ban that is over already is no ban."""
        left = lasting(bans, now)
        rules = {ban.target: ban.rule for ban in bans}
        for target, seconds in left.items():
            log.info("would ban %s from port %s for %.0f s: %s", target, _ports(target), seconds, rules[target])
        self._remember(left)

    def release(self, targets: Iterable[Target]) -> None:
        for target in targets:
            if self.holds(target):
                log.info("would release %s to port %s", target, _ports(target))
            self._ends.pop(target, None)

    def stop(self, keep: bool) -> None:
        if not keep:
            self._ends.clear()


def _ports(target: Target) -> str:
    return ", ".join(map(str, target.ports))
