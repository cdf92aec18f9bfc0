"""Clients of the remoting kind for labs: they say what a lab tells them to, and record what the broker sends."""

from __future__ import annotations

from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.bodies.heartbeat import ConsumerData, HeartbeatData, ProducerData
from rocketmq_py.remoting.bodies.subscription import SubscriptionData
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Answer, Request


class Wire:
    """One client process with one connection.

    Attributes:
        notified: the groups of which the broker said that they changed.
    """

    def __init__(self, environment: Environment, address: str, client_id: str) -> None:
        self.client_id = client_id
        self.notified: list[str] = []
        self.client = RemotingClient(environment.clock)
        self._address = address
        self.client.on_request(RequestCode.NOTIFY_CONSUMER_IDS_CHANGED, self._notify)

    def _notify(self, request: Request) -> Answer:
        self.notified.append(request.command.ext_fields["consumerGroup"])
        return None

    async def ask(self, code: RequestCode, fields: dict[str, str] | None = None, body: bytes = b"") -> RemotingCommand:
        """Send a request and return the answer, with its body as bytes."""
        answer = await self.client.request(self._address, RemotingCommand.create_request(code, fields, body), 5)
        answer.body = bytes(answer.body)
        return answer

    async def beat(
        self,
        group: str,
        *subscriptions: SubscriptionData,
        producer_group: str = "",
        fingerprint: int = 0,
        without_sub: bool = False,
        model: str | int = "CLUSTERING",
    ) -> RemotingCommand:
        """Send one heartbeat."""
        data = HeartbeatData(
            client_id=self.client_id,
            consumer_data_set=[
                ConsumerData(group_name=group, subscription_data_set=list(subscriptions), message_model=model)
            ],
            producer_data_set=[ProducerData(group_name=producer_group)] if producer_group else [],
            heartbeat_fingerprint=fingerprint,
            without_sub=without_sub,
        )
        return await self.ask(RequestCode.HEART_BEAT, body=encode_body(data))

    async def close(self) -> None:
        """Close the connection."""
        await self.client.close()
