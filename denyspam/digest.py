"""digest: what people are to be told, gathered until it is sent. Pure.

    digest.bans(bans, reasons, now)      new bans, as they are decided
    digest.withhold(count, now)          bans that were decided and not carried out
    digest.change(change, now)           an alarm's begin or end
    digest.before(older)                 what could not be sent then goes out with this one
    digest.subject(host), digest.text(host, mode, zone), digest.data(host, mode)

However much is told, it stays small: bans are counted by policy, the TOP addresses listed that were banned most often
or for most hits, the latest ALARMS changes kept; what was left out is counted. Of a burst no more than LOOKED bans a
call are looked at closer than by their policy.
Log text stands in the lists alone, as plain ASCII of one line (alarms.escaped): it can neither make a header, nor end a
message, nor become a link. `text` of data(), which chat services render, has none at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from itertools import islice
from typing import Any

from denyspam import show
from denyspam.alarms import Alarm, Change, escaped
from denyspam.events import Ban

TOP = 20
KEPT = 500  # addresses of which the TOP are chosen
LOOKED = 500
LINE = 400  # bytes of a log line
ALARMS = 50
RULES = 50


@dataclass(slots=True)
class Address:
    """One address in a digest."""

    bans: int
    hits: int
    rule: str
    reason: str
    since: float
    until: float
    line: bytes  # the deciding one, or b""


class Digest:
    def __init__(self) -> None:
        self.began: float | None = None  # when the first of it was told; epoch seconds
        self.ended = 0.0
        self.count = 0  # bans
        self.withheld = 0
        self.row = 0  # the newest of the ledger when the last of these bans was told of
        self.lost = 0  # alarms' changes that were left out
        self._rules: Counter[str] = Counter()
        self._addresses: dict[str, Address] = {}
        self._changes: list[Change] = []

    def __bool__(self) -> bool:
        return self.began is not None

    def bans(self, bans: Sequence[Ban], reasons: Mapping[str, str], now: float) -> None:
        self._at(now)
        self.count += len(bans)
        self._rules.update([ban.rule for ban in bans])
        for ban in islice(bans, LOOKED):
            line = ban.evidence[-1].text[:LINE] if ban.evidence else b""
            reason = reasons.get(ban.rule, ban.rule)
            self._add(ban.target.name, Address(1, ban.hits, ban.rule, reason, ban.since, ban.until, line))
        self._bound()

    def withhold(self, count: int, now: float) -> None:
        self._at(now)
        self.withheld += count

    def change(self, change: Change, now: float) -> None:
        self._at(now)
        self._changes.append(change)
        self._bound()

    def before(self, older: Digest) -> None:
        """Take in what was told before this."""
        if older.began is None:
            return
        self._at(older.began)
        self.ended = max(self.ended, older.ended)
        self.count += older.count
        self.withheld += older.withheld
        self.row = max(self.row, older.row)
        self.lost += older.lost
        self._rules.update(older._rules)
        self._changes[:0] = older._changes
        newer, self._addresses = self._addresses, dict(older._addresses)
        for name, one in newer.items():
            self._add(name, one)
        self._bound()

    def _at(self, now: float) -> None:
        self.began = now if self.began is None else min(self.began, now)
        self.ended = max(self.ended, now)

    def _add(self, name: str, one: Address) -> None:
        known = self._addresses.get(name)
        if known is not None:
            one.bans, one.hits = one.bans + known.bans, one.hits + known.hits
            one.since = known.since
        self._addresses[name] = one

    def _bound(self) -> None:
        if len(self._addresses) > 2 * KEPT:
            self._addresses = dict(self._worst(KEPT))
        if len(self._changes) > ALARMS:
            self.lost += len(self._changes) - ALARMS
            del self._changes[:-ALARMS]
        if len(self._rules) > RULES:  # from policies of many configurations
            self._rules = Counter(dict(self._rules.most_common(RULES)))

    def _worst(self, count: int) -> list[tuple[str, Address]]:
        return sorted(self._addresses.items(), key=lambda each: (-each[1].bans, -each[1].hits))[:count]

    # --- what is told -------------------------------------------------------------------------------------------------

    def subject(self, host: str) -> str:
        """denyspam on mx: 12 bans, alarm log-stopped"""
        words = [show.count(self.count, "ban")] if self.count else []
        words += [f"{self.withheld} withheld"] if self.withheld else []
        begun = [change.alarm.name for change in self._changes if change.ended is None]
        over = len(self._changes) - len(begun)
        words += [f"alarm {name}" for name in dict.fromkeys(begun)][:3]
        words += [f"{show.count(over, 'alarm')} over"] if over else []
        return escaped(f"denyspam on {host}: {', '.join(words)}", 150)

    def text(self, host: str, mode: str, zone: tzinfo) -> str:
        """The whole, for people: plain ASCII, no line longer than some 400 characters."""
        lines = [self.subject(host), ""]
        for alarm, ended in self._changes:
            lines += [*_alarm(alarm, ended, zone), ""]
        if self.lost:
            lines += [f"{show.count(self.lost, 'earlier change')} of alarms left out; the log has them.", ""]
        if self.withheld:
            lines += [f"{show.count(self.withheld, 'ban')} withheld; `denyspam list --withheld` tells why.", ""]
        if self.count:
            would = " that mode = watch did not carry out" if mode == "watch" else ""
            span = f"{show.moment(self.began, zone)} to {show.moment(self.ended, zone)}"
            lines += [f"{show.count(self.count, 'ban')}{would}, {span}:"]
            lines += [f"  {count:>8}  {escaped(rule)}" for rule, count in self._rules.most_common()]
            lines += ["", "Most often banned, or for most hits:"]
            for name, one in self._worst(TOP):
                often = f"{one.bans} times, " if one.bans > 1 else ""
                until = show.moment(one.until, zone)
                hits = show.count(one.hits, "hit")
                lines.append(f"  {name}  {often}{hits}, {escaped(one.reason)}, until {until}")
                if one.line:
                    lines.append(f"      {escaped(one.line)}")
            if len(self._addresses) > TOP:
                lines.append("  and others; `denyspam list` has those that hold.")
            lines += ["", "`denyspam why ADDRESS` tells why, `denyspam release ADDRESS` lifts a ban."]
        return "\n".join(lines).rstrip() + "\n"

    def data(self, host: str, mode: str) -> dict[str, Any]:
        """The same for programs. `text` is the subject and the alarms, for services that show a `text`."""
        begun = [f"alarm {alarm}: {alarm.text}" for alarm, ended in self._changes if ended is None]
        over = [f"over: {alarm}" for alarm, ended in self._changes if ended is not None]
        return {
            "text": "\n".join(escaped(one, 500) for one in (self.subject(host), *begun[:10], *over[:10])),
            "program": "denyspam",
            "host": host,
            "mode": mode,
            "from": self.began,
            "to": self.ended,
            "bans": self.count,
            "withheld": self.withheld,
            "policies": dict(self._rules),
            "addresses": [
                {
                    "address": name,
                    "bans": one.bans,
                    "hits": one.hits,
                    "policy": one.rule,
                    "since": one.since,
                    "until": one.until,
                    "line": escaped(one.line),
                }
                for name, one in self._worst(TOP)
            ],
            "alarms": [
                {
                    "name": alarm.name,
                    "subject": alarm.subject,
                    "since": alarm.since,
                    "ended": ended,
                    "text": alarm.text,
                    "samples": list(alarm.samples),
                }
                for alarm, ended in self._changes
            ],
        }


def _alarm(alarm: Alarm, ended: float | None, zone: tzinfo) -> list[str]:
    name = escaped(str(alarm))
    if ended is not None:
        return [f"OVER since {show.moment(ended, zone)}, after {show.duration(ended - alarm.since)}: {name}"]
    text = f"ALARM since {show.moment(alarm.since, zone)}: {name}"
    return [text, f"    {escaped(alarm.text, 900)}", *(f"    for example: {sample}" for sample in alarm.samples)]
