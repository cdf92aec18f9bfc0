"""Values of filter expressions, and how RocketMQ compares values of different types.

A message's properties are texts, so nearly every comparison of a filter is between a text and a number literal. The
rules are Java's and decide at the edges: `'10.5'` is no 32-bit integer, so it equals no integer literal and is neither
above nor below one. Such a comparison raises `EvaluationError`, and the whole expression then does not match.

Source: `ComparisonExpression#__compare`, RocketMQ 5.3.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Final, TypeAlias

from rocketmq_py.common.errors import InvalidInputError, RocketMQError
from rocketmq_py.common.java import parse_bool, parse_i32, parse_i64


class Long(int):
    """A 64-bit integer; a plain `int` in an expression is a 32-bit one. They differ in which texts they compare to."""

    __slots__ = ()


#: None is SQL's NULL: the property is absent, or a part of the expression was NULL.
Value: TypeAlias = bool | int | float | str | None
Properties: TypeAlias = Mapping[str, str]

#: What `compare` says when the types have no order: the left one counts as less, as in Java.
INCOMPARABLE: Final = -1

_DOUBLE = re.compile(r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[dDfF]?)", re.ASCII)
#: What Java's `trim` removes round a number: every character up to the blank.
_BLANKS: Final = "".join(map(chr, range(33)))
#: Longest text that is read as a double; longer ones cost time and mean nothing.
_MAX_DOUBLE_TEXT: Final = 1_024


class EvaluationError(RocketMQError):
    """The expression has no value for this message; the message does not match."""


def compare(left: Value, right: Value) -> int:
    """Return below, equal to or above 0 as `left` is below, equal to or above `right`; neither is None.

    Raises:
        EvaluationError: a text is not a number of the other side's type, or a boolean meets a text on its right.
    """
    if isinstance(left, bool):
        return _compare_boolean(left, right)
    if isinstance(left, str):
        return _compare_text(left, right)
    if isinstance(right, bool):
        return INCOMPARABLE
    if isinstance(right, str):
        return _compare_numbers(left, _number_like(left, right))
    return _compare_numbers(left, right)


def compare_as_doubles(left: str, right: str) -> int:
    """Compare two texts by the doubles that they hold: what `>` and its relatives do with two properties.

    Raises:
        EvaluationError: one of them is not a number.
    """
    return _compare_doubles(parse_double(left), parse_double(right))


def parse_double(text: str) -> float:
    """Parse what `Double.valueOf` takes: blanks around, a sign, digits with fraction and exponent, a `d` or `f`.

    Raises:
        EvaluationError: it is not such a number. Differs from RocketMQ: Java's hexadecimal form is not taken.
    """
    stripped = text.strip(_BLANKS)
    if len(stripped) > _MAX_DOUBLE_TEXT or _DOUBLE.fullmatch(stripped) is None:
        raise EvaluationError(f"{text[:64]!r} is not a number")
    if stripped.endswith(("NaN", "Infinity")):
        return float(stripped)
    return float(stripped.rstrip("dDfF"))


def _compare_boolean(left: bool, right: Value) -> int:
    if isinstance(right, bool):
        return left - right
    if isinstance(right, str):
        # Java casts the boolean to a text here and fails. So `TRUE = p` never matches, whereas `p = TRUE` works.
        raise EvaluationError(f"a boolean on the left cannot be compared with the text {right[:64]!r}")
    return INCOMPARABLE


def _compare_text(left: str, right: Value) -> int:
    if isinstance(right, str):
        return (left > right) - (left < right)
    if isinstance(right, bool):
        return parse_bool(left) - right
    return _compare_numbers(_number_like(right, left), right)


def _number_like(model: Value, text: str) -> int | float:
    """Parse a text strictly as the type of a number."""
    if isinstance(model, float):
        return parse_double(text)
    try:
        return Long(parse_i64(text)) if isinstance(model, Long) else parse_i32(text)
    except InvalidInputError as error:
        raise EvaluationError(str(error)) from None


def _compare_numbers(left: Value, right: Value) -> int:
    assert isinstance(left, int | float) and isinstance(right, int | float)
    if isinstance(left, float) or isinstance(right, float):
        return _compare_doubles(float(left), float(right))
    return (left > right) - (left < right)


def _compare_doubles(left: float, right: float) -> int:
    """Order doubles as `Double.compare`: NaN is above all and equal to itself, -0.0 is below 0.0."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) - math.isnan(right)
    if left == right == 0.0:
        return (struct.pack(">d", left) < struct.pack(">d", right)) - (
            struct.pack(">d", left) > struct.pack(">d", right)
        )
    return (left > right) - (left < right)
