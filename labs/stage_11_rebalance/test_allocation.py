"""The strategies, against the tables that Java's classes give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.client.allocation import (
    AllocationStrategy,
    Averagely,
    AveragelyByCircle,
    ByConfig,
    ByMachineRoom,
    ByMachineRoomNearby,
    ConsistentHash,
    ring_hash,
    strategy_by_name,
)
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.message import MessageQueue

EIGHT = [MessageQueue("TopicTest", "broker-a", number) for number in range(8)]
ROOMS = [MessageQueue("TopicTest", name, number) for name in ("r1@broker-a", "r2@broker-b") for number in range(4)]


def shares(strategy: AllocationStrategy, members: int, queues: list[MessageQueue]) -> str:
    """Return all shares in the notation of the tables: queue numbers, members apart by `|`."""
    ids = [f"c{number}" for number in range(members)]
    parts = []
    for me in ids:
        mine = strategy.allocate("billing", me, queues, ids)
        parts.append(
            " ".join(
                str(queue.queue_id) if queues is EIGHT else f"{queue.broker_name[1]}:{queue.queue_id}" for queue in mine
            )
        )
    return "|".join(parts)


AVG = {
    1: "0 1 2 3 4 5 6 7", 2: "0 1 2 3|4 5 6 7", 3: "0 1 2|3 4 5|6 7", 4: "0 1|2 3|4 5|6 7", 5: "0 1|2 3|4 5|6|7",
    9: "0|1|2|3|4|5|6|7|",
}  # fmt: skip
CIRCLE = {
    1: "0 1 2 3 4 5 6 7", 2: "0 2 4 6|1 3 5 7", 3: "0 3 6|1 4 7|2 5", 4: "0 4|1 5|2 6|3 7", 5: "0 5|1 6|2 7|3|4",
    9: "0|1|2|3|4|5|6|7|",
}  # fmt: skip
HASH = {
    1: "0 1 2 3 4 5 6 7", 2: "1 6|0 2 3 4 5 7", 3: "1|0 3 4 5 7|2 6", 4: "1|0 4 5 7|6|2 3", 5: "1|0 4 7|6|2 3|5",
    9: "1|0 4 7|6|2|5||3||",
}  # fmt: skip
BOTH_ROOMS = {
    1: "1:0 1:1 1:2 1:3 2:0 2:1 2:2 2:3", 3: "1:0 1:1 2:2|1:2 1:3 2:3|2:0 2:1", 5: "1:0 2:1|1:1 2:2|1:2 2:3|1:3|2:0",
    9: "1:0|1:1|1:2|1:3|2:0|2:1|2:2|2:3|",
}  # fmt: skip
ONE_ROOM = {3: "1:0 1:3|1:1|1:2", 4: "1:0|1:1|1:2|1:3", 5: "1:0|1:1|1:2|1:3|"}
ALL_IN_ONE = {
    2: "1:0 1:1 2:0 2:1|1:2 1:3 2:2 2:3", 3: "1:0 1:1 2:0 2:1|1:2 2:2|1:3 2:3", 5: "1:0 2:0|1:1 2:1|1:2 2:2|1:3 2:3|",
}  # fmt: skip
EVEN_AND_ODD = {
    1: "1:0 1:1 1:2 1:3 2:0 2:1 2:2 2:3", 3: "1:0 1:1|2:0 2:1 2:2 2:3|1:2 1:3", 5: "1:0 1:1|2:0 2:1|1:2|2:2 2:3|1:3",
    9: "1:0|2:0|1:1|2:1|1:2|2:2|1:3|2:3|",
}  # fmt: skip


def room_of_broker(name: str) -> str:
    return name.partition("@")[0]


def nearby(room_of_client: object) -> ByMachineRoomNearby:
    return ByMachineRoomNearby(Averagely(), room_of_broker, room_of_client)  # type: ignore[arg-type]


@pytest.mark.claim("reb-03", "reb-04")
@pytest.mark.parametrize(
    ("strategy", "queues", "table"),
    [
        (Averagely(), EIGHT, AVG),
        (AveragelyByCircle(), EIGHT, CIRCLE),
        (ConsistentHash(), EIGHT, HASH),
        (ByMachineRoom(frozenset({"r1", "r2"})), ROOMS, BOTH_ROOMS),
        (ByMachineRoom(frozenset({"r1"})), ROOMS, ONE_ROOM),
        (nearby(lambda _: "r1"), ROOMS, ALL_IN_ONE),
        (nearby(lambda _: "r3"), ROOMS, ALL_IN_ONE),
        (nearby(lambda client: "r1" if int(client[1:]) % 2 == 0 else "r2"), ROOMS, EVEN_AND_ODD),
    ],
    ids=["averagely", "circle", "hash", "rooms", "one room", "near, all in r1", "near, all elsewhere", "near, mixed"],
)
def test_members_compute_the_division_that_java_computes(
    strategy: AllocationStrategy, queues: list[MessageQueue], table: dict[int, str]
) -> None:
    """Claim: every client computes the same division alone, from sorted ids and queues; there is no coordinator.

    Experiment: let each of 1 to 9 members compute its share of 8 queues.
    Observe: exactly the shares of Java's classes; with more members than queues some have none.
    """
    assert {members: shares(strategy, members, queues) for members in table} == table


def test_a_fixed_list_is_everyones_share() -> None:
    assert shares(ByConfig(EIGHT[:2]), 3, EIGHT) == "0 1|0 1|0 1"


def test_the_ring_uses_the_first_four_bytes_of_md5() -> None:
    assert ring_hash("c0-0") == 0x8A18B93E
    assert ring_hash("MessageQueue [topic=TopicTest, brokerName=broker-a, queueId=0]") == 0x767D59FC


@given(members=st.integers(1, 12), queues=st.integers(1, 40))
def test_every_queue_has_exactly_one_owner(members: int, queues: int) -> None:
    every = [MessageQueue("T", f"b{number % 3}", number) for number in range(queues)]
    ids = sorted(f"client-{number}" for number in range(members))
    for strategy in (Averagely(), AveragelyByCircle(), ConsistentHash()):
        owned = [queue for me in ids for queue in strategy.allocate("g", me, sorted(every), ids)]
        assert sorted(owned) == sorted(every)


def test_a_client_that_is_not_in_the_list_gets_nothing_and_an_empty_list_is_an_error() -> None:
    for strategy in (Averagely(), AveragelyByCircle(), ConsistentHash()):
        assert strategy.allocate("g", "stranger", EIGHT, ["c0"]) == []
        for arguments in (("", EIGHT, ["c0"]), ("c0", [], ["c0"]), ("c0", EIGHT, [])):
            with pytest.raises(InvalidInputError):
                strategy.allocate("g", *arguments)
    with pytest.raises(InvalidInputError, match="no strategy is called 'NONE'"):
        strategy_by_name("NONE")
    assert strategy_by_name("AVG_BY_CIRCLE") == AveragelyByCircle()
    with pytest.raises(InvalidInputError, match="no machine room"):
        nearby(lambda _: "").allocate("g", "c0", ROOMS, ["c0"])
