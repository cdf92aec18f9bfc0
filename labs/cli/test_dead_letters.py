"""`rmq-py dlq` against a running standalone, as processes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence

import pytest

from labs.cli.processes import Server, rmq, rmq_json, run
from rocketmq_py.client import sync
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import PushConsumerConfig
from rocketmq_py.client.orderly import ConsumeOrderlyContext, InOrder
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

GROUP, TOPIC = "carriers", "Parcels"


def consumer_of(namesrv: str, group: str = GROUP) -> sync.PushConsumer:
    """Return a consumer that gives up after its first failure."""
    config = PushConsumerConfig(
        namesrv_addr=namesrv,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        max_reconsume_times=0,
    )
    consumer = sync.PushConsumer(group, config)
    consumer.subscribe(TOPIC)
    return consumer


@pytest.fixture(scope="module")
def namesrv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a standalone in which the group has three dead letters, one of which is no text."""
    folder = tmp_path_factory.mktemp("standalone")
    words = ("standalone", "--store", str(folder / "store"), "--namesrv-port", "0", "--port", "0")
    server = Server(*words, log=folder / "log.txt")
    found = re.search(r"name server (\S+), broker", server.ready)
    assert found is not None
    seen = threading.Semaphore(0)

    def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        seen.release()
        return ConsumeStatus.RECONSUME_LATER

    rmq("topic", "create", TOPIC, "--queues", "1", NAMESRV_ADDR=found[1])
    with sync.Producer(namesrv_addr=found[1]) as producer:
        for number, body in enumerate((b"one", b"two", b"\xff\xfe")):
            producer.send(Message.of(TOPIC, body, tags="fragile", keys=f"parcel-{number}"))
    consumer = consumer_of(found[1])
    consumer.register_listener(handle)
    with consumer:
        for _ in range(3):
            assert seen.acquire(timeout=30)
    yield found[1]
    server.kill()


def test_dead_letters_are_listed_and_shown(namesrv: str) -> None:
    listed = rmq_json("dlq", "list", NAMESRV_ADDR=namesrv)
    ((group, messages, oldest, newest),) = [tuple(row.values()) for row in listed["items"]]
    assert (group, messages) == (GROUP, 3)
    assert 0 < oldest <= newest
    assert GROUP in rmq("dlq", "list", NAMESRV_ADDR=namesrv)

    rows = rmq_json("dlq", "view", GROUP, NAMESRV_ADDR=namesrv)["items"]
    assert [(row["originTopic"], row["tags"], row["tries"], row["sentAgainMs"]) for row in rows] == [
        (TOPIC, "fragile", 1, 0)
    ] * 3
    assert {row["keys"] for row in rows} == {"parcel-0", "parcel-1", "parcel-2"}
    assert [row["bodyBase64"] for row in rows if row["keys"] == "parcel-2"] == ["//4="]
    text = rmq("dlq", "view", GROUP, "--limit", "1", NAMESRV_ADDR=namesrv)
    assert text.count("parcel-") == 1
    one = rmq_json("dlq", "view", GROUP, "--id", rows[0]["offsetMsgId"], NAMESRV_ADDR=namesrv)["items"]
    assert one[0]["msgId"] == rows[0]["msgId"]


def test_dead_letters_are_sent_again_once(namesrv: str) -> None:
    rows = rmq_json("dlq", "view", GROUP, NAMESRV_ADDR=namesrv)["items"]
    would = rmq_json("dlq", "resend", GROUP, "--all", "--dry-run", NAMESRV_ADDR=namesrv)["items"]
    assert [row["status"] for row in would] == ["WOULD BE SENT"] * 3
    one = rmq_json("dlq", "resend", GROUP, "--id", rows[1]["msgId"], NAMESRV_ADDR=namesrv)["items"]
    assert [(row["status"], row["topic"]) for row in one] == [("SENT", "%RETRY%carriers")]
    rest = rmq_json("dlq", "resend", GROUP, "--all", "--rate", "100", NAMESRV_ADDR=namesrv)["items"]
    assert sorted(row["status"] for row in rest) == ["SENT", "SENT", "SKIPPED"]
    assert "--again" in next(row["reason"] for row in rest if row["status"] == "SKIPPED")

    got: list[str] = []
    came = threading.Semaphore(0)

    def handle(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        got.append(messages[0].keys)
        came.release()

    consumer = consumer_of(namesrv)
    consumer.register_listener(handle)
    with consumer:
        for _ in range(3):
            assert came.acquire(timeout=60)
    assert sorted(got) == ["parcel-0", "parcel-1", "parcel-2"]
    assert all(row["sentAgainMs"] for row in rmq_json("dlq", "view", GROUP, NAMESRV_ADDR=namesrv)["items"])
    again = rmq_json("dlq", "resend", GROUP, "--id", rows[0]["msgId"], "--again", "--to", "topic", NAMESRV_ADDR=namesrv)
    assert [(row["status"], row["topic"]) for row in again["items"]] == [("SENT", TOPIC)]


def test_errors_say_what_to_do(namesrv: str) -> None:
    def fails(status: int, *words: str) -> str:
        result = run("dlq", *words, NAMESRV_ADDR=namesrv)
        assert result.returncode == status, result
        return result.stderr

    assert "rmq-py dlq list" in fails(3, "view", "nobody")
    assert "has no dead letters" in fails(3, "resend", "nobody", "--all")
    assert "rmq-py dlq view carriers" in fails(3, "resend", GROUP, "--id", "F" * 32)
    assert "rmq-py dlq view carriers" in fails(3, "view", GROUP, "--id", "no id at all")
    assert "--all" in fails(2, "resend", GROUP)
    assert "--all" in fails(2, "resend", GROUP, "--all", "--id", "x")
    assert "illegal characters" in fails(2, "view", "no group!")
    fails(2, "resend", GROUP, "--all", "--to", "nowhere")
    unreachable = run("dlq", "list", "--json", NAMESRV_ADDR="127.0.0.1:1")
    assert unreachable.returncode == 4
    assert "rmq-py standalone" in json.loads(unreachable.stderr)["next"]


def test_what_cannot_be_sent_is_told_apart(namesrv: str) -> None:
    """One letter was put there by hand and names no topic; the others go out all the same."""
    rmq("message", "send", "%DLQ%carriers", "by hand", NAMESRV_ADDR=namesrv)
    result = run("dlq", "resend", GROUP, "--all", "--json", NAMESRV_ADDR=namesrv)
    assert result.returncode == 6
    rows = json.loads(result.stdout)["items"]
    assert sorted(row["status"] for row in rows) == ["FAILED", "SKIPPED", "SKIPPED", "SKIPPED"]
    assert "RETRY_TOPIC" in next(row["reason"] for row in rows if row["status"] == "FAILED")


def test_a_group_in_order_is_refused_with_the_way_out(namesrv: str) -> None:
    started = threading.Event()

    def handle(messages: Sequence[MessageExt], context: ConsumeOrderlyContext) -> None:
        started.set()

    consumer = consumer_of(namesrv)
    consumer.register_listener(InOrder(handle))
    rmq("message", "send", TOPIC, "in order", NAMESRV_ADDR=namesrv)
    with consumer:
        assert started.wait(60)
        result = run("dlq", "resend", GROUP, "--all", NAMESRV_ADDR=namesrv)
        assert result.returncode == 7
        assert "--to topic" in result.stderr
