"""Queue ids joined both ways, at the horizon, across logs, and never to the wrong client."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from denyspam.events import CLIENT, Event, Finding
from denyspam.join import HOUR, PARTS, REACH, Join


def finding(
    kind: str,
    time: float | None = 0,
    address: str | None = None,
    queue_id: str | None = "A1",
    host: str = "mx",
    **more: object,
) -> Finding:
    fields: dict[str, object] = {"user": None, "file": "mail.log", "offset": 0, "number": 1, "text": b"", **more}
    return Finding(time, kind, address, "sendmail", queue_id, host=host, **fields)  # type: ignore[arg-type]


def run(*findings: Finding, places: list[int] | None = None) -> list[tuple[str, str | None, float | None]]:
    join = Join()
    events: list[Event] = []
    for number, one in enumerate(findings):
        events += join.feed(one, places[number] if places else number)
    events += join.flush()
    return [(event.kind, event.address, event.time) for event in events]


def test_the_client_stands_earlier() -> None:
    assert run(finding(CLIENT, 0, "192.0.2.1"), finding("virus", 47)) == [("virus", "192.0.2.1", 47)]


def test_the_client_stands_later_and_the_offence_keeps_its_time() -> None:
    assert run(finding("reject", 1), finding("reject", 2), finding(CLIENT, 5, "192.0.2.1")) == [
        ("reject", "192.0.2.1", 1),
        ("reject", "192.0.2.1", 2),
    ]


def test_interleaved_sessions_and_hosts() -> None:
    assert run(
        finding(CLIENT, 0, "192.0.2.1", "A1"),
        finding(CLIENT, 0, "192.0.2.2", "B2"),
        finding(CLIENT, 0, "192.0.2.3", "A1", host="mx2"),
        finding("reject", 1, queue_id="B2"),
        finding("reject", 1, queue_id="A1"),
    ) == [("reject", "192.0.2.2", 1), ("reject", "192.0.2.1", 1)]


def test_an_address_on_the_line_needs_no_join() -> None:
    assert run(finding("relay", 1, "192.0.2.1", None)) == [("relay", "192.0.2.1", 1)]


def test_a_verdict_told_twice_is_one_event() -> None:
    assert run(finding(CLIENT, 0, "192.0.2.1"), finding("virus", 1), finding("virus", 9), finding("spam", 9)) == [
        ("virus", "192.0.2.1", 1),
        ("spam", "192.0.2.1", 9),
    ]


def test_a_verdict_told_twice_before_its_client_is_one_event() -> None:
    assert run(finding("virus", 1), finding("virus", 2), finding(CLIENT, 3, "192.0.2.1")) == [("virus", "192.0.2.1", 1)]


def test_a_second_telling_may_bring_the_address() -> None:
    assert run(finding("virus", 1), finding("virus", 2, "192.0.2.1")) == [("virus", "192.0.2.1", 1)]


def test_a_log_without_hosts_tells_what_another_has_told() -> None:
    """rspamd's own log beside Postfix' by syslog, in either order; two hosts stay two."""
    named, bare = finding("spam", 1, "192.0.2.1"), finding("spam", 2, "192.0.2.1", host="", file="rspamd.log")
    assert run(named, bare, named, bare) == [("spam", "192.0.2.1", 1)]
    assert run(bare, named, bare, named) == [("spam", "192.0.2.1", 2)]
    other = finding("spam", 1, "192.0.2.2", host="mx2")
    assert run(finding("spam", 1, "192.0.2.3", "B2", host=""), named, other) == [
        ("spam", "192.0.2.3", 1),
        ("spam", "192.0.2.1", 1),
        ("spam", "192.0.2.2", 1),
    ]


def test_a_reused_id_is_told_afresh_by_a_log_without_hosts() -> None:
    bare = finding("spam", 2, "192.0.2.1", host="", file="rspamd.log")
    later = finding("spam", 12, "192.0.2.2", host="", file="rspamd.log")
    named, again = finding("spam", 1, "192.0.2.1"), finding(CLIENT, 11, "192.0.2.2")
    assert run(finding(CLIENT, 0, "192.0.2.1"), named, bare, again, later) == [
        ("spam", "192.0.2.1", 1),
        ("spam", "192.0.2.2", 12),
    ]


def test_refusals_are_events_each() -> None:
    assert len(run(finding(CLIENT, 0, "192.0.2.1"), finding("reject", 1), finding("reject", 1))) == 2


def test_a_reused_id_starts_afresh() -> None:
    assert run(
        finding(CLIENT, 0, "192.0.2.1"),
        finding("virus", 1),
        finding(CLIENT, 60, "192.0.2.2"),
        finding("virus", 61),
    ) == [("virus", "192.0.2.1", 1), ("virus", "192.0.2.2", 61)]


def test_repeated_lines_are_events_each() -> None:
    assert run(finding("auth", 1, "192.0.2.1", None, times=3)) == [("auth", "192.0.2.1", 1)] * 3


def test_the_horizon_before() -> None:
    client = finding(CLIENT, 0, "192.0.2.1")
    assert run(client, finding("virus", HOUR)) == [("virus", "192.0.2.1", HOUR)]
    assert run(client, finding("virus", HOUR + 1)) == [("virus", None, HOUR + 1)]
    assert run(client, finding("virus", 9), places=[0, REACH]) == [("virus", "192.0.2.1", 9)]
    assert run(client, finding("virus", 9), places=[0, REACH + 1]) == [("virus", None, 9)]


def test_the_horizon_after() -> None:
    client = finding(CLIENT, HOUR, "192.0.2.1")
    assert run(finding("virus", 0), client) == [("virus", "192.0.2.1", 0)]
    assert run(finding("virus", -1), client) == [("virus", None, -1)]


def test_what_lapses_comes_out_when_its_own_log_has_passed_it() -> None:
    join = Join()
    assert join.feed(finding("reject", 0), 0) == []
    assert join.feed(finding("relay", 9 * HOUR, "192.0.2.1", None, file="other.log"), 0)[0].kind == "relay"
    assert join.waiting == 1
    lapsed = join.feed(finding("relay", HOUR + 1, "192.0.2.1", None), 1)
    assert [(event.kind, event.address) for event in lapsed] == [("reject", None), ("relay", "192.0.2.1")]
    assert join.waiting == 0


def test_acceptance_without_a_client_is_nothing() -> None:
    assert run(finding("accept", 1)) == []
    assert run(finding(CLIENT, 0, "192.0.2.1"), finding("accept", 1), finding("accept", 2)) == [
        ("accept", "192.0.2.1", 1)
    ]


def test_an_old_stamp_after_a_new_one_is_joined_by_its_own_time() -> None:
    assert run(finding("relay", 9 * HOUR, "192.0.2.9", None), finding(CLIENT, 5, "192.0.2.1"), finding("virus", 6)) == [
        ("relay", "192.0.2.9", 9 * HOUR),
        ("virus", "192.0.2.1", 6),
    ]


def test_memory_is_that_of_one_reach() -> None:
    join = Join()
    for number in range(1000):
        join.feed(finding(CLIENT, number, "192.0.2.1", f"C{number}"), number * (REACH // 10))
    assert len(join._clients) == 11


def test_tellings_are_forgotten_when_every_log_has_gone_beyond() -> None:
    join = Join()
    for number in range(10_000):
        join.feed(finding("virus", number, "192.0.2.1", f"C{number}"), number)
    assert HOUR < len(join._told) <= HOUR + HOUR / PARTS + 1
    join.feed(finding("virus", 20_000, "192.0.2.1", "D0", file="other.log"), 0)
    assert join.feed(finding("virus", 10_000, "192.0.2.1", "C9999"), 10_000) == ()  # the log behind tells it again
    join.feed(finding("virus", 200_000, "192.0.2.1", "E0", file="other.log"), 1)  # the first one is over
    assert [*join._told] == ["E0"]


def test_tellings_are_bounded() -> None:
    join = Join(clients=80)
    for number in range(1000):
        join.feed(finding("virus", 1, "192.0.2.1", f"C{number}"), number)
        assert len(join._told) == min(number + 1, 71 + (number - 70) % 10) or number < 80
    assert [*join._told][-1] == "C999"


def test_the_oldest_that_waits() -> None:
    join = Join()
    assert join.oldest == inf
    for time, queue_id in ((7, "A"), (5, "B"), (6, "C")):
        join.feed(finding("reject", time, None, queue_id), 0)
    assert join.oldest == 7  # by the order of the lines
    join.feed(finding(CLIENT, 8, "192.0.2.1", "A"), 0)
    assert join.oldest == 5


def test_a_line_without_a_time_is_joined_too() -> None:
    assert run(finding(CLIENT, 5, "192.0.2.1"), finding("virus", None)) == [("virus", "192.0.2.1", None)]


def test_bounded() -> None:
    join = Join(clients=10, waiting=10)
    for number in range(100):
        join.feed(finding(CLIENT, number, "192.0.2.1", f"C{number}"), number)
    out = [
        event for number in range(100) for event in join.feed(finding("reject", 200, None, f"R{number}"), 200 + number)
    ]
    assert len(join._clients) == 10
    assert join.waiting == 10
    assert [event.queue_id for event in out] == [f"R{number}" for number in range(90)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([CLIENT, "reject", "virus"]),
            st.integers(0, 3000),
            st.sampled_from(["A", "B"]),
            st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        )
    )
)
def test_every_offence_comes_out_once_and_never_for_a_stranger(steps: list[tuple[str, int, str, str]]) -> None:
    """Each refusal comes out exactly once, with an address that a client line of its own id has named, or none."""
    time, findings = 0, []
    for number, (kind, step, queue_id, address) in enumerate(steps):
        time += step
        findings.append(finding(kind, time, address if kind == CLIENT else None, queue_id, offset=number))
    join = Join()
    out = [event for number, one in enumerate(findings) for event in join.feed(one, number)] + join.flush()
    assert join.waiting == 0
    assert sorted(event.offset for event in out if event.kind == "reject") == [
        one.offset for one in findings if one.kind == "reject"
    ]
    for event in out:
        named = {one.address for one in findings if one.kind == CLIENT and one.queue_id == event.queue_id}
        assert event.address is None or event.address in named
