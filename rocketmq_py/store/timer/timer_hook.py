"""The put hook of timers: a message with a time of delivery goes to the timer topic first.

What is kept for later stands in properties: the time, rounded, and the real topic and queue.

Source: `HookUtils#handleScheduleMessage`, `#transformTimerMessage`, RocketMQ 5.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from rocketmq_py.common import properties as names
from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.common.java import parse_i64
from rocketmq_py.common.properties import change_properties
from rocketmq_py.common.topic import TIMER_TOPIC
from rocketmq_py.store.config import MessageStoreConfig
from rocketmq_py.store.draft import Draft
from rocketmq_py.store.put_hooks import PutHook
from rocketmq_py.store.put_result import PutMessageStatus
from rocketmq_py.store.redirect import redirect

#: Room that a delivery needs for TIMER_ENQUEUE_MS, TIMER_DEQUEUE_MS and TIMER_ROLL_TIMES with their values.
#: Differs from RocketMQ, which takes a message without that room and drops it when its time has come.
DELIVERY_ROOM: Final = 128


class TimerHook:
    """Redirects puts.

    Args:
        config: limits; read at each use.
        environment: clock and randomness.
        num_at: how many messages wait in the slot of a time.
        wake: called when a message was redirected.
        is_failed: whether the timers of this process stand still for good.
    """

    def __init__(
        self,
        config: MessageStoreConfig,
        environment: Environment,
        num_at: Callable[[int], int] = lambda time_ms: 0,
        wake: Callable[[], None] = lambda: None,
        is_failed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config = config
        self._clock = environment.clock
        self._random = environment.random
        self._num_at = num_at
        self._wake = wake
        self._is_failed = is_failed

    def hook(self) -> PutHook:
        """Return what is to be installed."""
        return PutHook("timer", (b"TIMER_",), self.apply)

    def apply(self, draft: Draft) -> PutMessageStatus | None:
        """Look at a draft; send it to the timer topic, or refuse it."""
        properties = draft.properties
        if flags.transaction_type(draft.sys_flag) not in (flags.TRANSACTION_NOT, flags.TRANSACTION_COMMIT):
            return None
        if draft.topic == TIMER_TOPIC or properties.keys().isdisjoint(names.TIMER_REQUESTS):
            return None
        if delay_level(properties) > 0:
            # The level wins, and nothing shall remind of the timer.
            for name in names.TIMER_REQUESTS:
                properties.pop(name, None)
            draft.stored_properties = change_properties(draft.stored_properties, dict.fromkeys(names.TIMER_REQUESTS))
            return None
        if names.TIMER_OUT_MS in properties:
            # It comes from the wheel. Its stored text still says when it was to be delivered.
            return None
        return self._redirect(draft)

    def _redirect(self, draft: Draft) -> PutMessageStatus | None:
        config, properties = self._config, draft.properties
        if not config.timer_wheel_enable:
            return PutMessageStatus.WHEEL_TIMER_NOT_ENABLE
        now = self._clock.wall_ms()
        try:
            deliver = deliver_time(properties, now)
        except InvalidInputError:
            return PutMessageStatus.WHEEL_TIMER_MSG_ILLEGAL
        if deliver <= now:
            # At once; but a deletion that comes too late is told so.
            is_deletion = names.TIMER_DEL_UNIQKEY in properties
            return PutMessageStatus.WHEEL_TIMER_MSG_ILLEGAL if is_deletion else None
        if deliver - now > config.timer_max_delay_sec * 1000:
            return PutMessageStatus.WHEEL_TIMER_MSG_ILLEGAL
        if self._is_failed():
            return PutMessageStatus.SERVICE_NOT_AVAILABLE
        out = rounded(deliver, config.timer_precision_ms)
        if is_rejected(self._num_at(out), config.timer_congest_num_each_slot, self._random):
            return PutMessageStatus.WHEEL_TIMER_FLOW_CONTROL
        refusal = redirect(draft, TIMER_TOPIC, 0, {names.TIMER_OUT_MS: str(out)}, room=DELIVERY_ROOM)
        if refusal is not None:
            return refusal
        self._wake()
        return None


def delay_level(properties: dict[str, str]) -> int:
    """Return the delay level that properties ask for; 0 for none, or for what is no number."""
    try:
        return parse_i64(properties.get(names.DELAY, "0"))
    except InvalidInputError:
        return 0


def deliver_time(properties: dict[str, str], now_ms: int) -> int:
    """Return when a message is to be delivered, milliseconds since 1970.

    Raises:
        InvalidInputError: its property holds no number.
    """
    if (seconds := properties.get(names.TIMER_DELAY_SEC)) is not None:
        return now_ms + 1000 * parse_i64(seconds, names.TIMER_DELAY_SEC)
    if (milliseconds := properties.get(names.TIMER_DELAY_MS)) is not None:
        return now_ms + parse_i64(milliseconds, names.TIMER_DELAY_MS)
    return parse_i64(properties[names.TIMER_DELIVER_MS], names.TIMER_DELIVER_MS)


def rounded(deliver_ms: int, precision_ms: int) -> int:
    """Return the slot of a time of delivery: the last one that begins before it.

    A slot is delivered when it is over, so a message comes at the first full second at or behind its time.
    """
    return (deliver_ms - 1) // precision_ms * precision_ms


def is_rejected(num: int, limit: int, rng: random.Random) -> bool:
    """Tell whether a slot with `num` messages takes no more: by chance from the limit on, surely at twice the limit.

    As RocketMQ computes it, the chance to be rejected is greatest just above the limit, and falls from there.
    """
    if num <= limit:
        return False
    if num >= 2 * limit:
        return True
    return rng.randrange(1_000) > 1_000 * (num - limit) / (limit + 0.1)
