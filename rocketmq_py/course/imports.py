"""Which module of the package imports which, read from the source without running it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = "rocketmq_py"


def imported_modules(root: Path, module: Path) -> set[str]:
    """Return the modules (paths relative to `root`) that a module imports anywhere, also inside functions.

    Imports under `if TYPE_CHECKING:` count too: a slice is also type-checked.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse((root / module).read_text("utf-8"), str(module))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from package import name`: the name may be a module or something in the package.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if (path := _path_of(root, name)) is not None:
                found.add(path)
    return found


def _path_of(root: Path, name: str) -> str | None:
    if name.split(".")[0] != PACKAGE:
        return None
    path = Path(*name.split(".")).with_suffix(".py") if "." in name else Path(name, "__init__.py")
    return path.as_posix() if (root / path).is_file() else None
