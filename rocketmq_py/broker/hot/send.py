"""The hot path of a send: from the frame's header to bytes in the tick, without an object for the message.

A message is *plain* when four cheap tests say so; whatever fails one takes the ordinary path, where the same decisions
are made with more words:

    1  the tick         one flag: this broker may accept now
    2  the header       one look-up: all fields but born time and properties were seen together before, and passed
    3  the body         its length
    4  the properties   one match: nothing in them that anybody looks at; it also finds unique key, tags and keys

What never happens here for a message: a task, a future, an await, a lock, a write to a socket or a file, a reading of
the clock, a log call, a dictionary of properties.

Source: the behaviour is that of `SendMessageProcessor`, RocketMQ 5.3; the way is our own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import Final, Protocol

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.hot.batch import split_batch, split_equal
from rocketmq_py.broker.hot.plain_properties import PlainProperties, index_keys
from rocketmq_py.broker.hot.responses import NUMBER, OFFSET_ID_TAIL, TEXT, ResponseTemplate
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.send_hooks import SendHooks
from rocketmq_py.broker.send_message import (
    ASKS_FOR_TRIGGERS,
    SPECIAL_PROPERTIES,
    SendChecks,
    batch_suffixes,
    stored_properties,
    stored_suffix,
)
from rocketmq_py.broker.statistics import BrokerStatsManager, Traffic
from rocketmq_py.broker.topic_config import TopicConfigManager
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

#: Most cached targets; beyond it the table begins anew.
MAX_ENTRIES: Final = 200_000
#: Longest text of a number that certainly fits into 64 bits.
_I64_DIGITS: Final = 18

#: Texts of a system flag that holds nothing but how the body is compressed, and their numbers.
_PLAIN_SYS_FLAGS: Final = {str(flag): flag for flag in range(0x800) if not flag & ~COMPRESSION_MASK}
_NO_RETRIES: Final = frozenset((None, "0"))
_NO_BATCH: Final = frozenset((None, "false", "0"))


class HotSendHeaderV2(msgspec.Struct, gc=False):
    """A send's header as it lies in the frame. All values are texts there, and stay texts: they are only looked up."""

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


#: What two sends have in common that differ in nothing but born time, properties and body: topic, queue id, system
#: flag, flag, reconsume times, batch.
Key = tuple[str, str, str, str, str | None, str | None]


class HotTarget:
    """Where plain messages with one `Key` go: what the second test stands for.

    Attributes:
        slot: the queue; hands out queue offsets.
        queue_id: its number.
        traffic: the topic's counters.
        sys_flag, flag: what the records carry.
        is_batch: whether the bodies are batches.
    """

    __slots__ = ("flag", "is_batch", "queue_id", "slot", "sys_flag", "traffic")

    def __init__(
        self, slot: QueueSlot, queue_id: int, traffic: Traffic, sys_flag: int, flag: int, is_batch: bool
    ) -> None:
        self.slot = slot
        self.queue_id = queue_id
        self.traffic = traffic
        self.sys_flag = sys_flag
        self.flag = flag
        self.is_batch = is_batch


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
        # One for the last separator, which may be missing.
        self._max_properties = MAX_PROPERTIES_LENGTH - len(self._suffix) - 1
        self._targets: dict[Key, HotTarget] = {}
        # Messages of one moment carry the same born time, so the last one read is kept with its text.
        self._born_text, self._born = "0", 0
        decode_v2 = msgspec.json.Decoder(HotSendHeaderV2).decode
        self._decoders: dict[int, Callable[[msgspec.Raw], HotSendHeader]] = {
            RequestCode.SEND_MESSAGE: msgspec.json.Decoder(HotSendHeaderV1).decode,
            RequestCode.SEND_MESSAGE_V2: decode_v2,
            RequestCode.SEND_BATCH_MESSAGE: decode_v2,
        }
        self._config = config
        self._log = log
        self.address_changed()
        topics.on_change.append(lambda topic: self._targets.clear())
        self._plain = PlainProperties(self._triggers())
        for hooks in (send_hooks, put_hooks):
            hooks.on_change.append(lambda: self._plain.watch(self._triggers()))

    def address_changed(self) -> None:
        """Make the answer anew: it holds the broker's address, which is known for sure once the port is bound."""
        self._host = self._log.store_host.hex().upper()
        self._template = _template(self._config, self._host + OFFSET_ID_TAIL, TEXT)
        self._batch_template = _template(self._config, TEXT, TEXT)
        self._batch_template_without_key = _template(self._config, TEXT, None)

    def _triggers(self) -> tuple[bytes, ...]:
        return (*SPECIAL_PROPERTIES, *ASKS_FOR_TRIGGERS, *self._send_hooks.triggers, *self._put_hooks.triggers)

    def register(self, processors: Processors) -> None:
        """Register the three codes as hot."""
        for code in self._decoders:
            processors.hot[code] = self.feed

    def feed(self, connection: Producer, command: HotCommand, body: bytes) -> bool:
        """Append one plain message or batch; false leaves the frame to the ordinary path, untouched."""
        if not self._tick.is_writable:  # test 1
            return False
        try:
            header = self._decoders[command.code](command.ext)
        except msgspec.MsgspecError:
            return False
        key = (header.b, header.e, header.f, header.h, header.j, header.m)
        target = self._targets.get(key) or self._find_target(key, header, connection)  # test 2
        if target is None or not 0 < len(body) <= self._max_message_size:  # test 3
            return False
        if header.g != self._born_text and not self._read_born(header.g):
            return False
        properties = (header.i or "").encode()
        if len(properties) > self._max_properties:
            return False
        found = self._plain.match(properties)  # test 4
        if found is None:
            return False
        # From here on nothing fails but the store, and that before anything is changed.
        try:
            append = self._append_batch if target.is_batch else self._append
            return append(connection, command, target, body, properties, found)
        except StoreRefusedError:
            return False

    def _append(
        self,
        connection: Producer,
        command: HotCommand,
        target: HotTarget,
        body: bytes,
        properties: bytes,
        found: re.Match[bytes],
    ) -> bool:
        unique_key, tags, keys = found.groups()
        if unique_key is None:
            return False
        code = self._plain.codes.get(tags)
        queue_offset, physical_offset = self._tick.add(
            target.slot,
            body,
            stored_properties(properties, self._suffix),
            target.flag,
            target.sys_flag,
            self._born,
            connection.born_host,
            self._plain.remember(tags) if code is None else code,
            index_keys(unique_key, keys),
        )
        traffic = target.traffic
        traffic.messages += 1
        traffic.requests += 1
        traffic.bytes += len(body)
        if not command.flag & ONE_WAY_FLAG:
            self._tick.answer(
                connection,
                self._template.fill(physical_offset, target.queue_id, queue_offset, unique_key, command.opaque),
            )
        return True

    def _append_batch(
        self,
        connection: Producer,
        command: HotCommand,
        target: HotTarget,
        body: bytes,
        properties: bytes,
        found: re.Match[bytes],
    ) -> bool:
        unique_key, tags, keys = found.groups()
        if tags is not None or keys is not None:
            # They would be those of every message.
            return False
        suffixes = batch_suffixes(properties, self._suffix)
        offsets: Sequence[int]
        born = (target.sys_flag, self._born, connection.born_host)
        equal = split_equal(self._plain, body, suffixes[0])
        if equal is not None:
            queue_offset, offsets = self._tick.add_equal(target.slot, equal, *born)
            target.traffic.add(len(equal.bodies), len(equal.bodies) * len(equal.bodies[0]))
        else:
            items = split_batch(self._plain, body, suffixes, unique_key)
            if items is None:
                return False
            queue_offset, offsets = self._tick.add_batch(target.slot, items, *born)
            target.traffic.add(len(items), sum([len(item[1]) for item in items]))
        if not command.flag & ONE_WAY_FLAG:
            ids = self._message_ids(offsets)
            if unique_key is not None:
                answer = self._batch_template.fill(ids, target.queue_id, queue_offset, unique_key, command.opaque)
            else:
                answer = self._batch_template_without_key.fill(ids, target.queue_id, queue_offset, command.opaque)
            self._tick.answer(connection, answer)
        return True

    def _message_ids(self, offsets: Sequence[int]) -> bytes:
        """Return the offset message ids of a batch, separated by commas: all their digits come from one call."""
        host = self._log.store_host
        size = len(host) + 8
        data = struct.pack(">" + f"{len(host)}sQ" * len(offsets), *chain.from_iterable(zip(repeat(host), offsets)))
        return data.hex(",", size).upper().encode()

    def _find_target(self, key: Key, header: HotSendHeader, connection: Producer) -> HotTarget | None:
        """Run the checks for a key that was not seen since the last change; None leaves it to the ordinary path."""
        topic, queue_text, sys_flag_text, flag_text, reconsume_times, batch = key
        sys_flag = _PLAIN_SYS_FLAGS.get(sys_flag_text)
        if sys_flag is None or reconsume_times not in _NO_RETRIES or not (batch in _NO_BATCH or batch == "true"):
            return None
        try:
            queue_id, flag = parse_i32(queue_text), parse_i32(flag_text)
        except InvalidInputError:
            return None
        config = self._topics.select(topic)
        if config is None or queue_id < 0 or not self._checks.is_plain(config):
            return None
        if isinstance(self._checks.check(_checked_header(header, queue_id), connection.remote_address), Refusal):
            return None
        if len(self._targets) >= MAX_ENTRIES:
            self._targets.clear()
        slot, traffic = self._slots.get(topic, queue_id), self._statistics.topic_put(topic)
        target = self._targets[key] = HotTarget(slot, queue_id, traffic, sys_flag, flag, batch == "true")
        return target

    def _read_born(self, text: str) -> bool:
        # isdecimal() also holds for digits of other scripts; isascii() excludes those.
        if not (text.isdecimal() and text.isascii()) or len(text) > _I64_DIGITS:
            return False
        self._born_text, self._born = text, int(text)
        return True


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
