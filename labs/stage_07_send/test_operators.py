"""What operators ask a broker beside topics: its statistics, and cleaning at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from labs.stage_07_send.send_lab import running_broker
from rocketmq_py.broker.statistics import MINUTE, BrokerStatsManager
from rocketmq_py.common.environment import Environment
from rocketmq_py.remoting.codes import RequestCode, ResponseCode
from rocketmq_py.store.retention import MANUAL_PASSES, CleanCommitLogService


@pytest.mark.virtual_time
async def test_statistics_are_shown_by_window(environment: Environment, tmp_path: Path) -> None:
    """Growth, growth a second and growth a time; a name that nothing was counted under is an error that says so."""
    async with running_broker(environment, tmp_path) as broker:
        broker.create_topic("Counted")
        for _ in range(30):
            await broker.send("Counted", b"12345")
        broker.kernel.get(BrokerStatsManager).sample(MINUTE)
        code = RequestCode.VIEW_BROKER_STATS_DATA
        answer = await broker.request(code, {"statsName": "TOPIC_PUT_NUMS", "statsKey": "Counted"})
        shown = msgspec.json.decode(answer.body)
        assert set(shown) == {"statsMinute", "statsHour", "statsDay"}
        assert shown["statsMinute"]["sum"] == 30
        assert shown["statsMinute"]["avgpt"] == 1.0
        assert 0 < shown["statsMinute"]["tps"] <= 3.0
        unknown = await broker.request(code, {"statsName": "TOPIC_PUT_NUMS", "statsKey": "Nothing"})
        assert unknown.code == ResponseCode.SYSTEM_ERROR
        assert unknown.remark == "The stats <TOPIC_PUT_NUMS> <Nothing> not exist"


@pytest.mark.virtual_time
async def test_other_things_are_counted_by_set_and_key_until_their_topic_or_group_is_deleted(
    environment: Environment, tmp_path: Path
) -> None:
    async with running_broker(environment, tmp_path) as broker:
        statistics = broker.kernel.get(BrokerStatsManager)
        for key in ("Orders@g", "Orders@h", "Parcels@g", "Or@g@x"):
            statistics.counted("SNDBCK_PUT_NUMS", key).add(2, 0)
        assert statistics.counted("SNDBCK_PUT_NUMS", "Orders@g").messages == 2
        statistics.sample(MINUTE)
        shown = statistics.view("SNDBCK_PUT_NUMS", "Orders@g")
        assert shown is not None and shown["statsMinute"].sum == 2
        statistics.drop_topic("Orders")
        statistics.drop_group("g")
        left = [key for name, key in set(statistics.keys()) if name == "SNDBCK_PUT_NUMS"]
        assert left == ["Or@g@x"]
        assert statistics.put_total() == 0, "what is counted beside is no send"


@pytest.mark.virtual_time
async def test_expired_files_are_deleted_on_request(environment: Environment, tmp_path: Path) -> None:
    """The request asks the passes of the next minutes to look at any hour; it deletes nothing by itself."""
    async with running_broker(environment, tmp_path) as broker:
        assert (await broker.request(RequestCode.DELETE_EXPIRED_COMMITLOG, {})).code == ResponseCode.SUCCESS
        assert broker.kernel.get(CleanCommitLogService).manual_passes == MANUAL_PASSES
        assert (await broker.request(RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE, {})).code == ResponseCode.SUCCESS
