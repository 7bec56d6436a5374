"""discover: a host's logs and its own relays, found in fake roots and by asking fake and real programs."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dns.message
import dns.rrset
import pytest

from denyspam import discover as module
from denyspam.discover import Found, Host, Log, configuration, discover, exchangers, run_program
from denyspam.plugins import Filters
from denyspam.settings import parse
from denyspam.setup import with_mode

KNOWN = ("exim", "postfix", "sendmail")
NOW = 1_800_000_000.0
POSTCONF = {"maillog_file": "", "mynetworks": "127.0.0.0/8 [::1]/128", "relayhost": "", "mydomain": "localdomain"}


class Maker:
    """A fake root folder, and a runner that answers from a table; what was asked and is not in it is None."""

    def __init__(self, root: Path) -> None:
        self.root, self.answers = root, dict[str, str]()
        self.mx: dict[str, list[str] | None] = {}

    def file(self, path: str, text: str = "x\n", age: float = 0.0) -> Maker:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        os.utime(place, (NOW - age, NOW - age))
        return self

    def answer(self, command: str, text: str) -> Maker:
        self.answers[command] = text
        return self

    def postfix(self, **parameters: str) -> Maker:
        self.file("/usr/sbin/postconf")
        for name, value in {**POSTCONF, **parameters}.items():
            self.answer(f"postconf -xh {name}", f"{value}\n")
        return self

    def exim(self, **options: str) -> Maker:
        self.file("/usr/sbin/exim4")
        for name, value in {"log_file_path": "/var/log/exim4/%slog", **options}.items():
            plus, kind = ("+", "hostlist ") if name.endswith("_hosts") else ("", "")
            self.answer(f"exim4 -bP {plus}{name}", f"{kind}{name} = {value}\n")
        return self

    def sendmail(self) -> Maker:
        return self.file("/usr/libexec/sendmail/sendmail")

    def rsyslog(self, rules: str) -> Maker:
        return self.file("/usr/sbin/rsyslogd").file("/etc/rsyslog.conf", rules)

    def names(self, table: Mapping[str, Sequence[str]]) -> Maker:
        for name, addresses in table.items():
            lines = (f"{address} {kind}\n" for address in addresses for kind in ("STREAM", "DGRAM"))
            self.answer(f"getent ahosts {name}", "".join(lines))
        return self

    def run(self, arguments: Sequence[str]) -> str | None:
        return self.answers.get(" ".join(arguments))

    def found(self) -> Found:
        host = Host(root=str(self.root), run=self.run, exchangers=lambda name: self.mx.get(name, []), now=NOW)
        return discover(host, KNOWN)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def allowed(found: Found) -> dict[str, str]:
    return {str(entry.network): entry.reason for entry in found.allow}


# --- the logs


def test_a_host_without_a_mail_server_has_nothing(make: Maker) -> None:
    make.file("/usr/sbin/rsyslogd").file("/etc/rsyslog.conf", "mail.* -/var/log/mail.log\n")
    assert make.found() == Found()


def test_postfix_writing_its_own_log(make: Maker) -> None:
    found = make.postfix(maillog_file="/var/log/postfix.log").found()
    assert found.servers == ("postfix",)
    assert [(log.path, log.filters) for log in found.logs] == [("/var/log/postfix.log", ("postfix",))]
    assert "maillog_file" in found.logs[0].reason


def test_postfix_in_a_container_logs_to_no_file(make: Maker) -> None:
    found = make.postfix(maillog_file="/dev/stdout").found()
    assert found.logs == ()
    assert "apt-get install rsyslog" in found.advice


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        ("mail.*\t\t-/var/log/mail.log\n", "/var/log/mail.log"),
        ("*.info;mail.none;authpriv.none /var/log/messages\nmail.*  -/var/log/maillog\n", "/var/log/maillog"),
        ("*.*;auth,authpriv.none -/var/log/syslog\nmail.info /srv/mail.info\nmail.err /srv/mail.err", "/srv/mail.info"),
        ("mail.err /var/log/mail.err\n*.*;auth.none -/var/log/syslog\n", "/var/log/syslog"),
        ("# mail.* /var/log/old\nnews,mail.info  /var/log/both # all\n", "/var/log/both"),
        ('mail.* action(type="omfile" file="/srv/log/mail" sync="off")', "/srv/log/mail"),
        ("if $syslogfacility-text == 'mail' then -/srv/rainer.log\n& stop", "/srv/rainer.log"),
        (':syslogfacility-text, isequal, "mail" /srv/property.log', "/srv/property.log"),
        ("mail.* |/dev/xconsole\nmail.* /dev/tty8\nmail.* @loghost\nmail.* /srv/this.log", "/srv/this.log"),
    ],
)
def test_the_syslog_configuration_tells_where_mail_goes(make: Maker, rules: str, path: str) -> None:
    found = make.postfix().rsyslog(rules).found()
    assert [(log.path, log.filters) for log in found.logs] == [(path, ("postfix",))]
    assert "syslog" in found.logs[0].reason


def test_syslog_ng(make: Maker) -> None:
    make.sendmail().file("/usr/sbin/syslog-ng").file(
        "/etc/syslog-ng/syslog-ng.conf",
        """
        destination d_err { file("/var/log/mail.err"); };
        destination d_mail { file("/srv/mail.log"); };
        filter f_err { level(err .. emerg); };
        filter f_mail { facility(mail) and not filter(f_debug); };
        log { source(s_src); filter(f_mail); filter(f_err); destination(d_err); };
        log { source(s_src); filter(f_mail); destination(d_mail); };
        """,
    )
    assert [log.path for log in make.found().logs] == ["/srv/mail.log"]


def test_drop_in_files_count(make: Maker) -> None:
    make.postfix().rsyslog("$IncludeConfig /etc/rsyslog.d/*.conf\n")
    make.file("/etc/rsyslog.d/50-default.conf", "mail.* /srv/drop-in.log\n")
    assert [log.path for log in make.found().logs] == ["/srv/drop-in.log"]


def test_without_a_log_and_a_journal_there_is_a_sentence(make: Maker) -> None:
    found = make.postfix().found()
    assert found.logs == ()
    assert "journal" in found.advice
    assert "postconf maillog_file=" in found.advice
    assert "\n" not in found.advice
    assert "postconf" not in Maker(make.root / "other").sendmail().found().advice


def test_the_journal_where_there_is_nothing_else(make: Maker) -> None:
    (make.root / "run/systemd/journal").mkdir(parents=True)
    found = make.postfix().found()
    assert [(log.section, log.filters, log.units) for log in found.logs] == [("journal", ("postfix",), ())]
    assert "[journal]\nfilters = postfix\n\n" in configuration(found, "watch")
    units = "cron.service\npostfix@-.service\namavis.service\npostfixadmin.service\nsshd.service\ndovecot.service\n"
    make.answer("journalctl --field=_SYSTEMD_UNIT", units)
    found = make.found()
    assert found.logs[0].units == ("amavis.service", "dovecot.service", "postfix@-.service")
    assert found.logs[0].filters[0] == "postfix"
    (journal,) = parse(configuration(found, "watch"), "x").logs
    assert (journal.kind, journal.units) == ("journal", found.logs[0].units)
    make.answer("journalctl --field=_SYSTEMD_UNIT", "cron.service\n")  # nothing of the server's yet: no guess
    assert make.found().logs[0].units == ()
    make.rsyslog("mail.* /var/log/mail.log")
    assert [log.section for log in make.found().logs] == ["log /var/log/mail.log"]


def test_the_rest_of_a_removed_syslog_is_not_believed(make: Maker) -> None:
    make.postfix().file("/var/log/mail.log", age=40 * 86400)
    assert make.found().logs == ()
    make.file("/var/log/mail.log", age=3600)
    assert [log.path for log in make.found().logs] == ["/var/log/mail.log"]


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("/var/log/exim4/%slog", "/var/log/exim4/mainlog"),
        ("/var/log/exim/%s.log", "/var/log/exim/main.log"),
        ("syslog : /srv/exim_%slog", "/srv/exim_mainlog"),
        ("<; /srv/a:b/%slog ; syslog", "/srv/a:b/mainlog"),
    ],
)
def test_exim_tells_its_log(make: Maker, option: str, path: str) -> None:
    found = make.exim(log_file_path=option).found()
    assert [(log.path, log.filters) for log in found.logs] == [(path, ("exim",))]


def test_exim_by_date_is_a_pattern(make: Maker) -> None:
    found = make.exim(log_file_path="/var/log/exim/%slog-%D").found()
    assert [log.section for log in found.logs] == ["log /var/log/exim/mainlog-[0-9]*"]


def test_exim_to_syslog_goes_where_syslog_writes(make: Maker) -> None:
    found = make.exim(log_file_path="syslog").rsyslog("mail.* /var/log/maillog").found()
    assert [(log.path, log.filters) for log in found.logs] == [("/var/log/maillog", ("exim",))]


def test_exim_that_does_not_answer_is_looked_for(make: Maker) -> None:
    make.file("/usr/sbin/exim").file("/var/log/exim/main.log")
    assert [log.path for log in make.found().logs] == ["/var/log/exim/main.log"]


def test_a_log_host_without_a_server(make: Maker) -> None:
    lines = "Nov 21 10:00:00 mx postfix/smtpd[1]: connect\nNov 21 10:00:01 mx sm-mta[2]: x\n"
    make.file("/var/log/mail.log", lines, age=60)
    found = make.found()
    assert found.servers == ()
    assert [(log.path, log.filters) for log in found.logs] == [("/var/log/mail.log", ("postfix", "sendmail"))]


def test_filters_are_those_of_the_programs_in_the_log(make: Maker) -> None:
    lines = (
        "Nov 21 10:00:00 mx sendmail[1]: x\nNov 21 10:00:01 mx amavis[2]: x\nNov 21 10:00:01 mx cron[2]: exim[3]: x\n"
    )
    make.postfix().rsyslog("mail.* /var/log/mail.log").file("/var/log/mail.log", lines)
    assert make.found().logs[0].filters == ("postfix", "exim", "sendmail")  # amavis is not installed here: KNOWN


# --- whom never to ban


def test_postfix_networks_and_relay(make: Maker) -> None:
    make.postfix(
        maillog_file="/l",
        mynetworks="127.0.0.0/8, [::ffff:127.0.0.0]/104 [::1]/128 192.0.2.0/24 [2001:db8::]/48 cidr:/etc/nets "
        "0.0.0.0/0 hash:/etc/table !192.0.2.9 trusted.example",
        relayhost="[smtp.example]:587",
    ).file("/etc/nets", "# ours\n198.51.100.0/25 permit\n192.0.2.77 ok\n")
    make.names({"smtp.example": ["203.0.113.5", "2001:db8:5::5"], "trusted.example": ["203.0.113.6"]})
    found = make.found()
    assert allowed(found) == {
        "192.0.2.0/24": "Postfix mynetworks",
        "2001:db8::/48": "Postfix mynetworks",
        "198.51.100.0/25": "Postfix mynetworks, /etc/nets",
        "203.0.113.6/32": "Postfix mynetworks: trusted.example",
        "203.0.113.5/32": "Postfix relayhost: smtp.example",
        "2001:db8:5::5/128": "Postfix relayhost: smtp.example",
    }
    assert [note.split(":")[0] for note in found.notes] == ["Postfix mynetworks"] * 3
    assert "too wide" in found.notes[0]
    assert "hash:/etc/table" in found.notes[1]
    assert "!192.0.2.9" in found.notes[2]


@pytest.mark.parametrize(
    ("relayhost", "addresses"),
    [
        ("192.0.2.1", ["192.0.2.1/32"]),
        ("[192.0.2.1]:25", ["192.0.2.1/32"]),
        ("[ipv6:2001:db8::1]", ["2001:db8::1/128"]),
        ("provider.example", ["203.0.113.1/32", "203.0.113.2/32"]),
        ("provider.example:submission", ["203.0.113.1/32", "203.0.113.2/32"]),
        ("[provider.example]", ["203.0.113.1/32"]),
        ("nowhere.example", []),
    ],
)
def test_relayhost_in_its_forms(make: Maker, relayhost: str, addresses: list[str]) -> None:
    make.names({"provider.example": ["203.0.113.1"], "mx.provider.example": ["203.0.113.2"]})
    make.mx["provider.example"] = ["mx.provider.example"]
    found = make.postfix(maillog_file="/l", relayhost=relayhost).found()
    assert list(allowed(found)) == addresses
    assert bool(found.notes) == (not addresses)


def test_exim_relays(make: Maker) -> None:
    make.exim(relay_from_hosts="<; 127.0.0.1 ; ::1 ; 192.0.2.0/24", qualify_domain="example.org")
    make.file(
        "/etc/exim4/update-exim4.conf.conf",
        "dc_relay_nets='10.9.0.0/16 ; 192.0.2.0/25'\ndc_smarthost='out.example::26'\n",
    )
    make.names({"out.example": ["203.0.113.7"]})
    assert allowed(make.found()) == {
        "192.0.2.0/24": "exim relay_from_hosts",
        "10.9.0.0/16": "exim dc_relay_nets",
        "203.0.113.7/32": "exim dc_smarthost: out.example",
    }


def test_exim_lists_double_their_colons(make: Maker) -> None:
    make.exim(relay_from_hosts="127.0.0.1 : ::::1 : 2001::db8::::/32")
    assert list(allowed(make.found())) == ["2001:db8::/32"]


def test_sendmail_access_table_and_smart_host(make: Maker) -> None:
    make.sendmail().rsyslog("mail.* /l")
    make.file(
        "/etc/mail/access",
        "# the\tRELAY\n#Connect:10 RELAY\nConnect:192.0.2 RELAY\n"
        "Connect:IPv6:2001:db8 RELAY\n198.51.100.7\tRELAY\nspam.example REJECT\n",
    )
    make.file("/etc/mail/sendmail.cf", "Dnx\nDSesmtp:[203.0.113.8]\n")
    assert allowed(make.found()) == {
        "192.0.2.0/24": "sendmail access, RELAY",
        "2001:db8::/32": "sendmail access, RELAY",
        "198.51.100.7/32": "sendmail access, RELAY",
        "203.0.113.8/32": "sendmail smart host",
    }


def test_the_domains_mail_exchangers(make: Maker) -> None:
    make.postfix(maillog_file="/l", mydomain="example.org").file("/etc/mailname", "mail.example.net\n")
    make.mx = {"example.org": ["mx1.example.org"], "mail.example.net": [], "example.net": ["mx.example.net"]}
    make.names({"mx1.example.org": ["192.0.2.1"], "mx.example.net": ["192.0.2.2"]})
    assert allowed(make.found()) == {
        "192.0.2.1/32": "MX of example.org: mx1.example.org",
        "192.0.2.2/32": "MX of mail.example.net: mx.example.net",
    }


@pytest.mark.parametrize("gateway, allowed", [("192.168.1.1", True), ("198.18.0.1", True), ("93.184.216.1", False)])
def test_a_router_that_may_hide_everybody(make: Maker, gateway: str, allowed: bool) -> None:
    number = int.from_bytes(socket.inet_aton(gateway), sys.byteorder)
    make.file(
        "/proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        f"eth0\t00000000\t{number:08X}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    )
    found = make.postfix(maillog_file="/var/log/mail.log").found()
    assert [str(each.network) for each in found.allow] == ([f"{gateway}/32"] if allowed else [])


def test_dns_that_fails_is_a_note(make: Maker) -> None:
    make.postfix(maillog_file="/l", mydomain="example.org")
    make.mx = {"example.org": None}
    found = make.found()
    assert [log.path for log in found.logs] == ["/l"]
    assert found.allow == ()
    assert "example.org" in found.notes[0]


@pytest.mark.parametrize("domain", ["localdomain", "host.localdomain", "box.lan", ""])
def test_a_local_domain_is_not_asked_for(make: Maker, domain: str) -> None:
    make.postfix(maillog_file="/l", mydomain=domain)
    make.mx = {domain: None}
    assert make.found().notes == ()


# --- DNS and programs, for real


@pytest.fixture
def nameserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """A name server on loopback that knows the MX records of this table, "?" for a name it keeps silent about."""
    import dns.resolver

    table: dict[str, list[str]] = {}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            data, peer = server.recvfrom(4096)
            if not data:
                return
            query = dns.message.from_wire(data)
            name = query.question[0].name.to_text(omit_final_dot=True)
            records = table.get(name)
            if records == ["?"]:
                continue
            response = dns.message.make_response(query)
            if records is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
            elif records:
                response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "MX", *records))
            server.sendto(response.to_wire(), peer)

    thread = threading.Thread(target=serve)
    thread.start()
    port = server.getsockname()[1]

    def resolver() -> dns.resolver.Resolver:
        made = real(configure=False)
        made.nameservers, made.port = ["127.0.0.1"], port
        return made

    real = dns.resolver.Resolver
    monkeypatch.setattr(dns.resolver, "Resolver", resolver)
    yield table
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"", ("127.0.0.1", port))
    thread.join()
    server.close()


def test_exchangers_come_best_first(nameserver: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    nameserver.update(
        {
            "example.org": ["20 backup.example.org.", "10 mx.example.org."],
            "null.example": ["0 ."],
            "empty.example": [],
            "silent.example": ["?"],
        }
    )
    assert exchangers("example.org") == ["mx.example.org", "backup.example.org"]
    assert exchangers("null.example") == []
    assert exchangers("empty.example") == []
    assert exchangers("unheard.example") == []
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    assert exchangers("silent.example") is None


def test_a_program_that_hangs_fails_or_is_missing_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    assert run_program(("echo", "a b")) == "a b\n"
    assert run_program(("sleep", "60")) is None
    assert run_program(("false",)) is None
    assert run_program(("denyspam-no-such-program",)) is None


def test_a_name_is_resolved_by_the_hosts_own_means() -> None:
    assert "127.0.0.1" in Host().addresses("localhost") or "::1" in Host().addresses("localhost")
    assert Host().addresses("2001:DB8::1") == ["2001:db8::1"]


# --- the configuration


def test_the_configuration_is_one_the_daemon_reads(make: Maker) -> None:
    make.postfix(mynetworks="192.0.2.0/24", relayhost="203.0.113.9").rsyslog("mail.* /var/log/mail.log").exim()
    text = configuration(make.found(), "watch", "/srv/denyspam/.run")
    settings = parse(text, "denyspam.conf")
    assert settings.mode == "watch"
    assert settings.state == "/srv/denyspam/.run/state"
    assert settings.socket == "/srv/denyspam/.run/denyspam.sock"
    assert [str(network) for network in settings.allow] == ["127.0.0.0/8", "::1/128", "192.0.2.0/24", "203.0.113.9/32"]
    assert [(log.path, log.filters) for log in settings.logs] == [
        ("/var/log/exim4/mainlog", ("exim",)),
        ("/var/log/mail.log", ("postfix",)),
    ]
    assert {policy.name: (policy.hits, policy.duration) for policy in settings.policies} == {
        "virus": (5, 3600.0),
        "relay": (5, 3600.0),
        "reject": (20, 3600.0),
    }
    assert "    192.0.2.0/24,  # Postfix mynetworks\n    203.0.113.9  # Postfix relayhost\n" in text


def test_a_deep_folder_leaves_the_socket_where_it_fits() -> None:
    found = Found(servers=("postfix",), logs=(Log("/l", (), "r"),))
    settings = parse(configuration(found, "enforce", "/" + "d" * 90), "denyspam.conf")
    assert settings.socket == "/run/denyspam/denyspam.sock"
    assert settings.logs[0].filters == ("auto",)


def test_without_a_log_there_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="no log"):
        configuration(Found(servers=("postfix",)), "enforce")


def test_an_admins_configuration_is_only_watched_where_asked() -> None:
    text = "[daemon]\nmode = enforce\nports = 25\n[log /l]\nfilters = auto\n[policy]\nvirus = 5 in 15m -> ban 1h\n"
    watched = parse(with_mode(text, "watch"), "x")
    assert (watched.mode, watched.ports) == ("watch", (25,))
    assert parse(with_mode(text.partition("ports = 25\n")[2], "watch"), "x").mode == "watch"


def test_programs_on_a_line_are_those_of_shipped_filters() -> None:
    for name, program in module.PROGRAMS.items():
        lines = (Path(__file__).parent.parent / "filters" / f"{name}.filter").read_bytes()
        assert re.search(rb"^  .*[ \]]" + program, lines, re.M), f"no sample of {name} is of the program it is known by"
    assert set(module.UNITS.values()) <= set(Filters("/nonexistent/denyspam.conf").shipped())
