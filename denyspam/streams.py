"""streams: what is read once and cannot be read again: a FIFO, stdin, syslog datagrams. Edge.

    stream = Fifo(path, note) | Stdin(note) | Syslog(place, group, peers, note)
    for block in stream.read(now): …          # what is there now; `behind` says that there is more already
    for block in stream.history(enough): …    # what was read lately, after a reload: `Kept`
    stream.fileno()                           # readable when there is something; -1: look once a second

There is no position: after a restart nobody can tell what went by, and counts begin anew (bans are in the ledger).
A reload is no restart: the daemon hands the open stream over, so that not a byte is lost meanwhile, with the newest
KEPT bytes (compressed, and READ of them read again) of what it said, from which counters are rebuilt as they are from a
file.

A line's offset counts from the moment the stream was opened, in microseconds of the epoch: so none stands twice.

Fifo: writers come and go. It is held open for writing too, so that it never ends; where that is not permitted it is
looked at once a second while nobody writes. A line left unfinished by a writer runs into the next one's. A FIFO removed
and made anew is found within a second.
Stdin: at its end `ended` is set, and nothing more comes.
Syslog: a unix datagram socket, or UDP. A datagram is a message (datagram.py); one longer than a line may be is dropped
and counted. What the kernel dropped because we were too slow it counts itself (SO_RXQ_OVFL, UDP only: a writer to a
unix socket waits). Whoever may write there may accuse anybody: a unix socket is for root and one group; UDP is for
loopback, or for the addresses in `peers`, as far as such an address can be believed.
"""

from __future__ import annotations

import errno
import grp
import os
import select
import socket
import stat
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address

from denyspam import datagram
from denyspam.events import Network
from denyspam.lines import LIMIT, LineBuffer
from denyspam.sockets import clear
from denyspam.tail import CHUNK, Block

KEPT = 4 << 20  # bytes of compressed text remembered for a reload: some 200,000 lines
READ = 64 << 20  # bytes of that text: lines that are nearly alike become a hundredth
PIECE = 262_144  # bytes compressed at once
HEAD = struct.Struct("=dQI")  # when it came, offset, length
RECEIVE = 8 << 20  # bytes that may wait in the kernel: a UDP sender does not wait for us
SO_RCVBUFFORCE, SO_RXQ_OVFL = 33, 40  # asm-generic/socket.h; Python has no names for them
DROPS = struct.Struct("=I")
PAUSE = 1.0  # seconds between two looks at a path


class Kept:
    """The newest blocks of a stream: at most `limit` bytes of them, compressed, that were at most `read` bytes."""

    def __init__(self, limit: int = KEPT, read: int = READ) -> None:
        self._limit = limit
        self._read = read
        self._pieces: deque[tuple[bytes, int]] = deque()  # compressed, and how long it was
        self._size = self._length = 0
        self._open = bytearray()
        self.whole = True  # nothing was forgotten yet

    def add(self, block: Block, arrived: float) -> None:
        self._open += HEAD.pack(arrived, block.offset, len(block.data))
        self._open += block.data
        if len(self._open) >= PIECE:
            self._pieces.append((zlib.compress(self._open, 1), len(self._open)))
            self._size += len(self._pieces[-1][0])
            self._length += len(self._open)
            self._open.clear()
            while self._size > self._limit or self._length > self._read:
                piece, length = self._pieces.popleft()
                self._size -= len(piece)
                self._length -= length
                self.whole = False

    def history(self, file: str, enough: Callable[[bytes], bool]) -> Iterator[Block]:
        """What is kept, oldest first, from a piece on whose first line is old enough."""
        packed = [each for each, _ in self._pieces]
        opened = bytes(self._open)
        first, line = len(packed), _first_line(opened) if opened else None
        while first > 0 and (line is None or not enough(line)):
            first -= 1
            line = _first_line(zlib.decompress(packed[first]))
        for at in range(first, len(packed) + bool(opened)):  # one at a time: all of them would be READ bytes
            piece, place = zlib.decompress(packed[at]) if at < len(packed) else opened, 0
            while place < len(piece):
                arrived, offset, length = HEAD.unpack_from(piece, place)
                place += HEAD.size + length
                yield Block(file, offset, 0, piece[place - length : place], arrived)


def _first_line(piece: bytes) -> bytes:
    return piece[HEAD.size : piece.index(b"\n", HEAD.size)]


class Stream:
    """What the three have in common."""

    def __init__(self, name: str, note: Callable[[str], None]) -> None:
        self.name = name
        self.behind = False
        self.present = True
        self.ended = False
        self.lost = 0
        self.note = note
        self._kept = Kept()
        self._buffer = LineBuffer(offset=int(time.time() * 1e6), number=0)

    @property
    def overlong(self) -> int:
        return self._buffer.overlong

    def position(self) -> None:
        """There is no going back to a place of a stream."""

    def history(self, enough: Callable[[bytes], bool]) -> Iterator[Block]:
        """What was read lately, oldest first."""
        return self._kept.history(self.name, enough)

    def facts(self) -> dict[str, int]:
        """What `status` may add."""
        return {}

    def _give(self, data: bytes, *, last: bool = False) -> list[Block]:
        """The blocks that `data` completes, kept for a reload."""
        arrived = time.time()
        lines = self._buffer.feed(data) + (self._buffer.flush() if last else [])
        blocks = [Block(self.name, each.offset, 0, each.data, arrived) for each in lines]
        for block in blocks:
            self._kept.add(block, arrived)
        return blocks


class Fifo(Stream):
    """`path` is a FIFO. Raises OSError where it cannot be opened."""

    def __init__(self, path: str, note: Callable[[str], None]) -> None:
        super().__init__(path, note)
        self._path = path
        self._looked = 0.0
        self._alone = False  # opened for reading alone, and nobody writes
        self._fd, self._reads_only = self._opened()

    def _opened(self) -> tuple[int, bool]:
        flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        try:
            fd, reads_only = os.open(self._path, os.O_RDWR | flags), False
        except PermissionError:
            fd, reads_only = os.open(self._path, os.O_RDONLY | flags), True
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "this is a FIFO no more; a reload reads what it is now", self._path)
        return fd, reads_only

    def fileno(self) -> int:
        return -1 if self._alone else self._fd

    def read(self, now: float, limit: int = CHUNK) -> list[Block]:
        """What is in the FIFO, at most `limit` bytes."""
        self.behind = False
        try:
            data = os.read(self._fd, limit)
        except BlockingIOError:
            data = b""
            self._alone = False
        else:
            self._alone = not data and self._reads_only
            self.behind = len(data) == limit
        blocks = self._give(data, last=self._alone) if data or self._alone else []
        if not data and now - self._looked >= PAUSE:  # only when it is read to its end: it may have been replaced
            self._looked = now
            self._look()
        return blocks

    def _look(self) -> None:
        ours = os.fstat(self._fd)
        try:
            there = os.stat(self._path)
            if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                old = self._fd
                self._fd, self._reads_only = self._opened()
                os.close(old)
            self.present = True
        except OSError as error:
            if self.present:
                self.note(f"the FIFO {self._path} cannot be read now: {error.strerror}")
            self.present = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Stdin(Stream):
    """Standard input, whatever it is."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__("-", note)
        # Not set non-blocking: the terminal, or the other end's file, is shared with other programs.
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)

    def fileno(self) -> int:
        return -1 if self.ended else 0

    def read(self, now: float, limit: int = CHUNK) -> list[Block]:
        """What is there, at most `limit` bytes; sets `ended` at the end."""
        self.behind = False
        if self.ended or not self._poll.poll(0):
            return []
        try:
            data = os.read(0, limit)
        except BlockingIOError:  # set so by whoever else has it
            return []
        except OSError as error:  # a terminal that is gone
            self.note(f"standard input ends: {error.strerror}")
            data = b""
        self.ended = not data
        self.behind = len(data) == limit
        return self._give(data, last=self.ended)

    def close(self) -> None:
        """The process's own: it stays."""


class Syslog(Stream):
    """A datagram socket at `place`: a path, or (address, port). Raises OSError where it cannot be made."""

    def __init__(self, name: str, place: str | tuple[str, int], note: Callable[[str], None]) -> None:
        super().__init__(name, note)
        self._place = place
        self._looked = 0.0
        self._peers: Sequence[Network] = ()
        self._group: str | None = None
        self._host = datagram.word(socket.gethostname().encode())
        self._names: dict[str, bytes | None] = {}  # sender's address -> how it is written, None: a stranger
        self._overlong = 0
        self.strangers = 0
        self.dropped = 0
        self._socket = self._opened()

    def configure(self, group: str | None, peers: Sequence[Network]) -> None:
        """Who may send: of a unix socket the group besides root; of UDP these networks (none: all that can reach it).

        Raises OSError, KeyError where there is no such group.
        """
        self._group, self._peers = group, peers
        self._names.clear()
        self._grant()

    def _grant(self) -> None:
        if isinstance(self._place, str):
            if self._group is not None:
                os.chown(self._place, -1, grp.getgrnam(self._group).gr_gid)
            os.chmod(self._place, 0o600 if self._group is None else 0o660)

    def _opened(self) -> socket.socket:
        if isinstance(self._place, str):
            return _bound(self._place)
        address, port = self._place
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if ":" in address:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
            made.bind((address, port))
        except OSError:
            made.close()
            raise
        return _ready(made)

    @property
    def overlong(self) -> int:
        return self._overlong + super().overlong

    def facts(self) -> dict[str, int]:
        """Datagrams that the kernel dropped, and those of strangers."""
        return {"dropped": self.dropped, "strangers": self.strangers}

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, now: float, limit: int = CHUNK) -> list[Block]:
        """The datagrams that are there, until they make `limit` bytes."""
        self.behind = False
        lines: list[bytes] = []
        size, arrived = 0, time.time()
        while size < limit:
            try:
                data, ancillary, flags, sender = self._socket.recvmsg(LIMIT + 1, socket.CMSG_SPACE(DROPS.size))
            except BlockingIOError:
                break
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL) and len(value) == DROPS.size:
                    self._count(DROPS.unpack(value)[0])
            size += len(data) + 64  # so that empty ones end as well
            name = self._name(sender[0]) if isinstance(sender, tuple) else self._host
            if name is None:
                self.strangers += 1
                continue
            if len(data) > LIMIT or flags & socket.MSG_TRUNC:
                self._overlong += 1
                continue
            line = datagram.syslog(data, name, arrived)
            if line:
                lines.append(line)
        else:
            self.behind = True
        if not lines and now - self._looked >= PAUSE:
            self._looked = now
            self._look()
        return self._give(b"\n".join(lines) + b"\n") if lines else []

    def _name(self, sender: str) -> bytes | None:
        if sender not in self._names:
            if len(self._names) >= 10_000:  # a stranger may have as many addresses as he likes
                self._names.clear()
            address = ip_address(sender.partition("%")[0])
            known = not self._peers or any(address in each for each in self._peers if each.version == address.version)
            self._names[sender] = str(address).encode() if known else None
        return self._names[sender]

    def _count(self, dropped: int) -> None:
        if dropped > self.dropped and not self.dropped:
            self.note(f"{self.name}: the kernel dropped datagrams, more than could be read; `status` counts them")
        self.dropped = max(self.dropped, dropped)

    def _look(self) -> None:
        """A socket's file that somebody removed is made anew: nobody can write to one without a name."""
        if not isinstance(self._place, str) or os.path.exists(self._place):
            self.present = True
            return
        try:
            fresh = _bound(self._place)
            self._socket.close()
            self._socket = fresh
            self._grant()
        except (OSError, KeyError) as error:
            if self.present:
                self.note(f"the socket {self._place} is gone and cannot be made anew: {error}")
            self.present = False

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.close()
            if isinstance(self._place, str):
                with suppress(OSError):
                    os.unlink(self._place)


def _ready(made: socket.socket) -> socket.socket:
    made.setblocking(False)
    try:  # takes CAP_NET_ADMIN, which the daemon has; SO_RCVBUF stops at a quarter of a megabyte
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE)
    except OSError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE)
    return made


def _bound(path: str) -> socket.socket:
    """A socket at this path, for its owner alone; one that nobody reads any more gives way."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    clear(path, socket.SOCK_DGRAM)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    mask = os.umask(0o177)  # never open to all, not even for a moment
    try:
        made.bind(path)
    except OSError as error:
        made.close()
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.umask(mask)
    return _ready(made)
