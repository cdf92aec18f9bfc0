"""The hot path of a send: from the frame's header to bytes in the tick, without an object for the message.

A message is *plain* when four cheap tests say so; whatever fails one takes the ordinary path, where the same decisions
are made with more words:

    1  the tick         one flag: this broker may accept now
    2  topic and queue  one look-up: the checks of `SendChecks` passed for them before
    3  the header       compares: not compressed beyond its flag bits, no retry, a body within the limit
    4  the properties   one search: nothing in them that anybody looks at, and a unique key

What never happens here for a message: a task, a future, an await, a lock, a write to a socket or a file, a reading of
the clock, a log call, a dictionary of properties.

Source: the behaviour is that of `SendMessageProcessor`, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.hot.responses import NUMBER, OFFSET_ID_TAIL, TEXT, ResponseTemplate
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_hooks import SendHooks, join_triggers
from rocketmq_py.broker.send_message import (
    ASKS_FOR_TRIGGERS,
    MAX_BATCH_MESSAGES,
    SPECIAL_PROPERTIES,
    SendChecks,
    stored_properties,
    stored_suffix,
    tags_code,
)
from rocketmq_py.broker.statistics import BrokerStatsManager, Traffic
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.message_batch import ITEM_LAYOUT
from rocketmq_py.common.properties import MAX_PROPERTIES_LENGTH
from rocketmq_py.common.sys_flag import COMPRESSION_MASK
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import ONE_WAY_FLAG
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader
from rocketmq_py.remoting.processors import HotCommand, Processors
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.put_hooks import PutHooks
from rocketmq_py.store.queue_slot import QueueSlot, QueueSlots
from rocketmq_py.store.tick import BatchRow, StoreRefusedError, Tick

#: Most cached queues; beyond it the table begins anew.
MAX_ENTRIES: Final = 200_000
#: Most cached tags.
MAX_TAGS: Final = 65_536

_ITEM: Final = ITEM_LAYOUT.struct
#: Head of a batch's item and the two bytes of its properties' length; the body lies between them.
_ITEM_SIZE: Final = ITEM_LAYOUT.size + 2

_UNIQUE_KEY: Final = names.UNIQ_KEY.encode() + b"\x01"
_TAGS: Final = names.TAGS.encode() + b"\x01"

#: Texts of a system flag that holds nothing but how the body is compressed, and their numbers.
_PLAIN_SYS_FLAGS: Final = {str(flag): flag for flag in range(0x800) if not flag & ~COMPRESSION_MASK}
_NO_RETRIES: Final = frozenset((None, "0"))
_NO_BATCH: Final = frozenset((None, "false", "0"))


class HotSendHeaderV2(msgspec.Struct, gc=False):
    """A send's header as it lies in the frame. Numbers that are only compared or looked up stay texts."""

    b: str  # topic
    e: str  # queue id
    f: str  # system flag
    g: str  # born timestamp
    h: str  # flag
    a: str = ""  # producer group
    c: str = ""  # default topic
    d: str = "0"  # default topic's queue numbers
    i: str | None = None  # properties
    j: str | None = None  # reconsume times
    m: str | None = None  # batch


class HotSendHeaderV1(msgspec.Struct, gc=False):
    """The same under the long names of code 10."""

    b: str = msgspec.field(name="topic")
    e: str = msgspec.field(name="queueId")
    f: str = msgspec.field(name="sysFlag")
    g: str = msgspec.field(name="bornTimestamp")
    h: str = msgspec.field(name="flag")
    a: str = msgspec.field(default="", name="producerGroup")
    c: str = msgspec.field(default="", name="defaultTopic")
    d: str = msgspec.field(default="0", name="defaultTopicQueueNums")
    i: str | None = msgspec.field(default=None, name="properties")
    j: str | None = msgspec.field(default=None, name="reconsumeTimes")
    m: str | None = msgspec.field(default=None, name="batch")


HotSendHeader = HotSendHeaderV1 | HotSendHeaderV2


class HotQueue:
    """A queue to which plain messages may be sent: what the second test stands for.

    Attributes:
        slot: hands out queue offsets.
        queue_id: its number.
        traffic: the topic's counters.
    """

    __slots__ = ("queue_id", "slot", "traffic")

    def __init__(self, slot: QueueSlot, queue_id: int, traffic: Traffic) -> None:
        self.slot = slot
        self.queue_id = queue_id
        self.traffic = traffic


class Producer(Protocol):
    """What the hot path needs of a connection."""

    @property
    def remote_address(self) -> str:
        """`ip:port` of the client."""
        ...

    @property
    def born_host(self) -> bytes:
        """The same as records carry it."""
        ...

    def write_now(self, data: bytes) -> None:
        """Send bytes; the tick joins all answers of one turn of the loop."""
        ...


class HotSend:
    """Takes SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE frames with a JSON header."""

    def __init__(
        self,
        *,
        config: BrokerConfig,
        max_message_size: int,
        log: CommitLog,
        checks: SendChecks,
        topics: TopicConfigManager,
        send_hooks: SendHooks,
        put_hooks: PutHooks,
        statistics: BrokerStatsManager,
        slots: QueueSlots,
        tick: Tick,
    ) -> None:
        self._checks = checks
        self._topics = topics
        self._send_hooks = send_hooks
        self._put_hooks = put_hooks
        self._statistics = statistics
        self._slots = slots
        self._tick = tick
        self._max_message_size = max_message_size
        self._suffix = stored_suffix(config)
        self._max_properties = MAX_PROPERTIES_LENGTH - len(self._suffix) - 1
        self._queues: dict[tuple[str, str], HotQueue] = {}
        self._tags_codes: dict[bytes, int] = {}
        self._decode_v1 = msgspec.json.Decoder(HotSendHeaderV1).decode
        self._decode_v2 = msgspec.json.Decoder(HotSendHeaderV2).decode
        self._config = config
        self._log = log
        self.address_changed()
        topics.on_change.append(lambda topic: self._queues.clear())
        send_hooks.on_change.append(self._join_triggers)
        put_hooks.on_change.append(self._join_triggers)
        self._join_triggers()

    def address_changed(self) -> None:
        """Make the answer anew: it holds the broker's address, which is known for sure once the port is bound."""
        host = self._log.store_host.hex().upper()
        self._id_format = host + OFFSET_ID_TAIL
        self._template = _template(self._config, self._id_format, TEXT)
        self._batch_template = _template(self._config, TEXT, TEXT)
        self._batch_template_without_key = _template(self._config, TEXT, None)

    def _join_triggers(self) -> None:
        self._special = join_triggers(
            (*SPECIAL_PROPERTIES, *ASKS_FOR_TRIGGERS, *self._send_hooks.triggers, *self._put_hooks.triggers)
        )

    def register(self, processors: Processors) -> None:
        """Register the three codes as hot."""
        processors.hot[RequestCode.SEND_MESSAGE] = self._feeder(self._decode_v1)
        processors.hot[RequestCode.SEND_MESSAGE_V2] = self._feeder(self._decode_v2)
        processors.hot[RequestCode.SEND_BATCH_MESSAGE] = self._feeder(self._decode_v2)

    def _feeder(self, decode: Callable[[msgspec.Raw], HotSendHeader]) -> Callable[[Producer, HotCommand, bytes], bool]:
        def feed(connection: Producer, command: HotCommand, body: bytes) -> bool:
            try:
                header = decode(command.ext)
            except msgspec.MsgspecError:
                return False
            return self.feed(connection, command, header, body)

        return feed

    def feed(self, connection: Producer, command: HotCommand, header: HotSendHeader, body: bytes) -> bool:
        """Append one plain message or batch; false leaves the frame to the ordinary path, untouched."""
        if not self._tick.is_writable:  # test 1
            return False
        queue = self._queues.get((header.b, header.e))  # test 2
        if queue is None:
            queue = self._find_queue(header, connection)
            if queue is None:
                return False
        sys_flag = _PLAIN_SYS_FLAGS.get(header.f)  # test 3
        born, flag = header.g, header.h
        if (
            sys_flag is None
            or header.j not in _NO_RETRIES
            or not 0 < len(body) <= self._max_message_size
            or not (born.isdecimal() and flag.isdecimal() and born.isascii() and flag.isascii())
            or len(born) > 18
            or len(flag) > 9
        ):
            return False
        properties = (header.i or "").encode()
        if len(properties) > self._max_properties or self._special(b"\x02" + properties):  # test 4
            return False
        unique_key = _value(properties, _UNIQUE_KEY)
        if unique_key is None or (unique_key and not unique_key.isalnum()):
            return False
        # From here on nothing fails but the store, and that before anything is changed.
        try:
            if header.m in _NO_BATCH:
                return self._append(connection, command, queue, body, properties, unique_key, sys_flag, header)
            if header.m == "true":
                return self._append_batch(connection, command, queue, body, properties, unique_key, sys_flag, header)
        except StoreRefusedError:
            pass
        return False

    def _append(
        self,
        connection: Producer,
        command: HotCommand,
        queue: HotQueue,
        body: bytes,
        properties: bytes,
        unique_key: bytes,
        sys_flag: int,
        header: HotSendHeader,
    ) -> bool:
        tag = _value(properties, _TAGS)
        if tag is None or not unique_key:
            return False
        code = self._tags_codes.get(tag)
        queue_offset, physical_offset = self._tick.add(
            queue.slot,
            body=body,
            properties=stored_properties(properties, self._suffix),
            flag=int(header.h),
            sys_flag=sys_flag,
            born_timestamp=int(header.g),
            born_host=connection.born_host,
            tags_code=self._remember_tag(tag) if code is None else code,
        )
        traffic = queue.traffic
        traffic.messages += 1
        traffic.requests += 1
        traffic.bytes += len(body)
        if not command.flag & ONE_WAY_FLAG:
            self._tick.answer(
                connection,
                self._template.fill(physical_offset, queue.queue_id, queue_offset, unique_key, command.opaque),
            )
        return True

    def _append_batch(
        self,
        connection: Producer,
        command: HotCommand,
        queue: HotQueue,
        body: bytes,
        properties: bytes,
        unique_key: bytes,
        sys_flag: int,
        header: HotSendHeader,
    ) -> bool:
        items = self._split(body, stored_properties(properties, self._suffix))
        if items is None:
            return False
        queue_offset, offsets = self._tick.add_batch(
            queue.slot,
            items,
            sys_flag=sys_flag,
            born_timestamp=int(header.g),
            born_host=connection.born_host,
        )
        queue.traffic.add(len(items), sum([len(item[1]) for item in items]))
        if not command.flag & ONE_WAY_FLAG:
            ids = ",".join([self._id_format % offset for offset in offsets]).encode()
            if unique_key:
                answer = self._batch_template.fill(ids, queue.queue_id, queue_offset, unique_key, command.opaque)
            else:
                answer = self._batch_template_without_key.fill(ids, queue.queue_id, queue_offset, command.opaque)
            self._tick.answer(connection, answer)
        return True

    def _split(self, body: bytes, suffix: bytes) -> list[BatchRow] | None:
        """Split the body of a batch (`common/message_batch.py`); None if the ordinary path must look at it.

        Every length of the whole batch is checked before anything of it is appended.
        """
        items: list[BatchRow] = []
        at, end, longest = 0, len(body), MAX_PROPERTIES_LENGTH - len(suffix) - 1
        unpack, codes = _ITEM.unpack_from, self._tags_codes
        while at < end:
            if end - at < _ITEM_SIZE or len(items) == MAX_BATCH_MESSAGES:
                return None
            size, _, _, flag, body_length = unpack(body, at)
            item_end = at + size
            properties_at = at + _ITEM_SIZE + body_length
            if body_length < 0 or not properties_at <= item_end <= end:
                return None
            length = item_end - properties_at
            if body[properties_at - 2] << 8 | body[properties_at - 1] != length or length > longest:
                return None
            properties = body[properties_at:item_end]
            tag = _value(properties, _TAGS)
            if tag is None:
                return None
            code = codes.get(tag)
            items.append(
                (
                    flag,
                    body[at + _ITEM.size : properties_at - 2],
                    stored_properties(properties, suffix),
                    self._remember_tag(tag) if code is None else code,
                )
            )
            at = item_end
        return items

    def _find_queue(self, header: HotSendHeader, connection: Producer) -> HotQueue | None:
        """Run the checks for a queue that was not seen since the last change; None leaves it to the ordinary path."""
        config = self._topics.select(header.b)
        try:
            queue_id = parse_i32(header.e)
        except InvalidInputError:
            return None
        if config is None or queue_id < 0 or not self._checks.is_plain(config):
            return None
        checked = self._checks.check(_checked_header(header, queue_id), connection.remote_address)
        if isinstance(checked, Refusal):
            return None
        if len(self._queues) >= MAX_ENTRIES:
            self._queues.clear()
        queue = HotQueue(self._slots.get(header.b, queue_id), queue_id, self._statistics.topic_put(header.b))
        self._queues[header.b, header.e] = queue
        return queue

    def _remember_tag(self, tag: bytes) -> int:
        if len(self._tags_codes) >= MAX_TAGS:
            self._tags_codes.clear()
        code = self._tags_codes[tag] = tags_code(tag.decode())
        return code


def _value(properties: bytes, name: bytes) -> bytes | None:
    """Return the value behind `name` (with its 0x01), b"" if it is absent, None if the ordinary path must look."""
    at = properties.rfind(name)
    if at < 0:
        return b""
    start = at + len(name)
    end = properties.find(b"\x02", start)
    # The end of a longer name, a value without end, an empty value: all legal, none of them usual.
    if (at and properties[at - 1] != 2) or end <= start:
        return None
    return properties[start:end]


def _checked_header(header: HotSendHeader, queue_id: int) -> SendMessageRequestHeader:
    """Return what `SendChecks` looks at for a topic that exists."""
    return SendMessageRequestHeader(
        producer_group=header.a,
        topic=header.b,
        default_topic=header.c,
        default_topic_queue_nums=0,
        queue_id=queue_id,
        sys_flag=0,
        born_timestamp=0,
        flag=0,
    )


def _template(config: BrokerConfig, msg_id: str, transaction_id: str | None) -> ResponseTemplate:
    fields = {"msgId": msg_id, "queueId": NUMBER, "queueOffset": NUMBER}
    if transaction_id is not None:
        fields["transactionId"] = transaction_id
    fields |= {"MSG_REGION": config.region_id, "TRACE_ON": "true" if config.trace_on else "false"}
    return ResponseTemplate(answer(ResponseCode.SUCCESS), fields)
