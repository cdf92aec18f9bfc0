"""`rmq-py transaction`: what producers left undecided until the broker gave up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rocketmq_py.cli.client_errors import run_admin
from rocketmq_py.cli.options import DEFAULT_NAMESRV, JsonOption, NamesrvOption, YesOption
from rocketmq_py.cli.output import CliError, Exit, Output, confirm, reporting
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.transactions import AsideMessage, AsideState, TransactionAdmin
from rocketmq_py.common import properties as names

app = typer.Typer(no_args_is_help=True, help="See, resume and discard transactions that nobody decided.")

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Message id or unique key, as `list` shows it.", show_default=False)
]


@app.command("list")
def list_aside(
    show_all: Annotated[
        bool, typer.Option("--all", "-a", help="Also those that were resumed or decided since.")
    ] = False,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """List the messages that were set aside because no producer decided them, in 15 checks or in time."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        found = await TransactionAdmin(admin.instance).list()
        rows = [_row(aside) for aside in found if show_all or aside.state is AsideState.WAITING]
        columns = ("state", "msgId", "topic", "producerGroup", "checks", "bornMs", "setAsideMs", "broker")
        output.rows(columns, rows, "no message waits for an operator; --all shows those that were dealt with")

    with reporting(output):
        run_admin(namesrv, work)


@app.command()
def resume(message_id: IdArgument, namesrv: NamesrvOption = DEFAULT_NAMESRV, json: JsonOption = False) -> None:
    """Have the broker ask the producers of a message again, up to 15 times, as if it never had."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        transactions = TransactionAdmin(admin.instance)
        aside = await _find(transactions, message_id)
        await transactions.resume(aside.message)
        output.item(
            {"resumed": aside.message.unique_key, "topic": aside.real_topic, "broker": aside.message.broker_name}
        )

    with reporting(output):
        run_admin(namesrv, work)


@app.command()
def discard(
    message_id: IdArgument, yes: YesOption = False, namesrv: NamesrvOption = DEFAULT_NAMESRV, json: JsonOption = False
) -> None:
    """Roll a message back in the place of its producer: it will never be delivered."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        transactions = TransactionAdmin(admin.instance)
        aside = await _find(transactions, message_id)
        if aside.state in (AsideState.COMMITTED, AsideState.ROLLED_BACK):
            raise CliError(f"the transaction of {message_id} is {aside.state.value} already", Exit.REFUSED)
        confirm(f"Discard the message {aside.message.unique_key} for topic {aside.real_topic}, for good?", yes)
        await transactions.discard(aside.message)
        output.item({"discarded": aside.message.unique_key, "topic": aside.real_topic})

    with reporting(output):
        run_admin(namesrv, work)


async def _find(transactions: TransactionAdmin, message_id: str) -> AsideMessage:
    aside = await transactions.find(message_id)
    if aside is None:
        raise CliError(
            f"no message {message_id} was set aside",
            Exit.NOT_FOUND,
            "List what there is: rmq-py transaction list --all",
        )
    return aside


def _row(aside: AsideMessage) -> dict[str, Any]:
    message = aside.message
    return {
        "state": aside.state.value,
        "msgId": message.unique_key or message.msg_id,
        "offsetMsgId": message.msg_id,
        "topic": aside.real_topic,
        "producerGroup": aside.producer_group,
        "checks": message.properties.get(names.TRANSACTION_CHECK_TIMES, "0"),
        "bornMs": message.born_timestamp,
        "setAsideMs": message.store_timestamp,
        "broker": message.broker_name,
        "tags": message.tags,
        "keys": message.keys,
        "properties": message.properties,
    }
