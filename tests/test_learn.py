"""learn: what no filter takes, by shape; and a draft that the language takes, or the reason why not."""

from __future__ import annotations

import json
from datetime import timezone
from pathlib import Path

import pytest

from denyspam import cli
from denyspam.filter import SAMPLES_NOW, Reader
from denyspam.grammar import parse_filter
from denyspam.learn import EXAMPLES, Group, Groups, propose, shape, skeleton
from denyspam.stamp import Stamps

HEAD = "Mar  4 10:00:00 mx gate[7]: "


def groups(*bodies: str, program: str = "gate") -> Groups:
    found = Groups()
    for body in bodies:
        found.add(program, body.encode(), (HEAD + body).encode())
    return found


def group(*bodies: str) -> Group:
    (found,) = groups(*bodies).found()
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("connect from unknown[203.0.113.9]", "connect from {name}[{ip}]"),
        ("0A1B2C3D4E: client=a.example[2001:db8::7]:4711", "{id}: client={name}[{ip}]:{port}"),
        ('login of "bob smith" from [192.0.2.7]: 535 5.7.8 no', "login of {quoted} from [{ip}]: {code} {dsn} no"),
        ("from=<a@b.example>, size=325, relay=x [192.0.2.7]", "from={<rcpt>}, size={number}, relay=x [{ip}]"),
        ("ip=192.0.2.7 via 198.51.100.4", "ip={ip} via {word}"),
        ("user bob@b.example has 12 of {20}", "user {word} has {number} of \\{{number}\\}"),
        ("authentication failed", "authentication failed"),
        ("session 5f1c2d3e: RCPT <a@b.example> refused", "session {id}: RCPT {<rcpt>} refused"),
        ("conn=7f0a91 from mail.shop.example [192.0.2.7]", "conn={id} from {name} [{ip}]"),
        ("session closed from unknown [192.0.2.7]", "session closed from {name} [{ip}]"),
        ("client 192.0.2.7: relaying denied", "client {ip}: relaying denied"),
        ("client 2001:db8::7: relaying denied", "client {ip}: relaying denied"),
        ("host 192.0.2.7:2525 refused", "host {ip}:{port} refused"),
        ("at 12:30:11 from ::ffff:192.0.2.7 no", "at {word} from {ip} no"),
        ("release 1.2.3.4.5 of [999.1.1.1]", "release {word} of [{word}]"),
    ],
)
def test_shapes(body: str, expected: str) -> None:
    assert shape(body.encode()).decode() == expected


def test_words_that_vary_are_one_shape() -> None:
    names = ["bob", "eve", "root", "admin", "info", "test"]
    found = group(*(f"login of {name} from [192.0.2.{at}] failed" for at, name in enumerate(names)))
    assert (found.shape, found.count, len(found.examples)) == (b"login of {word} from [{ip}] failed", 6, EXAMPLES)
    assert len(groups(*(f"login of {name} failed" for name in names[:3])).found()) == 3


def test_the_most_frequent_first_and_bounded() -> None:
    found = Groups(shapes=20)
    # each of its own number of words, so that none is like another
    for number in range(2000):
        found.add("gate", b"often 1", b"often 1")
        body = b"x" * (number + 1) + b" rare"
        found.add("gate", body, body)
    shapes = found.found()
    assert (shapes[0].shape, shapes[0].count) == (b"often {number}", 2000)
    assert len(shapes) <= 20
    assert len(found._groups) <= 40
    assert found.dropped + sum(each.count for each in found._groups.values()) == 4000


@pytest.mark.parametrize(
    ("bodies", "kind", "text"),
    [
        (
            ['auth failed for "bob" from [192.0.2.7]:4711: 535 no', 'auth failed for "x y" from [192.0.2.9]:1: 535 no'],
            "auth",
            'auth failed for "{said}" from [{ip}]:{port}: {code} no',
        ),
        (["relaying denied to <a@b.example> for [192.0.2.7]"], "relay", "relaying denied to {<rcpt>} for [{ip}]"),
        (["0A1B2C3D4E: virus Eicar found"], "virus", "{id}: virus Eicar found"),
        (["hello from [192.0.2.7]"], None, "hello from [{ip}]"),
    ],
)
def test_proposals(bodies: list[str], kind: str | None, text: str) -> None:
    found = propose(group(*bodies))
    assert (found.kind, found.text, found.reason) == (kind, text, "")
    made = parse_filter(f"filter gate\nprogram gate\n{kind or 'reject'} {text}\n", "gate", proved=True)
    reader = Reader([made], Stamps(timezone.utc))
    assert all(reader.read((HEAD + body).encode(), SAMPLES_NOW) for body in bodies)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("the sky is blue today", "nobody to count this for"),
        ("déjà vu from [192.0.2.7]", "not ASCII"),
        ("[192.0.2.7]", "no fixed word"),
    ],
)
def test_no_proposal_but_a_reason(body: str, reason: str) -> None:
    found = propose(group(body))
    assert found.text == ""
    assert reason in found.reason


def test_a_name_that_holds_an_ending_accuses_nobody_else() -> None:
    """The draft of quoted text before the address is {*}, read from the line's end."""
    text = propose(group('denied login "bob" from [192.0.2.7] port 12 of 3')).text
    found = parse_filter(f"filter gate\nprogram gate\nauth {text}\n", "gate", proved=True)
    line = HEAD + 'denied login "x" from [198.51.100.1] port 1 of 1" from [192.0.2.7] port 12 of 3'
    reading = Reader([found], Stamps(timezone.utc)).read(line.encode(), SAMPLES_NOW)
    assert reading is not None
    assert reading.address == "192.0.2.7"


def test_a_skeleton_passes_the_check() -> None:
    found = groups(
        'auth failed for "bob" from [192.0.2.7]:4711: 535 no',
        "relaying denied to <a@b.example> for mail.example[192.0.2.7]",
        "hello from [192.0.2.7]",
        "0A1B2C3D4E: infected with Eicar",
        "started",
    )
    text = skeleton("gate", "gate", found.found())
    made = parse_filter(text, "gate.filter")
    assert sorted(pattern.kind for pattern in made.patterns) == ["auth", "relay", "virus"]
    assert "# KIND hello from [{ip}]" in text
    filled = text.replace("# KIND", "reject").replace("# sample KIND", "sample reject").replace("#   Mar", "  Mar")
    assert len(parse_filter(filled, "gate.filter").patterns) == 4


# --- the commands

LOG = "".join(
    f"{line}\n"
    for line in (
        *("Mar  4 10:00:00 mx postfix/smtpd[7]: connect from unknown[203.0.113.9]",) * 3,
        "Mar  4 10:00:01 mx postfix/smtpd[7]: NOQUEUE: reject: RCPT from unknown[203.0.113.9]: 554 5.7.1 <a@b.example>:"
        " Relay access denied; from=<x@y.example> to=<a@b.example> proto=ESMTP helo=<z>",
        *('Mar  4 10:00:02 mx gate[9]: auth failed for "bob" from [203.0.113.9]: no',) * 2,
        "Mar  4 10:00:03 mx gate[9]: started",
        "Mar  4 10:00:03 mx cron: hourly",
        "2026-03-04 10:00:04 exim 4.96 daemon started: pid=7",
    )
)


FEW = ("--filter", "postfix", "--filter", "exim")  # all of them take a second to make


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "mail.log"
    path.write_text(LOG, encoding="utf-8")
    return str(path)


def test_learn(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._main(["learn", *FEW, log, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["groups"]
    assert [(each["count"], each["program"]) for each in found] == [(3, "postfix/smtpd"), (1, "")]
    assert cli._main(["learn", *FEW, log, "--json", "--all"]) == 0
    found = json.loads(capsys.readouterr().out)["groups"]
    assert [(each["count"], each["program"]) for each in found] == [
        (3, "postfix/smtpd"),
        (2, "gate"),
        (1, "gate"),
        (1, "cron"),
        (1, ""),
    ]
    assert cli._main(["learn", *FEW, log, "-n", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "  1  3 x  postfix/smtpd: connect from {name}[{ip}]"
    assert len(out) == 2


def test_learn_proposes(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._main(["learn", *FEW, log, "--all", "--propose", "2"]) == 0
    assert 'auth auth failed for "{*}" from [{ip}]: no' in capsys.readouterr().out
    assert cli._main(["learn", *FEW, log, "--all", "--propose", "3"]) == 1
    assert "nobody to count this for" in capsys.readouterr().err
    assert cli._main(["learn", *FEW, log, "--all", "--propose", "99"]) == 2
    assert cli._main(["learn", log + ".none"]) == 2


def test_new_filter(log: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new-filter", "gate", "--from", log, "--program", "gate", "-o", str(tmp_path)]
    assert cli._main(words) == 0
    path = tmp_path / "gate.filter"
    text = path.read_text(encoding="utf-8")
    assert cli._main(["check", str(path)]) == 0
    capsys.readouterr()
    assert cli._main(["events", "--filter", str(path), "--json", log]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["address"]) for row in rows] == [("auth", "203.0.113.9")] * 2
    assert cli._main(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == text
    assert cli._main(["new-filter", "../gate", "--from", log]) == 2


@pytest.mark.parametrize(
    ("words", "reason"), [((), "no line of mutterd stands an address"), (("--program", "x"), "no line of x that")]
)
def test_without_a_pattern_no_file(
    words: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, folder = tmp_path / "log", tmp_path / "filters"
    log.write_text("".join(f"Mar  4 10:00:0{second} mx mutterd[7]: nothing new\n" for second in range(9)))
    assert cli._main(["new-filter", "mutter", "--from", str(log), "-o", str(folder), *words]) == 1
    assert reason in capsys.readouterr().err
    assert not folder.exists()


def test_a_program_that_nobody_reads_becomes_a_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sessions named inside the line, a host's name before the address, a folder that is not there yet."""
    head = "Mar  4 10:00:00 mx pepperd[811]: "
    lines = [
        "session 5f1c2d3e: connect from mail.shop.example [203.0.113.9]:41022",
        "session 5f1c2d41: connect from unknown [198.51.100.23]:50211",
        "session 5f1c2d3e: RCPT <ann@example.org> refused: no such user",
        "session 5f1c2d3e: disconnect",
        'login failed for user "bob" from 203.0.113.77',
        'login of user "ann" from 192.0.2.10',
    ]
    log = tmp_path / "pepper.log"
    log.write_text("".join(f"{head}{line}\n" for line in lines))
    assert cli._main(["learn", str(log)]) == 0
    assert "pepperd (6)" in capsys.readouterr().err
    folder = tmp_path / "filters"
    assert cli._main(["new-filter", "pepper", "--from", str(log), "-o", str(folder)]) == 0
    path = folder / "pepper.filter"
    patterns = [line for line in path.read_text().splitlines() if line.startswith(("client ", "reject ", "auth "))]
    assert patterns == [
        "client session {id}: connect from {name} [{ip}]:{port}",
        "reject session {id}: RCPT {<rcpt>} refused: no such user",
        'auth login failed for user "{*}" from {ip}',
    ]
    capsys.readouterr()
    assert cli._main(["events", "--filter", str(path), "--json", str(log)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["address"]) for row in rows] == [("reject", "203.0.113.9"), ("auth", "203.0.113.77")]
