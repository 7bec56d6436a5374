"""A line told in two logs counts once, a line told twice in one log counts twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from denyspam.copies import Copies
from denyspam.events import Finding


def finding(file: str, text: bytes = b"line") -> Finding:
    return Finding(1.0, "reject", "192.0.2.1", "exim", None, None, file, 0, 1, text)


def counted(copies: Copies, *told: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    return [each for each in told if not copies.is_copy(finding(*each))]


def test_one_to_one() -> None:
    main, reject = ("mainlog", b"x"), ("rejectlog", b"x")
    assert counted(Copies(), main, reject) == [main]
    assert counted(Copies(), reject, main) == [reject]
    assert counted(Copies(), main, main, main) == [main] * 3
    assert counted(Copies(), main, main, reject, reject) == [main, main]
    assert counted(Copies(), main, reject, reject) == [main, reject]
    assert counted(Copies(), main, ("rejectlog", b"y")) == [main, ("rejectlog", b"y")]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([b"1", b"2", b"3"]))))
def test_what_counts_is_what_the_log_that_told_most_told(told: list[tuple[str, bytes]]) -> None:
    each = Counter(told)
    found = Counter(text for _, text in counted(Copies(), *told))
    assert found == Counter(
        {text: most for text in (b"1", b"2", b"3") if (most := max(each["a", text], each["b", text]))}
    )


def test_bounded() -> None:
    copies = Copies(capacity=10)
    for number in range(100):
        copies.is_copy(finding("a", b"%d" % number))
    assert len(copies._waiting) == 10
    assert copies.is_copy(finding("b", b"99"))
    assert not copies.is_copy(finding("b", b"1"))
