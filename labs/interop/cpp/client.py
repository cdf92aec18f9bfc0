"""The C++ core client with the commands that all clients of these labs have; see other_clients.py.

To be run by a Python that has `rocketmq` installed, the binding that brings the compiled client.
"""

from __future__ import annotations

import sys
import threading

from rocketmq.client import Message, MessageModel, Producer, PullConsumer, PushConsumer, SendStatus

print_lock = threading.Lock()


def show(name: str, message) -> None:  # type: ignore[no-untyped-def]
    with print_lock:
        print(f"{name} {message.queue_id} {message.queue_offset} {message.body.decode()}", flush=True)


def make(topic: str, tags: str, keys: str, body: str) -> Message:
    message = Message(topic)
    message.set_tags(tags)
    message.set_keys(keys)
    message.set_body(body)
    return message


def started_producer(namesrv: str, group: str) -> Producer:
    producer = Producer(group)
    producer.set_namesrv_addr(namesrv)
    producer.start()
    return producer


def check(result) -> None:  # type: ignore[no-untyped-def]
    assert result.status == SendStatus.OK, result


def produce(namesrv: str, group: str, topic: str, count: str) -> None:
    producer = started_producer(namesrv, group)
    for number in range(int(count)):
        check(producer.send_sync(make(topic, "TagA", f"key-{number}", f"body {number}")))
    producer.shutdown()
    print(f"sent {count}", flush=True)


def mixture(namesrv: str, group: str, topic: str) -> None:
    producer = started_producer(namesrv, group)
    for n in range(10):
        message = make(topic, "odd" if n % 2 else "even", f"k{n}", f"n{n}")
        message.set_property("n", str(n))
        check(producer.send_sync(message))
    check(producer.send_sync(make(topic, "big", "big", "abcdefgh" * 2_000)))
    # No batch: this release marks one with "1", which is false to a broker, Apache's too; it is stored as one message.
    done = threading.Semaphore(0)
    # The client holds the messages while they are under way, not the binding.
    under_way = [make(topic, "async", f"a{n}", f"a{n}") for n in range(3)]
    for message in under_way:
        producer.send_async(message, lambda result: done.release(), lambda error: print("failed", error))
    for _ in under_way:
        assert done.acquire(timeout=20)
    for n in range(5):
        check(producer.send_orderly(make(topic, "sharded", f"s{n}", "same"), 6))
    producer.send_oneway(make(topic, "oneway", "o", "one way"))
    check(producer.send_sync(make(topic, "last", "l", "last")))
    producer.shutdown()
    print("mixture sent", flush=True)


def read(namesrv: str, topic: str, *readers: str) -> None:
    consumers = []
    for reader in readers:
        name, group, model, kind, expression = reader.split("|", 4)
        assert kind == "TAG", "this client has no SQL92"
        consumer = PushConsumer(group, message_model=MessageModel[model])
        consumer.set_namesrv_addr(namesrv)
        consumer.set_instance_name(name)
        consumer.set_thread_count(2)
        consumer.subscribe(topic, lambda message, name=name: show(name, message), expression)
        consumer.start()
        consumers.append(consumer)
    print("started", flush=True)
    sys.stdin.read()
    for consumer in consumers:
        consumer.shutdown()


def pull(namesrv: str, group: str, topic: str, count: str) -> None:
    consumer = PullConsumer(group)
    consumer.set_namesrv_addr(namesrv)
    consumer.start()
    for message in consumer.pull(topic):
        show("pull", message)
    consumer.shutdown()


if __name__ == "__main__":
    {"produce": produce, "mixture": mixture, "read": read, "pull": pull}[sys.argv[1]](*sys.argv[2:])
