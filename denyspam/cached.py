"""cached: what a shipped filter came out as, kept beside Python's bytecode. Edge.

To read the twenty shipped filters takes a quarter of a second, at each start, at each reload and in each command that
reads a log; to load what came out of them, a tenth of that. It is kept as a pickle, which is as dangerous as code. So
it is kept where Python keeps the bytecode of this package, and runs whatever it finds: in `__pycache__`, written by
whoever may write there, and by nobody where no bytecode is to be written. Never in the state folder, nor in the
configuration's: filters that stand there are read each time.
What stands there counts only with the checksum of it, of the filter's text and of the code that reads it; else it is as
if it were not there. (A checksum: against accidents, since whoever could forge one need not. And hashlib would load
OpenSSL, 4 MB of the daemon's 40.)

`python -m denyspam.cached` compiles the whole program, for installations that may not write later.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import cache_from_source
from zlib import crc32

from denyspam.filter import Filter

HERE = os.path.dirname(__file__)
READERS = ("events", "filter", "grammar", "pattern", "stamp", "ways")  # the modules that a filter comes out by
SIZE = 4  # bytes of the checksum, which comes first


def _code() -> int | None:
    """The checksum of the code that reads filters; None where its text is not there."""
    found = 0
    try:
        for name in READERS:
            with open(os.path.join(HERE, f"{name}.py"), "rb") as file:
                found = crc32(file.read(), found)
    except OSError:
        return None
    return found


CODE = _code()  # now, and not when something is kept: an upgrade may have replaced by then what runs here


def load(name: str, text: str) -> Filter | None:
    """What the filter of this text came out as; None where that is not known."""
    try:
        with open(_place(name), "rb") as file:
            kept = file.read()
    except OSError:
        return None
    if CODE is None or kept[:SIZE] != _checksum(text, kept[SIZE:]):
        return None
    found: Filter = pickle.loads(kept[SIZE:])  # noqa: S301 - as trustworthy as the bytecode beside it
    return found


def save(name: str, text: str, found: Filter) -> None:
    """Keep it, where that can be done."""
    if sys.dont_write_bytecode or CODE is None:
        return
    place = _place(name)
    beside = f"{place}.{os.getpid()}"
    made = pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
    with suppress(OSError):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        try:
            with open(beside, "xb") as file:
                file.write(_checksum(text, made) + made)
            os.replace(beside, place)
        except OSError:
            os.unlink(beside)


def _place(name: str) -> str:
    return cache_from_source(os.path.join(HERE, f"{name}.filter.py")).removesuffix(".pyc")


def _checksum(text: str, made: bytes) -> bytes:
    assert CODE is not None  # noqa: S101 - for the type checker
    return crc32(made, crc32(text.encode(), CODE)).to_bytes(SIZE, "big")


def main() -> None:
    """Compiles all modules and filters."""
    import compileall

    from denyspam.plugins import Filters

    for name in ("denyspam", "denyspam.actions", "denyspam.filters"):
        for folder in import_module(name).__path__:
            compileall.compile_dir(folder, quiet=2)
    sys.dont_write_bytecode = False
    Filters(os.devnull).named(())


if __name__ == "__main__":
    main()
