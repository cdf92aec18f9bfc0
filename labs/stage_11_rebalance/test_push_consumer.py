"""The push consumer by itself: flow control, parallelism, failures, long polls, and what it does at the edges."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rocketmq_py.broker.client.consumer_manager import ConsumerManager
from rocketmq_py.client.consume_service import ConsumeContext, ConsumeStatus
from rocketmq_py.client.consumer_config import LitePullConsumerConfig, PushConsumerConfig
from rocketmq_py.client.errors import BrokerResponseError, ClientError, ClientStateError
from rocketmq_py.client.lite_pull_subscriber import LitePullSubscriber
from rocketmq_py.client.process_queue import NOTHING, ProcessQueue
from rocketmq_py.client.pull_loop import flow_control
from rocketmq_py.client.push_consumer import PushConsumer
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageExt
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.testing.eventually import eventually

from .group_lab import GROUP, TOPIC, Member, group_lab
from .wire import Wire


def message(offset: int, size: int = 1) -> MessageExt:
    return MessageExt("Orders", b"x" * size, queue_offset=offset)


def test_only_the_smallest_unfinished_offset_may_be_committed() -> None:
    window = ProcessQueue()
    assert window.remove([]) == NOTHING
    window.put([message(offset, size=offset) for offset in range(100, 104)])
    assert (len(window), window.span, window.size) == (4, 3, 406)
    assert [window.remove([message(offset)]) for offset in (102, 100, 103, 101)] == [100, 101, 101, 104]
    assert (len(window), window.span, window.size) == (0, 0, 0)
    window.put([message(110), message(108)])
    window.put([message(108)])
    assert (window.min_offset, window.max_offset, len(window), window.size) == (108, 110, 2, 2)


@pytest.mark.claim("pull-05")
@pytest.mark.parametrize(
    ("offsets", "size", "reason"),
    [
        (range(1_000), 1, None),
        (range(1_001), 1, "messages"),
        (range(0, 2_001, 2_000), 1, None),
        (range(0, 2_002, 2_001), 1, "span"),
        (range(100), (1 << 20) + 1, None),
        (range(101), 1 << 20, "size"),
    ],
)
def test_a_queue_is_not_pulled_beyond_three_limits(offsets: range, size: int, reason: str | None) -> None:
    """Claim: a consumer keeps at most 1,000 messages, 100 MiB or an offset span of 2,000 per queue unprocessed.

    Experiment: fill the window of a queue to each limit, and one step beyond.
    Observe: exactly beyond the limit pulling stops. (Sizes count in whole MiB.)
    """
    window = ProcessQueue()
    body = b"x" * size
    window.put(MessageExt("Orders", body, queue_offset=offset) for offset in offsets)
    assert flow_control(window, PushConsumerConfig()) == reason


@pytest.mark.claim("pull-05")
@pytest.mark.virtual_time
async def test_a_slow_listener_makes_the_consumer_pause_50_ms_at_a_time(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: beyond the limits a consumer pauses pulling for 50 ms at a time.

    Experiment: 1,500 messages wait in a queue; the listener hangs for a second of which the pauses are counted.
    Observe: between 1,001 and 1,032 messages are cached (a pull brings 32), and there are 20 pauses a second; when the
        listener goes on, everything arrives.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        for start in range(0, 1_500, 100):
            await asyncio.gather(*(lab.send(str(number)) for number in range(start, start + 100)))
        slow = Member(lab, "c0")
        slow.gate.clear()
        slow.consumer.subscribe(TOPIC)
        await slow.consumer.start()
        lab.members.append(slow)
        loop = slow.consumer.pull_loop
        await eventually(lambda: loop.pauses["messages"] > 0)
        cached = [len(window) for queue, window in slow.consumer.queues.items() if queue.topic == TOPIC]
        before = loop.pauses["messages"]
        await asyncio.sleep(1)
        pauses = loop.pauses["messages"] - before
        print(f"{cached[0]} messages cached, {pauses} pauses in a second")
        assert 1_000 < cached[0] <= 1_032
        assert 19 <= pauses <= 21
        slow.gate.set()
        await eventually(lambda: len(set(slow.bodies)) == 1_500, 60)


@pytest.mark.claim("pull-02")
@pytest.mark.virtual_time
async def test_the_client_says_how_long_a_pull_is_held(tmp_path: Path, environment: Environment) -> None:
    """Claim (corrected): a request is held as long as the client asks: 15 s for push, 20 s for lite pull; 30 s is the
    client's network time-out.

    Experiment: a push consumer and a lite pull consumer on an empty queue, for ten virtual minutes; count the pulls
        that reach the broker, and read what they ask for.
    Observe: the push consumer asks every 15 s, the lite pull one every 20 s; nobody waits for 30 s.
    """
    async with group_lab(tmp_path, environment, queues=1) as lab:
        asked: dict[str, list[tuple[float, int]]] = {"push": [], "lite": []}
        processors = lab.cluster.kernels[0].get(Processors)
        processors.interceptors.append(_PullWatch(asked))
        push = Member(lab, "c0", group="push")
        push.consumer.subscribe(TOPIC)
        lite = LitePullSubscriber(
            "lite",
            LitePullConsumerConfig(namesrv_addr=lab.cluster.namesrv_addr, client_ip="10.1.1.2", instance_name="c1"),
            environment=environment,
        )
        lite.subscribe(TOPIC)
        async with push.consumer, lite:
            await asyncio.sleep(600)
            held = {}
            for name, pulls in asked.items():
                times = [at for at, _ in pulls]
                held[name] = (times[-1] - times[1]) / (len(times) - 2)
                assert {suspend for _, suspend in pulls} == {15_000 if name == "push" else 20_000}
            print({name: f"held {seconds:.2f} s on average" for name, seconds in held.items()})
            # The broker looks for expired requests every 5 s.
            assert 15 <= held["push"] <= 20.1
            assert 20 <= held["lite"] <= 25.1
        processors.interceptors.clear()


class _PullWatch:
    """An interceptor that writes down pulls of the topic."""

    def __init__(self, asked: dict[str, list[tuple[float, int]]]) -> None:
        self._asked = asked

    def before(self, request):  # type: ignore[no-untyped-def]
        fields = request.command.ext_fields
        if (
            request.command.code in (RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE)
            and fields["topic"] == TOPIC
        ):
            now = asyncio.get_running_loop().time()
            self._asked[fields["consumerGroup"]].append((now, int(fields["suspendTimeoutMillis"])))

    def after(self, request, response):  # type: ignore[no-untyped-def]
        pass


@pytest.mark.claim("reb-10")
@pytest.mark.virtual_time
async def test_parallelism_is_the_number_of_threads_of_all_consumers(tmp_path: Path, environment: Environment) -> None:
    """Claim: parallelism of unordered consumption is the number of threads of all consumers: 10 queues, 10 consumers,
    100 threads each make 1,000.

    Experiment: exactly that, with 1,200 messages and listeners that hang.
    Observe: 1,000 calls of listeners are running at the same time, 100 in each consumer.
    """
    async with group_lab(tmp_path, environment, queues=10) as lab:
        for number in range(10):
            member = await lab.join(f"c{number}", consume_thread_max=100)
            member.gate.clear()
        await lab.settled()
        await asyncio.gather(*(lab.send(str(n), queue=n % 10) for n in range(1_200)))
        await eventually(lambda: sum(member.running for member in lab.members) == 1_000)
        await asyncio.sleep(5)
        assert [member.most_running for member in lab.members] == [100] * 10
        for member in lab.members:
            member.gate.set()
        await eventually(lambda: len(lab.bodies()) == 1_200)


async def test_a_plain_function_runs_in_as_many_threads_as_the_settings_say(
    tmp_path: Path, environment: Environment
) -> None:
    meeting = threading.Barrier(5, timeout=10)
    met: list[int] = []

    def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> ConsumeStatus:
        # Nobody passes before five threads are here.
        meeting.wait()
        met.append(threading.get_ident())
        return ConsumeStatus.CONSUME_SUCCESS

    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0", consume_thread_max=5)
        member.consumer.register_listener(listener)
        member.consumer.subscribe(TOPIC)
        async with member.consumer:
            await lab.send(*map(str, range(10)))
            await eventually(lambda: len(met) == 10)
        assert len(set(met)) == 5
        assert threading.main_thread().ident not in met


@pytest.mark.virtual_time
async def test_a_failed_message_comes_again_after_five_seconds_and_holds_the_offset_back(
    tmp_path: Path, environment: Environment
) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = Member(lab, "c0")
        member.fails.add("1")
        member.consumer.subscribe(TOPIC)
        await member.consumer.start()
        lab.members.append(member)
        await lab.send("0", "1", "2")
        await eventually(lambda: member.bodies.count("1") == 3, 30)
        times = [at for body, _, at in member.got if body == "1"]
        assert [round(later - earlier) for earlier, later in itertools.pairwise(times)] == [5, 5]
        assert member.consumer.offsets.get(lab.queues[0]) == 1
        member.fails.clear()
        await eventually(lambda: member.consumer.offsets.get(lab.queues[0]) == 3, 30)
        assert member.bodies.count("0") == member.bodies.count("2") == 1


@pytest.mark.virtual_time
async def test_ack_index_divides_a_batch_into_done_and_failed(tmp_path: Path, environment: Environment) -> None:
    batches: list[list[str]] = []

    async def listener(messages: Sequence[MessageExt], context: ConsumeContext) -> None:
        batches.append([one.body.decode() for one in messages])
        if len(messages) == 4:
            context.ack_index = 1

    async with group_lab(tmp_path, environment, queues=1) as lab:
        await lab.send("0", "1", "2", "3")
        member = Member(lab, "c0", consume_message_batch_max_size=10)
        member.consumer.register_listener(listener)
        member.consumer.subscribe(TOPIC)
        async with member.consumer:
            await eventually(lambda: len(batches) == 2, 30)
            assert batches == [["0", "1", "2", "3"], ["2", "3"]]
            assert (member.consumer.service.succeeded, member.consumer.service.failed) == (4, 2)


@pytest.mark.virtual_time
async def test_sql92_is_checked_at_start_and_filters_at_the_broker(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=2, enable_property_filter=True) as lab:
        bad = Member(lab, "bad", group="bad")
        bad.consumer.subscribe(TOPIC, "a > ", "SQL92")
        with pytest.raises(BrokerResponseError, match="At position 5"):
            await bad.consumer.start()
        member = Member(lab, "c0")
        member.consumer.subscribe(TOPIC, "KEYS IN ('k1', 'k3')", "SQL92")
        await member.consumer.start()
        lab.members.append(member)
        await eventually(lambda: member.queue_ids == [0, 1])
        for number in range(5):
            await lab.producer.send(_keyed(str(number)), queue=lab.queues[number % 2])
        await eventually(lambda: len(member.got) == 2)
        await asyncio.sleep(30)
        assert sorted(member.bodies) == ["1", "3"]


def _keyed(number: str) -> MessageExt:
    made = MessageExt(TOPIC, number.encode())
    made.keys = f"k{number}"
    return made


@pytest.mark.virtual_time
async def test_a_subscription_can_change_while_the_consumer_runs(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        member = await lab.join("c0", "TagA")
        await lab.settled()
        await lab.send("a1", tags="TagA")
        await lab.send("b1", tags="TagB")
        await eventually(lambda: member.bodies == ["a1"])
        member.consumer.subscribe(TOPIC, "TagB")
        # A pull that is held still has the old expression; it ends with the next message or after 15 s.
        await asyncio.sleep(25)
        await lab.send("b2", tags="TagB")
        await lab.send("a2", tags="TagA")
        await eventually(lambda: member.bodies == ["a1", "b2"])
        member.consumer.unsubscribe(TOPIC)
        await eventually(lambda: member.queue_ids == [])


@pytest.mark.claim("reb-09")
@pytest.mark.virtual_time
async def test_heartbeats_go_to_every_broker_and_queues_of_a_silent_member_move(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: heartbeats go to all brokers every 30 s; a consumer silent for 120 s is dropped and its queues move.

    Experiment: two brokers, a push consumer, and a second member that joins with one heartbeat and then says nothing
        of itself any more, though its connection lives.
    Observe: both brokers hear of the consumer every 30 s; the queues that the silent member had are the consumer's
        again within 120 s, the scan's 10 s and a rebalance.
    """
    async with group_lab(tmp_path, environment, queues=4) as lab:
        other = await lab.cluster.start_broker("broker-b")
        heard: dict[str, list[float]] = {"broker-a": [], "broker-b": []}
        for kernel in (lab.cluster.kernels[0], other):
            kernel.get(Processors).interceptors.append(_HeartbeatWatch(heard[kernel.config.broker_name]))
        lively = await lab.join("c0")
        # The second broker gets into the consumer's view with a topic that lies there, too.
        lively.consumer.subscribe("broker-b")
        await lab.settled()
        silent = Wire(environment, lab.cluster.kernels[0].config.broker_address, "10.1.1.1@c1")
        await silent.beat(GROUP, *lively.consumer.subscriptions.values())
        last_heard = asyncio.get_running_loop().time()
        await eventually(lambda: lively.queue_ids == [0, 1])
        while lively.queue_ids != [0, 1, 2, 3]:
            await asyncio.sleep(1)
            await silent.ask(RequestCode.GET_CONSUMER_LIST_BY_GROUP, {"consumerGroup": GROUP})
            assert asyncio.get_running_loop().time() - last_heard < 160, "the silent member keeps its queues"
        took = asyncio.get_running_loop().time() - last_heard
        print(f"the queues moved {took:.0f} s after the last heartbeat")
        assert took > 120
        info = lab.cluster.kernels[0].get(ConsumerManager).find(GROUP)
        assert info is not None and info.client_ids == ["10.1.1.1@c0"]
        for name, times in heard.items():
            periodic = [at for at in times if at > 60]
            assert periodic, f"{name} heard nothing"
            gaps = [later - earlier for earlier, later in itertools.pairwise(periodic)]
            assert max(gaps) <= 30.5, f"{name} heard nothing for {max(gaps):.0f} s"
        for kernel in (lab.cluster.kernels[0], other):
            kernel.get(Processors).interceptors.clear()
        await silent.close()


class _HeartbeatWatch:
    """An interceptor that writes down when the consumer's heartbeats come."""

    def __init__(self, heard: list[float]) -> None:
        self._heard = heard

    def before(self, request):  # type: ignore[no-untyped-def]
        if request.command.code == RequestCode.HEART_BEAT and b"@c0" in bytes(request.command.body):
            self._heard.append(asyncio.get_running_loop().time())

    def after(self, request, response):  # type: ignore[no-untyped-def]
        pass


@pytest.mark.virtual_time
async def test_a_consumer_survives_a_restart_of_its_broker(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=2) as lab:
        member = await lab.join("c0")
        await lab.settled()
        await lab.send("0", "1", "2", "3")
        await eventually(lambda: len(member.got) == 4)
        await asyncio.sleep(15)
        kernel = lab.cluster.kernels[0]
        port = kernel.config.listen_port
        await kernel.stop()
        await asyncio.sleep(20)
        await lab.cluster.start_broker("broker-a", listen_port=port)
        await eventually(lambda: lab.producer.instance.master_address("broker-a") is not None, 60)
        await lab.send("4", "5")
        await eventually(lambda: len(member.got) == 6, 120)
        assert sorted(member.bodies) == ["0", "1", "2", "3", "4", "5"]


def test_what_cannot_work_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidInputError, match="pull_batch_size is 0; it is 1 to 1024"):
        PushConsumer(GROUP, PushConsumerConfig(pull_batch_size=0))
    with pytest.raises(InvalidInputError, match="every quiet pull would fail"):
        PushConsumer(GROUP, PushConsumerConfig(consumer_timeout_millis_when_suspend=1_000))
    with pytest.raises(InvalidInputError, match="DEFAULT_CONSUMER is reserved"):
        PushConsumer("DEFAULT_CONSUMER")
    with pytest.raises(InvalidInputError, match="names no tag"):
        PushConsumer(GROUP).subscribe(TOPIC, "||")


@pytest.mark.virtual_time
async def test_states_are_checked(tmp_path: Path, environment: Environment) -> None:
    async with group_lab(tmp_path, environment, queues=1) as lab:
        with pytest.raises(ClientStateError, match="needs subscribe"):
            await PushConsumer(GROUP, namesrv_addr=lab.cluster.namesrv_addr, environment=environment).start()
        member = await lab.join("c0")
        with pytest.raises(ClientStateError, match="runs already"):
            await member.consumer.start()
        twin = PushConsumer(GROUP, instance=member.consumer.instance)
        twin.subscribe(TOPIC)
        twin.register_listener(member.handle)
        with pytest.raises(ClientError, match="instance of its own"):
            await twin.start()
        await lab.send("0")
        await eventually(lambda: member.bodies == ["0"])
