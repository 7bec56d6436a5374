"""process: one run of the daemon after another, from its start to SIGTERM; and `flush` where none runs. Edge.

What outlives a reload is here: the ledger, the streams that cannot be read again, who is told. A ledger that turns out
damaged on the way is moved aside, and a new run begins with a new one.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sqlite3
import sys
import time
from collections.abc import Callable

from denyspam import former, supervisor
from denyspam.apart import Loaded
from denyspam.control import Server
from denyspam.daemon import Daemon, fits
from denyspam.keeper import Keeper
from denyspam.ledger import MEMORY, Ledger, damaged
from denyspam.logfile import Unavailable
from denyspam.memory import Memory
from denyspam.monitor import give_back
from denyspam.notify import Notifier
from denyspam.plugins import load_action
from denyspam.settings import Settings
from denyspam.sources import Source
from denyspam.state import as_owner, locked, memory_ledger, moved, open_ledger, usable_ledger

log = logging.getLogger("denyspam")
keeper = Keeper()  # the process's

SWITCH = 0.0005  # seconds a thread may keep the others waiting; Python's 5 ms would stand between a ban and the kernel
# Objects made before Python looks for cycles among them. At its 700 that took a tenth of a flood's CPU; at 50,000 what
# the reading of the filters leaves behind would take 5 MB more.
GARBAGE = 50_000


def run(conf: str, read: Callable[[], Loaded], *, flush: bool = False) -> None:
    """The daemon in the foreground, until SIGTERM; with `flush` that empties the kernel's sets. `read` loads `conf`.

    Raises SettingsError, ActionError, Unavailable.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can be obeyed: the files are being read anyway
    gc.set_threshold(GARBAGE)
    sys.setswitchinterval(SWITCH)
    gc.collect()  # what the imports left, while we would wait; from here to `ready` there is nothing to be found
    loaded = read()
    fits(loaded[0], {})
    with locked(loaded[0].state):
        asyncio.run(_run(conf, loaded, flush))


async def _run(conf: str, loaded: Loaded, flush: bool) -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()  # to stop: also by a signal between two runs

    def stop() -> None:
        supervisor.tell(STOPPING="1", STATUS="stopping")
        asked.set()
        daemon.stop()

    def status() -> str:
        return daemon.status()

    beat = None
    notifier = Notifier()
    control = Server()  # between two runs the questions wait
    streams: dict[str, Source] = {}  # from one run to the next
    memory: Memory | None = None  # the same
    asked_again = False  # for another reload, by a signal while the last one was under way
    state = loaded[0].state
    ledger = open_ledger(state)
    try:
        while True:
            try:
                keeper.take(former.carrier(loaded[0]))
                daemon = Daemon(conf, loaded, ledger, notifier, control, flush, streams, memory)
                memory = None
                if asked_again:
                    daemon.hangup()
                _clear(first=beat is None)
                beat = beat or loop.create_task(supervisor.beat(status))
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop)
                loop.add_signal_handler(signal.SIGHUP, daemon.hangup)
                try:
                    why = await daemon.serve()
                finally:
                    asked_again = daemon.let_go()
            except sqlite3.Error as error:
                if isinstance(error, sqlite3.ProgrammingError):
                    raise
                ledger, memory = _other_ledger(ledger, error), None
                continue
            if why == "stop" or asked.is_set():
                end = "are in the ledger, the kernel's sets empty" if flush else "stay in the kernel until they expire"
                notifier.leave()
                log.info("stopped; the bans %s", end)
                return
            loaded, memory = daemon.next, daemon.heir
            if ledger.path == MEMORY and usable_ledger(state):
                ledger.close()
                ledger = open_ledger(state)
                ledger.lost = True
    finally:
        await control.stop()
        ledger.close()


def _clear(*, first: bool) -> None:
    """Before serve() freezes for good what is there: the run before is a ring of objects."""
    if not first:
        gc.collect()
    give_back()


def _other_ledger(ledger: Ledger, error: sqlite3.Error) -> Ledger:
    """In the place of one that cannot be read: a new one, and one in memory where that is no better."""
    if damaged(error) and ledger.moved is None:
        try:
            ledger.set_aside(time.time())
        except (OSError, sqlite3.Error) as second:
            log.error("no new ledger can be begun: %s", second)
        else:
            log.error("the ledger was damaged (%s): %s", error, moved(ledger))
            return ledger
    log.error("the ledger cannot be read, remembering bans in memory only: %s", error)
    return memory_ledger(ledger.path)


def flush(settings: Settings, *, keep: bool = True) -> int:
    """Empty the kernel's sets and end the ledger's bans while no daemon runs; how many bans that ended. Without `keep`
    nothing of ours is left in the kernel, not even the empty sets.

    Raises ActionError, and Unavailable where a daemon runs that does not answer.
    """
    with as_owner(settings.state), locked(settings.state):
        with as_owner(None):
            action = load_action(settings)
            held = action.start()
            action.release(one.target for one in held)
            action.stop(keep)
        ledger = open_ledger(settings.state)
        with as_owner(None):
            if former.clear(settings, ledger.facts()):
                ledger.fact(former.FACT, "")
        rows = ledger.open()
        for row in rows:
            ledger.end(row.id, "released", time.time(), "flush")
        written = ledger.commit()
        ledger.close()
    if not written or ledger.path == MEMORY:
        raise Unavailable(
            "the kernel's sets are empty, but the ledger cannot be written "
            f"({ledger.fault or 'it cannot be opened'}): the next start would ban again"
        )
    return len(rows)
