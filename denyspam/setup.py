"""setup: makes a host's installation out of what discover finds on it, and takes it away again. Edge.

    plan(host, found, ...) -> [File]     what would be written, each with its reason; touches nothing
    carry_out(root, files) -> [Outcome]  writes what is missing or still ours, and says what an admin has changed
    with_mode(text, mode)                an admin's configuration in another mode, else as it is

A file that is written begins with a line that holds the checksum of the rest. One whose checksum fits is as we left it:
a later run may write it anew, and `remove` may delete it. Any other is the admin's: it stays, and he is told what ours
would say instead. So a second run changes nothing, and no edit is ever lost.

Never: touches the configuration of another program; bans or releases (that is the daemon's); follows what a log says.
Limits: systemd and OpenRC. Elsewhere the configuration is written, and `denyspam run` is what to start.
"""

from __future__ import annotations

import difflib
import grp
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from ipaddress import ip_network
from pathlib import PurePath

from denyspam.discover import INSTALLED, Allowed, Found, Host, Log, configuration
from denyspam.events import Network

UNIT = "/etc/systemd/system/denyspam.service"
PACKAGED = ("/usr/lib/systemd/system/denyspam.service", "/lib/systemd/system/denyspam.service")
DROP_IN = "/etc/systemd/system/denyspam.service.d/logs.conf"
SYSUSERS, TMPFILES = "/etc/sysusers.d/denyspam.conf", "/etc/tmpfiles.d/denyspam.conf"
OPENRC = "/etc/init.d/denyspam"
WRITTEN = (INSTALLED, UNIT, DROP_IN, SYSUSERS, TMPFILES, OPENRC)  # all that `remove` looks at
EXAMPLE = "/usr/local/sbin/denyspam"  # the program, in the files of etc/
GROUPS = ("adm", "systemd-journal")  # the unit's own
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - by ProtectHome= and PrivateTmp=
MARK = re.compile(r"^(#!.*\n)?# Written by `denyspam setup` \(([0-9a-f]{16})\)[^\n]*\n", re.A)
HEAD = "# Written by `denyspam setup` ({sum}); once edited, this file is yours and no later run changes it.\n"
CONF_MADE_BY = re.compile(r"\A(?:#.*\n)+\n")
PATIENCE = 60.0  # seconds for systemctl


class Unusable(Exception):
    """Nothing can be set up here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class File:
    path: str
    text: str  # without the first line
    reason: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: `written`, `unchanged`, `renewed`, `removed`, or `kept` (it is the admin's)."""

    path: str
    what: str
    difference: tuple[str, ...] = ()  # of a kept one: lines of a unified diff from it to ours


def stamped(text: str) -> str:
    """The text with its first line; a `#!` stays the very first."""
    shebang = re.match(r"#!.*\n", text)
    start = shebang.end() if shebang else 0
    return text[:start] + HEAD.format(sum=_sum(text)) + text[start:]


def untouched(text: str) -> bool:
    """Is this as a run of ours left it?"""
    mark = MARK.match(text)
    return mark is not None and _sum((mark[1] or "") + text[mark.end() :]) == mark[2]


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


NOTHING = (
    "no mail server and no mail log was found on this host. Where the server is in a container, or its log elsewhere, "
    f"name the log in {INSTALLED}, as denyspam.conf(5) and docs/sources.md tell"
)

# --- what to write ----------------------------------------------------------------------------------------------------


def plan(host: Host, found: Found, program: str, mode: str | None, peers: Collection[Network] = ()) -> list[File]:
    """The files of this host. `mode`: None keeps that of the configuration there is, and begins with watch.

    `peers`: from where the admin is logged in. Raises Unusable where there is no log.
    """
    if not found.logs:
        raise Unusable(found.advice or NOTHING)
    found = replace(found, allow=(*found.allow, *_sessions(found, peers)))
    text = CONF_MADE_BY.sub("", configuration(found, mode or mode_of(host.read(INSTALLED)) or "watch"))
    planned = [File(INSTALLED, text, "what was found; every other setting stands in denyspam.conf(5)")]
    if host.exists("/run/systemd/system") or host.exists("/etc/systemd/system"):
        planned += _systemd(host, found, program)
    elif host.exists("/sbin/openrc-run"):
        planned.append(File(OPENRC, _shipped("denyspam.openrc", program), "the service, for OpenRC", 0o755))
    return planned


def _systemd(host: Host, found: Found, program: str) -> Iterator[File]:
    if not any(map(host.exists, PACKAGED)):
        yield File(UNIT, _shipped("denyspam.service", program), "the service: an own user who may change the firewall")
        yield File(SYSUSERS, _shipped("denyspam.sysusers", program), "that user, in the group that may read logs")
        yield File(TMPFILES, _shipped("denyspam.tmpfiles", program), "the folders of the ledger and the socket")
    needs = dict(filter(None, (needed(host, log.path) for log in found.logs if log.path.startswith("/"))))
    if needs:
        lines = "".join(f"# {why}\n{line}\n" for line, why in sorted(needs.items()))
        yield File(DROP_IN, f"[Service]\n{lines}", "; ".join(sorted(needs.values())))


def so_far(host: Host, logs: Iterable[Log]) -> str:
    """What `replay` is to be given, for a shell: the logs and their rotated ones."""
    journal = "/var/log/journal" if host.exists("/var/log/journal") else "/run/log/journal"
    return " ".join(journal if log.path == "journal" else f"{shlex.quote(log.path)}*" for log in logs)


def _shipped(name: str, program: str) -> str:
    return resources("denyspam.etc").joinpath(name).read_text(encoding="utf-8").replace(EXAMPLE, program)


def _sessions(found: Found, peers: Iterable[Network]) -> Iterator[Allowed]:
    for peer in peers:
        covered = any(peer.version == one.network.version and peer[0] in one.network for one in found.allow)
        if not covered and not peer.is_loopback:
            yield Allowed(ip_network(peer), "your SSH session comes from there")


def needed(host: Host, path: str) -> tuple[str, str] | None:
    """The unit's line that lets the daemon read this log, with its reason; None where adm's members may read it, or
    where there is nothing yet to look at."""
    wanted = set()
    place = path
    while place not in ("/", ""):
        try:
            status = os.stat(host.path(place))
        except OSError:
            status = None
        bit = 4 if place == path else 1
        if status is not None and not status.st_mode & bit:
            name = _group(status.st_gid)
            if not status.st_mode & bit << 3 or name is None:
                capability = "AmbientCapabilities=CAP_DAC_READ_SEARCH\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH"
                return capability, f"{place} can be read by its owner alone"
            wanted.add(name)
        place = os.path.dirname(place)
    missing = sorted(wanted - {*GROUPS})
    return (f"SupplementaryGroups={' '.join(missing)}", f"{path} is for its group") if missing else None


def _group(number: int) -> str | None:
    """Root's own group is no one else's to be in."""
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name if number else None
    return None


def hidden(program: str) -> str | None:
    """Why the service could not start this program; None where it can."""
    for path in (program, os.path.realpath(program), sys.prefix, sys.base_prefix):
        if any(path == folder or path.startswith(f"{folder}/") for folder in HIDDEN):
            return f"{path} lies where a service sees nothing (homes and temporary folders)"
        for folder in (path, *map(str, PurePath(path).parents)):
            with suppress(OSError):
                if not os.stat(folder).st_mode & stat.S_IXOTH:
                    return f"{folder} is closed to the user that the service runs as"
    return None


# --- the mode ---------------------------------------------------------------------------------------------------------


def mode_of(text: str) -> str | None:
    """The mode that a configuration names."""
    named = re.search(r"^[ \t]*mode[ \t]*=[ \t]*(\w+)", text, re.M)
    return named[1] if named else None


def with_mode(text: str, mode: str) -> str:
    """The configuration with this mode and nothing else changed; its checksum is made anew where it fitted."""
    ours = untouched(text)
    if ours:
        text = MARK.sub(r"\1", text)
    changed, count = re.subn(r"^([ \t]*mode[ \t]*=[ \t]*)\w+", rf"\g<1>{mode}", text, count=1, flags=re.M)
    if not count:
        changed = re.sub(r"^(\[daemon\].*)$", rf"\1\nmode = {mode}", text, count=1, flags=re.M)
        if changed == text:
            changed = f"[daemon]\nmode = {mode}\n\n{text}"
    return stamped(changed) if ours else changed


# --- writing ----------------------------------------------------------------------------------------------------------


def carry_out(root: str, files: Iterable[File], write: bool = True) -> list[Outcome]:
    """Writes the files below `root`, or only says what would become of them. Raises OSError."""
    return [_write(os.path.join(root, file.path.lstrip("/")), file, write) for file in files]


def _write(place: str, file: File, write: bool) -> Outcome:
    wanted = stamped(file.text)
    there = _read(place)
    if there == wanted:
        return Outcome(file.path, "unchanged")
    if there is not None and not untouched(there):
        # The first line is no difference that anybody made.
        old, new = (MARK.sub(r"\1", text).splitlines() for text in (there, wanted))
        change = tuple(difflib.unified_diff(old, new, file.path, "what setup would write", n=1, lineterm=""))
        return Outcome(file.path, "kept" if change else "unchanged", change)
    if write:
        replace_file(place, wanted, file.mode)
    return Outcome(file.path, "written" if there is None else "renewed")


def replace_file(place: str, text: str, mode: int | None = None) -> None:
    """The file is the old one or the new one, whatever happens. `mode` None keeps the old one's. Raises OSError."""
    folder = os.path.dirname(place)
    if not os.path.isdir(folder):
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)  # noqa: S103 - the daemon's user reads there, whatever root's umask
    if mode is None:
        mode = stat.S_IMODE(os.stat(place).st_mode)
    part = f"{place}.new"
    with open(part, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, place)


def remove(root: str, write: bool = True) -> list[Outcome]:
    """Deletes what a run wrote and nobody edited; folders too, once empty. Raises OSError."""
    outcomes = []
    for path in WRITTEN:
        place = os.path.join(root, path.lstrip("/"))
        text = _read(place)
        if text is None:
            continue
        ours = untouched(text)
        if ours and write:
            os.unlink(place)
            if path in (INSTALLED, DROP_IN):
                with suppress(OSError):  # filters of the admin's own are there
                    os.rmdir(os.path.dirname(place))
        outcomes.append(Outcome(path, "removed" if ours else "kept"))
    return outcomes


def _read(place: str) -> str | None:
    try:
        with open(place, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


# --- the service ------------------------------------------------------------------------------------------------------

STARTING = (
    ("systemd-sysusers",),
    ("systemd-tmpfiles", "--create", "--prefix=/var/lib/denyspam", "--prefix=/run/denyspam"),
    ("systemctl", "daemon-reload"),
    ("systemctl", "enable", "denyspam.service"),
    ("systemctl", "reload-or-restart", "denyspam.service"),
)
STOPPING = (("systemctl", "disable", "--now", "denyspam.service"), ("systemctl", "daemon-reload"))


def systemd_runs() -> bool:
    return os.path.isdir("/run/systemd/system") and shutil.which("systemctl") is not None


def command(words: Sequence[str]) -> str | None:
    """Runs one of the commands above; what it complained of where it failed."""
    try:
        done = subprocess.run(  # noqa: S603  # the words are this module's own
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"ended with {done.returncode}"
