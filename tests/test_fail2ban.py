"""import-fail2ban: what their expressions take, ours take, with the same address; the rest is said.

The filters of fail2ban itself are read where it is installed; elsewhere small ones made up here.
"""

from __future__ import annotations

import json
from datetime import timezone
from pathlib import Path

import pytest

from denyspam import cli, fail2ban
from denyspam.explain import explain
from denyspam.filter import SAMPLES_NOW, Filter, Reader
from denyspam.grammar import parse_filter
from denyspam.plugins import Filters, load
from denyspam.settings import parse
from denyspam.stamp import Stamps
from denyspam.workbench import brought, compared

INSTALLED = Path("/etc/fail2ban")
needs_fail2ban = pytest.mark.skipif(
    not (INSTALLED / "filter.d/postfix.conf").exists(), reason="fail2ban is not installed: no /etc/fail2ban/filter.d"
)

COMMON = r"""
[DEFAULT]
_daemon = \S*
__pid_re = (?:\[\d+\])
__prefix_line = <lt_<logtype>/__prefix_line>
logtype = file
[lt_file]
__prefix_line = \s*(?:\S+\s+)?(?:<_daemon><__pid_re>?:?\s+)?
"""
GATE = r"""
[INCLUDES]
before = common.conf
[Definition]
_daemon = gate(?:d|-\w+)?
_port = (?::\d+)?
prefregex = ^%(__prefix_line)s<F-CONTENT>.+</F-CONTENT>$
mdre-normal = ^login of "[^"]*" from \S+\[<HOST>\]%(_port)s failed: (?:[Pp]assword|no such user)(?! expired)\b
mdre-more = %(mdre-normal)s
            ^\w+: relaying to <[^>]*> denied for <ADDR>$
            ^.* hosts nobody$
failregex = <mdre-<mode>>
mode = normal
ignoreregex = ^login of "monitor" from
"""
JAILS = """
[DEFAULT]
ignoreip = 127.0.0.1/8 ::1, 192.0.2.0/24 host.example
bantime = 10m
findtime = 600
maxretry = 5
enabled = false
port = 0:65535
filter = %(__name__)s[mode=%(mode)s]
mode = normal
gate_log = /var/log/gate.log
[gate]
port = smtp,465,submission
logpath = %(gate_log)s
[gate-more]
filter = gate[mode=more, x="a,b"]
logpath = %(gate_log)s
          /var/log/more*.log
findtime = 1d
"""
LOCAL = """
[gate]
enabled = true
maxretry = 3
bantime = 1h
bantime.increment = true
bantime.maxtime = 1w
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "fail2ban"
    (folder / "filter.d").mkdir(parents=True)
    (folder / "filter.d/common.conf").write_text(COMMON)
    (folder / "filter.d/gate.conf").write_text(GATE)
    (folder / "jail.conf").write_text(JAILS)
    (folder / "jail.local").write_text(LOCAL)
    return folder


def bodies(found: Filter, *lines: str) -> list[str | None]:
    reader = Reader([found], Stamps(timezone.utc))
    readings = [reader.read(f"Mar  4 10:00:00 mx {line}".encode(), SAMPLES_NOW) for line in lines]
    return [None if each is None or each.pattern.kind == "ignore" else each.address for each in readings]


def test_expressions_become_patterns(root: Path) -> None:
    (made,) = brought(["gate[mode=more]"], str(root))
    found = parse_filter(made.imported.text, "f2b-gate-more.filter")
    assert (found.name, found.programs) == ("f2b-gate-more", ("gate", "gate-*", "gated"))
    assert bodies(
        found,
        'gate[7]: login of "bob" from a.example[203.0.113.9]:4711 failed: Password wrong',
        'gated[7]: login of "bob" from a.example[2001:db8::7] failed: no such user',
        'gate-in[7]: login of "bob" from a.example[203.0.113.9] failed: Password expired',
        'gate[7]: login of "monitor" from a.example[203.0.113.9] failed: Password',
        'gate[7]: login of "bob" from a.example[203.0.113.9] worked',
        "gate[7]: ABCDEF: relaying to <a@b.example> denied for 203.0.113.9",
        'other[7]: login of "bob" from a.example[203.0.113.9] failed: Password',
    ) == ["203.0.113.9", "2001:db8::7", None, None, None, "203.0.113.9", None]
    # what nobody can be held to stands there, with the reason
    (lost,) = made.imported.lost
    assert lost[0] == "^.* hosts nobody$"
    assert f"# NOT IMPORTED: {lost[1]}" in made.imported.text


def test_a_client_who_writes_what_the_server_writes(root: Path) -> None:
    (made,) = brought(["gate"], str(root))
    found = parse_filter(made.imported.text, "f2b-gate.filter")
    forged = 'gate[7]: login of "x" from y[198.51.100.1] failed: Password" from a.example[203.0.113.9] failed: Password'
    assert bodies(found, forged) == [None]


def test_jails_become_sentences(root: Path) -> None:
    jails = fail2ban.jails(lambda path: (root / path).read_text() if (root / path).exists() else None, [])
    gate, more = fail2ban.jail(jails, "gate"), fail2ban.jail(jails, "gate-more")
    assert gate.policy == "3 in 10m -> ban 1h, doubling to 7d, ports 25, 465, 587"
    assert (gate.filter, gate.options, gate.logs) == ("gate", {"mode": "normal"}, ("/var/log/gate.log",))
    assert gate.allow == ("127.0.0.0/8", "::1", "192.0.2.0/24")
    assert gate.notes == ("ignoreip host.example: write its addresses, DNS names are not looked up",)
    assert more.policy == "5 in 1d -> ban 10m"
    assert more.options == {"mode": "more", "x": "a,b"}
    assert [note.partition(":")[0] for note in more.notes] == [
        "that it is not enabled in fail2ban",
        "all ports",
        "logpath /var/log/more*.log",
        "ignoreip host.example",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("600", 600), ("10m", 600), ("1d 2h", 93600), ("1w", 604800), ("-1", -1), ("1.5h", 5400), ("soon", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert fail2ban.duration(text) == seconds


def test_local_files_override_and_known_is_what_was(root: Path) -> None:
    (root / "filter.d/gate.local").write_text(
        "[Definition]\nmdre-normal = %(known/mdre-normal)s\n ^gate closed for <HOST>$\n"
    )
    (made,) = brought(["gate"], str(root))
    found = parse_filter(made.imported.text, "f2b-gate.filter")
    assert bodies(
        found,
        'gate[7]: login of "bob" from a.example[203.0.113.9]:4711 failed: Password wrong',
        "gate[7]: gate closed for 203.0.113.10",
    ) == ["203.0.113.9", "203.0.113.10"]


def test_the_command_writes_files_that_pass(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    words = ["import-fail2ban", "gate", "gate-more", "--root", str(root), "-o", str(folder)]
    assert cli._main(words) == 0
    err = capsys.readouterr().err
    assert "not imported: that it is not enabled in fail2ban: here it counts" in err
    assert sorted(path.name for path in folder.rglob("*.*")) == [
        "f2b-gate-more.filter",
        "f2b-gate.filter",
        "fail2ban.conf",
    ]
    settings, logs = load(str(folder / "fail2ban.conf"))
    assert [policy.name for policy in settings.policies] == ["gate", "gate-more"]
    assert [each.name for each in logs["/var/log/gate.log"]] == ["f2b-gate", "f2b-gate-more"]
    assert cli._main(words) == 2, "nothing is overwritten"
    assert "nothing was written" in capsys.readouterr().err
    assert cli._main(["import-fail2ban", "nobody", "--root", str(root)]) == 2
    assert cli._main(["import-fail2ban", "gate", "--root", str(root / "none")]) == 2
    capsys.readouterr()
    assert cli._main(["import-fail2ban", str(root / "filter.d/gate.conf")]) == 0
    assert "filter f2b-gate\n" in capsys.readouterr().out


def test_the_proof(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "gate.log"
    head = "Mar  4 10:00:00 mx gate[7]: login of"
    log.write_text(
        f'{head} "bob" from a.example[203.0.113.9]:4711 failed: Password wrong\n'
        f'{head} "bob" from a.example[203.0.113.9]:4711 failed: Password expired\n'
        f'{head} "monitor" from a.example[203.0.113.9]:4711 failed: Password\n'
        f'{head} "bob" from mail.example[host.example] failed: Password\n'
    )
    words = ["import-fail2ban", "gate", "--root", str(root), "--log", str(log)]
    assert cli._main([*words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["filters"][0]["policy"].startswith("3 in 10m -> ban 1h")
    (proof,) = found["proof"]
    assert (proof["name"], proof["alike"]) == ("f2b-gate", 1)
    assert [(each["line"], each["fail2ban"], each["denyspam"]) for each in proof["differences"]] == [(4, "", None)]
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    assert cli._main(words) == 0
    assert "f2b-gate: 1 line alike, 0 not" in capsys.readouterr().out


# --- fail2ban's own mail filters

MAIL = (
    *(f"postfix[mode={mode}]" for mode in ("more", "auth", "rbl", "ddos", "aggressive", "errors")),
    *("exim", "exim[mode=aggressive]", "exim-spam", "sendmail-auth", "sendmail-reject", "sendmail-reject[mode=extra]"),
    *("dovecot", "dovecot[mode=aggressive]", "courier-auth", "courier-smtp"),
    *("cyrus-imap", "perdition", "solid-pop3d", "uwimap-auth", "qmail"),
)
# The shipped filters' own samples are the log. Lines that the two read differently, and why.
DIFFERENT = {
    "postfix": {
        "message repeated 3 times": "fail2ban does not know rsyslog's word for it",
        "smtps-haproxy/smtpd": "fail2ban's name of the program ends before it",
    },
    "exim": {
        r'input="EHLO x) [198.51.100.4]': "the client wrote what the server writes: held against nobody",
        "[1/2] 2026-03-04": "exim in syslog, in parts",
        "failed for H=(z)": "H= where fail2ban knows none",
    },
    "sendmail-reject": {"NOQUEUE: ruleset=check_relay": "fail2ban's queue ids have 14 letters at least"},
    "dovecot": {
        "submission-login: Info: Disconnected": "dovecot's own log file names no program",
        "Info: auth(default): passwd-file": "the same",
        "auth: sql(bob,192.0.2.7,master": "fail2ban takes <Ab+d/f0hAwDAAAIH for a host's name",
        "user=<x>, rip=198.51.100.4": "the client wrote what the server writes: held against nobody",
    },
    "courier-auth": {"user=x, ip=[198.51.100.4], ip=": "the client wrote an address: held against nobody"},
}


@needs_fail2ban
@pytest.mark.parametrize("name", MAIL)
def test_every_mail_filter_comes_over_whole(name: str, tmp_path: Path) -> None:
    (made,) = brought([name], str(INSTALLED))
    assert made.imported.lost == ()
    assert made.theirs.skipped == ()
    text = parse_filter(made.imported.text, "x")  # its samples run
    assert text.patterns
    base = name.partition("[")[0]
    server = {"solid-pop3d": "solidpop3d"}.get(base, base.partition("-")[0])
    log = tmp_path / "mail.log"
    samples = Filters("/nonexistent/denyspam.conf").named([server])[0].samples
    log.write_bytes(b"".join(sample.line + b"\n" for sample in samples))
    both, differences = compared(made, [str(log)], timezone.utc)
    assert both > 0 or base == "qmail" or name in ("postfix[mode=rbl]", "postfix[mode=errors]")
    known = DIFFERENT.get(base, {})
    unknown = [each for each in differences if not any(part.encode() in each.text for part in known)]
    assert unknown == []
    wrong = [each for each in differences if each.ours and each.theirs and each.ours != each.theirs]
    assert wrong == []


@needs_fail2ban
@pytest.mark.parametrize("name", [name for name in MAIL if f"{name}[mode=aggressive]" not in MAIL])
def test_what_a_client_writes_accuses_nobody_else(name: str) -> None:
    """In the place of each text of the client's, from every word on, the line itself with another's address in it."""
    (made,) = brought([name], str(INSTALLED))
    found = parse_filter(made.imported.text, "x")
    stamps = Stamps(timezone.utc)
    reader = Reader([found], stamps)
    for sample in found.samples:
        if sample.address is None or sample.kind == "ignore":
            continue
        told = explain(sample.line, [found], stamps, SAMPLES_NOW)
        line = sample.line
        fake = line.replace(sample.address.encode(), b"198.51.100.66")[told.body :]
        pieces = [fake[at:] for at in range(len(fake)) if at == 0 or fake[at - 1 : at] in b' "(<>,=']
        for span in told.spans:
            if span.hole not in ("said", "<rcpt>", "*", "quoted", "word", "words"):
                continue
            for piece in (before + piece for piece in pieces for before in (b"", b"x", b'"')):
                written = {"word": piece.replace(b" ", b"_"), "<rcpt>": b"<" + piece.strip(b"<>") + b">"}
                forged = line[: span.start] + written.get(span.hole, piece) + line[span.end :]
                reading = reader.read(forged, SAMPLES_NOW)
                assert reading is None or reading.address != "198.51.100.66", forged


@needs_fail2ban
def test_all_mail_jails_make_one_configuration() -> None:
    names = ["postfix", "postfix-rbl", "postfix-sasl", "exim", "exim-spam", "sendmail-auth", "sendmail-reject"]
    names += ["dovecot", "courier-auth", "courier-smtp", "cyrus-imap", "perdition", "uwimap-auth", "qmail-rbl"]
    found = brought(names, str(INSTALLED))
    text = fail2ban.configuration([(each.jail, each.imported) for each in found if each.jail])
    settings = parse(text, "fail2ban.conf")
    assert [policy.name for policy in settings.policies] == names


def test_expressions_that_name_their_program_are_of_its_lines(tmp_path: Path) -> None:
    filter_ = tmp_path / "gate.conf"
    filter_.write_text(
        "[Definition]\n"
        'failregex = gated\\[\\d+\\]: login of "[^"]*" from <HOST> failed$\n'
        "            ^.*gated(?:\\[\\d+\\])?: refused <HOST>$\n"
        "ignoreregex = gated\\[\\d+\\]: refused 192\\.0\\.2\\.1$\n"
    )
    log = tmp_path / "log"
    head = "Mar  4 10:00:00 mx gated[7]: "
    log.write_text(f'{head}login of "bob" from 192.0.2.7 failed\n{head}refused 192.0.2.8\n{head}refused 192.0.2.1\n')
    (taken,) = brought([str(filter_)], str(tmp_path))
    assert compared(taken, [str(log)], timezone.utc) == (2, [])
    assert "program gated\n" in taken.imported.text
    assert '# failregex 1: gated\\[\\d+\\]: login of "[^"]*" from <HOST> failed$' in taken.imported.text
