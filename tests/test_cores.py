"""Several logs on several cores: the same events in the same order, whatever happens to a worker."""

from __future__ import annotations

import gzip
import os
import signal
from datetime import timezone
from pathlib import Path

import pytest

from denyspam import cores, replay
from denyspam.plugins import Filters
from denyspam.replay import Source

CAPTURES = Path(__file__).parent / "captures"
FILTERS = Filters("/nonexistent/denyspam.conf").named(["postfix", "exim", "sendmail"])

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only: run it on a machine with two")


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    packed = tmp_path / "sendmail.log.1.gz"
    packed.write_bytes(gzip.compress((CAPTURES / "sendmail.log").read_bytes() * 3))
    paths = [CAPTURES / "postfix.log", packed, CAPTURES / "exim.log", CAPTURES / "sendmail-15.log"]
    return [Source(str(path), FILTERS, timezone.utc, 2026) for path in paths]


@pytest.mark.parametrize("harmless", [False, True])
def test_the_events_of_one_core(sources: list[Source], harmless: bool) -> None:
    read: list[int] = []
    found = list(cores.events(sources, read.append, harmless=harmless, least=0, fewest=2))
    assert list(replay.events(sources, harmless=harmless)) == found
    assert len(found) > 1000
    assert sum(os.path.getsize(source.path) for source in sources) == sum(read)


def test_what_cannot_be_read_is_said(sources: list[Source], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"x" * 100_000)[:-20])
    bad = Source(str(broken), FILTERS, timezone.utc)
    with pytest.raises(replay.Unreadable, match=r"broken\.gz"):
        list(cores.events([*sources, bad], least=0, fewest=2))


def test_a_worker_that_dies_is_said(sources: list[Source], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_work", die)
    with pytest.raises(replay.Unreadable, match="ended early"):
        list(cores.events(sources, least=0, fewest=2))


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_end_half_way_leaves_nothing(sources: list[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    many = tmp_path / "many.log"
    many.write_bytes((CAPTURES / "exim.log").read_bytes() * 20)
    stream = cores.events([*sources, Source(str(many), FILTERS, timezone.utc, 2026)], least=0, fewest=2)
    next(stream)
    stream.close()
    assert [name for name in os.listdir(tmp_path) if name.startswith("denyspam-")] == []


def test_each_work_on_a_core_of_its_own(sources: list[Source]) -> None:
    paths = [source.path for source in sources]
    assert list(cores.each(os.path.getsize, paths, paths, least=0)) == [os.path.getsize(path) for path in paths]
    with pytest.raises(FileNotFoundError):
        list(cores.each(os.path.getsize, [*paths, "/nonexistent"], paths, least=0))
