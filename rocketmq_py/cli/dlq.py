"""`rmq-py dlq`: dead letters, the messages that failed as often as they may."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import typer

from rocketmq_py.cli.client_errors import run_admin
from rocketmq_py.cli.message import message_row
from rocketmq_py.cli.options import DEFAULT_NAMESRV, JsonOption, NamesrvOption
from rocketmq_py.cli.output import CliError, Exit, Output, reporting
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetter, DeadLetterAdmin
from rocketmq_py.client.errors import ClientError, NoRouteError
from rocketmq_py.common.topic import dlq_topic, retry_topic
from rocketmq_py.remoting.errors import RemotingError

app = typer.Typer(no_args_is_help=True, help="Dead letters: list them, look at them, send them again.")

GroupArgument = Annotated[str, typer.Argument(help="The consumer group that failed.", show_default=False)]


class Target(enum.Enum):
    """Who gets a message that is sent again."""

    RETRY = "retry"
    TOPIC = "topic"


@app.command("list")
def list_groups(namesrv: NamesrvOption = DEFAULT_NAMESRV, json: JsonOption = False) -> None:
    """List the groups that have dead letters, and how many."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        rows = [
            {
                "group": summary.group,
                "messages": summary.messages,
                "oldestMs": summary.oldest_ms,
                "newestMs": summary.newest_ms,
            }
            for summary in await DeadLetterAdmin(admin.instance).groups()
        ]
        output.rows(("group", "messages", "oldestMs", "newestMs"), rows, "no dead letters")

    with reporting(output):
        run_admin(namesrv, work)


@app.command()
def view(
    group: GroupArgument,
    message_id: Annotated[str, typer.Option("--id", help="Only this one: its own id, or the message's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many, the last ones.")] = 32,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Show dead letters: where they were sent, how often they were tried, whether they were sent again."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        letters = DeadLetterAdmin(admin.instance)
        found = await (_find(letters, group, message_id) if message_id else letters.newest(group, limit))
        rows = [await _row(letters, letter) for letter in found]
        columns = ("storeTimestampMs", "offsetMsgId", "originTopic", "tags", "keys", "tries", "sentAgainMs", "body")
        output.rows(columns, rows, f"group {group} has no dead letters now")

    with reporting(output):
        run_admin(namesrv, _of_group(group, work))


@app.command()
def resend(
    group: GroupArgument,
    message_id: Annotated[
        list[str] | None, typer.Option("--id", help="This one: its own id, or the message's; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    to: Annotated[
        Target, typer.Option(help="retry: only this group gets it. topic: every group of its first topic does.")
    ] = Target.RETRY,
    again: Annotated[bool, typer.Option("--again", help="Also those that were sent again before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="Most messages a second; 0: as fast as it goes.")] = 0.0,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Send dead letters again, with their keys and properties; the group need not be online.

    Exit status 6 if some could not be sent.
    """
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        letters = DeadLetterAdmin(admin.instance)
        wanted = letters.read(group) if everything else _by_ids(letters, group, message_id or [])
        if to is Target.RETRY and await letters.consumes_in_order(group):
            raise CliError(
                f"group {group} consumes in order: a broker takes what is sent to its retry topic for dead at once",
                Exit.REFUSED,
                f"Send it to its first topic: rmq-py dlq resend {group} --to topic ... Or stop the group's consumers first.",
            )
        rows = []
        async for letter in wanted:
            rows.append(await _resend(letters, letter, to, again=again, dry_run=dry_run))
            if rate:
                await asyncio.sleep(1 / rate)
        output.rows(("status", "offsetMsgId", "msgId", "topic", "keys", "reason"), rows, "nothing to send")
        failed = sum(row["status"] == "FAILED" for row in rows)
        if failed:
            raise CliError(f"{failed} of {len(rows)} dead letters could not be sent", Exit.SOME_FAILED)

    with reporting(output):
        if everything == bool(message_id):
            raise CliError(
                "say which: --id ID, which may be repeated, or --all", Exit.USAGE, f"Look: rmq-py dlq view {group}"
            )
        run_admin(namesrv, _of_group(group, work))


async def _resend(
    letters: DeadLetterAdmin, letter: DeadLetter, to: Target, *, again: bool, dry_run: bool
) -> dict[str, Any]:
    """Send one, or say what would be done with it."""
    to_topic = to is Target.TOPIC
    row = {
        "status": "SENT",
        "offsetMsgId": letter.message.msg_id,
        "msgId": letter.message.unique_key,
        "topic": letter.topic if to_topic else retry_topic(letter.group),
        "keys": letter.message.keys,
        "reason": "",
    }
    try:
        if dry_run:
            letter.again(to_topic=to_topic)
            sent = again or not await letters.sent_again(letter)
            row["status"] = "WOULD BE SENT"
        else:
            sent = await letters.resend(letter, to_topic=to_topic, again=again) is not None
    except (ClientError, RemotingError) as error:
        return {**row, "status": "FAILED", "reason": str(error)}
    return (
        row if sent else {**row, "status": "SKIPPED", "reason": "it was sent again before; --again sends it once more"}
    )


async def _row(letters: DeadLetterAdmin, letter: DeadLetter) -> dict[str, Any]:
    row = message_row(letter.message)
    if "bodyBase64" in row:
        row["body"] = f"({len(letter.message.body)} bytes, not text)"
    return {
        **row,
        "originTopic": letter.topic,
        "originMsgId": letter.origin_message_id,
        "tries": letter.tries,
        "sentAgainMs": await letters.sent_again(letter),
    }


async def _find(letters: DeadLetterAdmin, group: str, message_id: str) -> list[DeadLetter]:
    found = await letters.find(group, message_id)
    if not found:
        raise CliError(
            f"group {group} has no dead letter {message_id}", Exit.NOT_FOUND, f"Look: rmq-py dlq view {group}"
        )
    return found


async def _by_ids(letters: DeadLetterAdmin, group: str, message_ids: list[str]) -> AsyncIterator[DeadLetter]:
    # All are looked for before the first is sent: a typing error must not leave half of the work done.
    found = {letter.message.msg_id: letter for one in message_ids for letter in await _find(letters, group, one)}
    for letter in found.values():
        yield letter


def _of_group(group: str, work: Callable[[AdminClient], Awaitable[None]]) -> Callable[[AdminClient], Awaitable[None]]:
    """Let a command say "no dead letters" when there is no dead-letter topic: a broker makes it for the first one."""

    async def checked(admin: AdminClient) -> None:
        try:
            await work(admin)
        except NoRouteError as error:
            if error.topic != dlq_topic(group):
                raise
            raise CliError(
                f"group {group} has no dead letters", Exit.NOT_FOUND, "Groups that have some: rmq-py dlq list"
            ) from error

    return checked
