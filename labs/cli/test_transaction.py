"""`rmq-py transaction`, as processes, on a server that gives up quickly."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labs.cli.processes import PATIENCE, Server, rmq, rmq_json, run
from rocketmq_py.client.transaction_listener import LocalTransactionState
from rocketmq_py.client.transaction_sync import TransactionProducer
from rocketmq_py.common.message import Message, MessageExt

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

SETTINGS = ("transactionCheckInterval=200", "transactionTimeOut=200", "transactionCheckMax=1")


class Forgetful:
    """Knows nothing until it is told to."""

    def __init__(self) -> None:
        self.answer = LocalTransactionState.UNKNOW

    def execute_local_transaction(self, message: Message, argument: Any) -> LocalTransactionState:
        return self.answer

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        return self.answer


@pytest.fixture
def namesrv(tmp_path: Path) -> Iterator[str]:
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ("standalone", "--store", str(tmp_path / "store"), "--namesrv-port", "0", "--port", "0", *options)
    server = Server(*words, log=tmp_path / "log.txt")
    found = re.search(r"name server (\S+), broker", server.ready)
    assert found is not None, server.ready
    yield found[1]
    assert server.stop()[0] == 0


def listed(namesrv: str, *words: str, count: int) -> list[dict[str, Any]]:
    """Return the rows of `list` when there are so many."""
    end = time.monotonic() + PATIENCE
    while True:
        rows: list[dict[str, Any]] = rmq_json("transaction", "list", *words, "-n", namesrv)["items"]
        if len(rows) == count or time.monotonic() > end:
            assert len(rows) == count, rows
            return rows


def test_messages_that_nobody_decided_are_listed_resumed_and_discarded(namesrv: str) -> None:
    assert "no message waits" in rmq("transaction", "list", "-n", namesrv)
    rmq("topic", "create", "Money", "--queues", "1", "-n", namesrv)
    listener = Forgetful()
    with TransactionProducer("Bank", listener, namesrv_addr=namesrv) as producer:
        sent = [
            producer.send_message_in_transaction(Message.of("Money", body, keys=body.decode())) for body in (b"a", b"b")
        ]
        rows = listed(namesrv, count=2)
        assert {row["msgId"] for row in rows} == {result.msg_id for result in sent}
        assert {(row["state"], row["topic"], row["producerGroup"], row["checks"]) for row in rows} == {
            ("waiting", "Money", "Bank", "1")
        }
        assert sent[0].msg_id in rmq("transaction", "list", "-n", namesrv)

        result = run("transaction", "discard", sent[1].msg_id, "-n", namesrv, stdin="")
        assert result.returncode == 7
        assert "--yes" in result.stderr
        offset_id = next(row["offsetMsgId"] for row in rows if row["msgId"] == sent[1].msg_id)
        discarded = rmq_json("transaction", "discard", offset_id, "--yes", "-n", namesrv)
        assert discarded == {"discarded": sent[1].msg_id, "topic": "Money"}

        listener.answer = LocalTransactionState.COMMIT_MESSAGE
        assert rmq_json("transaction", "resume", sent[0].msg_id, "-n", namesrv)["resumed"] == sent[0].msg_id
        assert "a" in rmq("message", "consume", "Money", "--count", "1", "--wait", "10", "-n", namesrv)
    states = {row["msgId"]: row["state"] for row in listed(namesrv, "--all", count=2)}
    assert states == {sent[0].msg_id: "committed", sent[1].msg_id: "rolled back"}
    assert listed(namesrv, count=0) == []


def test_what_cannot_be_done_is_said_with_the_next_step(namesrv: str) -> None:
    missing = run("transaction", "resume", "0A01010132270A5D2F3449D07C010001", "-n", namesrv)
    assert missing.returncode == 3
    assert "rmq-py transaction list --all" in missing.stderr
    assert run("transaction", "resume", "-n", namesrv).returncode == 2
    nobody = run("transaction", "list", "-n", "127.0.0.1:1")
    assert nobody.returncode == 4
    assert "Start one" in nobody.stderr
    rmq("topic", "create", "Money", "--queues", "1", "-n", namesrv)
    with TransactionProducer("Bank", Forgetful(), namesrv_addr=namesrv) as producer:
        sent = producer.send_message_in_transaction(Message.of("Money", b"a"))
        listed(namesrv, count=1)
        rmq("transaction", "discard", sent.msg_id, "--yes", "-n", namesrv)
        again = run("transaction", "discard", sent.msg_id, "--yes", "-n", namesrv)
        assert again.returncode == 7
        assert "rolled back already" in again.stderr
        refused = run("transaction", "resume", sent.msg_id, "-n", namesrv)
        assert refused.returncode == 1
        assert "decided meanwhile" in refused.stderr
