"""What clients and operators are told about timers: refusals, recall handles, numbers.

Source: `SendMessageProcessor#handlePutMessageResult`, `#attachRecallHandle`, `AdminBrokerProcessor#prepareRuntimeInfo`,
RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.common import properties as names
from rocketmq_py.common.recall_handle import RecallMessageHandle
from rocketmq_py.common.topic import is_retry_topic
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.headers.send import SendMessageResponseHeader
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.timer.timer_message_store import TimerMessageStore


class TimerAnswers:
    """Finds the words.

    Args:
        config: the broker's name.
        store_config: the limits, which the words name.
        timers: the numbers.
    """

    def __init__(self, config: BrokerConfig, store_config: MessageStoreConfig, timers: TimerMessageStore) -> None:
        self._config = config
        self._store_config = store_config
        self._timers = timers

    def refusals(self) -> Mapping[PutMessageStatus, Callable[[], Refusal]]:
        """Return what a client is told of each verdict of the hook."""
        return {
            PutMessageStatus.WHEEL_TIMER_MSG_ILLEGAL: self._illegal,
            PutMessageStatus.WHEEL_TIMER_FLOW_CONTROL: self._flow_control,
            PutMessageStatus.WHEEL_TIMER_NOT_ENABLE: self._not_enabled,
        }

    def _illegal(self) -> Refusal:
        limit = self._store_config.timer_max_delay_sec * 1000
        return Refusal(
            ResponseCode.MESSAGE_ILLEGAL,
            f"timer message illegal, the delay time should not be bigger than the max delay {limit}ms; "
            "or if set del msg, the delay time should be bigger than the current time",
        )

    def _flow_control(self) -> Refusal:
        limit = self._store_config.timer_congest_num_each_slot
        return Refusal(
            ResponseCode.SYSTEM_ERROR,
            f"timer message is under flow control, max num limit is {2 * limit} or the current value is greater than "
            f"{limit} and less than {2 * limit}, trigger random flow control",
        )

    def _not_enabled(self) -> Refusal:
        enabled = "true" if self._store_config.timer_wheel_enable else "false"
        return Refusal(
            ResponseCode.SYSTEM_ERROR, f"accurate timer message is not enabled, timerWheelEnable is {enabled}"
        )

    def attach_recall_handle(self, draft: Draft, header: SendMessageResponseHeader) -> None:
        """Tell the producer of a timer message by what name it can take it back."""
        properties = draft.properties
        out, topic = properties.get(names.TIMER_OUT_MS), properties.get(names.REAL_TOPIC)
        if out is None or topic is None or is_retry_topic(topic):
            return
        handle = RecallMessageHandle(
            topic, self._config.broker_name, str(int(out) + 1), properties.get(names.UNIQ_KEY, "")
        )
        header.recall_handle = handle.encode()

    def runtime_info(self) -> dict[str, str]:
        """Return what tools ask for."""
        timers = self._timers
        return {
            "timerReadBehind": str(timers.dequeue_behind_ms() // 1000),
            "timerOffsetBehind": str(timers.enqueue_behind_messages()),
            "timerCongestNum": str(timers.congest_num()),
            "timerEnqueueTps": f"{timers.enqueue_tps:.1f}",
            "timerDequeueTps": f"{timers.dequeue_tps:.1f}",
        }
