"""`rmq-py tour`: the whole system at work, in chapters of a few seconds; each checks what it shows."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from rocketmq_py.cli.dump import explain, explain_record, read_log
from rocketmq_py.cli.output import CliError, Output, reporting
from rocketmq_py.cli.tour_guide import INDEX_SLOTS, MAX_WIDTH, Chapter, Guide
from rocketmq_py.cli.tour_retry import failing
from rocketmq_py.cli.tour_transaction import undecided
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.subscription import SQL92
from rocketmq_py.store.consume_queue_unit import UNIT_LAYOUT, UNIT_SIZE
from rocketmq_py.store.index_file import ENTRY_LAYOUT, HEADER_LAYOUT, SLOT_SIZE
from rocketmq_py.store.index_service import IndexService
from rocketmq_py.store.message_store import MessageStore

app = typer.Typer(invoke_without_command=True)

TOPIC: Final = "Orders"


async def ordinary(guide: Guide) -> None:
    """Send to a topic and read it back."""
    guide.say(
        "A topic is a name for queues. A producer asks the name server which broker has them, and sends to one after the "
        "other; a consumer of a group takes what no other member of the group has."
    )
    guide.code(f"rmq-py topic create {TOPIC} --queues 4", "await producer.send(Message.of('Orders', b'two coffees'))")
    await guide.admin.topics.create(TOPIC, queues=4)
    results = [await guide.producer.send(Message.of(TOPIC, f"coffee {n}".encode())) for n in range(6)]
    guide.table(
        "status", "queue", "offset", "message id",
        rows=[(r.status.name, r.queue.queue_id, r.queue_offset, r.msg_id) for r in results],
    )  # fmt: skip
    guide.check("all were stored", {SendStatus.SEND_OK}, {result.status for result in results})
    guide.check("all four queues got some", {0, 1, 2, 3}, {result.queue.queue_id for result in results})
    async with guide.consumer("Kitchen", TOPIC) as inbox:
        received = await inbox.receives(6)
    guide.check(
        "the group Kitchen got each of them once", sorted(f"coffee {n}" for n in range(6)), sorted(inbox.bodies)
    )
    milliseconds = max(message.store_timestamp - message.born_timestamp for message in received)
    guide.say(f"From the producer's clock to the broker's log: {milliseconds} ms at most.")


async def keyed(guide: Guide) -> None:
    """Find messages by key and by id."""
    guide.say(
        "A message may carry keys. An index finds messages by key and time; a message id finds one without an index, for it "
        "is the broker's address and the place in its log."
    )
    guide.code("rmq-py message query Orders --key order-17", "rmq-py message query Orders --id ...")
    await guide.producer.send(Message.of(TOPIC, b"espresso", keys="order-17 table-3"))
    sent = await guide.producer.send(Message.of(TOPIC, b"the bill", keys="order-17"))
    found = await guide.admin.messages.by_key(TOPIC, "order-17")
    guide.table("keys", "body", rows=[(message.keys, message.body.decode()) for message in found])
    guide.check("order-17 is found twice", [b"espresso", b"the bill"], [message.body for message in found])
    by_unique_key = await guide.admin.messages.view(TOPIC, sent.msg_id)
    by_offset = await guide.admin.messages.view(TOPIC, sent.offset_msg_id)
    guide.check("and once by either of its ids", [b"the bill"] * 2, [m.body for m in (by_unique_key, by_offset) if m])
    guide.say(f"`{sent.msg_id}` was made by the producer, `{sent.offset_msg_id}` by the broker.")


async def filtered(guide: Guide) -> None:
    """Receive only what one wants."""
    guide.say(
        "A consumer says which messages it wants: by tag, which costs the broker one comparison in the queue, or by a "
        "condition on properties, in SQL92. The rest never leaves the broker."
    )
    topic = "Payments"
    await guide.admin.topics.create(topic, queues=2)
    for tag, amount in (("cash", 3), ("card", 4), ("card", 40), ("cash", 50), ("voucher", 60)):
        message = Message.of(topic, f"{tag} {amount}".encode(), tags=tag)
        message.properties["amount"] = str(amount)
        await guide.producer.send(message)
    guide.code('consumer.subscribe("Payments", "card || voucher")')
    async with guide.consumer("ByTag", topic, "card || voucher") as by_tag:
        await by_tag.receives(3)
    guide.check("by tag came", ["card 4", "card 40", "voucher 60"], sorted(by_tag.bodies))
    condition = "amount > 10 AND TAGS <> 'voucher'"
    guide.code(f'consumer.subscribe("Payments", "{condition}", SQL92)')
    async with guide.consumer("BySql", topic, condition, SQL92) as by_sql:
        await by_sql.receives(2)
    guide.check("by condition came", ["card 40", "cash 50"], sorted(by_sql.bodies))


async def broadcast(guide: Guide) -> None:
    """Give every message to every member."""
    guide.say("In a group, members share the messages. In broadcasting, every member gets all of them.")
    topic = "Prices"
    await guide.admin.topics.create(topic, queues=2)
    for text in ("coffee 2.50", "tea 2.20"):
        await guide.producer.send(Message.of(topic, text.encode()))
    async with (
        guide.consumer("Screens", topic, name="left", broadcasting=True) as left,
        guide.consumer("Screens", topic, name="right", broadcasting=True) as right,
    ):
        await left.receives(2)
        await right.receives(2)
    expected = ["coffee 2.50", "tea 2.20"]
    guide.check("both screens show both prices", [expected, expected], [sorted(left.bodies), sorted(right.bodies)])


async def in_order(guide: Guide) -> None:
    """Handle the messages of a key one after the other."""
    guide.say(
        "Messages with one sharding key go to one queue. A group that consumes in order has each queue at one member, which "
        "handles one message at a time; a message that fails comes again before the next one."
    )
    topic = "Deliveries"
    await guide.admin.topics.create(topic, queues=4)
    guide.code("await producer.send_by(message, select_by_hash, 'parcel-7')", "register_listener(InOrder(handle))")
    for step in ("packed", "sent", "delivered"):
        for parcel in ("parcel-7", "parcel-8"):
            await guide.producer.send_by(Message.of(topic, f"{parcel} {step}".encode()), select_by_hash, parcel)
    async with guide.consumer("Couriers", topic, in_order=True, fails_once="parcel-7 sent") as inbox:
        await inbox.receives(7)
    guide.table("handled", rows=[(body,) for body in inbox.bodies])
    of_seven = [body.split()[1] for body in inbox.bodies if body.startswith("parcel-7")]
    guide.check("parcel-7 waited for its failed step", ["packed", "sent", "sent", "delivered"], of_seven)
    of_eight = [body.split()[1] for body in inbox.bodies if body.startswith("parcel-8")]
    guide.check("parcel-8 kept its order", ["packed", "sent", "delivered"], of_eight)


async def delayed(guide: Guide) -> None:
    """Send now, receive later."""
    guide.say(
        "A message with a delay level waits in the broker: under another topic, where consumers do not look. When its time "
        "has come the broker stores it again where it belongs. Level 1 is a second, level 18 two hours."
    )
    topic = "Reminders"
    await guide.admin.topics.create(topic, queues=2)
    message = Message.of(topic, b"the oven is hot")
    message.delay_level = 1
    guide.code("message.delay_level = 1", f'rmq-py message send {topic} "the oven is hot" --delay-level 1')
    async with guide.consumer("Cooks", topic) as inbox:
        await guide.producer.send(message)
        (received,) = await inbox.receives(1)
    seconds = (received.store_timestamp - received.born_timestamp) / 1_000
    guide.table("sent", "stored again", rows=[("0.000 s", f"{seconds:.3f} s")])
    guide.check("it did not come before its time", True, seconds >= 1.0)


async def back_in_time(guide: Guide) -> None:
    """Move a group to an earlier time."""
    guide.say(
        "Reading removes nothing: the progress of a group is a number for each queue. So a group can be put back to a "
        "moment, to the millisecond, and reads on from there."
    )
    topic = "Sensors"
    await guide.admin.topics.create(topic, queues=2)
    await guide.producer.send(Message.of(topic, b"before"))
    await asyncio.sleep(0.05)
    noon = guide.environment.clock.wall_ms()
    await asyncio.sleep(0.05)
    for number in range(3):
        await guide.producer.send(Message.of(topic, f"after {number}".encode()))
    async with guide.consumer("Meter", topic) as inbox:
        await inbox.receives(4)
    guide.code(f"rmq-py message consume {topic} --group Meter --from-time {noon}")
    offsets = await guide.admin.consumers.reset_offset_by_time(topic, "Meter", noon)
    guide.table("queue", "offset now", rows=[(queue.queue_id, offset) for queue, offset in offsets.items()])
    async with guide.consumer("Meter", topic) as inbox:
        await inbox.receives(3)
    guide.check("what came after that moment is read again", [f"after {n}" for n in range(3)], sorted(inbox.bodies))


async def files(guide: Guide) -> None:
    """Look at the bytes."""
    store, index = guide.broker.get(MessageStore), guide.broker.get(IndexService)
    sent = await guide.producer.send(Message.of(TOPIC, b"good bye", tags="last", keys="order-18"))
    found = await guide.admin.messages.by_key(TOPIC, "order-18")
    guide.check("the last message is in the index", [sent.msg_id], [message.unique_key for message in found])
    await store.sync_queues()
    guide.say("The broker's folder, the queues of other topics left out:")
    guide.table("file", "bytes", rows=_list_files(guide.store))

    system = guide.environment.files
    offset, check, data = next(
        row for row in read_log(system, os.path.join(guide.store, "commitlog"), found[0].commit_log_offset)
    )
    record = check.record
    if record is None:
        raise CliError(f"no record lies at byte {offset} of the log")
    guide.say(f"The last message is the record at byte {offset} of the commit log, {check.size} bytes:")
    guide.pieces(explain_record(record, data, offset))

    queue_file = os.path.join(guide.store, "consumequeue", TOPIC, str(sent.queue.queue_id), "0" * 20)
    at = sent.queue_offset * UNIT_SIZE
    unit = system.read_file(queue_file)[at : at + UNIT_SIZE]
    guide.say(f"Its unit in queue {sent.queue.queue_id} says where that is:")
    guide.pieces(explain(UNIT_LAYOUT, unit, at))
    guide.check("the unit points to the record", (offset, check.size), UNIT_LAYOUT.struct.unpack(unit)[:2])

    index_file = index.files[-1]
    raw = system.read_file(index_file.path)
    newest = index_file.index_count - 1
    entry_at = HEADER_LAYOUT.size + INDEX_SLOTS * SLOT_SIZE + newest * ENTRY_LAYOUT.size
    entry = raw[entry_at : entry_at + ENTRY_LAYOUT.size]
    guide.say(f"And entry {newest} of the index leads to it from the key `{TOPIC}#order-18`:")
    guide.pieces(explain(ENTRY_LAYOUT, entry, entry_at))
    guide.check("the entry points to the record", offset, ENTRY_LAYOUT.struct.unpack(entry)[1])


def _list_files(store: str) -> list[tuple[str, int]]:
    root = Path(store)
    found = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in root.rglob("*") if path.is_file()]
    return sorted((name, size) for name, size in found if not name.startswith("consumequeue/") or TOPIC in name)


def _later_chapters() -> list[Chapter]:
    """Chapters of stages that an early slice does not have."""
    if importlib.util.find_spec("rocketmq_py.store.ha.ha_service") is None:
        return []
    from rocketmq_py.cli.tour_failover import master_lost

    return [("Without the master", master_lost)]


#: The chapters, in order; a stage that adds a subsystem adds its chapter here.
CHAPTERS: Final[Sequence[Chapter]] = (
    ("Messages", ordinary),
    ("Keys", keyed),
    ("Filters", filtered),
    ("Broadcasting", broadcast),
    ("In order", in_order),
    ("Later", delayed),
    ("Once more, and never again", failing),
    ("Transactions", undecided),
    ("Back in time", back_in_time),
    ("The files", files),
    *_later_chapters(),
)


@app.callback()
def tour(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep the files in this folder, which must be empty.")
    ] = None,
) -> None:
    """Run a name server and a broker and show what they do; exit status 0 if everything was as it should be."""
    with reporting(Output()):
        if directory is not None:
            if directory.exists() and any(directory.iterdir()):
                raise CliError(f"{directory} is not empty; the tour would mix its files with what is there")
            directory.mkdir(parents=True, exist_ok=True)
            asyncio.run(_run(str(directory)))
        else:
            with tempfile.TemporaryDirectory(prefix="rocketmq-py-tour-") as folder:
                asyncio.run(_run(folder))


async def _run(folder: str) -> None:
    # What a client logs, such as a listener that fails, is part of the story that the chapters tell.
    logging.getLogger("rocketmq_py").setLevel(logging.CRITICAL)
    console = Console(highlight=False)
    console = Console(highlight=False, width=min(console.width, MAX_WIDTH))
    guide = Guide(console, folder, system_environment())
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with guide.cluster():
        guide.say(
            f"A name server listens on `{guide.namesrv_addr}`, a broker on `127.0.0.1:{guide.broker.config.listen_port}`; "
            f"their files are in `{folder}`."
        )
        for title, run in CHAPTERS:
            guide.chapter(title)
            await run(guide)
    guide.chapter("The end")
    guide.say(
        f"Everything was as it should be, in {loop.time() - began:.1f} s. Go on with `rmq-py standalone`, `rmq-py --help` "
        "and the course in `docs/stages`."
    )
