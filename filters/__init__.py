"""filters: the shipped log filters, one text file each (`NAME.filter`), read by denyspam.plugins.

Each name is an entry point of the group `denyspam.filters`: a call that gives a filter file's text.
"""

from __future__ import annotations

from functools import partial
from importlib.resources import files


def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.filter").read_text(encoding="utf-8")


def __getattr__(name: str) -> partial[str]:
    if name.startswith("_") or not files(__name__).joinpath(f"{name}.filter").is_file():
        raise AttributeError(name)
    return partial(_read, name)
