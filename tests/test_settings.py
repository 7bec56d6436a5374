"""denyspam.conf: what it means, and what every mistake in it is told."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from denyspam.events import SettingsError
from denyspam.settings import LogSettings, Settings, parse

MINIMAL = "[log /var/log/mail.log]\nfilters = postfix\n[policy]\nvirus = 5 in 15m -> ban 1h\n"


def daemon(*lines: str) -> Settings:
    return parse("[daemon]\n" + "".join(f"{line}\n" for line in lines) + MINIMAL, "x.conf")


def wrong(text: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse(text, "x.conf")
    return str(error.value)


def test_the_least_that_is_enough() -> None:
    settings = parse(MINIMAL, "x.conf")
    assert settings.logs == (LogSettings("/var/log/mail.log", ("postfix",), line=2),)
    (policy,) = settings.policies
    assert (policy.name, policy.kind, policy.hits, policy.within, policy.duration) == ("virus", "virus", 5, 900, 3600)
    assert (settings.ports, settings.ipv6_prefix, settings.mode, settings.action) == ((25,), 64, "enforce", "nftables")
    assert settings.state == "/var/lib/denyspam"
    assert settings.socket == "/run/denyspam/denyspam.sock"


def test_values() -> None:
    settings = daemon(
        "ports = 25, 465  # both",
        "allow = 192.0.2.0/24,",
        "   2001:db8::1",
        "; a comment",
        "verdict = drop",
        "history = 7d",
        "mode = watch",
    )
    assert settings.ports == (25, 465)
    assert settings.allow == (ip_network("192.0.2.0/24"), ip_network("2001:db8::1"))
    assert (settings.verdict, settings.history, settings.mode) == ("drop", 7 * 86_400, "watch")


def test_where_metrics_are_served() -> None:
    assert daemon().metrics is None
    assert daemon("metrics = none").metrics is None
    assert daemon("metrics = 127.0.0.1:9826").metrics == ("127.0.0.1", 9826)
    assert daemon("metrics = [::1]:9826").metrics == ("::1", 9826)
    assert daemon("metrics = /run/denyspam/metrics.sock").metrics == "/run/denyspam/metrics.sock"
    assert daemon("metrics = 192.0.2.1:9826", "metrics_remote = yes").metrics == ("192.0.2.1", 9826)


def test_windows_line_ends_tabs_and_a_byte_order_mark() -> None:
    text = "\ufeff" + MINIMAL.replace("\n", "\r\n").replace(" = ", "\t=\t")
    assert parse(text, "x.conf").logs[0].filters == ("postfix",)


def test_several_logs_and_policies_keep_their_order() -> None:
    text = "[policy]\nrelay.slow = 50 in 1d -> ban 1d\nany = 9 in 1h -> ban 1h\n[log /b]\n[log /a]\ntimezone = UTC\n"
    settings = parse(text, "x.conf")
    assert [log.path for log in settings.logs] == ["/b", "/a"]
    assert settings.logs[0].filters == ("auto",)
    assert [policy.name for policy in settings.policies] == ["relay.slow", "any"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prots = 25", "x.conf:2: unknown key 'prots' in [daemon]; write one of state, socket"),
        ("ports = 25\nports = 26", "x.conf:3: 'ports' stands twice"),
        ("ports = 70000", "x.conf:2: '70000' is out of range; write a whole number from 1 to 65535"),
        ("ports = 25, 587", "x.conf:2: port 587 is where your own users submit mail from"),
        ("ports =", "x.conf:2: no port given"),
        ("ports = 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "x.conf:2: 16 ports are more than a firewall rule takes"),
        ("allow = 192.0.2.7/24", "x.conf:2: '192.0.2.7/24' has bits set behind its prefix; write 192.0.2.0/24"),
        ("allow = mail.example.org", "x.conf:2: 'mail.example.org' is no address or network; write 192.0.2.7"),
        ("mode = off", "x.conf:2: 'off' is not known here; write enforce or watch"),
        ("state = var/lib", "x.conf:2: 'var/lib' is no absolute path"),
        ("ipv6_prefix = 12", "x.conf:2: '12' is out of range; write a whole number from 32 to 128"),
        ("history = soon", "x.conf:2: "),
        ("metrics = 9826", "x.conf:2: '9826' is no place to serve metrics; write 127.0.0.1:9826"),
        ("metrics = localhost:9826", "x.conf:2: 'localhost:9826' is no place to serve metrics"),
        ("metrics = 127.0.0.1:0", "x.conf:2: '0' is out of range; write a whole number from 1 to 65535"),
        (
            "metrics = 0.0.0.0:9826",
            "x.conf:2: other hosts reach 0.0.0.0; write 127.0.0.1 or [::1], or add `metrics_remote",
        ),
        ("metrics = [::]:9826", "x.conf:2: other hosts reach ::"),
        ("metrics = run/sock", "x.conf:2: 'run/sock' is no place to serve metrics"),
        ("nonsense", "x.conf:2: 'nonsense' is no setting; write `key = value`"),
        ("[daemon]", "x.conf:2: [daemon] stands twice"),
        (
            "[deamon]",
            "x.conf:2: unknown section '[deamon]'; write [daemon], [log PATH], [journal], [syslog PLACE], [policy], "
            "[senders], [fuse] or [notify]",
        ),
        ("[log]", "x.conf:2: [log] names no file"),
        ("[log mail.log]", "x.conf:2: 'mail.log' is no absolute path"),
        ("[log /x", "x.conf:2: '[log /x' has no closing bracket"),
        ("[log /x]\ntimezone = Mars/Olympus", "x.conf:3: 'Mars/Olympus' is no time zone"),
        ("[log /x]\nfilters = a, a", "x.conf:3: a filter is named twice"),
        ("[log /x]\nfilters = auto, postfix", "x.conf:3: `auto` means all shipped filters"),
        ("[log /x]\nfilter = a", "x.conf:3: unknown key 'filter' in [log /x]; write one of filters"),
    ],
)
def test_mistakes(line: str, message: str) -> None:
    assert wrong(f"[daemon]\n{line}\n{MINIMAL}").startswith(message)


def test_what_is_missing_is_told_at_the_end() -> None:
    missing = "x.conf:1: no [log PATH] section; write for example `[log /var/log/mail.log]`, or `[journal]`"
    assert wrong("") == missing
    assert wrong("[daemon]\nports = 25\n[log /a]\n").startswith("x.conf:3: no [policy] section")
    assert wrong("[log /a]\n[policy]\n").startswith("x.conf:2: [policy] is empty")
    assert wrong("ports = 25\n").startswith("x.conf:1: 'ports' stands before any section")


@pytest.mark.parametrize(
    "sentence",
    ["5 in 15m", "five in 15m -> ban 1h", "0 in 15m -> ban 1h", "5 in 15m -> ban 1h, by moon", "", "5 in -> ban"],
)
def test_a_policy_that_is_none_names_its_line(sentence: str) -> None:
    assert wrong(MINIMAL + f"relay = {sentence}\n").startswith("x.conf:5")


def test_a_message_quotes_a_hundred_characters_at_most() -> None:
    for text in (
        "x" * 10_000,
        "x" * 10_000 + " = 1",
        "mode = " + "y" * 10_000,
        "[" + "z" * 10_000 + "]",
        "[log /" + "w" * 9999 + "]\nq = 1",
    ):
        message = wrong(f"[daemon]\n{text}\n{MINIMAL}")
        assert "xxxx" * 26 not in message
        assert len(message) < 400


def test_kinds_come_from_the_six_or_from_filters() -> None:
    settings = parse(MINIMAL + "flood = 5 in 1m -> ban 1h\n", "x.conf")
    settings.check_kinds(frozenset(["flood"]))
    with pytest.raises(SettingsError, match=r"^x\.conf:5: no filter knows the kind 'flood'; write one of virus"):
        settings.check_kinds(frozenset())


@pytest.mark.parametrize(
    "line", ["ports = 00000000002599999", "ports = " + "1" * 5000, "capacity = 0000000010000", "socket = /" + "x" * 107]
)
def test_numbers_and_paths_too_long(line: str) -> None:
    with pytest.raises(SettingsError, match=r"^c:2: "):
        parse(f"[daemon]\n{line}\n[log /a]\n[policy]\nvirus = 5 in 15m -> ban 1h\n", "c")


def test_sources() -> None:
    text = """
[log -]
filters = postfix
[log /var/log/exim4/*.log]
[journal]
units = postfix, dovecot.service
match = PRIORITY=4 PRIORITY=5 + _COMM=spamd
[journal /var/log/journal/remote]
[syslog /run/denyspam/log]
group = adm
[syslog 127.0.0.1:5514]
stamp = none
[syslog [::]:514]
from = 192.0.2.0/24, 2001:db8::/32
[policy]
virus = 5 in 15m -> ban 1h
"""
    stdin, glob, journal, remote, unix, udp, far = parse(text, "x.conf").logs
    assert (stdin.path, stdin.kind, glob.path) == ("-", "log", "/var/log/exim4/*.log")
    assert (journal.path, journal.kind, journal.units) == ("journal", "journal", ("postfix", "dovecot.service"))
    assert journal.match == ("PRIORITY=4", "PRIORITY=5", "+", "_COMM=spamd")
    assert (remote.path, remote.place) == ("journal /var/log/journal/remote", "/var/log/journal/remote")
    assert (unix.path, unix.place, unix.group) == ("syslog /run/denyspam/log", "/run/denyspam/log", "adm")
    assert (udp.path, udp.place, udp.stamp) == ("syslog 127.0.0.1:5514", ("127.0.0.1", 5514), "none")
    assert (far.place, [str(each) for each in far.peers]) == (("::", 514), ["192.0.2.0/24", "2001:db8::/32"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("[syslog]", "x.conf:1: [syslog] names no socket; write `[syslog /run/denyspam/log]`"),
        ("[syslog 0.0.0.0:514]", "x.conf:1: whoever reaches 0.0.0.0 could accuse anybody; write `from = "),
        ("[syslog 127.0.0.1]", "x.conf:1: '127.0.0.1' is no place to listen at; write"),
        ("[syslog 127.0.0.1:0]", "x.conf:1: '127.0.0.1:0' is no place to listen at; write"),
        ("[syslog localhost:514]", "x.conf:1: 'localhost:514' is no place to listen at; write"),
        ("[syslog 127.0.0.1:514]\ngroup = adm", "x.conf:2: a UDP socket has no group; write `from ="),
        ("[syslog /run/log]\nfrom = 192.0.2.1", "x.conf:2: a unix socket's writers have no address; write `group ="),
        ("[syslog /" + 200 * "x" + "]", "x.conf:1: a socket's path has at most 107 bytes"),
        ("[syslog /run/log]\nunits = x", "x.conf:2: unknown key 'units' in [syslog /run/log]; write one of filters"),
        ("[journal system]", "x.conf:1: 'system' is no absolute path; write `[journal /var/log/journal/remote]`"),
        ("[journal]\ntimezone = UTC", "x.conf:2: unknown key 'timezone' in [journal]; write one of filters, units"),
        ("[journal]\nunits = post*fix", "x.conf:2: 'post*fix' is no unit's name"),
        ("[journal]\nmatch = _PID", "x.conf:2: '_PID' is no match; write FIELD=VALUE"),
        ("[journal]\nmatch = _PID=1 +", "x.conf:2: write FIELD=VALUE, or several with +"),
        ("[journal /x]\nnamespace = mail", "x.conf:2: a folder has no namespaces; leave one of them out"),
    ],
)
def test_mistakes_in_sources(text: str, message: str) -> None:
    assert wrong(f"{text}\n[policy]\nvirus = 5 in 15m -> ban 1h\n").startswith(message)


def test_the_column_of_a_policy_is_that_of_its_line() -> None:
    for line, column in (("virus = 5 in 15 -> ban 1h", 14), ("virus=  5 in 15 -> ban 1h", 14)):
        with pytest.raises(SettingsError) as caught:
            parse(f"[log /var/log/mail.log]\nfilters = postfix\n[policy]\n{line}\n", "d.conf")
        assert (caught.value.line, caught.value.column) == (4, column), line
