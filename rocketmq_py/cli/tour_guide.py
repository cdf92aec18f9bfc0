"""The guide of the tour: what a chapter works with, and how it shows what it does."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.cli.dump import Piece, text_lines
from rocketmq_py.cli.output import CliError, printable
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import InOrder
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.namesrv.config import NamesrvConfig
from rocketmq_py.namesrv.server import Namesrv
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, MessageModel
from rocketmq_py.remoting.bodies.subscription import TAG
from rocketmq_py.store.config import MessageStoreConfig

T = TypeVar("T")

#: Small files: a tour writes a few kilobytes.
LOG_FILE_SIZE = 1 << 20
INDEX_SLOTS, INDEX_ENTRIES = 1_000, 4_000
#: Seconds that the tour waits for something that takes milliseconds.
PATIENCE = 10.0
#: Text is never wider than this, however wide the terminal is.
MAX_WIDTH = 100
#: Fields of up to so many bytes are shown in one line with their meaning.
SHORT_FIELD = 8
#: Colours of the fields of a record, in turn.
FIELD_STYLES = ("cyan", "green", "yellow", "magenta", "blue", "red")


@dataclass(slots=True)
class Inbox:
    """A consumer of the tour and what came in.

    Attributes:
        consumer: the consumer.
        messages: in the order of arrival.
    """

    consumer: PushConsumer
    messages: list[MessageExt] = field(default_factory=list)

    @property
    def bodies(self) -> list[str]:
        """The texts that came in."""
        return [message.body.decode() for message in self.messages]

    async def receives(self, count: int) -> list[MessageExt]:
        """Wait for the first `count` messages, and a moment for any that should not come."""
        await wait_for(lambda: len(self.messages) >= count, f"{count} messages at group {self.consumer.group}")
        await asyncio.sleep(0.1)
        if len(self.messages) != count:
            raise CliError(f"{count} messages were to come, {len(self.messages)} came: {self.bodies}")
        return list(self.messages)


class Guide:
    """Runs a name server and a broker, and talks about them.

    Args:
        console: where to.
        folder: where the files go.
        environment: clock, randomness and files.

    Attributes:
        broker: the parts of the broker.
        producer, admin: clients, started.
    """

    def __init__(self, console: Console, folder: str, environment: Environment) -> None:
        self.folder = folder
        self.environment = environment
        self._console = console
        self._chapter = 0

    # --- the cluster --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator[None]:
        """Run name server, broker and the clients for as long as the block lasts, on free ports of 127.0.0.1."""
        namesrv_config = NamesrvConfig(listen_port=0, kv_config_path=os.path.join(self.folder, "namesrv/kvConfig.json"))
        namesrv = Namesrv(namesrv_config, self.environment)
        await namesrv.start()
        try:
            self.namesrv_addr = namesrv.address
            config = BrokerConfig(
                listen_port=0,
                namesrv_addr=namesrv.address,
                enable_property_filter=True,
                # Nobody who takes a tour waits for half a minute.
                transaction_check_interval=300,
                transaction_time_out=300,
            )
            store_config = MessageStoreConfig(
                store_path_root_dir=self.store,
                mapped_file_size_commit_log=LOG_FILE_SIZE,
                max_hash_slot_num=INDEX_SLOTS,
                max_index_num=INDEX_ENTRIES,
            )
            self.broker: Kernel = build_broker(config, store_config, self.environment)
            await self.broker.start()
            try:
                self.producer = Producer("TourProducer", namesrv_addr=self.namesrv_addr)
                self.admin = AdminClient(namesrv_addr=self.namesrv_addr)
                async with self.producer, self.admin:
                    yield
            finally:
                await self.broker.stop()
        finally:
            await namesrv.stop()

    @property
    def store(self) -> str:
        """Folder of the broker's files."""
        return os.path.join(self.folder, "broker-a")

    @asynccontextmanager
    async def consumer(
        self,
        group: str,
        topic: str,
        expression: str = "*",
        expression_type: str = TAG,
        *,
        name: str = "one",
        broadcasting: bool = False,
        in_order: bool = False,
        fails_once: str = "",
        namesrv_addr: str = "",
    ) -> AsyncIterator[Inbox]:
        """Run a consumer of a group for as long as the block lasts; its listener fails once for one body."""
        config = PushConsumerConfig(
            namesrv_addr=namesrv_addr or self.namesrv_addr,
            instance_name=name,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            message_model=MessageModel.BROADCASTING if broadcasting else MessageModel.CLUSTERING,
            local_offset_store_dir=os.path.join(self.folder, "offsets"),
        )
        inbox = Inbox(PushConsumer(group, config))

        to_fail = {fails_once}

        async def handle(messages: Sequence[MessageExt], context: object) -> None:
            inbox.messages += messages
            body = messages[0].body.decode()
            if body in to_fail:
                to_fail.remove(body)
                raise ValueError(f"the tour fails once for {body}")

        inbox.consumer.subscribe(topic, expression, expression_type)
        inbox.consumer.register_listener(InOrder(handle) if in_order else handle)
        async with inbox.consumer:
            yield inbox

    # --- showing ------------------------------------------------------------------------------------------------------

    def chapter(self, title: str) -> None:
        """Print the heading of a chapter."""
        self._chapter += 1
        self._console.print()
        self._console.rule(f"[bold]{self._chapter}  {title}[/bold]", align="left")

    def say(self, text: str) -> None:
        """Print a paragraph; Markdown's backquotes mark names."""
        self._console.print(Markdown(" ".join(text.split())))

    def code(self, *lines: str) -> None:
        """Print what a program or a person would write."""
        for line in lines:
            self._console.print(Text(f"    {line}", style="bold"), soft_wrap=True)

    def table(self, *columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """Print rows."""
        table = Table(*columns, box=None, header_style="dim", padding=(0, 2, 0, 2))
        for row in rows:
            table.add_row(*(Text(printable(str(value))) for value in row))
        self._console.print(table)

    def pieces(self, pieces: Sequence[Piece]) -> None:
        """Print bytes, each field in a colour of its own: offset, hex, name and meaning; long fields as hex and text."""
        for number, piece in enumerate(pieces):
            style = FIELD_STYLES[number % len(FIELD_STYLES)]
            if len(piece.data) <= SHORT_FIELD:
                shown = f"{piece.name}: {piece.meaning}" if piece.meaning else piece.name
                start = f"{piece.offset:>8}  {piece.data.hex(' '):<{3 * SHORT_FIELD - 1}}  "
                lines = textwrap.wrap(
                    shown, max(self._console.width, 60), initial_indent=start, subsequent_indent=" " * (len(start) + 2)
                )
            else:
                lines = [f"{piece.offset:>8}  {piece.name}, {len(piece.data)} bytes"]
                lines += [line[4:] for line in text_lines(piece)]
            for line in lines:
                self._console.print(Text(printable(line), style=style), overflow="ellipsis", no_wrap=True)

    def check(self, expectation: str, expected: object, found: object) -> None:
        """Say that something is as it should be; texts that were found are shown.

        Raises:
            CliError: it is not; the tour ends with status 1.
        """
        if expected != found:
            raise CliError(f"{expectation}: {expected!r} was expected and {found!r} was found")
        is_texts = isinstance(found, list) and found and all(isinstance(text, str) for text in found)
        shown = f": {', '.join(found)}" if isinstance(found, list) and is_texts else ""
        self._console.print(Text(f"  ok  {expectation}{shown}", style="green"))


async def wait_for(condition: Callable[[], T], what: str) -> T:
    """Wait until a condition is true and return its value.

    Raises:
        CliError: it was not for `PATIENCE` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not (value := condition()):
        if loop.time() > deadline:
            raise CliError(f"{what} did not come within {PATIENCE:g} s")
        await asyncio.sleep(0.01)
    return value


Chapter = tuple[str, Callable[[Guide], Awaitable[None]]]
