"""The held question of a slave: tell me as soon as your topics or groups are others than mine.

A slave looks every 10 s, and in between keeps one such question open at its master. Each question says what the slave
has on its disk, so the master knows when a change was copied, and answers whoever asked for the change only then: a topic
whose creation was acknowledged does not go with its master. The question is ours. An Apache master does not know its code
and says so; its slave then has the 10 s only. An Apache slave never asks it.

    slave                                  master
      WATCH_METADATA {versions} ------------->  other versions here? answer at once
                                                else hold it until one changes, or 5 s are over
      <------------------------------- SUCCESS  {isChanged}
      copies topics and groups, asks again -->  this slave has the change
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from rocketmq_py.broker.subscription_group import SubscriptionGroupManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.connection import Connection
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.remoting.processors import DEFERRED, Deferred, Processors, Request

logger = logging.getLogger(__name__)

#: Ours, far from RocketMQ's codes.
WATCH_METADATA: Final = 77_016
#: Longest time in seconds that a question is held.
HOLD_SECONDS: Final = 5.0
#: Longest time in seconds that a change waits for slaves to copy it.
COPY_SECONDS: Final = 1.0
#: Most questions that are held; a group has a handful of slaves, and anybody can ask.
MAX_HELD: Final = 64


class MetadataVersions(msgspec.Struct, rename="camel"):
    """Body of the question: what the slave has."""

    topics: DataVersion
    groups: DataVersion


class WatchResponseHeader(msgspec.Struct, rename="camel", kw_only=True):
    """Header of the answer."""

    is_changed: bool


@dataclass(slots=True)
class _Held:
    request: Request
    timer: asyncio.TimerHandle


class MetadataWatch:
    """The master's side.

    Args:
        topics: the table of topics.
        groups: the table of groups.
        is_slave: tells whether a slave that copies the log is at a host; a change waits for nobody else.
    """

    def __init__(
        self, topics: TopicConfigManager, groups: SubscriptionGroupManager, is_slave: Callable[[str], bool]
    ) -> None:
        self._topics = topics
        self._groups = groups
        self._is_slave = is_slave
        self._held: dict[Connection, _Held] = {}
        # What slaves said last that they have.
        self._copies: dict[Connection, MetadataVersions] = {}
        self._asked = asyncio.Event()
        self._is_due = False
        for table in (topics, groups):
            table.on_change.append(self._changed)
            table.on_persisted.append(self.copied)

    def register(self, processors: Processors) -> None:
        """Register the code."""
        processors.register(WATCH_METADATA, self.watch, "admin")

    def watch(self, request: Request) -> RemotingCommand | Deferred:
        """Answer now, or hold the question."""
        theirs = decode_body(request.command.body, MetadataVersions)
        if request.connection in self._copies or self._is_slave(split_address(request.connection.remote_address)[0]):
            self._copies[request.connection] = theirs
            self._asked.set()
        if theirs != self._versions() or len(self._held) >= MAX_HELD:
            return answer(header=WatchResponseHeader(is_changed=theirs != self._versions()))
        # One question each: whoever asks again has given up the one before.
        self._release(request.connection, is_changed=False)
        timer = asyncio.get_running_loop().call_later(
            HOLD_SECONDS, lambda: self._release(request.connection, is_changed=False)
        )
        self._held[request.connection] = _Held(request, timer)
        return DEFERRED

    @property
    def held(self) -> int:
        """How many questions are held."""
        return len(self._held)

    def closed(self, connection: Connection) -> None:
        """Forget a slave that is gone."""
        self._copies.pop(connection, None)
        self._asked.set()
        self._release(connection, is_changed=False)

    async def copied(self) -> None:
        """Wait until every slave has the tables as they are now.

        One that takes longer than `COPY_SECONDS` is not waited for again before its next question.
        """
        try:
            async with asyncio.timeout(COPY_SECONDS):
                while self._behind():
                    self._asked.clear()
                    await self._asked.wait()
        except TimeoutError:
            for connection in self._behind():
                logger.warning("slave %s has not copied a change of topics or groups yet", connection.remote_address)
                del self._copies[connection]

    def _behind(self) -> list[Connection]:
        ours = self._versions()
        return [connection for connection, theirs in self._copies.items() if theirs != ours]

    def _versions(self) -> MetadataVersions:
        return MetadataVersions(self._topics.data_version, self._groups.data_version)

    def _changed(self, name: str | None) -> None:
        if self._held and not self._is_due:
            # At the end of the turn: what changes together is copied together.
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._release_all)

    def _release_all(self) -> None:
        self._is_due = False
        for connection in list(self._held):
            self._release(connection, is_changed=True)

    def _release(self, connection: Connection, *, is_changed: bool) -> None:
        held = self._held.pop(connection, None)
        if held is not None:
            held.timer.cancel()
            if connection.is_open:
                held.request.reply(answer(header=WatchResponseHeader(is_changed=is_changed)))

    async def stop_serving(self) -> None:
        """Answer everything that is held."""
        for connection in list(self._held):
            self._release(connection, is_changed=False)

    def __repr__(self) -> str:
        return f"<MetadataWatch {len(self._held)} slaves wait>"
