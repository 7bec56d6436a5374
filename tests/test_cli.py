"""The commands as a script sees them: what stands on stdout and stderr, and how they exit."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import relay, virus

from denyspam import arguments, cli
from denyspam.events import Event

NOON = 1_772_618_400.0  # 2026-03-04T10:00:00Z
CONF = (
    "[daemon]\nstate = {0}/state\nsocket = {0}/sock\n[log {0}/mail.log]\nfilters = postfix\ntimezone = UTC\n[policy]\n"
)
LINES = [relay("192.0.2.7", NOON + n) for n in range(5)] + [virus("192.0.2.8", NOON, "A1B2C3")]


def denyspam(*words: object, text: str | bytes | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "denyspam.cli", *map(str, words)]
    data = text.encode() if isinstance(text, str) else text
    done = subprocess.run(command, check=False, capture_output=True, input=data, env={**os.environ, **environment})
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "denyspam.conf"
    path.write_text(CONF.format(tmp_path) + "relay = 5 in 15m -> ban 1h\n")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mail.log"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_events_json(log: Path) -> None:
    found = rows(denyspam("events", "--json", log))
    assert found[0] == {
        "file": str(log),
        "line": 1,
        "time": NOON,
        "address": "192.0.2.7",
        "kind": "relay",
        "filter": "postfix",
        "user": None,
        "queue_id": None,
        "text": LINES[0],
    }
    assert [(row["line"], row["kind"], row["queue_id"]) for row in found[4:]] == [
        (5, "relay", None),
        (6, "virus", "A1B2C3"),
    ]


def test_events_stand_in_columns(tmp_path: Path) -> None:
    long = "2001:db8:1111:2222:3333:4444:5555:6666"
    log = tmp_path / "log"
    log.write_text("".join(f"{relay(address, 1e9)}\n" for address in ("192.0.2.7", long, "192.0.2.8", "2001:db8::1")))
    lines = denyspam("events", log).stdout.splitlines()
    assert [line.index(" postfix ") for line in lines] == [44, 67, 67, 67]


def test_events_of_compressed_files_and_stdin(log: Path, tmp_path: Path) -> None:
    packed = tmp_path / "mail.log.1.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert len(rows(denyspam("events", "--json", packed))) == 6
    assert len(rows(denyspam("events", "--json", "-", text=log.read_bytes()))) == 6
    packed.write_bytes(packed.read_bytes()[:100])
    cut = denyspam("events", "--json", packed)
    assert (cut.returncode, str(packed) in cut.stderr) == (2, True)


def test_events_without_a_last_newline_and_with_binary(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"\x00\xff\xfe rubbish\n"
        + b"x" * 200_000
        + b"\n"
        + LINES[0].replace("<z>", "<\udcff\x01>").encode("utf-8", "surrogateescape")
    )
    (row,) = rows(denyspam("events", "--json", log))
    assert (row["line"], row["address"]) == (3, "192.0.2.7")
    shown = denyspam("events", log)
    assert "\x01" not in shown.stdout


def test_events_all_adds_what_is_no_offence(tmp_path: Path) -> None:
    log = tmp_path / "log"
    grey = LINES[0].replace(
        "554 5.7.1 <a@b.example>: Relay access denied",
        "450 4.2.0 <u@x.example>: Recipient address rejected: Greylisted",
    )
    log.write_text(grey + "\n")
    assert rows(denyspam("events", "--json", log)) == []
    assert [row["kind"] for row in rows(denyspam("events", "--all", "--json", log))] == ["defer"]


def test_an_unusable_stamp_is_null(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LINES[0].replace("2026-03-04", "2026-02-30") + "\n" + LINES[0].replace("2026", "9999") + "\n")
    assert [(row["time"], row["address"]) for row in rows(denyspam("events", "--json", log))] == [
        (None, "192.0.2.7")
    ] * 2


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path, log: Path, conf: Path) -> None:
    for words in (["events", "--json"], ["replay", "-c", conf]):
        done = denyspam(*words, log, tmp_path / "missing.log")
        assert (done.returncode, done.stdout) == (2, "")
        assert "missing.log" in done.stderr


def test_replay(log: Path, conf: Path) -> None:
    wanted = {"time": NOON + 4, "address": "192.0.2.7", "rule": "relay", "hits": 5, "until": NOON + 3604}
    assert rows(denyspam("replay", "--json", "-c", conf, log)) == [wanted]
    assert rows(denyspam("-c", conf, "replay", "--json", log)) == [wanted]
    people = denyspam("replay", log, "-c", conf)
    assert "192.0.2.7" in people.stdout
    assert people.stderr == "1 ban\n"


def test_replay_merges_logs_by_time(conf: Path, tmp_path: Path) -> None:
    for name, part in (("b.log", LINES[1:5:2]), ("a.log", LINES[0:5:2])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in part))
    found = rows(denyspam("replay", "--json", "-c", conf, tmp_path / "a.log", tmp_path / "b.log"))
    assert [row["time"] for row in found] == [NOON + 4]


def test_a_copy_of_a_log_counts_once_in_replay(conf: Path, tmp_path: Path) -> None:
    for name in ("mail.log", "mail.warn"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in LINES[:4]))
    files = (tmp_path / "mail.log", tmp_path / "mail.warn")
    assert rows(denyspam("replay", "--json", "-c", conf, *files)) == []
    assert len(rows(denyspam("events", "--json", *files))) == 8


def test_check(conf: Path) -> None:
    done = denyspam("check", "-c", conf)
    assert done.returncode == 0
    assert "does not exist yet" in done.stderr
    conf.write_text(conf.read_text() + "relay = 1 in 1m -> ban 1h\n")
    done = denyspam("check", "-c", conf)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"{conf}:9: ")
    assert denyspam("check", "-c", conf.parent / "none.conf").returncode == 78


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "128.0.0.0/1"])
def test_check_tells_who_allows_everybody(conf: Path, network: str) -> None:
    conf.write_text(conf.read_text().replace("[daemon]", f"[daemon]\nallow = 10.0.0.0/8, {network}"))
    done = denyspam("check", "-c", conf)
    assert done.returncode == 0
    assert f"note: `allow` has {network}: of all these addresses none is ever banned" in done.stderr
    assert "10.0.0.0/8" not in done.stderr


def test_check_filters(tmp_path: Path) -> None:
    assert denyspam("check", "postfix", "exim", "sendmail").returncode == 0
    bad = tmp_path / "bad.filter"
    bad.write_text("filter bad\nprogram bad\nreject no {nothing}\n")
    done = denyspam("check", bad)
    assert done.returncode == 78
    assert done.stderr.startswith(f"{bad}:3:")
    bad.write_text(
        "filter bad\nprogram bad\nauth no user {word} from {ip} {*}\nsample auth 192.0.2.7\n"
        "  Mar  4 10:00:00 mx bad: no user x from 192.0.2.7 y\nsample none\n  Mar  4 10:00:00 mx bad: x\n"
    )
    done = denyspam("check", "--json", bad)  # what may be unsafe is a warning
    assert done.returncode == 0
    assert done.stderr.startswith(f"{bad}:3: warning: ")
    assert json.loads(done.stdout)["warnings"] == done.stderr.splitlines()
    missing = denyspam("check", "nonesuch")
    assert (missing.returncode, "nonesuch" in missing.stderr) == (78, True)


def test_an_unknown_filter_or_action_names_its_line(conf: Path) -> None:
    text = conf.read_text()
    conf.write_text(text.replace("filters = postfix", "filters = postfux"))
    assert denyspam("check", "-c", conf).stderr.startswith(f"{conf}:5: there is no filter 'postfux'")
    conf.write_text(text.replace("[daemon]", "[daemon]\naction = pf"))
    assert denyspam("check", "-c", conf).stderr.startswith(f"{conf}:2: there is no action 'pf'")
    conf.write_text(text + "flood = 5 in 1m -> ban 1h\n")
    assert denyspam("check", "-c", conf).stderr.startswith(f"{conf}:9: no filter knows the kind 'flood'")


def test_a_filter_of_ones_own_replaces_the_shipped_one_whole(conf: Path, log: Path) -> None:
    folder = conf.parent / "filters"
    folder.mkdir()
    (folder / "postfix.filter").write_text(
        "filter postfix\nprogram postfix/cleanup\n"
        "spam {id}: milter-reject: {verb} from {name}[{ip}]: {*}\n"
        "sample spam 192.0.2.1\n"
        "  Mar  4 10:00:00 mx postfix/cleanup[1]: A1B2C3: milter-reject: END-OF-MESSAGE from x.example[192.0.2.1]: no\n"
        "sample none\n"
        "  Mar  4 10:00:00 mx postfix/cleanup[1]: A1B2C3: message-id=<1@x.example>\n"
    )
    assert [row["kind"] for row in rows(denyspam("events", "-c", conf, "--filter", "postfix", "--json", log))] == [
        "spam"
    ]


def test_usage() -> None:
    for words in (
        [],
        ["lst"],
        ["ban"],
        ["ban", "192.0.2.7", "--for", "soon"],
        ["ban", "nonsense"],
        ["release"],
        ["events"],
    ):
        done = denyspam(*words)
        assert (done.returncode, done.stdout) == (2, ""), words
    assert denyspam("--version").stdout.startswith("denyspam 0.")


def test_without_a_daemon(conf: Path) -> None:
    for words in (["list"], ["status"], ["why", "192.0.2.7"], ["ban", "192.0.2.7"], ["release", "192.0.2.7"]):
        done = denyspam(*words, "-c", conf)
        assert (done.returncode, done.stdout) == (69, ""), words
        assert "does not answer" in done.stderr


def test_a_reader_that_goes_away(log: Path) -> None:
    log.write_text("".join(f"{line}\n" for line in LINES * 5000))
    command = f"'{sys.executable}' -m denyspam.cli events '{log}' | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_a_fifo_is_read_like_a_file(log: Path, tmp_path: Path) -> None:
    """`denyspam events <(zcat mail.log.1.gz)`, and a named one."""
    wanted = [row | {"file": ""} for row in rows(denyspam("events", "--filter", "postfix", "--json", log))]
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "denyspam.cli", "events", "--filter", "postfix", "--json", f"/dev/fd/{reading}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(reading,)) as process:
        os.close(reading)
        os.write(writing, log.read_bytes())
        os.close(writing)
        assert process.stdout
        assert [json.loads(line) | {"file": ""} for line in process.stdout] == wanted
    assert process.returncode == 0
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cp", "--copy-contents", str(log), str(fifo)]):
        pass_through = denyspam("events", "--filter", "postfix", "--json", fifo)
    assert [row | {"file": ""} for row in rows(pass_through)] == wanted


def test_a_terminal_of_another_alphabet(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text(relay("192.0.2.7", NOON).replace("x@y", "ж…@y") + "\n")
    found = denyspam("events", "--filter", "postfix", path, PYTHONIOENCODING="latin-1")
    assert found.returncode == 0, found.stderr
    assert "??@y" in found.stdout


def test_a_full_disk_behind_stdout(log: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "denyspam.cli", "events", str(log)]
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "denyspam: cannot write: No space left on device\n")


@given(
    st.builds(
        Event,
        st.none() | st.floats(0, 4e9),
        st.sampled_from(("virus", "reject")),
        st.none() | st.sampled_from(("192.0.2.1", "2001:db8::1")),
        st.just("postfix"),
        st.none() | st.just("A-1b"),
        st.none() | st.text(),
        st.text(),
        st.integers(0),
        st.integers(0),
        st.binary(),
    )
)
def test_events_are_printed_as_json_prints_them(event: Event) -> None:
    fields = {name: getattr(event, name) for name in ("file", "time", "address", "kind", "filter", "user", "queue_id")}
    fields |= {"line": event.number, "text": event.text.decode("utf-8", "replace")}
    assert fields == json.loads(cli._event_json(event, timezone.utc))
    assert cli._event_json(event, timezone.utc).isascii()


def test_without_orjson_the_same_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [bytes(range(start, start + 32)).replace(b"\x7f", b"") for start in range(0, 256, 32)]
    said = [
        {"file": "a\udcff"},
        *({"time": 1.25, "line": 3, "text": text.decode("utf-8", "replace")} for text in texts),
    ]
    fast = [*map(cli._dumps.__wrapped__(), said)]
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert fast == [*map(cli._dumps.__wrapped__(), said)]


# --- manners


def commands() -> list[str]:
    return re.findall(r"^    ([a-z][\w-]+)(?:  |$)", denyspam("--help").stdout, re.M)


def test_help_fits_a_screen_and_shows_an_example() -> None:
    assert len(commands()) == len(arguments.EXAMPLES)
    for words in ([], *([name] for name in commands())):
        shown = denyspam(*words, "--help", COLUMNS="80").stdout
        assert "Example: denyspam " in shown
        assert len(shown.splitlines()) <= 45, words
        assert max(map(len, shown.splitlines())) <= 80, words


def test_what_was_meant() -> None:
    wrong = denyspam("lst")
    assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (
        2,
        "denyspam: there is no command 'lst'; did you mean list?",
    )
    wrong = denyspam("events", "--jsn", "x")
    assert (wrong.returncode, "there is no option --jsn; did you mean --json?" in wrong.stderr) == (2, True)
    assert denyspam("ban", "192.0.2.7", "--forc").returncode == 2  # half an option is none: --force bans the protected


def test_quiet_and_verbose(log: Path) -> None:
    loud = denyspam("learn", log)
    assert loud.stderr
    assert denyspam("learn", "-q", log).stderr == ""
    assert denyspam("-q", "events", "/nowhere").stderr == "denyspam: /nowhere: No such file or directory\n"
    told = denyspam("-v", "events", log)
    assert re.search(r"^denyspam \S+, configuration \S+: \d+\.\d\d s, ", told.stderr)
    assert told.stdout == denyspam("events", log).stdout
    assert denyspam("-q", "-v", "events", log).returncode == 2


def test_check_as_json(tmp_path: Path) -> None:
    conf = tmp_path / "denyspam.conf"
    conf.write_text("[log /var/log/mail.log]\nfilters = postfix\n[policy]\nvirus = 5 in 15m -> ban 1h\n")
    (row,) = rows(denyspam("check", "--json", "-c", conf))
    assert row == {"logs": {"/var/log/mail.log": ["postfix"]}, "policies": ["virus"]}
    (row,) = rows(denyspam("check", "--json", "-c", conf, "clamav"))
    assert row["filters"]["clamav"]["patterns"] >= 3


def test_streams_that_are_closed(conf: Path, log: Path) -> None:
    commands = (f"events '{log}'", f"replay -c '{conf}' '{log}'", f"learn '{log}'", "explain -", "--help")
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        for words in commands:
            shell = f"'{sys.executable}' -m denyspam.cli {words} {closed} </dev/null"
            done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, "Traceback" in done.stderr) == (0, False), (shell, done.stderr)


def test_what_to_do_next(tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.touch()
    for words, code, said in (
        ([], 2, "a command is missing, as in `denyspam status`"),
        (["--json", "list"], 2, "--json is no option here; these take it, behind their name: list, "),
        (["list", "--force"], 2, "--force is no option here; these take it, behind their name: ban\n"),
        (["ban", "192.0.2.1/24"], 2, "no address or network; write 192.0.2.0/24; nothing was done"),
        (["ban", "fe80::1%eth0"], 2, "; write fe80::1/128; "),
        (["ban", "mail.example"], 2, "; write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48; "),
        (["release", "--all", "192.0.2.7"], 2, "or say --all, and not both"),
        (["events", "--year", "99", empty], 2, "'99' is no year: write four digits, such as 2026"),
        (["web", "--listen", "here"], 2, "is no place: write 127.0.0.1:8025"),
        (["learn", empty], 0, "there is no line in it"),
        (["new-filter", "x", "--from", empty, "-o", tmp_path], 1, "there is no line in it: nothing to write"),
        (["setup", "--dry-run", "--root", tmp_path / "gone"], 2, "there is no such folder"),
        (["check", "-c", tmp_path / "gone"], 78, "`denyspam setup` writes one, -c names another"),
    ):
        done = denyspam(*words)
        assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)
    assert not (tmp_path / "x.filter").exists()
    assert denyspam("help", "ban").stdout == denyspam("ban", "--help").stdout
    assert denyspam("help").stdout == denyspam("--help").stdout
