"""metrics: what `status --json` tells, as Prometheus reads it. Pure: a snapshot in, text out.

The format is the text exposition format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats), the names follow
prometheus.io/docs/practices/naming. What counts up ends in `_total` and begins anew with the daemon.
A label is a kind, a filter, a policy, a log's path, ports or a word of ours: all written by the admin or by us. Never
an address, a user or a text from a log: those are strangers' choice, and each would be a time series of its own.

prometheus_client would do the same from counters that must be kept beside the snapshot, and serve them from a thread;
fifty lines here need neither. Its parser reads this text in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from denyspam import alarms

TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "denyspam_"

Labels = Mapping[str, str]
Sample = tuple[Labels, float | int | bool | None]  # None: not known now, and left out
Status = Mapping[str, Any]


class Metric(NamedTuple):
    name: str
    type: str  # counter or gauge
    help: str
    samples: Callable[[Status], Iterable[Sample]]


def _one(*path: str) -> Callable[[Status], Iterable[Sample]]:
    """The value at this place of the snapshot."""

    def samples(status: Status) -> Iterable[Sample]:
        found: Any = status
        for key in path:
            found = None if found is None else found.get(key)
        yield {}, found

    return samples


def _fault(name: str) -> Callable[[Status], Iterable[Sample]]:
    return lambda status: [({}, status[name]["fault"] is not None)]


def _logs(key: str) -> Callable[[Status], Iterable[Sample]]:
    return lambda status: [({"log": path}, log.get(key)) for path, log in status["logs"].items()]


def _sets(key: str) -> Callable[[Status], Iterable[Sample]]:
    """What the firewall counts, by family and ports: a set's width is no more than how its bans were made."""

    def samples(status: Status) -> Iterable[Sample]:
        sums: dict[tuple[str, str], int] = {}
        for each in status["firewall"]["sets"] or ():
            where = f"ipv{each['version']}", " ".join(map(str, each["ports"]))
            sums[where] = sums.get(where, 0) + each[key]
        return [({"family": family, "ports": ports}, count) for (family, ports), count in sums.items()]

    return samples


def _info(status: Status) -> Iterable[Sample]:
    yield {name: str(status[name]) for name in ("version", "mode", "action")}, 1


def _events(status: Status) -> Iterable[Sample]:
    for kind, filters in status["events"].items():
        for name, count in filters.items():
            yield {"kind": kind, "filter": name}, count


def _bans(status: Status) -> Iterable[Sample]:
    return [({"policy": rule}, count) for rule, count in status["rules"].items()]


def _skipped(status: Status) -> Iterable[Sample]:
    for path, log in status["logs"].items():
        for reason in ("overlong", "bad_address", "bad_time"):
            yield {"log": path, "reason": reason}, log[reason]


def _sampled(status: Status) -> Iterable[Sample]:
    for path, log in status["logs"].items():
        yield {"log": path, "taken": "yes"}, log.get("refusals_taken")
        yield {"log": path, "taken": "no"}, log.get("refusals_untaken")


def _alarms(status: Status) -> Iterable[Sample]:
    active = [alarm["name"] for alarm in status["alarms"]]
    return [({"alarm": name}, active.count(name)) for name in alarms.NAMES]


def _notifications(status: Status) -> Iterable[Sample]:
    for channel in status["notify"]:
        for result in ("sent", "failed"):
            yield {"channel": channel["channel"], "result": result}, channel[result]


METRICS = tuple(
    Metric(PREFIX + name, kind, text, samples)
    for name, kind, text, samples in (
        ("info", "gauge", "The version, the mode and the action, as labels of a 1.", _info),
        ("ready", "gauge", "1 once the daemon has read up on its logs.", _one("ready")),
        ("start_time_seconds", "gauge", "When the daemon started or was reloaded, epoch seconds.", _one("started")),
        ("events_total", "counter", "Offences that the filters found.", _events),
        ("bans_total", "counter", "Bans decided, by the policy that did.", _bans),
        ("bans_late_total", "counter", "Bans that were over before they were decided.", _one("late")),
        ("releases_total", "counter", "Bans that ended, by time or by hand.", _one("releases")),
        ("bans_active", "gauge", "Bans that hold.", _one("active")),
        ("bans_pending", "gauge", "Bans of those that the firewall has not taken yet.", _one("pending")),
        ("bans_withheld", "gauge", "Decided and not carried out: spared senders, the fuse.", _one("withheld")),
        ("graces_active", "gauge", "Graces that hold.", lambda status: [({}, len(status["graces"]))]),
        ("addresses_tracked", "gauge", "Addresses that are counted.", _one("tracked")),
        ("events_unresolved", "gauge", "Offences that wait for their client's address.", _one("unresolved")),
        ("refused_packets_total", "counter", "Packets that the firewall refused.", _sets("packets")),
        ("refused_bytes_total", "counter", "Bytes of those packets.", _sets("bytes")),
        ("sessions_ended_total", "counter", "Banned clients' sessions that were ended.", _one("firewall", "ended")),
        ("firewall_repairs_total", "counter", "Bans put back that others took away.", _one("firewall", "repairs")),
        ("firewall_fault", "gauge", "1 while the firewall refuses what it is told.", _fault("firewall")),
        ("firewall_waiting", "gauge", "Orders that the firewall has not taken yet.", _one("firewall", "waiting")),
        ("ledger_fault", "gauge", "1 while the ledger cannot be written.", _fault("ledger")),
        ("ledger_waiting", "gauge", "Rows that are not written yet.", _one("ledger", "waiting")),
        ("log_present", "gauge", "1 while the log is there.", _logs("present")),
        ("log_events_total", "counter", "Offences found in the log.", _logs("events")),
        ("log_lag_bytes", "gauge", "Bytes of the log that are not read yet.", _logs("lag_bytes")),
        ("log_lag_seconds", "gauge", "Age of the newest stamp read, while there is more.", _logs("lag_seconds")),
        ("log_silent_seconds", "gauge", "How long ago the log's last line came.", _logs("silent")),
        ("log_silence_limit_seconds", "gauge", "How long it may be silent until the alarm.", _logs("silence_limit")),
        ("log_skew_seconds", "gauge", "How far stamps are ahead of arrival, once steady.", _logs("skew")),
        ("log_skipped_lines_total", "counter", "Lines that could be no hit, by why.", _skipped),
        ("log_lost_total", "counter", "Times that the place of reading was not found again.", _logs("lost")),
        ("log_dropped_total", "counter", "Datagrams that the kernel dropped unread.", _logs("dropped")),
        ("log_sampled_refusals_total", "counter", "Of sampled lines, those that look like a refusal.", _sampled),
        ("alarms_active", "gauge", "Alarms that are on, by name.", _alarms),
        ("notifications_total", "counter", "Messages to people, by channel and how that went.", _notifications),
        ("cpu_seconds_total", "counter", "CPU time of the daemon.", _one("process", "cpu_seconds")),
        ("resident_memory_bytes", "gauge", "Memory of the daemon.", _one("process", "resident_bytes")),
        ("open_files", "gauge", "Open file descriptors of the daemon.", _one("process", "open_files")),
    )
)  # fmt: skip


def render(status: Status) -> str:
    """The whole text, of what `status --json` prints."""
    return "".join(f"{line}\n" for metric in METRICS for line in _lines(metric, status))


def _lines(metric: Metric, status: Status) -> Iterator[str]:
    found = [(labels, value) for labels, value in metric.samples(status) if value is not None]
    if found:
        yield f"# HELP {metric.name} {_help(metric.help)}"
        yield f"# TYPE {metric.name} {metric.type}"
    for labels, value in found:
        listed = ",".join(f'{name}="{_value(text)}"' for name, text in labels.items())
        yield f"{metric.name}{f'{{{listed}}}' if listed else ''} {_number(value)}"


def _number(value: float | int | bool) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _value(text: str) -> str:
    """A label's value. A path may hold bytes that are no UTF-8; the format knows nothing else."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
