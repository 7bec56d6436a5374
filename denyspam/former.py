"""former: what another action than today's still holds for this state folder. Edge.

The ledger knows by which action bans were carried out. Where that is another one now, or none (`mode = watch`), what
the former one holds is beyond every release and flush, and would refuse people until its end: so it is taken out at the
start.
What a firewall holds for another state folder, for a second daemon that only watches, is none of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from denyspam.events import ActionError, SettingsError
from denyspam.plugins import load_action
from denyspam.settings import Settings

log = logging.getLogger("denyspam")

FACT = "carried out by"  # of the ledger
IDLE = ("", "dryrun")


def carrier(settings: Settings) -> str:
    """The action that carries bans out; "" where none does."""
    return "" if settings.mode == "watch" or settings.action in IDLE else settings.action


def clear(settings: Settings, facts: Mapping[str, str]) -> bool:
    """Empty what the action before holds, where it is another. False: that is still to be done."""
    before = facts.get(FACT, "")
    if before in (*IDLE, carrier(settings)):
        return True
    try:
        action = load_action(replace(settings, mode="enforce", action=before))
        action.start()
        action.stop(keep=False)
    except (SettingsError, ActionError) as error:
        log.error("what the action %s holds from before still refuses people: %s", before, error)
        return isinstance(error, SettingsError)  # it cannot even be made any more
    log.warning("bans are carried out by %s no more: what it held is out of it", before)
    return True
