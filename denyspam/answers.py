"""answers: what the daemon tells and does for the commands, one method a command. Edge; decides nothing.

A request is a JSON object with a `command`; an answer is {"ok": …} or {"error": sentence, "code": exit code}. Whoever
may ask is root or as good as root (control): nothing that he sends may end the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Protocol

from denyspam import __version__, former, show
from denyspam.events import MAPPED, ActionError, Ban, Event, Grace, Network, Past, Target, address_text
from denyspam.guard import Guard
from denyspam.monitor import ledger_fault, process
from denyspam.notify import Notifier
from denyspam.policy import LOOPBACK
from denyspam.snapshot import Showing, Snapshot

log = logging.getLogger("denyspam")

FORCED = "forced"  # the rule of a ban by hand that only `--force` made possible; no reload lifts it
PATIENCE = 3.0  # seconds that a question waits for a daemon that starts or reloads
GRACES = 10_000  # that may be in force at once
MANUAL = 3600.0  # seconds a ban by hand lasts unless said otherwise
LONGEST = 10 * 365 * 86_400.0  # seconds a ban by hand may last
WIDEST = {4: 8, 6: 19}  # the shortest prefixes that may be banned by hand


class Obeying(Showing, Protocol):
    """What the commands see and do of a daemon besides."""

    counts: Counter[tuple[str, str]]
    rules: Counter[str]
    notifier: Notifier
    late: int
    guard: Guard | None

    def resume(self, user: str, ban: bool) -> dict[str, Any]: ...
    def decided(self, bans: Sequence[Ban], now: float) -> None: ...
    def end(self, bans: dict[Target, Ban], user: str, note: str) -> None: ...


class Answers:
    """The commands that a daemon obeys."""

    def __init__(self, daemon: Obeying) -> None:
        self._daemon = daemon
        self._snapshot = Snapshot(daemon, self._row)

    async def answer(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        """The answer to one request: {"ok": …} or {"error": sentence, "code": exit code}."""
        command = request.get("command")
        ready = command == "top" or await self._soon_ready()
        if command == "status":
            return {"ok": await self.status()}
        if not ready:
            return {"error": "denyspam is starting: it is still reading its logs", "code": 69}
        verbs: dict[Any, Callable[[dict[str, Any], str], Any]] = {
            "top": self._top,
            "list": self._list,
            "graces": self._graces,
            "why": self._why,
            "ban": self._ban,
            "release": self._release,
            "flush": self._flush,
            "resume": self._resume,
            "withheld": self._withheld,
        }
        try:
            if not isinstance(command, str) or command not in verbs:
                raise ValueError(f"unknown command {str(command)[:100]!r}")
            return {"ok": await verbs[command](request, user)}
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            return {"error": f"{str(error)[:300]}", "code": 2}
        except sqlite3.Error as error:
            return {"error": f"the ledger cannot be read: {error}", "code": 69}

    async def _soon_ready(self) -> bool:
        """Whether it is within PATIENCE: after a reload it is."""
        began = time.monotonic()
        while not self._daemon.ready and time.monotonic() < began + PATIENCE:
            await asyncio.sleep(0.02)
        return self._daemon.ready

    async def _top(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        return await self._snapshot.answer(request)

    async def status(self) -> dict[str, Any]:
        """What `status --json` prints, and the metrics are made of."""
        try:
            sets = await self._daemon.enforcer.counters() if self._daemon.ready else None
        except ActionError:
            sets = None
        now = time.time()
        logs = {
            path: {**each.facts(now), **self._daemon.monitor.of(path, now)} for path, each in self._daemon.logs.items()
        }
        events: dict[str, dict[str, int]] = {}
        for (kind, name), count in sorted(self._daemon.counts.items()):
            events.setdefault(kind, {})[name] = count
        return {
            "ready": self._daemon.ready,
            "version": __version__,
            "pid": os.getpid(),
            "started": self._daemon.started,
            "mode": self._daemon.settings.mode,
            "action": self._daemon.settings.action,
            "active": len(self._daemon.judge.active) - len(self._daemon.withheld),
            "withheld": len(self._daemon.withheld),
            "guard": None if self._daemon.guard is None else self._daemon.guard.status(),
            "pending": len(self._daemon.pending),
            "bans": self._daemon.bans,
            "rules": dict(self._daemon.rules),
            "late": self._daemon.late,
            "releases": self._daemon.releases,
            "graces": [_grace(each) for each in self._daemon.judge.graces(time.time())],
            "tracked": self._daemon.judge.tracked,
            "unresolved": self._daemon.join.waiting,
            "events": events,
            "logs": logs,
            "alarms": [
                {
                    "name": each.name,
                    "subject": each.subject,
                    "since": each.since,
                    "text": each.text,
                    "samples": list(each.samples),
                }
                for each in self._daemon.monitor.alarms.active()
            ],
            "ledger": {
                "path": self._daemon.ledger.path,
                "fault": ledger_fault(self._daemon.ledger),
                "waiting": self._daemon.ledger.waiting,
            },
            "firewall": {
                "fault": self._daemon.enforcer.trouble,
                "waiting": self._daemon.enforcer.waiting,
                "refused": None if sets is None else sum(each["packets"] for each in sets),
                "refused_bytes": None if sets is None else sum(each["bytes"] for each in sets),
                "sets": sets,
                "repairs": self._daemon.repairs,
                "ended": self._daemon.enforcer.ended,
            },
            "notify": self._daemon.notifier.status(),
            "process": process(),
        }

    def _row(self, ban: Ban) -> dict[str, Any]:
        return {
            "address": str(ban.target),
            "rule": ban.rule,
            "since": ban.since,
            "until": ban.until,
            "hits": ban.hits,
            "note": self._daemon.withheld.get(ban.target) or ban.note,
            "ports": list(ban.target.ports),
            "state": self._state(ban.target),
        }

    def _state(self, target: Target) -> str:
        reason = self._daemon.withheld.get(target)
        if reason is not None:
            return "withheld" if reason else "waiting"
        return "pending" if target in self._daemon.pending else "active"

    def _listed(self, withheld: bool) -> list[dict[str, Any]]:
        bans = [
            ban for target, ban in self._daemon.judge.active.items() if (target in self._daemon.withheld) == withheld
        ]
        return [self._row(ban) for ban in sorted(bans, key=lambda ban: (ban.since, ban.until))]

    async def _list(self, request: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return self._listed(withheld=False)

    async def _withheld(self, request: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return self._listed(withheld=True)

    async def _resume(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        found = self._daemon.resume(user, ban=bool(request.get("ban")))
        await self._daemon.enforcer.settled()
        return {**found, "fault": self._daemon.enforcer.fault}

    async def _graces(self, request: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return [_grace(each) for each in self._daemon.judge.graces(time.time())]

    async def _why(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        network = _network(request["address"])
        wide = self._daemon.judge.network(str(network.network_address)) if _single(network) else network
        covering = self._daemon.judge.covering(network)
        names = {str(Target(one, ())) for one in (network, wide, *(ban.target.network for ban in covering)) if one}
        rows = self._daemon.ledger.history(sorted(names))
        open_row = next((row for row in rows if row.ended is None), rows[0] if rows else None)
        try:
            targets = [ban.target for ban in covering] or [Target(wide or network, self._daemon.settings.ports)]
            kernel: bool | None = await self._daemon.enforcer.holds(targets)
        except ActionError:
            kernel = None
        now, single = time.time(), str(network.network_address) if _single(network) else None
        counts = self._daemon.judge.counts(single, now) if single else []
        hits = self._daemon.judge.hits(single, now) if single else []
        return {
            "address": str(Target(network, ())),
            "counted": None if wide is None else str(Target(wide, ())),
            "spared": self._daemon.judge.spared(network),
            "graces": [_grace(each) for each in self._daemon.judge.graces(time.time(), network)],
            "bans": [self._row(ban) for ban in covering if ban.target not in self._daemon.withheld],
            "withheld": [self._row(ban) for ban in covering if ban.target in self._daemon.withheld],
            "within": [] if _single(network) else self._inside(network),
            "sender": self._sender(network),
            "kernel": kernel and not self._watching,
            "watching": self._watching,
            "lines": [] if open_row is None else [_plain(one) for one in self._daemon.ledger.evidence(open_row.id)],
            "history": [_history(row) for row in rows],
            "counts": [{"policy": policy.name, "limit": show.limit(policy), "hits": count} for policy, count in counts],
            "seen": [_seen(event) for event in hits],
        }

    @property
    def _watching(self) -> bool:
        """Whether nobody is refused, whatever is decided."""
        return former.carrier(self._daemon.settings) == ""

    def _inside(self, network: Network) -> list[dict[str, Any]]:
        """The bans of what lies in it, but not its own."""
        return [self._row(ban) for ban in self._daemon.judge.within(network) if ban.target.network != network]

    def _sender(self, network: Network) -> str:
        """What is known of it as one who sends us mail."""
        if self._daemon.guard is None or not _single(network):
            return ""
        return self._daemon.guard.about(str(network.network_address), time.time())

    async def _ban(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        seconds = MANUAL if request.get("seconds") is None else float(request["seconds"])
        if not 1 <= seconds <= LONGEST:
            raise ValueError("a ban lasts from one second to ten years")
        note = _note(request)
        sessions = [_network(text) for text in request.get("sessions") or ()]
        refused: list[dict[str, str]] = []
        rules: dict[Target, str] = {}
        ports = self._daemon.settings.ports
        near = {self._daemon.judge.key(str(each.network_address)) for each in sessions}
        for text in request["addresses"]:
            host = _host(text)
            key = None if host is None else self._daemon.judge.key(host)
            if key is not None and key not in near:  # nearly all of a long list: in a twentieth of the time
                rules[Target.named(key, ports)] = "manual"
                continue
            network = self._counted(text, sessions)
            reason, rule = self._protected(network, sessions), "manual"
            if reason and request.get("force") and not _too_wide(network):
                reason, rule = "", FORCED
            if reason:
                refused.append({"address": str(text), "reason": reason})
            else:
                rules[Target(network, ports)] = rule
        now = time.time()
        bans = [Ban(target, rule, now, now + seconds, 0, note=note) for target, rule in rules.items()]
        ended = self._daemon.judge.end_graces(bans)
        for grace in ended:
            self._daemon.ledger.end_grace(grace.network)
        for ban in bans:
            self._daemon.judge.hold(ban)
        self._daemon.decided(bans, now)
        await self._daemon.enforcer.settled()
        return {
            "banned": [self._row(ban) for ban in bans],
            "refused": refused,
            "watching": self._watching,
            "graces": [_grace(each) for each in ended],
            "fault": self._daemon.enforcer.trouble,
        }

    def _counted(self, text: Any, sessions: Sequence[Network] = ()) -> Network:
        """What `text` stands for: a network as it is, an address with what is counted and banned together with it."""
        network = _network(text)
        if "/" in str(text):
            return network
        wide = self._daemon.judge.network(str(network.network_address))
        return network if wide is None or any(each != network and _inside(each, wide) for each in sessions) else wide

    def _protected(self, network: Network, sessions: Sequence[Network]) -> str:
        """Why no ban by hand takes it, "" where one does."""
        if _too_wide(network):
            return f"too wide to ban, at most a /{WIDEST[network.version]}"
        if any(_inside(each, network) for each in sessions):
            return "your own SSH session comes from there"
        if any(network.version == each.version and network.overlaps(each) for each in LOOPBACK):
            return "it is loopback"
        for each in self._daemon.settings.allow:
            if each.version == network.version and network.overlaps(each):
                return f"`allow` has {Target(each, ())}"
        return "it is an address of this host" if self._daemon.judge.spared(network) else ""

    async def _release(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        note = _note(request)
        now, grace = time.time(), request.get("grace")
        if grace is not None and not 1 <= float(grace) <= LONGEST:
            raise ValueError("a grace lasts from one second to ten years")
        kept: dict[Network, None] = {}
        missing: list[str] = []
        found: dict[Target, Ban] = {}
        if request.get("all"):
            found.update(self._daemon.judge.active)
            kept.update((target.network, None) for target in found)
        for text in request.get("addresses") or ():
            network = _network(text)
            kept[self._counted(text)] = None
            covering = self._daemon.judge.covering(network)
            here = [ban for ban in covering if ban.target.network == network]
            if not _single(network):
                here += self._daemon.judge.within(network)
            here = here or covering
            found.update((ban.target, ban) for ban in here)
            if not here:
                missing.append(str(text))
        graces = [] if grace is None else [Grace(network, now, now + float(grace), note) for network in kept]
        if graces and len(graces) + len(self._daemon.judge.graces(now)) > GRACES:
            raise ValueError(f"more graces than the {GRACES:,} that there may be at once; nothing was done")
        self._daemon.judge.grace(graces)
        for each in graces:
            self._daemon.ledger.grace(each)
            log.info("grace for %s for %s: by %s", Target(each.network, ()), show.duration(each.until - now), user)
        self._daemon.end(found, user, note)
        # Somebody who is let out here may still be shut out by a wider ban.
        still = {ban.target: ban for network in kept for ban in self._daemon.judge.covering(network)}
        await self._daemon.enforcer.settled()
        return {
            "released": [str(target) for target in found],
            "missing": missing,
            "still": [self._row(ban) for ban in still.values()],
            "graces": [_grace(each) for each in graces],
            "fault": self._daemon.enforcer.trouble,
        }

    async def _flush(self, request: dict[str, Any], user: str) -> dict[str, Any]:
        bans = dict(self._daemon.judge.active)
        self._daemon.end(bans, user, "flush")
        await self._daemon.enforcer.settled()
        try:
            held = await self._daemon.enforcer.held()
            # What was decided while the kernel answered is a ban of its own.
            self._daemon.enforcer.release(one.target for one in held if one.target not in self._daemon.judge.active)
            await self._daemon.enforcer.settled()
        except ActionError as error:
            raise ValueError(str(error)) from error
        return {"released": len(bans), "fault": self._daemon.enforcer.trouble}


def _note(request: dict[str, Any]) -> str:
    """The admin's note, as text that SQLite, the log and every terminal take, on one line: JSON may hold half a
    surrogate pair, or a terminal's commands."""
    note = str(request.get("note") or "")[:1000].encode("utf-8", "replace").decode()
    return "".join(each if each.isprintable() else " " for each in note)


def _network(text: Any) -> Network:
    words = str(text).strip().removeprefix("[").removesuffix("]")
    try:
        if "%" in words:  # a scope is this host's business, and may be any text
            raise ValueError
        network: Network = ip_network(words)
    except ValueError:
        raise ValueError(f"{words[:100]!r} is no address or network") from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ip_network((mapped, network.prefixlen - 96))


def _host(text: Any) -> str | None:
    """The canonical text of one plain address; None for all else, which _network() may understand."""
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, TypeError, ValueError):
        return None
    return None if packed[:-4] == MAPPED else address_text(packed)


def _too_wide(network: Network) -> bool:
    return network.prefixlen < WIDEST[network.version]


def _inside(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.network_address in outer


def _grace(grace: Grace) -> dict[str, Any]:
    return {
        "address": str(Target(grace.network, ())),
        "since": grace.since,
        "until": grace.until,
        "note": grace.note,
    }


def _single(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _plain(evidence: Any) -> dict[str, Any]:
    return {**evidence, "text": evidence["text"].decode("utf-8", "replace")}


def _seen(event: Event) -> dict[str, Any]:
    """A hit that still counts, with the keys of those that led to a ban."""
    names = ("time", "kind", "address", "filter", "offset", "file", "text")
    return _plain({name: getattr(event, name) for name in names})


def _history(row: Past) -> dict[str, Any]:
    ban = row.ban
    return {
        "address": str(ban.target),
        "ports": list(ban.target.ports),
        "rule": ban.rule,
        "since": ban.since,
        "until": ban.until,
        "hits": ban.hits,
        "note": ban.note,
        "state": row.state,
        "ended": row.ended,
        "end_note": row.end_note,
    }
