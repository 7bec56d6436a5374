"""The house of DESIGN.md is the house in the tree: who decides is pure, and knows only what stands to its left.

The classes and their order are read from DESIGN.md itself, so that the page cannot go stale.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = re.findall(r"^ +(\w+)\.py +(PURE|EDGE)\b", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), re.M)
ORDER = [name for name, _ in HOUSE]
PURE = [name for name, layer in HOUSE if layer == "PURE"]
SOURCES = {path.stem: path for path in (ROOT / "denyspam").glob("*.py") if not path.stem.startswith("__")}

# Modules that reach the world, the clock or chance. What of them is a mere function of its arguments may be imported
# by name.
WORLD = {
    *("asyncio", "concurrent", "ctypes", "dns", "fcntl", "getpass", "glob", "grp", "http", "importlib", "io", "locale"),
    *("logging", "mmap", "multiprocessing", "os", "pathlib", "platform", "pwd", "pyinotify", "random", "resource"),
    *("apscheduler", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl"),
    *("subprocess", "sys", "syslog", "tempfile", "threading", "time", "tzlocal", "urllib", "uuid"),
}
HARMLESS = {
    "socket": {"AF_INET", "AF_INET6", "inet_ntop", "inet_pton"},
    "time": {"struct_time"},
    "sys": {"intern", "maxsize", "version_info"},
}
CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
CLOCKS = {"now", "utcnow", "today"}  # datetime.now(), date.today()


def imports(tree: ast.AST) -> Iterator[tuple[int, str, set[str]]]:
    """(line, module, names taken from it) of every import, wherever it stands; `from . import x` is denyspam.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ("denyspam" if node.level else "", node.module)))
            names = {alias.name for alias in node.names}
            if module == "denyspam":
                yield from ((node.lineno, f"denyspam.{name}", set()) for name in names)
            else:
                yield node.lineno, module, names


def sins(source: str, name: str, order: list[str]) -> Iterator[str]:
    """What a pure module called `name` may not do, as `line: what`."""
    tree = ast.parse(source)
    for line, module, names in imports(tree):
        yield from imported(module, names, line, name, order)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield f"{node.lineno}: calls {called.id}()"
            if isinstance(called, ast.Attribute) and called.attr in CLOCKS:
                yield f"{node.lineno}: asks the clock by .{called.attr}()"


def imported(module: str, names: set[str], line: int, name: str, order: list[str]) -> Iterator[str]:
    top, _, inside = module.partition(".")
    if top in WORLD and not (names and names <= HARMLESS.get(top, set())):
        yield f"{line}: imports {module}, which reaches the world"
    if top == "denyspam":
        first = inside.partition(".")[0]
        if first not in order or order.index(first) >= order.index(name):
            yield f"{line}: imports {module}, which does not stand to the left of {name}"


def test_every_module_has_its_place_in_the_house() -> None:
    assert sorted(SOURCES) == sorted(ORDER)


@pytest.mark.parametrize("name", [name for name in PURE if name in SOURCES])
def test_a_pure_module_is_pure(name: str) -> None:
    assert list(sins(SOURCES[name].read_text(encoding="utf-8"), name, ORDER)) == []


def test_a_pure_module_stands_left_of_every_edge() -> None:
    layers = [layer for _, layer in HOUSE]
    assert layers == sorted(layers, reverse=True), "PURE first, then EDGE"


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {"daemon", "process", "cli"}))
def test_only_the_commands_know_the_daemon(name: str) -> None:
    known = {module for _, module, _ in imports(ast.parse(SOURCES[name].read_text(encoding="utf-8")))}
    assert not known & {"denyspam.daemon", "denyspam.process", "denyspam.cli"}


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import os.path",
        "from os import path",
        "import asyncio, re",
        "from socket import create_connection, inet_pton",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.now(None)",
        "from datetime import date\ndate.today()",
        "from logging.handlers import SysLogHandler",
        "def read():\n    import sqlite3",
        "open('/etc/passwd')",
        "from denyspam import policy",
        "from denyspam.policy import decide",
        "import denyspam.daemon",
        "from . import policy",
        "from .tail import Tail",
        "import denyspam.unheard",
    ],
)
def test_a_sin_is_found(source: str) -> None:
    order = ["events", "window", "policy", "tail", "daemon"]
    assert list(sins(source, "window", order)) != []


@pytest.mark.parametrize(
    "source",
    [
        "import re",
        "from datetime import datetime, timezone\ndatetime.fromtimestamp(0.0, timezone.utc)",
        "from socket import AF_INET, inet_pton",
        "from denyspam import events",
        "from denyspam.events import Ban",
        "def expire(now: float) -> float:\n    return now",
    ],
)
def test_an_honest_line_is_left_alone(source: str) -> None:
    order = ["events", "window", "policy", "tail", "daemon"]
    assert list(sins(source, "window", order)) == []
