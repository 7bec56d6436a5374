"""The report: its numbers against the ledger, its page against a parser and a browser, its manners beside a daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import html5lib
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import live, until, viruses
from netns import CLIENTS4, Network
from pictures import DAY, UNTIL
from test_cli import denyspam

from denyspam import charts, report
from denyspam.events import Ban, Event, Target
from denyspam.ledger import Ledger
from denyspam.plugins import load
from denyspam.review import Line, Place, Review, network, place
from denyspam.tally import Steps

ROOT = Path(__file__).parent.parent
HOSTILE = (
    "</td></tr></table><script>alert(1)</script><img src=//x.example/y onerror=alert(1)> http://x.example {{ 7*7 }}"
    " \u202e\x00\x1b[31m' \"&"
)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger with a month of bans."""
    folder = tmp_path_factory.mktemp("month")
    pictures.month(folder, 9_000)
    return folder


@pytest.fixture(scope="module")
def numbers(month: Path) -> dict[str, Any]:
    found, _ = load(str(month / "denyspam.conf"))
    return report.told(found, UNTIL - 20 * DAY, UNTIL, timezone.utc, found.mmdb)


@pytest.fixture(scope="module")
def page(numbers: dict[str, Any]) -> str:
    return report.page(numbers, timezone.utc)


@pytest.fixture
def database(month: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(f"file:{month}/state/ledger.db?immutable=1", uri=True)
    yield made
    made.close()


IN = "FROM bans WHERE since >= ? AND since < ? AND NOT (file IS NOT NULL AND note <> '')"
PERIOD = (UNTIL - 20 * DAY, UNTIL)


def test_the_numbers_are_those_of_the_ledger(numbers: dict[str, Any], database: sqlite3.Connection) -> None:
    def one(what: str, more: str = "", values: tuple[float, ...] = PERIOD) -> Any:
        return database.execute(f"SELECT {what} {IN} {more}", values).fetchone()[0]

    assert numbers["bans"] == one("count(*)") > 50
    assert numbers["addresses"] == one("count(DISTINCT network)")
    assert numbers["hits"] == one("sum(hits)")
    assert numbers["released"] == one("count(*)", "AND state = 'released'")
    held = "SELECT count(*) FROM bans WHERE ended IS NULL AND until > ?"
    assert numbers["holding"] == database.execute(held, (UNTIL,)).fetchone()[0] > 0
    assert numbers["before"] is None  # the ledger does not go back that far
    for row in numbers["policies"]:
        mine = "SELECT until - since FROM bans WHERE rule = ? AND since >= ? AND since < ? ORDER BY 1"
        lengths = [length for (length,) in database.execute(mine, (row["name"], *PERIOD))]
        assert row["bans"] == len(lengths)
        assert row["median"] == lengths[(len(lengths) - 1) // 2]
        assert row["last"] == one("max(since)", "AND rule = ?", (*PERIOD, row["name"]))
        assert row["addresses"] == one("count(DISTINCT network)", "AND rule = ?", (*PERIOD, row["name"]))
    assert {row["name"] for row in numbers["policies"]} >= {"reject", "relay", "manual"}
    assert sum(row["bans"] for row in numbers["policies"]) == numbers["bans"]
    assert sum(row["bans"] for row in numbers["kinds"]) == numbers["bans"]
    assert sum(row["bans"] for row in numbers["durations"]) == numbers["bans"]
    assert sum(row["addresses"] for row in numbers["often"]) == numbers["addresses"]
    assert sum(row["bans"] for row in numbers["countries"]) <= numbers["bans"]


def test_the_bans_over_time(numbers: dict[str, Any], database: sqlite3.Connection) -> None:
    over = numbers["over_time"]
    wanted = Counter(
        int((since - over["start"]) // over["step"]) for (since,) in database.execute(f"SELECT since {IN}", PERIOD)
    )
    total = [sum(each) for each in zip(*over["bans"].values(), strict=True)]
    assert {at: count for at, count in enumerate(total) if count} == wanted
    assert {row["kind"]: row["bans"] for row in numbers["kinds"]} == {
        kind: sum(each) for kind, each in over["bans"].items()
    }


def test_the_worst(numbers: dict[str, Any], database: sqlite3.Connection) -> None:
    again = f"SELECT network, count(*), min(since), max(since) {IN} GROUP BY network HAVING count(*) > 1"
    rows = sorted(database.execute(again, PERIOD), key=lambda row: -row[1])
    assert [row["bans"] for row in numbers["repeated"]] == [row[1] for row in rows[:10]]
    known = {row[0]: row[1:] for row in rows}
    for row in numbers["repeated"]:
        assert known[row["address"]] == (row["bans"], row["first"], row["last"])
        assert 0 < row["held"] <= 20 * DAY
    groups = Counter(network(name) for (name,) in database.execute(f"SELECT network {IN}", PERIOD))
    assert [row["bans"] for row in numbers["networks"]] == [count for _, count in groups.most_common(10)]
    assert numbers["network_count"] == len(groups)


def test_filters_and_lines(numbers: dict[str, Any], month: Path, database: sqlite3.Connection) -> None:
    copied = month / "copy.db"
    copied.write_bytes((month / "state/ledger.db").read_bytes())
    ledger = Ledger(str(copied), UNTIL)
    ids = [number for (number,) in database.execute(f"SELECT id {IN}", PERIOD)]
    lines = [line for number in ids for line in ledger.evidence(number)]
    ledger.close()
    assert {row["name"]: row["lines"] for row in numbers["filters"]} == Counter(line["filter"] for line in lines)
    for row in numbers["filters"]:
        assert row["last"] == max(line["time"] for line in lines if line["filter"] == row["name"])
    assert {each["line"].encode() for each in numbers["examples"]} <= {line["text"] for line in lines}
    assert numbers["silent"] == ["dovecot"]
    assert {each["path"]: each["clock"] for each in numbers["logs"]} == dict(
        database.execute("SELECT log, clock FROM positions")
    )


def test_a_withheld_ban_is_none(tmp_path: Path) -> None:
    conf = tmp_path / "denyspam.conf"
    conf.write_text(pictures.CONF.format(tmp_path).replace("mmdb", "#mmdb"))
    (tmp_path / "state").mkdir()
    ledger = Ledger(str(tmp_path / "state/ledger.db"), UNTIL)
    for number, since in enumerate((UNTIL - 60, UNTIL - 50, UNTIL - 1.5 * DAY, UNTIL - 3 * DAY)):
        target = Target.named(f"192.0.2.{number}", (25,))
        made = ledger.decide(Ban(target, "relay", since, UNTIL + DAY, 5, mark=("mail.log", number)), "active")
        if number in (1, 2):
            ledger.withhold(made, "a customer sends from there")
    ledger.commit()
    ledger.close()
    found, _ = load(str(conf))
    told = report.told(found, UNTIL - DAY, UNTIL, timezone.utc)
    assert (told["bans"], told["holding"], told["withheld_count"]) == (1, 2, 1)
    assert told["before"] == {"bans": 0, "addresses": 0}
    assert [(each["address"], each["note"]) for each in told["withheld"]] == [
        ("192.0.2.1", "a customer sends from there")
    ]
    assert "a customer sends from there" in "".join(check(report.page(told, timezone.utc)).itertext())


def test_by_hand(numbers: dict[str, Any]) -> None:
    notes = {each["note"] or each["end_note"] for each in numbers["by_hand"]}
    assert "spam run, ticket 4711" in notes
    assert numbers["by_hand_count"] >= 2


def test_the_period_before(month: Path) -> None:
    found, _ = load(str(month / "denyspam.conf"))
    told = report.told(found, UNTIL - 5 * DAY, UNTIL, timezone.utc)
    earlier = report.told(found, UNTIL - 10 * DAY, UNTIL - 5 * DAY, timezone.utc)
    assert told["before"] == {"bans": earlier["bans"], "addresses": earlier["addresses"]}
    assert f"{100 * (told['bans'] - earlier['bans']) / earlier['bans']:+.0f} %"[:2] in report.page(told, timezone.utc)


# --- the page ---------------------------------------------------------------------------------------------------------


def parsed(text: str) -> Any:
    """Raises on anything that is not HTML as the standard wants it."""
    return html5lib.HTMLParser(tree=html5lib.getTreeBuilder("etree"), strict=True, namespaceHTMLElements=False).parse(
        text
    )


def check(text: str) -> Any:
    """That a page is sound, accessible and alone in the world; returns its tree."""
    tree = parsed(text)
    assert not re.search("//|https?:", text)
    assert "xmlns" not in text
    every = list(tree.iter())
    tags = Counter(str(each.tag).rpartition("}")[2] for each in every if isinstance(each.tag, str))
    assert not {"script", "img", "link", "iframe", "object", "embed", "form", "a", "image", "use"} & set(tags)
    assert not [
        each for each in every for name in each.attrib if name in ("href", "src", "style") or name.startswith("on")
    ]
    for table in tree.iter("table"):
        assert table.find("caption") is not None and "".join(table.find("caption").itertext()).strip()
        for cell in table.iter("th"):
            assert cell.get("scope") in ("col", "row")
            assert "".join(cell.itertext()).strip()
    levels = [int(each.tag[1]) for each in every if re.fullmatch("h[1-6]", str(each.tag))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    identities = [each.get("id") for each in every if each.get("id")]
    assert len(set(identities)) == len(identities)
    for each in every:
        assert set((each.get("aria-labelledby") or "").split()) <= set(identities)
        if str(each.tag).endswith("svg"):
            assert each.get("aria-hidden") == "true" or (each.get("role") == "img" and each.get("aria-labelledby"))
    assert tree.find("head/title").text and tree.get("lang") == "en"
    return tree


def test_the_page_is_sound_and_alone(page: str, numbers: dict[str, Any]) -> None:
    tree = check(page)
    text = " ".join(tree.find("body").itertext())
    assert f"{numbers['bans']:,}" in text and f"{numbers['addresses']:,}" in text
    for row in (*numbers["policies"], *numbers["filters"]):
        assert row["name"] in text
    for row in (*numbers["networks"], *numbers["repeated"]):
        assert row.get("network", row.get("address")) in text
    rows = [[cell.text for cell in row.iter("td")] for row in tree.find(".//details").iter("tr")]
    assert sum(int(row[-1]) for row in rows if row) == numbers["bans"]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_colours_can_be_read() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (ROOT / "etc/report.css").read_text()
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)[:2]
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for name in ("ink", "quiet", "accent", "warn"):
            assert contrast(colours[name], colours["paper"]) >= 4.5
        assert contrast(colours["ink"], colours["track"]) >= 4.5


def hostile(folder: Path, text: str) -> dict[str, Any]:
    """A ledger in which everything that anybody can write says `text`."""
    (folder / "state").mkdir()
    ledger = Ledger(str(folder / "state/ledger.db"), UNTIL)
    plain = text.replace("\n", " ").replace("\r", " ")
    word = plain.replace(" ", "_")
    line = Event(UNTIL - 50, "virus", "192.0.2.7", word, None, None, plain, 0, 1, plain.encode("utf-8", "replace"))
    target = Target.named("192.0.2.7", (25,))
    for rule, state in (("relay", "released"), ("manual", "active"), (text, "expired"), ("virus", "withheld")):
        number = ledger.decide(Ban(target, rule, UNTIL - 50, UNTIL + 50, 5, (line,), "", ("f", 0)), "active")
        if state == "withheld":
            ledger.withhold(number, text)
            continue
        if state != "active":
            ledger.end(number, state, UNTIL - 10, text)
    ledger.position(text, "{}", UNTIL)
    ledger.commit()
    ledger.close()
    conf = folder / "denyspam.conf"
    conf.write_text(pictures.CONF.format(folder).replace("mmdb", "#mmdb"))
    found, _ = load(str(conf))
    told = report.told(found, UNTIL - DAY, UNTIL, timezone.utc)
    told["host"] = text
    told["alarms"] = [{"name": "log-stopped", "subject": text, "since": UNTIL, "text": text, "samples": [text]}]
    told["networks"][0].update(country="US", name=text, number=1, holder=text)
    told["countries"], told["systems"] = (
        [{"country": "US", "name": text, "bans": 3, "addresses": 1}],
        [{"number": 1, "holder": text, "bans": 3, "addresses": 1}],
    )
    told["located"] = True
    return told


def shape(tree: Any) -> list[str]:
    return [str(each.tag) for each in tree.iter()]


def test_hostile_text_is_text(tmp_path: Path) -> None:
    for name in ("tame", "wild"):
        (tmp_path / name).mkdir()
    wild = report.page(hostile(tmp_path / "wild", HOSTILE), timezone.utc)
    tame = report.page(hostile(tmp_path / "tame", "x"), timezone.utc)
    assert shape(check(wild)) == shape(check(tame))
    assert "&lt;script&gt;" in wild and "{{ 7*7 }}" in wild
    assert not re.search("[\u202e\x00\x1b]", wild)


@given(text=st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_harmless(text: str) -> None:
    shown = report.foreign(text)
    assert "//" not in shown
    assert shown.isprintable()


@pytest.mark.parametrize("counts", [{}, {"a": []}, {"a": [0, 0]}, {"a": [1], "b": [0]}, {"a": [0, 10**9, 1]}])
def test_charts_are_sound(counts: dict[str, list[int]]) -> None:
    steps = Steps(UNTIL, 3600, counts)
    drawn = charts.columns(steps, "x", "y") + charts.bar(1, 3) + charts.bar(0, 0) + charts.trend(steps.total())
    tree = parsed(f"<!DOCTYPE html><title>x</title><body>{drawn}</body>")
    rects = [each for each in tree.iter() if str(each.tag).endswith("rect")]
    for each in rects:
        assert 0 <= float(each.get("height")) <= 100 and float(each.get("y", 0)) >= 0


@given(st.integers(0, 10**9))
def test_an_axis_ends_at_a_plain_number(most: int) -> None:
    top = charts.nice(most)
    assert top >= most and str(top).rstrip("0") in ("1", "2", "4", "5")
    assert most < 2 or top < 2.5 * most


# --- in a browser -----------------------------------------------------------------------------------------------------


def visit(folder: Path, text: str) -> tuple[list[str], set[str]]:
    """(what the console says, what the page asked for) in a browser."""
    program = pictures.chromium()
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    log = folder / "net.json"
    words = ("--enable-logging=stderr", f"--log-net-log={log}", "--disable-background-networking", "--dump-dom")
    done = pictures.browse(program, folder, *words, path.as_uri())
    assert done.returncode == 0 and "</html>" in done.stdout, done.stderr[-2000:]
    asked = set()
    for event in json.loads(log.read_text())["events"]:
        said = event.get("params")
        # The browser's own errands are of no origin.
        if isinstance(said, dict) and "url" in said and said.get("initiator", "not an origin") != "not an origin":
            asked.add(said["url"])
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], asked


def test_a_browser_asks_for_nothing_and_complains_of_nothing(tmp_path: Path, page: str) -> None:
    assert visit(tmp_path, page) == ([], set())


def test_a_browser_would_have_told(tmp_path: Path, page: str) -> None:
    image = '<img src="http://127.0.0.1:9/x.png">'
    said, asked = visit(tmp_path, page.replace("</main>", f"{image}<p style='color: red'>x</p></main>"))
    assert (len(said), asked) == (2, set())  # the page's own policy forbids both
    _, asked = visit(tmp_path, f"<!DOCTYPE html><title>x</title>{image}")
    assert asked == {"http://127.0.0.1:9/x.png"}


# --- as a command -----------------------------------------------------------------------------------------------------


def test_without_a_ledger(tmp_path: Path) -> None:
    conf = tmp_path / "denyspam.conf"
    conf.write_text(pictures.CONF.format(tmp_path).replace("mmdb", "#mmdb"))
    done = denyspam("report", "-c", conf)
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(check(done.stdout).find("body").itertext())
    assert "There is no ledger yet" in text
    told = json.loads(denyspam("report", "--json", "-c", conf).stdout)
    assert (told["bans"], told["kinds"], told["ledger"]["found"], told["firewall"]) == (0, [], False, None)
    assert not (tmp_path / "state").exists()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    conf = tmp_path / "denyspam.conf"
    conf.write_text(pictures.CONF.format(tmp_path).replace("mmdb", "#mmdb"))
    (tmp_path / "broken.mmdb").write_bytes(b"no database" * 1000)
    for words, code, text in (
        (("--mmdb", tmp_path / "none.mmdb"), 2, "none.mmdb"),
        (("--mmdb", tmp_path / "broken.mmdb"), 2, "broken.mmdb"),
        (("--since", "yesterday-ish"), 2, "--since"),
        (("--since", "2999-01-01"), 2, "--since"),
        (("-o", tmp_path / "none" / "x.html"), 2, "x.html"),
    ):
        done = denyspam("report", "-c", conf, *words)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert text in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "state").mkdir()
    (tmp_path / "state/ledger.db").write_bytes(b"no ledger" * 1000)
    done = denyspam("report", "-c", conf)
    assert (done.returncode, "ledger.db" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_where_it_goes(tmp_path: Path, month: Path) -> None:
    conf = month / "denyspam.conf"
    to = tmp_path / "report.html"
    to.write_text("old")
    (tmp_path / "link.html").symlink_to(to)
    assert denyspam("report", "-c", conf, "--since", "2026-10-20", "-o", tmp_path / "link.html").returncode == 0
    assert to.read_text().startswith("<!DOCTYPE html>") and (tmp_path / "link.html").is_symlink()
    assert stat.S_IMODE(to.stat().st_mode) == 0o666 & ~_mask()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.html", "report.html"]
    for name in ("-", "/dev/stdout"):
        assert denyspam("report", "-c", conf, "-o", name).stdout.startswith("<!DOCTYPE html>")


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- beside a daemon --------------------------------------------------------------------------------------------------


def someone(path: Path, group: int) -> tuple[int, str]:
    """(bans that the report would count, or -1; what is wrong), as a user without rights but those of a group."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([group])
        os.setgid(65534)
        os.setuid(65534)
        try:
            review, _ = report.reviewed(str(path), lambda: Review(1.0, 1e10, timezone.utc))
            told = [review.told()["bans"], ""]
        except report.Unreadable as error:
            told = [-error.code, str(error)]
        os.write(into, json.dumps(told).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        count, text = json.loads(pipe.read())
    return count, text


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
@pytest.mark.parametrize("how", ["closed", "open", "killed"])
def test_a_member_of_the_group_reads_and_leaves_nothing(how: str) -> None:
    group = 54321
    folder = Path(tempfile.mkdtemp(prefix="denyspam-"))  # pytest's own are for nobody else
    folder.chmod(0o755)
    try:
        conf = folder / "denyspam.conf"
        conf.write_text(pictures.CONF.format(folder).replace("mmdb", "#mmdb"))
        state = folder / "state"
        state.mkdir()
        script = (
            "import sys, os, time\nfrom denyspam.ledger import Ledger\nfrom denyspam.events import Ban, Target\n"
            "ledger = Ledger(sys.argv[1], 0.0)\nnow = time.time()\n"
            "ledger.decide(Ban(Target.named('192.0.2.7', (25,)), 'relay', now - 60, now + 60, 5), 'active')\n"
            "ledger.commit()\nprint('written', flush=True)\nsys.stdin.read()\nledger.close()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, state / "ledger.db"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout and writer.stdin
            assert writer.stdout.readline() == "written\n"
            if how == "killed":
                writer.kill()
                writer.wait()
            elif how == "closed":
                writer.stdin.close()
                writer.wait()
            for each in (state, *state.iterdir()):
                os.chown(each, 0, group)
            state.chmod(0o750)
            before = sorted((each.name, each.stat().st_uid) for each in state.iterdir())
            assert len(before) == (1 if how == "closed" else 3)
            assert someone(state / "ledger.db", group) == (1, "")
            assert sorted((each.name, each.stat().st_uid) for each in state.iterdir()) == before
            assert someone(state / "ledger.db", 65534)[0] == -77
            root = denyspam("report", "--json", "-c", conf)
            assert json.loads(root.stdout)["bans"] == 1
            assert sorted((each.name, each.stat().st_uid) for each in state.iterdir()) == before
    finally:
        shutil.rmtree(folder)


def test_a_report_is_of_one_moment(tmp_path: Path) -> None:
    """While another process writes bans two by two, every report sees an even number of them."""
    conf = tmp_path / "denyspam.conf"
    conf.write_text(pictures.CONF.format(tmp_path).replace("mmdb", "#mmdb"))
    (tmp_path / "state").mkdir()
    script = (
        "import sys, time\nfrom denyspam.ledger import Ledger\nfrom denyspam.events import Ban, Target\n"
        "ledger = Ledger(sys.argv[1], 0.0)\nprint('x', flush=True)\n"
        "for at in range(100_000):\n"
        "    for _ in range(2):\n"
        "        now = time.time()\n"
        "        target = Target.named(f'10.{at >> 16}.{at >> 8 & 255}.{at & 255}', (25,))\n"
        "        ledger.decide(Ban(target, 'relay', now, now + 60, 5), 'active')\n"
        "    assert ledger.commit()\n    time.sleep(0.001)\n"
    )
    found, _ = load(str(conf))
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "state/ledger.db"], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout and writer.stdout.readline()
            seen = []
            for _ in range(20):
                seen.append(report.told(found, time.time() - 3600, time.time() + 3600, timezone.utc)["bans"])
            assert all(count % 2 == 0 for count in seen)
            assert writer.poll() is None, "no commit of the daemon's has failed"
            until(lambda: report.told(found, 1.0, time.time() + 3600, timezone.utc)["bans"] > seen[0], "more bans")
        finally:
            writer.kill()


@pytest.mark.root
def test_beside_a_daemon(tmp_path: Path, network: Network) -> None:
    with live(tmp_path, network.server) as daemon:
        daemon.start()
        daemon.write([*viruses(CLIENTS4[0], 5), "Mar 99 10:00:00 nonsense"])
        until(daemon.banned, "the ban")
        told = daemon.json("report")
        assert (told["bans"], told["holding"], told["daemon"]) == (1, 1, "runs")
        assert told["firewall"]["refused"] == 0
        assert told["events"]["virus"] == {"postfix": 5}
        assert [(each["path"], each["present"]) for each in told["logs"]] == [(str(daemon.log), True)]
        check(daemon.ask("report").stdout)
    told = daemon.json("report")
    assert (told["bans"], told["firewall"]) == (1, None)


# --- where from -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([{"country": {"iso_code": "DE", "names": {"en": "Germany"}}}], Place("DE", "Germany")),
        (
            [
                {"country": {"iso_code": "DE", "names": {"en": "Germany"}}},
                {"autonomous_system_number": 64496, "autonomous_system_organization": "Example"},
            ],
            Place("DE", "Germany", 64496, "Example"),
        ),
        (
            [{"country_code": "US", "country": "United States", "asn": "AS64497", "as_name": "X"}],
            Place("US", "United States", 64497, "X"),
        ),
        ([{"country": "US", "country_name": "United States"}], Place("US", "United States")),
        ([{"country_code": "us"}], Place("US")),
        ([None, 7, "x", [], {}], Place()),
        ([{"country": 7, "asn": "AS", "names": 3, "autonomous_system_organization": ["x"]}], Place()),
        ([{"country": {"iso_code": {"a": 1}, "names": ["en"]}, "asn": "9" * 50}], Place()),
    ],
)
def test_places(records: list[Any], wanted: Place) -> None:
    assert place(records) == wanted


def test_networks() -> None:
    found = [network(name) for name in ("192.0.2.7", "192.0.2.0/25", "10.0.0.0/8", "2001:db8::1", "2001:db8::/48")]
    assert found == ["192.0.2.0/24", "192.0.2.0/24", "10.0.0.0/8", "2001:db8::/64", "2001:db8::/48"]


def test_time_banned_counts_once_where_ports_are_apart() -> None:
    from denyspam.review import Entry

    review = Review(0.0, 1000.0, timezone.utc)
    line = Line(10.0, "relay", "postfix", b"x")
    for ports, since, end in (((25,), 10.0, 100.0), ((587,), 50.0, 150.0), ((25,), 900.0, 5000.0)):
        review.add(
            Entry(
                Ban(Target.named("192.0.2.7", ports), "relay", since, end, 5),
                "active",
                None,
                "",
                line,
                {"postfix": (1, 10.0)},
            )
        )
    (row,) = review.told()["repeated"]
    assert row["held"] == 140.0 + 100.0


def test_pictures_are_modest() -> None:
    for name in ("report.png", "report-dark.png"):
        assert 10_000 < (ROOT / "docs" / name).stat().st_size < 300_000


def test_it_is_told_how_far_the_ledger_is_read(month: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "STEP", 10)
    found, _ = load(str(month / "denyspam.conf"))
    told: list[tuple[int, int]] = []
    numbers = report.told(found, *PERIOD, timezone.utc, progress=lambda done, whole: told.append((done, whole)))
    whole = numbers["bans"] + numbers["withheld_count"]
    assert told == [(done, whole) for done in range(10, whole + 1, 10)]


def test_of_evidence_the_last_line_and_each_filter_are_told() -> None:
    heads = ("1.0 relay 192.0.2.7 postfix 0 f", "None relay 192.0.2.7 exim 1 f", "3.0 auth 192.0.2.7 dovecot 2 f")
    packed = "".join(f"{head}\nline {number}\n" for number, head in enumerate((heads[0], *heads, heads[1]))).encode()
    line, filters = report._evidence(packed)
    assert line == Line(3.0, "auth", "dovecot", b"line 3")
    assert filters == {"postfix": (2, 1.0), "dovecot": (1, 3.0)}
    assert report._evidence(b"") == (None, {})
