"""The table of consumer groups: who may create one, and the file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.subscription_group import INITIAL_GROUPS, SubscriptionGroupManager
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig


def manager(tmp_path: Path, config: BrokerConfig | None = None) -> SubscriptionGroupManager:
    return SubscriptionGroupManager(config or BrokerConfig(), str(tmp_path), system_environment())


def test_a_group_comes_into_being_when_it_is_first_named(tmp_path: Path) -> None:
    groups = manager(tmp_path)
    assert set(groups.groups) == set(INITIAL_GROUPS)
    assert groups.select("billing") is None
    found = groups.find("billing")
    assert found == SubscriptionGroupConfig(group_name="billing")
    assert groups.select("billing") is found
    assert groups.find("bad name") is None, "a name that nobody could have created by hand"


def test_an_operator_may_forbid_that(tmp_path: Path) -> None:
    groups = manager(tmp_path, BrokerConfig(auto_create_subscription_group=False))
    assert groups.find("billing") is None
    assert groups.find("CID_RMQ_SYS_something") is not None, "the system's own groups come all the same"


def test_groups_survive_a_restart_with_all_their_settings(tmp_path: Path) -> None:
    groups = manager(tmp_path)
    wanted = SubscriptionGroupConfig(
        group_name="billing",
        consume_enable=False,
        consume_broadcast_enable=False,
        retry_queue_nums=3,
        retry_max_times=5,
        broker_id=2,
        which_broker_when_consume_slowly=4,
        notify_consumer_ids_changed_enable=False,
        group_sys_flag=9,
        consume_timeout_minute=7,
        group_retry_policy={"type": "EXPONENTIAL", "exponentialRetryPolicy": {"initial": 1000}},
    )
    groups.update([wanted])
    groups.set_readable("billing", "Orders", readable=False)
    groups.table.persist()

    again = manager(tmp_path)
    again.table.load()
    assert again.select("billing") == wanted
    assert again.is_forbidden("billing", "Orders") and not again.is_forbidden("billing", "Other")
    assert again.data_version == groups.data_version
    again.set_readable("billing", "Orders", readable=True)
    assert not again.is_forbidden("billing", "Orders")
    assert again.delete("billing") and not again.delete("billing")


def test_the_file_of_apaches_broker_is_read(tmp_path: Path) -> None:
    # Shape of 5.3.3; the unquoted keys and members unknown here are Java's.
    (tmp_path / "subscriptionGroup.json").write_text(
        '{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1795263361721},"forbiddenTable":{"G":{"T":4}},'
        '"subscriptionGroupTable":{"G":{"attributes":{},"brokerId":0,"consumeEnable":true,"groupName":"G",'
        '"groupRetryPolicy":{"type":"CUSTOMIZED"},"retryQueueNums":2,"somethingNew":1}}}'
    )
    groups = manager(tmp_path)
    groups.table.load()
    found = groups.select("G")
    assert found is not None and found.retry_queue_nums == 2 and found.retry_max_times == 16
    assert groups.data_version.counter == 3
    assert groups.is_forbidden("G", "T")
    encoded = msgspec.json.decode(groups.table.encode())
    assert "subscriptionDataSet" not in encoded["subscriptionGroupTable"]["G"], "4.9 knows no null there"


def test_several_groups_are_changed_together_or_not_at_all(tmp_path: Path) -> None:
    groups = manager(tmp_path)
    version = groups.version
    good = SubscriptionGroupConfig(group_name="good")
    for bad in (
        SubscriptionGroupConfig(group_name="bad name"),
        SubscriptionGroupConfig(group_name=""),
        SubscriptionGroupConfig(group_name="fine", attributes={"+key": "value"}),
    ):
        with pytest.raises(InvalidInputError):
            groups.update([good, bad])
    assert groups.select("good") is None
    assert groups.version == version
