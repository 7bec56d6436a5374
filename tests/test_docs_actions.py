"""docs/actions.md under test: its configurations are read, its programs carry out real bans, its lists are read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from ipaddress import ip_network
from pathlib import Path

import pytest
from denyspam.actions.files import Files
from live import Live, until, viruses
from netns import CLIENTS4, CLIENTS6, SERVER4, SERVER6, Network

from denyspam.events import Ban, Target
from denyspam.plugins import load_action
from denyspam.settings import parse

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "actions.md").read_text(encoding="utf-8")
SENDER, OTHER = CLIENTS4[:2]
REST = "\n[log /var/log/mail.log]\n[policy]\nvirus = 5 in 15m -> ban 1h\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_configuration_is_one() -> None:
    found = [parse(text + REST, "actions.md") for text in blocks("ini")]
    for settings in found:
        if settings.action != "told":
            load_action(settings)
    assert {each.action for each in found} == {"nftables", "command", "files", "told"}
    assert {each.format for each in found if each.action == "files"} == {"postfix", "hosts", "rbldnsd", "nftables"}


@pytest.mark.root
def test_the_program(daemon: Live, network: Network) -> None:
    (program,) = (text for text in blocks("python") if "blackhole" in text)
    path = daemon.folder / "blackhole"
    path.write_text(program.replace("/usr/bin/python3", sys.executable))
    path.chmod(0o755)
    daemon.configure(action="command", command=str(path), policy="virus = 5 in 15m -> ban 3s\n")
    daemon.start()
    assert daemon.ask("ban", SENDER, CLIENTS6[0]).returncode == 0
    until(lambda: not network.connects(SERVER4, 25, SENDER, timeout=0.5), "no way back to the banned")
    until(lambda: not network.connects(SERVER6, 25, CLIENTS6[1], timeout=0.5), "nor to its /64")
    assert network.connects(SERVER4, 25, OTHER)

    def routes() -> set[str]:
        listed = network.server.check("ip", "route") + network.server.check("ip", "-6", "route")
        return {line.split()[1] for line in listed.splitlines() if line.startswith("blackhole")}

    daemon.write(viruses(OTHER, 5, time.time() + 2))
    until(lambda: OTHER in routes(), "the ban")
    until(lambda: OTHER not in routes(), "its end, by the program itself")
    children = Path(f"/proc/{daemon.process.pid}/task") if daemon.process else Path()
    (old,) = [pid for each in children.glob("*/children") for pid in each.read_text().split()]
    os.kill(int(old), signal.SIGKILL)
    network.server.check("ip", "route", "flush", "type", "blackhole")
    until(lambda: routes() == {SENDER, "2001:db8:0:1::/64"}, "started again, without an order, and told all")
    until(lambda: not daemon.json("status")["firewall"]["fault"], "no fault is left")
    assert daemon.ask("release", SENDER).returncode == 0
    until(lambda: routes() == {"2001:db8:0:1::/64"}, "the release")
    assert daemon.stop() == 0
    assert routes() == set()


@pytest.mark.root
def test_the_class(daemon: Live, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = daemon.folder / "told"
    folder.mkdir()
    (source,) = (text for text in blocks("python") if "class Told" in text)
    told = daemon.folder / "told.log"
    (folder / "told.py").write_text(source.replace("/var/log/denyspam-told.log", str(told)))
    (folder / "pyproject.toml").write_text(blocks("toml")[0])
    build = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)  # the entry point, as an installation makes it
    monkeypatch.setenv("PYTHONPATH", str(folder))
    daemon.configure(action="told")
    assert daemon.ask("check").returncode == 0
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    assert not network.connects(SERVER4, 25, SENDER)
    assert re.fullmatch(rf"{SENDER} until \d+ by virus\n", told.read_text())


@pytest.mark.root
def test_the_ruleset_that_includes_a_list(daemon: Live, network: Network) -> None:
    path = daemon.folder / "banned.nft"
    daemon.configure(action="files", format="nftables", list=str(path))
    daemon.start()
    assert daemon.ask("ban", SENDER, "2001:db8:0:1::/64").returncode == 0
    until(lambda: path.exists() and SENDER in path.read_text(), "the list")
    text = blocks("nft")[0].replace("/var/lib/denyspam/banned.nft", str(path))
    network.server.check("nft", "-f", "-", text=text)
    assert not network.connects(SERVER4, 25, SENDER)
    assert not network.connects(SERVER6, 25, CLIENTS6[1])
    assert network.connects(SERVER4, 25, OTHER)


@pytest.mark.skipif(shutil.which("tcpdmatch") is None, reason="tcpdmatch (Debian: tcpd) is missing")
def test_the_hosts_list(tmp_path: Path) -> None:
    path = tmp_path / "banned"
    action = Files(ports=(25,), format="hosts", path=str(path))
    action.start()
    networks = map(ip_network, ("203.0.113.9", "198.51.100.0/24", "2001:db8:bad:1::/64"))
    action.ban([Ban(Target(each, (25,)), "virus", 0, 3600, 5) for each in networks], 0)
    (rule,) = re.findall(r"`(sendmail : .*?)`", PAGE)
    (tmp_path / "hosts.deny").write_text(rule.replace("/var/lib/denyspam/banned", str(path)) + "\n")
    (tmp_path / "hosts.allow").write_text("")
    for address, access in (
        ("203.0.113.9", "denied"),
        ("203.0.113.10", "granted"),
        ("198.51.100.77", "denied"),
        ("2001:db8:bad:1::7", "denied"),
        ("2001:db8:bad:2::7", "granted"),
    ):
        done = subprocess.run(
            ["tcpdmatch", "-d", "sendmail", address], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert re.findall(r"access: +(\w+)", done.stdout) == [access], address


@pytest.mark.root
@pytest.mark.skipif(shutil.which("rbldnsd") is None, reason="rbldnsd is missing")
def test_the_dns_list(network: Network) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # rbldnsd reads as somebody else
        path = f"{folder}/banned"
        action = Files(ports=(25,), format="rbldnsd", path=path)
        action.start()
        action.ban([Ban(Target(ip_network("203.0.113.9"), (25,)), "virus", 0, 3600, 5)], 0)
        (words,) = re.findall(r"`(rbldnsd .*?)`", PAGE)
        program, *rest = words.replace("/var/lib/rbldns/banned", path).split()
        server = network.server.popen([program, "-u", "nobody", *rest])
        try:
            assert network.server.run(lambda: _answer("9.113.0.203.bl.example.org")) == ["127.0.0.2"]
        finally:
            server.kill()
            server.wait()


def _answer(name: str) -> list[str]:
    import dns.exception
    import dns.resolver

    asked = dns.resolver.Resolver(configure=False)
    asked.nameservers, asked.port = ["127.0.0.1"], 5353

    def answer() -> list[str]:
        try:
            return [str(each) for each in asked.resolve(name, "A", lifetime=2)]
        except dns.exception.DNSException:
            return []

    return until(answer, "an answer")  # type: ignore[no-any-return]
