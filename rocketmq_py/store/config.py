"""The store's settings, with RocketMQ's names and defaults in Python spelling.

Source: `MessageStoreConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass

from rocketmq_py.common.config import key


class FlushDiskType(enum.Enum):
    """When a put counts as done: with the bytes in the page cache, or on disk."""

    ASYNC_FLUSH = "ASYNC_FLUSH"
    SYNC_FLUSH = "SYNC_FLUSH"


class BrokerRole(enum.Enum):
    """What a broker is to its replicas."""

    ASYNC_MASTER = "ASYNC_MASTER"
    SYNC_MASTER = "SYNC_MASTER"
    SLAVE = "SLAVE"


class LogWriteMode(enum.Enum):
    """How the commit log is written: `pwrite` (ours) or through the memory map (RocketMQ's way)."""

    PWRITE = "PWRITE"
    MMAP = "MMAP"


@dataclass(slots=True)
class MessageStoreConfig:
    """Settings of a message store. Sizes are bytes, durations milliseconds unless the name says otherwise."""

    # --- files ----------------------------------------------------------------------------------------------------
    store_path_root_dir: str = os.path.join("~", "store")
    #: Empty: `commitlog` under the root.
    store_path_commit_log: str = ""
    mapped_file_size_commit_log: int = 1 << 30
    # 300,000 units of 20 bytes.
    mapped_file_size_consume_queue: int = 6_000_000
    enable_consume_queue_ext: bool = False
    mapped_file_size_consume_queue_ext: int = 48 << 20
    bit_map_length_consume_queue_ext: int = 64
    mapper_file_size_batch_consume_queue: int = 13_800_000
    max_hash_slot_num: int = 5_000_000
    max_index_num: int = 20_000_000
    message_index_enable: bool = True
    # Ours: RocketMQ writes through the map.
    log_write_mode: LogWriteMode = LogWriteMode.PWRITE
    warm_maped_file_enable: bool = False

    # --- put and flush --------------------------------------------------------------------------------------------
    broker_role: BrokerRole = BrokerRole.ASYNC_MASTER
    flush_disk_type: FlushDiskType = FlushDiskType.ASYNC_FLUSH
    flush_interval_commit_log: int = 500
    flush_interval_consume_queue: int = 1_000
    flush_commit_log_least_pages: int = 4
    flush_consume_queue_least_pages: int = 2
    flush_consume_queue_thorough_interval: int = 60_000
    sync_flush_timeout: int = 5_000
    slave_timeout: int = 3_000
    put_message_timeout: int = 8_000
    max_message_size: int = 4 << 20
    auto_message_version_on_topic_len: bool = True
    os_page_cache_busy_time_out_mills: int = 1_000
    max_msgs_num_batch: int = 64

    # --- recovery and retention -----------------------------------------------------------------------------------
    check_crc_on_recover: bool = key("checkCRCOnRecover", True)
    enabled_append_prop_crc: bool = key("enabledAppendPropCRC", False)
    file_reserved_time: int = 72
    delete_when: str = "04"
    disk_max_used_space_ratio: int = 75
    disk_space_warning_level_ratio: int = 90
    disk_space_clean_forcibly_ratio: int = 85
    clean_file_forcibly_enable: bool = True
    clean_resource_interval: int = 10_000
    delete_commit_log_files_interval: int = 100
    delete_consume_queue_files_interval: int = 100
    delete_file_batch_max: int = 10

    # --- reading --------------------------------------------------------------------------------------------------
    max_transfer_bytes_on_message_in_memory: int = 262_144
    max_transfer_count_on_message_in_memory: int = 32
    max_transfer_bytes_on_message_in_disk: int = 65_536
    max_transfer_count_on_message_in_disk: int = 8
    access_message_in_memory_max_ratio: int = 40
    default_query_max_num: int = 32
    pull_batch_max_message_count: int = 160
    max_filter_message_size: int = 16_000
    disk_fall_recorded: bool = True
    offset_check_in_slave: bool = False

    # --- delay levels ---------------------------------------------------------------------------------------------
    message_delay_level: str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
    flush_delay_offset_interval: int = 10_000
    enable_schedule_message_stats: bool = True

    # --- timers ---------------------------------------------------------------------------------------------------
    timer_wheel_enable: bool = True
    timer_precision_ms: int = 1_000
    timer_roll_window_slot: int = 172_800
    timer_max_delay_sec: int = 259_200
    timer_flush_interval_ms: int = 1_000
    mapped_file_size_timer_log: int = 100 << 20
    timer_congest_num_each_slot: int = 2_147_483_647
    timer_skip_unknown_error: bool = False
    timer_stop_enqueue: bool = False
    timer_stop_dequeue: bool = False
    timer_enable_check_metrics: bool = True
    timer_check_metrics_when: str = "05"
    timer_metric_small_threshold: int = 1_000_000

    # --- replicas -------------------------------------------------------------------------------------------------
    #: 0: the broker's own port + 1.
    ha_listen_port: int = 0
    #: Where a slave fetches the log from, `host:port`; empty: where the name servers say. RocketMQ 5.3 ignores it.
    ha_master_address: str = ""
    ha_send_heartbeat_interval: int = 5_000
    ha_housekeeping_interval: int = 20_000
    # Differs from RocketMQ, which sends 32,768 at a time. Its slave takes frames of up to 4 MiB.
    ha_transfer_batch_size: int = 524_288
    #: Ours: an empty slave gets all that the master has, not only its last file as from RocketMQ's master.
    ha_send_all_to_empty_slave: bool = False
    #: A slave further behind than this does not count as in sync, bytes.
    ha_max_gap_not_in_sync: int = 256 << 20
    ha_flow_control_enable: bool = False
    max_ha_transfer_byte_in_second: int = 100 << 20
    #: Ours: addresses that may copy the log besides the registered slaves of this broker, `ip;ip`.
    ha_trusted_slaves: str = ""
    total_replicas: int = 1
    in_sync_replicas: int = 1
    min_in_sync_replicas: int = 1
    all_ack_in_sync_state_set: bool = False
    enable_auto_in_sync_replicas: bool = False
    #: Ours: a SYNC_MASTER whose slaves are gone or too far behind says so at once (11 SLAVE_NOT_AVAILABLE), as RocketMQ
    #: 4.9 did; since 5 a message waits for `slaveTimeout` (12 FLUSH_SLAVE_TIMEOUT).
    answer_slave_not_available: bool = False
    ha_max_time_slave_not_catchup: int = 15_000
    sync_master_flush_offset_when_startup: bool = False
    sync_from_last_file: bool = False
    async_learner: bool = False

    # --- light queues ---------------------------------------------------------------------------------------------
    enable_lmq: bool = False
    enable_multi_dispatch: bool = False
    max_lmq_consume_queue_num: int = 20_000

    @property
    def root_dir(self) -> str:
        """The store directory, with `~` resolved."""
        return os.path.expanduser(self.store_path_root_dir)

    @property
    def commit_log_dir(self) -> str:
        """The folder of the commit log."""
        return os.path.expanduser(self.store_path_commit_log) or os.path.join(self.root_dir, "commitlog")
