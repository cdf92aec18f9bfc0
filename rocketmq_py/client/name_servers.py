"""Which name server a client asks: one of them, the same as long as it answers.

Source: `NettyRemotingClient#getAndCreateNameserverChannel`, RocketMQ 5.3 (and 4.9 for trying the next one at once).
"""

from __future__ import annotations

import logging
import random

from rocketmq_py.client.errors import BrokerResponseError, NoNameServerError
from rocketmq_py.common.host import split_address
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.errors import RemotingError

logger = logging.getLogger(__name__)


class NameServers:
    """The name servers of a client.

    Args:
        text: `host:port;host:port`.
        transport: for the requests.
        rng: draws the first choice, so that many clients spread over the name servers.

    Raises:
        InvalidInputError: an entry is not HOST:PORT.
    """

    def __init__(self, text: str, transport: RemotingClient, rng: random.Random) -> None:
        self.addresses = list(dict.fromkeys(address.strip() for address in text.split(";") if address.strip()))
        for address in self.addresses:
            split_address(address)
        self._transport = transport
        self._chosen = rng.randrange(len(self.addresses)) if self.addresses else 0

    async def request(self, command: RemotingCommand, timeout: float) -> RemotingCommand:
        """Ask the chosen name server, and the next one if it cannot be reached or does not answer.

        Args:
            command: the request.
            timeout: seconds for each name server that is asked.

        Raises:
            NoNameServerError: none is configured, or none answers.
        """
        if not self.addresses:
            raise NoNameServerError("no name server is configured; set namesrv_addr, such as 127.0.0.1:9876")
        problems = []
        for _ in self.addresses:
            address = self.addresses[self._chosen]
            try:
                return await self._transport.request(address, command, timeout)
            except RemotingError as error:
                problems.append(str(error))
                self._chosen = (self._chosen + 1) % len(self.addresses)
        raise NoNameServerError(f"no name server answers: {'; '.join(problems)}")

    async def request_all(self, code: int, fields: dict[str, str], body: bytes, timeout: float) -> None:
        """Send one request to every name server, also after one of them failed.

        Raises:
            NoNameServerError: one or more of them could not be reached.
            BrokerResponseError: one of them refused.
        """
        problems: list[str] = []
        refusal: BrokerResponseError | None = None
        for address in self.addresses:
            try:
                response = await self._transport.request(
                    address, RemotingCommand.create_request(code, dict(fields), body), timeout
                )
            except RemotingError as error:
                problems.append(str(error))
                continue
            if response.code != ResponseCode.SUCCESS:
                refusal = BrokerResponseError(response.code, response.remark, address)
        if refusal is not None:
            raise refusal
        if problems or not self.addresses:
            raise NoNameServerError(f"not every name server was told: {'; '.join(problems) or 'none is configured'}")
