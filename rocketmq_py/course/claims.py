"""The claims that the labs show: `labs/data/claims.yaml`, and the labs that carry their marks."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Claim:
    """One behaviour that a lab must show.

    Attributes:
        id: such as `cq-04`.
        stage: name of the stage whose lab carries it.
        verdict: holds, qualified or corrected.
        text: the claim in words.
    """

    id: str
    stage: str
    verdict: str
    text: str


@dataclass(frozen=True, slots=True)
class Lab:
    """One test that shows a claim: its file relative to the project, its name and line, and what it says."""

    file: str
    name: str
    line: int
    docstring: str

    @property
    def sentence(self) -> str:
        """The test's name as a sentence."""
        return self.name.removeprefix("test_").replace("_", " ")


def load_claims(root: Path) -> list[Claim]:
    """Read the claims in their order."""
    rows = yaml.safe_load((root / "labs/data/claims.yaml").read_text("utf-8"))
    return [Claim(row["id"], row["stage"], row["verdict"], row["claim"]) for row in rows]


def labs_by_claim(root: Path) -> dict[str, list[Lab]]:
    """Return the labs of each claim id, found by the mark `@pytest.mark.claim("id", ...)` in the sources."""
    found: dict[str, list[Lab]] = {}
    for path in sorted((root / "labs").rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"), str(path))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lab = Lab(path.relative_to(root).as_posix(), node.name, node.lineno, ast.get_docstring(node) or "")
                for claim in _claims_of(node):
                    found.setdefault(claim, []).append(lab)
    return found


def _claims_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [
        argument.value
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.claim"
        for argument in decorator.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
