"""What keeps a slave's topics, groups and progress like its master's: everything every 10 s, changes of tables at once.

    know the master -> copy all -> until the period is over: (held question -> copy topics and groups) -> copy all ...
                         | failed: again in 1, 2, 3 s

Source: `SlaveSynchronize`, RocketMQ 5.3, which looks once a minute, and 4.9, which looks every 10 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from rocketmq_py.broker.ha.broker_role import BrokerRoles, Master
from rocketmq_py.broker.ha.metadata_copies import Answered, GroupCopy, MetadataCopy, TopicCopy
from rocketmq_py.broker.ha.metadata_watch import HOLD_SECONDS, WATCH_METADATA, MetadataVersions, WatchResponseHeader
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.remoting.bodies.ha_status import HARuntimeInfo
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import decode_header
from rocketmq_py.remoting.java_json import decode_body, encode_body

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 3.0
#: Longest pause in seconds after a failure; RocketMQ's loop has this period.
LONGEST_RETRY: Final = 3.0
#: Seconds between two looks at whether this slave still acts for its master.
HELD_SECONDS: Final = 0.5


class CopyFailedError(RocketMQError):
    """The master refused a request, or its answer is none."""


class SlaveSynchronize:
    """Copies the metadata while this broker is a slave.

    Args:
        client: asks the master.
        roles: says who that is.
        topics: how topics are taken in.
        groups: how groups are taken in.
        copies: how everything else is; a later stage may append its own.
        period: seconds from one copy of everything to the next.

    Attributes:
        is_held: asked before each copy; true where a slave may act for a master that is gone: its own progress is newer.
        rounds: how often everything was copied.
        failures: how often that failed since it last worked.
    """

    def __init__(
        self,
        client: RemotingClient,
        roles: BrokerRoles,
        topics: TopicCopy,
        groups: GroupCopy,
        copies: Sequence[MetadataCopy],
        period: float,
    ) -> None:
        self.is_held: Callable[[], bool] = lambda: False
        self.rounds = 0
        self.failures = 0
        self.copies = [
            MetadataCopy("topics", RequestCode.GET_ALL_TOPIC_CONFIG, topics.take, is_watched=True),
            MetadataCopy("groups", RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG, groups.take, is_watched=True),
            *copies,
        ]
        self._client = client
        self._roles = roles
        self._topics = topics
        self._groups = groups
        self._period = period
        self._task: asyncio.Task[None] | None = None
        roles.on_master.append(self._master_changed)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Begin, if this broker is a slave."""
        await self.role_changed()

    async def role_changed(self) -> None:
        """Begin as a slave with a master, end as anything else."""
        await self.stop_serving()
        if self._roles.is_slave and self._roles.master.address:
            self._task = asyncio.get_running_loop().create_task(
                self._run(self._roles.master.address), name="SlaveSynchronize"
            )

    async def stop_serving(self) -> None:
        """End; a table that is being written is written to its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _master_changed(self, master: Master) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._roles.is_slave and master.address:
            self._task = asyncio.get_running_loop().create_task(self._run(master.address), name="SlaveSynchronize")

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self, master: str) -> None:
        while True:
            if self.is_held():
                await asyncio.sleep(HELD_SECONDS)
                continue
            try:
                await self.copy_all(master)
                await self._watch(master, self._period)
            except (RemotingError, CopyFailedError, OSError) as error:
                self.failures += 1
                if self.failures & (self.failures - 1) == 0:
                    logger.warning("metadata of master %s were not copied (%d times): %s", master, self.failures, error)
                await asyncio.sleep(min(self.failures, LONGEST_RETRY))

    async def copy_all(self, master: str) -> None:
        """Copy everything once.

        Raises:
            RemotingError: the master did not answer.
            CopyFailedError: it refused something, or its answer is none. What came before is taken in.
            OSError: a table could not be written; it is tried again with its next period.
        """
        bodies = [(copy, await self._ask(master, copy)) for copy in self.copies]
        # Asked last: what the bodies call delivered lies before it in the log.
        log_end = await self._log_end(master)
        problems: list[str] = []
        for copy, body in bodies:
            try:
                if body is not None:
                    await copy.take(Answered(body, log_end))
            except (InvalidInputError, ValueError) as error:
                problems.append(f"{copy.name}: {error}")
        if problems:
            raise CopyFailedError("; ".join(problems))
        if self.failures:
            logger.warning("metadata of master %s are copied again", master)
        self.rounds, self.failures = self.rounds + 1, 0

    async def _ask(self, master: str, copy: MetadataCopy) -> bytes | None:
        """Return the body of the answer; None if the master has nothing of the kind."""
        response = await self._client.request(master, RemotingCommand.create_request(copy.code, {}), ASK_SECONDS)
        if response.code == ResponseCode.SUCCESS and response.body:
            return bytes(response.body)
        # A master of before 5.0 has no timers; an empty table of offsets is answered by an error.
        logger.debug("master %s has no %s: code %d, %s", master, copy.name, response.code, response.remark)
        if copy.is_watched:
            raise CopyFailedError(f"{copy.name}: code {response.code}, {response.remark}")
        return None

    async def _log_end(self, master: str) -> int:
        """Return where the master's log ends; 0 if it does not tell (before 5.0)."""
        command = RemotingCommand.create_request(RequestCode.GET_BROKER_HA_STATUS, {})
        response = await self._client.request(master, command, ASK_SECONDS)
        if response.code != ResponseCode.SUCCESS or not response.body:
            return 0
        with contextlib.suppress(InvalidInputError):
            return decode_body(response.body, HARuntimeInfo).master_commit_log_max_offset
        return 0

    # --- changes at once ----------------------------------------------------------------------------------------------

    async def _watch(self, master: str, seconds: float) -> None:
        """Copy topics and groups whenever they change, for so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            versions = MetadataVersions(self._topics.version, self._groups.version)
            command = RemotingCommand.create_request(WATCH_METADATA, {})
            command.body = encode_body(versions)
            try:
                async with asyncio.timeout(left):
                    response = await self._client.request(master, command, HOLD_SECONDS + ASK_SECONDS)
            except TimeoutError:
                return
            if response.code != ResponseCode.SUCCESS:
                # Not one of ours.
                await asyncio.sleep(end - loop.time())
            elif decode_header(WatchResponseHeader, response.ext_fields).is_changed:
                for copy in self.copies:
                    if copy.is_watched and (body := await self._ask(master, copy)) is not None:
                        await self._take_watched(copy, body)

    async def _take_watched(self, copy: MetadataCopy, body: bytes) -> None:
        try:
            await copy.take(Answered(body, 0))
        except (InvalidInputError, ValueError) as error:
            raise CopyFailedError(f"{copy.name}: {error}") from None

    def __repr__(self) -> str:
        state = "at rest" if self._task is None else f"from {self._roles.master.address}"
        return f"<SlaveSynchronize {state}, {self.rounds} rounds, {self.failures} failures>"
