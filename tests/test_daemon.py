"""The main job, end to end: a growing log, the real kernel in a private namespace, the commands."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live import Live, live, relay, stamp, until, virus, viruses
from netns import CLIENTS4, CLIENTS6, SERVER4, SERVER6, Namespace, Network

from denyspam import control

SENDER, OTHER = CLIENTS4[0], CLIENTS4[1]


def test_the_fifth_virus_closes_port_25(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 4))
    until(lambda: daemon.json("status")["events"] == {"virus": {"postfix": 4}}, "four events")
    assert daemon.banned() == []
    assert network.connects(SERVER4, 25, SENDER)
    daemon.write([virus(SENDER, time.time(), "FIFTH5")])
    until(lambda: daemon.held() == {SENDER}, "the ban")
    assert not network.connects(SERVER4, 25, SENDER)
    assert network.connects(SERVER4, 587, SENDER)
    assert network.connects(SERVER4, 25, OTHER)
    (ban,) = daemon.json("list")
    assert (ban["address"], ban["rule"], ban["hits"]) == (SENDER, "virus", 5)
    assert ban["until"] - ban["since"] == 3600
    why = daemon.ask("why", SENDER)
    assert why.returncode == 0
    assert "the kernel holds it" in why.stdout
    assert why.stdout.count("Eicar-Signature") == 5
    assert daemon.ask("release", SENDER, "--note", "a mistake").returncode == 0
    assert network.connects(SERVER4, 25, SENDER)
    assert daemon.banned() == []
    why = daemon.ask("why", SENDER)
    assert why.returncode == 1
    assert "a mistake" in why.stdout
    assert daemon.ask("release", SENDER).returncode == 1


def test_ipv6_by_64(daemon: Live, network: Network) -> None:
    daemon.start()
    one, two, stranger = CLIENTS6[0], CLIENTS6[1], CLIENTS6[2]
    daemon.write(viruses(one, 3) + viruses(two, 2))
    until(lambda: len(daemon.held()) == 1, "the ban")
    assert daemon.banned() == ["2001:db8:0:1::/64"]
    assert not network.connects(SERVER6, 25, one)
    assert not network.connects(SERVER6, 25, two)
    assert network.connects(SERVER6, 25, stranger)
    assert daemon.ask("why", two).returncode == 0
    assert daemon.ask("release", two).returncode == 0
    assert network.connects(SERVER6, 25, one)


def test_a_ban_expires_by_itself(daemon: Live, network: Network) -> None:
    daemon.configure(policy="virus = 2 in 15m -> ban 3s\n")
    daemon.start()
    daemon.write(viruses(SENDER, 2, time.time() + 1))
    until(lambda: daemon.banned() == [SENDER], "the ban")
    until(lambda: network.connects(SERVER4, 25, SENDER), "its end in the kernel")
    until(lambda: daemon.banned() == [], "its end in the list")
    assert f"released {SENDER} after 3s" in daemon.errors.read_text()
    assert daemon.json("why", SENDER)["history"][0]["state"] == "expired"


def test_a_stop_leaves_the_bans_and_a_start_takes_them_over(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    before = daemon.json("list")
    assert daemon.stop() == 0
    assert not network.connects(SERVER4, 25, SENDER)
    assert daemon.ask("status").returncode == 69
    daemon.start()
    assert daemon.json("list") == before
    assert daemon.held() == {SENDER}


def test_a_reboot_restores_from_the_ledger(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.stop(signal.SIGKILL)
    network.server.check("nft", "flush", "ruleset")
    assert network.connects(SERVER4, 25, SENDER)
    daemon.start()
    until(lambda: daemon.held() == {SENDER}, "the ban")
    assert not network.connects(SERVER4, 25, SENDER)


def test_what_the_kernel_holds_is_dropped_or_adopted(daemon: Live, network: Network) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.stop()
    os.rename(daemon.folder / "state" / "ledger.db", daemon.folder / "old.db")
    daemon.start()
    (adopted,) = daemon.json("list")
    assert (adopted["address"], adopted["rule"]) == (SENDER, "adopted")
    assert 3000 < adopted["until"] - time.time() <= 3600
    daemon.stop()
    os.rename(daemon.folder / "old.db", daemon.folder / "state" / "ledger.db")
    for end in ("-wal", "-shm"):
        (daemon.folder / "state" / f"ledger.db{end}").unlink(missing_ok=True)
    name = json.loads(network.server.check("nft", "-j", "list", "sets", "inet"))["nftables"]
    v4 = next(each["set"]["name"] for each in name if each.get("set", {}).get("type") == "ipv4_addr")
    network.server.check("nft", "add", "element", "inet", "denyspam", v4, f"{{ {OTHER} timeout 1h }}")
    daemon.start()
    until(lambda: daemon.held() == {SENDER}, "the unknown element gone")


def test_the_window_survives_a_restart(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 4))
    until(lambda: daemon.json("status")["events"], "events")
    daemon.stop()
    daemon.write(viruses(OTHER, 5))
    daemon.start()
    until(lambda: daemon.held() == {OTHER}, "what came while it was down")
    daemon.write(viruses(SENDER, 1))
    until(lambda: daemon.held() == {OTHER, SENDER}, "the fifth hit")


def test_by_hand(daemon: Live, network: Network) -> None:
    daemon.start()
    done = daemon.ask("ban", SENDER, "198.51.100.0/24", "--for", "30m", "--note", "noise")
    assert done.returncode == 0, done.stderr
    assert set(daemon.banned()) == {SENDER, "198.51.100.0/24"}
    assert not network.connects(SERVER4, 25, SENDER)
    many = "".join(f"203.0.113.{n}\n" for n in range(200))
    assert daemon.ask("ban", "-", text=f"# a list\n{many}\n").returncode == 0
    assert len(daemon.banned()) == 202
    assert daemon.ask("ban", "-", text="203.0.113.1\nnonsense\n").returncode == 2
    for spared in (SERVER4, "127.0.0.1", "::1", "0.0.0.0/0"):
        assert daemon.ask("ban", spared).returncode == 1, spared
    assert "198.51.100.0/24" in daemon.ask("why", "198.51.100.77").stdout
    assert daemon.ask("release", "--all").returncode == 0
    assert daemon.banned() == []
    assert daemon.held() == set()
    assert network.connects(SERVER4, 25, SENDER)


def test_flush_with_and_without_the_daemon(daemon: Live, network: Network) -> None:
    daemon.start()
    for running in (True, False):
        assert daemon.ask("ban", SENDER).returncode == 0
        if not running:
            daemon.stop()
        assert not network.connects(SERVER4, 25, SENDER)
        flushed = daemon.ask("flush")
        assert (flushed.returncode, flushed.stdout) == (0, "released 1 ban\n")
        assert network.connects(SERVER4, 25, SENDER)
    daemon.start()
    assert daemon.banned() == []


def test_watch_touches_no_firewall(daemon: Live, network: Network) -> None:
    daemon.configure(mode="watch")
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.banned() == [SENDER], "the decision")
    assert "nobody is refused, it only watches" in daemon.ask("why", SENDER).stdout
    assert "nobody is refused, it only watches" in daemon.ask("ban", OTHER).stderr
    assert network.connects(SERVER4, 25, SENDER)
    assert "denyspam" not in network.server.check("nft", "list", "ruleset")


@pytest.mark.parametrize("how", ["a reload", "a restart", "flush"])
def test_who_only_watches_refuses_nobody_any_more(daemon: Live, network: Network, how: str) -> None:
    """What it had put there as long as it enforced is out of the kernel, and a release is no lie."""
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    if how != "a reload":
        daemon.stop()
    daemon.configure(mode="watch")
    if how == "a reload":
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "dryrun (mode = watch)" in daemon.errors.read_text(), "the reload")
    elif how == "a restart":
        daemon.start()
    else:
        assert daemon.ask("flush").stdout == "released 1 ban\n"
    assert network.connects(SERVER4, 25, SENDER)
    assert "denyspam" not in network.server.check("nft", "list", "ruleset")
    if how == "flush":
        return
    assert daemon.banned() == [SENDER]
    daemon.configure()
    daemon.stop()
    daemon.start()
    assert daemon.held() == {SENDER}


def test_a_second_daemon_that_watches_leaves_the_firewall_alone(daemon: Live, network: Network, tmp_path: Path) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    folder = tmp_path / "second"
    folder.mkdir()
    with live(folder, network.server) as second:
        second.configure(mode="watch")
        second.log.touch()
        second.start()
        assert daemon.held() == {SENDER}
        second.stop()
        assert second.ask("flush").returncode == 0
    assert daemon.held() == {SENDER}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a stranger: run the tests as root")
def test_a_name_that_a_stranger_took_keeps_nobody_off(daemon: Live, network: Network) -> None:
    taken = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('\\0denyspam nftables'); s.listen(); print()"
    setpriv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--reuid=65534"]
    stranger = network.server.popen(
        [*setpriv, sys.executable, "-c", f"{taken}; sys.stdout.flush(); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        daemon.start()
        assert "may not change the firewall: passed over" in daemon.errors.read_text()
    finally:
        stranger.kill()
        stranger.communicate()


def test_own_and_allowed_addresses_are_spared(daemon: Live) -> None:
    daemon.configure(allow=f"{OTHER}, 198.51.100.0/24")
    daemon.start()
    daemon.write(viruses(SERVER4, 9) + viruses(OTHER, 9) + viruses("198.51.100.7", 9) + viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the one that is not spared")
    assert daemon.banned() == [SENDER]


def test_rotation_while_running(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 3))
    until(lambda: daemon.json("status")["events"] == {"virus": {"postfix": 3}}, "three")
    daemon.log.rename(daemon.folder / "mail.log.1")
    daemon.write(viruses(SENDER, 2))
    until(lambda: daemon.held() == {SENDER}, "the ban")


def test_a_bad_reload_changes_nothing_and_a_good_one_keeps_the_counts(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 4))
    until(lambda: daemon.json("status")["events"], "events")
    good = daemon.conf.read_text()
    daemon.conf.write_text(good.replace("virus = 5", "virus = five"))
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    line = good.splitlines().index("virus = 5 in 15m -> ban 1h") + 1
    until(lambda: f"going on as before: {daemon.conf}:{line}:" in daemon.errors.read_text(), "the refusal")
    daemon.conf.write_text(good.replace("-> ban 1h", "-> ban 2h"))
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.errors.read_text().count(": ready:") == 2, "the reload")
    daemon.write(viruses(SENDER, 1))
    until(lambda: daemon.held() == {SENDER}, "the fifth hit")
    (ban,) = daemon.json("list")
    assert ban["until"] - ban["since"] == 7200


def test_commands_answer_though_an_edit_has_broken_the_configuration(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.status()["active"] == 1, "the ban")
    daemon.configure(policy="virus = five in 15m -> ban 1h\n")
    assert daemon.ask("check").returncode == 78
    assert daemon.banned() == [SENDER]
    assert daemon.ask("status").returncode == 0
    daemon.stop()
    told = daemon.ask("list")
    assert told.returncode == 78, "no daemon answers, and this is why"
    assert "five" in told.stderr


def test_refused_starts(daemon: Live, network: Network) -> None:
    assert daemon.ask("list").returncode == 69
    daemon.start()
    second = daemon.ask("run")
    assert second.returncode == 69
    assert "another denyspam runs" in second.stderr
    daemon.stop()
    daemon.conf.write_text("[daemon]\nports = 25\n")
    broken = daemon.ask("run")
    assert (broken.returncode, broken.stderr.count(f"{daemon.conf}:2:")) == (78, 1)


def test_the_ledger_may_fail_and_banning_goes_on(daemon: Live) -> None:
    """Another process holds the ledger locked: bans are made, the fault is said once, and it catches up."""
    import sqlite3

    daemon.start()
    other = sqlite3.connect(daemon.folder / "state" / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    until(lambda: daemon.json("status")["ledger"]["fault"], "the fault")
    assert "ledger FAULT" in daemon.ask("status").stdout
    other.execute("ROLLBACK")
    until(lambda: daemon.json("status")["ledger"] and not daemon.json("status")["ledger"]["fault"], "the recovery")
    assert daemon.errors.read_text().count("ledger cannot be written") == 1
    rows = other.execute("SELECT network, state FROM bans").fetchall()
    assert rows == [(SENDER, "active")]


def test_relay_and_the_table(daemon: Live) -> None:
    daemon.start()
    now = time.time()
    daemon.write([relay(SENDER, now)] * 5)
    until(lambda: daemon.banned() == [SENDER], "the ban")
    table = daemon.ask("list").stdout
    assert max(map(len, table.splitlines())) <= 80
    assert re.sub(r"\(\S+\) ", "", table).split()[:5] == ["ADDRESS", "RULE", "SINCE", "LEFT", "HITS"]
    status = daemon.ask("status")
    assert status.returncode == 0
    assert status.stdout.startswith("ready")


def test_in_a_user_namespace_without_root(tmp_path: Path, unprivileged: Network) -> None:
    with live(tmp_path, unprivileged.server) as daemon:
        daemon.start()
        daemon.write(viruses(SENDER, 5))
        until(lambda: daemon.held() == {SENDER}, "the ban")
        assert not unprivileged.connects(SERVER4, 25, SENDER)
        assert unprivileged.connects(SERVER4, 587, SENDER)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to drop a capability: run the tests as root")
def test_without_the_capability_one_sentence_and_77(daemon: Live) -> None:
    assert daemon.namespace
    command, at = daemon.command("run"), len(daemon.namespace.prefix)
    bounded = [*command[:at], "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", *command[at:]]
    done = subprocess.run(bounded, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 77, done.stderr
    assert "not permitted" in done.stderr
    assert "Traceback" not in done.stderr


def test_lines_without_stamps_count_by_arrival_and_a_backlog_does_not(daemon: Live) -> None:
    daemon.configure(log="filters = postfix\nstamp = none\n")
    daemon.start()
    bare = [line.partition(" ")[2] for line in viruses(SENDER, 5)]
    daemon.write(bare)
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.stop()
    daemon.write([line.replace(SENDER, OTHER) for line in bare])
    daemon.start()
    status = daemon.json("status")
    assert status["events"] == {"virus": {"postfix": 5}}
    assert daemon.banned() == [SENDER]


def test_no_request_ends_the_daemon(daemon: Live) -> None:
    daemon.start()
    hostile = (
        b'{"command": ["x"]}',
        b'{"command": {}}',
        b'{"command": "ban", "addresses": ["198.51.100.1"], "seconds": ' + b"9" * 400 + b"}",
        b'{"command": "ban", "addresses": [[], {}], "seconds": NaN}',
        b'{"command": "ban", "addresses": 7}',
        b'{"command": "ban", "addresses": ["fe80::1%x; flush ruleset/128"]}',
        b'{"command": "release", "addresses": [null]}',
        b'{"command": "why"}',
    )
    for request in hostile:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(daemon.folder / "sock"))
            peer.sendall(request + b"\n")
            assert json.loads(peer.makefile().readline())["code"] == 2, request
    assert daemon.banned() == []
    assert daemon.ask("ban", "fe80::1%eth0").returncode == 2
    assert daemon.ask("ban", "::ffff:198.51.100.0/120").returncode == 0
    assert daemon.banned() == ["198.51.100.0/24"]


def test_a_note_in_another_encoding(daemon: Live) -> None:
    """What a Latin-1 terminal types comes as half a surrogate pair, which SQLite refuses."""
    daemon.start()
    assert daemon.ask("ban", SENDER, "--note", os.fsdecode(b"Caf\xe9")).returncode == 0
    assert daemon.json("status")["ledger"]["waiting"] == 0
    assert "Caf?" in daemon.ask("list").stdout
    assert daemon.ask("release", SENDER, "--note", os.fsdecode(b"\xff")).returncode == 0


def test_an_old_offence_does_not_shorten_a_ban_by_hand(daemon: Live, network: Network) -> None:
    daemon.start()
    assert daemon.ask("ban", SENDER, OTHER, "--for", "7d").returncode == 0
    before = daemon.json("list")
    daemon.write(viruses(SENDER, 5, time.time() - 7200) + viruses(OTHER, 5, time.time() - 600))
    until(lambda: daemon.json("status")["bans"] == 4, "the decisions")
    assert daemon.json("list") == before
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.json("list") == before
    assert not network.connects(SERVER4, 25, SENDER)


def test_what_exim_tells_syslog_twice_is_one_offence(daemon: Live) -> None:
    """In a log that is the only one, as in several."""
    daemon.configure(log="filters = exim\ntimezone = UTC\n")
    daemon.log.touch()
    daemon.start()
    now = time.time()
    head = f"{stamp(now)} mx exim[7]: H=(z) [{SENDER}] F=<a@b.example> rejected RCPT"
    lines = [f"{head} <u{n}@far.example>: relay not permitted" for n in range(4)]
    daemon.write([line for line in lines for _ in ("main", "reject")])
    until(lambda: daemon.status()["events"], "all eight, which are read at once")
    assert daemon.status()["events"] == {"relay": {"exim": 4}}
    daemon.write([line.replace("far.", "fur.") for line in lines[:1] for _ in ("main", "reject")])
    until(lambda: daemon.held() == {SENDER}, "the fifth")


def test_no_question_falls_between_two_runs(daemon: Live) -> None:
    daemon.start()
    assert daemon.process
    path = str(daemon.folder / "sock")
    for number in range(1, 4):
        daemon.process.send_signal(signal.SIGHUP)
        while daemon.errors.read_text().count(": ready:") == number:
            assert control.ask(path, {"command": "list"})["ok"] == []
    assert daemon.stop() == 0
    assert not os.path.exists(path)


def test_a_reload_that_this_host_cannot_follow(daemon: Live) -> None:
    """No such group, a folder as a log, a socket's path too long: said, and the daemon goes on as before."""
    daemon.start()
    good = daemon.conf.read_text()
    assert daemon.process
    for number, (old, new) in enumerate(
        (
            ("[daemon]\n", "[daemon]\ngroup = nosuchgroup\n"),
            (f"[log {daemon.log}]", f"[log {daemon.folder}]"),
            (f"socket = {daemon.folder}/sock", f"socket = {daemon.folder}/{'x' * 100}"),
        ),
        1,
    ):
        daemon.conf.write_text(good.replace(old, new))
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: daemon.errors.read_text().count("going on as before") == number, "the refusal")  # noqa: B023
    daemon.conf.write_text(good)
    assert daemon.json("status")["ready"]
    daemon.stop()
    daemon.conf.write_text(good.replace("[daemon]\n", "[daemon]\ngroup = nosuchgroup\n"))
    assert f"{daemon.conf}:2: there is no group" in daemon.ask("run").stderr


def test_stopped_while_it_reads_a_large_log(daemon: Live) -> None:
    """SIGTERM is obeyed at once, `status` answers meanwhile, and the position stays."""
    daemon.write([f"{stamp(time.time())} mx postfix/smtpd[1]: connect from unknown[198.51.100.1]"] * 20)
    daemon.log.write_bytes(daemon.log.read_bytes() * 60_000)
    daemon.launch()
    until(lambda: daemon.ask("status", "--json").stdout, "an answer")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.errors.read_text()


def test_what_is_allowed_by_a_reload_is_released(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.configure(allow=SENDER)
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.held() == set(), "the release")
    until(lambda: daemon.ask("status").returncode == 0, "ready")
    assert daemon.banned() == []


def test_the_socket_is_no_reason_to_delete_a_file(daemon: Live) -> None:
    (daemon.folder / "sock").write_text("precious")
    refused = daemon.ask("run")
    assert (refused.returncode, refused.stderr.count("no socket")) == (69, 1)
    assert (daemon.folder / "sock").read_text() == "precious"


def test_a_deleted_table_comes_back_with_every_ban(daemon: Live, network: Network) -> None:
    daemon.start()
    assert daemon.ask("ban", SENDER, "2001:db8:7::/48", "--for", "2h").returncode == 0
    network.server.check("nft", "delete", "table", "inet", "denyspam")
    daemon.write(viruses(OTHER, 5))
    until(lambda: OTHER in daemon.banned(), "the ban")
    until(lambda: all(not network.connects(SERVER4, 25, one) for one in (SENDER, OTHER)), "both in the kernel")
    until(lambda: daemon.json("status")["pending"] == 0, "all taken")
    assert not daemon.json("status")["firewall"]["fault"]


def test_a_ledger_damaged_inside_is_set_aside_and_the_bans_adopted(daemon: Live) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    daemon.stop()
    ledger = daemon.folder / "state" / "ledger.db"
    data = bytearray(ledger.read_bytes())
    for page in range(1, len(data) // 4096):  # the header and the schema stay sound: only reading the tables fails
        data[4096 * page : 4096 * page + 512] = b"\xaa" * 512
    ledger.write_bytes(data)
    daemon.start()
    assert re.search("the ledger (is|was) damaged", daemon.errors.read_text())
    assert [(ban["address"], ban["rule"]) for ban in daemon.json("list")] == [(SENDER, "adopted")]
    assert list(ledger.parent.glob("ledger.db.damaged-*"))


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table inet denyspam",
        "flush table inet denyspam",
        "delete element inet denyspam {v4} {{ " + SENDER + " }}",
        "add element inet denyspam {v4} {{ " + OTHER + " timeout 1h }}",
    ],
)
def test_somebody_else_changes_our_part_of_the_firewall(daemon: Live, network: Network, harm: str) -> None:
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: daemon.held() == {SENDER}, "the ban")
    sets = json.loads(network.server.check("nft", "-j", "list", "sets", "inet"))["nftables"]
    v4 = next(each["set"]["name"] for each in sets if each.get("set", {}).get("type") == "ipv4_addr")
    network.server.check("nft", "-f", "-", text=harm.format(v4=v4) + "\n")

    def mended() -> bool:
        status = daemon.json("status")["firewall"]
        return "changed our part" in daemon.errors.read_text() and not status["waiting"] and daemon.held() == {SENDER}

    if not harm.startswith("flush table"):
        until(mended, "the mending")
    until(lambda: not network.connects(SERVER4, 25, SENDER), "refused again")
    assert network.connects(SERVER4, 25, OTHER)
    assert daemon.banned() == [SENDER]


HOLDS = """
import socket
server = socket.create_server(("", 26))
print("x", end="", flush=True)
held = []
while True:
    held.append(server.accept())
"""
STAYS = """
import socket
client = socket.create_connection(({server!r}, 26), 30, ({source!r}, 0))
print("x", end="", flush=True)
client.settimeout(None)
try: client.recv(1)
except ConnectionError: pass
"""


@contextmanager
def running(namespace: Namespace, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that says x when it is at work."""
    process = namespace.popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.read(1) == b"x"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_ban_ends_the_open_session(daemon: Live, network: Network) -> None:
    daemon.configure(ports="26")
    daemon.start()
    with (
        running(network.server, HOLDS),
        running(network.client, STAYS.format(server=SERVER4, source=SENDER)) as spammer,
        running(network.client, STAYS.format(server=SERVER4, source=OTHER)) as innocent,
    ):
        daemon.write(viruses(SENDER, 5))
        until(lambda: daemon.json("status")["firewall"]["ended"] == 1, "the end of the session")
        assert spammer.wait(60) == 0
        assert innocent.poll() is None


def test_files_as_the_action(daemon: Live) -> None:
    path = daemon.folder / "banned.cidr"
    daemon.configure(action="files", list=str(path), format="postfix")
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: path.exists() and SENDER in path.read_text(), "the list")
    assert daemon.ask("release", SENDER).returncode == 0
    until(lambda: SENDER not in path.read_text(), "the release")


def test_a_command_as_the_action(daemon: Live) -> None:
    path = daemon.folder / "told"
    daemon.configure(action="command", command=f"/bin/sh -c 'cat >> {path}'")
    daemon.start()
    daemon.write(viruses(SENDER, 5))
    until(lambda: path.exists() and f"ban {SENDER} " in path.read_text(), "the ban")
    assert daemon.ask("release", SENDER).returncode == 0
    until(lambda: f"release {SENDER}" in path.read_text(), "the release")
