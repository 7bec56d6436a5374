"""cli: the commands. Edge; thin: what they do stands elsewhere, here is what they print and how they exit.

Exit codes: 0 done, 1 the answer is no, 2 usage or a log that cannot be read, 69 the daemon does not answer,
77 not permitted, 78 bad configuration. `--json` prints nothing but JSON on stdout; messages go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, tzinfo
from functools import cache
from typing import TYPE_CHECKING, Any

from denyspam import __version__, sentences, show
from denyspam.arguments import CONF, USAGE, parser
from denyspam.events import ActionError, Event, SettingsError

if TYPE_CHECKING:
    from denyspam.filter import Filter
    from denyspam.learn import Groups

DONE, NO, UNAVAILABLE, FORBIDDEN, CONFIG = 0, 1, 69, 77, 78
TOLD = 100  # events written at once: a third of the cost where output is not buffered (PYTHONUNBUFFERED)


class Failed(Exception):
    """The command ends here: what to say, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: Sequence[str] | None = None) -> None:
    """The program. Ends the process with one of the exit codes above."""
    try:
        code = _main(arguments)
    except KeyboardInterrupt:  # wherever it comes, also while an error is being told
        code = 130
    sys.exit(code)


def _main(arguments: Sequence[str] | None) -> int:
    _streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["help"]:  # `denyspam help`, `denyspam help ban`
        given = [*given[1:2], "--help"]
    asked = parser().parse_args(given)
    for name, default in (("conf", None), ("quiet", False), ("verbose", False)):
        setattr(asked, name, getattr(asked, name, default))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a Latin-1 terminal, and log text in any alphabet
    try:
        with _manners(asked):
            code: int = COMMANDS[asked.command](asked)
            sys.stdout.flush()
    except Failed as error:
        return _fail(str(error), error.code)
    except SettingsError as error:
        print(error, file=sys.stderr)  # FILE:LINE: at the line's start, as editors expect it
        from denyspam.workbench import source

        for line in source(error):
            print(line, file=sys.stderr)
        return FORBIDDEN if isinstance(error.__cause__, PermissionError) else CONFIG
    except BrokenPipeError:  # `denyspam events … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except OSError as error:  # what we print cannot be written; every other file is handled where it is opened
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(f"cannot write: {error.strerror}", USAGE)
    return code


def _streams() -> None:
    """A standard stream that was closed (`>&-`) leads nowhere, so that no file of ours gets its number; where output
    and messages go to one place (`2>&1 |`), they stand there in the order in which they were said."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    with contextlib.suppress(OSError):  # streams without a descriptor
        if isinstance(sys.stdout, io.TextIOWrapper) and os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno()):
            sys.stdout.reconfigure(line_buffering=True)


@contextlib.contextmanager
def _manners(asked: argparse.Namespace) -> Iterator[None]:
    """-q: notes, counts and progress are not shown, errors are. -v: at the end, what it took. The daemon's log knows
    both by itself."""
    if asked.command == "run":
        yield
    elif asked.quiet:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    else:
        began = time.perf_counter()
        yield
        if asked.verbose:
            import resource

            used = resource.getrusage(resource.RUSAGE_SELF)
            print(
                f"denyspam {__version__}, configuration {asked.conf or CONF}: {time.perf_counter() - began:.2f} s,"
                f" {used.ru_utime + used.ru_stime:.2f} s of CPU, {used.ru_maxrss / 1024:.0f} MB",
                file=sys.stderr,
            )


def _fail(message: str, code: int) -> int:
    print(f"denyspam: {message}", file=sys.stderr)
    return code


# --- the daemon -------------------------------------------------------------------------------------------------------


def _run(asked: argparse.Namespace) -> int:
    import logging

    from denyspam import apart

    gc.disable()  # until it is ready: what a start makes stays, and the child's goes with it
    loaded = apart.begin(asked.conf or CONF)
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio  # noqa: F401 - without TLS, which nothing here speaks: OpenSSL would be 5 MB of the daemon's 40

    del sys.modules["ssl"]

    from denyspam import process
    from denyspam.logfile import Unavailable

    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "  # the journal has a clock of its own

    class EachLine(logging.Formatter):
        """A record of several lines, as so many records."""

        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return text.replace("\n", "\n" + text[: text.find(record.message)]) if "\n" in text else text

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EachLine(f"{stamp}denyspam[{os.getpid()}]: %(message)s"))
    level = logging.WARNING if asked.quiet else logging.DEBUG if asked.verbose else logging.INFO
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    try:
        process.run(asked.conf or CONF, loaded, flush=asked.flush_on_stop)
    except Unavailable as error:
        raise Failed(str(error), error.code) from error
    except ActionError as error:
        raise Failed(str(error), FORBIDDEN if "not permitted" in str(error) else UNAVAILABLE) from error
    return DONE


def _ask(asked: argparse.Namespace, request: dict[str, Any]) -> Any:
    """The daemon's answer to one request."""
    from denyspam import control
    from denyspam.conffile import read_settings

    try:
        answer = control.ask(_socket(asked), request)
    except control.Forbidden as error:
        raise Failed(str(error), FORBIDDEN) from error
    except control.Unreachable as error:
        if asked.conf is not None or os.path.exists(CONF):
            read_settings(asked.conf or CONF)  # what is wrong there is why none runs
        advice = "is it running? `systemctl status denyspam` tells; -c names another configuration than its own"
        raise Failed(f"{error}\n{advice}", UNAVAILABLE) from error
    if "error" in answer:
        raise Failed(answer["error"], answer["code"])
    return answer["ok"]


def _socket(asked: argparse.Namespace) -> str:
    """Where the daemon listens. Without a readable configuration, at the default place."""
    from denyspam.conffile import read_socket
    from denyspam.settings import Settings

    if asked.conf is None and not os.path.exists(CONF):
        return Settings().socket
    return read_socket(asked.conf or CONF)


# --- what holds -------------------------------------------------------------------------------------------------------


def _list(asked: argparse.Namespace) -> int:
    bans = _ask(asked, {"command": "withheld" if asked.withheld else "list"})
    if asked.json:
        print(json.dumps(bans))
        return DONE
    zone, now = _zone(), time.time()
    rows = [
        (
            ban["address"],
            ban["rule"] + ("" if ban["state"] == "active" else " (pending)"),
            show.moment(ban["since"], zone),
            show.duration(ban["until"] - now),
            str(ban["hits"]),
            show.line(ban["note"].encode(), 100 if asked.withheld else 40),
        )
        for ban in bans
    ]
    since = f"SINCE ({datetime.fromtimestamp(now, zone).tzname()})"
    for line in show.table(("ADDRESS", "RULE", since, "LEFT", "HITS", "NOTE"), rows, right=(3, 4)) if rows else ():
        print(line)
    what = "withheld" if asked.withheld else "banned"
    print(show.count(len(bans), "ban") if bans else f"nothing is {what}", file=sys.stderr)
    for line in sentences.graces(_ask(asked, {"command": "graces"}), zone, now):
        print(line)
    return DONE


def _status(asked: argparse.Namespace) -> int:
    status = _ask(asked, {"command": "status"})
    if asked.json:
        print(json.dumps(status))
    else:
        for line in _status_lines(status):
            print(line)
    return DONE if status["ready"] else UNAVAILABLE


def _status_lines(status: dict[str, Any]) -> Iterable[str]:
    zone, now = _zone(), time.time()
    mode = f"{status['action']}, {status['mode']}"
    state = "ready" if status["ready"] else "starting"
    here = datetime.fromtimestamp(now, zone).tzname()
    yield f"{state}: pid {status['pid']} ({mode}), since {show.moment(status['started'], zone)} (times are {here})"
    yield (
        f"holding {show.count(status['active'], 'ban')} ({status['pending']} not yet in the kernel); since the start "
        f"{status['bans']} decided, {status['releases']} ended, {status['late']} were over already"
    )
    firewall = status["firewall"]
    if firewall["refused"] is not None:
        ended, repairs = show.count(firewall["ended"], "open session"), show.count(firewall["repairs"], "ban")
        yield f"firewall: {show.count(firewall['refused'], 'packet')} refused, {ended} ended, {repairs} put back"
        for each in firewall["sets"]:
            if each["packets"]:
                ports = " ".join(map(str, each["ports"]))
                yield f"  IPv{each['version']} /{each['width']} port {ports}: {show.count(each['packets'], 'packet')}"
    if status["graces"]:
        yield f"{show.count(len(status['graces']), 'grace')}; `denyspam list` names them"
    if status["withheld"]:
        yield f"withheld: {show.count(status['withheld'], 'ban')}; `denyspam list --withheld` tells why"
    yield f"{status['tracked']} addresses counted, {status['unresolved']} offences wait for their client's address"
    for kind, filters in status["events"].items():
        yield f"{kind}: " + ", ".join(f"{count} by {name}" for name, count in filters.items())
    for path, log in status["logs"].items():
        words = [show.count(log["events"], "event"), f"read up to {show.moment(log['clock'], zone)}"]
        if not log["present"]:
            words.append("NOT THERE")
        if log["behind"]:
            words.append(f"behind by {show.duration(now - log['clock'])}")
        for key, text in (
            ("overlong", "lines too long"),
            ("bad_address", "addresses unreadable"),
            ("bad_time", "times unusable"),
            ("lost", "times its place was lost"),
            ("dropped", "datagrams dropped by the kernel"),
            ("strangers", "datagrams of strangers"),
        ):
            if log.get(key):
                words.append(f"{log[key]} {text}")
        if log["ended"]:
            words.append("at its end")
        if not log["again"]:
            words.append("cannot be read again: counts begin anew at a restart")
        yield f"{path}: " + ", ".join(words)
    for channel in status["notify"]:
        waits = ", one waits" if channel["waiting"] else ""
        yield f"told by {channel['channel']} {channel['to']}: {show.count(channel['sent'], 'message')}{waits}"
    for alarm in status["alarms"]:
        name = f"{alarm['name']} {alarm['subject']}".strip()
        yield f"ALARM {name}, since {show.moment(alarm['since'], zone)}: {alarm['text']}"
        yield from (f"  {sample}" for sample in alarm["samples"])
    for name in ("ledger", "firewall"):
        if status[name]["fault"]:
            yield f"{name} FAULT: {status[name]['fault']} ({status[name]['waiting']} waiting)"


def _metrics(asked: argparse.Namespace) -> int:
    from denyspam import metrics

    status = _ask(asked, {"command": "status"})
    print(metrics.render(status), end="")
    return DONE if status["ready"] else UNAVAILABLE


def _top(asked: argparse.Namespace) -> int:
    found = _ask(asked, {"command": "top"})
    if asked.json:
        print(json.dumps(found))
        return DONE
    if asked.once:
        import shutil

        from denyspam import screen

        terminal = shutil.get_terminal_size((120, 40))
        size = max(terminal.columns, screen.SMALLEST[0]), max(terminal.lines, screen.SMALLEST[1])
        view = screen.View(zone=_zone(), now=time.time(), color=False, keys=False)
        print(screen.plain(screen.draw(found, view, *size)), end="")
        return DONE
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise Failed("this is no terminal: --once prints one picture, --json one snapshot", USAGE)
    from denyspam.host import ssh_peers

    try:
        from denyspam.top import run
    except ImportError as error:
        raise Failed(_lacking("top", error), USAGE) from error
    return run(_socket(asked), _zone(), tuple(str(each) for each in ssh_peers()))


def _web(asked: argparse.Namespace) -> int:
    try:
        from denyspam import web
    except ImportError as error:
        raise Failed(_lacking("web", error), USAGE) from error
    from denyspam.host import ssh_peers

    private = asked.private or asked.public
    if asked.read_only and private:
        raise Failed("--read-only goes without a token, and --private and --public ask for it", USAGE)
    try:
        at = web.place(asked.listen, asked.public)
        path = _socket(asked)
        _ask(asked, {"command": "top", "most": 0})  # whether this user may
        server = web.listen(at)  # first: where a page is served already, its token stays
        secret, file = (None, "") if asked.read_only else web.token(asked.token_file)
    except web.Unusable as error:
        raise Failed(str(error), USAGE) from error
    peers = tuple(str(each) for each in ssh_peers())
    page = web.Page(path, secret, private=private, names=web.names(at, asked.name), peers=peers)
    print(f"denyspam: the page is at {at}", file=sys.stderr)
    if secret is not None:
        print(f"denyspam: the token is in {file}", file=sys.stderr, flush=True)
    web.run(page, server)
    return DONE


def _lacking(extra: str, error: ImportError) -> str:
    """What to install for a command that needs more than the rest."""
    lacking = (error.name or "more").partition(".")[0]
    return f"this needs {lacking}, which is not installed: {sys.executable} -m pip install 'denyspam[{extra}]'"


def _why(asked: argparse.Namespace) -> int:
    found = _ask(asked, {"command": "why", "address": asked.address})
    banned = bool(found["bans"])
    if asked.json:
        print(json.dumps(found))
        return DONE if banned else NO
    for line in sentences.why(found, _zone(), time.time()):
        print(line)
    return DONE if banned else NO


# --- by hand ----------------------------------------------------------------------------------------------------------


def _ban(asked: argparse.Namespace) -> int:
    from denyspam.host import ssh_peers

    seconds = _seconds("--for", asked.duration)
    addresses = list(_addresses(asked.addresses))
    if not addresses:
        raise Failed("no address given", USAGE)
    request = {
        "command": "ban",
        "addresses": addresses,
        "seconds": seconds,
        "note": asked.note,
        "force": asked.force,
        "sessions": [str(each) for each in ssh_peers()],
    }
    answer = _ask(asked, request)
    if asked.json:
        print(json.dumps(answer))
        return NO if answer["refused"] else DONE
    for ban in answer["banned"][:20]:
        print(f"banned {ban['address']} for {show.duration(seconds)}")
    if len(answer["banned"]) > 20:
        print(f"… and {len(answer['banned']) - 20} more")
    for grace in answer["graces"]:
        print(f"the grace of {grace['address']} is over")
    for each in answer["refused"]:
        print(f"denyspam: {each['address'][:100]} is not banned: {each['reason']}", file=sys.stderr)
    if not asked.force and any(not each["reason"].startswith("too wide") for each in answer["refused"]):
        print("denyspam: --force bans all the same what is protected", file=sys.stderr)
    if answer["watching"]:
        print("denyspam: nobody is refused, it only watches (mode = watch)", file=sys.stderr)
    _firewall(answer)
    return NO if answer["refused"] else DONE


def _seconds(option: str, text: str) -> float:
    from denyspam.grammar import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise Failed(f"{option} {text[:100]}: {getattr(error, 'message', error)}", USAGE) from None


def _resume(asked: argparse.Namespace) -> int:
    answer = _ask(asked, {"command": "resume", "ban": asked.ban})
    code = DONE if answer["blown"] or answer["banned"] else NO
    if asked.json:
        print(json.dumps(answer))
        return code
    for blown in answer["blown"]:
        print(f"bans for {blown['kind']} are carried out again (withheld since {show.moment(blown['since'], _zone())})")
    if not answer["blown"]:
        print("no fuse had blown", file=sys.stderr)
    if asked.ban:
        print(f"{show.count(answer['banned'], 'withheld ban')} carried out")
    elif answer["withheld"]:
        print(f"{show.count(answer['withheld'], 'withheld ban')} over: from now on these clients are counted again")
    if answer["fault"]:
        print(f"denyspam: the firewall refuses: {answer['fault']}", file=sys.stderr)
    return code


def _addresses(words: Iterable[str]) -> Iterable[str]:
    """The addresses given; `-` stands for the lines of stdin, where `#` begins a comment."""
    from ipaddress import ip_network

    for word in words:
        lines = sys.stdin if word == "-" else [word]
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip() if word == "-" else line
            if not text:
                continue
            try:
                if "%" in text:
                    raise ValueError
                ip_network(text)
            except ValueError:
                place = f"line {number}: " if word == "-" else ""
                raise Failed(
                    f"{place}{text[:100]!r} is no address or network; write {_rightly(text)}; nothing was done", USAGE
                ) from None
            yield text


def _rightly(text: str) -> str:
    """How an address that is none should have been written."""
    from ipaddress import ip_network

    try:
        return str(ip_network(text.partition("%")[0], strict=False))  # 192.0.2.1/24; fe80::1%eth0
    except ValueError:
        return "192.0.2.7, 192.0.2.0/24 or 2001:db8::/48"


def _release(asked: argparse.Namespace) -> int:
    if asked.all == bool(asked.addresses):
        raise Failed("name the addresses to release, or say --all, and not both", USAGE)
    request = {
        "command": "release",
        "addresses": list(_addresses(asked.addresses)),
        "all": asked.all,
        "note": asked.note,
        "grace": _seconds("--grace", asked.grace) if asked.grace else None,
    }
    answer = _ask(asked, request)
    if asked.json:
        print(json.dumps(answer))
        return NO if answer["missing"] else DONE
    for address in answer["released"]:
        print(f"released {address}")
    if asked.all and not answer["released"]:
        print("nothing is banned", file=sys.stderr)
    for address in answer["missing"]:
        print(f"denyspam: {address} is not banned", file=sys.stderr)
    for ban in answer["still"]:
        print(f"denyspam: {ban['address']} is still banned, and with it what lies in it", file=sys.stderr)
    for line in sentences.graces(answer["graces"], _zone(), time.time()):
        print(line)
    _firewall(answer)
    return NO if answer["missing"] else DONE


def _firewall(answer: dict[str, Any]) -> None:
    if answer["fault"]:
        print(f"denyspam: the firewall refused and is tried again: {answer['fault']}", file=sys.stderr)


def _flush(asked: argparse.Namespace) -> int:
    """Through the daemon where one answers, else with our own hands."""
    from denyspam import control
    from denyspam.conffile import read_settings

    settings = read_settings(asked.conf or CONF)
    try:
        answer = control.ask(settings.socket, {"command": "flush"}, seconds=600)
    except control.Forbidden as error:
        raise Failed(str(error), FORBIDDEN) from error
    except control.Unreachable:
        from denyspam import process
        from denyspam.logfile import Unavailable

        try:
            count = process.flush(settings)
        except Unavailable as error:
            raise Failed(str(error), error.code) from error
        except ActionError as error:
            raise Failed(str(error), FORBIDDEN if "not permitted" in str(error) else UNAVAILABLE) from error
    else:
        if "error" in answer:
            raise Failed(answer["error"], answer["code"])
        _firewall(answer["ok"])
        count = answer["ok"]["released"]
    print(json.dumps({"released": count}) if asked.json else f"released {show.count(count, 'ban')}")
    return DONE


# --- files ------------------------------------------------------------------------------------------------------------


def _socketless(path: str) -> tuple[str, str] | None:
    from denyspam import control

    reason = control.obstacle(path, written=False)
    return None if reason is None else ("socket", f"the socket {path[:100]} cannot be made: {reason}")


def _warn(report: dict[str, Any], filters: Iterable[Filter]) -> None:
    """What may be unsafe in filters, to people and as `warnings` of the report."""
    from denyspam.filter import doubts

    for each in filters:
        for warning in doubts(each):
            print(warning, file=sys.stderr)
            report.setdefault("warnings", []).append(warning)


def _check(asked: argparse.Namespace) -> int:
    from denyspam import notify
    from denyspam.plugins import Filters, load, load_action, load_providers, providers_file
    from denyspam.sources import usable

    conf = asked.conf or CONF
    report: dict[str, Any] = {"filters": {}} if asked.filters else {"logs": {}}
    said = []
    if asked.filters:
        filters = Filters(conf, thorough=True)
        for name in asked.filters:
            try:
                found = filters.load(name)
            except LookupError as error:
                raise Failed(str(error.args[0]), CONFIG) from None
            _warn(report, [found])
            report["filters"][name] = {"patterns": len(found.patterns), "samples": len(found.samples)}
            patterns, samples = show.count(len(found.patterns), "pattern"), show.count(len(found.samples), "sample")
            said.append(f"{found.file}: {patterns}, {samples}: ok")
        print(json.dumps(report) if asked.json else "\n".join(said))
        return DONE
    settings, logs = load(conf, thorough=True)
    load_action(settings)
    for lacking in (notify.unusable(settings.notify), _socketless(settings.socket)):
        if lacking is not None:
            line = settings.lines.get(f"{'daemon' if lacking[0] == 'socket' else 'notify'}.{lacking[0]}", 1)
            raise SettingsError(lacking[1], settings.file, line)
    for note in filter(None, (*usable(settings), notify.exposed(settings.notify, settings.file))):
        print(f"denyspam: note: {note}", file=sys.stderr)
    _warn(report, dict.fromkeys(one for each in logs.values() for one in each))
    for path, each in logs.items():
        report["logs"][path] = [one.name for one in each]
        said.append(f"{path}: filters {', '.join(report['logs'][path])}")
    if settings.senders is not None and settings.senders.providers:
        report["providers"] = providers_file(conf)
        said.append(f"{report['providers']}: {show.count(len(load_providers(conf)), 'provider name')}")
    report["policies"] = [policy.name for policy in settings.policies]
    said.append(f"{conf}: {show.count(len(settings.policies), 'policy')}: ok")
    print(json.dumps(report) if asked.json else "\n".join(said))
    return DONE


def _named(asked: argparse.Namespace) -> list[Filter]:
    """The filters that --filter names, all shipped ones without it."""
    from denyspam.plugins import Filters

    try:
        return Filters(asked.conf or CONF).named(asked.filters)
    except LookupError as error:
        raise Failed(str(error.args[0]), USAGE) from None


def _explain(asked: argparse.Namespace) -> int:
    from denyspam.workbench import explained

    if asked.line == "-" and sys.stdin.isatty():
        print("reading log lines from this terminal; Ctrl-D ends", file=sys.stderr)
    lines = sys.stdin.buffer if asked.line == "-" else [os.fsencode(line) for line in asked.line.splitlines()]
    return DONE if explained(lines, _named(asked), _zone(), asked.year, asked.json) else NO


def _untaken(asked: argparse.Namespace, every: bool) -> Groups:
    from denyspam import replay
    from denyspam.workbench import untaken

    filters = _named(asked)
    try:
        with _Progress(asked.files) as progress:
            return untaken(_readable(asked.files), filters, _zone(), every, progress.advance)
    except replay.Unreadable as error:
        raise Failed(str(error), USAGE) from error


def _learn(asked: argparse.Namespace) -> int:
    from denyspam import workbench

    groups = _untaken(asked, asked.all)
    if asked.propose is None:
        workbench.learned(groups, max(0, asked.most), asked.json)
        return DONE
    found = groups.found()
    if not 1 <= asked.propose <= len(found):
        raise Failed(f"--propose {asked.propose}: there are {show.count(len(found), 'group')}", USAGE)
    return DONE if workbench.proposed(found[asked.propose - 1], asked.json) else NO


def _new_filter(asked: argparse.Namespace) -> int:
    from denyspam import workbench
    from denyspam.grammar import NAME

    if not re.fullmatch(NAME, asked.name):
        raise Failed(f"{asked.name[:60]!r} is no name for a filter: write small letters, digits, - and _", USAGE)
    path = os.path.join(asked.folder, f"{asked.name}.filter")
    if os.path.lexists(path):
        raise Failed(f"{path} is there already, and is left as it is", USAGE)
    asked.filters = []
    groups = _untaken(asked, True)
    program = asked.program if asked.program is not None else workbench.main_program(groups)
    if program is None:
        raise Failed(
            "there is no line in it: nothing to write"
            if groups.empty
            else "every line is taken by a filter that there is already: nothing to write",
            NO,
        )
    try:
        said = workbench.new_filter(asked.name, program, groups, path)
    except LookupError as error:
        raise Failed(f"{error.args[0]}: nothing to write", NO) from error
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}", USAGE) from error
    for line in said:
        print(line)
    return DONE


def _import_fail2ban(asked: argparse.Namespace) -> int:
    from denyspam import replay, workbench
    from denyspam.fail2ban import ImportFailed

    if not os.path.isdir(asked.root) and not all("/" in name or name.endswith(".conf") for name in asked.names):
        raise Failed(f"{asked.root} is not there; --root names fail2ban's configuration", USAGE)
    try:
        found = workbench.brought(asked.names, asked.root)
        proofs = list(workbench.proved(found, _readable(asked.logs), _zone())) if asked.logs else []
        paths = workbench.written_to(asked.folder, found) if asked.folder else []
    except (ImportFailed, replay.Unreadable) as error:
        raise Failed(str(error), USAGE) from error
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}", USAGE) from error
    if asked.json:
        print(workbench.import_json(found, proofs))
    else:
        if not asked.folder:
            for each in found:
                print(each.imported.text)
            print(workbench.configuration(found), end="")
        for line in workbench.told_of(found):
            print(line, file=sys.stderr)
        for path in paths:
            print(f"wrote {path}")
        for proof in proofs:
            for line in workbench.proof_lines(*proof):
                print(line)
        if proofs:
            print(
                "fail2ban's side: its expressions written out and run by Python's re, line by line; it is not run"
                " itself, names are not resolved, and what takes several lines is not followed",
                file=sys.stderr,
            )
    return NO if any(differences for _, _, differences in proofs) else DONE


# --- this host --------------------------------------------------------------------------------------------------------


def _setup(asked: argparse.Namespace) -> int:
    from denyspam import setup

    if asked.enforce and asked.uninstall:
        raise Failed("--enforce and --uninstall exclude each other", USAGE)
    if asked.root == "/" and os.geteuid() != 0 and not asked.dry_run:
        raise Failed("not permitted: writing to /etc takes root; --dry-run shows what would be written", FORBIDDEN)
    try:
        return _uninstall(asked) if asked.uninstall else _install(asked)
    except setup.Unusable as error:
        print(f"denyspam: {error}", file=sys.stderr)
        return DONE if asked.dry_run else NO
    except OSError as error:
        if error.filename is None:  # it is what we print that cannot be written
            raise
        raise Failed(f"{error.filename}: {error.strerror}", USAGE) from error


def _install(asked: argparse.Namespace) -> int:
    from denyspam import discover, setup
    from denyspam.host import ssh_peers
    from denyspam.plugins import Filters, load

    host = discover.Host()
    if not os.path.isdir(asked.root):
        raise Failed(f"--root {asked.root}: there is no such folder", USAGE)
    if asked.root != "/":
        host = discover.Host(asked.root, lambda words: discover.run_program(("chroot", asked.root, *words)))
    conf = host.path(discover.INSTALLED)
    found = discover.discover(host, Filters(conf).installed())
    print(f"found on this host:\n{discover.report(found)}  firewall: {discover.firewall(host)}")
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) != "denyspam":  # python -m denyspam.cli
        program = os.path.join(sys.prefix, "bin/denyspam")
    if asked.enforce and not asked.dry_run and os.path.exists(conf):  # first, so that it is no difference below
        setup.replace_file(conf, setup.with_mode(host.read(discover.INSTALLED), "enforce"))
    files = setup.plan(host, found, program, "enforce" if asked.enforce else None, ssh_peers())
    print("\nwould be written:" if asked.dry_run else "\nwritten:")
    outcomes = setup.carry_out(asked.root, files, write=not asked.dry_run)
    for outcome, file in zip(outcomes, files, strict=True):
        what = {"kept": "yours, left as it is; ours would differ so"}.get(outcome.what, outcome.what)
        print(f"  {file.path}: {what} ({file.reason})")
        for line in outcome.difference:
            print(f"    {line}")
    if asked.dry_run:
        print(f"\n{files[0].path} would say:\n" + "".join(f"  {line}\n" for line in files[0].text.splitlines()))
        return DONE
    load(conf)
    mode = setup.mode_of(host.read(discover.INSTALLED)) or "enforce"
    if mode == "watch":
        print("\nIt watches only: `denyspam status` and `denyspam list` tell what it would have banned.")
        print(
            f"What it would have done with the logs so far: denyspam replay --summary {setup.so_far(host, found.logs)}"
        )
        print("When that is right: denyspam setup --enforce")
    return _start(asked.root, program)


def _start(root: str, program: str) -> int:
    from denyspam import setup

    if root != "/" or not setup.systemd_runs():
        print("Nothing was started: there is no systemd here; `denyspam run` is the daemon, in the foreground.")
        return DONE
    reason = setup.hidden(program)
    if reason is not None:
        print(f"denyspam: not started: {reason}. Install it into /opt/denyspam, or the package.", file=sys.stderr)
        return NO
    for words in setup.STARTING:
        complaint = setup.command(words)
        if complaint is not None:
            print(f"denyspam: {' '.join(words)}: {complaint}", file=sys.stderr)
            return NO
    print("The service runs, and starts with this host.")
    return DONE


def _uninstall(asked: argparse.Namespace) -> int:
    from denyspam import discover, process, setup
    from denyspam.conffile import read_settings
    from denyspam.logfile import Unavailable

    conf = os.path.join(asked.root, discover.INSTALLED.lstrip("/"))
    if asked.root == "/" and not asked.dry_run:
        if setup.systemd_runs():
            setup.command(setup.STOPPING[0])  # it complains where there is no unit, which is what we want
        if os.path.exists(conf):
            try:
                count = process.flush(read_settings(conf), keep=False)
            except Unavailable as error:
                raise Failed(f"nothing was removed: {error}", error.code) from error
            except ActionError as error:
                raise Failed(f"nothing was removed: {error}", UNAVAILABLE) from error
            print(f"released {show.count(count, 'ban')}, and the firewall's table is gone")
    outcomes = setup.remove(asked.root, write=not asked.dry_run)
    for outcome in outcomes:
        what = {"kept": "yours, left as it is", "removed": "would be removed" if asked.dry_run else "removed"}
        print(f"{outcome.path}: {what[outcome.what]}")
    if asked.root == "/" and not asked.dry_run and setup.systemd_runs():
        setup.command(setup.STOPPING[1])
    print("/var/lib/denyspam, with the history of bans, is left" if outcomes else "setup has written nothing here")
    return DONE


def _uncollected() -> None:
    """No search for cycles from here on: of a hundred thousand objects a second none is in one."""
    gc.collect()
    gc.freeze()
    gc.disable()


@cache
def _dumps() -> Callable[[dict[str, Any]], str]:
    """An object as one line of JSON, in ASCII, so that no log's text is a terminal's controls. By orjson, in a third of
    the time; by json what that does not print so, and all of it without orjson."""

    def slowly(said: dict[str, Any]) -> str:
        return json.dumps(said, separators=(",", ":"))

    try:
        import orjson
    except ImportError:
        return slowly

    def fast(said: dict[str, Any]) -> str:
        try:
            text = orjson.dumps(said)
        except TypeError:  # the name of a file is no UTF-8
            return slowly(said)
        return text.decode("ascii") if text.isascii() else slowly(said)

    return fast


def _events(asked: argparse.Namespace) -> int:
    from denyspam import cores, replay

    filters = _named(asked)
    zone = _zone()
    sources = [replay.Source(path, filters, zone, asked.year) for path in _readable(asked.files)]
    form = _event_json if asked.json else _event_lines()
    _uncollected()
    told: list[str] = []
    try:
        for event in cores.events(sources, harmless=asked.all):
            told.append(form(event, zone))
            if len(told) == TOLD:
                sys.stdout.write("".join(told))
                told.clear()
    except replay.Unreadable as error:
        raise Failed(str(error), USAGE) from error
    finally:
        sys.stdout.write("".join(told))
    return DONE


def _event_json(event: Event, zone: tzinfo) -> str:
    time, kind, address, name, queue_id, user, file, _, number, text = event[:10]
    said = {
        "file": file,
        "line": number,
        "time": time,
        "address": address,
        "kind": kind,
        "filter": name,
        "user": user,
        "queue_id": queue_id,
        "text": text.decode("utf-8", "replace"),
    }
    return _dumps()(said) + "\n"


def _event_lines() -> Callable[[Event, tzinfo], str]:
    """Makes columns of a stream: one that something does not fit into is wider from then on."""
    widths = [8, 15, 9]

    def form(event: Event, zone: tzinfo) -> str:
        cells = (event.kind, event.address or "-", event.filter)
        widths[:] = map(max, widths, map(len, cells))
        columns = " ".join(map(str.ljust, cells, widths))
        return f"{show.moment(event.time, zone):19} {columns} {show.line(event.text)}\n"

    return form


def _replay(asked: argparse.Namespace) -> int:
    from denyspam import host, replay, trial

    wanted = trial.Asked(
        conf=asked.conf or CONF,
        files=_readable(asked.files),
        own=host.own_addresses(),
        year=asked.year,
        as_json=asked.json,
        summary=asked.summary,
        cost=asked.cost,
        compare=asked.compare,
    )
    _uncollected()
    with _Progress(asked.files) as progress:
        try:
            trial.run(wanted, _zone(), progress)
        except replay.Unreadable as error:
            raise Failed(str(error), USAGE) from error
    return DONE


def _report(asked: argparse.Namespace) -> int:
    from denyspam import report
    from denyspam.conffile import read_settings
    from denyspam.settings import Settings

    bare = asked.conf is None and not os.path.exists(CONF)
    settings = Settings() if bare else read_settings(asked.conf or CONF)
    zone, now = _zone(), time.time()
    begin = _since(asked.since, now, zone)
    if asked.output is None and not asked.json and sys.stdout.isatty():
        raise Failed("a page is no text for a terminal: name a file by -o, or print the numbers by --json", USAGE)
    _uncollected()
    try:
        with _Progress((), "bans") as progress:
            numbers = report.told(settings, begin, now, zone, asked.mmdb or settings.mmdb, progress.reach)
        text = json.dumps(numbers) + "\n" if asked.json else report.page(numbers, zone)
    except report.Unreadable as error:
        raise Failed(str(error), error.code) from error
    if asked.output in (None, "-"):
        sys.stdout.write(text)
        return DONE
    try:
        report.write(text, asked.output)
    except OSError as error:
        raise Failed(f"{asked.output}: {error.strerror}", USAGE) from error
    return DONE


def _since(text: str, now: float, zone: tzinfo) -> float:
    """When a period begins: so long ago, or at a date, also with a time."""
    try:
        when = datetime.fromisoformat(text)
        begin = (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        begin = now - _seconds("--since", text)
    if not 0 < begin < now:
        raise Failed(f"--since {text[:100]}: that is no time in the past", USAGE)
    return begin


class _Progress:
    """A bar on a terminal's stderr, for files whose sizes are known, or for what tells how far it is; else nothing."""

    def __init__(self, files: Sequence[str], unit: str = "B") -> None:
        self._bar: Any = None
        if sys.stderr.isatty() and "-" not in files:
            from tqdm import tqdm

            size = sum(os.path.getsize(path) for path in files)
            self._bar = tqdm(total=size, unit=unit, unit_scale=True, delay=1, leave=False, file=sys.stderr)

    def advance(self, count: float) -> None:
        if self._bar is not None:
            self._bar.update(count)

    def reach(self, done: int, whole: int) -> None:
        if self._bar is not None:
            self._bar.total = whole
            self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """A line on stdout, and not into the bar where both are one terminal; that comes back by itself."""
        if self._bar is not None and sys.stdout.isatty():
            self._bar.clear()
        print(text)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _readable(files: Sequence[str]) -> Sequence[str]:
    """The files, each of which can be opened: better said before the first one has been read for an hour."""
    for path in files:
        if path != "-":
            try:
                if stat.S_ISFIFO(os.stat(path).st_mode):
                    continue  # opened twice, its writer would meet a closed pipe
                if os.path.isdir(path):
                    os.scandir(path).close()  # a journal's
                    continue
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise Failed(f"{path}: {error.strerror}", USAGE) from error
    return files


def _zone() -> tzinfo:
    from denyspam.host import zone

    return zone(None)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "list": _list,
    "status": _status,
    "metrics": _metrics,
    "ban": _ban,
    "release": _release,
    "resume": _resume,
    "flush": _flush,
    "check": _check,
    "events": _events,
    "explain": _explain,
    "replay": _replay,
    "report": _report,
    "setup": _setup,
    "top": _top,
    "web": _web,
    "why": _why,
    "learn": _learn,
    "new-filter": _new_filter,
    "import-fail2ban": _import_fail2ban,
}


if __name__ == "__main__":
    main()
