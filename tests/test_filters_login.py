# ruff: noqa: E501  (lines as the servers print them)
"""Login daemons and smaller servers: what they print of hostile clients leads to the client or to nobody.

The lines are built by the programs' own printing rules (named in each filter), with whatever hypothesis finds where a
client's text stands.
"""

from __future__ import annotations

from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import OFFENCES, Event
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

FILTERS = Path(__file__).parent.parent / "filters"
NAMES = ("courier", "cyrus", "dovecot", "opensmtpd", "qmail", "uwimap", "zimbra")
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
SESSION = "5f1c2d3e4a5b6c7d"
PIECES = (
    ">, rip=1.2.3.4, lip=", "rip=1.2.3.4", ">, method=PLAIN, rip=1.2.3.4, lip=5.6.7.8, session=<q", "TLS: a b", ", TLS", "session=<q>",
    ",1.2.3.4)", ",1.2.3.4): unknown user", ",1.2.3.4): Password mismatch", "): ", "(given password: ", ", ip=[1.2.3.4]", ", ip=[1.2.3.4], port=[1]",
    "[1.2.3.4]", " [1.2.3.4]", "host=x [1.2.3.4]", ":1.2.3.4", " rhost=1.2.3.4", "  user=a", ";oip=1.2.3.4;", "oip=1.2.3.4;ua=x;", "] security - cmd=Auth; account=",
    '" result="451 x', '" result="550 x', SESSION + " smtp connected address=1.2.3.4 host=x", "smtp connected address=1.2.3.4", "error,relay=1.2.3.4",
    ">: 450 x", ">,to=<", ": 513 Relaying denied", "(auth failed, 3 attempts in 1 secs): user=<", "Login: ", "<", ">", '"', "\\", "(", ")", "=", ";",
    ",", ", ", " ", "a", "bob", "@example.org", "é", "\x1b", "\t", "A" * 300,
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=10).map(
    lambda pieces: "".join(pieces).replace("\n", " ").replace("\r", " ")
)
ADDRESS = st.sampled_from(["203.0.113.7", "2001:db8::7"])
SCANNER = Scanner(
    [parse_filter((FILTERS / f"{name}.filter").read_text(), name) for name in NAMES], "log", Stamps(timezone.utc)
)
FUZZ = settings(max_examples=300, deadline=None)


def events(*lines: str) -> list[Event]:
    join = Join()
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    found = [event for one in SCANNER.feed(data, 0, 1, NOW) for event in join.feed(one, one.offset)]
    return [event for event in (*found, *join.flush()) if event.kind in OFFENCES]


def accused(*lines: str) -> set[str]:
    return {event.address for event in events(*lines) if event.address is not None}


@FUZZ
@given(HOSTILE, ADDRESS, st.sampled_from(["", ", TLS", ", secured", ", TLS: Connection closed", ", TLS: SSL_read failed: error:0A000126:SSL routines::unexpected eof while reading"]))  # fmt: skip
def test_dovecot_login(user: str, ip: str, tls: str) -> None:
    told = f"user=<{user[:80]}>, method=PLAIN, rip={ip}, lip=192.0.2.25{tls}, session=<Ab+d/f0hAwDAAAIH>"
    for why in ("Disconnected (auth failed, 3 attempts in 12 secs)", "Aborted login (auth failed, 1 attempts)",
                "Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed)"):  # fmt: skip
        assert accused(f"{STAMP}dovecot: imap-login: {why}: {told}") == {ip}
        assert accused(f"2026-03-04 10:00:00 pop3-login: Info: {why}: {told}") == {ip}
    for why in (
        "Disconnected (no auth attempts in 1 secs)",
        "Login",
        "Disconnected: Inactivity (aborted authentication)",
    ):
        assert accused(f"{STAMP}dovecot: imap-login: {why}: {told}") <= {ip}
    odd = f"{STAMP}dovecot: imap-login: Disconnected (auth failed, 3 attempts in 12 secs): {told}, ja3=x, more"
    assert accused(odd) <= {ip}


@FUZZ
@given(HOSTILE, HOSTILE, ADDRESS, st.sampled_from(["", ",<Ab+d/f0hAwDAAAIH>"]))
def test_dovecot_auth(user: str, password: str, ip: str, session: str) -> None:
    conn = "conn unix:auth-worker (pid=1,uid=2): auth-worker<3>: "
    for worker in ("auth: ", "auth(default): ", "auth-worker(814): ", f"auth-worker(814): {conn}"):
        start = f"{STAMP}dovecot: {worker}sql({user[:64]},{ip}{session}): "
        for why in (
            "unknown user",
            "Password mismatch",
            "pam_authenticate() failed: Authentication failure (Password mismatch?)",
        ):
            assert accused(start + why) == {ip}
            assert accused(f"{start}{why} (given password: {password})") <= {ip}
        assert accused(f"{start}Request timed out") <= {ip}
    for name in ("", f"  user={user}"):
        accuses = accused(
            f"{STAMP}auth: pam_unix(dovecot:auth): authentication failure; logname= uid=0 euid=0 tty=dovecot ruser={user} rhost={ip}{name}"
        )
        assert accuses <= {ip}


@pytest.mark.parametrize("password", ["a", "x y"])
def test_dovecot_auth_with_its_password(password: str) -> None:
    assert accused(f"{STAMP}dovecot: auth: sql(bob,203.0.113.7): unknown user (given password: {password})") == {
        "203.0.113.7"
    }


@FUZZ
@given(HOSTILE, HOSTILE, ADDRESS)
def test_courier_cyrus_and_uw_imap(user: str, text: str, ip: str) -> None:
    mapped = ip if ":" in ip else f"::ffff:{ip}"
    assert accused(f"{STAMP}imapd-ssl: LOGIN FAILED, user={user}, ip=[{mapped}]") == {ip}
    assert accused(f"{STAMP}pop3d: LOGIN FAILED, user={user}, ip=[{mapped}], port=[4711]") == {ip}
    error = f"{STAMP}courieresmtpd: error,relay={mapped}"
    assert accused(f'{error},port=4711,msg="535 Authentication failed.",cmd: {text}') == {ip}
    assert accused(f"{error},from=<{user}>,to=<{text}>: 550 User unknown.") <= {ip}
    assert accused(f"{STAMP}cyrus/imaps[1]: badlogin: host7.example [{ip}] plaintext {user} {text}") == {ip}
    assert accused(f"{STAMP}ipop3d[1]: Login failed user={user} auth={user} host=host7.example [{ip}]") == {ip}


@FUZZ
@given(HOSTILE, HOSTILE, ADDRESS)
def test_opensmtpd(text: str, result: str, ip: str) -> None:
    smtpd = f"{STAMP}smtpd[1]: {SESSION} smtp "
    printed = f"[{ip}]" if ":" in ip else ip
    connected = f"{smtpd}connected address={printed} host=host7.example"
    assert accused(connected, f'{smtpd}failed-command command="RCPT TO:<u@example.org>" result="550 {result}"') == {ip}
    assert accused(connected, f'{smtpd}failed-command command="RCPT TO:<u@example.org>" result="451 {result}"') == set()
    assert accused(connected, f'{smtpd}failed-command command="AUTH LOGIN (password)" result="535 {result}"') == {ip}
    assert accused(connected, f'{smtpd}failed-command command="{text}" result="500 {result}"') <= {ip}
    assert accused(connected, f"{smtpd}authentication user={text} result=permfail") == set()


@FUZZ
@given(HOSTILE, HOSTILE, ADDRESS)
def test_zimbra(user: str, agent: str, ip: str) -> None:
    start = "2026-03-04 10:00:00,123 WARN  [ImapServer-1] "
    end = f"security - cmd=Auth; account={user}; protocol=soap; error=authentication failed for [{user}], invalid password;"
    for name in ("bob@example.org", user):
        assert accused(f"{start}[name={name};oip={ip};ua={agent};] {end}") <= {ip}
        assert accused(f"{start}[name={name};ip=192.0.2.25;oip={ip};ua={agent};] {end}") <= {ip}
    assert accused(f"{start}[ip=192.0.2.25;oip={ip};via=192.0.2.25(nginx/1.2.0-zimbra);ua=Zimbra/8.8.15;] {end}") == {
        ip
    }
