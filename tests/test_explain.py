"""explain: what it tells agrees with what the daemon hears, and where it points is where the line departs."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from datetime import timezone
from pathlib import Path

import pytest

from denyspam import cli
from denyspam.explain import Explanation, explain
from denyspam.filter import SAMPLES_NOW, Filter, Reader
from denyspam.grammar import parse_filter
from denyspam.plugins import Filters
from denyspam.stamp import Stamps

HEAD = "Mar  4 10:00:00 mx gate[7]: "
GATE = """\
filter gate
program gate
reject {id}: {(refused|turned away)} {verb} from {?{name}}[{ip}]{? port {port}}: {code} {*}: closed; to={<rcpt>}
auth   login of "{said}" at [{ip}] failed
ignore monitor {*}
sample reject 192.0.2.7
  Mar  4 10:00:00 mx gate[7]: ABCDEF: refused RCPT from a.example[192.0.2.7] port 25: 550 no: closed; to=<a@b.example>
sample auth 192.0.2.7
  Mar  4 10:00:00 mx gate[7]: login of "bob" at [192.0.2.7] failed
sample ignore
  Mar  4 10:00:00 mx gate[7]: monitor says hello
sample none
  Mar  4 10:00:00 mx gate[7]: ABCDEF: taken
"""
GOOD = "ABCDEF: refused RCPT from a.example[192.0.2.7] port 25: 550 no: closed; to=<a@b.example>"


def of(body: str, text: str = GATE) -> Explanation:
    return explain((HEAD + body).encode(), [parse_filter(text, "gate.filter")], Stamps(timezone.utc), SAMPLES_NOW)


def holes(found: Explanation) -> list[tuple[str, str]]:
    return [(span.hole, found.line[span.start : span.end].decode()) for span in found.spans]


def test_hole_by_hole() -> None:
    found = of(GOOD)
    assert (found.host, found.program, [each.name for each in found.filters]) == ("mx", "gate", ["gate"])
    assert holes(found) == [
        ("id", "ABCDEF"),
        ("verb", "RCPT"),
        ("name", "a.example"),
        ("ip", "192.0.2.7"),
        ("port", "25"),
        ("code", "550"),
        ("*", "no"),
        ("<rcpt>", "<a@b.example>"),
    ]
    assert found.reading is not None
    assert (found.reading.pattern.line, found.reading.address, found.nearest) == (3, "192.0.2.7", ())


FROM = "ABCDEF: refused RCPT from "


@pytest.mark.parametrize(
    ("fits", "rest", "expected"),
    [
        ("ABCDEF: refu", "ted RCPT from a.example[192.0.2.7]: 550 x", "`sed`"),
        ("ABCDEF: tu", "ned away RCPT from [192.0.2.7]: 550 x", "`rned away`"),
        ("ABCDEF: refused RCPT ", "by a.example[192.0.2.7]: 550 x", "`from `"),
        (FROM + "a.example[", "host]: 550 x", "{ip}, the cl"),
        (FROM + "a.example[192.0.2.7] port ", "x: 550", "{port}, a port"),
        (FROM + "[192.0.2.7]: ", "55 x", "{code}, an SMTP"),
        (
            GOOD[: GOOD.index("no: closed")],
            "no: closed; to=<a@b.example> x",
            "a line that ends in `: closed; to={<rcpt>}`",
        ),
        ('login of "bob" at [192.0.2.7] failed', " twice", "the end of the line"),
    ],
)
def test_the_column_where_the_nearest_pattern_stops(fits: str, rest: str, expected: str) -> None:
    found = of(fits + rest)
    assert found.reading is None
    nearest = found.nearest[0]
    assert (found.line[len(HEAD) : nearest.column].decode(), nearest.expected[: len(expected)]) == (fits, expected)


def test_a_changed_byte_is_found() -> None:
    """Every byte that is literal in one pattern, one after the other: the column is that byte's, or where it began."""
    only = {4, 5, 8, 9, 10, 11}  # the other patterns and their samples
    text = "\n".join(line for number, line in enumerate(GATE.splitlines(), 1) if number not in only)
    literal = [
        at
        for word in ("refused ", " from ", "[", "] port ")
        for at in range(GOOD.index(word), GOOD.index(word) + len(word))
    ]
    for at in literal:
        found = of(GOOD[:at] + "#" + GOOD[at + 1 :], text)
        assert found.reading is None
        assert found.nearest[0].column == len(HEAD) + at, GOOD[:at]


def test_doubt_is_said() -> None:
    found = of('login of "x" at [198.51.100.1] failed" at [192.0.2.7] failed')
    assert found.doubtful
    assert found.reading is not None
    assert found.reading.address is None


def test_an_address_that_is_none() -> None:
    found = of('login of "bob" at [192.0.2.777] failed')
    assert (found.reading, found.unreadable, found.nearest[0].pattern.line) == (None, "192.0.2.777", 4)


def test_a_line_of_another_program_and_one_that_resembles_nothing() -> None:
    found = explain(b"Mar  4 10:00:00 mx other[7]: x", [parse_filter(GATE, "g")], Stamps(timezone.utc), SAMPLES_NOW)
    assert (found.host, found.program, found.filters, found.nearest) == ("mx", "other", (), ())
    assert of("#######").nearest == ()
    assert explain(b"#######", SHIPPED, Stamps(timezone.utc), SAMPLES_NOW).nearest == ()


def test_a_regex_is_followed_too() -> None:
    expression = r"login of \"bob\" at \[(?P<ip>[0-9a-f.:]{2,45})\] (?:failed|refused) [0-9]+ times$"
    text = GATE.replace('login of "{said}" at [{ip}] failed', f'regex "{expression}"')
    text = text.replace("] failed\n", "] failed 5 times\n")
    found = of('login of "bob" at [192.0.2.7] failed 5 timer', text)
    nearest = found.nearest[0]
    assert found.line[: nearest.column].decode() == HEAD + 'login of "bob" at [192.0.2.7] failed 5 time'
    assert nearest.expected == "what fits `s$`"
    assert ("ip", "192.0.2.7") in holes(of('login of "bob" at [192.0.2.7] failed 5 times', text))


SHIPPED = Filters("/nonexistent/denyspam.conf").named([])


@pytest.mark.parametrize("found", SHIPPED, ids=lambda each: each.name)
def test_it_agrees_with_the_daemon_on_every_shipped_sample(found: Filter) -> None:
    stamps = Stamps(timezone.utc)
    reader = Reader([found], stamps)
    for sample in found.samples[::2]:
        if sample.kind is None:
            continue
        read = reader.read(sample.line, SAMPLES_NOW)
        told = explain(sample.line, [found], stamps, SAMPLES_NOW)
        assert (told.reading, told.nearest) == (read, ())
        texts = dict(holes(told))
        if read is not None and read.address is not None and read.pattern.parts:
            assert sample.line.count(texts["ip"].encode()) >= 1
            assert "ip" in texts


# --- the command


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli._main(["explain", *words])
    return code, capsys.readouterr().out


@pytest.fixture
def gate(tmp_path: Path) -> str:
    path = tmp_path / "gate.filter"
    path.write_text(GATE, encoding="utf-8")
    return str(path)


def test_the_command(gate: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = lines(capsys, HEAD + GOOD, "--filter", gate)
    assert code == 0
    for text in ("gate.filter:3: reject {id}", "{<rcpt>}  <a@b.example>", "  kind     reject", "  address  192.0.2.7"):
        assert text in out
    assert "\x1b" not in out
    code, out = lines(capsys, HEAD + "ABCDEF: refuted RCPT", "--filter", gate)
    assert code == 1
    line, caret = out.splitlines()[-2:]
    assert line[caret.index("^") :] == "ted RCPT"
    assert f"column {len(HEAD) + 13}: here should stand `sed`" in caret


def test_json_and_stdin(gate: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{HEAD}{GOOD}\n{HEAD}ABCDEF: taken\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, out = lines(capsys, "--json", "--filter", gate)
    good, bad = map(json.loads, out.splitlines())
    assert code == 1
    assert (good["kind"], good["address"], good["queue_id"], good["pattern"]["line"]) == (
        "reject",
        "192.0.2.7",
        "ABCDEF",
        3,
    )
    assert good["line"][good["holes"][3]["start"] : good["holes"][3]["end"]] == "192.0.2.7"
    assert (bad["kind"], bad["nearest"][0]["column"]) == (None, len(HEAD) + len("ABCDEF: t"))


@pytest.mark.parametrize(("variables", "colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_on_a_terminal_only(gate: str, variables: dict[str, str], colours: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"TERM": "xterm", **variables}
    words = [sys.executable, "-m", "denyspam.cli", "explain", HEAD + GOOD, "--filter", gate]
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover - becomes another program
        os.execve(words[0], words, environment)
    out = b""
    try:
        while piece := os.read(terminal, 65536):
            out += piece
    except OSError:  # EIO: the other side is closed
        pass
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    assert (b"\x1b[1;31m192.0.2.7\x1b[0m" in out) is colours
    assert (b"\x1b" in out) is colours


def test_an_error_in_a_filter_shows_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.filter"
    path.write_text("filter bad\nprogram bad\nreject {id}: ä from [{address}]: {*}\n", encoding="utf-8")
    assert cli._main(["check", str(path)]) == 78
    first, line, caret = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{path}:3:22: no hole is called {{address}}")
    assert line == "    reject {id}: ä from [{address}]: {*}"
    assert line[caret.index("^") :] == "{address}]: {*}"


def test_an_error_in_a_long_line_is_cut_around_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.filter"
    path.write_text(f"filter bad\nprogram bad\nreject {'x' * 300} {{address}} {'y' * 300}\n", encoding="utf-8")
    assert cli._main(["check", str(path)]) == 78
    _, line, caret = capsys.readouterr().err.splitlines()
    assert len(line) <= 104
    assert line[caret.index("^") :].startswith("{address}")


def test_an_error_in_the_configuration_shows_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "denyspam.conf"
    path.write_text("[log /var/log/mail.log]\nfilters = auto\n[policy]\nrelay = 5 in 15x -> ban 1h\n", encoding="utf-8")
    assert cli._main(["check", "-c", str(path)]) == 78
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith(f"{path}:4:")
    assert shown[1] == "    relay = 5 in 15x -> ban 1h"
