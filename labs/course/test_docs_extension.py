"""Pages quote code by symbol: what they show is what the module says, and a wrong reference stops the build."""

from __future__ import annotations

from pathlib import Path

import markdown
import pytest

from rocketmq_py.common.record import HEAD_LAYOUT
from rocketmq_py.course.docs_extension import QuoteExtension, quote_code
from rocketmq_py.course.manifest import project_root

ROOT = project_root(Path(__file__).resolve())


def render(text: str) -> str:
    return markdown.markdown(text, extensions=[QuoteExtension(), "fenced_code", "tables"])


def test_a_quoted_function_is_the_source_with_its_line() -> None:
    lines = quote_code(ROOT, "rocketmq_py/common/java.py#string_hash")
    source = (ROOT / "rocketmq_py/common/java.py").read_text("utf-8").splitlines()
    first = source.index("def string_hash(text: str) -> int:") + 1
    assert f'title="rocketmq_py/common/java.py, line {first}"' in lines[1]
    assert lines[2] == "def string_hash(text: str) -> int:"
    assert lines[-3].strip().startswith("return")


def test_a_quoted_method_loses_its_indentation_and_keeps_its_decorator() -> None:
    lines = quote_code(ROOT, "rocketmq_py/common/message.py#Message.of")
    assert lines[2] == "@classmethod"
    assert lines[3].startswith("def of(")


def test_a_layout_is_drawn_with_every_field_and_its_offset() -> None:
    page = render("[[layout: rocketmq_py.common.record:HEAD_LAYOUT]]")
    for offset, field in HEAD_LAYOUT.placed():
        assert f"<td><code>{offset}</code></td><td><code>{field.size}</code></td><td><code>{field.name}</code>" in page


@pytest.mark.parametrize(
    ("directive", "named"),
    [
        ("[[code: rocketmq_py/common/java.py#no_such_function]]", "no_such_function"),
        ("[[code: rocketmq_py/common/no_such_file.py]]", "no_such_file"),
        ("[[layout: rocketmq_py.common.record:NO_LAYOUT]]", "NO_LAYOUT"),
        ("[[layout: rocketmq_py.common.record:MAGIC_V1]]", "no Layout"),
    ],
)
def test_a_reference_to_nothing_is_an_error(directive: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        render(directive)


def test_a_directive_inside_a_fence_is_left_alone() -> None:
    assert "[[code: a#b]]" in render("```\n[[code: a#b]]\n```")
