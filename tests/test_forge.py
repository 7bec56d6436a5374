"""Forged lines in bulk: nobody else is accused. `python tests/forge.py 1000000` runs a million."""

from __future__ import annotations

import forge


def test_nobody_else_is_accused() -> None:
    tally = forge.forge(20_000)
    wrong = {key: said for key, said in tally.examples.items() if key[1] == "wrong"}
    assert wrong == {}
    for server in ("postfix", "exim", "sendmail"):
        assert tally.counts[server, "alarm"] == 0, tally.examples[server, "alarm"]
        assert tally.counts[server, "offences"] > 3000  # there was something to find


def test_sendmail_loses_no_offence() -> None:
    tally = forge.forge(5_000, seed=2)
    assert tally.counts["sendmail", "lost"] == 0, tally.examples["sendmail", "lost"]
