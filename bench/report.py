# ruff: noqa: E501  (rows of tables)
"""report: bench/results.json as tables and pictures: `python -m bench.report`.

Writes what stands between `<!-- bench:NAME -->` and `<!-- /bench -->` in docs/benchmarks.md and README.md, and the
pictures docs/*.svg. Nothing is measured here, and equal results give equal files (tests/test_bench.py holds README and
results together). The pictures are plain SVG, which follows the reader's light or dark scheme.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench import measure

DOCS = measure.ROOT / "docs"
PAGES = (measure.ROOT / "README.md", DOCS / "benchmarks.md", DOCS / "comparison.md")
MARKED = re.compile(r"(<!-- bench:(\w+) -->\n).*?(<!-- /bench -->)", re.S)
NOTHING = "-"

Results = Mapping[str, Any]


# --- words ------------------------------------------------------------------------------------------------------------


def thousands(value: float) -> str:
    return f"{value:,.0f}"


def count(bans: str) -> str:
    return f"{int(bans):,} ban{'s' * (bans != '1')}"


def short(value: float) -> str:
    """12,345 as 12,300: three digits tell all that the figure is good for."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    line = "| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1) + "\n"
    return line + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def span(three: Mapping[str, float]) -> str:
    """The median, and from where to where."""
    if three["min"] == three["max"]:
        return short(three["median"])
    return f"{short(three['median'])} ({short(three['min'])} to {short(three['max'])})"


def facts(results: Results) -> str:
    found = results["throughput"]["machine"]
    peers = [found[name] or f"{name}: not installed" for name in ("fail2ban", "sshguard")]
    return (
        f"Measured {found['date']} at {found['commit']}: {found['cpu']}, {found['cores']} cores, {found['memory_gb']} GB; "
        f"{found['system']}, kernel {found['kernel']}, Python {found['python']}; {found['nft']}; {', '.join(peers)}; the load of the machine was {found['load']:g}.\n"
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def readme(results: Results) -> str:
    servers = results["throughput"]["servers"]
    wall = results["firewall"]
    fail2ban, sshguard = wall["fail2ban"] or {}, wall["sshguard"] or {}

    def rates(name: str) -> str:
        return " / ".join(short(each[name]["lines_per_cpu_second"]["median"]) if name in each else NOTHING for each in servers.values())  # fmt: skip

    def latency(one: Mapping[str, Any]) -> str:
        got = one.get("latency") or {}
        return f"{got['median_ms']:g} ms ({got['p99_ms']:g} ms)" if got.get("bans") else NOTHING

    def burst(one: Mapping[str, Any] | None) -> str:
        return short(one["bans_per_second"]) if one and "seconds" in one else NOTHING

    memory, connect = wall["memory_mb"], wall["connect"]
    many = max((size for size in connect), key=int)
    rows = [
        ("lines a CPU second: Postfix / exim / sendmail log", rates("denyspam, all filters"), rates("fail2ban"), rates("sshguard")),
        ("deciding log line to kernel: median (p99)", latency(wall), latency(fail2ban), latency(sshguard)),
        ("bans a second, 2,000 offenders at once", burst(wall["burst_2000"]), burst(fail2ban.get("burst")), burst(sshguard.get("burst"))),
        ("the same, 20,000 (as IPv6 /64s)", f"{burst(wall['burst'])} ({burst(wall['burst_ipv6'])})", NOTHING, NOTHING),
        (f"{thousands(int(many))} bans: back after somebody deleted the table", f"{wall['restored'].get('seconds', NOTHING)} s", NOTHING, NOTHING),
        (f"{thousands(int(many))} bans: restart, until ready; added again", f"{wall['restart']['ready_seconds']} s; {wall['restart']['added_again']:,}", NOTHING, NOTHING),
        (f"memory with no ban / {thousands(int(many))}", f"{memory['0']:.0f} / {memory[many]:.0f} MB", NOTHING, NOTHING),
        (f"an innocent client's connect at 1 / {thousands(int(many))} bans", f"{connect['1']['innocent']['median_us']} / {connect[many]['innocent']['median_us']} µs", NOTHING, NOTHING),
    ]  # fmt: skip
    return table(("", "denyspam", "fail2ban", "sshguard"), rows)


def speed(results: Results) -> str:
    """Lines a CPU second, by server and program."""
    found = results["throughput"]
    names = list(dict.fromkeys(name for each in found["servers"].values() for name in each))
    rows = []
    for name in names:
        cells = [span(each[name]["lines_per_cpu_second"]) if name in each else NOTHING for each in found["servers"].values()]  # fmt: skip
        start = span(found["servers"]["postfix"][name]["start_seconds"]) if name in found["servers"]["postfix"] else NOTHING  # fmt: skip
        peak = max(each[name]["peak_mb"] for each in found["servers"].values() if name in each)
        rows.append((name, *cells, start, f"{peak} MB"))
    head = ("median (min to max)", *(f"{server} log" for server in found["servers"]), "start-up, CPU s", "peak memory")
    offences = [
        f"{server}: {each['denyspam, all filters']['lines_of_output']:,} offences told of about "
        f"{found['expected_offences'][server]:,} made"
        for server, each in found["servers"].items()
    ]
    short = f" (fail2ban {found['short']:,}, once)" if "short" in found else ""
    return (
        f"{table(head, rows)}\n{found['lines']:,} lines each, {found['rounds']} rounds{short}. {'; '.join(offences)}.\n"
    )


def grow(results: Results) -> str:
    """What should be flat."""
    found, windows = results["throughput"], results["windows"]
    shares = list(found["offences"]["postfix"])
    text = table(
        ("lines a CPU second at", *(f"{float(share):.0%} offences" for share in shares)),
        [(server, *(short(each[share]["median"]) for share in shares)) for server, each in found["offences"].items()],
    )
    counts = list(found["filters"])
    text += "\n" + table(
        ("filters", *counts),
        [("lines a CPU second, Postfix log", *(short(found["filters"][count]["median"]) for count in counts))],
    )
    sizes = list(windows["tracked"])
    text += "\n" + table(
        ("addresses counted", *(thousands(int(size)) for size in sizes)),
        [
            ("CPU µs an event", *(f"{windows['tracked'][size]['microseconds']:g}" for size in sizes)),
            ("memory, MB", *(f"{windows['tracked'][size]['memory_mb']:g}" for size in sizes)),
        ],
    )
    ((size, flood),) = windows["flood"].items()
    text += (
        f"\nTwice as many random IPv6 /64s as the capacity of {thousands(int(size))}: {flood['full_mb']:g} MB when full, "
        f"{flood['twice_mb']:g} MB at the end, {flood['microseconds']:g} µs an event.\n\n"
    )
    sizes = list(windows["bans"])
    return text + table(
        ("bans that hold", *(thousands(int(size)) for size in sizes)),
        [
            ("CPU µs an event of an innocent", *(f"{windows['bans'][size]['innocent_microseconds']:g}" for size in sizes)),
            ("of somebody banned", *(f"{windows['bans'][size].get('banned_microseconds', NOTHING)}" for size in sizes)),
        ],
    )  # fmt: skip


def wall(results: Results) -> str:
    """The firewall in full."""
    found = results["firewall"]

    def latency(one: Mapping[str, Any]) -> Sequence[str]:
        got = one["latency"]
        if not got["bans"]:
            return ("none came",) * 3
        return f"{got['median_ms']:g}", f"{got['p99_ms']:g}", f"{got['max_ms']:g}"

    def burst(one: Mapping[str, Any]) -> str:
        if "seconds" in one:
            used = f", {one['cpu_seconds']:g} of CPU" if "cpu_seconds" in one else ""
            return f"{one['hosts']:,} in {one['seconds']:g} s{used}: {one['bans_per_second']:,}/s"
        return f"{one['came']:,} of {one['hosts']:,} after {one['gave_up_after_s']:g} s"

    rows = [("denyspam", *latency(found), "; ".join(burst(found[name]) for name in ("burst_2000", "burst")) + f"; IPv6 {burst(found['burst_ipv6'])}")]  # fmt: skip
    for name in ("fail2ban", "sshguard"):
        peer = found[name]
        if peer is None:
            rows.append((name, *("not installed",) * 4))
        elif "fault" in peer:
            rows.append((name, *(peer["fault"],) * 4))
        else:
            rows.append((name, *latency(peer), burst(peer["burst"])))
    text = table(("line to kernel", "median, ms", "p99", "max", "at once"), rows)
    memory = found["memory_mb"]
    text += "\n" + table(
        ("bans", *(size.replace(number := size.split()[0], thousands(int(number))) for size in memory)),
        [("resident memory, MB", *(f"{value:g}" for value in memory.values()))],
    )
    rows = [
        (f"{who}, with {count(size)}", f"{one[who]['median_us']}", f"{one[who]['p99_us']}", f"{one[who]['refused']:.0%}")
        for size, one in found["connect"].items()
        for who in ("banned", "innocent")
    ]  # fmt: skip
    text += "\n" + table(("connect to port 25", "median, µs", "p99", "refused"), rows)
    again, restored = found["restart"], found["restored"]
    rows = [
        (
            "started with an empty ledger, until `status` is 0",
            "0",
            f"{found['start_seconds']:g}",
            f"{found['start_cpu_seconds']:g}",
            f"idle at {found['idle_percent']:g} % of a core",
        ),
        (
            "table deleted, until the last is back",
            f"{restored['bans']:,}",
            str(restored.get("seconds", "never")),
            str(restored.get("cpu_seconds", NOTHING)),
            "",
        ),
        ("stopped", f"{again['bans']:,}", f"{again['stop_seconds']:g}", NOTHING, ""),
        (
            "started over them, until `status` is 0",
            f"{again['bans']:,}",
            f"{again['ready_seconds']:g}",
            f"{again['ready_cpu_seconds']:g}",
            f"{again['added_again']:,} added again",
        ),
    ]
    rows += [
        (
            f"added by hand, to {int(size.removeprefix('by_hand_')):,}",
            thousands(one["added"]),
            f"{one['seconds']:g}",
            NOTHING,
            f"{one['bans_per_second']:,}/s",
        )
        for size, one in found.items()
        if size.startswith("by_hand_")
    ]
    text += "\n" + table(("the daemon or the table gone", "bans", "seconds", "of CPU", ""), rows)
    return text


TABLES: dict[str, Callable[[Results], str]] = {"main": readme, "fact": facts, "sped": speed, "grow": grow, "wall": wall}


# --- pictures ---------------------------------------------------------------------------------------------------------

STYLE = """<style>
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#333}
.t{font-size:14px;font-weight:600}.v{font-size:11px}.n{fill:#666;font-size:11px}
.g{stroke:#8886;stroke-width:1}.c0{fill:#1f6feb;stroke:#1f6feb}.c1{fill:#d2691e;stroke:#d2691e}.c2{fill:#8250df;stroke:#8250df}.c3{fill:#8c959f;stroke:#8c959f}
path{fill:none;stroke-width:2}path.c0,path.c1,path.c2,path.c3{fill:none}
@media (prefers-color-scheme:dark){text{fill:#e6e6e6}.n{fill:#aaa}.c0{fill:#58a6ff;stroke:#58a6ff}.c1{fill:#f0a060;stroke:#f0a060}.c2{fill:#bc8cff;stroke:#bc8cff}.c3{fill:#9aa4ae;stroke:#9aa4ae}}
</style>"""
WIDTH, BAR, LABEL = 760, 18, 170


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def picture(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title>{STYLE}\n" + "\n".join(parts) + "\n</svg>\n"
    )


Group = tuple[str, Sequence[tuple[str, int, float, str]]]  # heading, (name, colour, value, what to print)


def bars(title: str, groups: Sequence[Group], *, logarithmic: bool = False) -> str:
    """Groups of horizontal bars, on one scale; or each on a logarithmic one that begins at a tenth of its least value."""
    every = [value for _, rows in groups for _, _, value, _ in rows]
    parts, y = [text(0, 18, title, "t")], 30.0
    for heading, rows in groups:
        values = [value for _, _, value, _ in rows] if logarithmic else every
        length = scale(max(values), min(values) / 10 if logarithmic else 0.0)
        y += 20
        parts.append(text(0, y, heading, "n"))
        y += 6
        for name, colour, value, printed in rows:
            parts.append(text(LABEL - 8, y + 13, name, "", "end"))
            parts.append(f'<rect x="{LABEL}" y="{y:.1f}" width="{max(length(value), 1):.1f}" height="{BAR - 4}" rx="2" class="c{colour}"/>')  # fmt: skip
            parts.append(text(LABEL + length(value) + 6, y + 12, printed, "v"))
            y += BAR
    return picture(y + 10, parts, title)


def scale(most: float, least: float) -> Callable[[float], float]:
    """How long the bar of a value is; logarithmic where it begins at more than 0."""
    room = WIDTH - LABEL - 150

    def length(value: float) -> float:
        return room * (math.log(value / least) / math.log(most / least) if least else value / most)

    return length


def nice(value: float) -> float:
    """The next 1, 2, 4, 5 or 8 with noughts."""
    ten = 10.0 ** math.floor(math.log10(value))
    return next(step * ten for step in (1, 2, 4, 5, 8, 10) if step * ten >= value)


Panel = tuple[str, Sequence[str], Mapping[str, Sequence[float]]]  # title, labels along x, name -> values


def panels(title: str, four: Sequence[Panel]) -> str:
    """Lines that should be flat, two panels a row; y begins at 0."""
    parts, high, wide = [text(0, 18, title, "t")], 190, WIDTH / 2
    for number, (heading, labels, curves) in enumerate(four):
        left, top = (number % 2) * wide + 40, 44 + number // 2 * high
        width, height = wide - 130, high - 75
        most = nice(max(value for values in curves.values() for value in values))
        parts.append(text(left - 40, top, heading, "n"))
        for share in (0.0, 0.5, 1.0):
            y = top + 12 + height * (1 - share)
            parts.append(f'<line x1="{left}" x2="{left + width:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
            parts.append(text(left - 5, y + 4, f"{most * share:g}", "v", "end"))
        places = [left + width * n / max(len(labels) - 1, 1) for n in range(len(labels))]
        for x, label in zip(places, labels, strict=True):
            parts.append(text(x, top + height + 28, label, "v", "middle"))
        ends: dict[str, float] = {}
        for colour, (name, values) in enumerate(curves.items()):
            dots = [(x, top + 12 + height * (1 - value / most)) for x, value in zip(places, values, strict=True)]
            parts.append(f'<path class="c{colour}" d="M{" L".join(f"{x:.1f},{y:.1f}" for x, y in dots)}"/>')
            parts += [f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in dots]
            ends[name] = dots[-1][1]
        free = 0.0  # names below each other, however close their lines end
        for name, y in sorted(ends.items(), key=lambda end: end[1]):
            parts.append(text(left + width + 8, max(y, free) + 4, name, "v"))
            free = max(y, free) + 13
    return picture(44 + (len(four) + 1) // 2 * high, parts, title)


def draw_speed(results: Results) -> str:
    groups = []
    shown = (
        ("denyspam, all filters", 0),
        ("denyspam, own filter", 0),
        ("fail2ban", 1),
        ("sshguard", 2),
        ("reference", 3),
    )
    for server, found in results["throughput"]["servers"].items():
        rows = [(name, colour, found[name]["lines_per_cpu_second"]["median"], short(found[name]["lines_per_cpu_second"]["median"])) for name, colour in shown if name in found]  # fmt: skip
        groups.append((f"{server} log", rows))
    return bars("Log lines a CPU second (more is better)", groups)


def draw_wall(results: Results) -> str:
    found = results["firewall"]
    late: list[tuple[str, int, float, str]] = []
    fast: list[tuple[str, int, float, str]] = []
    for colour, name in enumerate(("denyspam", "fail2ban", "sshguard")):
        one = found if name == "denyspam" else found[name] or {}
        latency, burst = one.get("latency", {}), one.get("burst_2000") or one.get("burst") or {}
        if latency.get("bans"):
            shown = f"{latency['median_ms']:g} ms, p99 {latency['p99_ms']:g} ms"
            late.append((name, colour, latency["median_ms"], shown))
        if "seconds" in burst:
            fast.append((name, colour, burst["bans_per_second"], f"{short(burst['bans_per_second'])} a second"))
    groups = [
        ("from the deciding log line to the kernel, median: less is better", late),
        ("2,000 offenders at once, bans a second: more is better", fast),
    ]
    return bars("Bans (logarithmic scales)", groups, logarithmic=True)


def draw_flat(results: Results) -> str:
    found, windows, firewall = results["throughput"], results["windows"], results["firewall"]

    def cost(one: Mapping[str, float]) -> float:
        return 1e6 / one["median"]

    def size(text: str) -> str:
        number = int(text)
        return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1000}k" if number >= 1000 else text

    shares = {server: [cost(one) for one in each.values()] for server, each in found["offences"].items()}
    connect = firewall["connect"]
    return panels(
        "What it costs as it grows",
        [
            ("CPU µs a line, by the share of offences", [f"{float(share):.0%}" for share in found["offences"]["postfix"]], shares),
            ("CPU µs a line, by the number of filters", list(found["filters"]), {"postfix": [cost(one) for one in found["filters"].values()]}),
            ("CPU µs an event, by addresses counted", [size(n) for n in windows["tracked"]], {"event": [one["microseconds"] for one in windows["tracked"].values()]}),
            ("CPU µs an event, by bans that hold", [size(n) for n in windows["bans"]], {"innocent": [one["innocent_microseconds"] for one in windows["bans"].values()]}),
            ("µs a connect, by bans in the kernel", [size(n) for n in connect], {who: [one[who]["median_us"] for one in connect.values()] for who in ("innocent", "banned")}),
            ("memory in MB, by bans", [size(n) for n in firewall["memory_mb"] if n.isdigit()], {"daemon": [value for n, value in firewall["memory_mb"].items() if n.isdigit()]}),
        ],
    )  # fmt: skip


PICTURES: dict[str, Callable[[Results], str]] = {"speed": draw_speed, "firewall": draw_wall, "flat": draw_flat}


# --- files ------------------------------------------------------------------------------------------------------------


def results() -> Results:
    found: Results = json.loads(measure.RESULTS.read_text())
    return found


def filled(page: str, found: Results) -> str:
    """The page with its tables made anew."""
    return MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match[2]](found)}\n{match[3]}", page)


def write(folder: Path = DOCS) -> None:
    found = results()
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8"), found), encoding="utf-8")
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw(found), encoding="utf-8")


def main() -> None:
    first, _, rest = (__doc__ or "").partition("\n\n")
    argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    write()


if __name__ == "__main__":
    main()
