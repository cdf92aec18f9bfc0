"""A producer or a push consumer of the C++ core client, to be run by the Python that has `rocketmq` installed.

client.py produce NAMESRV GROUP TOPIC COUNT
client.py consume NAMESRV GROUP TOPIC INSTANCE     until its standard input ends; prints one line per message
client.py fail NAMESRV GROUP TOPIC INSTANCE        the same, but messages fail at their first try; prints "TRIES QUEUE BODY"
"""

from __future__ import annotations

import sys
import threading

from rocketmq.client import Message, Producer, PushConsumer, RecvMessage, SendStatus


def produce(namesrv: str, group: str, topic: str, count: str) -> None:
    producer = Producer(group)
    producer.set_namesrv_addr(namesrv)
    producer.start()
    sent = 0
    for number in range(int(count)):
        message = Message(topic)
        message.set_keys(f"key-{number}")
        message.set_tags("cpp" if number % 2 else "other")
        message.set_body(f"body {number}")
        sent += producer.send_sync(message).status == SendStatus.OK
    producer.shutdown()
    print(f"sent {sent}", flush=True)


def consume(namesrv: str, group: str, topic: str, instance: str) -> None:
    lock = threading.Lock()

    def handle(message):  # type: ignore[no-untyped-def]
        with lock:
            print(f"{message.queue_id} {message.queue_offset} {message.body.decode()}", flush=True)

    consumer = PushConsumer(group)
    consumer.set_namesrv_addr(namesrv)
    consumer.set_instance_name(instance)
    consumer.set_thread_count(2)
    consumer.subscribe(topic, handle)
    consumer.start()
    print("started", flush=True)
    sys.stdin.read()
    consumer.shutdown()


def fail(namesrv: str, group: str, topic: str, instance: str) -> None:
    lock = threading.Lock()

    def handle(_, pointer):  # type: ignore[no-untyped-def]
        message = RecvMessage(pointer)
        with lock:
            print(f"{message.reconsume_times} {message.queue_id} {message.body.decode()}", flush=True)
        return 1 if message.reconsume_times == 0 else 0

    consumer = PushConsumer(group)
    consumer.set_namesrv_addr(namesrv)
    consumer.set_instance_name(instance)
    consumer.subscribe(topic, lambda message: None)
    # What a callback of `subscribe` raises is lost between Python and C++, and counts as a success: say it in C++'s words.
    consumer._register_callback(handle)
    consumer.start()
    print("started", flush=True)
    sys.stdin.read()
    consumer.shutdown()


if __name__ == "__main__":
    {"produce": produce, "consume": consume, "fail": fail}[sys.argv[1]](*sys.argv[2:])
