"""The rules that make a broker repeatable, read from the source: the outside world comes in through seams only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocketmq_py.course.manifest import project_root

ROOT = project_root(Path(__file__).resolve())
#: Layers that run unchanged in the simulation; `cli`, `course`, `sim` and `testing` stand outside it.
LAYERS = ("common", "store", "remoting", "namesrv", "broker", "client", "assembly")

#: Calls that reach past the seams, by module; a star stands for every name of the module.
FORBIDDEN = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "random": {"*"},
    "secrets": {"*"},
    "uuid": {"*"},
    "socket": {"*"},
    "ssl": {"*"},
    "threading": {"*"},
    "concurrent": {"*"},
    "subprocess": {"*"},
    "signal": {"*"},
    "tempfile": {"*"},
    "shutil": {"*"},
    "mmap": {"*"},
    "os": {
        *("open", "close", "pread", "preadv", "pwrite", "read", "write", "fsync", "fdatasync", "sync", "ftruncate"),
        *("truncate", "posix_fallocate", "replace", "rename", "unlink", "remove", "stat", "fstat", "listdir"),
        *("scandir", "makedirs", "mkdir", "rmdir", "urandom", "system", "fork", "kill", "statvfs"),
    },
    "asyncio": {"wait_for", "all_tasks", "to_thread", "TaskGroup", "new_event_loop", "run"},
}
FORBIDDEN_BUILTINS = {"open", "id", "hash", "input"}
FORBIDDEN_METHODS = {"run_in_executor"}

#: The seams themselves, and what a module may do nevertheless, with the reason.
ALLOWED = {
    ("common/environment.py", "time.time_ns"): "the clock of production",
    ("common/environment.py", ".run_in_executor"): "the one way to a thread",
    ("client/blocking.py", "asyncio.all_tasks"): "ends what is left on the loop that the blocking facade owns",
    ("client/blocking.py", "asyncio.new_event_loop"): "the blocking facade owns a loop in a thread",
    ("client/blocking.py", "threading.*"): "the blocking facade owns a loop in a thread",
    ("client/listener_calls.py", "concurrent.*"): "listeners are the user's blocking code, in the user's threads",
    ("client/listener_calls.py", ".run_in_executor"): "listeners are the user's blocking code, in the user's threads",
    ("client/instance.py", "socket.*"): "asks the system for this machine's address once, unless `client_ip` is set",
    ("common/file_system.py", "*"): "the disk of production",
    ("remoting/tls.py", "ssl.*"): "TLS of production",
}


def modules() -> list[Path]:
    return sorted(path for layer in LAYERS for path in (ROOT / "rocketmq_py" / layer).rglob("*.py"))


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for: `sleep` -> `time.sleep`, `dt` -> `datetime`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def calls(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of every forbidden call in a source text."""
    tree = ast.parse(source)
    names = imported_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        dotted = ast.unparse(node.func)
        head, _, rest = dotted.partition(".")
        if head in names:
            full = f"{names[head]}.{rest}" if rest else names[head]
            module, last = full.split(".")[0], full.split(".")[-1]
            if module in FORBIDDEN and FORBIDDEN[module] & {"*", last}:
                yield node.lineno, full
        elif dotted in FORBIDDEN_BUILTINS:
            yield node.lineno, dotted
        if isinstance(node.func, ast.Attribute) and node.func.attr in FORBIDDEN_METHODS:
            yield node.lineno, f".{node.func.attr}"


def is_allowed(module: str, call: str) -> bool:
    return any(module == allowed_in and what in ("*", call, f"{call.split('.')[0]}.*") for allowed_in, what in ALLOWED)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT / "rocketmq_py").as_posix())
def test_a_module_reaches_the_world_through_its_environment(path: Path) -> None:
    """Clock, randomness, threads, disk and network come from the constructor or the running loop, never from a global."""
    module = path.relative_to(ROOT / "rocketmq_py").as_posix()
    found = [
        f"{module}:{line}: {call}" for line, call in calls(path.read_text("utf-8")) if not is_allowed(module, call)
    ]
    assert found == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT / "rocketmq_py").as_posix())
def test_a_module_keeps_no_state(path: Path) -> None:
    """Two brokers live in one process: nothing is rebound in a module, and nothing depends on a finalizer."""
    tree = ast.parse(path.read_text("utf-8"))
    statements = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)]
    finalizers = [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__del__"
    ]
    assert (statements, finalizers) == ([], [])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time\nx = time.time()", [(2, "time.time")]),
        ("from time import monotonic as now\nx = now()", [(2, "time.monotonic")]),
        ("import os\nos.replace(a, b)", [(2, "os.replace")]),
        ("import os\nos.path.join(a, b)", []),
        ("import random\ndef f(r: random.Random): r.random()", []),
        ("import random\nrandom.random()", [(2, "random.random")]),
        ("import concurrent.futures\nconcurrent.futures.Future()", [(2, "concurrent.futures.Future")]),
        ("from datetime import datetime\ndatetime.now()", [(2, "datetime.datetime.now")]),
        ("import asyncio\nawait asyncio.wait_for(x, 1)", [(2, "asyncio.wait_for")]),
        ("loop.run_in_executor(None, f)", [(1, ".run_in_executor")]),
        ("open('x')", [(1, "open")]),
        ("import time\ntime.strftime('%Y', time.gmtime(5))", []),
    ],
)
def test_the_rule_sees_every_way_to_write_it(source: str, expected: list[tuple[int, str]]) -> None:
    assert list(calls(source)) == expected


def test_no_exception_outlives_its_reason() -> None:
    """Every entry of the list of exceptions is needed by the module that it names."""
    used = set()
    for path in modules():
        module = path.relative_to(ROOT / "rocketmq_py").as_posix()
        for _, call in calls(path.read_text("utf-8")):
            used |= {
                entry for entry in ALLOWED if entry[0] == module and entry[1] in ("*", call, f"{call.split('.')[0]}.*")
            }
    assert set(ALLOWED) - used == set()
