"""Heartbeats ahead of time: a broker must know whose connection it is before it can pass a reply on to a client.

The periodic heartbeat of a client instance may be 30 seconds away when a connection is new, or is made anew after it
was lost. For each address the connection that has seen a heartbeat is remembered; another one is greeted first.

Source: `MQClientInstance#sendHeartbeatToAllBrokerWithLock`, `DefaultMQProducerImpl#prepareSendRequest`, RocketMQ 5.3.
Differs from RocketMQ, which does so for unknown routes only and leaves a connection that was made anew to the period.
"""

from __future__ import annotations

import asyncio
import logging

from rocketmq_py.client.errors import BrokerResponseError
from rocketmq_py.client.instance import MQClientInstance, checked
from rocketmq_py.remoting.bodies.route import TopicRouteData
from rocketmq_py.remoting.client import CONNECT_SECONDS
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.connection import Connection
from rocketmq_py.remoting.errors import RemotingError, RemotingTimeoutError
from rocketmq_py.remoting.java_json import encode_body

logger = logging.getLogger(__name__)


class Greetings:
    """Which connections of a client instance have seen a heartbeat with what is in the instance now."""

    def __init__(self, instance: MQClientInstance) -> None:
        self._instance = instance
        self._greeted: dict[str, Connection] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._routes: dict[str, TopicRouteData] = {}

    async def greet(self, address: str, timeout: float) -> None:
        """Return when the connection to a broker has seen a heartbeat; callers at the same time share one.

        Raises:
            RemotingError: the broker cannot be reached, or does not answer in time.
            BrokerResponseError: it does not want this client.
        """
        known = self._greeted.get(address)
        if known is not None and known.is_open:
            return
        task = self._under_way.get(address)
        if task is None:
            task = self._begin(address)
        try:
            async with asyncio.timeout(timeout):
                # Shielded: one caller that gives up must not end it for the others.
                await asyncio.shield(task)
        except TimeoutError as error:
            if isinstance(error, RemotingError):
                raise
            raise RemotingTimeoutError(address, timeout, RequestCode.HEART_BEAT) from None

    def greet_others(self, topic: str) -> None:
        """Begin to greet all masters of a topic's route, once for each route: a reply may come to any of them."""
        route = self._instance.routes.get(topic)
        if route is None or self._routes.get(topic) is route:
            return
        self._routes[topic] = route
        for data in route.broker_datas:
            address = data.master_addr
            if address is not None and address not in self._greeted and address not in self._under_way:
                self._begin(address)

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, address: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._greet(address))
        self._under_way[address] = task
        task.add_done_callback(lambda done: self._done(address, done))
        return task

    def _done(self, address: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(address, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, RemotingError | BrokerResponseError):
            logger.info("no heartbeat to broker %s, so it cannot pass replies on: %s", address, error)

    async def _greet(self, address: str) -> None:
        instance = self._instance
        connection = await instance.transport.connect(address, min(instance.api_timeout, CONNECT_SECONDS))
        command = RemotingCommand.create_request(RequestCode.HEART_BEAT, body=encode_body(instance.heartbeat()))
        checked(await connection.request(command, instance.api_timeout), address)
        self._greeted[address] = connection

    def __repr__(self) -> str:
        return f"<Greetings {', '.join(sorted(self._greeted)) or 'of nobody'}>"
