"""`rmq-py`: the command line.

Each group of commands is a module of its own, loaded when it is called, so that `rmq-py --help` stays fast; a slice of
the course shows only the groups whose subsystem it has.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated, Final

import typer

#: Group or command -> module that has it (as `app`), the module of the package it needs, and its help.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "tour": ("rocketmq_py.cli.tour", "rocketmq_py.assembly.transaction", "See the finished system at work in 20 s."),
    "standalone": (
        "rocketmq_py.cli.standalone",
        "rocketmq_py.assembly.namesrv",
        "Run name server and broker in one process.",
    ),
    "namesrv": ("rocketmq_py.cli.namesrv", "rocketmq_py.namesrv.server", "Run a name server."),
    "broker": ("rocketmq_py.cli.broker", "rocketmq_py.assembly.remoting", "Run and inspect a broker."),
    "controller": (
        "rocketmq_py.cli.controller",
        "rocketmq_py.controller.server",
        "Run a controller, and see and change who is master.",
    ),
    "cluster": (
        "rocketmq_py.cli.cluster",
        "rocketmq_py.store.ha.ha_service",
        "Run a whole cluster on this machine, and take parts of it away.",
    ),
    "topic": ("rocketmq_py.cli.topic", "rocketmq_py.client.producer", "List, create, describe and delete topics."),
    "message": ("rocketmq_py.cli.message", "rocketmq_py.client.producer", "Send, consume and find messages."),
    "transaction": (
        "rocketmq_py.cli.transaction",
        "rocketmq_py.client.admin.transactions",
        "See, resume and discard transactions that nobody decided.",
    ),
    "dlq": (
        "rocketmq_py.cli.dlq",
        "rocketmq_py.client.admin.dead_letters",
        "Dead letters: list them, look at them, send them again.",
    ),
    "store": ("rocketmq_py.cli.store", "rocketmq_py.store.verify", "Look into the files of a store."),
    "stage": ("rocketmq_py.cli.stage", "rocketmq_py.course.manifest", "The stages of the course."),
}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _print_version(wanted: bool) -> None:
    if wanted:
        # Slow to import, and of no use to a server that starts.
        import importlib.metadata

        print(f"rocketmq_py {importlib.metadata.version('rocketmq-py')}")
        raise typer.Exit()


def build_app(called: str | None) -> typer.Typer:
    """Return the application; only the group that is `called` is loaded, the others have just their help."""
    app = typer.Typer(
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        help="RocketMQ that one can read: servers, tools and a course.",
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    for name, (module, needed, help_text) in COMMANDS.items():
        if _is_there(needed):
            group = importlib.import_module(module).app if name == called else typer.Typer()
            app.add_typer(group, name=name, help=help_text)
    return app


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """RocketMQ that one can read: servers, tools and a course."""


def main() -> None:
    """Entry point of the console script."""
    try:
        build_app(sys.argv[1] if len(sys.argv) > 1 else None)()
    except BrokenPipeError:
        # `rmq-py ... | head`: the reader has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
