"""The counts of open transactions: what operators and dashboards read in `config/transactionMetrics`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from labs.stage_15_transaction.test_operators import resume, set_aside
from labs.stage_15_transaction.transaction_lab import COMMIT, ROLLBACK, TOPIC, UNKNOW, TransactionLab, transaction_lab
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.broker.transaction.transaction_metrics import TransactionMetrics
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.common.sys_flag import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK


def count(lab: TransactionLab) -> int:
    return lab.kernel.get(TransactionMetrics).count(TOPIC)


def path_of(lab: TransactionLab) -> Path:
    return Path(lab.kernel.store_config.store_path_root_dir) / "config" / "transactionMetrics"


def file_of(lab: TransactionLab) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path_of(lab).read_bytes())
    return content


async def send(lab: TransactionLab, *bodies: str) -> list[Any]:
    async with lab.producer() as producer:
        return [await producer.send_message_in_transaction(Message.of(TOPIC, body.encode())) for body in bodies]


@pytest.mark.virtual_time
async def test_open_transactions_are_counted_by_their_real_topic(tmp_path: Path, environment: Environment) -> None:
    """Claim: the count goes up with a half message and down with its end, however often the end is repeated.

    Experiment: a commit, a rollback, and three transactions that nobody decides; two of these are ended later, each twice.
        Other messages go to the topic, too.
    Observe: 3 are open, then 2, then 1; the file has the same a moment later, with RocketMQ's names.
    """
    async with transaction_lab(tmp_path, environment, transaction_check_interval=3_600_000) as lab:
        lab.book.local = {"b": ROLLBACK} | dict.fromkeys("cde", UNKNOW)
        *_, c, d, _ = await send(lab, *"abcde")
        async with lab.producer("plain") as producer:
            for level in (0, 1):
                other = Message.of(TOPIC, b"no transaction")
                other.delay_level = level
                assert (await producer.send(other)).is_ok
        await asyncio.sleep(4)
        assert count(lab) == 3
        first = file_of(lab)
        assert set(first) == {"dataVersion", "transactionCount"}
        assert {topic: entry["count"] for topic, entry in first["transactionCount"].items()} == {TOPIC: 3}
        for half, state, left in ((c, TRANSACTION_COMMIT, 2), (d, TRANSACTION_ROLLBACK, 1)):
            for _ in range(2):
                assert (await lab.end(half, state)).code == 0
                assert count(lab) == left
        await asyncio.sleep(4)
        second = file_of(lab)
        assert second["transactionCount"][TOPIC]["count"] == 1
        assert second["transactionCount"][TOPIC]["timeStamp"] >= first["transactionCount"][TOPIC]["timeStamp"]
        assert second["dataVersion"]["counter"] > first["dataVersion"]["counter"]


@pytest.mark.virtual_time
async def test_what_is_set_aside_is_open_no_more_until_it_is_resumed(tmp_path: Path, environment: Environment) -> None:
    """Checks change nothing; giving up ends it, also for who commits afterwards; an operator opens it again."""
    async with transaction_lab(tmp_path, environment) as lab:
        lab.book.local, lab.book.later = {"late": UNKNOW}, {"late": [UNKNOW]}
        async with lab.producer() as producer:
            late = await producer.send_message_in_transaction(Message.of(TOPIC, b"late"))
            await asyncio.sleep(100)
            assert lab.book.times_checked("late") >= 2
            assert count(lab) == 1
        await set_aside(lab, "operated")
        assert count(lab) == 0
        assert (await lab.end(late, TRANSACTION_COMMIT)).code == 0
        assert await lab.delivered() == {"late": 1}
        assert count(lab) == 0

        lab.book.later["operated"] = [COMMIT]
        await resume(lab, "operated")
        assert count(lab) == 1
        async with lab.producer("repaired"):
            await asyncio.sleep(40)
        assert count(lab) == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("damage", ["none", "gone", "wrong", "broken"])
async def test_a_start_counts_anew(tmp_path: Path, environment: Environment, damage: str) -> None:
    """Whatever the file says: what lies in the half queue counts, copies of one transaction once."""
    async with transaction_lab(tmp_path, environment) as lab:
        lab.book.local = dict.fromkeys("cd", UNKNOW)
        lab.book.later = {body: [UNKNOW] for body in "cd"}
        async with lab.producer() as producer:
            for body in "abcd":
                await producer.send_message_in_transaction(Message.of(TOPIC, body.encode()))
            await asyncio.sleep(100)
        assert lab.checks.totals.put_back >= 4
        assert count(lab) == 2
        path = path_of(lab)
        await lab.kernel.stop()
        if damage != "none":
            for each in (path, path.with_name(path.name + ".bak")):
                each.unlink(missing_ok=True)
        if damage == "wrong":
            text = '{"dataVersion":{"counter":9,"timestamp":1,"stateVersion":0},"transactionCount":{"%s":{"count":77}}}'
            path.write_text(text % TOPIC)
        elif damage == "broken":
            path.write_bytes(b'{"transactionCount": [')
        await lab.restart()
        assert count(lab) == 2
        async with lab.producer("heir"):
            lab.book.later = {}
            lab.book.local = {"c": COMMIT, "d": ROLLBACK}
            await asyncio.sleep(70)
        assert count(lab) == 0


@pytest.mark.virtual_time
async def test_a_deleted_topic_is_counted_no_more(tmp_path: Path, environment: Environment) -> None:
    """Its half messages may still be ended."""
    async with transaction_lab(tmp_path, environment, transaction_check_interval=3_600_000) as lab:
        lab.book.local = {"a": UNKNOW}
        (half,) = await send(lab, "a")
        assert count(lab) == 1
        assert lab.kernel.get(TopicConfigManager).delete(TOPIC)
        assert count(lab) == 0
        assert (await lab.end(half, TRANSACTION_ROLLBACK)).code == 0
        assert count(lab) == 0
