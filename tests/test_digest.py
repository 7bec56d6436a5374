"""What people are told: counted, bounded, and nothing but text whatever stood in the log."""

from __future__ import annotations

import json
from datetime import timezone
from email import message_from_string
from ipaddress import ip_network

from denyspam.alarms import Alarm, Change
from denyspam.digest import ALARMS, KEPT, TOP, Digest
from denyspam.events import Ban, Event, Target

NOW = 1_772_614_800.0
REASONS = {"virus": "virus 5 in 15m", "relay": "relay 5 in 15m"}


def ban(address: str, rule: str = "virus", hits: int = 5, line: bytes = b"a line") -> Ban:
    event = Event(NOW, rule, address, "postfix", None, None, "/l", 0, 1, line)
    return Ban(Target(ip_network(address), (25,)), rule, NOW, NOW + 3600, hits, (event,))


def alarm(name: str = "log-stopped", subject: str = "/l", text: str = "silent") -> Change:
    return Change(Alarm(name, subject, NOW - 600, text, ("a sample",)))


def text(digest: Digest, mode: str = "enforce") -> str:
    return digest.text("mx", mode, timezone.utc)


def test_nothing_is_no_digest() -> None:
    assert not Digest()


def test_what_it_tells() -> None:
    digest = Digest()
    digest.bans([ban("192.0.2.7"), ban("192.0.2.8", "relay", 9, b"another line")], REASONS, NOW)
    digest.bans([ban("192.0.2.7")], REASONS, NOW + 60)
    digest.withhold(2, NOW + 60)
    digest.change(alarm(), NOW + 61)
    digest.change(Change(alarm("firewall", "").alarm, NOW + 62), NOW + 62)
    assert digest
    assert digest.subject("mx") == "denyspam on mx: 3 bans, 2 withheld, alarm log-stopped, 1 alarm over"
    assert text(digest) == (
        "denyspam on mx: 3 bans, 2 withheld, alarm log-stopped, 1 alarm over\n"
        "\n"
        "ALARM since 2026-03-04 08:50:00: log-stopped /l\n"
        "    silent\n"
        "    for example: a sample\n"
        "\n"
        "OVER since 2026-03-04 09:01:02, after 11m2s: firewall\n"
        "\n"
        "2 bans withheld; `denyspam list --withheld` tells why.\n"
        "\n"
        "3 bans, 2026-03-04 09:00:00 to 2026-03-04 09:01:02:\n"
        "         2  virus\n"
        "         1  relay\n"
        "\n"
        "Most often banned, or for most hits:\n"
        "  192.0.2.7  2 times, 10 hits, virus 5 in 15m, until 2026-03-04 10:00:00\n"
        "      a line\n"
        "  192.0.2.8  9 hits, relay 5 in 15m, until 2026-03-04 10:00:00\n"
        "      another line\n"
        "\n"
        "`denyspam why ADDRESS` tells why, `denyspam release ADDRESS` lifts a ban.\n"
    )
    assert "3 bans that mode = watch did not carry out" in text(digest, "watch")
    data = json.loads(json.dumps(digest.data("mx", "enforce")))
    assert (data["bans"], data["policies"], data["from"], data["to"]) == (3, {"virus": 2, "relay": 1}, NOW, NOW + 62)
    assert data["withheld"] == 2
    assert [each["address"] for each in data["addresses"]] == ["192.0.2.7", "192.0.2.8"]
    assert [(each["name"], each["ended"]) for each in data["alarms"]] == [("log-stopped", None), ("firewall", NOW + 62)]
    assert data["text"].splitlines() == [digest.subject("mx"), "alarm log-stopped /l: silent", "over: firewall"]


def test_a_burst_is_small() -> None:
    digest = Digest()
    for hundred in range(200):
        addresses = [f"198.18.{hundred}.{n}" for n in range(100)]
        digest.bans([ban(address, line=b"\xff" * 1000) for address in addresses], REASONS, NOW + hundred)
    assert digest.count == 20_000
    assert len(digest._addresses) <= 2 * KEPT
    assert len(text(digest)) < 20_000
    assert text(digest).count(" 5 hits, virus") == TOP
    assert "and others" in text(digest)
    assert len(json.dumps(digest.data("mx", "enforce"))) < 20_000


def test_the_worst_stay_on_the_list() -> None:
    digest = Digest()
    digest.bans([ban("192.0.2.7")] * 3, REASONS, NOW)
    digest.bans([ban("192.0.2.8", hits=5000)], REASONS, NOW)
    for third in range(100):
        digest.bans([ban(f"198.18.{third}.{n}") for n in range(100)], REASONS, NOW)
    listed = [each["address"] for each in digest.data("mx", "enforce")["addresses"]]
    assert listed[:2] == ["192.0.2.7", "192.0.2.8"]


def test_many_alarms_are_bounded() -> None:
    digest = Digest()
    for number in range(1000):
        digest.change(alarm(subject=f"/{number}", text="x" * 10_000), NOW)
    assert f"{1000 - ALARMS} earlier changes of alarms left out" in text(digest)
    assert len(digest.data("mx", "enforce")["alarms"]) == ALARMS
    assert len(digest.data("mx", "enforce")["text"]) < 6000
    assert max(map(len, text(digest).splitlines())) < 998  # RFC 5322


def test_what_could_not_be_sent_goes_before() -> None:
    older, newer = Digest(), Digest()
    older.bans([ban("192.0.2.7"), ban("192.0.2.9", "relay")], REASONS, NOW)
    older.change(alarm(), NOW)
    newer.bans([ban("192.0.2.7", hits=7)], REASONS, NOW + 900)
    newer.before(older)
    newer.before(Digest())
    data = newer.data("mx", "enforce")
    assert (data["bans"], data["policies"], data["from"], data["to"]) == (3, {"virus": 2, "relay": 1}, NOW, NOW + 900)
    (first, second) = data["addresses"]
    assert (first["address"], first["bans"], first["hits"]) == ("192.0.2.7", 2, 12)
    assert second["address"] == "192.0.2.9"
    assert len(data["alarms"]) == 1
    for _ in range(10_000):  # for a month without a mail server
        again = Digest()
        again.bans([ban("192.0.2.7")], REASONS, NOW)
        again.change(alarm(), NOW)
        again.before(newer)
        newer = again
    assert newer.count == 10_003
    assert len(text(newer)) < 20_000


def test_log_text_is_nothing_but_text() -> None:
    hostile = (
        b"\r\n.\r\nBcc: all@example.org\r\n\r\nFrom mallory\n\x1b[2Jhttps://evil.example/ <img src=x> \xff @channel"
    )
    digest = Digest()
    digest.bans([ban("192.0.2.7", line=hostile)], REASONS, NOW)
    shown = text(digest)
    assert shown.isascii()
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert "://" not in shown
    assert "      \\x0d\\x0a.\\x0d\\x0aBcc: all@example.org" in shown
    assert not [line for line in shown.splitlines() if line.startswith((".", "From ", "Bcc"))]
    data = digest.data("mx", "enforce")
    assert "channel" not in data["text"]
    assert message_from_string(f"Subject: {digest.subject('mx')}\n\n{shown}").keys() == ["Subject"]


def test_a_host_with_a_mad_name() -> None:
    digest = Digest()
    digest.bans([ban("192.0.2.7")], REASONS, NOW)
    subject = digest.subject("mx\r\nBcc: x\x00" + "y" * 1000)
    assert subject.isprintable()
    assert len(subject) <= 150
