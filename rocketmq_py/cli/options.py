"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_NAMESRV = "127.0.0.1:9876"
NAMESRV_VARIABLE = "NAMESRV_ADDR"

NamesrvOption = Annotated[
    str,
    typer.Option(
        "--namesrv",
        "-n",
        envvar=NAMESRV_VARIABLE,
        help="Name servers, HOST:PORT;HOST:PORT.",
        show_default=True,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show the stack trace of an error.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
ConfigFileOption = Annotated[
    str | None, typer.Option("--config", "-c", help="A property file, such as RocketMQ's broker.conf.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated, beats the file.")
]
