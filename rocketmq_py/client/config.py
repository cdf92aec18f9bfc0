"""The settings of clients, with RocketMQ's names and defaults in Python spelling.

Source: `ClientConfig`, `DefaultMQProducer`, RocketMQ 5.3.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from rocketmq_py.common.compression import CompressionType
from rocketmq_py.common.topic import AUTO_CREATE_TOPIC_KEY_TOPIC
from rocketmq_py.remoting.codes import ResponseCode

#: The instance name that is replaced by one of the process's own.
DEFAULT_INSTANCE_NAME = "DEFAULT"

#: What one attempt to send may be answered with so that another broker is tried. Differs from RocketMQ 5.3, which also
#: has SYSTEM_BUSY here: a broker that asks for less is not given more.
RETRY_RESPONSE_CODES = frozenset(
    (
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.NO_PERMISSION,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
        ResponseCode.GO_AWAY,
    )
)


@dataclass(slots=True, kw_only=True)
class ClientConfig:
    """What all clients share. Durations are milliseconds.

    Attributes:
        namesrv_addr: name servers, `host:port;host:port`.
        client_ip: the address that the client id and message ids carry; empty: found out at start.
        instance_name: part of the client id; `DEFAULT` becomes a name of the process's own.
        unit_name: a further part of the client id.
        unit_mode: marks topics that this client creates by sending.
        tls: connect with TLS; None: plain.
    """

    namesrv_addr: str = "127.0.0.1:9876"
    client_ip: str = ""
    instance_name: str = DEFAULT_INSTANCE_NAME
    unit_name: str = ""
    unit_mode: bool = False
    poll_name_server_interval: int = 30_000
    heartbeat_broker_interval: int = 30_000
    persist_consumer_offset_interval: int = 5_000
    pull_time_delay_mills_when_exception: int = 1_000
    mq_client_api_timeout: int = 3_000
    max_message_size: int = 4 << 20
    tls: ssl.SSLContext | None = None


@dataclass(slots=True, kw_only=True)
class ProducerConfig(ClientConfig):
    """Settings of a producer. Durations are milliseconds, sizes bytes.

    Attributes:
        create_topic_key: the template for topics that a send creates.
        default_topic_queue_nums: how many queues such a topic gets.
        send_msg_timeout: the whole time of one send, retries included.
        send_msg_max_timeout_per_request: the time of one attempt while others are left; negative: no limit of its own.
        compress_msg_body_over_howmuch: bodies of this size and more are compressed.
        retry_times_when_send_failed: further attempts of `send`, on other brokers.
        retry_times_when_send_async_failed: further attempts of `send_async`, on the same broker.
        retry_another_broker_when_not_store_ok: also try another broker when flush or replicas timed out.
        retry_response_codes: answers after which `send` tries another broker.
        send_latency_enable: avoid brokers that were slow or failed, for a time that grows with their latency.
    """

    create_topic_key: str = AUTO_CREATE_TOPIC_KEY_TOPIC
    default_topic_queue_nums: int = 4
    send_msg_timeout: int = 3_000
    send_msg_max_timeout_per_request: int = -1
    compress_msg_body_over_howmuch: int = 4_096
    compress_level: int = 5
    compress_type: CompressionType = CompressionType.ZLIB
    retry_times_when_send_failed: int = 2
    retry_times_when_send_async_failed: int = 2
    retry_another_broker_when_not_store_ok: bool = False
    retry_response_codes: frozenset[int] = RETRY_RESPONSE_CODES
    send_latency_enable: bool = False
