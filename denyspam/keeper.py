"""keeper: one daemon alone keeps an action's part of the kernel. Edge.

Two with state folders of their own would take each other's bans for somebody else's, and undo them four times a second.
The right to it is a unix socket of an abstract name, of which there is one in each network namespace, as there is one
table; it ends with the process, however that ends.

Any user may take such a name: only from a process that may change the firewall it keeps us off.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from contextlib import suppress

from denyspam.logfile import Unavailable

log = logging.getLogger("denyspam")

KERNEL = ("nftables", "iptables")  # the actions that have one
NET_ADMIN = 1 << 12  # linux/capability.h
CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
BACKLOG = 128  # who asks is never taken in


class Keeper:
    """What this process keeps, from one run to the next."""

    def __init__(self) -> None:
        self._name = ""
        self._socket: socket.socket | None = None

    def take(self, name: str) -> None:
        """Keep the part of the action of this name, in place of what was kept. Raises Unavailable."""
        if name != self._name:
            claimed = claim(name)
            if self._socket is not None:
                self._socket.close()
            self._name, self._socket = name, claimed


def claim(name: str) -> socket.socket | None:
    """The right to an action's part of the kernel; None where it has none, or a stranger is in the way. Raises
    Unavailable where another daemon has it."""
    if name not in KERNEL:
        return None
    address = f"\0denyspam {name}"
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        if error.errno != errno.EADDRINUSE:
            raise Unavailable(f"no socket can be made: {error.strerror}") from error
        holder, user = _holder(address)
        if user in (0, os.geteuid()) or _may(holder):
            raise Unavailable(
                f"another denyspam (pid {holder}) carries out bans by {name} on this host, for another state folder: "
                "two would undo each other's; `mode = watch` may run beside it"
            ) from error
        log.warning("another program has the name `@%s`, and may not change the firewall: passed over", address[1:])
        return None
    return made


def _holder(address: str) -> tuple[int, int]:
    """The process that listens there, and its user; 0 and -1 where that is not told."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        probe.connect(address)
        pid, user, _ = CREDENTIALS.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return pid, user
    return 0, -1


def _may(pid: int) -> bool:
    """Whether it may change the firewall: its effective capabilities, which only root sees of everybody (hidepid)."""
    with suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & NET_ADMIN)
    return False
