"""From a message to the request that carries it: unique id, compression, header.

The caller's message is changed in one point only: it gets a unique id (property `UNIQ_KEY`) if it has none. A second
send of the same object therefore keeps the id, which is how duplicates can be recognised.

Source: `DefaultMQProducerImpl#sendKernelImpl`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rocketmq_py.client.config import ProducerConfig
from rocketmq_py.client.validators import check_message
from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.compression import compress
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.message import Message, MessageQueue
from rocketmq_py.common.message_batch import encode_batch
from rocketmq_py.common.message_id import UniqueIds
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message or batch that is ready to be sent, to whichever queue.

    Attributes:
        messages: the caller's messages.
        body: compressed, or the batch.
        sys_flag: says how.
        msg_id: the unique id or ids.
        is_batch: several messages.
    """

    messages: list[Message]
    body: bytes
    sys_flag: int
    msg_id: str
    is_batch: bool

    @property
    def topic(self) -> str:
        """Where to."""
        return self.messages[0].topic


def prepare(message: Message, config: ProducerConfig, ids: UniqueIds) -> Outgoing:
    """Check a message, give it an id and compress its body.

    Raises:
        InvalidInputError: the message breaks a rule.
    """
    check_message(message, config.max_message_size)
    msg_id = message.properties.setdefault(names.UNIQ_KEY, "") or _give_id(message, ids)
    sys_flag, body = 0, message.body
    if len(body) >= config.compress_msg_body_over_howmuch:
        body = compress(body, config.compress_type, config.compress_level)
        sys_flag = flags.COMPRESSED | config.compress_type.value
    if message.properties.get(names.TRAN_MSG, "").lower() == "true":
        sys_flag |= flags.TRANSACTION_PREPARED
    return Outgoing([message], body, sys_flag, msg_id, False)


def prepare_batch(messages: Sequence[Message], config: ProducerConfig, ids: UniqueIds) -> Outgoing:
    """Check several messages and join them into one body.

    Raises:
        InvalidInputError: there is none, one breaks a rule, or they do not belong together.
    """
    if not messages:
        raise InvalidInputError("the batch holds no message")
    first = messages[0]
    for message in messages:
        check_message(message, config.max_message_size)
        if message.topic != first.topic or message.wait_store_ok != first.wait_store_ok:
            raise InvalidInputError("all messages of a batch need the same topic and the same WAIT property")
        if message.delay_level > 0 or message.is_timer or is_retry_topic(message.topic):
            raise InvalidInputError("delayed messages and messages to retry topics cannot be in a batch")
    size = sum(len(message.body) for message in messages)
    if size > config.max_message_size:
        raise InvalidInputError(
            f"the batch has {size} bytes of bodies, more than max_message_size {config.max_message_size}; split it"
        )
    msg_ids = [message.properties.setdefault(names.UNIQ_KEY, "") or _give_id(message, ids) for message in messages]
    return Outgoing(list(messages), encode_batch(messages), 0, ",".join(msg_ids), True)


def _give_id(message: Message, ids: UniqueIds) -> str:
    msg_id = ids.create()
    message.properties[names.UNIQ_KEY] = msg_id
    return msg_id


def build_request(
    outgoing: Outgoing, queue: MessageQueue, group: str, born_timestamp: int, config: ProducerConfig, batch_id: str = ""
) -> RemotingCommand:
    """Return the request of one attempt.

    Args:
        outgoing: what to send.
        queue: where to.
        group: who sends.
        born_timestamp: milliseconds since 1970.
        config: the producer's settings.
        batch_id: the unique id of a batch as a whole.

    Raises:
        InvalidInputError: the properties do not fit into a record.
    """
    first = outgoing.messages[0]
    properties = first.properties
    if outgoing.is_batch:
        properties = {names.UNIQ_KEY: batch_id, names.WAIT: "true" if first.wait_store_ok else "false"}
    encoded = encode_properties(properties)
    if len(encoded) > names.MAX_PROPERTIES_LENGTH:
        raise InvalidInputError(
            f"the properties for topic {outgoing.topic} take {len(encoded)} bytes; "
            f"a record holds {names.MAX_PROPERTIES_LENGTH}"
        )
    header = SendMessageRequestHeader(
        producer_group=group,
        topic=outgoing.topic,
        default_topic=config.create_topic_key,
        default_topic_queue_nums=config.default_topic_queue_nums,
        queue_id=queue.queue_id,
        sys_flag=outgoing.sys_flag,
        born_timestamp=born_timestamp,
        flag=0 if outgoing.is_batch else first.flag,
        properties=encoded.decode(),
        reconsume_times=0,
        unit_mode=config.unit_mode,
        batch=outgoing.is_batch,
        broker_name=queue.broker_name,
    )
    if is_retry_topic(outgoing.topic):
        header.reconsume_times = parse_i32(properties.get(names.RECONSUME_TIME, "0"), names.RECONSUME_TIME)
        if limit := properties.get(names.MAX_RECONSUME_TIMES):
            header.max_reconsume_times = parse_i32(limit, names.MAX_RECONSUME_TIMES)
    fields = encode_header(SendMessageRequestHeaderV2.from_v1(header))
    return RemotingCommand.create_request(_code_of(outgoing, properties), fields, outgoing.body)


def _code_of(outgoing: Outgoing, properties: Mapping[str, str]) -> int:
    if outgoing.is_batch:
        return RequestCode.SEND_BATCH_MESSAGE
    # The broker passes a reply on to the client that waits for it.
    is_reply = properties.get(names.MSG_TYPE) == names.MSG_TYPE_REPLY
    return RequestCode.SEND_REPLY_MESSAGE_V2 if is_reply else RequestCode.SEND_MESSAGE_V2
