"""The programs of docs/connecting.md, as they stand there, built and run against our servers.

They are taken from the page's own fences by their titles; only the name server's address is replaced. Where a tool or
the network is missing, the lab is skipped and says what was missing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from labs.interop.java_tools import SMALL_FLAGS, cache_directory, jars
from labs.interop.other_clients import cpp_client, go_client, node_client
from labs.interop.our_servers import our_servers
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.course.manifest import project_root
from rocketmq_py.remoting.bodies.topic_config import TopicConfig

ROOT = project_root(Path(__file__).resolve())
PAGE = (ROOT / "docs/connecting.md").read_text("utf-8")

#: Seconds for building a program, and for running it.
PATIENCE = 120


def program(title: str) -> str:
    """Return the content of the page's fence with this title."""
    found = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"docs/connecting.md has {len(found)} programs {title}"
    return str(found[0])


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a command to its end, and return what it printed."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, f"{command[0]} ended with {result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout


def with_java(folder: Path) -> list[str]:
    """Compile `Hello.java`, and return the command that runs it."""
    run(["javac", "-cp", f"{jars()}/*", "Hello.java"], folder)
    return ["java", *SMALL_FLAGS, f"-Duser.home={folder}", "-cp", os.pathsep.join((".", f"{jars()}/*")), "Hello"]


def with_go(folder: Path) -> list[str]:
    """Build `hello.go` with the modules of the interop labs, and return the command that runs it."""
    go_client()
    for name in ("go.mod", "go.sum"):
        shutil.copy(ROOT / "labs/interop/go" / name, folder)
    environment = {
        name: subprocess.check_output(["go", "env", name], text=True).strip() for name in ("GOMODCACHE", "GOCACHE")
    }
    run(["go", "build", "-o", "hello", "hello.go"], folder, **environment)
    return [str(folder / "hello")]


def with_node(folder: Path) -> list[str]:
    """Return the command that runs `hello.js` with the modules of the interop labs."""
    node_client()
    (folder / "node_modules").symlink_to(cache_directory() / "node-client/node_modules")
    return ["node", "hello.js"]


def with_cpp(folder: Path) -> list[str]:
    """Return the command that runs `hello.py` with the C++ core client."""
    cpp_client()
    return [str(cache_directory() / "cpp-client/bin/python"), "hello.py"]


@pytest.mark.interop
@pytest.mark.serial
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("title", "prepare", "says"),
    [
        ("Hello.java", with_java, ("SEND_OK", "received hello from Java")),
        ("hello.go", with_go, ("sent true", "received hello from Go")),
        ("hello.js", with_node, ("SEND_OK", "received hello from Node")),
        ("hello.py", with_cpp, ("sent ", "received hello from C++")),
    ],
)
async def test_a_program_of_the_page_sends_and_receives(
    tmp_path: Path, title: str, prepare: Callable[[Path], list[str]], says: tuple[str, ...]
) -> None:
    """What a reader copies works as it stands: it is stored, comes back, and the program ends by itself."""
    folder = tmp_path / "program"
    folder.mkdir()
    async with our_servers(tmp_path / "servers") as servers:
        topic = TopicConfig(topic_name="Greetings", read_queue_nums=4, write_queue_nums=4)
        servers.kernel.get(TopicConfigManager).update([topic])
        source = program(title)
        assert "127.0.0.1:9876" in source
        (folder / title).write_text(source.replace("127.0.0.1:9876", servers.namesrv), "utf-8")
        command = await asyncio.to_thread(prepare, folder)
        printed = await asyncio.to_thread(run, command, folder)
    for text in says:
        assert text in printed


@pytest.mark.interop
@pytest.mark.serial
def test_the_clients_without_a_transactional_producer_still_have_none() -> None:
    """The page says so for these versions; a newer one that has one wants a lab like those of Java and Go."""
    cpp_client()
    node_client()
    python = str(cache_directory() / "cpp-client/bin/python")
    look = (
        "from rocketmq.ffi import dll; print(hasattr(dll, 'CreateProducer'), hasattr(dll, 'CreateTransactionProducer'))"
    )
    assert run([python, "-c", look], cache_directory()).split() == ["True", "False"]
    exported = run(["node", "-p", "Object.keys(require('ali-ons')).join(' ')"], cache_directory() / "node-client")
    assert "Producer" in exported.split()
    assert "ransaction" not in exported


def test_the_page_names_the_versions_that_the_labs_run() -> None:
    """A version on the page is the one that the interop labs fetch."""
    for path, pattern in (
        ("labs/interop/java/pom.xml", r"<rocketmq.version>([\d.]+)<"),
        ("labs/interop/go/go.mod", r"rocketmq-client-go/v2 (v[\d.]+)"),
        ("labs/interop/node/package.json", r'"ali-ons": "([\d.]+)"'),
        ("labs/interop/other_clients.py", r'"rocketmq==([\d.]+)"'),
    ):
        found = re.search(pattern, (ROOT / path).read_text("utf-8"))
        assert found is not None, path
        assert found[1] in PAGE, f"docs/connecting.md does not name {found[1]} of {path}"
