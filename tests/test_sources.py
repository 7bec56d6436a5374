"""Sections and what they open: globs whose files come and go, and `check`, which tests what a reload would load."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from grp import getgrnam
from pathlib import Path

import pytest
from live import live, relay, until

from denyspam import logfile
from denyspam.events import SettingsError
from denyspam.logfile import Logs
from denyspam.plugins import Filters
from denyspam.settings import LogSettings, parse
from denyspam.sources import NotPermitted, matching, section_of, usable
from denyspam.tail import rotated_from


@pytest.mark.parametrize(
    "name, logs",
    [
        ("mail.log", None),
        ("mainlog", None),
        ("mail2.log", None),
        ("mail.log.1", ()),
        ("mail.log.2.gz", ()),
        ("mail.log.old", ()),
        ("mail.log-20261121.zst", ()),
        ("mail.log-20261121", ("mail.log",)),
        ("mail-20261121.log", ("mail.log",)),
        ("mainlog-20261121", ("mainlog",)),
        ("mail.log-2026-11-21", ("mail.log", "mail.log-2026", "mail.log-2026-11")),
    ],
)
def test_rotated_from(name: str, logs: Sequence[str] | None) -> None:
    found = rotated_from(f"/var/log/{name}")
    assert (None if found is None else {os.path.basename(log) for log in found}) == (
        None if logs is None else set(logs)
    )


def test_matching(tmp_path: Path) -> None:
    for name in ("a.log", "a.log.1", "a.log-20261121", "b-20261120.log", "b-20261121.log", "c.log.gz", "gone-1.log"):
        (tmp_path / name).touch()
    (tmp_path / "folder.log").mkdir()
    section = LogSettings(f"{tmp_path}/*")
    assert [os.path.basename(path) for path in matching(section, ())] == [
        "a.log", "b-20261120.log", "b-20261121.log", "gone-1.log",
    ]  # fmt: skip
    # one that is being rotated just now is not there, and its older parts are still its own
    known = [str(tmp_path / "gone.log")]
    assert str(tmp_path / "gone-1.log") not in list(matching(section, known))


def test_section_of() -> None:
    text = (
        "[log /var/log/*.log]\n[log /var/log/mail.log]\n[journal /var/log/journal]\n[policy]\nvirus = 1 in 1m -> ban 1h"
    )
    sections = parse(text, "x").logs
    glob, mail, journal = sections
    assert section_of("/var/log/mail.log", sections) == mail
    assert section_of("/var/log/../log/other.log", sections) == glob
    assert section_of("/var/log/deeper/other.log", sections) is None
    assert section_of("/var/log/journal", sections) == journal


def logs(pattern: str, saved: dict[str, tuple[str, float]]) -> Logs:
    section = LogSettings(pattern)
    return Logs([section], {pattern: [Filters("x").load("postfix")]}, saved, time.time(), None)


def read(found: Logs) -> dict[str, bytes]:
    return {
        os.path.basename(path): b"".join(block.data for block in each.source.read(0.0, 1 << 20))
        for path, each in found.items()
    }


def test_files_of_a_glob_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "GONE", -1.0)
    pattern = f"{tmp_path}/*.log"
    (tmp_path / "a.log").write_text("old\n")
    found = logs(pattern, {})
    assert read(found) == {"a.log": b""}  # the very first start: its end
    (tmp_path / "b.log").write_text("new\n")
    (tmp_path / "b.log.1").write_text("from before we looked\n")
    assert found.look(time.time()) == [str(tmp_path / "b.log")]
    assert read(found) == {"a.log": b"", "b.log": b"new\n"}
    saved = {path: (each.saved or "", time.time()) for path, each in found.items()} | {pattern: ("[]", time.time())}
    for path in (tmp_path / "a.log", tmp_path / "c.log"):
        with path.open("a") as file:
            file.write("while away\n")
    again = logs(pattern, saved)
    assert read(again) == {"a.log": b"while away\n", "b.log": b"", "c.log": b"while away\n"}
    (tmp_path / "a.log").unlink()
    read(again)
    again.look(time.time())
    again.look(time.time())
    assert read(again).keys() == {"b.log", "c.log"}
    (tmp_path / "a.log").write_text("back\n")
    again.look(time.time())
    assert read(again)["a.log"] == b"back\n"


def test_one_file_under_two_names_is_read_once(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/*.log"
    (tmp_path / "a.log").write_text("old\n")
    (tmp_path / "current.log").symlink_to("a.log")
    found = logs(pattern, {})
    assert found.keys() == {str(tmp_path / "a.log")}
    (tmp_path / "a.log").rename(tmp_path / "kept.log")  # by hand, to a name that the glob takes as well
    with (tmp_path / "kept.log").open("a") as file:
        file.write("late\n")
    (tmp_path / "a.log").write_text("new\n")
    found.look(time.time())
    assert read(found) == {"a.log": b"late\nnew\n"}


def test_rotated_while_the_daemon_runs(tmp_path: Path) -> None:
    """New files are found, older parts are none of their own, and each line counts once."""
    folder = tmp_path / "exim4"
    folder.mkdir()
    with live(tmp_path) as daemon:
        daemon.configure(mode="watch")
        daemon.conf.write_text(daemon.conf.read_text().replace(f"[log {daemon.log}]", f"[log {folder}/*log]"))
        daemon.start()
        assert daemon.json("status")["logs"] == {}

        def write(name: str, count: int) -> None:
            with (folder / name).open("a") as file:
                file.writelines(f"{relay('203.0.113.9', time.time())} {os.urandom(4).hex()}\n" for _ in range(count))

        write("mainlog", 1)
        until(lambda: daemon.json("status")["events"] == {"relay": {"postfix": 1}}, "one")
        (folder / "mainlog").rename(folder / "mainlog-20261121")
        write("mainlog", 1)
        write("otherlog", 1)
        with gzip.open(folder / "otherlog.2.gz", "wb") as file:
            file.write(b"x\n")
        until(lambda: daemon.json("status")["events"] == {"relay": {"postfix": 3}}, "three")
        assert {os.path.basename(path) for path in daemon.json("status")["logs"]} == {"mainlog", "otherlog"}
        daemon.stop(signal.SIGKILL)
        write("thirdlog", 1)
        daemon.start()
        assert daemon.json("status")["events"] == {"relay": {"postfix": 1}}
        write("mainlog", 1)
        until(lambda: daemon.banned() == ["203.0.113.9"], "the ban")


def check(sections: str, daemon: str = "") -> tuple[str, list[str]]:
    """(what is wrong, notes)"""
    notes: list[str] = []
    try:
        for note in usable(parse(f"[daemon]\n{daemon}\n{sections}\n[policy]\nvirus = 5 in 15m -> ban 1h\n", "x.conf")):
            notes.append(note)
    except SettingsError as error:
        return str(error), notes
    return "", notes


def test_a_group_that_the_daemon_may_not_give_a_socket_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before a reload: chown() would end the daemon."""
    section = f"[syslog {tmp_path}/log]\ngroup = daemon\n[policy]\nvirus = 5 in 15m -> ban 1h\n"
    settings = (
        parse(section, "x.conf"),
        parse("[daemon]\ngroup = daemon\n" + section.replace("group = daemon\n", ""), "x"),
    )
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    monkeypatch.setattr(os, "getgroups", lambda: [12_345])
    for each in settings:
        with pytest.raises(NotPermitted, match="to the group daemon: the daemon's user is no member"):
            list(usable(each, {}))
        assert list(usable(each)) == []  # whoever else asks
    monkeypatch.setattr(os, "getgroups", lambda: [getgrnam("daemon").gr_gid])
    for each in settings:
        assert list(usable(each, {})) == []


def test_check_tests_what_a_reload_would_load(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "taken"))
        for section, wrong, note in (
            ("[log -]", "", ""),
            (f"[log {tmp_path}/fifo]", "", ""),
            (f"[log {tmp_path}/none]", "", "does not exist yet"),
            (f"[log {tmp_path}]", "this is a folder", ""),
            (f"[log {tmp_path}/no*]", "", "no file fits"),
            (f"[journal {tmp_path}/empty]", "", "there is no such journal yet"),
            (f"[syslog {tmp_path}/log]", "", ""),
            (f"[syslog {tmp_path}/file]", "which is no socket", ""),
            (f"[syslog {tmp_path}/taken]", "", "by the daemon itself, if it runs"),
            (f"[syslog {tmp_path}/none/log]", "", "does not exist yet"),
            ("[syslog 192.0.2.1:5514]\nfrom = 192.0.2.7", "cannot be made", ""),
            ("[syslog 127.0.0.1:5514]", "", ""),
        ):
            found, notes = check(section)
            assert (found.startswith("x.conf:3: ") and wrong in found) if wrong else not found, (section, found)
            assert (len(notes), note in "".join(notes)) == (bool(note), True), (section, notes)
    assert "x.conf:4: there is no group 'nonesuch'" in check(f"[syslog {tmp_path}/log]\ngroup = nonesuch")[0]
    assert "x.conf:2: there is no group 'nonesuch'" in check("[log -]", "group = nonesuch")[0]
    assert not (tmp_path / "log").exists()


def test_a_reload_that_could_not_have_its_socket_changes_nothing(tmp_path: Path) -> None:
    with live(tmp_path) as daemon:
        daemon.configure(mode="watch")
        daemon.start()
        good = daemon.conf.read_text()
        (tmp_path / "file").write_text("mine")
        daemon.conf.write_text(good.replace(f"socket = {tmp_path}/sock", f"socket = {tmp_path}/file"))
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        said = f"not reloaded, going on as before: {daemon.conf}:3: the socket {tmp_path}/file cannot be made"
        until(lambda: said in daemon.errors.read_text(), "the refusal")
        done = daemon.ask("check")
        assert (done.returncode, f"{daemon.conf}:3: the socket" in done.stderr) == (78, True), done.stderr
        daemon.conf.write_text(good)
        assert daemon.ask("status").returncode == 0
        assert (tmp_path / "file").read_text() == "mine"


def test_the_command_says_it_with_its_line(tmp_path: Path) -> None:
    with live(tmp_path) as daemon:
        daemon.conf.write_text(f"[log {tmp_path}]\nfilters = postfix\n[policy]\nvirus = 5 in 15m -> ban 1h\n")
        done = daemon.ask("check")
        assert (done.returncode, done.stderr.startswith(f"{daemon.conf}:2: ")) == (78, True), done.stderr


def test_every_configuration_of_the_page_is_one() -> None:
    page = (Path(__file__).parent.parent / "docs/sources.md").read_text(encoding="utf-8")
    found = [parse(text, "sources.md").logs for text in re.findall(r"^```ini\n(.*?)^```", page, re.M | re.S)]
    kinds = [["log"], ["journal"], ["syslog", "syslog"], ["journal"]]
    assert [[each.kind for each in logs] for logs in found] == kinds
    for section in re.findall(r"^\| [^|]*\| `(\[[^`]*\])`", page, re.M):
        assert parse(f"{section}\n[policy]\nvirus = 1 in 1m -> ban 1h\n", "x").logs
