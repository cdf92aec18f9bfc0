"""The claims about transactional messages, one experiment each."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from labs.stage_15_transaction.transaction_lab import (
    COMMIT,
    GROUP,
    ROLLBACK,
    TOPIC,
    UNKNOW,
    Book,
    bodies,
    transaction_lab,
)
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.transaction.load import GROUP as SYSTEM_GROUP
from rocketmq_py.common import properties as names
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.common.sys_flag import transaction_type
from rocketmq_py.common.topic import TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.testing.eventually import eventually


def message(body: str, **properties: str) -> Message:
    made = Message.of(TOPIC, body.encode(), tags="t", keys=f"k-{body}")
    made.properties.update(properties)
    return made


@pytest.mark.claim("tx-01")
@pytest.mark.virtual_time
async def test_a_transaction_takes_seven_steps(tmp_path: Path, environment: Environment) -> None:
    """Claim: half message stored, acknowledged, local transaction, commit or rollback; check when that is missing, local
    state looked up, second decision.

    Experiment: two transactions whose producer knows how they ended, and one whose producer does not know until the
        broker asks.
    Observe: before each local transaction its half message is in the log and nothing is delivered; a commit delivers, a
        rollback does not; the third is asked about once it is 6 s old, at the next run of the check, and then delivered.
    """
    async with transaction_lab(tmp_path, environment) as lab:
        seen: list[tuple[str, list[str], int]] = []
        book = lab.book
        execute = book.execute_local_transaction

        async def look_and_execute(half: Message, argument: object):
            seen.append((half.body.decode(), bodies(lab.halves()), len(lab.log(TOPIC))))
            return await execute(half, argument)

        book.execute_local_transaction = look_and_execute  # type: ignore[method-assign]
        book.local = {"commit": COMMIT, "rollback": ROLLBACK, "unknown": UNKNOW}
        book.later = {"unknown": [COMMIT]}
        loop = asyncio.get_running_loop()
        async with lab.producer() as producer:
            began = loop.time()
            for body in ("commit", "rollback", "unknown"):
                result = await producer.send_message_in_transaction(message(body))
                assert result.is_ok
                assert result.local_transaction_state is book.local[body]
            assert seen == [
                ("commit", ["commit"], 0),
                ("rollback", ["commit", "rollback"], 1),
                ("unknown", ["commit", "rollback", "unknown"], 1),
            ], "The local transaction has to come after the half message and before anything is delivered"
            await asyncio.sleep(5.9)
            assert await lab.delivered() == {"commit": 1}
            assert book.checked == []

            await eventually(lambda: book.checked, 60)
            assert [body for body, _ in book.checked] == ["unknown"], "decided transactions are not asked about"
            assert 29 < book.checked[0][1] - began < 31, "the check runs every 30 s"
            await asyncio.sleep(0.1)
            assert await lab.delivered() == {"commit": 1, "unknown": 1}


@pytest.mark.claim("tx-02")
@pytest.mark.virtual_time
async def test_a_half_message_is_invisible_because_it_is_elsewhere(tmp_path: Path, environment: Environment) -> None:
    """Claim: topic and queue of a half message are replaced by internal ones; the real ones are kept in its properties.

    Experiment: send a half message for queue 1 and leave it undecided; look at the record, pull all queues of its topic,
        and try to send to the internal topics as a client.
    Observe: the record is in queue 0 of RMQ_SYS_TRANS_HALF_TOPIC, with the real topic and queue as properties and no
        transaction bits; the topic is empty; nobody but the broker writes to the internal topics.
    """
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        lab.book.local = {"secret": UNKNOW}
        result = await producer.send_message_in_transaction(message("secret", DELAY="3"))

        (half,) = lab.halves()
        assert (half.topic, half.queue_id, half.queue_offset) == (TRANS_HALF_TOPIC, 0, 0)
        assert half.properties[names.REAL_TOPIC] == TOPIC
        assert half.properties[names.REAL_QID] == str(result.queue.queue_id)
        assert half.properties[names.TRAN_MSG] == "true"
        assert half.properties[names.PGROUP] == GROUP
        assert half.properties[names.TRANSACTION_ID] == half.properties[names.UNIQ_KEY] == result.transaction_id
        assert transaction_type(half.sys_flag) == 0, "with prepared bits it would have no place in any queue"
        assert result.queue_offset == 0
        assert await lab.delivered() == {}
        assert len(lab.log()) == 1

        for topic in (TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC):
            response = await lab.request(
                RequestCode.SEND_MESSAGE_V2,
                {"a": "g", "b": topic, "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "0", "h": "0", "i": ""},
            )
            assert response is not None
            assert response.code == ResponseCode.NO_PERMISSION


@pytest.mark.claim("tx-03", "tx-07")
@pytest.mark.virtual_time
async def test_commit_and_rollback_append_and_change_nothing(tmp_path: Path, environment: Environment) -> None:
    """Claims: commit writes the message anew to its real topic, rollback writes nothing there, and both record an op
    message that points at the half message. A note says that rollback deletes or changes the half message: it does not.

    Experiment: one commit, one rollback; keep the bytes of the log after the half messages.
    Observe: those bytes are the same afterwards. Behind them lie one record in the real topic, with commit bits, a queue
        offset of its own and the place of its half message, and op records that name both half messages.
    """
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        lab.book.local = {"yes": UNKNOW, "no": UNKNOW}
        results = [await producer.send_message_in_transaction(message(body)) for body in ("yes", "no")]
        log = lab.store.commit_log
        end = log.max_offset
        before = bytes(log.read(0, end) or b"")

        assert (await lab.end(results[0], COMMIT.value)).code == ResponseCode.SUCCESS
        assert (await lab.end(results[1], ROLLBACK.value)).code == ResponseCode.SUCCESS
        await asyncio.sleep(3.1)

        assert bytes(log.read(0, end) or b"") == before, "a log is only appended to"
        halves = {half.body: half for half in lab.halves()}
        behind = [found for found in lab.log() if found.commit_log_offset >= end]
        (committed,) = [found for found in behind if found.topic == TOPIC]
        assert committed.body == b"yes"
        assert transaction_type(committed.sys_flag) == COMMIT.value
        assert committed.prepared_transaction_offset == halves[b"yes"].commit_log_offset
        assert committed.properties == halves[b"yes"].properties, "its stored properties are those of the half message"
        assert committed.queue_offset == 0
        assert (committed.born_timestamp, committed.born_host) == (
            halves[b"yes"].born_timestamp,
            halves[b"yes"].born_host,
        )
        assert {found.topic for found in behind} == {TOPIC, TRANS_OP_HALF_TOPIC}
        assert sorted(lab.op_offsets()) == [0, 1]
        assert all(found.tags == "d" for found in lab.log(TRANS_OP_HALF_TOPIC))


@pytest.mark.claim("tx-04")
@pytest.mark.virtual_time
async def test_the_broker_finds_the_undecided_by_comparing_two_queues(tmp_path: Path, environment: Environment) -> None:
    """Claim: the broker compares half and op queues to find the undecided, checks them with the producer group, and moves
    its progress past the decided.

    Experiment: forty transactions, every tenth undecided until it has been asked about twice.
    Observe: exactly those are asked about, twice each; an undecided half message lies once more at the end of the queue
        after each check; in the end the stored progress is the end of both queues.
    """
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        undecided = [str(number) for number in range(0, 40, 10)]
        lab.book.local = dict.fromkeys(undecided, UNKNOW)
        lab.book.later = {body: [UNKNOW, COMMIT] for body in undecided}
        for number in range(40):
            await producer.send_message_in_transaction(message(str(number)))
        await asyncio.sleep(65)

        assert sorted(body for body, _ in lab.book.checked) == sorted(undecided * 2)
        halves = bodies(lab.halves())
        assert halves[:40] == [str(number) for number in range(40)]
        assert halves[40:] == undecided * 2
        counts = [half.properties.get(names.TRANSACTION_CHECK_TIMES) for half in lab.halves()[40:]]
        assert counts == ["1"] * 4 + ["2"] * 4
        assert await lab.delivered() == {str(number): 1 for number in range(40)}
        await asyncio.sleep(35)
        offsets = lab.kernel.get(ConsumerOffsetManager)
        for topic in (TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC):
            assert offsets.query(SYSTEM_GROUP, topic, 0) == lab.store.max_offset(topic, 0)
        assert len(lab.table) == 0, "what was passed is forgotten"


@pytest.mark.claim("tx-05")
@pytest.mark.virtual_time
async def test_after_fifteen_checks_a_message_is_set_aside_and_not_delivered(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim (of a note): after 15 checks without an answer the message is rolled back. Qualified: it is set aside.

    Experiment: a producer that never knows; wait for ten minutes.
    Observe: 15 checks, 30 s apart; then the message lies in TRANS_CHECK_MAX_TIME_TOPIC with all its properties, is not
        delivered, has no op record, and is not asked about again.
    """
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        lab.book.local = {"lost": UNKNOW}
        await producer.send_message_in_transaction(message("lost"))
        await asyncio.sleep(600)

        times = [time for _, time in lab.book.checked]
        assert len(times) == 15
        assert [round(two - one) for one, two in itertools.pairwise(times)] == [30] * 14
        (aside,) = lab.set_aside()
        assert (aside.body, aside.queue_id) == (b"lost", 0)
        assert aside.properties[names.REAL_TOPIC] == TOPIC
        assert aside.properties[names.TRANSACTION_CHECK_TIMES] == "15"
        assert await lab.delivered() == {}
        assert lab.op_offsets() == []


@pytest.mark.claim("tx-06")
@pytest.mark.virtual_time
async def test_when_the_producer_died_another_one_of_its_group_is_asked(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: when the producer died, another producer of the same group is asked.

    Experiment: a producer stores half messages and dies without a word; a second one of the group, which has sent
        nothing, and one of another group are there.
    Observe: the second one is asked about all of them, the stranger about none, and its answers decide.
    """
    async with transaction_lab(tmp_path, environment) as lab:
        one, two, stranger = Book(), Book(), Book()
        one.local = dict.fromkeys("abc", UNKNOW)
        two.later = {"a": [COMMIT], "b": [ROLLBACK], "c": [COMMIT]}
        first = lab.producer("p1", book=one)
        await first.start()
        async with lab.producer("p2", book=two), lab.producer("p3", group="others", book=stranger):
            for body in "abc":
                await first.send_message_in_transaction(message(body))
            await first.instance.transport.close()
            await asyncio.sleep(31)
            assert one.checked == stranger.checked == []
            assert sorted(body for body, _ in two.checked) == ["a", "b", "c"]
            assert await lab.delivered() == {"a": 1, "c": 1}
        await first.stop()


@pytest.mark.virtual_time
async def test_members_of_a_group_are_asked_in_turn(tmp_path: Path, environment: Environment) -> None:
    """Checks are spread over the members, so that one slow member does not get all of them."""
    async with transaction_lab(tmp_path, environment) as lab:
        books = [Book() for _ in range(3)]
        undecided = [str(number) for number in range(30)]
        books[0].local = dict.fromkeys(undecided, UNKNOW)
        producers = [lab.producer(f"p{number}", book=book) for number, book in enumerate(books)]
        async with producers[0], producers[1], producers[2]:
            for body in undecided:
                await producers[0].send_message_in_transaction(message(body))
            await asyncio.sleep(31)
        assert [len(book.checked) for book in books] == [10, 10, 10]


@pytest.mark.virtual_time
async def test_without_any_producer_the_broker_goes_on_asking_for_one(tmp_path: Path, environment: Environment) -> None:
    """Each run counts as a check even if there was nobody to ask, as in RocketMQ; a member that comes is asked next."""
    async with transaction_lab(tmp_path, environment) as lab:
        lab.book.local = {"a": UNKNOW}
        lab.book.later = {"a": [COMMIT]}
        async with lab.producer() as producer:
            await producer.send_message_in_transaction(message("a"))
        await asyncio.sleep(95)
        assert lab.book.checked == []
        assert lab.halves()[-1].properties[names.TRANSACTION_CHECK_TIMES] == "3"
        async with lab.producer("late"):
            await asyncio.sleep(31)
        assert lab.book.times_checked("a") == 1
        assert await lab.delivered() == {"a": 1}


@pytest.mark.virtual_time
async def test_an_immunity_time_of_its_own_keeps_a_message_from_being_asked_about(
    tmp_path: Path, environment: Environment
) -> None:
    """CHECK_IMMUNITY_TIME_IN_SECONDS: no check before that age, however many runs pass; a decision still counts, and after
    the time only the check decides. Thirty looks are no thirty checks."""
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        lab.book.local = {"slow": UNKNOW, "told": UNKNOW, "late": UNKNOW}
        lab.book.later = {"slow": [COMMIT], "late": [ROLLBACK]}
        immune = {names.CHECK_IMMUNITY_TIME_IN_SECONDS: "900"}
        await producer.send_message_in_transaction(message("slow", **immune))
        told = await producer.send_message_in_transaction(message("told", **immune))
        late = await producer.send_message_in_transaction(message("late", **immune))
        await asyncio.sleep(600)
        assert lab.book.checked == []
        assert (await lab.end(told, COMMIT.value)).code == ResponseCode.SUCCESS, "though its half message was copied"
        assert (await lab.end(told, COMMIT.value)).code == ResponseCode.SUCCESS
        await asyncio.sleep(290)
        assert lab.book.checked == []
        await asyncio.sleep(12)
        response = await lab.end(late, COMMIT.value)
        assert response.code == ResponseCode.ILLEGAL_OPERATION, response.remark
        await asyncio.sleep(40)
        assert sorted(body for body, _ in lab.book.checked) == ["late", "slow"]
        assert await lab.delivered() == {"slow": 1, "told": 1}
        assert lab.set_aside() == []


@pytest.mark.virtual_time
async def test_a_message_older_than_the_log_is_kept_is_set_aside(tmp_path: Path, environment: Environment) -> None:
    """fileReservedTime is the other limit: a message with a long immunity time must not outlive its own half message."""
    settings = {"store": {"file_reserved_time": 1}, "transaction_check_interval": 900_000}
    async with transaction_lab(tmp_path, environment, **settings) as lab, lab.producer() as producer:
        lab.book.local = {"old": UNKNOW}
        await producer.send_message_in_transaction(message("old", CHECK_IMMUNITY_TIME_IN_SECONDS="86400"))
        await asyncio.sleep(3_590)
        assert lab.set_aside() == []
        await asyncio.sleep(920)
        assert bodies(lab.set_aside()) == ["old"]
        assert lab.book.checked == []


@pytest.mark.virtual_time
async def test_a_committed_message_is_delayed_from_its_commit_on(tmp_path: Path, environment: Environment) -> None:
    """A half message waits for its decision, not for a time. The time begins when the transaction is committed."""
    async with transaction_lab(tmp_path, environment) as lab, lab.producer() as producer:
        await producer.send_message_in_transaction(message("m", TIMER_DELAY_SEC="60"))
        await asyncio.sleep(55)
        assert await lab.delivered() == {}
        await asyncio.sleep(7)
        assert await lab.delivered() == {"m": 1}
