"""What filters came out as, kept beside the bytecode: the same as read, and never anything else."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

from denyspam import cached
from denyspam.plugins import Filters

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python keeps the bytecode during a test."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "cache"


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.filter.*"))


def test_the_same_comes_back(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Filters(os.devnull).named(())
    assert len(kept(elsewhere)) == len(read)
    monkeypatch.setattr("denyspam.plugins.parse_filter", lambda *_, **__: pytest.fail("it was read again"))
    for one, other in zip(read, Filters(os.devnull).named(()), strict=True):
        assert one is not other
        assert (one.name, one.programs, one.samples, one.file) == (
            other.name,
            other.programs,
            other.samples,
            other.file,
        )
        for mine, its in zip(one.patterns, other.patterns, strict=True):
            assert (mine.kind, mine.pieces, mine.needles, mine.line) == (its.kind, its.pieces, its.needles, its.line)
        assert len({id(each.again) for each in one.patterns}) == len({id(each.again) for each in other.patterns})


def test_only_of_this_text_and_this_code(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Filters(os.devnull).load("postfix")
    text = (ROOT / "filters/postfix.filter").read_text(encoding="utf-8")
    assert cached.load("postfix", text) is not None
    assert cached.load("postfix", text + "#") is None
    assert cached.load("exim", text) is None
    (place,) = kept(elsewhere)
    whole = place.read_bytes()
    for damaged in (b"", whole[:3], whole[:-1], whole[:5000], whole[:99] + bytes((whole[99] ^ 1,)) + whole[100:]):
        place.write_bytes(damaged)
        assert cached.load("postfix", text) is None
        assert Filters(os.devnull).load("postfix").name == found.name
        assert place.read_bytes() == whole  # mended
    monkeypatch.setattr(cached, "CODE", 1)
    assert cached.load("postfix", text) is None
    monkeypatch.setattr(cached, "CODE", None)
    assert cached.load("postfix", text) is None
    assert Filters(os.devnull).load("postfix").name == found.name


def test_the_code_is_all_that_reads_filters() -> None:
    wanted, found = ["grammar"], set()
    while wanted:
        name = wanted.pop()
        found.add(name)
        for node in ast.walk(ast.parse((ROOT / f"denyspam/{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("denyspam."):
                wanted += {node.module.removeprefix("denyspam.")} - found
            assert not (isinstance(node, ast.ImportFrom) and node.module == "denyspam")
    assert sorted({*found, "scan"}) == list(cached.READERS)  # that one compiles the search


def test_nothing_is_kept_where_no_bytecode_is(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "dont_write_bytecode", True)
        assert Filters(os.devnull).load("postfix").name == "postfix"
        assert not elsewhere.exists()
    elsewhere.write_text("no folder can be made here")
    assert Filters(os.devnull).load("postfix").name == "postfix"
    elsewhere.unlink()
    monkeypatch.setattr(os, "replace", fails)
    assert Filters(os.devnull).load("postfix").name == "postfix"
    assert kept(elsewhere) == []


def fails(*_: object) -> None:
    raise OSError("the disk is full")


def test_check_reads_the_text(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Filters(os.devnull).load("postfix")
    monkeypatch.setattr(cached, "load", lambda *_: pytest.fail("it was not read"))
    assert Filters(os.devnull, thorough=True).load("postfix").name == "postfix"


def test_filters_of_the_admin_are_not_kept(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters/postfix.filter").write_bytes((ROOT / "filters/postfix.filter").read_bytes())
    assert Filters(str(tmp_path / "denyspam.conf")).load("postfix").name == "postfix"
    assert not elsewhere.exists()


def test_a_search_is_loaded_where_it_was_made(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hyperscan", reason="there is none for this processor")
    wanted = [b"reject: ", b": from=[^\n]*, relay="]

    def found(text: bytes, expressions: list[bytes] = wanted) -> list[tuple[int, int]]:
        ends: list[tuple[int, int]] = []
        cached.search(expressions).scan(
            text, match_event_handler=lambda number, _begin, end, *_: ends.append((end, number))
        )
        return ends

    line = b"1: from=<a>, relay=[192.0.2.1]\n2: from=<b>\n3: reject: x\n"
    assert found(line) == [(19, 1), (54, 0)]
    (place,) = elsewhere.rglob("search*")
    whole = place.read_bytes()
    monkeypatch.setattr("denyspam.scan.compiled", lambda *_: pytest.fail("it was compiled again"))
    assert found(line) == [(19, 1), (54, 0)]
    monkeypatch.undo()
    monkeypatch.setattr(sys, "pycache_prefix", str(elsewhere))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    # of other expressions, damaged, or what this version of Hyperscan does not take: made anew
    text = b"\n".join(wanted)
    for damaged in (
        b"",
        whole[:-1],
        cached._checksum(text, b"other") + b"other",
        cached._checksum(text, whole) + whole,
    ):
        place.write_bytes(damaged)
        assert found(line) == [(19, 1), (54, 0)]
        assert place.read_bytes() == whole
    assert found(line, [b"reject: "]) == [(54, 0)]
