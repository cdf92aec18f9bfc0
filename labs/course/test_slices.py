"""Staging, proven by execution: the slice of each stage is a project of its own, and its labs pass in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rocketmq_py.course.checks import problems
from rocketmq_py.course.manifest import find_stage, load_stages, project_root
from rocketmq_py.course.slices import export_slice, slice_files

ROOT = project_root(Path(__file__).resolve())
STAGES = load_stages(ROOT)
WITH_CODE = [stage.name for stage in STAGES if stage.modules]


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a slice, so that `rocketmq_py` is the slice's and nothing of this process leaks in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment = {**kept, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_course_is_sound() -> None:
    """Every module has one stage and imports no later one; every stage has chapter and labs; every claim has a lab."""
    assert problems(ROOT) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", WITH_CODE)
def test_the_labs_of_a_stage_pass_in_its_slice(name: str, tmp_path: Path) -> None:
    """The whole modules of the stages up to this one, copied to an empty folder, import alone and pass the labs."""
    stage = find_stage(STAGES, name)
    folder = tmp_path / stage.folder
    export_slice(ROOT, STAGES, stage, folder)

    where = run_in(folder, "-c", "import rocketmq_py; print(rocketmq_py.__file__)")
    assert where.stdout.strip() == str(folder / "rocketmq_py/__init__.py"), where.stderr

    result = run_in(
        folder, "-m", "pytest", stage.labs, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not serial"
    )
    assert result.returncode == 0, (
        f"the labs of {name} in their slice:\n{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
    )


@pytest.mark.parametrize("name", WITH_CODE)
def test_every_module_of_a_slice_imports_alone(name: str, tmp_path: Path) -> None:
    """No module of a slice needs one that comes later, not even by an import inside a function that runs at import."""
    stage = find_stage(STAGES, name)
    folder = tmp_path / stage.folder
    export_slice(ROOT, STAGES, stage, folder)
    modules = [module for known in STAGES if known.number <= stage.number for module in known.modules]
    names = [module.removesuffix(".py").replace("/", ".") for module in modules]
    script = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\nprint(len({names!r}))"

    result = run_in(folder, "-W", "error", "-c", script)

    assert result.stdout.strip() == str(len(names)), result.stderr[-3000:]


def test_a_slice_holds_nothing_of_a_later_stage() -> None:
    """The files of the first slice and the modules of all later stages have nothing in common."""
    first = find_stage(STAGES, WITH_CODE[0])
    files = {path.as_posix() for path in slice_files(ROOT, STAGES, first)}
    later = {module for stage in STAGES if stage.number > first.number for module in stage.modules}
    assert later
    assert files & later == set()
    assert not any(f"labs/stage_{stage.folder}/" in path for stage in STAGES[2:] for path in files)


def test_an_export_never_writes_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    """A learner's work is safe: the export refuses before it writes."""
    (tmp_path / "mine.txt").write_text("my notes")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_slice(ROOT, STAGES, STAGES[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
