"""`rmq-py controller`: run a controller, and see and change who is master."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from rocketmq_py.cli.connect import controller_tls
from rocketmq_py.cli.options import ConfigFileOption, JsonOption, SetOption, VerboseOption, YesOption
from rocketmq_py.cli.output import CliError, Exit, Output, confirm, reporting
from rocketmq_py.cli.process import run_event_loop, serve_until_signal, set_up_logging
from rocketmq_py.cli.settings import load_settings
from rocketmq_py.client.admin.controllers import ControllerAdmin
from rocketmq_py.client.errors import BrokerResponseError, ClientError
from rocketmq_py.common.environment import system_environment
from rocketmq_py.controller.config import DEFAULT_PORT, ControllerConfig
from rocketmq_py.controller.server import Controller
from rocketmq_py.remoting.bodies.controller import ReplicasInfo
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.headers.controller import NO_BROKER_ID

app = typer.Typer(no_args_is_help=True, help="Run a controller, and see and change who is master.")

DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
AddressOption = Annotated[
    str,
    typer.Option("--address", "-a", envvar="RMQ_PY_CONTROLLER_ADDR", help="Controllers, HOST:PORT;HOST:PORT."),
]
BrokerNameArgument = Annotated[str, typer.Argument(help="Name of the broker group.", show_default=False)]
ClusterOption = Annotated[str, typer.Option("--cluster", "-c", help="Name of the cluster.")]


def ready_line(controller: Controller) -> str:
    """Return the line that scripts wait for."""
    return f"The Controller Server boot success. serializeType=JSON, address {controller.address}"


@app.command()
def start(
    config: ConfigFileOption = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help=f"Port of a controller without peers; {DEFAULT_PORT} if not given."),
    ] = None,
    assignments: SetOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run a controller until SIGTERM or Ctrl-C."""
    with reporting(Output(verbose=verbose)):
        set_up_logging(verbose)
        environment = system_environment()
        controller_config = ControllerConfig()
        load_settings(environment, config, assignments, controller_config)
        if port is not None:
            if controller_config.controller_d_leger_peers:
                raise CliError("--port does not go with controllerDLegerPeers: the port is in the list", Exit.USAGE)
            controller_config.controller_port = port

        async def main() -> None:
            controller = Controller(controller_config, environment)
            await serve_until_signal(controller, lambda: ready_line(controller))

        run_event_loop(main)


@app.command()
def status(
    broker_names: Annotated[list[str] | None, typer.Argument(help="Broker groups to describe.")] = None,
    address: AddressOption = DEFAULT_ADDRESS,
    json: JsonOption = False,
) -> None:
    """Show who leads the controllers, and master and replicas of broker groups."""
    output = Output(json)

    async def work(admin: ControllerAdmin) -> None:
        found = await admin.metadata()
        controllers: list[dict[str, Any]] = []
        for at, said in found.items():
            if isinstance(said, RemotingError):
                controllers.append({"address": at, "problem": str(said)})
            else:
                controllers.append(
                    {
                        "address": at,
                        "group": said.group,
                        "isLeader": said.is_leader,
                        "leader": said.controller_leader_address or "",
                        "peers": [peer for peer in (said.peers or "").split(";") if peer],
                    }
                )
        groups = await admin.sync_state(broker_names or [])
        missing = [name for name in broker_names or [] if name not in groups]
        if json:
            output.json({"controllers": controllers, "groups": {name: _group(info) for name, info in groups.items()}})
        else:
            output.rows(("address", "isLeader", "leader", "problem"), controllers)
            for name, info in groups.items():
                output.line("")
                output.line(
                    f"{name}: master epoch {info.master_epoch}, sync state set epoch {info.sync_state_set_epoch}"
                )
                output.rows(("brokerId", "address", "role", "inSync", "alive"), _group(info)["replicas"])
        if missing:
            raise CliError(f"the controllers do not know {', '.join(missing)}", Exit.NOT_FOUND)

    with reporting(output):
        _run(address, work)


def _group(info: ReplicasInfo) -> dict[str, Any]:
    """Return a broker group as JSON."""
    replicas = [
        {
            "brokerId": replica.broker_id,
            "address": replica.broker_address,
            "role": "master" if replica.broker_id == info.master_broker_id else "slave",
            "inSync": is_in_sync,
            "alive": replica.alive,
        }
        for is_in_sync, members in ((True, info.in_sync_replicas), (False, info.not_in_sync_replicas))
        for replica in members
    ]
    return {
        "masterBrokerId": info.master_broker_id,
        "masterAddress": info.master_address,
        "masterEpoch": info.master_epoch,
        "syncStateSetEpoch": info.sync_state_set_epoch,
        "replicas": sorted(replicas, key=lambda replica: int(str(replica["brokerId"]))),
    }


@app.command()
def elect(
    broker_name: BrokerNameArgument,
    broker_id: Annotated[
        int, typer.Option("--broker-id", "-b", min=NO_BROKER_ID, help="The new master; -1 lets the controller choose.")
    ] = NO_BROKER_ID,
    cluster: ClusterOption = "DefaultCluster",
    address: AddressOption = DEFAULT_ADDRESS,
    json: JsonOption = False,
) -> None:
    """Make a replica the master of its group. It must be alive, and in sync unless unclean elections are allowed."""
    output = Output(json)

    async def work(admin: ControllerAdmin) -> None:
        header, body = await admin.elect_master(cluster, broker_name, broker_id)
        output.item(
            {
                "brokerName": broker_name,
                "masterBrokerId": header.master_broker_id,
                "masterAddress": header.master_address,
                "masterEpoch": header.master_epoch,
                "syncStateSetEpoch": header.sync_state_set_epoch,
                "syncStateSet": body.sync_state_set,
            }
        )

    with reporting(output):
        _run(address, work)


@app.command()
def clean(
    broker_name: BrokerNameArgument,
    broker_ids: Annotated[
        list[int] | None, typer.Option("--broker-id", "-b", min=1, help="A replica; may be repeated. Default: all.")
    ] = None,
    even_if_alive: Annotated[bool, typer.Option("--even-if-alive", help="Forget it although it lives.")] = False,
    cluster: ClusterOption = "DefaultCluster",
    address: AddressOption = DEFAULT_ADDRESS,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Let the controllers forget replicas, or a whole broker group. The brokers' files are not touched."""
    output = Output(json)
    ids = broker_ids or []

    async def work(admin: ControllerAdmin) -> None:
        what = f"replica {', '.join(map(str, ids))} of {broker_name}" if ids else f"all replicas of {broker_name}"
        confirm(f"Let the controllers forget {what}?", yes)
        await admin.clean_broker_data(cluster, broker_name, ids, even_if_alive=even_if_alive)
        output.item({"brokerName": broker_name, "cleaned": ids or "all"})

    with reporting(output):
        _run(address, work)


def _run(addresses: str, work: Callable[[ControllerAdmin], Awaitable[None]]) -> None:
    """Run the coroutine of a command, and turn what fails into statuses and next steps."""
    environment = system_environment()

    async def main() -> None:
        client = RemotingClient(environment.clock, tls=controller_tls())
        try:
            await work(ControllerAdmin(client, environment.clock, addresses))
        finally:
            await client.close()

    try:
        asyncio.run(main())
    except BrokerResponseError as error:
        raise CliError(str(error), Exit.REFUSED) from error
    except RemotingError as error:
        hint = f"Start one: rmq-py controller start. Name another: --address HOST:PORT (now {addresses})"
        raise CliError(str(error), Exit.CANNOT_CONNECT, hint) from error
    except ClientError as error:
        hint = "More than half of the controllers have to run: look at rmq-py controller status"
        raise CliError(str(error), Exit.CANNOT_CONNECT, hint) from error
