"""watch: pyinotify says "something changed, look"; never what changed.

    watch = Watch(loop, ["/var/log/mail.log"], wake)      # wake(path) is called on the loop
    watch.poll()                                          # once a second: wakes all, and re-arms what was missing
    watch.follow({"/var/log/mail.log": None, "syslog 127.0.0.1:5514": 7})    # these from now on; 7 is a descriptor

Edge. Each file is watched for writes and its folder for files that come and go, so a log that appears or is replaced
wakes at once. A rotated file stays watched (inotify follows the inode) until it is deleted or two newer ones came.
What has a descriptor of its own (a socket, a FIFO, the journal) wakes when that is readable.
Nothing here decides anything: a lost, doubled or needless wake costs one stat. Where the kernel gives no events (NFS,
overlays, no inotify instance or watch left) only poll() wakes, silently.

pyinotify makes the instance and the watches; its notifiers are not used: they build an object of every event (51 µs
each), follow renames with more system calls, and log. All that is wanted of an event is its watch and its name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import pyinotify

logging.getLogger("pyinotify").handlers.clear()  # it installs one of its own, to stderr
logging.getLogger("pyinotify").setLevel(logging.CRITICAL)  # a failed watch is nothing: poll() tries again

FILE = pyinotify.IN_MODIFY | pyinotify.IN_ATTRIB  # IN_ATTRIB: unlinked, or truncated by some file systems
FOLDER = (
    pyinotify.IN_CREATE
    | pyinotify.IN_MOVED_TO
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_DELETE
    | pyinotify.IN_DELETE_SELF
    | pyinotify.IN_MOVE_SELF
)
EVENT = struct.Struct("iIII")  # inotify(7): wd, mask, cookie, length of the name that follows
BUFFER = 65536  # bytes; some 2,000 events a system call
FILES = 3  # watched files a path: the current one and the two old ones that a tail still reads


class Watch:
    """Wakes for `paths` on `loop`, at most once each a turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, paths: Iterable[str], wake: Callable[[str], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._paths = list(dict.fromkeys(paths))
        self._files: dict[str, list[int]] = {path: [] for path in self._paths}  # watches, oldest first
        self._folders: dict[int, dict[str, set[str]]] = {}  # watch: name in the folder: paths that it is
        self._descriptors: dict[str, Callable[[], int]] = {}
        self._listening: dict[str, int] = {}  # those of them that the loop watches
        self._manager: pyinotify.WatchManager | None = None
        self._fd = -1
        try:
            self._manager = pyinotify.WatchManager()
        except OSError:  # no inotify instance left for this user
            return
        self._fd = self._manager.get_fd()
        os.set_blocking(self._fd, False)
        os.set_inheritable(self._fd, False)
        for path in self._paths:
            self._arm(path)
        loop.add_reader(self._fd, self._ready)

    def follow(self, paths: Mapping[str, Callable[[], int] | None]) -> None:
        """These from now on: a path to be watched has None, all else a call that gives its descriptor (-1: none now).
        Doing it again listens to the descriptors that they have by now."""
        self._paths = list(paths)
        for path in [path for path in self._files if path not in paths]:
            for watch in self._files.pop(path):
                self._remove(watch)
            for known in self._folders.values():
                for names in known.values():
                    names.discard(path)
        self._descriptors = {path: descriptor for path, descriptor in paths.items() if descriptor is not None}
        for path in list(self._listening):
            self._deafen(path)  # its number may be that of another file by now
        for path, descriptor in self._descriptors.items():
            self._listen(path, descriptor())
        for path in paths.keys() - self._descriptors.keys() - self._files.keys():
            self._files[path] = []
            self._arm(path)

    def _listen(self, path: str, descriptor: int) -> None:
        if descriptor >= 0:
            with suppress(PermissionError):  # a regular file as stdin: poll() has to do
                self._loop.add_reader(descriptor, self._heard, path, descriptor)
                self._listening[path] = descriptor

    def _heard(self, path: str, descriptor: int) -> None:
        self._wake(path)
        if path in self._listening and self._descriptors[path]() != descriptor:
            self._deafen(path)

    def _deafen(self, path: str) -> None:
        self._loop.remove_reader(self._listening.pop(path))

    def poll(self) -> None:
        """Wake all. To be called every second or so: the fallback where no event comes, and the way back after a
        folder above the log's was replaced, which the kernel tells nobody."""
        for path in self._paths:
            if path not in self._descriptors:
                self._arm(path)
            self._wake(path)

    def close(self) -> None:
        for path in list(self._listening):
            self._deafen(path)
        if self._manager is not None:
            self._loop.remove_reader(self._fd)
            self._manager.close()
            self._manager = None

    def _add(self, path: str, mask: int) -> int:
        """The kernel's number of the watch, -1 if there is none. Doing it again gives the same number."""
        if self._manager is None:
            return -1
        try:
            watch: int = self._manager.add_watch(path, mask, quiet=True).get(path, -1)
        except ValueError:  # a path that pyinotify cannot encode
            return -1
        return watch

    def _arm(self, path: str) -> None:
        """Watch the file, its folder, and where it is a link the real one's folder. Doing it again changes nothing."""
        for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
            folder, name = os.path.split(place)
            watch = self._add(folder, FOLDER)
            if watch >= 0:
                self._folders.setdefault(watch, {}).setdefault(name, set()).add(path)
        watch = self._add(path, FILE) if os.path.isfile(path) else -1
        files = self._files[path]
        if watch >= 0 and watch not in files[-1:]:
            if watch in files:
                files.remove(watch)
            files.append(watch)
            while len(files) > FILES:
                self._remove(files.pop(0))

    def _remove(self, watch: int) -> None:
        if self._manager is not None and not any(watch in files for files in self._files.values()):
            self._manager.rm_watch(watch, quiet=True)

    def _ready(self) -> None:
        try:
            data = os.read(self._fd, BUFFER)
        except BlockingIOError:
            return
        paths: dict[str, None] = {}
        again: dict[str, None] = {}
        place = 0
        while place < len(data):
            watch, mask, _, length = EVENT.unpack_from(data, place)
            place += EVENT.size + length
            if mask & pyinotify.IN_MODIFY:  # the common one
                for path, files in self._files.items():
                    if watch in files:
                        paths[path] = None
            elif mask & pyinotify.IN_Q_OVERFLOW:
                again.update(dict.fromkeys(self._paths))
            elif mask & pyinotify.IN_IGNORED:  # deleted or unmounted: the kernel has forgotten the watch
                again.update(dict.fromkeys(self._forget(watch)))
            elif length:
                name = os.fsdecode(data[place - length : place].rstrip(b"\0"))
                again.update(dict.fromkeys(self._folders.get(watch, {}).get(name, ())))
            elif watch in self._folders:  # the folder itself was moved or deleted: another may stand in its place
                again.update(dict.fromkeys(path for known in self._folders[watch].values() for path in known))
                if mask & pyinotify.IN_MOVE_SELF:
                    self._remove(watch)
            else:
                again.update(dict.fromkeys(path for path, files in self._files.items() if watch in files))
        for path in again:
            self._arm(path)
        for path in paths | again:
            self._wake(path)

    def _forget(self, watch: int) -> list[str]:
        if self._manager is not None:
            self._manager.del_watch(watch)
        concerned = [path for path, files in self._files.items() if watch in files]
        for path in concerned:
            self._files[path].remove(watch)
        folder = self._folders.pop(watch, {})
        concerned += [path for known in folder.values() for path in known]
        return concerned
