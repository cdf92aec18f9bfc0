"""Consume by asking: `poll` hands out what was fetched, `commit` says how far the group is."""

import asyncio

from rocketmq_py.client.consumer_config import LitePullConsumerConfig
from rocketmq_py.client.lite_pull_subscriber import LitePullSubscriber
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere


async def main(namesrv_addr: str = "127.0.0.1:9876", seconds: float = 5.0) -> None:
    config = LitePullConsumerConfig(
        namesrv_addr=namesrv_addr,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        auto_commit=False,
    )
    consumer = LitePullSubscriber("Audit", config)
    consumer.subscribe("Orders")
    async with consumer:
        while messages := await consumer.poll(seconds):
            print(len(messages), "messages, the first:", messages[0].body)
            await consumer.commit()


if __name__ == "__main__":
    asyncio.run(main())
