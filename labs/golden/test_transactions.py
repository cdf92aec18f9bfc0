"""Transactions that Apache's brokers left open go on at ours, and recorded producers find in ours what they found there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from labs.golden.replay import exchanges
from labs.golden.test_store import stores, unpack
from labs.golden.test_wire import scenarios
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.stages import build_broker
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.config import Setting, apply_properties
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.message import MessageExt
from rocketmq_py.common.record import decode_record, decode_records
from rocketmq_py.common.topic import TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC
from rocketmq_py.remoting.bodies.heartbeat import HeartbeatData, ProducerData
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.client import RemotingClient
from rocketmq_py.remoting.codec import decode, encode
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.header import decode_header, encode_header
from rocketmq_py.remoting.headers.transaction import CheckTransactionStateRequestHeader, EndTransactionRequestHeader
from rocketmq_py.remoting.java_json import encode_body
from rocketmq_py.remoting.processors import Request
from rocketmq_py.remoting.server import RemotingServer
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.message_store import MessageStore

COMMIT, ROLLBACK = 8, 12
GROUP, TOPIC = "GoldGroupTrans", "GoldTrans"


class Producer:
    """A member of the recorded producers' group, which answers by the number of the transaction."""

    def __init__(self, kernel: Kernel, environment: Environment, answers: dict[str, int]) -> None:
        self.asked: list[str] = []
        self._answers = answers
        self._address = f"127.0.0.1:{kernel.get(RemotingServer).port}"
        self._client = RemotingClient(environment.clock)
        self._client.on_request(RequestCode.CHECK_TRANSACTION_STATE, self._check)

    async def __aenter__(self) -> Producer:
        body = encode_body(HeartbeatData(client_id="lab", producer_data_set=[ProducerData(group_name=GROUP)]))
        command = RemotingCommand.create_request(RequestCode.HEART_BEAT, {}, body)
        assert (await self._client.request(self._address, command, 5)).code == 0
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.stop()

    def _check(self, request: Request) -> None:
        header = decode_header(CheckTransactionStateRequestHeader, request.command.ext_fields)
        message = decode_record(bytes(request.command.body))
        assert message.topic == TOPIC
        self.asked.append(message.keys)
        decision = self._answers.get(message.keys)
        if decision is not None:
            ended = EndTransactionRequestHeader(
                producer_group=GROUP,
                tran_state_table_offset=header.tran_state_table_offset,
                commit_log_offset=header.commit_log_offset,
                commit_or_rollback=decision,
                from_transaction_check=True,
                msg_id=header.msg_id or "",
            )
            request.connection.one_way(
                RemotingCommand.create_request(RequestCode.END_TRANSACTION, encode_header(ended))
            )


@asynccontextmanager
async def broker(root: Path, expected: dict[str, Any], environment: Any) -> AsyncIterator[Kernel]:
    """Run our broker on a store a few seconds after its last message, in virtual time."""
    newest = max(record["storeTimestamp"] for record in expected["commitlog"]["records"])
    environment.clock.offset_ms = newest + 1_000 - round(asyncio.get_running_loop().time() * 1_000)
    config, store_config = BrokerConfig(), MessageStoreConfig()
    settings = {key: Setting(value, "expected.json") for key, value in expected["brokerConfig"].items()}
    apply_properties(settings, config, store_config, lenient=True)
    config.listen_port, config.namesrv_addr, config.transaction_check_interval = 0, "", 30_000
    store_config.store_path_root_dir = str(root)
    kernel = build_broker(config, store_config, environment)
    await kernel.start()
    try:
        yield kernel
    finally:
        await kernel.stop()


async def read(kernel: Kernel, topic: str, queues: int = 2) -> list[MessageExt]:
    store, found = kernel.get(MessageStore), list[MessageExt]()
    for queue_id in range(queues):
        offset, end = store.min_offset(topic, queue_id), store.max_offset(topic, queue_id)
        while offset < end:
            result = await store.get_message_cold(topic, queue_id, offset, 32)
            found += decode_records(result.records)
            offset = result.next_begin_offset
    return found


def keys(messages: list[MessageExt]) -> list[str]:
    return sorted(message.keys for message in messages)


#: Store, transactions committed when it was left, and those that were still open.
OPEN = [
    ("pending-53", ["tx-0", "tx-3", "tx-6"], ["tx-2", "tx-5", "tx-8"]),
    ("pending-killed-53", ["tx-0", "tx-3", "tx-6"], ["tx-2", "tx-5"]),
    ("clean-49", ["tx-0", "tx-3"], ["tx-2", "tx-5"]),
]


@pytest.mark.virtual_time
@pytest.mark.parametrize(("name", "committed", "undecided"), OPEN, ids=[row[0] for row in OPEN])
async def test_transactions_that_apache_left_open_go_on(
    name: str, committed: list[str], undecided: list[str], tmp_path: Path, environment: Any
) -> None:
    """Claim: op records of both formats are understood; the undecided are asked about, and nothing is delivered again.

    Experiment: open the store, with a producer of the group that commits transaction 2 and rolls back the others.
    Observe: exactly the undecided are asked about, once each; transaction 2 is delivered behind those of before; a
        second start finds nothing to ask.
    """
    root, expected = unpack(name, tmp_path), stores()[name]
    answers = {key: COMMIT if key == "tx-2" else ROLLBACK for key in undecided}
    async with broker(root, expected, environment) as kernel:
        assert keys(await read(kernel, TOPIC)) == committed
        async with Producer(kernel, environment, answers) as producer:
            await asyncio.sleep(65)
            assert sorted(producer.asked) == undecided
        assert keys(await read(kernel, TOPIC)) == sorted([*committed, "tx-2"])
    async with broker(root, expected, environment) as kernel, Producer(kernel, environment, answers) as producer:
        await asyncio.sleep(65)
        assert producer.asked == []
        assert keys(await read(kernel, TOPIC)) == sorted([*committed, "tx-2"])


@pytest.mark.virtual_time
async def test_commits_whose_op_records_apache_lost_are_found_in_the_log(tmp_path: Path, environment: Any) -> None:
    """A killed Apache broker loses up to three seconds of op records, and asks about everything in them again. Here its
    log is cut before the op record: the commits tell of themselves, only the rollbacks are asked about again."""
    name = "pending-killed-53"
    root, expected = unpack(name, tmp_path), stores()[name]
    (op,) = [record for record in expected["commitlog"]["records"] if record["topic"] == TRANS_OP_HALF_TOPIC]
    with (root / "commitlog" / f"{0:020d}").open("r+b") as log:
        log.seek(op["offset"])
        log.write(bytes(65_536 - op["offset"]))
    shutil.rmtree(root / "consumequeue" / TRANS_OP_HALF_TOPIC, ignore_errors=True)
    answers = {"tx-1": ROLLBACK, "tx-4": ROLLBACK, "tx-2": COMMIT, "tx-5": ROLLBACK}
    async with broker(root, expected, environment) as kernel, Producer(kernel, environment, answers) as producer:
        await asyncio.sleep(65)
        # tx-4 has an immunity time of an hour.
        assert sorted(producer.asked) == ["tx-1", "tx-2", "tx-5"]
        assert keys(await read(kernel, TOPIC)) == ["tx-0", "tx-2", "tx-3", "tx-6"]


# --- the wire ---------------------------------------------------------------------------------------------------------

WIRE = sorted(name for name in scenarios() if name.endswith("-transaction"))


class RecordedProducer:
    """Sends the recorded frames of a producer to our broker, with the places that ours gave to its half messages."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if row["server"] == "broker"]
        self.checks: list[RemotingCommand] = []
        self.places: dict[str, dict[str, str]] = {}
        self.answers: dict[int, asyncio.Future[RemotingCommand]] = {}
        # What the recorded producer said when it was asked.
        self.decisions = {
            row["extFields"]["msgId"]: row["extFields"]["commitOrRollback"]
            for row in self.rows
            if row["code"] == RequestCode.END_TRANSACTION and row["extFields"]["fromTransactionCheck"] == "true"
        }

    async def play(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        reading = asyncio.get_running_loop().create_task(self._read(reader, writer))
        for exchange in exchanges(self.rows):
            row = exchange.request
            frame = bytes.fromhex(row["frame_hex"])
            fields = row["extFields"] or {}
            if row["code"] == RequestCode.UNREGISTER_CLIENT:
                # A member that has left is not asked any more.
                await asyncio.sleep(10)
            elif row["code"] == RequestCode.END_TRANSACTION:
                if fields["fromTransactionCheck"] == "true":
                    continue
                frame = self._with_our_places(frame, fields["msgId"])
            elif row["code"] == RequestCode.PULL_MESSAGE:
                continue
            writer.write(frame)
            if row["kind"] == "request":
                self.answers[row["opaque"]] = asyncio.get_running_loop().create_future()
                exchange.ours = await asyncio.wait_for(self.answers[row["opaque"]], 20)
                _compare(row, exchange.recorded, exchange.ours)
                if row["code"] == RequestCode.SEND_MESSAGE_V2:
                    unique_key = str(fields["i"]).split("UNIQ_KEY\x01")[1].split("\x02")[0]
                    self.places[unique_key] = exchange.ours.ext_fields
        writer.close()
        await reading

    def _with_our_places(self, frame: bytes, unique_key: str) -> bytes:
        command = decode(frame[4:])
        place = self.places[unique_key]
        command.ext_fields["tranStateTableOffset"] = place["queueOffset"]
        command.ext_fields["commitLogOffset"] = str(int(place["msgId"][16:], 16))
        return encode(command)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                command = decode(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big")))
                if command.is_response:
                    self.answers[command.opaque].set_result(command)
                elif command.code == RequestCode.CHECK_TRANSACTION_STATE:
                    self.checks.append(command)
                    writer.write(encode(self._answer(command)))

    def _answer(self, check: RemotingCommand) -> RemotingCommand:
        header = EndTransactionRequestHeader(
            producer_group=decode_record(bytes(check.body)).properties["PGROUP"],
            tran_state_table_offset=int(check.ext_fields["tranStateTableOffset"]),
            commit_log_offset=int(check.ext_fields["commitLogOffset"]),
            commit_or_rollback=int(self.decisions[check.ext_fields["msgId"]]),
            from_transaction_check=True,
            msg_id=check.ext_fields["msgId"],
        )
        command = RemotingCommand.create_request(RequestCode.END_TRANSACTION, encode_header(header))
        command.flag |= 2
        return command


def _compare(row: dict[str, Any], recorded: dict[str, Any] | None, ours: RemotingCommand) -> None:
    assert recorded is not None
    assert ours.code == recorded["code"], row
    assert set(ours.ext_fields) >= set(recorded["extFields"] or {}), row


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", WIRE)
async def test_a_recorded_producer_ends_its_transactions_at_our_broker(
    name: str, tmp_path: Path, environment: Any
) -> None:
    """Claim: what a Java producer says and is asked about transactions is the same here.

    Experiment: play the recording (a commit, a rollback, and one that its producer does not know about at first), with
        the recorded settings; answer our broker's questions with the recorded answers.
    Observe: answers of the recorded shape; our question has all recorded fields, and its message those of the recorded
        one; committed messages are delivered. Decided ones are not asked about: 5.3.3 asks about all three, because their
        op records wait for three seconds.
    """
    rows = list(scenarios()[name])
    (asked, *_) = [row for row in rows if row["code"] == RequestCode.CHECK_TRANSACTION_STATE]
    config = BrokerConfig(listen_port=0, transaction_check_interval=3_000, transaction_time_out=2_000)
    config.auto_create_topic_enable = True
    store_config = MessageStoreConfig(
        store_path_root_dir=str(tmp_path), mapped_file_size_commit_log=1 << 20, max_hash_slot_num=100, max_index_num=400
    )
    begin = int(next(row for row in rows if row["code"] == 310)["extFields"]["g"])
    environment.clock.offset_ms = begin
    kernel = build_broker(config, store_config, environment)
    await kernel.start()
    try:
        producer = RecordedProducer(rows)
        topic = next(row["extFields"]["b"] for row in rows if row["code"] == 310)
        kernel.get(TopicConfigManager).update([TopicConfig(topic_name=topic, read_queue_nums=2, write_queue_nums=2)])
        await producer.play(f"127.0.0.1:{kernel.get(RemotingServer).port}")

        (check,) = producer.checks
        assert set(check.ext_fields) >= set(asked["extFields"])
        assert check.is_one_way
        ours, theirs = decode_record(bytes(check.body)), decode_record(bytes.fromhex(asked["body_hex"]))
        assert (ours.topic, ours.sys_flag, ours.flag) == (topic, theirs.sys_flag, theirs.flag)
        assert ours.properties.items() >= {"TRANSACTION_CHECK_TIMES": "1", "REAL_TOPIC": topic}.items()
        assert set(theirs.properties) <= set(ours.properties)
        delivered = keys(await read(kernel, topic))
        assert delivered == ["tk0", "tk2"]
        assert len(await read(kernel, TRANS_HALF_TOPIC, 1)) == 4
    finally:
        await kernel.stop()
