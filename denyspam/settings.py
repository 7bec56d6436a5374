"""settings: the text of denyspam.conf -> Settings. Pure; every default lives here, once.

Sections `[daemon]`, `[log PATH]`, `[journal]` or `[syslog PLACE]` (one or more of them) and `[policy]`, where they are
wanted `[senders]` and `[fuse]`; `key = value`, an indented line goes on with the value above it, `#` starts a comment
at the line's start or after a blank. An unknown or doubled section or key is an error.
Every error names the file and the line and says what to write instead; it quotes at most QUOTE characters.
"""

from __future__ import annotations

import re
import shlex
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeVar

from denyspam.events import HARMLESS, OFFENCES, Network, Policy, SettingsError

if TYPE_CHECKING:  # a command that asks the daemon reads no policy, and should answer at once
    from denyspam.policy import Judge

QUOTE = 100  # characters of the admin's text in a message
SOCKET = 107  # bytes of a unix socket's path: sun_path of unix(7) without its end
RECIPIENTS = 20  # of a notification
PORTS = 15  # as many as iptables' multiport takes
T = TypeVar("T")
SUBMISSION = 587  # where the domain's own users send from; banned there only with `force`


@dataclass(frozen=True, slots=True)
class LogSettings:
    """One `[log PATH]`, `[journal]` or `[syslog PLACE]`. `filters` are names in the order asked, or ("auto",) for all
    that are shipped."""

    path: str  # its name: the path, also a glob's, or "-"; or the whole section, as "syslog 127.0.0.1:5514"
    filters: tuple[str, ...] = ("auto",)
    timezone: str | None = None  # None: the host's
    stamp: str = "line"  # or "none": the time is that of arrival
    line: int = 1
    kind: str = "log"  # or journal, syslog
    place: str | tuple[str, int] = ""  # journal: a folder ("": the host's own); syslog: a path, or address and port
    units: tuple[str, ...] = ()  # journal: of these units alone
    match: tuple[str, ...] = ()  # journal: FIELD=VALUE, as journalctl takes them
    namespace: str = ""  # journal: not the default one
    group: str | None = None  # syslog, unix: whose members may write there, besides root
    peers: tuple[Network, ...] = ()  # syslog, UDP: who may send


@dataclass(frozen=True, slots=True)
class SendersSettings:
    """`[senders]`: whom not to lose. There only where the section is."""

    days: int = 3  # `accepted = 3 days in 30d -> 3x`: so many more good days than bad ones; 0: `accepted = no`
    within: int = 30  # in the last so many days
    times: int = 3  # make all limits so many times as high
    providers: bool = True  # `notice`: bans of their hosts are told of and withheld; `no`: like all others
    resolver: tuple[tuple[str, int], ...] = ()  # (address, port); none: those of /etc/resolv.conf
    patience: float = 2.0  # seconds that a ban waits for DNS at most
    unanswered: str = "ban"  # or notice: when DNS does not answer in time


@dataclass(frozen=True, slots=True)
class FuseSettings:
    """`[fuse]`: when to stop banning. There only where the section is."""

    share: float = 0.8  # `senders = 80% in 15m`; 0.0: `senders = no`
    within: float = 900.0  # seconds
    bans: int = 0  # `bans = 50x`: times the busiest hour there was; 0: `no`
    front: bool = True  # withhold bans of addresses that all mail comes through: a proxy's


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """`[notify]`: who is told of bans and alarms, and how."""

    mail: tuple[str, ...] = ()  # addresses
    author: str = ""  # `from` of those mails; "": postmaster of this host
    server: str | tuple[str, int] = ("127.0.0.1", 25)  # that takes them: (address, port), or a sendmail program's path
    webhook: str = ""  # URL
    command: tuple[str, ...] = ()
    every: float = 900.0  # seconds: no two messages of a channel within
    about: tuple[str, ...] = ("bans", "alarms")
    line: int = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What denyspam.conf says, with the defaults of what it leaves out."""

    state: str = "/var/lib/denyspam"
    socket: str = "/run/denyspam/denyspam.sock"
    group: str | None = None  # besides root, whose members may speak to the socket
    action: str = "nftables"
    mode: str = "enforce"
    ports: tuple[int, ...] = (25,)
    force: bool = False  # allow 587 among the ports
    verdict: str = "tcp reset"  # what a banned client meets: tcp reset, reject (ICMP) or drop
    hooks: tuple[str, ...] = ("input",)  # where packets are refused: input, forward, output, prerouting
    end_sessions: bool = True  # end a banned client's open sessions to the banned ports
    command: tuple[str, ...] = ()  # for `action = command`: the program and its arguments
    list: str = ""  # for `action = files`: the file to write
    format: str = "postfix"  # and its format: hosts, postfix, rbldnsd or nftables
    allow: tuple[Network, ...] = ()
    ipv6_prefix: int = 64
    capacity: int = 1_000_000  # addresses counted at once
    history: float = 90 * 86_400.0  # seconds a past ban is remembered
    mmdb: tuple[str, ...] = ()  # databases of countries and providers, for the report
    metrics: str | tuple[str, int] | None = None  # where Prometheus asks: a unix socket, or (address, port)
    metrics_remote: bool = False  # that address may be one that other hosts reach
    notify: NotifySettings | None = None
    logs: tuple[LogSettings, ...] = ()
    policies: tuple[Policy, ...] = ()
    senders: SendersSettings | None = None
    fuse: FuseSettings | None = None
    file: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)  # "daemon.action", "policy.relay": where they stand

    @property
    def guarded(self) -> bool:
        """Whether accepted mail is looked for: senders one must not lose, or a fuse."""
        return self.senders is not None or self.fuse is not None

    def judge(self, own: Iterable[Network]) -> Judge:
        """Who decides by these settings, live and in replay alike; `own` are the host's own addresses."""
        from denyspam.policy import Judge

        return Judge(
            self.policies,
            ports=self.ports,
            allow=self.allow,
            own=own,
            ipv6_prefix=self.ipv6_prefix,
            capacity=self.capacity,
        )

    def check_kinds(self, known: frozenset[str]) -> None:
        """Every policy's kind must be one of the six offences, `any`, or a kind of an installed filter."""
        for policy in self.policies:
            if policy.kind not in known and policy.kind not in (*OFFENCES, "any"):
                kinds = ", ".join(
                    (*OFFENCES, "any", *sorted(known.difference(OFFENCES, HARMLESS, ("client", "ignore"))))
                )
                raise SettingsError(
                    f"no filter knows the kind {quote(policy.kind)}; write one of {kinds}",
                    self.file,
                    self.lines.get(f"policy.{policy.name}", 1),
                )


def quote(text: str) -> str:
    """The admin's text in a message: bounded, printable."""
    return repr(text if len(text) <= QUOTE else text[: QUOTE - 3] + "...")


@dataclass(frozen=True, slots=True)
class _Value:
    text: str
    line: int
    file: str
    column: int = 1  # at which the text begins

    def wrong(self, message: str) -> SettingsError:
        return SettingsError(message, self.file, self.line)


def parse(text: str, file: str) -> Settings:
    """The settings in `text`; `file` is its name in messages. Raises SettingsError."""
    from denyspam.grammar import parse_policy

    sections = _sections(text, file)
    last = max(1, len(text.splitlines()))
    lines = {f"{name}.{key}": value.line for name, (_, keys) in sections.items() for key, value in keys.items()}
    settings = Settings(file=file, lines=lines)
    _, daemon = sections.get("daemon", (1, {}))
    settings = replace(settings, **_read("daemon", daemon, DAEMON))
    if SUBMISSION in settings.ports and not settings.force:
        raise daemon["ports"].wrong(
            "port 587 is where your own users submit mail from; leave it out, or add `force = yes` to ban there too"
        )
    if isinstance(settings.metrics, tuple) and not settings.metrics_remote:
        host = settings.metrics[0]
        if not ip_address(host).is_loopback:
            raise daemon["metrics"].wrong(
                f"other hosts reach {host}; write 127.0.0.1 or [::1], or add `metrics_remote = yes` to let them ask"
            )
    logs = tuple(
        _log(name, line, keys, file) for name, (line, keys) in sections.items() if name.partition(" ")[0] in SOURCES
    )
    if not logs:
        raise SettingsError(
            "no [log PATH] section; write for example `[log /var/log/mail.log]`, or `[journal]`", file, last
        )
    if "policy" not in sections:
        raise SettingsError("no [policy] section; write `[policy]` and `virus = 5 in 15m -> ban 1h`", file, last)
    line, policies = sections["policy"]
    if not policies:
        raise SettingsError("[policy] is empty; write for example `virus = 5 in 15m -> ban 1h`", file, line)
    parsed = tuple(parse_policy(name, value.text, file, value.line, value.column) for name, value in policies.items())
    for policy in parsed:
        if len(policy.ports or ()) > PORTS:
            raise policies[policy.name].wrong(f"more ports than a firewall rule takes; write {PORTS} at most")
    senders = _optional(sections, "senders", SENDERS, SendersSettings)
    fuse = _optional(sections, "fuse", FUSE, FuseSettings)
    return replace(
        settings, logs=logs, policies=parsed, senders=senders, fuse=fuse, notify=_notify(sections.get("notify"), file)
    )


def parse_socket(text: str, file: str) -> str:
    """Of the settings in `text`, where the daemon listens. Raises SettingsError."""
    _, daemon = _sections(text, file).get("daemon", (1, {}))
    return _socket(daemon["socket"]) if "socket" in daemon else Settings().socket


def _optional(
    sections: Mapping[str, tuple[int, dict[str, _Value]]],
    name: str,
    known: Mapping[str, Callable[[_Value], dict[str, Any]]],
    made: Callable[..., T],
) -> T | None:
    """What a section says that may be missing; None where it is."""
    if name not in sections:
        return None
    given: dict[str, Any] = {}
    for fields in _read(name, sections[name][1], known).values():
        given.update(fields)
    return made(**given)


def _read(section: str, keys: Mapping[str, _Value], known: Mapping[str, Callable[[_Value], Any]]) -> dict[str, Any]:
    """What the keys of a section say, each by its reader among those that are known there."""
    given: dict[str, Any] = {}
    for key, value in keys.items():
        if key not in known:
            raise value.wrong(f"unknown key {quote(key)} in [{section[:QUOTE]}]; write one of {', '.join(known)}")
        given[key] = known[key](value)
    return given


def _notify(section: tuple[int, dict[str, _Value]] | None, file: str) -> NotifySettings | None:
    if section is None:
        return None
    line, keys = section
    given = _read("notify", keys, NOTIFY)
    if not given.keys() & {"mail", "webhook", "command"}:
        raise SettingsError("[notify] tells nobody; write `mail = you@example.org`, `webhook` or `command`", file, line)
    if "from" in given:
        given["author"] = given.pop("from")
    return NotifySettings(line=line, **given)


def _sections(text: str, file: str) -> dict[str, tuple[int, dict[str, _Value]]]:
    """Section name -> (line, key -> value), both in the order written."""
    sections: dict[str, tuple[int, dict[str, _Value]]] = {}
    keys: dict[str, _Value] | None = None
    key = ""
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        bare = _uncommented(raw)
        if not bare.strip():
            continue
        if bare[0].isspace() and keys is not None and key:
            before = keys[key]
            keys[key] = replace(before, text=f"{before.text} {bare.strip()}".strip())
        elif bare.lstrip().startswith("["):
            name = _section_name(bare.strip(), file, number)
            if name in sections:
                raise SettingsError(f"[{name[:QUOTE]}] stands twice; put its keys together", file, number)
            keys, key = {}, ""
            sections[name] = (number, keys)
        else:
            key, equals, value = (part.strip() for part in bare.partition("="))
            if not equals or not key:
                raise SettingsError(f"{quote(bare.strip())} is no setting; write `key = value`", file, number)
            if keys is None:
                raise SettingsError(f"{quote(key)} stands before any section; write `[daemon]` above it", file, number)
            if key in keys:
                raise SettingsError(f"{quote(key)} stands twice; leave one of them", file, number)
            behind = raw.partition("=")[2]
            keys[key] = _Value(value, number, file, len(raw) - len(behind.lstrip()) + 1)
    return sections


def _uncommented(line: str) -> str:
    if line.lstrip()[:1] in ("#", ";"):
        return ""
    for sign in (" #", "\t#"):
        line = line.partition(sign)[0]
    return line.rstrip()


def _section_name(text: str, file: str, line: int) -> str:
    if not text.endswith("]"):
        raise SettingsError(f"{quote(text)} has no closing bracket; write `[daemon]`", file, line)
    words = text[1:-1].split(None, 1)
    kind, place = [*words, "", ""][:2]
    place = place.strip()
    if kind in SOURCES:
        _, example, noun = SOURCES[kind]
        if not place and kind != "journal":
            raise SettingsError(f"[{kind}] names no {noun}; write `[{kind} {example}]`", file, line)
        wrong = "\0" in place or (kind != "syslog" and place and not place.startswith("/"))
        if wrong and (kind, place) != ("log", "-"):
            raise SettingsError(f"{quote(place)} is no absolute path; write `[{kind} {example}]`", file, line)
        return f"{kind} {place}".strip()
    if words in (["daemon"], ["policy"], ["senders"], ["fuse"], ["notify"]):
        return words[0]
    known = "[daemon], [log PATH], [journal], [syslog PLACE], [policy], [senders], [fuse] or [notify]"
    raise SettingsError(f"unknown section {quote(text)}; write {known}", file, line)


def _log(section: str, line: int, keys: Mapping[str, _Value], file: str) -> LogSettings:
    kind, _, path = section.partition(" ")
    given = {LOG_FIELDS.get(key, key): value for key, value in _read(section, keys, SOURCES[kind][0]).items()}
    here = keys["filters"].line if "filters" in keys else line
    if kind == "log":
        return LogSettings(path=path, line=here, **given)
    made = LogSettings(path=section, line=here, kind=kind, place=path, **given)
    if kind == "journal":
        if made.place and made.namespace:
            raise keys["namespace"].wrong("a folder has no namespaces; leave one of them out")
        return made
    if path.startswith("/"):
        if len(path.encode()) > SOCKET:
            raise SettingsError(f"a socket's path has at most {SOCKET} bytes; write a shorter one", file, line)
        if made.peers:
            raise keys["from"].wrong("a unix socket's writers have no address; write `group =` to let some in")
        return made
    return _udp(made, path, keys, file, line)


def _udp(made: LogSettings, path: str, keys: Mapping[str, _Value], file: str, line: int) -> LogSettings:
    """The section of a UDP socket, with its address and port."""
    text, _, port = path.rpartition(":")
    try:
        address = ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
        if not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
            raise ValueError
    except ValueError:
        better = "write `[syslog /run/denyspam/log]`, `[syslog 127.0.0.1:5514]` or `[syslog [::1]:5514]`"
        raise SettingsError(f"{quote(path)} is no place to listen at; {better}", file, line) from None
    if made.group is not None:
        raise keys["group"].wrong("a UDP socket has no group; write `from =` with the addresses that may send")
    if not address.is_loopback and not made.peers:
        raise SettingsError(
            f"whoever reaches {address} could accuse anybody; write `from = ` with the addresses of the hosts that "
            "send there, or listen on 127.0.0.1",
            file,
            line,
        )
    return replace(made, place=(str(address), int(port)))


# --- values -----------------------------------------------------------------------------------------------------------


def _words(value: _Value) -> list[str]:
    return [word for word in value.text.replace(",", " ").split() if word]


def _path(value: _Value) -> str:
    if not value.text.startswith("/") or "\0" in value.text:
        raise value.wrong(f"{quote(value.text)} is no absolute path; write one that starts with /")
    return value.text


def _paths(value: _Value) -> tuple[str, ...]:
    return tuple(_path(replace(value, text=word)) for word in _words(value))


def _socket(value: _Value) -> str:
    path = _path(value)
    if len(path.encode()) > SOCKET:
        raise value.wrong(f"{quote(path)} is longer than a socket's path may be; write one of at most {SOCKET} bytes")
    return path


def _endpoint(value: _Value) -> str | tuple[str, int] | None:
    if value.text == "none":
        return None
    if value.text.startswith("/"):
        return _socket(value)
    host, _, port = value.text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]") if host[:1] == "[" else host)
    except ValueError:
        raise value.wrong(
            f"{quote(value.text)} is no place to serve metrics; write 127.0.0.1:9826, [::1]:9826, a path or none"
        ) from None
    return str(address), _number(1, 65_535)(replace(value, text=port))


def _name(value: _Value) -> str:
    if not value.text.replace("-", "").replace("_", "").isalnum():
        raise value.wrong(f"{quote(value.text)} is no name; write letters, digits, - and _")
    return value.text


def _choice(*choices: str) -> Callable[[_Value], str]:
    def read(value: _Value) -> str:
        if value.text not in choices:
            raise value.wrong(f"{quote(value.text)} is not known here; write {' or '.join(choices)}")
        return value.text

    return read


def _verdict(value: _Value) -> str:
    return "tcp reset" if value.text == "reset" else _choice("tcp reset", "reject", "drop")(value)


def _yes(value: _Value) -> bool:
    return _choice("yes", "no")(value) == "yes"


def _number(low: int, high: int) -> Callable[[_Value], int]:
    def read(value: _Value) -> int:
        if not (re.fullmatch("[0-9]{1,12}", value.text) and low <= int(value.text) <= high):
            raise value.wrong(f"{quote(value.text)} is out of range; write a whole number from {low} to {high}")
        return int(value.text)

    return read


def _ports(value: _Value) -> tuple[int, ...]:
    words = _words(value)
    if not words:
        raise value.wrong("no port given; write `ports = 25`")
    if len(words) > PORTS:
        raise value.wrong(f"{len(words)} ports are more than a firewall rule takes; write {PORTS} at most")
    return tuple(sorted({_number(1, 65_535)(replace(value, text=word)) for word in words}))


def _hooks(value: _Value) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        _choice("input", "forward", "output", "prerouting")(replace(value, text=word))
    if not words or len(set(words)) < len(words):
        raise value.wrong("write each hook once, such as `hooks = input, forward`")
    return tuple(words)


def _command(value: _Value) -> tuple[str, ...]:
    try:
        words = shlex.split(value.text)
    except ValueError as error:
        raise value.wrong(f"{quote(value.text)}: {str(error).lower()}") from None
    if not words or not words[0].startswith("/"):
        raise value.wrong("write the program's whole path and its arguments, such as /usr/local/bin/ban --fast")
    return tuple(words)


def _networks(value: _Value) -> tuple[Network, ...]:
    networks: list[Network] = []
    for word in _words(value):
        try:
            networks.append(ip_network(word))
        except ValueError:
            try:
                better = ip_network(word, strict=False)
            except ValueError:
                raise value.wrong(
                    f"{quote(word)} is no address or network; write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/48"
                ) from None
            raise value.wrong(
                f"{quote(word)} has bits set behind its prefix; write {better} or {ip_address(word.partition('/')[0])}"
            ) from None
    return tuple(networks)


def _duration(value: _Value) -> float:
    from denyspam.grammar import parse_duration

    try:
        return parse_duration(value.text)
    except ValueError as error:
        raise value.wrong(f"{getattr(error, 'message', error)}") from None


def _recipients(value: _Value) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if not re.fullmatch(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}(?:@[A-Za-z0-9.:\[\]-]{1,255})?", word, re.ASCII):
            raise value.wrong(f"{quote(word)} is no mail address; write postmaster@example.org, without a name")
    if not words:
        raise value.wrong("no mail address given; write postmaster@example.org")
    if len(words) > RECIPIENTS:
        raise value.wrong(f"more than {RECIPIENTS} mail addresses; write that of a list")
    return tuple(words)


def _server(value: _Value) -> str | tuple[str, int]:
    if value.text.startswith("/"):
        return _path(value)
    place = _endpoint(value)
    if not isinstance(place, tuple):
        raise value.wrong(f"{quote(value.text)} takes no mail; write 127.0.0.1:25 or /usr/sbin/sendmail")
    return place


def _url(value: _Value) -> str:
    found = re.fullmatch(
        r"https?://(?:[!-.0-~]{1,200}@)?(?:[A-Za-z0-9.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?(?:[/?][!-~]*)?", value.text
    )
    if found is None or not 1 <= int(found[1] or 1) <= 65_535:
        raise value.wrong("this is no URL that can be posted to; write https://HOST/PATH")  # not quoted: a secret
    return value.text


def _about(value: _Value) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        _choice("bans", "alarms")(replace(value, text=word))
    if not words:
        raise value.wrong("write `about = bans, alarms`, or one of them")
    return tuple(words)


def _timezone(value: _Value) -> str:
    try:
        zoneinfo.ZoneInfo(value.text)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise value.wrong(f"{quote(value.text)} is no time zone; write for example Europe/Berlin or UTC") from None
    return value.text


def _filters(value: _Value) -> tuple[str, ...]:
    words = _words(value)
    if not words:
        raise value.wrong("no filter named; write `filters = postfix` or `filters = auto`")
    if len(set(words)) < len(words):
        raise value.wrong(f"a filter is named twice in {quote(value.text)}; leave one")
    if "auto" in words and len(words) > 1:
        raise value.wrong("`auto` means all shipped filters; write it alone, or name the filters")
    return tuple(_name(replace(value, text=word)) for word in words)


def _units(value: _Value) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if not re.fullmatch(r"[A-Za-z0-9:_.\\@-]{1,255}", word):
            raise value.wrong(f"{quote(word)} is no unit's name; write for example `units = postfix, dovecot.service`")
    if not words:
        raise value.wrong("no unit named; write for example `units = postfix, dovecot`")
    return tuple(words)


def _match(value: _Value) -> tuple[str, ...]:
    words = value.text.split()
    for word in words:
        if word != "+" and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}=\S*", word):
            raise value.wrong(f"{quote(word)} is no match; write FIELD=VALUE, as for journalctl: SYSLOG_FACILITY=2")
    if not words or "+" in (words[0], words[-1]):
        raise value.wrong("write FIELD=VALUE, or several with + for `or`: SYSLOG_FACILITY=2 + _COMM=spamd")
    return tuple(words)


def _accepted(value: _Value) -> dict[str, Any]:
    if value.text == "no":
        return {"days": 0}
    found = re.fullmatch(r"([0-9]{1,2}) +days? +in +([0-9]{1,2})d +-> +([0-9]{1,3})x", value.text)
    if found is None or not (1 <= int(found[1]) <= int(found[2]) and int(found[2]) <= 60 and 2 <= int(found[3]) <= 100):
        raise value.wrong(f"{quote(value.text)}: write it as `3 days in 30d -> 3x` (up to 60d, 2x to 100x), or `no`")
    return {"days": int(found[1]), "within": int(found[2]), "times": int(found[3])}


def _resolver(value: _Value) -> dict[str, Any]:
    servers: list[tuple[str, int]] = []
    for one in value.text.split(","):
        words = one.split()
        try:
            address = str(ip_address(words[0]))
            port = 53 if len(words) == 1 else _number(1, 65_535)(replace(value, text=words[2]))
            if len(words) not in (1, 3) or words[1:2] not in ([], ["port"]):
                raise ValueError
        except (IndexError, ValueError) as error:
            if isinstance(error, SettingsError):
                raise
            raise value.wrong(
                f"{quote(one.strip())} is no name server; write its address: 127.0.0.1, or 192.0.2.53 port 5353"
            ) from None
        servers.append((address, port))
    return {"resolver": tuple(servers[:8])}


def _patience(value: _Value) -> dict[str, Any]:
    seconds = _duration(value)
    if not 1 <= seconds <= 30:
        raise value.wrong(f"{quote(value.text)} is out of range; write 1s to 30s")
    return {"patience": seconds}


def _share(value: _Value) -> dict[str, Any]:
    if value.text == "no":
        return {"share": 0.0}
    found = re.fullmatch(r"([0-9]{1,3})% +in +(.+)", value.text)
    within = _duration(replace(value, text=found[2])) if found else 0.0
    if found is None or not (50 <= int(found[1]) <= 100 and 60 <= within <= 86_400):
        raise value.wrong(f"{quote(value.text)}: write it as `80% in 15m` (50% to 100%, 1m to 1d), or `no`")
    return {"share": int(found[1]) / 100, "within": within}


def _bans(value: _Value) -> dict[str, Any]:
    found = re.fullmatch("([0-9]{1,6})x", value.text)
    if value.text != "no" and (found is None or not 2 <= int(found[1]) <= 100_000):
        raise value.wrong(f"{quote(value.text)}: write it as `50x` (2x to 100000x), or `no`")
    return {"bans": int(found[1]) if found else 0}


SENDERS: dict[str, Callable[[_Value], dict[str, Any]]] = {
    "accepted": _accepted,
    "providers": lambda value: {"providers": _choice("notice", "no")(value) == "notice"},
    "resolver": _resolver,
    "patience": _patience,
    "unanswered": lambda value: {"unanswered": _choice("ban", "notice")(value)},
}
FUSE: dict[str, Callable[[_Value], dict[str, Any]]] = {
    "senders": _share,
    "bans": _bans,
    "proxies": lambda value: {"front": _yes(value)},
}
DAEMON: dict[str, Callable[[_Value], Any]] = {
    "state": _path,
    "socket": _socket,
    "group": _name,
    "action": _name,
    "mode": _choice("enforce", "watch"),
    "ports": _ports,
    "force": _yes,
    "hooks": _hooks,
    "end_sessions": _yes,
    "command": _command,
    "list": _path,
    "format": _choice("hosts", "postfix", "rbldnsd", "nftables"),
    "verdict": _verdict,
    "allow": _networks,
    "ipv6_prefix": _number(32, 128),
    "capacity": _number(100, 10_000_000),
    "history": _duration,
    "mmdb": _paths,
    "metrics": _endpoint,
    "metrics_remote": _yes,
}
NOTIFY: dict[str, Callable[[_Value], Any]] = {
    "mail": _recipients,
    "from": lambda value: _recipients(value)[0],
    "server": _server,
    "webhook": _url,
    "command": _command,
    "every": _duration,
    "about": _about,
}
LOG: dict[str, Callable[[_Value], Any]] = {
    "filters": _filters,
    "timezone": _timezone,
    "stamp": _choice("line", "none"),
}
JOURNAL: dict[str, Callable[[_Value], Any]] = {
    "filters": _filters,
    "units": _units,
    "match": _match,
    "namespace": _name,
}
SYSLOG: dict[str, Callable[[_Value], Any]] = {**LOG, "group": _name, "from": _networks}
LOG_FIELDS = {"from": "peers"}  # a word that Python keeps for itself
# Kind of section -> its keys, an example of what stands behind its name, and what that is called.
SOURCES = {
    "log": (LOG, "/var/log/...", "file"),
    "journal": (JOURNAL, "/var/log/journal/remote", "folder"),
    "syslog": (SYSLOG, "/run/denyspam/log", "socket"),
}
