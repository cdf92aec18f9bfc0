"""The configurations of consumer groups, kept in `subscriptionGroup.json`.

Groups need not be created: by default one comes into being when a consumer first names it.

Source: `SubscriptionGroupManager`, RocketMQ 5.3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.table import Table
from rocketmq_py.common.topic import SYSTEM_GROUP_PREFIX, group_error
from rocketmq_py.remoting.bodies.subscription_group import SubscriptionGroupConfig, SubscriptionGroupWrapper
from rocketmq_py.remoting.java_json import decode_body

logger = logging.getLogger(__name__)

FILE_NAME: Final = "subscriptionGroup.json"
#: The bit of the forbidden table that stands for reading.
FORBIDDEN_READ: Final = 4
#: Most groups of a broker; a stranger can create one with every request.
MAX_GROUPS: Final = 10_000

#: Groups that exist from the start.
INITIAL_GROUPS: Final = (
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
)


class SubscriptionGroupManager:
    """The groups of a broker. All methods but `start` and `persist` run on the loop and wait for nothing.

    Args:
        config: who may create groups.
        config_path: the folder of the file.
        environment: clock and files.

    Attributes:
        version: grows with every change, for caches.
        data_version: the version that tools and slaves compare.
        on_change: called with the group, or None for all, after each change.
        on_persisted: awaited after each write, before whoever asked for the change is answered.
    """

    def __init__(self, config: BrokerConfig, config_path: str, environment: Environment) -> None:
        self.table = Table(os.path.join(config_path, FILE_NAME), self._encode, self._decode, environment)
        self.version = 0
        self.data_version = DataVersion()
        self.on_change: list[Callable[[str | None], None]] = []
        self.on_persisted: list[Callable[[], Awaitable[None]]] = []
        self._config = config
        self._clock = environment.clock
        self._groups: dict[str, SubscriptionGroupConfig] = {}
        self._forbidden: dict[str, dict[str, int]] = {}
        self._add_initial_groups()

    async def start(self) -> None:
        """Read the file; a damaged one stops the start (see `Table.load`)."""
        self.table.load()
        self._add_initial_groups()
        self._tell(None)

    async def persist(self) -> None:
        """Write the file if something changed, and tell who waits for that.

        Raises:
            OSError: the file system refused; a later call tries again.
        """
        await self.table.persist_soon()
        for listener in self.on_persisted:
            await listener()

    # --- asking -------------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> Mapping[str, SubscriptionGroupConfig]:
        """All groups, by name."""
        return self._groups

    def select(self, group: str) -> SubscriptionGroupConfig | None:
        """Return a group's configuration, or None; creates nothing."""
        return self._groups.get(group)

    def find(self, group: str) -> SubscriptionGroupConfig | None:
        """Return a group's configuration, creating the group if that is allowed; None if it is not."""
        config = self._groups.get(group)
        if config is not None or not self._may_create(group):
            return config
        logger.info(
            "group %s is created; set autoCreateSubscriptionGroup=false to allow groups of an operator only", group
        )
        return self._put(SubscriptionGroupConfig(group_name=group))

    def _may_create(self, group: str) -> bool:
        is_system = group.startswith(SYSTEM_GROUP_PREFIX) and self._config.enable_create_sys_group
        if not (self._config.auto_create_subscription_group or is_system) or group_error(group) is not None:
            return False
        if len(self._groups) >= MAX_GROUPS:
            logger.warning("group %s was not created: there are %d groups already", group, MAX_GROUPS)
            return False
        return True

    def is_forbidden(self, group: str, topic: str) -> bool:
        """Tell whether an administrator forbade the group to read the topic."""
        return bool(self._forbidden.get(group, {}).get(topic, 0) & FORBIDDEN_READ)

    def to_wrapper(self) -> SubscriptionGroupWrapper:
        """Return everything as GET_ALL_SUBSCRIPTIONGROUP_CONFIG answers."""
        return SubscriptionGroupWrapper(
            subscription_group_table=self._groups, forbidden_table=self._forbidden, data_version=self.data_version
        )

    # --- changing -----------------------------------------------------------------------------------------------------

    def update(self, configs: Iterable[SubscriptionGroupConfig]) -> None:
        """Create or replace groups as an operator asks; all of them, or none.

        Raises:
            InvalidInputError: a name is not allowed, an attribute is given (none is defined), or there are too many.
        """
        wanted = list(configs)
        for config in wanted:
            problem = group_error(config.group_name)
            if problem is not None:
                raise InvalidInputError(problem)
            if config.attributes:
                raise InvalidInputError(f"unsupported key: {next(iter(config.attributes))}; groups have no attributes")
        new = {config.group_name for config in wanted} - self._groups.keys()
        if len(self._groups) + len(new) > MAX_GROUPS:
            raise InvalidInputError(f"with {len(new)} more groups the limit of {MAX_GROUPS} would be exceeded")
        for config in wanted:
            self._put(config)

    def delete(self, group: str) -> bool:
        """Remove a group; return whether it was there."""
        self._forbidden.pop(group, None)
        if self._groups.pop(group, None) is None:
            return False
        self._note_change(group)
        return True

    def set_readable(self, group: str, topic: str, readable: bool) -> None:
        """Allow or forbid a group to read a topic."""
        topics = self._forbidden.setdefault(group, {})
        bits = topics.get(topic, 0) & ~FORBIDDEN_READ | (0 if readable else FORBIDDEN_READ)
        if bits:
            topics[topic] = bits
        else:
            topics.pop(topic, None)
        if not topics:
            del self._forbidden[group]
        self._note_change(group)

    def adopt(self, wrapper: SubscriptionGroupWrapper) -> bool:
        """Become a copy of another broker's table, its version included; return whether anything was to be done."""
        if wrapper.data_version == self.data_version:
            return False
        self._groups = {
            name: msgspec.structs.replace(config, group_name=name)
            for name, config in wrapper.subscription_group_table.items()
        }
        self._forbidden = {group: dict(topics) for group, topics in wrapper.forbidden_table.items()}
        self._add_initial_groups()
        self.data_version = msgspec.structs.replace(wrapper.data_version)
        self.table.mark_dirty()
        self._tell(None)
        return True

    def _add_initial_groups(self) -> None:
        for group in INITIAL_GROUPS:
            if group not in self._groups:
                self._groups[group] = SubscriptionGroupConfig(group_name=group)

    def _put(self, config: SubscriptionGroupConfig) -> SubscriptionGroupConfig:
        self._groups[config.group_name] = config
        self._note_change(config.group_name)
        return config

    def _note_change(self, group: str) -> None:
        self.data_version.next_version(self._clock.wall_ms())
        self.table.mark_dirty()
        self._tell(group)

    def _tell(self, group: str | None) -> None:
        self.version += 1
        for listener in self.on_change:
            listener(group)

    # --- the file -----------------------------------------------------------------------------------------------------

    def _encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self.to_wrapper()), indent=2)

    def _decode(self, data: bytes) -> None:
        content = decode_body(data, SubscriptionGroupWrapper)
        self._groups = content.subscription_group_table
        self._forbidden = content.forbidden_table
        self.data_version = content.data_version

    def __repr__(self) -> str:
        return f"<SubscriptionGroupManager {len(self._groups)} groups{' dirty' if self.table.is_dirty else ''}>"
