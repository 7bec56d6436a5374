"""Senders one must not lose, and the fuse: a real daemon, a real kernel, a real name server, in a private network."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from live import Live, events, stamp, until, virus, viruses
from netns import CLIENTS4, CLIENTS6, SERVER4, Network

from denyspam.ledger import Ledger, verdicts

HERE = Path(__file__).parent
PORT = 5353
GOOGLE, STRANGER, LIAR, OTHER = CLIENTS4[:4]
DAY = 86_400.0
ROOT = {". NS": ["a.root-servers.net."]}


class Resolver:
    """A name server in the daemon's namespace, and its zone."""

    def __init__(self, folder: Path, network: Network) -> None:
        self._zone = folder / "zone.json"
        self._log = folder / "questions"
        self._network = network
        self.zone(ROOT)
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, str(HERE / "nameserver.py"), str(PORT), str(self._zone)]
            self._process = self._network.server.popen(command, stdout=log)
        before = self._log.read_text().count("ready\n")
        until(lambda: self._log.read_text().count("ready\n") > before or before, "the name server")

    def zone(self, records: dict[str, Sequence[str]]) -> None:
        part = self._zone.with_suffix(".new")
        part.write_text(json.dumps(records))
        os.replace(part, self._zone)

    def hosts(self, names: dict[str, str], **more: Sequence[str]) -> None:
        """Names that are confirmed: address -> name."""
        found: dict[str, Sequence[str]] = {**ROOT, **more}
        for address, name in names.items():
            found[pointer(address)] = [f"{name}."]
            found[f"{name}. A"] = [address]
        self.zone(found)

    def asked(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if line != "ready"]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def pointer(address: str) -> str:
    return f"{'.'.join(reversed(address.split('.')))}.in-addr.arpa. PTR"


@pytest.fixture
def resolver(tmp_path: Path, network: Network) -> Iterator[Resolver]:
    made = Resolver(tmp_path, network)
    yield made
    made.stop()


def configure(daemon: Live, *sections: str, **keys: str) -> None:
    daemon.configure(**keys)
    with daemon.conf.open("a") as conf:
        conf.writelines(f"{section}\n" for section in sections)


SENDERS = f"[senders]\nresolver = 127.0.0.1 port {PORT}"
PROVIDERS = f"{SENDERS}\naccepted = no"
PATIENT = f"{PROVIDERS}\npatience = 30s"  # where no answer may come too late on a slow machine


def accepted(address: str, when: float) -> list[str]:
    """What postfix prints of a message that it takes."""
    queue_id = f"4A{os.urandom(6).hex().upper()}"
    return [
        f"{stamp(when)} mx postfix/smtpd[2034]: {queue_id}: client=unknown[{address}]",
        f"{stamp(when)} mx postfix/qmgr[1999]: {queue_id}: from=<a@b.example>, size=325, nrcpt=1 (queue active)",
    ]


def refused(address: str, when: float) -> str:
    return (
        f"{stamp(when)} mx postfix/smtpd[2034]: NOQUEUE: reject: RCPT from unknown[{address}]: 554 5.7.1 Service "
        f"unavailable; Client host [{address}] blocked using dnsbl.example; from=<a@b.example> to=<u@example.org> "
        "proto=ESMTP helo=<b>"
    )


def known(address: str, days: int = 3) -> list[str]:
    """Mail accepted from it on each of the last days before today."""
    today = time.time() // DAY * DAY
    return [line for day in range(days, 0, -1) for line in accepted(address, today - day * DAY + 60)]


def alarms(daemon: Live) -> list[str]:
    return [each["name"] for each in daemon.json("status")["alarms"]]


def test_a_provider_is_told_of_and_not_banned(daemon: Live, network: Network, resolver: Resolver) -> None:
    resolver.hosts({GOOGLE: "mail-wr1-f41.google.com", STRANGER: "mail-wr1-f41.google.com.bot.example"})
    records = json.loads((daemon.folder / "zone.json").read_text())
    resolver.zone({**records, pointer(LIAR): ["mail-wr1-f41.google.com."]})  # his own word, which google does not back
    configure(daemon, PATIENT)
    daemon.start()
    for address in (GOOGLE, STRANGER, LIAR, OTHER):
        daemon.write(viruses(address, 5))
    until(lambda: daemon.held() == {STRANGER, LIAR, OTHER}, "the others' bans")
    (spared,) = until(lambda: daemon.json("list", "--withheld"), "google's")
    assert (spared["address"], spared["state"], spared["hits"]) == (GOOGLE, "withheld", 5)
    assert spared["note"] == "spared: mail-wr1-f41.google.com, forward-confirmed"
    assert sorted(daemon.banned()) == sorted([STRANGER, LIAR, OTHER])
    status = daemon.json("status")
    assert (status["active"], status["withheld"], status["pending"]) == (3, 1, 0)
    why = daemon.ask("why", GOOGLE)
    assert why.returncode == 1
    assert "withheld" in why.stdout
    assert "mail-wr1-f41.google.com, forward-confirmed" in why.stdout
    assert why.stdout.count("Eicar-Signature") == 5
    assert f"withheld {GOOGLE} for 1h: virus 5 in 15m (postfix): spared: mail-wr1-f41.g" in daemon.errors.read_text()
    assert network.connects(SERVER4, 25, GOOGLE)
    # One look-up of the pointer for each, and one of the name only where it claims to be a provider's.
    pointers = {pointer(each) for each in (GOOGLE, STRANGER, LIAR, OTHER)}
    assert {*resolver.asked()} - {*ROOT} == pointers | {"mail-wr1-f41.google.com. A"}
    # Over a restart, and over somebody's flush, it stays as it is; by hand it is banned all the same.
    daemon.stop(signal.SIGKILL)
    network.server.check("nft", "flush", "ruleset")
    daemon.start()
    until(lambda: daemon.held() == {STRANGER, LIAR, OTHER}, "the bans again")
    assert [each["note"] for each in daemon.json("list", "--withheld")] == [spared["note"]]
    assert daemon.ask("ban", GOOGLE).returncode == 0
    assert daemon.json("list", "--withheld") == []
    assert GOOGLE in daemon.held()


def test_a_ban_waits_for_dns_two_seconds_at_most(daemon: Live, resolver: Resolver) -> None:
    resolver.zone({**ROOT, "*": ["SILENT"]})  # zones that do not answer: the resolver itself does
    configure(daemon, PROVIDERS, "unanswered = notice")
    daemon.start()
    daemon.write(viruses(STRANGER, 5))
    until(lambda: daemon.held() == {STRANGER}, "the ban")
    assert "1 ban carried out unverified: DNS took longer than 2 s" in daemon.errors.read_text()
    assert alarms(daemon) == []


def test_a_provider_is_taken_back_after_a_flood(daemon: Live, network: Network, resolver: Resolver) -> None:
    """Of hosts whose zones are silent, as many as keep every question in flight for longer than a ban waits."""
    resolver.hosts({GOOGLE: "mail.google.com"}, **{"*": ["SILENT"]})
    configure(daemon, PROVIDERS, "patience = 1s")
    daemon.start()
    strangers = [f"198.51.100.{number}" for number in range(100)]
    daemon.write([line for address in [*strangers, GOOGLE] for line in viruses(address, 5)])
    until(lambda: "spared, late" in "".join(each["note"] for each in daemon.json("list", "--withheld")), "google's")
    until(lambda: daemon.held() == {*strangers}, "the flood's bans")
    (spared,) = daemon.json("list", "--withheld")
    assert (spared["address"], spared["note"]) == (GOOGLE, "spared, late: mail.google.com, forward-confirmed")
    assert network.connects(SERVER4, 25, GOOGLE)
    daemon.stop()
    daemon.start()
    assert daemon.held() == {*strangers}


@pytest.mark.parametrize("unanswered", ["ban", "notice"])
def test_a_dead_resolver(daemon: Live, resolver: Resolver, unanswered: str) -> None:
    resolver.zone({"*": ["SERVFAIL"]})
    configure(daemon, PROVIDERS, f"unanswered = {unanswered}")
    daemon.start()
    daemon.write(viruses(STRANGER, 5))
    listed = ("list", "--withheld") if unanswered == "notice" else ("list",)
    until(lambda: [each["state"] for each in daemon.json(*listed)] in (["active"], ["withheld"]), "the decision")
    until(lambda: alarms(daemon) == ["resolver"], "the alarm")
    assert "ALARM resolver" in daemon.ask("status").stdout
    assert daemon.held() == ({STRANGER} if unanswered == "ban" else set())
    resolver.hosts({GOOGLE: "mail.google.com"})
    until(lambda: alarms(daemon) == [], "the resolver is back")
    daemon.write(viruses(GOOGLE, 5))
    until(lambda: any("forward-confirmed" in each["note"] for each in daemon.json("list", "--withheld")), "google's")


def test_killed_while_it_waits(daemon: Live, resolver: Resolver) -> None:
    """Whoever waits for a name waits for it again; nobody is forgotten and nobody banned unasked."""
    resolver.zone({**ROOT, "*": ["SILENT"]})
    configure(daemon, PATIENT)
    daemon.start()
    daemon.write(viruses(GOOGLE, 5) + viruses(STRANGER, 5))
    until(lambda: [each["state"] for each in daemon.json("list", "--withheld")] == 2 * ["waiting"], "waiting")
    daemon.stop(signal.SIGKILL)
    resolver.hosts({GOOGLE: "mail.google.com"})
    daemon.start()
    until(lambda: daemon.held() == {STRANGER}, "the stranger's ban")
    (spared,) = until(lambda: daemon.json("list", "--withheld"), "google's")
    assert (spared["address"], spared["note"]) == (GOOGLE, "spared: mail.google.com, forward-confirmed")


def test_hostile_names(daemon: Live, resolver: Resolver) -> None:
    many = [f"h{number}.google.com." for number in range(30)]
    resolver.zone(
        {
            **ROOT,
            pointer(GOOGLE): ["a\\032b.google.com.", "evil\\027[2J.google.com."],
            pointer(STRANGER): many,
            pointer(LIAR): ["google.com.bot.example.", "notgoogle.com."],
            pointer(OTHER): ["SERVFAIL"],
            **{f"{name} A": ["192.0.2.99"] for name in many},
        }
    )
    configure(daemon, PATIENT)
    daemon.start()
    for address in (GOOGLE, STRANGER, LIAR, OTHER):
        daemon.write(viruses(address, 5))
    until(lambda: daemon.held() == {GOOGLE, STRANGER, LIAR, OTHER}, "the bans")
    assert "\x1b" not in daemon.errors.read_text()
    assert len({each for each in resolver.asked() if each.endswith(" A")}) <= 4


def test_who_was_accepted_has_higher_limits(daemon: Live, network: Network) -> None:
    """And an offender of whom some spam came through has not."""
    configure(daemon, "[senders]\nproviders = no\naccepted = 3 days in 30d -> 3x")
    daemon.start()
    bad = [
        virus(STRANGER, time.time() // DAY * DAY - day * DAY + n, f"4B{day}{n}A") for day in (2, 1) for n in range(4)
    ]
    daemon.write(known(OTHER) + known(CLIENTS6[0]) + sorted(known(STRANGER) + bad, key=lambda line: line[:25]))
    until(lambda: events(daemon, "accept") == 9, "the accepted mail")
    daemon.write([line for _ in range(30) for line in accepted(LIAR, time.time())])  # today's spam that came through
    daemon.write(viruses(OTHER, 14) + viruses(CLIENTS6[1], 14) + viruses(STRANGER, 5) + viruses(LIAR, 5))
    until(lambda: daemon.held() == {STRANGER, LIAR}, "those who are not known")
    until(lambda: events(daemon, "virus") == 46, "all of it")
    assert "so it is known; limits are 3 times as high" in daemon.ask("why", OTHER).stdout
    assert "of the last 30 days 1 were good and 2 bad" in daemon.ask("why", STRANGER).stdout
    assert daemon.held() == {STRANGER, LIAR}
    # What is counted of them, and what they are known by, is there after a kill.
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert daemon.held() == {STRANGER, LIAR}
    daemon.write(viruses(OTHER, 1) + viruses(CLIENTS6[1], 1))
    until(lambda: len(daemon.held()) == 4, "the fifteenth virus")
    assert {each["hits"] for each in daemon.json("list") if each["address"] in (OTHER, "2001:db8:0:1::/64")} == {15}
    assert not network.connects(SERVER4, 25, OTHER)


def test_accepted_mail_is_counted_once_however_often_it_is_killed(daemon: Live) -> None:
    """What was heard and how far the log was read are written together."""
    configure(daemon, "[senders]\nproviders = no")
    daemon.start()

    def counted() -> int:
        with closing(sqlite3.connect(f"file:{daemon.folder / 'state' / 'ledger.db'}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT coalesce(sum(accepted), 0) FROM senders").fetchone()[0])

    written = 0
    for turn in range(4):
        for batch in range(20):
            now = time.time() // DAY * DAY + 60
            daemon.write([line for n in range(40) for line in accepted(f"198.51.100.{n + batch}", now)])
            written += 40
        until(lambda before=200 * turn: counted() > before, "some of it")
        daemon.stop(signal.SIGKILL)
        daemon.start()
    until(lambda: counted() >= written, "all of it")
    assert counted() == written


def test_replay_with_the_ledger_decides_alike(daemon: Live, resolver: Resolver) -> None:
    resolver.hosts({GOOGLE: "mail.google.com"})
    configure(daemon, SENDERS, "patience = 30s")
    daemon.start()
    daemon.write(known(OTHER))
    until(lambda: events(daemon, "accept") == 3, "the accepted mail")
    daemon.log.rename(daemon.folder / "mail.log.1")  # what the replay does not see
    daemon.write(viruses(OTHER, 14) + viruses(GOOGLE, 5) + viruses(STRANGER, 5))
    until(lambda: daemon.held() == {STRANGER}, "the ban")
    until(
        lambda: [each["address"] for each in daemon.json("list", "--withheld") if each["note"]] == [GOOGLE], "google's"
    )
    daemon.stop()
    replayed = daemon.ask("replay", str(daemon.log), "--json")
    assert [json.loads(line)["address"] for line in replayed.stdout.splitlines()] == [STRANGER]
    assert "1 ban left out that the daemon withheld" in replayed.stderr
    assert "without" not in replayed.stderr
    (daemon.folder / "state" / "ledger.db").unlink()
    replayed = daemon.ask("replay", str(daemon.log), "--json")
    assert [json.loads(line)["address"] for line in replayed.stdout.splitlines()] == [OTHER, GOOGLE, STRANGER]
    assert "no ledger" in replayed.stderr
    # Of a log in which the accepted mail stands, replay tells by itself who is known.
    both = [str(daemon.folder / "mail.log.1"), str(daemon.log)]
    replayed = daemon.ask("replay", *both, "--json")
    assert [json.loads(line)["address"] for line in replayed.stdout.splitlines()] == [GOOGLE, STRANGER]


def places(count: int) -> list[str]:
    return [f"100.{64 + number}.0.1" for number in range(count)]


FUSE = "[fuse]\nsenders = 80% in 15m"
POLICY = "virus = 5 in 15m -> ban 1h\nreject = 2 in 15m -> ban 1h\n"


def test_the_fuse(daemon: Live, network: Network) -> None:
    """A list that lists everybody: bans for refusals stop, those for viruses go on; over a kill; until resumed."""
    configure(daemon, FUSE, policy=POLICY)
    daemon.start()
    senders = places(30)
    daemon.write([line for address in senders for line in known(address)])
    until(lambda: events(daemon, "accept") == 90, "the accepted mail")
    now = time.time()
    daemon.write([line for address in senders for line in accepted(address, now - 1000)])
    daemon.write([refused(f"198.51.100.{n % 250}", now) for n in range(2) for n in range(200)])  # strangers: a storm
    until(lambda: len(daemon.held()) == 200, "the storm's bans")
    assert alarms(daemon) == []
    daemon.write([refused(address, now + 2) for address in senders])
    until(lambda: alarms(daemon) == ["fuse-blown"], "the fuse")
    daemon.write([refused(address, now + 3) for address in [*senders, STRANGER, STRANGER]] + viruses(OTHER, 5))
    until(lambda: OTHER in daemon.held(), "a virus is a virus")
    until(lambda: len(daemon.json("list", "--withheld")) == 31, "withheld")
    assert STRANGER not in daemon.held()
    assert "the fuse has blown, bans for reject are withheld" in daemon.errors.read_text()
    daemon.stop(signal.SIGKILL)
    daemon.start()
    until(lambda: alarms(daemon) == ["fuse-blown"], "the fuse as before")
    assert len(daemon.json("list", "--withheld")) == 31
    assert "ALARM fuse-blown" in daemon.ask("status").stdout
    done = daemon.ask("resume", "--ban")
    assert done.returncode == 0, done.stderr
    until(lambda: STRANGER in daemon.held(), "what was withheld")
    assert daemon.json("list", "--withheld") == []
    assert daemon.ask("resume").returncode == 1
    daemon.write(2 * [refused(GOOGLE, time.time())])
    until(lambda: GOOGLE in daemon.held(), "banning goes on")


def blown(daemon: Live) -> None:
    """A fuse that blew before the start, for what is refused."""
    configure(daemon, FUSE, policy=POLICY)
    (daemon.folder / "state").mkdir()
    ledger = Ledger(str(daemon.folder / "state" / "ledger.db"), 0)
    ledger.fact("fuse", json.dumps({"blown": [["reject", time.time(), "a test", 0, 0.0]], "resumed": {}}))
    ledger.close()
    daemon.start()
    daemon.write(2 * [refused(STRANGER, time.time())])
    until(lambda: len(daemon.json("list", "--withheld")) == 1, "withheld")


def hits(daemon: Live) -> int:
    """Of the stranger, up to now."""
    return sum(each["hits"] for each in daemon.json("why", STRANGER)["counts"])


def test_whose_bans_a_fuse_withheld_is_counted_again_once_it_is_resumed(daemon: Live) -> None:
    """From nothing, over a kill, and replay says the same."""
    blown(daemon)
    daemon.write(2 * [refused(STRANGER, time.time())])
    until(lambda: events(daemon, "reject") == 4, "those of one who is banned already")
    done = daemon.ask("resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 withheld ban over" in done.stdout
    assert daemon.json("list", "--withheld") == []
    assert "released" in daemon.ask("why", STRANGER).stdout
    resumed = time.time()
    daemon.write([refused(STRANGER, resumed + 1)])
    until(lambda: hits(daemon) == 1, "one more")
    daemon.stop(signal.SIGKILL)
    daemon.start()
    assert (daemon.held(), hits(daemon)) == (set(), 1)
    daemon.write([refused(STRANGER, resumed + 2)])
    until(lambda: daemon.held() == {STRANGER}, "banned as any other")
    (ban,) = daemon.json("list")
    (found,) = [json.loads(line) for line in daemon.ask("replay", str(daemon.log), "--json").stdout.splitlines()]
    assert (found["address"], found["time"], found["hits"]) == (STRANGER, ban["since"], 2)


def test_what_a_fuse_withheld_that_is_configured_no_more(daemon: Live) -> None:
    blown(daemon)
    daemon.stop()
    configure(daemon, policy=POLICY)
    daemon.start()
    until(lambda: daemon.json("list", "--withheld") == [], "over with it")
    assert "there is no fuse" in daemon.ask("resume").stderr
    daemon.write(2 * [refused(STRANGER, time.time() + 1)])
    until(lambda: daemon.held() == {STRANGER}, "banned as any other")


def test_a_proxy_in_front_is_said_and_not_banned(daemon: Live) -> None:
    configure(daemon, "[fuse]")
    daemon.start()
    today = time.time() // DAY * DAY
    daemon.write(
        [line for day in (3, 2, 1) for n in range(40) for line in accepted(GOOGLE, today - day * DAY + n * 60)]
    )
    until(lambda: events(daemon, "accept") == 120, "the accepted mail")
    daemon.write(viruses(GOOGLE, 5) + viruses(STRANGER, 5))
    until(lambda: daemon.held() == {STRANGER}, "the one behind no proxy")
    (spared,) = daemon.json("list", "--withheld")
    assert spared["note"].startswith("a proxy: all accepted mail")
    until(lambda: alarms(daemon) == ["proxy"], "the alarm")


def test_without_the_sections_nothing_is_looked_for(daemon: Live) -> None:
    daemon.start()
    daemon.write(known(OTHER) + viruses(OTHER, 5))
    until(lambda: daemon.held() == {OTHER}, "the ban")
    status = daemon.json("status")
    assert status["events"] == {"virus": {"postfix": 5}}
    assert status["guard"] is None
    daemon.stop()
    ledger = Ledger(str(daemon.folder / "state" / "ledger.db"), 0)
    assert (ledger.senders(), {"fuse", "front"} & {*ledger.facts()}) == ([], set())
    assert verdicts(ledger.path) == []
    ledger.close()


def test_a_list_of_ones_own(daemon: Live, resolver: Resolver) -> None:
    resolver.hosts({GOOGLE: "mail.google.com", STRANGER: "out.partner.example"})
    (daemon.folder / "providers").write_text("partner.example  # whom we do business with\n")
    configure(daemon, PATIENT)
    daemon.start()
    daemon.write(viruses(GOOGLE, 5) + viruses(STRANGER, 5))
    until(lambda: daemon.held() == {GOOGLE}, "the ban")
    until(lambda: daemon.json("list", "--withheld")[0]["note"].startswith("spared: out.partner"), "the partner")
    assert f"{daemon.folder / 'providers'}: 1 provider name\n" in daemon.ask("check").stdout
    (daemon.folder / "providers").write_text("partner.example\n\n<script>\n")
    check = daemon.ask("check")
    assert check.returncode == 78
    assert check.stderr.startswith(f"{daemon.folder / 'providers'}:3: '<script>' is no name of hosts")
