"""bench: how fast, how small, how flat; measured on this machine, with peers beside where they are installed.

`make bench` runs everything and writes the results; each script runs alone and has --help. Nothing here is installed.
Ratios and CPU seconds are compared, never wall times of different runs.
"""

import os
import sys
from pathlib import Path

# What is installed has its bytecode; a checkout that may not write any would be measured compiling itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# tests/netns.py and tests/live.py make the networks and the daemons for both
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
