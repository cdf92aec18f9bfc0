"""Once more or never again: the decision about a message that a consumer could not handle.

    failed so often   0      1      2     ...   15     16 (retryMaxTimes)
    comes again       10 s   30 s   1 min ...   2 h    never: a dead letter
    delay level       3      4      5     ...   18

The count is in the record itself (`reconsumeTimes`), so it outlives consumer and broker. The levels are those of
`messageDelayLevel`; one past the last is taken as the last.

Source: `AbstractSendMessageProcessor#consumerSendMsgBack`, `#handleRetryAndDLQ`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.common.java import I32_MAX
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig

#: Level of the first retry: 10 s in the table that RocketMQ comes with.
FIRST_LEVEL: Final = 3
#: Number of version 3.4.9 in a command: clients from there on may name a limit of their own.
_V3_4_9: Final = 121


def retry_limit(group: SubscriptionGroupConfig, asked: int | None, client_version: int) -> int:
    """Return how often a message may come again.

    Args:
        group: has the limit of the group.
        asked: the consumer's own limit, or None.
        client_version: the version in the consumer's command.
    """
    if asked is not None and client_version >= _V3_4_9:
        return asked
    return group.retry_max_times


def next_level(reconsume_times: int, limit: int, asked: int) -> int | None:
    """Return the delay level of the next try, or None if there is none.

    Args:
        reconsume_times: how often the message came again so far.
        limit: see `retry_limit`.
        asked: the level that the consumer wants; 0: none in particular, negative: no next try.
    """
    if reconsume_times >= limit or asked < 0:
        return None
    # A count below 0, which only a forged message has, would make it come again at once.
    return asked or min(max(FIRST_LEVEL + reconsume_times, 1), I32_MAX)


def one_more(reconsume_times: int) -> int:
    """Return the count of a message that failed once more; a record holds 32 bits."""
    return min(reconsume_times + 1, I32_MAX)
