"""mqadmin of Apache RocketMQ 5.3.3, and of 4.9.7, against our name server and broker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager

from .java_tools import OLD_VERSION
from .mqadmin import mqadmin
from .other_clients import java_client, received
from .our_servers import our_servers

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

CLUSTER = ("-c", "DefaultCluster")


async def test_topics_are_created_listed_changed_and_deleted(tmp_path: Path) -> None:
    async with our_servers(tmp_path) as servers, mqadmin(servers.namesrv, tmp_path / "tools") as admin:
        await admin.shows(
            *("updateTopic", *CLUSTER, "-t", "LabTopic", "-r", "5", "-w", "3", "-a", "+message.type=FIFO"),
            patterns=(
                rf"create topic to {servers.broker} success\.",
                r"TopicConfig \[topicName=LabTopic, readQueueNums=5, writeQueueNums=3, perm=RW-, .*message\.type=FIFO",
            ),
        )
        await admin.shows("topicList", patterns=(r"^LabTopic$", r"^TBW102$", r"^DefaultCluster$"))
        rows = tuple(rf"^broker-a +{queue} +0 +0 *$" for queue in range(5))
        await admin.shows("topicStatus", "-t", "LabTopic", patterns=rows)
        await admin.shows("topicRoute", "-t", "LabTopic", patterns=(r'"readQueueNums":\s*5', servers.broker))
        await admin.shows("topicClusterList", "-t", "LabTopic", patterns=(r"^DefaultCluster$",))
        await admin.shows(
            *("updateTopicPerm", "-t", "LabTopic", "-b", servers.broker, "-p", "4"),
            patterns=(r"from 6 to 4 .*success",),
        )
        await admin.shows("topicRoute", "-t", "LabTopic", patterns=(r'"perm":\s*4',))
        refused = await admin("updateTopic", "-b", servers.broker, "-t", "TBW102")
        assert "conflict with system topic" in refused
        await admin.shows("updateOrderConf", "-t", "LabTopic", "-m", "put", "-v", "broker-a:3", patterns=("success",))
        await admin.shows("updateOrderConf", "-t", "LabTopic", "-m", "get", patterns=(r"orderConf=\[broker-a:3\]",))
        await admin.shows(
            "deleteTopic", *CLUSTER, "-t", "LabTopic", patterns=(r"from cluster .* success", "NameServer")
        )
        assert "LabTopic" not in await admin("topicList")
        assert "LabTopic" not in servers.kernel.get(TopicConfigManager).topics


async def test_the_cluster_its_state_and_its_settings_are_shown_and_changed(tmp_path: Path) -> None:
    async with our_servers(tmp_path) as servers, mqadmin(servers.namesrv, tmp_path / "tools") as admin:
        broker = ("-b", servers.broker)
        row = rf"^DefaultCluster +broker-a +0 +{servers.broker} +V5_3_3 .* true *$"
        await admin.shows("clusterList", patterns=(row,))
        await admin.shows("brokerStatus", *broker, patterns=(r"^putTps +: ", r"^bootTimestamp +: \d{13}"))
        await admin.shows("getBrokerConfig", *broker, patterns=(r"^brokerName +=  broker-a",))
        change = ("updateBrokerConfig", *broker, "-k", "autoCreateTopicEnable", "-v", "false")
        await admin.shows(*change, patterns=("success",))
        assert servers.kernel.config.auto_create_topic_enable is False
        refused = await admin("updateBrokerConfig", *broker, "-k", "storePathRootDir", "-v", "/tmp/elsewhere")
        assert "cannot be changed while the server runs" in refused
        done = rf"broker\[broker-a\].*{servers.namesrv}.*OK"
        await admin.shows("wipeWritePerm", "-b", "broker-a", patterns=(f"wipe write perm of {done}",))
        await admin.shows("addWritePerm", "-b", "broker-a", patterns=(done,))

        await admin.shows("getNamesrvConfig", patterns=(r"^orderMessageEnable +=  false",))
        change = ("updateNamesrvConfig", "-k", "orderMessageEnable", "-v", "true")
        await admin.shows(*change, patterns=("orderMessageEnable : true",))
        await admin.shows("getNamesrvConfig", patterns=(r"^orderMessageEnable +=  true",))
        await admin.shows("updateKvConfig", "-s", "LAB", "-k", "colour", "-v", "blue", patterns=("success",))
        await admin.shows("deleteKvConfig", "-s", "LAB", "-k", "colour", patterns=("success",))

        await admin.shows("updateSubGroup", *CLUSTER, "-g", "Readers", "-r", "5", patterns=("retryMaxTimes=5",))
        groups = servers.kernel.get(SubscriptionGroupManager).groups
        assert groups["Readers"].retry_max_times == 5
        await admin.shows("getConsumerConfig", "-g", "Readers", patterns=(r"^retryMaxTimes +=  5$",))
        await admin.shows("deleteSubGroup", *broker, "-g", "Readers", patterns=("success",))
        assert "Readers" not in groups
        for command in ("cleanExpiredCQ", "cleanUnusedTopic", "deleteExpiredCommitLog"):
            await admin.shows(command, *broker, patterns=("success",))
        await admin.shows("exportMetadata", *CLUSTER, "-f", str(tmp_path / "export"), patterns=("success",))
        exported = json.loads((tmp_path / "export/metadata.json").read_text())
        assert exported["exportTime"] > 0


@pytest.mark.parametrize(("version", "clients"), [("5.3.3", "V5_3_3"), (OLD_VERSION, "V4_9_7")])
async def test_clients_messages_and_offsets_are_shown_and_moved(tmp_path: Path, version: str, clients: str) -> None:
    """Experiment: a Java consumer reads 20 messages and stays; mqadmin of the same version looks at everything."""
    client = java_client(version)
    async with our_servers(tmp_path) as servers, mqadmin(servers.namesrv, tmp_path / "tools", version) as admin:
        await admin.shows("updateTopic", *CLUSTER, "-t", "LabTopic", "-r", "4", "-w", "4", patterns=("success",))
        reader = "one|LabGroup|CLUSTERING|TAG|*"
        async with client.run("read", servers.namesrv, "LabTopic", reader, home=tmp_path / "reader") as consumer:
            arguments = ("produce", servers.namesrv, "LabSenders", "LabTopic", "20")
            async with client.run(*arguments, home=tmp_path / "producer") as producer:
                await producer.wait(60)
            assert "sent 20" in producer.lines, producer.output
            await consumer.until(lambda: len(received(consumer, "one")) == 20, 60)

            await admin.shows(
                "consumerConnection", "-g", "LabGroup", patterns=(rf"@one .*JAVA +{clients}", r"^LabTopic +\*")
            )
            await admin.shows("consumerStatus", "-g", "LabGroup", patterns=(rf"@one +{clients}", "Rebalance OK"))
            await admin.shows("consumerProgress", patterns=(rf"^LabGroup +1 +{clients} +PUSH +CLUSTERING",))
            await admin.shows(
                *("resetOffsetByTime", "-g", "LabGroup", "-t", "LabTopic", "-s", "0"),
                patterns=tuple(rf"^broker-a +{queue} +0 *$" for queue in range(4)),
            )
            await consumer.until(lambda: len(received(consumer, "one")) == 40, 60)
            await consumer.close_input()
            await consumer.wait(30)

        rows = tuple(rf"^LabTopic +broker-a +{queue} +(\d+) +\1 " for queue in range(4))
        await admin.shows("consumerProgress", "-g", "LabGroup", patterns=(*rows, r"Diff Total: 0"))
        await admin.shows("brokerConsumeStats", "-b", servers.broker, patterns=(r"^LabTopic +LabGroup +broker-a +0 ",))
        await admin.shows("statsAll", "-t", "LabTopic", patterns=(r"^LabTopic +LabGroup +0 ",))
        await admin.shows(
            "queryCq", "-t", "LabTopic", "-q", "0", "-i", "0", "-c", "2", "-b", servers.broker, patterns=("physicSize",)
        )

        by_key = await admin.shows(
            "queryMsgByKey", "-t", "LabTopic", "-k", "key-7", patterns=(r"^[0-9A-F]{32,64} +[0-3] +\d+",)
        )
        unique_id = found(r"^([0-9A-F]{32,64}) ", by_key)
        shown = (r"^Topic: +LabTopic", r"^Keys: +\[?key-7", r"^OffsetID: +[0-9A-F]{32}")
        by_unique_id = await admin.shows("queryMsgById", "-t", "LabTopic", "-i", unique_id, patterns=shown)
        offset_id = found(r"^OffsetID: +([0-9A-F]{32})", by_unique_id)
        if version != OLD_VERSION:
            # The older tool takes unique ids here only.
            await admin.shows("queryMsgById", "-t", "LabTopic", "-i", offset_id, patterns=shown)
        await admin.shows("queryMsgByUniqueKey", "-t", "LabTopic", "-i", unique_id, patterns=shown)
        at = found(r"^Queue ID: +(\d)", by_unique_id), found(r"^Queue Offset: +(\d+)", by_unique_id)
        words = ("queryMsgByOffset", "-t", "LabTopic", "-b", "broker-a", "-i", at[0], "-o", at[1])
        await admin.shows(*words, patterns=shown)
        printed = await admin.shows("printMsg", "-t", "LabTopic", "-d", "true")
        assert printed.count("MSGID:") == 20
        await admin.shows("sendMessage", "-t", "LabTopic", "-p", "by hand", "-k", "hand", patterns=("SEND_OK",))
        await admin.shows("queryMsgByKey", "-t", "LabTopic", "-k", "hand", patterns=(r"^[0-9A-F]{32,64} +[0-3] +\d+",))


def found(pattern: str, output: str) -> str:
    """Return the group of a pattern that must be in an output."""
    match = re.search(pattern, output, re.MULTILINE)
    assert match is not None, pattern
    return match[1]
