"""pictures: the report of a made-up month, as a page and as the pictures of the docs. `make pictures`, a minute.

The month: bench/logs.py's Postfix, exim and sendmail, read by the shipped filters, decided by a policy, kept in a
ledger as the daemon keeps it; the databases of countries and providers are made up too. Chromium makes the pictures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from datetime import timezone
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.logs import UNTIL, Log, save  # noqa: E402
from denyspam import replay  # noqa: E402
from denyspam.events import Ban, Target  # noqa: E402
from denyspam.ledger import Ledger  # noqa: E402
from denyspam.plugins import load  # noqa: E402

CONF = """[daemon]
state = {0}/state
socket = {0}/sock
allow = 192.0.2.0/24
mmdb = {0}/country.mmdb, {0}/asn.mmdb
[log {0}/postfix.log]
filters = postfix, dovecot
timezone = UTC
[log {0}/exim.log]
filters = exim
timezone = UTC
[log {0}/sendmail.log]
filters = sendmail
timezone = UTC
[policy]
virus  = 2 in 1d -> ban 1d, doubling to 30d
relay  = 5 in 15m -> ban 1h, doubling to 7d
reject = 5 in 1h -> ban 1h, doubling to 7d
auth   = 8 in 1d -> ban 6h, ports 465, 587
any    = 25 in 1d -> ban 2d
"""
DAY = 86_400.0
COUNTRIES = (
    ("BR", "Brazil"),
    ("IN", "India"),
    ("VN", "Vietnam"),
    ("US", "United States"),
    ("CN", "China"),
    ("NL", "The Netherlands"),
    ("DE", "Germany"),
    ("RU", "Russia"),
)
RUNNING = {  # what a daemon would tell
    "host": "mx.example.org",
    "daemon": "runs",
    "since": UNTIL - 19 * DAY,
    "mode": "enforce",
    "firewall": {"refused": 48_213, "fault": None, "ended": 311, "repairs": 0},
}
HOLDERS = [
    f"{name} {what}"
    for what in ("Broadband", "Hosting")
    for name in ("Example", "Sample", "Placeholder", "Fictional", "Imaginary", "Specimen", "Dummy")
]


def month(folder: Path, lines: int = 120_000) -> Path:
    """A ledger with a month of bans in `folder`/state, with its configuration; returns that."""
    conf = folder / "denyspam.conf"
    conf.write_text(CONF.format(folder))
    chance = Random(7)
    for number, server in enumerate(("postfix", "exim", "sendmail")):
        save(Log(server, lines, seed=number + 11), str(folder / f"{server}.log"))
    settings, logs = load(str(conf))
    sources = [replay.Source(each.path, logs[each.path], timezone.utc) for each in settings.logs]
    (folder / "state").mkdir()
    ledger = Ledger(str(folder / "state/ledger.db"), UNTIL)
    judge = settings.judge(())
    for at, ban in enumerate(replay.bans(judge, replay.events(sources))):
        number = ledger.decide(ban)
        ledger.confirm(number)
        if ban.until <= UNTIL:
            by_hand = at % 400 == 399
            ended = ban.since + (ban.until - ban.since) * (0.4 if by_hand else 1.0)
            ledger.end(number, "released" if by_hand else "expired", ended, "by root: a customer" if by_hand else "")
    for name, note in (
        ("203.0.113.0/24", "asked by the abuse desk of the provider"),
        ("198.51.100.77", "spam run, ticket 4711"),
    ):
        since = UNTIL - chance.uniform(1, 6) * DAY
        ban = Ban(Target.named(name, (25,)), "manual", since, since + 14 * DAY, 0, note=note)
        ledger.confirm(ledger.decide(ban))
    for each in settings.logs:
        ledger.position(each.path, "{}", UNTIL - chance.uniform(0, 300))
    ledger.commit()
    ledger.close()
    databases(folder)
    return conf


def databases(folder: Path) -> None:
    """country.mmdb and asn.mmdb, made up: a country and a provider for each /8, and for each /16 of IPv6."""
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    countries, systems = (
        MMDBWriter(6, ipv4_compatible=True, database_type=name) for name in ("made-up-country", "made-up-asn")
    )
    for number in range(1, 224):
        code, name = COUNTRIES[number * number % 61 % len(COUNTRIES)]
        network = IPSet([f"{number}.0.0.0/8"])
        countries.insert_network(network, {"country": {"iso_code": code, "names": {"en": name}}})
        holder = {
            "autonomous_system_number": 64496 + number % 14,
            "autonomous_system_organization": HOLDERS[number % 14],
        }
        systems.insert_network(network, holder)
    countries.insert_network(IPSet(["2000::/3"]), {"country": {"iso_code": "DE", "names": {"en": "Germany"}}})
    countries.to_db_file(str(folder / "country.mmdb"))
    systems.to_db_file(str(folder / "asn.mmdb"))


def chromium() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def browse(program: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A headless browser that may reach no network; what it and the page say is on stderr."""
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-extensions",
        "--no-first-run",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={folder}/profile",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def picture(page: Path, to: Path, *, wide: int, high: int, dark: bool = False) -> None:
    program = chromium()
    if program is None:
        sys.exit("there is no chromium here; as root: apt-get install chromium")
    done = browse(
        program,
        page.parent,
        f"--screenshot={to}",
        f"--window-size={wide},{high}",
        *(("--blink-settings=preferredColorScheme=0",) if dark else ("--blink-settings=preferredColorScheme=1",)),
        page.as_uri(),
    )
    if not to.exists():
        sys.exit(f"chromium made no picture: {done.stderr[-2000:]}")


def report(conf: Path, page: Path) -> None:
    """The report of the thirty days, as it would have been made at their end."""
    from denyspam import report as reporting

    settings, _ = load(str(conf))
    numbers = reporting.told(settings, UNTIL - 30 * DAY, UNTIL, timezone.utc, settings.mmdb)
    page.write_text(reporting.page({**numbers, **RUNNING}, timezone.utc), encoding="utf-8")


def main() -> None:
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    os.environ["TZ"] = "UTC"
    with tempfile.TemporaryDirectory(prefix="denyspam-") as name:
        folder = Path(name)
        report(month(folder), folder / "report.html")
        for file, dark in (("report.png", False), ("report-dark.png", True)):
            picture(folder / "report.html", to / file, wide=1000, high=1400, dark=dark)


if __name__ == "__main__":
    main()
