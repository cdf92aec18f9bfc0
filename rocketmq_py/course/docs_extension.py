"""A Python-Markdown extension that quotes code, draws byte layouts and lists claims, so that pages cannot drift.

Three forms, each on a line of its own:

    [[code: rocketmq_py/store/commit_log.py#CommitLog.append]]    a function, class or method; without `#...` the file
    [[layout: rocketmq_py.common.record:HEAD_LAYOUT]]             the bytes of a `Layout`
    [[claims]] or [[claims: index]]                               the claims, or those of one stage

A symbol or file that does not exist is an error: a strict docs build stops there.
"""

from __future__ import annotations

import ast
import html
import importlib
import re
from pathlib import Path
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.layout import Layout
from rocketmq_py.course.claims import labs_by_claim, load_claims
from rocketmq_py.course.manifest import project_root

_DIRECTIVE = re.compile(r"^\[\[(code|layout|claims)(?::\s*(.+?))?\]\]\s*$")
#: Bytes in one row of a layout figure.
_ROW = 16


class QuoteExtension(Extension):
    """Installs the preprocessor; name it in `mkdocs.yml`."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register before the fenced code blocks are read, since a quotation becomes one."""
        md.preprocessors.register(_Quotes(md, project_root()), "rocketmq_py_quotes", 40)


class _Quotes(Preprocessor):
    def __init__(self, md: Markdown, root: Path) -> None:
        super().__init__(md)
        self._root = root

    def run(self, lines: list[str]) -> list[str]:
        result: list[str] = []
        fenced = False
        for line in lines:
            fenced ^= line.lstrip().startswith(("```", "~~~"))
            match = None if fenced else _DIRECTIVE.match(line)
            result.extend(self._expand(match.group(1), match.group(2) or "") if match else [line])
        return result

    def _expand(self, kind: str, argument: str) -> list[str]:
        if kind == "code":
            return quote_code(self._root, argument)
        if kind == "layout":
            return draw_layout(argument)
        return list_claims(self._root, argument)


def quote_code(root: Path, reference: str) -> list[str]:
    """Return a fenced block with the source of `path#Symbol.name`, headed by file and line.

    Raises:
        InvalidInputError: there is no such file or symbol.
    """
    path, _, symbol = reference.partition("#")
    file = root / path
    if not file.is_file():
        raise InvalidInputError(f"[[code: {reference}]]: there is no file {path}")
    source = file.read_text("utf-8")
    lines = source.splitlines()
    first, last = _span(ast.parse(source), symbol, reference) if symbol else (1, len(lines))
    body = lines[first - 1 : last]
    indent = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    language = "python" if file.suffix == ".py" else "text"
    return [
        "",
        f'```{language} title="{path}, line {first}" linenums="{first}"',
        *(line[indent:] for line in body),
        "```",
        "",
    ]


def _span(tree: ast.AST, symbol: str, reference: str) -> tuple[int, int]:
    node: Any = tree
    for name in symbol.split("."):
        for child in ast.iter_child_nodes(node):
            if _defines(child, name):
                node = child
                break
        else:
            raise InvalidInputError(f"[[code: {reference}]]: there is no {name!r}")
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]), node.end_lineno


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name


def draw_layout(reference: str) -> list[str]:
    """Return an HTML figure of a `Layout` named `module:NAME`: a row of 16 bytes, then a table of the fields.

    Raises:
        InvalidInputError: there is no such layout.
    """
    module, _, name = reference.partition(":")
    try:
        layout = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidInputError(f"[[layout: {reference}]]: {error}") from None
    if not isinstance(layout, Layout):
        raise InvalidInputError(f"[[layout: {reference}]]: {name} is no Layout")
    cells = [
        cell
        for index, (offset, field) in enumerate(layout.placed())
        for cell in _cells(index, offset, field.size, field.name)
    ]
    rows = [
        f"<tr><td><code>{offset}</code></td><td><code>{field.size}</code></td><td><code>{html.escape(field.name)}</code></td>"
        f"<td>{html.escape(field.meaning)}</td></tr>"
        for offset, field in layout.placed()
    ]
    return [
        "",
        f'<figure class="layout"><figcaption>{html.escape(layout.name)}: {layout.size} bytes, big-endian</figcaption>'
        f'<div class="layout-bytes" aria-hidden="true">{"".join(cells)}</div>'
        "<table><thead><tr><th>Offset</th><th>Size</th><th>Field</th><th>Meaning</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></figure>",
        "",
    ]


def _cells(index: int, offset: int, size: int, name: str) -> list[str]:
    """Return the boxes of one field, cut where a row of the figure ends."""
    cells: list[str] = []
    title = html.escape(name)
    while size > 0:
        width = min(size, _ROW - offset % _ROW)
        kind, style, label = f"layout-field layout-{index % 6}", f"grid-column: span {width}", "…" if cells else title
        cells.append(f'<span class="{kind}" style="{style}" title="{title}">{label}</span>')
        offset, size = offset + width, size - width
    return cells


def list_claims(root: Path, stage: str) -> list[str]:
    """Return a Markdown table of claims with verdict and labs; of one stage, or of all that have a lab."""
    labs = labs_by_claim(root)
    rows = []
    for claim in load_claims(root):
        if stage and claim.stage != stage:
            continue
        shown = "<br>".join(f"`{lab.file}`: {lab.sentence}" for lab in labs.get(claim.id, []))
        rows.append(f"| {claim.id} | {claim.text} | {claim.verdict} | {shown or 'not built yet'} |")
    return ["", "| Claim | What it says | Verdict | Shown by |", "|---|---|---|---|", *rows, ""]


def makeExtension(**_: Any) -> QuoteExtension:
    """Entry point of Python-Markdown."""
    return QuoteExtension()
