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


def test_a_stamp_may_be_written_otherwise() -> None:
    """mail.log, syslog with fractions and the journal; another second, host, process or text is another line."""
    said = b"postfix/smtpd[7]: NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 554"
    lines = [b"Mar  4 10:00:00 mx " + said, b"2026-03-04T10:00:00.123456+00:00 mx " + said]

    def told(file: str, text: bytes, time: float = 1_772_618_400.0, host: str = "mx") -> Finding:
        return finding(file, text)._replace(time=time, host=host)

    copies = Copies()
    assert not copies.is_copy(told("a", lines[0]))
    assert copies.is_copy(told("b", lines[1], 1_772_618_400.123456))
    for other in (
        told("b", lines[1], 1_772_618_401.0),
        told("b", lines[1].replace(b" mx ", b" mx2 "), host="mx2"),
        told("b", lines[1].replace(b"[7]", b"[8]")),
    ):
        copies = Copies()
        assert not copies.is_copy(told("a", lines[0]))
        assert not copies.is_copy(other)
