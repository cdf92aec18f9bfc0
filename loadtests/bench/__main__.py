"""`python -m loadtests.bench`: measure the broker's hot path and compare it with what is required.

All figures come from one run on one machine, the server on one core and the generator on another, so that their
ratios mean something. Absolute figures of two machines, or of two days, mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys

from loadtests.bench import report
from loadtests.bench.cases import Bench
from loadtests.bench.generator import Generator


def main() -> int:
    """Run the bench; the exit code is 1 if a requirement is not met."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each load is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of one measurement (default 1)")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="GiB to write and read for the memory figure")
    parser.add_argument("--no-file", action="store_true", help="do not write a file under loadtests/results/")
    options = parser.parse_args()
    several = (os.cpu_count() or 1) >= 2
    bench = Bench(
        server_core=0 if several else None,
        generator_core=1 if several else None,
        rounds=options.rounds,
        seconds=options.seconds,
        memory_bytes=int(options.memory_gib * (1 << 30)),
    )
    figures = bench.run()
    verdicts = report.judge(figures)
    report.show(figures, verdicts)
    if not options.no_file:
        print(f"written: {report.write(figures, verdicts, Generator().name)}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
