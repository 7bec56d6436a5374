"""names: is this address a big provider's, by its name and back? Edge: asks DNS.

    known(address)       what is remembered: the host's name; "" for nobody's; None where it must be asked
    await ask(address)   the same; None where DNS did not answer within `patience`

An address is a provider's when one of its names (PTR) stands under an entry of the list *and* that name has the
address (A or AAAA): the first is written by whoever has the address, and proves nothing. So one question is asked of
nearly everybody, a second only of those who claim to be somebody. A name is text of a stranger's: of letters, digits,
hyphens, underscores and dots, or it is none; the first NAMES of them are looked at.
Answers are remembered as long as they say, at least SHORTEST and at most LONGEST; failures for SHORTEST.
An answer that does not fit into a datagram of 512 bytes is nobody's: whoever has a reverse zone may write 64 KB into
it, which dnspython takes ten seconds to read. So nothing is asked for over TCP, nor by EDNS.

A zone that does not answer is not the same as a resolver that does not: anybody may break his own reverse zone. When
an answer fails or takes long the resolver is asked for the root's servers, and only where it cannot tell those either
it is `dead`; nothing else is asked then until it can, and that every REST seconds. What becomes of the unanswered is
the caller's.
Bounded: REMEMBERED addresses; the caller bounds how many ask at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from denyspam.senders import Providers

NAMES = 4
SHORTEST, LONGEST = 60.0, 21_600.0  # seconds that an answer is remembered
NOBODY = 3_600.0  # seconds, of an address that has no name at all
REMEMBERED = 20_000
REST = 5.0  # seconds


class Names:
    """One resolver: `servers` are (address, port); none of them: /etc/resolv.conf's."""

    def __init__(self, providers: Providers, servers: Sequence[tuple[str, int]], patience: float) -> None:
        self._providers = providers
        self._servers = servers
        self._patience = patience
        self._answers: OrderedDict[str, tuple[str | None, float]] = OrderedDict()  # address -> (name, until)
        self._resolver: Any = None
        self.dead = False
        self._trying: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self.asked = 0

    def known(self, address: str) -> str | None:
        name, until = self._answers.get(address, (None, 0.0))
        return name if time.monotonic() < until else None

    async def ask(self, address: str) -> str | None:
        if self.dead:
            return None
        known, until = self._answers.get(address, (None, 0.0))
        if time.monotonic() < until:
            return known
        import dns.exception  # noqa: PLC0415  # a third of a second, paid by who wants it

        self.asked += 1
        name: str | None
        slow = asyncio.get_running_loop().call_later(self._patience / 4, self._doubt)
        try:
            name, ttl = await asyncio.wait_for(self._confirmed(address), self._patience)
            self.dead = False
        except (dns.exception.DNSException, asyncio.TimeoutError, OSError, ValueError):
            name, ttl = None, 0.0
            self._doubt()
            if self._trying is not None:
                await asyncio.wait({self._trying})  # half of `patience` at most
        finally:
            slow.cancel()
        self._answers[address] = name, time.monotonic() + min(max(ttl, SHORTEST), LONGEST)
        self._answers.move_to_end(address)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return name

    async def _confirmed(self, address: str) -> tuple[str, float]:
        """(the provider's host name or "", seconds for which that is so)"""
        import dns.reversename  # noqa: PLC0415

        pointers, ttl = await self._records(dns.reversename.from_address(address), "PTR")
        for name in [text for one in pointers[:NAMES] if (text := _plain(one)) and self._providers.match(text)]:
            addresses, life = await self._records(name, "AAAA" if ":" in address else "A")
            ttl = min(ttl, life)
            if any(_address(one) == address for one in addresses):
                return name, ttl
        return "", ttl

    async def _records(self, name: Any, kind: str) -> tuple[list[Any], float]:
        """(the records, seconds they live); none where there are none. Raises DNSException, OSError."""
        import dns.asyncresolver  # noqa: PLC0415
        import dns.message  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        if self._resolver is None:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            servers = self._servers or [(str(one), resolver.port) for one in resolver.nameservers]
            resolver.nameservers = [_short(*server) for server in servers]
            resolver.use_edns(-1)  # whatever resolv.conf has among its options
            resolver.timeout = self._patience / 2  # of one server: time for another, or a second try
            resolver.lifetime = self._patience
            resolver.cache = None
            self._resolver = resolver
        try:
            answer = await self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN):
            return [], NOBODY
        except dns.resolver.NoNameservers as error:
            if any(isinstance(each[3], dns.message.Truncated) for each in error.kwargs["errors"]):
                return [], NOBODY
            raise
        if answer.rrset is None:
            return [], NOBODY
        return list(answer.rrset), float(answer.chaining_result.minimum_ttl)

    def _doubt(self) -> None:
        """Somebody's zone did not answer, or the resolver: find out which."""
        if self._trying is None or self._trying.done():
            self._trying = asyncio.get_running_loop().create_task(self._try())

    async def _try(self) -> None:
        import dns.exception  # noqa: PLC0415

        try:
            await asyncio.wait_for(self._records(".", "NS"), self._patience / 2)
            self.dead = False
        except (dns.exception.DNSException, asyncio.TimeoutError, OSError, ValueError):
            self.dead = True
            self._again = asyncio.get_running_loop().call_later(REST, self._doubt)

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if self._trying is not None:
            self._trying.cancel()


def _short(address: str, port: int) -> Any:
    """A name server that is asked for short answers alone."""
    import dns.exception  # noqa: PLC0415
    import dns.nameserver  # noqa: PLC0415

    class Short(dns.nameserver.Do53Nameserver):
        async def async_query(self, *words: Any, **named: Any) -> Any:
            if named["max_size"]:  # over TCP, after a truncated answer
                raise dns.exception.FormError
            return await super().async_query(*words, **named)

    return Short(address, port)


def _plain(record: Any) -> str:
    """A PTR's name in small letters, without its last dot; what is not plain stays escaped, and so matches nothing."""
    return str(record.target.to_text(omit_final_dot=True)).lower()


def _address(record: Any) -> str:
    """As we write it."""
    return str(ip_address(record.address))
