"""`python -m bench`: every benchmark, its figures into bench/results.json, the tables and pictures made of them.

Some ten minutes; `--quick` a minute, without writing. Without root the firewall's part is left out. What the tests
expect (bench/expected.json) is not written: one noisy run would make it a bound that no other run meets.
`python -m bench.throughput --ratio --write` does, for whoever has made reading faster or slower.
"""

from __future__ import annotations

import argparse
import os

from bench import firewall, measure, report, throughput, windows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    asked = parser.parse_args()
    options = ["--quick"] if asked.quick else ["--write"]
    throughput.main(options)
    windows.main(options)
    if os.geteuid():
        measure.note("bench: the firewall needs root: left out, its figures stay as they were")
    else:
        firewall.main(options)
    if not asked.quick:
        report.write()


if __name__ == "__main__":
    main()
