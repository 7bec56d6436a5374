"""Who is known by accepted mail, who stands in front of us, and whose a host name is."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import SettingsError
from denyspam.senders import DAY, FEW, FRONT_ENOUGH, FRONT_MESSAGES, Front, Providers, Senders, parse_providers

WITHIN = 30
HOST = "192.0.2.7"


def test_standing_is_earned_by_days() -> None:
    senders = Senders(WITHIN)
    for day in range(3):
        assert senders.good(HOST, day * DAY) == day
        for _ in range(50):
            senders.hear(HOST, True, day * DAY + 60)
        assert senders.good(HOST, day * DAY + 70) == day  # a day that is not over counts neither way
    assert senders.good(HOST, 3 * DAY) == 3


def test_offending_takes_it_away_by_days_too() -> None:
    senders = Senders(WITHIN)
    for day in range(3):
        senders.hear(HOST, True, day * DAY)
    for day in range(3, 5):
        for _ in range(1000):
            senders.hear(HOST, False, day * DAY)
            assert senders.good(HOST, day * DAY) == 3 - (day - 3)
    senders.hear(HOST, True, 5 * DAY)
    assert senders.days(HOST, 5 * DAY) == (3, 2)


def test_a_spam_that_came_through_buys_nothing() -> None:
    senders = Senders(WITHIN)
    for day in range(10):
        senders.hear(HOST, True, day * DAY)
        for _ in range(2):
            senders.hear(HOST, False, day * DAY)
    assert senders.good(HOST, 10 * DAY) == -10


def test_what_is_long_ago_is_forgotten() -> None:
    senders = Senders(WITHIN)
    senders.hear(HOST, True, 0)
    assert senders.good(HOST, WITHIN * DAY) == 1
    assert senders.good(HOST, (WITHIN + 1) * DAY) == 0
    assert senders.good(HOST, 1e9) == 0


def test_a_stranger_who_only_offends_is_not_kept() -> None:
    senders = Senders(WITHIN)
    senders.hear(HOST, False, 0)
    assert len(senders) == 0
    assert senders.good(HOST, DAY) == 0


def test_only_so_many_are_kept_those_accepted_from_last() -> None:
    senders = Senders(WITHIN, capacity=640)
    for number in range(5_000):
        senders.hear(f"10.0.{number >> 8}.{number & 255}", True, number)
        senders.hear(HOST, True, number)
        assert len(senders) <= 640
    assert senders.good(HOST, DAY) == 1
    assert senders.good("10.0.0.0", DAY) == 0
    changed, gone = senders.changes()
    assert {key for key, *_ in changed}.isdisjoint(gone)
    assert len(changed) == len(senders)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3 * DAY)), max_size=80),
    st.integers(0, 80),
    st.integers(0, 90),
)
def test_it_is_what_counting_every_day_anew_says(heard: list[tuple[str, bool, int]], restart: int, later: int) -> None:
    """By times that grow, over a restart in between."""
    senders = Senders(WITHIN)
    days: dict[str, dict[int, Counter[bool]]] = {}
    rows: dict[str, tuple[int, ...]] = {}
    time = 0.0
    for number, (key, accepted, pause) in enumerate(heard):
        time += pause
        if number == restart:
            rows.update((key, (key, *row)) for key, *row in senders.changes()[0])
            senders = Senders(WITHIN)
            senders.restore(rows.values())  # type: ignore[arg-type]
        senders.hear(key, accepted, time)
        if accepted or key in days:
            days.setdefault(key, {}).setdefault(int(time // DAY), Counter())[accepted] += 1
    today = int(time // DAY) + later
    for key in "abc":
        good = bad = 0
        for day, counts in days.get(key, {}).items():
            if today - WITHIN <= day < today:
                good += counts[True] > counts[False]
                bad += counts[False] > counts[True]
        assert senders.days(key, today * DAY) == (good, bad)
        assert senders.good(key, today * DAY) == good - bad


# --- in front of us ---------------------------------------------------------------------------------------------------


def front(*addresses: str, messages: int, days: float, others: int = 0) -> frozenset[str]:
    """Of so many messages over so many days, `others` of them each from an address of its own."""
    found = Front()
    for number in range(messages):
        found.hear(addresses[number % len(addresses)], 1e9 + number * days * DAY / messages)
    for number in range(others):
        found.hear(f"10.0.0.{number}", 1e9 + days * DAY)
    again = Front()
    again.restore(found.state())
    assert again.addresses() == found.addresses()
    return found.addresses()


def test_a_proxy() -> None:
    assert front(HOST, messages=300, days=2.5) == {HOST}
    assert front(HOST, "192.0.2.8", messages=300, days=2.5) == {HOST, "192.0.2.8"}


def test_a_message_or_two_beside_a_proxy_spare_nobody() -> None:
    proxies = ("192.0.2.7", "192.0.2.8", "192.0.2.9")
    assert front(*proxies, messages=900, days=2.5, others=1) == set(proxies)
    assert front(*proxies, messages=FRONT_MESSAGES, days=2.5, others=1) == set(proxies)
    found = Front()  # another node takes over
    for number in range(5_000):
        found.hear(HOST, 1e9 + number * 2.5 * DAY / 5_000)
    for number in range(FRONT_ENOUGH):
        found.hear("192.0.2.8", 1e9 + 2.5 * DAY + number)
    assert found.addresses() == {HOST, "192.0.2.8"}


def test_a_flood_of_one_is_no_proxy() -> None:
    assert front(HOST, messages=100_000, days=0.9) == frozenset()  # in a day
    assert front(HOST, messages=10_000, days=2.5, others=FEW) == frozenset()  # while others send as ever
    assert front(HOST, messages=FRONT_MESSAGES - 1, days=2.5) == frozenset()
    assert front(*(f"10.0.0.{n}" for n in range(FEW + 1)), messages=900, days=2.5) == frozenset()


def test_what_was_a_proxy_is_none_when_the_world_comes_in() -> None:
    found = Front()
    for hour in range(72):
        for _ in range(5):
            found.hear(HOST, 1e9 + hour * 3600)
    assert found.addresses() == {HOST}
    for number in range(FEW):
        found.hear(f"10.0.0.{number}", 1e9 + 72 * 3600)
    assert found.addresses() == frozenset()


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_front_takes_no_nonsense_for_its_state(state: object) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        Front().restore(state)  # type: ignore[arg-type]


# --- providers --------------------------------------------------------------------------------------------------------

LIST = Providers(["google.com", "outbound.protection.outlook.com"])


def test_whole_labels_alone() -> None:
    assert LIST.match("mail-wr1-f41.google.com") == "google.com"
    assert LIST.match("google.com") == "google.com"
    assert LIST.match("x.outbound.protection.outlook.com") == "outbound.protection.outlook.com"
    for name in ("notgoogle.com", "google.com.bot.example", "outlook.com", "com", "", ".google.com", "a..google.com"):
        assert LIST.match(name) is None, name


@given(st.text(max_size=40) | st.from_regex(r"[a-z0-9.\\\-]{0,300}", fullmatch=True))
def test_hostile_names_match_only_what_they_end_in(text: str) -> None:
    for name in (text, f"{text}.google.com", f"{text}google.com"):
        found = LIST.match(name)
        if found is not None:
            assert name == found or name.endswith(f".{found}")
            assert re.fullmatch(r"[a-z0-9_.-]{1,253}", name)


def test_the_list_that_is_shipped() -> None:
    text = files("denyspam.etc").joinpath("providers").read_text(encoding="utf-8")
    shipped = parse_providers(text, "providers")
    assert len(shipped) > 20
    for name in ("mail-wr1-f41.google.com", "mail-db8eur05on2040.outbound.protection.outlook.com", "mout.gmx.net"):
        assert shipped.match(name), name
    # Machines that anybody may rent, and customers' lines.
    for name in ("1.2.3.4.bc.googleusercontent.com", "ec2-1-2-3-4.compute.amazonaws.com", "p5b0.dip0.t-ipconnect.de",
                 "c-1-2-3-4.hsd1.ca.comcast.net", "x.cloudapp.azure.com"):  # fmt: skip
        assert shipped.match(name) is None, name


@pytest.mark.parametrize(
    "line", ["com", "a b.example", "*.google.com", "-x.example", "x" * 300 + ".example", "ä.example"]
)
def test_a_list_that_is_wrong_names_its_line(line: str) -> None:
    with pytest.raises(SettingsError, match=r"^/etc/p:3: .* is no name of hosts; write one a line"):
        parse_providers(f"# mine\ngoogle.com.\n{line}\n", "/etc/p")
