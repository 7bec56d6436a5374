"""copies: the same line told in two logs, or twice by exim's syslog, is one line. Pure.

exim writes a refusal to mainlog and rejectlog, syslog a warning to mail.log and mail.warn (and all of it to syslog). A
line that stands in one log matches the same line in another, one to one, whichever is read first; the later one is the
copy. The same is what the same process of a host said in the same second: the journal, and syslog with and without
fractions, write its time differently. Identical lines in one log are separate offences: a dictionary attack prints
them.
Bounded: the last CAPACITY findings that found no match yet; a copy that comes later than that counts again.

Exim by syslog tells each refusal to the main and the reject log at once, unless syslog_duplication is off: two lines
of one process, with nothing of its own between, that differ in nothing but, where headers follow, the tag `[1\\14] `.
Two guesses of one client within a second look like that where it is off. `Twice` learns which from the log itself:
with duplication every refusal comes in pairs, without it most stand alone. With pairs, two offences of the same words
are four lines, and two. Without, what can be lost is a repetition before a first refusal has stood alone. What only
the main log is told is never a copy.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from denyspam.events import Finding
from denyspam.filter import untagged

CAPACITY = 65_536  # findings; a minute of a flood in one log before the other is read


class Once:
    """The findings of so many logs, those of each in order. Ask once for each."""

    def __init__(self, logs: int) -> None:
        self._twice = Twice()
        self._copies = Copies() if logs > 1 else None

    def is_copy(self, finding: Finding) -> bool:
        """Whether its log told it just before for another of exim's logs, or another log told it."""
        return self._twice.is_copy(finding) or (self._copies is not None and self._copies.is_copy(finding))


class Copies:
    """The findings of several logs, in any order. Ask once for each."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[int, list[str]] = OrderedDict()  # hash of a line -> the logs it has no copy of yet

    def is_copy(self, finding: Finding) -> bool:
        """Whether another log told this line before."""
        host, text = finding.host.encode(), finding.text
        if host and finding.time is not None:
            _, between, said = text.partition(b" " + host + b" ")
            if between:
                text = b"%d %b %b" % (finding.time, host, said)
        line = hash(text)  # keyed for each process: nobody outside can make two lines collide
        files = self._waiting.get(line)
        if files is None:
            self._waiting[line] = [finding.file]
            if len(self._waiting) > self._capacity:
                self._waiting.popitem(last=False)
            return False
        other = next((file for file in files if file != finding.file), None)
        if other is None:
            files.append(finding.file)
            return False
        files.remove(other)
        if not files:
            del self._waiting[line]
        return True


SOON = 2.0  # seconds: the copy is written at once, but syslog may have turned to the next second
# What a log's manner is judged by: one that changes is known after a few refusals, and a copy may be lost
FIRST, PAIR, ALONE, MOST = 1, 1, -2, 8
# src/smtp_in.c, receive.c and daemon.c of exim: log_write(…, LOG_MAIN, …) without LOG_REJECT
MAIN_ALONE = re.compile(
    rb"(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4} )?"
    rb"(?:SMTP (?:syntax|protocol) error in |SMTP connection |Connection from |VRFY failed |ridiculously |overlong )"
)


class Twice:
    """The findings of any logs, in order of time. Ask once for each."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[int, tuple[float, str]] = OrderedDict()  # hash of a line -> its time and its log
        self._said: OrderedDict[int, int] = OrderedDict()  # hash of a process -> of the last line it said
        self._manner: dict[str, int] = {}  # of each log; from 0 on its refusals come in pairs

    def is_copy(self, finding: Finding) -> bool:
        """Whether exim told this line just before, for its other log."""
        if finding.filter != "exim" or finding.kind == "accept" or finding.times != 1:
            return False
        if not finding.host or finding.time is None:
            return False
        _, between, said = finding.text.partition(b" " + finding.host.encode() + b" ")
        process, _, body = said.partition(b": ")
        if not between or not process.startswith(b"exim"):
            return False
        body, _, _ = untagged(body, 0)
        if MAIN_ALONE.match(body):
            return False
        self._forget(finding.time)
        line = hash((finding.file, process, body))
        if process.endswith(b"]"):  # without a pid it is any of them
            last = self._said.pop(who := hash((finding.file, finding.host, process)), line)
            self._said[who] = line
            if last != line:
                self._alone(last)
            if len(self._said) > self._capacity:
                self._said.popitem(last=False)
        if line not in self._waiting:
            self._waiting[line] = (finding.time, finding.file)
            return False
        del self._waiting[line]
        pairs = self._manner.get(finding.file, FIRST)
        self._manner[finding.file] = min(pairs + PAIR, MOST)
        return pairs >= 0

    def _forget(self, now: float) -> None:
        """Whatever has waited too long stood alone."""
        while self._waiting:
            line, (time, _) = next(iter(self._waiting.items()))
            if abs(now - time) <= SOON and len(self._waiting) < self._capacity:
                break
            self._alone(line)

    def _alone(self, line: int) -> None:
        """No copy of it has come, if it was waited for."""
        _, file = self._waiting.pop(line, (0.0, ""))
        if file:
            self._manner[file] = max(self._manner.get(file, FIRST) + ALONE, -MOST)
