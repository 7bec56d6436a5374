# ruff: noqa: E501  (lines as the servers print them)
"""logs: a mail server's log of thirty days, made up: `python -m bench.logs postfix 300000 --seed 1 -o FILE`.

    postfix       smtpd, submission, cleanup, qmgr, smtp, lmtp, bounce, anvil, by syslog
    exim          the mainlog as exim itself writes it
    exim-syslog   the same by syslog
    sendmail      sm-mta by syslog

Sessions come in clumps and are interleaved. HOSTILE of them are hostile; how often each of those offends is steered so
that offences are the asked share of the lines (by default what 30 % hostile sessions give by themselves: OFFENCES).
Hostile sessions are of three sorts: a few hot addresses, some thousand that come back, and ones that come once.
With sendmail most offences carry no address; it stands on another line of the queue id.

The lines are the words of the servers' sources (named at each) and of tests/captures. What clients write is ordinary;
tests/forge.py makes the hostile kind. Equal arguments give equal bytes. Names are under .example, addresses any.
Not so in a real log: spelling mistakes, restarts, other programs' lines, and ids are never used twice.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from random import Random
from typing import BinaryIO

HOSTILE = 0.30
OFFENCES = {"postfix": 0.06, "exim": 0.12, "exim-syslog": 0.12, "sendmail": 0.16}
DAYS = 30
UNTIL = 1795132800.0  # 2026-11-20 00:00 UTC; the last line is about an hour earlier or later
HOT, RETURNING, SENDERS, USERS = 40, 4000, 3000, 5000
ATTEMPTS = (1, 1, 1, 1, 1, 1, 2, 2, 3, 5)  # offences of one hostile session
MOST = 40  # of one session
BATCH = 2000  # sessions sorted at a time

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Postfix's long queue ids leave the vowels out
BASE52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
WORDS = """
    alpha amber anchor apex arrow atlas aurora bay beacon birch blue boreal bridge canyon cedar city clear cloud
    coast cobalt coral crest delta dune eagle east echo ember falcon fern field first forge fox glen gold granite
    green grove harbor haven hill indigo iron ivy jade jet juniper key lake lark laurel lime lion lotus lunar
    maple meadow mesa mint moon noble north nova oak ocean olive onyx opal orbit otter palm peak pearl pine pixel
    plaza polar prime quartz rapid raven red ridge river rock rose ruby sage salt sand scarlet sea shore silver
    sky slate snow solar south spring star stone summit sun swift terra tidal timber topaz trail vale vertex
    violet vista wave west willow wind wolf
""".split()  # noqa: SIM905  (one a line would be longer than the rest)
GIVEN = """
    alice bob carol dave eve frank grace heidi ivan judy karl laura mike nina oscar paula quentin rosa steve tina
    ulrich vera walter xenia yves zoe
""".split()  # noqa: SIM905  (one a line would be longer than the rest)
LOCAL = ("example.org", "example.net", "mail.example.org")
GUESSED = """
    admin info test sales support office contact postmaster webmaster root backup scanner printer user mail john
    anna
""".split()  # noqa: SIM905  (one a line would be longer than the rest)

Lines = list[tuple[float, str]]
Client = tuple[str, str, str]  # name ("" where there is none), address, HELO


class Traffic:
    """Who writes to whom: the pools that sessions draw from. `hostile` and `honest` give a client."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.domains = [
            f"{chance.choice(WORDS)}{chance.choice(('', '-', ''))}{chance.choice(WORDS)}.example"
            for _ in range(SENDERS)
        ]
        self.people = [
            f"{chance.choice(GIVEN)}{chance.choice(('', '.', '_', '-'))}{chance.choice(WORDS)}@{chance.choice(self.domains)}"
            for _ in range(SENDERS)
        ]
        self.users = [
            f"{chance.choice(GIVEN)}.{chance.choice(WORDS)}{n % 97}@{chance.choice(LOCAL)}" for n in range(USERS)
        ]
        self.senders = [self._sender(n) for n in range(SENDERS)]
        self.hot = [self._attacker() for _ in range(HOT)]
        self.returning = [self._attacker() for _ in range(RETURNING)]
        self.addresses: set[str] = set()

    def address(self) -> str:
        bits = self.chance.getrandbits
        if bits(4) == 0:
            return f"2001:{bits(11):x}:{bits(16) | 1:x}:{bits(16) | 1:x}::{bits(16) | 1:x}"
        return f"{(11, 23, 31, 45, 62, 77, 89, 103, 141, 185, 193, 212)[bits(8) % 12]}.{bits(8)}.{bits(8)}.{bits(8) % 254 + 1}"

    def _sender(self, number: int) -> Client:
        domain = self.domains[number]
        name = self.chance.choice((f"mail.{domain}", f"mx{number % 9}.{domain}", f"mail-{number:x}-f{number % 64}.{domain}", f"smtp-out-{number % 32:02d}.{domain}"))  # fmt: skip
        return name, self.address(), name

    def _attacker(self) -> Client:
        ip = self.address()
        chance = self.chance
        name = (
            ""
            if chance.random() < 0.6
            else f"{ip.replace('.', '-').replace(':', '-')}.dyn.{chance.choice(WORDS)}.example"
        )
        helo = chance.choice((name or f"[{ip}]", "ylmf-pc", "User", "localhost", f"win-{chance.getrandbits(32):x}", "example.org", f"mail.{chance.choice(self.domains)}"))  # fmt: skip
        return name, ip, helo

    def honest(self) -> Client:
        """Some write much more often than others."""
        return self.senders[int(SENDERS * self.chance.random() ** 2.5)]

    def hostile(self) -> Client:
        sort = self.chance.random()
        if sort < 0.4:
            return self.hot[int(HOT * self.chance.random() ** 2)]
        if sort < 0.75:
            return self.chance.choice(self.returning)
        return self._attacker()

    def remote(self) -> tuple[str, str, str]:
        """A recipient elsewhere, and its server: address, name, IP."""
        person = self.chance.choice(self.people)
        name, ip, _ = self.senders[self.domains.index(domain) if (domain := person.rpartition("@")[2]) in self.domains[:8] else self.chance.getrandbits(11)]  # fmt: skip
        return person, name, ip

    def stranger(self) -> str:
        """A local address that nobody has."""
        chance = self.chance
        return f"{chance.choice(GUESSED)}{chance.choice(('', '', '1', '2026', str(chance.getrandbits(9))))}@{chance.choice(LOCAL)}"

    def message_id(self, domain: str) -> str:
        chance = self.chance
        if chance.getrandbits(1):
            return f"{chance.getrandbits(60):015X}.{chance.getrandbits(32):08x}@{domain}"
        return f"CA+{chance.getrandbits(128):x}_{chance.getrandbits(60):x}@mail.{domain}"

    def size(self) -> int:
        return int(self.chance.lognormvariate(9.5, 1.4)) + 400


class Postfix:
    """src/smtpd/smtpd.c, smtpd_check.c, smtpd_sasl_glue.c; src/cleanup; src/qmgr; src/global/log_adhoc.c; src/tls."""

    own_stamp = False

    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self.chance = traffic, traffic.chance

    def _process(self, name: str, many: int = 30) -> str:
        """Processes serve many clients each."""
        return f"postfix/{name}[{12000 + hash_of(name) + self.chance.randrange(many)}]: "

    def _queue_id(self, when: float) -> str:
        """src/global/mail_queue.h: seconds and microseconds, then `z` and the inode."""
        return f"{based(BASE52, int(when), 6)}{based(BASE52, self.chance.randrange(1_000_000), 4)}z{based(BASE52, self.chance.getrandbits(22), 4)}"

    def _tls(self, who: str, whom: str) -> str:
        return f"{who} TLS connection established {whom}: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256"

    def honest(self, at: float) -> Lines:
        chance, traffic = self.chance, self.traffic
        sort = chance.random()
        name, ip, _ = traffic.honest()
        client = f"{name}[{ip}]"
        if sort < 0.04:
            return self._probe(at, client)
        smtpd = self._process("smtpd")
        lines: Lines = [(at, f"{smtpd}connect from {client}")]
        if sort < 0.08:  # src/smtpd/smtpd_check.c: a policy service's answer
            sender, user = chance.choice(traffic.people), chance.choice(traffic.users)
            lines.append((at + 0.5, f"{smtpd}NOQUEUE: reject: RCPT from {client}: 450 4.2.0 <{user}>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/example.org.html; from=<{sender}> to=<{user}> proto=ESMTP helo=<{name}>"))  # fmt: skip
            lines.append((at + 0.7, f"{smtpd}disconnect from {client} ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4"))
            return lines
        queue = self._queue_id(at)
        submitted = sort > 0.75
        login = ""
        if submitted:
            smtpd = self._process("submission/smtpd", 8)
            sender = chance.choice(traffic.users)
            login = f", sasl_method=PLAIN, sasl_username={sender}"
            lines = [(at, f"{smtpd}connect from {client}")]
        else:
            sender = chance.choice(traffic.people)
        if chance.random() < 0.8:
            lines.append((at + 0.1, f"{smtpd}{self._tls('Anonymous', f'from {client}')}"))
        at += 0.3 + chance.random()
        domain = sender.rpartition("@")[2]
        lines.append((at, f"{smtpd}{queue}: client={client}{login}"))
        lines.append((at + 0.1, f"{self._process('cleanup', 12)}{queue}: message-id=<{traffic.message_id(domain)}>"))
        lines.append((at + 0.2, f"{QMGR}{queue}: from=<{sender}>, size={traffic.size()}, nrcpt=1 (queue active)"))
        lines.append(
            (at + 0.3, f"{smtpd}disconnect from {client} ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7")
        )
        at += 0.3 + chance.random() * 4
        if submitted:
            at = self._send(lines, at, queue, sender)
        else:
            user = chance.choice(traffic.users)
            lines.append((at, f"{self._process('lmtp', 10)}{queue}: to=<{user}>, relay=mx.example.org[private/dovecot-lmtp], delay={chance.random() * 3:.2g}, delays=0.{chance.getrandbits(5)}/0.01/0/0.0{chance.getrandbits(3)}, dsn=2.0.0, status=sent (250 2.0.0 <{user}> {chance.getrandbits(64):x}AAA Saved)"))  # fmt: skip
        lines.append((at + 0.1, f"{QMGR}{queue}: removed"))
        if chance.random() < 0.03:
            lines.append((at + 60, f"{self._process('anvil', 2)}statistics: max connection rate {chance.randrange(1, 9)}/60s for (smtp:{ip}) at {time.strftime('%b %e %H:%M:%S', time.gmtime(at))}"))  # fmt: skip
        return lines

    def _send(self, lines: Lines, at: float, queue: str, sender: str) -> float:
        """Out to another server; where that refuses, a bounce comes back."""
        chance, traffic = self.chance, self.traffic
        person, name, ip = traffic.remote()
        smtp = self._process("smtp", 20)
        relay = f"{name}[{ip}]"
        lines.append((at, f"{smtp}{self._tls('Trusted', f'to {relay}:25')}"))
        told = f"{smtp}{queue}: to=<{person}>, relay={relay}:25, delay={chance.random() * 9:.2g}, delays=0.1/0.0{chance.getrandbits(3)}/0.{chance.getrandbits(6)}/0.{chance.getrandbits(6)}, dsn="
        end = chance.random()
        if end < 0.06:
            greylisted = f"4.2.0, status=deferred (host {relay} said: 450 4.2.0 <{person}>: Recipient address rejected: Greylisted, please try again in 300 seconds (in reply to RCPT TO command))"
            lines.append((at + 0.8, f"{told}{greylisted}"))
            at += 420 + chance.random() * 60
            lines.append((at, f"{QMGR}{queue}: from=<{sender}>, size={traffic.size()}, nrcpt=1 (queue active)"))
        if 0.06 <= end < 0.1:
            lines.append((at + 0.9, f"{told}5.1.1, status=bounced (host {relay} said: 550 5.1.1 <{person}>: Recipient address rejected: User unknown in virtual mailbox table (in reply to RCPT TO command))"))  # fmt: skip
            notice = self._queue_id(at)
            lines.append(
                (at + 1.0, f"{self._process('cleanup', 12)}{notice}: message-id=<{queue[:4]}.{notice}@mx.example.org>")
            )
            lines.append((at + 1.1, f"{self._process('bounce', 3)}{queue}: sender non-delivery notification: {notice}"))
            lines.append((at + 1.1, f"{QMGR}{notice}: from=<>, size={traffic.size()}, nrcpt=1 (queue active)"))
            lines.append((at + 1.3, f"{self._process('lmtp', 10)}{notice}: to=<{sender}>, relay=mx.example.org[private/dovecot-lmtp], delay=0.09, delays=0.05/0/0/0.04, dsn=2.0.0, status=sent (250 2.0.0 <{sender}> {chance.getrandbits(64):x}AAA Saved)"))  # fmt: skip
            lines.append((at + 1.3, f"{QMGR}{notice}: removed"))
        else:
            said = chance.choice((f"250 2.0.0 OK  {int(at)} a1-{chance.getrandbits(64):x}si{chance.getrandbits(20)}edx.{chance.getrandbits(9)} - gsmtp", f"250 2.0.0 Ok: queued as {self._queue_id(at)}", f"250 2.6.0 <{traffic.message_id('example.org')}> [InternalId={chance.getrandbits(44)}, Hostname=AM0PR.example] 11802 bytes in 0.2, 56.0 KB/sec Queued mail for delivery"))  # fmt: skip
            lines.append((at + 1.2, f"{told}2.0.0, status=sent ({said})"))
        return at + 1.5

    def _probe(self, at: float, client: str) -> Lines:
        """Comes, and goes without an offence."""
        smtpd = self._process("smtpd")
        stage = self.chance.choice(("CONNECT", "EHLO", "STARTTLS"))
        return [
            (at, f"{smtpd}connect from {client}"),
            (at + 0.4, f"{smtpd}lost connection after {stage} from {client}"),
            (at + 0.4, f"{smtpd}disconnect from {client} commands=0/0"),
        ]

    def hostile(self, at: float, attempts: int) -> tuple[Lines, int]:
        chance, traffic = self.chance, self.traffic
        name, ip, helo = traffic.hostile()
        client = f"{name or 'unknown'}[{ip}]"
        traffic.addresses.add(ip)
        if not attempts:
            return self._probe(at, client), 0
        smtpd = self._process("smtpd")
        lines: Lines = []
        if not name and chance.random() < 0.3:
            lines.append((at, f"{smtpd}warning: hostname {ip.replace('.', '-').replace(':', '-')}.{chance.choice(WORDS)}.example does not resolve to address {ip}"))  # fmt: skip
        lines.append((at, f"{smtpd}connect from {client}"))
        sender = chance.choice(traffic.people)
        refused = f"{smtpd}NOQUEUE: reject: RCPT from {client}: "
        sort = chance.random()
        summary = f"ehlo=1 mail=1 rcpt=0/{attempts} quit=1 commands=3/{3 + attempts}"
        if sort < 0.25:
            smtpd = self._process("submission/smtpd", 8)
            lines[-1] = (at, f"{smtpd}connect from {client}")
            summary = f"ehlo=1 auth=0/{attempts} quit=1 commands=2/{2 + attempts}"
            reason = chance.choice(("UGFzc3dvcmQ6", "authentication failure"))
        elif sort < 0.33:
            queue = self._queue_id(at)
            lines.append((at + 0.3, f"{smtpd}{queue}: client={client}"))
            lines.append(
                (
                    at + 0.4,
                    f"{self._process('cleanup', 12)}{queue}: message-id=<{traffic.message_id(sender.rpartition('@')[2])}>",
                )
            )
            attempts, summary = 1, "ehlo=1 mail=1 rcpt=1 data=0/1 quit=1 commands=4/5"
        elif sort < 0.35:
            attempts, summary = 1, "commands=0/0"
        elif sort < 0.4:
            attempts, summary = 1, f"ehlo=1 mail=1 rcpt=0/1 commands=2/{3}"
        for number in range(attempts):
            at += 0.2 + chance.random() * 2
            user = chance.choice(traffic.users)
            tail = f"; from=<{sender}> to=<{user}> proto=ESMTP helo=<{helo}>"
            if sort < 0.25:
                text = f"{smtpd}warning: {client}: SASL LOGIN authentication failed: {reason}, sasl_username={user if chance.getrandbits(1) else traffic.stranger()}"
            elif sort < 0.33:  # src/cleanup/cleanup_milter.c
                text = f"{self._process('cleanup', 12)}{queue}: milter-reject: END-OF-MESSAGE from {client}: 5.7.1 virus Win.Trojan.Agent-{chance.getrandbits(20)} detected by ClamAV - http://www.clamav.net/{tail}"
            elif sort < 0.35:
                text = f"{smtpd}improper command pipelining after CONNECT from {client}: EHLO {helo}\\r\\nMAIL FROM:<{sender}>\\r\\n"
            elif sort < 0.4:
                text = f"{refused}450 4.1.8 <a@no-such-{chance.getrandbits(24):x}.example>: Sender address rejected: Domain not found; from=<a@no-such-{number}.example> to=<{user}> proto=ESMTP helo=<{helo}>"
            elif sort < 0.55:
                elsewhere = chance.choice(traffic.people)
                text = f"{refused}554 5.7.1 <{elsewhere}>: Relay access denied; from=<{sender}> to=<{elsewhere}> proto=ESMTP helo=<{helo}>"
            elif sort < 0.72:
                text = f"{refused}554 5.7.1 Service unavailable; Client host [{ip}] blocked using bl.example.net; https://bl.example.net/query/ip/{ip}{tail}"
            else:
                user = traffic.stranger()
                text = f"{refused}550 5.1.1 <{user}>: Recipient address rejected: User unknown in virtual mailbox table; from=<{sender}> to=<{user}> proto=ESMTP helo=<{helo}>"
            lines.append((at, text))
        lines.append((at + 0.3, f"{smtpd}disconnect from {client} {summary}"))
        return lines, attempts


QMGR = "postfix/qmgr[1107]: "


class Exim:
    """src/receive.c, src/deliver.c, src/smtp_in.c, src/auths, src/host.c of Exim 4.96, with the Debian log_selector."""

    own_stamp = True

    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self.chance = traffic, traffic.chance

    def _id(self, when: float) -> str:
        return f"{based(BASE62, int(when), 6)}-{based(BASE62, self.chance.getrandbits(22), 6)}-{based(BASE62, self.chance.getrandbits(11), 2)}"

    def _host(self, client: Client) -> str:
        name, ip, helo = client
        if name == helo:
            return f"H={name} [{ip}]"
        return f"H={name + ' ' if name else ''}({helo}) [{ip}]"

    def honest(self, at: float) -> Lines:
        chance, traffic = self.chance, self.traffic
        sort = chance.random()
        client = traffic.honest()
        host = self._host(client)
        if sort < 0.05:
            return self._probe(at, client)
        if sort < 0.08:
            sender, user = chance.choice(traffic.people), chance.choice(traffic.users)
            return [(at, f"{host} F=<{sender}> temporarily rejected RCPT <{user}>: Greylisted, please try again later")]
        if sort < 0.10:
            pid = chance.randrange(1000, 99999)
            return [(at, f"Start queue run: pid={pid}"), (at + 2, f"End queue run: pid={pid}")]
        queue = self._id(at)
        tls = "X=TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256 CV=no" if chance.random() < 0.8 else ""
        lines: Lines = []
        submitted = sort > 0.75
        if submitted:
            sender = chance.choice(traffic.users)
            protocol = f"P=esmtpsa {tls} A=plain_server:{sender}" if tls else f"P=esmtpa A=plain_server:{sender}"
        else:
            sender = chance.choice(traffic.people)
            protocol = f"P=esmtps {tls}" if tls else "P=esmtp"
            if tls:
                lines.append((at, f"{queue} DKIM: d={sender.rpartition('@')[2]} s=20230601 c=relaxed/relaxed a=rsa-sha256 b=2048 [verification succeeded]"))  # fmt: skip
        at += 0.2 + chance.random()
        lines.append(
            (
                at,
                f"{queue} <= {sender} {host} {protocol} S={traffic.size()} id={traffic.message_id(sender.rpartition('@')[2])}",
            )
        )
        at += chance.random() * 3
        if submitted:
            person, name, ip = traffic.remote()
            end = chance.random()
            if end < 0.06:
                lines.append((at, f"{queue} == {person} R=dnslookup T=remote_smtp defer (-44) H={name} [{ip}]: SMTP error from remote mail server after RCPT TO:<{person}>: 451 4.7.1 Greylisting in action, please come back in 00:05:00"))  # fmt: skip
                at += 900
            if 0.06 <= end < 0.1:
                lines.append((at, f"{queue} ** {person} R=dnslookup T=remote_smtp H={name} [{ip}] X=TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256 CV=yes: SMTP error from remote mail server after RCPT TO:<{person}>: 550 5.1.1 <{person}>: Recipient address rejected: User unknown in virtual mailbox table"))  # fmt: skip
                notice = self._id(at)
                lines.append((at + 0.1, f"{notice} <= <> R={queue} U=Debian-exim P=local S={traffic.size()}"))
                lines.append(
                    (at + 0.3, f"{notice} => {sender.partition('@')[0]} <{sender}> R=local_user T=maildir_home")
                )
                lines.append((at + 0.3, f"{notice} Completed"))
            else:
                lines.append((at, f'{queue} => {person} R=dnslookup T=remote_smtp H={name} [{ip}] X=TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256 CV=yes C="250 2.0.0 OK  {int(at)} a1-{chance.getrandbits(64):x}si{chance.getrandbits(20)}edx.{chance.getrandbits(9)} - gsmtp"'))  # fmt: skip
        else:
            user = chance.choice(traffic.users)
            lines.append((at, f"{queue} => {user.partition('@')[0]} <{user}> R=local_user T=maildir_home"))
        lines.append((at + 0.1, f"{queue} Completed"))
        return lines

    def _probe(self, at: float, client: Client) -> Lines:
        name, ip, helo = client
        bare = f"({helo}) [{ip}]" if not name else f"{name} ({helo}) [{ip}]"
        return [
            (at, self.chance.choice((
                f"no MAIL in SMTP connection from {bare} D=0.{self.chance.getrandbits(6)}s C=EHLO,QUIT",
                f"unexpected disconnection while reading SMTP command from {bare} D={self.chance.getrandbits(5)}s",
                f"TLS error on connection from {bare} (gnutls_handshake): A TLS fatal alert has been received.",
                f"SMTP command timeout on connection from {bare} D=5m",
            )))
        ]  # fmt: skip

    def hostile(self, at: float, attempts: int) -> tuple[Lines, int]:
        chance, traffic = self.chance, self.traffic
        client = traffic.hostile()
        name, ip, helo = client
        traffic.addresses.add(ip)
        lines: Lines = []
        if not name:
            lines.append((at, f"no host name found for IP address {ip}"))
        if not attempts:
            return lines + self._probe(at, client), 0
        host = self._host(client)
        who = f"{name + ' ' if name else ''}({helo}) [{ip}]"
        sender = chance.choice(traffic.people)
        sort = chance.random()
        if 0.25 <= sort < 0.35:
            attempts = 1
        for _ in range(attempts):
            at += 0.2 + chance.random() * 2
            user = chance.choice(traffic.users)
            if sort < 0.25:
                user = user if chance.getrandbits(1) else traffic.stranger()
                text = f"{chance.choice(('login', 'plain'))}_server authenticator failed for {who}: 535 Incorrect authentication data (set_id={user})"
            elif sort < 0.30:
                text = f"{self._id(at)} {host} F=<{sender}> rejected after DATA: This message contains a virus (Win.Trojan.Agent-{chance.getrandbits(20)})."
            elif sort < 0.32:
                text = f'SMTP protocol synchronization error (input sent without waiting for greeting): rejected connection from H=[{ip}] input="EHLO {helo}\\r\\n"'
            elif sort < 0.35:
                text = f"{host} rejected EHLO or HELO {helo}: forged HELO {helo}"
            elif sort < 0.40:
                lost = f"a@no-such-{chance.getrandbits(24):x}.example"
                lines.append((at, f"{host} sender verify fail for <{lost}>: no such domain here"))
                text = f"{host} F=<{lost}> rejected RCPT <{user}>: Sender verify failed"
            elif sort < 0.55:
                text = f"{host} F=<{sender}> rejected RCPT <{chance.choice(traffic.people)}>: relay not permitted"
            elif sort < 0.72:
                text = f"{host} F=<{sender}> rejected RCPT <{user}>: {ip} is listed at bl.example.net: https://bl.example.net/query/ip/{ip}"
            else:
                text = f"{host} F=<{sender}> rejected RCPT <{traffic.stranger()}>: {chance.choice(('Unrouteable address', 'Unknown user'))}"
            lines.append((at, text))
        return lines, attempts


class Sendmail:
    """sendmail/srvrsmtp.c, headers.c (logsender), deliver.c (logdelivery), milter.c, tls.c of 8.17, at LogLevel 9."""

    own_stamp = False

    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self.chance = traffic, traffic.chance
        self.count = 0

    def _id(self, when: float, pid: int) -> str:
        """sendmail/queue.c, assign_queueid(): year mod 60, month, day, hour, minute, second; a counter; the process."""
        now = time.gmtime(when)
        self.count += 1
        seconds = "".join(BASE62[n] for n in ((now.tm_year - 1900) % 60, now.tm_mon - 1, *now[2:6]))
        return f"{seconds}{based(BASE62, self.count % 3600, 2)}{pid:06d}"

    def _relay(self, client: Client) -> str:
        """IPv6 in full, as anynet_ntoa() writes it."""
        name, ip, _ = client
        if ":" in ip:
            head, _, tail = ip.partition("::")
            first, last = head.split(":"), tail.split(":")
            ip = "IPv6:" + ":".join([*first, *["0"] * (8 - len(first) - len(last)), *last])
        return f"{name} [{ip}]" if name else f"[{ip}]"

    def honest(self, at: float) -> Lines:
        chance, traffic = self.chance, self.traffic
        sort = chance.random()
        relay = self._relay(traffic.honest())
        pid = chance.randrange(1000, 400_000)
        mta = f"sm-mta[{pid}]: "
        head = f"{mta}{(queue := self._id(at, pid))}: "
        if sort < 0.05:
            return self._probe(at, head, relay)
        sender, user = chance.choice(traffic.people), chance.choice(traffic.users)
        if sort < 0.09:
            return [
                (at, f"{head}ruleset=check_rcpt, arg1=<{user}>, relay={relay}, reject=450 4.7.1 <{user}>... Greylisting in action, please come back later"),
                (at + 0.3, f"{head}from=<{sender}>, size=0, class=0, nrcpts=0, proto=ESMTP, daemon=MTA-v4, relay={relay}"),
            ]  # fmt: skip
        lines: Lines = []
        tls = chance.random() < 0.8
        if tls:
            lines.append(
                (
                    at,
                    f"{mta}STARTTLS=server, relay={relay}, version=TLSv1.3, verify=NO, cipher=TLS_AES_256_GCM_SHA384, bits=256/256",
                )
            )
        submitted = sort > 0.75
        if submitted:
            sender, user = user, ""
            lines.append((at + 0.2, f"{mta}AUTH=server, relay={relay}, authid={sender}, mech=PLAIN, bits=0"))
        at += 0.3 + chance.random()
        size = traffic.size()
        lines.append((at, f"{head}from=<{sender}>, size={size}, class=0, nrcpts=1, msgid=<{traffic.message_id(sender.rpartition('@')[2])}>, bodytype=8BITMIME, proto=ESMTP{'S' * tls}{'A' * submitted}, daemon=MTA-v4, relay={relay}"))  # fmt: skip
        at += chance.random() * 3
        mailer = f"sm-mta[{pid + 2}]: "
        if submitted:
            self._send(lines, at, f"{mailer}{queue}: ", sender, size)
        else:
            lines.append(
                (
                    at,
                    f"{mailer}{queue}: to=<{user}>, delay=00:00:0{chance.getrandbits(2)}, xdelay=00:00:00, mailer=local, pri={30000 + size}, dsn=2.0.0, stat=Sent",
                )
            )
        return lines

    def _send(self, lines: Lines, at: float, head: str, sender: str, size: int) -> None:
        chance = self.chance
        mailer, pid = head[: head.index(": ") + 2], int(head[head.index("[") + 1 : head.index("]")])
        person, name, ip = self.traffic.remote()
        remote = self._relay((f"{name}.", ip, ""))
        lines.append(
            (
                at,
                f"{mailer}STARTTLS=client, relay={name}., version=TLSv1.3, verify=OK, cipher=TLS_AES_256_GCM_SHA384, bits=256/256",
            )
        )
        told = f"{head}to=<{person}>, ctladdr=<{sender}> (1000/1000), delay=00:00:02, xdelay=00:00:01, mailer=esmtp, pri={120000 + size}, relay={remote}, dsn="
        end = chance.random()
        if end < 0.06:
            lines.append(
                (
                    at + 0.5,
                    f"{told}4.7.1, stat=Deferred: 450 4.2.0 <{person}>: Recipient address rejected: Greylisted, please try again in 300 seconds",
                )
            )
            at += 900
        if 0.06 <= end < 0.1:
            lines.append((at + 0.6, f"{told}5.1.1, stat=User unknown"))
            notice = self._id(at, pid)
            lines.append((at + 0.7, f"{head}{notice}: DSN: User unknown"))
            lines.append(
                (
                    at + 0.8,
                    f"{mailer}{notice}: to=<{sender}>, delay=00:00:00, xdelay=00:00:00, mailer=local, pri={31000 + size}, dsn=2.0.0, stat=Sent",
                )
            )
        else:
            lines.append((at + 0.7, f"{told}2.0.0, stat=Sent ({chance.choice((f'OK  {int(at)} a1-{chance.getrandbits(64):x}si{chance.getrandbits(20)}edx.{chance.getrandbits(9)} - gsmtp', f'Ok: queued as {chance.getrandbits(40):X}'))})"))  # fmt: skip

    def _probe(self, at: float, head: str, relay: str) -> Lines:
        return [(at, f"{head}{relay} did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA-v4")]

    def hostile(self, at: float, attempts: int) -> tuple[Lines, int]:
        chance, traffic = self.chance, self.traffic
        client = traffic.hostile()
        name, ip, _ = client
        traffic.addresses.add(ip)
        relay = self._relay(client)
        pid = chance.randrange(1000, 400_000)
        mta = f"sm-mta[{pid}]: "
        head = f"{mta}{self._id(at, pid)}: "
        if not attempts:
            return self._probe(at, head, relay), 0
        sender = chance.choice(traffic.people)
        lines: Lines = []
        sort = chance.random()
        begun = f"{head}from=<{sender}>, size=%d, class=0, nrcpts=%d, %sproto=ESMTP, daemon=MTA-v4, relay={relay}"
        last = begun % (0, 0, "")
        if sort < 0.12:  # from= comes first, with the message
            attempts, last, size = 1, "", traffic.size()
            lines.append((at, begun % (size, 1, f"msgid=<{traffic.message_id(sender.rpartition('@')[2])}>, ")))
        elif sort < 0.20:
            attempts, last = 1, ""
        elif sort < 0.32:
            last = f"{head}{relay} did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA-v4"
        for _ in range(attempts):
            at += 0.2 + chance.random() * 2
            user = chance.choice(traffic.users)
            if sort < 0.12:
                virus = f"virus Win.Trojan.Agent-{chance.getrandbits(20)} detected by ClamAV - http://www.clamav.net/"
                text = f"{head}Milter: data, reject=550 5.7.1 {virus}"
                last = f"{head}to=<{user}>, delay=00:00:0{chance.getrandbits(2)}, pri={30000 + size}, stat={virus}"
            elif sort < 0.20:
                text = f"{mta}ruleset=check_relay, arg1={name or f'[{ip}]'}, arg2={ip if ':' not in ip else relay.rpartition('[')[2][:-1]}, relay={relay}, reject=550 5.7.1 Rejected: {ip} listed at bl.example.net"
            elif sort < 0.32:
                text = f"{head}AUTH failure (LOGIN): authentication failure (-13) SASL(-13): authentication failure: checkpass failed, user={user.partition('@')[0]}, relay={relay}"
            elif sort < 0.46:
                elsewhere = chance.choice(traffic.people)
                why = "Proper authentication required." if name else f"IP name lookup failed {relay}"
                text = f"{head}ruleset=check_rcpt, arg1=<{elsewhere}>, relay={relay}, reject=550 5.7.1 <{elsewhere}>... Relaying denied. {why}"
            else:
                text = f"{head}<{traffic.stranger()}>... User unknown"
            lines.append((at, text))
        if last:
            lines.append((at + 0.3, last))
        return lines, attempts


SERVERS: dict[str, type[Postfix] | type[Exim] | type[Sendmail]] = {
    "postfix": Postfix,
    "exim": Exim,
    "exim-syslog": Exim,
    "sendmail": Sendmail,
}


def based(digits: str, number: int, width: int) -> str:
    """The number in as many digits, the lowest `width` of them."""
    text = ""
    for _ in range(width):
        number, digit = divmod(number, len(digits))
        text = digits[digit] + text
    return text


def hash_of(name: str) -> int:
    """Where a program's process ids begin: equal in every run, as hash() is not."""
    return sum(name.encode()) * 100


class Log:
    """The lines of one log. `sessions`, `hostile`, `offences` and `addresses` (hostile ones) tell what has been made."""

    def __init__(
        self,
        server: str,
        count: int,
        *,
        seed: int = 1,
        share: float | None = None,
        hostile: float = HOSTILE,
        stamp: str = "syslog",
        until: float = UNTIL,
    ) -> None:
        self.server, self.count, self.until = server, count, until
        self.last = until  # the stamp of the last line made
        self.share = OFFENCES[server] if share is None else share
        self._hostile = hostile if self.share else 0.0
        self._chance = Random(f"{server} {seed}")
        self._traffic = Traffic(self._chance)
        self._maker = SERVERS[server](self._traffic)
        self._stamped = _stamper(server, stamp)
        self.sessions = self.hostile = self.offences = 0

    @property
    def addresses(self) -> int:
        return len(self._traffic.addresses)

    def blocks(self) -> Iterator[bytes]:
        """The log in pieces of whole lines, exactly `count` lines."""
        waiting: Lines = []
        left = self.count
        for begin in self._batches(waiting):
            waiting.sort(key=itemgetter(0))
            ready = _before(waiting, begin)
            ready = min(ready, left)
            if ready:
                self.last = waiting[ready - 1][0]
                yield self._stamped(waiting[:ready])
            left -= ready
            del waiting[:ready]
            if not left:
                return

    def _batches(self, waiting: Lines) -> Iterator[float]:
        """Adds sessions to `waiting`; yields the time before which no line will come any more."""
        chance, maker = self._chance, self._maker
        honest: Callable[[float], Lines] = maker.honest
        at = self.until - DAYS * 86400
        # lines a session, first guessed, then as counted: so that the log fills its days
        made = 0
        while True:
            for _ in range(min(BATCH, self.count // 50 + 1)):
                if chance.random() < 0.12:  # a clump ends; the next begins later
                    rest = max(self.count - made, 1)
                    each = made / self.sessions if self.sessions else 6.0
                    at += chance.expovariate(0.12 * rest / each / max(self.until - at - 3600, 60.0))
                else:
                    at += chance.random() * 0.6
                self.sessions += 1
                if chance.random() >= self._hostile:
                    lines = honest(at)
                else:
                    self.hostile += 1
                    owed = self.share * made - self.offences
                    attempts = 0 if owed < -1 else min(MOST, max(chance.choice(ATTEMPTS), int(owed)))
                    lines, offences = maker.hostile(at, attempts)
                    self.offences += offences
                made += len(lines)
                waiting += lines
            yield at


def _before(lines: Lines, when: float) -> int:
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high) // 2
        if lines[middle][0] < when:
            low = middle + 1
        else:
            high = middle
    return low


def _stamper(server: str, stamp: str) -> Callable[[Lines], bytes]:
    """Puts the stamps before the lines, for times that increase."""
    forms = {"syslog": "%b %e %H:%M:%S mx ", "rfc3339": "%Y-%m-%dT%H:%M:%S+00:00 mx ", "exim": "%Y-%m-%d %H:%M:%S "}
    form = forms["exim" if server == "exim" else stamp]
    if server == "exim-syslog":
        form += "exim[4711]: " + forms["exim"]

    def stamped(lines: Lines) -> bytes:
        text = []
        last, prefix = -1, ""
        for when, line in lines:
            second = int(when)
            if second != last:
                last, prefix = second, time.strftime(form, time.gmtime(second))
            text.append(f"{prefix}{line}\n")
        return "".join(text).encode()

    return stamped


def write(log: Log, file: BinaryIO) -> None:
    for block in log.blocks():
        file.write(block)


def save(log: Log, path: str) -> None:
    """As a file that was last changed at its last stamp."""
    with open(path, "wb") as file:
        write(log, file)
    os.utime(path, (log.last + 1, log.last + 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.logs", description="A mail server's log of thirty days, made up.")
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("lines", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--offences", type=float, help="their share of the lines (default: postfix 0.06, exim 0.12, sendmail 0.16)"
    )
    parser.add_argument("--hostile", type=float, default=HOSTILE, help="the share of hostile sessions (0.30)")
    parser.add_argument("--stamp", choices=("syslog", "rfc3339"), default="syslog")
    parser.add_argument("-o", "--output", help="a file, changed last at its last stamp, by which its year is known")
    asked = parser.parse_args()
    log = Log(
        asked.server, asked.lines, seed=asked.seed, share=asked.offences, hostile=asked.hostile, stamp=asked.stamp
    )
    if asked.output:
        save(log, asked.output)
    else:
        write(log, sys.stdout.buffer)
    print(
        f"{asked.lines} lines, about {log.offences} offences by {log.addresses} addresses, "
        f"{log.hostile} of {log.sessions} sessions hostile",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
