"""files: keeps a list of the banned in a file that another program reads. For hosts where the firewall is elsewhere.

    format "hosts"      address patterns for TCP wrappers: in hosts.deny, `sendmail : /var/lib/denyspam/banned`
    format "postfix"    a CIDR table: `smtpd_client_restrictions = check_client_access cidr:/var/lib/denyspam/banned`
    format "rbldnsd"    a DNS list: `rbldnsd … bl.example.org:combined:/var/lib/denyspam/banned`
    format "nftables"   `define denyspam_ipv4 = { … }` and `denyspam_ipv6`, to be included in a ruleset

The file is replaced whole and atomically (written beside, synced, renamed), so a reader sees the old list or the new.
A list has no ports: who is banned from any is in it. Lines hold printed addresses and the constants of the table below,
whatever a log said.

A change is written at once where the last one was written a second ago or longer, else by the next `tend`, which the
caller calls every second; so 100,000 lines are written once a second at most (0.3 s), not once a ban. A ban whose time
is over leaves the file by `tend` too: nothing ends without it, and when the daemon is dead the list stays as it is.

What is in force it knows by its own memory (`_remembered.py`). After a restart that is empty, and the old list stays in
place until the caller's bans, given again, or the first `tend` replace it. One thread. The file is bounded by the bans
in force.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from denyspam.events import ActionError, Ban, Held, Network, Target

from . import _ruleset as ruleset
from ._remembered import Remembered, lasting

HEAD = "# Written by denyspam, replaced at every change.\n"
BETWEEN = 1.0  # seconds from one writing to the next
MODE = 0o644  # who is banned is no secret, and the readers are other users


class Files(Remembered):
    """The five verbs and `tend`, for the file `path` in one of the FORMATS. ValueError for another format or a path
    that is none."""

    def __init__(self, *, path: str = "", format: str = "postfix", **keywords: Any) -> None:
        super().__init__(**keywords)
        if format not in FORMATS:
            raise ValueError(f"format {format!r}: one of {', '.join(FORMATS)}")
        if not os.path.isabs(path) or path.endswith("/") or "\0" in path:
            raise ValueError(f"path {path!r}: the whole path of the file, from /")
        self._path, self._text = path, FORMATS[format]
        self._soonest = math.inf  # of the ends
        self._written = -math.inf
        self._changed = False

    def start(self) -> list[Held]:
        """Returns what was given before. The file is written by what comes next."""
        self._changed = True
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Puts each in until its end; `now` in epoch seconds. A ban that is over already is no ban."""
        left = lasting(bans, now)
        if left:
            self._remember(left)
            self._soonest = min(self._soonest, self._clock() + min(left.values()))
            self._changed = True
        self.tend(now)

    def release(self, targets: Iterable[Target]) -> None:
        for target in targets:
            self._changed |= self._ends.pop(target, None) is not None
        self.tend(0.0)

    def stop(self, keep: bool) -> None:
        """Writes what is not written yet; without `keep` an empty list."""
        if not keep:
            self._ends.clear()
        if self._changed or not keep:
            self._write()

    def tend(self, now: float) -> None:
        """Writes the file where the list has changed or a ban is over. To be called every second; `now` is not used."""
        clock = self._clock()
        if (self._changed or clock >= self._soonest) and clock - self._written >= BETWEEN:
            self._write()

    def _write(self) -> None:
        clock = self._clock()
        self._forget_over()
        networks = sorted(
            {target.network for target in self._ends},
            key=lambda each: (each.version, int(each.network_address), each.prefixlen),
        )
        beside = f"{self._path}.new"
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, MODE), "wb") as file:
                file.writelines(each.encode("ascii") for each in self._text(networks))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise ActionError(f"files: {self._path} cannot be written: {error.strerror}") from error
        self._soonest = min(self._ends.values(), default=math.inf)
        self._changed, self._written = False, clock


def _hosts(networks: Sequence[Network]) -> Iterator[str]:
    # hosts_access(5): n.n.n.n/m.m.m.m and [n:n:n::]/m
    yield HEAD
    for network in networks:
        base = ruleset.element(network)
        if network.version == 4:
            yield f"{base}\n" if network.prefixlen == 32 else f"{base}/{network.netmask}\n"
        else:
            yield f"[{base}]\n" if network.prefixlen == 128 else f"[{base}]/{network.prefixlen:d}\n"


def _postfix(networks: Sequence[Network]) -> Iterator[str]:
    # cidr_table(5). smtpd notices by itself that the file is a new one.
    yield HEAD
    for network in networks:
        yield f"{ruleset.element(network)}/{network.prefixlen:d} REJECT 5.7.1 blocked for earlier offences\n"


def _rbldnsd(networks: Sequence[Network]) -> Iterator[str]:
    # rbldnsd(8), data set type `combined`
    yield HEAD
    for version, kind in (4, "ip4set"), (6, "ip6trie"):
        yield f"$DATASET {kind} @\n:127.0.0.2:blocked for earlier offences\n"
        for network in networks:
            if network.version == version:
                yield f"{ruleset.element(network)}/{network.prefixlen:d}\n"


def _nftables(networks: Sequence[Network]) -> Iterator[str]:
    # nft knows no empty list: each begins with an address that no packet comes from.
    yield HEAD
    for version, nobody in (4, "0.0.0.0/32"), (6, "::/128"):
        yield f"define denyspam_ipv{version:d} = {{\n{nobody}"
        for network in networks:
            if network.version == version:
                yield f",\n{ruleset.element(network)}/{network.prefixlen:d}"
        yield "\n}\n"


FORMATS: dict[str, Callable[[Sequence[Network]], Iterator[str]]] = {
    "hosts": _hosts,
    "postfix": _postfix,
    "rbldnsd": _rbldnsd,
    "nftables": _nftables,
}
