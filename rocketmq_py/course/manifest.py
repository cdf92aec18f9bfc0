"""The stages as their manifests state them: `stages/NN_name/stage.toml`.

A manifest lists whole modules. The number is only in the folder's name; the name is the stage's identity.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from rocketmq_py.common.errors import ConfigError, InvalidInputError

#: Packages that belong to no stage and are in every slice.
SUPPORT_PACKAGES = ("assembly", "cli", "course", "sim", "testing")
#: Packages whose every module belongs to exactly one stage.
STAGED_PACKAGES = ("common", "store", "remoting", "namesrv", "broker", "client", "controller", "proxy")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        number: its place in the order, from the folder's name.
        name: its identity.
        title: a heading.
        summary: one sentence.
        modules: paths relative to the project, such as `rocketmq_py/store/commit_log.py`.
        folder: the folder of the manifest, such as `01_commit_log`.
    """

    number: int
    name: str
    title: str
    summary: str
    modules: tuple[str, ...]
    folder: str

    @property
    def labs(self) -> str:
        """Folder of the stage's labs, relative to the project."""
        return f"labs/stage_{self.folder}"

    @property
    def chapter(self) -> str:
        """The stage's page, relative to the project."""
        return f"docs/stages/{self.folder}.md"


def project_root(start: Path | None = None) -> Path:
    """Return the folder of a clone or slice: the one that holds `stages/` and `rocketmq_py/`.

    Raises:
        ConfigError: the package runs from an installation without the course beside it.
    """
    origin = start or Path(__file__).resolve()
    for folder in (origin, *origin.parents):
        if (folder / "stages").is_dir() and (folder / "rocketmq_py").is_dir():
            return folder
    raise ConfigError(
        f"no folder above {origin} holds stages/ and rocketmq_py/: the course needs a clone of the project, "
        "an installed package alone has no manifests and labs"
    )


def load_stages(root: Path) -> list[Stage]:
    """Read all manifests under `root/stages`, in order.

    Raises:
        ConfigError: a manifest cannot be read or lacks a key.
    """
    return [_load(path) for path in sorted((root / "stages").glob("[0-9][0-9]_*/stage.toml"))]


def _load(path: Path) -> Stage:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
        stage = Stage(
            number=int(path.parent.name[:2]),
            name=data["name"],
            title=data["title"],
            summary=data["summary"],
            modules=tuple(data["modules"]),
            folder=path.parent.name,
        )
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error!r}; a manifest has name, title, summary and modules") from None
    if path.parent.name[3:] != stage.name:
        raise ConfigError(f"{path}: the stage is called {stage.name!r} but its folder {path.parent.name!r}")
    return stage


def find_stage(stages: list[Stage], name: str) -> Stage:
    """Return the stage called `name` (`index`, `03_index` or `3`).

    Raises:
        InvalidInputError: there is none.
    """
    for stage in stages:
        if name in (stage.name, stage.folder, str(stage.number)):
            return stage
    raise InvalidInputError(f"there is no stage {name!r}; the stages are {', '.join(stage.name for stage in stages)}")
