"""`rmq-py stage`: the course's stages and their slices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rocketmq_py.cli.options import JsonOption
from rocketmq_py.cli.output import Output, reporting
from rocketmq_py.course.manifest import find_stage, load_stages, project_root
from rocketmq_py.course.slices import export_slice

app = typer.Typer(no_args_is_help=True, help="The stages of the course.")


@app.command("list")
def list_stages(json: JsonOption = False) -> None:
    """List the stages in order."""
    output = Output(json)
    with reporting(output):
        rows = [
            {"number": f"{stage.number:02}", "name": stage.name, "modules": len(stage.modules), "title": stage.title}
            for stage in load_stages(project_root())
        ]
        output.rows(("number", "name", "modules", "title"), rows)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name or number of the last stage of the slice.")],
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    json: JsonOption = False,
) -> None:
    """Write the slice of a stage: the project as of that stage, with its labs."""
    output = Output(json)
    with reporting(output):
        root = project_root()
        stages = load_stages(root)
        stage = find_stage(stages, name)
        files = export_slice(root, stages, stage, directory)
        output.item({"stage": stage.name, "directory": str(directory), "files": files})
        output.line(f"Run its labs: cd {directory} && python -m pytest {stage.labs}")
