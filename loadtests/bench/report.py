"""What the figures mean: ratios against what is required, a table for the terminal, a file for later."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Figures = dict[str, dict[str, Any]]

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One requirement and what was found.

    Attributes:
        name: what is compared.
        value: what was measured.
        required: the limit.
        at_least: the value must not be below the limit; otherwise it must be below it.
        unit: of both.
    """

    name: str
    value: float
    required: float
    at_least: bool = True
    unit: str = "x"

    @property
    def passed(self) -> bool:
        """Whether the requirement is met."""
        return self.value >= self.required if self.at_least else self.value < self.required


def _ratio(above: str, below: str, key: str = "messages_per_second") -> Callable[[Figures], float]:
    return lambda figures: figures[above][key] / figures[below][key]


REQUIREMENTS: tuple[tuple[str, Callable[[Figures], float], float, bool, str], ...] = (
    ("synchronous sends / echo (64 connections)", _ratio("send 64x1", "echo 64x1", "rate"), 0.30, True, "x"),
    ("pipelined / synchronous sends", _ratio("send 16x32", "send 64x1"), 1.6, True, "x"),
    ("batches of 32 / pipelined sends", _ratio("batch of 32, 16x1", "send 16x32"), 2.0, True, "x"),
    ("pulls of 32 / echo (64 connections)", _ratio("pull of 32, 64x1", "echo 64x1", "rate"), 0.30, True, "x"),
    ("synchronous / asynchronous flush", _ratio("synchronous flush, 64x1", "send 64x1"), 0.55, True, "x"),
    ("50,000 queues / 8 queues", _ratio("50,000 queues, 64x1", "8 queues, 64x1"), 0.75, True, "x"),
    ("private memory after writing and reading", lambda f: f["memory"]["rss_anon_mb"], 90.0, False, "MB"),
    ("start to first accepted send", lambda f: f["start"]["seconds"], 0.5, False, "s"),
)


def judge(figures: Figures) -> list[Verdict]:
    """Compare the figures with what is required; a comparison whose figures were not taken is left out."""
    verdicts = []
    for name, value, required, at_least, unit in REQUIREMENTS:
        try:
            verdicts.append(Verdict(name, value(figures), required, at_least, unit))
        except KeyError:
            continue
    return verdicts


def show(figures: Figures, verdicts: list[Verdict]) -> None:
    """Print the figures and the verdicts."""
    console = Console()
    table = Table("load", "requests/s", "messages/s", "CPU us/message", "p50 us", "p99 us", "p99.9 us", "server load")
    for name, found in figures.items():
        if "rate" not in found:
            continue
        each = found.get("cpu_us_per_message", found["server_cpu_us"])
        table.add_row(
            name,
            f"{found['rate']:,.0f}",
            f"{found.get('messages_per_second', found['rate']):,.0f}",
            f"{each:.2f}",
            *(f"{found[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us")),
            f"{found['server_load']:.0%}",
        )
    console.print(table)
    table = Table("requirement", "measured", "required", "")
    for verdict in verdicts:
        sign = ">=" if verdict.at_least else "<"
        mark = "[green]pass[/]" if verdict.passed else "[red]fail[/]"
        table.add_row(
            verdict.name, f"{verdict.value:.3g} {verdict.unit}", f"{sign} {verdict.required:g} {verdict.unit}", mark
        )
    console.print(table)


def machine() -> dict[str, str | int]:
    """Describe the machine and the interpreter, so that nobody compares figures of two machines."""
    cpu = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), "")
    import os

    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "system": platform.platform(),
        "python": sys.version.split()[0],
        **{name: _version(name) for name in ("uvloop", "msgspec", "numpy")},
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

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


def write(figures: Figures, verdicts: list[Verdict], generator: str) -> Path:
    """Write everything as JSON under `loadtests/results/` and return the file."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"bench-{now:%Y%m%d-%H%M%S}.json"
    content = {
        "when": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "generator": generator,
        "figures": figures,
        "verdicts": [asdict(verdict) | {"passed": verdict.passed} for verdict in verdicts],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path
