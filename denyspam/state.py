"""state: the state folder: one process at a time in it, its owner, the ledger there or in memory. Edge.

Banning never waits for a disk: a folder that is full or read-only takes no lock file and no ledger, and both are done
without, with what can still be read.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from denyspam.ledger import MEMORY, Ledger
from denyspam.logfile import Unavailable

log = logging.getLogger("denyspam")


@contextmanager
def locked(state: str) -> Iterator[None]:
    """The state folder, made where it is missing, for this process alone."""
    try:
        os.makedirs(state, mode=0o750, exist_ok=True)
        lock = _lock_file(state)
    except OSError as error:
        code = 77 if isinstance(error, PermissionError) else 69
        raise Unavailable(f"the state folder {state} cannot be used: {error.strerror}", code) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable(f"another denyspam runs with the state folder {state}") from error
    finally:
        os.close(lock)


def _lock_file(state: str) -> int:
    try:
        return os.open(os.path.join(state, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        return os.open(state, os.O_RDONLY | os.O_CLOEXEC)  # banning goes on without a disk


@contextmanager
def as_owner(folder: str | None) -> Iterator[None]:
    """Root as the folder's owner, meanwhile, or as himself again (None): what he writes there the daemon must be able
    to write as well, and a link that its user laid there must not lead root's hand elsewhere."""
    before = os.geteuid(), os.getegid()
    wanted = (0, 0)
    if folder is not None and os.path.isdir(folder):
        owner = os.stat(folder)
        wanted = owner.st_uid, owner.st_gid
    if os.getuid() != 0 or before[0] == wanted[0]:
        yield
        return
    _become(*wanted)
    try:
        yield
    finally:
        _become(*before)


def _become(user: int, group: int) -> None:
    os.seteuid(0)
    os.setegid(group)
    os.seteuid(user)


def open_ledger(state: str) -> Ledger:
    """The ledger of a state folder; where it cannot be opened one in memory, so that banning goes on."""
    path = os.path.join(state, "ledger.db")
    try:
        ledger = Ledger(path, time.time())
    except (OSError, sqlite3.Error) as error:
        log.error("the ledger %s cannot be used, remembering bans in memory only: %s", path, error)
        return memory_ledger(path)
    if ledger.moved:
        log.error("the ledger was damaged (%s): %s", ledger.why, moved(ledger))
    return ledger


def moved(ledger: Ledger) -> str:
    """Where a damaged one went."""
    return f"it was moved to {ledger.moved} and a new one begun" if ledger.moved else "a new one was begun"


def memory_ledger(path: str) -> Ledger:
    """One in memory, with what can be read of the file."""
    ledger = Ledger(MEMORY, time.time())
    if os.path.isfile(path):
        try:
            ledger.copy(path)
        except (OSError, sqlite3.Error) as error:
            log.error("nor can it be read: %s", error)
    ledger.lost = True  # what the kernel holds and it does not know is adopted
    return ledger


def usable_ledger(state: str) -> bool:
    """Whether the ledger of a state folder can be written (by now)."""
    path = os.path.join(state, "ledger.db")
    try:
        with open(path, "r+b"), tempfile.TemporaryFile(dir=state):
            return True
    except FileNotFoundError:
        return os.access(state, os.W_OK)
    except OSError:
        return False
