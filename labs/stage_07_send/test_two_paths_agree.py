"""The hot path is a batching of the ordinary one: whatever is sent, records and answers are the same."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labs.stage_07_send.send_lab import running_broker, send_fields
from rocketmq_py.broker.hot.batch import split_batch, split_equal
from rocketmq_py.broker.hot.plain_properties import PlainProperties
from rocketmq_py.common.message import Message
from rocketmq_py.common.message_batch import encode_batch
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.remoting.processors import Processors
from rocketmq_py.sim.environment import simulated_environment
from rocketmq_py.sim.loop import VirtualLoop
from rocketmq_py.store.columns import Columns
from rocketmq_py.store.index_hash import keys_of
from rocketmq_py.store.tick import Tick

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
def alike(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Messages as one producer batches them: their properties differ in nothing but keys of equal length."""
    around = draw(
        st.sampled_from(["TAGS\x01A\x02%s\x02WAIT\x01true\x02", "%s\x02", "%s", "UNIQ_KEY\x01abcd\x02%s\x02"])
    )
    name = draw(st.sampled_from(["UNIQ_KEY", "UNIQ_KEY", "KEYS"]))
    keys = st.sampled_from(["0123", "ABCD", "a1b2", "a b ", "a\x01b2", "a\x02b2", "----", "éé"])
    texts = [around % f"{name}\x01{draw(keys)}" for _ in range(draw(st.integers(2, 8)))]
    sizes = st.just(draw(st.integers(0, 20))) if draw(st.booleans()) else st.integers(0, 20)
    bodies = [draw(st.binary(min_size=size, max_size=size)) for size in [draw(sizes) for _ in texts]]
    return [(body, text.encode()) for body, text in zip(bodies, texts, strict=True)]


@st.composite
def sends(draw: st.DrawFn) -> Send:
    """Requests of all kinds, most of them plain."""
    code = draw(
        st.sampled_from([RequestCode.SEND_MESSAGE, RequestCode.SEND_MESSAGE_V2, RequestCode.SEND_BATCH_MESSAGE])
    )
    batch = draw(st.sampled_from([False, False, True]))
    body = draw(st.binary(min_size=0, max_size=60))
    if batch:
        messages = draw(st.one_of(st.lists(st.tuples(st.binary(max_size=30), property_texts()), max_size=4), alike()))
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


#: Topic, queue, queue offset, tags code, system flag, properties and index keys of a record.
Dispatched = tuple[str, int, int, int, int, bytes, tuple[bytes, ...]]


@dataclass(frozen=True)
class Outcome:
    """What came of some requests: the answers, the log, what was told to queues and index, and who took how many."""

    answers: list[Answer]
    log: bytes
    dispatched: list[Dispatched]
    taken_by_hot_path: int


def run_all(requests: list[Send], *, hot: bool) -> Outcome:
    """Send the requests to a fresh broker."""

    async def main(folder: Path) -> Outcome:
        async with running_broker(simulated_environment(seed=3), folder, hot=hot) as broker:
            broker.create_topic("Orders", queues=4)
            broker.create_topic("Payments", queues=2)
            taken = _count_hot(broker.kernel.get(Processors))
            dispatched = _watch_dispatch(broker.kernel.get(Tick))
            answers = []
            for request in requests:
                found = await broker.request(request.code, request.fields, request.body)
                answers.append((found.code, found.remark, found.ext_fields))
            return Outcome(answers, broker.log_bytes(), dispatched, len(taken))

    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(Path(folder)))


def _watch_dispatch(tick: Tick) -> list[Dispatched]:
    """Note what becomes visible of each record."""
    seen: list[Dispatched] = []
    dispatch = tick.on_visible

    def watch(columns: Columns) -> None:
        seen.extend(
            (slot.topic, slot.queue_id, *row, tuple(keys_of(row[-1]) if keys is None else keys))
            for slot, keys, *row in zip(
                columns.slots,
                columns.keys,
                columns.queue_offsets,
                columns.tags_codes,
                columns.sys_flags,
                columns.properties,
                strict=True,
            )
        )
        dispatch(columns)

    tick.on_visible = watch
    return seen


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


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(sends(), min_size=1, max_size=8))
def test_both_paths_give_equal_answers_and_equal_bytes(requests: list[Send]) -> None:
    """Claim: ordinary path and hot path give byte-equal records and equal answers for the same requests.

    Experiment: send random requests (three codes, batches, special and damaged properties, wrong queues) to two fresh
    brokers that differ in nothing but their hot handlers.
    Observe: every answer is the same, and so is every byte of the two logs.
    """
    hot = run_all(requests, hot=True)
    ordinary = run_all(requests, hot=False)

    assert ordinary.taken_by_hot_path == 0
    assert hot.answers == ordinary.answers, (
        "The two paths answer differently. Which of the four tests lets a message pass that the ordinary path changes?"
    )
    assert hot.log == ordinary.log, "The two paths store different bytes for the same requests"
    assert hot.dispatched == ordinary.dispatched, "Queues and index are told different things; look at the tags code"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=9, max_size=9), min_size=4, max_size=12), st.data())
def test_messages_of_one_shape_are_packed_together_and_any_other_message_is_noticed(
    bodies: list[bytes], data: st.DataObject
) -> None:
    """Claim: a batch is packed with one call if its messages differ in body and unique key alone, else one by one.

    Experiment: make a batch of equal messages, then change one byte anywhere in it.
    Observe: unless the byte is in a body, in a key, or in a field that nobody reads, the batch is not taken as equal.
    """
    items = [_item(body, b"UNIQ_KEY\x01%08X\x02TAGS\x01A\x02" % number) for number, body in enumerate(bodies)]
    batch, size = b"".join(items), len(items[0])
    plain = PlainProperties((b"DELAY\x01",))

    equal = split_equal(plain, batch, b"S\x01s\x02")
    assert equal is not None, "Equal messages were not recognised"
    rows = split_batch(plain, batch, (b"S\x01s\x02", b""), None)
    assert rows == [
        (equal.flag, body, properties, equal.tags_code, (key,))
        for body, key, properties in zip(equal.bodies, equal.keys, equal.properties(), strict=True)
    ]

    at = data.draw(st.integers(0, len(batch) - 1))
    changed = bytearray(batch)
    changed[at] ^= data.draw(st.integers(1, 255))
    found = split_equal(plain, bytes(changed), b"S\x01s\x02")
    if found is not None:
        place = at % size
        is_body, is_key = 20 <= place < 29, 40 <= place < 48
        assert is_body or is_key, f"byte {place} of a message was changed, and the batch is still taken as equal"
        assert split_batch(plain, bytes(changed), (b"S\x01s\x02", b""), None) is not None


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
        taken = run_all([request], hot=True).taken_by_hot_path
        assert taken == (1 if number < 3 else 0), f"request {number} ({request.body!r})"
