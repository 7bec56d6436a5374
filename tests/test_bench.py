"""The benchmarks work, their figures are the ones told, and reading logs has not become slower.

Slower is a ratio: denyspam by bench/reference.py, in the same run, against bench/expected.json. Never an absolute time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from netns import Network, network  # noqa: F401  (the fixture)

from bench import firewall, measure, report, throughput, windows
from bench.logs import OFFENCES, SERVERS, Log
from denyspam.cli import main

LOST = 0.3  # of the speed that may be lost


def events(path: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    with pytest.raises(SystemExit) as end:
        main(["events", "--json", path])
    assert end.value.code == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("server", SERVERS)
def test_a_made_up_log_is_as_asked(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = measure.log_file(tmp_path, server, 6000)
    lines = Path(path).read_text().splitlines()
    assert len(lines) == 6000
    found = events(path, capsys)
    assert len(found) == pytest.approx(OFFENCES[server] * 6000, rel=0.15)
    assert {event["filter"] for event in found} == {server.removesuffix("-syslog")}
    times = [event["time"] for event in found if event["address"]]
    assert None not in times
    assert len({event["address"] for event in found}) > 100
    if server != "sendmail":  # there the address comes later than the offence
        assert times == sorted(times)  # type: ignore[type-var]


def test_a_log_without_offences_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for server in SERVERS:
        assert events(measure.log_file(tmp_path, server, 3000, share=0.0), capsys) == []


@pytest.mark.parametrize("server", SERVERS)
def test_equal_seeds_give_equal_logs(server: str) -> None:
    def made(seed: int) -> bytes:
        return b"".join(Log(server, 500, seed=seed).blocks())

    assert made(7) == made(7)
    assert made(7) != made(8)


def test_most_offences_of_sendmail_carry_no_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = events(measure.log_file(tmp_path, "sendmail", 6000), capsys)
    bare = [event for event in found if not re.search(r"relay=.*\[", str(event["text"]))]
    assert len(bare) > len(found) / 2


def test_sessions_are_interleaved(tmp_path: Path) -> None:
    text = Path(measure.log_file(tmp_path, "postfix", 6000)).read_text()
    ids = re.findall(r"\]: (\w{15}): ", text)
    runs = sum(one != other for one, other in pairwise(ids)) + 1
    assert runs > 1.5 * len(Counter(ids))


@pytest.mark.parametrize("server", ["postfix", "exim"])
def test_the_reference_finds_what_denyspam_finds(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = measure.log_file(tmp_path, server, 6000)
    done = subprocess.run(
        [sys.executable, "-m", "bench.reference", server, path],
        cwd=measure.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    ours = events(path, capsys)
    assert [event["line"] for event in theirs] == [event["line"] for event in ours]
    assert [event["address"] for event in theirs] == [event["address"] for event in ours]


@pytest.mark.parametrize("server", throughput.SERVERS)
def test_reading_has_not_become_slower(server: str, tmp_path: Path) -> None:
    least = (1 - LOST) * throughput.expected()[server]
    assert throughput.ratio(server, tmp_path, enough=least) >= least


def test_counting_is_measured(tmp_path: Path) -> None:
    tracked = windows.alone("tracked", 1000, 1000, tmp_path)
    assert tracked["tracked"] == 1000
    flood = windows.alone("flood", 1000, 1000, tmp_path)
    assert flood["tracked"] == 1000
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
    for path in report.PAGES:
        page = path.read_text(encoding="utf-8")
        assert report.MARKED.search(page), f"{path.name} has no marks"
        assert report.filled(page, found) == page, f"{path.name}: run `python -m bench.report`"
    for name, draw in report.PICTURES.items():
        assert (report.DOCS / f"{name}.svg").read_text(encoding="utf-8") == draw(found)
