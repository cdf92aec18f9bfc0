"""Putting drafts: the hooks run, the records go into the tick, and a callback hears what became of them.

Everything that is no plain message of a client comes this way: sends with hooks, batches, deliveries of the broker.

Source: `DefaultMessageStore#asyncPutMessage`, `#asyncPutMessages`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH
from rocketmq_py.common.record import MAX_V1_TOPIC_LENGTH
from rocketmq_py.common.topic import RETRY_OR_DLQ_TOPIC_MAX_LENGTH, is_dlq_topic, is_retry_topic
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_hooks import PutHooks
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus
from rocketmq_py.store.queue_slot import QueueSlots
from rocketmq_py.store.tick import StoreRefusedError, Tick

Done = Callable[[PutMessageResult], None]


class Putter(Protocol):
    """What takes drafts: the store, or what passes them on to another broker."""

    def put(self, drafts: Sequence[Draft], done: Done) -> None:
        """See `MessagePutter.put`."""
        ...


class MessagePutter:
    """Puts drafts into the log.

    Args:
        tick: packs and appends.
        slots: queue offsets.
        hooks: what looks at every draft.
        max_message_size: longest body in bytes.
    """

    def __init__(self, tick: Tick, slots: QueueSlots, hooks: PutHooks, max_message_size: int) -> None:
        self.hooks = hooks
        self._tick = tick
        self._slots = slots
        self._max_message_size = max_message_size

    @property
    def refusal(self) -> str:
        """Why no message is taken now; empty if messages are taken."""
        return ", ".join(self._tick.refusals)

    async def put_message(self, draft: Draft) -> PutMessageResult:
        """Append one message and wait until it is as safe as the configuration demands.

        Cancellation: the append is not undone.
        """
        future: asyncio.Future[PutMessageResult] = asyncio.get_running_loop().create_future()

        def done(result: PutMessageResult) -> None:
            if not future.done():
                future.set_result(result)

        self.put([draft], done)
        return await future

    def put(self, drafts: Sequence[Draft], done: Done) -> None:
        """Append messages of one queue in one go: all of them or none.

        Args:
            drafts: at least one; several are a batch, on which no hook runs.
            done: called once, perhaps before this returns if the drafts are refused. It is told that they are stored
                when they are as safe as the configuration demands; with `wait` false, at the end of the loop's turn.
        """
        refusal = self._refuse(drafts) or (self.hooks.apply(drafts[0]) if len(drafts) == 1 else None)
        if refusal is not None:
            done(PutMessageResult(refusal))
            return
        try:
            places = self._append(drafts)
        except StoreRefusedError as error:
            done(PutMessageResult(error.status))
            return
        stored_ms = self._tick.store_timestamp
        physical_offsets = tuple(place[1] for place in places)
        self._tick.then(
            lambda status: done(PutMessageResult(status, places[0][0], physical_offsets, stored_ms)), drafts[0].wait
        )

    def _refuse(self, drafts: Sequence[Draft]) -> PutMessageStatus | None:
        for draft in drafts:
            topic_length = len(draft.topic.encode())
            # Differs from RocketMQ: a dead-letter topic may be as long as a retry topic. There a message of a group with
            # a long name can never become a dead letter, and comes again for ever.
            is_derived = is_retry_topic(draft.topic) or is_dlq_topic(draft.topic)
            limit = RETRY_OR_DLQ_TOPIC_MAX_LENGTH if is_derived else MAX_V1_TOPIC_LENGTH
            if not 0 < topic_length <= limit or len(draft.body) > self._max_message_size:
                return PutMessageStatus.MESSAGE_ILLEGAL
            if len(draft.stored_properties) > MAX_PROPERTIES_LENGTH:
                return PutMessageStatus.PROPERTIES_SIZE_EXCEEDED
        return None

    def _append(self, drafts: Sequence[Draft]) -> list[tuple[int, int]]:
        tick = self._tick
        slot = self._slots.get(drafts[0].topic, drafts[0].queue_id)
        tick.reserve(sum(tick.size_of(slot, draft.body, draft.stored_properties, draft.born_host) for draft in drafts))
        # The room is there and the bytes are checked: from here on no draft can fail without the others.
        return [
            tick.add(
                slot,
                body=draft.body,
                properties=draft.stored_properties,
                flag=draft.flag,
                sys_flag=draft.sys_flag,
                born_timestamp=draft.born_timestamp,
                born_host=draft.born_host,
                tags_code=draft.tags_code,
                reconsume_times=draft.reconsume_times,
                prepared_transaction_offset=draft.prepared_transaction_offset,
                units=draft.units,
            )
            for draft in drafts
        ]
