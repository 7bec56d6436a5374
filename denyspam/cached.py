"""cached: what a shipped filter came out as, and the search for all, kept beside Python's bytecode. Edge.

To read the twenty shipped filters takes a quarter of a second, at each start, at each reload and in each command that
reads a log; to load what came out of them, a tenth of that. To compile the search for their needles takes 50 ms and 14
MB; to load it, neither. A filter is kept as a pickle, and the search is a program of Hyperscan's: as dangerous as code.
So they are kept where Python keeps the bytecode of this package, and runs whatever it finds: in `__pycache__`, written
by whoever may write there, and by nobody where no bytecode is to be written. Never in the state folder, nor in the
configuration's: filters that stand there are read each time.
What stands there counts only with the checksum of it, of what it was made of and of the code that made it; else it is
as if it were not there. A search made by another version of Hyperscan, or for another processor, that refuses itself.
(A checksum: against accidents, since whoever could forge one need not. And hashlib would load OpenSSL, 4 MB of the
daemon's 40.)

`python -m denyspam.cached` compiles the whole program, for installations that may not write later.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timezone
from importlib import import_module
from importlib.util import cache_from_source
from typing import TYPE_CHECKING
from zlib import crc32

from denyspam.filter import Filter

if TYPE_CHECKING:
    import hyperscan

HERE = os.path.dirname(__file__)
READERS = ("events", "filter", "grammar", "pattern", "scan", "stamp", "ways")  # the modules that they come out by
SIZE = 4  # bytes of the checksum, which comes first
SEARCHES = 8  # kept, of sets of filters; each is 100 kB


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
    kept = _kept(f"{name}.filter", text.encode())
    if kept is None:
        return None
    found: Filter = pickle.loads(kept)  # noqa: S301 - as trustworthy as the bytecode beside it
    return found


def save(name: str, text: str, found: Filter) -> None:
    """Keep it, where that can be done."""
    _keep(f"{name}.filter", text.encode(), pickle.dumps(found, pickle.HIGHEST_PROTOCOL))


def search(expressions: Sequence[bytes]) -> hyperscan.Database:
    """As `scan.compiled`, for Scanner."""
    import hyperscan

    from denyspam.scan import compiled

    text = b"\n".join(expressions)
    name = f"search{crc32(text) % SEARCHES}"
    kept = _kept(name, text)
    if kept is not None:
        with suppress(hyperscan.error):
            database = hyperscan.loadb(kept, hyperscan.HS_MODE_BLOCK)
            database.scratch = hyperscan.Scratch(database)
            return database
    made = compiled(expressions)
    _keep(name, text, hyperscan.dumpb(made))
    return made


def _kept(name: str, text: bytes) -> bytes | None:
    """What was made of a text, where that is known."""
    try:
        with open(_place(name), "rb") as file:
            kept = file.read()
    except OSError:
        return None
    return kept[SIZE:] if CODE is not None and kept[:SIZE] == _checksum(text, kept[SIZE:]) else None


def _keep(name: str, text: bytes, made: bytes) -> None:
    if sys.dont_write_bytecode or CODE is None:
        return
    place = _place(name)
    beside = f"{place}.{os.getpid()}"
    with suppress(OSError):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        try:
            with open(beside, "xb") as file:
                file.write(_checksum(text, made) + made)
            os.replace(beside, place)
        except OSError:
            os.unlink(beside)


def _place(name: str) -> str:
    return cache_from_source(os.path.join(HERE, f"{name}.py")).removesuffix(".pyc")


def _checksum(text: bytes, made: bytes) -> bytes:
    assert CODE is not None  # noqa: S101 - for the type checker
    return crc32(made, crc32(text, CODE)).to_bytes(SIZE, "big")


def main() -> None:
    """Compiles all modules, the filters, and the search for all of them: of offences, and of accepted mail too."""
    import compileall

    from denyspam.hints import Hints
    from denyspam.plugins import Filters
    from denyspam.scan import Scanner
    from denyspam.stamp import Stamps

    for name in ("denyspam", "denyspam.actions", "denyspam.filters"):
        for folder in import_module(name).__path__:
            compileall.compile_dir(folder, quiet=2)
    sys.dont_write_bytecode = False
    filters = Filters(os.devnull).named(())
    for hints in (Hints(), None):
        Scanner(filters, "", Stamps(timezone.utc), hints, search)


if __name__ == "__main__":
    main()
