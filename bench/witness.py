"""witness: when an element came into a set of a network namespace, by the kernel's own word.

Listens to the netlink group that `nft monitor` listens to (NFNLGRP_NFTABLES), from a socket made inside the namespace.
A thread does nothing but receive and note the time; what was received is read later, so that looking costs those
measured as little as can be. The elements of a transaction count when its end is told (NEWGEN). Needs root.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator

from netns import Namespace

NETLINK_NETFILTER = 12
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
GROUP = 7  # NFNLGRP_NFTABLES
BUFFER = 512 << 20  # bytes: 100,000 elements added thrice at some 150 bytes, many times over
# NFT_MSG_…
DELETE_TABLE, NEW_ELEMENT, DELETE_ELEMENT, NEW_GENERATION = 2, 12, 14, 15
# NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_FLAGS, NFTA_DATA_VALUE
ELEMENTS, KEY, FLAGS, VALUE = 3, 1, 3, 1
INTERVAL_END = struct.pack(">I", 1)  # the address behind an interval, which is none of it
HEAD = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")


def socket_inside(namespace: Namespace) -> socket.socket:
    """A netlink socket of that namespace; this process stays where it is."""
    c = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/proc/{namespace.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if c.setns(there, 0):
            raise OSError(ctypes.get_errno(), "setns: this needs root")
        try:
            made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        finally:
            if c.setns(here, 0):
                os._exit(70)  # in a strange network, with nobody to tell
    finally:
        os.close(here)
        os.close(there)
    made.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
    made.bind((0, 0))
    made.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP)
    return made


class Witness:
    """A context. `present` are the keys (packed addresses) that came into the sets, and stayed, since it began to
    listen or to forget."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = socket_inside(namespace)
        self._received: list[tuple[float, bytes]] = []
        self._read = 0
        self._more = threading.Condition()
        self._closed = False
        self._open: list[tuple[bool, bytes]] = []  # of a transaction that has not ended
        self.present: dict[bytes, float] = {}  # key -> when its transaction ended
        self.deleted = 0.0  # when a table was deleted last
        self.overrun = False  # something was missed
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._thread.join(2)
        self._socket.close()

    def _listen(self) -> None:
        self._socket.settimeout(0.2)
        while not self._closed:
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                continue
            except OSError:  # ENOBUFS
                self.overrun = True
                continue
            now = time.monotonic()
            with self._more:
                self._received.append((now, data))
                self._more.notify()

    def wait(self, keys: Collection[bytes], seconds: float, quiet: float = 0.5) -> float | None:
        """When the last of `keys` was in the kernel, by time.monotonic(); None where that has not come about.

        Looks only when nothing has come for `quiet` seconds.
        """
        end = time.monotonic() + seconds
        while True:
            self._settle(end, quiet)
            self.look()
            if all(key in self.present for key in keys):
                return max(self.present[key] for key in keys)
            if time.monotonic() >= end:
                return None

    def _settle(self, end: float, quiet: float) -> None:
        """Until something has come, and then nothing for `quiet` seconds."""
        with self._more:
            self._more.wait_for(lambda: len(self._received) > self._read, max(0.0, end - time.monotonic()))
            count = -1
            while count != len(self._received) and time.monotonic() < end and quiet:
                count = len(self._received)
                self._more.wait(quiet)

    def look(self) -> None:
        """Read what has come."""
        with self._more:
            new = self._received[self._read :]
            self._read = len(self._received)
        for when, data in new:
            for kind, body in messages(data):
                if kind in (NEW_ELEMENT, DELETE_ELEMENT):
                    self._open += [(kind == NEW_ELEMENT, key) for key in keys_of(body)]
                elif kind == DELETE_TABLE:
                    self.deleted = when
                elif kind == NEW_GENERATION:
                    self._commit(when)

    def _commit(self, when: float) -> None:
        for add, key in self._open:
            if add:
                self.present.setdefault(key, when)
            else:
                self.present.pop(key, None)
        self._open.clear()

    def forget(self) -> None:
        """Begin anew."""
        self.look()
        self.present.clear()


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(message of nf_tables, what follows its two headers)."""
    at = 0
    while at + 20 <= len(data):
        size, kind, _, _, _ = HEAD.unpack_from(data, at)
        if size < 20:
            return
        yield kind & 0xFF, data[at + 20 : at + size]
        at += (size + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def keys_of(body: bytes) -> Iterator[bytes]:
    for kind, elements in attributes(body):
        if kind == ELEMENTS:
            for _, element in attributes(elements):
                fields = dict(attributes(element))
                if KEY in fields and fields.get(FLAGS) != INTERVAL_END:
                    yield dict(attributes(fields[KEY]))[VALUE]


def until(condition: Callable[[], object], seconds: float, pause: float = 0.002) -> float | None:
    """When the condition came true, by time.monotonic(); None where it did not."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        now = time.monotonic()
        if found:
            return now
        if now > end:
            return None
        time.sleep(pause)
