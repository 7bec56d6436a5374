"""iptables: bans as elements of ipsets, refused by a few rules in chains of its own; for hosts that stand on iptables.

    chain denyspam-in      -p tcp -m multiport --dports 25 -m set --match-set denyspam-4-32-25 src -j REJECT …
    chain denyspam-out     … --sports 25 … --match-set denyspam-4-32-25 dst, but no resets: hooks forward and output
    INPUT                  -j denyspam-in, as its first rule (FORWARD and OUTPUT where asked for)

One set and one rule for each family, width and port list, however many are banned. The sets' elements carry timeouts,
so bans end by themselves when the daemon is dead. Rules go in by python-iptables (the extra `iptables`; only legacy
tables), sets by the program `ipset`, one `restore` a batch on its standard input: nothing but printed addresses and
numbers ever stands in that text.

Rules are changed as iptables(8) itself does it: under the lock /run/xtables.lock, read anew, changed in memory,
committed once; tried again where another program was faster. The library may end a process that it does not suit, so
`start` first tries it in another one.

The protocol with the caller is that of `nftables.py`. Limits: one thread. An ipset's timeout ends after 24.8 days: a
longer ban goes in with that, and `tend` (to be called now and then) arms it again once a day; after a restart the
caller sees what is left and bans again. Timeouts are whole seconds, rounded up. A ban costs one spawned `ipset`, 2 to
5 ms. There is no hook `prerouting`, where iptables cannot refuse. Where somebody flushes the rules nobody announces it:
`start` mends.
"""

from __future__ import annotations

import fcntl
import importlib
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from denyspam.events import ActionError, Ban, Held, Network, Target

from . import _ruleset as ruleset
from ._ruleset import Refused, Store

LOCK = "/run/xtables.lock"
IN, OUT = "denyspam-in", "denyspam-out"
HOOKS = {"input": (IN,), "forward": (IN, OUT), "output": (OUT,)}
VERDICTS: dict[str, dict[int, Any]] = {  # verdict -> family -> target
    "tcp reset": {
        4: {"REJECT": {"reject-with": "tcp-reset"}},
        6: {"REJECT": {"reject-with": "tcp-reset"}},
    },
    "reject": {
        4: {"REJECT": {"reject-with": "icmp-port-unreachable"}},
        6: {"REJECT": {"reject-with": "icmp6-port-unreachable"}},
    },
    "drop": {4: "DROP", 6: "DROP"},
}
DAY = 86_400.0
LONGEST = 2_147_483  # seconds that an ipset's timeout may have
NAME = re.compile(r"denyspam-([46])-(\d{1,3})-(\d{1,5}(?:\.\d{1,5})*)")
NAME_LIMIT = 31  # characters of an ipset's name
ATTEMPTS = 100  # commits, each after somebody else's
PATIENCE = 30  # seconds for another program to let go of the lock, and for the self test
TEST = "from denyspam.actions import iptables; iptables._try()"

Rule = dict[str, Any]


class Iptables:
    """The five verbs, `tend`, `holds` and `counters`, on ipsets. ValueError for a word that is none of the tables'."""

    def __init__(
        self,
        *,
        ports: tuple[int, ...],
        ipv6_prefix: int = 64,
        verdict: str = "tcp reset",
        hooks: tuple[str, ...] = ("input",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if verdict not in VERDICTS:
            raise ValueError(f"verdict {verdict!r}: one of {', '.join(VERDICTS)}")
        for hook in hooks:
            if hook not in HOOKS:
                raise ValueError(f"hook {hook!r}: iptables refuses in {', '.join(HOOKS)}; nftables also in prerouting")
        if not hooks:
            raise ValueError(f"no hook: at least one of {', '.join(HOOKS)}")
        self._verdict, self._hooks, self._clock = verdict, tuple(dict.fromkeys(hooks)), clock
        self._default = list(dict.fromkeys((Store(4, 32, ports), Store(6, ipv6_prefix, ports), Store(6, 128, ports))))
        for store in self._default:
            _check(store)
        self._known: set[Store] | None = None  # the sets that have their rules; None before start()
        self._suited = False  # the self test has passed: once is enough
        self._armed = self._clock()
        self._long: dict[Target, float] = {}  # the ends, by `clock`, of those that a timeout cannot hold

    def start(self) -> list[Held]:
        """Makes or mends sets, chains and rules, and returns what the sets hold."""
        self._look()
        stores, broken = _saved()
        wanted = [*self._default, *(store for store in stores if store not in self._default)]
        if broken:  # a set in use cannot be destroyed
            self._rules([store for store in wanted if _name(store) not in broken])
            _ipset("".join(f"destroy {name}\n" for name in broken))
        _ipset("".join(map(_create, wanted)))
        self._rules(wanted)
        self._known = set(wanted)
        return self._held(stores)

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Closes each ban's ports until its end; `now` in epoch seconds. A ban that is over already is no ban."""
        known = self._started()
        groups: dict[Store, dict[str, int]] = {}
        for ban in bans:
            left = ban.until - now
            if left > 0:
                self._long.pop(ban.target, None)
                if left > LONGEST:
                    self._long[ban.target] = self._clock() + left
                store = ruleset.store_of(ban.target)
                elements = groups.setdefault(store, {})
                elements.update(dict.fromkeys(_elements(ban.target.network), math.ceil(min(left, LONGEST))))
        new = [store for store in groups if store not in known]
        if new:
            for store in new:
                _check(store)
            _ipset("".join(map(_create, new)))
            self._rules([*self._default, *(known - set(self._default)), *new])
            known.update(new)
        _all(groups, lambda name, elements: "".join(f"add {name} {e} timeout {t:d}\n" for e, t in elements.items()))

    def release(self, targets: Iterable[Target]) -> None:
        """Opens them at once. One that is not held is released already."""
        known = self._started()
        groups: dict[Store, dict[str, int]] = {}
        for target in targets:
            self._long.pop(target, None)
            store = ruleset.store_of(target)
            if store in known:
                groups.setdefault(store, {}).update(dict.fromkeys(_elements(target.network), 0))
        _all(groups, lambda name, elements: "".join(f"del {name} {element}\n" for element in elements), absent=True)

    def held(self) -> list[Held]:
        """What the sets hold now. 100,000 take about a second: not to be asked often."""
        return self._held(_saved()[0])

    def stop(self, keep: bool) -> None:
        """Lets go of everything; without `keep` takes the rules and the sets away, and with them every ban."""
        if not keep:
            self._look()
            stores, broken = _saved()
            self._rules(None)
            _ipset("".join(f"destroy {name}\n" for name in [*map(_name, stores), *broken]))
        self._known = None
        self._long.clear()

    def tend(self, now: float) -> None:
        """Arms again, once a day, what has longer to go than a timeout can hold; `now` is not used."""
        clock = self._clock()
        if clock - self._armed < DAY:
            return
        self._long = {target: end for target, end in self._long.items() if end > clock}
        self.ban([Ban(target, "", 0.0, end - clock, 0) for target, end in self._long.items()], 0.0)
        self._armed = clock

    def holds(self, target: Target) -> bool:
        """Whether the set holds exactly this target now: one spawned program."""
        store = ruleset.store_of(target)
        if not _possible(store):
            return False
        done = _run(["ipset", "test", _name(store), next(_elements(target.network))], "")
        if done.returncode and "is NOT in set" not in done.stderr and "does not exist" not in done.stderr:
            raise _refusal(done.stderr)
        return done.returncode == 0

    def counters(self) -> list[Refused]:
        """Packets and bytes refused, by set, since its rule was made. From the thread of the other verbs."""
        counted: dict[Store, tuple[int, int]] = {}
        with _locked():
            for table in _tables().values():
                table.refresh()
                for name in (IN, OUT):
                    for rule in _module().Chain(table, name).rules if table.is_chain(name) else ():
                        store = _store_named(_decoded(rule).get("set", {}).get("match-set", [""])[0])
                        if store:
                            packets, octets = counted.get(store, (0, 0))
                            more = rule.get_counters()
                            counted[store] = (packets + more[0], octets + more[1])
                table.close()
        return [Refused(*store, *counts) for store, counts in counted.items()]

    def _look(self) -> None:
        if not self._suited:
            _suits()
            self._suited = True

    def _started(self) -> set[Store]:
        if self._known is None:
            self.start()
        assert self._known is not None  # noqa: S101 - for the type checker
        return self._known

    def _held(self, stores: dict[Store, dict[Network, float | None]]) -> list[Held]:
        clock = self._clock()
        found = []
        for store, elements in stores.items():
            for network, left in elements.items():
                target = Target(network, store.ports)
                end = self._long.get(target)
                found.append(Held(target, left if end is None else end - clock))
        return found

    def _rules(self, stores: Sequence[Store] | None) -> None:
        """Chains, rules and jumps for these sets; None: nothing of ours is left. What is right already stays as it is,
        and keeps its counters."""
        for version in (4, 6):
            own = None if stores is None else [store for store in stores if store.version == version]
            with _locked():
                self._commit(version, own)

    def _commit(self, version: int, stores: Sequence[Store] | None) -> None:
        table, failure = _tables()[version], _module().IPTCError
        for _ in range(ATTEMPTS):
            try:
                table.refresh()
                if self._staged(table, version, stores):
                    table.commit()
                return
            except failure as error:
                if "temporarily unavailable" not in str(error):
                    raise _refusal(str(error)) from error
            finally:
                table.close()  # the next refresh begins anew, without what was staged
        raise ActionError("iptables: the rules change all the time")

    def _staged(self, table: Any, version: int, stores: Sequence[Store] | None) -> bool:
        """Whether anything had to be changed."""
        changed = False
        used = {chain for hook in self._hooks for chain in HOOKS[hook]} if stores is not None else set()
        for hook, chains in HOOKS.items():
            wanted = [name for name in chains if stores is not None and hook in self._hooks]
            changed |= _jumps(table, version, hook.upper(), wanted)
        for name in (IN, OUT):
            if name in used:
                changed |= _fill(table, version, name, [self._rule(store, name) for store in stores or ()])
            elif table.is_chain(name):
                table.flush_entries(name)
                table.delete_chain(name)
                changed = True
        return changed

    def _rule(self, store: Store, chain: str) -> Rule:
        ports = ",".join(f"{port:d}" for port in store.ports)
        rule: Rule = {"protocol": "tcp", "target": VERDICTS[self._verdict][store.version]}
        if chain == IN:
            return rule | {"multiport": {"dports": ports}, "set": {"match-set": [_name(store), "src"]}}
        resets = {"tcp-flags": ["!", "RST", "RST"]}
        return rule | {"tcp": resets, "multiport": {"sports": ports}, "set": {"match-set": [_name(store), "dst"]}}


def _jumps(table: Any, version: int, hook: str, wanted: Sequence[str]) -> bool:
    """Has a built-in chain begin with these jumps, and hold no other to chains of ours."""
    found = []
    entry = table.first_rule(hook)
    while entry:
        found.append(table.get_target(entry).decode("ascii", "replace"))
        entry = table.next_rule(entry)
    if found[: len(wanted)] == list(wanted) and not {IN, OUT} & set(found[len(wanted) :]):
        return False
    chain = _module().Chain(table, hook)
    for name in found:
        if name in (IN, OUT):
            chain.delete_rule(_encoded({"target": name}, version))
    for name in reversed(wanted):
        if not table.is_chain(name):
            table.create_chain(name)
        chain.insert_rule(_encoded({"target": name}, version))
    return True


def _fill(table: Any, version: int, name: str, rules: Sequence[Rule]) -> bool:
    if not table.is_chain(name):
        table.create_chain(name)
    chain = _module().Chain(table, name)
    if [_decoded(rule) for rule in chain.rules] == rules:
        return False
    table.flush_entries(name)
    for rule in rules:
        chain.append_rule(_encoded(rule, version))
    return True


def _tables() -> dict[int, Any]:
    """Version -> the filter table, not read yet."""
    iptc = _module()
    return {4: iptc.Table("filter", autocommit=False), 6: iptc.Table6("filter", autocommit=False)}


def _module() -> Any:
    iptc: Any = importlib.import_module("iptc")  # an extra, and only this action's
    # To tell a chain's name from a target's the library looks into every table, and thereby has the kernel load them
    # all; the nat table alone would start connection tracking. Ours is the filter table.
    for table in iptc.Table, iptc.Table6:
        table.existing_table_names.update({name: name == "filter" for name in table.ALL})
    return iptc


def _encoded(rule: Rule, version: int) -> Any:
    """The library's rule. Its own encoder leaves out what it cannot do, and says nothing."""
    made = (_module().Rule if version == 4 else _module().Rule6)()
    for name, value in rule.items():
        if name == "protocol":
            made.protocol = value
        elif name == "target":
            target, words = (value, {}) if isinstance(value, str) else next(iter(value.items()))
            _say(made.create_target(target), words)
        else:
            _say(made.create_match(name), value)
    return made


def _say(part: Any, words: Rule) -> None:
    for word, value in words.items():
        setattr(part, word.replace("-", "_"), value)


def _decoded(rule: Any) -> Rule:
    easy: Any = importlib.import_module("iptc.easy")
    found: Rule = easy.decode_iptc_rule(rule, ipv6=isinstance(rule, _module().Rule6))
    found.pop("counters", None)
    return found


def _try() -> None:
    """What the self test runs in a process of its own: everything but the commit."""
    rule = Iptables(ports=(25,))._rule
    for version, table in _tables().items():
        table.refresh()
        table.create_chain("denyspam-test")
        made = rule(Store(version, 32, (25,)), IN)
        del made["set"]  # there is none yet
        _encoded(made, version)
        table.close()


@contextmanager
def _locked() -> Iterator[None]:
    try:
        lock = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ActionError(f"iptables: {LOCK} cannot be opened: {error.strerror}", permanent=True) from error
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise ActionError(f"iptables: another program holds {LOCK} for {PATIENCE} s") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(lock)


def _suits() -> None:
    """Raises, with a sentence for the admin, where this host is not one for this action."""
    done = _run(["iptables", "--version"], "")
    if "nf_tables" in done.stdout and not _legacy():
        raise ActionError(
            "iptables: this host's iptables is the nf_tables variant, which python-iptables cannot see; "
            "write `action = nftables`",
            permanent=True,
        )
    done = _run([sys.executable, "-c", TEST], "")
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        if "No module named 'iptc'" in last[0]:
            last = ["python-iptables is missing: install the extra `denyspam[iptables]`"]
        raise ActionError(f"iptables: python-iptables does not work here: {last[0][:200]}", permanent=True)


def _legacy() -> bool:
    """Whether somebody uses the legacy filter table in this network namespace."""
    try:
        with open("/proc/net/ip_tables_names", encoding="ascii") as names:
            return "filter\n" in names.readlines()
    except OSError:
        return False


def _name(store: Store) -> str:
    return f"denyspam-{store.version:d}-{store.width:d}-" + ".".join(f"{port:d}" for port in store.ports)


def _store_named(name: str) -> Store | None:
    match = NAME.fullmatch(name)
    if match is None:
        return None
    store = Store(int(match[1]), int(match[2]), tuple(map(int, match[3].split("."))))
    return store if _name(store) == name and _possible(store) else None


def _possible(store: Store) -> bool:
    return ruleset.valid(store) and len(_name(store)) <= NAME_LIMIT


def _check(store: Store) -> None:
    if not _possible(store):
        raise ValueError(f"no set can be made for {store}")


def _shape(store: Store) -> str:
    kind = "hash:ip" if store.width == ruleset.WIDEST[store.version] else "hash:net"
    return f"{kind} family inet{'' if store.version == 4 else '6'}"


def _create(store: Store) -> str:
    return f"create {_name(store)} {_shape(store)} maxelem {ruleset.SIZE:d} timeout 0\n"


def _elements(network: Network) -> Iterator[str]:
    """As ipset wants it: a host, a network, or two halves, since it has no prefix of length 0."""
    text = ruleset.element(network)
    width = network.prefixlen
    if width == network.max_prefixlen:
        yield text
    elif width:
        yield f"{text}/{width:d}"
    else:
        yield from ("0.0.0.0/1", "128.0.0.0/1") if network.version == 4 else ("::/1", "8000::/1")


def _saved() -> tuple[dict[Store, dict[Network, float | None]], list[str]]:
    """The elements of every set of ours with the seconds they have left, and the names of sets of another shape."""
    done = _run(["ipset", "save"], "")
    if done.returncode:
        raise _refusal(done.stderr)
    stores: dict[Store, dict[Network, float | None]] = {}
    named: dict[str, Store] = {}
    broken = []
    for line in done.stdout.splitlines():
        verb, name, rest = line.split(" ", 2)
        if verb == "create":
            store = _store_named(name)
            if store and rest.startswith(_shape(store)) and " timeout " in rest:
                named[name] = store
                stores[store] = {}
            elif name.startswith("denyspam-"):
                broken.append(name)
        elif name in named:
            store = named[name]
            text, _, left = rest.partition(" timeout ")
            network: Network = ip_network(text)
            if not store.width:
                network = IPv4Network("0.0.0.0/0") if store.version == 4 else IPv6Network("::/0")
            if network.prefixlen == store.width:
                stores[store][network] = float(left) if left and left != "0" else None
    return stores, broken


def _all(groups: dict[Store, dict[str, int]], text: Callable[[str, dict[str, int]], str], absent: bool = False) -> None:
    """One set a program, so that a full one keeps nothing out of the others; the first error is raised last."""
    failed: ActionError | None = None
    for store, elements in groups.items():
        try:
            _ipset(text(_name(store), elements))
        except ActionError as error:
            if not (absent and "is gone" in str(error)):
                failed = failed or error
    if failed is not None:
        raise failed


def _ipset(text: str) -> None:
    if text:
        done = _run(["ipset", "restore", "-exist"], text)
        if done.returncode:
            raise _refusal(done.stderr)


def _run(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - fixed words, set names and printed addresses
            command, input=text, capture_output=True, text=True, check=False, timeout=PATIENCE * 10
        )
    except FileNotFoundError as error:
        raise ActionError(f"iptables: the program {command[0]} is missing: install it", permanent=True) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ActionError(f"iptables: {command[0]}: {error}") from error


# What ipset and libiptc say -> what the admin reads, and whether trying again is idle.
REASONS = {
    "is full": (f"the set is full: it takes {ruleset.SIZE:,} addresses", False),
    "given name does not exist": ("a set of ours is gone: somebody destroyed it", False),
    "must be root": ("not permitted: run as root or with CAP_NET_ADMIN", True),
    "not permitted": ("not permitted: run as root or with CAP_NET_ADMIN", True),
    "Cannot open session to kernel": ("this kernel has no ipset: load the module ip_set", True),
    "Table does not exist": ("this kernel has no legacy iptables: load ip_tables and ip6_tables", True),
    "No chain/target/match": ("a match or target is missing: load xt_set, xt_multiport and xt_REJECT", True),
}


def _refusal(said: str) -> ActionError:
    for words, (reason, permanent) in REASONS.items():
        if words in said:
            return ActionError(f"iptables: {reason}", permanent=permanent)
    return ActionError(f"iptables: {' '.join(said.split())[:200]}")
