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
NAMES = (
    "courier",
    "cyrus",
    "dovecot",
    "kerio",
    "opensmtpd",
    "perdition",
    "qmail",
    "solidpop3d",
    "uwimap",
    "webmail",
    "zimbra",
)
NOW = 1772618400.0  # 2026-03-04 10:00 UTC
STAMP = "2026-03-04T10:00:00Z mx "
SESSION = "5f1c2d3e4a5b6c7d"
PIECES = (
    ">, rip=1.2.3.4, lip=", "rip=1.2.3.4", ">, method=PLAIN, rip=1.2.3.4, lip=5.6.7.8, session=<q", "TLS: a b", ", TLS", "session=<q>",
    ",1.2.3.4)", ",1.2.3.4): unknown user", ",1.2.3.4): Password mismatch", "): ", "(given password: ", ", ip=[1.2.3.4]", ", ip=[1.2.3.4], port=[1]",
    "[1.2.3.4]", " [1.2.3.4]", "host=x [1.2.3.4]", ":1.2.3.4", " rhost=1.2.3.4", "  user=a", ";oip=1.2.3.4;", "oip=1.2.3.4;ua=x;", "] security - cmd=Auth; account=",
    " origin_ip: 1.2.3.4 origin_rdns: x", "> remote <x:y:1.2.3.4> rcpt <", " from 1.2.3.4", " from 1.2.3.4. LOGIN", " from 1.2.3.4(X-Real-IP: 1.2.3.4",
    " [1.2.3.4] to Horde", ", IP address 1.2.3.4", ". Attempt from IP address 1.2.3.4", " - 1.2.3.4", ":1.2.3.4", "1.2.3.4:4711->5.6.7.8:993",
    '" status="failed', " in session ab (error: 0)", ":2001:db8:", "::",
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


@FUZZ
@given(HOSTILE, HOSTILE)
def test_qmail_and_what_stands_around_it(text: str, other: str) -> None:
    ip = "203.0.113.7"
    for why in ("vpopmail user not found", "password fail", f"password fail (pass: '{other}')", "null password given"):
        assert accused(f"{STAMP}vpopmail[1]: vchkpw-smtp: {why} {text}:{ip}") == {ip}
        assert (
            accused(f"{STAMP}vpopmail[1]: vchkpw-smtp: {why} {text}:2001:db8::7") == set()
        )  # not read: see the filter
    assert accused(f"{STAMP}vpopmail[1]: vchkpw-pop3: (PLAIN) login success {text}:{ip}") == set()
    for refused in ("rcpt", "relaying", "sender"):
        remote = f"from <{text}::> remote <{other}:host7.example:{ip}> rcpt <{text}> : x"
        assert accused(f"{STAMP}qmail-smtpd: CHKUSER rejected {refused}: {remote}") <= {ip}
        plain = f"from <a@b.example::> remote <x:host7.example:{ip}> rcpt <u@example.org> : x"
        assert accused(f"{STAMP}qmail-smtpd: CHKUSER rejected {refused}: {plain}") == {ip}
    end = f"origin_ip: {ip} origin_rdns: (unknown) auth: (unknown) encryption: (none) reason: {other}"
    assert accused(f"{STAMP}spamdyke[1]: DENIED_RDNS_MISSING from: {text} to: {other} {end}") <= {ip}
    assert accused(f"{STAMP}spamdyke[1]: DENIED_GRAYLISTED from: {text} to: {other} {end}") == set()
    assert accused(f"{STAMP}spamdyke[1]: ALLOWED from: {text} to: {other} {end}") == set()


def test_a_webmail_user_cannot_name_another_client() -> None:
    roundcube, horde = f"{STAMP}roundcube: Login failed for ", f"{STAMP}HORDE [error] [imp] FAILED LOGIN for "
    assert accused(f"{roundcube}x y from 192.0.2.7. LOGIN: x") == {"192.0.2.7"}
    assert accused(f"{roundcube}x from 198.51.100.4 y from 192.0.2.7. LOGIN: x") == set()
    assert accused(f"{roundcube}x from 198.51.100.4. LOGIN y from 192.0.2.7. LOGIN: x") == set()
    assert accused(f"{horde}x [198.51.100.4] to Horde [192.0.2.7] to Horde [pid 1]") == set()


@FUZZ
@given(HOSTILE, HOSTILE, ADDRESS)
def test_webmail_perdition_solid_pop3d_and_kerio(user: str, text: str, ip: str) -> None:
    stamp = "[04-Mar-2026 10:00:00 +0000]: "
    failed = f"Login failed for {user} from {ip}"
    assert accused(f"{stamp}<ab> IMAP Error: {failed}") <= {ip}
    assert accused(f"{stamp}<ab> IMAP Error: Login failed for bob from {ip}. LOGIN: {text}") <= {ip}
    for end in (f". AUTHENTICATE PLAIN: {text}", f"(X-Real-IP: 1.2.3.4). LOGIN: {text}", " in session ab (error: 0)"):
        assert accused(f"{stamp}<ab> IMAP Error: {failed}{end}") <= {ip}
    assert accused(f"{stamp}<ab> Successful login for {user} (ID: 1) from {ip} in session ab") == set()
    sogo = f"Mar  4 10:00:00 sogod [1]: SOGoRootPage Login from '{ip}' for user '{user}' might not have worked"
    assert accused(sogo) == {ip}
    assert accused(f"Mar  4 10:00:00 HORDE [error] [imp] FAILED LOGIN for {user} [{ip}] to {text}") <= {ip}
    assert accused(f"Wed Mar  4 10:00:00 2026 - [1] ({ip}) {user} - login error - no such user") <= {ip}
    assert accused(f"{STAMP}solid-pop3d[1]: authentication failed: no such user: {user} - {ip}") == {ip}
    assert accused(f"[04/Mar/2026 10:00:00] Attempt to deliver to unknown recipient {user}, from {text}, IP address {ip}") == {ip}  # fmt: skip
    assert accused(f"[04/Mar/2026 10:00:00] SMTP: User {user} doesn't exist. Attempt from IP address {ip}") == {ip}
    auth = f'->198.51.100.1 user="{user}" server="mx.example.org" port="110" status="failed: {text}"'
    assert accused(f"{STAMP}perdition.pop3[1]: Auth: {ip}{auth}") <= {ip}
    told = f'authentication_id="{user}" server="mx:143" protocol=IMAP4S server-secure=plaintext status="failed: x"'
    client = "Auth: 203.0.113.7:4711->198.51.100.1:993 client-secure=ssl authorisation_id=NONE "
    assert accused(f"{STAMP}perdition.imaps[1]: {client}{told}") <= {"203.0.113.7"}
