"""host: the few facts about this machine that decisions depend on: its addresses and its time zone. Edge."""

from __future__ import annotations

from datetime import tzinfo
from ipaddress import ip_address, ip_network
from zoneinfo import ZoneInfo

import ifaddr
import tzlocal

from denyspam.events import Network


def own_addresses() -> frozenset[Network]:
    """The addresses of every interface of this network namespace, each alone (not its network)."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.add(ip_network(ip_address(text.partition("%")[0])))
    return frozenset(found)


def zone(name: str | None) -> tzinfo:
    """The time zone of this name, or the host's."""
    return ZoneInfo(name) if name is not None else tzlocal.get_localzone()
