"""Links that break, peers that lie, brokers that die in the middle: the slave's log stays a copy of the master's."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py.client.send_result import SendStatus
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.sim.file_system import Fault
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import BrokerRole
from rocketmq_py.store.flush import FlushService
from rocketmq_py.store.ha.ha_client import HAClient
from rocketmq_py.store.ha.ha_service import HAService
from rocketmq_py.store.message_store import MessageStore
from rocketmq_py.testing.eventually import eventually

from .ha_lab import MASTER, TOPIC, HaLab, ha_lab

SYNC: dict[str, Any] = {"role": BrokerRole.SYNC_MASTER, "in_sync_replicas": 2}


class Peer(asyncio.Protocol):
    """Somebody at the port for slaves, with bytes in the hand."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True

    def report(self, offset: int) -> None:
        self.transport.write(struct.pack(">q", offset))


async def connect(lab: HaLab, host: str = "127.0.0.1") -> Peer:
    """Connect to the master's port for slaves; in the simulated network one comes from where one connects to."""
    _, peer = await asyncio.get_running_loop().create_connection(Peer, host, lab.ha_port)
    return peer


def network() -> Any:
    return asyncio.get_running_loop().network  # type: ignore[attr-defined]


# --- the link ------------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_slave_is_linked_within_a_second_of_its_start(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment) as lab:
        await lab.send("one")
        loop = asyncio.get_running_loop()
        slave = await lab.start("slave-1")
        begin = loop.time()
        await eventually(lambda: slave.get(CommitLog).max_offset == lab.master.get(CommitLog).max_offset)
        assert loop.time() - begin < 1.0


@pytest.mark.virtual_time
async def test_a_reset_link_is_open_again_within_a_second(tmp_path: Path, environment: Environment) -> None:
    """Connections reset every second: replication resumes at its offset, nothing twice."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        for number in range(10):
            await lab.send(f"before {number}")
            network().reset(lab.ha_port)
            await lab.send(f"after {number}")
            await asyncio.sleep(1.0)
            assert lab.log_bytes(lab.slaves[0]) == lab.log_bytes(lab.master)


@pytest.mark.virtual_time
async def test_a_slave_is_heard_again_soon_after_its_master_came_back(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, ha_listen_port=20_001, slaves=0) as lab:
        slave = await lab.start("slave-1", ha_master_address="127.0.0.1:20001", follow=False)
        await lab.send("one")
        await lab.copied()
        await lab.stop(MASTER)
        await asyncio.sleep(100)
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, ha_listen_port=20_001)
        await asyncio.sleep(1.5)
        assert len(lab.master.get(HAService).connections) == 1
        assert lab.bodies(slave) == [b"one"]


@pytest.mark.virtual_time
async def test_a_configured_master_address_is_followed(tmp_path: Path, environment: Environment) -> None:
    """RocketMQ 5.3 ignores haMasterAddress."""
    async with ha_lab(tmp_path, environment) as lab:
        await lab.send("one")
        slave = await lab.start("slave-1", ha_master_address=f"127.0.0.1:{lab.ha_port}", follow=False)
        await lab.copied()
        assert lab.bodies(slave) == [b"one"]


@pytest.mark.virtual_time
async def test_dead_peers_are_found_within_the_housekeeping_interval(tmp_path: Path, environment: Environment) -> None:
    """Half-open on both sides: nothing arrives, no error either."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [slave] = lab.slaves
        service, client = lab.master.get(HAService), slave.get(HAClient)
        network().cut(lab.ha_port)
        await asyncio.sleep(19)
        assert len(service.connections) == 1
        assert client.link is not None
        await asyncio.sleep(2.5)
        assert not service.connections
        assert client.link is None
        await lab.send("meanwhile")
        network().heal(lab.ha_port)
        await asyncio.sleep(1.5)
        assert lab.bodies(slave) == [b"meanwhile"]


@pytest.mark.virtual_time
async def test_a_quiet_link_stays_open(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [link] = lab.master.get(HAService).connections
        await asyncio.sleep(600)
        assert lab.master.get(HAService).connections == [link]


@pytest.mark.virtual_time
async def test_a_peer_may_be_silent_before_its_first_report(tmp_path: Path, environment: Environment) -> None:
    """RocketMQ's slave says nothing for up to 5 s; one that never does is closed like any dead peer."""
    async with ha_lab(tmp_path, environment) as lab:
        await lab.send("one", "two")
        peer, mute = await connect(lab), await connect(lab)
        await asyncio.sleep(6)
        assert (peer.received, peer.is_closed) == (b"", False)
        peer.report(0)
        await asyncio.sleep(0.1)
        data = lab.log_bytes(lab.master)
        assert peer.received == struct.pack(">qi", 0, len(data)) + data
        await asyncio.sleep(15.5)
        assert mute.is_closed


@pytest.mark.virtual_time
async def test_flow_control_keeps_to_its_limit(tmp_path: Path, environment: Environment) -> None:
    limits = {"ha_flow_control_enable": True, "max_ha_transfer_byte_in_second": 100_000}
    async with ha_lab(tmp_path, environment, **limits) as lab:
        await lab.send(*(random.Random(number).randbytes(10_000) for number in range(100)))
        loop = asyncio.get_running_loop()
        # What was saved up before does not count for more than a second.
        begin = loop.time()
        await lab.start("slave-1")
        await lab.copied()
        assert 8.0 < loop.time() - begin < 12.0


@pytest.mark.virtual_time
async def test_a_log_that_is_not_in_memory_is_copied_as_well(tmp_path: Path, environment: Environment) -> None:
    """Old bytes are read in a thread and checked there; the clients' loop never waits for the disk."""
    sizes = {"mapped_file_size_commit_log": 65_536, "ha_transfer_batch_size": 10_007}
    async with ha_lab(tmp_path, environment, disks=True, ha_send_all_to_empty_slave=True, **sizes) as lab:
        await lab.send(*(random.Random(number).randbytes(3_000) for number in range(100)))
        await lab.stop(MASTER)
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0, ha_send_all_to_empty_slave=True, **sizes)
        lab.disks[MASTER].is_cold = True
        slave = await lab.start("slave-1", **sizes)
        await lab.copied()
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)
        assert slave.get(HAClient).faults == 0


# --- who may ask -----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_stranger_gets_nothing_and_confirms_nothing(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, config={"bind_address": "0.0.0.0"}, **SYNC) as lab:
        network().latency = lambda _: 0.0001
        sending = asyncio.create_task(lab.send("secret"))
        await asyncio.sleep(0.1)
        peer = await connect(lab, "10.6.6.6")
        peer.report(lab.master.get(CommitLog).max_offset)
        await asyncio.sleep(0.5)
        assert peer.is_closed
        assert peer.received == b""
        [answer] = await sending
        assert answer.status is SendStatus.FLUSH_SLAVE_TIMEOUT


@pytest.mark.virtual_time
async def test_registered_slaves_and_trusted_addresses_may_follow(tmp_path: Path, environment: Environment) -> None:
    config = {"bind_address": "0.0.0.0"}
    async with ha_lab(tmp_path, environment, config=config, ha_trusted_slaves="10.7.7.7; 10.8.8.8") as lab:
        await lab.send("one")
        for host, is_let_in in (("10.8.8.8", True), ("10.9.9.9", False)):
            peer = await connect(lab, host)
            peer.report(0)
            await asyncio.sleep(0.5)
            assert bool(peer.received) == is_let_in
        # A slave that the name server knows under this address.
        await lab.start("slave-1", config={**config, "broker_ip1": "10.9.9.9"}, follow=False)
        await asyncio.sleep(1.0)
        peer = await connect(lab, "10.9.9.9")
        peer.report(0)
        await asyncio.sleep(0.5)
        assert peer.received


@pytest.mark.parametrize("reports", [[1 << 40], [-1], [100, 50], [100, 1 << 40]])
@pytest.mark.virtual_time
async def test_a_report_that_cannot_be_true_ends_the_link_and_completes_nothing(
    tmp_path: Path, environment: Environment, reports: list[int]
) -> None:
    async with ha_lab(tmp_path, environment, **SYNC) as lab:
        sending = asyncio.create_task(lab.send("one"))
        await asyncio.sleep(0.1)
        peer = await connect(lab)
        for report in reports:
            peer.report(report)
            await asyncio.sleep(0.1)
        assert peer.is_closed
        [answer] = await sending
        assert answer.status is SendStatus.FLUSH_SLAVE_TIMEOUT


@pytest.mark.virtual_time
async def test_a_slave_has_no_log_to_give(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        await lab.send("one")
        _, peer = await asyncio.get_running_loop().create_connection(
            Peer, "127.0.0.1", lab.slaves[0].get(HAService).port
        )
        await asyncio.sleep(0.1)
        assert peer.is_closed


# --- bytes that changed on the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["a byte flipped", "7 bytes lost"])
@pytest.mark.virtual_time
async def test_bytes_that_changed_on_the_link_are_noticed_and_fetched_again(
    tmp_path: Path, environment: Environment, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RocketMQ's slave keeps them, and its log cannot be read from there on."""
    async with ha_lab(tmp_path, environment, slaves=1) as lab:
        [slave] = lab.slaves
        await lab.send("good")
        [link] = lab.master.get(HAService).connections
        transport = link._transport
        assert transport is not None
        write = transport.write
        done: list[int] = []

        def spoil(data: Any) -> None:
            at = bytes(data).find(b"fragile")
            if at >= 0 and not done:
                done.append(at)
                data = bytearray(data)
                if fault == "a byte flipped":
                    data[at] ^= 0x20
                else:
                    del data[at : at + 7]
            write(bytes(data))

        transport.write = spoil  # type: ignore[method-assign]
        await lab.send("fragile", *(f"later {number}" for number in range(20)))
        await lab.copied()
        assert done
        assert slave.get(HAClient).faults >= 1, "it was not noticed"
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)
        assert "expected" in caplog.text
        assert slave.get(MessageStore).max_offset(TOPIC, 0) == lab.master.get(MessageStore).max_offset(TOPIC, 0)


# --- brokers that die ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", [0.0001, 0.0004, 0.002, 0.01])
@pytest.mark.virtual_time
async def test_a_slave_killed_while_it_copies_goes_on_from_its_last_whole_record(
    tmp_path: Path, environment: Environment, when: float
) -> None:
    async with ha_lab(tmp_path, environment, disks=True, ha_transfer_batch_size=10_007) as lab:
        await lab.send(*(b"%06d" % number * 500 for number in range(300)))
        await lab.start("slave-1")
        await asyncio.sleep(when)
        await lab.kill("slave-1")
        await lab.send("meanwhile")
        slave = await lab.start("slave-1")
        await lab.copied()
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)
        assert slave.get(HAClient).faults == 0
        store, master = slave.get(MessageStore), lab.master.get(MessageStore)
        assert [store.max_offset(TOPIC, queue) for queue in range(4)] == [
            master.max_offset(TOPIC, queue) for queue in range(4)
        ]


@pytest.mark.virtual_time
async def test_a_master_killed_in_the_middle_of_a_frame_leaves_whole_records(
    tmp_path: Path, environment: Environment
) -> None:
    async with ha_lab(tmp_path, environment, disks=True, ha_transfer_batch_size=10_007) as lab:
        await lab.send(*(b"%06d" % number * 500 for number in range(300)))
        slave = await lab.start("slave-1")
        await eventually(lambda: slave.get(CommitLog).max_offset > 0, step=0.0001)
        await lab.kill(MASTER)
        await asyncio.sleep(0.1)
        log = slave.get(CommitLog)
        ends = [offset + check.size for offset, check in log.scan(0)]
        assert ends[-1] == log.max_offset
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0)
        slave.get(HAClient).follow(f"127.0.0.1:{lab.ha_port}")
        await lab.copied()
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)


@pytest.mark.virtual_time
async def test_a_slave_that_has_what_its_master_lost_is_not_made_a_mixture(
    tmp_path: Path, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    """An asynchronous master loses its newest bytes in a power cut, takes others, and meets the slave that has them."""
    async with ha_lab(tmp_path, environment, disks=True, slaves=1, flush_interval_commit_log=60_000) as lab:
        [slave] = lab.slaves
        await lab.send("safe")
        await lab.master.get(FlushService).flush()
        await lab.send("lost here, known there")
        await lab.copied()
        before = lab.log_bytes(slave)
        await lab.cut_power(MASTER)
        await lab.start(MASTER, BrokerRole.ASYNC_MASTER, 0)
        lab.create_topic()
        with caplog.at_level(logging.WARNING):
            slave.get(HAClient).follow(f"127.0.0.1:{lab.ha_port}")
            await asyncio.sleep(3)
            await lab.send(*(f"something else {number}" for number in range(40)))
            await asyncio.sleep(3)
        assert lab.log_bytes(slave) == before
        assert "set" in caplog.text and "aside" in caplog.text


# --- disks --------------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_slave_without_space_goes_on_when_there_is_some_again(tmp_path: Path, environment: Environment) -> None:
    """The master goes on meanwhile; nobody has to start anything again."""
    async with ha_lab(tmp_path, environment, disks=True, mapped_file_size_commit_log=65_536) as lab:
        slave = await lab.start("slave-1", mapped_file_size_commit_log=65_536)
        await lab.linked()
        await lab.send("one")
        await lab.copied()
        disk = lab.disks["slave-1"]
        full = Fault("allocate", path_part="commitlog", code=errno.ENOSPC, times=-1)
        disk.faults.append(full)
        results = await lab.send(*(random.Random(number).randbytes(3_000) for number in range(100)))
        assert {result.status for result in results} == {SendStatus.SEND_OK}
        await asyncio.sleep(5)
        assert slave.get(CommitLog).max_offset < lab.master.get(CommitLog).max_offset
        assert slave.get(CommitLog).is_writable
        disk.faults.remove(full)
        await lab.copied()
        assert lab.log_bytes(slave) == lab.log_bytes(lab.master)


@pytest.mark.virtual_time
async def test_a_slave_whose_log_failed_confirms_nothing_more(tmp_path: Path, environment: Environment) -> None:
    async with ha_lab(tmp_path, environment, disks=True, slaves=1, **SYNC) as lab:
        [slave] = lab.slaves
        assert [answer.status for answer in await lab.send("one")] == [SendStatus.SEND_OK]
        lab.disks["slave-1"].faults.append(Fault("pwrite", path_part="commitlog"))
        assert [answer.status for answer in await lab.send("two", "three")] == [SendStatus.FLUSH_SLAVE_TIMEOUT] * 2
        assert not slave.get(CommitLog).is_writable
        assert slave.get(HAClient).link is None
        assert not lab.master.get(HAService).connections


@pytest.mark.virtual_time
async def test_a_master_that_stops_in_order_leaves_nothing_behind(tmp_path: Path, environment: Environment) -> None:
    """What was acknowledged without waiting reaches the slave before the link is closed."""
    async with ha_lab(tmp_path, environment, slaves=1, ha_transfer_batch_size=1_000) as lab:
        [slave] = lab.slaves
        await lab.send(*(random.Random(number).randbytes(3_000) for number in range(50)))
        expected = lab.log_bytes(lab.master)
        await lab.stop(MASTER)
        assert lab.log_bytes(slave) == expected


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"in_sync_replicas": 3, "total_replicas": 2}, "inSyncReplicas=3 is more than totalReplicas=2"),
        ({"in_sync_replicas": 2, "min_in_sync_replicas": 3}, "minInSyncReplicas=3 is more than inSyncReplicas=2"),
        ({"in_sync_replicas": 0}, "inSyncReplicas=0"),
        ({"ha_master_address": "nowhere"}, "haMasterAddress"),
    ],
)
@pytest.mark.virtual_time
async def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, environment: Environment, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        async with ha_lab(tmp_path, environment, **settings):
            pass
