"""From a route to queues: those that a producer may write to, and those that consumers read.

Source: `MQClientInstance#topicRouteData2TopicPublishInfo`, `#topicRouteData2TopicSubscribeInfo`, `TopicPublishInfo`,
RocketMQ 5.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rocketmq_py.common import permission
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.message import MessageQueue
from rocketmq_py.remoting.bodies.route import TopicRouteData


def publish_queues(route: TopicRouteData, topic: str) -> list[MessageQueue]:
    """Return the queues that a producer may choose from, by broker name and queue id.

    A broker counts if it lets one write and has a master. With an order configuration (`broker-a:4;broker-b:4`) the
    list is exactly what that says, whoever is up, so that a key keeps its queue.
    """
    if isinstance(route.order_topic_conf, str) and route.order_topic_conf:
        return _ordered_queues(route.order_topic_conf, topic)
    masters = {data.broker_name for data in route.broker_datas if data.master_addr is not None}
    return [
        MessageQueue(topic, data.broker_name, queue_id)
        for data in sorted(route.queue_datas, key=lambda data: data.broker_name)
        if permission.is_writeable(data.perm) and data.broker_name in masters
        for queue_id in range(data.write_queue_nums)
    ]


def _ordered_queues(text: str, topic: str) -> list[MessageQueue]:
    queues = []
    for item in text.split(";"):
        name, colon, count = item.partition(":")
        if colon:
            queues += [MessageQueue(topic, name, queue_id) for queue_id in range(parse_i32(count, "orderTopicConf"))]
    return queues


def subscribe_queues(route: TopicRouteData, topic: str) -> list[MessageQueue]:
    """Return the queues that consumers read, by broker name and queue id; a slave may serve them."""
    return [
        MessageQueue(topic, data.broker_name, queue_id)
        for data in sorted(route.queue_datas, key=lambda data: data.broker_name)
        if permission.is_readable(data.perm)
        for queue_id in range(data.read_queue_nums)
    ]


def is_same_route(one: TopicRouteData | None, other: TopicRouteData) -> bool:
    """Tell whether two routes say the same, in whatever order."""
    return one is not None and _comparable(one) == _comparable(other)


def _comparable(route: TopicRouteData) -> tuple[object, ...]:
    return (
        sorted(route.broker_datas, key=lambda data: data.broker_name),
        sorted(route.queue_datas, key=lambda data: data.broker_name),
        route.order_topic_conf,
    )


class TopicPublishInfo:
    """The queues of one topic and whose turn it is.

    Args:
        queues: in their order.
        rng: draws the queue to begin with, so that many producers do not all begin with the first.
    """

    def __init__(self, queues: list[MessageQueue], rng: random.Random) -> None:
        self.queues = queues
        self._next = rng.randrange(len(queues)) if queues else 0

    def select(self, is_wanted: Callable[[MessageQueue], bool] = lambda queue: True) -> MessageQueue | None:
        """Take the next queue that is wanted, or None if none is; the turn goes on after it."""
        for _ in self.queues:
            queue = self.queues[self._next]
            self._next = (self._next + 1) % len(self.queues)
            if is_wanted(queue):
                return queue
        return None

    def randomise(self, rng: random.Random) -> None:
        """Begin anew at a random queue."""
        if self.queues:
            self._next = rng.randrange(len(self.queues))

    def __repr__(self) -> str:
        return f"<TopicPublishInfo {len(self.queues)} queues, next {self._next}>"
