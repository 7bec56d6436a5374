"""reference: the plain way in Python's own words, to measure against: `python -m bench.reference SERVER FILE`.

A loop over the lines, one alternation of `re`, the stamp and the client's address out of the line, JSON out. It knows
only the offences that bench/logs.py makes, joins no queue ids and resists no forger. It is never made faster, so that
a ratio against it means the same next year.
"""

from __future__ import annotations

import json
import re
import sys

IP = rb"\[(?:IPv6:)?([0-9a-fA-F.:]+)\]"
PATTERNS = {
    "postfix": (
        rb"NOQUEUE: reject: RCPT from [^\[]*" + IP + rb": (?!450 4\.2\.0)",
        rb"milter-reject: END-OF-MESSAGE from [^\[]*" + IP,
        rb"warning: [^\[]*" + IP + rb": SASL \S+ authentication failed",
        rb"improper command pipelining after \S+ from [^\[]*" + IP,
    ),
    "exim": (
        rb"H=.{0,100}?" + IP + rb" (?:F=\S+ )?rejected ",
        rb"authenticator failed for .{0,100}?" + IP + rb": 535",
        rb"SMTP protocol synchronization error .*H=" + IP,
    ),
    "sendmail": (
        rb"ruleset=check_\w+, arg1=\S+ relay=.*" + IP + rb", reject=5",
        rb"AUTH failure .*relay=.*" + IP,
        rb": (Milter: data, reject=5)",
        rb": <\S+>\.\.\. (User unknown)",
    ),
}


def main() -> None:
    server, path = sys.argv[1:]
    pattern = re.compile(b"|".join(PATTERNS[server]))
    with open(path, "rb") as log:
        for number, line in enumerate(log, 1):
            found = pattern.search(line)
            if found is not None:
                address = found[found.lastindex or 0].decode()
                text = line[:-1].decode("utf-8", "replace")
                print(json.dumps({"line": number, "time": text[:19], "address": address, "text": text}))


if __name__ == "__main__":
    main()
