"""Order configurations: which queues a topic has for ordered messages, whoever is up.

A text for each topic, `broker-a:4;broker-b:4`, in the name servers' namespace `ORDER_TOPIC_CONFIG`. Producers that find
one in a route choose among exactly these queues, so that a key keeps its queue when a broker is down. Each name server
keeps its own copy, and nothing copies it to a name server that is added later.

Source: `UpdateOrderConfCommand`, `DefaultMQAdminExtImpl#createOrUpdateOrderConf`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.client.admin.cluster import ClusterAdmin
from rocketmq_py.client.errors import BrokerResponseError, ClientError
from rocketmq_py.client.instance import MQClientInstance
from rocketmq_py.common import permission
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i32
from rocketmq_py.common.topic import validate_topic
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.namesrv import KVConfigRequestHeader

ORDER_TOPIC_CONFIG: Final = "ORDER_TOPIC_CONFIG"
#: Most queues of one broker.
MAX_QUEUES: Final = 65_536


def parse_order_config(text: str) -> dict[str, int]:
    """Return the queues of each broker name of `broker-a:4;broker-b:4`.

    Raises:
        InvalidInputError: it does not look like that, names a broker twice, or gives one no queue.
    """
    queues: dict[str, int] = {}
    for item in filter(None, text.split(";")):
        name, colon, count = item.strip().partition(":")
        if not colon or not name:
            raise InvalidInputError(f"{item!r} is not BROKER:QUEUES; an order configuration is broker-a:4;broker-b:4")
        if name in queues:
            raise InvalidInputError(f"broker {name} is named twice in {text!r}")
        queues[name] = parse_i32(count, f"the number of queues of {name}")
        if not 1 <= queues[name] <= MAX_QUEUES:
            raise InvalidInputError(f"broker {name} has {count} queues; from 1 to {MAX_QUEUES} are possible")
    if not queues:
        raise InvalidInputError("the order configuration names no broker; such as broker-a:4;broker-b:4")
    return queues


def format_order_config(queues: dict[str, int]) -> str:
    """Return the text of an order configuration."""
    return ";".join(f"{name}:{count}" for name, count in queues.items())


class OrderConfigAdmin:
    """Operations on order configurations.

    Args:
        instance: connections; started.
    """

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._cluster = ClusterAdmin(instance)

    async def get(self, topic: str) -> dict[str, str | None]:
        """Return what each name server has, by its address; None for nothing.

        Raises:
            RemotingError: one of them does not answer.
        """
        found: dict[str, str | None] = {}
        fields = encode_header(KVConfigRequestHeader(namespace=ORDER_TOPIC_CONFIG, key=topic))
        for address in self._instance.name_servers.addresses:
            try:
                response = await self._instance.ask(address, RequestCode.GET_KV_CONFIG, dict(fields))
            except BrokerResponseError as error:
                if error.code != ResponseCode.QUERY_NOT_FOUND:
                    raise
                found[address] = None
            else:
                found[address] = response.ext_fields.get("value")
        return found

    async def set(self, topic: str, queues: dict[str, int]) -> None:
        """Put an order configuration at every name server.

        Raises:
            InvalidInputError: `topic` is no name of a topic.
            NoNameServerError: one of them could not be reached; the others have it.
            BrokerResponseError: one of them refused.
        """
        validate_topic(topic)
        await self._cluster.put_kv(ORDER_TOPIC_CONFIG, topic, format_order_config(queues))

    async def delete(self, topic: str) -> None:
        """Delete an order configuration at every name server, if there is one; see `set` for what is raised."""
        await self._cluster.delete_kv(ORDER_TOPIC_CONFIG, topic)

    async def queues_now(self, topic: str) -> dict[str, int]:
        """Return the queues that a topic has for writing now, by broker name.

        Raises:
            NoRouteError: the name server does not know the topic.
        """
        route = await self._instance.fetch_route(topic)
        return {
            data.broker_name: data.write_queue_nums
            for data in sorted(route.queue_datas, key=lambda data: data.broker_name)
            if permission.is_writeable(data.perm) and data.write_queue_nums > 0
        }

    async def silent_name_servers(self) -> list[str]:
        """Return the name servers that keep order configurations but do not tell clients of them."""
        silent = []
        for address in self._instance.name_servers.addresses:
            try:
                settings = await self._cluster.namesrv_config(address)
            except ClientError:
                continue  # It does not show its settings: nothing can be said of it.
            if settings.get("orderMessageEnable") == "false":
                silent.append(address)
        return silent
