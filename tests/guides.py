"""The guides in docs/ as scripts: their blocks are files and commands, and what the commands print stands below them.

A fenced block whose first line is ```LANGUAGE NAME is the file NAME, written when it is come to; ```console holds
commands behind `$ ` and under each what it prints, standard output and error together; a last line `exit N` where the
exit code is not 0. `python tests/guides.py docs/filters.md …` writes down what is printed today, to be read in the
difference before it is committed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
EVENING = 1_772_665_200  # 2026-03-04 23:00:00 UTC: when the guides' logs were last written to


class Block(NamedTuple):
    head: str  # what stands behind the backquotes: "console", "log mail.log"
    text: str
    start: int  # where the text begins in the page
    end: int


def blocks(page: str) -> Iterator[Block]:
    for found in re.finditer(r"^```([^\n]+)\n(.*?)^```$", page, re.M | re.S):
        yield Block(found[1], found[2], found.start(2), found.end(2))


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what the page says that it prints."""
    for each in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, printed = each.partition("\n")
        while command.endswith("\\"):
            more, _, printed = printed.partition("\n")
            command = f"{command}\n{more}"
        yield command, printed


def run(command: str, folder: Path) -> str:
    """What the command prints, and `exit N`. In a shell, in `folder`, in UTC."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": programs, "TZ": "UTC", "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + (f"exit {done.returncode}\n" if done.returncode else "")


def played(page: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Goes through a page in `folder`: each command, what the page says that it prints, what it prints."""
    for block in blocks(page):
        language, _, name = block.head.partition(" ")
        if name:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            os.utime(path, (EVENING, EVENING))
        elif language == "console":
            for command, printed in commands(block.text):
                yield command, printed, run(command, folder)


def renewed(page: str) -> str:
    """The page with what its commands print today."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(played(page, Path(folder)))
    for block in reversed([each for each in blocks(page) if each.head == "console"]):
        count = len(list(commands(block.text)))
        mine, found = found[-count:], found[:-count]
        text = "".join(f"$ {command}\n{printed}" for command, _, printed in mine)
        page = page[: block.start] + text + page[block.end :]
    return page


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:]):
        each.write_text(renewed(each.read_text(encoding="utf-8")), encoding="utf-8")
