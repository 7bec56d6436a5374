"""A window is exact: checked against the definition itself, and by the examples that people argue about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from denyspam.window import LATE, Window


def bans(window: Window, times: list[float]) -> list[float]:
    """The times at which the window filled, forgetting the key each time as a ban does."""
    result = []
    for serial, time in enumerate(times):
        if window.add("a", time, serial):
            result.append(time)
            window.forget("a")
    return result


def test_five_within_sixty() -> None:
    assert bans(Window(5, 60), [0, 10, 20, 30, 61]) == []
    assert bans(Window(5, 60), [0, 10, 20, 30, 61, 70]) == [70]


def test_both_ends_are_inclusive() -> None:
    assert bans(Window(2, 900), [0, 900]) == [900]
    assert bans(Window(2, 900), [0, 900.001]) == []


def test_one_hit_is_enough_where_one_is_asked() -> None:
    assert bans(Window(1, 60), [5, 6]) == [5, 6]


def test_a_late_hit_is_inserted_by_its_time() -> None:
    window = Window(3, 10)
    assert window.add("a", 0, 0) == ()
    assert window.add("a", 9, 1) == ()
    assert window.add("a", 100, 2) == ()
    assert window.add("a", 5, 3) == (0, 3, 1)


def test_a_backlog_is_counted_among_newer_hits() -> None:
    window = Window(3, 10)
    window.add("a", 1_000_000, 0)
    assert window.add("a", 1, 1) == ()
    assert window.add("a", 2, 2) == ()
    assert window.add("a", 3, 3) == (1, 2, 3)


def test_the_stalest_key_goes_first() -> None:
    window = Window(2, 60, capacity=2)
    window.add("a", 0, 0)
    window.add("b", 1, 1)
    assert window.add("a", 2, 2) == (0, 2)
    window.add("c", 3, 3)
    assert len(window) == 2
    assert window.add("b", 4, 4) == ()


def test_of_many_the_stalest_go_at_once() -> None:
    window = Window(9, 60, capacity=640)
    for serial in range(640):
        window.add(str(serial), serial, serial)
    window.add("3", 1000, 1000)  # no longer among the stalest
    window.add("new", 1001, 1001)
    assert list(window) == [*map(str, range(11, 640)), "3", "new"]
    assert window.count("3", 1000) == 1
    for serial in range(2000, 200_000):
        window.add(str(serial), serial, serial)
        assert len(window) <= 640
    assert list(window)[-630:] == list(map(str, range(199_370, 200_000)))


def test_tidy_forgets_what_counts_no_more() -> None:
    window = Window(3, 60, capacity=1000)
    for serial in range(1000):
        window.add(str(serial), float(serial), serial)
    assert window.tidy(60) == 0
    assert window.tidy(500 + 60) == 62  # a 16th of its capacity, which is 1,000 here
    while window.tidy(500 + 60):
        pass
    assert list(window) == [str(serial) for serial in range(500, 1000)]
    window.add("500", 999, 1000)  # no longer the stalest
    assert window.tidy(502 + 60) == 1
    assert window.count("500", 1000) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 40)), max_size=60), st.integers(1, 3)
)
def test_tidying_changes_no_answer(steps: list[tuple[str, int, int]], hits: int) -> None:
    """Lines come up to 40 s late; what is forgotten is what no such line could count with."""
    tidied, whole = Window(hits, 60), Window(hits, 60)
    now = 1000
    for serial, (key, step, late) in enumerate(steps):
        now += step
        assert tidied.add(key, now - late, serial) == whole.add(key, now - late, serial)
        tidied.tidy(now - 40)


def test_trim_keeps_the_newest() -> None:
    window = Window(3, 60)
    for serial in range(100):
        window.add("a", serial, serial)
        window.trim("a")
    assert window.count("a", 99) == 3
    assert window.add("a", 100, 100) == (98, 99, 100)


@given(
    hits=st.integers(1, 5),
    within=st.integers(0, 30),
    times=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2000)), max_size=60),
)
def test_equals_the_definition(hits: int, within: int, times: list[tuple[str, int]]) -> None:
    """A hit completes a window exactly when some N of the key's hits, it among them, span at most M seconds."""
    window = Window(hits, within)
    seen: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    for serial, (key, time) in enumerate(times):
        mine = seen[key]
        mine.append((time, serial))
        mine.sort(key=lambda hit: hit[0])
        runs = [mine[i : i + hits] for i in range(len(mine) - hits + 1)]
        full = any((time, serial) in run and run[-1][0] - run[0][0] <= within for run in runs)
        assert bool(window.add(key, time, serial)) == full
        if full:
            window.forget(key)
            mine.clear()
    assert all(time < LATE for _, time in times)


def test_the_keys_hit_last_with_what_counts_of_theirs() -> None:
    window = Window(5, 60)
    for key, time in (("old", 0), ("a", 10), ("b", 50), ("a", 65), ("b", 70), ("b", 72)):
        window.add(key, time, time)
    assert list(window.newest(9, 72)) == [("b", 3, 72), ("a", 1, 65)]
    assert list(window.newest(1, 72)) == [("b", 3, 72)]
    assert list(window.newest(9, 69)) == [("b", 1, 50), ("a", 2, 65)]  # hits still to come do not count yet
    assert window.hits_of("b", 72) == [(50, 50), (70, 70), (72, 72)]
    assert window.hits_of("nobody", 72) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), max_size=40), st.integers(0, 300))
def test_all_ways_to_count_agree(hits: list[tuple[str, int]], now: int) -> None:
    window = Window(50, 60)
    for serial, (key, time) in enumerate(hits):
        window.add(key, time, serial)
    told = {key: count for key, count, _ in window.newest(9, now)}
    assert told == {key: window.count(key, now) for key in "abc" if window.count(key, now)}
