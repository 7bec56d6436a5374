"""sources: what a log can come from, and how each is opened by its section of the configuration. Edge.

    [log /var/log/mail.log]       a file, read again after a restart    tail.Tail
    [log /var/log/exim4/*.log]    each of the files that fit, also those that come later
    [log /run/mail.fifo], [log -] a FIFO, stdin                         streams.Fifo, streams.Stdin
    [journal], [journal FOLDER]   the systemd journal                   journal.Journal
    [syslog PATH|ADDRESS:PORT]    syslog datagrams                      streams.Syslog

A source gives blocks of whole lines, and a position from which it goes on; what has no position (`position()` is None)
cannot be read again, and is handed over open from one run of the daemon to the next. Nothing else in the program asks
what kind a source is.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import glob
from typing import Protocol

from denyspam.events import SettingsError
from denyspam.journal import Journal, Place, Reader, Selection, library, readable
from denyspam.settings import LogSettings, Settings
from denyspam.streams import Fifo, Stdin, Syslog
from denyspam.tail import Block, Position, Tail, rotated_from

WIDE = {4: 8, 6: 16}  # prefixes on the allow list that are shorter deserve a word


class Saved(Protocol):
    """A position."""

    def text(self) -> str: ...


class Source(Protocol):
    """A log, wherever it comes from. `note`, given when it is opened, is told what an admin should know."""

    behind: bool  # the last read() stopped at its limit, not at the end
    present: bool  # it is there
    ended: bool  # nothing will ever come from it again
    lost: int  # times that its position was not found again

    @property
    def overlong(self) -> int:
        """Lines dropped because they were too long."""

    def read(self, now: float, limit: int) -> list[Block]:
        """What is new, in order; `now` by a clock that only goes forward. Never waits. Raises OSError."""

    def history(self, enough: Callable[[bytes], bool]) -> Iterator[Block]:
        """What stands before the position, oldest first, from a line on that is old enough."""

    def position(self) -> Saved | None:
        """Where to go on after what read() gave; None: it cannot be read again."""

    def fileno(self) -> int:
        """What becomes readable when there is something new; -1: its path is watched, or looked at once a second."""

    def facts(self) -> Mapping[str, int | None]:
        """What `status` says of this kind of source alone."""

    def close(self) -> None: ...


def globbed(settings: LogSettings) -> bool:
    """Is this a glob, for any number of files?"""
    return settings.kind == "log" and any(sign in settings.path for sign in "*?[")


def section_of(path: str, sections: Sequence[LogSettings]) -> LogSettings | None:
    """The section that a file, or a journal's folder, belongs to; a glob's where none names it itself."""
    place = os.path.abspath(path)
    for each in sections:
        if place == (each.place if each.kind == "journal" else each.path):
            return each
    parts = place.split("/")
    for each in filter(globbed, sections):
        signs = each.path.split("/")
        if len(parts) == len(signs) and all(map(fnmatchcase, parts, signs)):
            return each
    return None


def matching(settings: LogSettings, known: Collection[str]) -> Iterator[str]:
    """The files of a glob that are logs of their own: no compressed ones, and none that is an older part of another
    one, or of a `known` one, by its name."""
    found = [path for path in sorted(glob(settings.path)) if os.path.isfile(path)]
    for path in found:
        older = rotated_from(path)
        if older is None or (
            older and not any(name in known or name in found or os.path.exists(name) for name in older)
        ):
            yield path


def opened(
    settings: LogSettings, saved: str | None, note: Callable[[str], None], now: float, *, from_start: bool = False
) -> Source:
    """The log of a section, from where it was read to; without that from its end, or `from_start`.

    Raises OSError, KeyError (no such group), and ValueError where `saved` is no position.
    """
    if settings.kind == "journal":
        return Journal(settings.path, _selection(settings), None if saved is None else Place.parse(saved), note, now)
    if settings.kind == "syslog":
        listening = Syslog(settings.path, settings.place, note)
        configure(listening, settings)
        return listening
    if settings.path == "-":
        return Stdin(note)
    if is_fifo(settings.path):
        return Fifo(settings.path, note)
    return Tail(settings.path, None if saved is None else Position.parse(saved), from_start=from_start, note=note)


def configure(source: Source, settings: LogSettings) -> None:
    """What may change of a stream while it is open. Raises OSError, KeyError."""
    if isinstance(source, Syslog):
        source.configure(settings.group, settings.peers)


def fits(source: Source, settings: LogSettings) -> bool:
    """Can this open stream go on as the log of that section?"""
    if isinstance(source, Fifo):
        return is_fifo(settings.path)
    return isinstance(source, Syslog if settings.kind == "syslog" else Stdin)


def usable(settings: Settings, held: Mapping[str, Source] | None = None) -> Iterator[str]:
    """What a configuration that reads well may still lack on this host: what only deserves a note is yielded.

    `held` are the streams that the daemon has open already; None for whoever is not the daemon. No stream is read from.
    Raises SettingsError with the section's line, and NotPermitted, which is a note where it is not the daemon who asks.
    """
    if settings.group is not None:
        _known(settings.group, settings, settings.lines.get("daemon.group", 1), held is not None)
    for network in settings.allow:
        if network.prefixlen < WIDE[network.version]:
            yield f"`allow` has {network}: of all these addresses none is ever banned"
    for each in settings.logs:
        try:
            if each.group is not None:
                _known(each.group, settings, settings.lines.get(f"{each.path}.group", each.line), held is not None)
            yield from _tested(each, held or {})
        except PermissionError as error:
            said = f"not permitted to {_verb(each)} {what(each, error)}"
            if held is not None and not globbed(each):
                raise NotPermitted(said) from error
            yield said  # to whoever asks; the daemon has a user of its own
        except OSError as error:
            said = f"{what(each, error)} cannot be {'made' if each.kind == 'syslog' else 'read'}: {error.strerror}"
            if error.errno == errno.EADDRINUSE and held is None:
                yield f"{said} (by the daemon itself, if it runs)"
                continue
            raise SettingsError(said, settings.file, each.line) from error


class NotPermitted(Exception):
    """A log that this process may not read; the message names it."""


def _known(group: str, settings: Settings, line: int, ours: bool) -> None:
    """`ours`: this process is the daemon, and is going to give a socket to the group."""
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(
            f"there is no group {group[:100]!r}; write one of this host's", settings.file, line
        ) from None
    if ours and os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise NotPermitted(f"not permitted to give a socket to the group {group}: the daemon's user is no member of it")


def _verb(settings: LogSettings) -> str:
    return "listen at" if settings.kind == "syslog" else "read"


def what(settings: LogSettings, error: Exception) -> str:
    """The log that an error is about."""
    file = getattr(error, "filename", None)
    if settings.kind == "log":
        return f"the log {file or settings.path}"
    return f"[{settings.path}]" + (f" ({file})" if file else "")


def _tested(settings: LogSettings, held: Mapping[str, Source]) -> Iterator[str]:
    if settings.kind == "journal":
        if not readable(_selection(settings)):
            yield f"[{settings.path}]: there is no such journal yet"
            library()
            return
        reader = Reader(_selection(settings))
        try:
            reader.select()
        finally:
            reader.close()
    elif settings.kind == "syslog":
        folder = os.path.dirname(settings.place) if isinstance(settings.place, str) else "/"
        if not os.path.isdir(folder):
            yield f"[{settings.path}]: {folder} does not exist yet"
        elif settings.path not in held:
            Syslog(settings.path, settings.place, lambda _: None).close()
    elif globbed(settings):
        paths = list(matching(settings, ()))
        if not paths:
            yield f"no file fits {settings.path} yet"
        for path in paths:
            Tail(path, None, from_start=False, note=lambda _: None).close()
    elif is_fifo(settings.path):
        if not os.access(settings.path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), settings.path)
    elif settings.path != "-":
        if not os.path.exists(settings.path):
            yield f"{settings.path} does not exist yet"
        Tail(settings.path, None, from_start=False, note=lambda _: None).close()


def _selection(settings: LogSettings) -> Selection:
    folder = settings.place if isinstance(settings.place, str) else ""
    return Selection(folder, settings.namespace, settings.units, settings.match)


def is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False
