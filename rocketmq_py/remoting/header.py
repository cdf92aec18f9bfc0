"""Typed headers: between the text fields of a command and a struct with RocketMQ's names.

A header is a `msgspec.Struct` with `rename="camel"`. Numbers are `I32` or `I64`, so that a value which a Java peer
could not hold is refused; `None` means absent.

Source: `RemotingCommand#decodeCommandCustomHeader`, RocketMQ 5.3. Differs from RocketMQ: a missing required field is
refused by name, where Java fails later with a null reference.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import I32_MAX, I32_MIN, I64_MAX, I64_MIN, parse_bool, parse_i32, parse_i64
from rocketmq_py.remoting.errors import HeaderError

I32 = Annotated[int, msgspec.Meta(ge=I32_MIN, le=I32_MAX)]
I64 = Annotated[int, msgspec.Meta(ge=I64_MIN, le=I64_MAX)]

H = TypeVar("H", bound=msgspec.Struct)
Parser = Callable[[str, str], Any]


def decode_header(kind: type[H], ext_fields: Mapping[str, str]) -> H:
    """Return the typed header of a command's fields; fields that the type does not have are ignored.

    Raises:
        HeaderError: a required field is missing, or a value is not what its type says; names the field.
    """
    values: dict[str, Any] = {}
    for attribute, wire_name, parse, required in _plan(kind):
        text = ext_fields.get(wire_name)
        if text is None:
            if required:
                raise HeaderError(f"{kind.__name__}: the required field {wire_name} is missing")
            continue
        try:
            values[attribute] = parse(text, wire_name)
        except InvalidInputError as error:
            raise HeaderError(f"{kind.__name__}: {error}") from None
    return kind(**values)


def encode_header(header: msgspec.Struct) -> dict[str, str]:
    """Return the text fields of a header; members that are None are left out."""
    fields: dict[str, str] = {}
    for attribute, wire_name, _, _ in _plan(type(header)):
        value = getattr(header, attribute)
        if value is not None:
            fields[wire_name] = _text(value)
    return fields


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.name if isinstance(value, enum.Enum) else str(value)


@functools.cache
def _plan(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Parser, bool], ...]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return tuple(
        (field.name, field.encode_name, _parser(hints[field.name]), field.required)
        for field in msgspec.structs.fields(kind)
    )


def _parser(hint: Any) -> Parser:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if hint == I32:
        return parse_i32
    if hint == I64 or hint is int:
        return parse_i64
    if hint is bool:
        return lambda text, _: parse_bool(text)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_parse_enum, hint)
    return lambda text, _: text


def _parse_enum(kind: type[enum.Enum], text: str, name: str) -> enum.Enum:
    for member in kind:
        if member.name.lower() == text.lower():
            return member
    raise InvalidInputError(f"{name} is {text[:64]!r}; it is one of {', '.join(member.name for member in kind)}")
