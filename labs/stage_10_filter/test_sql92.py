"""The language of filter expressions: what is accepted, what it means, and how hostile texts end."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.broker.filter.expression import FilterExpressionError
from rocketmq_py.broker.filter.sql_compiler import SqlCompiler
from rocketmq_py.broker.filter.sql_parser import MAX_SIZE, MAX_TERMS, compile_sql
from rocketmq_py.broker.filter.values import EvaluationError

ORDER = {"a": "7", "price": "12.5", "colour": "red", "big": "3000000000", "flag": "TrUe", "empty": " "}


@pytest.mark.claim("flt-01")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BETWEEN 5 AND 7", True),
        ("a BETWEEN 8 AND 9", False),
        ("a NOT BETWEEN 8 AND 9", True),
        ("colour IN ('blue', 'red')", True),
        ("colour NOT IN ('blue', 'red')", False),
        ("missing IS NULL", True),
        ("a IS NULL", False),
        ("a IS NOT NULL", True),
        ("a > 6 AND colour = 'red'", True),
        ("a > 7 OR colour <> 'blue'", True),
        ("NOT (a >= 8)", True),
        ("price > 12.4 AND price < 12.6", True),
        ("a <= 7 AND a >= 7", True),
        ("flag = TRUE", True),
        ("a = 7 OR a = 8 AND colour = 'blue'", True),
        ("(a = 7 OR a = 8) AND colour = 'blue'", False),
        ("colour CONTAINS 'e' AND colour STARTSWITH 're' AND colour NOT ENDSWITH 'x'", True),
    ],
)
def test_sql92_expressions_choose_by_the_properties_of_a_message(text: str, expected: bool) -> None:
    """Claim: SQL92 expressions over message properties filter: BETWEEN, IN, IS NULL, comparisons, AND, OR, NOT.

    Experiment: evaluate each form on one message.
    Observe: the answer that SQL gives; AND binds tighter than OR.
    """
    assert compile_sql(text).matches(ORDER) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unknown on the left is unknown; unknown on the right alone is not: RocketMQ's rule, not SQL's.
        ("missing = a", None),
        ("a = missing", False),
        ("missing <> a", None),
        ("a <> missing", True),
        ("missing = other", True),
        ("missing > 5", None),
        ("missing IN ('x')", None),
        ("missing NOT IN ('x')", None),
        ("NOT missing", None),
        ("missing", None),
        ("a", False),
        ("missing > 5 AND a = 8", False),
        ("missing > 5 AND a = 7", None),
        ("missing > 5 OR a = 7", True),
        ("missing > 5 OR a = 8", None),
        ("TRUE AND NULL", None),
        ("FALSE AND NULL", False),
        ("TRUE OR NULL", True),
        ("FALSE OR NULL", None),
        ("missing CONTAINS 'x'", False),
        ("missing NOT CONTAINS 'x'", False),
        ("colour NOT CONTAINS ''", False),
        ("-a = 7", None),
        ("-5 < 3", True),
        ("+a = 7", True),
    ],
)
def test_logic_has_three_values(text: str, expected: bool | None) -> None:
    expression = compile_sql(text)
    assert expression.evaluate(ORDER) is expected
    assert expression.matches(ORDER) is (expected is True)


@pytest.mark.parametrize(
    "text",
    [
        "price = 12",  # '12.5' is no 32-bit integer
        "big > 5",  # nor is a number beyond 32 bits
        "colour > 5",
        "empty = 5",  # no blanks round an integer
        "colour > price",  # two texts are compared as doubles
        "TRUE = flag",  # Java casts the wrong side
    ],
)
def test_values_that_cannot_be_compared_match_nothing_not_even_negated(text: str) -> None:
    with pytest.raises(EvaluationError):
        compile_sql(text).evaluate(ORDER)
    assert not compile_sql(text).matches(ORDER)
    assert not compile_sql(f"NOT ({text})").matches(ORDER)


@pytest.mark.parametrize(
    ("text", "properties"),
    [
        ("big > 2147483648", {"big": "3000000000"}),  # a literal beyond 32 bits reads the text as 64 bits
        ("big > 5.5", {"big": "3000000000"}),  # or as a double
        ("x > 1.5", {"x": " 2.5e0d "}),  # Java's doubles allow blanks, exponent and suffix
        ("x > 1e300", {"x": "Infinity"}),
        ("x > y", {"x": "10", "y": "9"}),  # as numbers, not as texts
        ("x = '1'", {"x": "1"}),
        ("NOT (x = '1.0')", {"x": "1"}),  # texts are equal as texts
        ("5 = 5.0e0", {}),
        ("9223372036854775807 > 5", {}),
        ("5L = 5", {}),
        ("a$ < 5", {"a$": "4"}),
        ("name = 'it''s'", {"name": "it's"}),
        ("nOt x iS nUlL Or x is NULL", {}),
        ("TAGS = 'A' AND KEYS = 'k1 k2'", {"TAGS": "A", "KEYS": "k1 k2"}),
        ("a = 1 -- a comment\n AND b = 2", {"a": "1", "b": "2"}),
        ("a /* x */ not /* * / ** */ between 1 and 3", {"a": "4"}),
        ("a IS NULL = TRUE", {}),
    ],
)
def test_numbers_names_and_comments_are_read_as_java_reads_them(text: str, properties: dict[str, str]) -> None:
    assert compile_sql(text).matches(properties)


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("a = 1 b > 2", "a = 1"),
        ("a = 007", "a = 0"),
        ("a = 1 )", "a = 1"),
        ("a = 1 NOT b", "a = 1"),
        ("a = 1 'text' #", "a = 1"),
    ],
)
def test_reading_ends_at_the_first_word_that_does_not_continue(text: str, same_as: str) -> None:
    assert compile_sql(text).condition == compile_sql(same_as).condition


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 1, "found the end"),
        ("a = ", 5, "found the end"),
        ("a = 1 OR", 9, "found the end"),
        ("(a = 1", 7, "expected one of"),
        ("a IN ()", 7, "a text in quotes"),
        ("a IS 5", 6, "NOT, NULL"),
        ("a = #", 5, "begins no word"),
        ("a != 5", 3, "begins no word"),
        ("a = 'open", 5, "begins no word"),
        ("a LIKE 'x'", None, None),  # a bare name, and the rest is ignored
        ("a > '5'", 1, "without quotes"),
        ("a > TRUE", 1, "compare numbers"),
        ("a BETWEEN '1' AND '5'", 1, "without quotes"),
        ("a BETWEEN 9 AND 1", 1, "lower bound"),
        ("a = NULL", 1, "IS NULL"),
        ("NULL <> a", 1, "IS NULL"),
        ("TRUE = 5", 1, "boolean"),
        ("5", 1, "condition"),
        ("'x'", 1, "condition"),
        ("-a", 1, "condition"),
        ("a AND 5", 1, "condition"),
        ("NOT 5", 1, "condition"),
        ("NOT a IN ('x')", 1, "IN needs the name"),
        ("5 IN ('x')", 1, "IN needs the name"),
        ("a = 9223372036854775808", 5, "64 bits"),
        ("a = 0.0", 5, "write zero"),
        ("a = 1e400", 5, "not within"),
        ("(a > 1) > 2", 1, "compare numbers"),
    ],
)
def test_errors_say_where_and_why(text: str, position: int | None, reason: str | None) -> None:
    if position is None:
        assert compile_sql(text).evaluate({"a": "x"}) is False
        return
    with pytest.raises(FilterExpressionError, match=r"^Invalid MessageSelector\. At position") as caught:
        compile_sql(text)
    assert caught.value.position == position
    assert str(reason) in caught.value.reason


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("(" * 100_000, MAX_SIZE + 1),
        ("x" * (1 << 20), MAX_SIZE + 1),
        ("é" * 5_000, MAX_SIZE + 1),
        ("(" * 8_000, 65),
        ("- " * 4_000 + "a", 129),
        ("NOT " * 2_000 + "a", 257),
        (" OR ".join(["a"] * (MAX_TERMS + 1)), MAX_TERMS * 5 + 1),
        ("a IN (" + ",".join(["'x'"] * MAX_TERMS) + ")", 6 + 4 * (MAX_TERMS - 1) + 1),
        (" = ".join(["a"] * 500), 1),
        ("/*" * 4_000, 6),
    ],
)
def test_hostile_texts_end_at_a_limit_and_quickly(text: str, position: int) -> None:
    compile_sql("a = 1")  # the parser is there
    began = time.process_time()
    with pytest.raises(FilterExpressionError) as caught:
        compile_sql(text)
    assert caught.value.position == position
    # 50 ms on a quiet machine; ten times that leaves room for a busy one.
    assert time.process_time() - began < 0.5


def test_a_thousand_conditions_are_long_but_not_deep() -> None:
    text = " OR ".join(f"a={number}" for number in range(500))
    expression = compile_sql(text)
    assert expression.matches({"a": "499"})
    assert not expression.matches({"a": "500"})


def test_results_and_failures_are_remembered() -> None:
    compiler = SqlCompiler(cache_size=2)
    first = compiler.compile("a = 1")
    assert compiler.compile("a = 1") is first
    for _ in range(2):
        with pytest.raises(FilterExpressionError):
            compiler.compile("a =")
    compiler.compile("b = 2")
    assert compiler.compile("a = 1") is not first, "the cache holds two; the oldest of three had to go"


names = st.sampled_from(["a", "b", "c"])
values = st.none() | st.sampled_from(["0", "5", "-3", "7.5", "x", "", "true"])


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    """Random conditions built of comparisons with literals."""
    if depth == 0 or draw(st.booleans()):
        name = draw(names)
        form = draw(st.sampled_from(["{} = 5", "{} <> 'x'", "{} IN ('x','5')", "{} IS NULL", "{} > 1", "{} = TRUE"]))
        return form.format(name)
    left, right = draw(conditions(depth - 1)), draw(conditions(depth - 1))
    return draw(st.sampled_from([f"({left} AND {right})", f"({left} OR {right})", f"(NOT ({left}))"]))


def _evaluate(text: str, properties: dict[str, str]) -> bool | str | None:
    try:
        return compile_sql(text).evaluate(properties)
    except EvaluationError:
        return "error"


@given(left=conditions(), right=conditions(), data=st.dictionaries(names, values, max_size=3))
def test_logic_follows_the_truth_tables(left: str, right: str, data: dict[str, str | None]) -> None:
    properties = {name: value for name, value in data.items() if value is not None}
    a, b = _evaluate(left, properties), _evaluate(right, properties)
    both = _evaluate(f"({left}) AND ({right})", properties)
    either = _evaluate(f"({left}) OR ({right})", properties)
    negated = _evaluate(f"NOT ({left})", properties)
    if a == "error":
        assert both == either == negated == "error"
        return
    assert negated == (None if a is None else not a)
    if a is False:
        assert both is False
    elif b == "error":
        assert both == "error"
    else:
        assert both is (False if b is False else None if a is None or b is None else True)
    if a is True:
        assert either is True
    elif b == "error":
        assert either == "error"
    else:
        assert either is (True if b is True else None if a is None or b is None else False)
