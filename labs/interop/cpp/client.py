"""A producer or a push consumer of the C++ core client, to be run by the Python that has `rocketmq` installed.

client.py produce NAMESRV GROUP TOPIC COUNT [ordered KEYS | delayed WAITS]
client.py prepare NAMESRV GROUP TOPIC BODY...      sends half messages and waits for its end; it can end none of them
client.py consume NAMESRV GROUP TOPIC INSTANCE [ordered MILLIS]
client.py fail NAMESRV GROUP TOPIC INSTANCE        messages fail at their first try; prints "TRIES QUEUE BODY"

An ordered producer sends step N of the orders order-0, order-1 ... to the queue of the order, with the body
"order-ORDER:STEP". WAITS are separated by commas, and messages take them in turn: a delay level as "2", seconds as "5s",
milliseconds as "1500ms", or milliseconds as "@1500", which ask for the time that is so far away.

A consumer runs until its standard input ends and prints one line per message: "QUEUE OFFSET BODY"; in order, where each
message takes MILLIS, "QUEUE BODY BEGIN END". What a listener raises the binding turns into success.
"""

from __future__ import annotations

import sys
import threading
import time

from rocketmq.client import Message, Producer, PushConsumer, RecvMessage, SendStatus


def delay(message: Message, wait: str) -> None:
    if wait.startswith("@"):
        message.set_property("TIMER_DELIVER_MS", str(time.time_ns() // 1_000_000 + int(wait[1:])))
    elif wait.endswith("ms"):
        message.set_property("TIMER_DELAY_MS", wait.removesuffix("ms"))
    elif wait.endswith("s"):
        message.set_property("TIMER_DELAY_SEC", wait.removesuffix("s"))
    else:
        message.set_delay_time_level(int(wait))


def produce(namesrv: str, group: str, topic: str, count: str, mode: str = "", value: str = "1") -> None:
    producer = Producer(group)
    producer.set_namesrv_addr(namesrv)
    producer.start()
    sent = 0
    for number in range(int(count)):
        message = Message(topic)
        message.set_keys(f"key-{number}")
        message.set_tags("cpp" if number % 2 else "other")
        if mode == "ordered":
            order, step = number % int(value), number // int(value)
            message.set_body(f"order-{order}:{step}")
            result = producer.send_orderly(message, order)
        else:
            message.set_body(f"body {number}")
            if mode == "delayed":
                waits = value.split(",")
                delay(message, waits[number % len(waits)])
            result = producer.send_sync(message)
        sent += result.status == SendStatus.OK
    producer.shutdown()
    print(f"sent {sent}", flush=True)


def prepare(namesrv: str, group: str, topic: str, *bodies: str) -> None:
    producer = Producer(group)
    producer.set_namesrv_addr(namesrv)
    producer.start()
    for body in bodies:
        message = Message(topic)
        message.set_body(body)
        # What the core's own transactional producer sets before it sends; this package has no way to reach that.
        message.set_property("TRAN_MSG", "true")
        message.set_property("PGROUP", group)
        print(f"{body} {producer.send_sync(message).status.name}", flush=True)
    print("sent", flush=True)
    sys.stdin.read()
    producer.shutdown()


def consume(namesrv: str, group: str, topic: str, instance: str, mode: str = "", millis: str = "0") -> None:
    lock = threading.Lock()

    def handle(message):  # type: ignore[no-untyped-def]
        if mode == "ordered":
            begin = time.time_ns() // 1_000_000
            time.sleep(int(millis) / 1_000)
            line = f"{message.queue_id} {message.body.decode()} {begin} {time.time_ns() // 1_000_000}"
        else:
            line = f"{message.queue_id} {message.queue_offset} {message.body.decode()}"
        with lock:
            print(line, flush=True)

    consumer = PushConsumer(group, orderly=mode == "ordered")
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
    {"produce": produce, "prepare": prepare, "consume": consume, "fail": fail}[sys.argv[1]](*sys.argv[2:])
