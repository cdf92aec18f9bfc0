"""Pulls that wait: push is pull in disguise, a message wakes at once, and the wait is as long as was asked."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from labs.stage_08_pull.pull_lab import bodies, pull_fields, pull_lab
from rocketmq_py.broker.long_polling.pull_request_hold import PullRequestHoldService
from rocketmq_py.client.pull_api import PullStatus
from rocketmq_py.client.pull_consumer import PullConsumer
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment, system_environment
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.testing.eventually import eventually

WAITS = flags.PULL_SUSPEND | flags.PULL_SUBSCRIPTION


def held(lab) -> PullRequestHoldService:
    return lab.kernel.get(PullRequestHoldService)


@pytest.mark.claim("pull-01")
@pytest.mark.virtual_time
async def test_push_is_a_question_that_waits(tmp_path: Path, environment: Environment) -> None:
    """Claim: push is pull in disguise: the client asks, the broker holds the request until a message arrives or the time
    is up, the client asks again at once.

    Experiment: a reader that asks again and again, each time for 15 s, during a minute in which three messages come.
    Observe: three answers with a message, the others after exactly 15 s with nothing; the next question follows each
        answer at once; in the whole minute six requests.
    """
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        loop = asyncio.get_running_loop()
        answers: list[tuple[float, float, list[str]]] = []

        async def read() -> None:
            offset = 0
            while True:
                asked = loop.time()
                answer = await lab.pull(offset, sys_flag=WAITS, suspend_timeout_millis=15_000)
                offset = int(answer.ext_fields["nextBeginOffset"])
                answers.append((round(asked, 3), round(loop.time() - asked, 3), bodies(answer)))

        reader = asyncio.create_task(read())
        for pause, body in ((5, "a"), (5, "b"), (25, "c")):
            await asyncio.sleep(pause)
            await lab.send(body)
        await asyncio.sleep(25)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

        assert [found for _, _, found in answers] == [["a"], ["b"], [], ["c"], []]
        assert [waited for _, waited, found in answers if not found] == [15.0, 15.0]
        for (asked, waited, _), (following, _, _) in itertools.pairwise(answers):
            assert following == pytest.approx(asked + waited, abs=0.01)


@pytest.mark.claim("pull-03")
@pytest.mark.virtual_time
async def test_a_new_unit_wakes_the_request_at_once(tmp_path: Path, environment: Environment) -> None:
    """Claim: a new consume queue entry wakes the held request at once: delivery takes milliseconds, not an interval.

    Experiment: a held pull for queue 1; a message to queue 2, then one to queue 1, under virtual time.
    Observe: the first wakes nobody; at the second the answer is there when the send is: no time passes between them.
    """
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(lab.pull(0, queue_id=1, sys_flag=WAITS, suspend_timeout_millis=15_000))
        await eventually(lambda: len(held(lab)) == 1)
        await lab.send("elsewhere", queue=2)
        await asyncio.sleep(3)
        assert not task.done()
        began = loop.time()
        await lab.send("here", queue=1)
        answer = await task
        assert bodies(answer) == ["here"]
        assert loop.time() - began < 0.01
        assert len(held(lab)) == 0


@pytest.mark.claim("pull-07")
async def test_delivery_takes_a_few_milliseconds(tmp_path: Path) -> None:
    """Claim: delivery latency is a few milliseconds with long polling.

    Experiment: real sockets and a real clock: a reader waits, and 200 messages are sent one by one, each when the one
        before was delivered.
    Observe: the median from the broker's stamp to the reader's hands, printed. It is two orders below the five seconds
        of the broker's own check, which is what delivery would take if arrivals woke nobody.
    """
    environment = system_environment()
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        loop = asyncio.get_running_loop()
        latencies: list[float] = []
        for number in range(200):
            task = asyncio.create_task(lab.pull(number, sys_flag=WAITS, suspend_timeout_millis=15_000))
            await eventually(lambda: len(held(lab)) == 1)
            began = loop.time()
            await lab.send(f"{number}")
            assert bodies(await task) == [f"{number}"]
            latencies.append(loop.time() - began)
        median = sorted(latencies)[100]
        print(f"send and delivery: median {median * 1e3:.2f} ms, slowest {max(latencies) * 1e3:.1f} ms")
        assert median < 0.05


@pytest.mark.virtual_time
@pytest.mark.parametrize(("asked", "waits"), [(0, 0.0), (700, 0.7), (15_000, 15.0), (100_000, 100.0), (-5, 0.0)])
async def test_the_wait_is_as_long_as_was_asked(
    tmp_path: Path, environment: Environment, asked: int, waits: float
) -> None:
    """To the millisecond, from a negative time to a minute and a half."""
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        loop = asyncio.get_running_loop()
        began = loop.time()
        fields = pull_fields(0, sys_flag=WAITS, suspend_timeout_millis=asked)
        answer = await lab.request(RequestCode.PULL_MESSAGE, fields, timeout=2_000)
        assert answer.code == ResponseCode.PULL_NOT_FOUND
        assert loop.time() - began == pytest.approx(waits, abs=0.01)


@pytest.mark.virtual_time
async def test_without_long_polling_the_broker_waits_a_second(tmp_path: Path, environment: Environment) -> None:
    """`longPollingEnable=false` waits for `shortPollingTimeMills`, whatever the client asked."""
    async with pull_lab(
        tmp_path, environment, through="long_polling", long_polling_enable=False, short_polling_time_mills=1_000
    ) as lab:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await lab.pull(0, sys_flag=WAITS, suspend_timeout_millis=15_000)
        assert loop.time() - began == pytest.approx(1.0, abs=0.01)


@pytest.mark.virtual_time
async def test_a_pull_that_may_not_be_held_is_answered_at_once(tmp_path: Path, environment: Environment) -> None:
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        answer = await lab.pull(0, sys_flag=flags.PULL_SUBSCRIPTION, suspend_timeout_millis=15_000)
        assert answer.code == ResponseCode.PULL_NOT_FOUND
        # Only the end of a queue is worth waiting at; a wrong offset is corrected at once.
        wrong = await lab.pull(7, sys_flag=WAITS, suspend_timeout_millis=15_000)
        assert wrong.code == ResponseCode.PULL_OFFSET_MOVED
        assert len(held(lab)) == 0


@pytest.mark.virtual_time
async def test_a_stopping_broker_answers_what_it_holds(tmp_path: Path, environment: Environment) -> None:
    """Readers turn to another broker at once instead of waiting for a time-out."""
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(lab.pull(0, sys_flag=WAITS, suspend_timeout_millis=15_000))
        await eventually(lambda: len(held(lab)) == 1)
        began = loop.time()
        await lab.kernel.stop()
        assert (await task).code == ResponseCode.PULL_NOT_FOUND
        assert loop.time() - began < 5


@pytest.mark.virtual_time
async def test_a_pull_consumer_may_wait(tmp_path: Path, environment: Environment) -> None:
    """The client's own patience is longer than what it asks the broker for."""
    async with (
        pull_lab(tmp_path, environment, through="long_polling") as lab,
        PullConsumer("Audit", namesrv_addr=lab.cluster.namesrv_addr, environment=environment) as consumer,
    ):
        queue = (await consumer.fetch_queues("Orders"))[0]
        loop = asyncio.get_running_loop()
        began = loop.time()
        nothing = await consumer.pull(queue, 0, waits=True)
        assert nothing.status is PullStatus.NO_NEW_MSG
        assert loop.time() - began == pytest.approx(15, abs=0.1)
        task = asyncio.create_task(consumer.pull(queue, 0, waits=True))
        await asyncio.sleep(2)
        await lab.send("now", queue=queue.queue_id)
        assert [message.body for message in (await task).messages] == [b"now"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(20))
async def test_no_message_is_missed_however_sends_and_pulls_meet(
    tmp_path: Path, environment: Environment, seed: int
) -> None:
    """Sends and pulls of several readers in random moments: every reader gets every message, none has to wait for the
    broker's check."""
    async with pull_lab(tmp_path, environment, through="long_polling") as lab:
        random = environment.random
        random.seed(seed)
        loop = asyncio.get_running_loop()

        async def read() -> float:
            offset, latest = 0, 0.0
            while offset < 20:
                await asyncio.sleep(random.choice((0, 0, 0.001, 0.01)))
                answer = await lab.pull(offset, sys_flag=WAITS, suspend_timeout_millis=15_000)
                offset = int(answer.ext_fields["nextBeginOffset"])
                latest = loop.time()
            return latest

        readers = [asyncio.create_task(read()) for _ in range(5)]
        for number in range(20):
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.02)))
            await lab.send(f"{number}")
        sent = loop.time()
        assert max(await asyncio.gather(*readers)) - sent < 1
