"""What is left to an operator: transactions that every producer left undecided."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from labs.stage_15_transaction.transaction_lab import COMMIT, TOPIC, UNKNOW, TransactionLab, transaction_lab
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.admin.transactions import AsideState, TransactionAdmin
from rocketmq_py.client.errors import BrokerResponseError, ClientError
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import TRANS_CHECK_MAX_TIME_TOPIC
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.store.draft import Draft


def admin_of(lab: TransactionLab) -> AdminClient:
    return AdminClient(namesrv_addr=lab.cluster.namesrv_addr, environment=lab.environment)


async def states(lab: TransactionLab) -> dict[str, str]:
    """Return what an operator sees: body and state."""
    async with admin_of(lab) as admin:
        found = await TransactionAdmin(admin.instance).list()
    return {aside.message.body.decode(): aside.state.value for aside in found}


async def resume(lab: TransactionLab, body: str) -> None:
    async with admin_of(lab) as admin:
        transactions = TransactionAdmin(admin.instance)
        (aside,) = [found for found in await transactions.list() if found.message.body == body.encode()]
        await transactions.resume(aside.message)


async def discard(lab: TransactionLab, body: str) -> None:
    async with admin_of(lab) as admin:
        transactions = TransactionAdmin(admin.instance)
        (aside,) = [found for found in await transactions.list() if found.message.body == body.encode()]
        await transactions.discard(aside.message)


async def set_aside(lab: TransactionLab, *bodies: str) -> None:
    """Send half messages that nobody decides, and wait until the broker has given them up."""
    lab.book.local |= dict.fromkeys(bodies, UNKNOW)
    lab.book.later |= {body: [UNKNOW] for body in bodies}
    async with lab.producer("forgetful") as producer:
        for body in bodies:
            await producer.send_message_in_transaction(Message.of(TOPIC, body.encode()))
        await asyncio.sleep(500)
    assert {message.body.decode() for message in lab.set_aside()} >= set(bodies)


@pytest.mark.claim("tx-09")
@pytest.mark.virtual_time
async def test_a_committed_transaction_without_its_message_is_brought_together_by_an_operator(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: if the local transaction committed and all checks fail, message and transaction disagree.

    Experiment: a local transaction commits, but its producer cannot say so, in the end nor in 15 checks. Then the
        producer is repaired, and an operator resumes the message.
    Observe: money has left, and no message comes: the message waits in TRANS_CHECK_MAX_TIME_TOPIC, where an operator sees
        it. Resumed, it is asked about again and delivered, once, and the list says so.
    """
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "payment")
        assert lab.book.executed == ["payment"], "the local part was done"
        assert await lab.delivered() == {}, "and its message is not there: they disagree"
        assert await states(lab) == {"payment": "waiting"}

        lab.book.later["payment"] = [COMMIT]
        await resume(lab, "payment")
        assert await states(lab) == {"payment": "resumed"}
        async with lab.producer("repaired"):
            await asyncio.sleep(40)
        assert lab.book.times_checked("payment") == 16
        assert await lab.delivered() == {"payment": 1}
        assert await states(lab) == {"payment": "committed"}


@pytest.mark.virtual_time
async def test_a_message_is_resumed_once_and_not_after_it_was_decided(tmp_path: Path, environment: Environment) -> None:
    """RocketMQ puts it back as often as it is told to; each copy could then be committed on its own."""
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "a")
        lab.book.later["a"] = [COMMIT]
        await resume(lab, "a")
        with pytest.raises(BrokerResponseError, match="resumed already"):
            await resume(lab, "a")
        async with lab.producer("repaired"):
            await asyncio.sleep(40)
        with pytest.raises(BrokerResponseError, match="decided meanwhile"):
            await resume(lab, "a")
        await asyncio.sleep(100)
        with pytest.raises(BrokerResponseError, match="decided meanwhile"):
            await resume(lab, "a")
        assert await lab.delivered() == {"a": 1}


@pytest.mark.virtual_time
async def test_a_resumed_message_that_nobody_decides_is_set_aside_again(
    tmp_path: Path, environment: Environment
) -> None:
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "a")
        await resume(lab, "a")
        async with lab.producer("still forgetful"):
            await asyncio.sleep(500)
        assert lab.book.times_checked("a") == 30
        assert len(lab.set_aside()) == 2
        assert await states(lab) == {"a": "waiting"}, "listed once"
        await lab.restart()
        assert await states(lab) == {"a": "waiting"}
        await resume(lab, "a")
        assert await states(lab) == {"a": "resumed"}


@pytest.mark.virtual_time
async def test_a_discarded_message_never_comes(tmp_path: Path, environment: Environment) -> None:
    """Discarding is a rollback in the place of the producer: whatever the producer says later comes too late."""
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "a", "b")
        await discard(lab, "a")
        assert await states(lab) == {"a": "rolled back", "b": "waiting"}
        (half, *_) = [found for found in lab.halves() if found.body == b"a"]
        assert half.unique_key
        response = await lab.request(
            RequestCode.END_TRANSACTION,
            {
                "producerGroup": "bank",
                "tranStateTableOffset": str(half.queue_offset),
                "commitLogOffset": str(half.commit_log_offset),
                "commitOrRollback": "8",
                "msgId": half.unique_key,
            },
        )
        assert response is not None
        assert response.code == ResponseCode.SUCCESS
        with pytest.raises(BrokerResponseError, match="decided meanwhile"):
            await resume(lab, "a")
        assert await lab.delivered() == {}


@pytest.mark.virtual_time
async def test_a_resumed_message_can_be_discarded(tmp_path: Path, environment: Environment) -> None:
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "a")
        await resume(lab, "a")
        await discard(lab, "a")
        async with lab.producer("late"):
            await asyncio.sleep(100)
        assert lab.book.times_checked("a") == 15
        assert await states(lab) == {"a": "rolled back"}


@pytest.mark.virtual_time
async def test_what_is_no_message_that_was_set_aside_is_not_resumed(tmp_path: Path, environment: Environment) -> None:
    """Ids of nothing, of another topic, of another kind: an error each, and nothing is stored."""
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        plain = await producer.send(Message.of(TOPIC, b"plain"))
        end = lab.store.commit_log.max_offset
        nowhere = plain.offset_msg_id[:-8] + "00FFFFFF"
        for msg_id, remark in (
            (plain.offset_msg_id, f"not in {TRANS_CHECK_MAX_TIME_TOPIC}"),
            (nowhere, "there is no message"),
            ("no id", "not 32 or 56 hex digits"),
            ("", "not 32 or 56 hex digits"),
        ):
            response = await lab.request(RequestCode.RESUME_CHECK_HALF_MESSAGE, {"msgId": msg_id})
            assert response is not None
            assert response.code == ResponseCode.SYSTEM_ERROR
            assert remark in (response.remark or "")
        response = await lab.request(RequestCode.RESUME_CHECK_HALF_MESSAGE, {})
        assert response is not None
        assert "msgId" in (response.remark or "")
        assert lab.store.commit_log.max_offset == end


@pytest.mark.virtual_time
async def test_an_old_message_is_not_resumed_only_to_be_set_aside_again(
    tmp_path: Path, environment: Environment
) -> None:
    settings: dict[str, Any] = {"store": {"file_reserved_time": 1}}
    async with transaction_lab(tmp_path, environment, **settings) as lab:
        await set_aside(lab, "a")
        await asyncio.sleep(3_700)
        with pytest.raises(BrokerResponseError, match="fileReservedTime=1"):
            await resume(lab, "a")


@pytest.mark.virtual_time
async def test_a_cluster_without_any_such_message_has_an_empty_list(tmp_path: Path, environment: Environment) -> None:
    async with transaction_lab(tmp_path, environment) as lab, admin_of(lab) as admin:
        transactions = TransactionAdmin(admin.instance)
        assert await transactions.list() == []
        assert await transactions.find("nothing") is None


@pytest.mark.virtual_time
async def test_what_a_broker_of_apaches_set_aside_begins_anew(tmp_path: Path, environment: Environment) -> None:
    """It does not say which half message it was. Its place in the topic of those given up must not pass for one."""
    async with transaction_lab(tmp_path, environment) as lab:
        async with lab.producer() as producer:
            await producer.send_message_in_transaction(Message.of(TOPIC, b"other"))
        properties = {
            "REAL_TOPIC": TOPIC,
            "REAL_QID": "1",
            "TRAN_MSG": "true",
            "PGROUP": "bank",
            "UNIQ_KEY": "u-1",
            "TRANSACTION_CHECK_TIMES": "15",
        }
        await lab.store.put_message(
            Draft(
                topic=TRANS_CHECK_MAX_TIME_TOPIC,
                queue_id=0,
                body=b"theirs",
                stored_properties=encode_properties(properties),
                born_timestamp=environment.clock.wall_ms(),
            )
        )
        topics = lab.kernel.get(TopicConfigManager)
        topics.update([TopicConfig(topic_name=TRANS_CHECK_MAX_TIME_TOPIC, read_queue_nums=1, write_queue_nums=1)])
        await asyncio.sleep(1)
        assert await states(lab) == {"theirs": "waiting"}
        await resume(lab, "theirs")
        async with lab.producer("p1"):
            await asyncio.sleep(40)
        assert lab.book.times_checked("theirs") == 1
        assert await lab.delivered() == {"other": 1, "theirs": 1}
        assert await states(lab) == {"theirs": "committed"}


@pytest.mark.virtual_time
async def test_without_its_half_message_there_is_nothing_to_discard(tmp_path: Path, environment: Environment) -> None:
    async with transaction_lab(tmp_path, environment) as lab:
        await set_aside(lab, "a")
        (message,) = lab.set_aside()
        message.broker_name, message.properties["UNIQ_KEY"] = "broker-a", "never seen"
        async with admin_of(lab) as admin:
            transactions = TransactionAdmin(admin.instance)
            assert [aside.state for aside in await transactions.list()] == [AsideState.WAITING]
            with pytest.raises(ClientError, match="not in the broker's log"):
                await transactions.discard(message)
