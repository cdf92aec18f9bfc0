"""What a broker tells about its store and about itself, as one source of `RuntimeInfo`.

Source: `AdminBrokerProcessor#prepareRuntimeInfo`, `DefaultMessageStore#getRuntimeInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.runtime_info import format_bytes, format_run_time
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.version import CURRENT_VERSION
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore

#: The text of `CURRENT_VERSION`, as tools print it.
VERSION_TEXT = "V5_3_3"


class StoreInfo:
    """Reads positions, disk use and identity when asked.

    Args:
        config: the broker's settings.
        store_config: the store's settings.
        store: the message store.
        environment: clock and files.
    """

    def __init__(
        self, config: BrokerConfig, store_config: MessageStoreConfig, store: MessageStore, environment: Environment
    ) -> None:
        self._config = config
        self._store_config = store_config
        self._store = store
        self._environment = environment
        self._boot_ms = environment.clock.wall_ms()

    def collect(self) -> dict[str, str]:
        """Return names and values."""
        log = self._store.commit_log
        usage = self._environment.files.disk_usage(self._store_config.root_dir)
        ratio = f"{usage.used_ratio:.4f}"
        return {
            "brokerVersionDesc": VERSION_TEXT,
            "brokerVersion": str(CURRENT_VERSION),
            "bootTimestamp": str(self._boot_ms),
            "runtime": format_run_time(self._environment.clock.wall_ms() - self._boot_ms),
            "startAcceptSendRequestTimeStamp": str(self._config.start_accept_send_request_time_stamp),
            "commitLogMinOffset": str(log.min_offset),
            "commitLogMaxOffset": str(log.max_offset),
            "remainHowManyDataToFlush": f"{max(0, log.max_offset - log.flushed_offset)} B",
            "earliestMessageTimeStamp": str(self._store.earliest_message_time()),
            "commitLogDiskRatio": ratio,
            f"commitLogDiskRatio_{self._store_config.commit_log_dir}": ratio,
            "consumeQueueDiskRatio": ratio,
            "commitLogDirCapacity": f"Total : {format_bytes(usage.total)}, Free : {format_bytes(usage.free)}.",
        }
