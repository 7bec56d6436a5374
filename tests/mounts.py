"""mounts: a mount namespace of a test's own, in its network namespace: small, read-only and absent file systems.

`Mounts(network.server)` holds it, as Namespace holds a network; what runs by its prefix sees its mounts, and nobody
else does. From outside its files are reached by `inner(path)`, through /proc.
"""

from __future__ import annotations

import os
from pathlib import Path

from netns import Namespace


class Mounts(Namespace):
    """A mount namespace within a network namespace."""

    def __init__(self, within: Namespace) -> None:
        super().__init__([*within.prefix[:-1], "--", "unshare", "--mount", "--propagation", "private"])

    @property
    def prefix(self) -> list[str]:
        """What to put before a command to have it run inside, in the same working folder."""
        return [*super().prefix[:-1], "--mount", f"--wd={os.getcwd()}", "--"]

    def inner(self, path: Path) -> Path:
        """Where the path within the namespace is found from outside."""
        return Path(f"/proc/{self.pid}/root{path}")

    def tmpfs(self, place: Path, size: str, *options: str) -> None:
        """An empty file system of `size` ("64k") at a folder."""
        self.check("mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", "mode=755", *options)), "none", str(place))
