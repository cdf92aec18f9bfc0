"""The chapter of the tour about messages that fail."""

from __future__ import annotations

from collections.abc import Sequence

from rocketmq_py.cli.tour_guide import Guide, wait_for
from rocketmq_py.client.admin.dead_letters import DeadLetterAdmin
from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import dlq_topic
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere
from rocketmq_py.store.message_store import MessageStore


async def failing(guide: Guide) -> None:
    """Fail, come again, be put aside, be sent again."""
    guide.say(
        "A message that a listener cannot handle goes back to the broker and comes again after 10 s, 30 s ... 2 h, 16 times; "
        "here once, after a second. What still fails is a dead letter. The rest of the queue does not wait."
    )
    topic, group = "Repairs", "Workshop"
    await guide.admin.topics.create(topic, queues=2)
    tries: list[MessageExt] = []

    async def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        tries.extend(messages)
        context.delay_level_when_next_consume = 1
        if messages[0].keys == "piano-2" and not messages[0].get("DLQ_ORIGIN_MESSAGE_ID"):
            raise ValueError("the tour cannot mend a piano")

    config = PushConsumerConfig(
        namesrv_addr=guide.namesrv_addr,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        max_reconsume_times=1,
    )
    consumer = PushConsumer(group, config)
    consumer.subscribe(topic)
    consumer.register_listener(handle)
    store = guide.broker.get(MessageStore)
    async with consumer:
        for key in ("bicycle-1", "piano-2", "kettle-3"):
            await guide.producer.send(Message.of(topic, b"broken", keys=key))
        await wait_for(lambda: store.max_offset(dlq_topic(group), 0) == 1, "the dead letter")
        counts = [message.reconsume_times for message in tries if message.keys == "piano-2"]
        guide.check("the piano was tried, and tried again", [0, 1], counts)
        guide.check("the others once", ["bicycle-1", "kettle-3"], sorted(m.keys for m in tries if m.keys != "piano-2"))

        letters = DeadLetterAdmin(guide.admin.instance)
        (letter,) = await letters.newest(group, 10)
        guide.code("rmq-py dlq list", f"rmq-py dlq view {group}", f"rmq-py dlq resend {group} --all")
        guide.table(
            "dead letter of",
            "key",
            "first sent to",
            "tries",
            rows=[(group, letter.message.keys, letter.topic, letter.tries)],
        )
        await letters.resend(letter)
        await wait_for(lambda: len(tries) == 5, "the dead letter that was sent again")
    guide.check("sent again, it is a message of its first topic", topic, tries[-1].topic)
    guide.check("and its tries begin anew", ("piano-2", 0), (tries[-1].keys, tries[-1].reconsume_times))
