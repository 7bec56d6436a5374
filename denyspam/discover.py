"""discover: which mail server this host runs, where it logs, and which peers of its own must never be banned.
Both `make run` and `denyspam setup` (setup.py, which writes) go by it.

It asks the programs themselves (`postconf`, `exim -bP`), reads the syslog daemon's configuration, and believes a
well-known path only where a file stands there. It changes nothing on the host; the one thing it can write is a
configuration file into the folder it is given. A question that gets no answer (no DNS, a broken main.cf) is a note,
never an error, and no single question waits longer than `PATIENCE`.

    discover(host, known) -> Found        configuration(found, mode) -> the text of a denyspam.conf
    python -m denyspam.discover --run     what `make run` does: find, show, write, start; or the demonstration

Limits: Linux; one instance of each server; one that logs to its standard output alone (a container) gets a sentence.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from ipaddress import ip_address, ip_network
from typing import NoReturn

from denyspam.events import Network
from denyspam.plugins import Filters

PATIENCE = 3.0  # seconds one question may take: a dead resolver must not look like a hanging `make run`
NAMES = 10  # hosts resolved for one question: an MX list is short, and each may cost PATIENCE
TAIL = 64 * 1024  # bytes of a log that are looked at to see which programs write to it
FRESH = 86400.0  # seconds: a log that nobody is configured to write counts if it was written within the last day
WIDEST = {4: 8, 6: 16}  # a shorter prefix on the allow list would switch denyspam off
INSTALLED = "/etc/denyspam/denyspam.conf"

# What proves a server: its own program. A main.cf survives the removal of its package.
SERVERS = {
    "postfix": ("/usr/sbin/postconf", "/usr/local/sbin/postconf"),
    "exim": ("/usr/sbin/exim4", "/usr/sbin/exim", "/usr/exim/bin/exim", "/usr/local/sbin/exim"),
    "sendmail": ("/usr/libexec/sendmail/sendmail", "/usr/lib/sm.bin/sendmail", "/usr/sbin/sendmail.sendmail"),
}
SYSLOGS = ("rsyslogd", "syslog-ng", "syslogd", "inetutils-syslogd", "sysklogd", "socklog")
SYSLOG_FILES = ("/etc/rsyslog.conf", "/etc/rsyslog.d/*.conf", "/etc/syslog.conf", "/etc/syslog.d/*.conf")
SYSLOG_NG_FILES = ("/etc/syslog-ng/syslog-ng.conf", "/etc/syslog-ng/conf.d/*.conf")
WELL_KNOWN = ("/var/log/mail.log", "/var/log/maillog", "/var/log/mail/mail.log", "/var/log/mail")
WELL_KNOWN_EXIM = (
    "/var/log/exim4/mainlog",
    "/var/log/exim/mainlog",
    "/var/log/exim/main.log",
    "/var/log/exim_mainlog",
    "/var/spool/exim/log/mainlog",
)
# filter -> the program names on a syslog line that it reads
PROGRAMS = {
    "postfix": rb"postfix[\w.-]*/",
    "exim": rb"exim4?\[",
    "sendmail": rb"(?:sendmail|sm-mta|sm-msp-queue)\[",
    "amavis": rb"amavis(?:d(?:-new)?)?\[",
    "clamav": rb"clamav-milter\[",
    "mailscanner": rb"(?i:mailscanner)\[",
    "mimedefang": rb"mimedefang(?:\.pl)?\[",
    "spamd": rb"spamd\[",
    "rspamd": rb"rspamd(?:_proxy)?\[",
    "dovecot": rb"dovecot(?:\[\d+\])?: ",
    "cyrus": rb"cyrus[\w/-]*\[",
    "perdition": rb"perdition[\w.]*\[",
    "solidpop3d": rb"solid-pop3d\[",
    "courier": rb"(?:courier|imapd|pop3d|esmtpd)(?:-ssl)?(?:\[\d+\])?: ",
}
JOURNALS = ("/run/systemd/journal", "/var/log/journal", "/run/log/journal")  # journald is here
# What a unit of the journal runs, by how its name begins -> the filter for it
UNITS = {
    "postfix": "postfix",
    "exim": "exim",
    "sendmail": "sendmail",
    "amavis": "amavis",
    "clamav-milter": "clamav",
    "mailscanner": "mailscanner",
    "spamd": "spamd",
    "spamassassin": "spamd",
    "rspamd": "rspamd",
    "dovecot": "dovecot",
}
NOWHERE = (
    "{server} logs to no file that was found, and there is no systemd journal: switch on a log file{postfix} with "
    "`apt-get install rsyslog` (or your system's package of it), then start again."
)
JOURNAL_POSTFIX = " with `postconf maillog_file=/var/log/mail.log && postfix reload`, or"


def run_program(arguments: Sequence[str]) -> str | None:
    """What the program prints, or None: not installed, failed, or silent for PATIENCE."""
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(  # noqa: S603  # the arguments are this module's own words
            arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def exchangers(domain: str) -> list[str] | None:
    """The names of a domain's MX hosts, best first; [] if it has none, None if nobody answers within PATIENCE."""
    import dns.exception  # noqa: PLC0415  # 40 ms that the daemon's own start need not pay
    import dns.resolver  # noqa: PLC0415

    try:
        answer = dns.resolver.Resolver().resolve(domain, "MX", lifetime=PATIENCE)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError):
        return None
    records = sorted(answer, key=lambda record: record.preference)
    names = [record.exchange.to_text(omit_final_dot=True) for record in records]
    return [name for name in names if name != "."]  # the null MX of RFC 7505


@dataclass(frozen=True, slots=True)
class Host:
    """The host as discovery sees it; tests give another root folder, runner and resolver."""

    root: str = "/"
    run: Callable[[Sequence[str]], str | None] = run_program
    exchangers: Callable[[str], list[str] | None] = exchangers
    now: float = field(default_factory=time.time)

    def path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def read(self, path: str) -> str:
        """The text of a file, "" where there is none to read."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def read_all(self, patterns: Iterable[str]) -> str:
        """The texts of all files that the shell patterns name, in the order a daemon would include them."""
        found = (name for pattern in patterns for name in sorted(glob(self.path(pattern))))
        return "\n".join(self.read(os.path.relpath(name, self.root)) for name in found)

    def addresses(self, name: str) -> list[str]:
        """A name's addresses by this host's own resolver (so /etc/hosts counts), or the address it already is."""
        with suppress(ValueError):
            return [str(ip_address(name))]
        lines = (self.run(("getent", "ahosts", name)) or "").splitlines()
        return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


@dataclass(frozen=True, slots=True)
class Log:
    path: str  # "journal" is that of systemd
    filters: tuple[str, ...]  # () where nothing could be guessed: then all
    reason: str
    units: tuple[str, ...] = ()  # of the journal; () where none is known: all of the mail facility

    @property
    def section(self) -> str:
        return self.path if self.path == "journal" else f"log {self.path}"


@dataclass(frozen=True, slots=True)
class Allowed:
    network: Network
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    servers: tuple[str, ...] = ()
    logs: tuple[Log, ...] = ()
    allow: tuple[Allowed, ...] = ()
    notes: tuple[str, ...] = ()  # what was seen but not understood, or what the admin should know
    advice: str = ""  # what to switch on, where a server is here but no log of it


def discover(host: Host, known: Collection[str]) -> Found:
    """All there is to know about `host`. `known`: the names of the filters that are installed."""
    notes: list[str] = []
    servers = tuple(name for name, programs in SERVERS.items() if any(map(host.exists, programs)))
    logs = tuple(_logs(host, servers, known, notes))
    allow = tuple(_distinct(_allow(host, servers, notes))) if servers or logs else ()
    advice = ""
    if servers and not logs:
        postfix = JOURNAL_POSTFIX if "postfix" in servers else ""
        advice = NOWHERE.format(server=" and ".join(servers), postfix=postfix)
    return Found(servers, logs, allow, tuple(notes), advice)


# --- the logs -------------------------------------------------------------------------------------------------------


def _logs(host: Host, servers: Sequence[str], known: Collection[str], notes: list[str]) -> Iterator[Log]:
    taken: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    by_syslog = [server for server in servers if server == "sendmail"]

    def take(path: str, server: str, reason: str) -> None:
        taken.setdefault(path, []).append(server)
        reasons.setdefault(path, reason)

    if "postfix" in servers:
        path = _postconf(host, "maillog_file")
        if path.startswith("/") and not path.startswith("/dev/"):
            take(path, "postfix", "Postfix writes it (maillog_file)")
        else:
            by_syslog.insert(0, "postfix")
    if "exim" in servers:
        exim_path = _exim_log(host)
        if exim_path:
            take(exim_path, "exim", "exim writes it (log_file_path)")
        else:
            by_syslog.append("exim")
    elif not servers:  # a log host, or a server that lives in a container and logs to here
        for path in _existing(host, WELL_KNOWN_EXIM, host.now - FRESH):
            take(path, "exim", "found there")
    if by_syslog or not servers:
        path, reason = _syslog_log(host)
        # Without a server, syslog's configuration is that of any host: a log must have been written to be one.
        if path and (servers or list(_existing(host, [path], host.now - FRESH))):
            reasons.setdefault(path, reason)
            taken.setdefault(path, []).extend(by_syslog)
        elif by_syslog and any(map(host.exists, JOURNALS)):
            yield _journal(host, by_syslog, known)

    for path, its_servers in taken.items():
        guessed = dict.fromkeys([*its_servers, *_programs_in(host, path)])
        yield Log(path, tuple(name for name in guessed if name in known), reasons[path])


def _journal(host: Host, servers: Sequence[str], known: Collection[str]) -> Log:
    """The journal, for servers that log to nothing else; of their units, where they have written to it already."""
    there = sorted({*(host.run(("journalctl", "--field=_SYSTEMD_UNIT")) or "").split()})
    units = {unit: name for unit in there for start, name in UNITS.items() if re.match(rf"{start}\d?[.@]", unit)}
    if not {*servers} & {*units.values()}:
        units = {}
    filters = dict.fromkeys([*servers, *units.values()])
    reason = f"{' and '.join(servers)} logs to the systemd journal alone"
    return Log("journal", tuple(name for name in filters if name in known), reason, tuple(units))


def _existing(host: Host, paths: Iterable[str], since: float = 0.0) -> Iterator[str]:
    for path in paths:
        with suppress(OSError):
            status = os.stat(host.path(path))
            if os.path.isfile(host.path(path)) and status.st_size and status.st_mtime >= since:
                yield path


def _exim(host: Host, what: str) -> str:
    """The value of an exim option, or of a named list (`+name`), by exim itself, which prints `name = value`."""
    for program in ("exim4", "exim"):
        answer = host.run((program, "-bP", what))
        if answer is not None:
            return answer.partition("=")[2].strip()
    return ""


def _exim_log(host: Host) -> str:
    """exim's main log, "" where it logs to syslog alone. Format: exim spec, "Where the logs are written"."""
    entries = _exim_list(_exim(host, "log_file_path"))
    for entry in entries:
        if not entry.startswith("/"):
            continue
        return re.sub("%[DM]", "[0-9]*", entry.replace("%s", "main"))  # by date: a pattern takes each day's
    if "syslog" in entries:
        return ""
    return next(_existing(host, WELL_KNOWN_EXIM), "")


def _syslog_log(host: Host) -> tuple[str, str]:
    """Where the mail facility goes, and how that is known: the configured file, else a well-known one that is alive."""
    folders = ("/usr/sbin", "/sbin", "/usr/local/sbin")
    if any(host.exists(f"{folder}/{name}") for folder in folders for name in SYSLOGS):
        # Best first. Only one is taken: mail.log, mail.warn and syslog hold copies of the same lines.
        places = sorted(_selectors(host.read_all(SYSLOG_FILES)), key=lambda place: -place[0])
        places += [(2, path) for path in _syslog_ng(host.read_all(SYSLOG_NG_FILES))]
        if places:
            return places[0][1], "the syslog daemon's configuration sends mail there"
        return next(_existing(host, WELL_KNOWN), ""), "found there"
    # Without a syslog daemon a mail.log is most likely the rest of one: only a live file counts.
    return next(_existing(host, WELL_KNOWN, host.now - FRESH), ""), "found there"


def _selectors(text: str) -> Iterator[tuple[int, str]]:
    """(2 for a rule that names mail, 1 for one that takes everything, path) of syslog.conf(5) and RainerScript."""
    for line in text.splitlines():
        rule = line.split("#", 1)[0].strip()
        condition = re.match(r"""(?:if|:)\s*\$?syslogfacility-text\s*(?:==|,\s*isequal,)\s*['"]mail['"].*""", rule)
        place = re.search(r"""(?:(?<=\s)-?|file=")(/[^\s;"')]+)""", rule)
        if not place or place[1].startswith("/dev/"):
            continue
        rank = 2 if condition else _rank(rule.split(None, 1)[0])
        if rank:
            yield rank, place[1]


def _rank(selector: str) -> int:
    """Does `mail.*;auth,news.none` take mail at the level info? 2: it names mail, 1: it takes all, 0: no."""
    rank = 0
    for part in selector.split(";"):
        facilities, dot, level = part.partition(".")
        names = facilities.split(",")
        if not dot or not ({"mail", "*"} & set(names)):
            continue
        if level in ("*", "info", "debug"):
            rank = max(rank, 2 if "mail" in names else 1)
        elif level == "none":
            rank = 0
    return rank


def _syslog_ng(text: str) -> Iterator[str]:
    """The files of every `log` statement whose one filter is the mail facility's."""
    body = r"(\w+)\s*\{(.*?)\}\s*;"
    mail = {name for name, inside in re.findall(r"\bfilter\s+" + body, text, re.S) if "facility(mail" in inside}
    places = dict(re.findall(r"\bdestination\s+(\w+)\s*\{\s*file\(\s*\"(/[^\"$]+)\"", text))
    for inside in re.findall(r"\blog\s*\{(.*?)\}\s*;", text, re.S):
        if set(re.findall(r"\bfilter\((\w+)\)", inside)) & mail and inside.count("filter(") == 1:
            yield from (places[name] for name in re.findall(r"\bdestination\((\w+)\)", inside) if name in places)


def _programs_in(host: Host, path: str) -> Iterator[str]:
    try:
        with open(host.path(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            tail = file.read(TAIL)
    except OSError:
        return
    yield from (name for name, program in PROGRAMS.items() if re.search(rb"[ \]]" + program, tail))


# --- whom never to ban ----------------------------------------------------------------------------------------------


def _allow(host: Host, servers: Sequence[str], notes: list[str]) -> Iterator[Allowed]:
    domains: list[str] = []
    if "postfix" in servers:
        yield from _networks(host, _postconf(host, "mynetworks"), "Postfix mynetworks", notes)
        yield from _relay(host, _postconf(host, "relayhost"), "Postfix relayhost", notes)
        domains.append(_postconf(host, "mydomain"))
    if "exim" in servers:
        relays = " ".join(_exim_list(_exim(host, "+relay_from_hosts")))
        yield from _networks(host, relays, "exim relay_from_hosts", notes)
        debian = dict(re.findall(r"^(dc_\w+)='(.*)'", host.read("/etc/exim4/update-exim4.conf.conf"), re.M))
        relays = " ".join(_exim_list(debian.get("dc_relay_nets", ""), ";"))
        yield from _networks(host, relays, "exim dc_relay_nets", notes)
        yield from _relay(host, debian.get("dc_smarthost", ""), "exim dc_smarthost", notes)
        domains.append(_exim(host, "qualify_domain"))
    if "sendmail" in servers:
        access = host.read("/etc/mail/access")
        granted = re.findall(r"^(?:Connect:)?([^#\s]\S*)\s+RELAY\b", access, re.M)
        yield from _networks(host, " ".join(map(_sendmail_network, granted)), "sendmail access, RELAY", notes)
        # Names there are domains that are relayed *to*; only addresses and networks are hosts of one's own.
        granted = [_sendmail_network(line.strip()) for line in host.read("/etc/mail/relay-domains").splitlines()]
        networks = " ".join(each for each in granted if _network(each) is not None)
        yield from _networks(host, networks, "sendmail relay-domains", notes)
        smart_host = re.search(r"^DS(?:\w+:)?(\S+)", host.read("/etc/mail/sendmail.cf"), re.M)
        yield from _relay(host, smart_host[1] if smart_host else "", "sendmail smart host", notes)
    domains.append(host.read("/etc/mailname").strip())
    yield from _mail_exchangers(host, domains, notes)
    yield from _gateways(host)


def _gateways(host: Host) -> Iterator[Allowed]:
    """Routers of private networks that this host's default routes name: one that rewrites sources, as for a forwarded
    port, is the client of all mail, and no bot. Format: the kernel's net/ipv4/fib_trie.c, fib_route_seq_show()."""
    for line in host.read("/proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and re.fullmatch("[0-9A-F]{8}", words[2]):
            address = ip_address(int(words[2], 16).to_bytes(4, sys.byteorder))
            if address.is_private and int(address):
                yield Allowed(ip_network(address), "the router, by which all mail comes where it hides the clients")


def _distinct(entries: Iterable[Allowed]) -> Iterator[Allowed]:
    """Without loopback (always spared) and without what an earlier entry covers."""
    kept: list[Network] = []
    for entry in entries:
        network = entry.network
        if network.is_loopback or any(_covers(one, network) for one in kept):
            continue
        kept.append(network)
        yield entry


def _covers(wide: Network, narrow: Network) -> bool:
    return narrow[0] in wide and narrow[-1] in wide


def _postconf(host: Host, name: str) -> str:
    """A parameter of main.cf with its `$names` filled in; postconf before 2.10 knows no -x."""
    answer = host.run(("postconf", "-xh", name))
    if answer is None:
        answer = host.run(("postconf", "-h", name))
    return (answer or "").strip()


def _exim_list(text: str, separator: str = ":") -> list[str]:
    """The items of an exim list: `a : b`, `<; a ; b`, and `::` for a colon within an item."""
    chosen = re.match(r"<(\S)\s*", text)
    if chosen:
        text, separator = text[chosen.end() :], chosen[1]
    items = text.replace(separator * 2, "\0").split(separator)
    return [item.replace("\0", separator).strip() for item in items if item.strip()]


def _sendmail_network(text: str) -> str:
    """`192.0.2` of sendmail's access table is the /24; `IPv6:2001:db8` a prefix of whole groups."""
    if re.fullmatch(r"\d+(?:\.\d+){0,2}\.?", text):
        octets = text.rstrip(".").split(".")
        return ".".join([*octets, *["0"] * (4 - len(octets))]) + f"/{8 * len(octets)}"
    if text.startswith("IPv6:"):
        groups = text.removeprefix("IPv6:").rstrip(":")
        return groups if "::" in groups or groups.count(":") == 7 else f"{groups}::/{16 * (groups.count(':') + 1)}"
    return text


def _networks(host: Host, text: str, reason: str, notes: list[str]) -> Iterator[Allowed]:
    """The networks of a list as Postfix and exim write them: `127.0.0.0/8 [::1]/128, /a/file cidr:/a/table name !x`."""
    for word in re.split(r"[\s,]+", text):
        table = re.fullmatch(r"(?:cidr:)?(/.+)", word)
        if table:
            lines = host.read(table[1]).splitlines()
            firsts = (line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
            yield from _networks(host, " ".join(firsts), f"{reason}, {table[1]}", notes)
            continue
        network = _network(word)
        if network is not None:
            if network.prefixlen < WIDEST[network.version]:
                notes.append(f"{reason}: {network} is too wide to spare; it is not on the allow list")
            else:
                yield Allowed(network, reason)
        elif word.startswith("!"):
            notes.append(f"{reason}: {word} excludes what another entry may allow; look at the allow list")
        elif re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", word) and "." in word:
            yield from (Allowed(ip_network(one), f"{reason}: {word}") for one in host.addresses(word))
        elif word:
            notes.append(f"{reason}: {word} is not understood; add its addresses to allow by hand")


def _network(word: str) -> Network | None:
    plain = re.sub(r"^\[(.*)\](/\d+)?$", r"\1\2", word)
    try:
        network = ip_network(plain, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is not None and network.prefixlen >= 96:
        return ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


def _relay(host: Host, text: str, reason: str, notes: list[str]) -> Iterator[Allowed]:
    """The addresses of `[smtp.example]:587`, `smtp.example::587`, `192.0.2.1`; a bare name may have MX hosts."""
    for word in re.split(r"[\s,;]+", text):
        bracketed = re.match(r"\[(?:ipv6:)?([^\]]+)\]", word, re.I)
        name = bracketed[1] if bracketed else word if word.count(":") > 2 else word.split(":")[0]
        if not name:
            continue
        names = [name] if bracketed or _network(name) else [name, *(host.exchangers(name) or [])[:NAMES]]
        addresses = {address: each for each in names for address in host.addresses(each)}
        if not addresses:
            notes.append(f"{reason}: {name} does not resolve; add its addresses to allow by hand")
        for address, each in addresses.items():
            yield Allowed(ip_network(address), reason if each == address else f"{reason}: {each}")


def _mail_exchangers(host: Host, domains: Iterable[str], notes: list[str]) -> Iterator[Allowed]:
    local = (".localdomain", ".local", ".lan", ".internal", ".invalid", ".home.arpa")
    for domain in dict.fromkeys(domains):
        if "." not in domain or domain.endswith(local):
            continue
        names = host.exchangers(domain)
        parent = domain.partition(".")[2]
        if names == [] and "." in parent:  # /etc/mailname may be the host's name within its domain
            names = host.exchangers(parent)
        if names is None:
            notes.append(f"DNS did not answer for the MX hosts of {domain}; add them to allow by hand")
        for name in (names or [])[:NAMES]:
            yield from (Allowed(ip_network(one), f"MX of {domain}: {name}") for one in host.addresses(name))


# --- the configuration ----------------------------------------------------------------------------------------------

CONFIGURATION = """\
# Written by `make run` from what it found on this host, and written anew each time.
# To keep changes, copy it to {installed}, which `make run` prefers.

[daemon]
{paths}mode = {mode}
allow = {allow}

{logs}
[policy]
virus  = 5 in 15m -> ban 1h
relay  = 5 in 15m -> ban 1h
reject = 20 in 15m -> ban 1h

# Proposed, and off: take the # away. Hosts whose mail was accepted on the days before get higher limits, and those of
# big providers, by their names in DNS, are told of instead of banned:
#[senders]
# No bans while the mail server refuses those whose mail it used to accept, nor of a proxy in front of it:
#[fuse]
# Either has accepted mail looked for, so that reading a log takes about twice the time. denyspam.conf(5) has the rest.
"""


def configuration(found: Found, mode: str, folder: str | None = None) -> str:
    """The text of a denyspam.conf for `found`; `folder` (absolute) holds state and socket, None: where they belong.

    Raises ValueError where `found` has no log: such a configuration could not start.
    """
    if not found.logs:
        raise ValueError("no log was found")
    entries = [("127.0.0.0/8, ::1", "loopback"), *((str(_bare(one.network)), one.reason) for one in found.allow)]
    commas = [","] * (len(entries) - 1) + [""]
    allow = "\n    ".join(f"{text}{comma}  # {why}" for (text, why), comma in zip(entries, commas, strict=True))
    logs = "".join(
        f"# {log.reason}\n[{log.section}]\nfilters = {', '.join(log.filters) or 'auto'}\n"
        + (f"units = {', '.join(log.units)}\n" if log.units else "")
        for log in found.logs
    )
    paths = ""
    if folder is not None:
        paths = f"state = {folder}/state\n"
        # sun_path holds 108 bytes, and a checkout may lie deep.
        if len(os.fsencode(folder)) < 80:
            paths += f"socket = {folder}/denyspam.sock\n"
    return CONFIGURATION.format(installed=INSTALLED, paths=paths, mode=mode, allow=allow, logs=logs)


def _bare(network: Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


# Who else may have rules, and the file that shows it. Bans stand in a table of their own beside all of them.
FIREWALLS = {
    "firewalld": "/usr/sbin/firewalld",
    "ufw": "/usr/sbin/ufw",
    "nftables": "/etc/nftables.conf",
    "shorewall": "/sbin/shorewall",
    "iptables": "/etc/iptables/rules.v4",
}


def firewall(host: Host) -> str:
    """One line on what else filters here, and where the bans go."""
    beside = [name for name, path in FIREWALLS.items() if host.exists(path)]
    return "nftables, in a table of its own" + (f" beside {' and '.join(beside)}" if beside else "")


def report(found: Found) -> str:
    """What was found, for the admin's eye."""
    lines = [f"mail server: {', '.join(found.servers) or 'none installed here'}"]
    lines += [f"log: {log.path} ({log.reason}; filters: {', '.join(log.filters) or 'all'})" for log in found.logs]
    lines += [f"never banned: {_bare(entry.network)} ({entry.reason})" for entry in found.allow]
    lines += [f"note: {note}" for note in found.notes]
    return "".join(f"  {line}\n" for line in lines)


# --- make run -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """What `make run` does. Exit codes: the daemon's, or the demonstration's; 1 no log to read, 77 root is needed."""
    parser = argparse.ArgumentParser(prog="python -m denyspam.discover", description="find this host's mail logs")
    parser.add_argument("--mode", choices=("enforce", "watch"), default="enforce")
    parser.add_argument("--folder", default=".run", help="where the configuration is written")
    parser.add_argument("--run", action="store_true", help="start denyspam, or the demonstration; else only show")
    options = parser.parse_args(arguments)
    folder = os.path.abspath(options.folder)

    if os.path.exists(INSTALLED):
        with open(INSTALLED, encoding="utf-8") as file:
            text = file.read()
        if options.mode == "watch":
            from denyspam.setup import with_mode  # noqa: PLC0415 - which knows this module

            text = with_mode(text, "watch")
        print(f"denyspam: using {INSTALLED}")
    else:
        found = discover(Host(), Filters(INSTALLED).installed())
        if not found.servers and not found.logs:
            print("denyspam: no mail server and no mail log on this host; here is the same job on an example.")
            if not options.run:
                return 1
            from denyspam.demo import main as demonstrate  # noqa: PLC0415

            return demonstrate([])
        print(f"denyspam: found on this host\n{report(found)}")
        if not found.logs:
            print(f"denyspam: {found.advice}", file=sys.stderr)
            return 1
        text = configuration(found, options.mode, folder)
    if not options.run:
        print(text, end="")
        return 0
    if os.geteuid() != 0:
        return _again_as_root(arguments)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "denyspam.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    program = os.path.join(os.path.dirname(sys.executable), "denyspam")
    print(f"denyspam: {path}\n")
    print("".join(f"    {line}\n" for line in text.splitlines()))
    print(f"denyspam: starting; in another shell, as root: {program} list -c {path}   (Ctrl-C ends it, bans stay)")
    return _become(program, "run", "-c", path)


def _again_as_root(arguments: Sequence[str] | None) -> int:
    words = [sys.executable, "-m", "denyspam.discover", *(sys.argv[1:] if arguments is None else arguments)]
    sudo = shutil.which("sudo")
    if sudo is None:
        print("denyspam: reading the mail log and banning needs root: run it as root", file=sys.stderr)
        return 77
    return _become(sudo, *words)


def _become(*words: str) -> NoReturn:
    sys.stdout.flush()
    os.execv(words[0], words)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
