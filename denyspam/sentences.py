"""sentences: what the daemon answered, as people read it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import tzinfo
from typing import Any

from denyspam import show

WATCHING = "but nobody is refused, it only watches"
INSIDE = 10  # bans that `why` names of a network's many
KERNEL = {True: "the kernel holds it", False: "the kernel does not hold it", None: "the firewall does not answer"}


def graces(found: Iterable[dict[str, Any]], zone: tzinfo, now: float) -> Iterator[str]:
    """A line for each grace; `now` in epoch seconds."""
    for grace in found:
        note = f": {show.line(grace['note'].encode())}" if grace["note"] else ""
        yield (
            f"{grace['address']} is in grace until {show.moment(grace['until'], zone)} "
            f"({show.duration(grace['until'] - now)} left){note}"
        )


def why(found: dict[str, Any], zone: tzinfo, now: float) -> Iterator[str]:
    """The answer to `why`; `now` in epoch seconds. No line holds a control character."""
    kernel = WATCHING if found["watching"] else KERNEL[found["kernel"]]
    for ban in found["bans"]:
        ports = " ".join(map(str, ban["ports"]))
        yield (
            f"{ban['address']} is banned from port {ports} until {show.moment(ban['until'], zone)} "
            f"({show.duration(ban['until'] - now)} left); {kernel}"
        )
        note = f": {show.line(ban['note'].encode())}" if ban["note"] else ""
        hits = f", {ban['hits']} hits" if ban["hits"] else ""
        yield f"  rule {ban['rule']}{hits}, since {show.moment(ban['since'], zone)}{note}"
    if not found["bans"]:
        yield f"{found['address']} is not banned" + (f"; {KERNEL[True]} all the same" if found["kernel"] else "")
    if found["within"]:
        names = ", ".join(ban["address"] for ban in found["within"][:INSIDE])
        more = ", …" if len(found["within"]) > INSIDE else ""
        yield f"  {show.count(len(found['within']), 'ban')} of what lies in it: {names}{more}"
    for ban in found["withheld"]:
        reason = ban["note"] or "its name is being looked for"
        yield f"  withheld until {show.moment(ban['until'], zone)}: {show.line(reason.encode())}"
        yield f"  rule {ban['rule']}, {ban['hits']} hits, since {show.moment(ban['since'], zone)}"
    if found["sender"]:
        yield f"  {found['sender']}"
    for line in graces(found["graces"], zone, now):
        yield f"  {line}"
    if found["spared"]:
        yield "  it is never banned: loopback, an own address or in `allow`"
    elif found["counted"] not in (None, found["address"]):
        yield f"  it is counted and banned as {found['counted']}"
    for count in found["counts"]:
        yield f"  {count['policy']}: {count['hits']} hits now, the limit is {count['limit']}"
    yield from _lines(found["seen"], zone)
    if found["lines"]:
        yield "" if found["bans"] or found["withheld"] else f"  last time ({found['history'][0]['state']}):"
        yield from _lines(found["lines"], zone)
    yield from _before(found["history"], zone)


def _lines(events: Iterable[dict[str, Any]], zone: tzinfo) -> Iterator[str]:
    for one in events:
        yield f"  {show.moment(one['time'], zone)} {one['kind']} ({one['filter']}, {one['file']} at {one['offset']})"
        yield f"    {show.line(one['text'].encode(), 200)}"


def _before(history: Iterable[dict[str, Any]], zone: tzinfo) -> Iterator[str]:
    past = [row for row in history if row["ended"] is not None]
    if past:
        yield ""
        yield "  before:"
    for row in past:
        end = f" {row['end_note']}" if row["end_note"] else ""
        note = f" [{row['note']}]" if row["note"] else ""
        yield (
            f"  {show.moment(row['since'], zone)} {row['address']} {row['rule']} for "
            f"{show.duration(row['until'] - row['since'])}{show.line(note.encode())}, "
            f"{row['state']} {show.moment(row['ended'], zone)}{show.line(end.encode())}"
        )
