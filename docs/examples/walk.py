"""Read queues at offsets of one's own choice: from noon on, say."""

import asyncio

from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer


async def main(namesrv_addr: str = "127.0.0.1:9876", since_ms: int = 0) -> None:
    async with PullConsumer("Report", namesrv_addr=namesrv_addr) as consumer:
        for queue in await consumer.fetch_queues("Orders"):
            offset = await consumer.offsets.search_offset(queue, since_ms)
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                print(queue.queue_id, [message.body for message in result.messages])
                offset = result.next_begin_offset


if __name__ == "__main__":
    asyncio.run(main())
