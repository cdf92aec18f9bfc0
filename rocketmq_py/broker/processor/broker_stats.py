"""What the broker counted, for operators: one item of the statistics over the last minute, hour and day (315).

Source: `AdminBrokerProcessor#viewBrokerStatsData`, `BrokerStatsData`, RocketMQ 5.3.
"""

from __future__ import annotations

import msgspec

from rocketmq_py.broker.statistics import BrokerStatsManager
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Processors, Request


class ViewBrokerStatsDataRequestHeader(msgspec.Struct, rename="camel", kw_only=True):
    """VIEW_BROKER_STATS_DATA (315).

    Attributes:
        stats_name: the set, such as `TOPIC_PUT_NUMS`.
        stats_key: the item: a topic, `topic@group`, or the cluster's name.
    """

    stats_name: str
    stats_key: str


class BrokerStatsProcessor:
    """Answers VIEW_BROKER_STATS_DATA."""

    def __init__(self, statistics: BrokerStatsManager) -> None:
        self._statistics = statistics

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(RequestCode.VIEW_BROKER_STATS_DATA, self.view, "admin")

    async def view(self, request: Request) -> RemotingCommand:
        """Return growth, growth a second and growth a time of each window; an unknown item is an error."""
        header = decode_header(ViewBrokerStatsDataRequestHeader, request.command.ext_fields)
        windows = self._statistics.view(header.stats_name, header.stats_key)
        if windows is None:
            remark = f"The stats <{header.stats_name}> <{header.stats_key}> not exist"
            return answer(ResponseCode.SYSTEM_ERROR, remark)
        body = {name: {"sum": sums.sum, "tps": sums.tps, "avgpt": sums.avgpt} for name, sums in windows.items()}
        return answer(body=encode_body(body))
