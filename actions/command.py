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

The program tells nothing back. Taken is what the pipe took. One that ends is started again, within a second (`tend`) or
at the next order, and told every ban that is in force with the seconds left; one that ends within 10 seconds of its
start is left alone for 1, 2, 4, … 60 s, in which every order is refused (an ActionError: the caller tries again). One
that does not read for 30 s with a full pipe, or has closed its input, is ended with SIGKILL, and counts as one that
ended.

What is in force it knows by its own memory (`_remembered.py`). Limits: one thread; memory is bounded by the bans in
force.
"""

from __future__ import annotations

import math
import os
import selectors
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

from denyspam.events import ActionError, Ban, Held, Target

from . import _ruleset as ruleset
from ._remembered import Remembered, lasting

PATIENCE = 30.0  # seconds for the program to read on, and to end at the end of its input
SHORT = 10.0  # seconds of a life that count as a failure
LONGEST_WAIT = 60.0


class Command(Remembered):
    """The five verbs and `tend`, for a program. `command` is the program and its arguments. ValueError where there is
    no program."""

    def __init__(self, *, command: Sequence[str] = (), **keywords: Any) -> None:
        super().__init__(**keywords)
        if not command or not all(isinstance(word, str) and word and "\0" not in word for word in command):
            raise ValueError("no program: `command` names it and its arguments")
        self._command = list(command)
        self._program: subprocess.Popen[bytes] | None = None
        self._born = self._not_before = -math.inf
        self._wait = self._left_alone = 1.0

    def start(self) -> list[Held]:
        """Starts the program, and returns what it was told before."""
        self._tell([])
        return self.held()

    def ban(self, bans: Sequence[Ban], now: float) -> None:
        """Tells each; `now` in epoch seconds. A ban that is over already is no ban."""
        left = lasting(bans, now)
        self._tell([self._line(target, seconds) for target, seconds in left.items()])
        self._remember(left)

    def release(self, targets: Iterable[Target]) -> None:
        """Tells each."""
        gone = list(dict.fromkeys(targets))
        self._tell([self._line(target, 0) for target in gone])
        for target in gone:
            self._ends.pop(target, None)

    def stop(self, keep: bool) -> None:
        """Ends the program's input and waits for its end; without `keep` it is told to release all first."""
        if not keep and self._ends:
            self.release([each.target for each in self.held()])
        self._end()
        if not keep:
            self._ends.clear()

    def tend(self, now: float) -> None:
        """Starts the program again where it has ended. To be called every second; `now` is not used."""
        self._tell([])

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
            raise self._refused(f"ended; it is left alone for {self._left_alone:.0f} s before it is started again")
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
        self._left_alone = self._wait
        self._not_before = self._clock() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _refused(self, what: str) -> ActionError:
        return ActionError(f"command: {self._command[0]} {what}")
