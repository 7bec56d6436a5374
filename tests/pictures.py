"""pictures: the report of a made-up month, as a page and as the pictures of the docs; `top` and `web` beside a daemon
that reads a busy log. `make pictures`, three minutes.

The month: bench/logs.py's Postfix, exim and sendmail, read by the shipped filters, decided by a policy, kept in a
ledger as the daemon keeps it; the databases of countries and providers are made up too. Chromium makes the pictures.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timezone
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.logs import UNTIL, Log, save  # noqa: E402
from denyspam import replay  # noqa: E402
from denyspam.events import Ban, Target  # noqa: E402
from denyspam.ledger import Ledger  # noqa: E402
from denyspam.plugins import load  # noqa: E402

if TYPE_CHECKING:
    import threading

    from browser import Browser
    from live import Live
    from netns import Network

VIEWS = """\
virus      = 5 in 15m -> ban 1h
relay      = 5 in 15m -> ban 1h
relay.slow = 50 in 1d -> ban 1d
reject     = 20 in 15m -> ban 30m
auth       = 10 in 15m -> ban 2h
any        = 30 in 1h -> ban 1h
"""
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


FED = 75  # seconds


def views(to: Path, folder: Path) -> None:
    """`top` and `web` beside a daemon that reads a busy log, in a network of its own; a minute and a quarter."""
    import asyncio
    import threading

    from browser import browsing
    from live import Live, viruses
    from netns import CLIENTS4, Network

    folder.mkdir()
    over = threading.Event()
    with Network() as network:
        daemon = Live(folder, network.server)
        daemon.configure(policy=VIEWS)
        daemon.log.touch()
        daemon.start()
        feeding = threading.Thread(target=feed, args=(daemon.log, over))
        feeding.start()
        try:
            with daemon.log.open("a") as log:
                log.writelines(f"{line}\n" for client in CLIENTS4[:3] for line in viruses(client, 5))
            asyncio.run(screen(daemon, to / "top.png", network))
            with browsing(folder) as browser:
                page(daemon, browser, to)
        finally:
            over.set()
            feeding.join()
            daemon.stop()


def feed(log: Path, over: threading.Event) -> None:
    """What bench/logs.py makes up, as it would come."""
    chance = Random(3)
    source = subprocess.Popen(
        [sys.executable, "-m", "bench.logs", "postfix", "300000", "--seed", "5"], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert source.stdout is not None
    with log.open("ab", buffering=0) as to:
        second = 0
        while not over.wait(0.5):
            count = int(120 * (1.2 + math.sin(second / 9) + 0.6 * chance.random()))
            now = time.strftime("%b %e %H:%M:%S", time.gmtime()).encode()
            to.write(b"".join(now + line[15:] for line in itertools.islice(source.stdout, count)))
            second += 1
    source.kill()
    source.wait()


async def screen(daemon: Live, to: Path, network: Network) -> None:
    import asyncio
    import re

    from browser import browsing
    from netns import CLIENTS4, SERVER4

    from denyspam.top import Top

    class Shown(Top):
        async def _look(self) -> None:
            await super()._look()
            if self.found:
                self.found["host"] = "mx.example.org"
                self.found["logs"][0]["path"] = "/var/log/mail.log"

    app = Shown(str(daemon.folder / "sock"), timezone.utc)
    async with app.run_test(size=(150, 42)) as pilot:
        for second in range(FED):
            await asyncio.sleep(1)
            if second % 3 == 0:
                await asyncio.to_thread(network.connects, SERVER4, 25, CLIENTS4[second % 4], 0.2)
        await pilot.pause(1.5)
        drawn = re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(title="denyspam top"), flags=re.S)
    drawn = drawn.replace("Fira Code", "DejaVu Sans Mono")
    (daemon.folder / "top.html").write_text(f"<body style='margin:0;background:#0d1117'>{drawn}", encoding="utf-8")
    with browsing(daemon.folder) as browser:
        browser.call("Page.navigate", url=(daemon.folder / "top.html").as_uri())
        browser.until("document.querySelector('svg') !== null")
        shape = browser.run("(({width, height}) => ({width, height}))(document.querySelector('svg').viewBox.baseVal)")
        size = {"width": 1500, "height": round(1500 * shape["height"] / shape["width"])}
        browser.call("Emulation.setDeviceMetricsOverride", **size, deviceScaleFactor=1, mobile=False)
        browser.picture(to)


def page(daemon: Live, browser: Browser, to: Path) -> None:
    """The live page, light and dark."""
    port, words = 8926, daemon.command("web", "--read-only", "--listen", "127.0.0.1:8926")
    assert daemon.namespace is not None
    server = subprocess.Popen(words[len(daemon.namespace.prefix) :], stderr=subprocess.PIPE)
    try:
        assert server.stderr is not None
        server.stderr.readline()
        browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
        browser.until("document.querySelector('#bans tbody')?.rows.length > 3")
        time.sleep(4)
        browser.run("document.querySelector('#pause').click()")
        browser.run("document.querySelector('#host').textContent = 'mx.example.org'")
        for file, scheme in (("web.png", "light"), ("web-dark.png", "dark")):
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=1000, height=1100, deviceScaleFactor=1, mobile=False
            )
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.call("Emulation.setEmulatedMedia", features=[feature])
            browser.picture(to / file)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    os.environ["TZ"] = "UTC"
    with tempfile.TemporaryDirectory(prefix="denyspam-") as name:
        folder = Path(name)
        report(month(folder), folder / "report.html")
        for file, dark in (("report.png", False), ("report-dark.png", True)):
            picture(folder / "report.html", to / file, wide=1000, high=1400, dark=dark)
        views(to, folder / "live")


if __name__ == "__main__":
    main()
