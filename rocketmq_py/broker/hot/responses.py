"""Answers of the hot path: templates with holes, made once from what the ordinary path would send.

A template is an encoded response whose numbers and names were marks. Filling it in is one `%` on bytes, where encoding
a response costs a dictionary and a JSON writer. As the ordinary encoder made it, both paths answer byte for byte alike.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from rocketmq_py.broker.send_message import RESULTS
from rocketmq_py.remoting.codec import encode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.store.put_result import PutMessageStatus

_PREFIX = struct.Struct(">II")
#: The first eight bytes of answers without a body, by the length of their headers.
_PREFIXES: Final = tuple(_PREFIX.pack(size + 4, size) for size in range(1_024))
_HEADER_AT: Final = 8
#: Opaque of the response that a template is made of; not a number that occurs elsewhere in it.
_OPAQUE: Final = 1_234_567_890

#: Marks for the holes: what is filled in there.
NUMBER: Final = "%d"
TEXT: Final = "%b"
OFFSET_ID_TAIL: Final = "%016X"


class ResponseTemplate:
    """One kind of answer.

    Args:
        response: an answer with the code and remark of this kind.
        fields: the header fields in their order; a value that holds one of the marks above is a hole.
    """

    __slots__ = ("_header",)

    def __init__(self, response: RemotingCommand, fields: Mapping[str, str]) -> None:
        response.opaque = _OPAQUE
        response.ext_fields = dict(fields)
        header = encode(response)[_HEADER_AT:].replace(b"%", b"%%")
        for mark in (NUMBER, TEXT, OFFSET_ID_TAIL):
            header = header.replace(b"%" + mark.encode(), mark.encode())
        self._header = header.replace(str(_OPAQUE).encode(), b"%d")

    def fill(self, *values: int | bytes) -> bytes:
        """Return the frame of an answer without a body.

        Args:
            values: what goes into the holes in the order of the encoded header: the fields, then the opaque.
        """
        header = self._header % values
        size = len(header)
        return (_PREFIXES[size] if size < len(_PREFIXES) else _PREFIX.pack(size + 4, size)) + header

    def fill_head(self, body_size: int, *values: int | bytes) -> bytes:
        """Return the frame up to a body of `body_size` bytes that the caller appends."""
        header = self._header % values
        size = len(header)
        return _PREFIX.pack(size + 4 + body_size, size) + header

    def __repr__(self) -> str:
        return f"<ResponseTemplate {self._header!r}>"


def with_status(frame: bytes, status: PutMessageStatus) -> bytes:
    """Rewrite an encoded answer of the hot path from SUCCESS to what became of the put; see `AcknowledgementGate`."""
    code = b'{"code":%d,' % RESULTS[status][0]
    header = frame[_HEADER_AT:].replace(b'{"code":0,', code, 1)
    return _PREFIX.pack(len(header) + 4, len(header)) + header
