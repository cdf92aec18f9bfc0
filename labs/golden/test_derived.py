"""Queues and index made from Apache's logs are the files that Apache made, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from labs.golden.test_store import CLEAN, NAMES, stores, unpack
from labs.stage_02_consume_queue.store_lab import snapshot
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.environment import system_environment
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.consume_queue_unit import UNIT_SIZE

#: The units of this topic carry delivery times instead of tags codes, which stage delay knows.
DELAYED = "SCHEDULE_TOPIC_XXXX/"
#: Units of these stores lead to extensions, which stage filter knows.
EXTENDED = {name for name in NAMES if stores()[name]["brokerConfig"].get("enableConsumeQueueExt") == "true"}


async def derive_again(name: str, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Unpack a store, delete what is derived from its log, let stage index make it again; return both."""
    root = unpack(name, folder)
    before = snapshot(root)
    for derived in ("consumequeue", "index"):
        shutil.rmtree(root / derived)
    config, store_config = BrokerConfig(), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in stores()[name]["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    store_config.store_path_root_dir = str(root)
    kernel = build_broker(config, store_config, system_environment(), "index")
    await kernel.start()
    await kernel.stop()
    return before, snapshot(root)


def files_of(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.startswith(f"{folder}/") and DELAYED not in path}


@pytest.mark.claim("cq-04")
@pytest.mark.claim("idx-02")
@pytest.mark.parametrize("name", NAMES)
async def test_what_apache_derived_from_a_log_is_derived_here(name: str, tmp_path: Path) -> None:
    """Claim: queues and index hold nothing that the commit log does not hold.

    Experiment: take the store of an Apache broker, throw its queues and its index away, and start ours on the log.
    Observe: the same folders and files with the same bytes. Only index files have other names, those of their making.
        A broker that was killed had not derived everything; there Apache's bytes are the beginning of ours.
    """
    before, after = await derive_again(name, tmp_path)
    is_clean = name in CLEAN

    if name not in EXTENDED:
        queues, again = files_of(before, "consumequeue"), files_of(after, "consumequeue")
        assert queues.keys() == again.keys()
        for path, data in queues.items():
            used = len(data) if is_clean else -(-len(data.rstrip(b"\0")) // UNIT_SIZE) * UNIT_SIZE
            assert again[path][:used] == data[:used], path

    index, remade = (list(files_of(files, "index").values()) for files in (before, after))
    assert len(index) == len(remade) > 0
    complete = len(index) if is_clean else len(index) - 1
    assert remade[:complete] == index[:complete]
