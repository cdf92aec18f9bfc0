"""Consume as a member of a group: the broker's messages come to a listener."""

import asyncio

from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere


async def main(namesrv_addr: str = "127.0.0.1:9876", count: int = 1) -> None:
    is_enough = asyncio.Event()
    seen: list[bytes] = []

    async def handle(messages: list[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        for message in messages:
            print(context.queue.queue_id, message.queue_offset, message.tags, message.body)
            seen.append(message.body)
        if len(seen) >= count:
            is_enough.set()
        # Anything raised, or RECONSUME_LATER, gives the messages to the listener again.
        return ConsumeStatus.CONSUME_SUCCESS

    config = PushConsumerConfig(
        namesrv_addr=namesrv_addr,
        # A new group begins with what is there; without this, with what comes from now on.
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
    )
    consumer = PushConsumer("Kitchen", config)
    consumer.subscribe("Orders", "new || changed")
    consumer.register_listener(handle)
    async with consumer:
        await is_enough.wait()


if __name__ == "__main__":
    asyncio.run(main())
