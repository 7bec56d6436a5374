"""Fuzzing: what strangers, admins and disks may put before a parser, changed anywhere. A text is read or refused.

Hypothesis looks; DENYSPAM_FUZZ sets how many examples each test tries (`make fuzz`: thousands). What it ever found
stands as an @example. Refused means the parser's own kind of error, whose message an admin can read; the path of a line
knows no error at all, and names no address but one that stands in the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import time
from datetime import timezone
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from denyspam import control, fail2ban
from denyspam.events import Ban, SettingsError, Target
from denyspam.grammar import parse_duration, parse_filter, parse_policy
from denyspam.ledger import Ledger, damaged
from denyspam.scan import Scanner
from denyspam.settings import parse
from denyspam.stamp import Stamps
from denyspam.tail import Position, Tail

EXAMPLES = int(os.environ.get("DENYSPAM_FUZZ", "60"))
HERE = Path(__file__).parent.parent
FILTERS = [
    parse_filter((HERE / "filters" / f"{name}.filter").read_text(encoding="utf-8"), name, proved=True)
    for name in ("postfix", "exim", "sendmail", "amavis")
]
LINES = [sample.line for found in FILTERS for sample in found.samples]
CONF = (HERE / "etc" / "denyspam.conf").read_text(encoding="utf-8")
SMALL = """filter small
program postfix*/smtpd
let client = {?{name}}[{ip}]
relay   {id}: reject: RCPT from {client}: {code} {dsn} {<rcpt>}: Relay access denied; {*}
client  {id}: client={client}{*}
sample relay 203.0.113.9
  Mar  4 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[203.0.113.9]: 554 5.7.1 <a>: Relay access denied; x
sample client 203.0.113.9
  Mar  4 10:00:01 mx postfix/smtpd[1]: 4XyZq81Kw0z9P1: client=x[203.0.113.9]
sample none
  Mar  4 10:00:01 mx postfix/smtpd[2034]: connect from unknown[203.0.113.9]
"""
POLICY = "5 in 15m -> ban 1h, doubling to 7d, forget 30d, by net/24, ports 465, 587"
THEIRS = r"""[INCLUDES]
before = common.conf
[Definition]
_port = (?::\d+)?
failregex = ^%(_port)s login from <HOST> failed$
            ^\w+: relaying to <[^>]*> denied for <ADDR>(?: again)?$
mode = normal
ignoreregex =
"""
NOW = 1772618400.0
BOUND = 20.0  # seconds for one input on a loaded machine; a line that backtracks takes minutes

fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def changed(draw: st.DrawFn, text: str) -> str:
    """A text with some pieces taken out, doubled, moved or replaced by anything."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = draw(
            st.one_of(
                st.text(max_size=20),
                st.sampled_from(
                    ("", "{", "}", "{*}", "{ip}", "\0", "\r", "\n", "[", "9" * 400, "%s", "%(x)s", "\u0661")
                ),
                st.just(text[start:end] * 2),
            )
        )
        text = text[:start] + piece + text[end:]
    return text


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 30)))
        piece = draw(st.one_of(st.binary(max_size=20), st.just(data[start:end] * 3), st.sampled_from(LINES)))
        data = data[:start] + piece.replace(b"\n", b"") + data[end:]
    return data


@given(changed(SMALL))
@example(SMALL)
@fuzzed
def test_filters(text: str) -> None:
    try:
        parse_filter(text, "x.filter")
    except SettingsError:
        assert text != SMALL  # what is changed is a sound one


@given(changed(CONF))
@fuzzed
def test_settings(text: str) -> None:
    with contextlib.suppress(SettingsError):
        parse(text, "x.conf")


@given(st.one_of(changed(POLICY), st.text(max_size=60)), changed("relay.slow"))
@fuzzed
def test_policies(sentence: str, name: str) -> None:
    with contextlib.suppress(SettingsError):
        parse_policy(name, sentence, "x.conf", 1)


@given(st.one_of(changed("1h30m"), st.text(max_size=30)))
@example("9" * 5000 + "s")
@example("1e9h")
@fuzzed
def test_durations(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0


def standing(line: bytes) -> set[Any]:
    """Every address that stands in a line, however it is written."""
    found = set()
    for text in re.findall(rb"[0-9A-Fa-f:.]{2,}", line):
        for start in range(len(text)):
            for end in range(start + 2, min(len(text), start + 46) + 1):
                with contextlib.suppress(ValueError):
                    address = ip_address(text[start:end].decode())
                    found.add(getattr(address, "ipv4_mapped", None) or address)
    return found


@given(st.data())
@example(None)
@fuzzed
def test_lines(data: st.DataObject | None) -> None:
    drawn = (
        [b"\0" * 5000, b"\xff" * 300, b""]
        if data is None
        else [data.draw(changed_bytes(data.draw(st.sampled_from(LINES)))) for _ in range(3)]
    )
    scanner = Scanner(FILTERS, "mail.log", Stamps(timezone.utc))
    began = time.process_time()
    found = scanner.feed(b"".join(line + b"\n" for line in drawn), 0, 1, NOW)
    assert time.process_time() - began < BOUND
    for finding in found:
        assert finding.text in drawn
        if finding.address is not None:
            assert ip_address(finding.address) in standing(finding.text)


PLACES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
MARKS = st.lists(
    st.tuples(*[st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5)] * 4, st.text(), st.text()),
    max_size=4,
)


@given(st.one_of(st.text(max_size=50), PLACES.map(json.dumps), MARKS.map(json.dumps)))
@example('[[1, 1, Infinity, 1, "", ""]]')
@example('[[1, 1, -1, 1, "", ""]]')
@fuzzed
def test_positions(text: str) -> None:
    try:
        position = Position.parse(text)
    except ValueError:
        return
    with TemporaryDirectory() as folder:
        log = Path(folder) / "mail.log"
        log.write_text("one line\n" * 9)
        tail = Tail(str(log), position, from_start=False, note=lambda _: None)
        data = b"".join(block.data for block in tail.read(0.0))
        assert data == b"" or data.startswith(b"one line\n")
        assert Position.parse(tail.position().text()) == tail.position()
        tail.close()


@given(st.data())
@settings(fuzzed, max_examples=max(10, EXAMPLES // 2))
def test_ledgers(data: st.DataObject) -> None:
    """Bytes of the file changed anywhere: it is moved aside, refused as damaged, or what it says is possible."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        ledger = Ledger(str(path), 0.0)
        for number in range(30):
            address = ip_address(f"192.0.2.{number}")
            target = Target(ip_network(address), (25,))
            ledger.decide(Ban(target, "virus", NOW, NOW + 3600, 5, (), "a note", ("/mail.log", number)))
        ledger.position("/mail.log", "[]", NOW)
        ledger.close()
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 200))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
        again = None
        try:
            again = Ledger(str(path), 1.0)
            rows = [*again.since(0.0)]
            for row in rows:
                assert isinstance(row.ban.since + row.ban.until + row.ban.hits, int | float)
                if row.ended is None:
                    assert row.ban.target.network
            again.graces(0.0)
            again.positions()
            again.history(["192.0.2.1"])
            again.evidence(1)
        except sqlite3.Error as error:
            assert damaged(error) or isinstance(error, sqlite3.OperationalError), error
            if again is not None and damaged(error):
                again.set_aside(2.0)
                assert [*again.since(0.0)] == []
        finally:
            if again is not None:
                again.close()


@given(st.one_of(changed(THEIRS), st.text(max_size=80)))
@example(THEIRS.replace("login", "\0login"))
@example(THEIRS.replace("login", "\ud800login"))
@example(THEIRS.replace("login", "\x08login"))
@fuzzed
def test_filters_of_fail2ban(text: str) -> None:
    with contextlib.suppress(fail2ban.ImportFailed, SettingsError):
        found = fail2ban.expressions("x", lambda path: text if path.endswith("x.conf") else None, {})
        made = fail2ban.convert(found, "x", "reject", "x.conf")
        assert made


@given(st.lists(st.one_of(st.binary(max_size=200), PLACES.map(lambda made: json.dumps(made).encode())), max_size=20))
@settings(fuzzed, max_examples=max(5, EXAMPLES // 4))
def test_the_control_protocol(said: list[bytes]) -> None:
    """Whatever is said gets one line of JSON, or an end; and the next is answered."""

    async def answer(request: dict[str, Any], user: str) -> dict[str, Any]:
        return {"ok": request}

    async def talk(path: str) -> None:
        server = control.Server()
        await server.start(path, None, answer)
        try:
            for words in (*said, b'{"command": "status"}'):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(words.replace(b"\n", b" ") + b"\n")
                writer.write_eof()
                line = await asyncio.wait_for(reader.read(), 60)
                writer.close()
                assert not line or json.loads(line).keys() & {"ok", "error"}
            assert json.loads(line)["ok"] == {"command": "status"}
        finally:
            await server.stop()

    with TemporaryDirectory() as folder:
        asyncio.run(talk(os.path.join(folder, "sock")))


if __name__ == "__main__":
    pytest.main([__file__])
