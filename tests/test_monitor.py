"""What a real daemon notices of itself and of its logs: said once at its begin and once at its end."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from typing import Any

import pytest
from live import Live, stamp, until, viruses
from netns import CLIENTS4

from denyspam.alarms import Alarms
from denyspam.monitor import SAMPLE, _Log
from denyspam.plugins import Filters
from denyspam.settings import LogSettings

pytestmark = pytest.mark.root
FILTERS = Filters("/nowhere/denyspam.conf").named(["postfix"])
NOW = 1_772_614_800.0


def alarms(daemon: Live) -> dict[str, Any]:
    return {alarm["name"]: alarm for alarm in daemon.json("status")["alarms"]}


def test_a_changed_format_with_samples(daemon: Live) -> None:
    """As a whole: read, sampled, judged, logged, told by `status`, `learn` and the metrics."""
    daemon.start()
    hostile = "\x1b[2J\u202ehttp://evil.example/"

    def told() -> Any:
        now = time.time()
        daemon.write(
            [
                f"{stamp(now)} mx postfix/smtpd[7]: NOQUEUE: {hostile} rejected x[203.0.113.{n}]: 554 no"
                for n in range(50)
            ]
        )
        return alarms(daemon).get("lines-untaken")

    alarm = until(told, "the alarm")
    assert alarm["subject"] == str(daemon.log)
    assert f"`denyspam learn {daemon.log}`" in alarm["text"]
    (sample,) = alarm["samples"]
    assert sample.isascii()
    assert "\\x1b[2J\\u202ehttp[:]//evil.example/ rejected" in sample
    said = daemon.errors.read_text()
    assert said.count("alarm lines-untaken") == 2  # itself, and its sample
    assert "\x1b" not in said
    assert 'denyspam_alarms_active{alarm="lines-untaken"} 1' in daemon.ask("metrics").stdout
    assert "ALARM lines-untaken" in daemon.ask("status").stdout
    assert daemon.banned() == []


def test_a_ledger_that_cannot_be_written(daemon: Live) -> None:
    daemon.start()
    other = sqlite3.connect(daemon.folder / "state/ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    daemon.write(viruses(CLIENTS4[0], 5))
    until(lambda: daemon.held() == {CLIENTS4[0]}, "a ban all the same")
    alarm = until(lambda: alarms(daemon).get("ledger"), "the alarm, after ten seconds")
    assert "locked" in alarm["text"]
    other.execute("ROLLBACK")
    other.close()
    assert daemon.errors.read_text().count("alarm ledger") == 1


def test_what_was_learned_outlives_a_restart(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(CLIENTS4[0], 1))
    until(lambda: daemon.json("status")["events"], "the event")
    assert daemon.json("status")["logs"][str(daemon.log)]["silent"] < 60
    assert daemon.stop() == 0
    with sqlite3.connect(daemon.folder / "state/ledger.db") as ledger:
        ((name, text),) = ledger.execute("SELECT name, value FROM facts WHERE name LIKE 'habit %'").fetchall()
        kept = json.loads(text)
        kept["usual"], kept["heard"] = 0.125, kept["heard"] - 5000
        ledger.execute("UPDATE facts SET value = ? WHERE name = ?", (json.dumps(kept), name))
    daemon.start()
    assert daemon.json("status")["logs"][str(daemon.log)]["silent"] > 5000
    assert daemon.stop() == 0
    with sqlite3.connect(daemon.folder / "state/ledger.db") as ledger:
        assert (
            json.loads(ledger.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])["usual"]
            == 0.125
        )
        ledger.execute("UPDATE facts SET value = '[[' WHERE name = ?", (name,))
    daemon.start()
    assert daemon.json("status")["logs"][str(daemon.log)]["silent"] < 60


def test_a_glob_is_one_log(daemon: Live) -> None:
    """Its file of yesterday is silent for good, and that is no alarm."""
    daemon.configure()
    daemon.conf.write_text(daemon.conf.read_text().replace(f"[log {daemon.log}]", f"[log {daemon.folder}/mail-*.log]"))
    (daemon.folder / "mail-1.log").touch()
    daemon.start()
    daemon.log = daemon.folder / "mail-2.log"
    daemon.write(viruses(CLIENTS4[0], 1))
    until(lambda: daemon.json("status")["events"], "the event of a file that came later")
    logs = daemon.json("status")["logs"]
    assert {path: log["silent"] < 60 for path, log in logs.items()} == dict.fromkeys(
        (f"{daemon.folder}/mail-1.log", str(daemon.log)), True
    )
    assert daemon.stop() == 0
    with sqlite3.connect(daemon.folder / "state/ledger.db") as ledger:
        kept = ledger.execute("SELECT name FROM facts WHERE name LIKE 'habit %'").fetchall()
    assert kept == [(f"habit {daemon.folder}/mail-*.log",)]


# --- one log, without a daemon


def of(kept: str | None = None, now: float = NOW, **settings: str) -> _Log:
    return _Log(LogSettings("/l", timezone="UTC", **settings), FILTERS, kept, now)  # type: ignore[arg-type]


def test_stamps_of_another_zone() -> None:
    log, found = of(), Alarms()
    for second in range(0, 1200, 10):
        log.sees(
            f"{time.strftime('%b %e %H:%M:%S', time.gmtime(NOW + second + 3600))} mx a[1]: b\n".encode(),
            NOW + second,
            True,
        )
        log.tick(NOW + second, found)
    (change,) = found.changes(NOW + 1200)
    assert str(change.alarm) == "stamps-skewed /l"
    assert "`timezone = Etc/GMT-1" in change.alarm.text
    for second in range(1200, 20_000, 10):
        log.sees(
            f"{time.strftime('%b %e %H:%M:%S', time.gmtime(NOW + second))} mx a[1]: b\n".encode(), NOW + second, True
        )
        log.tick(NOW + second, found)
    (change,) = found.changes(NOW + 20_000)
    assert change.ended is not None


@pytest.mark.parametrize("settings", [{"stamp": "none"}, {}])
def test_no_skew_is_seen_where_none_can_be(settings: dict[str, str]) -> None:
    """Of arrival times, and of what is read late."""
    log, found = of(**settings), Alarms()
    for second in range(0, 9000, 10):
        log.sees(b"Mar  4 02:00:00 mx a[1]: b\n", NOW + second, bool(settings))
        log.tick(NOW + second, found)
    assert found.changes(NOW + 9000) == []


def test_a_log_that_stops_and_goes_on() -> None:
    log, found = of(), Alarms()
    now = NOW
    for _ in range(2 * 1440):
        now += 60
        log.sees(b"Mar  4 02:00:00 mx a[1]: b\n", now, True)
        log.minutely(now, found, True)
        assert found.changes(now) == []
    told = []
    for _ in range(180):
        now += 60
        log.minutely(now, found, False)
        told += found.changes(now)
    (change,) = told
    assert str(change.alarm) == "log-stopped /l"
    assert re.search(
        r"it is not there, and had no new line for 1h.*; by its habit that is 1h at most", change.alarm.text
    )
    log = of(log.kept(now), now)  # a reload
    log.minutely(now, found, True)
    assert found.changes(now) == []
    log.sees(b"Mar  4 02:00:00 mx a[1]: b\n", now + 30, True)
    log.minutely(now + 60, found, True)
    (change,) = found.changes(now + 60)
    assert change.ended is not None


def test_what_was_kept_long_ago_is_no_silence() -> None:
    """The whole host was off meanwhile."""
    log = of()
    log.heard = NOW - 500
    assert of(log.kept(NOW), NOW + 60).heard == NOW - 500
    assert of(log.kept(NOW), NOW + 86_400).heard == NOW + 86_400
    assert of(log.kept(NOW), NOW - 5000).heard == NOW - 5000


@pytest.mark.parametrize("kept", ["", "null", "[]", "{}", '{"silence": 3}', '{"silence": "[[", "usual": "x"}'])
def test_what_is_not_what_was_kept_is_forgotten(kept: str) -> None:
    assert of(kept).heard == NOW


def test_little_is_kept_of_what_is_read() -> None:
    log = of()
    for second in range(10):
        log.sees(b"x" * 100 + b"\n" + b"y" * 1_000_000 + b"\n", NOW, True)
        assert log.sample is not None
        assert len(log.sample) <= SAMPLE
        log.tick(NOW + second, Alarms())
        assert log.sample is None
