"""A command: one request or response, the same shape in both directions.

Source: `RemotingCommand`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from rocketmq_py.remoting.language import LanguageCode
from rocketmq_py.remoting.version import CURRENT_VERSION

RESPONSE_FLAG: Final = 0x1
ONE_WAY_FLAG: Final = 0x2


class SerializeType(IntEnum):
    """The two forms of a header."""

    JSON = 0
    ROCKETMQ = 1


@dataclass(slots=True)
class RemotingCommand:
    """One request or response.

    Attributes:
        code: of `RequestCode` in a request, of `ResponseCode` in a response.
        ext_fields: the header fields, as text.
        body: the bytes behind the header.
        remark: text for people, mainly in refusals.
        opaque: the number that a response repeats, so that the asker finds its request.
        flag: bit 0 marks a response, bit 1 a one-way request.
        language: of the sender.
        version: of the sender; see `version.py`.
        serialize_type: form of the header on the wire.
    """

    code: int
    ext_fields: dict[str, str] = field(default_factory=dict)
    body: bytes | bytearray | memoryview = b""
    remark: str | None = None
    opaque: int = 0
    flag: int = 0
    language: LanguageCode = LanguageCode.PYTHON
    version: int = CURRENT_VERSION
    serialize_type: SerializeType = SerializeType.JSON

    @classmethod
    def create_request(
        cls, code: int, ext_fields: dict[str, str] | None = None, body: bytes | memoryview = b""
    ) -> RemotingCommand:
        """Return a request; the sender numbers it."""
        return cls(int(code), ext_fields if ext_fields is not None else {}, body)

    @classmethod
    def create_response(
        cls,
        code: int,
        remark: str | None = None,
        ext_fields: dict[str, str] | None = None,
        body: bytes | memoryview = b"",
    ) -> RemotingCommand:
        """Return a response; the server gives it the number and header form of its request."""
        return cls(int(code), ext_fields if ext_fields is not None else {}, body, remark, flag=RESPONSE_FLAG)

    @property
    def is_response(self) -> bool:
        """Whether this answers a request."""
        return bool(self.flag & RESPONSE_FLAG)

    @property
    def is_one_way(self) -> bool:
        """Whether nobody waits for an answer."""
        return bool(self.flag & ONE_WAY_FLAG)
