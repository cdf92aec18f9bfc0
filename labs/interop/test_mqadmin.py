"""mqadmin of Apache RocketMQ 5.3.3 against our name server and broker."""

import re

import pytest

from rocketmq_py.testing.eventually import eventually

from .java_tools import compile_sources, jars, java, mqadmin
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _tools():
    jars()


def check(output: str, *patterns: str) -> None:
    """Print what mqadmin said, and look for every pattern in it."""
    print(output)
    assert "Exception" not in output
    for pattern in patterns:
        assert re.search(pattern, output, re.MULTILINE), f"{pattern!r} is not in the output:\n{output}"


async def test_topics_are_created_listed_shown_and_deleted(tmp_path):
    async with our_servers(tmp_path) as servers:
        ns = ("-n", servers.namesrv)

        output = await mqadmin(
            tmp_path, "updateTopic", *ns, "-c", "DefaultCluster", "-t", "LabTopic", "-r", "5", "-w", "3",
            "-a", "+message.type=FIFO",
        )  # fmt: skip
        check(
            output,
            rf"create topic to {servers.broker} success\.",
            r"TopicConfig \[topicName=LabTopic, readQueueNums=5, writeQueueNums=3, perm=RW-, .*message\.type=FIFO",
        )
        check(await mqadmin(tmp_path, "topicList", *ns), r"^LabTopic$", r"^TBW102$", r"^DefaultCluster$")
        check(
            await mqadmin(tmp_path, "topicStatus", *ns, "-t", "LabTopic"),
            *(rf"^broker-a +{queue} +0 +0 *$" for queue in range(5)),
        )
        check(await mqadmin(tmp_path, "topicRoute", *ns, "-t", "LabTopic"), r'"readQueueNums":\s*5', servers.broker)
        check(await mqadmin(tmp_path, "deleteTopic", *ns, "-c", "DefaultCluster", "-t", "LabTopic"), "success")
        assert "LabTopic" not in await mqadmin(tmp_path, "topicList", *ns)
        refused = await mqadmin(tmp_path, "updateTopic", *ns, "-b", servers.broker, "-t", "TBW102")
        assert "conflict with system topic" in refused


async def test_the_cluster_its_state_and_its_settings_are_shown(tmp_path):
    async with our_servers(tmp_path) as servers:
        ns = ("-n", servers.namesrv)

        check(
            await mqadmin(tmp_path, "clusterList", *ns),
            rf"^DefaultCluster +broker-a +0 +{servers.broker} +V5_3_3 .* true *$",
        )
        check(
            await mqadmin(tmp_path, "brokerStatus", *ns, "-b", servers.broker),
            r"^putTps +: ",
            r"^bootTimestamp +: \d{13}",
        )
        check(await mqadmin(tmp_path, "getBrokerConfig", *ns, "-b", servers.broker), r"^brokerName +=  broker-a")
        check(
            await mqadmin(
                tmp_path, "updateBrokerConfig", *ns, "-b", servers.broker, "-k", "autoCreateTopicEnable", "-v", "false"
            ),
            "success",
        )
        assert servers.kernel.config.auto_create_topic_enable is False
        refused = await mqadmin(
            tmp_path, "updateBrokerConfig", *ns, "-b", servers.broker, "-k", "storePathRootDir", "-v", "/tmp/elsewhere"
        )
        assert "cannot be changed while the server runs" in refused
        check(
            await mqadmin(tmp_path, "wipeWritePerm", *ns, "-b", "broker-a"),
            rf"wipe write perm of broker\[broker-a\].*{servers.namesrv}.*OK",
        )
        check(
            await mqadmin(tmp_path, "addWritePerm", *ns, "-b", "broker-a"),
            rf"broker\[broker-a\].*{servers.namesrv}.*OK",
        )


async def test_messages_are_found_by_key_and_id_and_progress_is_shown(tmp_path):
    classes = compile_sources(tmp_path / "classes")
    async with our_servers(tmp_path) as servers:
        ns = ("-n", servers.namesrv)
        await mqadmin(tmp_path, "updateTopic", *ns, "-c", "DefaultCluster", "-t", "LabTopic", "-r", "4", "-w", "4")
        async with java(
            "Produce", servers.namesrv, "LabTopic", "20", "threads=1", home=tmp_path, classes=classes
        ) as producer:
            await producer.wait(60)
        assert "stored 20" in producer.lines, producer.output

        by_key = await mqadmin(tmp_path, "queryMsgByKey", *ns, "-t", "LabTopic", "-k", "key-7")
        check(by_key, r"^[0-9A-F]{32,64} +[0-3] +\d+")
        unique_id = re.search(r"^([0-9A-F]{32,64}) ", by_key, re.MULTILINE)[1]
        by_unique_id = await mqadmin(tmp_path, "queryMsgById", *ns, "-t", "LabTopic", "-i", unique_id)
        check(by_unique_id, r"^Topic: +LabTopic", r"^Keys: +\[?key-7", r"^OffsetID: +[0-9A-F]{32}")
        offset_id = re.search(r"^OffsetID: +([0-9A-F]{32})", by_unique_id, re.MULTILINE)[1]
        check(
            await mqadmin(tmp_path, "queryMsgById", *ns, "-t", "LabTopic", "-i", offset_id),
            rf"^OffsetID: +{offset_id}",
            r"^Keys: +\[?key-7",
        )
        units = ("queryCq", *ns, "-t", "LabTopic", "-q", "0", "-i", "0", "-c", "3")
        check(await mqadmin(tmp_path, *units), r"max: 5, min: 0", r"idx: 0\n", r"physicOffset=\d+, physicSize=\d+")
        check(await mqadmin(tmp_path, *units, "-g", "Nobody"), "Nobody is not online!")


async def test_the_progress_of_a_consumer_group_is_shown(tmp_path):
    classes = compile_sources(tmp_path / "classes")
    async with our_servers(tmp_path) as servers:
        ns = ("-n", servers.namesrv)
        await mqadmin(tmp_path, "updateTopic", *ns, "-c", "DefaultCluster", "-t", "LabTopic", "-r", "4", "-w", "4")
        async with java(
            "Produce", servers.namesrv, "LabTopic", "20", "threads=1", home=tmp_path, classes=classes
        ) as producer:
            await producer.wait(60)
        arguments = (servers.namesrv, "LabTopic", "LabGroup", "one")
        async with java("Consume", *arguments, home=tmp_path, classes=classes) as consumer:
            await eventually(lambda: len([line for line in consumer.lines if "key-" in line]) == 20, seconds=60)
            online = await mqadmin(tmp_path, "consumerProgress", *ns, "-g", "LabGroup")
            await consumer.close_input()
            await consumer.wait(30)
        check(online, *(rf"^LabTopic +broker-a +{queue} " for queue in range(4)))
        check(
            await mqadmin(tmp_path, "consumerProgress", *ns, "-g", "LabGroup"),
            *(rf"^LabTopic +broker-a +{queue} +(\d+) +\1 " for queue in range(4)),
            r"Diff Total: 0",
        )
