"""A refusal: what a check answers instead of a request going on.

Checks return a `Refusal` or what they found; they raise nothing, since a wrong request is an everyday event.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rocketmq_py.remoting.answer import FAQ, answer
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response code with its remark, and further fields of the answer's header.

    The remarks are RocketMQ's: clients, tools and operators match on them.
    """

    code: ResponseCode
    remark: str
    fields: dict[str, str] = field(default_factory=dict)

    def to_response(self) -> RemotingCommand:
        """Return the response that says so."""
        response = answer(self.code, self.remark)
        response.ext_fields = dict(self.fields)
        return response


def topic_not_exist(topic: str, blank: str = "") -> Refusal:
    """Refuse for an unknown topic; a pull's remark has one blank more than a send's."""
    return Refusal(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist, apply first please!{blank}{FAQ}")
