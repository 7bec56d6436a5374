"""What is asked of a name server by whom anybody may make it answer: nothing that takes long to read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.rrset

from denyspam.names import Names
from denyspam.senders import Providers

LIST = Providers(["google.com"])


class Truncating:
    """A name server that answers nothing but that the answer is too long, and counts who comes for it by TCP."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.called = 0
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.place: tuple[str, int] = self._tcp.getsockname()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self.place)
        for serve in (self._take, self._answer):
            threading.Thread(target=serve, daemon=True).start()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._tcp.accept()
                self.called += 1
                peer.close()

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                wire, peer = self._udp.recvfrom(4096)
                if not wire:  # closed
                    return
                query = dns.message.from_wire(wire)
                assert query.edns < 0
                self.asked.append(query.question[0].to_text())
                found = dns.message.make_response(query)
                found.flags |= dns.flags.TC
                found.answer.append(dns.rrset.from_text(query.question[0].name, 300, "IN", "PTR", "mail.google.com."))
                self._udp.sendto(found.to_wire(), peer)

    def close(self) -> None:
        for each in (self._tcp, self._udp):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def truncating() -> Iterator[Truncating]:
    made = Truncating()
    try:
        yield made
    finally:
        made.close()


def test_an_answer_that_is_too_long_is_nobodys_and_not_fetched() -> None:
    async def play(place: tuple[str, int]) -> tuple[str | None, bool, int]:
        names = Names(LIST, [place], 5.0)
        try:
            found = [await names.ask("192.0.2.7") for _ in range(2)]
            assert found[0] == found[1]
            return found[0], names.dead, names.asked
        finally:
            names.close()

    with truncating() as server:
        assert asyncio.run(play(server.place)) == ("", False, 1)
        assert server.asked == ["7.2.0.192.in-addr.arpa. IN PTR"]  # once, and the root is not asked for
        assert server.called == 0
