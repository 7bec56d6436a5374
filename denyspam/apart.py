"""apart: the configuration and its filters, read in a process of its own at the start of the daemon. Edge.

To read them takes pyparsing and a quarter of a second, and leaves 5 MB behind that are never used again. A child takes
both along when it ends, and works while the daemon imports what it will need; so it begins before that, and imports
what it needs itself. It comes of fork() and is told nothing: what it hands back is trusted as the daemon itself is.
Where it fails, whatever the reason, the daemon reads by itself, and so finds and tells what is wrong. Not for a reload:
by then there are threads, which fork() does not copy.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from denyspam.filter import Filter
    from denyspam.settings import Settings

Loaded: TypeAlias = "tuple[Settings, dict[str, list[Filter]]]"


def begin(conf: str) -> Callable[[], Loaded]:
    """Begins to load(conf). What is returned waits for the end, once, and gives what load() gives or raises."""
    try:
        source, sink = os.pipe()
        child = os.fork()
    except OSError:
        return lambda: _load(conf)
    if child == 0:
        try:
            os.close(source)  # else, were the daemon killed now, the pipe would never break, and this wait for ever
            with open(sink, "wb") as pipe:
                pickle.dump(_load(conf), pipe, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)  # whatever came: nothing of the parent's is to be ended, written or told twice
    os.close(sink)

    def end() -> Loaded:
        with open(source, "rb") as pipe:
            told = pipe.read()
        with suppress(ChildProcessError):  # whoever started us ignores SIGCHLD, and so do we
            os.waitpid(child, 0)
        try:
            found: Loaded = pickle.loads(told)  # noqa: S301 - our own child's
        except (EOFError, pickle.UnpicklingError):
            return _load(conf)
        return found

    return end


def _load(conf: str) -> Loaded:
    from denyspam.plugins import load

    return load(conf)
