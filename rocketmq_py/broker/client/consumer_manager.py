"""Who consumes: the groups, their members, and what each group subscribes.

Nobody coordinates a group. A member tells every broker of itself every 30 s; each member asks a broker for the list of
the others and computes alone which queues are its own. So this table decides nothing about queues. It has to be right
about who is there, and to say so at once when that changes.

A group has *one* subscription, and the last heartbeat decides it: topics that are not in it are removed. Members that
subscribe different things therefore overwrite each other for ever and lose messages; the table warns about them.

Source: `ConsumerManager`, `ConsumerGroupInfo`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from rocketmq_py.broker.client.channel import CHANNEL_EXPIRED_SECONDS, ClientChannel, ClientConnection
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.remoting.bodies.heartbeat import ConsumeFromWhere, ConsumerConnection, ConsumeType, MessageModel
from rocketmq_py.remoting.bodies.subscription import SubscriptionData, build_subscription, is_tag_type

logger = logging.getLogger(__name__)

#: Pairs of members of one group about which a warning is remembered.
MAX_WARNED_PAIRS: Final = 1_000


class ConsumerListener(Protocol):
    """Told about changes of groups, at once and on the loop."""

    def registered(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """A member sent a heartbeat with these subscriptions."""
        ...

    def unregistered(self, group: str) -> None:
        """The last member has gone."""
        ...

    def changed(self, group: str, members: list[ClientConnection]) -> None:
        """Members or subscribed topics are others than before; `members` are those of now."""
        ...


@dataclass(slots=True)
class ConsumerGroupInfo:
    """One group that has at least one member.

    Attributes:
        group: its name.
        consume_type, message_model, consume_from_where: of the member that was heard last.
        subscriptions: what the group subscribes, by topic.
        channels: the members, by connection.
        fingerprint: of the subscriptions, if the member heard last sent one (heartbeat version 2); else 0.
    """

    group: str
    consume_type: ConsumeType
    message_model: MessageModel
    consume_from_where: ConsumeFromWhere
    subscriptions: dict[str, SubscriptionData] = field(default_factory=dict)
    channels: dict[ClientConnection, ClientChannel] = field(default_factory=dict)
    fingerprint: int = 0
    _warned: set[tuple[str, str]] = field(default_factory=set)

    @property
    def client_ids(self) -> list[str]:
        """The members' ids, one per connection."""
        return [channel.client_id for channel in self.channels.values()]

    def find_client(self, client_id: str) -> ClientChannel | None:
        """Return the member with an id, or None."""
        return next((channel for channel in self.channels.values() if channel.client_id == client_id), None)

    def to_body(self) -> ConsumerConnection:
        """Return it as GET_CONSUMER_CONNECTION_LIST answers."""
        return ConsumerConnection(
            connection_set=[channel.to_body() for channel in self.channels.values()],
            subscription_table=dict(self.subscriptions),
            consume_type=self.consume_type.value,
            message_model=self.message_model.value,
            consume_from_where=self.consume_from_where.value,
        )

    def update_channel(self, channel: ClientChannel) -> bool:
        """Note a heartbeat of a member; return whether the connection is new."""
        known = self.channels.get(channel.connection)
        if known is not None and known.client_id != channel.client_id:
            logger.warning(
                "connection %s of group %s was client %s and now is %s",
                channel.connection.remote_address, self.group, known.client_id, channel.client_id,
            )  # fmt: skip
        if known is None and (twin := self.find_client(channel.client_id)) is not None:
            logger.warning(
                "client id %s of group %s comes from two connections, %s and %s. If these are two programs, they count "
                "as one member, so that some queues are read by both or by none: give each an instance name of its own. "
                "If one program connected again, this passes",
                channel.client_id, self.group, twin.connection.remote_address, channel.connection.remote_address,
            )  # fmt: skip
        if known is not None and not channel.expressions:
            # A heartbeat without subscriptions (version 2) leaves them as they were.
            channel.expressions = known.expressions
        self.channels[channel.connection] = channel
        return known is None

    def update_subscriptions(self, subscriptions: Iterable[SubscriptionData]) -> tuple[bool, bool]:
        """Take over a member's subscriptions as the group's.

        Returns:
            Whether the set of topics changed, and whether anything changed at all.
        """
        wanted = {subscription.topic: subscription for subscription in subscriptions}
        topics_changed = wanted.keys() != self.subscriptions.keys()
        anything_changed = topics_changed
        for topic, subscription in wanted.items():
            known = self.subscriptions.get(topic)
            if known is None or subscription.sub_version > known.sub_version:
                self.subscriptions[topic] = subscription
                anything_changed = True
        for topic in self.subscriptions.keys() - wanted.keys():
            del self.subscriptions[topic]
        return topics_changed, anything_changed

    def warn_if_unequal(self, channel: ClientChannel) -> str | None:
        """Log once, and return, if a member subscribes something else than another one."""
        for other in self.channels.values():
            if other is channel or not other.expressions or other.expressions == channel.expressions:
                continue
            pair = (min(channel.client_id, other.client_id), max(channel.client_id, other.client_id))
            if pair in self._warned:
                continue
            if len(self._warned) >= MAX_WARNED_PAIRS:
                # Ids are the clients' choice, and no table may grow by that alone.
                self._warned.clear()
            self._warned.add(pair)
            text = (
                f"members of group {self.group} subscribe different things: client {channel.client_id} "
                f"{_describe(channel.expressions, other.expressions)}, client {other.client_id} "
                f"{_describe(other.expressions, channel.expressions)}. The last heartbeat counts for the whole "
                "group, so messages get lost; give all members the same subscription, or use two groups"
            )
            logger.warning("%s", text)
            return text
        return None


def _describe(mine: Mapping[str, str], others: Mapping[str, str]) -> str:
    different = {topic: text for topic, text in mine.items() if others.get(topic) != text}
    return ", ".join(f"{topic} by {text!r}" for topic, text in sorted(different.items())[:3]) or "nothing else"


class ConsumerManager:
    """The groups that have members. All methods run on the loop and wait for nothing.

    Args:
        expired_seconds: after how long without a heartbeat a member is taken for dead.

    Attributes:
        version: grows whenever a reader's subscription may have changed.
        listeners: told about changes.
    """

    def __init__(self, expired_seconds: float = CHANNEL_EXPIRED_SECONDS) -> None:
        self.version = 0
        self.listeners: list[ConsumerListener] = []
        self._expired_seconds = expired_seconds
        self._groups: dict[str, ConsumerGroupInfo] = {}
        # By connection, the groups in which it is a member: a closed connection is found without a search.
        self._groups_of: dict[ClientConnection, set[str]] = {}

    # --- asking -------------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, ConsumerGroupInfo]:
        """All groups with members, by name."""
        return self._groups

    def find(self, group: str) -> ConsumerGroupInfo | None:
        """Return a group that has members, or None."""
        return self._groups.get(group)

    def find_client(self, group: str, client_id: str) -> ClientChannel | None:
        """Return a member of a group by its id, or None."""
        info = self._groups.get(group)
        return None if info is None else info.find_client(client_id)

    def groups_of_topic(self, topic: str) -> list[str]:
        """Return the groups that subscribe a topic now, sorted."""
        return sorted(group for group, info in self._groups.items() if topic in info.subscriptions)

    # --- coming and going ---------------------------------------------------------------------------------------------

    def register(
        self,
        group: str,
        channel: ClientChannel,
        *,
        consume_type: ConsumeType,
        message_model: MessageModel,
        consume_from_where: ConsumeFromWhere,
        subscriptions: Iterable[SubscriptionData] | None,
        notify: bool = True,
    ) -> bool:
        """Note a heartbeat of one member.

        Args:
            group: the group.
            channel: the member.
            consume_type, message_model, consume_from_where: what it says of its group; the last one heard counts.
            subscriptions: what it subscribes; None leaves the group's subscriptions as they are (version 2).
            notify: whether the group's configuration wants its members to be told of changes.

        Returns:
            Whether members or topics changed.
        """
        info = self._groups.get(group)
        if info is None:
            info = self._groups[group] = ConsumerGroupInfo(group, consume_type, message_model, consume_from_where)
            self.version += 1
        if info.message_model is not message_model:
            self.version += 1
        info.consume_type, info.message_model, info.consume_from_where = consume_type, message_model, consume_from_where
        wanted = None if subscriptions is None else [normalize(one) for one in subscriptions]
        if wanted is not None:
            channel.expressions = {one.topic: one.sub_string for one in wanted}
        changed = info.update_channel(channel)
        self._groups_of.setdefault(channel.connection, set()).add(group)
        if wanted is not None:
            topics_changed, anything_changed = info.update_subscriptions(wanted)
            changed = changed or topics_changed
            self.version += anything_changed
            info.warn_if_unequal(channel)
        if changed and notify:
            self._tell_changed(info)
        for listener in self.listeners:
            listener.registered(group, info.subscriptions.values())
        return changed

    def unregister(self, group: str, connection: ClientConnection, *, notify: bool = True) -> bool:
        """Remove a member that says good-bye; return whether it was one."""
        return self._remove(group, connection, notify=notify)

    def closed(self, connection: ClientConnection) -> list[str]:
        """Remove a connection that is gone from all its groups; return these."""
        groups = sorted(self._groups_of.get(connection, ()))
        for group in groups:
            self._remove(group, connection, notify=True)
        return groups

    def expire(self, now: float) -> list[ClientConnection]:
        """Remove members that were silent for too long, and return their connections, to be closed.

        Unlike RocketMQ, which lets the survivors notice by themselves within 20 s, they are told at once.
        """
        expired = [
            (info.group, channel)
            for info in self._groups.values()
            for channel in info.channels.values()
            if now - channel.heard_at > self._expired_seconds
        ]
        for group, channel in expired:
            logger.warning(
                "client %s (%s) of group %s sent no heartbeat for %.0f s and is removed",
                channel.client_id, channel.connection.remote_address, group, now - channel.heard_at,
            )  # fmt: skip
            self._remove(group, channel.connection, notify=True)
        return list(dict.fromkeys(channel.connection for _, channel in expired))

    def _remove(self, group: str, connection: ClientConnection, *, notify: bool) -> bool:
        info = self._groups.get(group)
        if info is None or info.channels.pop(connection, None) is None:
            return False
        groups = self._groups_of[connection]
        groups.discard(group)
        if not groups:
            del self._groups_of[connection]
        if not info.channels:
            del self._groups[group]
            self.version += 1
            for listener in self.listeners:
                listener.unregistered(group)
        if notify:
            self._tell_changed(info)
        return True

    def _tell_changed(self, info: ConsumerGroupInfo) -> None:
        # In broadcasting every member reads every queue: others coming or going is nothing to it.
        if info.message_model is MessageModel.BROADCASTING:
            return
        members = list(info.channels)
        for listener in self.listeners:
            listener.changed(info.group, members)

    def __repr__(self) -> str:
        return f"<ConsumerManager {len(self._groups)} groups, {len(self._groups_of)} connections>"


def normalize(subscription: SubscriptionData) -> SubscriptionData:
    """Return a subscription with tags and hash codes computed here.

    Clients send what they like: the C++ one sends 0 for every code, others leave the tags out.
    """
    if not is_tag_type(subscription.expression_type) or subscription.class_filter_mode:
        return subscription
    try:
        return build_subscription(subscription.topic, subscription.sub_string, sub_version=subscription.sub_version)
    except InvalidInputError:
        return subscription
