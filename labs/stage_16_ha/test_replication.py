"""The log of a master gets into the log of its slaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketmq_py.common.environment import Environment
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.message_store import MessageStore

from .ha_lab import MASTER, TOPIC, ha_lab


@pytest.mark.claim("ha-01")
@pytest.mark.virtual_time
async def test_a_slave_copies_the_log_of_its_master_and_builds_its_own_queues(
    tmp_path: Path, environment: Environment
) -> None:
    """Claim: master and slaves share a broker name, id 0 is the master; a slave pulls the log and makes its own queues.

    Experiment: a master with two slaves, 200 messages to four queues, all brokers stopped.
    Observe: the logs are equal byte for byte; the slaves' queues were never sent and are equal as well.
    """
    async with ha_lab(tmp_path, environment, slaves=2) as lab:
        await lab.send(*(f"message {number}" for number in range(200)))
        await lab.copied()
        expected = lab.log_bytes(lab.master)
        assert len(lab.bodies(lab.master)) == 200
        for slave in lab.slaves:
            assert lab.log_bytes(slave) == expected, "the logs differ: what does append_raw do at the end of a frame?"
            assert slave.get(MessageStore).max_offset(TOPIC, 0) == lab.master.get(MessageStore).max_offset(TOPIC, 0) > 0
        for name in list(lab.brokers):
            await lab.stop(name)
        queues = lab.queue_files(MASTER)
        assert lab.queue_files("slave-1") == lab.queue_files("slave-2") == queues
        assert any(path.startswith(f"{TOPIC}/") for path in queues)


@pytest.mark.virtual_time
async def test_a_slave_takes_no_messages(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [slave] = lab.slaves
        result = await slave.get(MessageStore).put_message(
            Draft(topic=TOPIC, queue_id=0, body=b"x", born_host=bytes(8), born_timestamp=1)
        )
        assert result.status.name == "SERVICE_NOT_AVAILABLE"
        assert slave.get(CommitLog).max_offset == lab.master.get(CommitLog).max_offset


@pytest.mark.virtual_time
async def test_a_slave_goes_on_where_it_was_after_a_restart(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        await lab.send("one", "two")
        await lab.copied()
        await lab.stop("slave-1")
        await lab.send("three")
        slave = await lab.start("slave-1")
        await lab.copied()
        assert lab.bodies(slave) == [b"one", b"two", b"three"]
        assert slave.get(HAClient).faults == 0


@pytest.mark.virtual_time
async def test_an_empty_slave_begins_at_the_last_file_of_its_master(tmp_path: Path, environment: Environment) -> None:
    """And keeps working over a restart, though the beginning of the log was never there."""
    async with ha_lab(tmp_path, environment, mapped_file_size_commit_log=65_536) as lab:
        await lab.send(*(b"%05d" % number * 200 for number in range(200)))
        assert lab.master.get(CommitLog).max_offset > 3 * 65_536
        slave = await lab.start("slave-1", mapped_file_size_commit_log=65_536)
        await lab.copied()
        log = slave.get(CommitLog)
        assert log.min_offset == lab.master.get(CommitLog).max_offset // 65_536 * 65_536
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master, log.min_offset)
        store, master = slave.get(MessageStore), lab.master.get(MessageStore)
        assert [store.max_offset(TOPIC, queue) for queue in range(4)] == [
            master.max_offset(TOPIC, queue) for queue in range(4)
        ]
        await lab.stop("slave-1")
        await lab.send("more")
        slave = await lab.start("slave-1", mapped_file_size_commit_log=65_536)
        await lab.copied()
        assert lab.bodies(slave)[-1] == b"more"
        assert slave.get(CommitLog).min_offset == 3 * 65_536


@pytest.mark.virtual_time
async def test_a_setting_sends_everything_to_an_empty_slave(tmp_path: Path, environment: Environment) -> None:
    sizes = {"mapped_file_size_commit_log": 65_536}
    async with ha_lab(tmp_path, environment, ha_send_all_to_empty_slave=True, **sizes) as lab:
        await lab.send(*(b"%05d" % number * 200 for number in range(200)))
        slave = await lab.start("slave-1", **sizes)
        await lab.copied()
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)
        assert slave.get(CommitLog).min_offset == 0
