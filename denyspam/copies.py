"""copies: the same line told in two logs is one line. Pure.

exim writes a refusal to mainlog and rejectlog, syslog a warning to mail.log and mail.warn (and all of it to syslog). A
line that stands in one log matches the same line in another, one to one, whichever is read first; the later one is the
copy. The same is what the same process of a host said in the same second: the journal, and syslog with and without
fractions, write its time differently. Identical lines in one log are separate offences: a dictionary attack prints
them.
Bounded: the last CAPACITY findings that found no match yet; a copy that comes later than that counts again.
"""

from __future__ import annotations

from collections import OrderedDict

from denyspam.events import Finding

CAPACITY = 65_536  # findings; a minute of a flood in one log before the other is read


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
