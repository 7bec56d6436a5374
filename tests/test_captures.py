"""Real logs of three attacked servers: every offender with the right kind and address, and nobody else.

The truth in tests/captures/*.labels.json is what the clients themselves saw (`servers.attack.Deed`); nobody derived it
from the log. `python -m servers.capture` in tests/, as root, makes them afresh.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest

from denyspam.copies import Twice
from denyspam.events import OFFENCES, Event
from denyspam.grammar import parse_filter
from denyspam.join import Join
from denyspam.scan import Scanner
from denyspam.stamp import Stamps

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.labels.json"))
FILTERS = Path(__file__).parent.parent / "filters"
# (capture, act): what the shipped filters do not know yet. An entry that is needed no longer fails the test.
GAPS: list[tuple[str, str]] = []
SLACK = 30.0  # seconds: amavis finds a virus after its client has left, and a busy machine takes its time


def read(log: Path, now: float) -> list[Event]:
    """What all shipped filters together see of the offences in `log`, read at the time `now`."""
    filters = [parse_filter(path.read_text(), str(path)) for path in sorted(FILTERS.glob("*.filter"))]
    scanner = Scanner(filters, str(log), Stamps(timezone.utc))
    join, twice = Join(), Twice()
    events = [
        event
        for finding in scanner.feed(log.read_bytes(), 0, 1, now)
        if not twice.is_copy(finding)
        for event in join.feed(finding, finding.offset)
    ]  # fmt: skip
    return [event for event in (*events, *join.flush()) if event.kind in OFFENCES]


@dataclass(frozen=True)
class Capture:
    name: str
    deeds: list[dict[str, Any]]
    events: list[Event]  # the offences that the filters see


@pytest.fixture(scope="module", params=CAPTURES, ids=lambda path: path.name.split(".")[0])
def capture(request: pytest.FixtureRequest) -> Capture:
    path: Path = request.param
    name = path.name.split(".")[0]
    deeds = json.loads(path.read_text())["deeds"]
    now = max(deed["end"] for deed in deeds) + SLACK
    return Capture(name, deeds, read(path.with_name(f"{name}.log"), now))


def test_nobody_else_is_accused(capture: Capture) -> None:
    guilty = {deed["address"] for deed in capture.deeds if deed["offences"]}
    accused = [(event.kind, event.address, event.text) for event in capture.events if event.address not in guilty]
    assert accused == []


def test_every_offence_is_found_once_with_its_kind(capture: Capture) -> None:
    wrong = []
    for deed in capture.deeds:
        seen = Counter(event.kind for event in capture.events if event.address == deed["address"])
        least = Counter(deed["offences"])
        most = least + Counter({kind: least.total() for kind in deed["also"]})
        gap = any(re.fullmatch(name, capture.name) and re.fullmatch(act, deed["act"]) for name, act in GAPS)
        if (least <= seen <= most) == gap:
            wrong.append(f"{deed['address']}, {deed['act']}: {dict(least)} to {dict(most)}, seen {dict(seen)}")
    assert wrong == []


def test_every_offence_has_the_time_it_was_done(capture: Capture) -> None:
    when = {deed["address"]: (deed["begin"], deed["end"]) for deed in capture.deeds}
    off = []
    for event in capture.events:
        begin, end = when.get(event.address or "", (0.0, 0.0))
        if event.time is None or not begin - 1 <= event.time <= end + SLACK:  # stamps are cut to whole seconds
            off.append((event.time, begin, end, event.text))
    assert off == []


def test_there_are_captures_of_every_server() -> None:
    names = {json.loads(path.read_text())["server"] for path in CAPTURES}
    assert {"postfix", "exim", "sendmail"} == names
