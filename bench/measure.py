"""measure: what all benchmarks share: CPU of a child, figures of several runs, this machine's facts, the results file.

CPU is user and system seconds of the child and of what it waited for (wait4), so waiting costs nothing and a busy
machine little. Of several runs min, median and max are kept; on a shared machine the min is the least disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench/results.json"
DENYSPAM = (sys.executable, "-m", "denyspam.cli")


@dataclass(frozen=True, slots=True)
class Used:
    """What a child used."""

    cpu: float  # seconds
    wall: float  # seconds
    peak: float  # MB of resident memory; our own where that is more
    code: int


def child(command: Sequence[str], *, stdin: str | None = None, out: str = os.devnull) -> Used:
    """Runs it with stdin from a file and stdout to a file; its complaints go to ours. Raises where it fails."""
    with open(stdin or os.devnull, "rb") as source, open(out, "wb") as sink:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=source, stdout=sink, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stderr
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {said.decode(errors='replace')[-2000:]}")
    return Used(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, process.returncode)


def spread(values: Iterable[float], digits: int = 4) -> dict[str, float]:
    """Min, median and max, to so many significant digits."""
    ordered = sorted(values)
    three = {"min": ordered[0], "median": statistics.median(ordered), "max": ordered[-1]}
    return {name: significant(value, digits) for name, value in three.items()}


def significant(value: float, digits: int = 4) -> float:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000 * len(ordered)) // 1000) - 1))]


# --- the machine ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.M)
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(int(memory[1]) / 1e6) if memory else None,
        "system": system,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "nft": said("nft", "--version"),
        "fail2ban": said("fail2ban-regex", "--version"),
        "sshguard": sshguard_version(),
    }


def said(*command: str) -> str | None:
    """The first line that a program says, such as its version; None where it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else None


def sshguard_parser() -> str | None:
    for place in ("/usr/libexec/sshguard", "/usr/libexec", "/usr/lib/sshguard", "/usr/local/libexec"):
        if os.access(path := f"{place}/sshg-parser", os.X_OK):
            return path
    return None


def sshguard_version() -> str | None:
    return said("sshguard", "-v") if sshguard_parser() else None


def _commit() -> str:
    """The last commit that changed the program, not its surroundings."""
    program = ("denyspam", "filters", "actions")
    command = ["git", "log", "-1", "--abbrev=12", "--format=%h", "--", *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *program], cwd=ROOT, check=False)
    return (done.stdout.strip() or "unknown") + " and changes" * (changed.returncode == 1)


# --- logs and results -------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="denyspam-bench-") as folder:
        yield Path(folder)


def log_file(folder: Path, server: str, lines: int, *, share: float | None = None, seed: int = 1) -> str:
    """A made-up log as a file, made once per folder; by a child, since Linux counts a process's peak of memory from its
    parent's at that moment, and a log in the making would be in every figure."""
    path = folder / f"{server}-{lines}-{'' if share is None else share}-{seed}.log"
    if not path.exists():
        command = [sys.executable, "-m", "bench.logs", server, str(lines), "--seed", str(seed), "-o", str(path)]
        if share is not None:
            command += ["--offences", str(share)]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    return str(path)


def parser(text: str) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    first, _, rest = text.partition("\n\n")
    made = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="small: only to see that it works")
    made.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.relative_to(ROOT)}")
    return made


def finish(name: str, figures: Mapping[str, Any], *, write: bool) -> None:
    """Prints the figures, and keeps them with the machine's facts where asked to."""
    found = {"machine": machine(), **figures}
    print(json.dumps(found, indent=1))
    if write:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[name] = found
        RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
