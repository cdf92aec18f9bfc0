"""The tree of a compiled filter expression, and its evaluation in SQL's three-valued logic.

Each node evaluates to a value for the properties of one message. Conditions are True, False or None (unknown). What a
node may be built of was checked by the compiler (`sql_compiler.py`); nodes only compute. A tree is at most
`MAX_DEPTH` high, so evaluation by recursion is safe.

Source: `LogicExpression`, `ComparisonExpression`, `UnaryExpression`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from rocketmq_py.broker.filter.values import EvaluationError, Long, Properties, Value, compare, compare_as_doubles
from rocketmq_py.common.errors import InvalidInputError

#: The text that RocketMQ's clients know; the cause follows it.
ERROR_PREFIX: Final = "Invalid MessageSelector. "

#: Parentheses and operators in one another, at most.
MAX_DEPTH: Final = 64


class FilterExpressionError(InvalidInputError):
    """An expression cannot be compiled; RocketMQ's code for it is SUBSCRIPTION_PARSE_FAILED (23).

    Attributes:
        position: where in the text, counted in characters from 1.
        reason: what is wrong there.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"{ERROR_PREFIX}At position {position}: {reason}")
        self.position = position
        self.reason = reason


class Node(Protocol):
    """A part of an expression."""

    @property
    def depth(self) -> int:
        """How many nodes lie on the longest way down, this one included."""
        ...

    def evaluate(self, properties: Properties) -> Value:
        """Return the value for one message.

        Raises:
            EvaluationError: values that cannot be compared met.
        """
        ...


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, text, boolean or NULL that stands in the expression."""

    value: Value
    depth: int = 1

    def evaluate(self, properties: Properties) -> Value:
        return self.value


@dataclass(frozen=True, slots=True)
class Property:
    """A name: the text of that property, or None if the message has none."""

    name: str
    depth: int = 1

    def evaluate(self, properties: Properties) -> Value:
        return properties.get(self.name)


class Condition:
    """Base of the nodes whose value is True, False or None; only they can be operands of AND, OR and NOT."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class BooleanLiteral(Condition):
    """TRUE, FALSE or NULL."""

    value: bool | None
    depth: int = 1

    def evaluate(self, properties: Properties) -> Value:
        return self.value


@dataclass(frozen=True, slots=True)
class BooleanCast(Condition):
    """A bare name used as a condition: unknown if the property is absent, else false, as properties are texts."""

    operand: Property
    depth: int = 2

    def evaluate(self, properties: Properties) -> Value:
        return None if self.operand.evaluate(properties) is None else False


@dataclass(frozen=True, slots=True)
class And(Condition):
    """False as soon as one operand is false; else unknown if one is; else true."""

    operands: tuple[Node, ...]
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        result: bool | None = True
        for operand in self.operands:
            value = operand.evaluate(properties)
            if value is False:
                return False
            if value is None:
                result = None
        return result


@dataclass(frozen=True, slots=True)
class Or(Condition):
    """True as soon as one operand is true; else unknown if one is; else false."""

    operands: tuple[Node, ...]
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        result: bool | None = False
        for operand in self.operands:
            value = operand.evaluate(properties)
            if value is True:
                return True
            if value is None:
                result = None
        return result


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """The negation; unknown stays unknown."""

    operand: Node
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        value = self.operand.evaluate(properties)
        return None if value is None else value is False


@dataclass(frozen=True, slots=True)
class Equal(Condition):
    """`left = right`. Not symmetric about absent values, as in RocketMQ: see the table in the chapter."""

    left: Node
    right: Node
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        left = self.left.evaluate(properties)
        right = self.right.evaluate(properties)
        if left is None:
            return True if right is None else None
        if right is None:
            return False
        return compare(left, right) == 0


@dataclass(frozen=True, slots=True)
class Order(Condition):
    """`>`, `>=`, `<`, `<=`: unknown if a side is absent."""

    left: Node
    right: Node
    accepts: Callable[[int, int], bool]
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        left = self.left.evaluate(properties)
        right = self.right.evaluate(properties)
        if left is None or right is None:
            return None
        if isinstance(left, str) and isinstance(right, str):
            return self.accepts(compare_as_doubles(left, right), 0)
        return self.accepts(compare(left, right), 0)


@dataclass(frozen=True, slots=True)
class In(Condition):
    """`name [NOT] IN ('a', 'b')`: unknown if the property is absent."""

    operand: Property
    texts: frozenset[str]
    negated: bool
    depth: int = 2

    def evaluate(self, properties: Properties) -> Value:
        value = self.operand.evaluate(properties)
        return None if value is None else (value in self.texts) is not self.negated


@dataclass(frozen=True, slots=True)
class Search(Condition):
    """`x [NOT] CONTAINS | STARTSWITH | ENDSWITH 'text'`.

    False, negated or not, if the text searched for is empty or the value is absent or no text.
    """

    operand: Node
    text: str
    test: Callable[[str, str], bool]
    negated: bool
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        value = self.operand.evaluate(properties)
        if not self.text or not isinstance(value, str):
            return False
        return self.test(value, self.text) is not self.negated


@dataclass(frozen=True, slots=True)
class Negative:
    """`-x`: unknown unless x is a number, and properties never are."""

    operand: Node
    depth: int

    def evaluate(self, properties: Properties) -> Value:
        value = self.operand.evaluate(properties)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return Long(-value) if isinstance(value, Long) else -value


@dataclass(frozen=True, slots=True)
class SqlExpression:
    """A compiled expression.

    Attributes:
        text: as the client wrote it.
        condition: the tree.
    """

    text: str
    condition: Node

    def evaluate(self, properties: Properties) -> bool | None:
        """Return true, false or unknown (None).

        Raises:
            EvaluationError: values that cannot be compared met.
        """
        value = self.condition.evaluate(properties)
        assert value is None or isinstance(value, bool)
        return value

    def matches(self, properties: Properties) -> bool:
        """Tell whether a message with these properties is wanted; unknown and incomparable mean no."""
        try:
            return self.evaluate(properties) is True
        except EvaluationError:
            return False
