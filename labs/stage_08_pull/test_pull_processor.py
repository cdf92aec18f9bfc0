"""One pull at the broker: what is answered, where the reader goes on, and how much fits into one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labs.stage_08_pull.pull_lab import GROUP, TOPIC, bodies, pull_fields, pull_lab
from rocketmq_py.broker.consumer_offset import ConsumerOffsetManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import Message
from rocketmq_py.common.permission import WRITE
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.processors import Processors

BOTH_PATHS = pytest.mark.parametrize("hot", [True, False], ids=["hot", "ordinary"])


@pytest.mark.virtual_time
@BOTH_PATHS
@pytest.mark.parametrize(
    ("queue_id", "offset", "code", "status", "following", "found"),
    [
        (0, 0, ResponseCode.SUCCESS, "FOUND", 5, ["a", "b", "c", "d", "e"]),
        (0, 3, ResponseCode.SUCCESS, "FOUND", 5, ["d", "e"]),
        (0, 5, ResponseCode.PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE", 5, []),
        (0, 6, ResponseCode.PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", 5, []),
        (0, 2**62, ResponseCode.PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY", 5, []),
        (0, -1, ResponseCode.PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL", 0, []),
        (3, 0, ResponseCode.PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE", 0, []),
        (3, 7, ResponseCode.PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE", 0, []),
    ],
)
async def test_an_answer_says_what_was_found_and_where_to_go_on(
    environment: Environment,
    tmp_path: Path,
    hot: bool,
    queue_id: int,
    offset: int,
    code: int,
    status: str,
    following: int,
    found: list[str],
) -> None:
    """Claim: whatever a reader asks for, the answer's next offset brings it back into the queue.

    Experiment: queue 0 holds five messages, queue 3 none; pull within, at the end of, before and beyond them.
    Observe: code, status, next offset and both ends of the queue, as RocketMQ gives them.
    """
    async with pull_lab(tmp_path, environment, hot=hot) as lab:
        await lab.send(*"abcde")

        answer = await lab.pull(offset, queue_id=queue_id)

        assert (answer.code, answer.remark) == (code, status)
        assert bodies(answer) == found
        assert {name: int(answer.ext_fields[name]) for name in ("nextBeginOffset", "minOffset", "maxOffset")} == {
            "nextBeginOffset": following,
            "minOffset": 0,
            "maxOffset": 0 if queue_id else 5,
        }
        assert answer.ext_fields["suggestWhichBrokerId"] == "0"


@pytest.mark.virtual_time
@BOTH_PATHS
@pytest.mark.parametrize(
    ("changes", "code", "remark"),
    [
        ({"topic": "Nowhere"}, ResponseCode.TOPIC_NOT_EXIST, "topic[Nowhere] not exist, apply first please! "),
        ({"topic": "WriteOnly"}, ResponseCode.NO_PERMISSION, "the topic[WriteOnly] pulling message is forbidden"),
        ({"queue_id": 4}, ResponseCode.INVALID_PARAMETER, "queueId[4] is illegal, topic:[Orders] topicConfig.read"),
        ({"queue_id": -1}, ResponseCode.INVALID_PARAMETER, "queueId[-1] is illegal, topic:[Orders] topicConfig.read"),
        ({"subscription": "||"}, ResponseCode.SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed"),
        ({"sys_flag": 0}, ResponseCode.SUBSCRIPTION_NOT_EXIST, "the consumer's group info not exist"),
        (
            {"expression_type": "SQL92", "subscription": "a > 1"},
            ResponseCode.SYSTEM_ERROR,
            "The broker does not support consumer to filter message by SQL92",
        ),
    ],
)
async def test_a_pull_that_may_not_be_answered_is_refused_in_rocketmqs_words(
    environment: Environment, tmp_path: Path, hot: bool, changes: dict[str, Any], code: int, remark: str
) -> None:
    """Claim: a refusal has the code that clients act on and the remark that people search for."""
    async with pull_lab(tmp_path, environment, hot=hot) as lab:
        lab.create_topic("WriteOnly", 2, perm=WRITE)

        answer = await lab.pull(0, **changes)

        assert answer.code == code
        assert (answer.remark or "").startswith(remark)


@pytest.mark.virtual_time
async def test_a_verdict_of_the_hot_path_is_void_when_the_topic_changes(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: the hot path remembers that a pull was allowed only until something changes.

    Experiment: pull; take the read permission away and pull; give it back and pull.
    Observe: found, refused, found.
    """
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a")
        assert (await lab.pull(0)).code == ResponseCode.SUCCESS
        lab.create_topic(TOPIC, 4, perm=WRITE)
        assert (await lab.pull(0)).code == ResponseCode.NO_PERMISSION
        lab.create_topic(TOPIC, 4)
        assert (await lab.pull(0)).code == ResponseCode.SUCCESS


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"queue_offset": 2, "max_msg_nums": 1},
        {"queue_offset": 5},
        {"queue_offset": 9},
        {"queue_id": 3},
        {"max_msg_bytes": 300},
        {"max_msg_nums": 0},
        {"max_msg_nums": -5, "sys_flag": flags.PULL_SUBSCRIPTION | flags.PULL_LITE},
        {"sys_flag": flags.PULL_SUBSCRIPTION | flags.PULL_COMMIT_OFFSET, "commit_offset": 4},
        {"sys_flag": flags.PULL_SUBSCRIPTION | flags.PULL_SUSPEND, "queue_offset": 5},
        {"subscription": None, "expression_type": None},
        {"topic": "Nowhere"},
    ],
    ids=str,
)
@pytest.mark.parametrize("code", [RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE])
async def test_both_paths_give_one_answer(
    environment: Environment, tmp_path: Path, code: int, changes: dict[str, Any]
) -> None:
    """Claim: the hot path of a pull is the ordinary one without its general parts: same answer, same progress."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send(*"abcde")
        fields = pull_fields(0, **changes)
        offsets = lab.kernel.get(ConsumerOffsetManager)
        seen = []
        for _ in ("hot", "ordinary"):
            answer = await lab.request(code, fields)
            seen.append((answer.code, answer.remark, answer.ext_fields, bytes(answer.body), offsets.snapshot()))
            offsets.drop_group(GROUP)
            lab.kernel.get(Processors).hot.clear()

        assert seen[0] == seen[1]


@pytest.mark.virtual_time
@BOTH_PATHS
async def test_an_answer_keeps_the_limits_but_is_never_empty(
    environment: Environment, tmp_path: Path, hot: bool
) -> None:
    """Claim: an answer has at most as many messages and bytes as the reader and the broker allow, but at least one
    message, however large it is: the reader would ask for it for ever.

    Experiment: 40 small messages, and behind them one of 300,000 bytes; ask for 1, for 1,000, for 1,000 bytes, and for
    the large one with a limit of 100 bytes.
    Observe: 1; 32 (the broker's limit for messages in memory); as many as 1,000 bytes hold; the large one, whole.
    """
    async with pull_lab(tmp_path, environment, hot=hot) as lab:
        await lab.send(*(f"{number:02d}" for number in range(40)))
        await lab.producer.send(Message(TOPIC, b"L" * 300_000, {"keep": "whole"}), queue=lab.queue(0))

        assert bodies(await lab.pull(4, max_msg_nums=1)) == ["04"]
        many = await lab.pull(0, max_msg_nums=1_000)
        assert (len(bodies(many)), many.ext_fields["nextBeginOffset"]) == (32, "32")

        size = len(many.body) // 32
        few = await lab.pull(0, max_msg_bytes=4 * size + size // 2)
        assert (bodies(few), few.ext_fields["nextBeginOffset"]) == (["00", "01", "02", "03"], "4")

        large = await lab.pull(40, max_msg_bytes=100)
        assert large.ext_fields["nextBeginOffset"] == "41"
        assert len(large.body) > 300 and large.code == ResponseCode.SUCCESS


@pytest.mark.virtual_time
@BOTH_PATHS
async def test_a_pull_carries_the_progress_of_its_group(environment: Environment, tmp_path: Path, hot: bool) -> None:
    """Claim: with the commit flag a pull stores the group's offset; without it, it stores nothing.

    Experiment: pull at 3 with commit offset 2, with and without the flag; once more with a smaller one.
    Observe: what the flag asked for is stored, whatever the pull found.
    """
    async with pull_lab(tmp_path, environment, hot=hot) as lab:
        await lab.send(*"abcde")
        offsets = lab.kernel.get(ConsumerOffsetManager)

        await lab.pull(3, commit_offset=2)
        assert offsets.query(GROUP, TOPIC, 0) == -1

        commits = flags.PULL_SUBSCRIPTION | flags.PULL_COMMIT_OFFSET
        await lab.pull(3, commit_offset=2, sys_flag=commits)
        assert offsets.query(GROUP, TOPIC, 0) == 2
        await lab.pull(99, commit_offset=1, sys_flag=commits)
        assert offsets.query(GROUP, TOPIC, 0) == 1
        assert offsets.query_pull(GROUP, TOPIC, 0) == 5, "where the last answer sent the reader"


@pytest.mark.virtual_time
async def test_a_broker_without_long_polling_answers_at_once(environment: Environment, tmp_path: Path) -> None:
    """Claim: holding a pull is a stage of its own; before it a reader that would wait is told "nothing" at once."""
    async with pull_lab(tmp_path, environment) as lab:
        begin = environment.clock.wall_ms()
        answer = await lab.pull(0, sys_flag=flags.PULL_SUBSCRIPTION | flags.PULL_SUSPEND)

        assert answer.code == ResponseCode.PULL_NOT_FOUND
        assert environment.clock.wall_ms() - begin < 1_000


@pytest.mark.virtual_time
@BOTH_PATHS
async def test_a_broker_that_may_not_be_read_refuses_all_pulls(
    environment: Environment, tmp_path: Path, hot: bool
) -> None:
    """Claim: permission 2 of a broker stops readers, and `litePullMessageEnable` only those of the lite kind."""
    async with pull_lab(tmp_path / "lite", environment, hot=hot, lite_pull_message_enable=False) as lab:
        await lab.send("a")
        assert (await lab.pull(0)).code == ResponseCode.SUCCESS
        lite = await lab.pull(0, code=RequestCode.LITE_PULL_MESSAGE)
        assert (lite.code, lite.ext_fields["forbiddenType"]) == (ResponseCode.NO_PERMISSION, "1")
        assert (lite.remark or "").endswith("for lite pull consumer is forbidden")

    async with pull_lab(tmp_path / "all", environment, hot=hot, broker_permission=WRITE) as lab:
        answer = await lab.pull(0)
        assert (answer.code, answer.ext_fields["forbiddenType"]) == (ResponseCode.NO_PERMISSION, "1")
        assert answer.remark == "the broker[127.0.0.1] pulling message is forbidden"


@pytest.mark.virtual_time
async def test_a_pull_that_is_no_request_of_rocketmq_costs_nothing(environment: Environment, tmp_path: Path) -> None:
    """Claim: a header with missing or odd numbers is refused with the name of the field; the connection lives on."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a")
        for name, value in (
            ("queueOffset", "٣"),
            ("queueOffset", "1.5"),
            ("maxMsgNums", "99999999999"),
            ("queueId", ""),
        ):
            answer = await lab.request(RequestCode.PULL_MESSAGE, {**pull_fields(0), name: value})
            assert answer.code == ResponseCode.SYSTEM_ERROR
            assert name in (answer.remark or "")
        without = {name: value for name, value in pull_fields(0).items() if name != "topic"}
        answer = await lab.request(RequestCode.PULL_MESSAGE, without)
        assert answer.code == ResponseCode.SYSTEM_ERROR and "topic" in (answer.remark or "")
        assert (await lab.pull(0)).code == ResponseCode.SUCCESS


# --- the ends of queues, and times ----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_ends_of_a_queue(environment: Environment, tmp_path: Path) -> None:
    """Claim: the max offset is that of the next message, the min offset that of the first one that is there.

    Experiment: ask for both, for the earliest store time and for offsets by time, in a queue with 3 messages, in an
    empty one and in one of an unknown topic.
    Observe: 0 and 3; 0 and 0, -1; the same for a topic that nobody has.
    """
    async with pull_lab(tmp_path, environment) as lab, lab.consumer() as consumer:
        began = environment.clock.wall_ms()
        await lab.send("a", "b", "c", queue=2)
        full, empty, ask = lab.queue(2), lab.queue(1), consumer.offsets
        first = (await consumer.pull(full, 0)).messages[0].store_timestamp
        assert first >= began

        assert [await ask.min_offset(full), await ask.max_offset(full), await ask.earliest_store_time(full)] == [
            0,
            3,
            first,
        ]
        assert [await ask.min_offset(empty), await ask.max_offset(empty), await ask.earliest_store_time(empty)] == [
            0,
            0,
            -1,
        ]
        fields = {"topic": "Nowhere", "queueId": "0"}
        for code in (RequestCode.GET_MAX_OFFSET, RequestCode.GET_MIN_OFFSET):
            assert (await lab.request(code, fields)).ext_fields["offset"] == "0"


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("boundary", "before", "behind"),
    [(None, "0", "3"), ("LOWER", "0", "3"), ("upper", "0", "2"), ("UPPER", "0", "2"), ("middle", "0", "3")],
)
async def test_a_time_outside_the_queue_gives_one_of_its_ends(
    environment: Environment, tmp_path: Path, boundary: str | None, before: str, behind: str
) -> None:
    """Claim: before all messages the offset of the first, behind all the next one to come (with UPPER: the last)."""
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("a", "b", "c")
        fields = {"topic": TOPIC, "queueId": "0"} | ({} if boundary is None else {"boundaryType": boundary})
        found = []
        for stamp in (1, environment.clock.wall_ms() + 60_000):
            answer = await lab.request(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, {**fields, "timestamp": str(stamp)})
            assert answer.code == ResponseCode.SUCCESS
            found.append(answer.ext_fields["offset"])

        assert found == [before, behind]


@pytest.mark.virtual_time
async def test_reading_is_counted_by_group_and_topic(environment: Environment, tmp_path: Path) -> None:
    """Claim: the broker counts what each group was given, on both paths."""
    from rocketmq_py.broker.statistics import BrokerStatsManager

    async with pull_lab(tmp_path, environment) as lab:
        await lab.send(*"abcde")
        await lab.pull(0)
        lab.kernel.get(Processors).hot.clear()
        await lab.pull(3)
        await lab.pull(5)

        traffic = lab.kernel.get(BrokerStatsManager).group_get(TOPIC, GROUP)
        assert traffic.messages == 5 + 2


@pytest.mark.virtual_time
async def test_a_topic_that_shrinks_keeps_what_lies_in_its_last_queues(
    environment: Environment, tmp_path: Path
) -> None:
    """Claim: fewer read queues hide messages, they do not delete them.

    Experiment: send to queue 3, shrink the topic to 2 queues, pull; grow it again, pull.
    Observe: refused, then found.
    """
    async with pull_lab(tmp_path, environment) as lab:
        await lab.send("hidden", queue=3)
        lab.create_topic(TOPIC, 2)
        assert (await lab.pull(0, queue_id=3)).code == ResponseCode.INVALID_PARAMETER
        lab.create_topic(TOPIC, 4)
        assert bodies(await lab.pull(0, queue_id=3)) == ["hidden"]
        assert lab.kernel.get(TopicConfigManager).select(TOPIC) is not None
