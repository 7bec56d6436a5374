"""What is shipped is whole: the wheel, the entry points, etc/, and a checkout that builds itself."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from denyspam.settings import (
    DAEMON,
    FUSE,
    LOG,
    NOTIFY,
    SENDERS,
    FuseSettings,
    NotifySettings,
    SendersSettings,
    Settings,
    parse,
)

ROOT = Path(__file__).parent.parent
UNITS = sorted(path.name for path in (ROOT / "etc").glob("*.service"))
TRACKED = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def run(*command: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {**os.environ, **environment}
    quiet = subprocess.DEVNULL
    return subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True, stdin=quiet, check=False)


def entry_points(group: str) -> set[str]:
    return {line.partition("=")[0].strip() for line in SETUP["options.entry_points"][group].splitlines() if line}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a clone would have, and no others."""
    place = tmp_path_factory.mktemp("checkout")
    listed = run(*TRACKED)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what belongs to it cannot be told")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(place), ".")
    done = run(sys.executable, *build, cwd=checkout)
    assert done.returncode == 0, done.stderr
    return next(place.glob("*.whl"))


def test_the_wheel_holds_every_module_and_filter(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (("denyspam", "denyspam"), ("filters", "denyspam/filters"), ("actions", "denyspam/actions")):
        for path in (ROOT / folder).iterdir():
            if path.suffix in (".py", ".filter"):
                assert f"{package}/{path.name}" in names
    assert "denyspam/etc/providers" in names
    assert not [name for name in names if name.startswith(("tests", "etc", "filters", "actions"))]


def test_the_wheel_works_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # Before site-packages, so that it is the wheel and not the checkout that is imported.
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from denyspam.cli import main; sys.exit(main())"
    (tmp_path / "log").write_text("nothing\n")
    done = run(sys.executable, "-c", program, str(tmp_path), "events", "--json", str(tmp_path / "log"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    where = "import sys; sys.path.insert(0, sys.argv[1]); import denyspam.filters; print(denyspam.filters.__file__)"
    done = run(sys.executable, "-c", where, str(tmp_path), cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path))


def test_every_shipped_filter_is_an_entry_point() -> None:
    assert entry_points("denyspam.filters") == {path.stem for path in (ROOT / "filters").glob("*.filter")}


def test_every_shipped_action_is_an_entry_point() -> None:
    shipped = {path.stem for path in (ROOT / "actions").glob("*.py") if not path.stem.startswith("_")}
    assert entry_points("denyspam.actions") == shipped


def test_metadata_stands_in_one_place() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) == 3
    pyproject = configparser.ConfigParser()
    pyproject.read(ROOT / "pyproject.toml")
    assert pyproject.sections() == ["build-system"]


def test_the_shown_defaults_are_the_defaults() -> None:
    text = (ROOT / "etc/denyspam.conf").read_text(encoding="utf-8")
    settings, default = parse(text, "etc/denyspam.conf"), Settings()
    for key in DAEMON:
        assert re.search(rf"^#?{key} +=", text, re.M), f"{key} is not shown"
        if key != "allow":  # loopback is spared in any case; it is shown for the admin's eye
            assert getattr(settings, key) == getattr(default, key), key
    for key in NOTIFY:
        assert re.search(rf"^#{key} +=", text, re.M), f"{key} is not shown"
    for key in LOG:
        assert re.search(rf"^#?{key} +=", text, re.M), f"{key} is not shown"
    (log,) = settings.logs
    assert (log.filters, log.timezone, log.stamp) == (("auto",), None, "line")
    assert [policy.name for policy in settings.policies] == ["virus", "relay", "reject"]


def test_what_is_commented_out_in_the_example_is_right_too() -> None:
    text = (ROOT / "etc/denyspam.conf").read_text(encoding="utf-8")
    bare = re.sub(r"^#(?=[a-z.]+ +=|\[)", "", text, flags=re.M)
    settings = parse(bare, "etc/denyspam.conf")
    for section, shown, known in (("senders", settings.senders, SENDERS), ("fuse", settings.fuse, FUSE)):
        assert shown is not None
        for key in known:
            assert re.search(rf"^#{key} +=", text, re.M), f"{key} of [{section}] is not shown"
    assert settings.senders == SendersSettings(resolver=(("127.0.0.1", 53),))
    assert settings.fuse == FuseSettings()
    assert settings.group == "adm"
    assert settings.logs[0].timezone == "Europe/Berlin"
    assert settings.notify is not None
    assert settings.notify.every == NotifySettings().every
    assert settings.notify.server == NotifySettings().server
    assert settings.notify.about == NotifySettings().about
    assert {policy.name for policy in settings.policies} == {"virus", "relay", "reject", "relay.slow", "auth", "spam"}


def test_the_unit_fits_the_defaults() -> None:
    unit = configparser.ConfigParser(strict=False, comment_prefixes="#")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "etc/denyspam.service")
    service = unit["Service"]
    assert f"/var/lib/{service['StateDirectory']}" == Settings().state
    assert f"/run/{service['RuntimeDirectory']}/denyspam.sock" == Settings().socket
    assert set(service["RestartPreventExitStatus"].split()) == {"77", "78"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_no_fault_with_a_unit(name: str, tmp_path: Path) -> None:
    unit = (ROOT / "etc" / name).read_text(encoding="utf-8")
    path = tmp_path / name
    path.write_text(unit.replace("/usr/local/sbin/denyspam", "/bin/true"))
    done = run("systemd-analyze", "verify", "--man=no", str(path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    ("name", "more"), [*((name, "") for name in UNITS), ("denyspam.service", "CAP_DAC_READ_SEARCH")]
)
def test_every_unit_is_sandboxed(name: str, more: str, tmp_path: Path) -> None:
    """Also with the drop-in of a host whose logs root alone may read."""
    unit = (ROOT / "etc" / name).read_text(encoding="utf-8")
    path = tmp_path / name
    unit = unit.replace("/usr/local/sbin/denyspam", "/bin/true")
    path.write_text(re.sub(r"^((?:Ambient|CapabilityB)\w+=CAP_NET_ADMIN)$", rf"\1 {more}", unit, flags=re.M))
    done = run("systemd-analyze", "security", "--offline=true", str(path))
    exposure = re.search(rf"Overall exposure level for {re.escape(name)}: (\d+\.\d)", done.stdout)
    if exposure is None:
        pytest.skip(f"this systemd-analyze judges no files: {done.stderr.strip()}")
    assert float(exposure[1]) <= 2.0


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.M)[0].split()) - {"help", "system"}
    shown = run("make", "--no-print-directory", "help").stdout
    assert targets == {line.split()[1] for line in shown.splitlines()}


def test_ci_calls_the_readmes_test_command() -> None:
    assert re.search(r"^exec make .*\btest\b", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.M)
    assert re.search(r"^make test$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize(
    ("interpreter", "complaint"),
    [("#!/bin/sh\nexit 1\n", "older than Python 3.10"), (None, "there is no")],
)
def test_an_interpreter_that_will_not_do_is_named(
    checkout: Path, tmp_path: Path, interpreter: str | None, complaint: str
) -> None:
    python = tmp_path / "python"
    if interpreter:
        python.write_text(interpreter)
        python.chmod(0o755)
    done = run("make", "venv", f"PYTHON={python}", cwd=checkout)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert str(python) in done.stderr


def test_a_clone_builds_its_own_environment_once(checkout: Path) -> None:
    """With the packages that the index gives now: one that stopped to install is found here and not by users."""
    make = ("make", "--no-print-directory", "venv", f"PYTHON={sys.executable}")
    first = run(*make, cwd=checkout, CI="true")
    assert first.returncode == 0, first.stderr
    assert run(".venv/bin/denyspam", "--help", cwd=checkout).returncode == 0
    inode = (checkout / ".venv/stamp").stat().st_ino
    again = run("make", "--no-print-directory", "venv", cwd=checkout, CI="true")
    assert (again.returncode, again.stdout) == (0, "")
    assert (checkout / ".venv/stamp").stat().st_ino == inode
