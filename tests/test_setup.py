"""setup: a host's installation is planned, written, kept where an admin edited it, and removed again."""

from __future__ import annotations

import grp
import os
import re
import shutil
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from live import DENYSPAM, Live, until, viruses
from netns import CLIENTS4, Network

from denyspam import setup
from denyspam.discover import Allowed, Found, Host, Log
from denyspam.plugins import load

ROOT = Path(__file__).parent.parent
CONF, UNIT = "etc/denyspam/denyspam.conf", "etc/systemd/system/denyspam.service"
FOUND = Found(("postfix",), (Log("/var/log/mail.log", ("postfix",), "rsyslog writes it"),))


def run(root: Path | str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*DENYSPAM, "setup", *words, *(("--root", str(root)) if str(root) != "/" else ())]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SSH_")}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env={**inherited, **environment}
    )


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A mail server's files, as sendmail and rsyslog keep them, and systemd's folder."""
    files = {
        "usr/libexec/sendmail/sendmail": "",
        "usr/sbin/rsyslogd": "",
        "etc/rsyslog.conf": "mail.*  -/var/log/maillog\n",
        "var/log/maillog": "x\n",
        "etc/mail/access": "Connect:192.0.2.7   RELAY\nspammer.example REJECT\n",
        "etc/mail/relay-domains": "# ours\n198.51.100\ncustomer.example\n",
        "etc/systemd/system/keep": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_is_found_is_written_with_reasons(host: Path) -> None:
    done = run(host, SSH_CONNECTION="203.0.113.77 50000 192.0.2.1 22")
    assert done.returncode == 0, done.stderr
    text = (host / CONF).read_text()
    assert re.search(r"^mode = watch$", text, re.M)
    assert re.search(r"^    192\.0\.2\.7,  # sendmail access, RELAY$", text, re.M)
    assert re.search(r"^    198\.51\.100\.0/24,  # sendmail relay-domains$", text, re.M)
    assert re.search(r"^    203\.0\.113\.77  # your SSH session comes from there$", text, re.M)
    assert "customer.example" not in text
    settings, logs = load(str(host / CONF))
    assert (settings.mode, list(logs)) == ("watch", ["/var/log/maillog"])
    assert "make run" not in text
    for path in (CONF, UNIT, "etc/sysusers.d/denyspam.conf", "etc/tmpfiles.d/denyspam.conf"):
        assert f"/{path}: written (" in done.stdout
        assert "setup --enforce" in done.stdout
    unit = (host / UNIT).read_text()
    assert f"\nExecStart={sys.prefix}/bin/denyspam run\n" in unit


def test_the_daemons_user_may_read_what_a_careful_root_wrote(host: Path) -> None:
    before = os.umask(0o077)
    try:
        assert run(host).returncode == 0
    finally:
        os.umask(before)
    assert (host / CONF).stat().st_mode & 0o777 == 0o644
    assert (host / CONF).parent.stat().st_mode & 0o777 == 0o755


def test_a_second_run_changes_nothing(host: Path) -> None:
    run(host)
    before = {path: (text, (host / path).stat().st_ino) for path, text in tree(host).items()}
    done = run(host)
    assert done.returncode == 0
    assert {path: (text, (host / path).stat().st_ino) for path, text in tree(host).items()} == before
    assert "written (" not in done.stdout


def test_an_edit_is_kept_and_shown(host: Path) -> None:
    run(host)
    for path in (CONF, UNIT):
        edited = (host / path).read_text().replace("virus  = 5", "virus  = 3").replace("RestartSec=2", "RestartSec=9")
        (host / path).write_text(edited)
    before = tree(host)
    done = run(host)
    assert done.returncode == 0
    assert tree(host) == before
    assert "\n    -virus  = 3 in 15m -> ban 1h\n    +virus  = 5 in 15m -> ban 1h\n" in done.stdout
    assert "\n    -RestartSec=9\n    +RestartSec=2\n" in done.stdout


def test_what_nobody_edited_follows_the_host(host: Path) -> None:
    run(host, "--enforce")
    (host / "etc/mail/access").write_text("Connect:192.0.2.8   RELAY\n")
    done = run(host)
    assert f"/{CONF}: renewed" in done.stdout
    text = (host / CONF).read_text()
    assert "192.0.2.8" in text
    assert "192.0.2.7" not in text
    assert setup.mode_of(text) == "enforce"


def test_enforce_changes_the_mode_and_no_edit(host: Path) -> None:
    run(host)
    edited = (host / CONF).read_text().replace("virus  = 5", "virus  = 3")
    (host / CONF).write_text(edited)
    assert run(host, "--enforce").returncode == 0
    assert (host / CONF).read_text() == edited.replace("mode = watch", "mode = enforce")
    assert load(str(host / CONF))[0].mode == "enforce"


def test_dry_run_writes_nothing_and_needs_nothing(host: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = tree(host)
    done = run(host, "--dry-run")
    assert (done.returncode, tree(host)) == (0, before)
    assert f"/{CONF}: written" in done.stdout
    assert "  mode = watch" in done.stdout
    empty = tmp_path_factory.mktemp("empty")
    done = run(empty, "--dry-run")
    assert (done.returncode, list(empty.iterdir())) == (0, [])
    assert "no mail server" in done.stderr
    assert run(empty).returncode == 1
    assert list(empty.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="to be somebody else takes root, setpriv")
def test_somebody_else_may_only_look() -> None:
    somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    probe = subprocess.run([*somebody, sys.executable, "-c", "import denyspam"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("another user cannot read this checkout")
    nobody = [*somebody, *DENYSPAM, "setup"]
    done = subprocess.run([*nobody, "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(nobody, capture_output=True, text=True, check=False)
    assert (done.returncode, "takes root" in done.stderr) == (77, True)


def test_uninstall_leaves_the_host_as_it_was(host: Path) -> None:
    before = tree(host)
    run(host)
    would = run(host, "--uninstall", "--dry-run")
    assert (would.returncode, f"/{UNIT}: would be removed" in would.stdout) == (0, True)
    assert len(tree(host)) == len(before) + 4
    done = run(host, "--uninstall")
    assert (done.returncode, tree(host)) == (0, before)
    assert not (host / "etc/denyspam").exists()
    again = run(host, "--uninstall")
    assert (again.returncode, again.stdout) == (0, "setup has written nothing here\n")


def test_uninstall_leaves_what_was_edited(host: Path) -> None:
    run(host)
    with (host / CONF).open("a") as conf:
        conf.write("auth = 10 in 15m -> ban 1h\n")
    done = run(host, "--uninstall")
    assert f"/{CONF}: yours, left as it is" in done.stdout
    assert (host / CONF).exists()
    assert not (host / UNIT).exists()


def test_a_file_without_a_final_newline_or_in_another_encoding_is_the_admins(host: Path) -> None:
    (host / CONF).parent.mkdir()
    (host / CONF).write_bytes(b"# \xe4\xf6\n[daemon]\n")
    done = run(host)
    assert (host / CONF).read_bytes() == b"# \xe4\xf6\n[daemon]\n"
    assert done.returncode == 78, "what is there cannot be loaded, and that is said"


def test_the_packages_unit_is_enough(host: Path) -> None:
    unit = host / "lib/systemd/system/denyspam.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert run(host).returncode == 0
    assert (host / CONF).exists()
    assert not (host / UNIT).exists()


def test_openrc(host: Path) -> None:
    shutil.rmtree(host / "etc/systemd")
    (host / "sbin").mkdir()
    (host / "sbin/openrc-run").touch()
    assert run(host).returncode == 0
    script = host / "etc/init.d/denyspam"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/sbin/openrc-run"
    assert setup.untouched(script.read_text())
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


# --- who may read the log


@pytest.mark.skipif(os.geteuid() != 0, reason="to give files away takes root")
@pytest.mark.parametrize(
    ("mode", "group", "line"),
    [
        (0o644, "root", None),
        (0o640, "adm", None),
        (0o640, "mail", "SupplementaryGroups=mail"),
        (0o640, "root", "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"),
        (0o600, "adm", "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"),
    ],
)
def test_the_log_decides_what_the_unit_needs(host: Path, mode: int, group: str, line: str | None) -> None:
    log = host / "var/log/maillog"
    os.chown(log, 0, grp.getgrnam(group).gr_gid)
    log.chmod(mode)
    assert run(host).returncode == 0
    drop_in = host / f"{UNIT}.d/logs.conf"
    assert drop_in.exists() == (line is not None)
    if line is not None:
        assert f"\n{line}\n" in drop_in.read_text()


def test_a_folder_that_is_closed_counts_too(tmp_path: Path) -> None:
    (tmp_path / "var/log/exim").mkdir(parents=True)
    (tmp_path / "var/log/exim/mainlog").touch(0o644)
    (tmp_path / "var/log/exim").chmod(0o700)
    needed = setup.needed(Host(str(tmp_path)), "/var/log/exim/mainlog")
    assert needed is not None
    assert needed[1] == "/var/log/exim can be read by its owner alone"


# --- its pieces


def test_what_was_written_is_known_again() -> None:
    for text in ("a\n", "#!/bin/sh\n# b\n", "", "no end"):
        made = setup.stamped(text)
        assert setup.untouched(made)
        assert not setup.untouched(text)
        assert not setup.untouched(made + "\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[daemon]\nmode = watch\n", "[daemon]\nmode = enforce\n"),
        ("[daemon]\n  mode=watch   # for now\n", "[daemon]\n  mode=enforce   # for now\n"),
        ("[daemon]\nports = 25\n", "[daemon]\nmode = enforce\nports = 25\n"),
        ("[log /x]\n", "[daemon]\nmode = enforce\n\n[log /x]\n"),
    ],
)
def test_another_mode(before: str, after: str) -> None:
    assert setup.with_mode(before, "enforce") == after
    assert setup.with_mode(setup.stamped(before), "enforce") == setup.stamped(after)


def test_the_sessions_address_is_allowed_once(tmp_path: Path) -> None:
    office = Allowed(ip_network("203.0.113.0/24"), "office")
    found = Found(FOUND.servers, FOUND.logs, (office,))
    peers = [ip_network("203.0.113.7"), ip_network("127.0.0.1"), ip_network("2001:db8::7")]
    (conf,) = setup.plan(Host(str(tmp_path)), found, "/x", None, peers)
    assert "203.0.113.7" not in conf.text
    assert "2001:db8::7  # your SSH session comes from there\n" in conf.text


def test_a_program_that_the_service_cannot_see(tmp_path: Path) -> None:
    assert setup.hidden("/root/denyspam/.venv/bin/denyspam") is not None


# --- the bans end


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="writes to a private /etc")
def test_uninstall_ends_the_bans(tmp_path: Path, network: Network) -> None:
    """On a real root folder, whose /etc is a private copy: the kernel holds nothing of ours afterwards."""
    daemon = Live(tmp_path, network.server)
    daemon.start()
    daemon.write(viruses(CLIENTS4[0], 5))
    until(lambda: daemon.held() == {CLIENTS4[0]}, "the ban")
    daemon.stop()
    inside = ["unshare", "--mount", "sh", "-ec", PRIVATE_ETC, "sh", str(daemon.conf)]
    done = subprocess.run(
        [*network.server.prefix, *inside, *DENYSPAM, "setup", "--uninstall"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("released 1 ban, and the firewall's table is gone\n")
    assert "denyspam" not in network.server.check("nft", "list", "tables")


PRIVATE_ETC = """
mount -t tmpfs private /mnt; cp -a /etc/passwd /etc/group /etc/nsswitch.conf /mnt
mkdir /mnt/denyspam; cp "$1" /mnt/denyspam/denyspam.conf; shift
mount --bind /mnt /etc
exec "$@"
"""
