"""cores: several logs read at once, each on a core of its own. Edge: processes, and a temporary folder.

Scanning is most of the work and needs no other log; joining and deciding need all of them in the order of time, and
stay here. What a worker finds goes to a file, batch by batch, and is taken from there when its time comes: so no log
waits for another, and memory stays flat however far apart they are. Worth it for large files only, as a process costs
half a second to start, and not on two cores: all that is found is written and read once more, and a worker reads every
line that says whose a queue id is, since he cannot know who will ask. That doubles the CPU.
"""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any, BinaryIO

from denyspam import replay
from denyspam.events import Event
from denyspam.hints import Hints
from denyspam.join import Join
from denyspam.replay import Source, Stream, Unreadable

LEAST = 512 << 20  # bytes of all logs together; below it the others have hardly begun when one core is through
FEWEST = 3  # cores; 8.6 million lines of two logs took 59 s of CPU in one process, and 113 in three
BATCH = 2_000  # findings written at once
PAUSE = 0.01  # seconds between two looks for more


def events(
    sources: Sequence[Source],
    progress: Callable[[int], object] = lambda _: None,
    *,
    copies: bool = True,
    harmless: bool = False,
    least: int = LEAST,
    fewest: int = FEWEST,
) -> Iterator[Event]:
    """As `replay.events`, event by event, with as many cores as there are and as it is worth."""
    there = len(os.sched_getaffinity(0))
    cores = min(len(sources), there)
    if cores < 2 or there < fewest or _size([source.path for source in sources]) < least:
        yield from replay.events(sources, progress, copies=copies, harmless=harmless)
        return
    with (
        ProcessPoolExecutor(cores, get_context("spawn")) as pool,
        tempfile.TemporaryDirectory(prefix="denyspam-") as folder,  # goes first: that tells the workers to end
    ):
        streams: list[Stream] = []
        for number, source in enumerate(sources):
            path = os.path.join(folder, str(number))
            spool = open(path, "wb+")  # noqa: SIM115 - the stream closes it
            work = pool.submit(_work, source, harmless, path)
            streams.append(_stream(source, spool, work, progress))
        try:
            yield from replay.merged(streams, Join(), copies=copies)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def each(
    function: Callable[[Any], Any], works: Sequence[Any], paths: Sequence[str], least: int = LEAST
) -> Iterator[Any]:
    """function(work) of every one of them, in their order; each reads the file of its path. Raises what it raises."""
    cores = min(len(works), len(os.sched_getaffinity(0)))
    if cores < 2 or _size(paths) < least:
        yield from map(function, works)
        return
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        yield from pool.map(function, works)


def _size(paths: Sequence[str]) -> int:
    """Bytes of all the files; 0 where one is a pipe, which only one process can read."""
    total = 0
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            return 0
        if not stat.S_ISREG(status.st_mode):
            return 0
        total += status.st_size
    return total


def _work(source: Source, harmless: bool, path: str) -> None:
    """In a process of its own: everything that `source` says, into the file `path`."""
    read = 0

    def progress(count: int) -> None:
        nonlocal read
        read += count

    with open(path, "ab", buffering=0) as spool:
        batch: list[tuple[float, Any, int]] = []
        try:
            for found in replay.findings(source, progress, None if harmless else Hints(every=True)):
                batch.append(found)
                if len(batch) == BATCH:
                    if os.fstat(spool.fileno()).st_nlink == 0:
                        return  # nobody will read it
                    _write(spool, (batch, read, None))
                    batch, read = [], 0
            _write(spool, (batch, read, ""))
        except Unreadable as error:
            _write(spool, (batch, read, str(error)))


def _write(spool: Any, said: tuple[list[Any], int, str | None]) -> None:
    """One batch: its length in eight bytes, and itself. The last says "", or why there is no more."""
    data = pickle.dumps(said, pickle.HIGHEST_PROTOCOL)
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[spool.write(view) :]


def _stream(source: Source, spool: BinaryIO, work: Future[None], progress: Callable[[int], object]) -> Stream:
    with spool:
        while True:
            batch, read, end = _next(source, spool, work)
            progress(read)
            yield from batch
            if end:
                raise Unreadable(end)
            if end is not None:
                return


def _next(source: Source, spool: BinaryIO, work: Future[None]) -> tuple[list[Any], int, str | None]:
    """The next batch, once it is there whole. Only what our own worker wrote is ever unpickled."""
    place = spool.tell()
    while True:
        over = work.done()
        head = spool.read(8)
        if len(head) == 8:
            data = spool.read(int.from_bytes(head, "big"))
            if len(data) == int.from_bytes(head, "big"):
                said: tuple[list[Any], int, str | None] = pickle.loads(data)  # noqa: S301
                return said
        spool.seek(place)
        if over:
            with suppress(BrokenProcessPool):
                work.result()
            raise Unreadable(f"{source.path}: the process that read it ended early")
        time.sleep(PAUSE)
