"""What operators ask a broker about the progress of groups.

Source: `AdminBrokerProcessor`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.consume_progress import ConsumeProgress
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.bodies.consume_stats import QueryConsumeTimeSpanBody, QueryCorrectionOffsetBody
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.headers import admin_consumer as headers
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request


class ConsumeStatsProcessor:
    """Answers with what `ConsumeProgress` computes."""

    def __init__(
        self,
        config: BrokerConfig,
        progress: ConsumeProgress,
        topics: TopicConfigManager,
        groups: SubscriptionGroupManager,
        offsets: ConsumerOffsetManager,
        consumers: ConsumerManager,
    ) -> None:
        self._config = config
        self._progress = progress
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._consumers = consumers

    def install(self, processors: Processors) -> None:
        """Register every handler."""
        for code, handler in (
            (RequestCode.GET_CONSUME_STATS, self.get_consume_stats),
            (RequestCode.GET_BROKER_CONSUME_STATS, self.get_broker_consume_stats),
            (RequestCode.QUERY_CONSUME_TIME_SPAN, self.query_time_span),
            (RequestCode.QUERY_CORRECTION_OFFSET, self.query_correction_offset),
            (RequestCode.CLONE_GROUP_OFFSET, self.clone_group_offset),
        ):
            processors.register(code, handler, "admin")

    def get_consume_stats(self, request: Request) -> RemotingCommand:
        """Return a group's progress by queue (208)."""
        header = decode_header(headers.GetConsumeStatsRequestHeader, request.command.ext_fields)
        group = header.consumer_group
        listed = [topic for topic in (header.topic_list or "").split(";") if topic]
        topics = listed or self._progress.topics_of(group, header.topic)
        return answer(body=self._progress.stats(group, topics).encode())

    def get_broker_consume_stats(self, request: Request) -> RemotingCommand:
        """Return the progress of every group in each of its topics, with the totals of the broker (317)."""
        is_order = decode_header(headers.GetConsumeStatsInBrokerHeader, request.command.ext_fields).is_order
        total_diff = total_inflight = 0
        listed = []
        for group in self._groups.groups:
            of_topics = []
            for topic in self._progress.topics_of(group):
                config = self._topics.select(topic)
                if config is None or (is_order and not config.order):
                    continue
                stats = self._progress.stats(group, [topic])
                total_diff += stats.total_diff
                total_inflight += stats.total_inflight
                of_topics.append(stats.to_json())
            listed.append({group: of_topics})
        body = {
            "brokerAddr": self._config.broker_address,
            "consumeStatsList": listed,
            "totalDiff": total_diff,
            "totalInflightDiff": total_inflight,
        }
        return answer(body=encode_body(body))

    def query_time_span(self, request: Request) -> RemotingCommand:
        """Return how old a group's unread messages are (303)."""
        header = decode_header(headers.QueryConsumeTimeSpanRequestHeader, request.command.ext_fields)
        config = self._topics.select(header.topic)
        if config is None:
            return answer(ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist")
        spans = [
            self._progress.time_span(header.group, header.topic, queue_id)
            for queue_id in range(config.write_queue_nums)
        ]
        return answer(body=encode_body(QueryConsumeTimeSpanBody(consume_time_span_set=spans)))

    def query_correction_offset(self, request: Request) -> RemotingCommand:
        """Return the positions at which one group would be level with the others (308).

        Differs from RocketMQ, where this question makes the groups in `filterGroups` lose their offsets: here they
        are only left out of the comparison.
        """
        header = decode_header(headers.QueryCorrectionOffsetRequestHeader, request.command.ext_fields)
        left_out = set((header.filter_groups or "").split(","))
        groups = [group for group in self._offsets.groups_of(header.topic) if group not in left_out]
        offsets = self._progress.correction_offsets(header.topic, header.compare_group, groups)
        return answer(body=encode_body(QueryCorrectionOffsetBody(correction_offsets=offsets)))

    def clone_group_offset(self, request: Request) -> RemotingCommand:
        """Copy one group's progress to another (314).

        Without `offline`, only topics that the source group subscribes now are copied.
        """
        header = decode_header(headers.CloneGroupOffsetRequestHeader, request.command.ext_fields)
        topics = [header.topic] if header.topic else self._offsets.topics_of(header.src_group)
        info = self._consumers.find(header.src_group)
        for topic in topics:
            is_subscribed = info is not None and topic in info.subscriptions
            if self._topics.select(topic) is not None and (header.offline or is_subscribed):
                self._offsets.clone(header.src_group, header.dest_group, topic)
        return answer()
