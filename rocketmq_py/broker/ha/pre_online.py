"""Before the master of a group whose slaves may act for it shows itself, it takes over what happened meanwhile.

    each slave in turn: "I am your master" -> wait for its link -> take over how far consumers, levels, timers are there
    then: show up at the name servers, which ends the acting of the slave, and begin the services

While this runs the master is at no name server, so nobody sends to it, and the acting master goes on.

Source: `BrokerPreOnlineService`, RocketMQ 5.3. Differs from RocketMQ, where a slave hides as well, until its log is linked:
a master of ours lets in the slaves that name servers know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.acting_master import ActingMaster
from rocketmq_py.broker.ha.member_group import MemberGroup
from rocketmq_py.broker.ha.metadata_copies import ProgressCopy
from rocketmq_py.broker.read_policy import MASTER_ID
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.ha import ExchangeHAInfoHeader
from rocketmq_py.store.config import MessageStoreConfig

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 3.0
#: Seconds between two attempts, and how long one waits for a link.
RETRY_SECONDS: Final = 1.0
LINK_SECONDS: Final = 6.0


@dataclass(frozen=True, slots=True)
class Links:
    """What is asked about the copying of the log.

    Attributes:
        own_info: this broker's addresses and the end of its log at the start.
        has_slave: whether a slave at this host has a link to this broker.
    """

    own_info: Callable[[], ExchangeHAInfoHeader]
    has_slave: Callable[[str], bool]


class NotYetError(RocketMQError):
    """Something that must come first has not come."""


class BrokerPreOnlineService:
    """Keeps this broker unknown until it may show itself.

    Args:
        config: the switches and this broker's id.
        store_config: how many replicas there are to be.
        registration: is held back.
        members: who is there.
        client: asks them.
        acting: is told when this broker shows itself.
        progress: takes over what happened meanwhile.
        links: the log's links.

    Attributes:
        is_isolated: whether this broker is unknown still.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store_config: MessageStoreConfig,
        registration: Registration,
        members: MemberGroup,
        client: RemotingClient,
        acting: ActingMaster,
        progress: ProgressCopy,
        links: Links,
    ) -> None:
        self.is_isolated = (
            config.enable_slave_acting_master
            and config.broker_id == MASTER_ID
            and not config.skip_pre_online
            and not config.enable_controller_mode
            and store_config.total_replicas > 1
            and bool(registration.addresses)
        )
        self._config = config
        self._registration = registration
        self._members = members
        self._client = client
        self._acting = acting
        self._progress = progress
        self._links = links
        self._task: asyncio.Task[None] | None = None
        self._done: set[str] = set()
        if self.is_isolated:
            acting.is_online = False
            before = registration.may_register
            registration.may_register = lambda: not self.is_isolated and before()

    async def serve(self) -> None:
        """Begin."""
        if self.is_isolated:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="BrokerPreOnlineService")

    async def stop_serving(self) -> None:
        """End."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        tries = 0
        while True:
            try:
                await self._prepare()
                break
            except (RemotingError, InvalidInputError, NotYetError, ValueError) as error:
                tries += 1
                if tries & (tries - 1) == 0:
                    logger.warning("this broker does not show itself yet (%d tries): %s", tries, error)
                await asyncio.sleep(RETRY_SECONDS)
        self.is_isolated = False
        self._acting.is_online = True
        self._acting.look_again()
        await self._registration.register_all()
        logger.info("this broker shows itself")

    async def _prepare(self) -> None:
        """Do what comes first.

        Raises:
            NotYetError: something did not happen in time.
        """
        if not await self._members.refresh():
            raise NotYetError("no name server said who belongs to this group")
        for broker_id, address in sorted(self._members.members.items()):
            # What was done once need not be done again because a later one failed.
            if broker_id != MASTER_ID and address not in self._done:
                await self._take_over_from(address)
                self._done.add(address)

    async def _take_over_from(self, slave: str) -> None:
        await self._exchange(slave, self._links.own_info())
        host = slave.rpartition(":")[0]
        await _until(lambda: self._links.has_slave(host), f"slave {slave} did not fetch the log")
        takes: list[tuple[int, Callable[[bytes], Awaitable[None] | None]]] = [
            (RequestCode.GET_ALL_CONSUMER_OFFSET, self._progress.take_back_consumer_offsets),
            (RequestCode.GET_ALL_DELAY_OFFSET, self._progress.take_back_delay_offsets),
        ]
        if self._progress.has_timers:
            takes.append((RequestCode.GET_TIMER_CHECK_POINT, self._progress.take_back_timer_checkpoint))
        for code, take in takes:
            response = await self._client.request(slave, RemotingCommand.create_request(code, {}), ASK_SECONDS)
            if response.code == ResponseCode.SUCCESS and response.body:
                result = take(bytes(response.body))
                if result is not None:
                    await result
        logger.info("took over from slave %s how far consumers, delay levels and timers are", slave)

    async def _exchange(self, address: str, header: ExchangeHAInfoHeader) -> RemotingCommand:
        command = RemotingCommand.create_request(RequestCode.EXCHANGE_BROKER_HA_INFO, encode_header(header))
        response = await self._client.request(address, command, ASK_SECONDS)
        if response.code != ResponseCode.SUCCESS:
            raise NotYetError(f"broker {address} answered {response.code}: {response.remark}")
        return response

    def __repr__(self) -> str:
        return f"<BrokerPreOnlineService {'isolated' if self.is_isolated else 'done'}>"


async def _until(condition: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + LINK_SECONDS
    while not condition():
        if asyncio.get_running_loop().time() >= end:
            raise NotYetError(what)
        await asyncio.sleep(0.05)
