"""Slices: the project as of one stage, with whole modules and nothing else.

The slice of stage N holds the modules of stages 0 to N, the support packages, and the labs and manifests of those
stages. It is a project of its own: its labs run in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.course.manifest import SUPPORT_PACKAGES, Stage

#: Files that every slice needs beside modules and labs.
_PROJECT_FILES = ("pyproject.toml", "LICENSE", "README.md", "labs/conftest.py")
_PROJECT_FOLDERS = ("labs/data",)
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


def slice_files(root: Path, stages: list[Stage], last: Stage) -> list[Path]:
    """Return the files of a slice, relative to `root`, sorted."""
    included = [stage for stage in stages if stage.number <= last.number]
    later = [stage for stage in stages if stage.number > last.number]
    left_out = {Path(module) for stage in later for module in stage.modules}
    left_out |= {Path(f"rocketmq_py/assembly/{stage.name}.py") for stage in later}
    files = {Path(module) for stage in included for module in stage.modules}
    files |= {path.relative_to(root) for path in root.glob("rocketmq_py/**/__init__.py")}
    files |= {
        path.relative_to(root)
        for package in SUPPORT_PACKAGES
        for path in (root / "rocketmq_py" / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    files |= {path.relative_to(root) for path in root.glob("rocketmq_py/**/*.json")}
    files |= {path.relative_to(root) for path in root.glob("rocketmq_py/**/*.lark")}
    files |= {path.relative_to(root) for path in root.glob("rocketmq_py/topologies/*/*")}
    files |= {Path("rocketmq_py/py.typed")}
    files |= {Path(name) for name in _PROJECT_FILES if (root / name).is_file()}
    folders = [
        *_PROJECT_FOLDERS,
        *(stage.labs for stage in included),
        *(f"stages/{stage.folder}" for stage in included),
    ]
    files |= {
        path.relative_to(root)
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return sorted(files - left_out)


def export_slice(root: Path, stages: list[Stage], last: Stage, target: Path) -> int:
    """Copy a slice to a new folder and return the number of files.

    Raises:
        InvalidInputError: `target` exists and is not an empty folder; nothing was written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInputError(f"{target} exists and is not an empty folder; name a new one")
    files = slice_files(root, stages, last)
    for path in files:
        destination = target / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, destination)
    return len(files)
