"""command: hands each ban to a program of the admin's, which lives as long as the daemon.

    [daemon] action = command        and the keyword `command`: the program and its arguments, as a list

The program reads lines from its standard input, and nothing else is asked of it:

    ban ADDRESS SECONDS         close the ports to this address, or network (192.0.2.0/24), for so long from now
    release ADDRESS             open them again; also for an address that it does not know

SECONDS is a whole number, rounded up, at most 3,153,600,000. A line `ban` for what is banned already replaces its end.
The ports stand in the variable DENYSPAM_PORTS ("25"); a ban of other ports (`ports 465, 587` in a policy) is written
with them: `ban ADDRESS SECONDS 465,587`, `release ADDRESS 465,587`. Addresses are printed from their bits, so a line
holds digits, letters, `.:/,` and single blanks, whatever a log said. No shell is involved. What the program prints goes
where the daemon's output goes. At the end of its input it should end; it must keep its bans until their time is over.

The program tells nothing back. Taken is what the pipe took. One that ends is started again, at the next order, and told
every ban that is in force with the seconds left; one that ends again within 10 seconds of its start is left alone for
1, 2, 4, … 60 s, in which every order is refused (an ActionError: the caller tries again). One that does not read for
30 s with a full pipe, or has closed its input, is ended with SIGKILL, and counts as one that ended.

`held` is what is in force by this module's own memory: empty after a restart of the daemon, as after a reboot; the
caller then gives all bans again. Limits: one thread; memory is bounded by the bans in force.
"""

from __future__ import annotations

import math
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence

from denyspam.events import ActionError, Ban, Held, Target

from . import _ruleset as ruleset
from ._ruleset import Refused

PATIENCE = 30.0  # seconds for the program to read on, and to end at the end of its input
SHORT = 10.0  # seconds of a life that count as a failure
LONGEST_WAIT = 60.0


class Command:
    """The five verbs, `holds` and `counters`, for a program. `command` is the program and its arguments; `clock` counts
    seconds from anywhere. ValueError where there is no program."""

    def __init__(
        self,
        *,
        ports: tuple[int, ...],
        ipv6_prefix: int = 64,
        verdict: str = "tcp reset",
        hooks: tuple[str, ...] = ("input",),
        command: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not command or not all(isinstance(word, str) and word and "\0" not in word for word in command):
            raise ValueError("no program: `command` names it and its arguments")
        self._ports, self._command, self._clock = ports, list(command), clock
        self._ends: dict[Target, float] = {}  # by `clock`
        self._full = 1024
        self._program: subprocess.Popen[bytes] | None = None
        self._born = self._not_before = -math.inf
        self._wait = 1.0

    def start(self) -> list[Held]:
        """Starts the program, and returns what it was told before."""
        self._tell([])
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Tells each; `now` in epoch seconds. A ban that is over already is no ban."""
        clock = self._clock()
        new = {ban.target: ban.until - now for ban in bans if ban.until - now > 0}
        self._tell([self._line(target, left) for target, left in new.items()])
        self._ends.update((target, clock + left) for target, left in new.items())
        if len(self._ends) >= self._full:
            self._ends = {target: end for target, end in self._ends.items() if end > clock}
            self._full = max(1024, 2 * len(self._ends))

    def release(self, targets: Iterable[Target]) -> None:
        """Tells each."""
        gone = list(dict.fromkeys(targets))
        self._tell([self._line(target, 0) for target in gone])
        for target in gone:
            self._ends.pop(target, None)

    def held(self) -> list[Held]:
        clock = self._clock()
        return [Held(target, end - clock) for target, end in self._ends.items() if end > clock]

    def stop(self, keep: bool) -> None:
        """Ends the program's input and waits for its end; without `keep` it is told to release all first."""
        if not keep and self._ends:
            self.release([each.target for each in self.held()])
        self._end()
        if not keep:
            self._ends.clear()

    def holds(self, target: Target) -> bool:
        return self._ends.get(target, -math.inf) > self._clock()

    def counters(self) -> list[Refused]:
        """The program tells nothing back."""
        return []

    def _line(self, target: Target, left: float) -> bytes:
        """`left` 0: a release."""
        network = target.network
        text = ruleset.element(network)
        if network.prefixlen < network.max_prefixlen:
            text += f"/{network.prefixlen:d}"
        ports = "" if target.ports == self._ports else " " + ",".join(f"{port:d}" for port in target.ports)
        if left:
            return f"ban {text} {math.ceil(min(left, ruleset.LONGEST)):d}{ports}\n".encode("ascii")
        return f"release {text}{ports}\n".encode("ascii")

    def _tell(self, lines: list[bytes]) -> None:
        """Writes them to a program that is alive. Twice at most: one may end under the first try."""
        for again in (True, False):
            try:
                self._write(self._alive() + b"".join(lines))
                return
            except BrokenPipeError:
                self._end(patience=1.0, failed=True)  # it does not read any more, alive or not
                if not again:
                    raise self._refused("ended while it was told") from None

    def _alive(self) -> bytes:
        """Sees to it that the program runs. What a new one is to be told first."""
        clock = self._clock()
        if self._program is not None and self._program.poll() is None:
            return b""
        if self._program is not None:
            self._end()
        if clock < self._not_before:
            raise self._refused(f"ended; it is started again in {self._not_before - clock:.0f} s")
        ports = ",".join(f"{port:d}" for port in self._ports)
        try:
            self._program = subprocess.Popen(  # noqa: S603 - the admin's own words, no shell
                self._command, stdin=subprocess.PIPE, bufsize=0, env={**os.environ, "DENYSPAM_PORTS": ports}
            )
        except OSError as error:
            self._later()
            raise self._refused(f"cannot be started: {error.strerror}") from error
        assert self._program.stdin  # noqa: S101 - for the type checker
        os.set_blocking(self._program.stdin.fileno(), False)
        self._born = clock
        return b"".join(self._line(each.target, each.left or 0) for each in self.held())

    def _write(self, data: bytes) -> None:
        assert self._program and self._program.stdin  # noqa: S101 - for the type checker
        pipe = self._program.stdin.fileno()
        rest = memoryview(data)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_WRITE)
            while rest:
                if not selector.select(PATIENCE):
                    self._end(patience=0.0, failed=True)
                    raise self._refused(f"did not read for {PATIENCE:.0f} s")
                try:
                    rest = rest[os.write(pipe, rest) :]
                except BlockingIOError:
                    continue

    def _end(self, patience: float = PATIENCE, failed: bool = False) -> None:
        """Lets the program end, and remembers one that lived too short."""
        program, self._program = self._program, None
        if program is None:
            return
        assert program.stdin  # noqa: S101 - for the type checker
        failed |= program.poll() is not None
        program.stdin.close()
        try:
            program.wait(patience)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        if failed and self._clock() - self._born < SHORT:
            self._later()
        elif self._clock() - self._born >= SHORT:
            self._wait = 1.0

    def _later(self) -> None:
        self._not_before = self._clock() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _refused(self, what: str) -> ActionError:
        return ActionError(f"command: {self._command[0]} {what}")
