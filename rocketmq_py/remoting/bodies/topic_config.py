"""Topic configurations: what a broker keeps in `topics.json`, registers at name servers and tells administrators.

Members are declared in alphabetical order, the order in which Java writes them.

Source: `TopicConfig`, `TopicConfigSerializeWrapper`, `CreateTopicListRequestBody`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rocketmq_py.common import permission
from rocketmq_py.common.data_version import DataVersion

SINGLE_TAG: Final = "SINGLE_TAG"
MULTI_TAG: Final = "MULTI_TAG"
TOPIC_FILTER_TYPES: Final = (SINGLE_TAG, MULTI_TAG)

#: Bits of `topic_sys_flag`.
UNIT: Final = 0x1
UNIT_SUBSCRIPTION: Final = 0x2


class TopicConfig(msgspec.Struct, rename="camel", kw_only=True):
    """One topic on one broker.

    Attributes:
        attributes: such as `message.type`; absent in files and frames of 4.9.
        order: the topic is meant for ordered messages.
        perm: bits of `common/permission.py`.
        read_queue_nums: queues 0..n-1 that consumers see.
        topic_filter_type: `SINGLE_TAG` or `MULTI_TAG`.
        topic_sys_flag: bits `UNIT` and `UNIT_SUBSCRIPTION`.
        write_queue_nums: queues 0..n-1 that producers see.
    """

    attributes: dict[str, str] = {}
    order: bool = False
    perm: int = permission.READ_WRITE
    read_queue_nums: int = 16
    topic_filter_type: str = SINGLE_TAG
    topic_name: str = ""
    topic_sys_flag: int = 0
    write_queue_nums: int = 16

    def __str__(self) -> str:
        """The text that tools and remarks of RocketMQ show."""
        attributes = ", ".join(f"{key}={value}" for key, value in self.attributes.items())
        return (
            f"TopicConfig [topicName={self.topic_name}, readQueueNums={self.read_queue_nums}, "
            f"writeQueueNums={self.write_queue_nums}, perm={permission.to_text(self.perm)}, "
            f"topicFilterType={self.topic_filter_type}, topicSysFlag={self.topic_sys_flag}, "
            f"order={'true' if self.order else 'false'}, attributes={{{attributes}}}]"
        )


class TopicConfigTable(msgspec.Struct, rename="camel", kw_only=True):
    """All topics of a broker with the version of the table; the content of `topics.json` and the answer of 21.

    The mapping members belong to static topics. They are kept as they are, so that a broker which has such topics
    can register here.
    """

    data_version: DataVersion = msgspec.field(default_factory=DataVersion)
    mapping_data_version: DataVersion = msgspec.field(default_factory=DataVersion)
    topic_config_table: dict[str, TopicConfig] = {}
    topic_queue_mapping_detail_map: dict[str, dict[str, Any]] = {}
    topic_queue_mapping_info_map: dict[str, dict[str, Any]] = {}


class CreateTopicList(msgspec.Struct, rename="camel"):
    """Body of UPDATE_AND_CREATE_TOPIC_LIST (18)."""

    topic_config_list: list[TopicConfig] = []
