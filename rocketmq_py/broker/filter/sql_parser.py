"""From the text of a filter expression to a tree that can be evaluated, or an error that says where and why.

The grammar is `sql.lark`; lark's LALR parser reduces without recursion, and the nodes are built and checked as rules
are reduced. As in RocketMQ, parsing ends at the first token that cannot continue the expression, and what follows is
ignored: `a = 1 b > 2` means `a = 1`.

An expression comes from a stranger and is bounded before and while it is read.

Source: `SelectorParser`, `SqlFilter`, RocketMQ 5.3.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable, Iterator
from typing import Any, Final

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from rocketmq_py.broker.filter.expression import MAX_DEPTH, FilterExpressionError, SqlExpression
from rocketmq_py.broker.filter.sql_builder import build_expression

#: Longest expression in bytes of UTF-8.
MAX_SIZE: Final = 8_192
#: Most names and literals in an expression.
MAX_TERMS: Final = 1_024
#: Keywords that form one token with a NOT before them.
_AFTER_NOT: Final = frozenset(("BETWEEN", "IN", "CONTAINS", "STARTSWITH", "ENDSWITH"))
_KEYWORDS: Final = _AFTER_NOT | {"OR", "AND", "IS", "NOT", "NULL", "TRUE", "FALSE"}
_TERMS: Final = frozenset(("NAME", "STRING", "INTEGER", "FLOAT", "TRUE", "FALSE", "NULL"))
_PREFIXES: Final = frozenset(("NOT", "PLUS", "MINUS"))

#: Names of the grammar's tokens for people.
_READABLE: Final = {
    "NAME": "a name",
    "STRING": "a text in quotes",
    "INTEGER": "an integer",
    "FLOAT": "a decimal number",
    "LPAR": "(",
    "RPAR": ")",
    "PLUS": "+",
    "MINUS": "-",
    "COMMA": ",",
    "$END": "the end",
}


def compile_sql(text: str) -> SqlExpression:
    """Compile one expression.

    Raises:
        FilterExpressionError: it breaks the grammar, a rule of types, or a limit.
    """
    size = len(text.encode("utf-8", "surrogatepass")) if len(text) <= MAX_SIZE else len(text)
    if size > MAX_SIZE:
        reason = f"the expression has {size} bytes, at most {MAX_SIZE} are allowed; narrow the filter"
        raise FilterExpressionError(MAX_SIZE + 1, reason)
    # Any: lark types its interactive parser only in part.
    parser: Any = _grammar().parse_interactive(text)
    limits = _Limits()
    stopped_at: Token | None = None
    try:
        for token in _tokens(parser.lexer_thread.lex(parser.parser_state)):
            limits.check(token)
            stopped_at = token
            parser.feed_token(token)
            stopped_at = None
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        raise FilterExpressionError(at + 1, f"{text[at]!r} begins no word of the language") from None
    except UnexpectedToken:
        pass
    try:
        # The token that could not continue the expression ends it, if what was read so far is whole.
        tree = parser.feed_eof()
    except UnexpectedToken:
        raise _syntax_error(text, stopped_at, parser.accepts()) from None
    return SqlExpression(text, build_expression(tree))


class _Limits:
    """Stops an expression that is too long or too deep while it is read, before anything is built of it."""

    def __init__(self) -> None:
        self._terms = 0
        self._parentheses = 0
        self._prefixes = 0

    def check(self, token: Token) -> None:
        kind = token.type
        self._terms += kind in _TERMS
        self._parentheses += (kind == "LPAR") - (kind == "RPAR")
        self._prefixes = self._prefixes + 1 if kind in _PREFIXES else 0
        at = (token.start_pos or 0) + 1
        if self._terms > MAX_TERMS:
            raise FilterExpressionError(at, f"more than {MAX_TERMS} names and literals; narrow the filter")
        if self._parentheses + self._prefixes > MAX_DEPTH:
            raise FilterExpressionError(at, f"more than {MAX_DEPTH} parentheses and signs stand in one another")


def _tokens(lexed: Iterable[Token]) -> Iterator[Token]:
    """Turn names that are keywords into these, and join NOT with a BETWEEN, IN and the like behind it.

    Reads one token further than it yields only behind a NOT: what follows the end of an expression must not matter.
    """
    waiting: Token | None = None
    for token in lexed:
        if token.type == "NAME" and token.upper() in _KEYWORDS:
            token = Token.new_borrow_pos(token.upper(), token, token)
        if waiting is not None:
            if token.type in _AFTER_NOT:
                yield Token.new_borrow_pos(f"NOT_{token.type}", token, waiting)
                waiting = None
                continue
            yield waiting
            waiting = None
        if token.type == "NOT":
            waiting = token
        else:
            yield token
    if waiting is not None:
        yield waiting


def _syntax_error(text: str, found: Token | None, accepts: Iterable[str]) -> FilterExpressionError:
    expected = ", ".join(sorted(_READABLE.get(name, name) for name in accepts))
    at = len(text) if found is None or found.start_pos is None else found.start_pos
    what = "the end" if found is None else repr(str(found)[:40])
    return FilterExpressionError(at + 1, f"found {what}, expected one of {expected}")


@functools.cache
def _grammar() -> Lark:
    """Return the parser, made when the first expression comes: it takes some 30 ms, which a start need not spend."""
    text = importlib.resources.files("rocketmq_py.broker.filter").joinpath("sql.lark").read_text("utf-8")
    return Lark(text, parser="lalr", lexer="basic", propagate_positions=True)
