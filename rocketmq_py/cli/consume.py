"""`rmq-py message consume`: read a topic, as a member of a group or just looking."""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import msgspec

from rocketmq_py.cli.client_errors import permission_hint
from rocketmq_py.cli.connect import connecting
from rocketmq_py.cli.output import CliError, Exit
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.client.consumer_config import LitePullConsumerConfig
from rocketmq_py.client.lite_pull_consumer import LitePullConsumer
from rocketmq_py.client.lite_pull_subscriber import LitePullSubscriber
from rocketmq_py.client.pull_api import PullApi
from rocketmq_py.client.route import subscribe_queues
from rocketmq_py.common.message import MessageExt, MessageQueue
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.remoting.bodies.subscription import SQL92, TAG, build_subscription

#: The name under which messages are read when no group is given; it never commits.
LOOKING_GROUP = "TOOLS_CONSUMER"
#: Seconds of one wait for messages; a stop by a limit or by Ctrl-C is noticed in between.
POLL_SECONDS = 0.5


class Start(enum.Enum):
    """Where reading begins."""

    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """What the command was asked for.

    Attributes:
        topic, group: what to read, and as whom; an empty group only looks and commits nothing.
        start: where to begin if the group has no offset, or without a group.
        start_ms: begin at this store time instead, milliseconds since 1970; a group is moved there.
        tags, sql: an expression on tags, or a condition on properties.
        limit: how many messages at most; 0 for no limit.
        wait: seconds to wait for more; None waits for ever.
    """

    topic: str
    group: str
    start: Start
    start_ms: int | None
    tags: str
    sql: str
    limit: int
    wait: float | None


def parse_time(text: str) -> int:
    """Return milliseconds since 1970 of such a number, or of a date and time (local, or with an offset).

    Raises:
        CliError: it is neither.
    """
    if text.isdecimal():
        return int(text)
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1_000)
    except ValueError:
        raise CliError(
            f"{text!r} is no time", Exit.USAGE, "Give milliseconds since 1970, or 2026-01-31T12:00:00"
        ) from None


async def consume(namesrv: str, options: ConsumeOptions, show: Callable[[MessageExt], None]) -> int:
    """Read until the limit or the wait is over; return how many messages were shown.

    Raises:
        NoRouteError: there is no such topic.
        CliError: none of its queues may be read.
        BrokerResponseError: the broker cannot use the SQL92 condition, or refused something else.
    """
    first, last = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    config = LitePullConsumerConfig(
        auto_commit=False, consume_from_where=first if options.start is Start.FIRST else last
    )
    connecting(config, namesrv)
    expression, kind = (options.sql, SQL92) if options.sql else (options.tags or "*", TAG)
    if options.group:
        async with AdminClient(connecting(ClientConfig(), namesrv)) as admin:
            _check_readable(
                options.topic, subscribe_queues(await admin.instance.fetch_route(options.topic), options.topic)
            )
            if options.start_ms is not None:
                await admin.consumers.reset_offset_by_time(options.topic, options.group, options.start_ms)
        subscriber = LitePullSubscriber(options.group, config)
        subscriber.subscribe(options.topic, expression, kind)
        async with subscriber:
            return await _read(subscriber, options, show)
    looking = LitePullConsumer(LOOKING_GROUP, config)
    looking.set_expression(options.topic, expression, kind)
    async with looking:
        queues = await looking.fetch_queues(options.topic)
        _check_readable(options.topic, queues)
        subscription = build_subscription(options.topic, expression, kind)
        await PullApi(looking.instance, LOOKING_GROUP).check_expression(subscription)
        await looking.assign(queues)
        for queue in queues:
            await looking.seek(queue, await _first_offset(looking, queue, options))
        return await _read(looking, options, show)


def _check_readable(topic: str, queues: Collection[MessageQueue]) -> None:
    if not queues:
        raise CliError(
            f"no queue of topic {topic} may be read: its permission forbids it",
            Exit.NOT_ALLOWED,
            permission_hint(topic),
        )


async def _first_offset(consumer: LitePullConsumer, queue: MessageQueue, options: ConsumeOptions) -> int:
    if options.start_ms is not None:
        return await consumer.offsets.search_offset(queue, options.start_ms)
    if options.start is Start.LAST:
        return await consumer.offsets.max_offset(queue)
    return await consumer.offsets.min_offset(queue)


async def _read(consumer: LitePullConsumer, options: ConsumeOptions, show: Callable[[MessageExt], None]) -> int:
    loop = asyncio.get_running_loop()
    count, quiet_since = 0, loop.time()
    while not options.limit or count < options.limit:
        messages = await consumer.poll(POLL_SECONDS)
        if messages:
            quiet_since = loop.time()
        elif options.wait is not None and loop.time() - quiet_since >= options.wait:
            break
        if options.limit:
            messages = messages[: options.limit - count]
        for message in messages:
            show(message)
        count += len(messages)
        if options.group and messages:
            # Behind what was shown, not behind what was fetched: the rest is for the next time.
            last = messages[-1]
            queue = MessageQueue(options.topic, last.broker_name, last.queue_id)
            await consumer.commit({queue: last.queue_offset + 1})
    return count


def print_json_line(row: dict[str, object]) -> None:
    """Print a message as one line of JSON, at once: a reader in a pipe follows."""
    sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
    sys.stdout.flush()
