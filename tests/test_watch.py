"""watch: real inotify on real files; a wake for whatever changes, none for nothing, and poll() when events fail."""

from __future__ import annotations

import asyncio
import os
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from denyspam.watch import Watch


class Woken:
    """Counts wakes and waits for them."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.event = asyncio.Event()

    def __call__(self, path: str) -> None:
        self.count[path] += 1
        self.event.set()

    async def after(self, act: Callable[[], object]) -> None:
        """Done when `act` has caused a wake."""
        await asyncio.sleep(0)
        self.event.clear()
        act()
        await asyncio.wait_for(self.event.wait(), 60)
        for _ in range(5):  # take in what belongs to the same act
            await asyncio.sleep(0.002)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("line\n")


def run(paths: list[Path], script: Callable[[Watch, Woken], object]) -> None:
    async def main() -> None:
        woken = Woken()
        watch = Watch(asyncio.get_running_loop(), [str(path) for path in paths], woken)
        try:
            await script(watch, woken)  # type: ignore[misc]
        finally:
            watch.close()

    asyncio.run(main())


def test_written_rotated_deleted_and_made_again(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"

    async def script(watch: Watch, woken: Woken) -> None:
        await woken.after(lambda: append(log))  # it appears
        await woken.after(lambda: append(log))
        old = log.open("a", buffering=1)
        await woken.after(lambda: os.rename(log, f"{log}.1"))
        await woken.after(lambda: old.write("to the old one\n"))
        await woken.after(lambda: append(log))
        await woken.after(lambda: append(log))
        await woken.after(lambda: old.write("to the old one\n"))
        old.close()
        await woken.after(log.unlink)
        await woken.after(lambda: append(log))
        await woken.after(lambda: os.truncate(log, 0))
        await woken.after(lambda: append(log))

    run([log], script)


def test_only_what_changed_wakes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"

    async def script(watch: Watch, woken: Woken) -> None:
        append(one)
        await woken.after(lambda: append(two))
        woken.count.clear()
        append(tmp_path / "another")
        await woken.after(lambda: append(two))
        assert set(woken.count) == {str(two)}

    run([one, two], script)


def test_many_writes_are_one_wake(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    append(log)

    async def script(watch: Watch, woken: Woken) -> None:
        with log.open("ab", buffering=0) as file:
            await woken.after(lambda: [file.write(b"line\n") for _ in range(1000)])
        assert woken.count[str(log)] <= 2  # one; a second for the close, were it watched

    run([log], script)


def test_overflow_wakes_all(tmp_path: Path) -> None:
    logs = [tmp_path / "one", tmp_path / "two"]
    for log in logs:
        append(log)

    async def script(watch: Watch, woken: Woken) -> None:
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        other = tmp_path / "other"

        def flood() -> None:
            for _ in range(limit // 2 + 100):
                other.touch()
                other.unlink()
            append(logs[1])  # its event is lost

        if limit > 200_000:
            pytest.skip(f"the queue takes {limit} events here")
        await woken.after(flood)
        while set(woken.count) != {str(log) for log in logs}:
            await asyncio.sleep(0.01)
        await woken.after(lambda: append(logs[0]))

    run(logs, script)


def test_a_link_wakes_for_the_real_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, log = tmp_path / "real" / "log", tmp_path / "mail.log"
    append(real)
    log.symlink_to(real)

    async def script(watch: Watch, woken: Woken) -> None:
        await woken.after(lambda: append(real))
        await woken.after(lambda: os.rename(real, f"{real}.1"))
        await woken.after(lambda: append(real))
        await woken.after(lambda: append(real))

    run([log], script)


def test_a_missing_folder_is_found_by_polling(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "mail.log"

    async def script(watch: Watch, woken: Woken) -> None:
        watch.poll()
        assert woken.count[str(log)] == 1
        log.parent.mkdir()
        watch.poll()
        await woken.after(lambda: append(log))
        os.rename(log.parent, tmp_path / "elsewhere")
        log.parent.mkdir()
        watch.poll()
        await woken.after(lambda: append(log))

    run([log], script)


def test_without_inotify_polling_wakes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "mail.log"

    async def script(_: Watch, __: Woken) -> None:
        woken = Woken()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            watch = Watch(asyncio.get_running_loop(), [str(log)], woken)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        watch.poll()
        assert woken.count[str(log)] == 1
        watch.close()

    run([log], script)
    assert capfd.readouterr().err == ""
