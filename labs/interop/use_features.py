"""The second experiment of all foreign clients: every kind of send, filter and read that the client has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rocketmq_py.broker.long_polling.pull_request_hold import PullRequestHoldService
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common.message import MessageExt
from rocketmq_py.remoting.bodies.topic_config import TopicConfig

from .other_clients import Client, received
from .our_servers import OurServers, our_servers

TOPIC = "Mixture"
QUEUES = 4
BIG = "abcdefgh" * 2_000

NUMBERS = [f"n{n}" for n in range(10)]
BATCH = [f"b{n}" for n in range(5)]
ASYNC = [f"a{n}" for n in range(3)]


def sent_by(client: Client) -> Counter[str]:
    """Return the bodies that a client's mixture has."""
    bodies = Counter([*NUMBERS, BIG, *["same"] * 5, "last"])
    if "batch" in client.abilities:
        bodies.update(BATCH)
    if "async" in client.abilities:
        bodies.update(ASYNC)
    if "one way" in client.abilities:
        bodies["one way"] += 1
    return bodies


def readers_of(client: Client) -> dict[str, tuple[str, list[str]]]:
    """Return what each push consumer subscribes to, and what it must get."""
    tagged = NUMBERS[::2] + (BATCH if "batch" in client.abilities else [])
    readers = {
        "tags": ("Tags|CLUSTERING|TAG|even || batch", tagged),
        "big": ("Big|CLUSTERING|TAG|big", [BIG]),
        "left": ("Screens|BROADCASTING|TAG|sharded", ["same"] * 5),
        "right": ("Screens|BROADCASTING|TAG|sharded", ["same"] * 5),
    }
    if "sql" in client.abilities:
        readers["sql"] = ("Sql|CLUSTERING|SQL92|n BETWEEN 3 AND 6 AND TAGS = 'odd'", ["n3", "n5"])
    return readers


async def use_features(folder: Path, client: Client) -> None:
    """Run the experiment and check what is stored and what arrives."""
    async with our_servers(folder / "servers") as servers:
        config = TopicConfig(topic_name=TOPIC, read_queue_nums=QUEUES, write_queue_nums=QUEUES)
        servers.kernel.get(TopicConfigManager).update([config])
        hold = servers.kernel.get(PullRequestHoldService)
        readers = readers_of(client)
        arguments = [f"{name}|{reader}" for name, (reader, _) in readers.items()]
        async with client.run("read", servers.namesrv, TOPIC, *arguments, home=folder / "readers") as program:
            # Every reader waits at every queue, so that it does not matter where it starts to read.
            await program.until(lambda: sum(pull.key[0] == TOPIC for pull in hold) == QUEUES * len(readers), 60)
            async with client.run("mixture", servers.namesrv, "Mixers", TOPIC, home=folder / "producer") as producer:
                assert await producer.wait(60) == 0, producer.output[-2_000:]
            for name, (_, bodies) in readers.items():
                await program.until(lambda name=name, bodies=bodies: len(received(program, name)) >= len(bodies), 60)
            await program.close_input()
            await program.wait(60)
            got = {name: sorted(body for _, _, body in received(program, name)) for name in readers}
        assert got == {name: sorted(bodies) for name, (_, bodies) in readers.items()}
        stored = await _stored(servers)
        _check_stored(client, stored)
        async with AdminClient(namesrv_addr=servers.namesrv) as admin:
            for key, body in (("k7", "n7"), ("s3", "same"), ("l", "last")):
                assert [message.body.decode() for message in await admin.messages.by_key(TOPIC, key)] == [body]
        if "pull" in client.abilities:
            async with client.run(
                "pull", servers.namesrv, "Pullers", TOPIC, str(len(stored)), home=folder / "puller"
            ) as puller:
                assert await puller.wait(60) == 0, puller.output[-2_000:]
            pulled = Counter(received(puller, "pull"))
            assert pulled == Counter((m.queue_id, m.queue_offset, m.body.decode()) for m in stored)
    print(
        f"{client.name}: {len(stored)} messages; {', '.join(f'{name} {len(of)}' for name, of in sorted(got.items()))}"
    )


async def _stored(servers: OurServers) -> list[MessageExt]:
    found: list[MessageExt] = []
    async with PullConsumer("Auditor", namesrv_addr=servers.namesrv) as consumer:
        for queue in await consumer.fetch_queues(TOPIC):
            offset = 0
            while (result := await consumer.pull(queue, offset)).status is PullStatus.FOUND:
                found += result.messages
                offset = result.next_begin_offset
    return found


def _check_stored(client: Client, stored: list[MessageExt]) -> None:
    """Compare bodies, tags, keys and properties with what the client was told to send."""
    assert Counter(message.body.decode() for message in stored) == sent_by(client)
    for message in stored:
        body = message.body.decode()
        if body in NUMBERS:
            number = body[1:]
            assert message.tags == ("odd" if int(number) % 2 else "even")
            assert message.keys == f"k{number}"
            assert message.properties["n"] == number
        elif body in BATCH:
            assert (message.tags, message.keys) == ("batch", body)
    assert len({message.queue_id for message in stored if message.body == b"same"}) == 1
    assert len({message.queue_id for message in stored}) == QUEUES, "the client used some queues only"
    assert all(message.msg_id for message in stored)
