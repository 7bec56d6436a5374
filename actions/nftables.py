"""nftables: bans as elements of the kernel's hash sets; table, chains and rules by libnftables inside this process.

Owns the table `inet denyspam` (its layout: `_ruleset.py`) and touches no other. Every element carries its own timeout,
so bans end by themselves when the daemon is dead: the host fails open, never shut. A refused connection is answered
with a TCP reset (`verdict="tcp reset"`), an ICMP error (`"reject"`) or silence (`"drop"`); open sessions are refused
as well, since the chain is a base chain of its own and no `established accept` stands before it.

`hooks` says where packets are looked at: `input` for servers on this host; `forward` for a router or a relay in front;
`prerouting` for container ports published by destination NAT, which `input` and `forward` see with another port (nft
refuses there from Linux 5.9 on); `output` so that answers to the banned do not leave by whatever way they came.

The protocol with the caller: each verb either did all it was asked or raises ActionError with one sentence. After an
ActionError some of a batch may be in the kernel; `start()` mends table, chain, sets and rules, keeps every element, and
says what is held, so that the caller gives again what is missing. A ban given twice is the same ban with the later
call's time.

Never: spawns a program; changes another table; passes text it was given to the kernel; reads a clock; lists elements
outside `start` and `held`. What the kernel holds is read and filled through netlink (`_netlink.py`), not the library.

Limits: one thread. libnftables ends the process when two threads share a context, so the first verb binds the object
to its thread until `stop`, and a verb from another thread is a RuntimeError. The library prints to nobody: its output
and errors go to buffers. A set takes 1,048,576 elements; the caller sees "full" as an ActionError, what fitted stays.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from denyspam.events import ActionError, Ban, Held, Target

from . import _netlink
from . import _ruleset as ruleset
from ._ruleset import Refused, Store

LIBRARY = "libnftables.so.1"
BATCH = 10_000  # elements a transaction: 0.3 to 0.4 MB of netlink, 10 ms

Result = TypeVar("Result")
Carry = Callable[[Store, dict[bytes, int]], int]  # a transaction about elements; the kernel's errno

# What the kernel says -> what the admin reads, and whether trying again is idle.
REASONS = {
    errno.EPERM: ("not permitted: run as root or with CAP_NET_ADMIN", True),
    errno.EACCES: ("not permitted: run as root or with CAP_NET_ADMIN", True),
    errno.EAFNOSUPPORT: ("this kernel has no netlink, or the sandbox hides it (RestrictAddressFamilies)", True),
    errno.EPROTONOSUPPORT: ("this kernel has no nf_tables: load the module nf_tables", True),
    errno.EOPNOTSUPP: ("this kernel has no nf_tables, or lacks a part of it: load nf_tables and nft_reject_inet", True),
    errno.EINVAL: ("this kernel's nf_tables is too old, or lacks a part of what is needed", True),
    errno.ENOENT: (f"a part of the table {ruleset.TABLE} is gone: somebody deleted it", False),
    errno.ENFILE: (f"the set is full: it takes {ruleset.SIZE:,} addresses", False),
    errno.ENOMEM: ("the kernel is out of memory", False),
    errno.EBUSY: (f"a rule of somebody else's in the table {ruleset.TABLE} is in the way", False),
    errno.EMSGSIZE: ("the netlink socket's buffer is too small for one element: raise net.core.wmem_max", False),
    errno.ENOBUFS: ("the netlink socket's buffer is full", False),
    errno.EEXIST: ("it exists already, in another shape", False),
}
SPLIT = (errno.EMSGSIZE, errno.ENOBUFS, errno.ENFILE)  # a smaller transaction may pass, or say more clearly why not


class Nftables:
    """The five verbs on `inet denyspam`. `ports` and `ipv6_prefix` name the sets that `start` makes at once; others
    come into being with the first ban that needs them. ValueError for a word that is none of the tables'."""

    def __init__(
        self,
        *,
        ports: tuple[int, ...],
        ipv6_prefix: int = 64,
        verdict: str = "tcp reset",
        hooks: tuple[str, ...] = ("input",),
    ) -> None:
        if verdict not in ruleset.VERDICTS:
            raise ValueError(f"verdict {verdict!r}: one of {', '.join(ruleset.VERDICTS)}")
        for hook in hooks:
            if hook not in ruleset.PRIORITIES:
                raise ValueError(f"hook {hook!r}: one of {', '.join(ruleset.PRIORITIES)}")
        if not hooks:
            raise ValueError(f"no hook: at least one of {', '.join(ruleset.PRIORITIES)}")
        self._verdict = verdict
        self._hooks = tuple(dict.fromkeys(hooks))
        self._default = dict.fromkeys((Store(4, 32, ports), Store(6, ipv6_prefix, ports), Store(6, 128, ports)))
        for store in self._default:
            _check(store)
        self._known: set[Store] | None = None  # the sets that have a rule; None before start()
        self._library: _Library | None = None
        self._writer: _netlink.Writer | None = None

    def start(self) -> list[Held]:
        """Makes or mends table, chain, sets and rules in one transaction, and returns what the kernel holds."""
        self._open()
        listing = _kernel(_netlink.listing)
        stores = self._default | dict.fromkeys(listing.stores)
        missing = [store for store in stores if store not in listing.stores]
        text = [ruleset.frame(self._hooks, listing.chains)]
        # Counters of sets that are there may be gone, and the other way round: either is added only where it lacks.
        text += [f"delete set {ruleset.TABLE} {name}\n" for name in listing.broken]
        text += [ruleset.add_set(store) for store in missing]
        text += [ruleset.add_counter(store) for store in stores if store.name not in listing.counters]
        text += [ruleset.add_rules(store, hook, self._verdict) for store in stores for hook in self._hooks]
        self._must("".join(text))
        self._known = set(stores)
        return [held for elements in listing.stores.values() for held in elements]

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Closes each ban's ports until its end; `now` in epoch seconds. A ban that is over already is no ban."""
        known = self._started()
        groups: dict[Store, dict[bytes, int]] = {}
        for ban in bans:
            left = ban.until - now
            if left > 0:
                store, key = ruleset.place(ban.target)
                groups.setdefault(store, {})[key] = ruleset.milliseconds(left)
        for store in groups.keys() - known:
            _check(store)
            rules = "".join(ruleset.add_rules(store, hook, self._verdict) for hook in self._hooks)
            self._must(ruleset.add_set(store) + ruleset.add_counter(store) + rules)
            known.add(store)
        self._batches(groups, self._put)

    def release(self, targets: Iterable[Target]) -> None:
        """Opens them at once. One that is not held is released already."""
        known = self._started()
        groups: dict[Store, dict[bytes, int]] = {}
        for target in targets:
            store, key = ruleset.place(target)
            if store in known:
                groups.setdefault(store, {})[key] = 0
        self._batches(groups, self._take)

    def held(self) -> list[Held]:
        """What the kernel holds now. 100,000 take most of a second: not to be asked often."""
        return [held for elements in _kernel(_netlink.listing).stores.values() for held in elements]

    def stop(self, keep: bool) -> None:
        """Lets go of the library; without `keep` deletes the table, and with it every ban."""
        if not keep:
            self._must(f"add table {ruleset.TABLE}\ndelete table {ruleset.TABLE}\n")
        if self._library is not None:
            self._library.close()
        if self._writer is not None:
            self._writer.close()
        self._library = self._writer = self._known = None

    def holds(self, target: Target) -> bool:
        """Whether the kernel holds exactly this target now: one question. May be asked from any thread."""
        return ruleset.valid(ruleset.store_of(target)) and _kernel(lambda: _netlink.holds(target))

    def counters(self) -> list[Refused]:
        """Packets and bytes refused, by set, since it was made. Its cost does not grow with the number of bans. May be
        asked from any thread."""
        return _kernel(_netlink.counters)

    def _batches(self, groups: Mapping[Store, dict[bytes, int]], carry: Carry) -> None:
        """One set a transaction, so that a full one keeps nothing out of the others; the first error is raised last."""
        failed: ActionError | None = None
        for store, elements in groups.items():
            rest = iter(elements.items())
            try:
                while batch := dict(islice(rest, BATCH)):
                    self._halving(store, batch, carry)
            except ActionError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _halving(self, store: Store, batch: dict[bytes, int], carry: Carry) -> None:
        code = carry(store, batch)
        if code in SPLIT and len(batch) > 1:
            rest = iter(batch.items())
            self._halving(store, dict(islice(rest, len(batch) // 2)), carry)
            self._halving(store, dict(rest), carry)
        elif code:
            raise _refusal(code, os.strerror(code))

    def _put(self, store: Store, elements: dict[bytes, int]) -> int:
        """New ones as a rule, in one statement; the three of `replace`, at twice the cost, where one is there."""
        code = self._write(lambda writer: writer.create(store, elements))
        return self._write(lambda writer: writer.replace(store, elements)) if code == errno.EEXIST else code

    def _take(self, store: Store, elements: dict[bytes, int]) -> int:
        """One that is absent, or whose set is, is released: ENOENT. `clear` needs room in the set, `delete` none."""
        code = self._write(lambda writer: writer.delete(store, elements))
        if len(elements) > 1 and code == errno.ENOENT:
            code = self._write(lambda writer: writer.clear(store, elements))
        return 0 if code == errno.ENOENT else code

    def _write(self, transaction: Callable[[_netlink.Writer], None]) -> int:
        """The kernel's errno, 0 where it took it."""
        self._open().guard()
        if self._writer is None:
            self._writer = _kernel(_netlink.Writer)
        try:
            transaction(self._writer)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _started(self) -> set[Store]:
        if self._known is None:
            self.start()
        assert self._known is not None  # noqa: S101 - for the type checker
        return self._known

    def _must(self, text: str) -> None:
        code = self._run(text)
        if code:
            raise _refusal(code, self._said)

    def _run(self, text: str) -> int:
        """One transaction. The kernel's errno, 0 where it took it, -1 where the library refused the text itself."""
        self._said = self._open().run(text)
        return _code(self._said) if self._said else 0

    def _open(self) -> _Library:
        if self._library is None:
            _kernel(_netlink.generation)  # the library ends the process where this would raise
            self._library = _Library()
        self._library.guard()
        return self._library


class _Library:
    """A context of libnftables(3) and its thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._c = _load()
        self._context = self._c.nft_ctx_new(0)
        self._c.nft_ctx_buffer_output(self._context)
        self._c.nft_ctx_buffer_error(self._context)

    def guard(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("nftables was used by two threads; libnftables would end the process")

    def run(self, text: str) -> str:
        """Gives it one transaction. What the library complained of, "" where all went well."""
        self.guard()
        failed = self._c.nft_run_cmd_from_buffer(self._context, text.encode("ascii"))
        self._c.nft_ctx_get_output_buffer(self._context)  # empties it
        said = self._c.nft_ctx_get_error_buffer(self._context)
        return (said or b"unknown error").decode("utf-8", "replace") if failed else ""

    def close(self) -> None:
        self.guard()
        self._c.nft_ctx_free(self._context)
        self._context = None


def _load() -> ctypes.CDLL:
    try:
        c = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ActionError(f"{LIBRARY} is missing: install the package nftables ({error})", permanent=True) from error
    c.nft_ctx_new.argtypes, c.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(c, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(c, name).argtypes, getattr(c, name).restype = [ctypes.c_void_p], ctypes.c_char_p
    c.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return c


def _kernel(question: Callable[[], Result]) -> Result:
    try:
        return question()
    except OSError as error:
        raise _refusal(error.errno or -1, str(error)) from error


def _check(store: Store) -> None:
    if not ruleset.valid(store):
        raise ValueError(f"no set can be made for {store}")


def _code(said: str) -> int:
    """The errno behind the library's words: it prints strerror(3), in this process's language. The first one counts:
    what follows in a transaction may fail for lack of what came before."""
    places = {said.find(os.strerror(code)): code for code in REASONS}
    return min(((place, code) for place, code in places.items() if place >= 0), default=(0, -1))[1]


def _refusal(code: int, said: str) -> ActionError:
    reason, permanent = REASONS.get(code, (" ".join(said.split())[:200], False))
    return ActionError(f"nftables: {reason}", permanent=permanent)
