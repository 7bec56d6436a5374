"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, live
from netns import Network, network, unprivileged

__all__ = ["daemon", "network", "unprivileged"]


@pytest.fixture
def daemon(tmp_path: Path, network: Network) -> Iterator[Live]:
    """A daemon on the server of the network, not started."""
    with live(tmp_path, network.server) as made:
        yield made
