"""Where a consumer keeps how far it is: in memory, and from time to time somewhere that outlives it.

In clustering that is the broker, as another member may go on with the queue (this module); in broadcasting a file, as
every member reads everything (`local_offset_store.py`).

Source: `OffsetStore`, `RemoteBrokerOffsetStore`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from rocketmq_py.client.errors import BrokerResponseError, ClientError, NoBrokerError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)

logger = logging.getLogger(__name__)

#: No offset is stored for the queue.
NO_OFFSET: Final = -1


class OffsetStore(Protocol):
    """Offsets by queue: the next message that is wanted, in units."""

    async def load(self) -> None:
        """Read what an earlier process left."""
        ...

    def get(self, queue: MessageQueue) -> int:
        """Return the remembered offset, or `NO_OFFSET`; asks nobody."""
        ...

    async def read(self, queue: MessageQueue) -> int:
        """Return the stored offset and remember it; `NO_OFFSET` if there is none.

        Raises:
            ClientError, RemotingError: it could not be found out.
        """
        ...

    def update(self, queue: MessageQueue, offset: int, *, increase_only: bool = True) -> None:
        """Remember an offset; a smaller one only if asked to."""
        ...

    async def persist(self, queues: Collection[MessageQueue]) -> None:
        """Store the remembered offsets of some queues. What fails is logged and tried again next time."""
        ...

    def forget(self, queue: MessageQueue) -> None:
        """Drop what is remembered of a queue that belongs to somebody else now."""
        ...

    def snapshot(self, topic: str | None = None) -> dict[MessageQueue, int]:
        """Return what is remembered, of one topic or of all."""
        ...


class RemoteOffsetStore:
    """Offsets that the brokers keep.

    Args:
        instance: connections and routes.
        group: whose offsets.
    """

    def __init__(self, instance: MQClientInstance, group: str) -> None:
        self._instance = instance
        self._group = group
        self._offsets: dict[MessageQueue, int] = {}

    async def load(self) -> None:
        """Nothing: offsets are read as queues are taken over."""

    def get(self, queue: MessageQueue) -> int:
        """See `OffsetStore.get`."""
        return self._offsets.get(queue, NO_OFFSET)

    async def read(self, queue: MessageQueue, *, zero_if_young: bool = True) -> int:
        """Ask the queue's master; see `OffsetStore.read`.

        Args:
            queue: which.
            zero_if_young: take the broker's 0 for a group without an offset while the first message of the queue is
                still in memory; else such a group has `NO_OFFSET` (brokers before 5.0 answer 0 all the same).
        """
        header = QueryConsumerOffsetRequestHeader(
            consumer_group=self._group,
            topic=queue.topic,
            queue_id=queue.queue_id,
            set_zero_if_not_found=None if zero_if_young else False,
        )
        address = await self._address_of(queue)
        try:
            response = await self._instance.ask(
                address, RequestCode.QUERY_CONSUMER_OFFSET, encode_header(header), timeout=5.0
            )
        except BrokerResponseError as error:
            if error.code == ResponseCode.QUERY_NOT_FOUND:
                return NO_OFFSET
            raise
        offset = decode_header(OffsetResponseHeader, response.ext_fields).offset
        self._offsets[queue] = offset
        return offset

    def update(self, queue: MessageQueue, offset: int, *, increase_only: bool = True) -> None:
        """See `OffsetStore.update`."""
        known = self._offsets.get(queue)
        if known is None or not increase_only or offset > known:
            self._offsets[queue] = offset

    async def persist(self, queues: Collection[MessageQueue]) -> None:
        """Send offsets to the masters; the answer of each is waited for, so that a successor reads what was sent.

        All brokers at the same time; one that cannot be reached is tried with one queue only, so that the call ends
        within seconds however many queues there are.

        Differs from RocketMQ, which sends them one-way.
        """
        by_broker: dict[str, list[MessageQueue]] = {}
        for queue in sorted(queues):
            by_broker.setdefault(queue.broker_name, []).append(queue)
        await asyncio.gather(*(self._persist_at(name, of_broker) for name, of_broker in by_broker.items()))

    async def _persist_at(self, broker_name: str, queues: Sequence[MessageQueue]) -> None:
        for queue in queues:
            offset = self._offsets.get(queue)
            if offset is None:
                continue
            try:
                await self._commit(queue, offset)
            except BrokerResponseError as error:
                logger.warning("group %s: offset %d of %s was not stored: %s", self._group, offset, queue, error)
            except (ClientError, RemotingError) as error:
                logger.warning("group %s: offsets at broker %s were not stored: %s", self._group, broker_name, error)
                return

    async def _commit(self, queue: MessageQueue, offset: int) -> None:
        header = UpdateConsumerOffsetRequestHeader(
            consumer_group=self._group, topic=queue.topic, queue_id=queue.queue_id, commit_offset=offset
        )
        address = await self._address_of(queue)
        await self._instance.ask(address, RequestCode.UPDATE_CONSUMER_OFFSET, encode_header(header), timeout=5.0)

    async def _address_of(self, queue: MessageQueue) -> str:
        address = self._instance.master_address(queue.broker_name)
        if address is None:
            await self._instance.update_route(queue.topic)
            found = self._instance.find_broker(queue.broker_name)
            address = None if found is None else found.address
        if address is None:
            raise NoBrokerError(queue.broker_name)
        return address

    def forget(self, queue: MessageQueue) -> None:
        """See `OffsetStore.forget`."""
        self._offsets.pop(queue, None)

    def snapshot(self, topic: str | None = None) -> dict[MessageQueue, int]:
        """See `OffsetStore.snapshot`."""
        return {queue: offset for queue, offset in self._offsets.items() if topic in (None, queue.topic)}

    def __repr__(self) -> str:
        return f"<RemoteOffsetStore {self._group} {len(self._offsets)} queues>"
