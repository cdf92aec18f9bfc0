"""What a slave refuses: changes of what it copies from its master.

Differs from RocketMQ 5.3, which makes the change and loses it with the next copy from the master; refusing is 4.9's way.

Source: `AdminBrokerProcessor#validateSlave`, RocketMQ 4.9.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.broker.ha.broker_role import BrokerRoles
from rocketmq_py.common.topic import is_dlq_topic, is_retry_topic
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Processors, Request

MASTER_ONLY: Final = (
    RequestCode.UPDATE_AND_CREATE_TOPIC,
    RequestCode.UPDATE_AND_CREATE_TOPIC_LIST,
    RequestCode.DELETE_TOPIC_IN_BROKER,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST,
    RequestCode.DELETE_SUBSCRIPTIONGROUP,
)
REFUSAL: Final = "Can't modify topic or subscription group from slave broker, please execute it from master broker."


class MasterOnly:
    """Refuses such requests while this broker is a slave."""

    def __init__(self, roles: BrokerRoles) -> None:
        self._roles = roles

    def guard(self, processors: Processors) -> None:
        """Stand before the handlers of all those codes."""
        for code in MASTER_ONLY:
            processors.guard(code, self.refuse)

    def refuse(self, request: Request) -> RemotingCommand | None:
        """Return the refusal, or None."""
        if not self._roles.is_slave:
            return None
        topic = request.command.ext_fields.get("topic", "")
        if request.command.code == RequestCode.DELETE_TOPIC_IN_BROKER and (
            is_retry_topic(topic) or is_dlq_topic(topic)
        ):
            # `mqadmin deleteSubGroup` asks every broker of a cluster for these, and gives up at the first refusal. The
            # slave loses them with its master.
            return answer()
        return answer(ResponseCode.SYSTEM_ERROR, REFUSAL)
