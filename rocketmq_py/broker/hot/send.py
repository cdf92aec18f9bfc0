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
from rocketmq_py.store.tick import StoreRefusedError, Tick

#: Most cached queues; beyond it the table begins anew.
MAX_ENTRIES: Final = 200_000
#: Most cached tags.
MAX_TAGS: Final = 65_536

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
        self._template = _template(self._config, self._log.store_host)

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
        """Append one plain message; false leaves the frame to the ordinary path, untouched."""
        tick = self._tick
        if not tick.is_writable:  # test 1
            return False
        queue = self._queues.get((header.b, header.e))  # test 2
        if queue is None:
            queue = self._find_queue(header, connection)
            if queue is None:
                return False
        if header.m not in _NO_BATCH:
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
        tag = _value(properties, _TAGS)
        if not unique_key or tag is None or not unique_key.isalnum():
            return False
        code = self._tags_codes.get(tag)
        if code is None:
            code = self._remember_tag(tag)
        # From here on nothing fails but the store, and it fails before anything is changed.
        try:
            queue_offset, physical_offset = tick.add(
                queue.slot,
                body=body,
                properties=stored_properties(properties, self._suffix),
                flag=int(flag),
                sys_flag=sys_flag,
                born_timestamp=int(born),
                born_host=connection.born_host,
                tags_code=code,
            )
        except StoreRefusedError:
            return False
        traffic = queue.traffic
        traffic.messages += 1
        traffic.requests += 1
        traffic.bytes += len(body)
        if not command.flag & ONE_WAY_FLAG:
            tick.answer(
                connection,
                self._template.fill(physical_offset, queue.queue_id, queue_offset, unique_key, command.opaque),
            )
        return True

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


def _template(config: BrokerConfig, store_host: bytes) -> ResponseTemplate:
    fields = {
        "msgId": store_host.hex().upper() + OFFSET_ID_TAIL,
        "queueId": NUMBER,
        "queueOffset": NUMBER,
        "transactionId": TEXT,
        "MSG_REGION": config.region_id,
        "TRACE_ON": "true" if config.trace_on else "false",
    }
    return ResponseTemplate(answer(ResponseCode.SUCCESS), fields)
