"""`rmq-py message`: send, consume and find messages."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rocketmq_py.cli.client_errors import run_admin, run_client
from rocketmq_py.cli.connect import connecting
from rocketmq_py.cli.consume import ConsumeOptions, Start, parse_time, print_json_line
from rocketmq_py.cli.consume import consume as consume_messages
from rocketmq_py.cli.options import DEFAULT_NAMESRV, JsonOption, NamesrvOption
from rocketmq_py.cli.output import CliError, Exit, Output, reporting
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.common import properties as names
from rocketmq_py.common.message import Message, MessageExt

app = typer.Typer(no_args_is_help=True, help="Send, consume and find messages.")

TopicArgument = Annotated[str, typer.Argument(help="Name of the topic.", show_default=False)]
#: Largest file that `--body-file` takes: a broker's default limit.
MAX_BODY_SIZE = 4 << 20


@app.command()
def send(
    topic: TopicArgument,
    body: Annotated[str | None, typer.Argument(help="The text; `-` reads standard input.", show_default=False)] = None,
    body_file: Annotated[Path | None, typer.Option(help="Send the bytes of a file.")] = None,
    tags: Annotated[str, typer.Option(help="The tag.")] = "",
    keys: Annotated[str, typer.Option(help="Index keys, separated by blanks.")] = "",
    prop: Annotated[list[str] | None, typer.Option("--property", metavar="KEY=VALUE", help="May be repeated.")] = None,
    delay_level: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Deliver it later: 1 is 1 s, 18 is 2 h by the broker's default.")
    ] = 0,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Send it so many times.")] = 1,
    delay_ms: Annotated[int | None, typer.Option(min=1, help="Deliver it so many milliseconds from now.")] = None,
    deliver_at: Annotated[
        str, typer.Option(help="Deliver it at a time: milliseconds since 1970 or a date, as 2026-01-31T12:00:00.")
    ] = "",
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Send a message and print where it was stored."""
    output = Output(json)
    with reporting(output):
        content = _content(body, body_file)
        properties = dict(_assignment(text) for text in prop or ())
        properties |= _time_of_delivery(delay_ms, deliver_at)

        async def work() -> None:
            rows = []
            async with Producer(config=connecting(ProducerConfig(), namesrv)) as producer:
                for _ in range(count):
                    message = Message.of(topic, content, tags=tags, keys=keys)
                    message.properties.update(properties)
                    if delay_level:
                        message.delay_level = delay_level
                    result = await producer.send(message)
                    rows.append(
                        {
                            "status": result.status.name,
                            "msgId": result.msg_id,
                            "offsetMsgId": result.offset_msg_id,
                            "broker": result.queue.broker_name,
                            "queue": result.queue.queue_id,
                            "queueOffset": result.queue_offset,
                            **({"recallHandle": result.recall_handle} if result.recall_handle else {}),
                        }
                    )
            output.rows(("status", "msgId", "broker", "queue", "queueOffset"), rows)

        run_client(namesrv, work)


def _content(body: str | None, body_file: Path | None) -> bytes:
    if (body is None) == (body_file is None):
        raise CliError(
            "give the message as a text, as - for standard input, or as --body-file; one of them", Exit.USAGE
        )
    if body_file is not None:
        size = body_file.stat().st_size
        if size > MAX_BODY_SIZE:
            raise CliError(
                f"{body_file} has {size} bytes, more than the {MAX_BODY_SIZE} that a broker takes", Exit.USAGE
            )
        return body_file.read_bytes()
    return sys.stdin.buffer.read(MAX_BODY_SIZE + 1) if body == "-" else str(body).encode()


def _time_of_delivery(delay_ms: int | None, deliver_at: str) -> dict[str, str]:
    if delay_ms is not None and deliver_at:
        raise CliError("--delay-ms and --deliver-at say two times; give one of them", Exit.USAGE)
    if delay_ms is not None:
        return {names.TIMER_DELAY_MS: str(delay_ms)}
    return {names.TIMER_DELIVER_MS: str(parse_time(deliver_at))} if deliver_at else {}


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise CliError(f"--property {text!r} is not KEY=VALUE", Exit.USAGE)
    return name, value


@app.command()
def consume(
    topic: TopicArgument,
    group: Annotated[str, typer.Option(help="Read as a member of this group, and commit; without, just look.")] = "",
    start: Annotated[Start, typer.Option("--from", help="Where to begin when the group has no offset.")] = Start.FIRST,
    from_time: Annotated[
        str, typer.Option(help="Begin at a store time: milliseconds since 1970 or a date; moves the group.")
    ] = "",
    tags: Annotated[str, typer.Option("--filter", help="Tags, separated by ||.")] = "",
    sql: Annotated[str, typer.Option(help="An SQL92 condition on properties.")] = "",
    count: Annotated[int, typer.Option("--count", "--max", min=0, help="Stop after so many messages; 0: never.")] = 0,
    wait: Annotated[float, typer.Option(min=0, help="Stop after so many seconds without a message.")] = 3.0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Never stop: until Ctrl-C.")] = False,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: Annotated[bool, typer.Option("--json", help="Print each message as one line of JSON.")] = False,
) -> None:
    """Read messages: with --group as its member, without just looking. Exit status 3 if there were none."""
    output = Output(json)

    def show(message: MessageExt) -> None:
        row = message_row(message)
        if json:
            print_json_line(row)
            return
        body = row.get("body", f"({len(message.body)} bytes, not text)")
        output.line(f"{message.queue_id}:{message.queue_offset}  {message.tags or '-'}  {body}")

    with reporting(output):
        if tags and sql:
            raise CliError("give --filter or --sql, not both", Exit.USAGE)
        options = ConsumeOptions(
            topic,
            group,
            start,
            parse_time(from_time) if from_time else None,
            tags,
            sql,
            count,
            None if follow else wait,
        )

        async def work() -> None:
            if not await consume_messages(namesrv, options, show):
                raise CliError(
                    f"no message of topic {topic} came within {wait:g} s", Exit.NOT_FOUND, "Wait longer: --follow"
                )

        run_client(namesrv, work)


@app.command()
def query(
    topic: TopicArgument,
    key: Annotated[str, typer.Option(help="One of the message's keys.")] = "",
    message_id: Annotated[str, typer.Option("--id", help="Message id or unique key.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most messages.")] = 32,
    namesrv: NamesrvOption = DEFAULT_NAMESRV,
    json: JsonOption = False,
) -> None:
    """Find messages by key, or one by its id."""
    output = Output(json)

    async def work(admin: AdminClient) -> None:
        if message_id:
            found = await admin.messages.view(topic, message_id)
            messages = [found] if found is not None else []
        else:
            messages = (await admin.messages.by_key(topic, key, max_num=limit))[:limit]
        if not messages:
            what = f"id {message_id}" if message_id else f"key {key!r}"
            raise CliError(f"no message of topic {topic} has {what}", Exit.NOT_FOUND)
        _print_messages(output, messages)

    with reporting(output):
        if bool(key) == bool(message_id):
            raise CliError("give --key or --id", Exit.USAGE)
        run_admin(namesrv, work)


def message_row(message: MessageExt) -> dict[str, Any]:
    """Return a message as JSON shows it: the body as text if it is UTF-8, else in base64."""
    row: dict[str, Any] = {
        "topic": message.topic,
        "broker": message.broker_name,
        "queue": message.queue_id,
        "queueOffset": message.queue_offset,
        "msgId": message.unique_key or message.msg_id,
        "offsetMsgId": message.msg_id,
        "tags": message.tags,
        "keys": message.keys,
        "storeTimestampMs": message.store_timestamp,
        "bornHost": message.born_host,
        "reconsumeTimes": message.reconsume_times,
        "properties": message.properties,
    }
    try:
        row["body"] = message.body.decode()
    except UnicodeDecodeError:
        row["bodyBase64"] = base64.b64encode(message.body).decode()
    return row


def _print_messages(output: Output, messages: list[MessageExt]) -> None:
    rows = [message_row(message) for message in messages]
    for row in rows:
        row.setdefault(
            "body", f"({len(row.get('bodyBase64', '')) * 3 // 4} bytes, not text)"
        ) if not output.as_json else None
    output.rows(("queue", "queueOffset", "msgId", "tags", "keys", "body"), rows)
