"""Finding single messages: by the id of a place, by a key, by the unique key of a producer.

Source: `MQAdminImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging

from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.pull_api import unpacked
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import I64_MAX
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.message_id import parse_offset_id
from rocketmq_py.common.record import decode_records
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.pull import UNIQUE_KEY_QUERY, QueryMessageRequestHeader, ViewMessageRequestHeader

logger = logging.getLogger(__name__)

#: Seconds for a query by key at one broker.
QUERY_SECONDS = 18.0
#: Most messages that a broker returns for one query.
MAX_RESULTS = 64


class MessageAdmin:
    """Finds messages.

    Args:
        instance: connections and routes; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance

    async def view(self, topic: str, msg_id: str) -> MessageExt | None:
        """Return a message by its offset message id, or else by its unique key; None if there is none.

        Raises:
            NoRouteError: the topic is not known, for a unique key.
        """
        try:
            address, offset = parse_offset_id(msg_id)
        except InvalidInputError:
            return await self.by_unique_key(topic, msg_id)
        # The "port" of a unique key read as an offset id is made of process numbers, and nearly always too large.
        if int(address.rpartition(":")[2]) <= 65_535:
            try:
                return await self.at_offset(address, offset)
            except (BrokerResponseError, RemotingError) as error:
                logger.info("message %s is not at %s: %s", msg_id, address, error)
        return await self.by_unique_key(topic, msg_id)

    async def at_offset(self, address: str, physical_offset: int) -> MessageExt | None:
        """Return the message that lies at a byte of a broker's commit log.

        Raises:
            BrokerResponseError: no record begins there.
            RemotingError: the broker does not answer.
        """
        header = ViewMessageRequestHeader(offset=physical_offset)
        response = await self._instance.ask(address, RequestCode.VIEW_MESSAGE_BY_ID, encode_header(header))
        messages = _decode(bytes(response.body))
        return messages[0] if messages else None

    async def by_key(
        self, topic: str, key: str, *, max_num: int = MAX_RESULTS, begin: int = 0, end: int = I64_MAX
    ) -> list[MessageExt]:
        """Return messages that have a key, oldest first.

        Args:
            topic: of the messages.
            key: one of the words in a message's keys.
            max_num: most messages from each broker.
            begin: earliest store time, milliseconds since 1970.
            end: latest store time.

        Raises:
            NoRouteError: the topic is not known.
        """
        found = await self._query(topic, key, max_num, begin, end, is_unique=False)
        # The index holds hashes only, so other keys with the same hash come along.
        return [message for message in found if message.topic == topic and key in message.keys.split()]

    async def by_unique_key(self, topic: str, unique_key: str) -> MessageExt | None:
        """Return the message with a unique key (the `msg_id` of a `SendResult`); of several copies the oldest.

        Raises:
            NoRouteError: the topic is not known.
        """
        return next(iter(await self.copies(topic, unique_key)), None)

    async def copies(self, topic: str, unique_key: str) -> list[MessageExt]:
        """Return all messages of a topic with a unique key, oldest first; up to 32 of each broker.

        Raises:
            NoRouteError: the topic is not known.
        """
        found = await self._query(topic, unique_key, 32, 0, I64_MAX, is_unique=True)
        return [message for message in found if message.topic == topic and message.unique_key == unique_key]

    async def _query(
        self, topic: str, key: str, max_num: int, begin: int, end: int, *, is_unique: bool
    ) -> list[MessageExt]:
        instance = self._instance
        if topic not in instance.routes:
            await instance.update_route(topic)
        header = QueryMessageRequestHeader(
            topic=topic, key=key, max_num=max_num, begin_timestamp=begin, end_timestamp=end
        )
        fields = {**encode_header(header), UNIQUE_KEY_QUERY: "true" if is_unique else "false"}
        route = instance.routes[topic]
        addresses = [
            data.master_addr or next(iter(data.broker_addrs.values()))
            for data in route.broker_datas
            if data.broker_addrs
        ]
        answers = await asyncio.gather(*(self._query_at(address, fields) for address in addresses))
        return sorted((message for answer in answers for message in answer), key=lambda one: one.store_timestamp)

    async def _query_at(self, address: str, fields: dict[str, str]) -> list[MessageExt]:
        try:
            response = await self._instance.ask(address, RequestCode.QUERY_MESSAGE, dict(fields), timeout=QUERY_SECONDS)
        except BrokerResponseError as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                logger.warning("the query at broker %s failed: %s", address, error)
            return []
        except RemotingError as error:
            logger.warning("the query at broker %s failed: %s", address, error)
            return []
        return _decode(bytes(response.body))


def _decode(body: bytes) -> list[MessageExt]:
    # One body that cannot be read must not hide the other messages, nor the rest of its own.
    return [unpacked(message) for message in decode_records(body)]
