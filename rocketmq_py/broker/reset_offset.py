"""Moving a group's position: to a time, to the end, or to an exact offset.

Two ways. The *server side* stores the new positions here, where they are handed to the consumers with their next pull;
it works whether the group is online or not. The older *client side* computes positions, sends them to every member and
leaves it to them; a group that is offline cannot be moved.

Source: `AdminBrokerProcessor#resetOffsetInner`, `Broker2Client#resetOffset`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rocketmq_py.broker.client.channel import ClientConnection
from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.consume_stats import encode_offset_table, encode_offset_table_for_c
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.admin_consumer import ResetOffsetRequestHeader
from rocketmq_py.remoting.language import LanguageCode
from rocketmq_py.store.message_store import MessageStore

logger = logging.getLogger(__name__)

Offsets = dict[MessageQueue, int]


class OffsetResetter:
    """Resets offsets in one of the two ways, as `useServerSideResetOffset` says."""

    def __init__(
        self,
        config: BrokerConfig,
        store: MessageStore,
        topics: TopicConfigManager,
        groups: SubscriptionGroupManager,
        offsets: ConsumerOffsetManager,
        consumers: ConsumerManager,
    ) -> None:
        self._config = config
        self._store = store
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._consumers = consumers

    async def reset(self, header: ResetOffsetRequestHeader, language: LanguageCode) -> Offsets | Refusal:
        """Move a group as a request asks.

        Args:
            header: the request's header.
            language: of the tool that asks; to C++ consumers the positions go in another form.

        Returns:
            The new position of each queue.
        """
        if self._config.use_server_side_reset_offset:
            return await self.reset_here(header)
        return await self.reset_at_clients(header, language)

    # --- on the server side -------------------------------------------------------------------------------------------

    async def reset_here(self, header: ResetOffsetRequestHeader) -> Offsets | Refusal:
        """Store the new positions; consumers get them with their next pull."""
        if not self._config.is_master:
            return Refusal(ResponseCode.SYSTEM_ERROR, "Can not reset offset in slave broker")
        config = self._topics.select(header.topic)
        if config is None:
            return Refusal(ResponseCode.TOPIC_NOT_EXIST, f"Topic {header.topic} does not exist")
        if self._groups.select(header.group) is None:
            return Refusal(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {header.group} does not exist")
        wanted: dict[int, int] = {}
        if header.queue_id >= 0 and header.offset is not None and header.offset != -1:
            refusal = self._check_range(header.topic, header.queue_id, header.offset)
            if refusal is not None:
                return refusal
            wanted[header.queue_id] = header.offset
        else:
            queue_ids = [header.queue_id] if header.queue_id >= 0 else range(config.read_queue_nums)
            for queue_id in queue_ids:
                wanted[queue_id] = await self._offset_at(header.topic, queue_id, header.timestamp)
        if not wanted:
            return Refusal(ResponseCode.SYSTEM_ERROR, "No queues to reset.")
        # All positions were found before the first is set: the reset takes effect at one moment.
        for queue_id, offset in wanted.items():
            before = self._offsets.query(header.group, header.topic, queue_id)
            self._offsets.assign_reset(header.group, header.topic, queue_id, offset)
            logger.info(
                "group %s in %s-%d is moved from %d to %d", header.group, header.topic, queue_id, before, offset
            )
        return {self._queue(header.topic, queue_id): offset for queue_id, offset in wanted.items()}

    def _check_range(self, topic: str, queue_id: int, offset: int) -> Refusal | None:
        low = self._store.min_offset(topic, queue_id)
        high = self._store.max_offset(topic, queue_id) + 1
        if low <= offset <= high:
            return None
        return Refusal(ResponseCode.SYSTEM_ERROR, f"Target offset {offset} not in consume queue range [{low}-{high}]")

    # --- on the client side -------------------------------------------------------------------------------------------

    async def reset_at_clients(self, header: ResetOffsetRequestHeader, language: LanguageCode) -> Offsets | Refusal:
        """Compute the new positions and send them to every member of the group."""
        config = self._topics.select(header.topic)
        if config is None:
            remark = f"[reset-offset] reset offset failed, no topic in this broker. topic={header.topic}"
            return Refusal(ResponseCode.TOPIC_NOT_EXIST, remark)
        wanted: Offsets = {}
        for queue_id in range(config.write_queue_nums):
            present = self._offsets.query(header.group, header.topic, queue_id)
            if present < 0:
                return Refusal(ResponseCode.SYSTEM_ERROR, f"THe consumer group <{header.group}> not exist")
            found = await self._offset_at(header.topic, queue_id, header.timestamp)
            is_taken = header.is_force or found < present
            wanted[self._queue(header.topic, queue_id)] = found if is_taken else present
        info = self._consumers.find(header.group)
        if info is None or not info.channels:
            return Refusal(
                ResponseCode.CONSUMER_NOT_ONLINE,
                f"Consumer not online, so can not reset offset, Group: {header.group} Topic: {header.topic} "
                f"Timestamp: {header.timestamp}",
            )
        for connection in list(info.channels):
            self._send(connection, header, wanted, language)
        return wanted

    def _send(
        self,
        connection: ClientConnection,
        header: ResetOffsetRequestHeader,
        wanted: Mapping[MessageQueue, int],
        language: LanguageCode,
    ) -> None:
        encode = encode_offset_table_for_c if language is LanguageCode.CPP else encode_offset_table
        command = RemotingCommand.create_request(
            RequestCode.RESET_CONSUMER_CLIENT_OFFSET, encode_header(header), encode(wanted)
        )
        try:
            connection.one_way(command)
        except RocketMQError as error:
            logger.warning("group %s: %s was not told to reset: %s", header.group, connection.remote_address, error)

    # --- both ---------------------------------------------------------------------------------------------------------

    async def _offset_at(self, topic: str, queue_id: int, timestamp: int) -> int:
        if timestamp < 0:
            return max(self._store.max_offset(topic, queue_id), 0)
        return max(await self._store.offset_by_time(topic, queue_id, timestamp), 0)

    def _queue(self, topic: str, queue_id: int) -> MessageQueue:
        return MessageQueue(topic, self._config.broker_name, queue_id)
