"""From the parse tree of a filter expression to the nodes of `expression.py`, with RocketMQ's checks of types.

Source: the actions of `SelectorParser.jj` and the `create` functions of `ComparisonExpression` and
`LogicExpression`, RocketMQ 5.3.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final, cast

from lark import Token
from lark.exceptions import VisitError
from lark.tree import Meta, Tree
from lark.visitors import Transformer_NonRecursive, v_args

from rocketmq_py.broker.filter.expression import (
    MAX_DEPTH,
    And,
    BooleanCast,
    BooleanLiteral,
    Condition,
    Equal,
    FilterExpressionError,
    In,
    Literal,
    Negative,
    Node,
    Not,
    Or,
    Order,
    Property,
    Search,
)
from rocketmq_py.broker.filter.values import Long, compare
from rocketmq_py.common.java import I32_MAX, I64_MAX

#: The smallest positive double; RocketMQ refuses literals below it, 0.0 among them.
MIN_DOUBLE: Final = 5e-324

_SEARCHES: Final[dict[str, Callable[[str, str], bool]]] = {
    "CONTAINS": operator.contains,
    "STARTSWITH": str.startswith,
    "ENDSWITH": str.endswith,
}


def build_expression(tree: Tree[Any]) -> Node:
    """Return the checked condition of a parse tree.

    Raises:
        FilterExpressionError: operands of types that an operator does not take, a number out of range, or a tree
            that is too high.
    """
    try:
        return cast(Node, _Builder().transform(tree))
    except VisitError as error:
        if isinstance(error.orig_exc, FilterExpressionError):
            raise error.orig_exc from None
        raise


@v_args(meta=True)
class _Builder(Transformer_NonRecursive[Any, Any]):
    """One method for each rule or alias of `sql.lark`; called from the leaves to the root."""

    # --- literals and names -------------------------------------------------------------------------------------------

    def integer(self, meta: Meta, children: list[Token]) -> Node:
        value = int(children[0].rstrip("lL"))
        if value > I64_MAX:
            raise _error(meta, f"the number {_shown(children[0])} does not fit 64 bits")
        return Literal(value if value <= I32_MAX else Long(value))

    def double(self, meta: Meta, children: list[Token]) -> Node:
        value = float(children[0])
        if not MIN_DOUBLE <= value < math.inf:
            raise _error(
                meta,
                f"the number {_shown(children[0])} is not within {MIN_DOUBLE}..1.8e308; write zero without a fraction",
            )
        return Literal(value)

    def text(self, meta: Meta, children: list[Token]) -> Node:
        return Literal(_unquote(children[0]))

    def true(self, meta: Meta, children: list[Token]) -> Node:
        return BooleanLiteral(True)

    def false(self, meta: Meta, children: list[Token]) -> Node:
        return BooleanLiteral(False)

    def null(self, meta: Meta, children: list[Token]) -> Node:
        return BooleanLiteral(None)

    def name(self, meta: Meta, children: list[Token]) -> Node:
        return Property(str(children[0]))

    # --- prefixes -----------------------------------------------------------------------------------------------------

    def positive(self, meta: Meta, children: list[Node]) -> Node:
        return children[0]

    def negative(self, meta: Meta, children: list[Node]) -> Node:
        return Negative(children[0], _above(meta, children[0]))

    def negation(self, meta: Meta, children: list[Any]) -> Node:
        operand = _condition(meta, children[-1])
        return Not(operand, _above(meta, operand))

    # --- comparisons --------------------------------------------------------------------------------------------------

    def greater(self, meta: Meta, children: list[Node]) -> Node:
        return _order(meta, children[0], children[1], operator.gt)

    def greater_equal(self, meta: Meta, children: list[Node]) -> Node:
        return _order(meta, children[0], children[1], operator.ge)

    def less(self, meta: Meta, children: list[Node]) -> Node:
        return _order(meta, children[0], children[1], operator.lt)

    def less_equal(self, meta: Meta, children: list[Node]) -> Node:
        return _order(meta, children[0], children[1], operator.le)

    def between(self, meta: Meta, children: list[Any]) -> Node:
        value, low, high = _nodes(children)
        if isinstance(low, Literal) and isinstance(high, Literal) and compare(low.value, high.value) > 0:
            raise _error(meta, f"BETWEEN {low.value} AND {high.value} is empty: its lower bound is above its upper one")
        return _all_of(meta, And, [_order(meta, value, low, operator.ge), _order(meta, value, high, operator.le)])

    def not_between(self, meta: Meta, children: list[Any]) -> Node:
        value, low, high = _nodes(children)
        return _all_of(meta, Or, [_order(meta, value, low, operator.lt), _order(meta, value, high, operator.gt)])

    def in_texts(self, meta: Meta, children: list[Any]) -> Node:
        return _in(meta, children, negated=False)

    def not_in_texts(self, meta: Meta, children: list[Any]) -> Node:
        return _in(meta, children, negated=True)

    def search(self, meta: Meta, children: list[Any]) -> Node:
        operand, word, text = children
        test = _SEARCHES[word.type.removeprefix("NOT_")]
        negated = word.type.startswith("NOT_")
        return Search(operand, _unquote(text), test, negated, _above(meta, operand))

    def equal(self, meta: Meta, children: list[Node]) -> Node:
        return _equal(meta, children[0], children[1])

    def not_equal(self, meta: Meta, children: list[Node]) -> Node:
        equal = _equal(meta, children[0], children[1])
        return Not(equal, _above(meta, equal))

    def is_null(self, meta: Meta, children: list[Any]) -> Node:
        return Equal(children[0], BooleanLiteral(None), _above(meta, children[0]))

    def is_not_null(self, meta: Meta, children: list[Any]) -> Node:
        equal = self.is_null(meta, children)
        return Not(equal, _above(meta, equal))

    # --- logic --------------------------------------------------------------------------------------------------------

    def and_condition(self, meta: Meta, children: list[Any]) -> Node:
        return _all_of(meta, And, [_condition(meta, node) for node in _nodes(children)])

    def or_condition(self, meta: Meta, children: list[Any]) -> Node:
        return _all_of(meta, Or, [_condition(meta, node) for node in _nodes(children)])

    def start(self, meta: Meta, children: list[Node]) -> Node:
        return _condition(meta, children[0])


def _nodes(children: list[Any]) -> list[Node]:
    return [child for child in children if not isinstance(child, Token)]


def _error(meta: Meta, reason: str) -> FilterExpressionError:
    return FilterExpressionError(meta.start_pos + 1, reason)


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


def _unquote(token: str) -> str:
    return token[1:-1].replace("''", "'")


def _above(meta: Meta, *operands: Node) -> int:
    depth = max(operand.depth for operand in operands) + 1
    if depth > MAX_DEPTH:
        raise _error(meta, f"more than {MAX_DEPTH} operators stand in one another; make the expression flatter")
    return depth


def _condition(meta: Meta, node: Node) -> Node:
    """Return the node as a condition; a bare name is cast."""
    if isinstance(node, Condition):
        return cast(Node, node)
    if isinstance(node, Property):
        return BooleanCast(node)
    what = f"the literal {node.value!r}" if isinstance(node, Literal) else "a number"
    raise _error(meta, f"a condition is needed here (a comparison, TRUE, FALSE, NULL or a name), found {what}")


def _order(meta: Meta, left: Node, right: Node, accepts: Callable[[int, int], bool]) -> Node:
    for side in (left, right):
        if isinstance(side, Condition):
            raise _error(meta, "a condition or boolean cannot be compared by >, >=, <, <= or BETWEEN; compare numbers")
        if isinstance(side, Literal) and isinstance(side.value, str):
            raise _error(
                meta,
                f"the text {_shown(side.value)!r} cannot be compared by >, >=, <, <= or BETWEEN; write the number "
                "without quotes",
            )
    return Order(left, right, accepts, _above(meta, left, right))


def _equal(meta: Meta, left: Node, right: Node) -> Node:
    for side in (left, right):
        if isinstance(side, BooleanLiteral) and side.value is None:
            raise _error(meta, "nothing equals NULL; write IS NULL or IS NOT NULL")
    if isinstance(left, BooleanLiteral) and isinstance(right, Literal):
        raise _error(meta, f"a boolean cannot be compared with the literal {right.value!r}")
    return Equal(left, right, _above(meta, left, right))


def _in(meta: Meta, children: list[Any], *, negated: bool) -> Node:
    operand = children[0]
    if not isinstance(operand, Property):
        raise _error(meta, "IN needs the name of a property on its left")
    texts = frozenset(_unquote(child) for child in children[1:] if child.type == "STRING")
    return In(operand, texts, negated)


def _all_of(meta: Meta, kind: type[And] | type[Or], operands: list[Node]) -> Node:
    # A chain of the same operator becomes one flat node: a filter with a thousand ORs is long, not deep.
    flat: list[Node] = []
    for operand in operands:
        flat.extend(operand.operands if isinstance(operand, kind) else (operand,))
    return kind(tuple(flat), _above(meta, *flat))
