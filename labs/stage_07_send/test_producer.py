"""The producer against real brokers: where messages go, what they carry, how topics come into being."""

import asyncio
from collections import Counter

import pytest

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.topics import TopicAdmin
from rocketmq_py.client.config import ClientConfig, ProducerConfig
from rocketmq_py.client.errors import NoRouteError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.producer import Producer
from rocketmq_py.client.selectors import select_by_hash
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.compression import CompressionType, decompress
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import string_hash
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.testing.cluster import Cluster


def cluster_of(folder, environment, **more):
    return Cluster(folder, through="send", environment=environment, **more)


def producer_of(cluster, **settings):
    config = ProducerConfig(namesrv_addr=cluster.namesrv_addr, **settings)
    return Producer("Sellers", config, environment=cluster.environment)


def stored(cluster):
    """Return every message in the logs of all brokers."""
    messages = []
    for kernel in cluster.kernels:
        log = kernel.get(CommitLog)
        for _, check in log.scan(log.min_offset):
            if check.state is RecordState.VALID:
                messages.append(to_message(check.record))
    return messages


async def create(cluster, topic, queues):
    instance = MQClientInstance(ClientConfig(namesrv_addr=cluster.namesrv_addr), cluster.environment)
    await instance.start()
    await TopicAdmin(instance).create(topic, queues)
    await instance.stop()


@pytest.mark.virtual_time
@pytest.mark.claim("send-01")
async def test_a_producer_takes_the_queues_of_a_topic_in_turn(tmp_path, environment):
    """Claim: a producer takes a topic's queues in turn, so that messages spread evenly over queues and brokers.

    Experiment: two brokers, a topic with 3 queues on each; send 60 messages.
    Observe: 10 in each queue, and no two in a row go to the same queue.
    """
    async with cluster_of(tmp_path, environment, brokers=2) as cluster:
        await create(cluster, "Orders", 3)
        async with producer_of(cluster) as producer:
            queues = [(await producer.send(Message.of("Orders", b"x%d" % n))).queue for n in range(60)]

        assert Counter(queues) == {
            MessageQueue("Orders", f"broker-{name}", queue_id): 10 for name in "ab" for queue_id in range(3)
        }
        assert queues[:6] * 10 == queues


@pytest.mark.virtual_time
@pytest.mark.claim("ns-05")
async def test_queues_of_a_topic_lie_on_many_brokers_and_a_broker_has_many_topics(tmp_path, environment):
    """Claim: a topic's queues are spread evenly over the brokers; one broker serves many topics and one topic many
    brokers.

    Experiment: three brokers, two topics created in the cluster.
    Observe: each topic has its queues on each broker.
    """
    async with cluster_of(tmp_path, environment, brokers=3) as cluster:
        await create(cluster, "Orders", 4)
        await create(cluster, "Bills", 2)
        async with producer_of(cluster) as producer:
            for topic, queues in (("Orders", 4), ("Bills", 2)):
                found = Counter(queue.broker_name for queue in await producer.publish_queues(topic))
                assert found == {"broker-a": queues, "broker-b": queues, "broker-c": queues}


@pytest.mark.virtual_time
@pytest.mark.claim("ns-04")
async def test_a_topic_is_created_beforehand_or_by_the_first_send(tmp_path, environment):
    """Claim: a topic is created on chosen brokers beforehand, or automatically on the first send (from the template
    topic).

    Experiment: two brokers. Create one topic on broker b only; send to another one that nobody created; then send to
    a third one with automatic creation switched off.
    Observe: the first is on b only; the second comes into being on the broker that the first message reached, with 4
    queues; the third is refused.
    """
    async with cluster_of(tmp_path, environment, brokers=2) as cluster:
        instance = MQClientInstance(ClientConfig(namesrv_addr=cluster.namesrv_addr), environment)
        await instance.start()
        topics = TopicAdmin(instance)
        address = cluster.kernels[1].config.broker_address
        assert await topics.create("Chosen", 2, addresses=[address]) == [address]
        assert [data.broker_name for data in (await topics.route("Chosen")).queue_datas] == ["broker-b"]

        async with producer_of(cluster) as producer:
            result = await producer.send(Message.of("Automatic", b"x"))
            await asyncio.sleep(1)
            route = await topics.route("Automatic")
            assert [(data.broker_name, data.write_queue_nums) for data in route.queue_datas] == [
                (result.queue.broker_name, 4)
            ]
        await instance.stop()

    settings = BrokerConfig(auto_create_topic_enable=False)
    async with cluster_of(tmp_path / "off", environment, config=settings) as cluster, producer_of(cluster) as producer:
        with pytest.raises(NoRouteError, match="no broker creates topics by itself; create it first"):
            await producer.send(Message.of("Automatic", b"x"))


@pytest.mark.virtual_time
@pytest.mark.claim("send-07")
async def test_a_retry_can_store_a_message_twice_and_the_unique_key_shows_it(tmp_path, environment):
    """Claim: retries can store a message twice (at least once): the broker does not remove duplicates; the unique key
    shows them.

    Experiment: the broker stores the first copy of a message, but its answer is lost; the producer tries again.
    Observe: two records with one unique key, which is the `msg_id` of the result.
    """
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 1)
        lose_first_answer(cluster.kernels[0])
        async with producer_of(cluster, send_msg_max_timeout_per_request=500) as producer:
            result = await producer.send(Message.of("Orders", b"pay 5 EUR"))

        copies = stored(cluster)
        assert [message.body for message in copies] == [b"pay 5 EUR"] * 2
        assert {message.unique_key for message in copies} == {result.msg_id}
        assert [message.queue_offset for message in copies] == [0, 1]
        assert result.queue_offset == 1


def lose_first_answer(kernel):
    """Cut the network for 0.7 s when the first send has arrived: it is carried out, and its answer is lost."""
    processors, loop = kernel.get(Processors), asyncio.get_running_loop()
    # Interceptors see the ordinary path only.
    processors.hot.pop(RequestCode.SEND_MESSAGE_V2)

    class Cutter:
        def before(self, request):
            if request.command.code == RequestCode.SEND_MESSAGE_V2:
                processors.interceptors.remove(self)
                loop.network.cut(kernel.config.listen_port)
                loop.call_later(0.7, loop.network.heal, kernel.config.listen_port)

        def after(self, request, response):
            pass

    processors.interceptors.append(Cutter())


@pytest.mark.virtual_time
@pytest.mark.claim("send-10")
async def test_a_send_is_on_its_way_before_the_call_returns(tmp_path, environment):
    """Claim: the client does not buffer messages before acknowledging them, as a crash would lose them.

    Experiment: await one send, and look into the broker's log at once, without stopping the producer; then begin a
    hundred sends without waiting, and look when their tasks are done.
    Observe: what is acknowledged is in the log; batching is explicit (`send_batch`) and acknowledged as a whole.
    """
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 2)
        async with producer_of(cluster) as producer:
            await producer.send(Message.of("Orders", b"first"))
            assert [message.body for message in stored(cluster)] == [b"first"]

            tasks = [producer.send_async(Message.of("Orders", b"%d" % n)) for n in range(100)]
            assert len(stored(cluster)) == 1, "nothing is acknowledged yet"
            for task in tasks:
                result = await task
                ids = {message.unique_key for message in stored(cluster)}
                assert result.msg_id in ids

            batch = await producer.send_batch([Message.of("Orders", b"b%d" % n) for n in range(5)])
            assert set(batch.msg_id.split(",")) <= {message.unique_key for message in stored(cluster)}
            assert len(batch.msg_id.split(",")) == 5


async def test_a_message_arrives_as_it_was_sent(tmp_path, environment):
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 2)
        message = Message.of("Orders", "größer".encode(), tags="new", keys=["order-17", "customer-4"], flag=0x1234567)
        message.properties["colour"] = "рыжий"
        async with producer_of(cluster) as producer:
            result = await producer.send(message)

        found = stored(cluster)[0]
        assert (found.topic, found.body, found.flag) == ("Orders", "größer".encode(), 0x1234567)
        assert (found.tags, found.keys, found.get("colour")) == ("new", "order-17 customer-4", "рыжий")
        assert (found.unique_key, found.msg_id) == (result.msg_id, result.offset_msg_id)
        assert (found.queue_id, found.queue_offset) == (result.queue.queue_id, result.queue_offset)
        assert len(result.msg_id) == 32
        assert message.unique_key == result.msg_id, "a second send of the same object keeps the id"


@pytest.mark.parametrize("kind", list(CompressionType))
async def test_large_bodies_travel_compressed(tmp_path, environment, kind):
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 1)
        async with producer_of(cluster, compress_type=kind, compress_msg_body_over_howmuch=1_000) as producer:
            await producer.send(Message.of("Orders", b"a" * 999))
            message = Message.of("Orders", b"ab" * 500)
            await producer.send(message)

        small, large = stored(cluster)
        assert (small.body, small.sys_flag & flags.COMPRESSION_MASK) == (b"a" * 999, 0)
        assert large.sys_flag & flags.COMPRESSION_MASK == flags.COMPRESSED | kind.value
        assert len(large.body) < 200
        assert decompress(large.body, large.sys_flag, 1_000) == b"ab" * 500
        assert message.body == b"ab" * 500, "the caller's message is not touched"


async def test_the_messages_of_a_batch_lie_next_to_each_other(tmp_path, environment):
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 4)
        messages = [Message.of("Orders", b"%d" % n, tags=f"t{n}", keys=f"k{n}") for n in range(10)]
        async with producer_of(cluster) as producer:
            result = await producer.send_batch(messages)

        found = stored(cluster)
        assert [(message.body, message.tags, message.keys) for message in found] == [
            (b"%d" % n, f"t{n}", f"k{n}") for n in range(10)
        ]
        assert [message.queue_offset for message in found] == list(range(10))
        assert {message.queue_id for message in found} == {result.queue.queue_id}
        assert result.msg_id.split(",") == [message.unique_key for message in found]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "no message"),
        ([Message.of("A", b"x"), Message.of("B", b"x")], "same topic"),
        ([Message.of("A", b"x"), Message("A", b"x", {"WAIT": "false"})], "same WAIT"),
        ([Message("A", b"x", {"DELAY": "3"})], "delayed"),
        ([Message.of("%RETRY%G", b"x")], "retry topics"),
        ([Message.of("A", b"x" * 600), Message.of("A", b"y" * 600)], "1200 bytes"),
    ],
)
async def test_what_is_no_batch_is_refused_before_anything_is_sent(tmp_path, environment, messages, problem):
    async with cluster_of(tmp_path, environment) as cluster, producer_of(cluster, max_message_size=1_000) as producer:
        with pytest.raises(InvalidInputError, match=problem):
            await producer.send_batch(messages)
        assert stored(cluster) == []


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (Message.of("a/b", b"x"), "illegal characters"),
        (Message.of("x" * 128, b"x"), "longer than"),
        (Message.of("SCHEDULE_TOPIC_XXXX", b"x"), "belongs to the system"),
        (Message.of("Orders", b""), "empty body"),
        (Message.of("Orders", b"x" * 1_001), "max_message_size"),
        (Message("Orders", b"x", {"a": "b\x02"}), "separator"),
        (Message("Orders", b"x", {"a": "b" * 33_000}), "a record holds 32767"),
    ],
)
async def test_a_message_that_breaks_a_rule_is_refused_before_anything_is_sent(tmp_path, environment, message, problem):
    async with cluster_of(tmp_path, environment) as cluster, producer_of(cluster, max_message_size=1_000) as producer:
        with pytest.raises(InvalidInputError, match=problem):
            await producer.send(message)
        assert stored(cluster) == []


async def test_a_selector_keeps_equal_keys_in_one_queue(tmp_path, environment):
    async with cluster_of(tmp_path, environment, brokers=2) as cluster:
        await create(cluster, "Orders", 4)
        async with producer_of(cluster) as producer:
            queues = await producer.publish_queues("Orders")
            for customer in ("anna", "boris", "çelik", "-2147483648"):
                results = [
                    await producer.send_by(Message.of("Orders", b"x"), select_by_hash, customer) for _ in range(3)
                ]
                expected = queues[abs(string_hash(customer)) % 8]
                assert {result.queue for result in results} == {expected}


def test_the_hash_selector_chooses_as_java_does():
    queues = [MessageQueue("T", "a", n) for n in range(7)]

    # "Aa" and "BB" have one hash in Java (2112); "polygenelubricants" has the smallest number there is, -2^31.
    assert select_by_hash(queues, Message("T", b""), "Aa").queue_id == 2112 % 7 == 5
    assert select_by_hash(queues, Message("T", b""), "BB").queue_id == 5
    assert string_hash("polygenelubricants") == -(2**31)
    assert select_by_hash(queues, Message("T", b""), "polygenelubricants").queue_id == 2**31 % 7
    assert select_by_hash([], Message("T", b""), "x") is None


async def test_an_explicit_queue_is_used(tmp_path, environment):
    async with cluster_of(tmp_path, environment) as cluster:
        await create(cluster, "Orders", 4)
        async with producer_of(cluster) as producer:
            queue = MessageQueue("Orders", "broker-a", 2)
            assert {(await producer.send(Message.of("Orders", b"x"), queue=queue)).queue for _ in range(5)} == {queue}
