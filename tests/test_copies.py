"""A line told in two logs counts once, a line told twice in one log counts twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from denyspam.copies import Copies, Twice
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


SAID = b"2026-03-04 10:00:00 H=(z) [192.0.2.1] F=<a@b.example> rejected RCPT <c@d.example>: relay not permitted"


def by_syslog(time: float, body: bytes = SAID, process: bytes = b"exim[7]", file: str = "mail.log") -> Finding:
    text = b"2026-03-04T10:00:00Z mx " + process + b": " + body
    return finding(file, text)._replace(time=time, host="mx")


def each_counts(twice: Twice, *told: Finding) -> list[int]:
    """Which of them count, by their number."""
    return [number for number, one in enumerate(told) if not twice.is_copy(one)]


def test_exim_tells_syslog_each_refusal_twice() -> None:
    other = SAID.replace(b"<c@", b"<q@")
    tagged = b"[1\\14] " + SAID
    assert each_counts(Twice(), by_syslog(1), by_syslog(1), by_syslog(1, other), by_syslog(1, other)) == [0, 2]
    assert each_counts(Twice(), *[by_syslog(1)] * 6) == [0, 2, 4]  # the same guess three times in a second
    assert each_counts(Twice(), by_syslog(1), by_syslog(2)) == [0]  # syslog's second has turned
    assert each_counts(Twice(), by_syslog(1), by_syslog(1, tagged)) == [0]
    assert each_counts(Twice(), by_syslog(1), by_syslog(1, process=b"exim[8]")) == [0, 1]
    assert each_counts(Twice(), by_syslog(1), by_syslog(1, file="other")) == [0, 1]
    interleaved = [by_syslog(1), by_syslog(1, process=b"exim[8]")] * 2
    assert each_counts(Twice(), *interleaved) == [0, 1]


def test_what_only_the_main_log_is_told_is_no_copy() -> None:
    for body in (b'SMTP syntax error in "X" H=[192.0.2.1] unrecognized command', b"VRFY failed for x H=[192.0.2.1]"):
        assert each_counts(Twice(), by_syslog(1, body), by_syslog(1, body)) == [0, 1]
    twice = Twice()
    taken = [by_syslog(10.0 * number, b"%d" % number)._replace(kind="accept") for number in range(20)]
    assert len(each_counts(twice, *taken)) == 20
    assert each_counts(twice, by_syslog(500), by_syslog(500)) == [0]


def test_a_log_without_duplication_loses_no_second_offence() -> None:
    twice = Twice()
    singles = [by_syslog(10.0 * number, b"%d " % number + SAID) for number in range(4)]
    assert each_counts(twice, *singles) == [0, 1, 2, 3]
    assert each_counts(twice, *[by_syslog(100)] * 5) == [0, 1, 2, 3, 4]


def test_a_copy_that_syslog_lost_changes_nothing() -> None:
    twice = Twice()
    pairs = [by_syslog(10.0 * number, b"%d " % (number // 2) + SAID) for number in range(20) for _ in (1, 2)]
    assert len(each_counts(twice, *pairs)) == 20
    assert each_counts(twice, by_syslog(500), by_syslog(600), by_syslog(600)) == [0, 1]


def test_other_logs_are_left_alone() -> None:
    mainlog = finding("mainlog", SAID)
    postfix = by_syslog(1, process=b"postfix/smtpd[7]")._replace(filter="postfix")
    for one in (mainlog, postfix, by_syslog(1)._replace(time=None), by_syslog(1)._replace(times=2)):
        assert each_counts(Twice(), one, one) == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([b"1", b"2"]), st.sampled_from([b"exim[7]", b"exim[8]"]))))
def test_duplication_is_undone_whatever_comes(told: list[tuple[int, bytes, bytes]]) -> None:
    """As many as without it, however often the same words come."""
    now, lines = 0.0, []
    for wait, body, process in told:
        now += wait
        lines += [by_syslog(now, body + SAID, process)] * 2
    assert len(each_counts(Twice(), *lines)) == len(told)


def test_what_waits_is_bounded() -> None:
    twice = Twice(capacity=10)
    for number in range(100):
        twice.is_copy(by_syslog(1, b"%d" % number + SAID))
    assert len(twice._waiting) <= 10
