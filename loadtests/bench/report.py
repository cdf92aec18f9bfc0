"""What the figures mean: ratios against what is required, a table for the terminal, a file for later."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtests.bench.bench import Figures, Result
from loadtests.bench.rows import REQUIREMENTS, Requirement

RESULTS: Final = Path(__file__).parents[1] / "results"
#: Share of its core from which on a generator may have been what limited a row.
BUSY: Final = 0.95


@dataclass(frozen=True, slots=True)
class Verdict:
    """One requirement and what was found.

    Attributes:
        requirement: what is compared with what.
        value: the median over the rounds.
        low, high: the smallest and largest value of a round.
        by_cpu: the same ratio from the server's CPU time for each request, which a busy machine blurs less; None for
            figures that are no ratios.
    """

    requirement: Requirement
    value: float
    low: float
    high: float
    by_cpu: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the requirement is met."""
        return self.requirement.holds(self.value)


def judge(result: Result) -> list[Verdict]:
    """Compare the figures with what is required; a comparison whose rows were not measured is left out."""
    verdicts = []
    for requirement in REQUIREMENTS:
        if requirement.figure:
            values, by_cpu = result.singles.get(requirement.figure, []), None
        else:
            key = "rate" if requirement.per_request else "messages_per_second"
            values = _ratios(result, requirement.above, requirement.below, key)
            # Time for each request: what is twice as fast takes half as long.
            cpu = _ratios(
                result,
                requirement.below,
                requirement.above,
                "server_cpu_us" if requirement.per_request else "cpu_us_per_message",
            )
            by_cpu = statistics.median(cpu) if cpu else None
        if values:
            verdicts.append(Verdict(requirement, statistics.median(values), min(values), max(values), by_cpu))
    return verdicts


def _ratios(result: Result, above: str, below: str, key: str) -> list[float]:
    """Return the ratio of each round."""
    pairs = zip(result.rounds.get(above, []), result.rounds.get(below, []), strict=False)
    return [first[key] / second[key] for first, second in pairs if second[key]]


def median_of(rounds: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


def show(result: Result, verdicts: list[Verdict]) -> None:
    """Print the figures and the verdicts."""
    console = Console(width=max(Console().width, 132))
    console.print(_table_of_rows(result))
    console.print(_table_of_verdicts(verdicts))
    for name, figures in result.limits.items():
        console.print(f"the generator's own limit, {name}: {figures['rate']:,.0f} requests/s")


def _table_of_rows(result: Result) -> Table:
    table = Table("row (medians)", title="requests of 128-byte messages")
    for column in ("requests/s", "messages/s", "CPU us/message", "p50 us", "p99 us", "p99.9 us", "RSS MB", "busy"):
        table.add_column(column, justify="right")
    for name, rounds in result.rounds.items():
        found = median_of(rounds)
        limited = " (generator busy)" if found["generator_load"] > BUSY and found["server_load"] < BUSY else ""
        table.add_row(
            name + limited,
            f"{found['rate']:,.0f}",
            f"{found['messages_per_second']:,.0f}",
            f"{found['cpu_us_per_message']:.2f}",
            *(f"{found[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
            f"{found['rss_mb']:.0f}",
            f"{found['server_load']:.0%}",
        )
    return table


def _table_of_verdicts(verdicts: list[Verdict]) -> Table:
    table = Table("requirement", title="required, on the same run")
    for column in ("median", "lowest", "highest", "by CPU time", "required", ""):
        table.add_column(column, justify="right")
    for verdict in verdicts:
        requirement = verdict.requirement
        unit = f" {requirement.unit}"
        table.add_row(
            requirement.name,
            *(f"{value:.3g}{unit}" for value in (verdict.value, verdict.low, verdict.high)),
            "" if verdict.by_cpu is None else f"{verdict.by_cpu:.3g}{unit}",
            f"{'<' if requirement.figure else '>='} {requirement.limit:g}{unit}",
            "[green]pass[/]" if verdict.passed else "[red]fail[/]",
        )
    return table


def machine() -> dict[str, str | int]:
    """Describe the machine and the interpreter, so that nobody compares figures of two machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return {
        "cpu": next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""),
        "cores": os.cpu_count() or 0,
        "system": platform.platform(),
        "python": sys.version.split()[0],
        **{name: _version(name) for name in ("uvloop", "msgspec", "numpy")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit of the work tree, with a mark if something is not committed."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True, cwd=RESULTS.parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def write(
    result: Result, verdicts: list[Verdict], generator: str, options: dict[str, Any], folder: Path = RESULTS
) -> Path:
    """Write everything as JSON under `loadtests/results/` and return the file."""
    now = datetime.now(UTC)
    folder.mkdir(exist_ok=True)
    path = folder / f"bench-{now:%Y%m%d-%H%M%S}.json"
    content = {
        "when": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "options": options,
        "generator": {"name": generator, "limits": result.limits},
        "rows": {name: {"median": median_of(rounds), "rounds": rounds} for name, rounds in result.rounds.items()},
        "singles": result.singles,
        "requirements": [asdict(verdict) | {"passed": verdict.passed} for verdict in verdicts],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
