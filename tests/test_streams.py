"""Real FIFOs, pipes and sockets; then a daemon that reads them, through a reload and a restart."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from live import Live, live, relay, until

from denyspam.lines import LIMIT
from denyspam.streams import PIECE, Fifo, Kept, Stream, Syslog
from denyspam.tail import Block

OFFENDER, OTHER = "203.0.113.9", "203.0.113.10"


def text(stream: Stream, now: float = 0.0) -> bytes:
    read = stream.read(now)  # type: ignore[attr-defined]
    return b"".join(block.data for block in read)


def history(stream: Stream) -> bytes:
    return b"".join(block.data for block in stream.history(lambda _: False))


# --- a FIFO -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    os.mkfifo(tmp_path / "fifo")
    made = Fifo(str(tmp_path / "fifo"), [].append)
    yield made
    made.close()


def test_writers_come_and_go(fifo: Fifo) -> None:
    assert text(fifo) == b""
    for number in range(3):
        with open(fifo.name, "w") as writer:
            writer.write(f"{number}\nhalf")
        assert text(fifo) == (b"0\n" if not number else b"half%d\n" % number)
    assert fifo.position() is None
    assert history(fifo) == b"0\nhalf1\nhalf2\n"
    assert fifo.fileno() >= 0


def test_without_leave_to_write_it_is_looked_at_until_somebody_comes(
    fifo: Fifo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: str, flags: int, *_: object) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return real(path, flags)

    real = os.open
    monkeypatch.setattr(os, "open", denied)
    reader = Fifo(fifo.name, [].append)
    fifo.close()
    assert (text(reader), reader.fileno()) == (b"", -1)
    writer = real(fifo.name, os.O_WRONLY)
    os.write(writer, b"one\nhalf")
    assert (text(reader), reader.fileno() >= 0) == (b"one\n", True)
    os.close(writer)
    assert (text(reader), reader.fileno()) == (b"half\n", -1)
    reader.close()


def test_a_fifo_made_anew(fifo: Fifo) -> None:
    os.unlink(fifo.name)
    assert (text(fifo, 10.0), fifo.present) == (b"", False)
    os.mkfifo(fifo.name)
    assert (text(fifo, 20.0), fifo.present) == (b"", True)
    with open(fifo.name, "w") as writer:
        writer.write("new\n")
    assert text(fifo, 20.1) == b"new\n"


def test_more_than_is_asked_for(fifo: Fifo) -> None:
    with open(fifo.name, "w") as writer:
        writer.write("a line\n" * 1000)
    assert fifo.read(0.0, 70) == [Block(fifo.name, fifo._buffer.offset - 70, 0, b"a line\n" * 10, *_arrival(fifo))]
    assert fifo.behind
    assert text(fifo) == b"a line\n" * 990
    assert not fifo.behind


def _arrival(fifo: Fifo) -> list[float | None]:
    return [block.arrived for block in fifo.history(lambda _: False)][:1]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_is_kept_is_bounded_and_the_newest() -> None:
    kept = Kept(limit=50_000)
    sizes = []
    for number in range(200):
        data = b"".join(b"%s %d\n" % (os.urandom(30).hex().encode(), number) for _ in range(40))
        kept.add(Block("f", number, 0, data), float(number))
        sizes.append(sum(len(piece) for piece, _ in kept._pieces) + len(kept._open))
    assert max(sizes) < 50_000 + 2 * PIECE
    assert not kept.whole
    found = list(kept.history("f", lambda _: False))
    numbers = [block.offset for block in found]
    assert numbers == list(range(numbers[0], 200))
    assert [block.arrived for block in found] == [float(number) for number in numbers]
    late = [block.offset for block in kept.history("f", lambda line: int(line.split()[1]) < 150)]
    assert late[-1] == 199
    assert numbers[0] <= late[0] < 150


def test_lines_that_are_alike_are_no_flood_of_memory_at_a_reload() -> None:
    kept = Kept(read=4 * PIECE)
    line = b"x" * 1000 + b"\n"  # becomes a hundredth
    for number in range(3_000):
        kept.add(Block("f", number, 0, line), 0.0)
    numbers = [block.offset for block in kept.history("f", lambda _: False)]
    assert numbers == list(range(numbers[0], 3_000))
    assert 3 * PIECE < len(numbers) * len(line) < 5 * PIECE
    assert not kept.whole


def test_nothing_is_kept_of_nothing() -> None:
    assert list(Kept().history("f", lambda _: True)) == []


# --- syslog -----------------------------------------------------------------------------------------------------------

LINE = b"Mar  4 10:00:00 mx exim[7]: "


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Syslog]:
    made = Syslog("syslog unix", str(tmp_path / "deep" / "log"), [].append)
    made.configure(None, ())
    yield made
    made.close()


def sender(unix: Syslog) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.connect(str(unix._place))
    return made


def test_datagrams_are_lines(unix: Syslog) -> None:
    with sender(unix) as peer:
        for number in range(3):
            peer.send(b"<22>" + LINE + b"%d" % number)
        peer.send(b"")
        peer.send(b"<22>" + LINE + b"a\nb\n")
    assert text(unix) == b"".join(LINE + each + b"\n" for each in (b"0", b"1", b"2", b"a#012b"))
    assert history(unix).count(b"\n") == 4
    assert text(unix) == b""


def test_too_long_is_dropped_and_counted(unix: Syslog) -> None:
    with sender(unix) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.send(b"<22>" + LINE + b"x" * LIMIT)
        peer.send(b"<22>" + LINE + b"short")
    assert text(unix) == LINE + b"short\n"
    assert unix.overlong == 1


def test_its_mode_a_killed_ones_rest_and_another_ones_socket(unix: Syslog, tmp_path: Path) -> None:
    place = str(unix._place)
    assert os.stat(place).st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="another program reads there"):
        Syslog("second", place, [].append)
    unix._socket.close()  # as after kill -9: the name is left
    again = Syslog("again", place, [].append)
    again.configure("root", ())
    assert os.stat(place).st_mode & 0o777 == 0o660
    again.close()
    assert not os.path.exists(place)
    Path(place).write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        Syslog("third", place, [].append)
    assert Path(place).read_text() == "mine"


def test_a_name_that_somebody_removed_is_made_again(unix: Syslog) -> None:
    os.unlink(str(unix._place))
    assert text(unix, 10.0) == b""
    with sender(unix) as peer:
        peer.send(LINE + b"x")
    assert text(unix, 10.1) == LINE + b"x\n"


def udp(*peers: str) -> tuple[Syslog, socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Syslog("syslog udp", ("127.0.0.1", port), [].append)
    made.configure(None, tuple(map(ip_network, peers)))
    writer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    writer.connect(("127.0.0.1", port))
    return made, writer


def test_udp_is_for_those_named() -> None:
    made, writer = udp("127.0.0.2/32", "2001:db8::/32")
    with writer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        writer.send(LINE + b"a stranger's")
        other.sendto(b"<22>exim[7]: known", writer.getpeername())
        line = until(lambda: text(made), "the datagram")
    assert line.endswith(b" 127.0.0.2 exim[7]: known\n")
    assert (made.strangers, made.facts()["strangers"]) == (1, 1)
    made.close()


def test_what_the_kernel_dropped_is_counted() -> None:
    notes: list[str] = []
    made, writer = udp()
    made.note = notes.append
    made._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with writer:
        for _ in range(200):
            writer.send(LINE + b"x" * 500)
        got = text(made).count(b"\n")
        writer.send(LINE + b"after")  # it is told with the next one
        assert until(lambda: text(made), "the next") == LINE + b"after\n"
    assert 0 < got < 200
    assert made.facts()["dropped"] == made.dropped == 200 - got
    assert len(notes) == 1
    made.close()


# --- the daemon -------------------------------------------------------------------------------------------------------


def configure(daemon: Live, section: str, keys: str = "filters = postfix\ntimezone = UTC\n") -> None:
    daemon.configure(mode="watch", log=keys)
    daemon.conf.write_text(daemon.conf.read_text().replace(f"[log {daemon.log}]", f"[{section}]"))


def offences(address: str, count: int) -> list[str]:
    return [relay(address, time.time()) + f" {os.urandom(4).hex()}" for _ in range(count)]


def counted(daemon: Live, count: int) -> None:
    until(lambda: daemon.json("status")["events"] == {"relay": {"postfix": count}}, f"{count} events")


def reload(daemon: Live) -> None:
    assert daemon.process
    before = daemon.errors.read_text().count(": ready:")
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.errors.read_text().count(": ready:") > before, "the reload")


def test_a_fifo_keeps_its_counts_over_a_reload_and_its_bans_over_a_restart(tmp_path: Path) -> None:
    with live(tmp_path) as daemon:
        os.mkfifo(daemon.log)
        configure(daemon, f"log {daemon.log}")
        daemon.start()
        daemon.write(offences(OFFENDER, 3))
        counted(daemon, 3)
        reload(daemon)
        daemon.write(offences(OFFENDER, 2))
        until(lambda: daemon.banned() == [OFFENDER], "the ban")
        before = daemon.json("list")
        reload(daemon)  # its hits are behind it: one more does not ban again
        daemon.write(offences(OFFENDER, 1) + offences(OTHER, 4))
        counted(daemon, 5)
        assert daemon.json("list") == before
        log = daemon.json("status")["logs"][str(daemon.log)]
        assert (log["again"], log["present"]) == (False, True)
        assert "counts begin anew at a restart" in daemon.ask("status").stdout
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert daemon.json("list") == before
        daemon.write(offences(OTHER, 1))
        counted(daemon, 1)
        assert daemon.json("list") == before


def test_a_socket_loses_nothing_over_a_reload(tmp_path: Path) -> None:
    """Datagrams sent while it reloads wait in the socket, which stays open."""
    place = tmp_path / "log"
    with live(tmp_path) as daemon, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        configure(daemon, f"syslog {place}", "filters = postfix\n")
        daemon.start()
        peer.connect(str(place))
        for line in offences(OFFENDER, 3):
            peer.send(b"<22>" + line.encode())
        counted(daemon, 3)
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        sent = 0
        deadline = time.monotonic() + 60
        while daemon.errors.read_text().count(": ready:") < 2 and time.monotonic() < deadline:
            peer.send(b"<22>" + offences(OTHER, 1)[0].encode())
            sent += 1
            time.sleep(0.05)
        peer.send(b"<22>" + offences(OFFENDER, 1)[0].encode())
        peer.send(b"<22>" + offences(OFFENDER, 1)[0].encode())
        until(lambda: OFFENDER in daemon.banned(), "the ban")
        why = daemon.json("why", OTHER)
        held = {"counts": [each["hits"] for each in why["counts"] if each["policy"] == "relay"], "bans": why["bans"]}
        assert held["bans"] or held["counts"] == [sent], (held, sent)
        daemon.stop()
        assert not place.exists()


def test_a_reload_that_changes_a_socket_and_one_that_cannot_have_it(tmp_path: Path) -> None:
    place, taken = tmp_path / "log", tmp_path / "taken"
    with live(tmp_path) as daemon, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(taken))
        configure(daemon, f"syslog {place}", "filters = postfix\n")
        daemon.start()
        good = daemon.conf.read_text()
        daemon.conf.write_text(good.replace(f"[syslog {place}]", f"[syslog {taken}]"))
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "not reloaded, going on as before" in daemon.errors.read_text(), "the refusal")
        said = daemon.errors.read_text()
        assert "another program reads there" in said
        assert f"{daemon.conf}:" in said
        daemon.conf.write_text(good.replace("filters = postfix\n", "filters = postfix\ngroup = root\n"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.connect(str(place))
            reload(daemon)
            assert os.stat(place).st_mode & 0o777 == 0o660
            for line in offences(OFFENDER, 5):
                peer.send(line.encode())
        until(lambda: daemon.banned() == [OFFENDER], "the ban")
        daemon.conf.write_text(good.replace(f"[syslog {place}]", f"[log {daemon.log}]"))
        reload(daemon)
        assert not place.exists()


def opened(folder: str) -> list[str]:
    """What a process has open, without the numbers of sockets and pipes."""
    found = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"{folder}/{name}").partition(":[")[0])
    return sorted(found)


def test_many_hangups_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    """Unix socket, UDP, FIFO and a file at once, while SIGHUPs come: each line counts once, no descriptor is left."""
    fifo, place = tmp_path / "fifo", tmp_path / "log"
    os.mkfifo(fifo)
    with live(tmp_path) as daemon, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        daemon.write([])
        free, peer = udp()
        port = peer.getpeername()[1]
        free.close()
        sections = (f"log {daemon.log}", f"log {fifo}", f"syslog {place}", f"syslog 127.0.0.1:{port}")
        keys = {"state": tmp_path / "state", "socket": tmp_path / "sock", "mode": "watch"}
        daemon.conf.write_text(
            "[daemon]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
            + "".join(f"[{section}]\nfilters = postfix\n" for section in sections)
            + "[policy]\nrelay = 10000 in 1d -> ban 1h\n"
        )  # fmt: skip
        daemon.start()
        assert daemon.process
        descriptors = f"/proc/{daemon.process.pid}/fd"
        unix.connect(str(place))
        sent = 0
        with peer, fifo.open("w") as writer:
            before = opened(descriptors)
            deadline = time.monotonic() + 60
            while daemon.errors.read_text().count(": ready:") < 4 and time.monotonic() < deadline:
                lines = offences(OFFENDER, 4)
                unix.send(lines[0].encode())
                peer.send(lines[1].encode())
                writer.write(f"{lines[2]}\n")
                writer.flush()
                daemon.write(lines[3:])
                sent += 4
                daemon.process.send_signal(signal.SIGHUP)
                time.sleep(0.02)

            def hits() -> bool:
                answer = daemon.ask("why", OFFENDER, "--json").stdout
                return bool(answer) and [each["hits"] for each in json.loads(answer)["counts"]] == [sent]

            until(hits, f"{sent} lines counted")
            until(lambda: opened(descriptors) == before, f"no descriptor left open: {opened(descriptors)}, {before}")


def test_lines_piped_into_run(tmp_path: Path) -> None:
    """`tail -F ... | denyspam run`: it ends with its input, and the bans are in the ledger."""
    with live(tmp_path) as daemon:
        configure(daemon, "log -")
        daemon.process = subprocess.Popen(
            daemon.command("run"), stdin=subprocess.PIPE, stderr=daemon.errors.open("ab"), text=True, bufsize=0
        )
        until(lambda: daemon.ask("status").returncode == 0, "ready")
        assert daemon.process.stdin
        daemon.process.stdin.write("".join(f"{line}\n" for line in offences(OFFENDER, 3)))
        counted(daemon, 3)
        reload(daemon)
        daemon.process.stdin.write("".join(f"{line}\n" for line in offences(OFFENDER, 2)))
        until(lambda: daemon.banned() == [OFFENDER], "the ban")
        daemon.process.stdin.close()
        assert daemon.process.wait(60) == 0
        daemon.process = None
        assert "stdin is at its end" in daemon.errors.read_text()
        lines = "".join(f"{line}\n" for line in offences(OTHER, 5)).encode()
        for given in (lines, b""):  # a file, and an empty one: read to the end, whatever it is
            (tmp_path / "given").write_bytes(given)
            with (tmp_path / "given").open("rb") as stdin:
                done = subprocess.run(daemon.command("run"), stdin=stdin, capture_output=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
            assert done.stderr.count(b"banned " + OTHER.encode()) == (given != b"")
        with suppress(FileNotFoundError):
            os.unlink(tmp_path / "given")
