"""drift: notices that somebody else changed our part of the ruleset. Edge.

The kernel announces each ruleset change to a netlink group, message by message with the table's name, and under the
port id of the socket that asked for it. `Drift` listens there: `read` drains what came and says whether a transaction
that was not this process's touched the table `inet denyspam`: the table, a chain, a rule, a set or an element of it,
made or deleted, `flush ruleset` included. True means look (the action's `start` mends what is missing and says what is
held); it does not say what happened.

Whose transaction it was is told by the port id alone, which the kernel keeps unique while the socket is open: ours are
those of the netlink sockets this process has open. Process ids would not do (the kernel tells its own, which are others
in a container, and of the thread), nor generation ids (a foreign change may fall between two readings around our own).
libnftables hides its socket and may open another one, so an unknown port id on our table is looked up among this
process's descriptors; once known, a filter in the kernel drops what it sends before it costs us anything: 100,000 bans
of our own neither wake us nor fill the socket.

Other people's tables cost a search for our name in what they caused, microseconds a transaction; a timeout that passes
in the kernel is announced by nobody. Where more came than the socket holds (ENOBUFS) the answer is True.

Where the group cannot be joined, `fileno` is None, `reason` says why, and `read` compares the ruleset's generation:
True after any change, our own and other people's too, so to be asked rarely.
Never: changes anything; lists anything. Limits: the network namespace of the thread that made it; a change by another
program of this very process's children counts as foreign.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection

NETLINK_NETFILTER, INET = 12, 1  # NFPROTO_INET
GROUP = 7  # NFNLGRP_NFTABLES
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
ATTACH_FILTER, RECEIVE_BUFFER_FORCE = 26, 33  # SO_…; Python names neither
RECEIVE_BUFFER = 8 << 20  # bytes: a foreign transaction of 50,000 elements; without privilege what the kernel allows
DATAGRAM = 1 << 18  # bytes: the kernel packs a transaction's messages into pages, but one message may be 64 kB and more
MOST = 1000  # datagrams a call, so that somebody who never stops cannot hold the loop

HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr and nfgenmsg: length, type, flags, sequence, port id, family, …
NAME = b"denyspam\0"
# Every message of nf_tables but that of the generation begins with its table's name, attribute 1.
TABLE = struct.pack("=HH", len(NAME) + 4, 1) + NAME
NEW_GENERATION, GET_GENERATION = 15, 16  # NFT_MSG_…
NF_TABLES = 10  # NFNL_SUBSYS_NFTABLES
INSTRUCTION = struct.Struct("=HBBI")  # sock_filter
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
PORT_AT = 12  # where the port id stands in a message


class Drift:
    """An ear on the ruleset. Give `fileno` to the loop as a reader, and call `read` when it is ready."""

    def __init__(self) -> None:
        self.fileno: int | None = None
        self.reason = ""  # why there is no descriptor
        self._socket: socket.socket | None = None
        self._buffer = bytearray(DATAGRAM)
        self._ours: Collection[int] = ()
        try:
            self._join()
        except OSError as error:
            self.reason = str(error)
            self.close()
            self._generation = _generation()

    def read(self) -> bool:
        """Whether somebody else touched our table since the last call. Never blocks."""
        if self._socket is None:
            before, self._generation = self._generation, _generation()
            return before != self._generation
        touched = False
        for _ in range(MOST):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                touched = True
                continue
            touched = touched or (self._buffer.find(TABLE, 0, size) >= 0 and self._foreign(size))
        return touched

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self.fileno = None

    def _join(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER_FORCE, RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._ignore(port_ids())
        self._socket.bind((0, 0))  # the kernel tells nothing to a socket without a port id
        self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP)
        self.fileno = self._socket.fileno()

    def _foreign(self, size: int) -> bool:
        """Whether a message in the buffer is about our table, by somebody else."""
        start = 0
        while start < size:
            length, kind, _, _, port, family, _, _ = HEADER.unpack_from(self._buffer, start)
            if (
                self._buffer.startswith(TABLE, start + HEADER.size)
                and family == INET
                and kind >> 8 == NF_TABLES
                and kind & 0xFF != NEW_GENERATION
                and not self._our(port)
            ):
                return True
            start += length + 3 & ~3
        return False

    def _our(self, port: int) -> bool:
        if port not in self._ours:
            self._ignore(port_ids())
        return port in self._ours

    def _ignore(self, ports: Collection[int]) -> None:
        """Has the kernel drop the datagrams of these port ids. All messages of a datagram have one sender."""
        assert self._socket is not None  # noqa: S101 - for the type checker
        if ports == self._ours:
            return
        # The filter loads words as big-endian numbers; the port id is in this machine's order.
        words = [int.from_bytes(struct.pack("=I", port), "big") for port in ports]
        program = INSTRUCTION.pack(LOAD_WORD, 0, 0, PORT_AT)
        for left, word in zip(range(len(words), 0, -1), words, strict=True):
            program += INSTRUCTION.pack(JUMP_EQUAL, left, 0, word)
        program += INSTRUCTION.pack(RETURN, 0, 0, 0xFFFFFFFF) + INSTRUCTION.pack(RETURN, 0, 0, 0)
        attach(self._socket, program)
        self._ours = ports


def attach(where: socket.socket, program: bytes) -> None:
    """Has the kernel run a classic BPF program on every datagram before `where` gets it. OSError."""
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HL", len(program) // INSTRUCTION.size, ctypes.addressof(memory))
    where.setsockopt(socket.SOL_SOCKET, ATTACH_FILTER, fprog)


def port_ids() -> frozenset[int]:
    """The port ids of the netfilter sockets that this process has open, by whatever library."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            each = socket.socket(fileno=copy)
        except OSError:  # closed and opened as something else meanwhile
            os.close(copy)
            continue
        with each:
            if each.family == socket.AF_NETLINK and each.proto == NETLINK_NETFILTER:
                found.add(each.getsockname()[0])
    return frozenset(found - {0})


def _generation() -> int | None:
    """The number of ruleset changes in this network namespace; None where it cannot be had."""
    request = HEADER.pack(HEADER.size, NF_TABLES << 8 | GET_GENERATION, 1, 0, 0, INET, 0, 0)  # NLM_F_REQUEST
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as netlink:
            netlink.send(request)
            answer = netlink.recv(DATAGRAM)
    except OSError:
        return None
    kind: int = HEADER.unpack_from(answer)[1]
    return int.from_bytes(answer[HEADER.size + 4 : HEADER.size + 8], "big") if kind >> 8 == NF_TABLES else None
