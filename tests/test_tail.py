"""tail: real files, rotated and truncated in every way that is used, give every line exactly once and in order."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denyspam.tail import CHUNK, CLOSED, Block, Position, Tail

LONG = "x" * 300  # longer than what is hashed at a file's start


def lines(start: int, stop: int, pad: str = "") -> str:
    return "".join(f"line {number} {pad}\n" for number in range(start, stop))


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def numbers(blocks: list[Block]) -> list[int]:
    for block in blocks:
        assert block.data.endswith(b"\n")
    return [int(line.split()[1]) for block in blocks for line in block.data.splitlines()]


class Reader:
    """A tail and what it said, with a clock of its own."""

    def __init__(self, path: Path, saved: str | None = None, *, from_start: bool = True) -> None:
        self.notes: list[str] = []
        self.now = 0.0
        position = None if saved is None else Position.parse(saved)
        self.tail = Tail(str(path), position, from_start=from_start, note=self.notes.append)

    def read(self, limit: int = CHUNK) -> list[int]:
        blocks = self.tail.read(self.now, limit)
        while self.tail.behind:
            blocks += self.tail.read(self.now, limit)
        return numbers(blocks)

    def stop(self) -> str:
        saved = self.tail.position().text()
        self.tail.close()
        return saved

    def history(self, enough: int = -1) -> list[int]:
        return numbers(list(self.tail.history(lambda line: int(line.split()[1]) <= enough, step=64)))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "mail.log"


def rename(log: Path, count: int = 9) -> None:
    """As logrotate does: log.2 to log.3, log.1 to log.2, log to log.1, compressed or not."""
    for number in range(count, -1, -1):
        for suffix in ("", ".gz", ".bz2", ".xz", ".zst"):
            name = f"{log}.{number}{suffix}" if number else str(log)
            if (number or not suffix) and os.path.exists(name):
                os.rename(name, f"{log}.{number + 1}{suffix}")


def copytruncate(log: Path) -> None:
    rename_others = log.with_name(log.name + ".hold")
    os.rename(log, rename_others)
    rename(log)
    os.rename(rename_others, log)
    shutil.copyfile(log, f"{log}.1")
    os.truncate(log, 0)


def compress(path: str, suffix: str = ".gz") -> None:
    data = Path(path).read_bytes()
    if suffix == ".zst":
        packed = pytest.importorskip("zstandard").compress(data)
    else:
        packed = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(data)
    Path(path + suffix).write_bytes(packed)
    status = os.stat(path)
    os.utime(path + suffix, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.unlink(path)


# -- reading


def test_a_growing_file(log: Path) -> None:
    append(log, lines(0, 3) + "line 3")
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    assert reader.read() == []
    append(log, " \nline 4 \n")
    blocks = reader.tail.read(0.0)
    assert [Block(str(log), len(lines(0, 3)), 4, b"line 3 \nline 4 \n")] == blocks
    assert reader.read() == []


def test_the_limit_bounds_a_read(log: Path) -> None:
    append(log, lines(0, 1000))
    reader = Reader(log)
    first = reader.tail.read(0.0, 100)
    assert sum(len(block.data) for block in first) <= 100
    assert reader.tail.behind
    assert list(range(1000)) == numbers(first) + reader.read(100)


def test_first_start_is_the_end_of_the_log(log: Path) -> None:
    append(log, lines(0, 3) + "line 3 half")
    reader = Reader(log, from_start=False)
    assert reader.read() == []
    append(log, " a line\nline 4\n")
    assert reader.read() == [3, 4]  # a line that was half there is read whole, never its second half


def test_a_log_that_appears_later_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "mail.log"
    reader = Reader(log, from_start=False)
    assert [] == reader.read() == reader.read()
    assert len(reader.notes) == 1
    saved = reader.stop()
    log.parent.mkdir()
    append(log, lines(0, 2))
    reader = Reader(log, saved, from_start=False)
    assert reader.read() == [0, 1]


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_cannot_be_a_log(log: Path, kind: str) -> None:
    log.mkdir() if kind == "folder" else os.mkfifo(log)
    with pytest.raises(OSError, match=str(log)) as caught:
        Tail(str(log), None, from_start=True)
    assert ("folder" if kind == "folder" else "FIFO") in str(caught.value)


def test_a_fifo_in_the_place_of_the_log_holds_nothing_up(log: Path) -> None:
    append(log, lines(0, 1))
    reader = Reader(log)
    assert reader.read() == [0]
    log.unlink()
    os.mkfifo(log)
    assert [] == reader.read() == reader.notes
    reader.now += CLOSED
    assert [] == reader.read() == reader.read()
    assert len(reader.notes) == 1
    log.unlink()
    append(log, lines(1, 2))
    assert reader.read() == [1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_not_permitted(log: Path) -> None:
    append(log, lines(0, 1))
    log.chmod(0)
    with pytest.raises(PermissionError, match=str(log)):
        Tail(str(log), None, from_start=True)


def test_binary_and_overlong_lines(log: Path) -> None:
    log.write_bytes(b"\x00\xff\xfe 1\r\n" + b"y" * 70000 + b"\nz\n")
    tail = Tail(str(log), None, from_start=True)
    assert [block.data for block in tail.read(0.0)] == [b"\x00\xff\xfe 1\r\n", b"z\n"]
    assert tail.overlong == 1


# -- rotation while running


def test_rename_and_create(log: Path) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    with log.open("a") as writer:
        writer.write(lines(3, 5))
        writer.flush()
        rename(log)
        append(log, lines(10, 12))
        assert reader.read() == [3, 4, 10, 11]
        writer.write(lines(5, 7))  # not yet told of the rotation
        writer.flush()
        assert reader.read() == [5, 6]
        append(log, lines(12, 13))
        reader.now = CLOSED - 0.1
        assert reader.read() == [12]
        writer.write(lines(7, 8))
        writer.flush()
        assert reader.read() == [7]
    assert len(reader.tail.position().marks) == 2
    reader.now += CLOSED + 1
    assert reader.read() == []
    assert len(reader.tail.position().marks) == 1
    assert (reader.tail.rotations, reader.tail.lost, reader.notes) == (1, 0, [])


def test_the_path_is_missing_for_a_while(log: Path) -> None:
    append(log, lines(0, 2))
    reader = Reader(log)
    assert reader.read() == [0, 1]
    with log.open("a") as writer:
        os.rename(log, f"{log}.1")
        writer.write(lines(2, 4))
        writer.flush()
        assert reader.read() == [2, 3]
        assert not reader.tail.present
        append(log, lines(4, 5))
        assert reader.read() == [4]
        assert reader.tail.present


def test_unfinished_line_of_a_rotated_file(log: Path) -> None:
    append(log, lines(0, 2) + "line 2")
    reader = Reader(log)
    rename(log)
    append(log, lines(3, 4))
    assert reader.read() == [0, 1, 3]
    reader.now = CLOSED + 1
    assert reader.read() == [2]


def test_several_rotations_between_two_reads(log: Path) -> None:
    append(log, lines(0, 2))
    reader = Reader(log)
    assert reader.read() == [0, 1]
    append(log, lines(2, 4))
    for start in range(4, 20, 2):
        rename(log, 12)
        append(log, lines(start, start + 2))
    assert list(range(2, 20)) == reader.read()
    assert len(reader.tail._sources) == 3  # the current one and at most two old ones


def test_rotated_and_compressed_between_two_reads(log: Path) -> None:
    append(log, lines(0, 2, LONG))
    reader = Reader(log)
    assert reader.read() == [0, 1]
    append(log, lines(2, 4, LONG))
    rename(log)
    compress(f"{log}.1")
    append(log, lines(4, 6, LONG))
    rename(log)
    append(log, lines(6, 8, LONG))
    assert reader.read() == [2, 3, 4, 5, 6, 7]


def test_deleted_while_open(log: Path) -> None:
    append(log, lines(0, 2))
    reader = Reader(log)
    assert reader.read() == [0, 1]
    with log.open("a") as writer:
        log.unlink()
        writer.write(lines(2, 3))
    append(log, lines(3, 4))
    assert reader.read() == [2, 3]
    assert reader.notes == []


def test_the_folder_disappears_and_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "mail.log"
    log.parent.mkdir()
    append(log, lines(0, 2))
    reader = Reader(log)
    assert reader.read() == [0, 1]
    shutil.rmtree(log.parent)
    assert reader.read() == []
    log.parent.mkdir()
    append(log, lines(2, 4))
    assert reader.read() == [2, 3]


def test_a_link_that_is_turned(log: Path, tmp_path: Path) -> None:
    append(tmp_path / "monday", lines(0, 2))
    append(tmp_path / "tuesday", lines(3, 4))
    log.symlink_to("monday")
    reader = Reader(log)
    assert reader.read() == [0, 1]
    append(tmp_path / "monday", lines(2, 3))
    (tmp_path / "new").symlink_to("tuesday")
    os.rename(tmp_path / "new", log)
    assert reader.read() == [2, 3]


@pytest.mark.parametrize("pad", ["", LONG])
def test_copytruncate(log: Path, pad: str) -> None:
    append(log, lines(0, 3, pad))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    append(log, lines(3, 5, pad))
    copytruncate(log)
    append(log, lines(5, 6, pad))
    assert reader.read() == [3, 4, 5]
    copytruncate(log)
    append(log, lines(6, 60, pad))  # larger than what was read: only the bytes tell
    assert list(range(6, 60)) == reader.read()
    assert (reader.tail.lost, reader.notes) == (0, [])


def test_truncated_without_a_copy(log: Path) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    os.truncate(log, 0)
    append(log, lines(3, 4))
    assert reader.read() == [3]
    assert 1 == reader.tail.lost == len(reader.notes)
    log.write_text(lines(4, 5))  # truncated and filled to the same size
    os.utime(log, ns=(0, 0))
    assert reader.read() == [4]


def test_a_copy_under_way_is_not_read(log: Path) -> None:
    append(log, lines(0, 5, LONG))
    reader = Reader(log)
    assert list(range(5)) == reader.read()
    rename(log)
    append(log, lines(5, 10, LONG))
    saved = reader.stop()
    rename(log)
    shutil.copyfile(f"{log}.1", log)
    os.rename(log, f"{log}.hold")
    rename(log)
    os.rename(f"{log}.2", log)  # log, and log.1, a copy of it, as between the two steps of copytruncate
    os.rename(f"{log}.hold", f"{log}.1")
    reader = Reader(log, saved)
    assert list(range(5, 10)) == reader.read()


# -- going on after a stop


def test_position_is_that_of_the_last_whole_line(log: Path) -> None:
    append(log, lines(0, 3) + "line 3")
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    saved = reader.stop()
    append(log, "\nline 4\n")
    reader = Reader(log, saved)
    blocks = reader.tail.read(0.0)
    assert [Block(str(log), len(lines(0, 3)), 4, b"line 3\nline 4\n")] == blocks


@pytest.mark.parametrize("pad", ["", LONG])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("rotate", [rename, copytruncate])
def test_rotated_while_stopped(log: Path, suffix: str, rotate: object, pad: str) -> None:
    append(log, lines(0, 3, pad))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    saved = reader.stop()
    append(log, lines(3, 5, pad))
    for start in (5, 7, 9):
        rotate(log)  # type: ignore[operator]
        append(log, lines(start, start + 2, pad))
        if suffix and os.path.exists(f"{log}.2"):
            compress(f"{log}.2", suffix)
    reader = Reader(log, saved)
    assert list(range(3)) == reader.history()
    assert list(range(3, 11)) == reader.read(50)
    assert reader.notes == []
    reader = Reader(log, reader.stop())
    assert reader.read() == []
    assert list(range(11)) == reader.history()


@pytest.mark.parametrize("name", ["mail.log-20261121", "mail-20261121.log", "mail.log.old", "renamed-by-hand"])
def test_names_of_predecessors(log: Path, name: str) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    saved = reader.stop()
    append(log, lines(3, 5))
    os.rename(log, log.with_name(name))
    append(log, lines(5, 6))
    assert Reader(log, saved).read() == [3, 4, 5]


def test_the_inode_number_is_used_again(log: Path) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    saved = reader.stop()
    append(log, lines(3, 5))
    shutil.copyfile(log, f"{log}.1")
    log.write_text(lines(5, 50))  # the same inode, larger, other text
    assert list(range(3, 50)) == Reader(log, saved).read()


def test_another_device_number_after_a_reboot(log: Path) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    device = os.stat(log).st_dev
    saved = reader.stop().replace(f"[[{device},", f"[[{device + 1},")
    append(log, lines(3, 4))
    assert Reader(log, saved).read() == [3]


def test_nothing_found_is_said_once(log: Path) -> None:
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    saved = reader.stop()
    log.write_text(lines(7, 9))
    reader = Reader(log, saved)
    assert reader.read() == [7, 8]
    assert 1 == reader.tail.lost == len(reader.notes)


def test_rotated_while_nothing_was_read_from_it(log: Path) -> None:
    """The position is in the file before, as long as the current one is empty: an empty file has no hash."""
    append(log, lines(0, 3))
    reader = Reader(log)
    assert reader.read() == [0, 1, 2]
    rename(log)
    append(log, "")
    reader.now = CLOSED + 1
    assert reader.read() == []
    reader.now += CLOSED + 1
    assert reader.read() == []
    assert len(reader.tail._sources) == 1
    saved = reader.stop()
    append(log, lines(3, 5))
    rename(log)
    compress(f"{log}.1")
    append(log, lines(5, 6))
    assert Reader(log, saved).read() == [3, 4, 5]


def test_stopped_while_two_files_are_read(log: Path) -> None:
    append(log, lines(0, 2))
    reader = Reader(log)
    with log.open("a") as writer:
        rename(log)
        append(log, lines(2, 4))
        assert reader.read() == [0, 1, 2, 3]
        saved = reader.stop()
        writer.write(lines(8, 9))
    append(log, lines(4, 5))
    assert Reader(log, saved).read() == [8, 4]


def test_a_broken_predecessor_is_said(log: Path) -> None:
    append(log, lines(0, 2000))
    reader = Reader(log)
    reader.tail.read(0.0, 100)
    saved = reader.stop()
    rename(log)
    compress(f"{log}.1")
    packed = Path(f"{log}.1.gz").read_bytes()
    Path(f"{log}.1.gz").write_bytes(packed[: len(packed) // 2])
    append(log, lines(5000, 5001))
    reader = Reader(log, saved)
    found = reader.read()
    assert found[-1] == 5000
    assert len(reader.notes) == 1


@pytest.mark.parametrize("text", ["", "x", "[1]", "[[1]]", "{}x", "null", "3"])
def test_not_a_position(text: str) -> None:
    with pytest.raises(ValueError):
        Position.parse(text)


# -- history


def test_history_stops_where_it_is_old_enough(log: Path) -> None:
    append(log, lines(0, 100))
    reader = Reader(log)
    assert list(range(100)) == reader.read()
    saved = reader.stop()
    append(log, lines(100, 120))
    for enough in (-1, 0, 1, 50, 98, 99, 500):
        got = Reader(log, saved).history(enough)
        assert list(range(got[0], 100)) == got
        assert got[0] <= max(0, enough)


def test_history_over_predecessors_has_the_offsets_of_the_live_reading(log: Path) -> None:
    live: list[tuple[int, bytes]] = []
    reader = Reader(log)
    for day in range(6):
        rename(log)
        append(log, lines(day * 50, day * 50 + 50, LONG))
        live += [
            (b.offset + b.data.find(line), line) for b in reader.tail.read(0.0) for line in b.data.splitlines(True)
        ]
        reader.now += CLOSED + 1
    saved = reader.stop()
    for number, suffix in ((3, ".gz"), (4, ".zst"), (5, ".xz")):
        compress(f"{log}.{number}", suffix)
    append(log, lines(300, 310))
    reader = Reader(log, saved)
    again = [
        (b.offset + b.data.find(line), line)
        for b in reader.tail.history(lambda line: int(line.split()[1]) <= 120)
        for line in b.data.splitlines(True)
    ]
    assert live[-len(again) :] == again
    assert int(again[0][1].split()[1]) == 100  # 120 stands in the third file: from its beginning, for it is compressed
    assert list(range(300, 310)) == reader.read()


def test_history_at_the_first_start(log: Path) -> None:
    append(log, lines(0, 5))
    rename(log)
    append(log, lines(5, 8))
    reader = Reader(log, from_start=False)
    assert list(range(8)) == reader.history()
    assert reader.read() == []


# -- all at once

WRITER = """
import os, shutil, sys, gzip, random
log, mode, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
def shift():
    for n in range(60, 0, -1):
        for suffix in ("", ".gz"):
            if os.path.exists(f"{log}.{n}{suffix}"):
                os.rename(f"{log}.{n}{suffix}", f"{log}.{n + 1}{suffix}")
def pack(path):
    if os.path.exists(path):
        with open(path, "rb") as plain, open(path + ".gz", "wb") as packed:
            with gzip.GzipFile("", "wb", 1, packed) as z:
                shutil.copyfileobj(plain, z)
        status = os.stat(path)
        os.utime(path + ".gz", ns=(status.st_atime_ns, status.st_mtime_ns))
        os.unlink(path)
out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
number = 1  # the reader has begun with line 0
def write(lines):
    global number
    for _ in range(lines):
        text = b"line %d %s\\n" % (number, b"x" * rng.randrange(200))
        cut = rng.randrange(len(text)) if rng.random() < 0.1 else 0
        if cut:
            os.write(out, text[:cut])
        os.write(out, text[cut:])
        number += 1
while number < count:
    write(rng.randrange(count // 20))
    shift()
    if mode == "rename":
        os.rename(log, log + ".1")
        write(rng.randrange(100))          # not yet told
        fresh = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        write(rng.randrange(100))
        os.close(out)
        out = fresh
    else:
        shutil.copyfile(log, log + ".1")
        os.truncate(log, 0)
    pack(log + ".2")
print(number)
"""


@pytest.mark.parametrize("mode", ["rename", "copytruncate"])
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(log: Path, mode: str, seed: int) -> None:
    """A writer at full rate that rotates and compresses; a reader that dies between reading and committing."""
    choose = random.Random(seed)
    append(log, lines(0, 1))
    reader = Reader(log)
    committed = reader.read()
    saved = reader.stop()
    command = [sys.executable, "-c", WRITER, str(log), mode, "100000", str(seed)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        restarts = 0
        ended = False
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            alive = writer.poll() is None
            reader = Reader(log, saved)
            restarts += 1
            got: list[int] = []
            quiet = False
            for _ in range(choose.randrange(1, 200)):
                blocks = reader.tail.read(0.0, choose.choice([1000, 20000, CHUNK]))
                got += numbers(blocks)
                quiet = not blocks and not reader.tail.behind
                if choose.random() < 0.05:
                    committed += got
                    got = []
                    saved = reader.tail.position().text()
            reader.tail.close()
            assert reader.tail.lost == 0
            ended = not alive and quiet and not got
            if ended:
                break
        assert ended
        assert writer.stdout is not None
        assert list(range(int(writer.stdout.read()))) == committed
        assert restarts > 3
    finally:
        writer.kill()
        writer.wait()
        if writer.stdout is not None:
            writer.stdout.close()


def test_a_log_that_was_never_there_is_found_when_it_was_rotated_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    position = Tail(str(path), None, from_start=False).position()
    path.write_bytes(b"one\n")
    path.rename(tmp_path / "mail.log.1")
    path.write_bytes(b"two\n")
    again = Tail(str(path), Position.parse(position.text()), from_start=False)
    assert b"".join(block.data for block in again.read(0)) == b"one\ntwo\n"


def test_what_was_rotated_before_the_very_first_start_is_old(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    (tmp_path / "mail.log.2.gz").write_bytes(gzip.compress(b"older\n"))
    (tmp_path / "mail.log.1").write_bytes(b"old\n")
    first = Tail(str(path), None, from_start=False)
    position = first.position()
    for tail in (first, Tail(str(path), Position.parse(position.text()), from_start=False)):
        path.write_bytes(b"new\n")
        assert b"".join(block.data for block in tail.read(0)) == b"new\n"
    assert [block.data for block in Tail(str(path), position, from_start=False).history(lambda _: False)]
