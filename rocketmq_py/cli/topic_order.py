"""`rmq-py topic order`: which queues a topic has for ordered messages, whoever is up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rocketmq_py.cli.client_errors import run_admin
from rocketmq_py.cli.options import DEFAULT_NAMESRV, JsonOption, NamesrvOption, YesOption
from rocketmq_py.cli.output import CliError, Exit, Output, confirm, reporting
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.order_config import OrderConfigAdmin, format_order_config, parse_order_config

app = typer.Typer(no_args_is_help=True, help="Show, set and delete the order configuration of a topic.")

NameArgument = Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)]


@app.command()
def get(name: NameArgument, namesrv: NamesrvOption = DEFAULT_NAMESRV, json: JsonOption = False) -> None:
    """Show the order configuration that each name server has."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        found = await OrderConfigAdmin(admin.instance).get(name)
        if not any(found.values()):
            raise CliError(
                f"topic {name} has no order configuration", Exit.NOT_FOUND, f"Set one: rmq-py topic order set {name}"
            )
        output.rows(
            ("nameServer", "orderConf"), [{"nameServer": at, "orderConf": conf or ""} for at, conf in found.items()]
        )
        if len(set(found.values())) > 1:
            raise CliError(
                "the name servers do not agree: producers see what the one says that they ask",
                Exit.SOME_FAILED,
                f"Set it again: rmq-py topic order set {name} --conf ...",
            )

    with reporting(output):
        run_admin(namesrv, work)


@app.command("set")
def set_config(
    name: NameArgument,
    conf: Annotated[str, typer.Option(help="BROKER:QUEUES;BROKER:QUEUES. Default: the queues there are now.")] = "",
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Set the order configuration at every name server.

    From then on producers choose among exactly these queues. Keys may change their queue now: set it before the first
    ordered message, or when all are consumed.
    """
    output = Output(json)
    with reporting(output):
        wanted = parse_order_config(conf) if conf else {}

        async def work(admin: AdminClient) -> None:
            order = OrderConfigAdmin(admin.instance)
            there = await order.queues_now(name)
            queues = wanted or there
            if not queues:
                raise CliError(f"topic {name} has no queue that can be written to; name the queues with --conf")
            await order.set(name, queues)
            silent = await order.silent_name_servers()
            output.item(
                {"topic": name, "orderConf": format_order_config(queues), "warnings": _warnings(queues, there, silent)}
            )

        run_admin(namesrv, work)


def _warnings(queues: dict[str, int], there: dict[str, int], silent: list[str]) -> list[str]:
    """Return why sends may fail, or the configuration may have no effect."""
    found = [
        f"broker {name} has {there.get(name, 0)} of the {count} queues now; sends to the others fail"
        for name, count in queues.items()
        if there.get(name, 0) < count
    ]
    unused = sorted(there.keys() - queues.keys())
    if unused:
        found.append(f"no ordered message goes to {', '.join(unused)}")
    if silent:
        found.append(f"{', '.join(silent)} does not tell clients of it: start it with orderMessageEnable=true")
    return found


@app.command()
def delete(
    name: NameArgument,
    yes: YesOption = False,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Delete the order configuration at every name server; producers use the queues of the brokers that are up again."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        order = OrderConfigAdmin(admin.instance)
        found: dict[str, Any] = await order.get(name)
        if not any(found.values()):
            raise CliError(f"topic {name} has no order configuration", Exit.NOT_FOUND)
        confirm(f"Delete the order configuration of topic {name}? Keys may change their queue.", yes)
        await order.delete(name)
        output.item({"topic": name, "deleted": next(filter(None, found.values()))})

    with reporting(output):
        run_admin(namesrv, work)
