"""policy: events in, bans and releases out. Pure: no clock, no firewall; `now` is an argument.

    decide(event) -> [Ban]      count the event; the bans it completes (one per port list at most)
    expire(now)   -> [Release]  the bans that are over; `deadline` says when to ask next
    recall(event)               count without deciding: for re-reading what was decided on before a restart

The rules: hits are counted per key (the address, or the network it is widened to) and per port list. A ban holds from
the deciding hit's time (inclusive) to `until` (exclusive); hits with a time in between do not count, and a ban forgets
its key's hits of every kind. A ban decided on late hits does not shorten one that holds longer: it is a decision, but
never in force, and no strike where the two overlap. Spared are loopback, the host's own addresses and the allow list;
where a widened network would overlap one of those, the single address is counted and banned instead.
A grace, given by hand, spares a network in the same way for a time: what it had is forgotten, and no hit whose time is
before the grace's end counts, however late it is told.
Bounded: windows by `capacity` keys, and as many bans that are over; evidence by the newest RING events of all keys
together (a ban whose older lines have left the ring still says how many hits it had).
"""

# Every decision to ban or to release is made in this file, and none elsewhere.

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from socket import AF_INET, AF_INET6, inet_pton
from typing import NamedTuple

from denyspam.events import HARMLESS, NO_STRIKE, Ban, Event, Grace, Network, Past, Policy, Release, Target, address_text
from denyspam.window import LATE, Window

RING = 16_384  # events kept as evidence
EVIDENCE = 20  # lines a ban carries at most
TEXT = 1_000  # bytes of a line kept as evidence
ALONE = (None,)  # the widths of policies that all count the address itself, or its /64
USUAL = 65_536  # addresses, of IPv6 most often, whose keys are remembered, an attack's worth: 10 MB
FRESH = 8_192  # more of them are forgotten each minute: to make their keys anew takes two microseconds each
LOOKED = 8_192  # keys, of all windows together, that are looked at for the hottest: ten milliseconds at worst
SERIALS = (1 << 32) - 1  # events are numbered up to this, and then anew
YEAR = 365 * 86_400.0
# 64:ff9b::/48 and 64:ff9b:1::/48 without their last 80 bits: IPv4 clients by NAT64 (RFC 6052, 8215), all in one /64
TRANSLATED = (0x64_FF9B_0000, 0x64_FF9B_0001)
LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


made = tuple.__new__  # a ban of its values, at a third of what the call takes
Key = tuple[str, tuple[int, ...]]  # equal to its Target, and made in a tenth of the time


@dataclass(slots=True, eq=False)
class _Span:
    """A ban in force from `since` to `end`, as hits see it."""

    since: float
    end: float
    strike: bool
    waiting: bool  # remembered, and the re-reading has not come to it yet
    earlier: _Span | None  # of the same target


class Heat(NamedTuple):
    """A key with hits in a policy's window, not banned yet."""

    key: str
    policy: Policy
    hits: int
    first: float  # the time of the oldest of these hits, and of the newest
    last: float
    event: Event | None  # the newest, while it is kept as evidence


class _Counter(NamedTuple):
    """A policy and its window."""

    policy: Policy
    window: Window


class _Plan(NamedTuple):
    """What an event of one kind is counted by, for one port list."""

    ports: tuple[int, ...]
    widths: tuple[int | None, ...]  # that it is counted under, each once
    alone: bool  # these are ALONE
    usual: dict[str, tuple[str, ...]]  # address -> its keys under these, without a grace
    counters: tuple[tuple[int, Policy, Window], ...]  # in the order written; which of `widths` is theirs


Ends = dict[tuple[int, int], dict[int, float]]  # (version, prefix length) -> leading bits -> until when


def _bits(network: Network) -> int:
    return int(network.network_address) >> (network.max_prefixlen - network.prefixlen)


def _numbers(network: Network) -> tuple[int, int, int]:
    return network.version, _bits(network), network.prefixlen


def _until(version: int, bits: int, length: int, ends: Ends) -> float:
    """The latest end of those in `ends` that overlap the network; 0.0 where none does."""
    latest = 0.0
    for (other, prefix), others in ends.items():
        narrower = prefix - length
        if other != version:
            continue
        if narrower <= 0:
            latest = max(latest, others.get(bits >> -narrower, 0.0))
        else:
            latest = max(latest, *(end for one, end in others.items() if one >> narrower == bits), 0.0)
    return latest


def _inside(key: str, network: Network) -> bool:
    """Whether a window's key lies in the network. A millionth of a second: there may be a million."""
    family = AF_INET6 if ":" in key else AF_INET
    if (family == AF_INET6) != (network.version == 6):
        return False
    base = int.from_bytes(inet_pton(family, key.partition("/")[0]), "big")
    return base >> (network.max_prefixlen - network.prefixlen) == _bits(network)


class Judge:
    """Decides. `ports` are the daemon's, for policies that name none; `own` are the host's own addresses."""

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        ports: tuple[int, ...] = (25,),
        allow: Iterable[Network] = (),
        own: Iterable[Network] = (),
        ipv6_prefix: int = 64,
        capacity: int = 1_000_000,
    ) -> None:
        self.policies = tuple(policies)
        self.ports = ports
        # How many times as high the limits are for this address at this time, and at most; asked where one is reached.
        self.lenient: Callable[[str, float], int] | None = None
        self.lenience = 1
        self._ipv6_prefix = ipv6_prefix
        self._capacity = capacity
        self._allow = tuple(allow)
        self._graces: dict[Network, Grace] = {}
        self._grace_ends: Ends = {}
        # By widths, then by address. Plain dicts, emptied when full: a botnet shows each address once, and to note and
        # forget the latest used would take longer than to make its keys.
        self._usual: dict[tuple[int | None, ...], dict[str, tuple[str, ...]]] = {}
        self.spare(own)
        self._all = [_Counter(policy, Window(policy.hits, policy.within, capacity)) for policy in self.policies]
        self._plans: dict[str, list[_Plan]] = {kind: [] for kind in HARMLESS}
        self._windows: dict[tuple[int, ...], list[Window]] = {}
        for counter in self._all:
            self._windows.setdefault(counter.policy.ports or ports, []).append(counter.window)
        longest = max((policy.within for policy in self.policies), default=0.0)
        strikes = (policy.forget or YEAR for policy in self.policies if policy.ceiling is not None)
        self._keep = max(longest + LATE, *strikes, 0.0)
        self._active: dict[Target, Ban] = {}
        self._port_lists: set[tuple[int, ...]] = set()  # of all bans so far; a handful
        self._lengths: set[str] = set()  # the same of prefixes, as their names end; "" is one host
        self._ends: list[tuple[float, Target]] = []  # a heap; every span's ban stands here, and then in `_over`
        self._over: deque[tuple[float, Target]] = deque()  # ends that have passed, the oldest first
        self._spans: dict[Key, _Span] = {}  # the newest of each
        # Remembered, by file and offset of the deciding hit, which is still to come.
        self._unread: dict[tuple[str, int], tuple[tuple[Target, _Span], ...]] = {}
        self._ring: list[Event | None] = [None] * RING
        self._serial = 0
        self._clock = 0.0  # the newest time of any hit

    # --- who is counted -------------------------------------------------------------------------------------------

    def spare(self, own: Iterable[Network]) -> None:
        """The host's own addresses, as they are now."""
        self._own = tuple(own)
        self._spared: Ends = {}
        self._spared_begin: set[str] = set()  # the first numbers of the IPv4 addresses that are spared
        for one in (*LOOPBACK, *self._own, *self._allow):
            self._spared.setdefault((one.version, one.prefixlen), {})[_bits(one)] = inf
            if one.version == 4:
                first, last = one.network_address.packed[0], one.broadcast_address.packed[0]
                self._spared_begin.update(map(str, range(first, last + 1)))
        # By family: how far to the right an address is moved, and what is spared then.
        self._spared_bits = {
            version: [
                (most - length, frozenset(ends)) for (other, length), ends in self._spared.items() if other == version
            ]
            for version, most in ((4, 32), (6, 128))
        }
        for usual in self._usual.values():
            usual.clear()

    def allow(self, networks: Iterable[Network]) -> None:
        """In place of the allow list."""
        self._allow = tuple(networks)
        self.spare(self._own)

    def spared(self, network: Network) -> bool:
        """Whether loopback, an own address or an allowed one lies in `network`, or it in one of them."""
        return _until(*_numbers(network), self._spared) > 0.0

    def spared_target(self, target: Target) -> bool:
        """spared() of its network, for a hundred thousand of them: a fifth of the time, and of most a tenth."""
        name = target[0]
        begin, dot, _ = name.partition(".")
        if dot and begin not in self._spared_begin and "/" not in name:
            return False
        host, _, width = name.partition("/")
        version, family, most = (6, AF_INET6, 128) if ":" in host else (4, AF_INET, 32)
        number = int.from_bytes(inet_pton(family, host), "big")
        if not width:
            return self._spares(version, number)
        length = int(width)
        return _until(version, number >> (most - length), length, self._spared) > 0.0

    def _spares(self, version: int, number: int) -> bool:
        """Of one address, what _until() would say, in a fifth of the time."""
        for low, spared in self._spared_bits[version]:  # noqa: SIM110 - any() takes twice as long
            if number >> low in spared:
                return True
        return False

    def network(self, address: str) -> Network | None:
        """What is counted and banned for this client; None where it is spared."""
        name = self.key(address)
        return None if name is None else ip_network(name)

    def _plan(self, kind: str) -> list[_Plan]:
        """The policies that count this kind, by their port lists."""
        ports: dict[tuple[int, ...], list[_Counter]] = {}
        for counter in self._all:
            if counter.policy.kind in (kind, "any"):
                ports.setdefault(counter.policy.ports or self.ports, []).append(counter)
        plans = []
        for each, counters in ports.items():
            widths = tuple(dict.fromkeys(counter.policy.prefix for counter in counters))
            numbered = tuple((widths.index(policy.prefix), policy, window) for policy, window in counters)
            plans.append(_Plan(each, widths, widths == ALONE, self._usual.setdefault(widths, {}), numbered))
        self._plans[kind] = plans
        return plans

    def _keys(self, address: str, widths: tuple[int | None, ...], time: float) -> Sequence[str]:
        """The address's key for each width; none where it is spared (and then it is under every width)."""
        keys: Sequence[str]
        if widths == ALONE and ":" not in address and address.partition(".")[0] not in self._spared_begin:
            keys = (address,)  # sooner seen than looked up among many
        else:
            keys = self._usual_keys(address, widths)
        if self._grace_ends:
            if self._graced(address, time):
                return ()
            return [address if "/" in key and self._graced(key, time) else key for key in keys]
        return keys

    def _usual_keys(self, address: str, widths: tuple[int | None, ...]) -> tuple[str, ...]:
        """Those while there is no grace, remembered."""
        usual = self._usual[widths]
        keys = usual.get(address)
        if keys is None:
            if len(usual) >= USUAL:
                usual.clear()
            if len(widths) == 1:  # a flood's
                key = self.key(address, widths[0])
                keys = () if key is None else (key,)
            else:
                keys = tuple([key for width in widths if (key := self.key(address, width)) is not None])
            usual[address] = keys
        return keys

    def _graced(self, key: str, time: float) -> bool:
        return time < _until(*_numbers(ip_network(key)), self._grace_ends)

    def key(self, address: str, prefix: int | None = None) -> str | None:
        """network(), as a Target's name. In numbers, since a botnet shows a new address with every line."""
        version, family, most = (6, AF_INET6, 128) if ":" in address else (4, AF_INET, 32)
        number = int.from_bytes(inet_pton(family, address), "big")
        if self._spares(version, number):
            return None
        if version == 6 and number >> 80 in TRANSLATED:
            width = most
        elif version == 6:
            width = prefix if prefix is not None and prefix > 32 else self._ipv6_prefix
        else:
            width = prefix if prefix is not None and prefix <= 32 else 32
        low = most - width
        if not low or _until(version, number >> low, width, self._spared):
            return address
        return f"{address_text((number >> low << low).to_bytes(most // 8, 'big'))}/{width}"

    # --- deciding -------------------------------------------------------------------------------------------------

    def decide(self, event: Event) -> list[Ban]:
        """Count an event; the bans that it completes, one per port list at most."""
        bans: list[Ban] = []
        time, kind, address = event[0], event[1], event[2]
        if time is None or address is None:
            return bans
        plans = self._plans.get(kind)
        for ports, widths, alone, usual, counters in self._plan(kind) if plans is None else plans:
            # As in _keys(), which is called for what is left: a botnet shows a new address with every line.
            own = alone and ":" not in address and address.partition(".")[0] not in self._spared_begin
            keys: Sequence[str] | None = (address,) if own else usual.get(address)
            if keys is None or self._grace_ends:
                keys = self._keys(address, widths, time)
            if not keys:
                break
            if self._banned(keys, ports, time):
                continue
            serial = self._note(event, time)
            best: Ban | None = None
            for at, policy, window in counters:
                serials = window.add(keys[at], time, serial)
                if serials and self.lenient is not None:
                    times = self.lenient(address, time)
                    serials = serials if times == 1 else window.many(keys[at], times)
                if serials:
                    ban = self._ban(policy, made(Target, (keys[at], ports)), event, time, serials)
                    if best is None or ban.until > best.until:
                        best = ban
            if best is not None:
                longer = self._longer(best)
                if longer:
                    self._span(best, best.until, strike=all(span.since >= best.until for span in longer))
                    self._forget(best.target)
                else:
                    self.hold(best)
                bans.append(best)
        return bans

    def counting(self, event: Event) -> list[Policy]:
        """The policies that would count this event: none where it is spared, or its client banned already."""
        time, kind, address = event[:3]
        found: list[Policy] = []
        if time is None or address is None:
            return found
        plans = self._plans.get(kind)
        for ports, widths, _, _, counters in self._plan(kind) if plans is None else plans:
            keys = self._keys(address, widths, time)
            if keys and not self._banned(keys, ports, time):
                found += [policy for _, policy, _ in counters]
        return found

    def holding(self, name: str, time: float) -> bool:
        """Whether a ban of the network of this name is in force at `time`, whatever ports it closes."""
        return any(self._banned((name,), ports, time) for ports in self._windows)

    def _longer(self, ban: Ban) -> list[_Span]:
        """Earlier decisions that hold longer: the ban's hits came late (a join, a backlog), and must not shorten them.

        By the spans, not by what is active: those follow the log alone, so that replay and live agree.
        """
        target = ban.target
        return [span for span in self._known(target) if span.end > ban.until] if target in self._spans else []

    def _ban(self, policy: Policy, target: Target, event: Event, time: float, serials: Sequence[int]) -> Ban:
        duration = policy.duration
        if policy.ceiling is not None:
            since = time - (policy.forget or YEAR)
            strikes = sum(span.strike and span.since >= since for span in self._known(target))
            duration = min(duration * 2.0 ** min(strikes, 64), policy.ceiling)
        ring, newest = self._ring, self._serial
        kept = [serial % RING for serial in serials[-EVIDENCE:] if newest - serial & SERIALS < RING]
        evidence = tuple([one for at in kept if (one := ring[at]) is not None])
        mark = (event.file, event.offset)
        return made(Ban, (target, policy.name, time, time + duration, len(serials), evidence, "", mark))

    def _note(self, event: Event, time: float) -> int:
        """Keep it as evidence; returns its serial number."""
        self._serial = serial = self._serial + 1 & SERIALS
        if time > self._clock:  # noqa: PLR1730 - max() takes five times as long
            self._clock = time
        if len(event[9]) > TEXT:
            event = event._replace(text=event.text[:TEXT])
        self._ring[serial % RING] = event
        return serial

    def _banned(self, keys: Sequence[str], ports: tuple[int, ...], time: float) -> bool:
        for key in keys:
            if (key, ports) in self._spans:
                for span in self._known((key, ports)):
                    if span.since <= time < span.end:
                        return True
        return False

    def _known(self, target: Key) -> Iterator[_Span]:
        """The spans of a target, the newest first. What is forgotten goes by the log's clock alone, never by when
        somebody looked: replay and live agree."""
        span, horizon = self._spans.get(target), self._clock - self._keep
        while span is not None:
            if span.end > horizon:
                yield span
            span = span.earlier

    # --- bans that hold -------------------------------------------------------------------------------------------

    def hold(self, ban: Ban) -> Release | None:
        """Take a ban into force: one of ours, one by hand or one adopted. Returns the end of the one it replaces."""
        target = ban.target
        replaced = Release(target, "replaced") if target in self._active else None
        if target in self._spans:
            self._end(target, ban.since, strike=False)
            self._span(ban, ban.until, strike=True)
        else:
            self._spans[target] = _Span(ban.since, ban.until, True, False, None)
        self._forget(target)
        self._activate(ban)
        return replaced

    def release(self, target: Target, time: float) -> bool:
        """End a ban by hand at `time`: from then on hits count again, and it is no strike. False: not banned."""
        if self._active.pop(target, None) is None:
            return False
        self._end(target, time, strike=False)
        return True

    def expire(self, now: float) -> list[Release]:
        """The bans that are over at `now`."""
        over = []
        while self._ends and self._ends[0][0] <= now:
            self._over.append(heapq.heappop(self._ends))
            until, target = self._over[-1]
            ban = self._active.get(target)
            if ban is not None and ban.until == until:
                del self._active[target]
                over.append(Release(target, "expired"))
        self._forget_spans()
        return over

    def tidy(self, since: float) -> int:
        """Forget whom no hit from `since` on could count any more; how many. For every minute."""
        for usual in self._usual.values():
            if len(usual) > FRESH:  # most are of addresses long gone
                usual.clear()
        return sum(counter.window.tidy(since) for counter in self._all)

    @property
    def deadline(self) -> float | None:
        """When expire() will have something to say; None for never."""
        return self._ends[0][0] if self._ends else None

    @property
    def active(self) -> dict[Target, Ban]:
        """The bans that hold, without evidence and mark. Not to be changed."""
        return self._active

    def covering(self, network: Network) -> list[Ban]:
        """The bans that hold for `network`: its own and those of networks around it, the narrowest first."""
        found = []
        number, most = int(network.network_address), network.max_prefixlen
        lengths = {int(text) if text else most for text in self._lengths}
        # In numbers, and of lengths that there are: ten thousand may be asked for at once.
        for prefix in sorted((one for one in lengths if one <= network.prefixlen), reverse=True):
            low = most - prefix
            name = address_text((number >> low << low).to_bytes(most // 8, "big"))
            key = f"{name}/{prefix}" if low else name
            bans = (self._active.get(Target.named(key, ports)) for ports in self._port_lists)
            found += [ban for ban in bans if ban is not None]
        return found

    def within(self, network: Network) -> list[Ban]:
        """The bans that hold for what lies in `network`, its own among them. A millionth of a second for each ban."""
        return [ban for target, ban in self._active.items() if _inside(target[0], network)]

    def counts(self, address: str, now: float) -> list[tuple[Policy, int]]:
        """Hits of an address in each policy's window up to `now`, where there are any."""
        found = []
        for counter in self._all:
            key = self.key(address, counter.policy.prefix)
            hits = counter.window.count(key, now) if key else 0
            if hits:
                found.append((counter.policy, hits))
        return found

    def hottest(self, now: float, most: int, match: str = "") -> list[Heat]:
        """Those nearest to a ban at `now`, the nearest first, each key once; of keys that contain `match`.

        Looked for among the LOOKED keys hit last, as many of each window, and where `match` is an address that alone:
        in a flood of more strangers than that, one that has been quiet for a while may be missed.
        """
        best: dict[str, tuple[float, float, _Counter]] = {}
        for counter in self._all:
            policy, window = counter
            try:
                exact = self.key(match, policy.prefix)
            except (OSError, ValueError):
                exact = None
            if exact is not None:
                hits = window.hits_of(exact, now)
                found: Iterable[tuple[str, int, float]] = [(exact, len(hits), hits[-1][0])] if hits else ()
            else:
                found = (each for each in window.newest(LOOKED // len(self._all), now) if match in each[0])
            for key, count, last in found:
                near = count / policy.hits
                if key not in best or (near, last) > best[key][:2]:
                    best[key] = near, last, counter
        nearest = heapq.nlargest(most, best.items(), key=lambda each: each[1][:2])
        return [self._heat(key, counter, now) for key, (_, _, counter) in nearest]

    def _heat(self, key: str, counter: _Counter, now: float) -> Heat:
        hits = counter.window.hits_of(key, now)
        (first, _), (last, serial) = hits[0], hits[-1]
        return Heat(key, counter.policy, len(hits), first, last, self._kept(serial))

    def hits(self, address: str, now: float) -> list[Event]:
        """What is kept of an address's hits in all windows up to `now`, by time, each once; the newest EVIDENCE."""
        found: dict[int, float] = {}
        for policy, window in self._all:
            key = self.key(address, policy.prefix)
            if key:
                found.update((serial, time) for time, serial in window.hits_of(key, now))
        newest = sorted(found, key=lambda serial: found[serial])[-EVIDENCE:]
        return [event for serial in newest if (event := self._kept(serial)) is not None]

    def _kept(self, serial: int) -> Event | None:
        """An event by its serial number, while it is in the ring."""
        return self._ring[serial % RING] if self._serial - serial & SERIALS < RING else None

    @property
    def memory(self) -> float:
        """Seconds for which a past ban still matters: to late hits, and as a strike."""
        return self._keep

    @property
    def tracked(self) -> int:
        """Keys with hits in a window, over all policies."""
        return sum(len(counter.window) for counter in self._all)

    def _activate(self, ban: Ban) -> None:
        target, rule, since, until, hits, _, note, _ = ban
        self._active.pop(target, None)  # so that the newest stands last
        self._active[target] = made(Ban, (target, rule, since, until, hits, (), note, None))
        self._port_lists.add(target[1])
        self._lengths.add(target[0].partition("/")[2])
        heapq.heappush(self._ends, (until, target))

    def _span(self, ban: Ban, end: float, *, strike: bool, waiting: bool = False) -> _Span:
        target = ban.target
        earlier = self._spans.get(target)
        if earlier is not None:
            kept = list(self._known(target))[:64]  # doubling is at its ceiling long before
            for newer, older in zip(kept, [*kept[1:], None], strict=False):
                newer.earlier = older
            earlier = kept[0] if kept else None
        span = self._spans[target] = _Span(ban.since, end, strike, waiting, earlier)
        return span

    def _forget_spans(self) -> None:
        """Those that matter no more, and above the capacity the stalest; never one of a ban that holds."""
        horizon = self._clock - self._keep
        while self._over and (self._over[0][0] <= horizon or len(self._spans) > self._capacity):
            until, target = self._over.popleft()
            if all(span.end <= max(horizon, until) for span in self._known(target)):
                self._spans.pop(target, None)

    def _end(self, target: Target, time: float, *, strike: bool) -> None:
        for span in self._known(target):
            if span.end > time:
                span.end = time
                span.strike = strike

    def _forget(self, target: Key) -> None:
        key, ports = target
        for window in self._windows.get(ports, ()):
            window.forget(key)

    # --- graces -------------------------------------------------------------------------------------------------------

    def grace(self, graces: Sequence[Grace]) -> None:
        """Until their ends no hit of these networks counts, and those that they had are forgotten."""
        oldest = max((grace.since for grace in graces), default=0.0) - self._keep
        kept = (grace for grace in self._graces.values() if grace.until > oldest)
        self._take_graces({grace.network: grace for grace in (*kept, *graces)})
        self._forget_graced([grace.network for grace in graces])

    def _forget_graced(self, networks: Sequence[Network]) -> None:
        prefixes = {policy.prefix for policy in self.policies if policy.prefix} | {32, 128, self._ipv6_prefix}
        windows = [counter.window for counter in self._all]
        for network in networks:
            around = (network.supernet(new_prefix=n) for n in prefixes if n <= network.prefixlen)
            keys = {str(Target(each, ())) for each in around}
            if network.prefixlen < network.max_prefixlen:
                keys.update(key for window in windows for key in window if _inside(key, network))
            for window in windows:
                for key in keys:
                    window.forget(key)

    def end_graces(self, bans: Iterable[Ban]) -> list[Grace]:
        """A ban by hand overrides: the graces of networks that lie in one of these end. Those that did."""
        if not self._graces:
            return []
        banned = {ban.target.network for ban in bans}
        ended = {
            network: grace
            for network, grace in self._graces.items()
            if any(network.supernet(new_prefix=n) in banned for n in range(network.prefixlen + 1))
        }
        self._take_graces({network: grace for network, grace in self._graces.items() if network not in ended})
        return list(ended.values())

    def graces(self, now: float, network: Network | None = None) -> list[Grace]:
        """Those that have not ended, the next to end first; of what `network` lies in, or all."""
        found = [grace for grace in self._graces.values() if now < grace.until]
        if network is not None:
            around = {network.supernet(new_prefix=n) for n in range(network.prefixlen + 1)}
            found = [grace for grace in found if grace.network in around]
        return sorted(found, key=lambda grace: grace.until)

    def _take_graces(self, graces: dict[Network, Grace]) -> None:
        self._graces, self._grace_ends = graces, {}
        for network, grace in graces.items():
            self._grace_ends.setdefault((network.version, network.prefixlen), {})[_bits(network)] = grace.until

    # --- after a restart: the log and the ledger instead of saved counters -------------------------------------------

    def remember(self, bans: Iterable[Past], graces: Iterable[Grace] = (), met: int = -1) -> None:
        """What the ledger knows, oldest first, before the log is re-read with recall(): in place of all that was known
        of bans and graces. Of the bans numbered up to `met` the deciding hits have been read already."""
        self._spans, self._active, self._ends, self._over, self._unread = {}, {}, [], deque(), {}
        spans, active, ends = self._spans, self._active, self._ends
        for ban, ended, state, number, _ in bans:  # there may be a million
            target, rule, since, until, hits, evidence, note, mark = ban
            end = until if ended is None or until < ended else ended
            strike, waiting = state not in NO_STRIKE, number > met
            if target in spans:
                span = self._span(ban, end, strike=strike, waiting=waiting)
            else:
                span = spans[target] = _Span(since, end, strike, waiting, None)
            if mark is not None and waiting:
                self._unread[mark] = (*self._unread.get(mark, ()), (target, span))
            ends.append((end, target))
            if ended is None:
                plain = mark is None and not evidence
                active[target] = ban if plain else made(Ban, (target, rule, since, until, hits, (), note, None))
        heapq.heapify(ends)
        self._port_lists.update({target[1] for target in active})
        self._lengths.update({target[0].partition("/")[2] for target in active})
        before = self._graces
        self._take_graces({grace.network: grace for grace in graces})
        self._forget_graced([network for network, grace in self._graces.items() if before.get(network) != grace])

    def recall(self, event: Event) -> None:
        """Count an event that was decided on before the restart: bans come from remember(), none is made here."""
        time = event.time
        if time is None or event.address is None:
            return
        # Of the same time, too: a rotated file of the same name has an event at that offset now and then.
        decided = self._unread.get((event.file, event.offset), ())
        for target, span in decided:
            if span.since == time:
                self._apply(target, span)
        plans = self._plans.get(event.kind)
        for ports, widths, _, _, counters in self._plan(event.kind) if plans is None else plans:
            keys = self._keys(event.address, widths, time)
            for key in keys:
                for span in list(self._known((key, ports))):
                    if span.since < time:
                        self._apply((key, ports), span)
            if not keys or self._banned(keys, ports, time):
                continue
            serial = self._note(event, time)
            for at, _, window in counters:
                if window.add(keys[at], time, serial):
                    window.trim(keys[at], self.lenience)

    def settle(self) -> None:
        """Everything up to the last position is read: what was remembered and not met in the log holds now."""
        for ports, windows in self._windows.items():
            for target in {(key, ports) for window in windows for key in window if (key, ports) in self._spans}:
                for span in self._known(target):
                    self._apply(target, span)
        self._unread.clear()

    def _apply(self, target: Key, span: _Span) -> None:
        if span.waiting:
            span.waiting = False
            self._forget(target)
