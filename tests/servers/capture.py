"""capture: runs each server in each variant, attacks it, keeps the log and the truth about it in tests/captures.

    python -m servers.capture [NAME...]         (in tests/, as root)

For each NAME of CAPTURES two files: NAME.log, what the server wrote; NAME.labels.json, who did what how often, as
the clients themselves saw it (`attack.Deed`), with the settings of the server.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from servers.attack import attack
from servers.world import World

# name: server, its settings, a pattern of the acts to be played (one at a time where RepeatedMsgReduction is on:
# rsyslog counts only lines that follow each other)
CAPTURES: dict[str, tuple[str, dict[str, str], str]] = {
    "postfix": ("postfix", {}, ""),
    # here amavis and the milter write elsewhere, so a virus that amavis found cannot be seen
    "postfix-postlog": ("postfix", {"MAILLOG": "/var/log/postfix.log", "LOG": "postfix.log"}, "^(?!.*amavis)"),
    "postfix-rfc3339": ("postfix", {"STAMP": "RSYSLOG_FileFormat"}, ""),
    "postfix-repeated": ("postfix", {"REPEATED": "on"}, "^AUTH LOGIN|^virus$|claim|^unknown users"),
    "exim": ("exim", {}, ""),
    "exim-all": ("exim", {"SELECTOR": "+all"}, ""),
    "exim-rejectlog": ("exim", {"LOG": "exim4/rejectlog"}, ""),
    "exim-syslog": ("exim", {"SYSLOG": "syslog_duplication = false", "LOG": "mail.log"}, ""),
    # exim's default: each refusal for the main and for the reject log
    "exim-syslog-twice": ("exim", {"SYSLOG": "syslog_duplication = true", "LOG": "mail.log"}, ""),
    "sendmail": ("sendmail", {}, ""),
    # thirty lines a session: the hostile ones, some plain ones
    "sendmail-15": ("sendmail", {"LOGLEVEL": "15"}, "hostile|claim|without|one message|local|banner|wait|greylisted"),
}
FOLDER = Path(__file__).parent.parent / "captures"


def capture(name: str) -> None:
    """Writes the two files of `name`."""
    server, settings, acts = CAPTURES[name]
    with tempfile.TemporaryDirectory() as directory, World(server, directory, **settings) as world:
        deeds = attack(world, acts, workers=1 if "REPEATED" in settings else 8)
        # The last delivery and the last verdict are logged after the client has left.
        size = -1
        while size != (size := world.log().stat().st_size):
            time.sleep(3)
        text = world.log().read_bytes()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.log").write_bytes(text)
    labels = {"server": server, "settings": settings, "deeds": [deed.label() for deed in deeds]}
    (FOLDER / f"{name}.labels.json").write_text(json.dumps(labels, indent=1) + "\n")
    print(f"{name}: {len(text):,} bytes, {len(text.splitlines()):,} lines")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or list(CAPTURES):
        capture(chosen)
