"""Send messages: one, many at once, a batch, and to the queue of a key."""

import asyncio

from rocketmq_py.client.producer import Producer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common.message import Message


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    async with Producer("OrderService", namesrv_addr=namesrv_addr) as producer:
        result = await producer.send(Message.of("Orders", b"two coffees", tags="new", keys="order-17"))
        print(result.status.name, result.msg_id, "in queue", result.queue.queue_id)

        # Many at once: each has its own answer.
        sends = [producer.send(Message.of("Orders", f"tea {number}".encode())) for number in range(10)]
        print(len(await asyncio.gather(*sends)), "stored")

        # One request, one queue, all or nothing.
        await producer.send_batch([Message.of("Orders", b"milk"), Message.of("Orders", b"sugar")])

        # What belongs together goes to one queue, one after the other.
        for step in ("created", "paid", "shipped"):
            await producer.send_by(Message.of("Orders", step.encode()), select_by_hash, "order-17")


if __name__ == "__main__":
    asyncio.run(main())
