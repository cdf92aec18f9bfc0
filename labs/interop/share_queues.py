"""The experiment that the labs of all foreign clients make: one produces, two of a group consume, nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.testing.eventually import eventually

from .other_clients import Client, received
from .our_servers import our_servers


async def produce_and_share(folder: Path, client: Client, messages: int, queues: int = 4) -> None:
    """Run the experiment and check what arrived.

    Args:
        folder: for stores and logs.
        client: the client that produces and consumes.
        messages: how many messages.
        queues: of the topic.
    """
    async with our_servers(folder / "servers") as servers:
        topic = "InteropLab"
        config = TopicConfig(topic_name=topic, read_queue_nums=queues, write_queue_nums=queues)
        servers.kernel.get(TopicConfigManager).update([config])
        names = ("one", "two")
        readers = [f"{name}|InteropConsumers|CLUSTERING|TAG|*" for name in names]
        async with (
            client.run("read", servers.namesrv, topic, readers[0], home=folder / "one") as one,
            client.run("read", servers.namesrv, topic, readers[1], home=folder / "two") as two,
        ):
            consumers = dict(zip(names, (one, two), strict=True))
            await eventually(lambda: all("started" in program.lines for program in consumers.values()), seconds=60)
            async with client.run(
                "produce", servers.namesrv, "InteropProducers", topic, str(messages), home=folder / "producer"
            ) as producer:
                assert await producer.wait(120) == 0, producer.output[-2_000:]
                assert f"sent {messages}" in producer.lines, producer.output[-2_000:]
            await eventually(
                lambda: len({body for name in names for _, _, body in received(consumers[name], name)}) >= messages,
                seconds=60,
                step=0.2,
            )
            for program in consumers.values():
                await program.close_input()
                await program.wait(30)
            shares = [received(consumers[name], name) for name in names]
        _check(client, shares, messages)


def _check(client: Client, shares: list[list[tuple[int, int, str]]], messages: int) -> None:
    arrived = [message for share in shares for message in share]
    repeated = len(arrived) - len(set(arrived))
    print(
        f"{client.name}: {len(arrived)} deliveries of {messages} messages, {repeated} of them repeated; "
        f"shares {[len(share) for share in shares]}"
    )
    assert {body for _, _, body in arrived} == {f"body {number}" for number in range(messages)}
    for queue, count in Counter(queue for queue, _, _ in set(arrived)).items():
        assert {offset for at, offset, _ in arrived if at == queue} == set(range(count)), f"queue {queue} has a gap"
    assert all(shares), "one of the two consumers got nothing"
