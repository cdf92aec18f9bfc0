"""`rmq-py namesrv`: run a name server."""

from __future__ import annotations

from typing import Annotated

import typer

from rocketmq_py.cli import embedded_controller
from rocketmq_py.cli.options import ConfigFileOption, SetOption, VerboseOption
from rocketmq_py.cli.output import Output, reporting
from rocketmq_py.cli.process import run_event_loop, serve_until_signal, set_up_logging
from rocketmq_py.cli.settings import load_settings
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.host import join_address
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv

app = typer.Typer(no_args_is_help=True, help="Run a name server.")


@app.command()
def start(
    config: ConfigFileOption = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 9876 if not given, 0 for any.")] = None,
    assignments: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run a name server until SIGTERM or Ctrl-C."""
    with reporting(Output(verbose=verbose)):
        set_up_logging(verbose)
        environment = system_environment()
        namesrv_config = NamesrvConfig()
        controller_config = embedded_controller.settings()
        load_settings(environment, config, assignments, namesrv_config, *controller_config)
        if port is not None:
            namesrv_config.listen_port = port

        async def main() -> None:
            server = Namesrv(namesrv_config, environment)
            await serve_until_signal(
                embedded_controller.beside(server, controller_config, environment),
                lambda: (
                    "The Name Server boot success. serializeType=JSON, address "
                    + join_address(namesrv_config.bind_address, server.port)
                ),
            )

        run_event_loop(main)
