"""What every command shares: where results go, how errors look, and which exit status they have."""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from rocketmq_py.common.errors import RocketMQError

if TYPE_CHECKING:
    from rich.console import Console


class Exit(enum.IntEnum):
    """Exit statuses of `rmq-py`."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CANNOT_CONNECT = 4
    NOT_ALLOWED = 5
    SOME_FAILED = 6
    REFUSED = 7
    INTERRUPTED = 130


class CliError(RocketMQError):
    """A failure with an exit status of its own.

    Attributes:
        status: the exit status.
        next_step: what to do, possibly a command to copy.
    """

    def __init__(self, message: str, status: Exit = Exit.FAILURE, next_step: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.next_step = next_step


# Control characters of a message body could move the cursor or retitle the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return the text with control and direction characters written out, such as `\\x1b`."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


@dataclass(slots=True)
class Output:
    """Prints results: tables for people, JSON for programs.

    Attributes:
        as_json: print one JSON document, and nothing else, to standard output.
        verbose: show stack traces of errors.
    """

    as_json: bool = False
    verbose: bool = False

    @property
    def console(self) -> Console:
        """Standard output; colours only on a terminal."""
        return _console()

    def rows(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], empty: str = "nothing found") -> None:
        """Print a list: each row maps JSON names to values, of which `columns` are shown to people.

        A name that ends in `Ms` holds milliseconds since 1970; people see a date and a time instead.
        """
        if self.as_json:
            self.json({"items": list(rows), "errors": []})
        elif not rows:
            self.line(empty)
        else:
            from rich.table import Table

            titles = (column.removesuffix("Ms") for column in columns)
            table = Table(*titles, box=None, pad_edge=False, header_style="bold")
            for row in rows:
                table.add_row(*(printable(_for_people(column, row.get(column, ""))) for column in columns))
            console = self.console
            if not console.is_terminal:
                # A pipe has no width: a value is never cut for it.
                console = _console(width=4_000)
            console.print(table)

    def item(self, values: Mapping[str, Any]) -> None:
        """Print one thing: its names and values."""
        if self.as_json:
            self.json(values)
            return
        width = max((len(name) for name in values), default=0)
        for name, value in values.items():
            self.line(f"{name:<{width}}  {_for_people(name, value)}")

    def line(self, text: str) -> None:
        """Print one line for people; nothing in JSON mode."""
        if not self.as_json:
            self.console.print(printable(text), markup=False)

    def json(self, value: Any) -> None:
        """Print one JSON document."""
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def error(self, text: str, next_step: str = "") -> None:
        """Print what failed, and what to do next, to standard error."""
        if self.as_json:
            sys.stderr.write(msgspec.json.encode({"error": text, "next": next_step}).decode() + "\n")
            return
        console = _console(stderr=True)
        console.print("error:", style="bold red", end=" ")
        console.print(printable(text), markup=False)
        if next_step:
            console.print(printable(next_step), markup=False)


def _for_people(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if name.endswith("Ms") and isinstance(value, int):
        return datetime.fromtimestamp(value / 1_000).isoformat(" ", "milliseconds") if value > 0 else "-"
    return str(value)


def _console(*, width: int | None = None, stderr: bool = False) -> Console:
    # Imported here because a server that starts prints nothing through it.
    from rich.console import Console

    return Console(width=width, stderr=stderr, soft_wrap=True, highlight=False)


@contextmanager
def reporting(output: Output) -> Iterator[None]:
    """Turn the errors of a command into a message and an exit status; never a traceback unless asked for one."""
    try:
        yield
    except CliError as error:
        output.error(str(error), error.next_step)
        raise typer.Exit(error.status) from None
    except (RocketMQError, OSError) as error:
        if output.verbose:
            raise
        output.error(str(error))
        raise typer.Exit(_status_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def _status_of(error: Exception) -> Exit:
    if isinstance(error, ConnectionError | TimeoutError):
        return Exit.CANNOT_CONNECT
    return Exit.USAGE if isinstance(error, ValueError) else Exit.FAILURE


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        CliError: the answer is no, or there is no terminal to ask on and `--yes` was not given.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{question} There is no terminal to ask on.", Exit.REFUSED, "Add --yes to do it.")
    if not typer.confirm(question):
        raise CliError("Nothing was changed.", Exit.REFUSED)
