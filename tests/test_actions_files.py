"""The actions that hand bans to others: a list in a file, and a program on a pipe."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from denyspam.actions import command as command_module
from denyspam.actions.command import Command
from denyspam.actions.files import FORMATS, Files
from netns import Network, inside
from test_actions import HOUR, NOW, ban, becomes, hosts, target

from denyspam.events import ActionError, Ban, Target

SOME = ["192.0.2.10", "198.51.100.0/24", "2001:db8:0:1::/64", "2001:db8::7"]


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


# Files


LISTS = {
    "hosts": ["192.0.2.10", "198.51.100.0/255.255.255.0", "[2001:db8::7]", "[2001:db8:0:1::]/64"],
    "postfix": [
        f"{each} REJECT 5.7.1 blocked for earlier offences"
        for each in ("192.0.2.10/32", "198.51.100.0/24", "2001:db8::7/128", "2001:db8:0:1::/64")
    ],
    "rbldnsd": [
        *("$DATASET ip4set @", ":127.0.0.2:blocked for earlier offences", "192.0.2.10/32", "198.51.100.0/24"),
        *("$DATASET ip6trie @", ":127.0.0.2:blocked for earlier offences", "2001:db8::7/128", "2001:db8:0:1::/64"),
    ],
    "nftables": [
        *("define denyspam_ipv4 = {", "0.0.0.0/32,", "192.0.2.10/32,", "198.51.100.0/24", "}"),
        *("define denyspam_ipv6 = {", "::/128,", "2001:db8::7/128,", "2001:db8:0:1::/64", "}"),
    ],
}


@pytest.mark.parametrize("format", FORMATS)
def test_what_stands_in_the_file(tmp_path: Path, format: str) -> None:
    clock = [0.0]
    path = tmp_path / "banned"
    firewall = Files(ports=(25,), path=str(path), format=format, clock=lambda: clock[0])
    firewall.start()
    firewall.ban([ban(each) for each in SOME], NOW)
    assert lines(path) == LISTS[format]
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert os.listdir(tmp_path) == ["banned"]
    clock[0] = 5
    firewall.release([target(each) for each in SOME[1:]])
    assert sum("192.0.2.10" in line for line in lines(path)) == 1
    assert not any("2001" in line or "198.51" in line for line in lines(path))


def _umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_a_ban_ends_when_it_is_tended(tmp_path: Path) -> None:
    clock = [100.0]
    path = tmp_path / "banned"
    firewall = Files(ports=(25,), path=str(path), format="hosts", clock=lambda: clock[0])
    firewall.start()
    firewall.ban([ban("192.0.2.10", 10), ban("192.0.2.11", 20)], NOW)
    first = path.stat().st_ino
    clock[0] = 109.0
    firewall.tend(NOW)
    assert path.stat().st_ino == first, "nothing has changed: nothing is written"
    clock[0] = 110.0
    firewall.tend(NOW)
    assert lines(path) == ["192.0.2.11"]
    assert firewall.holds(target("192.0.2.11")) and not firewall.holds(target("192.0.2.10"))
    clock[0] = 120.0
    firewall.tend(NOW)
    assert lines(path) == []


def test_a_burst_is_written_once_a_second(tmp_path: Path) -> None:
    clock = [100.0]
    path = tmp_path / "banned"
    firewall = Files(ports=(25,), path=str(path), format="hosts", clock=lambda: clock[0])
    firewall.start()
    for each in hosts(50):
        firewall.ban([ban(each)], NOW)
    assert len(lines(path)) == 1
    clock[0] = 101.0
    firewall.tend(NOW)
    assert len(lines(path)) == 50
    firewall.ban([ban("192.0.2.10")], NOW)
    firewall.stop(keep=True)
    assert len(lines(path)) == 51, "nothing waits behind a stop"


def test_the_old_list_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "banned"
    Files(ports=(25,), path=str(path), format="hosts").ban([ban("192.0.2.10")], NOW)
    second = Files(ports=(25,), path=str(path), format="hosts")
    assert second.start() == []
    assert lines(path) == ["192.0.2.10"]
    second.tend(NOW)
    assert lines(path) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "banned"
    firewall = Files(ports=(25,), path=str(path))
    firewall.start()
    with pytest.raises(ActionError, match="absent/banned cannot be written: No such file") as caught:
        firewall.ban([ban("192.0.2.10")], NOW)
    assert not caught.value.permanent
    path.parent.mkdir()
    firewall.tend(NOW)
    assert len(lines(path)) == 1


def test_words_that_are_none() -> None:
    with pytest.raises(ValueError, match="format 'bind': one of hosts, postfix, rbldnsd, nftables"):
        Files(ports=(25,), path="/tmp/x", format="bind")
    with pytest.raises(ValueError, match="from /"):
        Files(ports=(25,), path="banned")
    with pytest.raises(ValueError, match="no program"):
        Command(ports=(25,))


@pytest.mark.root
@inside
def test_nft_reads_its_list(network: Network) -> None:
    path = Path(f"/tmp/denyspam-{os.getpid()}.nft")
    try:
        for bans in [], [ban(each) for each in SOME]:
            firewall = Files(ports=(25,), path=str(path), format="nftables")
            firewall.start()
            firewall.ban(bans, NOW)
            firewall.stop(keep=True)
            text = f"""include "{path}"
                table inet x {{
                    set four {{ type ipv4_addr; flags interval; elements = $denyspam_ipv4; }}
                    set six {{ type ipv6_addr; flags interval; elements = $denyspam_ipv6; }}
                }}
            """
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        listed = subprocess.run(["nft", "list", "table", "inet", "x"], capture_output=True, text=True, check=True)
        assert all(each in listed.stdout for each in SOME)
    finally:
        path.unlink()


@pytest.mark.skipif(shutil.which("postmap") is None, reason="postmap is missing")
def test_postfix_reads_its_list(tmp_path: Path) -> None:
    path = tmp_path / "banned"
    firewall = Files(ports=(25,), path=str(path), format="postfix")
    firewall.start()
    firewall.ban([ban(each) for each in SOME], NOW)
    (tmp_path / "main.cf").write_text("mail_owner = daemon\nsetgid_group = mail\n")
    for address, hit in ("192.0.2.10", True), ("192.0.2.11", False), ("2001:db8:0:1::99", True), ("2001:db8::8", False):
        asked = ["postmap", "-c", str(tmp_path), "-q", address, f"cidr:{path}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.stdout.startswith("REJECT 5.7.1") == hit and not done.stderr


# A program


class Program:
    """A program that writes down what it reads, and its process id at its start."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.heard = folder / "heard"
        script = f"""if 1:
            import os, sys
            heard = open({str(self.heard)!r}, "a", buffering=1)
            print("born", os.getpid(), os.environ["DENYSPAM_PORTS"], file=heard)
            {more}
            for line in sys.stdin:
                print(line.strip(), file=heard)
            print("ended", file=heard)
        """
        self.words = [sys.executable, "-c", script]

    def said(self) -> list[str]:
        return self.heard.read_text().splitlines() if self.heard.exists() else []

    def born(self) -> list[int]:
        return [int(line.split()[1]) for line in self.said() if line.startswith("born")]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_the_program_is_told(program: Program) -> None:
    firewall = Command(ports=(25,), command=program.words)
    assert firewall.start() == []
    firewall.ban([ban(each, 99.5) for each in SOME], NOW)
    firewall.ban([ban(target("192.0.2.20", 465, 587)), ban("192.0.2.21", 0), ban("192.0.2.22", float("inf"))], NOW)
    firewall.release([target("192.0.2.10"), target("192.0.2.99"), target("192.0.2.20", 465, 587)])
    assert firewall.holds(target("2001:db8::7")) and not firewall.holds(target("192.0.2.10"))
    firewall.stop(keep=True)
    said = program.said()
    assert said[0].split()[2] == "25"
    assert said[1:] == [
        *(f"ban {each} 100" for each in SOME),
        "ban 192.0.2.20 3600 465,587",
        "ban 192.0.2.22 3153600000",
        "release 192.0.2.10",
        "release 192.0.2.99",
        "release 192.0.2.20 465,587",
        "ended",
    ]


def test_a_scope_id_is_not_a_line(program: Program) -> None:
    hostile = IPv6Network("2001:db8::/128")
    hostile.network_address = IPv6Address("2001:db8::%1\nban 0.0.0.0 9")
    firewall = Command(ports=(25,), command=program.words)
    firewall.ban([Ban(Target(hostile, (25,)), "manual", NOW, NOW + HOUR, 0)], NOW)
    firewall.stop(keep=True)
    assert program.said()[1:] == ["ban 2001:db8:: 3600", "ended"]


def test_stop_without_keep_releases(program: Program) -> None:
    firewall = Command(ports=(25,), command=program.words)
    firewall.ban([ban("192.0.2.10"), ban("192.0.2.11")], NOW)
    firewall.stop(keep=False)
    assert program.said()[3:] == ["release 192.0.2.10", "release 192.0.2.11", "ended"]


def test_one_that_was_killed_is_told_all_again(program: Program) -> None:
    clock = [1000.0]
    firewall = Command(ports=(25,), command=program.words, clock=lambda: clock[0])
    firewall.ban([ban("192.0.2.10", 500), ban("192.0.2.11", 30)], NOW)
    assert becomes(lambda: len(program.said()) == 3)
    clock[0] += 100
    kill(firewall)
    firewall.ban([ban("192.0.2.12")], NOW)
    firewall.stop(keep=True)
    assert len(program.born()) == 2
    assert program.said()[4:] == ["ban 192.0.2.10 400", "ban 192.0.2.12 3600", "ended"]


def kill(firewall: Command) -> None:
    assert firewall._program
    firewall._program.send_signal(signal.SIGKILL)
    firewall._program.wait()


def test_one_that_ends_again_and_again_is_left_alone(program: Program) -> None:
    clock = [1000.0]
    firewall = Command(ports=(25,), command=program.words, clock=lambda: clock[0])
    firewall.start()
    for wait in 1, 2, 4, 8, 16, 32, 60, 60:
        kill(firewall)
        with pytest.raises(ActionError, match=f"left alone for {wait} s before"):
            firewall.ban([ban("192.0.2.10")], NOW)
        clock[0] += wait - 0.5
        with pytest.raises(ActionError, match="it is left alone for"):
            firewall.ban([ban("192.0.2.10")], NOW)
        clock[0] += 0.5
        firewall.ban([ban("192.0.2.10", 1e6)], NOW)
    clock[0] += 11
    kill(firewall)
    firewall.ban([ban("192.0.2.11")], NOW)  # it had lived long enough
    firewall.stop(keep=True)


def test_one_that_cannot_be_started() -> None:
    firewall = Command(ports=(25,), command=["/nothing/here"])
    with pytest.raises(ActionError, match="/nothing/here cannot be started: No such file"):
        firewall.start()
    with pytest.raises(ActionError, match="it is left alone for"):
        firewall.start()
    firewall.stop(keep=False)


def test_one_that_closes_its_ears(tmp_path: Path) -> None:
    deaf = Program(tmp_path, "os.close(0); import time; time.sleep(600)")
    firewall = Command(ports=(25,), command=deaf.words)
    firewall.start()
    assert becomes(lambda: bool(deaf.born()) and not _open(deaf.born()[0], 0))
    with pytest.raises(ActionError, match="left alone for 1 s"):
        firewall.ban([ban("192.0.2.10")], NOW)
    assert all(not os.path.exists(f"/proc/{pid}") for pid in deaf.born())


def _open(pid: int, descriptor: int) -> bool:
    return os.path.exists(f"/proc/{pid}/fd/{descriptor}")


def test_one_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_module, "PATIENCE", 0.5)
    lazy = Program(tmp_path, "import time; time.sleep(600)")
    firewall = Command(ports=(25,), command=lazy.words)
    firewall.start()
    assert becomes(lambda: bool(lazy.born()))
    with pytest.raises(ActionError, match="did not read"):
        firewall.ban([ban(each) for each in hosts(10_000)], NOW)  # more than a pipe holds
    assert not os.path.exists(f"/proc/{lazy.born()[0]}")
    assert firewall.held() == [], "what was refused is not held"


def test_20000_at_once(program: Program) -> None:
    firewall = Command(ports=(25,), command=program.words)
    firewall.ban([ban(each) for each in hosts(20_000)], NOW)
    firewall.stop(keep=True)
    said = program.said()
    assert len(said) == 20_002 and said[-2].startswith("ban 10.0.78.31 ")
