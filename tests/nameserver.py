"""nameserver: a name server for tests, of real DNS messages over UDP. `python nameserver.py PORT ZONE.json`.

ZONE.json maps "NAME TYPE" (absolute, small letters) to a list of records' texts; a record "SERVFAIL" or "SILENT" is
what becomes of that question instead, and "*" is for every question not listed (NXDOMAIN otherwise). It is read anew at
each question. Prints a line for each question, and first "ready".
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL = 300


def answer(wire: bytes, zone: dict[str, list[str]]) -> tuple[str, bytes | None]:
    """(the question, the answer; None: silence)"""
    query = dns.message.from_wire(wire)
    question = query.question[0]
    kind = dns.rdatatype.to_text(question.rdtype)
    asked = f"{question.name.to_text().lower()} {kind}"
    found = dns.message.make_response(query, recursion_available=True)
    records = zone.get(asked, zone.get("*"))
    if records is None:
        found.set_rcode(dns.rcode.NXDOMAIN)
    elif records == ["SILENT"]:
        return asked, None
    elif records == ["SERVFAIL"]:
        found.set_rcode(dns.rcode.SERVFAIL)
    elif records:
        found.answer.append(dns.rrset.from_text(question.name, TTL, "IN", kind, *records))
    return asked, found.to_wire(max_size=4096)


def serve(port: int, path: Path) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", port))
    print("ready", flush=True)
    while True:
        wire, peer = listener.recvfrom(4096)
        asked, found = answer(wire, json.loads(path.read_text(encoding="utf-8")))
        print(asked, flush=True)
        if found is not None:
            listener.sendto(found, peer)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
