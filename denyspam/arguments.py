"""arguments: what can be asked of the program, and its help, as wide as the terminal. Edge.

One parser for all commands; `command` of what it gives is the command's name. Options are not shortened, as `--force`
must be meant; where a word is not known, the message says which one was.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from denyspam import __version__

CONF = "/etc/denyspam/denyspam.conf"
USAGE = 2
EXAMPLES = {
    "run": "run -c /etc/denyspam/denyspam.conf",
    "list": "list --json",
    "status": "status",
    "metrics": "metrics > /var/lib/prometheus/node-exporter/denyspam.prom",
    "top": "top; denyspam top --once",
    "web": "web --listen 127.0.0.1:8025",
    "why": "why 203.0.113.9",
    "ban": "ban 203.0.113.0/24 --for 1d --note 'asked by abuse desk'",
    "release": "release 203.0.113.9 --grace 1d --note 'a customer'",
    "resume": "resume --ban",
    "flush": "flush",
    "check": "check; denyspam check ./mine.filter",
    "events": "events --filter postfix /var/log/mail.log | less",
    "explain": "explain 'Mar  4 10:00:00 mx sendmail[77]: ruleset=check_relay, arg1=x, …'",
    "learn": "learn /var/log/mail.log; denyspam learn /var/log/mail.log --propose 1",
    "new-filter": "new-filter haraka --from /var/log/haraka.log",
    "import-fail2ban": "import-fail2ban postfix dovecot --log /var/log/mail.log -o /etc/denyspam",
    "replay": "replay --summary /var/log/mail.log*; denyspam replay --compare new.conf mail.log.1",
    "report": "report --since 30d -o report.html",
    "setup": "setup --dry-run",
}


class _Parser(argparse.ArgumentParser):
    """Help in one screen, and what was meant where a word is not known."""

    def __init__(self, **given: Any) -> None:
        columns = shutil.get_terminal_size().columns
        given.setdefault(
            "formatter_class",
            lambda prog: argparse.HelpFormatter(prog, max_help_position=26, width=min(columns - 2, 118)),
        )
        super().__init__(**{"allow_abbrev": False, **given})

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        unknown = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        if wrong:
            message = f"there is no command {wrong[1][:60]!r}{_meant(wrong[1], re.findall(r'[a-z0-9-]+', wrong[2]))}"
        elif unknown:
            takers: dict[str, list[str]] = {}  # the commands of each option
            for each in _parsers(self):
                for option in (option for action in each._actions for option in action.option_strings):
                    takers.setdefault(option, []).append(each.prog.rpartition(" ")[2])
            if unknown[1] in takers:
                others = ", …" if len(takers[unknown[1]]) > 4 else ""
                message = f"{unknown[1]} is no option here; these take it, behind their name: "
                message += ", ".join(takers[unknown[1]][:4]) + others
            else:
                message = f"there is no option {unknown[1][:60]}{_meant(unknown[1], list(takers))}"
        elif message.endswith("required: COMMAND"):
            message = "a command is missing, as in `denyspam status`"
        self.exit(USAGE, f"{self.prog}: {message}\n{self.prog} --help tells more\n")


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """It, and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _meant(word: str, known: Sequence[str]) -> str:
    near = list(dict.fromkeys(difflib.get_close_matches(word[:60], known, 2, 0.7)))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", dest="conf", metavar="CONF", default=argparse.SUPPRESS, help=f"default: {CONF}")
    loud = common.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no notes, no progress")
    loud.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="also what it took")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON and nothing else")
    note = argparse.ArgumentParser(add_help=False)
    note.add_argument("--note", metavar="TEXT", default="", help="why; kept in the ledger")
    whole = _Parser(
        prog="denyspam",
        parents=[common],
        description="Bans virus senders, relay probers and spammers from port 25 by what the mail log says of them.",
        epilog="Example: denyspam events /var/log/mail.log | less",
    )
    whole.add_argument("--version", action="version", version=f"denyspam {__version__}")
    commands: Any = whole.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        brief = re.split("[;,:] | as run and", text)[0]
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=brief, description=text, parents=[common, *parents]
        )
        made.epilog = f"Example: denyspam {EXAMPLES[name]}"
        made.set_defaults(command=name)
        return made

    run = command("run", "run the daemon in the foreground; SIGHUP reloads, SIGTERM stops, bans stay")
    run.add_argument(
        "--flush-on-stop", action="store_true", help="empty the kernel's sets at the end; a start fills them"
    )
    command("list", "the bans that hold", as_json).add_argument(
        "--withheld", action="store_true", help="those that are decided and not carried out, and why"
    )
    command("status", "how the daemon is; exit 69 until it is ready", as_json)
    command("metrics", "what Prometheus reads, such as for node_exporter's textfile collector")
    _live_options(command, as_json)
    ban = command("ban", "ban addresses or networks by hand", note, as_json)
    ban.add_argument("addresses", metavar="ADDR", nargs="+", help="an address, a network, or - for one a line on stdin")
    ban.add_argument("--for", dest="duration", metavar="TIME", default="1h", help="how long, such as 30m or 7d (1h)")
    ban.add_argument("--force", action="store_true", help="even loopback, an own or allowed address, or your own")
    release = command("release", "release bans; exit 1 if one of them was none", note, as_json)
    release.add_argument("addresses", metavar="ADDR", nargs="*")
    release.add_argument("--all", action="store_true", help="all of them")
    release.add_argument("--grace", metavar="TIME", help="and ban them by no policy again for so long, such as 1h")
    _resume_options(command("resume", "go on banning after the fuse has blown; exit 1 if it had not", as_json))
    command("flush", "empty the kernel's sets and end all bans, daemon or not", as_json)
    command(
        "check", "test the configuration and filters as run and reload would; exit 78 if wrong", as_json
    ).add_argument("filters", metavar="FILTER", nargs="*", help="a filter's name or file: test only these")
    found = command("events", "what the filters see in log files", as_json)
    found.add_argument("--filter", dest="filters", metavar="NAME", action="append", default=[], help="only this filter")
    found.add_argument("--all", action="store_true", help="also accept, defer and other kinds that are no offence")
    explain = command(
        "explain",
        "how a log line is read, hole by hole, or where the nearest pattern stops to fit; exit 1 if none takes it",
        as_json,
    )
    explain.add_argument("line", metavar="LINE", nargs="?", default="-", help="a log line, or - for those of stdin")
    explain.add_argument("--filter", dest="filters", metavar="NAME", action="append", default=[], help="only this one")
    explain.add_argument("--year", type=_year, help="the year of stamps without one (the latest there was otherwise)")
    _parser_by_hand(command, as_json)
    replay = command(
        "replay",
        "what the policy would have done with log files: the bans, and on a terminal a summary",
        as_json,
    )
    _replay_options(replay)
    for each in (found, replay):
        each.add_argument(
            "--year", type=_year, help="the year of stamps without one (the file's own tells it otherwise)"
        )
        each.add_argument("files", metavar="FILE", nargs="+", help="a log, also .gz .bz2 .xz .zst, or - for stdin")
    _report_options(command("report", "the bans of a period as a page to read, print and hand on", as_json))
    _setup_options(command("setup", "make this host's configuration and service, at first only watching"))
    return whole


def _year(text: str) -> int:
    if not re.fullmatch("19[789][0-9]|20[0-9][0-9]", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no year: write four digits, such as 2026")
    return int(text)


def _replay_options(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("--summary", action="store_true", help="a table and a picture over time instead of the list")
    replay.add_argument("--cost", action="store_true", help="the summary, false bans estimated, and what bans save")
    replay.add_argument(
        "--compare", metavar="OTHER", help="only what one of CONF and OTHER bans and the other does not"
    )


def _report_options(report: argparse.ArgumentParser) -> None:
    report.add_argument("--since", metavar="TIME", default="7d", help="how far back: 30d, or 2026-11-01 (7d)")
    report.add_argument("-o", dest="output", metavar="FILE", help="write the page there; - is stdout")
    report.add_argument(
        "--mmdb", metavar="FILE", action="append", help="countries and providers from there (setting: mmdb)"
    )


def _resume_options(resume: argparse.ArgumentParser) -> None:
    resume.add_argument("--ban", action="store_true", help="carry out what it withheld and what is not over, too")


def _live_options(command: Callable[..., argparse.ArgumentParser], as_json: argparse.ArgumentParser) -> None:
    text = "a live screen: rates, who is near a ban, the newest bans, the firewall, the logs; keys to explain and act"
    top = command("top", text, as_json)
    top.add_argument("--once", action="store_true", help="print one picture as text, and end")
    web = command("web", "the same as a page for a browser, on loopback or a unix socket; acting takes a token")
    web.add_argument(
        "--listen", metavar="PLACE", default="127.0.0.1:8025", help="ADDRESS:PORT or PATH (127.0.0.1:8025)"
    )
    web.add_argument("--token-file", metavar="FILE", help="keep the token there; without it a new one at each start")
    web.add_argument("--read-only", action="store_true", help="nobody bans or releases, token or not")
    web.add_argument("--private", action="store_true", help="reading takes the token, too")
    web.add_argument("--public", action="store_true", help="PLACE may be one that other hosts reach; implies --private")
    web.add_argument(
        "--name", metavar="HOST", action="append", default=[], help="another name of the page, as a proxy's"
    )
    why = command("why", "why an address is banned, or is not; exit 1 if it is not", as_json)
    why.add_argument("address", metavar="ADDR")


def _setup_options(setup: argparse.ArgumentParser) -> None:
    setup.add_argument("--dry-run", action="store_true", help="show what would be written and why; write nothing")
    setup.add_argument("--enforce", action="store_true", help="from now on ban, and not only watch")
    setup.add_argument("--uninstall", action="store_true", help="end the bans, stop, and remove what setup wrote")
    setup.add_argument("--root", metavar="DIR", default="/", help="another root folder; nothing is started then")


def _parser_by_hand(command: Callable[..., argparse.ArgumentParser], as_json: argparse.ArgumentParser) -> None:
    """The commands of those who write filters, or come from elsewhere."""
    learn = command(
        "learn",
        "the lines that no filter takes, grouped by shape, the most frequent first; --propose makes a pattern of one",
        as_json,
    )
    learn.add_argument("--filter", dest="filters", metavar="NAME", action="append", default=[], help="only this filter")
    learn.add_argument("--all", action="store_true", help="also lines of programs that no filter reads")
    learn.add_argument("--propose", metavar="N", type=int, help="a pattern for the N-th group; exit 1 if there is none")
    learn.add_argument("-n", dest="most", metavar="COUNT", type=int, default=20, help="how many groups to show (20)")
    learn.add_argument("files", metavar="FILE", nargs="+", help="a log, also .gz .bz2 .xz .zst, or - for stdin")
    new = command(
        "new-filter",
        "write NAME.filter, a commented draft with patterns and samples of the lines that no filter takes",
    )
    new.add_argument("name", metavar="NAME")
    new.add_argument("--from", dest="files", metavar="FILE", nargs="+", required=True, help="logs of that program")
    new.add_argument("--program", metavar="NAME", help="its name in the log (that of most lines no filter takes)")
    new.add_argument("-o", dest="folder", metavar="DIR", default=".", help="where to write it (the current folder)")
    taken = command(
        "import-fail2ban",
        "turn fail2ban's jails and filters into ours; what has no equal stands there as a comment with the reason",
        as_json,
    )
    taken.add_argument(
        "names", metavar="JAIL|FILE", nargs="+", help="a jail, a filter as in postfix[mode=auth], or a filter's file"
    )
    taken.add_argument("--root", metavar="DIR", default="/etc/fail2ban", help="its configuration (/etc/fail2ban)")
    taken.add_argument(
        "--log",
        dest="logs",
        metavar="FILE",
        action="append",
        default=[],
        help="let both read this log, and list what they read differently; exit 1 if there is any",
    )
    taken.add_argument("-o", dest="folder", metavar="DIR", help="write DIR/filters/f2b-….filter and DIR/fail2ban.conf")
