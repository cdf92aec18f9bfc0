"""Checks of the course itself: `python -m rocketmq_py.course.checks` prints what is wrong and fails if anything is.

Every module belongs to exactly one stage and imports no later one; every stage has labs and a chapter; every claim of
a stage that is built has a lab.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rocketmq_py.course.claims import labs_by_claim, load_claims
from rocketmq_py.course.imports import imported_modules
from rocketmq_py.course.manifest import STAGED_PACKAGES, Stage, load_stages, project_root


def staged_modules(root: Path) -> list[str]:
    """Return every module that must belong to a stage, as paths relative to the project."""
    return sorted(
        path.relative_to(root).as_posix()
        for package in STAGED_PACKAGES
        for path in (root / "rocketmq_py" / package).rglob("*.py")
        if path.name != "__init__.py"
    )


def check_ownership(root: Path, stages: list[Stage]) -> Iterator[str]:
    """Yield modules that belong to no stage or to several, and manifest entries without a file."""
    owners: dict[str, list[str]] = {}
    for stage in stages:
        for module in stage.modules:
            owners.setdefault(module, []).append(stage.name)
            if not (root / module).is_file():
                yield f"stages/{stage.folder}/stage.toml lists {module}, which does not exist"
    for module in staged_modules(root):
        if module not in owners:
            yield f"{module} belongs to no stage; add it to the modules of one stages/NN_name/stage.toml"
    for module, names in owners.items():
        if len(names) > 1:
            yield f"{module} belongs to {' and '.join(names)}; keep it in the earliest that needs it"


def check_imports(root: Path, stages: list[Stage]) -> Iterator[str]:
    """Yield imports that lead from a stage to a later one."""
    stage_of = {module: stage for stage in stages for module in stage.modules}
    for stage in stages:
        modules = [*stage.modules]
        if (root / f"rocketmq_py/assembly/{stage.name}.py").is_file():
            modules.append(f"rocketmq_py/assembly/{stage.name}.py")
        for module in modules:
            if not (root / module).is_file():
                continue
            for imported in sorted(imported_modules(root, Path(module))):
                owner = stage_of.get(imported)
                if owner is not None and owner.number > stage.number:
                    yield f"{module} (stage {stage.name}) imports {imported} of the later stage {owner.name}"


def check_material(root: Path, stages: list[Stage]) -> Iterator[str]:
    """Yield stages without a chapter, or without labs although they have code."""
    for stage in stages:
        if not (root / stage.chapter).is_file():
            yield f"stage {stage.name} has no chapter {stage.chapter}"
        if stage.modules and not list((root / stage.labs).glob("test_*.py")):
            yield f"stage {stage.name} has no labs in {stage.labs}"


def check_claims(root: Path, stages: list[Stage]) -> Iterator[str]:
    """Yield claims of built stages without a lab, and labs that name a claim that does not exist."""
    claims = load_claims(root)
    labs = labs_by_claim(root)
    built = {stage.name for stage in stages}
    for claim in claims:
        if claim.stage in built and claim.id not in labs:
            yield f'claim {claim.id} (stage {claim.stage}) has no lab; mark one with @pytest.mark.claim("{claim.id}")'
    known = {claim.id for claim in claims}
    for claim_id, found in labs.items():
        if claim_id not in known:
            yield f"{found[0].file}:{found[0].line} shows claim {claim_id}, which labs/data/claims.yaml does not have"


def problems(root: Path) -> list[str]:
    """Return everything that is wrong, one line each."""
    stages = load_stages(root)
    return [
        *check_ownership(root, stages),
        *check_imports(root, stages),
        *check_material(root, stages),
        *check_claims(root, stages),
    ]


def main() -> int:
    """Print the problems; return 1 if there are any."""
    root = project_root()
    found = problems(root)
    for problem in found:
        print(problem)
    print(f"course checks: {len(load_stages(root))} stages, {len(staged_modules(root))} modules, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
