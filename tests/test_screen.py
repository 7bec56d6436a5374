"""The picture of `top`: exact at every size, true to the snapshot, and nothing in it that a stranger could use."""

from __future__ import annotations

import random
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denyspam.screen import BANS, HOT, SMALLEST, View, _width, cells, cut, draw, escaped, graph, meter, plain

NOW = 1_795_283_000.0
HOSTILE = "\x1b[2J\x07\u202eevil\u2066\u0301\u05d0\x9b31m\r\n\t\x00"


def snapshot(hot: int = 30, bans: int = 30, text: str = "") -> dict[str, Any]:
    """As the daemon answers; `text` stands wherever a stranger or an admin may have written something."""
    chance = random.Random(7)
    return {
        "time": NOW,
        "host": f"mx{text}",
        "version": "0.1.0",
        "pid": 77,
        "started": NOW - 90_000,
        "ready": True,
        "mode": "enforce",
        "action": "nftables",
        "rates": {name: [chance.random() * 900 for _ in range(300)] for name in ("lines", "events", "bans")},
        "kinds": {"reject": 48_211, "relay": 9120, f"odd{text}": 1},
        "hot": [
            {
                "address": f"203.0.113.{each}" if each % 3 else f"2001:db8:{each:x}:abcd::/64",
                "policy": f"relay{text}",
                "hits": 4,
                "limit": 5,
                "within": 900.0,
                "first": NOW - 60,
                "last": NOW - each,
                "gone": 840.0 - each,
                "kind": "relay",
                "filter": "postfix",
                "text": f"Nov 21 10:00:00 mx postfix/smtpd[7]: NOQUEUE: reject: {text} said {each}",
            }
            for each in range(hot)
        ],
        "bans": [
            {
                "address": f"192.0.2.{each}",
                "rule": f"virus{text}",
                "since": NOW - each,
                "until": NOW + 3600 - each,
                "hits": 5,
                "note": text,
                "ports": [25],
                "state": "active" if each else "pending",
            }
            for each in range(bans)
        ],
        "active": 1204,
        "pending": 1,
        "withheld": 2,
        "decided": 5000,
        "ended": 3796,
        "tracked": 8123,
        "unresolved": 3,
        "firewall": {
            "packets": 1_402_311,
            "bytes": 84_138_660,
            "waiting": 0,
            "sessions": 214,
            "repairs": 0,
            "sets": [{"version": 4, "width": 32, "ports": [25], "packets": 1_402_311, "bytes": 84_138_660}],
        },
        "logs": [
            {
                "path": f"/var/log/{text}mail.log",
                "present": True,
                "behind": False,
                "clock": NOW - 1,
                "lines": 5_123_311,
                "events": 63_430,
                "bad_time": 0,
                "lost": 0,
            },
        ],
        "faults": [f"the firewall refuses: {text}"] if text else [],
    }


@pytest.mark.parametrize("width", [SMALLEST[0], 80, 81, 117, 118, 200])
@pytest.mark.parametrize("height", [SMALLEST[1], 24, 25, 33, 60])
@pytest.mark.parametrize(("hot", "bans"), [(30, 30), (0, 0), (200, 1), (1, 200)])
def test_every_size_is_filled_exactly(width: int, height: int, hot: int, bans: int) -> None:
    frame = draw(snapshot(hot, bans), View(now=NOW), width, height)
    assert len(frame.lines) == height
    assert {_width(line) for line in frame.lines} == {width}


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (59, 40), (200, 15)])
def test_a_window_too_small_says_so(size: tuple[int, int]) -> None:
    frame = draw(snapshot(), View(now=NOW), *size)
    assert len(frame.lines) == size[1]
    assert all(_width(line) == size[0] for line in frame.lines)


def test_what_it_says() -> None:
    text = plain(draw(snapshot(), View(now=NOW), 200, 60))
    for words in (
        *("ENFORCING", "nftables", "up 1d1h", "8,123 counted", "1,204 hold", "1 not yet in the kernel"),
        *("4 of 5   relay", "NOQUEUE: reject:", "1.4M packets", "80.2 MiB", "IPv4 /32 port 25", "/var/log/mail.log"),
        *("up to date", "48,211", "59m59s", "not yet in the kernel"),
    ):
        assert words in text, words


def test_what_is_wrong_stands_on_top() -> None:
    found = {**snapshot(), "mode": "watch", "faults": ["the ledger cannot be written: disk full (3 waiting)"]}
    found["logs"][0].update(behind=True, clock=NOW - 64)
    lines = plain(draw(found, View(now=NOW + 7, trouble="denyspam does not answer"), 80, 24)).splitlines()
    assert "WATCHING ONLY" in lines[0]
    assert lines[1].strip() == "▲  no news for 7s, trying again: denyspam does not answer"
    assert "the ledger cannot be written: disk full" in lines[2]
    assert any("behind by 1m11s" in line for line in lines)
    assert "does not answer" in plain(draw({}, View(now=NOW, trouble="it does not answer"), 80, 24))


def test_the_chosen_row_is_in_sight_and_can_be_clicked() -> None:
    found = snapshot()
    for name, at in ((HOT, 29), (BANS, 17), (HOT, 0)):
        address = found[name][at]["address"]
        view = View(now=NOW, focus=name, selected={HOT: None, BANS: None, name: address})
        frame = draw(found, view, 80, 24)
        (row,) = [y for y, places in frame.rows.items() if any(one[2:] == (name, address) for one in places)]
        text = "".join(text for text, _ in frame.lines[row])
        assert text.startswith(f"│>{address}")
        assert all("selected" in style for text, style in frame.lines[row][2:-1] if text.strip())


def test_without_colours_a_meter_is_told_by_its_letters() -> None:
    assert meter(0.5, 4, color=False) == [("■■", ""), ("··", "dim")]
    assert meter(0.01, 4, color=False)[0] == ("■", "")
    assert meter(9, 2, color=False)[0] == ("■■", "")


def test_a_graph_is_as_high_as_its_highest() -> None:
    assert graph([0, 0, 4, 4, 2, 0], (3, 1), "x") == [[("\u2800⣿⡄", "x0")]]
    assert [line[0][0] for line in graph([8.0], (1, 2), "x")] == ["⢸", "⢸"]
    assert [line[0][0] for line in graph([], (2, 1), "x")] == ["\u2800\u2800"]


def test_hostile_text_is_written_out() -> None:
    assert escaped("\x1b[31m") == "\\x1b[31m"
    assert escaped("\u202eabc") == "\\u202eabc"
    for width, height in ((80, 24), (200, 60)):
        frame = draw(snapshot(text=HOSTILE), View(now=NOW, match=HOSTILE, trouble=HOSTILE), width, height)
        assert {_width(line) for line in frame.lines} == {width}
        assert_harmless(plain(frame).replace("\n", ""))
    assert "\\x1b[2J\\x07\\u202eevil" in plain(draw(snapshot(text=HOSTILE), View(now=NOW), 200, 60))


def assert_harmless(text: str) -> None:
    for one in text:
        assert one.isprintable(), hex(ord(one))
        assert unicodedata.bidirectional(one) not in (
            "R",
            "AL",
            "AN",
            "RLO",
            "LRO",
            "RLE",
            "LRE",
            "RLI",
            "LRI",
            "FSI",
            "PDI",
        )
        assert unicodedata.category(one) not in ("Mn", "Me", "Mc", "Cf", "Cc", "Cs")


@given(st.text(max_size=60), st.integers(0, 40))
def test_any_text_is_harmless_and_cut_to_its_width(text: str, width: int) -> None:
    assert_harmless(escaped(text))
    assert cells(cut(escaped(text), width)) <= width
