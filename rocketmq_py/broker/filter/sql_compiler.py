"""Compiles filter expressions and remembers the results: clients send the same few texts again and again.

Source: `FilterFactory`, `SelectorParser#PARSE_CACHE`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from rocketmq_py.broker.filter.expression import FilterExpressionError, SqlExpression

#: How many compiled expressions (and failures) are kept. 100 is the size of RocketMQ's cache.
CACHE_SIZE: Final = 100


class SqlCompiler:
    """Compiles expressions and remembers the last results, failures too."""

    def __init__(self, cache_size: int = CACHE_SIZE) -> None:
        self._cache_size = cache_size
        self._cache: OrderedDict[str, SqlExpression | FilterExpressionError] = OrderedDict()

    def compile(self, text: str) -> SqlExpression:
        """Return the compiled expression.

        Raises:
            FilterExpressionError: it breaks the grammar, a rule of types, or a limit.
        """
        # Imported with the first expression: the parser takes 0.1 s to load, and most brokers never see SQL92.
        from rocketmq_py.broker.filter.sql_parser import compile_sql

        result = self._cache.get(text)
        if result is None:
            try:
                result = compile_sql(text)
            except FilterExpressionError as error:
                result = error
            self._cache[text] = result
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(text)
        if isinstance(result, FilterExpressionError):
            raise FilterExpressionError(result.position, result.reason)
        return result
