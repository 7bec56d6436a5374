"""The action on iptables beside others' rules, and what it says where it cannot work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from denyspam.actions import iptables as module
from denyspam.actions.iptables import Iptables
from netns import CLIENTS4, SERVER4, Network, inside
from test_actions import HOUR, NOW, ban, hosts, legacy, target, targets

from denyspam.events import ActionError, SettingsError
from denyspam.plugins import load_action
from denyspam.settings import parse

pytestmark = pytest.mark.root


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rules() -> list[str]:
    return [line for line in run("iptables-legacy", "-S").splitlines() if line.startswith("-A")]


@inside
def test_the_rules_of_others_stay_and_ours_come_first(network: Network) -> None:
    firewall = legacy(ports=(25,), hooks=("input", "output"))
    run("iptables-legacy", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "25", "-j", "ACCEPT")
    before = rules()
    firewall.start()
    assert rules()[0] == "-A INPUT -j denyspam-in" and set(before) < set(rules())
    firewall.ban([ban(CLIENTS4[0])], NOW)
    assert not network.connects(SERVER4, 25, CLIENTS4[0])
    run("iptables-legacy", "-I", "INPUT", "-p", "tcp", "--dport", "25", "-j", "ACCEPT")
    assert rules()[0] != "-A INPUT -j denyspam-in"
    firewall.start()
    assert rules()[0] == "-A INPUT -j denyspam-in"
    assert not network.connects(SERVER4, 25, CLIENTS4[0]), "first again"
    assert sum("-j denyspam-in" in each for each in rules()) == 1
    run("iptables-legacy", "-D", "INPUT", "-p", "tcp", "--dport", "25", "-j", "ACCEPT")
    Iptables(ports=(25,)).start()
    assert not any("denyspam-out" in each for each in rules()), "a hook that is no longer asked for"
    firewall.stop(keep=False)
    assert rules() == before
    assert run("ipset", "list", "-n") == ""


@inside
def test_only_the_filter_table_is_touched(network: Network) -> None:
    firewall = legacy(ports=(25,))
    firewall.start()
    firewall.counters()
    with open("/proc/net/ip_tables_names", encoding="ascii") as names:
        assert names.read() == "filter\n", "the nat table would start connection tracking"


@inside
def test_nobodys_rules_are_lost(network: Network) -> None:
    firewall = legacy(ports=(25,))
    firewall.start()
    child = os.fork()
    if not child:
        try:
            for number in range(60):
                port = str(1000 + number)
                run("iptables-legacy", "-w", "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "ACCEPT")
        finally:
            os._exit(0)
    rounds = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        firewall.ban([ban(target("192.0.2.10", 1 + rounds % 60))], NOW)  # each port list is a set and a rule
        rounds += 1
    added = [each for each in rules() if "-A INPUT -p tcp" in each]
    assert rounds and len(added) == 60
    assert sum("-A denyspam-in" in each for each in rules()) == 1 + min(rounds, 60) - (rounds > 24)


@inside
def test_what_somebody_destroyed_is_mended(network: Network) -> None:
    firewall = legacy(ports=(25,))
    firewall.start()
    firewall.ban([ban(CLIENTS4[0])], NOW)
    run("iptables-legacy", "-F")
    run("iptables-legacy", "-X")
    assert network.connects(SERVER4, 25, CLIENTS4[0])
    assert targets(firewall.start()) == {target(CLIENTS4[0])}
    assert not network.connects(SERVER4, 25, CLIENTS4[0])
    run("iptables-legacy", "-F")
    run("ipset", "destroy", "denyspam-4-32-25")
    with pytest.raises(ActionError, match="a set of ours is gone") as caught:
        firewall.ban([ban(CLIENTS4[0])], NOW)
    assert not caught.value.permanent
    firewall.release([target(CLIENTS4[0])])
    run("ipset", "create", "denyspam-4-32-25", "hash:net", "family", "inet")
    assert firewall.start() == [], "a set of another shape has made room"
    firewall.ban([ban(CLIENTS4[0])], NOW)
    assert not network.connects(SERVER4, 25, CLIENTS4[0])


@inside
def test_a_full_set(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ruleset, "SIZE", 100)
    firewall = legacy(ports=(25,))
    firewall.start()
    with pytest.raises(ActionError, match="full") as caught:
        firewall.ban([*map(ban, hosts(3000)), ban("2001:db8:0:1::/64")], NOW)
    assert not caught.value.permanent
    assert target("2001:db8:0:1::/64") in targets(firewall.held()), "another set's are in"


@inside
def test_longer_than_a_timeout_can_be(network: Network) -> None:
    clock = [0.0]
    firewall = legacy(ports=(25,), clock=lambda: clock[0])
    firewall.start()
    month = 60 * 86400.0
    firewall.ban([ban("192.0.2.10", month), ban("192.0.2.11", month), ban("192.0.2.12", HOUR)], NOW)
    firewall.release([target("192.0.2.11")])
    assert {str(each.target): each.left == month for each in firewall.held()} == {
        "192.0.2.10": True,
        "192.0.2.12": False,
    }
    run("ipset", "add", "-exist", "denyspam-4-32-25", "192.0.2.10", "timeout", "100")  # as it is 24 days later
    clock[0] = 24 * 86400.0
    firewall.tend(NOW)
    saved = {line.split()[2]: int(line.split()[4]) for line in run("ipset", "save").splitlines() if "add" in line}
    assert saved["192.0.2.10"] > 2_147_400 and saved.keys() == {"192.0.2.10", "192.0.2.12"}
    clock[0] = 50 * 86400.0
    firewall.tend(NOW)
    saved = {line.split()[2]: int(line.split()[4]) for line in run("ipset", "save").splitlines() if "add" in line}
    assert 9 * 86400 < saved["192.0.2.10"] <= 10 * 86400, "the last stretch"
    clock[0] = 61 * 86400.0
    firewall.tend(NOW)
    assert firewall._long == {}


@inside
def test_a_host_that_speaks_nftables(network: Network) -> None:
    if "nf_tables" not in run("iptables", "--version"):
        pytest.skip("this host's iptables is the legacy one")
    with pytest.raises(ActionError, match="write `action = nftables`") as caught:
        Iptables(ports=(25,)).start()
    assert caught.value.permanent


@inside
def test_a_library_that_ends_its_process(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    legacy(ports=(25,))
    monkeypatch.setattr(module, "TEST", f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})")
    with pytest.raises(ActionError, match="does not work here: it ended with -11") as caught:
        Iptables(ports=(25,)).start()
    assert caught.value.permanent
    monkeypatch.setattr(module, "TEST", "import sys; sys.modules['iptc'] = None; import iptc")
    with pytest.raises(ActionError, match="does not work here"):
        Iptables(ports=(25,)).start()


@inside
def test_somebody_holds_the_lock(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    firewall = legacy(ports=(25,))
    monkeypatch.setattr(module, "PATIENCE", 3)
    with subprocess.Popen(["flock", module.LOCK, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"\n"
        began = time.monotonic()
        with pytest.raises(ActionError, match=r"another program holds /run/xtables\.lock"):
            firewall.start()
        assert time.monotonic() - began >= 3
        holder.stdin.close()
    assert firewall.start() == []


@pytest.mark.parametrize("ports", [(), (0,), (587, 25), tuple(range(10001, 10007))])
def test_port_lists_no_set_can_have(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no set can be made"):
        Iptables(ports=ports)


@inside
def test_upkeep_spawns_nothing(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tend` comes every second and `start` every minute: neither may cost a program each time."""
    clock = [0.0]
    firewall = legacy(ports=(25,), clock=lambda: clock[0])
    firewall.start()
    firewall.ban([ban("192.0.2.10", 60 * 86400.0)], NOW)
    spawned: list[list[str]] = []
    really = module._run

    def counting(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
        spawned.append(command)
        return really(command, text)

    monkeypatch.setattr(module, "_run", counting)
    for _ in range(100):
        clock[0] += 1
        firewall.tend(NOW)
    assert spawned == []
    clock[0] += 86_400
    firewall.tend(NOW)
    firewall.tend(NOW)
    assert [command[0] for command in spawned] == ["ipset"], "once a day"
    spawned.clear()
    firewall.start()
    assert all(command[0] == "ipset" for command in spawned), "the self test once"


@inside
def test_a_program_is_missing(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    legacy(ports=(25,))
    legacy_program = shutil.which("iptables-legacy")
    assert legacy_program
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ActionError, match="the program iptables is missing: install it") as caught:
        Iptables(ports=(25,)).start()
    assert caught.value.permanent
    (tmp_path / "iptables").symlink_to(legacy_program)
    with pytest.raises(ActionError, match="the program ipset is missing: install it") as caught:
        Iptables(ports=(25,)).start()
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("said", "sentence", "permanent"),
    [
        ("ipset v7.17: Cannot open session to kernel.", "load the module ip_set", True),
        ("can't initialize filter: Table does not exist (do you need to insmod?)", "load ip_tables and", True),
        ("can't commit: No chain/target/match by that name", "load xt_set, xt_multiport and xt_REJECT", True),
        ("can't initialize filter: Permission denied (you must be root)", "CAP_NET_ADMIN", True),
        ("ipset v7.17: Error in line 1: Hash is full, cannot add more elements", "1,048,576 addresses", False),
        ("ipset v7.17: The set with the given name does not exist", "somebody destroyed it", False),
        ("something new\nof two lines", "iptables: something new of two lines", False),
    ],
)
def test_what_the_admin_reads(said: str, sentence: str, permanent: bool) -> None:
    refusal = module._refusal(said)
    assert (sentence in str(refusal), refusal.permanent) == (True, permanent)


def test_what_cannot_be_is_said_by_the_check() -> None:
    text = "[daemon]\naction = iptables\n{}\n[log /x]\n[policy]\nvirus = 5 in 15m -> ban 1h{}\n"
    load_action(parse(text.format("ports = 25, 465, 2525", ", ports 2525, 10025"), "c"))
    for setting, policy, message in (
        ("hooks = prerouting", "", "c:2: .*hook 'prerouting': iptables refuses in input, forward, output"),
        ("ports = 10025, 10026, 10027", "", "c:2: .*no set can be made"),
        ("", ", ports 10025, 10026, 10027", "c:6: .*no set can be made"),
    ):
        with pytest.raises(SettingsError, match=message):
            load_action(parse(text.format(setting, policy), "c"))
