"""A test of one's own code with a whole cluster in the process; no port, process or folder is left behind."""

from rocketmq_py.client.producer import Producer
from rocketmq_py.common.message import Message
from rocketmq_py.testing.cluster import Cluster


async def test_an_order_is_stored(tmp_path):
    async with Cluster(tmp_path, brokers=2) as cluster:
        async with Producer("OrderService", namesrv_addr=cluster.namesrv_addr) as producer:
            result = await producer.send(Message.of("Orders", b"two coffees"))
        assert result.queue.broker_name in ("broker-a", "broker-b")
