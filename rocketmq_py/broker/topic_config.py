"""The topics of a broker: `topics.json`, and how topics come into being.

    at start          the system topics, then the file's topics over them
    by an operator    UPDATE_AND_CREATE_TOPIC (17, 18)
    by a first send   if the template it names, usually TBW102, lets topics inherit
    by a group        its %RETRY% and %DLQ% topics

Every change counts the data version up by one; name servers see by it that there is something new to read.

Source: `TopicConfigManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_attributes import change_attributes
from rocketmq_py.common import permission
from rocketmq_py.common import topic as names
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.table import Table
from rocketmq_py.remoting.bodies.topic_config import TopicConfig, TopicConfigTable
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

#: Limits of what peers can make a broker create. Differs from RocketMQ, which has none.
MAX_TOPICS: Final = 10_000
CREATIONS_PER_SECOND: Final = 10.0
CREATIONS_AT_ONCE: Final = 100

#: Most queues of one topic; each may become a directory of its own.
MAX_QUEUES: Final = 10_000


class _File(msgspec.Struct, rename="camel", kw_only=True):
    """Content of `topics.json`."""

    data_version: DataVersion
    topic_config_table: dict[str, TopicConfig]


class TopicConfigManager:
    """Owns the table of topics; only its methods change a configuration.

    Args:
        config: the broker's settings.
        path: the file, `<store root>/config/topics.json`.
        environment: clock, files and blocking calls.

    Attributes:
        table: the file, for the kernel to write at stop and for slaves to copy.
        data_version: counts the changes; equal versions mean equal tables.
        on_change: called with a topic after its configuration was put or removed, with None after all were loaded.
        on_persisted: awaited after each write, before whoever asked for the change is answered.
        deleted: called with a topic after it was deleted, so that its offsets and statistics go too.
    """

    def __init__(self, config: BrokerConfig, path: str, environment: Environment) -> None:
        self.data_version = DataVersion(timestamp=environment.clock.wall_ms())
        self.on_change: list[Callable[[str | None], None]] = []
        self.on_persisted: list[Callable[[], Awaitable[None]]] = []
        self.deleted: list[Callable[[str], None]] = []
        self.table = Table(path, self._encode, self._decode, environment)
        self._config = config
        self._clock = environment.clock
        self._topics = {topic.topic_name: topic for topic in system_topic_configs(config)}
        self._system_topics = frozenset(self._topics)
        self._write_lock = asyncio.Lock()
        self._creations = CreationLimit(CREATIONS_PER_SECOND, CREATIONS_AT_ONCE)

    async def start(self) -> None:
        """Load the file over the system topics.

        Raises:
            CorruptDataError: the file and its backup are both unreadable.
        """
        self.table.load()
        self._tell(None)

    def add_system_topic(self, config: TopicConfig) -> None:
        """Add a topic that a later stage of the system needs; before `start`, whose file comes over it."""
        self._topics.setdefault(config.topic_name, config)
        self._system_topics |= {config.topic_name}

    # --- reading ---------------------------------------------------------------------------------------------------

    def select(self, topic: str) -> TopicConfig | None:
        """Return a topic's configuration, or None if there is no such topic."""
        return self._topics.get(topic)

    @property
    def topics(self) -> Mapping[str, TopicConfig]:
        """All topics by name."""
        return self._topics

    @property
    def system_topics(self) -> frozenset[str]:
        """The topics that belong to the system, on this broker."""
        return names.SYSTEM_TOPICS | self._system_topics

    def is_system_topic(self, topic: str) -> bool:
        """Tell whether a topic belongs to the system, the ones named like cluster and broker included."""
        return names.is_system_topic(topic) or topic in self._system_topics

    # --- creating --------------------------------------------------------------------------------------------------

    def create_in_send(
        self, topic: str, default_topic: str, default_queue_nums: int, topic_sys_flag: int, remote_address: str
    ) -> TopicConfig | None:
        """Create a topic because somebody sends to it; return the one that exists if there is one already.

        Args:
            topic: its name, valid by `common/topic.py`.
            default_topic: the template that the producer names; it must have the inherit permission.
            default_queue_nums: how many queues the producer asks for; the template's number is the limit.
            topic_sys_flag: the unit bits.
            remote_address: the producer, for the log.

        Returns:
            None if the template is missing or lets nothing inherit, or too many topics are created; the caller then
            answers TOPIC_NOT_EXIST. The new topic is on disk only after `persist`.
        """
        existing = self._topics.get(topic)
        if existing is not None:
            return existing
        template = self._topics.get(default_topic)
        if template is None or not permission.is_inherited(template.perm):
            return None
        if default_topic == names.AUTO_CREATE_TOPIC_KEY_TOPIC and not self._config.auto_create_topic_enable:
            return None
        if len(self._topics) >= MAX_TOPICS or not self._creations.take(asyncio.get_running_loop().time()):
            logger.warning(
                "topic %s was not created for %s: too many topics or too many new ones", topic, remote_address
            )
            return None
        queue_nums = max(0, min(default_queue_nums, template.write_queue_nums))
        logger.info(
            "topic %s with %d queues is created from %s because %s sends to it; "
            "set autoCreateTopicEnable=false to allow topics of an operator only",
            topic, queue_nums, default_topic, remote_address,
        )  # fmt: skip
        return self._put(
            TopicConfig(
                topic_name=topic,
                read_queue_nums=queue_nums,
                write_queue_nums=queue_nums,
                perm=template.perm & ~permission.INHERIT,
                topic_sys_flag=topic_sys_flag,
                topic_filter_type=template.topic_filter_type,
            )
        )

    def create_in_send_back(
        self,
        topic: str,
        queue_nums: int,
        perm: int = permission.READ_WRITE,
        topic_sys_flag: int = 0,
        *,
        order: bool = False,
    ) -> TopicConfig | None:
        """Create a topic that the system itself needs, such as a %RETRY% topic; an existing one is left as it is.

        Returns:
            None if there are too many topics. The new topic is on disk only after `persist`.
        """
        existing = self._topics.get(topic)
        if existing is not None:
            return existing
        if len(self._topics) >= MAX_TOPICS:
            logger.warning("topic %s was not created: there are %d topics already", topic, MAX_TOPICS)
            return None
        return self._put(
            TopicConfig(
                topic_name=topic,
                read_queue_nums=queue_nums,
                write_queue_nums=queue_nums,
                perm=perm,
                topic_sys_flag=topic_sys_flag,
                order=order,
            )
        )

    # --- changing --------------------------------------------------------------------------------------------------

    def update(self, configs: Iterable[TopicConfig]) -> list[TopicConfig]:
        """Create or change topics as an operator asks; either all of them or, if one is refused, none.

        Args:
            configs: the wanted configurations; their `attributes` are changes with signed keys.

        Returns:
            The topics that are different now, with their stored attributes.

        Raises:
            InvalidInputError: a number of queues, a permission or an attribute is not allowed.
        """
        wanted: dict[str, TopicConfig] = {}
        for config in configs:
            stored = self._topics.get(config.topic_name)
            attributes = change_attributes(stored.attributes if stored is not None else None, config.attributes)
            _check_numbers(config)
            wanted[config.topic_name] = msgspec.structs.replace(config, attributes=attributes)
        changed = [config for name, config in wanted.items() if self._topics.get(name) != config]
        new = sum(config.topic_name not in self._topics for config in changed)
        if new and len(self._topics) + new > MAX_TOPICS:
            raise InvalidInputError(f"there are {len(self._topics)} topics; with {new} more the limit is {MAX_TOPICS}")
        if changed:
            self._topics.update({config.topic_name: config for config in changed})
            self._note_change(*(config.topic_name for config in changed))
        return changed

    def delete(self, topic: str) -> bool:
        """Remove a topic; return whether it was there."""
        if self._topics.pop(topic, None) is None:
            return False
        self._note_change(topic)
        for listener in self.deleted:
            listener(topic)
        return True

    def update_order_config(self, order_topics: Iterable[str]) -> bool:
        """Mark topics as ordered that a name server says are; return whether anything changed."""
        changed = [name for name in order_topics if name in self._topics and not self._topics[name].order]
        for name in changed:
            self._topics[name] = msgspec.structs.replace(self._topics[name], order=True)
        if changed:
            self._note_change(*changed)
        return bool(changed)

    def adopt(self, table: TopicConfigTable) -> bool:
        """Become a copy of another broker's table, its version included; topics of this system stay in any case.

        Returns:
            Whether anything was to be done: tables of one version are equal.

        Raises:
            InvalidInputError: a number or a permission in it is not allowed; nothing was changed.
        """
        if table.data_version == self.data_version:
            return False
        wanted = {
            name: msgspec.structs.replace(config, topic_name=name) for name, config in table.topic_config_table.items()
        }
        for config in wanted.values():
            _check_numbers(config)
        gone = [name for name in self._topics if name not in wanted and name not in self._system_topics]
        changed = [name for name, config in wanted.items() if self._topics.get(name) != config]
        for name in gone:
            del self._topics[name]
        self._topics.update((name, wanted[name]) for name in changed)
        # Its own object: the other broker's may go on counting in the same process.
        self.data_version = msgspec.structs.replace(table.data_version)
        self.table.mark_dirty()
        for name in (*gone, *changed):
            self._tell(name)
        for name in gone:
            for listener in self.deleted:
                listener(name)
        return True

    def bump_version(self) -> None:
        """Count a change that is not in the table itself: the broker's own permission."""
        self._note_change()

    async def persist(self) -> None:
        """Write the file if something changed since it was written, and tell who waits for that.

        Raises:
            OSError: the file system refused; a later call tries again.
        """
        # One after the other: who waits here must not return while an older state is being written.
        async with self._write_lock:
            await self.table.persist_soon()
        for listener in self.on_persisted:
            await listener()

    def _put(self, config: TopicConfig) -> TopicConfig:
        self._topics[config.topic_name] = config
        self._note_change(config.topic_name)
        return config

    def _note_change(self, *topics: str) -> None:
        self.data_version.next_version(self._clock.wall_ms())
        self.table.mark_dirty()
        for topic in topics or (None,):
            self._tell(topic)

    def _tell(self, topic: str | None) -> None:
        for listener in self.on_change:
            listener(topic)

    def _encode(self) -> bytes:
        data = msgspec.json.encode(_File(data_version=self.data_version, topic_config_table=self._topics))
        return msgspec.json.format(data, indent=2)

    def _decode(self, data: bytes) -> None:
        file = decode_body(data, _File)
        for name, config in file.topic_config_table.items():
            config.topic_name = name
        self._topics.update(file.topic_config_table)
        self.data_version = file.data_version

    def __repr__(self) -> str:
        return f"<TopicConfigManager {len(self._topics)} topics, version {self.data_version.counter}>"


class CreationLimit:
    """How many topics may be created by sends: so many at once, and then so many a second.

    Args:
        per_second: the lasting rate.
        at_once: how many may be saved up.
    """

    def __init__(self, per_second: float, at_once: int) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._tokens = float(at_once)
        self._seen: float | None = None

    def take(self, now: float) -> bool:
        """Use one creation at `now` (seconds of the loop's clock); false if none is left."""
        elapsed = now - self._seen if self._seen is not None else 0.0
        self._seen = now
        self._tokens = min(self._at_once, self._tokens + elapsed * self._per_second)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _check_numbers(config: TopicConfig) -> None:
    for what, number in (("readQueueNums", config.read_queue_nums), ("writeQueueNums", config.write_queue_nums)):
        if not 0 <= number <= MAX_QUEUES:
            raise InvalidInputError(f"{what} of {config.topic_name} is {number}; it is 0 to {MAX_QUEUES}")
    if not permission.is_valid(config.perm):
        raise InvalidInputError(f"perm of {config.topic_name} is {config.perm}; it is 2 (write), 4 (read) or 6 (both)")


def system_topic_configs(config: BrokerConfig) -> list[TopicConfig]:
    """Return the topics that a broker has from its first start on."""
    # Named like the cluster and the broker: templates for sends that name them, and the way in which tools find the
    # members of a cluster (they ask for the route of the cluster's name).
    inherit = permission.INHERIT | permission.READ_WRITE
    own = permission.INHERIT
    wanted = [
        (names.SELF_TEST_TOPIC, 1, permission.READ_WRITE),
        (names.BENCHMARK_TOPIC, 1024, permission.READ_WRITE),
        (config.broker_cluster_name, 16, inherit if config.cluster_topic_enable else own),
        (config.broker_name, 1, inherit if config.broker_topic_enable else own),
        (names.OFFSET_MOVED_EVENT, 1, permission.READ_WRITE),
        (names.SCHEDULE_TOPIC, 18, permission.READ_WRITE),
        (names.reply_topic(config.broker_cluster_name), 1, permission.READ_WRITE),
        (f"rmq_sys_REVIVE_LOG_{config.broker_cluster_name}", 8, permission.READ_WRITE),
        (f"rmq_sys_SYNC_BROKER_MEMBER_{config.broker_name}", 1, own),
        (names.TRANS_HALF_TOPIC, 1, permission.READ_WRITE),
        (names.TRANS_OP_HALF_TOPIC, 1, permission.READ_WRITE),
    ]
    if config.auto_create_topic_enable:
        wanted.append((names.AUTO_CREATE_TOPIC_KEY_TOPIC, config.default_topic_queue_nums, inherit))
    if config.trace_topic_enable:
        wanted.append((config.msg_trace_topic_name, 1, permission.READ_WRITE))
    return [
        TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, perm=perm)
        for name, queues, perm in wanted
    ]
