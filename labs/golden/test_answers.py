"""Our servers answer what recorded clients asked, with answers of the same shape as Apache's.

Each recording is played against a name server and a broker of ours, with the recorded pace, in virtual time. Offsets,
ids and addresses differ from run to run; codes, the names of header fields, and whether there is a body do not.
"""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labs.golden.replay import Copy, Exchange, exchanges, replay, topics_before
from labs.golden.test_wire import ARCHIVE, scenarios
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.common.record import RecordState, to_message
from rocketmq_py.remoting.bodies.topic_config import TopicConfig
from rocketmq_py.remoting.codes import RequestCode
from rocketmq_py.store.commit_log import CommitLog
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.testing.cluster import Cluster

#: Requests of stages that are not built yet.
LATER = {
    *(RequestCode.POP_MESSAGE, RequestCode.ACK_MESSAGE, RequestCode.PEEK_MESSAGE),
    *(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, RequestCode.NOTIFICATION, RequestCode.POLLING_INFO),
    *(RequestCode.QUERY_ASSIGNMENT, RequestCode.SET_MESSAGE_REQUEST_MODE, RequestCode.GET_COLD_DATA_FLOW_CTR_INFO),
}
#: Number of version 5.0.0 in a command; smaller ones are 4.x.
FIRST_VERSION_5 = 413
#: Properties that a later stage acts on.
LATER_PROPERTIES: tuple[str, ...] = ()


def is_later(exchange: Exchange) -> bool:
    fields = exchange.request["extFields"] or {}
    properties = str(fields.get("i") or fields.get("properties") or "")
    return exchange.request["code"] in LATER or any(name in properties for name in LATER_PROPERTIES)


def asks(code: RequestCode, **fields: str) -> Callable[[Exchange], bool]:
    def matches(exchange: Exchange) -> bool:
        found = exchange.request["extFields"] or {}
        return exchange.request["code"] == code and all(found.get(name) == value for name, value in fields.items())

    return matches


#: Where an answer of another shape is right, and why.
DIFFERENT: list[tuple[Callable[[Exchange], bool], str]] = [
    (
        lambda exchange: exchange.recorded is not None and int(exchange.recorded["code"]) == 25,
        "a heartbeat and a pull on two connections raced; the one that is behind is refused by both",
    ),
    (
        lambda exchange: "queueId[77]" in str(exchange.recorded and exchange.recorded["remark"]),
        "4.9 answers SYSTEM_ERROR where 5.x, and we, answer INVALID_PARAMETER",
    ),
    (
        lambda exchange: exchange.recorded is not None and exchange.recorded["remark"] == "OFFSET_RESET",
        "we answer a held pull when its 15 s are over, before the reset came; Apache looks every 5 s only",
    ),
    (
        lambda exchange: (
            exchange.request["code"] == RequestCode.QUERY_CONSUMER_OFFSET
            and exchange.recorded is not None
            and exchange.recorded["version"] < FIRST_VERSION_5
            and exchange.recorded["extFields"] == {"offset": "0"}
        ),
        "4.9 answers 0 for a queue that never had a message, 5.x and we answer that there is no offset",
    ),
    (asks(RequestCode.VIEW_MESSAGE_BY_ID), "the recorded offset is a place in the recorded log"),
    (
        asks(RequestCode.GET_CONSUMER_RUNNING_INFO),
        "the broker passes the question on to the recorded client, who is not there to answer",
    ),
    (
        asks(RequestCode.PULL_MESSAGE, subscription="a >< b"),
        "we refuse a malformed condition; Apache answers with everything",
    ),
    (
        lambda exchange: exchange.recorded is not None and "BufferUnderflow" in str(exchange.recorded["remark"]),
        "Apache answers a malformed batch with an exception of Java, we with what is wrong",
    ),
    (
        lambda exchange: exchange.request["code"] == RequestCode.UPDATE_BROKER_CONFIG,
        "settings that take effect at the next start only are refused here",
    ),
    (
        asks(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="%RETRY%WireGoGroup"),
        "our broker tells the name server of a new retry topic at once",
    ),
    (
        lambda exchange: "WireCpp" in str(exchange.request["extFields"]) and exchange.request["code"] == 11,
        "the message that this pull found was a delayed one",
    ),
]
#: Scenarios whose clients do what our stages can; the others need replicas, and pops throughout. What follows from
#: the places of half messages is compared in `test_transactions.py`.
NAMES = sorted(name for name in scenarios() if not any(word in name for word in ("ha-", "register-", "pop")))


@functools.cache
def starts() -> dict[str, int]:
    """Return when each recording began, milliseconds since 1970."""
    found = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jsonl") else None
            if file is not None:
                found[Path(member.name).stem] = json.loads(file.readline()).get("t0_ms", 0)
    return found


def find_copy(log: CommitLog, copy: Copy) -> int | None:
    """Return the physical offset of a message of a try, or None."""
    for offset, check in log.scan(log.min_offset):
        if check.state is RecordState.VALID and check.record is not None:
            message = to_message(check.record)
            if copy == (message.unique_key, message.reconsume_times, message.topic):
                return offset
    return None


def problems(exchange: Exchange, is_49: bool) -> list[str]:
    """Compare an answer with the recorded one."""
    recorded, ours = exchange.recorded, exchange.ours
    if recorded is None or exchange.request["kind"] == "oneway":
        return []
    if ours is None:
        return ["no answer"]
    found = []
    if int(recorded["code"]) != ours.code:
        found.append(f"code {recorded['code']} ({recorded['remark']}), ours {ours.code} ({ours.remark})")
    missing = set(recorded["extFields"] or {}) - set(ours.ext_fields)
    more = set(ours.ext_fields) - set(recorded["extFields"] or {})
    # A broker of 5.x tells clients of 4.9 a few things more, which they pass over.
    if missing or (more and not is_49 and recorded["code"] == 0 and recorded["extFields"]):
        found.append(f"fields missing {sorted(missing)}, more {sorted(more)}")
    if bool(recorded["body_len"]) != bool(ours.body):
        found.append(f"body of {recorded['body_len']} bytes, ours {len(ours.body)}")
    return found


@pytest.mark.virtual_time
@pytest.mark.parametrize("name", NAMES)
async def test_recorded_requests_get_answers_of_the_same_shape(name: str, tmp_path: Path, environment: Any) -> None:
    """Claim: what a real client asked a real broker, it may ask ours.

    Experiment: play the recording, with the clock set to its beginning, and the topics made that it finds.
    Observe: code, header fields and body of each answer, but for the reasons that are listed.
    """
    environment.clock.offset_ms = starts()[name]
    asked = [row for row in exchanges(scenarios()[name]) if row.request["server"] in ("namesrv", "broker")]
    config = BrokerConfig(enable_property_filter=True, trace_topic_enable=True, broker_cluster_name="DefaultCluster")
    config.recall_message_enable = True
    store_config = MessageStoreConfig(
        mapped_file_size_commit_log=16 << 20,
        mapped_file_size_consume_queue=60_000,
        max_hash_slot_num=5_000,
        max_index_num=20_000,
        max_message_size=262_144,
    )
    async with Cluster(tmp_path, environment=environment, config=config, store_config=store_config) as cluster:
        kernel = cluster.kernels[0]
        topics = kernel.get(TopicConfigManager)
        new = [topic for topic in topics_before(asked) if topics.select(topic) is None]
        topics.update([TopicConfig(topic_name=topic, read_queue_nums=4, write_queue_nums=4) for topic in new])
        addresses = {"namesrv": cluster.namesrvs[0].address, "broker": f"127.0.0.1:{kernel.config.listen_port}"}
        await replay(asked, addresses, lambda copy: find_copy(kernel.get(CommitLog), copy))

    compared, wrong = 0, []
    for exchange in asked:
        if is_later(exchange) or exchange.recorded is None:
            continue
        compared += 1
        found = problems(exchange, "49" in name)
        if found and not any(matches(exchange) for matches, _ in DIFFERENT):
            wrong.append(f"{exchange}: {'; '.join(found)}")
    print(f"{name}: {compared} of {len(asked)} requests compared")
    assert wrong == []
    assert compared >= 5


def test_most_of_the_codes_that_clients_send_are_compared() -> None:
    """The comparison above would pass with little to compare."""
    codes = {
        exchange.request["code"]
        for name in NAMES
        for exchange in exchanges(scenarios()[name])
        if exchange.recorded is not None and not is_later(exchange)
    }
    assert len(codes) >= 45, sorted(codes)
