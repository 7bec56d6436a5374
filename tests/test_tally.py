"""The numbers of a trial, each against the plain way to count it."""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import datetime, timezone
from ipaddress import ip_network
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denyspam import charts
from denyspam.events import Ban, Event, Policy, Target
from denyspam.policy import Judge
from denyspam.tally import SIZES, SKETCH, STEPS, Cost, Differences, Distinct, Series, Spans, Tally, median, wall

NOON = 1_772_618_400.0  # 2026-03-04T10:00:00Z
BERLIN = ZoneInfo("Europe/Berlin")


def event(kind: str, address: str | None, time: float | None) -> Event:
    return Event(time, kind, address, "postfix", None, None, "mail.log", 0, 1, b"text")


def ban(name: str, since: float, until: float, rule: str = "relay", ports: tuple[int, ...] = (25,)) -> Ban:
    return Ban(Target(ip_network(name), ports), rule, since, until, 5)


def test_many_addresses_are_estimated() -> None:
    few, many = Distinct(), Distinct()
    for number in range(1000):
        few.add(str(number % 500))
    for number in range(3 * SKETCH):
        many.add(str(number))
    assert (len(few), few.exact, many.exact) == (500, True, False)
    assert len(many) == pytest.approx(3 * SKETCH, rel=0.03)


@given(st.dictionaries(st.sampled_from([60.0, 3600.0, 7200.0]), st.integers(1, 9), min_size=1))
def test_the_median_is_a_length_that_there_is(lengths: dict[float, int]) -> None:
    every = sorted(length for length, count in lengths.items() for _ in range(count))
    assert every[(len(every) - 1) // 2] == median(lengths)
    assert median({}) is None


@given(st.lists(st.integers(0, 400 * 86_400), min_size=1, max_size=60), st.integers(1, 200))
def test_no_ban_is_lost_in_the_picture(times: list[int], most: int) -> None:
    series = Series()
    for time in times:
        series.add("a", NOON + time)
    steps = series.steps(most, ["a", "b"])
    assert (sum(steps.counts["a"]), sum(steps.counts["b"])) == (len(times), 0)
    assert steps.length <= most
    wanted = Counter((NOON + time - steps.start) // steps.size for time in times)
    assert {at: count for at, count in enumerate(steps.counts["a"]) if count} == wanted


def test_buckets_widen_and_stay_few() -> None:
    series = Series()
    for day in range(3 * STEPS):
        series.add("a", NOON + day * 3600.0)
    assert len(series._counts) <= STEPS
    assert sum(series.steps(100, ["a"]).counts["a"]) == 3 * STEPS


def test_a_week_begins_on_monday_and_a_day_at_midnight() -> None:
    series = Series()
    for day in range(400):
        series.add("a", wall(NOON + day * 86_400.0, BERLIN))
    weeks = series.steps(80, ["a"])
    assert weeks.size == 7 * 86_400
    assert datetime.fromtimestamp(weeks.start, timezone.utc).strftime("%a %H:%M") == "Mon 00:00"
    assert set(weeks.counts["a"][1:-1]) == {7}  # the clocks changed twice
    assert set(series.steps(400, ["a"]).counts["a"]) == {1}


@pytest.mark.parametrize("plain", [False, True])
def test_bars(plain: bool) -> None:
    rows = charts.bars([0, 1, 50, 100], 4, plain=plain)
    assert rows == (["   #", "   #", "  ##", " ###"] if plain else ["   █", "   █", "  ██", " ▁██"])
    assert charts.sparkline([0, 1, 100], 100, plain=plain) == (" .#" if plain else " ▁█")


def test_a_tally() -> None:
    policies = (Policy("relay", "relay", 2, 60.0, 600.0), Policy("any", "any", 9, 60.0, 600.0))
    tally = Tally(Judge(policies), timezone.utc)
    feed = [("relay", "192.0.2.1", 0), ("relay", "192.0.2.1", 1), ("relay", "192.0.2.1", 2), ("spam", "192.0.2.2", 3)]
    feed += [("virus", None, 4), ("relay", "127.0.0.1", 5), ("accept", "192.0.2.1", 6)]
    bans = [one for kind, address, at in feed for one in tally.feed(event(kind, address, NOON + at))]
    tally.feed(event("relay", "192.0.2.9", None))
    assert [one.target.name for one in bans] == ["192.0.2.1"]
    tally.add(bans[0])
    relay, every = tally.table()
    assert (tally.events(relay), relay.hits, relay.bans, len(relay.addresses), relay.median) == (5, 2, 1, 1, 600.0)
    assert (tally.events(every), every.hits, every.bans) == (7, 3, 0)
    assert (tally.nobody, tally.untimed, tally.first, tally.last) == (1, 1, NOON, NOON + 5)


def test_a_kind_without_a_policy_is_shown() -> None:
    tally = Tally(Judge((Policy("relay", "relay", 2, 60.0, 600.0),)), timezone.utc)
    for kind in ("spam", "accept"):
        tally.feed(event(kind, "192.0.2.1", NOON))
    assert [(row.name, tally.events(row)) for row in tally.table()] == [("relay", 0), ("spam", 1)]


# --- two policies -----------------------------------------------------------------------------------------------------

NETWORKS = ["192.0.2.1", "192.0.2.2", "192.0.2.0/24", "198.51.100.0/28", "198.51.100.7", "2001:db8::/64", "2001:db8::1"]
BANS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(NETWORKS),
        st.integers(0, 40_000),
        st.sampled_from([60, 3600, 90_000]),
        st.sampled_from([(25,), (25, 587), (465,)]),
    ),
    max_size=25,
)


def met(one: Ban, other: Ban) -> bool:
    mine, theirs = one.target.network, other.target.network
    return (
        mine.version == theirs.version
        and mine.overlaps(theirs)
        and one.since < other.until
        and other.since < one.until
        and bool(set(one.target.ports) & set(other.target.ports))
    )


@given(BANS)
def test_differences_are_those_of_the_plain_way(drawn: list[tuple[int, str, int, int, tuple[int, ...]]]) -> None:
    both = [
        (side, ban(name, at, at + long, ports=ports))
        for side, name, at, long, ports in sorted(drawn, key=lambda x: x[2])
    ]
    found, told = Differences(), []
    for side, one in both:
        found.add(side, one)
        told += found.passed(one.since)
    told += found.passed(float("inf"))
    wanted = [(side, one) for side, one in both if not any(met(one, two) for other, two in both if other != side)]
    assert sorted(told) == sorted(wanted)
    assert [one.since for _, one in told] == sorted(one.since for _, one in told)
    assert [sum(each.values()) for each in found.alone] == [sum(side == each for side, _ in wanted) for each in (0, 1)]
    assert sum(found.both) == len(both) - len(wanted)
    assert found._inside == ({}, {})


# --- cost -------------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["relay", "relay", "accept"]),
        st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", None]),
        st.integers(0, 300),
    ),
    max_size=60,
)


@given(EVENTS)
def test_cost_is_that_of_the_plain_way(drawn: list[tuple[str, str | None, int]]) -> None:
    judge = Judge((Policy("relay", "relay", 2, 60.0, 50.0),))
    cost, bans, seen = Cost(judge), [], []
    for kind, address, at in sorted(drawn, key=lambda one: one[2]):
        one = event(kind, address, NOON + at)
        held = {each.target.name for each in bans if each.since <= one.time < each.until}
        seen.append((kind, address, NOON + at, held))
        cost.feed(one)
        for each in judge.decide(one):
            bans.append(each)
            cost.add(each)
    first: dict[str, float] = {}
    for each in bans:
        first.setdefault(each.target.name, each.since)
    wanted: dict[str, list[int]] = {name: [0, 0, 0] for name in first}
    offences = 0
    for kind, address, at, held in seen:
        name = None if address is None else judge.key(address)
        offences += kind == "relay" and name in held
        if kind == "accept" and name in wanted:
            assert name is not None
            wanted[name][1 if name in held else 0 if at <= first[name] else 2] += 1
    assert {name: [who.before, who.during, who.after] for name, who in cost.suspects()} == {
        name: counts for name, counts in wanted.items() if any(counts)
    }
    assert cost.kinds["relay"] == offences
    assert cost.accepted == sum(kind == "accept" for kind, *_ in seen)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), max_size=8), st.integers(0, 130))
def test_spans(drawn: list[tuple[int, int]], time: int) -> None:
    flat = array("d", [number for since, long in drawn for number in (since, since + long)])
    spans = Spans({"192.0.2.0/24": flat} if drawn else {})
    found = spans.find(b"192.0.2.7")
    assert any(Spans.cover(each, time) for each in found) == any(since <= time < since + long for since, long in drawn)
    assert not spans.find(b"192.0.3.7")
    assert not spans.find(b"10:00:00")
    for each in found:
        assert all(one < two for one, two in pairwise(each))


def test_spans_of_both_families() -> None:
    spans = Spans({"192.0.2.7": array("d", [0, 1]), "2001:db8::/64": array("d", [0, 2])})
    assert [list(each) for each in spans.find(b"2001:0DB8:0:0::9")] == [[0, 2]]
    assert [list(each) for each in spans.find(b"192.0.2.7")] == [[0, 1]]


def test_sizes_divide_each_other() -> None:
    assert all(larger % smaller == 0 for smaller, larger in pairwise(SIZES))
