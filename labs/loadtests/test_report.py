"""What the bench makes of its figures: ratios within a round, medians over the rounds, a file that says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.bench import report, rows
from loadtests.bench.bench import Figures, Result

SYNC = rows.REQUIREMENTS[0]


def figures(rate: float, cpu_us: float = 10.0) -> Figures:
    """Return what one measurement gives, as far as the report looks at it."""
    return {
        "rate": rate,
        "messages_per_second": rate,
        "server_cpu_us": cpu_us,
        "cpu_us_per_message": cpu_us,
        "p50_us": 50.0,
        "p99_us": 99.0,
        "p999_us": 999.0,
        "rss_mb": 60.0,
        "server_load": 1.0,
        "generator_load": 0.3,
    }


def result_of(sends: list[float], echoes: list[float]) -> Result:
    """Return a run with these rates in its rounds."""
    return Result(
        rounds={
            rows.SEND_64.name: [figures(rate, 25.0) for rate in sends],
            rows.ECHO.name: [figures(rate, 5.0) for rate in echoes],
        }
    )


def test_a_ratio_is_taken_within_a_round_and_the_median_counts() -> None:
    """Claim: a round in which the machine was slow for both rows changes no verdict, nor does one that was spoilt.

    Experiment: three rounds; in the second everything is ten times slower, in the third only the echo was disturbed.
    """
    (verdict,) = report.judge(result_of(sends=[40_000, 4_000, 38_000], echoes=[100_000, 10_000, 20_000]))

    assert verdict.requirement is SYNC
    assert (verdict.value, verdict.low, verdict.high) == (0.4, 0.4, 1.9)
    assert verdict.by_cpu == pytest.approx(0.2)
    assert verdict.passed


@pytest.mark.parametrize(("rate", "passed"), [(29_900, False), (30_000, True)])
def test_a_ratio_must_reach_its_limit(rate: float, passed: bool) -> None:
    """Claim: 0.30 of the echo is enough, less is not."""
    (verdict,) = report.judge(result_of([rate], [100_000]))
    assert verdict.passed is passed


@pytest.mark.parametrize(("megabytes", "passed"), [(89.9, True), (90.0, False)])
def test_memory_must_stay_below_its_limit(megabytes: float, passed: bool) -> None:
    """Claim: figures that are no ratios have to be smaller than their limit."""
    (verdict,) = report.judge(Result(singles={"rss_anon_mb": [megabytes]}))
    assert verdict.passed is passed


def test_nothing_is_said_of_rows_that_were_not_measured() -> None:
    """Claim: `--only` leaves requirements out; it does not fail them."""
    assert report.judge(Result()) == []


def test_the_file_says_what_was_measured_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Claim: a result file has commit, machine, options, every round, and the verdicts."""
    result = result_of([40_000, 41_000], [100_000, 99_000])
    verdicts = report.judge(result)
    report.show(result, verdicts)
    content = json.loads(report.write(result, verdicts, "lg.c", {"rounds": 2}, tmp_path).read_text())

    assert rows.SEND_64.name in capsys.readouterr().out
    assert set(content) >= {"when", "commit", "machine", "options", "generator"}
    assert content["machine"]["cores"] >= 1
    assert content["rows"][rows.SEND_64.name]["median"]["rate"] == 40_500
    assert len(content["rows"][rows.SEND_64.name]["rounds"]) == 2
    assert content["requirements"][0]["passed"] is True
