"""`rmq-py broker`: run a broker, and print what it is made of."""

from __future__ import annotations

import functools
import ipaddress
import logging
from typing import Annotated

import typer

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.cli.explain import Thing
from rocketmq_py.cli.explain import explain as explain_broker
from rocketmq_py.cli.options import ConfigFileOption, JsonOption, SetOption, VerboseOption
from rocketmq_py.cli.output import Output, reporting
from rocketmq_py.cli.process import run_event_loop, serve_until_signal, set_up_logging
from rocketmq_py.cli.settings import load_settings
from rocketmq_py.common.config import to_properties
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.store.config import MessageStoreConfig

logger = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="Run and inspect a broker.")

ThroughOption = Annotated[
    str | None, typer.Option(help="Last stage to install, such as long_polling; all of them if not given.")
]


def load_configs(
    environment: Environment, file: str | None, assignments: list[str] | None, namesrv: str | None
) -> tuple[BrokerConfig, MessageStoreConfig]:
    """Return the settings of a broker from its file and the command line."""
    config, store_config = BrokerConfig(), MessageStoreConfig()
    load_settings(environment, file, assignments, config, store_config)
    if namesrv is not None:
        config.namesrv_addr = namesrv
    return config, store_config


def warn_about_addresses(config: BrokerConfig) -> None:
    """Log what a broker that listens for other machines should be told: nobody may get in by accident, or in vain."""
    if _is_loopback(config.bind_address):
        return
    logger.warning(
        "the broker listens on %s, and there is no access control: whoever reaches the port may read and write",
        config.bind_address,
    )
    if _is_loopback(config.broker_ip1):
        logger.warning(
            "clients are told to connect to %s, which is their own machine: set brokerIP1 to an address at which they "
            "reach this one",
            config.broker_ip1,
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def ready_line(kernel: Kernel) -> str:
    """Return the line that scripts wait for."""
    config = kernel.config
    return f"The broker[{config.broker_name}, {config.broker_address}] boot success, serializeType=JSON" + (
        f" and name server is {config.namesrv_addr}" if config.namesrv_addr else ""
    )


@app.command()
def start(
    config: ConfigFileOption = None,
    assignments: SetOption = None,
    namesrv: Annotated[str | None, typer.Option("--namesrv", "-n", help="Name servers to register at.")] = None,
    through: ThroughOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run a broker until SIGTERM or Ctrl-C."""
    with reporting(Output(verbose=verbose)):
        set_up_logging(verbose)
        environment = system_environment()
        broker_config, store_config = load_configs(environment, config, assignments, namesrv)
        warn_about_addresses(broker_config)

        async def main() -> None:
            kernel = build_broker(broker_config, store_config, environment, through)
            await serve_until_signal(kernel, lambda: ready_line(kernel))

        run_event_loop(main)


@app.command()
def explain(
    config: ConfigFileOption = None,
    assignments: SetOption = None,
    through: ThroughOption = None,
    json: JsonOption = False,
) -> None:
    """List by stage what a broker is made of, without starting it: parts, hooks, request codes, tables, periodic work."""
    output = Output(json)
    with reporting(output):
        environment = system_environment()
        broker_config, store_config = load_configs(environment, config, assignments, None)

        async def main() -> list[tuple[str, Thing]]:
            build = functools.partial(build_broker, broker_config, store_config, environment)
            build(through)
            return list(explain_broker(build, through))

        found: list[tuple[str, Thing]] = run_event_loop(main)
        rows = [{"stage": stage, "kind": kind, "name": name} for stage, (kind, name) in found]
        output.rows(("stage", "kind", "name"), rows)


@app.command()
def settings(config: ConfigFileOption = None, assignments: SetOption = None, json: JsonOption = False) -> None:
    """Print every setting with the value that `broker start` would use."""
    output = Output(json)
    with reporting(output):
        broker_config, store_config = load_configs(system_environment(), config, assignments, None)
        output.item({**to_properties(broker_config), **to_properties(store_config)})
