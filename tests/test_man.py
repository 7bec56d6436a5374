"""The man pages tell everything there is, and render; completion offers what there is."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, live, until, viruses
from netns import CLIENTS4, CLIENTS6, Network

from denyspam.alarms import NAMES
from denyspam.arguments import parser
from denyspam.events import HARMLESS, OFFENCES
from denyspam.grammar import parse_filter
from denyspam.pattern import HOLES
from denyspam.settings import DAEMON, FUSE, JOURNAL, LOG, NOTIFY, SENDERS, SYSLOG, parse

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/man").iterdir()}


def commands() -> Iterator[tuple[str, list[str]]]:
    """(command, its options) of the program."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield name, [option for one in each._actions for option in one.option_strings]


def needed(program: str) -> str:
    """Its path; a test that needs it is skipped without."""
    return shutil.which(program) or pytest.skip(f"{program} is not installed: apt-get install {program}")


def plain(page: str) -> str:
    """The text of a page as a reader sees it, in one line."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-mdoc", "-Tascii", "-P-cbou", "-rHY=0"],
        input=PAGES[page],
        capture_output=True,
        text=True,
        check=True,
    )
    return " ".join(re.sub(r"-\n\s+", "", done.stdout).split())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_renders_without_a_warning(page: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-mdoc", "-Tutf8", "-ww", "-z"], input=PAGES[page], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("command", "options"), list(commands()))
def test_every_command_and_option_is_told(command: str, options: list[str]) -> None:
    items = re.findall(rf"^\.It Cm {re.escape(command)}(?: (.*))?$", PAGES["denyspam.8"], re.M)
    assert len(items) == 1, f"docs/man/denyspam.8 has no `.It Cm {command}`"
    told = {word.lstrip("-") for word in re.findall(r"Fl (?:\| )?(-?[a-z-]+)", items[0])}
    told |= {word.lstrip("-") for word in re.findall(r"\| (-[a-z-]+)", items[0])}
    everywhere = {"h", "help", "c", "q", "quiet", "v", "verbose"}
    assert {option.lstrip("-") for option in options} - everywhere == told


def test_every_alarm_is_told() -> None:
    alarms = PAGES["denyspam.8"].split(".Sh ALARMS")[1].split(".Sh ")[0]
    assert re.findall(r"^\.It Sy (\S+)$", alarms, re.M) == list(NAMES)


def test_every_exit_code_is_told() -> None:
    status = PAGES["denyspam.8"].split(".Sh EXIT STATUS")[1].split(".Sh ")[0]
    assert re.findall(r"^\.It (\d+)$", status, re.M) == ["0", "1", "2", "69", "77", "78"]


def test_every_setting_is_told_with_its_default() -> None:
    page = PAGES["denyspam.conf.5"]
    assert set(re.findall(r"^\.It Cm (\w+) No =", page, re.M)) == {
        *DAEMON,
        *LOG,
        *JOURNAL,
        *SYSLOG,
        *SENDERS,
        *FUSE,
        *NOTIFY,
    }
    shown = (ROOT / "etc/denyspam.conf").read_text(encoding="utf-8")
    for key, value in re.findall(r"^\.It Cm (\w+) No = (?:Cm |Pa )?(\S.*)$", page, re.M):
        if not value.startswith("Ar "):
            assert re.search(rf"^#?{key} += {re.escape(value)}(?: |$)", shown, re.M), f"{key} = {value}"
    for kind in (*OFFENCES, "any"):
        assert re.search(rf"\b{kind}\b", page.split("[policy]")[1])


def test_every_hole_and_kind_is_told() -> None:
    page = PAGES["denyspam-filter.5"]
    told = set(re.findall(r"\{([^{}]+)\}", "".join(re.findall(r"^\.It Li (.*)$", page, re.M))))
    assert set(HOLES) <= told | {"*"}
    assert told <= set(HOLES) | {"*", "user", "said"}
    for kind in (*OFFENCES, *HARMLESS, "client", "ignore"):
        assert re.search(rf"^\.It Cm (?:.*, )?{kind}(?: ,|,|$)", page, re.M), kind


def test_the_examples_are_right() -> None:
    def example(page: str) -> str:
        return re.findall(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed$", PAGES[page], re.M | re.S)[-1]

    assert len(parse(example("denyspam.conf.5"), "denyspam.conf.5").policies) == 5
    assert parse_filter(example("denyspam-filter.5"), "denyspam-filter.5").name == "opensmtpd"
    clauses = re.findall(
        r"^\.It Cm ((?:doubling|forget|by|ports|action)\b)", PAGES["denyspam.conf.5"].split(".Ss [policy]")[1], re.M
    )
    assert set(clauses) == {"doubling", "forget", "by", "ports"}


def test_a_reader_sees_words() -> None:
    assert "denyspam release 203.0.113.9 --grace 1d --note" in plain("denyspam.8")
    assert "setup [--dry-run | --enforce | --uninstall] [--root DIR]" in plain("denyspam.8")


# --- completion


def completion(shell: str) -> str:
    done = subprocess.run(
        [sys.executable, "etc/completion.py", shell], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def complete(*words: str, program: Path | None = None) -> set[str]:
    """What bash offers for the last word."""
    script = f"""{completion("bash")}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _denyspam 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}" """
    path = f"{program.parent}:{os.environ['PATH']}" if program else os.environ["PATH"]
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "denyspam", *words],
        cwd=ROOT / "docs",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_files() -> None:
    assert {name for name, _ in commands()} < complete("")
    assert complete("re") == {"release", "replay", "report", "resume"}
    assert complete("-c", "/x", "stat") == {"status"}
    for command, options in commands():
        assert complete(command, "-") == set(options)
    assert complete("events", "ac") == {"actions.md"}
    assert complete("events", "-c", "ac") == {"actions.md"}
    assert complete("ban", "--for", "") == set()
    assert complete("list", "x") == set()


@pytest.mark.root
def test_bash_completes_who_is_banned(tmp_path: Path, network: Network) -> None:
    with live(tmp_path, network.server) as daemon:
        daemon.start()
        daemon.write(viruses(CLIENTS4[0], 5) + viruses(CLIENTS6[0], 5))
        until(lambda: len(daemon.banned()) == 2, "the bans")
        assert complete("why", "", program=_program(tmp_path, daemon)) == set(daemon.banned())
        assert complete("release", "192", program=_program(tmp_path, daemon)) == {CLIENTS4[0]}
    assert complete("why", "", program=_program(tmp_path, daemon)) == set()


def _program(folder: Path, daemon: Live) -> Path:
    """A `denyspam` on the PATH that knows the test's configuration."""
    program = folder / "bin/denyspam"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m denyspam.cli "$@" -c {daemon.conf}\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_option(shell: str) -> None:
    script = completion(shell)
    for command, options in commands():
        assert command in script
        for option in options:
            assert (
                option if shell == "zsh" else f" {'-l' if option[1] == '-' else '-s'} {option.lstrip('-')}"
            ) in script


def test_fish_completes(banning: Path) -> None:
    def offered(words: str) -> list[str]:
        done = subprocess.run(
            [needed("fish"), "--no-config", "-c", f"source {banning}/fish; complete -C '{words}'"],
            cwd=ROOT / "docs",
            env={**os.environ, "HOME": str(banning), "PATH": f"{banning}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    (banning / "fish").write_text(completion("fish"))
    assert offered("denyspam re") == ["release", "replay", "report", "resume"]
    assert offered("denyspam -c /x stat") == ["status"]
    assert offered("denyspam -c /x list --w") == ["--withheld"]
    assert offered("denyspam events ac") == offered("denyspam events -c ac") == ["actions.md"]
    assert offered("denyspam why ") == ["192.0.2.7", "2001:db8::/64"]
    assert offered("denyspam release --note x 2") == ["2001:db8::/64"]
    assert offered("denyspam ban 2") == offered("denyspam list ") == []


def test_zsh_completes(banning: Path) -> None:
    """At a terminal, by the Tab key: zsh offers it in no other way."""
    needed("zsh")
    (banning / "_denyspam").write_text(completion("zsh"))
    (banning / ".zshrc").write_text(f"PS1='ready> '\nfpath=({banning} $fpath)\nautoload -Uz compinit\ncompinit -u -D\n")
    shell, terminal = pty.fork()
    if shell == 0:
        os.environ.update(ZDOTDIR=str(banning), PATH=f"{banning}:{os.environ['PATH']}", TERM="dumb", COLUMNS="200")
        os.execvp("zsh", ["zsh", "-i"])
    try:
        said = _until_said(terminal, b"ready> ")
        for words, expected in (
            (b"denyspam -c /x stat", b"status"),
            (b"denyspam list --w", b"--withheld"),
            (b"denyspam release 2", b"2001:db8::/64"),
        ):
            os.write(terminal, words + b"\t")
            said = _until_said(terminal, expected)
            os.write(terminal, b"\x15")  # Ctrl-U: away with the line
        assert b"error" not in said
    finally:
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)
        os.close(terminal)


def _until_said(terminal: int, text: bytes) -> bytes:
    said = b""
    while text not in said:
        assert select.select([terminal], [], [], 60)[0], said
        said += os.read(terminal, 4096)
    return said


@pytest.fixture
def banning(tmp_path: Path) -> Path:
    """A folder with a `denyspam` that knows of two bans."""
    program = tmp_path / "denyspam"
    program.write_text("""#!/bin/sh\necho '[{"address": "192.0.2.7"}, {"address": "2001:db8::/64"}]'\n""")
    program.chmod(0o755)
    return tmp_path
