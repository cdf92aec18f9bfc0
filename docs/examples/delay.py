"""Send now, receive later: delay levels."""

import asyncio

from rocketmq_py.client.lite_pull_subscriber import LitePullSubscriber
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.message import Message


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    consumer = LitePullSubscriber("Reminded", namesrv_addr=namesrv_addr)
    consumer.subscribe("Orders", "reminder")
    async with Producer("Reminder", namesrv_addr=namesrv_addr) as producer, consumer:
        message = Message.of("Orders", b"is it paid?", tags="reminder")
        message.delay_level = 1
        await producer.send(message)
        while not (messages := await consumer.poll(10)):
            pass
        late = messages[0].store_timestamp - messages[0].born_timestamp
        print(f"{messages[0].body.decode()} came after {late / 1_000:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
