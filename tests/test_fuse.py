"""The fuse: a storm does not blow it, whatever its size; a mail server that refuses those it knows does."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.fuse import AGE, DAYS, FLOOR, PLACES, RESUMED, Fuse, habit, place

SHARE, WITHIN, NOW = 0.8, 900.0, 1e9


def host(number: int) -> str:
    """Each in a place of its own."""
    return f"{11 + number // 250}.{number % 250}.3.4"


def refused(fuse: Fuse, hosts: range, start: float = NOW, kind: str = "reject", seconds: float = 1.0) -> float:
    """All of these, one after the other; when it was over."""
    for number in hosts:
        fuse.hear(host(number), kind, True, start)
        fuse.blows(start)
        start += seconds
    return start


def test_a_list_that_lists_everybody() -> None:
    """A busy server: every place is heard each five minutes, and from some moment on refused."""
    fuse = Fuse(SHARE, WITHIN)
    now = NOW
    for _ in range(12):
        now = refused(fuse, range(100), now, kind="accept", seconds=3)
    broken = now
    while not fuse.blown:
        now = refused(fuse, range(100), now, seconds=3)
        assert now < broken + 2 * WITHIN
    assert set(fuse.blown) == {"reject"}
    assert "of the last 100 places that are known" in fuse.blown["reject"].reason


def test_a_small_server_by_its_newest_places() -> None:
    """Where hardly anybody is heard in a quarter of an hour."""
    fuse = Fuse(SHARE, WITHIN)
    now = refused(fuse, range(40), kind="accept", seconds=1000)
    now = refused(fuse, range(15), now, seconds=1000)
    assert not fuse.blown
    refused(fuse, range(15, 16), now, seconds=1000)
    assert set(fuse.blown) == {"reject"}


def test_what_was_not_there_before_cannot_have_stopped() -> None:
    """The first words after a start, or of a server that hardly anybody sends to."""
    fuse = Fuse(SHARE, WITHIN)
    refused(fuse, range(200))
    assert not fuse.blown
    fuse = Fuse(SHARE, WITHIN)
    now = refused(fuse, range(PLACES - 1), kind="accept", seconds=60)
    refused(fuse, range(PLACES - 1), now + WITHIN)
    assert not fuse.blown
    fuse = Fuse(SHARE, WITHIN)
    pause = AGE / (PLACES - 1) + 60  # nor do words count that are a day old
    now = refused(fuse, range(100), kind="accept", seconds=pause)
    refused(fuse, range(100), now, seconds=pause)
    assert not fuse.blown


def test_one_provider_is_one_place() -> None:
    fuse = Fuse(SHARE, WITHIN)
    for number in range(5000):
        fuse.hear(f"40.107.{number % 250}.{number // 250}", "reject", True, NOW + number / 10)
        fuse.blows(NOW + number / 10)
    assert not fuse.blown
    assert place("2001:db8:1:2::/64") == place("2001:db8:ffff::1") != place("2001:db9::/64")


@pytest.mark.parametrize(("sick", "pause"), [(60, 2), (60, 60), (150, 5), (250, 30)])
def test_an_outbreak_of_a_worm(sick: int, pause: int) -> None:
    """Strangers send viruses without a pause; of 300 hosts that are known `sick` have it as well, from one moment on,
    and send it all the time; all the others together send a mail each `pause` seconds."""
    fuse, chance = Fuse(SHARE, WITHIN), Random(4)
    for second in range(10_800):
        now = NOW + second
        if second > 5_400:
            for _ in range(3):
                fuse.hear(f"{chance.randrange(1, 223)}.{chance.randrange(256)}.1.1", "virus", False, now)
                fuse.hear(host(chance.randrange(sick)), "virus", True, now)
                fuse.blows(now)
        if second % pause == 0:
            fuse.hear(host(chance.randrange(sick, 300)), "accept", True, now)
            fuse.blows(now)
        assert not fuse.blown


def broken(kind: str = "reject") -> tuple[Fuse, float]:
    """A fuse that has blown, and when."""
    fuse = Fuse(SHARE, WITHIN)
    now = refused(fuse, range(100), kind="accept")
    now = refused(fuse, range(100), now + WITHIN, kind=kind)
    assert set(fuse.blown) == {kind}
    return fuse, now


def test_an_attacker_of_one_kind_stops_that_kind_alone() -> None:
    broken("spam")


def test_it_is_over_when_they_are_accepted_again() -> None:
    fuse, now = broken()
    again = refused(fuse, range(50), now, kind="accept")
    assert fuse.blown  # not at the first good word
    refused(fuse, range(50), again + WITHIN - 30, kind="accept")
    assert not fuse.blown


def test_it_is_over_when_others_go_on_to_send_mail() -> None:
    """However many are refused: it was an outbreak among those who are known."""
    fuse, now = broken()
    for _ in range(20):
        refused(fuse, range(51), now, kind="accept", seconds=0.1)
        now = refused(fuse, range(100, 900), now + 6, seconds=0.1)
    assert not fuse.blown


def test_it_stays_blown_while_nobody_is_accepted() -> None:
    fuse, now = broken()
    for _ in range(20):
        now = refused(fuse, range(100), now, seconds=60)
    assert fuse.blown


def test_resumed_it_stays_whole_until_it_was_over_once() -> None:
    fuse, now = broken()
    assert [each.kind for each in fuse.resume(now)] == ["reject"]
    assert fuse.resume(now) == []
    now = refused(fuse, range(100), now)
    assert not fuse.blown
    now = refused(fuse, range(100), now + WITHIN, kind="accept")
    refused(fuse, range(1), now)  # one word is enough to see that it is over
    now = refused(fuse, range(100), now + WITHIN)
    assert fuse.blown
    fuse.resume(now)
    now = refused(fuse, range(100), now + RESUMED + 1, kind="accept")
    refused(fuse, range(100), now + WITHIN)
    assert fuse.blown


words = st.tuples(st.integers(0, 60), st.sampled_from(["accept", "reject", "virus"]), st.booleans(), st.floats(0, 400))


@given(st.lists(words, max_size=300), st.sampled_from([0.5, 0.8, 1.0]))
def test_it_blows_for_what_most_of_the_known_say_and_for_nothing_else(
    heard: list[tuple[int, str, bool, float]], share: float
) -> None:
    fuse = Fuse(share, WITHIN)
    last: dict[str, tuple[float, str]] = {}
    now = NOW
    for number, kind, good, pause in heard:
        now += pause
        fuse.hear(host(number), kind, good, now)
        if good:
            last.pop(place(host(number)), None)
            last[place(host(number))] = now, kind
        before = set(fuse.blown)
        for blown in fuse.blows(now):
            newest = list(last.values())[::-1]
            counted = [kind for time, kind in newest if now - time <= WITHIN]
            if len(counted) < PLACES:
                counted = [kind for time, kind in newest[:PLACES] if now - time <= AGE]
            assert len(counted) >= PLACES
            assert Counter(counted)[blown.kind] >= share * len(counted)
            assert blown.kind not in before | {"accept"}
        again = Fuse(share, WITHIN)
        again.restore(fuse.state())
        assert again.blown == fuse.blown


@settings(max_examples=30)
@given(
    st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_it_takes_no_nonsense_for_its_state(state: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Fuse(SHARE, WITHIN).restore(state)  # type: ignore[arg-type]


def test_a_habit_takes_a_week_and_has_a_floor() -> None:
    hour = 480_000
    now = hour * 3600.0
    young = {hour - each: 50 for each in range(DAYS * 24)}
    assert habit({}, now, 10) is None
    assert habit(young, now, 10) is None
    assert habit({**young, hour - DAYS * 24: 1, hour: 9_999}, now, 10) == 500  # without the hour that is not over
    assert habit({hour - DAYS * 24: 1}, now, 10) == FLOOR
