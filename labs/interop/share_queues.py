"""The experiment that the labs of all foreign clients make: one produces, two of a group consume, nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.producer import Producer
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.eventually import eventually

from .other_clients import Client, received
from .our_servers import OurServers, our_servers


async def produce_and_share(folder: Path, client: Client, messages: int, queues: int = 4) -> None:
    """Run the experiment and check what arrived.

    Args:
        folder: for stores and logs.
        client: the client that produces and consumes.
        messages: how many messages.
        queues: of the topic.
    """
    async with our_servers(folder / "servers") as servers:
        config = TopicConfig(topic_name="InteropLab", read_queue_nums=queues, write_queue_nums=queues)
        servers.kernel.get(TopicConfigManager).update([config])
        group, topic = "InteropConsumers", "InteropLab"
        async with (
            client.run("consume", servers.namesrv, group, topic, "one", home=folder / "one") as one,
            client.run("consume", servers.namesrv, group, topic, "two", home=folder / "two") as two,
        ):
            consumers = (one, two)
            await eventually(lambda: all("started" in program.lines for program in consumers), seconds=60)
            await until_shared(servers, topic, lambda: all(received(program) for program in consumers))
            async with client.run(
                "produce", servers.namesrv, "InteropProducers", topic, str(messages), home=folder / "producer"
            ) as producer:
                assert await producer.wait(120) == 0, producer.output[-2_000:]
                assert f"sent {messages}" in producer.lines, producer.output[-2_000:]
            await eventually(
                lambda: len({body for each in consumers for _, _, body in received(each)}) > messages, seconds=60
            )
            for program in consumers:
                await program.close_input()
                await program.wait(30)
            shares = [received(program) for program in consumers]
        _check(client, shares, messages)


async def until_shared(servers: OurServers, topic: str, is_shared: Callable[[], bool], seconds: float = 90) -> None:
    """Send messages with body and key "probe" until each member of a group has got one: then each has queues.

    A member that has started does not have them yet, and what is sent meanwhile goes to the others.
    """
    async with asyncio.timeout(seconds), Producer("Probes", namesrv_addr=servers.namesrv) as producer:
        while not is_shared():
            for queue in await producer.publish_queues(topic):
                await producer.send(Message.of(topic, b"probe", keys="probe"), queue=queue)
            await asyncio.sleep(0.5)


def _check(client: Client, shares: list[list[tuple[int, int, str]]], messages: int) -> None:
    arrived = [message for share in shares for message in share]
    repeated = len(arrived) - len(set(arrived))
    print(
        f"{client.name}: {len(arrived)} deliveries of {messages} messages, {repeated} of them repeated; "
        f"shares {[len(share) for share in shares]}"
    )
    assert {body for _, _, body in arrived} == {"probe", *(f"body {number}" for number in range(messages))}
    for queue, count in Counter(queue for queue, _, _ in set(arrived)).items():
        assert {offset for at, offset, _ in arrived if at == queue} == set(range(count)), f"queue {queue} has a gap"
    assert all(shares), "one of the two consumers got nothing"
