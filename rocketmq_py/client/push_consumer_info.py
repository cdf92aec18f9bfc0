"""What a push consumer tells tools about its inside.

Source: `DefaultMQPushConsumerImpl#consumerRunningInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from rocketmq_py.remoting.bodies import consumer_running_info as info
from rocketmq_py.remoting.bodies.heartbeat import ConsumeType

#: The release whose behaviour this client has, as `remoting/version.py` numbers it.
CLIENT_VERSION: Final = "V5_3_3"

if TYPE_CHECKING:
    from rocketmq_py.client.push_consumer import PushConsumer


def describe(consumer: PushConsumer) -> bytes:
    """Return the body of GET_CONSUMER_RUNNING_INFO."""
    config = consumer.config
    properties = {field.name: str(getattr(config, field.name)) for field in fields(config) if field.name != "tls"}
    properties[info.PROP_NAMESERVER_ADDR] = "".join(f"{address};" for address in config.namesrv_addr.split(";"))
    properties[info.PROP_CONSUME_TYPE] = ConsumeType.CONSUME_PASSIVELY.value
    properties[info.PROP_CLIENT_VERSION] = CLIENT_VERSION
    properties[info.PROP_CONSUMEORDERLY] = str(consumer.service.keeps_order).lower()
    properties[info.PROP_THREADPOOL_CORE_SIZE] = str(config.consume_thread_max)
    properties[info.PROP_CONSUMER_START_TIMESTAMP] = str(consumer.started_ms)
    table = {
        queue: info.ProcessQueueInfo(
            commit_offset=max(consumer.offsets.get(queue), 0),
            cached_msg_min_offset=window.min_offset,
            cached_msg_max_offset=window.max_offset,
            cached_msg_count=len(window),
            cached_msg_size_in_mi_b=window.size >> 20,
            droped=window.is_dropped,
        )
        for queue, window in consumer.queues.items()
    }
    subscriptions = list(consumer.subscriptions.values())
    statuses = {subscription.topic: info.TopicConsumeStatus() for subscription in subscriptions}
    return info.ConsumerRunningInfo(
        properties=properties, subscription_set=subscriptions, mq_table=table, status_table=statuses
    ).encode()
