"""The broker's settings, with RocketMQ's names and defaults in Python spelling.

The store's settings are in `store/config.py`; one `broker.conf` holds both.

Source: `BrokerConfig`, `BrokerIdentity`, `NettyServerConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from rocketmq_py.common.config import key
from rocketmq_py.common.host import join_address
from rocketmq_py.common.permission import READ_WRITE
from rocketmq_py.common.tls_settings import TlsSettings


@dataclass(slots=True)
class BrokerConfig(TlsSettings):
    """Settings of a broker process. Durations are milliseconds unless the name says otherwise."""

    # --- who and where -------------------------------------------------------------------------------------------
    broker_name: str = "broker-a"
    broker_cluster_name: str = "DefaultCluster"
    broker_id: int = 0
    #: The address that clients are told and that records carry.
    broker_ip1: str = key("brokerIP1", "127.0.0.1")
    #: The address that slaves are told.
    broker_ip2: str = key("brokerIP2", "127.0.0.1")
    # Differs from RocketMQ, which listens on every interface.
    bind_address: str = "127.0.0.1"
    listen_port: int = 10911
    #: Names of the name servers, `host:port;host:port`; empty: the broker registers nowhere.
    namesrv_addr: str = ""

    # --- registration --------------------------------------------------------------------------------------------
    register_name_server_period: int = 30_000
    register_broker_timeout_mills: int = 24_000
    broker_heartbeat_interval: int = 1_000
    send_heartbeat_timeout_millis: int = 1_000
    broker_not_active_timeout_millis: int = 10_000
    force_register: bool = True
    compressed_register: bool = False

    # --- replicas --------------------------------------------------------------------------------------------------
    enable_slave_acting_master: bool = False
    enable_remote_escape: bool = False
    skip_pre_online: bool = False
    sync_broker_member_group_period: int = 1_000
    #: Ours: how old a slave's topics, groups and offsets may become. RocketMQ 5 asks once a minute.
    slave_sync_period: int = 10_000
    enable_controller_mode: bool = False
    #: Addresses of the controllers, `host:port;host:port`.
    controller_addr: str = ""
    sync_broker_metadata_period: int = 5_000
    check_sync_state_set_period: int = 5_000
    sync_controller_metadata_period: int = 10_000
    controller_heart_beat_timeout_mills: int = 10_000
    broker_election_priority: int = 2_147_483_647

    # --- topics and groups -----------------------------------------------------------------------------------------
    broker_permission: int = READ_WRITE
    auto_create_topic_enable: bool = True
    default_topic_queue_nums: int = 8
    cluster_topic_enable: bool = True
    broker_topic_enable: bool = True
    auto_create_subscription_group: bool = True
    enable_create_sys_group: bool = True
    trace_topic_enable: bool = False
    msg_trace_topic_name: str = "RMQ_SYS_TRACE_TOPIC"
    validate_system_topic_when_update_topic: bool = True
    enable_mixed_message_type: bool = False
    clear_retry_topic_when_delete_topic: bool = True

    # --- sending ---------------------------------------------------------------------------------------------------
    region_id: str = "DefaultRegion"
    trace_on: bool = True
    start_accept_send_request_time_stamp: int = 0
    reject_transaction_message: bool = False
    broker_fast_failure_enable: bool = True
    wait_time_mills_in_send_queue: int = 200
    recall_message_enable: bool = False
    allow_recall_when_broker_not_writeable: bool = True
    #: Also keep a reply that was passed on to its client, in the topic of replies.
    store_reply_message_enable: bool = True

    # --- transactions ----------------------------------------------------------------------------------------------
    #: Age at which an undecided half message is asked about for the first time.
    transaction_time_out: int = 6_000
    #: How often it is asked about before it is set aside.
    transaction_check_max: int = 15
    transaction_check_interval: int = 30_000
    #: Milliseconds between two writes of the counts of open transactions.
    transaction_metric_flush_interval: int = 3_000
    #: Longest body of an op record, in characters, and how long a decision may wait for company in one.
    transaction_op_msg_max_size: int = 4_096
    transaction_op_batch_interval: int = 3_000

    # --- pulling and consumers -------------------------------------------------------------------------------------
    long_polling_enable: bool = True
    short_polling_time_mills: int = 1_000
    notify_consumer_ids_changed_enable: bool = True
    real_time_notify_consumer_change: bool = True
    flush_consumer_offset_interval: int = 5_000
    consumer_offset_update_version_step: int = 500
    slave_read_enable: bool = False
    reject_pull_consumer_enable: bool = False
    lite_pull_message_enable: bool = True
    use_server_side_reset_offset: bool = True
    enable_broadcast_offset_store: bool = True
    broadcast_offset_expire_second: int = 120
    broadcast_offset_expire_max_second: int = 300
    channel_expired_timeout: int = 120_000
    subscription_expired_timeout: int = 600_000
    disable_consume_if_consumer_read_slowly: bool = False
    consumer_fallbehind_threshold: int = 17_179_869_184

    # --- delaying --------------------------------------------------------------------------------------------------
    delay_offset_update_version_step: int = 200

    # --- filtering -------------------------------------------------------------------------------------------------
    enable_property_filter: bool = False
    enable_calc_filter_bit_map: bool = False
    expect_consumer_num_use_filter: int = 32
    max_error_rate_of_bloom_filter: int = 20
    filter_data_clean_time_span: int = 86_400_000
    filter_support_retry: bool = False

    # --- who may change what at run time -----------------------------------------------------------------------------
    config_black_list: str = "configBlackList;brokerConfigPath"

    @property
    def broker_address(self) -> str:
        """The address that clients are told, `ip:port`."""
        return join_address(self.broker_ip1, self.listen_port)

    @property
    def is_master(self) -> bool:
        """Whether this broker takes writes: broker id 0."""
        return self.broker_id == 0
