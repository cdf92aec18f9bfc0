"""`python -m loadtests.replication`: what a slave costs, and how fast one catches up, see `measure.py`.

One catch-up takes a few seconds, in which the machine may be good or bad, so there are several, each with brokers of its own,
and the medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from loadtests.replication.measure import Sends, measure_catch_up, measure_double_write, pair

#: What is required, by figure.
REQUIRED: Final = {
    "idle_mb_per_second": 400.0,
    "busy_mb_per_second": 170.0,
    "sends_kept": 0.7,
    "double_write_ratio": 0.75,
}


def main(arguments: list[str]) -> int:
    """Measure and print; the status is 1 if a required figure was missed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.replication", description=__doc__)
    parser.add_argument("--bytes", type=int, default=2 << 30, help="of the log that a slave catches up with")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement of sends")
    parser.add_argument("--catch-ups", type=int, default=3, help="how often slaves catch up")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of masters")
    parser.add_argument("--only", choices=["catch-up", "double"], help="one of the two measurements")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="rocketmq-py-bench-") as folder:
        sends = Sends(Path(folder))
        if options.only != "double":
            for _ in range(options.catch_ups):
                with pair() as brokers:
                    for name, value in measure_catch_up(brokers, sends, options.bytes, options.seconds).items():
                        figures.setdefault(name, []).append(value)
        if options.only != "catch-up":
            figures |= measure_double_write(sends, options.seconds, options.rounds)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    if options.json:
        print(json.dumps(medians, indent=2))
    else:
        table = Table("figure", "median", "lowest-highest", "required")
        for name, values in figures.items():
            required = f"{REQUIRED[name]:,.2f}" if name in REQUIRED else ""
            table.add_row(name, f"{medians[name]:,.2f}", f"{min(values):,.2f}-{max(values):,.2f}", required)
        Console().print(table)
    return int(any(medians[name] < required for name, required in REQUIRED.items() if name in medians))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
