"""What an admin does by hand: grace, bans that need --force, a stop that flushes, allow. On the real kernel."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time

import pytest
from live import Live, until, viruses
from netns import CLIENTS4, CLIENTS6, SERVER4, SERVER6, Network
from test_actions import legacy

pytestmark = pytest.mark.root

SENDER, OTHER, THIRD = CLIENTS4[:3]


def seen(daemon: Live, events: int) -> None:
    until(lambda: sum(daemon.json("status")["events"].get("virus", {}).values()) == events, f"{events} events")


# Grace


def test_grace_keeps_from_being_banned_again(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    done = daemon.ask("release", SENDER, "--grace", "1h", "--note", "a customer")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"released {SENDER}")
    assert f"{SENDER} is in grace until" in done.stdout
    daemon.write([*viruses(SENDER, 20), *viruses(OTHER, 5)])
    until(lambda: daemon.held() == {OTHER}, "the ban of the other")
    assert daemon.banned() == [OTHER]
    assert network.connects(SERVER4, 25, SENDER)
    (grace,) = daemon.json("status")["graces"]
    assert (grace["address"], grace["note"], grace["until"] - grace["since"]) == (SENDER, "a customer", 3600)
    assert "1 grace; " in daemon.ask("status").stdout
    for command in (["list"], ["why", SENDER]):
        assert f"{SENDER} is in grace until" in daemon.ask(*command).stdout
    assert daemon.json("why", OTHER)["graces"] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_grace_survives(daemon: Live, how: int) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    assert daemon.ask("release", SENDER, "--grace", "1h").returncode == 0
    daemon.write(viruses(SENDER, 4))
    seen(daemon, 9)
    if how == signal.SIGHUP:
        assert daemon.process
        daemon.process.send_signal(how)
        until(lambda: daemon.errors.read_text().count(": ready:") == 2, "the reload")
    else:
        daemon.stop(how)
        daemon.start()
    daemon.write([*viruses(SENDER, 5), *viruses(OTHER, 5)])
    until(lambda: daemon.held() == {OTHER}, "the ban of the other")
    assert [grace["address"] for grace in daemon.json("status")["graces"]] == [SENDER]


def test_grace_ends_by_itself_and_counting_begins_afresh(daemon: Live) -> None:
    daemon.start()
    assert daemon.ask("release", SENDER, "--grace", "2s").returncode == 1, "it was not banned"
    daemon.write(viruses(SENDER, 5, time.time() - 60))
    seen(daemon, 5)
    until(lambda: daemon.json("status")["graces"] == [], "its end")
    daemon.write(viruses(SENDER, 4, time.time() + 5))
    seen(daemon, 9)
    assert daemon.banned() == []
    daemon.write(viruses(SENDER, 1, time.time() + 6))
    until(lambda: daemon.held() == {SENDER}, "the ban")


def test_grace_forgets_what_was_counted_and_a_ban_by_hand_overrides_it(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 4))
    seen(daemon, 4)
    assert daemon.json("why", SENDER)["counts"][0]["hits"] == 4
    unbanned = daemon.ask("release", SENDER, "--grace", "1h")
    assert (unbanned.returncode, unbanned.stderr) == (1, f"denyspam: {SENDER} is not banned\n")
    assert daemon.json("why", SENDER)["counts"] == []
    done = daemon.ask("ban", "192.0.2.8/29")
    assert (done.returncode, f"the grace of {SENDER} is over" in done.stdout) == (0, True)
    assert not network.connects(SERVER4, 25, SENDER)
    assert daemon.json("status")["graces"] == []
    daemon.stop()
    ledger = sqlite3.connect(daemon.folder / "state" / "ledger.db")
    assert ledger.execute("SELECT count(*) FROM graces").fetchone() == (0,)


def test_grace_of_what_it_covers(daemon: Live, network: Network) -> None:
    """An IPv6 address stands for its /64, a network for all in it; a policy by net/24 bans the others one by one."""
    daemon.configure(policy="virus = 5 in 15m -> ban 1h, by net/24\n")
    daemon.start()
    one, two, stranger = CLIENTS6[0], CLIENTS6[1], CLIENTS6[2]
    daemon.write([*viruses(one, 5), *viruses("203.0.113.7", 5)])
    until(lambda: len(daemon.banned()) == 2, "the bans")
    assert daemon.ask("release", two, "203.0.113.0/25", "--grace", "1h").returncode == 0
    daemon.write([*viruses(one, 5), *viruses(two, 5), *viruses("203.0.113.9", 9), *viruses("203.0.113.200", 5)])
    daemon.write(viruses(stranger, 5))
    until(lambda: "2001:db8:0:2::" in daemon.held(), "the stranger's ban")
    assert sorted(daemon.banned()) == ["2001:db8:0:2::/64", "203.0.113.200"]
    assert network.connects(SERVER6, 25, one)


def test_a_network_is_released_with_all_in_it(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write([*viruses(SENDER, 5), *viruses(CLIENTS6[0], 5)])
    until(lambda: len(daemon.banned()) == 2, "the bans")
    assert f"1 ban of what lies in it: {SENDER}\n" in daemon.ask("why", "192.0.2.0/24").stdout
    done = daemon.ask("release", "192.0.2.0/24", "2001:db8::/48", "--grace", "1h")
    assert (done.returncode, "not banned" in done.stderr) == (0, False)
    assert daemon.held() == set()
    assert network.connects(SERVER4, 25, SENDER)
    daemon.write(viruses(SENDER, 9))
    daemon.write(viruses("203.0.113.7", 5))
    until(lambda: daemon.held() == {"203.0.113.7"}, "the ban of one outside")


def test_a_release_tells_of_the_wider_ban_that_holds_on(daemon: Live, network: Network) -> None:
    daemon.start()
    assert daemon.ask("ban", "203.0.113.0/24", "203.0.113.7").returncode == 0
    done = daemon.ask("release", "203.0.113.7")
    assert done.stdout == "released 203.0.113.7\n"
    assert done.stderr == "denyspam: 203.0.113.0/24 is still banned, and with it what lies in it\n"
    done = daemon.ask("release", "203.0.113.7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "released 203.0.113.0/24\n", "")


def test_a_ban_of_no_time_is_none(daemon: Live) -> None:
    daemon.start()
    done = daemon.ask("ban", SENDER, "--for", "0s")
    assert (done.returncode, "from one second" in done.stderr) == (2, True)
    assert daemon.held() == set()


def test_grace_for_all_that_is_released(daemon: Live) -> None:
    daemon.start()
    assert daemon.ask("ban", SENDER, OTHER).returncode == 0
    assert daemon.ask("release", "--all", "--grace", "1h").returncode == 0
    assert {grace["address"] for grace in daemon.json("status")["graces"]} == {SENDER, OTHER}
    for wrong in "soon", "0s", "100y":
        assert daemon.ask("release", SENDER, "--grace", wrong).returncode == 2


# What no ban by hand takes


def test_the_protected_are_not_banned_and_the_rest_goes_on(daemon: Live, network: Network) -> None:
    daemon.configure(allow=f"{THIRD}, 198.51.100.0/24")
    daemon.start()
    feed = {
        "127.0.0.1": "it is loopback",
        "::1": "it is loopback",
        "::ffff:127.0.0.9": "it is loopback",
        SERVER4: "it is an address of this host",
        THIRD: f"`allow` has {THIRD}",
        "198.51.100.200": "`allow` has 198.51.100.0/24",
        "198.51.0.0/16": "`allow` has 198.51.100.0/24",
        "192.0.2.0/29": "it is an address of this host",
        "0.0.0.0/0": "too wide to ban, at most a /8",
    }
    done = daemon.ask("ban", "-", text="\n".join([*feed, SENDER, "2001:db8:7::/48"]))
    assert done.returncode == 1
    for address, reason in feed.items():
        assert f"denyspam: {address} is not banned: {reason}\n" in done.stderr
    assert daemon.held() == {SENDER, "2001:db8:7::"}
    assert daemon.ask("ban", OTHER).returncode == 0
    assert daemon.ask("ban", "nonsense").returncode == 2


def test_force_bans_them_and_no_reload_lifts_that(daemon: Live, network: Network) -> None:
    daemon.configure(allow=f"{SENDER}, {OTHER}")
    daemon.start()
    assert daemon.ask("ban", SENDER, "--force").returncode == 0
    assert daemon.ask("ban", "0.0.0.0/0", "--force").returncode == 1
    assert not network.connects(SERVER4, 25, SENDER)
    assert [ban["rule"] for ban in daemon.json("list")] == ["forced"]
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.errors.read_text().count(": ready:") == 2, "the reload")
    assert daemon.held() == {SENDER}
    daemon.stop()
    daemon.start()
    assert daemon.held() == {SENDER}
    assert daemon.ask("release", SENDER).returncode == 0
    assert daemon.held() == set()


def session(daemon: Live, variables: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a shell whose SSH session comes from there, run as through sudo: without its variables."""
    inner = "env -u SSH_CONNECTION -u SSH_CLIENT " + " ".join(daemon.command(*words)) + "; exit $?"
    return subprocess.run(
        ["env", *variables.split("|"), "sh", "-c", inner], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("variables", "address", "banned"),
    [
        (f"SSH_CONNECTION={SENDER} 50000 192.0.2.1 22", SENDER, False),
        (f"SSH_CLIENT=::ffff:{SENDER} 50000 22", "192.0.2.0/30", True),
        (f"SSH_CLIENT=::ffff:{SENDER} 50000 22", f"{SENDER}/31", False),
        ("SSH_CONNECTION=2001:db8:9::5%eth0 5 ::1 22", "2001:db8:9::/64", False),
        ("SSH_CONNECTION=2001:db8:9::5 5 ::1 22", "2001:db8:9::6", True),
        ("SSH_CONNECTION=nonsense|SSH_CLIENT=", SENDER, True),
    ],
)
def test_the_admins_own_session(daemon: Live, variables: str, address: str, banned: bool) -> None:
    if address == "192.0.2.0/30":
        address = "192.0.2.12/30"  # not this host's
    daemon.start()
    done = session(daemon, variables, "ban", address)
    assert done.returncode == (0 if banned else 1), done.stderr
    assert len(daemon.banned()) == banned
    if banned:
        assert address not in ("2001:db8:9::6",) or daemon.banned() == ["2001:db8:9::6"], "alone, not its /64"
    else:
        assert f"{address} is not banned: your own SSH session comes from there" in done.stderr
        assert session(daemon, variables, "ban", address, "--force").returncode == 0
        assert len(daemon.banned()) == 1


# Stop and flush


def test_flush_on_stop(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.stop()
    run = daemon.command("run", "--flush-on-stop")
    daemon.command = lambda *words: run if words == ("run",) else Live.command(daemon, *words)  # type: ignore[method-assign]
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    before = daemon.json("list")
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.errors.read_text().count(": ready:") == 3, "the reload")
    assert daemon.held() == {SENDER}, "a reload is no stop"
    assert daemon.stop() == 0
    assert "denyspam" not in network.server.check("nft", "list", "ruleset")
    assert network.connects(SERVER4, 25, SENDER)
    del daemon.command  # type: ignore[method-assign]
    daemon.start()
    assert daemon.json("list") == before
    assert daemon.held() == {SENDER}
    assert not network.connects(SERVER4, 25, SENDER)
    listed = json.loads(network.server.check("nft", "-j", "list", "table", "inet", "denyspam"))["nftables"]
    (left,) = [one["elem"]["expires"] for each in listed for one in each.get("set", {}).get("elem", ())]
    assert left <= before[0]["until"] - time.time() + 1, "with the time left"


def test_flush_without_the_daemon(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    assert daemon.ask("ban", OTHER, "2001:db8:7::/48").returncode == 0
    daemon.stop()
    done = daemon.ask("flush")
    assert (done.returncode, done.stdout) == (0, "released 3 bans\n")
    assert daemon.held() == set()
    assert network.connects(SERVER4, 25, SENDER)
    daemon.start()
    assert daemon.banned() == []
    assert daemon.held() == set()


# The allow list


def test_what_a_reload_allows_is_open_at_once(daemon: Live, network: Network) -> None:
    """Bans by a policy, by hand, of other ports, of networks around and addresses within: all that overlaps it."""
    daemon.configure(policy="virus = 5 in 15m -> ban 1h, ports 25, 587\n")
    daemon.start()
    daemon.write([*viruses(SENDER, 5), *viruses(CLIENTS6[0], 5)])
    assert daemon.ask("ban", OTHER, "192.0.2.12/30", "198.51.100.0/24").returncode == 0
    until(lambda: len(daemon.held()) == 5, "the bans")
    daemon.configure(policy="virus = 5 in 15m -> ban 1h, ports 25, 587\n", allow="192.0.2.0/25, 2001:db8:0:1::1")
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.held() == {"198.51.100.0"}, "the release")
    until(lambda: daemon.ask("status").returncode == 0, "ready")
    assert daemon.banned() == ["198.51.100.0/24"]
    assert network.connects(SERVER4, 587, SENDER)
    assert network.connects(SERVER4, 25, "192.0.2.13")
    assert network.connects(SERVER6, 25, CLIENTS6[1])
    assert "never banned by the configuration" in daemon.ask("why", SENDER).stdout


# The firewall's settings


@pytest.mark.parametrize(
    ("verdict", "error"),
    [("tcp reset", "ConnectionRefusedError"), ("reset", "ConnectionRefusedError"), ("drop", "TimeoutError")],
)
def test_verdict_ports_and_what_was_refused(daemon: Live, network: Network, verdict: str, error: str) -> None:
    daemon.configure(verdict=verdict, ports="25, 587", force="yes", policy="virus = 5 in 15m -> ban 1h, ports 26\n")
    daemon.start()
    assert daemon.ask("ban", SENDER).returncode == 0
    program = f"import socket\nsocket.create_connection(('{SERVER4}', 587), 1, ('{SENDER}', 0))"
    done = subprocess.run(
        [*network.client.prefix, "python3", "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert error in done.stderr
    assert not network.connects(SERVER4, 25, SENDER, timeout=1)
    status = daemon.json("status")["firewall"]
    used = [each for each in status["sets"] if each["packets"]]
    assert [(each["version"], each["width"], each["ports"]) for each in used] == [(4, 32, [25, 587])]
    assert used[0]["packets"] == status["refused"] >= 2
    assert "IPv4 /32 port 25 587: " in daemon.ask("status").stdout


def test_587_takes_force(daemon: Live) -> None:
    daemon.configure(ports="25, 587")
    for command in "check", "run":
        refused = daemon.ask(command)
        assert (refused.returncode, refused.stderr.count("`force = yes`")) == (78, 1)
    daemon.configure(ports="25, 587", force="yes", policy="virus = 5 in 15m -> ban 1h\n")
    assert daemon.ask("check").returncode == 0
    daemon.configure(policy="auth = 5 in 15m -> ban 1h, ports 465, 587\n")
    assert daemon.ask("check").returncode == 0, "in a policy it needs none"


def test_hooks(daemon: Live, network: Network) -> None:
    daemon.configure(hooks="prerouting, output")
    daemon.start()
    assert daemon.ask("ban", SENDER).returncode == 0
    assert not network.connects(SERVER4, 25, SENDER)
    chains = network.server.check("nft", "list", "chains", "inet")
    assert "hook prerouting" in chains and "hook output" in chains and "hook input" not in chains


def test_iptables(daemon: Live, network: Network) -> None:
    """The whole daemon on ipsets: bans, what was refused, other ports, take-over, release, a stop that flushes."""
    network.server.run(lambda: legacy(ports=(25,)) and None)  # skips where there is none
    policy = "virus = 5 in 15m -> ban 1h\nauth = 5 in 15m -> ban 60d, ports 465, 587\n"
    daemon.configure(action="iptables", policy=policy)
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    assert daemon.ask("ban", OTHER, CLIENTS6[0], "--for", "60d").returncode == 0
    until(lambda: len(daemon.banned()) == 3 and daemon.json("status")["pending"] == 0, "the bans")
    for server, client in (SERVER4, SENDER), (SERVER4, OTHER), (SERVER6, CLIENTS6[1]):
        assert not network.connects(server, 25, client)
    assert network.connects(SERVER4, 25, THIRD)
    assert daemon.json("status")["firewall"]["refused"] >= 3
    before = daemon.json("list")
    daemon.stop()
    assert not network.connects(SERVER4, 25, SENDER)
    daemon.start()
    assert daemon.json("list") == before
    again = daemon.errors.read_text().partition("stopped")[2]
    assert "restoring 2 bans" in again, "those longer than a timeout can be; the other one is still there"
    assert daemon.ask("release", "--all").returncode == 0
    assert network.connects(SERVER4, 25, SENDER)
    daemon.stop()
    assert daemon.ask("flush").returncode == 0


def test_a_fault_of_upkeep_is_over_when_it_is(daemon: Live) -> None:
    """The list's folder is gone for a while, and nothing is ordered meanwhile."""
    folder = daemon.folder / "lists"
    folder.mkdir()
    daemon.configure(action="files", list=str(folder / "banned"), policy="virus = 5 in 15m -> ban 3s\n")
    daemon.start()
    daemon.write(viruses(SENDER, 5, time.time() + 2))
    until(lambda: (folder / "banned").exists() and SENDER in (folder / "banned").read_text(), "the list")
    os.rename(folder, daemon.folder / "away")
    until(lambda: daemon.json("status")["firewall"]["fault"], "the fault")
    os.rename(daemon.folder / "away", folder)
    until(lambda: not daemon.json("status")["firewall"]["fault"], "its end")
    until(lambda: SENDER not in (folder / "banned").read_text(), "the end of the ban")
