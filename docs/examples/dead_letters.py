"""A message that cannot be handled: it comes again, becomes a dead letter, and is sent again when the code is right."""

import asyncio

from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.dead_letters import DeadLetterAdmin
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

GROUP = "Parcels"


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    is_repaired = False
    done = asyncio.Event()

    async def handle(messages, context):
        for message in messages:
            print(f"try {message.reconsume_times}: {message.body.decode()}")
            # A second, for this program; without it the first retry comes after 10 s, the second after 30 s.
            context.delay_level_when_next_consume = 1
            if not is_repaired:
                raise ValueError("no such street")
            done.set()

    config = PushConsumerConfig(
        namesrv_addr=namesrv_addr,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        max_reconsume_times=1,
    )
    consumer = PushConsumer(GROUP, config)
    consumer.subscribe("Deliveries", "parcel")
    consumer.register_listener(handle)
    async with Producer("Shop", namesrv_addr=namesrv_addr) as producer:
        await producer.send(Message.of("Deliveries", b"a parcel for Zoe", tags="parcel", keys="parcel-7"))

    async with consumer, AdminClient(namesrv_addr=namesrv_addr) as admin:
        letters = DeadLetterAdmin(admin.instance)
        while not any(summary.messages for summary in await letters.groups()):  # noqa: ASYNC110 (the broker decides when)
            await asyncio.sleep(0.2)
        is_repaired = True
        async for letter in letters.read(GROUP):
            print(f"dead after {letter.tries} tries: {letter.message.keys} of topic {letter.topic}")
            await letters.resend(letter)
        await done.wait()


if __name__ == "__main__":
    asyncio.run(main())
