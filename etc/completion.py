"""completion: prints the completion of `denyspam` for bash, zsh or fish, made from the commands themselves.

    python3 etc/completion.py bash > /etc/bash_completion.d/denyspam

The package installs all three. Completed are commands, options, files where a file is meant, and for `why` and
`release` the addresses that are banned now (by asking the daemon; silence where it does not answer).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from denyspam.arguments import parser

BANNED = 'denyspam list --json 2>/dev/null | grep -o \'"address": "[^"]*"\' | cut -d\'"\' -f4'
WHERE = {
    "FILE": "file",
    "CONF": "file",
    "OTHER": "file",
    "DIR": "folder",
    "FILTER": "file",
    "ADDR": "address",
}  # what a metavar stands for


@dataclass(frozen=True)
class Command:
    name: str
    text: str
    options: dict[str, tuple[str, str]]  # option -> (its help, what its value is: "", "file", "folder", "word")
    words: str  # what its plain arguments are


def commands() -> Iterator[Command]:
    for action in parser()._actions:  # argparse tells its tree in no other way
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, each in action.choices.items():
                yield Command(name, texts[name], dict(_options(each)), _words(name, each))


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, tuple[str, str]]]:
    for action in parser._actions:
        value = "" if action.nargs == 0 else WHERE.get(str(action.metavar), "word")
        for option in action.option_strings:
            yield option, ((action.help or "").replace("%%", "%"), value)


def _words(name: str, parser: argparse.ArgumentParser) -> str:
    kinds = [WHERE.get(str(action.metavar), "") for action in parser._actions if not action.option_strings]
    kind = kinds[0] if kinds else ""
    return "" if kind == "address" and name == "ban" else kind  # who is to be banned is not banned yet


def bash(found: list[Command]) -> str:
    cases = []
    for each in found:
        values = "|".join(option for option, (_, value) in each.options.items() if value in ("file", "folder"))
        plain = "|".join(option for option, (_, value) in each.options.items() if value == "word")
        lines = [f"    {each.name})", f"        options={' '.join(each.options)!r}; words={each.words!r}"]
        lines.append(f"        files={values!r}; plain={plain!r} ;;")
        cases.append("\n".join(lines).replace("''", ""))
    names = " ".join(each.name for each in found)
    return BASH.format(names=names, cases="\n".join(cases), banned=BANNED)


BASH = """\
# bash completion for denyspam(8)
_denyspam() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= word index
    local options= words= files= plain=
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        case $word in
            -c) ((index++)) ;;
            -*) ;;
            *) command=$word; break ;;
        esac
    done
    case $command in
    '') options='-c --help --version {names}'; files=-c ;;
{cases}
    esac
    if [[ -n $files && "|$files|" == *"|$before|"* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif [[ -n $plain && "|$plain|" == *"|$before|"* ]]; then
        return
    elif [[ $current == -* || -z $command ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [[ $words == address ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$({banned})" -- "$current")
        # An IPv6 address is several words to bash.
        declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$current"
    elif [[ -n $words ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -F _denyspam denyspam
"""


def zsh(found: list[Command]) -> str:
    values = {"": "", "file": ":file:_files", "folder": ":folder:_files -/", "word": ":value: "}
    words = {
        "": "",
        "file": "'*:file:_files'",
        "folder": "'*:folder:_files -/'",
        "address": "'*:address:_denyspam_banned'",
    }
    names = "\n".join(f"    {_quote(f'{each.name}:{each.text}')}" for each in found)
    cases = []
    for each in found:
        specs = [_quote(f"{option}[{_plain(text)}]{values[value]}") for option, (text, value) in each.options.items()]
        specs += [words[each.words]] if each.words else []
        cases.append(f"    {each.name}) _arguments {' '.join(specs)} ;;")
    return ZSH.format(names=names, cases="\n".join(cases), banned=BANNED)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace(":", "\\:")


ZSH = """\
#compdef denyspam
# zsh completion for denyspam(8)
_denyspam_banned() {{
    local -a banned=(${{(f)"$({banned})"}})
    compadd -a banned
}}
_denyspam() {{
    local context state line
    local -a names=(
{names}
    )
    _arguments -C '-c[configuration]:file:_files' '--help[help]' '--version[version]' '1: :->command' '*:: :->rest'
    case $state in
    command) _describe command names ;;
    rest) case $words[1] in
{cases}
    esac ;;
    esac
}}
_denyspam "$@"
"""


def fish(found: list[Command]) -> str:
    lines = [FISH.rstrip("\n")]
    for each in found:
        lines.append(f"complete -c denyspam -n '__denyspam_at \"\"' -a {each.name} -d {_quote(each.text)}")
        here = f"-n '__denyspam_at {each.name}'"
        for option, (text, value) in each.options.items():
            name = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            more = {"": "", "file": " -r -F", "folder": " -r -F", "word": " -x"}[value]
            lines.append(f"complete -c denyspam {here} {name}{more} -d {_quote(text)}")
        if each.words == "address":
            lines.append(f'complete -c denyspam {here} -a "({BANNED.replace(chr(34), chr(92) + chr(34))})"')
        elif each.words:
            lines.append(f"complete -c denyspam {here} -F")
    return "\n".join(lines) + "\n"


FISH = """\
# fish completion for denyspam(8)
function __denyspam_at --argument-names wanted --description 'whether this is the command; "": none is there yet'
    set -l words (commandline -opc)
    set -l command ''
    set -e words[1]
    while set -q words[1]; and test -z "$command"
        switch $words[1]
            case -c
                set -e words[1]
            case '-*'
            case '*'
                set command $words[1]
        end
        set -e words[1]
    end
    test "$command" = "$wanted"
end
complete -c denyspam -f
complete -c denyspam -n '__denyspam_at ""' -s c -r -F -d configuration
complete -c denyspam -n '__denyspam_at ""' -l help -d help
complete -c denyspam -n '__denyspam_at ""' -l version -d version
"""


if __name__ == "__main__":
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(sys.argv) != 2 or sys.argv[1] not in shells:
        sys.exit(f"usage: completion.py {'|'.join(shells)}")
    print(shells[sys.argv[1]](list(commands())), end="")
