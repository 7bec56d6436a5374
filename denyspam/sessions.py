"""sessions: ends the open connections of those just banned. Edge.

A firewall's refusal leaves a session that is already open hanging: to the server a rejected packet is a lost one, and
its process waits out a timeout of minutes. So after a ban is in the kernel, `close` asks the kernel for its TCP sockets
on the banned ports (one dump a call, however many were banned; the kernel itself leaves other ports out) and destroys
those whose peer was banned: the server's read fails at once with ECONNABORTED, the client gets a reset.

Only a socket whose *local* port is a banned one is ever touched: not other services, not this host's own connections
to port 25 of somebody else. Nothing is spawned. IPv4 clients of a dual-stack listener stand in the dump as
`::ffff:a.b.c.d` of IPv6 and are found there. Each call opens and closes a socket of its own, so any thread may call.

Cost: the kernel walks the whole machine's table of connections, 0.3 ms for an empty one and 1 to 2 µs for each that is
open, on whatever port, without this process's lock: on a busy host a thread of its own keeps that out of the way.

Limits: sockets of this network namespace alone (a forwarded or published port's server lives in another one; its
packets are refused all the same). It takes CAP_NET_ADMIN and a kernel with CONFIG_INET_DIAG_DESTROY; without them
every call that finds something to end raises a permanent ActionError, and the caller should ask no more.
The messages are those of linux/inet_diag.h and linux/sock_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator

from denyspam.events import MAPPED, ActionError, Target, address_text

NETLINK_SOCK_DIAG = 4
TCPDIAG_GETSOCK, SOCK_DESTROY = 18, 21
REQUEST, ACKNOWLEDGE, DUMP = 0x1, 0x4, 0x300  # NLM_F_…
ERROR, DONE = 2, 3  # NLMSG_…
# ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: the states in which a server's process may hold a client's socket.
STATES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8
BYTECODE = 1  # INET_DIAG_REQ_BYTECODE
JUMP, PORT_FROM, PORT_TO = 1, 2, 3  # INET_DIAG_BC_JMP, _S_GE, _S_LE (_S_EQ is younger than some kernels in use)
BATCH = 100  # sockets a message to the kernel: its 100 answers take 77 kB of the 212 that a socket may hold unread
BUFFER = 1 << 18  # bytes a recv may bring; the kernel sends 32 kB at a time at most

HEADER = struct.Struct("=IHHII")  # nlmsghdr
DUMP_REQUEST = struct.Struct("=BBBB48sII")  # inet_diag_req, the first one: the only question that is about all families
DESTROY_REQUEST = struct.Struct("=BBBBI48s")  # inet_diag_req_v2; the 48 bytes of both are an inet_diag_sockid
OPERATION = struct.Struct("=BBH")  # inet_diag_bc_op
NOBODY = bytes(48)

REASONS = {
    errno.EPERM: "not permitted: it takes CAP_NET_ADMIN",
    errno.EACCES: "not permitted: it takes CAP_NET_ADMIN",
    errno.EOPNOTSUPP: "this kernel was built without CONFIG_INET_DIAG_DESTROY, or lacks the module inet_diag",
    errno.ENOENT: "this kernel has no TCP socket listing: load the module tcp_diag",
    errno.EPROTONOSUPPORT: "this kernel has no socket listing: load the module inet_diag",
    errno.EAFNOSUPPORT: "this kernel has no netlink, or the sandbox hides it (RestrictAddressFamilies)",
}


def close(targets: Iterable[Target]) -> int:
    """Ends the connections of the targets' networks to the targets' ports on this host; how many there were.

    ActionError where the kernel refuses, permanent where asking again cannot help.
    """
    targets = set(targets)
    ports = sorted({port for each in targets for port in each.ports})
    if not ports:
        return 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
            there = list(_sockets(netlink, ports))
            if not there:
                return 0
            wanted = _Wanted(targets)
            found = [each for each, peer in there if peer in wanted]
            return sum(_destroy(netlink, found[start : start + BATCH]) for start in range(0, len(found), BATCH))
    except OSError as error:
        code = error.errno or 0
        reason = REASONS.get(code, str(error))
        raise ActionError(f"open sessions cannot be ended: {reason}", permanent=code in REASONS) from error


class _Wanted:
    """Whose sockets: for each of them one name a prefix length in use, looked up whatever the number of targets."""

    def __init__(self, targets: Collection[Target]) -> None:
        self._targets = targets
        kinds = {(":" in name, name.partition("/")[2], ports) for name, ports in targets}
        self._kinds = [
            (6 if wide else 4, (128 if wide else 32) - int(width) if width else 0, width and f"/{width}", ports)
            for wide, width, ports in kinds
        ]

    def __contains__(self, peer: tuple[int, int, int]) -> bool:
        """Of the version, the local port and the remote address."""
        version, port, address = peer
        for each, low, end, ports in self._kinds:
            if each == version and port in ports:
                base = (address >> low << low).to_bytes(4 if version == 4 else 16, "big")
                if (address_text(base) + end, ports) in self._targets:
                    return True
        return False


def _sockets(netlink: socket.socket, ports: list[int]) -> Iterator[tuple[tuple[int, bytes], tuple[int, int, int]]]:
    """((family, sockid), (version, local port, remote address)) of each connection to one of the ports."""
    program = _program(ports)
    body = DUMP_REQUEST.pack(socket.AF_UNSPEC, 0, 0, 0, NOBODY, STATES, 0)
    body += struct.pack("=HH", len(program) + 4, BYTECODE) + program
    netlink.send(HEADER.pack(HEADER.size + len(body), TCPDIAG_GETSOCK, REQUEST | DUMP, 0, 0) + body)
    for kind, answer in _answers(netlink):
        if kind == DONE:
            return
        family, identity = answer[0], answer[4:52]  # after family, state, timer and retransmissions
        port = int.from_bytes(identity[0:2], "big")
        address = identity[20:36]
        if family == socket.AF_INET:
            yield (family, identity), (4, port, int.from_bytes(address[:4], "big"))
        elif address.startswith(MAPPED):
            yield (family, identity), (4, port, int.from_bytes(address[12:], "big"))
        else:
            yield (family, identity), (6, port, int.from_bytes(address, "big"))


def _program(ports: list[int]) -> bytes:
    """What the kernel runs on each socket: `local port == this or == that …`. It takes a socket whose run ends at the
    program's end, and drops one whose run jumps four bytes beyond."""
    size = 20  # a port: from (8 bytes), to (8), jump to the end (4)
    program = b""
    for left in range(len(ports), 0, -1):
        port, rest = ports[-left], left * size
        other = size if left > 1 else rest + 4  # where this port's failure leads, from the start of its five words
        program += OPERATION.pack(PORT_FROM, 8, other) + OPERATION.pack(0, 0, port)
        program += OPERATION.pack(PORT_TO, 8, other - 8) + OPERATION.pack(0, 0, port)
        program += OPERATION.pack(JUMP, 4, rest - 16)
    return program


def _destroy(netlink: socket.socket, found: list[tuple[int, bytes]]) -> int:
    length = HEADER.size + DESTROY_REQUEST.size
    netlink.send(
        b"".join(
            HEADER.pack(length, SOCK_DESTROY, REQUEST | ACKNOWLEDGE, 0, 0)
            + DESTROY_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, STATES, identity)
            for family, identity in found
        )
    )
    ended, refused = 0, 0
    answers = _answers(netlink, raising=False)
    for _ in found:
        code = -struct.unpack_from("=i", next(answers)[1])[0]
        ended += code == 0
        if code not in (0, errno.ENOENT):  # ENOENT: it ended meanwhile
            refused = code
    if refused:
        raise OSError(refused, os.strerror(refused))
    return ended


def _answers(netlink: socket.socket, raising: bool = True) -> Iterator[tuple[int, bytes]]:
    """(type, body) of every message that comes, without end; an error is raised, or given as any other."""
    while True:
        data = netlink.recv(BUFFER)
        start = 0
        while start < len(data):
            length, kind, _, _, _ = HEADER.unpack_from(data, start)
            body = data[start + HEADER.size : start + length]
            if kind in (ERROR, DONE) and raising:
                code = -struct.unpack_from("=i", body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
            yield kind, body
            start += length + 3 & ~3
