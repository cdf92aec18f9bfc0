"""Frames: how commands lie on the wire. Bytes in, commands out; no sockets here.

    i32 length of what follows | i32 header length (low 24 bits) and form (high 8 bits) | header | body

The header is a JSON object, or RocketMQ's binary form of the same fields:

    i16 code | i8 language | i16 version | i32 opaque | i32 flag | i32 remark length, remark
    | i32 length of the fields, then for each: i16 name length, name, i32 value length, value

Source: `RemotingCommand`, `RocketMQSerializable`, `NettyDecoder`, RocketMQ 5.3.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import I32_MAX, I32_MIN, parse_i32
from rocketmq_py.common.layout import Field, Layout
from rocketmq_py.remoting.command import RemotingCommand, SerializeType
from rocketmq_py.remoting.errors import FrameError
from rocketmq_py.remoting.language import LanguageCode

PREFIX_LAYOUT: Final = Layout(
    "frame prefix",
    Field("length", "i", "bytes that follow these four"),
    Field("form_and_header_length", "I", "high 8 bits: 0 JSON, 1 binary; low 24 bits: length of the header"),
)

BINARY_HEADER_LAYOUT: Final = Layout(
    "fixed part of a binary header",
    Field("code", "h", "request or response code"),
    Field("language", "b", "sender's language"),
    Field("version", "h", "sender's version"),
    Field("opaque", "i", "number that the response repeats"),
    Field("flag", "i", "1 response, 2 one-way"),
)

#: Largest frame, its length field included: the value of `com.rocketmq.remoting.frameMaxLength`.
MAX_FRAME_SIZE: Final = 16 << 20
#: Largest header. Properties of 32,767 bytes grow at most sixfold as JSON.
MAX_HEADER_SIZE: Final = 256 << 10
#: Most fields in one header.
MAX_FIELDS: Final = 1_024

_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")


class JsonHeader(msgspec.Struct, omit_defaults=True):
    """The JSON header with RocketMQ's names, in the alphabetical order that Java writes."""

    code: Any = 0
    extFields: dict[str, Any] | None = None
    flag: Any = 0
    language: Any = "JAVA"
    opaque: Any = None
    remark: str | None = None
    serializeTypeCurrentRPC: Any = "JSON"
    version: Any = 0


_decode_json = msgspec.json.Decoder(JsonHeader).decode
_encode_json = msgspec.json.Encoder().encode


def encode(command: RemotingCommand) -> bytes:
    """Return the frame of a command.

    Raises:
        InvalidInputError: a text cannot be encoded, or the frame exceeds the limits of the protocol.
    """
    return encode_head(command, len(command.body)) + bytes(command.body)


def encode_head(command: RemotingCommand, body_size: int) -> bytes:
    """Return the frame of a command up to a body of `body_size` bytes that the caller sends behind it."""
    try:
        header = _json_header(command) if command.serialize_type is SerializeType.JSON else _binary_header(command)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"command {command.code} holds {error.object[error.start : error.end]!r}, which UTF-8 cannot express"
        ) from None
    size = 4 + len(header) + body_size
    if size + 4 > MAX_FRAME_SIZE or len(header) > 0xFFFFFF:
        raise InvalidInputError(
            f"command {command.code} takes {size + 4} bytes, more than the {MAX_FRAME_SIZE} of the largest frame"
        )
    return PREFIX_LAYOUT.struct.pack(size, command.serialize_type << 24 | len(header)) + header


def _json_header(command: RemotingCommand) -> bytes:
    header: dict[str, Any] = {"code": command.code}
    if command.ext_fields:
        header["extFields"] = command.ext_fields
    header["flag"] = command.flag
    header["language"] = command.language.name
    header["opaque"] = command.opaque
    if command.remark is not None:
        header["remark"] = command.remark
    header["serializeTypeCurrentRPC"] = "JSON"
    header["version"] = command.version
    return _encode_json(header)


def _binary_header(command: RemotingCommand) -> bytes:
    code = (command.code + 0x8000 & 0xFFFF) - 0x8000
    remark = (command.remark or "").encode()
    fields = bytearray()
    for name, value in command.ext_fields.items():
        encoded_name, encoded_value = name.encode(), value.encode()
        fields += _SHORT.pack(len(encoded_name)) + encoded_name + _INT.pack(len(encoded_value)) + encoded_value
    return b"".join(
        (
            BINARY_HEADER_LAYOUT.struct.pack(code, command.language, command.version, command.opaque, command.flag),
            _INT.pack(len(remark)),
            remark,
            _INT.pack(len(fields)),
            bytes(fields),
        )
    )


def split_frame(frame: bytes | memoryview) -> tuple[int, bytes, bytes]:
    """Split a frame without its length field into form, header and body.

    Raises:
        FrameError: the header length or the form is impossible.
    """
    if len(frame) < 4:
        raise FrameError(f"a frame of {len(frame)} bytes has no room for its header length")
    word = int.from_bytes(frame[:4], "big")
    form, header_size = word >> 24, word & 0xFFFFFF
    if not 0 < header_size <= min(len(frame) - 4, MAX_HEADER_SIZE):
        raise FrameError(f"header length {header_size} in a frame of {len(frame)} bytes (at most {MAX_HEADER_SIZE})")
    if form > SerializeType.ROCKETMQ:
        raise FrameError(f"header form {form}; known are 0 (JSON) and 1 (binary)")
    return form, bytes(frame[4 : 4 + header_size]), bytes(frame[4 + header_size :])


def decode(frame: bytes | memoryview) -> RemotingCommand:
    """Read a frame without its length field.

    Raises:
        FrameError: it is none.
    """
    form, header, body = split_frame(frame)
    return decode_json_header(header, body) if form == SerializeType.JSON else decode_binary_header(header, body)


def decode_json_header(data: bytes, body: bytes) -> RemotingCommand:
    """Read a JSON header as leniently as Java: numbers may be texts, fields may be numbers; see `FrameError`."""
    try:
        header = _decode_json(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"the JSON header cannot be read: {error}") from None
    fields = header.extFields or {}
    if len(fields) > MAX_FIELDS:
        raise FrameError(f"the header has {len(fields)} fields, more than {MAX_FIELDS}")
    return RemotingCommand(
        code=_integer(header.code, "code"),
        ext_fields={name: _text(value) for name, value in fields.items() if value is not None},
        body=body,
        remark=header.remark,
        opaque=_integer(header.opaque if header.opaque is not None else 0, "opaque"),
        flag=_integer(header.flag, "flag"),
        language=_language(header.language),
        version=_integer(header.version, "version"),
        serialize_type=SerializeType.JSON,
    )


def _integer(value: Any, name: str) -> int:
    if isinstance(value, str):
        try:
            return parse_i32(value, name)
        except InvalidInputError as error:
            raise FrameError(str(error)) from None
    # A bool is an int in Python, a number never is a truth in Java.
    if type(value) is not int or not I32_MIN <= value <= I32_MAX:
        raise FrameError(f"{name} is {value!r}, which is not a 32-bit integer")
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else _encode_json(value).decode()


def _language(value: Any) -> LanguageCode:
    if isinstance(value, str):
        return LanguageCode.__members__.get(value, LanguageCode.OTHER)
    try:
        return LanguageCode(value)
    except ValueError:
        return LanguageCode.OTHER


def decode_binary_header(data: bytes, body: bytes) -> RemotingCommand:
    """Read RocketMQ's binary header. Names and values without bytes count as absent, as in Java; see `FrameError`."""
    try:
        code, language, version, opaque, flag = BINARY_HEADER_LAYOUT.struct.unpack_from(data)
        remark, at = _take(data, BINARY_HEADER_LAYOUT.size, _INT)
        fields_size = _INT.unpack_from(data, at)[0]
        at += 4
        end = at + fields_size
        if not at <= end <= len(data):
            raise FrameError(f"header fields of {fields_size} bytes do not fit into a header of {len(data)} bytes")
        fields: dict[str, str] = {}
        while at < end:
            name, at = _take(data, at, _SHORT)
            value, at = _take(data, at, _INT)
            if name and value:
                fields[name.decode()] = value.decode()
            if len(fields) > MAX_FIELDS:
                raise FrameError(f"the header has more than {MAX_FIELDS} fields")
        text = remark.decode() or None
    except (struct.error, UnicodeDecodeError) as error:
        raise FrameError(f"the binary header of {len(data)} bytes cannot be read: {error}") from None
    return RemotingCommand(code, fields, body, text, opaque, flag, _language(language), version, SerializeType.ROCKETMQ)


def _take(data: bytes, at: int, length: struct.Struct) -> tuple[bytes, int]:
    size = length.unpack_from(data, at)[0]
    start = at + length.size
    if not 0 <= size <= len(data) - start:
        raise FrameError(f"a text of {size} bytes at byte {at} does not fit into a header of {len(data)} bytes")
    return data[start : start + size], start + size
