"""bench: how fast, how small, how flat; measured on this machine, with peers beside where they are installed.

`make bench` runs everything and writes the results; each script runs alone and has --help. Nothing here is installed.
Ratios and CPU seconds are compared, never wall times of different runs.
"""

import sys
from pathlib import Path

# tests/netns.py and tests/live.py make the networks and the daemons for both
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
