"""What operators ask a broker about itself: its settings and its state.

Source: `AdminBrokerProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.runtime_info import RuntimeInfo
from rocketmq_py.common.live_config import LiveConfig
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.kv_table import KVTable
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.headers.admin_topic import GetBrokerConfigResponseHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.live_config_request import change_settings
from rocketmq_py.remoting.processors import Processors, Request

#: The settings that may be changed over the network: those that are read at each use. Paths, addresses, names, roles,
#: sizes of files and the list of forbidden keys may not.
MUTABLE_KEYS = frozenset(
    (
        "brokerPermission",
        "autoCreateTopicEnable",
        "autoCreateSubscriptionGroup",
        "enableMixedMessageType",
        "clearRetryTopicWhenDeleteTopic",
        "traceOn",
        "rejectTransactionMessage",
        "transactionTimeOut",
        "transactionCheckInterval",
        "transactionCheckMax",
        "storeReplyMessageEnable",
        "startAcceptSendRequestTimeStamp",
        "brokerFastFailureEnable",
        "waitTimeMillsInSendQueue",
        "recallMessageEnable",
        "allowRecallWhenBrokerNotWriteable",
        "timerMaxDelaySec",
        "timerCongestNumEachSlot",
        "timerSkipUnknownError",
        "timerStopEnqueue",
        "timerStopDequeue",
        "timerEnableCheckMetrics",
        "timerCheckMetricsWhen",
        "timerMetricSmallThreshold",
        "longPollingEnable",
        "shortPollingTimeMills",
        "notifyConsumerIdsChangedEnable",
        "slaveReadEnable",
        "rejectPullConsumerEnable",
        "litePullMessageEnable",
        "disableConsumeIfConsumerReadSlowly",
        "consumerFallbehindThreshold",
        "enablePropertyFilter",
        "filterSupportRetry",
        "maxMessageSize",
        "maxTransferBytesOnMessageInMemory",
        "maxTransferCountOnMessageInMemory",
        "maxTransferBytesOnMessageInDisk",
        "maxTransferCountOnMessageInDisk",
        "accessMessageInMemoryMaxRatio",
        "deleteWhen",
        "fileReservedTime",
        "diskMaxUsedSpaceRatio",
        "flushIntervalCommitLog",
        "flushIntervalConsumeQueue",
    )
)


class AdminBrokerProcessor:
    """Answers requests about the broker.

    Args:
        live_config: the settings.
        runtime_info: what the stages know of their state.
    """

    def __init__(self, live_config: LiveConfig, runtime_info: RuntimeInfo) -> None:
        self._live_config = live_config
        self._runtime_info = runtime_info

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.UPDATE_BROKER_CONFIG, self.update_config),
            (RequestCode.GET_BROKER_CONFIG, self.get_config),
            (RequestCode.GET_BROKER_RUNTIME_INFO, self.get_runtime_info),
        ):
            processors.register(code, handler, "admin")

    async def update_config(self, request: Request) -> RemotingCommand:
        """Change settings (25)."""
        return await change_settings(self._live_config, request)

    def get_config(self, request: Request) -> RemotingCommand:
        """Return all settings (26)."""
        version = encode_body(self._live_config.version).decode()
        return answer(header=GetBrokerConfigResponseHeader(version=version), body=self._live_config.to_text().encode())

    def get_runtime_info(self, request: Request) -> RemotingCommand:
        """Return what the broker knows of its state (28)."""
        return answer(body=encode_body(KVTable(self._runtime_info.collect())))
