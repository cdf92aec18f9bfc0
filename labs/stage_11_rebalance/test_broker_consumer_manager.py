"""The broker's tables of clients, on plain values: who is there, what a group subscribes, who is told."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from rocketmq_py.broker.client.channel import ClientChannel
from rocketmq_py.broker.client.consumer_manager import MAX_WARNED_PAIRS, ConsumerManager
from rocketmq_py.broker.client.producer_manager import ProducerManager
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, ConsumeType, MessageModel
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, build_subscription
from rocketmq_py.remoting.command import RemotingCommand


class ToyConnection:
    """Stands for a connection; only its identity matters."""

    def __init__(self, address: str) -> None:
        self.remote_address = address

    def one_way(self, command: RemotingCommand) -> None: ...

    async def request(self, command: RemotingCommand, timeout: float) -> RemotingCommand:
        raise NotImplementedError

    def close(self, reason: str) -> None: ...


class Recorder:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def registered(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None: ...

    def unregistered(self, group: str) -> None:
        self.events.append(("unregistered", group, 0))

    def changed(self, group: str, members: list[ToyConnection]) -> None:
        self.events.append(("changed", group, len(members)))

    def take(self) -> list[tuple[str, str, int]]:
        events, self.events = self.events, []
        return events


class Group:
    """A consumer manager with a recorder, and heartbeats in one line."""

    def __init__(self) -> None:
        self.consumers = ConsumerManager(expired_seconds=120)
        self.recorder = Recorder()
        self.consumers.listeners.append(self.recorder)  # type: ignore[arg-type]

    def beat(
        self,
        connection: ToyConnection,
        client_id: str,
        *subscriptions: SubscriptionData,
        now: float = 0.0,
        model: MessageModel = MessageModel.CLUSTERING,
        without_sub: bool = False,
    ) -> bool:
        return self.consumers.register(
            "billing",
            ClientChannel(connection, client_id, "JAVA", 479, heard_at=now),
            consume_type=ConsumeType.CONSUME_PASSIVELY,
            message_model=model,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            subscriptions=None if without_sub else subscriptions,
        )


ORDERS = build_subscription("Orders", "TagA", sub_version=10)


def test_members_are_told_when_one_joins_and_when_one_leaves() -> None:
    group, one, two = Group(), ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.2:5002")
    assert group.beat(one, "client-1", ORDERS)
    assert group.recorder.take() == [("changed", "billing", 1)]
    assert not group.beat(one, "client-1", ORDERS), "a heartbeat without news tells nobody"
    assert group.recorder.take() == []
    group.beat(two, "client-2", ORDERS)
    assert group.recorder.take() == [("changed", "billing", 2)]
    assert sorted(group.consumers.groups["billing"].client_ids) == ["client-1", "client-2"]

    assert group.consumers.closed(one) == ["billing"]
    assert group.recorder.take() == [("changed", "billing", 1)]
    assert group.consumers.unregister("billing", two)  # type: ignore[arg-type]
    assert group.recorder.take() == [("unregistered", "billing", 0), ("changed", "billing", 0)]
    assert group.consumers.find("billing") is None
    assert group.consumers.closed(one) == []


def test_broadcasting_groups_are_told_nothing() -> None:
    group, one, two = Group(), ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.2:5002")
    group.beat(one, "client-1", ORDERS, model=MessageModel.BROADCASTING)
    group.beat(two, "client-2", ORDERS, model=MessageModel.BROADCASTING)
    group.consumers.closed(one)
    assert group.recorder.take() == []


@pytest.mark.claim("reb-08")
def test_the_last_heartbeat_decides_what_the_group_subscribes(caplog: pytest.LogCaptureFixture) -> None:
    """Claim: consumers of one group must have the same subscriptions.

    Experiment: two members of a group subscribe different tags of one topic, and one of them another topic.
    Observe: each heartbeat replaces the other's subscription, the other's topic disappears, every flip notifies the
        group, and a warning names both clients with both expressions, once.
    """
    group, one, two = Group(), ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.2:5002")
    tag_a = build_subscription("Orders", "TagA", sub_version=10)
    tag_b = build_subscription("Orders", "TagB", sub_version=11)
    other = build_subscription("Payments", "*", sub_version=11)
    with caplog.at_level(logging.WARNING):
        group.beat(one, "client-1", tag_a)
        group.beat(two, "client-2", tag_b, other)
        table = group.consumers.groups["billing"].subscriptions
        assert (table["Orders"].sub_string, "Payments" in table) == ("TagB", True)
        group.recorder.take()

        group.beat(one, "client-1", tag_a)
        # The older version does not come back, so client-1 gets TagB's messages; Payments is gone for client-2.
        assert (table["Orders"].sub_string, "Payments" in table) == ("TagB", False)
        assert group.recorder.take() == [("changed", "billing", 2)]
        group.beat(two, "client-2", tag_b, other)
        assert group.recorder.take() == [("changed", "billing", 2)]
    warnings = [entry.message for entry in caplog.records if "different things" in entry.message]
    assert len(warnings) == 1
    for part in ("client-1", "client-2", "'TagA'", "'TagB'", "Payments"):
        assert part in warnings[0]


def test_one_client_id_on_two_connections_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Containers with the same address and process number count as one member: some queues are read twice or never."""
    group, one, two = Group(), ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.1:5002")
    with caplog.at_level(logging.WARNING):
        group.beat(one, "10.0.0.1@1", ORDERS)
        group.beat(one, "10.0.0.1@1", ORDERS)
        assert "two connections" not in caplog.text
        group.beat(two, "10.0.0.1@1", ORDERS)
        group.beat(two, "10.0.0.1@1", ORDERS)
    warnings = [entry.message for entry in caplog.records if "two connections" in entry.message]
    assert len(warnings) == 1
    for part in ("10.0.0.1@1", "billing", "10.0.0.1:5001", "10.0.0.1:5002", "instance name"):
        assert part in warnings[0]


def test_warnings_about_subscriptions_are_remembered_for_a_bounded_number_of_pairs() -> None:
    group = Group()
    group.beat(ToyConnection("10.0.0.1:5001"), "first", ORDERS)
    other = build_subscription("Orders", "TagB", sub_version=11)
    two = ToyConnection("10.0.0.2:5002")
    for number in range(MAX_WARNED_PAIRS + 10):
        group.beat(two, f"client-{number}", other)
    assert len(group.consumers.groups["billing"]._warned) == 10


def test_a_new_expression_for_a_known_topic_replaces_the_old_one_silently() -> None:
    group, one = Group(), ToyConnection("10.0.0.1:5001")
    group.beat(one, "client-1", build_subscription("Orders", "TagA", sub_version=10))
    group.recorder.take()
    before = group.consumers.version
    group.beat(one, "client-1", build_subscription("Orders", "TagB", sub_version=10))
    assert group.consumers.groups["billing"].subscriptions["Orders"].sub_string == "TagA", "not newer: not taken"
    assert group.consumers.version == before
    group.beat(one, "client-1", build_subscription("Orders", "TagB", sub_version=11))
    assert group.consumers.groups["billing"].subscriptions["Orders"].sub_string == "TagB"
    assert group.consumers.version > before, "cached selections of readers must be dropped"
    assert group.recorder.take() == []


def test_a_heartbeat_without_subscriptions_keeps_them() -> None:
    group, one = Group(), ToyConnection("10.0.0.1:5001")
    group.beat(one, "client-1", ORDERS)
    group.beat(one, "client-1", without_sub=True, now=30.0)
    info = group.consumers.groups["billing"]
    assert info.subscriptions.keys() == {"Orders"}
    assert info.channels[one].heard_at == 30.0  # type: ignore[index]


def test_silent_members_are_removed_after_120_seconds_and_the_others_told() -> None:
    group, one, two = Group(), ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.2:5002")
    group.beat(one, "client-1", ORDERS, now=0.0)
    group.beat(two, "client-2", ORDERS, now=30.0)
    group.recorder.take()
    assert group.consumers.expire(now=120.0) == []
    assert group.consumers.expire(now=120.1) == [one]
    assert group.recorder.take() == [("changed", "billing", 1)]
    assert group.consumers.groups["billing"].client_ids == ["client-2"]


def test_hash_codes_are_computed_here_whatever_a_client_says() -> None:
    group, one = Group(), ToyConnection("10.0.0.1:5001")
    from_cpp = SubscriptionData(topic="Orders", sub_string="ct || zz", code_set=[0, 0], tags_set=["ct", "zz"])
    group.beat(one, "client-1", from_cpp)
    assert group.consumers.groups["billing"].subscriptions["Orders"].code_set == [3185, 3904]


def test_a_producer_group_is_asked_in_turn_and_a_client_is_found_on_its_newest_connection() -> None:
    producers = ProducerManager(expired_seconds=120)
    one, two = ToyConnection("10.0.0.1:5001"), ToyConnection("10.0.0.1:5002")
    producers.register("payments", ClientChannel(one, "client-1", "GO", 317, heard_at=0.0))
    producers.register("payments", ClientChannel(two, "client-1", "GO", 317, heard_at=100.0))
    assert producers.find_connection("client-1") is two
    assert {producers.next_available("payments"), producers.next_available("payments")} == {one, two}
    listed = producers.connections("payments")
    assert listed is not None and [each.client_addr for each in listed.connection_set] == [
        "10.0.0.1:5001",
        "10.0.0.1:5002",
    ]
    assert producers.to_body().data["payments"][0].remote_ip == "/10.0.0.1:5001"

    assert producers.expire(now=150.0) == [one]
    assert producers.next_available("payments") is two
    producers.closed(two)  # type: ignore[arg-type]
    assert producers.next_available("payments") is None
    assert producers.find_connection("client-1") is None
    assert producers.connections("payments") is None


def test_a_client_that_leaves_one_of_its_producer_groups_is_still_found() -> None:
    """Two producers share a client and its connection; one of them stops. Its colleague still waits for replies."""
    producers = ProducerManager(expired_seconds=120)
    connection = ToyConnection("10.0.0.1:5001")
    for group in ("payments", "shipments", "payments"):
        producers.register(group, ClientChannel(connection, "client-1", "GO", 317, heard_at=0.0))
    assert producers.unregister("payments", connection)
    assert not producers.unregister("payments", connection)
    assert producers.find_connection("client-1") is connection

    # The same connection may call itself something else, for example behind a proxy.
    producers.register("shipments", ClientChannel(connection, "client-2", "GO", 317, heard_at=0.0))
    assert producers.find_connection("client-1") is None
    assert producers.find_connection("client-2") is connection
    producers.closed(connection)  # type: ignore[arg-type]
    assert producers.find_connection("client-2") is None
    assert repr(producers) == "<ProducerManager 0 groups, 0 clients>"
