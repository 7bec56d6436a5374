"""The configuration read in a process of its own: the same as read here, and what is wrong is told as ever."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from live import Live, live, until
from netns import Network

from denyspam import apart
from denyspam.events import FilterError, SettingsError
from denyspam.plugins import load

CONF = """[daemon]
state = {0}
socket = {0}/sock
[log {0}/mail.log]
filters = {1}
[policy]
relay = 5 in 15m -> ban 1h
"""
RESIDENT = 46.0  # MB; 38 measured with Python 3.11, 52 with OpenSSL and pyparsing


def written(folder: Path, filters: str = "auto", more: str = "") -> str:
    conf = folder / "denyspam.conf"
    conf.write_text(CONF.format(folder, filters) + more)
    return str(conf)


def test_the_same_comes_back(tmp_path: Path) -> None:
    conf = written(tmp_path)
    (settings, logs), (own, owns) = apart.begin(conf)(), load(conf)
    assert settings == own
    ((path, filters),), ((same, others),) = logs.items(), owns.items()
    assert path == same
    assert len(filters) > 10
    for one, other in zip(filters, others, strict=True):
        assert (one.name, one.programs, one.samples) == (other.name, other.programs, other.samples)
        # A made-up line of each pattern says the same; the expressions stand in it byte by byte.
        assert [pattern.pieces for pattern in one.patterns] == [pattern.pieces for pattern in other.patterns]
        endings = [(pattern.again, pattern.also) for pattern in one.patterns]
        assert len({id(each) for each, _ in endings}) == len({id(pattern.again) for pattern in other.patterns})


def test_the_child_ends_where_the_daemon_was_killed(tmp_path: Path) -> None:
    # What it has to say is more than a pipe holds.
    script = "import os, sys; from denyspam import apart; apart.begin(sys.argv[1]); os.kill(os.getpid(), 9)"
    with (tmp_path / "said").open("wb") as said:
        begun = subprocess.Popen([sys.executable, "-c", script, written(tmp_path)], stdout=said, start_new_session=True)
        assert begun.wait() == -signal.SIGKILL
    until(lambda: not alive(begun.pid), "the end of the child")


def alive(group: int) -> bool:
    """Whether a process of this group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"denyspam\.conf:8: .*rejekt"):
        apart.begin(written(tmp_path, more="rejekt = 5 in 15m -> ban 1h\n"))()
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters/mine.filter").write_text("filter mine\nprogram x\nrelay {*}{ip}\n")
    with pytest.raises(FilterError, match=r"mine\.filter:3:"):
        apart.begin(written(tmp_path, "mine"))()


def test_a_child_that_dies_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf, here = written(tmp_path), os.getpid()

    def die(*_: object) -> None:
        assert os.getpid() != here
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(pickle, "dump", die)
        end = apart.begin(conf)
    settings, logs = end()
    assert settings == load(conf)[0]
    assert len(logs) == 1


def test_whoever_starts_us_may_ignore_its_children(tmp_path: Path) -> None:
    conf = written(tmp_path)
    code = "import sys; from denyspam import apart; print(len(apart.begin(sys.argv[1])()[1]))"
    command = ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", sys.executable, "-c", code, conf]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.root
def test_the_daemon_stays_small(tmp_path: Path, network: Network) -> None:
    with live(tmp_path, network.server) as daemon:
        daemon.configure(log="filters = auto\n")
        daemon.start()
        assert resident(daemon) < RESIDENT
        assert daemon.process
        libraries = Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert "libssl" not in libraries
        daemon.process.send_signal(signal.SIGHUP)  # reads in the daemon itself
        assert daemon.stop() == 0


def resident(daemon: Live) -> float:
    assert daemon.process
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
