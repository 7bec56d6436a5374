"""The README and the pages of the daemon under test: every command is run as printed, every configuration read, every
filter compiled. (Those that need a log alone: test_guides.py.)

The commands run in namespaces of their own: a network without an outside, and private copies of the folders that they
write to. Started with `--inside`, this file is what runs there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest
from live import PATIENCE, until

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *(f"docs/{name}.md" for name in ("install", "configuration", "commands", "operations")))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, "docs/tour.md")}

# Commands that are not run line by line, and where they are run instead.
ELSEWHERE = {
    "make run": "test_the_demonstration below; on a mail server it would not end",
    "make test": "this run",
    "make deb": "test_deb.py",
    "apt install ./dist/denyspam.deb": "test_deb.py",
    "python3 -m venv /opt/denyspam": "test_deb.py, which makes the package's environment so",
    "/opt/denyspam/bin/pip install .": "the same",
    "ln -s /opt/denyspam/bin/denyspam /usr/local/sbin/denyspam": "the next but two, with -f",
    "denyspam setup --dry-run": "test_setup.py",
    "denyspam setup": "test_setup.py",
    "denyspam setup --enforce": "test_setup.py",
    "systemd-sysusers": "test_deb.py",
}


def blocks(language: str, pages: Sequence[str] = PAGES) -> list[str]:
    """In the order of the pages, which is that in which a reader would follow them."""
    return [text for page in pages for text in re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[page], re.M | re.S)]


def commands() -> Iterator[str]:
    for block in blocks("sh"):
        lines = block.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if line.strip() and not line.startswith("#"))


def namespaces() -> list[str]:
    """The command that gives what follows it namespaces of its own; skips the test where the host forbids that."""
    private = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        private += ["--user", "--map-root-user"]
    probe = subprocess.run([*private, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no namespaces for this user: {probe.stderr.strip()}")
    return private


# --- outside


@pytest.mark.root
def test_every_command() -> None:
    done = subprocess.run(
        [*namespaces(), sys.executable, __file__, "--inside"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.removeprefix("ran: ") for line in done.stdout.splitlines() if line.startswith("ran: ")]
    assert sorted([*ran, *ELSEWHERE]) == sorted(commands())


@pytest.mark.root
def test_the_demonstration() -> None:
    namespaces()
    links = Path("/proc/net/dev").read_text().count("\n")
    done = subprocess.run(
        [sys.executable, "-m", "denyspam.demo", "--pace", "0"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"^  (\S+) connects to port (\d+): (\w+)", done.stdout, re.M)
    assert said == [
        ("203.0.113.9", "25", "accepted"),
        ("203.0.113.9", "25", "accepted"),
        ("203.0.113.9", "25", "REFUSED"),
        ("203.0.113.9", "587", "accepted"),
        ("203.0.113.10", "25", "accepted"),
        ("2001:db8:bad:1::7", "25", "REFUSED"),
        ("203.0.113.9", "25", "accepted"),
        ("198.51.100.23", "25", "accepted"),
        ("198.51.100.23", "25", "REFUSED"),
        ("198.51.100.23", "25", "accepted"),
    ]
    assert Path("/proc/net/dev").read_text().count("\n") == links
    # The tour is this play: the same connects with the same ends, and the same commands. The README has a piece of it.
    (tour,) = blocks("text", ["docs/tour.md"])
    assert re.findall(r"^  (\S+) connects to port (\d+): (\w+)", tour, re.M) == said
    assert re.findall(r"^\$ (.*)", tour, re.M) == re.findall(r"^\$ (.*)", done.stdout, re.M)
    (piece,) = blocks("text", ["README.md"])
    assert [line for line in piece.splitlines() if line not in tour.splitlines()] == [
        "  ... four more of these within 15 minutes"
    ]


def test_every_configuration_is_one() -> None:
    from denyspam.settings import parse

    read = [parse(text, "README.md") for text in blocks("ini")]
    assert {settings.mode for settings in read} == {"enforce", "watch"}
    assert any(settings.notify for settings in read)


def test_every_filter_is_one() -> None:
    from denyspam.grammar import parse_filter

    assert blocks("filter")
    for text in blocks("filter"):
        parse_filter(text, "configuration.md")


def test_every_command_and_exit_code_is_told() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "denyspam.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^    ([\w-]+)(?:  |$)", shown, re.M)
    page = TEXTS["docs/commands.md"]
    table = re.findall(r"^\| `denyspam ([\w-]+)", page, re.M)
    assert sorted(names) == sorted(table)
    assert all(f"{code} " in page.split("Exit codes:")[1] for code in (0, 1, 2, 69, 77, 78))


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS["README.md"])
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# --- inside

OFFENCE = (
    "{now} mx postfix/cleanup[2042]: 7D0F{n}21B6: milter-reject: END-OF-MESSAGE from unknown[203.0.113.9]: 5.7.1 virus "
    "Eicar-Signature detected by ClamAV; from=<a@shop.example> to=<b@example.org> proto=ESMTP helo=<pc>\n"
)


def furnish() -> None:
    """Private folders where the commands write: the host's /etc as a copy, the others empty."""
    for folder in ("/run", "/var/log", "/var/lib", "/usr/local/sbin"):
        subprocess.run(["mount", "-t", "tmpfs", "private", folder], check=True)
    copy = Path("/run/etc")
    # What an unprivileged user may not read (shadow) no command here needs.
    subprocess.run(["cp", "-a", "/etc", str(copy)], capture_output=True, check=False)
    for old in ("denyspam", "systemd/system/denyspam.service"):
        if (copy / old).is_dir():
            shutil.rmtree(copy / old)
        else:
            (copy / old).unlink(missing_ok=True)
    (copy / "systemd/system").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", str(copy), "/etc"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/var/log/mail.log").touch()


class Systemd:
    """What systemctl would do with the unit, done by hand: there is no systemd in a namespace."""

    daemon: subprocess.Popen[bytes] | None = None

    def do(self, verb: str) -> None:
        unit = Path("/etc/systemd/system/denyspam.service").read_text(encoding="utf-8")
        if verb == "enable":
            (start,) = re.findall(r"^ExecStart=(.*)$", unit, re.M)
            Path("/var/lib/denyspam").mkdir()
            Path("/run/denyspam").mkdir()
            self.daemon = subprocess.Popen(shlex.split(start))
            until(lambda: run("denyspam status") == 0, "denyspam status is 0")
            self.feed()
        else:
            assert self.daemon and verb == "reload"
            (command,) = re.findall(r"^ExecReload=(.*)$", unit, re.M)
            assert run(command.replace("$MAINPID", str(self.daemon.pid))) == 0
            until(lambda: run("denyspam status") == 0, "denyspam status is 0 after the reload")
            assert self.daemon.poll() is None

    def feed(self) -> None:
        """The examples speak of 203.0.113.9: let it earn its ban."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with open("/var/log/mail.log", "a", encoding="ascii") as log:
            log.writelines(OFFENCE.format(now=now, n=number) for number in range(5))

        def listed() -> bool:
            rows = json.loads(subprocess.run(["denyspam", "list", "--json"], capture_output=True, check=True).stdout)
            return [row["address"] for row in rows] == ["203.0.113.9"]

        until(listed, "203.0.113.9 is listed")


def run(command: str) -> int:
    return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode


def inside() -> int:
    os.environ["PATH"] = f"/usr/local/sbin:{os.environ['PATH']}:/usr/sbin:/sbin"
    furnish()
    systemd = Systemd()
    try:
        for command in commands():
            if command in ELSEWHERE:
                continue
            print(f"$ {command}", flush=True)
            words = shlex.split(command)
            if words[0] == "systemctl":
                systemd.do(words[1])
            else:
                code = run(command)
                assert code == 0, f"`{command}` ended with {code}"
            print(f"ran: {command}", flush=True)
    finally:
        if systemd.daemon:
            systemd.daemon.terminate()
            systemd.daemon.wait(PATIENCE)
    return 0


if __name__ == "__main__":
    assert sys.argv[1:] == ["--inside"], "run me with pytest"
    sys.exit(inside())
