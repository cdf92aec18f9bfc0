"""The Java clients 5.3.3 and 4.9.7 against our name server and broker."""

from collections import Counter

import pytest

from labs.stage_05_remoting.certificates import make_certificate
from rocketmq_py.common.tls_settings import TlsMode
from rocketmq_py.testing.eventually import eventually

from .java_tools import OLDER, SMALL_FLAGS, VERSION, JavaProgram, java, java_client, mqadmin
from .our_servers import our_servers
from .share_queues import until_shared

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

MESSAGES = 10_000


@pytest.fixture(scope="module", params=[VERSION, OLDER])
def client(request, tmp_path_factory):
    """What runs a program with a client of a version: keywords of `java`."""
    return java_client(request.param, tmp_path_factory.mktemp("classes"))


def received(*consumers: JavaProgram) -> list[tuple[int, int, str]]:
    """Return queue, offset and key of everything that the consumers have got."""
    lines = [line.split(" ") for consumer in consumers for line in list(consumer.lines) if line.count(" ") == 2]
    return [(int(queue), int(offset), key) for queue, offset, key in lines if queue.isdigit()]


async def test_java_producers_and_two_java_consumers_lose_nothing(tmp_path, client):
    """Claim: programs written for Apache RocketMQ run against these servers unchanged.

    Experiment: two Java push consumers of one group share a topic of 8 queues; a Java producer sends 10,000 messages
    from four threads.
    Observe: every message arrives, both consumers get some, and the offsets of each queue leave no gap.
    """
    async with our_servers(tmp_path) as servers:
        output = await mqadmin(
            tmp_path, "updateTopic", "-n", servers.namesrv, "-b", servers.broker, "-t", "JavaLab", "-r", "8", "-w", "8"
        )
        assert "success" in output, output
        arguments = (servers.namesrv, "JavaLab", "JavaConsumers")
        async with (
            java("Consume", *arguments, "one", home=tmp_path / "one", **client) as one,
            java("Consume", *arguments, "two", home=tmp_path / "two", **client) as two,
        ):
            await until_shared(servers, "JavaLab", lambda: all(received(consumer) for consumer in (one, two)))
            async with java("Produce", servers.namesrv, "JavaLab", str(MESSAGES), home=tmp_path, **client) as producer:
                assert await producer.wait(120) == 0
                assert f"stored {MESSAGES}" in producer.lines, producer.output[-2_000:]
            await eventually(lambda: len({key for _, _, key in received(one, two)}) > MESSAGES, seconds=60)
            for consumer in (one, two):
                await consumer.close_input()
                await consumer.wait(30)

        arrived = received(one, two)
        twice = len(arrived) - len(set(arrived))
        shares = [len(received(consumer)) for consumer in (one, two)]
        print(f"{len(arrived)} deliveries of {MESSAGES} messages, {twice} of them repeated; shares {shares}")
        assert {key for _, _, key in arrived} == {"probe", *(f"key-{n}" for n in range(MESSAGES))}
        per_queue = Counter(queue for queue, _, _ in set(arrived))
        for queue, count in per_queue.items():
            assert {offset for q, offset, _ in arrived if q == queue} == set(range(count))
        assert all(shares), "one of the two consumers got nothing"


async def test_a_java_producer_creates_a_topic_by_sending_to_it(tmp_path, client):
    async with (
        our_servers(tmp_path) as servers,
        java("Produce", servers.namesrv, "CreatedBySending", "10", home=tmp_path, **client) as producer,
    ):
        await producer.wait(60)
        assert "stored 10" in producer.lines, producer.output
        assert "CreatedBySending" in await mqadmin(tmp_path, "topicList", "-n", servers.namesrv)


async def test_java_clients_that_use_tls_meet_servers_that_demand_it(tmp_path, client):
    """Claim: `-Dtls.enable=true` is all that a Java program needs, and without it these servers do not talk to it."""
    certificate = make_certificate(tmp_path)
    tls = {
        "tls_server_mode": TlsMode.ENFORCING,
        "tls_server_cert_path": certificate.certificate,
        "tls_server_key_path": certificate.key,
        "tls_enable": True,
        "tls_client_trust_cert_path": certificate.certificate,
    }
    encrypted = (*SMALL_FLAGS, "-Dtls.enable=true")
    async with our_servers(tmp_path, tls=tls) as servers:
        arguments = (servers.namesrv, "Secret", "10")
        async with java("Produce", *arguments, home=tmp_path, flags=encrypted, **client) as producer:
            await producer.wait(60)
        assert "stored 10" in producer.lines, producer.output
        async with java("Produce", *arguments, home=tmp_path, **client) as plain:
            await plain.wait(90)
        assert "stored 0" in plain.lines, plain.output
