"""journal: the systemd journal as one endless stream of lines, and where to go on. Edge: libsystemd, by ctypes.

    journal = Journal("journal", Selection(), saved, note)       # the host's own; Selection(folder=...) another
    for block in journal.history(enough): …    for block in journal.read(now): …    journal.position().text()

The same promises as a tail's: what stands before the position rebuilds counters, what stands behind it is decided on,
nothing twice and nothing left out. The place is the journal's own cursor of the last entry read; rotation is the
library's business. Where that entry is gone (vacuumed while we were away) reading goes on with the next one that is
left, said and counted; and so it does behind a damaged part. An entry becomes the line that syslog would have written
(datagram.py), its time __REALTIME_TIMESTAMP; its offset is that time in microseconds, and each is a block of its own.

In process, and not through `journalctl`: a bare loop takes 11 µs an entry instead of 14 and a second process to feed,
watch and start anew, and needs no package beside the library that every host with a journal has. Only five fields are
fetched.

Which entries: those of the mail facility, or of `units`, whose names processes cannot choose: where strangers have
shells, units keep them from accusing anybody with `logger`. The host's journal means the system's, not the users'.

Limits: an entry longer than a line may be is dropped and counted. Entries that another machine's upload puts before
what was read already are not seen. A process that ends at once may be gone before journald asks for its unit: such an
entry has none, and `units` does not take it. A journal file cut short under the library's hands ends the process
(SIGBUS), as it would journalctl; the supervisor starts it again.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from glob import escape, glob
from typing import Any

from denyspam import datagram
from denyspam.lines import LIMIT
from denyspam.tail import CHUNK, Block

LIBRARY = "libsystemd.so.0"
LOCAL_ONLY, SYSTEM = 1, 4  # sd-journal.h: SD_JOURNAL_…
MAIL = "SYSLOG_FACILITY=2"
STEP = 1024  # entries gone back at first for the history, then twice as many
FILES = (".journal", ".journal~")  # how a journal file's name ends
FOLDERS = ("/var/log/journal", "/run/log/journal")
POINTER = ctypes.POINTER(ctypes.c_void_p)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "open": (POINTER, ctypes.c_int),
    "open_namespace": (POINTER, ctypes.c_char_p, ctypes.c_int),
    "open_directory": (POINTER, ctypes.c_char_p, ctypes.c_int),
    "open_files": (POINTER, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int),
    "set_data_threshold": (ctypes.c_void_p, ctypes.c_size_t),
    "add_match": (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
    "add_conjunction": (ctypes.c_void_p,),
    "add_disjunction": (ctypes.c_void_p,),
    "flush_matches": (ctypes.c_void_p,),
    "seek_head": (ctypes.c_void_p,),
    "seek_tail": (ctypes.c_void_p,),
    "seek_cursor": (ctypes.c_void_p, ctypes.c_char_p),
    "seek_realtime_usec": (ctypes.c_void_p, ctypes.c_uint64),
    "test_cursor": (ctypes.c_void_p, ctypes.c_char_p),
    "next": (ctypes.c_void_p,),
    "previous": (ctypes.c_void_p,),
    "previous_skip": (ctypes.c_void_p, ctypes.c_uint64),
    "get_cursor": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p)),
    "get_realtime_usec": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)),
    "get_data": (ctypes.c_void_p, ctypes.c_char_p, POINTER, ctypes.POINTER(ctypes.c_size_t)),
    "get_fd": (ctypes.c_void_p,),
    "process": (ctypes.c_void_p,),
    "close": (ctypes.c_void_p,),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which journal, and which of its entries. Without `units` and `match` those of the mail facility."""

    folder: str = ""  # of another journal than the host's own, or one journal file
    namespace: str = ""
    units: tuple[str, ...] = ()  # of any of these
    match: tuple[str, ...] = ()  # FIELD=VALUE as journalctl takes them: one field any of its values, `+` is or

    def terms(self) -> list[list[str]]:
        """Groups of matches, all of which must fit; "+" within a group is or."""
        if not self.units and not self.match:
            return [[MAIL]]
        units = [f"_SYSTEMD_UNIT={name}" for unit in self.units for name in _names(unit)]
        return [list(group) for group in (units, self.match) if group]


def _names(unit: str) -> tuple[str, ...]:
    """`postfix` is postfix.service, and postfix@-.service where Debian runs it."""
    return (unit,) if "." in unit else (f"{unit}.service", f"{unit}@-.service")


@dataclass(frozen=True, slots=True)
class Place:
    """Behind an entry; without a cursor, behind all that was written before `since`, microseconds of the epoch."""

    cursor: str
    since: int

    def text(self) -> str:
        """JSON, for the ledger."""
        return json.dumps({"cursor": self.cursor, "since": self.since})

    @classmethod
    def parse(cls, text: str) -> Place:
        """What text() wrote. ValueError where it is anything else."""
        try:
            found = json.loads(text)
            return cls(str(found["cursor"]), int(found["since"]))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a place in a journal: {text[:100]!r}") from error


@cache
def library() -> Any:
    """sd_journal_… by their short names. Raises OSError where there is no such library."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError as error:
        text = f"the journal is read by {LIBRARY}, which is not here; install it (on Debian: libsystemd0)"
        raise OSError(errno.ENOENT, text) from error

    class Library:
        pass

    for name, types in SIGNATURES.items():
        function = getattr(found, f"sd_journal_{name}")
        function.argtypes, function.restype = types, None if name == "close" else ctypes.c_int
        setattr(Library, name, function)
    return Library


def readable(selection: Selection) -> bool:
    """Is there such a journal yet? Raises PermissionError where there is one, but nothing of it may be read."""
    folder = escape(selection.folder)
    if selection.folder.endswith(FILES):
        kept = glob(folder)
    elif folder:
        kept = glob(f"{folder}/*.journal") + glob(f"{folder}/*/*.journal")
        if os.path.isdir(selection.folder) and not os.access(selection.folder, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), selection.folder)
    else:
        end = f"*.{escape(selection.namespace)}" if selection.namespace else "*"
        kept = [file for each in FOLDERS for file in glob(f"{each}/{end}/system*.journal")]
    if kept and not any(os.access(file, os.R_OK) for file in kept):
        raise PermissionError(errno.EACCES, "its readers are the group systemd-journal", os.path.dirname(kept[0]))
    return bool(kept)


class Reader:
    """An open journal at a place. All calls raise OSError."""

    def __init__(self, selection: Selection) -> None:
        self._lib = library()
        self._free = ctypes.CDLL(None).free
        self._free.argtypes, self._free.restype = (ctypes.c_void_p,), None
        self._handle = ctypes.c_void_p()
        self._pointer, self._length, self._usec = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_uint64()
        self._to = [ctypes.byref(each) for each in (self._pointer, self._length, self._usec)]
        self._what = selection.folder or "the journal"
        folder, handle = os.fsencode(selection.folder), ctypes.byref(self._handle)
        if selection.folder.endswith(FILES):
            self._did(self._lib.open_files(handle, (ctypes.c_char_p * 2)(folder, None), 0))
        elif folder:
            self._did(self._lib.open_directory(handle, folder, 0))
        elif selection.namespace:
            name = selection.namespace.encode()
            self._did(self._lib.open_namespace(handle, name, LOCAL_ONLY | SYSTEM))
        else:
            self._did(self._lib.open(handle, LOCAL_ONLY | SYSTEM))
        self._terms = selection.terms()
        self._did(self._lib.set_data_threshold(self._handle, LIMIT + CHUNK))
        self.overlong = 0

    def _did(self, result: int) -> int:
        if result < 0:
            raise OSError(-result, os.strerror(-result), self._what)
        return result

    def select(self) -> None:
        """From here on only the entries that the selection names."""
        for group in self._terms:
            self._did(self._lib.add_conjunction(self._handle))
            for match in group:
                if match == "+":
                    self._did(self._lib.add_disjunction(self._handle))
                else:
                    self._did(self._lib.add_match(self._handle, match.encode(), 0))

    def __getattr__(self, name: str) -> Callable[..., int]:
        """The library's calls on this journal."""
        function = getattr(self._lib, name)
        return lambda *words: self._did(function(self._handle, *words))

    def cursor(self) -> str:
        """Of the entry that was read last."""
        text = ctypes.c_char_p()
        self._did(self._lib.get_cursor(self._handle, ctypes.byref(text)))
        found = (text.value or b"").decode()
        self._free(ctypes.cast(text, ctypes.c_void_p))
        return found

    def field(self, name: bytes) -> bytes | None:
        """The entry's first field of this name; None where it has none, or where it cannot be unpacked."""
        result = self._lib.get_data(self._handle, name, self._to[0], self._to[1])
        if result < 0:
            if result != -errno.ENOENT and name == b"MESSAGE":
                self.overlong += 1
            return None
        return ctypes.string_at(self._pointer.value or 0, self._length.value)[len(name) + 1 :]

    def time(self) -> int:
        """The entry's __REALTIME_TIMESTAMP, microseconds."""
        self._did(self._lib.get_realtime_usec(self._handle, self._to[2]))
        return self._usec.value

    def line(self) -> tuple[int, bytes | None]:
        """(its time, its line with a newline); None where the entry says nothing, or more than a line may hold."""
        usec, message = self.time(), self.field(b"MESSAGE")
        if message is None:
            return usec, None
        identifier = self.field(b"SYSLOG_IDENTIFIER") or self.field(b"_COMM") or b""
        pid = self.field(b"SYSLOG_PID") or self.field(b"_PID") or b""
        line = datagram.entry(usec, self.field(b"_HOSTNAME") or b"", identifier, pid, message)
        if len(line) > LIMIT:
            self.overlong += 1
            return usec, None
        return usec, line + b"\n"

    def close(self) -> None:
        if self._handle:
            self._lib.close(self._handle)
            self._handle = ctypes.c_void_p()


class Journal:
    """A journal that is followed. `saved`: where to go on, None at the very first start, which begins at its end.

    Raises OSError (with PermissionError among them) where it cannot be read; one that is not there yet is no error.
    """

    def __init__(
        self, name: str, selection: Selection, saved: Place | None, note: Callable[[str], None], now: float
    ) -> None:
        self.name = name
        self.behind = False
        self.ended = False
        self.lost = 0
        self._selection = selection
        self._note = note
        self._overlong = 0
        self._hears = True  # the kernel tells us of changes; else it is opened anew at each look
        self._place = saved or Place("", int(now * 1e6))
        self._reader: Reader | None = None
        self.present = readable(selection)
        self._open(first=saved is None)
        if not self.present:
            note(f"{name}: there is no such journal yet")

    def _open(self, *, first: bool = False) -> None:
        """At the place, where that can be found; else where it would have been."""
        if self._selection.folder and not os.path.exists(self._selection.folder):
            return
        self._reader = reader = Reader(self._selection)
        try:  # without this call the library would not look for new files
            reader.get_fd()
            self._hears = True
        except OSError:  # no inotify instance left
            self._hears = False
        if self._place.cursor and not self._found(reader):
            self.lost += 1
            self._note(
                f"{self.name}: the entry that was read last is not in it any more; going on with the next one left"
            )
            self._place = Place("", self._place.since)
        reader.select()
        if first:
            reader.seek_tail()
            if reader.previous():
                self._place = Place(reader.cursor(), reader.time())
                return
        self._seek(reader)

    def _found(self, reader: Reader) -> bool:
        """Is the entry of the cursor still there, whatever is selected?"""
        cursor = self._place.cursor.encode()
        try:
            reader.seek_cursor(cursor)
            return bool(reader.next()) and bool(reader.test_cursor(cursor))
        except OSError as error:
            if error.errno != errno.EINVAL:  # no cursor at all
                raise
            return False

    def _seek(self, reader: Reader) -> None:
        """So that next() is the first entry behind the place."""
        if self._place.cursor:
            cursor = self._place.cursor.encode()
            reader.seek_cursor(cursor)
            if reader.next() and reader.test_cursor(cursor):
                return
            self._place = Place("", self._place.since)  # it is none of those that are selected by now
        reader.seek_realtime_usec(self._place.since + 1)

    def read(self, now: float, limit: int = CHUNK) -> list[Block]:
        """The entries written since, until their lines make `limit` bytes."""
        self.behind = False
        if self._reader is None or not self.present or not self._hears:
            self.present = readable(self._selection)
            if not self.present:
                return []
            self.close()
            self._open()
        reader = self._reader
        if reader is None:
            return []
        blocks: list[Block] = []
        usec = -1
        try:
            reader.process()
            while limit > 0 and reader.next():
                usec, line = reader.line()
                limit -= 64
                if line is not None:
                    limit -= len(line)
                    blocks.append(Block(self.name, usec, 0, line))
            if usec >= 0:
                self._place = Place(reader.cursor(), usec)
        except OSError:
            self.close()  # the next read() opens it anew, at the last place that was given out
            if usec < 0:
                raise
            self._skip(blocks)
        self.behind = limit <= 0
        return blocks

    def _skip(self, blocks: list[Block]) -> None:
        """Go on behind a damaged part, such as a power failure leaves: there is no cursor there, and the times of its
        entries may be any."""
        now = int(time.time() * 1e6)
        last = max((block.offset for block in blocks if block.offset <= now), default=0)
        self._place = Place("", last if last > self._place.since else now)
        self.lost += 1
        self._note(f"{self.name}: a part of it is damaged, and skipped; `journalctl --verify` finds it")

    def history(self, enough: Callable[[bytes], bool]) -> Iterator[Block]:
        """What stands before the place, oldest first, up to it, from an entry on that is old enough; to be used up
        before the first read()."""
        reader = self._reader
        if reader is None:
            return
        self._seek(reader)  # with a cursor: upon the last entry that was read
        step, there = STEP, reader.previous_skip(1)
        while there:
            line = reader.line()[1]
            if line is not None and enough(line[:-1]):
                break
            there, step = reader.previous_skip(step) == step, 2 * step
        if not there:
            reader.seek_head()
            there = reader.next()
        cursor = self._place.cursor.encode()
        while there:
            usec, line = reader.line()
            last = bool(cursor) and bool(reader.test_cursor(cursor))
            if not cursor and usec > self._place.since:
                break
            if line is not None:
                yield Block(self.name, usec, 0, line)
            there = not last and reader.next()
        self._seek(reader)

    def position(self) -> Place:
        """Where to go on after what read() has given out so far."""
        return self._place

    @property
    def overlong(self) -> int:
        return self._overlong + (self._reader.overlong if self._reader is not None else 0)

    def facts(self) -> dict[str, int]:
        """What `status` may add."""
        return {}

    def fileno(self) -> int:
        return self._reader.get_fd() if self._reader is not None and self._hears else -1

    def close(self) -> None:
        if self._reader is not None:
            self._overlong += self._reader.overlong
            self._reader.close()
            self._reader = None


def entries(folder: str) -> Iterator[tuple[int, bytes]]:
    """(time in microseconds, line with its newline) of every entry of the mail facility in a journal folder or file.

    Raises OSError.
    """
    reader = Reader(Selection(folder=folder))
    try:
        reader.select()
        reader.seek_head()
        while reader.next():
            usec, line = reader.line()
            if line is not None:
                yield usec, line
    finally:
        reader.close()
