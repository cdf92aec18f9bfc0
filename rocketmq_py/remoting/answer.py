"""Responses in one line: a code, and whatever else there is to say."""

from __future__ import annotations

from typing import Final

import msgspec

from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import encode_header

#: What RocketMQ puts at the end of remarks that people ask about.
FAQ: Final = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."


def answer(
    code: int = ResponseCode.SUCCESS,
    remark: str | None = None,
    *,
    header: msgspec.Struct | None = None,
    body: bytes = b"",
) -> RemotingCommand:
    """Build a response; without arguments, a plain SUCCESS.

    Args:
        code: of `ResponseCode`.
        remark: the text that clients show.
        header: its members become the ext fields; those that are None are left out.
        body: the bytes behind the header.
    """
    response = RemotingCommand.create_response(code, remark)
    if header is not None:
        response.ext_fields = encode_header(header)
    response.body = body
    return response
