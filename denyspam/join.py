"""join: queue id -> client, in both directions; findings in, events out. Pure.

An offence without an address belongs to the client of its queue id, named on an earlier line or a later one: a client
line, or another offence's. (Never a harmless line, though it may name him: most scanners leave these out.) One memory
for all filters and logs, keyed by (host on the line, queue id).

The horizon is measured from the lines, so that the sizes of chunks and the moment of a restart never change an answer:
a client's line counts for an offence at most HOUR after it and REACH bytes further on in the client's log, or at most
HOUR before it. A new client line for an id that has one starts the id afresh: queue ids are reused.
A verdict on a message (virus, spam) or its acceptance, told again for the same (host, id) within HOUR of the last
telling, is the same event. A program's own log names no host (rspamd's beside Postfix' by syslog): there
the id suffices. Refused commands and recipients of one transaction are events each.
Bounded: CLIENTS ids and WAITING offences; above that the oldest is let go (an offence then comes out without address).
Tellings are forgotten once every log has gone HOUR beyond them (or a DAY beyond, for a log that says nothing any more),
PARTS of an hour at once: a telling takes 170 bytes, in an OrderedDict by tuples it took 290.
Events come out in the order in which they become complete.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from denyspam.events import CLIENT, HARMLESS, Event, Finding
from denyspam.hints import ONCE, REACH, Hints, asks

made = tuple.__new__  # an event of the values of another, at a third of what _replace() takes

HOUR, DAY = 3600.0, 86_400.0  # seconds
CLIENTS = 500_000
WAITING = 100_000
SWEEP = 65_536
PARTS = 8
ANY = "any host"  # no host's name holds a blank


class _Client(NamedTuple):
    address: str | None
    time: float
    file: str
    position: int


@dataclass(slots=True, eq=False)
class _Offence:
    """An offence that waits for its client; `finding` is None once it has come out."""

    key: tuple[str, str]
    time: float
    finding: Finding | None


@dataclass(slots=True)
class _Log:
    """How far one log has been read, and its offences that wait, in the order of their lines."""

    time: float = 0.0  # the newest on its lines
    position: int = 0
    offences: deque[_Offence] = field(default_factory=deque)


@dataclass(slots=True)
class _Part:
    """What was told while the log furthest behind went from `begin` to `end`: "ID KIND HOST" -> when it was last."""

    begin: float
    end: float
    told: dict[str, float] = field(default_factory=dict)


class _Told:
    """When verdicts on messages were last told, `capacity` of them at most."""

    def __init__(self, capacity: int) -> None:
        self._most = max(1, capacity // PARTS)  # in a part
        self._parts: deque[_Part] = deque()
        self._nameless = False  # a log without hosts has told something: of the others each telling is noted for it too

    def __iter__(self) -> Iterator[str]:
        """The queue ids."""
        return (text.partition(" ")[0] for part in self._parts for text in part.told)

    def __len__(self) -> int:
        return sum(len(part.told) for part in self._parts)

    def put(self, key: tuple[str, str], kind: str, time: float, behind: float) -> float | None:
        """Note a telling; the time of the one before. `behind`: the time of the log furthest behind."""
        if not key[0] and not self._nameless:
            self._nameless = True
            for part in self._parts:
                part.told |= {f"{text.rpartition(' ')[0]} {ANY}": when for text, when in part.told.items()}
        before = self.pop(key, kind)
        parts = self._parts
        if not parts or behind >= parts[-1].begin + HOUR / PARTS or len(parts[-1].told) >= self._most:
            # By the logs, not by its own time: a line with an old stamp may come late, and so may its next telling.
            while parts and (parts[0].end < behind - HOUR or len(self) > self._most * (PARTS - 1)):
                parts.popleft()
            parts.append(_Part(behind, behind))
        parts[-1].end = max(parts[-1].end, behind)
        parts[-1].told[f"{key[1]} {kind} {key[0]}"] = time
        if self._nameless and key[0]:
            parts[-1].told[f"{key[1]} {kind} {ANY}"] = time
        return before

    def pop(self, key: tuple[str, str], kind: str) -> float | None:
        """Forget its telling, by this host or by a log without hosts; when it was."""
        host, queue_id = key
        found = self._pop(f"{queue_id} {kind} {host}")
        if self._nameless:
            other = self._pop(f"{queue_id} {kind} {ANY}")
            if host:
                other = self._pop(f"{queue_id} {kind} ")
            return other if found is None else found
        return found

    def _pop(self, text: str) -> float | None:
        for part in reversed(self._parts):
            if text in part.told:
                return part.told.pop(text)
        return None


class Join:
    """The memory of queue ids. Feed findings in the order of their lines; `hints` are for their scanners."""

    def __init__(self, clients: int = CLIENTS, waiting: int = WAITING) -> None:
        self._bounds = clients, waiting
        self._clients: OrderedDict[tuple[str, str], _Client] = OrderedDict()  # oldest first
        self.hints = Hints()
        self._sweep = SWEEP  # known ids above which the forgotten ones go
        self._told = _Told(clients)
        self._waiting: dict[tuple[str, str], list[_Offence]] = {}
        self._count = 0  # offences in _waiting
        self._logs: dict[str, _Log] = {}

    @property
    def waiting(self) -> int:
        """Offences whose client is not known yet."""
        return self._count

    @property
    def oldest(self) -> float:
        """The time of the oldest offence that waits; infinite for none."""
        firsts = (next((each for each in log.offences if each.finding), None) for log in self._logs.values())
        return min((first.time for first in firsts if first is not None), default=inf)

    def feed(self, finding: Finding, position: int) -> Sequence[Event]:
        """The events that this finding completes.

        `position` is the line's place in its log as one endless stream: offsets start anew after a rotation, this
        does not.
        """
        time, kind, address, _, queue_id, _, file = finding[:7]
        log = self._logs.get(file)
        if log is None:
            log = self._logs[file] = _Log()
        log.position = position
        if time is None:
            time = log.time
        elif time > log.time:
            log.time = time
        waiting = log.offences
        late = waiting and (waiting[0].finding is None or log.time - waiting[0].time > HOUR)
        lapsed = self._lapse(log) if late else ()
        if queue_id is None:
            if kind == CLIENT:
                settled: Sequence[Event] = ()
            else:
                settled = (finding,) if finding.times == 1 else _settled(finding, address)
        elif not asks(finding):
            settled = _settled(finding, address)
            if self._waiting and kind not in HARMLESS:
                settled = (*self._resolve((finding.host, queue_id), address, time), *settled)
        else:
            text = queue_id.encode()
            if text in self.hints.unread:
                self._ask(text)
            known = self.hints.known
            if len(known) > self._sweep:
                known.clear()
                known.update(each[1].encode() for each in (*self._clients, *self._waiting))
                known.update(each.encode() for each in self._told)
                self._sweep = 2 * len(known) + SWEEP
            known.add(text)
            settled = self._read(finding, queue_id, time, position, log)
        return (*lapsed, *settled) if lapsed else settled

    def _read(self, finding: Finding, queue_id: str, time: float, position: int, log: _Log) -> Sequence[Event]:
        key = (finding.host, queue_id)
        kind, address = finding[1:3]
        if kind == CLIENT:
            before = self._clients.get(key)
            if before is not None and (before[0], before[1]) != (address, time):
                self._afresh(key)
            self._remember(key, made(_Client, (address, time, finding.file, position)))
            return self._resolve(key, address, time)
        resolved = () if address is None or kind in HARMLESS else self._resolve(key, address, time)
        if kind in ONCE and self._told_before(key, kind, time):
            return resolved
        if address is not None:
            return (*resolved, *_settled(finding, address))
        client = self._clients.get(key)
        if client is not None and self._near(client, time):
            return _settled(finding, client.address)
        return () if kind in HARMLESS else self._wait(_Offence(key, time, finding), log)

    def _ask(self, queue_id: bytes) -> None:
        """Read what was put off, as if it had been read in its place: nothing waited for it, nothing was told."""
        for finding, position in self.hints.take(queue_id):
            if finding.queue_id == queue_id.decode():
                log = self._logs.setdefault(finding.file, _Log())
                time = log.time if finding.time is None else finding.time
                self._remember((finding.host, finding.queue_id), _Client(finding.address, time, finding.file, position))

    def flush(self) -> list[Event]:
        """The logs are over: what still waits comes out without an address, log by log in the order of the lines."""
        events: list[Event] = []
        for log in self._logs.values():
            while log.offences:
                events.extend(self._give_up(log))
        return events

    def _near(self, client: _Client, time: float) -> bool:
        return time - client.time <= HOUR and self._logs[client.file].position - client.position <= REACH

    def _remember(self, key: tuple[str, str], client: _Client) -> None:
        self._clients.pop(key, None)
        self._clients[key] = client
        while len(self._clients) > self._bounds[0]:
            self._clients.popitem(last=False)
        # At most two old ones go for each new one, so no single line pays for many. By place, never by time: a line
        # with an old stamp may come late.
        reached = self._logs[client.file].position - REACH
        for _ in range(2):
            oldest, old = next(iter(self._clients.items()))
            if old.file != client.file or old.position >= reached:
                break
            del self._clients[oldest]

    def _afresh(self, key: tuple[str, str]) -> None:
        for kind in ONCE:
            self._told.pop(key, kind)

    def _told_before(self, key: tuple[str, str], kind: str, time: float) -> bool:
        newest = max(log.time for log in self._logs.values())
        behind = min(log.time for log in self._logs.values() if log.time >= newest - DAY)
        last = self._told.put(key, kind, time, behind)
        return last is not None and abs(time - last) <= HOUR

    def _wait(self, offence: _Offence, log: _Log) -> list[Event]:
        self._waiting.setdefault(offence.key, []).append(offence)
        log.offences.append(offence)
        self._count += 1
        events: list[Event] = []
        while self._count > self._bounds[1]:
            events.extend(self._give_up(max(self._logs.values(), key=lambda each: len(each.offences))))
        return events

    def _resolve(self, key: tuple[str, str], address: str | None, time: float) -> Sequence[Event]:
        """What waited for this client."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return ()
        events: list[Event] = []
        for offence in waiting:
            self._count -= 1
            if offence.finding is not None:
                events.extend(_settled(offence.finding, address if time - offence.time <= HOUR else None))
                offence.finding = None
        return events

    def _lapse(self, log: _Log) -> list[Event]:
        """What has waited in this log for more than HOUR of its own time."""
        events: list[Event] = []
        while log.offences and ((first := log.offences[0]).finding is None or log.time - first.time > HOUR):
            events.extend(self._give_up(log))
        return events

    def _give_up(self, log: _Log) -> list[Event]:
        """The log's oldest offence comes out without an address."""
        offence = log.offences.popleft()
        if offence.finding is None:
            return []
        same = self._waiting[offence.key]
        same.remove(offence)
        if not same:
            del self._waiting[offence.key]
        self._count -= 1
        return list(_settled(offence.finding, None))


def _settled(finding: Finding, address: str | None) -> Sequence[Event]:
    """The finding with its address; N times over where its line says so."""
    if finding.times != 1 or finding.address != address:
        return (made(Event, (*finding[:2], address, *finding[3:-1], 1)),) * finding.times
    return (finding,)
