"""Ask by message: a consumer answers, and the one who asked waits for the reply."""

import asyncio

from rocketmq_py.client.consume_service import ConsumeContext
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.client.request_producer import RequestProducer, RequestTimeoutError
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

PRICES = {b"coffee": b"2.40", b"tea": b"1.90"}


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    till = RequestProducer("Till", namesrv_addr=namesrv_addr)

    async def handle(messages: list[MessageExt], context: ConsumeContext) -> None:
        for message in messages:
            if message.body in PRICES:
                await till.reply(message, PRICES[message.body])

    config = PushConsumerConfig(
        namesrv_addr=namesrv_addr, consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    )
    consumer = PushConsumer("Till", config)
    consumer.subscribe("Orders", "price")
    consumer.register_listener(handle)

    async with till, consumer, RequestProducer("Waiter", namesrv_addr=namesrv_addr) as waiter:
        question = Message.of("Orders", b"coffee", tags="price")
        reply = await waiter.request(question, timeout=10)
        print(f"a coffee is {reply.body.decode()}")
        try:
            await waiter.request(Message.of("Orders", b"whisky", tags="price"), timeout=0.5)
        except RequestTimeoutError as error:
            print(error)


if __name__ == "__main__":
    asyncio.run(main())
