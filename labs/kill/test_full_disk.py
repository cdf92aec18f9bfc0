"""A full disk, as a producer and a consumer see it over the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labs.kill.broker_process import PlainClient
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import system_environment
from rocketmq_py.common.file_system import DiskUsage, OsFileSystem
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.retention import CleanCommitLogService


class FillingFiles(OsFileSystem):
    """The real files, on a disk that says to be as full as the lab wants."""

    percent = 40

    def disk_usage(self, path: str) -> DiskUsage:
        return DiskUsage(total=100, free=100 - self.percent)


async def test_a_full_disk_refuses_sends_with_the_reason_and_serves_pulls(tmp_path: Path) -> None:
    """Claim: past the last ratio a broker refuses writes and says why, keeps serving reads, and comes back by itself.

    Experiment: a broker on a disk that fills to 93 % and is freed to 60 % again; send and pull at each moment.
    Observe: the send at 93 % is answered SERVICE_NOT_AVAILABLE with disk, percentage and setting; pulls go on; at 60 %
    sends are taken.
    """
    files = FillingFiles()
    config = MessageStoreConfig(
        store_path_root_dir=str(tmp_path), mapped_file_size_commit_log=1 << 20, max_hash_slot_num=100, max_index_num=400
    )
    kernel = build_broker(BrokerConfig(listen_port=0), config, replace(system_environment(), files=files))
    await kernel.start()
    client = PlainClient(f"127.0.0.1:{kernel.get(RemotingServer).port}")
    cleaning = kernel.get(CleanCommitLogService)
    try:
        await client.send(0, b"at 40 %")
        files.percent = 93
        await cleaning.run()
        with pytest.raises(AssertionError, match=r"answered 14.*93 % full.*diskSpaceWarningLevelRatio=90"):
            await client.send(0, b"at 93 %")
        assert await client.read_queue(0) == [b"at 40 %"]
        files.percent = 60
        await cleaning.run()
        await client.send(0, b"at 60 %")
        assert await client.read_queue(0) == [b"at 40 %", b"at 60 %"]
    finally:
        await client.close()
        await kernel.stop()
