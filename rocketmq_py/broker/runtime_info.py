"""What a broker tells about its state: names and texts that tools print.

Every stage that knows something adds a source; the tools find all the names that they rely on even where a stage is
not installed, because a name without a source has its value of an idle broker.

Source: `AdminBrokerProcessor#prepareRuntimeInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

Source = Callable[[], Mapping[str, str]]

#: Values of a broker that does nothing; `clusterList` of mqadmin fails or prints blanks where one of them is missing.
IDLE: Final[dict[str, str]] = {
    "brokerActive": "true",
    "msgPutTotalYesterdayMorning": "0",
    "msgPutTotalTodayMorning": "0",
    "msgPutTotalTodayNow": "0",
    "msgGetTotalYesterdayMorning": "0",
    "msgGetTotalTodayMorning": "0",
    "msgGetTotalTodayNow": "0",
    "dispatchBehindBytes": "0",
    "pageCacheLockTimeMills": "0",
    "earliestMessageTimeStamp": "-1",
    "startAcceptSendRequestTimeStamp": "0",
    "timerReadBehind": "0",
    "timerOffsetBehind": "0",
    "timerCongestNum": "0",
    "timerEnqueueTps": "0.0",
    "timerDequeueTps": "0.0",
    "remainHowManyDataToFlush": "0",
    "sendThreadPoolQueueSize": "0",
    "sendThreadPoolQueueCapacity": "10000",
    "sendThreadPoolQueueHeadWaitTimeMills": "0",
    "pullThreadPoolQueueSize": "0",
    "pullThreadPoolQueueCapacity": "100000",
    "pullThreadPoolQueueHeadWaitTimeMills": "0",
    "litePullThreadPoolQueueSize": "0",
    "litePullThreadPoolQueueCapacity": "100000",
    "litePullThreadPoolQueueHeadWaitTimeMills": "0",
    "queryThreadPoolQueueSize": "0",
    "queryThreadPoolQueueCapacity": "20000",
    "queryThreadPoolQueueHeadWaitTimeMills": "0",
    "ackThreadPoolQueueSize": "0",
    "ackThreadPoolQueueCapacity": "100000",
    "ackThreadPoolQueueHeadWaitTimeMills": "0",
    "EndTransactionQueueSize": "0",
    "EndTransactionThreadPoolQueueCapacity": "100000",
    "putMessageEntireTimeMax": "0",
    "putMessageTimesTotal": "1",
    "putMessageFailedTimes": "0",
    "putMessageSizeTotal": "0",
    "putMessageDistributeTime": "null",
    "putMessageAverageSize": "0.0",
    "dispatchMaxBuffer": "0",
    "getMessageEntireTimeMax": "0",
    "putTps": "0.0 0.0 0.0",
    "getFoundTps": "0.0 0.0 0.0",
    "getMissTps": "0.0 0.0 0.0",
    "getTotalTps": "0.0 0.0 0.0",
    "getTransferredTps": "0.0 0.0 0.0",
    "putLatency99": "0",
    "putLatency999": "0",
    "commitLogDiskRatio": "0.0",
    "consumeQueueDiskRatio": "0.0",
    "commitLogMinOffset": "0",
    "commitLogMaxOffset": "0",
}


class RuntimeInfo:
    """Collects what the installed stages know."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Add a source; it is called with each request and must be quick. Later sources win."""
        self._sources.append(source)

    def collect(self) -> dict[str, str]:
        """Return all names and values."""
        result = dict(IDLE)
        for source in self._sources:
            result.update(source())
        # 4.9 and its tools know this name in another spelling.
        result["getTransferedTps"] = result["getTransferredTps"]
        return result


def format_run_time(milliseconds: int) -> str:
    """Return how long a broker runs, as tools print it: `[ 1 days, 2 hours, 3 minutes, 4 seconds ]`."""
    seconds = milliseconds // 1000
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    return f"[ {days} days, {hours % 24} hours, {minutes % 60} minutes, {seconds % 60} seconds ]"


def format_bytes(count: int) -> str:
    """Return a size as tools print it: `100.0 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")
