"""What a name server keeps on disk: the KV configuration, and the settings that were changed over the network."""

import dataclasses

import pytest

from rocketmq_py.common.config import key_of
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.errors import ConfigError, InvalidInputError
from rocketmq_py.common.live_config import ALWAYS_REFUSED, ConfigNotAllowedError, LiveConfig
from rocketmq_py.namesrv import kv_config
from rocketmq_py.namesrv.config import MUTABLE_KEYS, NamesrvConfig
from rocketmq_py.namesrv.kv_config import KVConfigManager


async def test_what_was_put_is_there_after_a_restart(tmp_path):
    path = str(tmp_path / "deep" / "kvConfig.json")
    kv = KVConfigManager(path, system_environment())
    await kv.put("ORDER_TOPIC_CONFIG", "TopicA", "broker-a:4;broker-b:2")
    await kv.put("ns", "k1", "v1")
    await kv.delete("ns", "k1")

    again = KVConfigManager(path, system_environment())
    again.table.load()

    assert again.get("ORDER_TOPIC_CONFIG", "TopicA") == "broker-a:4;broker-b:2"
    assert again.namespace("ns").table == {}, "an empty namespace stays"
    assert again.namespace("other") is None
    assert (tmp_path / "deep" / "kvConfig.json.bak").exists()


@pytest.mark.parametrize(
    ("namespace", "key"), [("a/b", "k"), ("ns", "../k"), ("ns", ""), ("ns", "k\n"), ("ns", "x" * 256)]
)
async def test_names_in_the_kv_configuration_follow_a_rule(tmp_path, namespace, key):
    kv = KVConfigManager(str(tmp_path / "kv.json"), system_environment())

    with pytest.raises(InvalidInputError, match="must match"):
        await kv.put(namespace, key, "v")

    assert list(tmp_path.iterdir()) == []


async def test_the_kv_configuration_cannot_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(kv_config, "MAX_ENTRIES", 2)
    kv = KVConfigManager(str(tmp_path / "kv.json"), system_environment())
    await kv.put("ns", "k1", "v")
    await kv.put("ns", "k2", "v")

    with pytest.raises(InvalidInputError, match="2 entries"):
        await kv.put("ns2", "k3", "v")
    await kv.put("ns", "k2", "another value of a known key is fine")


def live_config(tmp_path, config):
    path = str(tmp_path / "namesrv.override.properties")
    return LiveConfig([config], MUTABLE_KEYS, lambda: config.config_black_list, path, system_environment())


async def test_a_changeable_setting_changes_at_once_and_for_the_next_start(tmp_path):
    config = NamesrvConfig()
    live = live_config(tmp_path, config)
    heard = []
    live.listeners.append(heard.append)

    await live.update(b"orderMessageEnable=true\nwaitSecondsForService=7\n", "10.0.0.7:1")

    assert (config.order_message_enable, config.wait_seconds_for_service) == (True, 7)
    assert heard == [frozenset({"orderMessageEnable", "waitSecondsForService"})]
    assert live.version.counter == 1
    assert "orderMessageEnable=true\n" in live.to_text()
    later = NamesrvConfig()
    live_config(tmp_path, later).load()
    assert (later.order_message_enable, later.wait_seconds_for_service) == (True, 7)


@pytest.mark.parametrize("key", [*ALWAYS_REFUSED, "supportActingMaster"])
async def test_a_setting_on_the_black_list_is_refused_with_the_remark_that_tools_know(tmp_path, key):
    config = NamesrvConfig(config_black_list="configBlackList; supportActingMaster")
    before = dataclasses.asdict(config)

    with pytest.raises(ConfigNotAllowedError, match=r"^Can not update config in black list\.$"):
        await live_config(tmp_path, config).update(f"orderMessageEnable=true\n{key}=/tmp/x".encode(), "10.0.0.7:1")

    assert dataclasses.asdict(config) == before, "the whole request is refused"
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_text_or_a_port_is_changeable():
    """A path, an address or a command is text; what is only numbers and switches cannot become one."""
    kinds = {key_of(field): (field.type, field.name) for field in dataclasses.fields(NamesrvConfig)}

    assert set(kinds) >= MUTABLE_KEYS
    assert [
        key for key in MUTABLE_KEYS if kinds[key][0] not in ("bool", "int") or "port" in kinds[key][1].split("_")
    ] == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"listenPort=1", "cannot be changed"),
        (b"filterServerNums=3", "cannot be changed"),
        (b"orderMessageEnable=true\nno such key=1", "cannot be changed"),
        (b"orderMessageEnable=yes", "true or false"),
        (b"waitSecondsForService=1_0", "not a decimal integer"),
        (b"orderMessageEnable", "string2Properties error"),
        (b"orderMessageEnable=true\0", "string2Properties error"),
        (b"\xff\xfe=1", "string2Properties error"),
        (b"orderMessageEnable=true\n" * 10_000, "at most 65536"),
    ],
)
async def test_a_bad_request_changes_nothing_and_says_why(tmp_path, body, problem):
    config = NamesrvConfig()

    with pytest.raises(ConfigError) as error:
        await live_config(tmp_path, config).update(body, "10.0.0.7:1")

    assert problem in str(error.value)
    assert config == NamesrvConfig()


async def test_an_empty_request_is_fine_and_changes_nothing(tmp_path):
    config = NamesrvConfig()
    live = live_config(tmp_path, config)

    await live.update(b"", "10.0.0.7:1")

    assert live.version.counter == 0
