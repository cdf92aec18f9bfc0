"""Transactional messages leave the hot path, and everything else is stored as before."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_07_send.send_lab import running_broker, send_fields
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.properties import encode_properties
from rocketmq_py.common.topic import TRANS_HALF_TOPIC
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop

CODES = st.sampled_from([RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2])
TRAN_MSG = st.sampled_from(["true", "TRUE", "false", "yes", "0", ""])
PLAIN = {"UNIQ_KEY": "7F00000100002A139A550A1B2C3D0007", "TAGS": "A"}


@dataclass(frozen=True)
class Send:
    """One request."""

    code: int
    fields: dict[str, str]
    body: bytes


@st.composite
def sends(draw: st.DrawFn) -> Send:
    """Half of them transactional in one way or another."""
    code = draw(CODES)
    properties = dict(PLAIN)
    if draw(st.booleans()):
        properties["TRAN_MSG"] = draw(TRAN_MSG)
        properties["PGROUP"] = "g"
    if draw(st.booleans()):
        properties["X_TRAN_MSG"] = "true"
    if draw(st.integers(0, 3)) == 0:
        properties["TRAN_PREPARED_QUEUE_OFFSET"] = "5"
    text = "".join(f"{name}\x01{value}\x02" for name, value in properties.items()).encode()
    fields = send_fields("Orders", text, code, sys_flag=draw(st.sampled_from([0, 0, 4, 8, 12])), queue_id=1)
    return Send(code, fields, draw(st.binary(min_size=1, max_size=40)))


def run_all(requests: list[Send], *, hot: bool) -> tuple[list[object], bytes, int]:
    """Send the requests to a fresh broker; return answers, the log, and how many took the hot path."""

    async def main(folder: Path) -> tuple[list[object], bytes, int]:
        environment = simulated_environment(seed=3)
        async with running_broker(environment, folder, hot=hot, through="transaction") as broker:
            broker.create_topic("Orders", queues=4)
            taken: list[int] = []
            processors = broker.kernel.get(Processors)
            for code, handler in list(processors.hot.items()):

                def count(connection, command, body, handler=handler):  # type: ignore[no-untyped-def]
                    handled = handler(connection, command, body)
                    taken.extend([command.code] * handled)
                    return handled

                processors.hot[code] = count
            answers: list[object] = []
            for request in requests:
                found = await broker.request(request.code, request.fields, request.body)
                answers.append((found.code, found.remark, found.ext_fields))
            return answers, broker.log_bytes(), len(taken)

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(Path(folder)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(sends(), min_size=1, max_size=6))
def test_both_paths_store_transactional_and_other_messages_alike(requests: list[Send]) -> None:
    """Claim: with this stage installed the hot path still stores what the ordinary path stores.

    Experiment: random messages, with and without TRAN_MSG in all spellings and with all transaction bits, to two brokers
        of which one has no hot handlers.
    Observe: equal answers, equal bytes.
    """
    hot, ordinary = run_all(requests, hot=True), run_all(requests, hot=False)
    assert hot[:2] == ordinary[:2]
    assert ordinary[2] == 0


def test_a_transactional_message_leaves_the_hot_path_and_its_neighbour_does_not() -> None:
    code = RequestCode.SEND_MESSAGE_V2
    plain = Send(code, send_fields("Orders", PLAIN, code), b"plain")
    half = Send(code, send_fields("Orders", PLAIN | {"TRAN_MSG": "true"}, code), b"half")
    looks_like = Send(code, send_fields("Orders", PLAIN | {"X_TRAN_MSG": "true"}, code), b"plain too")
    assert [run_all([request], hot=True)[2] for request in (plain, half, looks_like)] == [1, 0, 1]


@pytest.mark.virtual_time
async def test_the_property_decides_and_not_the_bits(tmp_path: Path, environment: Environment) -> None:
    """As in RocketMQ: with the property and without bits it is a half message; with bits and without the property it lies
    in its topic, in no queue, and leaves no gap there."""
    async with running_broker(environment, tmp_path, through="transaction") as broker:
        broker.create_topic("Orders", queues=4)
        await broker.send("Orders", b"half", PLAIN | {"TRAN_MSG": "true"}, sys_flag=0)
        bits = await broker.send("Orders", b"bits only", PLAIN, sys_flag=4)
        after = await broker.send("Orders", b"after", PLAIN)
        assert [message.body for message in broker.stored(TRANS_HALF_TOPIC)] == [b"half"]
        assert [message.body for message in broker.stored("Orders")] == [b"bits only", b"after"]
        assert (bits.ext_fields["queueOffset"], after.ext_fields["queueOffset"]) == ("0", "0")


@pytest.mark.virtual_time
async def test_a_retried_message_of_an_old_client_is_no_new_transaction(
    tmp_path: Path, environment: Environment
) -> None:
    """It still has TRAN_MSG when its consumer sends it back, with a delay; stored as a half message it would be lost."""
    async with running_broker(environment, tmp_path, through="transaction") as broker:
        properties = PLAIN | {"TRAN_MSG": "true", "DELAY": "3"}
        await broker.send("%RETRY%readers", b"retried", properties, reconsume_times=2)
        assert broker.stored(TRANS_HALF_TOPIC) == []


@pytest.mark.virtual_time
async def test_a_batch_cannot_be_transactional(tmp_path: Path, environment: Environment) -> None:
    async with running_broker(environment, tmp_path, through="transaction") as broker:
        broker.create_topic("Orders")
        fields = send_fields("Orders", encode_properties({"TRAN_MSG": "true"}), 320, batch=True)
        response = await broker.request(RequestCode.SEND_BATCH_MESSAGE, fields, b"x" * 40)
        assert response.code == 13
        assert broker.stored() == []
