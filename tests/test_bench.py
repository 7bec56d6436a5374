"""The benchmarks work, their figures are the ones told, and reading logs has not become slower.

Slower is a ratio: denyspam by bench/reference.py, in the same run, against bench/expected.json. Never an absolute time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from netns import Network, network  # noqa: F401  (the fixture)

from bench import firewall, measure, report, throughput, windows
from bench.logs import OFFENCES, SERVERS, Log

LOST = 0.3  # of the speed that may be lost


LINES = 6000
Told = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A log of each server, and one without an offence, by name."""
    folder = tmp_path_factory.mktemp("logs")
    made = {server: measure.log_file(folder, server, LINES) for server in SERVERS}
    return {**made, **{f"honest {server}": measure.log_file(folder, server, 2000, share=0.0) for server in SERVERS}}


@pytest.fixture(scope="module")
def told(logs: dict[str, str]) -> Told:
    """What `denyspam events` tells of each."""
    command = [*measure.DENYSPAM, "events", "--json", "-c", os.devnull, *logs.values()]
    done = subprocess.run(command, cwd=measure.ROOT, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: [event for event in events if event["file"] == path] for name, path in logs.items()}


@pytest.mark.parametrize("server", SERVERS)
def test_a_made_up_log_is_as_asked(server: str, logs: dict[str, str], told: Told) -> None:
    assert Path(logs[server]).read_bytes().count(b"\n") == LINES
    found = told[server]
    assert len(found) == pytest.approx(OFFENCES[server] * LINES, rel=0.15)
    assert {event["filter"] for event in found} == {server.removesuffix("-syslog")}
    assert len({event["address"] for event in found}) > 100
    assert None not in {event["time"] for event in found}
    assert told[f"honest {server}"] == []


@pytest.mark.parametrize("server", SERVERS)
def test_equal_seeds_give_equal_logs(server: str) -> None:
    def made(seed: int) -> bytes:
        return b"".join(Log(server, 500, seed=seed).blocks())

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_most_offences_of_sendmail_carry_no_address(told: Told) -> None:
    found = told["sendmail"]
    bare = [event for event in found if not re.search(r"relay=.*\[", event["text"])]
    assert len(bare) > len(found) / 2
    assert sum(event["address"] is None for event in found) < 10


def test_sessions_are_interleaved(logs: dict[str, str]) -> None:
    ids = re.findall(r"\]: (\w{15}): ", Path(logs["postfix"]).read_text())
    runs = sum(one != other for one, other in pairwise(ids)) + 1
    assert runs > 1.5 * len(set(ids))


@pytest.mark.parametrize("server", ["postfix", "exim"])
def test_the_reference_finds_what_denyspam_finds(server: str, logs: dict[str, str], told: Told) -> None:
    command = [sys.executable, "-m", "bench.reference", server, logs[server]]
    done = subprocess.run(command, cwd=measure.ROOT, capture_output=True, text=True, check=True)
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    for key in ("line", "address"):
        assert [event[key] for event in theirs] == [event[key] for event in told[server]]


@pytest.mark.parametrize("server", throughput.SERVERS)
def test_reading_has_not_become_slower(server: str, tmp_path: Path) -> None:
    least = (1 - LOST) * throughput.expected()[server]
    assert throughput.ratio(server, tmp_path, enough=least) >= least


def test_counting_is_measured(tmp_path: Path) -> None:
    tracked = windows.alone("tracked", 1000, 1000, tmp_path)
    assert tracked["tracked"] == 1000
    flood = windows.alone("flood", 1000, 1000, tmp_path)
    assert 1000 - 1000 // 64 <= flood["tracked"] <= 1000
    assert windows.alone("bans", 100, 1000, tmp_path)["bans"] == 100


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="the witness needs root")
def test_the_firewall_is_measured(network: Network, tmp_path: Path) -> None:  # noqa: F811
    with firewall.denyspam(tmp_path / "place", network) as (made, watched):
        latency = watched.latency(2)
        assert (latency["bans"], latency["missed"]) == (2, 0)
        assert latency["median_ms"] > 0
        hosts = firewall.networks(50)
        assert watched.burst(hosts)["came"] == 50
        bans = firewall.ban(made, watched, firewall.CLIENTS4[:1])
        assert bans > 0
        connect = firewall.both(network, 20)
        assert (connect["banned"]["refused"], connect["innocent"]["refused"]) == (1.0, 0.0)
        lost = firewall.restored(network, watched, firewall.keys(hosts))
        assert lost["seconds"] > 0
        again = firewall.restart(made, watched, firewall.keys(hosts))
        assert (again["bans"], again["added_again"]) == (53, 0)


def test_the_tables_are_those_of_the_results() -> None:
    found = report.results()
    marked = [mark[2] for path in report.PAGES for mark in report.MARKED.finditer(path.read_text(encoding="utf-8"))]
    assert set(marked) == set(report.TABLES)
    for path in report.PAGES:
        page = path.read_text(encoding="utf-8")
        assert report.filled(page, found) == page, f"{path.name}: run `python -m bench.report`"
    for name, draw in report.PICTURES.items():
        assert (report.DOCS / f"{name}.svg").read_text(encoding="utf-8") == draw(found)
