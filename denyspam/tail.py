"""tail: one path as one endless stream of whole lines, and where to go on after a stop, a crash or `kill -9`.

    tail = Tail("/var/log/mail.log", Position.parse(saved) if saved else None, from_start=False)
    for block in tail.history(enough): …            # what stands before the position, to rebuild counters
    for block in tail.read(now): …                  # what is new; `tail.behind` says that there is more already
    saved = tail.position().text()                  # covers exactly what read() gave so far

Edge: it opens, stats and reads files; it takes `now` (seconds of a clock that only goes forward) and never waits.
It needs no event: stat decides, so that NFS and overlays work; one stat is the price of "nothing new".

- Renamed: the old file is read on until it has not grown for 10 s (CLOSED), while the new one is read already; a
  byte of the new file is given out only when the older ones were read up to their ends at that moment, so lines keep
  the writer's order. At most two old ones wait. Files rotated between two reads are found in the folder.
- Truncated (copytruncate, `> log`): seen by the size, or, when the file has grown beyond it again, by the bytes
  before the place of reading. The rest of what was there is searched in the copy; without one it is lost, and said.
- Missing, deleted, its folder gone: read on what is open until the path is back, then from the new file's beginning.
- After a stop: the same, with the saved position in place of the open files.

A *mark* is (device, inode, offset, hash of the first 256 bytes, hash of the 256 bytes before the offset): the hashes
decide, the inode only says where to look first. A *position* is the marks of all files that are being read: the
current one and at most two old ones, or, while the current one is empty, the one before it.

Predecessors are `NAME.1`, `NAME-20261121`, `NAME.0.gz`, `NAME.old`, `STEM-20261121.EXT`, … in the folder of the path
and of what it links to; .gz .bz2 .xz, and .zst where `zstandard` is installed. They are ordered by mtime, which every
compressor keeps. A file of another name is found only by its inode, uncompressed.

Limits: a line that a writer begins before a copytruncate and ends after it is lost, as are bytes written between the
copy and the truncation (logrotate says so too). A file truncated and filled again to exactly the same size within
one tick of the file system's clock looks unchanged until it grows. A predecessor that was
never open here and is still empty is left out (it may be a copy under way): what its writer adds late is lost. A log
that was missing at every look and is rotated before the first one is not found. Finding a position in a compressed file
means decompressing it. An open file keeps the space of a deleted log until a new one has been there for 10 s.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from .lines import LIMIT, LineBuffer

try:
    from _blake2 import blake2b  # hashlib would bring OpenSSL into the daemon's memory: 3.5 MB
except ImportError:
    from hashlib import blake2b

LOG = logging.getLogger(__name__)
CHUNK = 262144  # bytes a read: larger gains nothing, smaller costs calls
CLOSED = 10.0  # seconds without growth after which a renamed file counts as closed by its writer
DRAINING = 2  # old files at their end that may wait for CLOSED
WITNESS = 256  # bytes hashed at the file's start and before the offset
ATTEMPTS = 50  # surveys of a folder that changes under our eyes

ROTATED = re.compile(r"[.-](?:\d[\d._:T-]*|old)(?:\.(?:gz|bz2|xz|zst))?")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

Identity = tuple[int, int]  # device, inode


class Text(Protocol):
    """What decompress() gives: a stream to be read forward."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in one file, at the start of a line."""

    device: int
    inode: int
    offset: int
    number: int  # of the line that starts there, 1-based; 0: unknown
    head: str  # hash of the file's first min(offset, 256) bytes
    before: str  # hash of the min(offset, 256) bytes before the offset

    @property
    def identity(self) -> Identity:
        return self.device, self.inode


@dataclass(frozen=True, slots=True)
class Position:
    """Everything before it was given out. Oldest file first. No marks: the log was not there."""

    marks: tuple[Mark, ...]

    def text(self) -> str:
        """JSON, for the ledger."""
        return json.dumps([[m.device, m.inode, m.offset, m.number, m.head, m.before] for m in self.marks])

    @classmethod
    def parse(cls, text: str) -> Position:
        """What text() wrote. ValueError where it is anything else."""
        try:
            found = tuple(Mark(int(d), int(i), int(o), int(n), str(h), str(b)) for d, i, o, n, h, b in json.loads(text))
        except (TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"not a position: {text[:100]!r}") from error
        if any(mark.offset < 0 or mark.number < 0 for mark in found):
            raise ValueError(f"not a position: {text[:100]!r}")
        return cls(found)


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines that stand together in one file."""

    file: str  # the path that is tailed, whatever the file is called by now
    offset: int  # of the first byte, in its own file (in the decompressed text)
    number: int  # of the first line, 1-based; 0: unknown
    data: bytes  # ends in b"\n"
    arrived: float | None = None  # epoch seconds, where that is known of what is read again


class _Moved(Exception):
    """The folder changed between looking and opening."""


class _File:
    """An open file, plain or compressed, read at offsets of its text. Compressed: cheap only forward."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: a FIFO put in the log's place must not hold up the daemon.
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise _not_a_log(path, status.st_mode)
        self.path = path
        self.identity: Identity = (status.st_dev, status.st_ino)
        self.suffix = os.path.splitext(path)[1] if path.endswith(COMPRESSED) else ""
        self._stream: Text | None = None
        self._at = 0
        self._small: dict[tuple[int, int], bytes] = {}  # witnesses: to read one again means to decompress all again
        self.broken = ""  # why a compressed file ends early

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def size(self) -> int:
        """Bytes of a plain file now; of a compressed one nobody knows before its end."""
        return 1 << 62 if self.suffix else os.fstat(self.fd).st_size

    def at(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end."""
        if not self.suffix:
            return os.pread(self.fd, length, offset)
        if (offset, length) in self._small:
            return self._small[offset, length]
        try:
            data = self._decompressed(offset, length)
        except _garbled() as error:
            self.broken = str(error) or type(error).__name__
            return b""
        if length <= WITNESS:
            self._small[offset, length] = data
        return data

    def _decompressed(self, offset: int, length: int) -> bytes:
        if self._stream is None or offset < self._at:
            os.lseek(self.fd, 0, os.SEEK_SET)
            self._stream, self._at = decompress(os.fdopen(self.fd, "rb", closefd=False), self.suffix), 0
        while self._at < offset:
            skipped = self._stream.read(min(CHUNK, offset - self._at))
            if not skipped:
                return b""
            self._at += len(skipped)
        parts: list[bytes] = []
        while length > 0 and (data := self._stream.read(length)):
            parts.append(data)
            self._at += len(data)
            length -= len(data)
        return b"".join(parts)

    def fits(self, mark: Mark) -> bool:
        """Is this the file that the mark was made in, with nothing before it changed?"""
        if self.size() < mark.offset or not self.begins_like(mark):
            return False
        length = min(WITNESS, mark.offset)
        before = self.at(mark.offset - length, length)
        return len(before) == length and _hash(before) == mark.before

    def begins_like(self, mark: Mark) -> bool:
        return _hash(self.at(0, min(WITNESS, mark.offset))) == mark.head


def identity_of(path: str) -> Identity | None:
    """Of the file at this path; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def rotated_from(path: str) -> tuple[str, ...] | None:
    """The logs that this may be an older part of, by its name: mail.log of mail.log-20261121 and mail-20261121.log.

    () where the name can be no log's that is still written: mail.log.1, mail.log.old, anything compressed. None where
    it is not that of an older part.
    """
    folder, name = os.path.split(path)
    if name.endswith(COMPRESSED) or re.search(r"\.(?:\d{1,3}|old)$", name):
        return ()
    stem, extension = os.path.splitext(name)
    logs = [name[:at] for at in range(1, len(name)) if ROTATED.fullmatch(name, at)]
    logs += [stem[:at] + extension for at in range(1, len(stem)) if ROTATED.fullmatch(stem, at)]
    return tuple(os.path.join(folder, log) for log in logs) or None


def decompress(stream: BinaryIO, suffix: str) -> Text:
    """The text of a compressed stream, by its file's suffix: "", ".gz", ".bz2", ".xz" or ".zst"."""
    match suffix:  # imported when needed: together they are 2 MB
        case ".gz":
            import gzip  # noqa: PLC0415

            return gzip.GzipFile(fileobj=stream)
        case ".bz2":
            import bz2  # noqa: PLC0415

            return bz2.BZ2File(stream)
        case ".xz":
            import lzma  # noqa: PLC0415

            return lzma.LZMAFile(stream)
        case ".zst":
            try:
                import zstandard  # noqa: PLC0415
            except ImportError:  # the extra [zstd]
                raise OSError("to read .zst install the Python package zstandard") from None
            reader: Text = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
            return reader
    return stream


def _garbled() -> tuple[type[Exception], ...]:
    """What reading a damaged file may raise."""
    from lzma import LZMAError  # noqa: PLC0415

    found: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, LZMAError)
    with suppress(ImportError):
        from zstandard import ZstdError  # noqa: PLC0415

        found = (*found, ZstdError)
    return found


def _not_a_log(path: str, mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, "this is a folder; name the log file in it", path)
    what = "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return OSError(errno.EINVAL, f"this is {what}; a log must be a regular file, which can be read again", path)


class _Source:
    """One file, read forward once. `done` is where the whole lines end, `reached` where reading ends."""

    def __init__(self, file: _File, offset: int, number: int) -> None:
        self.file = file
        self.buffer = LineBuffer(offset=offset, number=number)
        self.reached = offset
        length = min(WITNESS, offset)
        self.head = file.at(0, length)
        self._before = self._latest = file.at(offset - length, length)  # the bytes before `done` and `reached`
        self.found = False  # by its name beside the log, not by having been the log: it may be a copy under way
        self.first = b""  # while nothing was read: how it began when the folder was last surveyed
        self.quiet_since: float | None = None  # since when a newer file is there and this one has not grown
        self.truncated = False

    @property
    def done(self) -> int:
        return self.buffer.offset

    def read(self, limit: int) -> bytes:
        """The next bytes, b"" at the end; b"" and `truncated` where this is no longer the text that was read."""
        if self.file.suffix:
            data = self.file.at(self.reached, limit)
        else:
            # The witness and the new bytes come from one system call, so that no truncation fits in between.
            witness = len(self._latest)
            data = self.file.at(self.reached - witness, witness + limit)
            if not data.startswith(self._latest) or not self._same_head():
                self.truncated = True
                return b""
            data = data[witness:]
            if not self.reached and not data.startswith(self.first[: len(data)]):
                self.truncated = True
                return b""
        return data

    def feed(self, name: str, data: bytes) -> list[Block]:
        blocks = [Block(name, lines.offset, lines.number, lines.data) for lines in self.buffer.feed(data)]
        if len(self.head) < WITNESS:
            self.head += data[: WITNESS - len(self.head)]
        whole = self.done - self.reached  # bytes of `data` up to its last newline; not positive if it has none
        if whole > 0:
            self._before = (self._latest + data[max(0, whole - WITNESS) : whole])[-WITNESS:]
        self._latest = (self._latest + data[-WITNESS:])[-WITNESS:]
        self.reached += len(data)
        return blocks

    def flush(self, name: str) -> list[Block]:
        blocks = [Block(name, lines.offset, lines.number, lines.data) for lines in self.buffer.flush()]
        self._before = self._latest
        return blocks

    def intact(self) -> bool:
        witness = len(self._latest)
        return bool(self.file.suffix) or (
            self.file.at(self.reached - witness, witness) == self._latest and self._same_head()
        )

    def _same_head(self) -> bool:
        # Long lines may end alike for more bytes than the witness has; the first line of a log holds its time.
        return self.file.at(0, len(self.head)) == self.head

    def mark(self) -> Mark:
        device, inode = self.file.identity
        head = _hash(self.head[: min(WITNESS, self.done)])
        return Mark(device, inode, self.done, self.buffer.number, head, _hash(self._before))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the log's folder: the current one, or a predecessor."""

    path: str
    identity: Identity
    size: int
    modified: int  # nanoseconds
    rotated: bool  # by its name
    current: bool = False

    @property
    def age(self) -> tuple[bool, int, int]:
        """Sorts the oldest first. Where the clock of the file system is too coarse, `.2` is older than `.1`."""
        count = re.fullmatch(r".*\.(\d{1,4})(?:\.\w+)?", self.path)
        return self.current, self.modified, -int(count[1]) if count else 0


def _survey(path: str, inodes: frozenset[int]) -> list[_Entry]:
    """The log and its predecessors, oldest first, the current file (if there is one) last."""
    entries: dict[str, _Entry] = {}
    try:
        status: os.stat_result | None = os.stat(path)
    except OSError:
        status = None
    if status is not None and not (stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK)):
        status = None
    for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        folder, name = os.path.split(place)
        stem, extension = os.path.splitext(name)
        try:
            with os.scandir(folder) as listing:
                found = list(listing)
        except OSError:
            continue
        for entry in found:
            rotated = (entry.name.startswith(name) and ROTATED.fullmatch(entry.name, len(name)) is not None) or (
                bool(extension)
                and entry.name.startswith(stem)
                and ROTATED.fullmatch(entry.name.replace(extension, "", 1), len(stem)) is not None
                and extension in entry.name[len(stem) :]
            )
            if not rotated and entry.inode() not in inodes:
                continue
            try:
                there = os.stat(entry.path)
            except OSError:
                continue
            identity = (there.st_dev, there.st_ino)
            if status and identity == (status.st_dev, status.st_ino):
                continue
            if not (stat.S_ISREG(there.st_mode) and os.access(entry.path, os.R_OK)):
                continue
            entries[os.path.realpath(entry.path)] = _Entry(
                entry.path, identity, there.st_size, there.st_mtime_ns, rotated
            )
    # A compressor removes its input last: beside NAME.1, NAME.1.gz is unfinished or the same again.
    names = {entry.path for entry in entries.values()}
    predecessors = [
        e for e in entries.values() if not (e.path.endswith(COMPRESSED) and os.path.splitext(e.path)[0] in names)
    ]
    if status is not None:
        predecessors.append(
            _Entry(path, (status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns, False, True)
        )
    return sorted(predecessors, key=lambda entry: entry.age)


class Tail:
    """One log. See the module's docstring.

    `position`: where to go on, from position(); None at the very first start, which begins at the log's end, or with
    `from_start` at its beginning. `note` is told, once each, what an admin should know. Raises OSError, with the
    path, for what cannot be a log (folder, FIFO, device) or must not be read; a missing file is no error.
    """

    def __init__(
        self,
        path: str,
        position: Position | None,
        *,
        from_start: bool,
        note: Callable[[str], None] = LOG.warning,
    ) -> None:
        self.path = path
        self.behind = False  # the last read() stopped at its limit, not at the end
        self.ended = False  # a file may always grow
        self.present = False  # the path is a readable file
        self.lost = 0  # times that a position was not found again
        self.rotations = 0
        self._overlong = 0
        self._note = note
        self._now: float | None = None  # of the last read()
        self._since: float | None = None  # when the trouble with the path began
        self._said = ""  # the last trouble, so that it is noted once
        self._sources: list[_Source] = []  # oldest first
        self._current: _Source | None = None  # the one at `path`; stays while the path is missing
        self._anchor: Mark | None = None  # end of the last finished file, until a newer one has been read from
        self._seen = (-1, -1)  # size and mtime of the current file at the last look
        try:
            _File(path).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            self._trouble(error)
        self._bare = position is not None and not position.marks  # neither the log nor a predecessor was ever there
        if position is not None:
            self._locate([(mark, None) for mark in position.marks])
        else:
            self._locate([], at_end=not from_start)
            if self._current is None:
                self._anchor = _end_of_newest(_survey(path, frozenset()))
                self._bare = self._anchor is None

    # -- reading

    def read(self, now: float, limit: int = CHUNK) -> list[Block]:
        """What is new, in order; [] where nothing is. Reads at most `limit` bytes; a block may begin with up to
        64 KiB of a line begun earlier. With `behind` set there is more (and a [] does not mean the end)."""
        self.behind, self._now = False, now
        news = self._news()
        if news is None:
            self._relocate()
        elif not news:
            return []
        bounds: list[int] = []
        for source in reversed(self._sources):  # the newest first: see the docstring, "order"
            # Of the current file nothing is read before a survey has seen it begin: it may be another text by now.
            unseen = source is self._current and not source.reached and not source.first
            bounds.insert(0, 0 if unseen else source.file.size())
        blocks: list[Block] = []
        ended = 0  # the oldest sources that are at their ends
        for source, bound in zip(list(self._sources), bounds, strict=True):
            last = source is self._sources[-1]
            if source.found and not source.reached and not last and (not bound or self._is_copy(source)):
                self._sources.remove(source)
                source.file.close()
                continue
            grown = False
            while limit > 0:
                # The oldest is read to its end, wherever that is by now; but the first bytes of a file only as far
                # as it went when it was compared with the current one, lest they come from a copy under way.
                bounded = ended or not source.reached
                data = source.read(min(limit, max(0, bound - source.reached)) if bounded else limit)
                if not data:
                    break
                grown = True
                limit -= len(data)
                blocks += source.feed(self.path, data)
                if last:
                    break
            if source.truncated or limit <= 0:
                self.behind = True
                break
            if source.file.broken:
                self._note(f"{source.file.path} ends early: {source.file.broken}")
                source.file.broken = ""
            if not last and (grown or source.quiet_since is None):
                source.quiet_since = now
            ended += 1
        return blocks + self._finish(ended, now)

    def position(self) -> Position:
        """Where to go on after what read() has given out so far. Costs some microseconds and no system call."""
        started = [index for index, source in enumerate(self._sources) if source.done]
        if started:
            return Position(tuple(source.mark() for source in self._sources[: started[-1] + 1]))
        if self._anchor:
            return Position((self._anchor,))
        return Position(tuple(source.mark() for source in self._sources[:1]))

    @property
    def identities(self) -> set[Identity]:
        """Of the files that are open."""
        return {source.file.identity for source in self._sources}

    def fileno(self) -> int:
        """-1: the kernel tells of a file's growth by its path (watch)."""
        return -1

    def facts(self) -> dict[str, int | None]:
        """What `status` says of a file: where reading stands in it, and how large it is now."""
        marks = self.position().marks
        try:
            size: int | None = os.stat(self.path).st_size
        except OSError:
            size = None
        return {"position": marks[-1].offset if marks else 0, "size": size}

    @property
    def overlong(self) -> int:
        """Lines dropped because they were too long."""
        return self._overlong + sum(source.buffer.overlong for source in self._sources)

    def close(self) -> None:
        for source in self._sources:
            source.file.close()
        self._sources, self._current = [], None

    def _news(self) -> bool | None:
        """Is there something to read? None: look first where everything is by now."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            return self._absent(error)
        if not stat.S_ISREG(status.st_mode):
            return self._absent(_not_a_log(self.path, status.st_mode))
        current = self._current
        if current is None or any(source.truncated for source in self._sources):
            return None
        size = status.st_size
        if (status.st_dev, status.st_ino) != current.file.identity or size < current.reached:
            return None
        self._fine()
        seen, self._seen = self._seen, (size, status.st_mtime_ns)
        if self._seen != seen and not current.reached:
            return None  # nothing of it was read, so no witness tells whether it was filled, copied and truncated
        if size > current.reached:
            # Bytes that the open file will never have: an overlay has copied it up, and the path is another file.
            return None if self._seen == seen and current.file.size() < size else True
        return self._seen != seen or len(self._sources) > 1

    def _absent(self, error: OSError) -> bool | None:
        """What is open may still grow; where nothing of it was read and it has grown, a survey must see it first."""
        self._trouble(error)
        current = self._current
        if current is not None and not current.reached and not current.first and current.file.size():
            return None
        return True

    def _trouble(self, error: OSError) -> None:
        """Said at the start at once, else when it has lasted: between the two steps of a rotation it means nothing."""
        self.present = False
        self._since = self._now if self._since is None else self._since
        missing = isinstance(error, FileNotFoundError)
        text = f"the log {self.path} is not there" if missing else f"the log cannot be read now: {error}"
        if text != self._said and (self._now is None or self._since is None or self._now - self._since >= CLOSED):
            self._said = text
            self._note(text)

    def _fine(self) -> None:
        self.present, self._said, self._since = True, "", None

    def _is_copy(self, source: _Source) -> bool:
        """Is this predecessor a copy that logrotate is just making of the current file, to truncate it then?

        When it is complete and the current file truncated, a new survey finds it again.
        """
        if self._current is None or source is self._current:
            return False
        first = source.file.at(0, WITNESS)
        return len(first) == WITNESS and first == self._current.file.at(0, WITNESS)

    def _finish(self, ended: int, now: float) -> list[Block]:
        """Let go of the oldest files that are at their ends and that their writer has closed."""
        blocks: list[Block] = []
        for left in range(min(ended, len(self._sources) - 1), 0, -1):
            source = self._sources[0]
            waited = 0.0 if source.quiet_since is None else now - source.quiet_since
            if not (source.file.suffix or waited >= CLOSED or left > DRAINING):
                break
            blocks += source.flush(self.path)
            self._anchor = source.mark()
            self._overlong += source.buffer.overlong
            source.file.close()
            del self._sources[0]
        return blocks

    # -- finding

    def _relocate(self) -> None:
        """The path is another file than the one open, or it was truncated: look where everything is by now."""
        current = self._current
        stale = current is not None and not current.truncated and current.reached <= current.file.size() < self._seen[0]
        known: list[tuple[Mark, _Source | None]] = []
        if any(source.done for source in self._sources):
            self._anchor = None
        elif self._anchor:
            known.append((self._anchor, None))
        for source in self._sources:
            keep = source.intact() and not (stale and source is current)
            source.truncated = False
            known.append((source.mark(), source if keep else None))
        self._locate(known)

    def _locate(self, known: Sequence[tuple[Mark, _Source | None]], *, at_end: bool = False) -> None:
        """Build the list of sources from what is known: marks, with their open files or to be searched."""
        inodes = frozenset(mark.inode for mark, _ in known)
        for attempt in reversed(range(ATTEMPTS)):
            entries = _survey(self.path, inodes)
            opened: dict[int, _File] = {}
            moved: OSError | None = None
            try:
                sources, missing = self._plan(known, entries, opened)
            except _Moved as error:
                moved = OSError(errno.EAGAIN, f"its folder changes too fast ({error.__cause__})", self.path)
            again = _survey(self.path, inodes)
            if not moved and (
                not attempt or {(e.path, e.identity) for e in again} == {(e.path, e.identity) for e in entries}
            ):
                break
            for file in opened.values():
                file.close()
        if moved:  # keep what is open; the next read() looks again
            if not self._sources:
                raise moved
            self._trouble(moved)
            return
        self._adopt(sources, opened)
        self._bare = self._bare and not sources
        last = known[-1][0] if known else None
        if last in missing and last is not None and last.offset:
            self.lost += 1
            self._note(
                f"{self.path}: what was read last (to byte {last.offset}) is neither in it nor in a rotated file "
                "beside it; reading it from its beginning"
            )
        if not (entries and entries[-1].current):
            self._current = None
            if os.path.isfile(self.path) and not os.access(self.path, os.R_OK):
                self._trouble(PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path))
            return
        current = sources[-1]
        if at_end and (place := _last_line(current.file)):
            sources[-1] = current = _Source(current.file, place, 0)
        self.rotations += self._current is not None and self._current is not current
        self._current = current
        self._seen = (entries[-1].size, entries[-1].modified)
        self._fine()

    def _adopt(self, sources: list[_Source], opened: dict[int, _File]) -> None:
        used = [source.file for source in sources]
        for source in self._sources:
            if source not in sources:
                self._overlong += source.buffer.overlong
        for file in [*opened.values(), *(source.file for source in self._sources)]:
            if file not in used:
                file.close()
        self._sources = sources
        self._seen = (-1, -1)

    def _plan(
        self, known: Sequence[tuple[Mark, _Source | None]], entries: list[_Entry], opened: dict[int, _File]
    ) -> tuple[list[_Source], list[Mark]]:
        placed: list[tuple[int, _Source]] = []
        idle: dict[int, _Source | None] = {}  # files from which no whole line was read yet
        missing: list[Mark] = []
        taken: set[int] = set()
        for mark, source in known:
            index = self._find(mark, entries, opened, held=source is not None, taken=taken)
            if index is not None and mark.offset == 0:
                idle[index] = source
            elif index is not None:
                taken.add(index)
                found = source or _Source(self._open(index, entries, opened), mark.offset, mark.number)
                if source is None and (found.mark().head, found.mark().before) != (mark.head, mark.before):
                    raise _Moved  # truncated since it was compared
                placed.append((index, found))
            elif source is not None:  # deleted or moved elsewhere: what is newer than its last byte came after it
                modified = os.fstat(source.file.fd).st_mtime_ns
                old = [entry.modified for entry in entries if not entry.current]
                placed.append((bisect_right(old, modified) - 1, source))
            else:
                missing.append(mark)
        # Rotated since the last byte that was read. Files older than that, and not known, were read long ago.
        newest = max((index for index, _ in placed), default=-1 if self._bare else len(entries))
        for index, entry in enumerate(entries):
            if index not in taken and (entry.current or index in idle or (entry.rotated and index > newest)):
                fresh = idle.get(index)
                if fresh is None:
                    fresh = _Source(self._open(index, entries, opened), 0, 1)
                    fresh.found = not entry.current
                fresh.first = fresh.file.at(0, WITNESS)
                placed.append((index, fresh))
        placed.sort(key=lambda item: item[0])
        return [source for _, source in placed], missing

    def _find(
        self, mark: Mark, entries: list[_Entry], opened: dict[int, _File], *, held: bool, taken: set[int]
    ) -> int | None:
        """Where the mark's file is among the entries: looked for by inode first, then from the newest to the oldest."""
        order = [index for index in reversed(range(len(entries))) if index not in taken]
        order.sort(key=lambda index: entries[index].identity != mark.identity)
        for index in order:
            same = entries[index].identity == mark.identity
            if held and same:
                return index
            if mark.offset == 0:
                return index if same else None  # nothing was read, so no hash tells it
            file = self._open(index, entries, opened)
            # For an open file only its place in the order is wanted: no need to decompress to the mark.
            if file.begins_like(mark) if held else file.fits(mark):
                return index
        return None

    def _open(self, index: int, entries: list[_Entry], opened: dict[int, _File]) -> _File:
        if index not in opened:
            entry = entries[index]
            try:
                opened[index] = file = _File(entry.path)
            except OSError as error:
                raise _Moved from error
            if file.identity != entry.identity:
                raise _Moved
        return opened[index]

    # -- history

    def history(self, enough: Callable[[bytes], bool], step: int = CHUNK) -> Iterator[Block]:
        """What stands before the position, oldest first, up to exactly the position: for rebuilding counters.

        Walks backwards, in steps that double, through the current file and then its predecessors, until
        `enough(line)` says of a step's first whole line (without its newline) that it is old enough; where no line
        is, from the oldest predecessor's beginning. A compressed predecessor is one step. Offsets are those that
        read() gave. `number` is 0 where the step began in the middle of a file. To be used up before the first read().
        """
        files = [(source.file, source.done) for source in self._sources if source.done]
        older = self._older([file for file, _ in files] or [source.file for source in self._sources])
        spans: list[tuple[_File, int, int | None]] = []
        own: list[_File] = []
        try:
            for file, end in self._backwards(files, older, own):
                start = 0
                found = False
                if file.suffix:
                    found = enough(_first_line(file, 0)[1])
                else:
                    start = stop = file.size() if end is None else end
                    while start > 0 and not found:
                        place = max(0, stop - step)
                        start, line = _first_line(file, place)
                        found = start < stop and bool(line) and enough(line)
                        start = start if found else place
                        step *= 2
                spans.append((file, start, end))
                if found:
                    break
            for file, start, end in reversed(spans):
                yield from _stream(self.path, file, start, end)
        finally:
            for file in own:
                file.close()

    def _older(self, files: list[_File]) -> list[_Entry]:
        """Predecessors older than the oldest of these files, oldest first."""
        entries = [entry for entry in _survey(self.path, frozenset()) if entry.rotated]
        identities = [file.identity for file in files]
        places = [index for index, entry in enumerate(entries) if entry.identity in identities]
        return entries[: min(places)] if places else entries

    @staticmethod
    def _backwards(
        files: list[tuple[_File, int]], older: list[_Entry], own: list[_File]
    ) -> Iterator[tuple[_File, int | None]]:
        yield from reversed(files)
        heads = [file.at(0, WITNESS) for file, _ in files]
        for entry in reversed(older):
            try:
                file = _File(entry.path)
            except OSError:
                continue
            own.append(file)
            if file.identity == entry.identity and file.at(0, WITNESS) not in heads:  # else a copy of one of ours
                yield file, None


def _first_line(file: _File, start: int) -> tuple[int, bytes]:
    """The first whole line that starts behind `start` (at it, if it is 0), without its newline; b"" if there is none
    within what the longest line allows."""
    data = file.at(start, 2 * LIMIT)
    first = data.find(b"\n") + 1 if start else 0
    end = data.find(b"\n", first)
    if (start and not first) or end < 0:
        return start, b""
    return start + first, data[first:end]


def _last_line(file: _File) -> int:
    """Where the unfinished line at the end of a plain file starts: its end, if there is none."""
    end = file.size()
    while end > 0:
        start = max(0, end - LIMIT)
        newline = file.at(start, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _end_of_newest(entries: list[_Entry]) -> Mark | None:
    """The end of the newest predecessor: where a log begins that is not there at the very first start."""
    for entry in reversed(entries):
        try:
            file = _File(entry.path)
        except OSError:
            continue
        try:
            if not file.suffix:
                end = file.size()
            else:
                end = 0
                while data := file.at(end, CHUNK):
                    end += len(data)
            return _Source(file, end, 0).mark()
        finally:
            file.close()
    return None


def _stream(name: str, file: _File, start: int, end: int | None) -> Iterator[Block]:
    buffer = LineBuffer(offset=start, number=0 if start else 1)
    while data := file.at(start, CHUNK if end is None else min(CHUNK, end - start)):
        start += len(data)
        for lines in buffer.feed(data):
            yield Block(name, lines.offset, lines.number, lines.data)
    if end is None:
        for lines in buffer.flush():
            yield Block(name, lines.offset, lines.number, lines.data)
