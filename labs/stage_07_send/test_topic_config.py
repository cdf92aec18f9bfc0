"""The table of topics: what is in it from the start, how topics come into being, what may be changed."""

import json

import pytest

from rocketmq_py.broker import topic_config
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_attributes import change_attributes, parse_attributes
from rocketmq_py.broker.topic_config import CreationLimit, TopicConfigManager
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import CorruptDataError, InvalidInputError
from rocketmq_py.remoting.bodies.topic_config import TopicConfig


def manager(tmp_path, **settings):
    config = BrokerConfig(broker_name="broker-x", broker_cluster_name="ClusterX", **settings)
    return TopicConfigManager(config, str(tmp_path / "config" / "topics.json"), system_environment())


def topic(name="TopicA", queues=4, perm=6, **more):
    return TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, perm=perm, **more)


async def test_a_broker_has_its_system_topics_from_the_first_start_on(tmp_path):
    topics = manager(tmp_path)
    await topics.start()

    found = {name: (config.write_queue_nums, config.perm) for name, config in topics.topics.items()}

    assert found == {
        "SELF_TEST_TOPIC": (1, 6),
        "BenchmarkTest": (1024, 6),
        "ClusterX": (16, 7),
        "broker-x": (1, 7),
        "OFFSET_MOVED_EVENT": (1, 6),
        "SCHEDULE_TOPIC_XXXX": (18, 6),
        "ClusterX_REPLY_TOPIC": (1, 6),
        "rmq_sys_REVIVE_LOG_ClusterX": (8, 6),
        "rmq_sys_SYNC_BROKER_MEMBER_broker-x": (1, 1),
        "RMQ_SYS_TRANS_HALF_TOPIC": (1, 6),
        "RMQ_SYS_TRANS_OP_HALF_TOPIC": (1, 6),
        "TBW102": (8, 7),
    }
    assert all(topics.is_system_topic(name) for name in found)


async def test_topics_survive_a_restart_in_the_form_of_apache(tmp_path):
    topics = manager(tmp_path)
    await topics.start()
    topics.update([topic("TopicA", 3, 4, order=True, attributes={"+message.type": "FIFO"})])
    await topics.persist()

    written = json.loads((tmp_path / "config" / "topics.json").read_text())
    again = manager(tmp_path)
    await again.start()

    assert written["topicConfigTable"]["TopicA"] == {
        "attributes": {"message.type": "FIFO"},
        "order": True,
        "perm": 4,
        "readQueueNums": 3,
        "topicFilterType": "SINGLE_TAG",
        "topicName": "TopicA",
        "topicSysFlag": 0,
        "writeQueueNums": 3,
    }
    assert written["dataVersion"]["counter"] == 1
    assert again.select("TopicA") == topics.select("TopicA")
    assert again.data_version == topics.data_version


async def test_a_file_of_4_9_without_attributes_is_read(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "topics.json").write_text(
        '{"dataVersion":{"counter":9,"timestamp":1700000000123},"topicConfigTable":{"Old":{"order":false,"perm":2,'
        '"readQueueNums":5,"topicFilterType":"MULTI_TAG","topicName":"Old","topicSysFlag":1,"writeQueueNums":6}}}'
    )
    topics = manager(tmp_path)

    await topics.start()

    assert str(topics.select("Old")) == (
        "TopicConfig [topicName=Old, readQueueNums=5, writeQueueNums=6, perm=-W-, topicFilterType=MULTI_TAG, "
        "topicSysFlag=1, order=false, attributes={}]"
    )
    assert topics.data_version.counter == 9
    assert topics.select("TBW102") is not None, "the file's topics are put over the system's"


async def test_a_damaged_file_without_a_backup_stops_the_start(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "topics.json").write_text('{"dataVersion":')

    with pytest.raises(CorruptDataError, match=r"topics\.json"):
        await manager(tmp_path).start()


async def test_a_send_creates_a_topic_from_the_template(tmp_path):
    topics = manager(tmp_path)
    heard = []
    topics.on_change.append(heard.append)

    created = topics.create_in_send("TopicA", "TBW102", 5, 2, "10.0.0.7:1")

    assert created == topic("TopicA", 5, 6, topic_sys_flag=2)
    assert topics.create_in_send("TopicA", "TBW102", 3, 0, "10.0.0.7:1") is created, "an existing topic is left alone"
    assert topics.create_in_send("TopicB", "TBW102", 99, 0, "10.0.0.7:1").write_queue_nums == 8, "the template's number"
    assert heard == ["TopicA", "TopicB"]
    assert topics.data_version.counter == 2


@pytest.mark.parametrize("template", ["NoSuchTopic", "BenchmarkTest"])
async def test_only_a_template_that_lets_topics_inherit_creates_any(tmp_path, template):
    assert manager(tmp_path).create_in_send("TopicA", template, 4, 0, "10.0.0.7:1") is None


async def test_automatic_creation_can_be_switched_off_even_if_an_old_file_has_the_template(tmp_path):
    first = manager(tmp_path)
    first.create_in_send("TopicA", "TBW102", 4, 0, "10.0.0.7:1")
    await first.persist()
    topics = manager(tmp_path, auto_create_topic_enable=False)
    await topics.start()

    assert topics.select("TBW102") is not None
    assert topics.create_in_send("TopicB", "TBW102", 4, 0, "10.0.0.7:1") is None
    assert topics.create_in_send("TopicC", "ClusterX", 4, 0, "10.0.0.7:1").perm == 6, "other templates still work"


async def test_sends_cannot_create_topics_without_end(tmp_path, monkeypatch):
    topics = manager(tmp_path)
    monkeypatch.setattr(topic_config, "MAX_TOPICS", len(topics.topics) + 2)

    created = [topics.create_in_send(f"T{n}", "TBW102", 4, 0, "10.0.0.7:1") for n in range(3)]

    assert [config is not None for config in created] == [True, True, False]
    assert topics.create_in_send_back("%RETRY%G", 1) is None
    with pytest.raises(InvalidInputError, match="the limit"):
        topics.update([topic("T9")])


def test_creations_are_limited_in_time():
    limit = CreationLimit(per_second=10.0, at_once=3)

    assert [limit.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not limit.take(100.05)
    assert [limit.take(100.2) for _ in range(3)] == [True, True, False]
    assert [limit.take(1_000.0) for _ in range(4)] == [True, True, True, False]


async def test_a_retry_topic_is_created_once_and_never_altered(tmp_path):
    topics = manager(tmp_path)

    created = topics.create_in_send_back("%RETRY%G", 2, 6, 3)

    assert created == topic("%RETRY%G", 2, 6, topic_sys_flag=3)
    assert topics.create_in_send_back("%RETRY%G", 7) is created


async def test_an_update_that_changes_nothing_counts_nothing(tmp_path):
    topics = manager(tmp_path)
    assert topics.update([topic("TopicA", attributes={"+message.type": "FIFO"})]) != []

    assert topics.update([topic("TopicA")]) == [], "no attributes named: they stay"
    assert topics.data_version.counter == 1
    assert topics.update([topic("TopicA", 9)])[0].attributes == {"message.type": "FIFO"}
    assert topics.data_version.counter == 2


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (topic(queues=-1), "readQueueNums"),
        (topic(queues=10_001), "readQueueNums"),
        (topic(perm=8), "perm of TopicA is 8"),
        (topic(attributes={"+no.such": "x"}), "unknown"),
    ],
)
async def test_a_bad_update_changes_none_of_its_topics(tmp_path, config, problem):
    topics = manager(tmp_path)

    with pytest.raises(InvalidInputError) as error:
        topics.update([topic("Good"), config])

    assert problem in str(error.value)
    assert topics.select("Good") is None
    assert topics.data_version.counter == 0


async def test_a_deleted_topic_is_told_to_those_who_keep_things_of_it(tmp_path):
    topics = manager(tmp_path)
    topics.update([topic("TopicA")])
    deleted = []
    topics.deleted.append(deleted.append)

    assert topics.delete("TopicA") is True
    assert topics.delete("TopicA") is False
    assert deleted == ["TopicA"]
    assert topics.select("TopicA") is None
    assert topics.data_version.counter == 2


async def test_the_order_configuration_of_a_name_server_marks_topics(tmp_path):
    topics = manager(tmp_path)
    topics.update([topic("TopicA"), topic("TopicB")])

    assert topics.update_order_config(["TopicB", "Unknown"]) is True
    assert topics.update_order_config(["TopicB"]) is False
    assert (topics.select("TopicA").order, topics.select("TopicB").order) == (False, True)


def test_attributes_are_set_changed_and_deleted():
    created = change_attributes(None, parse_attributes("+message.type=DELAY,+queue.type=BatchCQ,+reserve.time=-1"))
    assert created == {"message.type": "DELAY", "queue.type": "BatchCQ", "reserve.time": "-1"}

    changed = change_attributes(created, parse_attributes("+message.type=FIFO,-reserve.time"))
    assert changed == {"message.type": "FIFO", "queue.type": "BatchCQ"}


@pytest.mark.parametrize(
    ("stored", "text", "problem"),
    [
        (None, "message.type=FIFO", r"must be \+KEY=VALUE"),
        (None, "reserve.time", r"-KEY to delete"),
        (None, "+message.type=FIFO,+message.type=DELAY", "given twice"),
        (None, "+message.type=fifo", "one of UNSPECIFIED, NORMAL"),
        (None, "+reserve.time=-2", "-1 or more"),
        (None, "+reserve.time=x", "not a decimal integer"),
        (None, "+=x", "without either sign"),
        (None, "-message.type", "while the topic is being created"),
        ({}, "-message.type", "does not have it"),
        ({"message.type": "FIFO"}, "-message.type,+message.type=DELAY", "twice in one request"),
        ({"queue.type": "BatchCQ"}, "+queue.type=SimpleCQ", "cannot be changed once"),
        ({"queue.type": "BatchCQ"}, "-queue.type", "cannot be changed once"),
    ],
)
def test_attributes_that_break_a_rule_are_refused(stored, text, problem):
    with pytest.raises(InvalidInputError, match=problem):
        change_attributes(stored, parse_attributes(text))
