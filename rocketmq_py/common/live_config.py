"""Settings that may be changed over the network while a server runs: by an allow-list, whole requests only, on record.

Name server and broker share this one routine. RocketMQ changes whatever is not on a list of forbidden keys; twice that
list had a hole through which a stranger could run commands or write files (CVE-2023-33246, CVE-2023-37582). Here a
setting can be changed only if its server declared it changeable, and no path, address or command ever is.

Changes are kept in a file of their own, which is read after the operator's file at the next start; that one is never
written to.

Source: `Configuration`, RocketMQ 5.3, from which this differs as said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from rocketmq_py.common.config import Setting, apply_properties, parse_properties, to_properties
from rocketmq_py.common.data_version import DataVersion
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.table import Table

logger = logging.getLogger(__name__)

#: Remarks that tools match on.
BLACK_LIST_REMARK = "Can not update config in black list."
NOT_PROPERTIES_REMARK = "string2Properties error"

#: Refused with RocketMQ's own remark, whatever the configured black list says.
ALWAYS_REFUSED = ("configBlackList", "configStorePath", "kvConfigPath", "brokerConfigPath", "rocketmqHome")

MAX_REQUEST_SIZE = 65_536


class ConfigNotAllowedError(ConfigError):
    """A request names a setting that may not be changed over the network; nothing was changed."""


class LiveConfig:
    """The settings of one server process.

    Args:
        configs: the dataclass objects that hold the settings.
        mutable: the keys, in RocketMQ's spelling, that may be changed.
        black_list: returns the configured black list, keys separated by `;`.
        path: where the changes are kept.
        environment: clock, files and blocking calls.

    Attributes:
        version: counts the changes of this process.
        listeners: called with the changed keys after each change.
    """

    def __init__(
        self,
        configs: list[Any],
        mutable: Collection[str],
        black_list: Callable[[], str],
        path: str,
        environment: Environment,
    ) -> None:
        self.version = DataVersion(timestamp=environment.clock.wall_ms())
        self.listeners: list[Callable[[frozenset[str]], None]] = []
        self.table = Table(path, self._encode, self._decode, environment)
        self._configs = configs
        self._mutable = frozenset(mutable)
        self._black_list = black_list
        self._environment = environment
        self._overrides: dict[str, str] = {}
        self._write_lock = asyncio.Lock()

    def load(self) -> None:
        """Apply what was changed in earlier runs.

        Raises:
            CorruptDataError: the file of changes cannot be used.
        """
        self.table.load()

    def to_text(self) -> str:
        """Return all settings as `key=value` lines, sorted by key."""
        lines: dict[str, str] = {}
        for config in self._configs:
            lines.update(to_properties(config))
        return "".join(f"{key}={value}\n" for key, value in sorted(lines.items()))

    async def update(self, body: bytes, who: str) -> None:
        """Change settings; all that the request names, or none.

        Args:
            body: `key=value` lines; empty changes nothing.
            who: the peer, for the record in the log.

        Raises:
            ConfigNotAllowedError: a key is forbidden, unknown or not changeable at run time.
            ConfigError: the body is not properties text, or a value does not fit.
            OSError: the changes are in effect, but could not be kept for the next start.
        """
        if not body:
            return
        settings = self._parse(body, who)
        self._check(settings, who)
        before = self._present()
        apply_properties(settings, *self._configs)
        changes = {key: setting.value for key, setting in settings.items()}
        for key, value in changes.items():
            logger.warning("setting %s changed from %s to %s by %s", key, before.get(key), value, who)
        self._overrides.update(changes)
        self.version.next_version(self._environment.clock.wall_ms())
        for listener in self.listeners:
            listener(frozenset(changes))
        self.table.mark_dirty()
        async with self._write_lock:
            await self.table.persist_soon()

    @staticmethod
    def _parse(body: bytes, who: str) -> dict[str, Setting]:
        if len(body) > MAX_REQUEST_SIZE:
            raise ConfigError(f"request has {len(body)} bytes; at most {MAX_REQUEST_SIZE} are read")
        try:
            return parse_properties(body.decode("utf-8"), f"request of {who}")
        except (UnicodeDecodeError, ConfigError) as error:
            raise ConfigError(f"{NOT_PROPERTIES_REMARK}: {error}") from None

    def _check(self, settings: dict[str, Setting], who: str) -> None:
        refused = {*ALWAYS_REFUSED, *filter(None, (name.strip() for name in self._black_list().split(";")))}
        for key in settings:
            if key in refused:
                logger.warning("change of setting %s by %s refused: it is on the black list", key, who)
                raise ConfigNotAllowedError(BLACK_LIST_REMARK)
            if key not in self._mutable:
                logger.warning("change of setting %s by %s refused: not changeable", key[:64], who)
                raise ConfigNotAllowedError(
                    f"{key[:64]} cannot be changed while the server runs; changeable are "
                    f"{', '.join(sorted(self._mutable))}. Set others in the server's file and restart it."
                )

    def _present(self) -> dict[str, str]:
        return {key: value for config in self._configs for key, value in to_properties(config).items()}

    def _encode(self) -> bytes:
        return "".join(f"{key}={value}\n" for key, value in sorted(self._overrides.items())).encode()

    def _decode(self, data: bytes) -> None:
        settings = parse_properties(data.decode("utf-8"), self.table.path)
        apply_properties({key: value for key, value in settings.items() if key in self._mutable}, *self._configs)
        self._overrides = {key: setting.value for key, setting in settings.items() if key in self._mutable}
