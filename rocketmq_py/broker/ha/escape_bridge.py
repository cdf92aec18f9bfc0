"""The escape bridge: where an acting master puts what its services deliver, since its own log is a copy.

    own log takes messages            -> there
    acting, `enableRemoteEscape`      -> a queue of the same topic on another broker name, by an ordinary send
    otherwise                         -> refused; the service tries again until there is a way

Source: `EscapeBridge`, RocketMQ 5.3.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.broker.registration import Registration
from rocketmq_py.common import properties as names
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.permission import is_writeable
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.record import Record
from rocketmq_py.common.topic import AUTO_CREATE_TOPIC_KEY_TOPIC, TIMER_TOPIC
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError
from rocketmq_py.remoting.header import encode_header
from rocketmq_py.remoting.headers.namesrv import GetRouteInfoRequestHeader
from rocketmq_py.remoting.headers.send import SendMessageRequestHeader
from rocketmq_py.remoting.java_json import decode_body
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_message import Done, Putter
from rocketmq_py.store.put_result import PutMessageResult, PutMessageStatus

logger = logging.getLogger(__name__)

SEND_SECONDS: Final = 3.0
#: How long a route is used before it is asked for again.
ROUTE_SECONDS: Final = 5.0
#: Routes that are remembered.
MAX_ROUTES: Final = 1_024

#: The message is stored there; how safely is no matter for one that is stored here as well.
_STORED: Final = frozenset(
    (
        ResponseCode.SUCCESS,
        ResponseCode.FLUSH_DISK_TIMEOUT,
        ResponseCode.FLUSH_SLAVE_TIMEOUT,
        ResponseCode.SLAVE_NOT_AVAILABLE,
    )
)
#: Master's address, queue ids that may be written to.
Target = tuple[str, int]


class EscapeBridge:
    """Puts drafts here or elsewhere; stands where a service has its store.

    Args:
        config: the switches, and this broker's name.
        roles: whether this broker's own log takes messages.
        store: that log.
        client: sends.
        registration: knows the name servers.
        rng: chooses the queue.
    """

    def __init__(
        self,
        config: BrokerConfig,
        roles: BrokerRoles,
        store: Putter,
        client: RemotingClient,
        registration: Registration,
        rng: random.Random,
    ) -> None:
        self.escaped = 0
        self._config = config
        self._roles = roles
        self._store = store
        self._client = client
        self._registration = registration
        self._random = rng
        self._routes: dict[str, tuple[float, list[Target]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether messages may go to other brokers."""
        return self._config.enable_slave_acting_master and self._config.enable_remote_escape

    def put(self, drafts: Sequence[Draft], done: Done) -> None:
        """Put one draft; see `MessagePutter.put`. What is stored elsewhere has no place in this broker's log."""
        if not self._roles.is_slave:
            self._store.put(drafts, done)
        elif not self.is_open:
            done(PutMessageResult(PutMessageStatus.SERVICE_NOT_AVAILABLE))
        else:
            task = asyncio.get_running_loop().create_task(self._escape(drafts[0], done), name="escape bridge")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def forward_half(self, half: Record) -> bool:
        """Give a half message that nobody has decided to another broker, whose check service asks its producer."""
        if not self.is_open:
            return False
        draft = Draft.again(half)
        draft.topic = draft.properties.pop(names.REAL_TOPIC, "")
        draft.properties.pop(names.REAL_QID, None)
        draft.properties[names.TRAN_MSG] = "true"
        return await self.send(draft)

    async def stop_serving(self) -> None:
        """Give up what was not answered; it is put again by whoever delivers it next."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _escape(self, draft: Draft, done: Done) -> None:
        is_stored = False
        try:
            is_stored = await self.send(draft)
        finally:
            status = PutMessageStatus.PUT_OK if is_stored else PutMessageStatus.PUT_TO_REMOTE_BROKER_FAIL
            done(PutMessageResult(status))

    async def send(self, draft: Draft) -> bool:
        """Send a draft to a queue of its topic on another broker; return whether it is stored there."""
        topic, properties = _as_sent(draft)
        try:
            targets = await self._targets(topic)
            if not targets:
                logger.debug("no other broker takes messages of %s", topic)
                return False
            address, queue_id = self._random.choice(targets)
            response = await self._client.request(
                address, self._request(draft, topic, queue_id, properties), SEND_SECONDS
            )
        except (RemotingError, InvalidInputError) as error:
            self._routes.pop(topic, None)
            logger.warning("a message for %s did not escape to another broker: %s", topic, error)
            return False
        if response.code not in _STORED:
            self._routes.pop(topic, None)
            logger.warning("broker %s did not take a message for %s: %s", address, topic, response.remark)
            return False
        self.escaped += 1
        return True

    def _request(self, draft: Draft, topic: str, queue_id: int, properties: dict[str, str]) -> RemotingCommand:
        config = self._config
        group = properties.get(names.PGROUP) or f"InnerProducerGroup_{config.broker_name}_{config.broker_id}"
        header = SendMessageRequestHeader(
            producer_group=group,
            topic=topic,
            default_topic=AUTO_CREATE_TOPIC_KEY_TOPIC,
            default_topic_queue_nums=8,
            queue_id=queue_id,
            sys_flag=draft.sys_flag,
            born_timestamp=draft.born_timestamp,
            flag=draft.flag,
            properties=encode_properties(properties).decode(),
            reconsume_times=draft.reconsume_times,
            batch=False,
        )
        command = RemotingCommand.create_request(RequestCode.SEND_MESSAGE, encode_header(header))
        command.body = draft.body
        return command

    async def _targets(self, topic: str) -> list[Target]:
        """Return the queues of other brokers that take messages of a topic."""
        now = asyncio.get_running_loop().time()
        known = self._routes.get(topic)
        if known is not None and known[0] > now:
            return known[1]
        route = await self._route(topic)
        masters = {data.broker_name: data.master_addr for data in route.broker_datas}
        targets = [
            (address, queue_id)
            for queues in route.queue_datas
            if queues.broker_name != self._config.broker_name
            and is_writeable(queues.perm)
            and (address := masters.get(queues.broker_name))
            for queue_id in range(queues.write_queue_nums)
        ]
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[topic] = (now + ROUTE_SECONDS, targets)
        return targets

    async def _route(self, topic: str) -> TopicRouteData:
        command = RemotingCommand.create_request(
            RequestCode.GET_ROUTEINFO_BY_TOPIC,
            encode_header(GetRouteInfoRequestHeader(topic=topic, accept_standard_json_only=True)),
        )
        for address in self._registration.addresses:
            response = await self._client.request(address, command, SEND_SECONDS)
            if response.code == ResponseCode.SUCCESS:
                return decode_body(response.body, TopicRouteData)
        return TopicRouteData()

    def __repr__(self) -> str:
        return f"<EscapeBridge {'open' if self.is_open else 'closed'}, {self.escaped} escaped>"


def _as_sent(draft: Draft) -> tuple[str, dict[str, str]]:
    """Return topic and properties for a send.

    A timer that is to go round the wheel once more goes there as a timer of its real topic: nobody may send to the
    topic of timers.
    """
    properties = {name: value for name, value in draft.properties.items() if name != names.WAIT}
    if draft.topic != TIMER_TOPIC:
        return draft.topic, properties
    out = properties.pop(names.TIMER_OUT_MS, "")
    properties.pop(names.REAL_QID, None)
    topic = properties.pop(names.REAL_TOPIC, "")
    return topic, properties | {names.TIMER_DELIVER_MS: out}
