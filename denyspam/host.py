"""host: the few facts about this machine that decisions depend on: its addresses, its time zone,
and from where its admin has logged in. Edge."""

from __future__ import annotations

import os
from datetime import tzinfo
from ipaddress import ip_address, ip_network
from zoneinfo import ZoneInfo

import tzlocal

from denyspam.events import Network

SSH = ("SSH_CONNECTION", "SSH_CLIENT")  # ssh(1): the client's address first
GENERATIONS = 64  # of parents asked


def own_addresses() -> frozenset[Network]:
    """The addresses of every interface of this network namespace, each alone (not its network)."""
    import ifaddr

    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.add(ip_network(ip_address(text.partition("%")[0])))
    return frozenset(found)


def ssh_peers() -> frozenset[Network]:
    """Where the SSH session comes from in which this process runs, as sshd told it: SSH_CONNECTION in our environment,
    or in that of a parent (sudo takes it away). Other open connections to sshd tell nothing: anybody may have one."""
    found = set()
    process, told = os.getpid(), [os.environ.get(name, "") for name in SSH]
    for _ in range(GENERATIONS):
        for text in told:
            try:
                peer: Network = ip_network(text.split()[0].partition("%")[0])
            except (IndexError, ValueError):
                continue
            mapped = getattr(peer.network_address, "ipv4_mapped", None)
            found.add(peer if mapped is None else ip_network(mapped))
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
                process = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{process}/environ", encoding="utf-8", errors="replace") as file:
                pairs = dict(pair.partition("=")[::2] for pair in file.read().split("\0"))
        except PermissionError:
            pairs = {}  # another user's: his parent may be ours again
        except OSError:
            break
        told = [pairs.get(name, "") for name in SSH]
    return frozenset(found)


def zone(name: str | None) -> tzinfo:
    """The time zone of this name, or the host's."""
    return ZoneInfo(name) if name is not None else tzlocal.get_localzone()
