"""What operators ask a broker about its topics: create, change, delete, list, and where the queues stand.

Source: `AdminBrokerProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.registration import Registration
from rocketmq_py.broker.topic_attributes import MESSAGE_TYPE, MIXED, parse_attributes
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import topic as names
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.topic_config import (
    TOPIC_FILTER_TYPES,
    CreateTopicList,
    TopicConfig,
    TopicConfigTable,
)
from rocketmq_py.remoting.bodies.topic_list import TopicList
from rocketmq_py.remoting.bodies.topic_stats import TopicOffset, TopicStatsTable
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import admin_topic as headers
from rocketmq_py.remoting.java_json import decode_body, encode_body
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.message_store import MessageStore


class TopicRefusedError(InvalidInputError):
    """A topic may not be created, changed or deleted; answered with INVALID_PARAMETER."""


class AdminTopicProcessor:
    """Answers requests about topics.

    Args:
        config: the broker's settings.
        topics: the table of topics.
        store: for offsets, and to delete queues.
        registration: so that name servers learn of a change before the operator's answer.

    Attributes:
        topic_put_tps: messages that a topic gets in a second; the stage with statistics sets it.
    """

    def __init__(
        self, config: BrokerConfig, topics: TopicConfigManager, store: MessageStore, registration: Registration
    ) -> None:
        self.topic_put_tps: Callable[[str], float] = lambda topic: 0.0
        self._config = config
        self._topics = topics
        self._store = store
        self._registration = registration

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.UPDATE_AND_CREATE_TOPIC, self.update_topic),
            (RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, self.update_topic_list),
            (RequestCode.DELETE_TOPIC_IN_BROKER, self.delete_topic),
            (RequestCode.GET_ALL_TOPIC_CONFIG, self.get_all_topics),
            (RequestCode.GET_TOPIC_CONFIG, self.get_topic),
            (RequestCode.GET_TOPIC_STATS_INFO, self.get_topic_stats),
            (RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER, self.get_system_topics),
            (RequestCode.CLEAN_UNUSED_TOPIC, self.clean_unused_topics),
        ):
            processors.register(code, handler, "admin")

    # --- changes -----------------------------------------------------------------------------------------------------

    async def update_topic(self, request: Request) -> RemotingCommand:
        """Create or change one topic (17)."""
        header = decode_header(headers.CreateTopicRequestHeader, request.command.ext_fields)
        try:
            attributes = parse_attributes(header.attributes)
            wanted = TopicConfig(
                topic_name=header.topic,
                read_queue_nums=header.read_queue_nums,
                write_queue_nums=header.write_queue_nums,
                perm=header.perm,
                topic_filter_type=header.topic_filter_type,
                topic_sys_flag=header.topic_sys_flag or 0,
                order=header.order,
                attributes=attributes,
            )
            return await self._update([wanted])
        except TopicRefusedError as error:
            return answer(ResponseCode.INVALID_PARAMETER, str(error))
        except InvalidInputError as error:
            return answer(ResponseCode.SYSTEM_ERROR, str(error))

    async def update_topic_list(self, request: Request) -> RemotingCommand:
        """Create or change several topics; all of them or none (18).

        Differs from RocketMQ, which does nothing at all, successfully, if one of them is as it is wanted already.
        """
        body = decode_body(request.command.body, CreateTopicList)
        try:
            return await self._update(body.topic_config_list)
        except TopicRefusedError as error:
            return answer(ResponseCode.INVALID_PARAMETER, str(error))
        except InvalidInputError as error:
            return answer(ResponseCode.SYSTEM_ERROR, str(error))

    async def _update(self, configs: Sequence[TopicConfig]) -> RemotingCommand:
        for config in configs:
            self._check_topic(config)
        if self._topics.update(configs):
            await self._topics.persist()
            # Differs from RocketMQ, which answers before the name servers know: a route asked for after this answer
            # shows the topic.
            await self._registration.register_all()
        return answer()

    def _check_topic(self, config: TopicConfig) -> None:
        if error := names.topic_error(config.topic_name):
            raise TopicRefusedError(error)
        self._check_not_system(config.topic_name)
        if config.topic_filter_type not in TOPIC_FILTER_TYPES:
            raise InvalidInputError(
                f"topicFilterType is {config.topic_filter_type[:32]!r}; it is one of {', '.join(TOPIC_FILTER_TYPES)}"
            )
        is_mixed = config.attributes.get(f"+{MESSAGE_TYPE}") == MIXED
        if is_mixed and not self._config.enable_mixed_message_type:
            raise TopicRefusedError("MIXED message type is not supported.")

    def _check_not_system(self, topic: str) -> None:
        if self._config.validate_system_topic_when_update_topic and self._topics.is_system_topic(topic):
            raise TopicRefusedError(f"The topic[{topic}] is conflict with system topic.")

    async def delete_topic(self, request: Request) -> RemotingCommand:
        """Remove a topic, its queues and what is known of it (215). Its records stay in the log until that expires."""
        topic = decode_header(headers.TopicNameRequestHeader, request.command.ext_fields).topic
        if not topic or topic.isspace():
            return answer(ResponseCode.INVALID_PARAMETER, "The specified topic is blank.")
        try:
            self._check_not_system(topic)
        except TopicRefusedError as error:
            return answer(ResponseCode.INVALID_PARAMETER, str(error))
        if self._topics.delete(topic):
            self._store.delete_topic(topic)
            await self._topics.persist()
            await self._registration.register_all()
        return answer()

    def clean_unused_topics(self, request: Request) -> RemotingCommand:
        """Remove the queues of topics that are not in the table any more (316)."""
        unused = {
            topic
            for topic, _ in self._store.topics_and_queues()
            if self._topics.select(topic) is None
            and not self._topics.is_system_topic(topic)
            and not names.is_light_queue(topic)
        }
        for topic in sorted(unused):
            self._store.delete_topic(topic)
        return answer()

    # --- questions ---------------------------------------------------------------------------------------------------

    def get_all_topics(self, request: Request) -> RemotingCommand:
        """Return all topics, or a page of them (21)."""
        header = decode_header(headers.GetAllTopicConfigRequestHeader, request.command.ext_fields)
        topics = self._topics.topics
        page = dict(topics)
        if header.topic_seq is not None:
            version = decode_body(header.data_version.encode(), DataVersion) if header.data_version else None
            first = header.topic_seq if version == self._topics.data_version else 0
            size = max(0, header.max_topic_num if header.max_topic_num is not None else len(topics))
            page = dict(itertools.islice(topics.items(), max(0, first), max(0, first) + size))
        table = TopicConfigTable(data_version=self._topics.data_version, topic_config_table=page)
        return answer(
            header=headers.GetAllTopicConfigResponseHeader(total_topic_num=len(topics)), body=encode_body(table)
        )

    def get_topic(self, request: Request) -> RemotingCommand:
        """Return one topic (351)."""
        topic = decode_header(headers.TopicNameRequestHeader, request.command.ext_fields).topic
        config = self._topics.select(topic)
        if config is None:
            return answer(ResponseCode.TOPIC_NOT_EXIST, f"No topic in this broker. topic: {topic}")
        return answer(body=encode_body(config))

    def get_topic_stats(self, request: Request) -> RemotingCommand:
        """Return where every queue of a topic begins and ends, the empty ones included (202)."""
        topic = decode_header(headers.TopicNameRequestHeader, request.command.ext_fields).topic
        config = self._topics.select(topic)
        if config is None:
            return answer(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist")
        table = {
            MessageQueue(topic, self._config.broker_name, queue_id): self._offsets_of(topic, queue_id)
            for queue_id in range(max(config.read_queue_nums, config.write_queue_nums))
        }
        stats = TopicStatsTable(offset_table=table, topic_put_tps=self.topic_put_tps(topic))
        return answer(body=stats.encode())

    def _offsets_of(self, topic: str, queue_id: int) -> TopicOffset:
        min_offset = max(0, self._store.min_offset(topic, queue_id))
        max_offset = max(0, self._store.max_offset(topic, queue_id))
        stored = self._store.store_time(topic, queue_id, max_offset - 1) if max_offset > min_offset else 0
        return TopicOffset(last_update_timestamp=max(0, stored), max_offset=max_offset, min_offset=min_offset)

    def get_system_topics(self, request: Request) -> RemotingCommand:
        """List the topics that belong to the system (305)."""
        return answer(body=encode_body(TopicList.of(self._topics.system_topics)))
