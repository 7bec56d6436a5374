"""plugins: a filter or an action by its name. Edge: reads filter files and entry points.

A filter NAME is the first of: `filters/NAME.filter` beside the configuration file, /etc/denyspam/filters/NAME.filter,
the entry point NAME of the group `denyspam.filters` (a call that gives a filter file's text, or a Filter; the shipped
ones are such entry points). The first one found replaces the others whole. A name with a slash is a file's path.
The list of providers is the first of `providers` there, without the entry point.
An action NAME is the entry point NAME of the group `denyspam.actions`: a class with the five verbs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files as resources
from typing import Any, Protocol

from denyspam import cached
from denyspam.conffile import read_settings
from denyspam.events import ActionError, Ban, FilterError, Held, SettingsError, Target
from denyspam.filter import Filter
from denyspam.grammar import parse_filter
from denyspam.senders import Providers, parse_providers
from denyspam.settings import Settings

FILTERS = "/etc/denyspam/filters"
LARGEST = 1_000_000  # bytes of a filter file; the shipped ones have some tens of thousands


class Action(Protocol):
    """What carries bans out. All verbs are called from one thread; each raises ActionError.

    It is made with the keywords `ports`, `ipv6_prefix`, `verdict` and `hooks`. It may also have
    `holds(target) -> bool`, `counters()` with the packets refused, and `tend(now)`, which is called every second.
    """

    def start(self) -> Sequence[Held]: ...
    def ban(self, bans: Sequence[Ban], now: float) -> None: ...
    def release(self, targets: Iterable[Target]) -> None: ...
    def held(self) -> Sequence[Held]: ...
    def stop(self, keep: bool) -> None: ...


class Filters:
    """The filters that an installation with its configuration at `conf` has. Each is read and checked once."""

    def __init__(self, conf: str, *, thorough: bool = False) -> None:
        self._thorough = thorough
        self._folders = dict.fromkeys((os.path.join(os.path.dirname(os.path.abspath(conf)), "filters"), FILTERS))
        self._points = {point.name: point for point in entry_points(group="denyspam.filters")}
        self._read: dict[str, Filter] = {}

    def shipped(self) -> list[str]:
        """The names that `auto` stands for."""
        return sorted(self._points)

    def installed(self) -> list[str]:
        """Every name that can be asked for."""
        names = set(self._points)
        for folder in self._folders:
            if os.path.isdir(folder):
                names.update(name.removesuffix(".filter") for name in os.listdir(folder) if name.endswith(".filter"))
        return sorted(names)

    def load(self, name: str) -> Filter:
        """The filter. FilterError where it is wrong, LookupError where there is none.

        Its samples are run; those of an installed package only where that is asked for (`thorough`).
        """
        if name not in self._read:
            self._read[name] = self._find(name)
        return self._read[name]

    def kinds(self) -> frozenset[str]:
        """The kinds of every installed filter."""
        return frozenset(kind for name in self.installed() for kind in self.load(name).kinds)

    def of(self, settings: Settings) -> dict[str, list[Filter]]:
        """log -> its filters, in the order asked. SettingsError at the line that names one that is not there."""
        found: dict[str, list[Filter]] = {}
        for log in settings.logs:
            try:
                found[log.path] = [self.load(name) for name in self._names(log.filters)]
            except LookupError as error:
                raise SettingsError(str(error.args[0]), settings.file, log.line) from None
        asked = frozenset(kind for filters in found.values() for each in filters for kind in each.kinds)
        if any(policy.kind not in asked for policy in settings.policies):
            settings.check_kinds(asked | self.kinds())
        return found

    def _names(self, asked: Sequence[str]) -> Sequence[str]:
        return self.shipped() if tuple(asked) == ("auto",) else asked

    def named(self, asked: Sequence[str]) -> list[Filter]:
        """The filters of these names; all that are shipped where none is named."""
        return [self.load(name) for name in self._names(asked or ("auto",))]

    def _find(self, name: str) -> Filter:
        if "/" in name:
            return _parse(name)
        for folder in self._folders:
            path = os.path.join(folder, f"{name}.filter")
            if os.path.exists(path):
                return _parse(path)
        if name not in self._points:
            raise LookupError(f"there is no filter {name[:100]!r}; write one of {', '.join(self.installed())}")
        found = _resolve(self._points[name])
        if isinstance(found, Filter):
            return found
        if self._thorough:
            return parse_filter(found, f"{name}.filter")
        before = cached.load(name, found)
        if before is None:
            before = parse_filter(found, f"{name}.filter", proved=True)
            cached.save(name, found, before)
        return before


def _resolve(point: EntryPoint) -> Filter | str:
    made: Filter | str = point.load()()
    return made


def _parse(path: str) -> Filter:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise FilterError(f"this filter cannot be read: {error.strerror}", path) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FilterError("this is no text in UTF-8; write the filter anew with an editor", path, line) from None
    if len(data) > LARGEST:
        raise FilterError(f"this is larger than {LARGEST:,} bytes, which no filter is", path)
    return parse_filter(text, path)


def load(conf: str, *, thorough: bool = False) -> tuple[Settings, dict[str, list[Filter]]]:
    """What the configuration file says, and log -> filters. SettingsError for all that is wrong with any of it."""
    settings = read_settings(conf)
    if settings.senders is not None:
        load_providers(conf)
    return settings, Filters(conf, thorough=thorough).of(settings)


def providers_file(conf: str) -> str:
    """The list of providers: `providers` beside the configuration file, or in /etc/denyspam, or the shipped one."""
    folders = dict.fromkeys((os.path.dirname(os.path.abspath(conf)), os.path.dirname(FILTERS)))
    found = (path for folder in folders if os.path.lexists(path := os.path.join(folder, "providers")))
    return next(found, str(resources("denyspam.etc").joinpath("providers")))


def load_providers(conf: str) -> Providers:
    """Who is on it. Raises SettingsError."""
    path = providers_file(conf)
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the list of providers cannot be read: {error}", path) from error
    return parse_providers(text, path)


def load_action(settings: Settings) -> Action:
    """The action that the settings name, not started. SettingsError where there is none or it cannot be made."""
    name = "dryrun" if settings.mode == "watch" else settings.action
    points = {point.name: point for point in entry_points(group="denyspam.actions")}
    line = settings.lines.get("daemon.action", 1)
    if name not in points:
        known = ", ".join(sorted(points))
        raise SettingsError(f"there is no action {name[:100]!r}; write one of {known}", settings.file, line)
    own: dict[str, dict[str, Any]] = {
        "command": {"command": settings.command},
        "files": {"path": settings.list, "format": settings.format},
    }

    def made(ports: tuple[int, ...], line: int) -> Action:
        try:
            action: Action = points[name].load()(
                ports=ports,
                ipv6_prefix=settings.ipv6_prefix,
                verdict=settings.verdict,
                hooks=settings.hooks,
                **own.get(name, {}),
            )
        except (ValueError, ActionError) as error:
            raise SettingsError(f"the action {name!r} cannot be used: {error}", settings.file, line) from None
        return action

    for policy in settings.policies:
        if policy.ports:  # better said now than at its first ban: an ipset's name holds few ports
            made(policy.ports, settings.lines.get(f"policy.{policy.name}", 1))
    return made(settings.ports, line)
