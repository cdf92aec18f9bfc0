"""Send and consume without `await`: the blocking clients, from any number of threads."""

import threading

from rocketmq_py.client import sync
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.common.message import Message
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere


def main(namesrv_addr: str = "127.0.0.1:9876") -> None:
    with sync.Producer("Shop", namesrv_addr=namesrv_addr) as producer:
        print(producer.send(Message.of("Orders", b"one tea", tags="new")).msg_id)

    has_come = threading.Event()

    def handle(messages, context):
        for message in messages:
            print(message.body.decode())
            has_come.set()

    first = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    consumer = sync.PushConsumer("Waiter", PushConsumerConfig(namesrv_addr=namesrv_addr, consume_from_where=first))
    consumer.subscribe("Orders")
    consumer.register_listener(handle)
    with consumer:
        has_come.wait(30)


if __name__ == "__main__":
    main()
