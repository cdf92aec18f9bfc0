"""The hold service on its own: who is woken by what, and when a request's time is up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from rocketmq_py.broker.long_polling.pull_request_hold import HeldPull, PullRequestHoldService
from rocketmq_py.store.filter import ALL, MessageFilter


@dataclass
class Arrived:
    """Newly visible messages of one queue."""

    topic: str
    queue_id: int
    max_offset: int
    tags_codes: list[int] = field(default_factory=lambda: [0])
    physical_offsets: list[int] = field(default_factory=lambda: [4_711])


@dataclass(frozen=True)
class OnlyTag:
    """A filter by one tags code; `record` is what it says about the record itself."""

    code: int
    record: bool = True

    def matches_entry(self, tags_code: int, extension: object | None) -> bool:
        return tags_code == self.code

    def matches_record(self, record: bytes | memoryview) -> bool:
        return self.record


class Desk:
    """A hold service and a log of which held request ran when."""

    def __init__(self, **limits: int) -> None:
        self.max_offsets: dict[tuple[str, int], int] = {}
        self.ran: list[str] = []
        self.service = PullRequestHoldService(
            lambda topic, queue_id: self.max_offsets.get((topic, queue_id), 0), lambda offset: b"record", **limits
        )

    def hold(
        self,
        name: str,
        *,
        topic: str = "Orders",
        queue_id: int = 3,
        offset: int = 7,
        seconds: float = 15.0,
        owner: str = "client-a",
        message_filter: MessageFilter = ALL,
    ) -> bool:
        pull = HeldPull((topic, queue_id), offset, owner, message_filter, lambda: self.ran.append(name))
        return self.service.hold(pull, seconds)


@pytest.mark.virtual_time
async def test_an_arrival_wakes_the_requests_of_its_queue_and_no_other() -> None:
    """Claim: a held request waits for one queue of one topic.

    Experiment: hold requests on three queues; a message arrives in one of them.
    Observe: one request runs, two are still held.
    """
    desk = Desk()
    desk.hold("right")
    desk.hold("other queue", queue_id=4)
    desk.hold("other topic", topic="Payments")

    desk.service.arrived(Arrived("Orders", 3, max_offset=8))

    assert desk.ran == ["right"]
    assert len(desk.service) == 2


@pytest.mark.virtual_time
async def test_a_message_below_the_wanted_offset_wakes_nobody() -> None:
    """Claim: a request for offset 7 is not woken by a queue that ends at 7, but by one that ends at 8."""
    desk = Desk()
    desk.hold("waits for 7", offset=7)

    desk.service.arrived(Arrived("Orders", 3, max_offset=7))
    assert desk.ran == []

    desk.service.arrived(Arrived("Orders", 3, max_offset=8))
    assert desk.ran == ["waits for 7"]


@pytest.mark.virtual_time
async def test_a_filter_is_asked_before_a_request_is_woken() -> None:
    """Claim: a message with another tag does not wake a request that filters by tag.

    Experiment: hold three requests: for tag code 11, for 22, and for 22 with a filter that refuses the record.
    Observe: messages with the codes 5 and 22 wake the second one only.
    """
    desk = Desk()
    desk.hold("eleven", message_filter=OnlyTag(11))
    desk.hold("twenty-two", message_filter=OnlyTag(22))
    desk.hold("refuses the record", message_filter=OnlyTag(22, record=False))

    desk.service.arrived(Arrived("Orders", 3, max_offset=9, tags_codes=[5, 22], physical_offsets=[100, 200]))

    assert desk.ran == ["twenty-two"]


@pytest.mark.virtual_time
async def test_the_check_wakes_what_filters_passed_over() -> None:
    """Claim: a request whose filter wants none of the new messages is told how far the queue was searched.

    Experiment: a message arrives that the filter does not want; then the periodic check runs.
    Observe: the arrival wakes nobody, the check does.
    """
    desk = Desk()
    desk.hold("eleven", message_filter=OnlyTag(11))
    desk.service.arrived(Arrived("Orders", 3, max_offset=8, tags_codes=[22]))
    assert desk.ran == []

    desk.max_offsets["Orders", 3] = 8
    desk.service.check()

    assert desk.ran == ["eleven"]


@pytest.mark.virtual_time
async def test_each_request_is_held_exactly_as_long_as_it_asked() -> None:
    """Claim: the client decides how long its request is held.

    Experiment: hold requests for 1.5, 15 and 20 seconds; let time pass.
    Observe: each runs when its own time is up, not at the next round of a check.
    """
    desk = Desk()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for name, seconds in (("20", 20.0), ("1.5", 1.5), ("15", 15.0)):
        desk.hold(name, seconds=seconds)

    seen = []
    for _ in range(45):
        await asyncio.sleep(0.5)
        while len(seen) < len(desk.ran):
            seen.append((desk.ran[len(seen)], loop.time() - begin))

    assert [name for name, _ in seen] == ["1.5", "15", "20"]
    assert [when for _, when in seen] == pytest.approx([1.5, 15.0, 20.0], abs=0.51)
    assert len(desk.service) == 0


@pytest.mark.virtual_time
async def test_the_requests_of_a_closed_connection_are_dropped() -> None:
    """Claim: nobody is answered who is gone, and nothing of him is kept."""
    desk = Desk()
    desk.hold("stays", owner="client-a")
    desk.hold("goes", owner="client-b")
    desk.hold("goes too", owner="client-b", queue_id=9)

    desk.service.closed("client-b")
    assert [pull.owner for pull in desk.service] == ["client-a"]

    desk.service.wake_all()
    assert desk.ran == ["stays"]


@pytest.mark.virtual_time
async def test_a_request_beyond_a_limit_is_not_held() -> None:
    """Claim: neither one client nor all together can fill the broker with held requests.

    Experiment: at most 3 requests in all, at most 2 of one connection.
    Observe: the third of one connection and the fourth of all are turned away; a place that becomes free is used.
    """
    desk = Desk(max_held=3, max_held_by_connection=2)
    assert desk.hold("a1", owner="a") and desk.hold("a2", owner="a")
    assert not desk.hold("a3", owner="a")
    assert desk.hold("b1", owner="b")
    assert not desk.hold("c1", owner="c")
    assert desk.service.refused == 2

    desk.service.closed("a")

    assert desk.hold("c2", owner="c")
    assert len(desk.service) == 2


@pytest.mark.virtual_time
async def test_a_woken_request_may_be_held_again_at_once() -> None:
    """Claim: the answer of a woken request may bring the next request of the same client before the wake-up ends.

    Experiment: a request that holds a new one of its client when it runs; wake its queue twice.
    Observe: each wake-up runs one request, none is lost and none runs twice.
    """
    desk = Desk()

    def ask(offset: int) -> None:
        def run() -> None:
            desk.ran.append(f"from {offset}")
            ask(offset + 1)

        assert desk.service.hold(HeldPull(("Orders", 3), offset, "client-a", ALL, run), 15.0)

    ask(7)
    desk.service.arrived(Arrived("Orders", 3, max_offset=8))
    desk.service.arrived(Arrived("Orders", 3, max_offset=9))

    assert desk.ran == ["from 7", "from 8"]
    assert len(desk.service) == 1


@pytest.mark.virtual_time
async def test_one_failing_request_does_not_keep_the_others_waiting() -> None:
    """Claim: a request that fails when it is woken harms no other request of its queue."""
    desk = Desk()

    def fail() -> None:
        raise RuntimeError("the store is gone")

    desk.service.hold(HeldPull(("Orders", 3), 7, "client-a", ALL, fail), 15.0)
    desk.hold("next")

    desk.service.arrived(Arrived("Orders", 3, max_offset=8))

    assert desk.ran == ["next"]


@pytest.mark.virtual_time
async def test_waking_leaves_no_trace_of_old_deadlines() -> None:
    """Claim: 5,000 requests that were held and woken leave no memory behind and no timer that fires for nothing."""
    desk = Desk()
    for number in range(5_000):
        desk.hold(str(number), offset=number)
        desk.service.arrived(Arrived("Orders", 3, max_offset=number + 1))

    assert len(desk.ran) == 5_000
    assert len(desk.service) == 0
    assert len(desk.service._deadlines) < 2_000

    await asyncio.sleep(20)
    assert len(desk.ran) == 5_000
