"""What every test may ask for."""

from netns import network, unprivileged

__all__ = ["network", "unprivileged"]
