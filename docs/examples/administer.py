"""Look after topics and groups."""

import asyncio

from rocketmq_py.client.admin.client import AdminClient


async def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    async with AdminClient(namesrv_addr=namesrv_addr) as admin:
        await admin.topics.create("Orders", queues=8)
        for queue, offset in (await admin.topics.stats("Orders")).offset_table.items():
            print(queue.broker_name, queue.queue_id, offset.min_offset, offset.max_offset)
        for message in await admin.messages.by_key("Orders", "order-17"):
            print(message.body)
        # A group reads again what was stored since a moment; 0 is the beginning.
        await admin.consumers.reset_offset_by_time("Orders", "Kitchen", 0)


if __name__ == "__main__":
    asyncio.run(main())
