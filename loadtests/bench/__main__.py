"""`python -m loadtests.bench`: measure the broker's hot path and compare it with what is required.

All figures come from one run on one machine, the server on one core and the generator on another, so that their
ratios mean something. Absolute figures of two machines, or of two days, mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys

from loadtests.bench import report, rows
from loadtests.bench.bench import Bench


def options_of(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look in about a minute: 2 short rounds, 128 MiB of log")
    parser.add_argument("--only", nargs="+", choices=rows.GROUPS, help="measure these groups of rows only")
    parser.add_argument("--rounds", type=int, help="how often each row is measured (5; quick: 2)")
    parser.add_argument("--seconds", type=float, help="seconds of one measurement (1; quick: 0.4)")
    parser.add_argument(
        "--memory-gib", type=float, help="GiB to write and read for the memory figure (2; quick: 0.125)"
    )
    parser.add_argument("--cores", default="0,1", help="core of the server and of the generator; none: anywhere")
    parser.add_argument("--python-generator", action="store_true", help="do without a C compiler")
    parser.add_argument("--no-file", action="store_true", help="do not write a file under loadtests/results/")
    options = parser.parse_args(arguments)
    defaults = (2, 0.4, 0.125) if options.quick else (5, 1.0, 2.0)
    for name, value in zip(("rounds", "seconds", "memory_gib"), defaults, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def cores_of(text: str) -> tuple[int | None, int | None]:
    """Return the cores of server and generator; None where there is only one core, or none is wanted."""
    if text == "none" or (os.cpu_count() or 1) < 2:
        return None, None
    server, generator = (int(core) for core in text.split(","))
    return server, generator


def main(arguments: list[str]) -> int:
    """Run the bench; the exit code is 1 if a requirement is not met."""
    options = options_of(arguments)
    server_core, generator_core = cores_of(options.cores)
    bench = Bench(
        groups=options.only or rows.GROUPS,
        rounds=options.rounds,
        seconds=options.seconds,
        memory_bytes=int(options.memory_gib * (1 << 30)),
        server_core=server_core,
        generator_core=generator_core,
        uses_c=not options.python_generator,
    )
    result = bench.run()
    verdicts = report.judge(result)
    report.show(result, verdicts)
    if not options.no_file:
        print(f"written: {report.write(result, verdicts, bench.generator.name, vars(options))}")
    return 0 if all(verdict.passed for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
