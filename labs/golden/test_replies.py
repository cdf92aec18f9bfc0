"""Recorded replies are passed on as Apache's broker passes them on: the same fields, to the same connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labs.golden.replay import exchanges, replay, topics_before
from labs.golden.test_answers import starts
from labs.golden.test_wire import scenarios
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.properties import decode_properties
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.cluster import Cluster

#: Bytes of a recorded reply in Apache's commit log: the distance of the next record.
RECORDED_SIZE = 0x51987 - 0x51827


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", ["java53-request", "java49-on53-request"])
async def test_a_recorded_reply_reaches_the_recorded_client(name: str, tmp_path: Path, environment: Any) -> None:
    environment.clock.offset_ms = starts()[name]
    rows = scenarios()[name]
    asked = [row for row in exchanges(rows) if row.request["server"] in ("namesrv", "broker")]
    async with Cluster(tmp_path, environment=environment) as cluster:
        kernel = cluster.kernels[0]
        topics = kernel.get(TopicConfigManager)
        new = [topic for topic in topics_before(asked) if topics.select(topic) is None]
        topics.update([TopicConfig(topic_name=topic, read_queue_nums=4, write_queue_nums=4) for topic in new])
        addresses = {"namesrv": cluster.namesrvs[0].address, "broker": f"127.0.0.1:{kernel.config.listen_port}"}
        came = await replay(asked, addresses)
        kept = kernel.get(MessageStore).get_message("DefaultCluster_REPLY_TOPIC", 0, 0, 1)
        assert kept is not None
        size = kept.size

    recorded = [row for row in rows if row["code"] == RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT and row["dir"] == "s2c"]
    ours = [
        (connection, command)
        for connection, commands in came.items()
        for command in commands
        if command.code == RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT
    ]
    assert len(ours) == len(recorded) >= 2
    for row, (connection, command) in zip(recorded, ours, strict=True):
        assert connection == row["conn"]
        assert bytes(command.body).decode() == row["body_utf8"]
        theirs, mine = dict(row["extFields"]), dict(command.ext_fields)
        assert theirs.keys() == mine.keys()
        wanted, found = (decode_properties(fields.pop("properties").encode()) for fields in (theirs, mine))
        assert wanted.keys() == found.keys()
        for differs in ("storeTimestamp", "bornHost", "storeHost"):
            del theirs[differs], mine[differs]
        del wanted["PUSH_REPLY_TIME"], found["PUSH_REPLY_TIME"]
        assert (mine, found) == (theirs, wanted)
    if name == "java49-on53-request":
        assert size == RECORDED_SIZE, "Apache stores other properties with a reply"
