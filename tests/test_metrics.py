"""The metrics: text that Prometheus' own parser reads, of a real snapshot; the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from denyspam import metrics
from denyspam.alarms import NAMES

ROOT = Path(__file__).parent.parent

LOG = {
    "present": True,
    "behind": False,
    "position": 10,
    "size": 30,
    "lag_bytes": 20,
    "lag_seconds": 1.5,
    "clock": 1.0,
    "events": 7,
    "overlong": 1,
    "bad_address": 2,
    "bad_time": 3,
    "skipped": 6,
    "lost": 0,
    "silent": 2.0,
    "silence_limit": None,
    "skew": None,
    "refusals_taken": 5,
    "refusals_untaken": 4,
}
SET = {"version": 4, "width": 32, "ports": [25, 465], "packets": 3, "bytes": 180}
STATUS: dict[str, Any] = {
    "ready": True,
    "version": "1.0",
    "mode": "enforce",
    "action": "nftables",
    "started": 1_700_000_000.25,
    "active": 2,
    "pending": 1,
    "bans": 9,
    "rules": {"virus": 8, "relay.slow": 1},
    "late": 0,
    "releases": 7,
    "graces": [{}],
    "tracked": 12,
    "unresolved": 0,
    "events": {"virus": {"postfix": 40, "clamav": 2}, "auth": {"dovecot": 10**15}},
    "logs": {"/var/log/mail.log": LOG, '/odd "log"\\\n{}': LOG},
    "alarms": [
        {"name": "log-stopped", "subject": "/a", "since": 1.0, "text": "", "samples": []},
        {"name": "log-stopped", "subject": "/b", "since": 1.0, "text": "", "samples": []},
    ],
    "ledger": {"fault": None, "waiting": 0},
    "firewall": {
        "fault": "it refuses",
        "waiting": 4,
        "refused": 4,
        "sets": [SET, {**SET, "width": 24, "packets": 2}, {**SET, "version": 6}],
        "repairs": 0,
        "ended": 1,
    },
    "notify": [{"channel": "mail", "to": "a@b", "sent": 2, "failed": 1, "waiting": False, "fault": None}],
    "process": {"cpu_seconds": 1.25, "resident_bytes": 43_000_000, "open_files": 12},
}


def read(status: dict[str, Any]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value, by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(metrics.render(status)):
        assert family.documentation
        assert family.type in ("counter", "gauge")
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, "told twice"
            found[key] = sample.value
    return found


def test_values_and_labels() -> None:
    found = read(STATUS)

    def value(name: str, **labels: str) -> float:
        return found[f"denyspam_{name}", tuple(sorted(labels.items()))]

    assert value("info", version="1.0", mode="enforce", action="nftables") == 1
    assert value("events_total", kind="virus", filter="postfix") == 40
    assert value("events_total", kind="auth", filter="dovecot") == 10**15
    assert value("bans_total", policy="relay.slow") == 1
    assert value("refused_packets_total", family="ipv4", ports="25 465") == 5
    assert value("refused_packets_total", family="ipv6", ports="25 465") == 3
    assert (value("firewall_fault"), value("ledger_fault"), value("ready")) == (1, 0, 1)
    assert value("log_lag_bytes", log='/odd "log"\\\n{}') == 20
    assert value("log_skipped_lines_total", log="/var/log/mail.log", reason="bad_time") == 3
    assert value("alarms_active", alarm="log-stopped") == 2
    assert value("alarms_active", alarm="firewall") == 0
    assert value("notifications_total", channel="mail", result="sent") == 2
    assert value("start_time_seconds") == 1_700_000_000.25
    assert {dict(labels)["alarm"] for name, labels in found if name == "denyspam_alarms_active"} == set(NAMES)


def test_what_is_not_known_is_left_out() -> None:
    firewall = {**STATUS["firewall"], "refused": None, "sets": None}
    found = read(
        {**STATUS, "firewall": firewall, "events": {}, "rules": {}, "logs": {"/a": {**LOG, "lag_bytes": None}}}
    )
    names = {name for name, _ in found}
    assert names.isdisjoint({"denyspam_refused_packets_total", "denyspam_events_total", "denyspam_log_lag_bytes"})
    assert "denyspam_log_silence_limit_seconds" not in names
    assert "refused_packets" not in metrics.render({**STATUS, "firewall": firewall})


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in metrics.METRICS}) == len(metrics.METRICS)
    for metric in metrics.METRICS:
        assert re.fullmatch(r"denyspam(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")


def test_the_dashboard_asks_for_nothing_that_is_not_there() -> None:
    board = json.loads((ROOT / "etc/denyspam.grafana.json").read_text(encoding="utf-8"))
    kinds = {metric.name: metric.type for metric in metrics.METRICS}
    labels = {
        metric.name: {name for each, _ in metric.samples(STATUS) for name in each} | {"job", "instance"}
        for metric in metrics.METRICS
    }
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in asked:
        names = re.findall(r"\bdenyspam_\w+", expression)
        assert names, expression
        for name in names:
            assert name in kinds, f"{name} in {expression}"
        for function, name in re.findall(r"\b(rate|increase)\((\w+)", expression):
            assert kinds[name] == "counter", f"{function} of {name}"
        for name, matchers in re.findall(r"(denyspam_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name]
        for listed in re.findall(r"by \(([^)]*)\)", expression):
            wanted = {word.strip() for word in listed.split(",")}
            assert all(wanted <= labels[name] for name in names), expression
    shown = " ".join(asked)
    for name in (
        "events_total",
        "bans_active",
        "bans_total",
        "refused_packets_total",
        "log_lag_bytes",
        "alarms_active",
    ):
        assert f"denyspam_{name}" in shown
    for variable in board["templating"]["list"][1:]:
        assert "denyspam_info" in variable["definition"]
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places)
