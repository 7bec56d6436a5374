"""supervisor: tells the supervisor how the daemon is: ready, reloading, alive, stopping, and one line of status. Edge.

The protocol of sd_notify(3): one datagram of `KEY=value` lines to the unix socket that NOTIFY_SOCKET names (a path, or
`@name` for an abstract one). Where there is no such variable nothing is sent, and where the supervisor does not take
the datagram it is forgotten: nobody's absence holds the daemon up.

Never: waits, raises for the supervisor's sake, tells what stood in a log.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

BEAT = 5.0  # seconds between two signs of life, at most: `systemctl status` is no older
SOCKET, INTERVAL, OWNER = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


def tell(**fields: str) -> None:
    """Sends the fields, such as `READY="1"`. Within STATUS control characters become blanks."""
    path = os.environ.get(SOCKET, "")
    if not path.startswith(("/", "@")):
        return
    text = "\n".join(f"{key}={' '.join(value.split())}" for key, value in fields.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as supervisor:
        supervisor.setblocking(False)
        # An abstract name begins with a zero byte; sd_notify(3) writes it as @.
        supervisor.sendto(text.encode("utf-8", "replace"), path.replace("@", "\0", 1) if path[0] == "@" else path)


def reloading() -> None:
    """Until the next READY. The time is what tells the supervisor this reload from an earlier one."""
    tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000), STATUS="reloading")


def interval() -> float:
    """Seconds between signs of life: a third of what the watchdog waits, so that two may be late."""
    watched = os.environ.get(INTERVAL, "")
    if not watched.isdigit() or os.environ.get(OWNER, str(os.getpid())) != str(os.getpid()):
        return BEAT
    return max(0.01, min(BEAT, int(watched) / 1e6 / 3))


async def beat(status: Callable[[], str]) -> None:
    """Signs of life with `status()`, for as long as the loop turns: a loop that hangs is a daemon that does not ban."""
    while os.environ.get(SOCKET):
        tell(WATCHDOG="1", STATUS=status())
        await asyncio.sleep(interval())
