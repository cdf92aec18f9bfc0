"""Replies: what a consumer sends back to the client that waits for it.

A request is an ordinary message with three more properties: `CORRELATION_ID` names the question, `REPLY_TO_CLIENT` the
client that asked, and `TTL` how long it waits. A reply carries all three back, to the topic of replies in the cluster
where the request was stored; the broker passes it on to that client.

Source: `MessageUtil`, RocketMQ 5.3.
"""

from __future__ import annotations

from typing import Final

from rocketmq_py.client.errors import ClientError
from rocketmq_py.common import properties as names
from rocketmq_py.common.message import Message, MessageExt
from rocketmq_py.common.topic import reply_topic

#: Client error codes of request and reply.
REQUEST_TIMEOUT_EXCEPTION: Final = 10_006
CREATE_REPLY_MESSAGE_EXCEPTION: Final = 10_007


class NotARequestError(ClientError):
    """A message cannot be answered, because it lacks what requests have."""


def create_reply_message(request: MessageExt, body: bytes) -> Message:
    """Return the message that answers a request; `Producer.send` sends it.

    Args:
        request: the message as a consumer got it.
        body: the answer.

    Raises:
        NotARequestError: it was not sent with `request`, or no broker has stored it.
    """
    wanted = (names.CLUSTER, names.CORRELATION_ID, names.REPLY_TO_CLIENT)
    missing = [name for name in wanted if not request.properties.get(name)]
    if missing:
        raise NotARequestError(
            f"message {request.unique_key or request.msg_id} of topic {request.topic} cannot be answered: it has no "
            f"property {', '.join(missing)}. Only what was sent with request() and received from a broker has one",
            CREATE_REPLY_MESSAGE_EXCEPTION,
        )
    reply = Message(reply_topic(request.properties[names.CLUSTER]), body)
    reply.properties[names.MSG_TYPE] = names.MSG_TYPE_REPLY
    for name in (names.CORRELATION_ID, names.REPLY_TO_CLIENT, names.TTL):
        if value := request.properties.get(name):
            reply.properties[name] = value
    return reply
