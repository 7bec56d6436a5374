"""replay beyond its list, as a script and as a person at a terminal sees it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_cli import CONF, denyspam, rows

from bench.logs import Log, save
from denyspam.host import zone
from denyspam.show import moment

POLICY = "relay = 5 in 15m -> ban 1h\nreject = 5 in 1h -> ban 1h, doubling to 7d\nauth = 4 in 1d -> ban 2h, ports 587\n"
WIDE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of a mail server, with a sender of accepted mail who was banned as well, and three configurations."""
    path = tmp_path_factory.mktemp("trial")
    save(Log("postfix", 12_000, seed=5), str(path / "mail.log"))
    log = path / "mail.log"
    text = log.read_text()
    last = os.stat(log).st_mtime
    honest = re.findall(r"smtpd\[\d+\]: [0-9A-Za-z]+: client=\S+\[([\d.]+)\]$", text, re.M)
    # At the log's end: offences, accepted mail while banned, and after.
    mail = Counter(honest).most_common(1)[0][0]
    for number in range(5):
        told = "554 5.7.1 <a@b.example>: Relay access denied; from=<x@y.example> to=<a@b.example> proto=ESMTP helo=<z>"
        text += _line(last + number, f"NOQUEUE: reject: RCPT from x.example[{mail}]: {told}")
    for queue, after in (("4XyZq81Kw0z9P1", 60), ("4XyZq81Kw0z9P2", 4000)):
        text += _line(last + after, f"{queue}: client=x.example[{mail}]")
        text += _line(last + after + 1, f"{queue}: from=<x@y.example>, size=325, nrcpt=1 (queue active)", "qmgr")
    log.write_text(text)
    os.utime(log, (last + 5000, last + 5000))
    (path / "address").write_text(mail)
    for name, policy in (
        ("a.conf", POLICY),
        ("b.conf", POLICY.replace("reject = 5", "reject = 9") + "spam = 2 in 1h -> ban 1h\n"),
    ):
        (path / name).write_text(CONF.format(path) + policy)
    other = CONF.format(path).replace("filters = postfix", "filters = dovecot, postfix")
    (path / "c.conf").write_text(other + POLICY)
    return path


def _line(when: float, text: str, program: str = "smtpd") -> str:
    return f"{moment(when, zone('UTC')).replace(' ', 'T')}+00:00 mx postfix/{program}[2034]: {text}\n"


@cache
def replay(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return denyspam("replay", "-c", folder / "a.conf", *words, folder / "mail.log", **environment)


def terminal(folder: Path, *words: object, columns: int = 100, **environment: str) -> str:
    """What a person sees; both channels."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
    command = [sys.executable, "-m", "denyspam.cli", "replay", "-c", folder / "a.conf", *words, folder / "mail.log"]
    clean = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "TERM")}
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**clean, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment},
    ) as process:
        os.close(other)
        seen = b""
        while True:
            try:
                data = os.read(main, 65_536)
            except OSError:  # EIO: nobody writes any more
                break
            if not data:
                break
            seen += data
    os.close(main)
    assert process.returncode == 0
    return re.sub(r"[^\n]*\r(?!\n)", "", seen.decode()).replace("\r\n", "\n")  # a bar overwritten is not seen


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    (found,) = rows(done)
    return found


def test_the_numbers_are_those_of_the_lists(folder: Path) -> None:
    bans = rows(replay(folder, "--json"))
    events = rows(denyspam("events", "--json", "--filter", "postfix", folder / "mail.log"))
    told = summary(replay(folder, "--json", "--summary"))
    assert told["events"] == len(events)
    assert told["kinds"] == dict(Counter(str(each["kind"]) for each in events))
    assert (told["bans"], told["addresses"]) == (len(bans), len({each["address"] for each in bans}))
    times = [each["time"] for each in events if each["time"]]
    assert (told["first"], told["last"]) == (min(times), max(times))
    assert {each["rule"] for each in bans} == {"relay", "reject", "auth"}
    for row in told["policies"]:
        mine = [each for each in bans if each["rule"] == row["name"]]
        assert row["bans"] == len(mine)
        if not mine:
            continue
        assert row["events"] == told["kinds"][row["kind"]]
        assert row["addresses"] == len({each["address"] for each in mine})
        assert (row["first"], row["last"]) == (min(x["time"] for x in mine), max(x["time"] for x in mine))
        lengths = sorted(x["until"] - x["time"] for x in mine)
        assert row["median"] == lengths[(len(lengths) - 1) // 2]
    assert sum(sum(each) for each in told["over_time"]["bans"].values()) == len(bans)


def test_hits_are_the_events_that_no_ban_covers(folder: Path) -> None:
    bans = rows(replay(folder, "--json"))
    events = rows(denyspam("events", "--json", "--filter", "postfix", folder / "mail.log"))
    auth = {"auth"}
    held = 0
    for each in events:
        if each["kind"] not in ("relay", "reject") or each["time"] is None or ":" in str(each["address"]):
            continue
        mine = [x for x in bans if x["address"] == each["address"] and x["rule"] not in auth]
        # The deciding hit is a hit; what comes after it in the same second is none.
        held += not any(x["time"] < each["time"] < x["until"] for x in mine)  # type: ignore[operator]
    told = summary(replay(folder, "--json", "--summary"))
    hits = sum(row["hits"] for row in told["policies"] if row["name"] in ("relay", "reject"))
    six = sum(":" in str(each["address"]) and each["kind"] in ("relay", "reject") for each in events)
    assert held * 0.98 <= hits <= held + six


def test_a_pipe_gets_the_list_alone(folder: Path) -> None:
    done = replay(folder)
    assert len(done.stdout.splitlines()) == len(rows(replay(folder, "--json")))
    assert done.stderr == f"{len(done.stdout.splitlines())} bans\n"
    only = replay(folder, "--summary")
    assert (only.stderr, "for 1h" in only.stdout) == ("", False)
    assert only.stdout.startswith("2026-10-2")
    assert "\x1b" not in only.stdout


def test_a_terminal_gets_the_summary_too(folder: Path) -> None:
    seen = terminal(folder)
    piped = replay(folder).stdout
    assert WIDE.sub("", seen).startswith(piped)
    rest = WIDE.sub("", seen)[len(piped) :]
    assert rest.startswith("\n2026-10-2")
    assert "█" in rest and "bans over time" in rest
    assert "\x1b[" in seen
    assert "\x1b[" not in terminal(folder, "--summary", NO_COLOR="1")
    assert terminal(folder, "--json").splitlines() == replay(folder, "--json").stdout.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_picture_fits_the_terminal(folder: Path, columns: int) -> None:
    lines = WIDE.sub("", terminal(folder, "--summary", columns=columns)).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("bans over time"))
    assert max(map(len, lines[start:])) <= columns
    assert max(map(len, lines[start:])) > columns / 4
    if columns >= 80:
        assert max(map(len, lines)) <= columns


def test_without_block_characters(folder: Path) -> None:
    for environment in ({"PYTHONIOENCODING": "latin-1"}, {"TERM": "dumb"}, {"TERM": "linux"}):
        seen = replay(folder, "--summary", **environment).stdout
        assert seen.isascii() and "#" in seen.split("bans over time")[1]


def test_cost(folder: Path) -> None:
    address = (folder / "address").read_text()
    told = summary(replay(folder, "--json", "--cost"))
    bans = rows(replay(folder, "--json"))
    every = rows(denyspam("events", "--json", "--all", "--filter", "postfix", folder / "mail.log"))
    spans: dict[str, list[tuple[float, float]]] = {}
    for each in bans:
        spans.setdefault(str(each["address"]), []).append((each["time"], each["until"]))  # type: ignore[arg-type]
    accepted = Counter(str(each["address"]) for each in every if each["kind"] == "accept")
    cost = told["cost"]
    assert cost["accepted"] == sum(accepted.values()) - accepted["None"] + cost["accepted_by_nobody"]
    assert (cost["banned"], cost["forgotten"]) == (len(spans), 0)
    assert {each["address"] for each in cost["addresses"]} == {name for name in spans if accepted[name]} == {address}
    (found,) = cost["addresses"]
    assert (found["during"], found["after"], found["rule"]) == (1, 1, "relay")
    assert found["before"] == accepted[address] - 2 > 0
    assert cost["accepted_while_banned"] == 1
    # The lines that name who was banned, counted line by line.
    lines = size = connections = 0
    for line in (folder / "mail.log").read_bytes().splitlines(keepends=True):
        names = [text.decode() for text in re.findall(rb"[0-9a-fA-F:.]{7,}", line)]
        when = rows_time(folder, line)
        if any(since <= when < until for name in names for since, until in spans.get(name, ())):
            lines += 1
            size += len(line)
            connections += re.search(rb"smtpd\[\d+\]: connect from", line) is not None
    saved = cost["saved"]
    networks = any("/" in name for name in spans)
    assert saved["lines"] == lines if not networks else saved["lines"] >= lines
    assert saved["bytes"] == size if not networks else saved["bytes"] >= size
    assert connections <= saved["connections"] <= saved["lines"]
    assert lines > 50


def rows_time(folder: Path, line: bytes) -> float:
    from denyspam.stamp import Stamps

    time = Stamps(zone("UTC")).read(line, os.stat(folder / "mail.log").st_mtime)[0]
    assert time is not None
    return time


def test_cost_of_a_pipe_says_what_it_cannot(folder: Path) -> None:
    text = (folder / "mail.log").read_bytes()
    done = denyspam("replay", "-c", folder / "a.conf", "--cost", "--year", "2026", "-", text=text)
    assert done.returncode == 0
    assert "a pipe has only one" in done.stdout
    words = replay(folder, "--cost").stdout
    assert "1 message of " in words and (folder / "address").read_text() in words and "cannot tell" in words


def test_compare(folder: Path) -> None:
    a, b = (
        rows(denyspam("replay", "-c", folder / name, "--json", folder / "mail.log")) for name in ("a.conf", "b.conf")
    )

    def only(mine: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ports = {"auth": 587}
        return [
            each
            for each in mine
            if not any(
                each["address"] == other["address"]
                and ports.get(each["rule"], 25) == ports.get(other["rule"], 25)
                and each["time"] < other["until"]
                and other["time"] < each["until"]
                for other in others
            )
        ]

    wanted = [{"only": str(folder / "a.conf"), **each} for each in only(a, b)]
    wanted += [{"only": str(folder / "b.conf"), **each} for each in only(b, a)]
    found = rows(replay(folder, "--json", "--compare", folder / "b.conf"))
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert len({str(each["only"]) for each in found}) == 2 or not only(b, a)
    assert [each["time"] for each in found] == sorted(each["time"] for each in found)  # type: ignore[type-var]
    told = summary(replay(folder, "--json", "--summary", "--compare", folder / "b.conf"))
    assert [each["only"]["bans"] for each in told["configurations"]] == [len(only(a, b)), len(only(b, a))]
    assert [each["bans"] for each in told["configurations"]] == [len(a), len(b)]
    words = replay(folder, "--compare", folder / "b.conf")
    assert len(words.stdout.splitlines()) == len(found)
    assert all(line[:2] in ("- ", "+ ") for line in words.stdout.splitlines())
    assert "only " in words.stderr


def test_compare_with_itself_and_with_other_filters(folder: Path) -> None:
    assert replay(folder, "--compare", folder / "a.conf").stdout == ""
    other = replay(folder, "--json", "--compare", folder / "c.conf")
    assert (other.returncode, other.stdout) == (0, "")
    piped = denyspam("replay", "-c", folder / "a.conf", "--compare", folder / "c.conf", "-", text=b"")
    assert (piped.returncode, "c.conf" in piped.stderr) == (78, True)
    wrong = replay(folder, "--compare", folder / "none.conf")
    assert (wrong.returncode, "none.conf" in wrong.stderr) == (78, True)


def test_nothing_to_say(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.write_bytes(b"")
    done = denyspam("replay", "-c", folder / "a.conf", "--cost", empty)
    assert (done.returncode, done.stdout) == (0, "no event: no filter took a line\n")
    told = json.loads(denyspam("replay", "-c", folder / "a.conf", "--json", "--summary", empty).stdout)
    assert (told["events"], told["bans"], told["first"]) == (0, 0, None)
