"""_netlink: reads the table `inet denyspam` back from the kernel, and fills its sets; never makes or changes others.

Straight at the netlink socket. Filling: an element is 28 bytes (40 of IPv6) that need no library to write them, read
them again and list the tables, sets and chains before each transaction: a ban takes 0.1 ms instead of 0.7, 100,000 of
them a third of the time. Reading: since libnftables reads every element of every set before it answers anything: beside
100,000 bans its `list counters` took 0.6 s and its `list table` 2.8 s and 200 MB. Messages and attributes are those of
linux/netfilter/nf_tables.h; numbers there are big-endian. The kernel ends a dump with NLM_F_DUMP_INTR where somebody
changed a ruleset meanwhile: it is asked again, a hundred times at most.

Limit: for each 32 kB of a dump the kernel walks the set from its begin, so that to read it takes the square of what is
in it: 0.2 s of the kernel's time at 100,000 elements, 1 s at 200,000, 4.5 s at 400,000.

Each question opens and closes a socket of its own, so any thread may ask. A `Writer` keeps one, so that its port id
stays ours (drift.py), and is one thread's. Errors are OSError with the kernel's errno.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping

from denyspam.events import Held, Target

from . import _ruleset as ruleset
from ._ruleset import Listing, Refused, Store

NETLINK_NETFILTER = 12
REQUEST, DUMP, INTERRUPTED = 0x1, 0x300, 0x10  # NLM_F_…
ERROR, DONE = 2, 3  # NLMSG_…
BATCH_BEGIN, BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_…
NEW_ELEMENTS, DELETE_ELEMENTS = 12, 14  # NFT_MSG_…SETELEM
ACKNOWLEDGE, EXCLUSIVE, CREATE = 0x4, 0x200, 0x400  # NLM_F_…
SEND_BUFFER_FORCE, SEND_BUFFER = 32, 8 << 20  # SO_SNDBUFFORCE; bytes: a transaction of 10,000 elements takes 0.6 MB
SOL_NETLINK, CAP_ACKNOWLEDGE = 270, 10  # an answer without the message that it answers
MOST = 60_000  # bytes of elements in a message: the attribute that holds them has a length of 16 bits
GET_CHAIN, GET_SET, GET_ELEMENTS, GET_GENERATION, GET_OBJECT = 4, 10, 13, 16, 19  # NFT_MSG_GET…
INET = 1  # NFPROTO_INET
ATTEMPTS = 100
PAUSE = 0.01  # seconds; the kernel's worker moves 100,000 elements in less
HEADERS = 20  # nlmsghdr and nfgenmsg
SOCKET_BUFFER = 1 << 18  # bytes a recv may bring; the kernel sends 32 kB at a time at most

# Attributes, by message
CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY = 1, 3, 4, 5, 7, 1, 2
SET_TABLE, SET_NAME, SET_FLAGS, SET_KEY_TYPE = 1, 2, 3, 4
LIST_TABLE, LIST_SET, LIST_ELEMENTS, ELEMENT_KEY, ELEMENT_EXPIRATION, DATA_VALUE = 1, 2, 3, 1, 5, 1
OBJECT_TABLE, OBJECT_NAME, OBJECT_TYPE, OBJECT_DATA, COUNTER_BYTES, COUNTER_PACKETS = 1, 2, 3, 4, 1, 2
COUNTER = struct.pack(">I", 1)  # NFT_OBJECT_COUNTER

TIMEOUT = struct.pack(">I", 0x10)  # NFT_SET_TIMEOUT and no other flag: a plain hash set
KEY_TYPE = {4: struct.pack(">I", 7), 6: struct.pack(">I", 8)}  # what nft(8) calls ipv4_addr and ipv6_addr
HOOKS = {name: struct.pack(">I", number) for number, name in enumerate(("prerouting", "input", "forward", "output"))}
ACCEPT = struct.pack(">I", 1)  # NF_ACCEPT
NAME = ruleset.TABLE.split()[1].encode() + b"\0"

ATTRIBUTE = struct.Struct("=HH")
LONG = struct.Struct(">Q")
SUBSYSTEM = struct.pack(">H", 10)  # NFNL_SUBSYS_NFTABLES


def _usual(size: int) -> tuple[struct.Struct, tuple[set[bytes], set[bytes], set[bytes]]]:
    """How an element with a timeout and a key of `size` bytes is told: head, key, head and timeout, head, time left."""
    row = struct.Struct(f">12s{size}s4s8x4sQ")
    key = ATTRIBUTE.pack(row.size, 1) + ATTRIBUTE.pack(size + 8, 1) + ATTRIBUTE.pack(size + 4, 1)
    return row, ({key}, {ATTRIBUTE.pack(12, 4)}, {ATTRIBUTE.pack(12, 5)})


USUAL = {4: _usual(4), 6: _usual(16)}


def _element(size: int) -> tuple[bytes, bytes, bytes]:
    """What stands before the key of `size` bytes: of an element without a timeout and of one with it; and between the
    key and that timeout."""
    key = ATTRIBUTE.pack(size + 8, 0x8001) + ATTRIBUTE.pack(size + 4, 1)
    bare, timed = ATTRIBUTE.pack(size + 12, 0x8001), ATTRIBUTE.pack(size + 24, 0x8001)
    return bare + key, timed + key, ATTRIBUTE.pack(12, 4)


ELEMENT = {4: _element(4), 6: _element(16)}


class Writer:
    """Puts elements in and takes them out: each call is one transaction, done whole or not at all."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._sequence = 0
        self._socket.setsockopt(SOL_NETLINK, CAP_ACKNOWLEDGE, 1)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SEND_BUFFER_FORCE, SEND_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def create(self, store: Store, elements: Mapping[bytes, int]) -> None:
        """Puts in elements (key -> milliseconds) of which none is there yet: else EEXIST."""
        self._carry(self._timed(store, elements))

    def replace(self, store: Store, elements: Mapping[bytes, int]) -> None:
        """Puts them in whether there or not. Out and in again: to add what is there leaves its old timeout on older
        kernels, silently."""
        bare = self._bare(store, elements)
        self._carry(
            [(NEW_ELEMENTS, CREATE, body) for body in bare]
            + [(DELETE_ELEMENTS, 0, body) for body in bare]
            + self._timed(store, elements)
        )

    def clear(self, store: Store, keys: Iterable[bytes]) -> None:
        """Takes them out whether there or not; needs room for them in a full set."""
        bare = self._bare(store, keys)
        self._carry([(NEW_ELEMENTS, CREATE, body) for body in bare] + [(DELETE_ELEMENTS, 0, body) for body in bare])

    def delete(self, store: Store, keys: Iterable[bytes]) -> None:
        """Takes out elements that are all there: else ENOENT."""
        self._carry([(DELETE_ELEMENTS, 0, body) for body in self._bare(store, keys)])

    def _timed(self, store: Store, elements: Mapping[bytes, int]) -> list[tuple[int, int, bytes]]:
        _, head, middle = ELEMENT[store.version]
        rows = [b"".join((head, key, middle, LONG.pack(end))) for key, end in elements.items()]
        return [(NEW_ELEMENTS, CREATE | EXCLUSIVE, body) for body in _bodies(store, rows)]

    def _bare(self, store: Store, keys: Iterable[bytes]) -> list[bytes]:
        head = ELEMENT[store.version][0]
        return _bodies(store, [head + key for key in keys])

    def _carry(self, messages: list[tuple[int, int, bytes]]) -> None:
        """One transaction of (message, flags, body)."""
        first = self._sequence = (self._sequence + 1) % (1 << 31)
        # A batch's own messages name the subsystem in network order where others have a resource id.
        parts = [struct.pack("=IHHIIBB", HEADERS, BATCH_BEGIN, REQUEST, first, 0, 0, 0) + SUBSYSTEM]
        for message, flags, body in messages:
            self._sequence += 1
            size = HEADERS + len(body)
            parts += (
                struct.pack(
                    "=IHHIIBBH", size, 10 << 8 | message, REQUEST | ACKNOWLEDGE | flags, self._sequence, 0, INET, 0, 0
                ),
                body,
            )
        parts.append(struct.pack("=IHHIIBB", HEADERS, BATCH_END, REQUEST, self._sequence + 1, 0, 0, 0) + SUBSYSTEM)
        self._sequence += 1
        self._socket.send(b"".join(parts))
        self._hear(first, len(messages))

    def _hear(self, first: int, wanted: int) -> None:
        """The answers: the kernel has given all of them when it comes back from send. Raises the first error."""
        code, heard = 0, 0
        while heard < wanted:
            try:
                answer = self._socket.recv(SOCKET_BUFFER, socket.MSG_DONTWAIT)
            except BlockingIOError:
                code = code or errno.ENOBUFS  # an answer was lost
                break
            start = 0
            while start < len(answer):
                length, kind, _, sequence, _, error = struct.unpack_from("=IHHIIi", answer, start)
                start += length + 3 & ~3
                if kind != ERROR or sequence < first:  # of a transaction before
                    continue
                code = code or -error
                heard = wanted if sequence == first else heard + 1  # of the batch as a whole, refused
        if code:
            raise OSError(code, os.strerror(code))


def _bodies(store: Store, rows: list[bytes]) -> list[bytes]:
    """The attributes of as many messages as these elements take."""
    head = _attribute(LIST_TABLE, NAME) + _attribute(LIST_SET, store.name.encode() + b"\0")
    step = max(1, MOST // len(rows[0])) if rows else 1
    return [
        head + _attribute(LIST_ELEMENTS | 0x8000, b"".join(rows[start : start + step]))
        for start in range(0, len(rows), step)
    ]


def generation() -> int:
    """The number of ruleset changes in this network namespace, by whomever; microseconds."""
    answer = next(_ask(GET_GENERATION))
    number: int = struct.unpack(">I", answer[1])[0]
    return number


def listing() -> Listing:
    """What the table holds; an empty one where there is no table. 100,000 elements take under a second.

    The collector of cycles sleeps meanwhile: of the hundreds of thousands of objects made here none is garbage, and its
    looking for some would take as long again in a daemon that holds many bans."""
    awake = gc.isenabled()
    gc.disable()
    try:
        return _listing()
    finally:
        if awake:
            gc.enable()


def _listing() -> Listing:
    stores: dict[Store, list[Held]] = {}
    broken = []
    for found in _all(GET_SET, {SET_TABLE: NAME}):
        name = found[SET_NAME].rstrip(b"\0").decode("ascii", "replace")
        store = ruleset.store_named(name)
        if found[SET_TABLE] != NAME or store is None:
            continue
        if found.get(SET_FLAGS) == TIMEOUT and found[SET_KEY_TYPE] == KEY_TYPE[store.version]:
            stores[store] = _elements(store)
        else:
            broken.append(name)
    return Listing(stores, broken, _chains(), set(_counters()))


def counters() -> list[Refused]:
    """What was refused, by set. Its cost does not grow with the number of bans."""
    stores = [(ruleset.store_named(name), packets, octets) for name, (packets, octets) in _counters().items()]
    return [Refused(*store, packets, octets) for store, packets, octets in stores if store]


def holds(target: Target) -> bool:
    """Whether the target's element is there: one question, at any number of bans."""
    store, key = ruleset.place(target)
    value = _attribute(ELEMENT_KEY, _attribute(DATA_VALUE, key))
    asked = {
        LIST_TABLE: NAME,
        LIST_SET: store.name.encode() + b"\0",
        LIST_ELEMENTS: _attribute(1, value),  # NFTA_LIST_ELEM
    }
    return bool(_all(GET_ELEMENTS, asked, dump=False))


def _counters() -> dict[str, tuple[int, int]]:
    """Name -> packets and bytes."""
    counted = {}
    for found in _all(GET_OBJECT, {OBJECT_TABLE: NAME, OBJECT_TYPE: COUNTER}):
        if found[OBJECT_TABLE] == NAME and found[OBJECT_TYPE] == COUNTER:
            name = found[OBJECT_NAME].rstrip(b"\0").decode("ascii", "replace")
            data = _attributes(found[OBJECT_DATA])
            counted[name] = (LONG.unpack(data[COUNTER_PACKETS])[0], LONG.unpack(data[COUNTER_BYTES])[0])
    return counted


def _chains() -> dict[str, bool]:
    """Those named like a hook -> whether type, hook, priority and policy are ours."""
    chains = {}
    for name, number in HOOKS.items():
        for found in _all(GET_CHAIN, {CHAIN_TABLE: NAME, CHAIN_NAME: name.encode() + b"\0"}, dump=False):
            hook = _attributes(found.get(CHAIN_HOOK, b""))
            chains[name] = (
                found.get(CHAIN_TYPE) == b"filter\0"
                and found.get(CHAIN_POLICY) == ACCEPT
                and hook.get(HOOK_NUMBER) == number
                and hook.get(HOOK_PRIORITY) == struct.pack(">i", ruleset.PRIORITIES[name])
            )
    return chains


def _elements(store: Store) -> list[Held]:
    for _ in range(ATTEMPTS):
        left, told = _dump(store)
        if len(left) == told:
            break
        time.sleep(PAUSE)  # while the hash table grows a dump tells some twice, and as many not at all
    return ruleset.targets(store, left)


def _dump(store: Store) -> tuple[dict[bytes, int | None], int]:
    """Key -> milliseconds left of the set's elements, and how many were told."""
    left: dict[bytes, int | None] = {}
    told = 0
    usual, heads = USUAL[store.version]
    for found in _all(GET_ELEMENTS, {LIST_TABLE: NAME, LIST_SET: store.name.encode() + b"\0"}):
        body = found.get(LIST_ELEMENTS, b"")
        if body and not len(body) % usual.size:
            # All elements of ours look alike: a tenth of the time of taking each apart.
            first, keys, second, third, ends = zip(*usual.iter_unpack(body), strict=True)
            if ({*first}, {*second}, {*third}) == heads:
                left.update(zip(keys, ends, strict=True))
                told += len(keys)
                continue
        for each in _list(body):
            element = _attributes(each)
            rest = element.get(ELEMENT_EXPIRATION)
            key = element[ELEMENT_KEY][ATTRIBUTE.size :]  # one nested attribute, DATA_VALUE
            left[key] = None if rest is None else LONG.unpack(rest)[0]
            told += 1
    return left, told


def _all(message: int, attributes: dict[int, bytes], dump: bool = True) -> list[dict[int, bytes]]:
    """Every answer to a question; none where what is asked for does not exist."""
    for _ in range(ATTEMPTS):
        try:
            return list(_ask(message, attributes, dump))
        except InterruptedError:
            continue
        except FileNotFoundError:
            return []
    raise OSError(errno.EBUSY, "the ruleset changes all the time")


def _ask(message: int, attributes: dict[int, bytes] | None = None, dump: bool = False) -> Iterator[dict[int, bytes]]:
    body = b"".join(_attribute(kind, value) for kind, value in (attributes or {}).items())
    flags = REQUEST | DUMP if dump else REQUEST
    request = struct.pack("=IHHIIBBH", HEADERS + len(body), 10 << 8 | message, flags, 1, 0, INET, 0, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as netlink:
        netlink.send(request)
        while True:
            answer = netlink.recv(SOCKET_BUFFER)
            start = 0
            while start < len(answer):
                length, kind, said = struct.unpack_from("=IHH", answer, start)
                if kind in (ERROR, DONE):
                    code = -struct.unpack_from("=i", answer, start + 16)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                if said & INTERRUPTED:
                    raise InterruptedError
                yield _attributes(answer[start + HEADERS : start + length])
                if not dump:
                    return
                start += length + 3 & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(len(value) + ATTRIBUTE.size, kind) + value + bytes(-len(value) % 4)


def _attributes(body: bytes) -> dict[int, bytes]:
    """Type -> value of a run of attributes."""
    found = {}
    start, end = 0, len(body)
    while start < end:
        length, kind = ATTRIBUTE.unpack_from(body, start)
        found[kind & 0x3FFF] = body[start + 4 : start + length]  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
        start += length + 3 & ~3
    return found


def _list(body: bytes) -> Iterator[bytes]:
    """The values of a run of attributes of one type."""
    start, end = 0, len(body)
    while start < end:
        length, _ = ATTRIBUTE.unpack_from(body, start)
        yield body[start + 4 : start + length]
        start += length + 3 & ~3
