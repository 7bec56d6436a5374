#!/bin/sh
# setup.sh: what `make` needs before it can do anything. Three steps, all silent when there is nothing to do:
#
#   setup.sh system [PYTHON]   the system packages that are missing (Debian and Ubuntu, as root or through sudo)
#   setup.sh tests [PYTHON]    what only the tests want: a writer of journals
#   setup.sh venv [PYTHON]     .venv in the checkout: denyspam, editable, with all its extras; what changed is compiled
#
# It installs only what it found missing, and removes nothing. Elsewhere than on Debian and Ubuntu, or without root, it
# says in one sentence what is wanted and goes on: only a Python without pip stops it. .venv is rebuilt when setup.cfg,
# the interpreter or the checkout's place changed, and only then.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'denyspam: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    if [ -n "$1" ]; then
        command -v "$1" >/dev/null || die "there is no $1; PYTHON names the interpreter to use"
        new_enough "$1" || die "$1 is older than Python 3.10, which denyspam needs"
        python=$1
        return
    fi
    for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if new_enough "$python"; then return; fi
    done
    die "Python 3.10 or newer is needed; install it, or name one: make venv PYTHON=/path/to/python3"
}

# The caller's own venv module, pip bootstrap and C headers, by asking it: a Debian without python3-venv has `venv` but
# no `ensurepip`, and an interpreter from elsewhere is not helped by Debian's packages.
has_ensurepip() { "$python" -c 'import venv, ensurepip' 2>/dev/null; }
has_pip() { "$python" -m pip --version >/dev/null 2>&1; }
has_headers() {
    "$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
has_library() {
    "$python" -c 'import ctypes, sys
try: ctypes.CDLL(sys.argv[1])
except OSError: sys.exit(1)' "$1"
}
has_command() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }
from_the_system() { case $("$python" -c 'import sys; print(sys.base_prefix)') in /usr) true ;; *) false ;; esac; }

if [ -z "${CI:-}" ] && [ -t 0 ]; then somebody_there=yes; else somebody_there=; fi

# Runs its arguments as root; fails where that is not possible without asking somebody who is not there.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif ! has_command sudo; then return 1
    elif sudo -n true 2>/dev/null; then sudo -n "$@"
    elif [ -n "$somebody_there" ]; then sudo "$@"
    else return 1
    fi
}

want() { missing="$missing $*"; }

system() {
    missing=
    if ! has_ensurepip && from_the_system; then want python3-venv; fi
    has_library libnftables.so.1 || want libnftables1
    has_command nft || want nftables
    has_command ip || want iproute2
    has_command iptables || want iptables
    has_command ipset || want ipset
    if ! has_command gcc; then want gcc libc6-dev; fi
    if ! has_headers && from_the_system; then want python3-dev; fi
    fetch
}

# Where they cannot be had, the tests that need them are skipped and say so.
tests() {
    missing=
    [ -e /usr/lib/systemd/systemd-journald ] || want systemd
    [ -e /usr/lib/systemd/systemd-journal-remote ] || want systemd-journal-remote
    fetch
}

# Installs what is missing.
fetch() {
    if [ -z "$missing" ]; then return; fi

    if ! has_command apt-get; then
        say "not found here; please install what your system calls:$missing"
        return
    fi
    say "installing$missing"
    log=$(mktemp)
    # The index is fetched only when the packages are not to be had without: it is the slow part, and may be offline.
    # shellcheck disable=SC2086  # a list of package names
    if as_root env DEBIAN_FRONTEND=noninteractive sh -c '
            install() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"; }
            install "$@" || { apt-get update -q && install "$@"; }' sh $missing </dev/null >"$log" 2>&1
    then rm -f "$log"
    elif grep -q . "$log"; then
        tail -n 5 "$log" >&2
        rm -f "$log"
        say "these could not be installed (above is why); going on without:$missing"
    else
        rm -f "$log"
        say "this needs root; going on without. As root: apt-get install$missing"
    fi
}

# A browser and two shells, for the tests of the report's page and of completion: in CI alone, where nobody minds 350 MB.
# Without them these tests are skipped.
guests() {
    if [ -z "${CI:-}" ] || ! has_command apt-get; then return; fi
    for program in chromium fish zsh; do
        has_command $program || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
            --no-install-recommends -o DPkg::Lock::Timeout=300 $program </dev/null >/dev/null 2>&1 ||
            say "no $program to be had: tests that need it are skipped"
    done
}

# Every extra that setup.cfg names, so that a new one needs no line here.
extras() {
    "$python" -c 'import configparser
setup = configparser.ConfigParser()
setup.read("setup.cfg")
print(*sorted(setup["options.extras_require"]), sep=",")'
}

# An interpreter that was not named is no reason to rebuild, unless the one inside no longer starts.
same_interpreter() {
    inside=$(.venv/bin/python -c "$who" 2>/dev/null) || return 1
    [ -z "$named" ] || [ "$inside" = "$("$python" -c "$who")" ]
}
who='import sys; print(sys.base_prefix, sys.version)'

# By itself Python compiles a checkout when it first runs; but never where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, or the daemon may not write here: each start would compile all of it, and read all filters.
compile_checkout() { .venv/bin/python -m denyspam.cached >/dev/null 2>&1 || true; }

venv() {
    stamp="$(pwd) $(cat setup.cfg setup.py pyproject.toml | cksum)"
    if [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ] && same_interpreter; then return; fi
    say "building .venv with $("$python" -c 'import platform; print("Python", platform.python_version())') (a minute, once)"
    rm -rf .venv 2>/dev/null || die ".venv belongs to another user: remove it, or run this as root"
    if has_ensurepip; then
        "$python" -m venv .venv
        install() { .venv/bin/python -m pip install -q --disable-pip-version-check "$@"; }
    elif has_pip; then
        "$python" -m venv --without-pip .venv
        install() { "$python" -m pip --python .venv/bin/python install -q --disable-pip-version-check "$@"; }
    else
        die "$python has no pip; as root: apt-get install python3-venv (or your system's package for python's ensurepip)"
    fi
    wanted=$(extras)
    log=$(mktemp)
    if ! install -e ".[$wanted]" >"$log" 2>&1; then
        without=$(printf %s "$wanted" | tr , '\n' | grep -vx iptables | paste -sd, -)
        install -e ".[$without]" || { rm -f "$log"; die "pip could not install what setup.cfg names (above is why)"; }
        say "the iptables action could not be built (it needs gcc and Python's headers); everything else works without it"
    fi
    rm -f "$log"
    printf '%s\n' "$stamp" >.venv/stamp
    say "ready: .venv/bin/denyspam"
}

named=${2:-}
find_python "$named"
case ${1:-} in
    system) system ;;
    tests) tests; guests ;;
    venv) venv; compile_checkout ;;
    *) die "usage: setup.sh system|tests|venv [PYTHON]" ;;
esac
