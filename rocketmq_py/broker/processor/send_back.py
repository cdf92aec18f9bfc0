"""CONSUMER_SEND_MSG_BACK (36): a consumer could not handle a message and wants it again later.

    check the group -> read the message from the log -> decide -> store it again -> answer

The message lies in the log and may be old: reading it may wait for the disk, in a thread.

Source: `AbstractSendMessageProcessor#consumerSendMsgBack`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.refusal import Refusal
from rocketmq_py.broker.retry.send_back import NextTry, SendBackRules, no_such_message
from rocketmq_py.broker.send_message import RESULTS, STORED
from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import properties as names
from rocketmq_py.common.record import read_record
from rocketmq_py.common.topic import SCHEDULE_TOPIC
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers.send_back import ConsumerSendMsgBackRequestHeader
from rocketmq_py.remoting.processors import Processors, Request
from rocketmq_py.store.errors import StoreCorruptError
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

#: Sets of the statistics, by `topic@group`: what came back, and what of it came to its end.
SNDBCK_PUT_NUMS: Final = "SNDBCK_PUT_NUMS"
SNDBCK2DLQ_TIMES: Final = "SNDBCK2DLQ_TIMES"


class SendBackProcessor:
    """Answers send-backs.

    Args:
        rules: the decisions.
        store: has the message, and takes it again.
        topics: writes down a topic that was created.
        statistics: counts.
    """

    def __init__(
        self, rules: SendBackRules, store: MessageStore, topics: TopicConfigManager, statistics: BrokerStatsManager
    ) -> None:
        self._rules = rules
        self._store = store
        self._topics = topics
        self._statistics = statistics

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.CONSUMER_SEND_MSG_BACK, self.process_request, "send")

    async def process_request(self, request: Request) -> RemotingCommand:
        """Store a message again, for later or as a dead letter.

        Cancellation: before the append nothing has happened but that topics were created; after it the message is stored.
        """
        header = decode_header(ConsumerSendMsgBackRequestHeader, request.command.ext_fields)
        permitted = self._rules.check(header)
        if permitted is None:
            return answer()
        if isinstance(permitted, Refusal):
            return permitted.to_response()
        data = await self._read(header.offset)
        if data is None:
            return no_such_message(header.offset).to_response()
        decision = self._rules.decide(header, request.command.version, permitted, read_record(data))
        if isinstance(decision, Refusal):
            return decision.to_response()
        return await self._put(header.group, decision)

    async def _read(self, offset: int) -> bytes | None:
        try:
            return await self._store.look_message(offset)
        except StoreCorruptError:
            # The consumer has a good copy, and sends it to the retry topic itself when it is refused.
            return None

    async def _put(self, group: str, decision: NextTry) -> RemotingCommand:
        if decision.is_new_topic:
            # An acknowledged message must not lie in a topic that a crash forgets.
            await self._topics.persist()
        result = await self._store.put_message(decision.draft)
        if result.status is PutMessageStatus.PUT_OK:
            self._count(group, decision)
        return _answer_to(result)

    def _count(self, group: str, decision: NextTry) -> None:
        draft = decision.draft
        key = f"{draft.properties[names.RETRY_TOPIC]}@{group}"
        self._statistics.counted(SNDBCK_PUT_NUMS, key).add(1, len(draft.body))
        if decision.is_dead:
            self._statistics.counted(SNDBCK2DLQ_TIMES, key).add(1, len(draft.body))
        if draft.topic == SCHEDULE_TOPIC:
            self._statistics.topic_put(SCHEDULE_TOPIC).add(1, len(draft.body))


def _answer_to(result: PutMessageResult) -> RemotingCommand:
    """Return what a put's verdict means to the consumer: anything but SUCCESS makes it send the message itself.

    Differs from RocketMQ, which answers SYSTEM_ERROR also when the message is stored but was not flushed or replicated
    in time. Here the code says so.
    """
    if result.status is PutMessageStatus.PUT_OK:
        return answer()
    code = RESULTS[result.status][0] if result.status in STORED else ResponseCode.SYSTEM_ERROR
    return answer(code, result.status.name)
