"""`rmq-py topic`: list, create, describe and delete topics."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Annotated, Any

import typer

from rocketmq_py.cli.client_errors import run_admin
from rocketmq_py.cli.options import DEFAULT_NAMESRV, JsonOption, NamesrvOption, YesOption
from rocketmq_py.cli.output import CliError, Exit, Output, confirm, reporting
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.common import permission
from rocketmq_py.common.topic import is_dlq_topic, is_retry_topic, is_system_topic

app = typer.Typer(no_args_is_help=True, help="List, create, describe and delete topics.")
# A slice of an earlier stage has no order.
if importlib.util.find_spec("rocketmq_py.client.admin.order_config") is not None:
    app.add_typer(
        importlib.import_module("rocketmq_py.cli.topic_order").app,
        name="order",
        help="Show, set and delete the order configuration of a topic.",
    )

NameArgument = Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)]
ClusterOption = Annotated[str, typer.Option(help="Name of the cluster; needed if there are several.")]


@app.command("list")
def list_topics(
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Also topics of the system and of groups.")] = False,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """List the topics that the name server knows."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        info = await admin.cluster.cluster_info()
        own_names = {*info.cluster_addr_table, *info.broker_addr_table}
        own_names |= {f"{cluster}_REPLY_TOPIC" for cluster in info.cluster_addr_table}
        rows = []
        for name in await admin.topics.names():
            kind = _kind(name, own_names)
            if show_all or kind == "normal":
                rows.append({"topic": name, "kind": kind})
        output.rows(("topic", "kind") if show_all else ("topic",), rows, "no topics; --all shows those of the system")

    with reporting(output):
        run_admin(namesrv, work)


def _kind(name: str, own_names: set[str]) -> str:
    if is_retry_topic(name):
        return "retry"
    if is_dlq_topic(name):
        return "dead letters"
    return "system" if is_system_topic(name) or name in own_names else "normal"


@app.command()
def create(
    name: NameArgument,
    queues: Annotated[int, typer.Option("--queues", "-q", min=1, max=65_536, help="Queues on each broker.")] = 8,
    cluster: ClusterOption = "",
    perm: Annotated[str, typer.Option(help="RW, R or W.")] = "RW",
    attribute: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Such as message.type=FIFO; may be repeated.")
    ] = None,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Create a topic on every master of the cluster, or change the one that is there."""
    output = Output(json)
    with reporting(output):
        attributes = dict(_assignment(text) for text in attribute or ())
        bits = _permission(perm)

        async def work(admin: AdminClient) -> None:
            brokers = await admin.topics.create(name, queues, cluster=cluster, perm=bits, attributes=attributes)
            output.item({"topic": name, "queues": queues, "perm": permission.to_text(bits), "brokers": brokers})

        run_admin(namesrv, work)


def _assignment(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise CliError(f"--attribute {text!r} is not KEY=VALUE", Exit.USAGE)
    return key, value


def _permission(text: str) -> int:
    choices = {"RW": permission.READ_WRITE, "R": permission.READ, "W": permission.WRITE}
    if text.upper() not in choices:
        raise CliError(f"--perm {text!r} is none of RW, R, W", Exit.USAGE)
    return choices[text.upper()]


@app.command()
def describe(name: NameArgument, namesrv: NamesrvOption = DEFAULT_NAMESRV, json: JsonOption = False) -> None:
    """Show the queues of a topic: where each begins and ends, and when it was last written to."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        stats = await admin.topics.stats(name)
        rows: list[dict[str, Any]] = [
            {
                "broker": queue.broker_name,
                "queue": queue.queue_id,
                "minOffset": offset.min_offset,
                "maxOffset": offset.max_offset,
                "messages": offset.max_offset - offset.min_offset,
                "lastUpdateMs": offset.last_update_timestamp,
            }
            for queue, offset in stats.offset_table.items()
        ]
        output.rows(("broker", "queue", "minOffset", "maxOffset", "messages", "lastUpdateMs"), rows)

    with reporting(output):
        run_admin(namesrv, work)


@app.command()
def delete(
    name: NameArgument,
    cluster: ClusterOption = "",
    yes: YesOption = False,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Delete a topic on every master and name server. Consumers' progress in it goes too."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        await admin.topics.route(name)
        confirm(f"Delete topic {name} and the progress of its consumers?", yes)
        await admin.topics.delete(name, cluster=cluster)
        output.item({"deleted": name})

    with reporting(output):
        run_admin(namesrv, work)
