"""The examples that the pages quote do what the pages say."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from docs.examples import test_with_a_cluster
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.common.environment import Environment
from rocketmq_py.course.manifest import project_root
from rocketmq_py.testing.cluster import Cluster

ROOT = project_root(Path(__file__).resolve())
EXAMPLES = ROOT / "docs/examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_every_program_runs(tmp_path: Path, environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader would try them; what each prints is what was sent."""
    async with Cluster(tmp_path, environment=environment) as cluster:
        address = cluster.namesrv_addr
        async with AdminClient(namesrv_addr=address) as admin:
            await admin.topics.create("Orders", queues=4)

        await load("send").main(address)
        sent = capsys.readouterr().out
        assert re.search(r"SEND_OK [0-9A-F]{32} in queue \d", sent)
        assert "10 stored" in sent

        await asyncio.wait_for(load("delay").main(address), 20)
        assert re.fullmatch(r"is it paid\? came after 1\.\d s\n", capsys.readouterr().out)

        await asyncio.wait_for(load("push").main(address), 20)
        assert "b'two coffees'" in capsys.readouterr().out

        await asyncio.wait_for(load("dead_letters").main(address), 30)
        tries = capsys.readouterr().out.splitlines()
        assert tries[:2] == ["try 0: a parcel for Zoe", "try 1: a parcel for Zoe"]
        assert tries[2:] == ["dead after 2 tries: parcel-7 of topic Deliveries", "try 0: a parcel for Zoe"]

        await load("poll").main(address, 1.0)
        polled = capsys.readouterr().out
        assert sum(int(count) for count in re.findall(r"(\d+) messages", polled)) == 17

        await load("walk").main(address)
        walked = capsys.readouterr().out
        assert walked.count("b'") == 17

        await asyncio.get_running_loop().run_in_executor(None, load("ordinary_code").main, address)
        assert "coffees" in (ordinary := capsys.readouterr().out) or "te" in ordinary

        await asyncio.get_running_loop().run_in_executor(None, load("transfer").main, address)
        transferred = capsys.readouterr().out
        assert transferred.count("COMMIT_MESSAGE") == 8
        assert transferred.count("ROLLBACK_MESSAGE") == 2
        assert "bank A has 0, bank B has 80" in transferred

        await asyncio.wait_for(load("ask").main(address), 20)
        asked = capsys.readouterr().out
        assert "a coffee is 2.40" in asked
        assert "no reply within 0.5 s" in asked

        await load("administer").main(address)
        assert "b'two coffees'" in capsys.readouterr().out


async def test_the_program_about_delays_runs(
    tmp_path: Path, environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BrokerConfig(recall_message_enable=True)
    async with Cluster(tmp_path, environment=environment, config=config) as cluster:
        await load("later").main(cluster.namesrv_addr)
        assert re.search(r"taken back: [0-9A-F]{32}", capsys.readouterr().out)


async def test_the_example_of_a_test_passes(tmp_path: Path) -> None:
    await test_with_a_cluster.test_an_order_is_stored(tmp_path)


def test_every_example_is_on_a_page() -> None:
    """An example that no page shows is not looked after."""
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "docs").rglob("*.md"))
    missing = [path.name for path in EXAMPLES.glob("*.py") if f"docs/examples/{path.name}" not in pages]
    assert missing == []
