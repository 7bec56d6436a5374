"""The judge against its rules, against a brute-force reading of them, and against itself restarted."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denyspam.events import Ban, Event, Grace, Network, Past, Policy, Release, Target
from denyspam.policy import LOOPBACK, SERIALS, Judge

Address = IPv4Address | IPv6Address
HOUR = 3600.0
NEAR = ("127.0.0.1", "126.255.255.255", "128.0.0.0", "10.0.0.1", "10.0.0.2", "::1", "::2", "2001:db8::1", "2001:db8::2")
VIRUS = Policy("virus", "virus", 5, 900, HOUR)


def event(
    time: float | None, address: str | None = "192.0.2.7", kind: str = "virus", offset: int = 0, text: bytes = b"x"
) -> Event:
    return Event(time, kind, address, "postfix", None, None, "/var/log/mail.log", offset, 0, text)


def feed(judge: Judge, times: list[float], **how: str) -> list[tuple[str, float, float]]:
    bans = [ban for number, time in enumerate(times) for ban in judge.decide(event(time, offset=number, **how))]
    return [(str(ban.target), ban.since, ban.until) for ban in bans]


def target(text: str, *ports: int) -> Target:
    return Target(ip_network(text), ports or (25,))


def test_the_fifth_virus_in_fifteen_minutes_bans() -> None:
    assert feed(Judge([VIRUS]), [0, 100, 200, 300]) == []
    assert feed(Judge([VIRUS]), [0, 100, 200, 300, 900]) == [("192.0.2.7", 900, 900 + HOUR)]
    assert feed(Judge([VIRUS]), [0, 100, 200, 300, 901]) == []


def test_hits_during_a_ban_do_not_count_and_it_ends_exclusively() -> None:
    judge = Judge([Policy("virus", "virus", 2, 10, 60)])
    assert feed(judge, [0, 1, 2, 30, 60.9, 61, 62]) == [("192.0.2.7", 1, 61), ("192.0.2.7", 62, 122)]


def test_a_ban_forgets_hits_of_every_kind() -> None:
    judge = Judge([Policy("virus", "virus", 1, 10, 1), Policy("relay", "relay", 2, 100, 60)])
    assert judge.decide(event(0, kind="relay")) == []
    assert len(judge.decide(event(1))) == 1
    assert judge.decide(event(3, kind="relay")) == []
    assert len(judge.decide(event(4, kind="relay"))) == 1


def test_a_ban_on_other_ports_hides_nothing() -> None:
    judge = Judge([Policy("auth", "auth", 1, 10, 60, ports=(465, 587)), Policy("relay", "relay", 2, 100, 60)])
    assert judge.decide(event(0, kind="relay")) == []
    assert [ban.target.ports for ban in judge.decide(event(1, kind="auth"))] == [(465, 587)]
    assert [ban.target.ports for ban in judge.decide(event(2, kind="relay"))] == [(25,)]


def test_any_counts_all_offences_and_no_others() -> None:
    judge = Judge([Policy("any", "any", 3, 100, 60)])
    assert judge.decide(event(0, kind="relay")) == []
    assert judge.decide(event(0, kind="accept")) == []
    assert judge.decide(event(1, kind="virus")) == []
    assert [ban.rule for ban in judge.decide(event(2, kind="spam"))] == ["any"]


def test_of_two_policies_the_longer_ban_wins() -> None:
    judge = Judge([Policy("virus", "virus", 2, 100, 60), Policy("any", "any", 2, 100, HOUR)])
    judge.decide(event(0))
    assert [(ban.rule, ban.until) for ban in judge.decide(event(1))] == [("any", 1 + HOUR)]


def test_no_time_or_no_address_is_no_hit() -> None:
    judge = Judge([Policy("virus", "virus", 1, 100, 60)])
    assert judge.decide(event(None)) == []
    assert judge.decide(event(1, address=None)) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "198.51.100.4", "203.0.113.9", "2001:db8:1::5"])
def test_spared(address: str) -> None:
    judge = Judge(
        [Policy("virus", "virus", 1, 100, 60)],
        allow=[ip_network("198.51.100.0/24"), ip_network("2001:db8:1::/64")],
        own=[ip_network("203.0.113.9/32")],
    )
    assert judge.decide(event(1, address=address)) == []


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from([*map(ip_address, NEAR)]))
networks = st.builds(
    lambda address, length: ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False),
    addresses,
    st.sampled_from([0, 1, 7, 8, 9, 20, 24, 31, 32, 48, 64, 127, 128]),
)


@given(st.lists(networks, max_size=3), networks, addresses)
def test_a_target_is_spared_where_its_network_is(allow: list[Network], network: Network, address: Address) -> None:
    judge = Judge([VIRUS], allow=allow)
    for each in (network, ip_network(address), *allow):
        spared = any(each.version == one.version and each.overlaps(one) for one in (*LOOPBACK, *allow))
        assert judge.spared(each) == judge.spared_target(Target(each, (25,))) == spared


def test_the_network_of_an_own_address_is_not_spared() -> None:
    judge = Judge([Policy("virus", "virus", 1, 100, 60)], own=[ip_network("203.0.113.9/32")])
    assert len(judge.decide(event(1, address="203.0.113.10"))) == 1


def test_ipv6_by_64() -> None:
    judge = Judge([Policy("virus", "virus", 2, 100, 60)])
    judge.decide(event(0, address="2001:db8::1"))
    assert [str(ban.target) for ban in judge.decide(event(1, address="2001:db8::2"))] == ["2001:db8::/64"]
    assert judge.decide(event(2, address="2001:db8::3")) == []


@pytest.mark.parametrize("address", ["64:ff9b::cb00:7109", "64:ff9b:1::cb00:7109"])
@pytest.mark.parametrize("prefix", [None, 24, 48])
def test_an_ipv4_client_behind_nat64_is_one_host(address: str, prefix: int | None) -> None:
    """Its /64 is the whole of IPv4."""
    judge = Judge([Policy("virus", "virus", 1, 10, 60, prefix)])
    (ban,) = judge.decide(event(0, address=address))
    assert ban.target == target(f"{address}/128")
    assert judge.key("64:ff9b:2::1") == "64:ff9b:2::/64"


def test_ipv6_beside_an_own_address_is_counted_and_banned_alone() -> None:
    judge = Judge([Policy("virus", "virus", 2, 100, 60)], own=[ip_network("2001:db8::25/128")])
    assert judge.decide(event(0, address="2001:db8::1")) == []
    assert judge.decide(event(1, address="2001:db8::2")) == []
    assert [str(ban.target) for ban in judge.decide(event(2, address="2001:db8::2"))] == ["2001:db8::2"]


def test_by_network() -> None:
    judge = Judge([Policy("virus", "virus", 3, 100, 60, prefix=24)], allow=[ip_network("198.51.100.1")])
    judge.decide(event(0, address="192.0.2.1"))
    judge.decide(event(1, address="192.0.2.2"))
    assert [str(ban.target) for ban in judge.decide(event(2, address="192.0.2.3"))] == ["192.0.2.0/24"]
    for time in range(3):
        alone = judge.decide(event(time, address="198.51.100.9"))
    assert [str(ban.target) for ban in alone] == ["198.51.100.9"]


def test_doubling() -> None:
    judge = Judge([Policy("virus", "virus", 1, 10, 60, ceiling=200, forget=10_000)])
    times = [0, 100, 300, 600, 20_000]
    assert [until - since for _, since, until in feed(judge, times)] == [60, 120, 200, 200, 60]


def test_a_released_ban_is_no_strike_and_hits_count_again() -> None:
    judge = Judge([Policy("virus", "virus", 1, 10, 60, ceiling=200)])
    assert feed(judge, [0]) == [("192.0.2.7", 0, 60)]
    assert judge.release(target("192.0.2.7/32"), 30)
    assert not judge.release(target("192.0.2.7/32"), 31)
    assert feed(judge, [29, 30]) == [("192.0.2.7", 30, 90)]


def test_expiry() -> None:
    judge = Judge([Policy("virus", "virus", 1, 10, 60)])
    assert judge.deadline is None
    feed(judge, [0])
    assert judge.deadline == 60
    assert judge.expire(59.9) == []
    assert judge.expire(60) == [Release(target("192.0.2.7/32"), "expired")]
    assert judge.expire(61) == []
    assert judge.active == {}


def test_a_ban_by_hand_replaces() -> None:
    judge = Judge([Policy("virus", "virus", 1, 10, 60)])
    feed(judge, [0])
    by_hand = Ban(target("192.0.2.7/32"), "manual", 10, 1000, 0)
    assert judge.hold(by_hand) == Release(target("192.0.2.7/32"), "replaced")
    assert judge.expire(60) == []
    assert judge.deadline == 1000
    assert judge.covering(ip_network("192.0.2.7/32")) == [by_hand]
    assert judge.covering(ip_network("192.0.2.0/24")) == []


def test_what_covers_and_what_lies_within() -> None:
    """Also of bans that a start remembers."""
    bans = [Ban(target(name), "manual", 0, 100, 0) for name in ("192.0.2.7/32", "192.0.2.0/24", "2001:db8::/64")]
    held, remembered = Judge([]), Judge([])
    for ban in bans:
        held.hold(ban)
    remembered.remember([Past(ban, None, "active", 1, "") for ban in bans])
    for judge in held, remembered:
        assert judge.covering(ip_network("192.0.2.7")) == bans[:2]
        assert judge.covering(ip_network("192.0.2.0/25")) == bans[1:2]
        assert judge.covering(ip_network("2001:db8::7")) == bans[2:]
        assert judge.covering(ip_network("192.0.3.7")) == []
        assert judge.within(ip_network("192.0.0.0/16")) == bans[:2]
        assert judge.within(ip_network("2001:db8::/32")) == bans[2:]
        assert judge.within(ip_network("0.0.0.0/0")) == bans[:2]


def test_evidence_is_the_lines_that_counted_and_bounded() -> None:
    judge = Judge([Policy("virus", "virus", 3, 10, 60)])
    for offset in range(2):
        judge.decide(event(offset, offset=offset))
    (ban,) = judge.decide(event(2, offset=2, text=b"y" * 100_000))
    assert [one.offset for one in ban.evidence] == [0, 1, 2]
    assert len(ban.evidence[-1].text) == 1000
    many = Judge([Policy("virus", "virus", 100, 10, 60)])
    bans = [ban for offset in range(100) for ban in many.decide(event(1, offset=offset))]
    assert [one.offset for one in bans[0].evidence] == list(range(80, 100))


def test_evidence_where_the_numbers_of_events_begin_anew() -> None:
    judge = Judge([Policy("virus", "virus", 3, 10, 60)])
    judge._serial = SERIALS - 1
    bans = [ban for offset in range(3) for ban in judge.decide(event(offset, offset=offset))]
    assert [one.offset for one in bans[0].evidence] == [0, 1, 2]


# --- a brute-force reading of the rules -------------------------------------------------------------------------------


def by_the_book(policies: list[Policy], events: list[Event]) -> list[tuple[str, str, float, float]]:
    """The rules of the module's docstring, read out slowly; default port list only, no widening."""
    hits: dict[tuple[str, str], list[float]] = {}
    held: dict[str, list[tuple[float, float]]] = {}
    found = []
    for one in events:
        assert one.time is not None and one.address is not None
        if any(since <= one.time < until for since, until in held.get(one.address, [])):
            continue
        full = []
        for policy in policies:
            if policy.kind not in (one.kind, "any"):
                continue
            times = hits.setdefault((policy.name, one.address), [])
            times.append(one.time)
            times.sort()
            runs = [times[i : i + policy.hits] for i in range(len(times) - policy.hits + 1)]
            if any(run[0] <= one.time <= run[-1] and run[-1] - run[0] <= policy.within for run in runs):
                full.append(policy)
        if full:
            policy = max(full, key=lambda policy: policy.duration)
            until = one.time + policy.duration
            found.append((policy.name, one.address, one.time, until))
            held.setdefault(one.address, []).append((one.time, until))
            for each in policies:
                hits.pop((each.name, one.address), None)
    return found


POLICIES = [
    Policy("virus", "virus", 2, 20, 50),
    Policy("relay", "relay", 3, 30, 100),
    Policy("any", "any", 4, 60, 70),
]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.integers(-3, 0),
        st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        st.sampled_from(["virus", "relay", "auth"]),
    ),
    max_size=80,
)


def log(steps: list[tuple[int, int, str, str]]) -> list[Event]:
    """Events with mostly growing times, some of them a little late, each at its own offset."""
    time, events = 100, []
    for offset, (step, late, address, kind) in enumerate(steps):
        time += step
        events.append(event(float(time + 5 * late), address, kind, offset))
    return events


def as_tuple(ban: Ban) -> tuple[str, str, float, float]:
    return ban.rule, str(ban.target), ban.since, ban.until


@given(EVENTS)
def test_equals_the_rules(steps: list[tuple[int, int, str, str]]) -> None:
    events = log(steps)
    judge = Judge(POLICIES)
    assert [as_tuple(ban) for one in events for ban in judge.decide(one)] == by_the_book(POLICIES, events)


@settings(max_examples=300)
@given(EVENTS, st.data())
def test_a_restart_anywhere_changes_no_decision(steps: list[tuple[int, int, str, str]], data: st.DataObject) -> None:
    events = log(steps)
    judge = Judge(POLICIES)
    whole = [(one.offset, ban) for one in events for ban in judge.decide(one)]
    stop = data.draw(st.integers(0, len(events)))
    again = Judge(POLICIES)
    again.remember(
        Past(ban, ended=ban.until if data.draw(st.booleans()) else None) for offset, ban in whole if offset < stop
    )
    for one in events[:stop]:
        again.recall(one)
    again.settle()
    resumed = [(one.offset, ban) for one in events[stop:] for ban in again.decide(one)]
    assert [(offset, as_tuple(ban)) for offset, ban in resumed] == [
        (offset, as_tuple(ban)) for offset, ban in whole if offset >= stop
    ]


def test_a_flood_of_sources_is_bounded() -> None:
    judge = Judge([Policy("virus", "virus", 2, 100, 60)], capacity=100)
    for number in range(1000):
        judge.decide(event(number, address=f"2001:db8:{number:x}::1"))
    assert judge.tracked == 100


def test_late_hits_do_not_shorten_a_ban_that_holds() -> None:
    policy = Policy("virus", "virus", 2, 10, 60, ceiling=480)
    for expired in (False, True):  # live has forgotten a ban by then that a replay has not
        judge = Judge([policy])
        by_hand = Ban(target("192.0.2.7/32"), "manual", 100, 100_000, 0)
        judge.hold(by_hand)
        assert feed(judge, [90, 91]) == [("192.0.2.7", 91, 211)]
        assert judge.active[by_hand.target] == by_hand
        assert feed(judge, [212, 213, 99_999]) == []
        judge = Judge([policy])
        assert feed(judge, [200, 201]) == [("192.0.2.7", 201, 261)]
        if expired:
            judge.expire(10_000)
        assert feed(judge, [195, 196]) == [("192.0.2.7", 196, 316)]  # longer: it replaces
        assert feed(judge, [20, 21]) == [("192.0.2.7", 21, 141)]
        assert feed(judge, [300, 315]) == []


def grace(network: str, since: float, until: float) -> Grace:
    return Grace(ip_network(network), since, until)


def test_in_grace_no_hit_counts_whose_time_is_before_its_end() -> None:
    judge = Judge([Policy("virus", "virus", 2, 1000, 60)])
    assert feed(judge, [0]) == []
    judge.grace([grace("192.0.2.7/32", 10, 100)])
    assert feed(judge, [20, 99, 99.9]) == []
    assert feed(judge, [100, 5, 6]) == [], "the first one counts, late ones from before do not"
    assert feed(judge, [101]) == [("192.0.2.7", 101, 161)]
    assert [one.until for one in judge.graces(99.9)] == [100]
    assert judge.graces(100) == []


@pytest.mark.parametrize("network", ["192.0.2.7/32", "192.0.2.0/24", "0.0.0.0/0"])
@pytest.mark.parametrize("prefix", [None, 24, 8])
def test_grace_forgets_what_was_counted(network: str, prefix: int | None) -> None:
    judge = Judge([Policy("virus", "virus", 2, 1000, 60, prefix=prefix)])
    assert feed(judge, [0]) == []
    assert feed(judge, [0], address="2001:db8::1") == []
    judge.grace([grace(network, 10, 20)])
    assert feed(judge, [30]) == []
    assert len(feed(judge, [31])) == 1
    assert len(feed(judge, [31], address="2001:db8::1")) == 1, "another family's is none of it"


def test_grace_inside_a_counted_network_has_the_others_counted_one_by_one() -> None:
    judge = Judge([Policy("virus", "virus", 2, 1000, 60, prefix=24)])
    judge.grace([grace("192.0.2.7/32", 0, 100)])
    assert feed(judge, [1, 2]) == []
    assert feed(judge, [3], address="192.0.2.8") == []
    assert feed(judge, [4], address="192.0.2.9") == []
    assert feed(judge, [5], address="192.0.2.9") == [("192.0.2.9", 5, 65)]
    assert feed(judge, [101], address="192.0.2.8") == []
    assert feed(judge, [102]) == [("192.0.2.0/24", 102, 162)], "when it is over, as before"


def test_grace_is_the_same_after_a_restart() -> None:
    policy = Policy("virus", "virus", 3, 1000, 60)
    times = [0.0, 1.0, 30.0, 40.0, 60.0, 61.0]
    live = Judge([policy])
    feed(live, times[:2])
    live.grace([grace("192.0.2.7/32", 10, 50)])
    feed(live, times[2:])
    again = Judge([policy])
    again.remember([])
    again.grace([grace("192.0.2.7/32", 10, 50)])
    for number, time in enumerate(times):
        again.recall(event(time, offset=number))
    again.settle()
    for judge in live, again:
        assert feed(judge, [62]) == [("192.0.2.7", 62, 122)]


def test_a_ban_by_hand_ends_the_graces_in_it() -> None:
    judge = Judge([VIRUS])
    for network in "192.0.2.7/32", "192.0.2.0/24", "2001:db8::/64":
        judge.grace([grace(network, 0, 100)])
    ended = judge.end_graces([Ban(target("192.0.2.0/28"), "manual", 1, 2, 0), Ban(target("::/19"), "manual", 1, 2, 0)])
    assert [str(one.network) for one in ended] == ["192.0.2.7/32"]
    inside = [str(one.network) for one in judge.graces(1, ip_network("192.0.2.99"))]
    assert inside == ["192.0.2.0/24"]
    assert len(judge.graces(1)) == 2


def test_a_grace_long_over_is_forgotten() -> None:
    judge = Judge([VIRUS])
    for number in range(10):
        judge.grace([grace(f"192.0.2.{number}/32", number * 1e6, number * 1e6 + 10)])
    assert len(judge._graces) == 1


def test_ten_thousand_graces_at_once_among_many_keys() -> None:
    """No rebuilding for each of them: a quarter of a second, not minutes."""
    judge = Judge([VIRUS, Policy("net", "virus", 5, 900, HOUR, prefix=24)])
    for number in range(2000):
        judge.decide(event(0, f"10.0.{number >> 8}.{number & 255}"))
    judge.grace([grace(f"10.0.{number >> 8}.{number & 255}/32", 1, 100) for number in range(10_000)])
    assert len(judge.graces(50)) == 10_000
    assert judge.tracked == 0
    assert [len(judge.graces(50, ip_network(f"10.0.0.{host}"))) for host in (1, 2)] == [1, 1]


# --- who is near a ban


def test_the_nearest_to_a_ban_comes_first_each_address_once() -> None:
    judge = Judge([VIRUS, Policy("any", "any", 30, HOUR, HOUR)], own=[ip_network("198.51.100.4/32")])
    for address, times in (("192.0.2.1", range(3)), ("192.0.2.2", range(4)), ("2001:db8::7", range(1)), ("::1", (5,))):
        feed(judge, [float(time) for time in times], address=address)
    feed(judge, [1.0, 2.0, 3.0], address="198.51.100.4")
    feed(judge, [float(time) for time in range(5)], address="192.0.2.5")  # banned, and so no longer counted
    hottest = judge.hottest(10, 9)
    assert [(heat.key, heat.policy.name, heat.hits) for heat in hottest] == [
        ("192.0.2.2", "virus", 4),
        ("192.0.2.1", "virus", 3),
        ("2001:db8::/64", "virus", 1),
    ]
    assert (hottest[0].first, hottest[0].last) == (0, 3)
    assert hottest[0].event is not None
    assert hottest[0].event.offset == 3
    assert [heat.key for heat in judge.hottest(10, 1)] == ["192.0.2.2"]
    assert judge.hottest(902, 9)[0].hits == 2  # of four, two have left the window
    assert [heat.policy.name for heat in judge.hottest(2000, 1)] == ["any"]
    assert judge.hottest(10_000, 9) == []


def test_the_hottest_of_those_that_match() -> None:
    judge = Judge([VIRUS])
    for address in ("192.0.2.1", "192.0.2.11", "2001:db8::7", "203.0.113.9"):
        feed(judge, [1.0], address=address)

    def matching(text: str) -> set[str]:
        return {heat.key for heat in judge.hottest(10, 9, text)}

    assert matching("192.0.2.1") == {"192.0.2.1"}  # an address is that address
    assert matching("192.0.2.") == {"192.0.2.1", "192.0.2.11"}
    assert matching("2001:db8::99") == {"2001:db8::/64"}
    assert matching("\0") == matching("nothing") == matching("\u0661") == set()


def test_the_hottest_are_found_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denyspam.policy.LOOKED", 10)
    judge = Judge([VIRUS])
    feed(judge, [1.0, 2.0, 3.0], address="192.0.2.1")
    for number in range(20):
        feed(judge, [4.0], address=f"198.51.100.{number}")
    assert len(judge.hottest(10, 99)) == 10
    assert [heat.hits for heat in judge.hottest(10, 99, "192.0.2.1")] == [3]


def test_what_is_kept_of_the_hits_of_an_address() -> None:
    judge = Judge([VIRUS, Policy("any", "any", 30, HOUR, HOUR)])
    feed(judge, [1.0, 2.0, 3.0])
    assert [event.offset for event in judge.hits("192.0.2.7", 10)] == [0, 1, 2]
    assert judge.hits("192.0.2.8", 10) == judge.hits("127.0.0.1", 10) == []
    feed(judge, [4.0, 5.0])
    assert judge.hits("192.0.2.7", 10) == []  # a ban forgets them; the ledger has them now


def test_the_newest_ban_stands_last() -> None:
    judge = Judge([])
    for name, since in (("192.0.2.1", 1.0), ("192.0.2.2", 2.0), ("192.0.2.1", 3.0)):
        judge.hold(Ban(target(name), "manual", since, since + HOUR, 0))
    assert [ban.target.name for ban in judge.active.values()] == ["192.0.2.2", "192.0.2.1"]


# --- higher limits for who is known -----------------------------------------------------------------------------------

TIMES = 3
pauses = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 40.0, 400.0, 5000.0]), st.booleans()), max_size=120)


def lenient(hits: int, times: int) -> Judge:
    judge = Judge([Policy("virus", "virus", hits, 900, 60), Policy("any", "any", 2 * hits, 3600, 90)])
    judge.lenient, judge.lenience = (lambda address, time: times), times
    return judge


@given(pauses, st.integers(1, 4))
def test_a_limit_times_three_is_a_limit_of_three_times_as_many(heard: list[tuple[float, bool]], hits: int) -> None:
    found: list[list[tuple[str, str, float, int]]] = []
    for judge in (lenient(hits, TIMES), lenient(TIMES * hits, 1)):
        time, bans = 0.0, []
        for number, (pause, virus) in enumerate(heard):
            time += pause
            bans += judge.decide(event(time, kind="virus" if virus else "relay", offset=number))
        found.append([(str(ban.target), ban.rule, ban.since, ban.hits) for ban in bans])
    assert found[0] == found[1]


@given(pauses, st.integers(1, 4), st.integers(0, 120))
def test_it_counts_on_after_a_restart(heard: list[tuple[float, bool]], hits: int, restart: int) -> None:
    whole, again = lenient(hits, TIMES), lenient(hits, TIMES)
    time, bans, after = 0.0, [], []
    for number, (pause, virus) in enumerate(heard):
        time += pause
        one = event(time, kind="virus" if virus else "relay", offset=number)
        decided = whole.decide(one)
        bans += decided
        if number == restart:
            again.settle()
        if number < restart:
            again.remember(Past(ban) for ban in decided)
            again.recall(one)
        else:
            after += [(ban.rule, ban.since) for ban in again.decide(one)]
    expected = [(ban.rule, ban.since) for ban in bans if ban.mark is not None and ban.mark[1] >= restart]
    assert after == expected


def test_what_a_known_host_is_counted_by_is_bounded() -> None:
    """He stays below his own limit, and above that of others, for days."""
    judge = lenient(10, TIMES)
    for number in range(20_000):
        assert judge.decide(event(number * 70.0, kind="virus")) == []
    (virus, every) = (counter.window for counter in judge._all)
    assert len(virus._keys["192.0.2.7"]) <= 16 * TIMES * 10
    assert len(every._keys["192.0.2.7"]) <= 16 * TIMES * 2 * 10 + 16 * 200


def test_a_stranger_is_asked_about_at_his_limit_and_not_before() -> None:
    asked = []

    def ask(address: str, time: float) -> int:
        asked.append((address, time))
        return 1

    judge = Judge([VIRUS])
    judge.lenient = ask
    assert feed(judge, [0, 1, 2, 3]) == []
    assert asked == []
    assert len(feed(judge, [4])) == 1
    assert asked == [("192.0.2.7", 4)]


def test_a_rotated_file_has_events_at_the_same_offsets() -> None:
    """A past decision is where its deciding hit stands, not where the file before had another line."""
    policy = Policy("virus", "virus", 3, 120, 60)
    older = event(0, "192.0.2.99", offset=2)
    mine = [event(time, offset=number) for number, time in enumerate([100, 101, 102])]
    live, again = Judge([policy]), Judge([policy])
    bans = [ban for one in (older, *mine) for ban in live.decide(one)]
    assert [ban.since for ban in bans] == [102]
    again.remember(Past(ban, ended=162) for ban in bans)
    for one in (older, *mine):
        again.recall(one)
    again.settle()
    for judge in live, again:
        assert feed(judge, [163, 164, 165]) == [("192.0.2.7", 165, 225)]
