"""Send messages that are delivered later, and take one back."""

import asyncio
import time

from rocketmq_py.client.producer import Producer
from rocketmq_py.common.message import Message


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    async with Producer("OrderService", namesrv_addr=namesrv_addr) as producer:
        in_a_while = Message.of("Orders", b"close order 17 if it is not paid")
        in_a_while.delay_time_ms = 37 * 60_000
        waiting = await producer.send(in_a_while)

        at_a_time = Message.of("Orders", b"good morning")
        at_a_time.deliver_time_ms = int(time.time() * 1000) + 8 * 3_600_000
        await producer.send(at_a_time)

        # Order 17 is paid. The broker needs recallMessageEnable=true.
        if waiting.recall_handle is not None:
            print("taken back:", await producer.recall_message("Orders", waiting.recall_handle))


if __name__ == "__main__":
    asyncio.run(main())
