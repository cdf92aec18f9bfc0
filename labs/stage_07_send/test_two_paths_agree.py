"""The hot path is a batching of the ordinary one: whatever is sent, records and answers are the same."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_07_send.send_lab import running_broker, send_fields
from rocketmq_py.common.message import Message
from rocketmq_py.common.message_batch import encode_batch
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop

Answer = tuple[int, str | None, dict[str, str]]


@dataclass(frozen=True)
class Send:
    """One request."""

    code: int
    fields: dict[str, str]
    body: bytes


_SPECIAL = ["X_UNIQ_KEY", "MYTAGS", "WAIT", "CLUSTER", "POP_CK", "DELAY", "INNER_NUM"]
# Ordinary names are drawn more often, or most messages would be special.
NAMES = st.sampled_from(["TAGS", "KEYS", "UNIQ_KEY", "mine"] * 3 + _SPECIAL)
VALUES = st.sampled_from(
    ["true", "false", "A", "TagB", "7F00000100002A139A550A1B2C3D0007", "o-1 o-2", "é", "0", "5", ""]
)


@st.composite
def property_texts(draw: st.DrawFn) -> bytes:
    """Texts of properties, with and without the last separator."""
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=6))
    text = "".join(f"{name}\x01{value}\x02" for name, value in pairs)
    if draw(st.booleans()) and draw(st.booleans()):
        text = text[:-1]
    return text.encode()


@st.composite
def sends(draw: st.DrawFn) -> Send:
    """Requests of all kinds, most of them plain."""
    code = draw(
        st.sampled_from([RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE])
    )
    batch = draw(st.sampled_from([False, False, True]))
    body = draw(st.binary(min_size=0, max_size=60))
    if batch:
        messages = draw(st.lists(st.tuples(st.binary(max_size=30), property_texts()), max_size=4))
        body = b"".join(_item(content, properties) for content, properties in messages)
    fields = send_fields(
        draw(st.sampled_from(["Orders", "Orders", "Orders", "Payments", "bad topic!"])),
        draw(property_texts()),
        code,
        queue_id=draw(st.sampled_from([0, 1, 2, 3, 9])),
        sys_flag=draw(st.sampled_from([0, 0, 0, 1, 0x301, 4, 0x10])),
        flag=draw(st.sampled_from([0, 7, -1, 2**31 - 1])),
        reconsume_times=draw(st.sampled_from([0, 0, 2, None])),
        batch=batch,
    )
    return Send(code, fields, body)


def _item(body: bytes, properties: bytes) -> bytes:
    item = bytearray(encode_batch([Message("", body)]))
    item[0:4] = (len(item) + len(properties)).to_bytes(4, "big")
    item[-2:] = len(properties).to_bytes(2, "big")
    return bytes(item) + properties


def run_all(requests: list[Send], *, hot: bool) -> tuple[list[Answer], bytes, int]:
    """Send the requests to a fresh broker; return the answers, the log, and how many the hot path took."""

    async def main(folder: Path) -> tuple[list[Answer], bytes, int]:
        async with running_broker(simulated_environment(seed=3), folder, hot=hot) as broker:
            broker.create_topic("Orders", queues=4)
            broker.create_topic("Payments", queues=2)
            taken = _count_hot(broker.kernel.get(Processors))
            answers = []
            for request in requests:
                found = await broker.request(request.code, request.fields, request.body)
                answers.append((found.code, found.remark, found.ext_fields))
            return answers, broker.log_bytes(), len(taken)

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(Path(folder)))


def _count_hot(processors: Processors) -> list[int]:
    """Let the hot handlers note each request that they take."""
    taken: list[int] = []

    def counting(handler):  # type: ignore[no-untyped-def]
        def count(connection, command, body):  # type: ignore[no-untyped-def]
            handled = handler(connection, command, body)
            if handled:
                taken.append(command.code)
            return handled

        return count

    for code, handler in list(processors.hot.items()):
        processors.hot[code] = counting(handler)
    return taken


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(sends(), min_size=1, max_size=8))
def test_both_paths_give_equal_answers_and_equal_bytes(requests: list[Send]) -> None:
    """Claim: ordinary path and hot path give byte-equal records and equal answers for the same requests.

    Experiment: send random requests (three codes, batches, special and damaged properties, wrong queues) to two fresh
    brokers that differ in nothing but their hot handlers.
    Observe: every answer is the same, and so is every byte of the two logs.
    """
    hot_answers, hot_log, _ = run_all(requests, hot=True)
    answers, log, taken = run_all(requests, hot=False)

    assert taken == 0
    assert hot_answers == answers, (
        "The two paths answer differently. Which of the four tests lets a message pass that the ordinary path changes?"
    )
    assert hot_log == log, "The two paths store different bytes for the same requests"


def test_plain_messages_take_the_hot_path_and_special_ones_do_not() -> None:
    """Claim: the comparison above compares two paths, not one with itself."""
    plain = {"UNIQ_KEY": "7F00000100002A139A550A1B2C3D0007", "TAGS": "A", "WAIT": "true"}
    code = RequestCode.SEND_MESSAGE_V2
    batch = encode_batch([Message("Orders", b"x")])
    requests = [
        Send(code, send_fields("Orders", plain, code), b"plain"),
        Send(RequestCode.SEND_MESSAGE, send_fields("Orders", plain, RequestCode.SEND_MESSAGE), b"plain"),
        Send(320, send_fields("Orders", {}, 320, batch=True), batch),
        Send(code, send_fields("Orders", {}, code), b"no unique key"),
        Send(code, send_fields("Orders", plain | {"WAIT": "false"}, code), b"does not wait"),
        Send(code, send_fields("Orders", plain | {"CLUSTER": "x"}, code), b"forged"),
        Send(code, send_fields("Orders", plain, code, sys_flag=4), b"prepared"),
        Send(code, send_fields("Orders", plain, code, reconsume_times=1), b"retried"),
        Send(code, send_fields("NewTopic", plain, code), b"creates its topic"),
    ]
    for number, request in enumerate(requests):
        _, _, taken = run_all([request], hot=True)
        assert taken == (1 if number < 3 else 0), f"request {number} ({request.body!r})"
