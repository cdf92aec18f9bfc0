"""Taking back a message that waits for its time: finds the broker that the handle names, and asks it.

Source: `DefaultMQProducerImpl#recallMessage`, RocketMQ 5.3.2.
"""

from __future__ import annotations

from rocketmq_py.client.errors import NoBrokerError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.client.publish_queues import PublishQueues
from rocketmq_py.client.validators import check_topic_for_sending
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.recall_handle import RecallMessageHandle
from rocketmq_py.common.topic import is_dlq_topic, is_retry_topic
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.recall import RecallMessageRequestHeader, RecallMessageResponseHeader


async def recall(
    instance: MQClientInstance, queues: PublishQueues, group: str, topic: str, recall_handle: str, seconds: float
) -> str:
    """Ask for it and return the unique key of the message; see `Producer.recall_message` for the errors."""
    check_topic_for_sending(topic)
    if is_retry_topic(topic) or is_dlq_topic(topic):
        raise InvalidInputError(
            f"a message of {topic} cannot be taken back: retry and dead-letter topics have no timers"
        )
    handle = RecallMessageHandle.decode(recall_handle)
    # Its route tells the addresses of all brokers that have the topic.
    await queues.find(topic)
    # A proxy answers for brokers whose names it does not tell: then any broker of the topic is asked.
    address = instance.master_address(handle.broker_name) or instance.any_broker_of(topic)
    if address is None:
        raise NoBrokerError(handle.broker_name)
    header = RecallMessageRequestHeader(
        topic=topic, recall_handle=recall_handle, producer_group=group, broker_name=handle.broker_name
    )
    response = await instance.ask(address, RequestCode.RECALL_MESSAGE, encode_header(header), timeout=seconds)
    return decode_header(RecallMessageResponseHeader, response.ext_fields).msg_id
