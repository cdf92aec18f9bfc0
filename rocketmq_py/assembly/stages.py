"""The stages of a broker, in order; each has a module here with one `install(kernel)`.

Read in this order, those modules are the table of contents of the broker.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.config import BrokerConfig
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import InvalidInputError
from rocketmq_py.store.config import MessageStoreConfig

STAGES: Final = (
    "commit_log",
    "consume_queue",
    "index",
    "recovery",
    "remoting",
    "namesrv",
    "send",
    "pull",
    "long_polling",
    "filter",
    "rebalance",
    "order",
    "delay",
    "retry",
    "transaction",
    "ha",
)


def available_stages() -> tuple[str, ...]:
    """Return the stages whose code is here: all of them, or the first few in a slice."""
    return tuple(stage for stage in STAGES if importlib.util.find_spec(f"rocketmq_py.assembly.{stage}"))


def build_broker(
    config: BrokerConfig, store_config: MessageStoreConfig, environment: Environment, through: str | None = None
) -> Kernel:
    """Install the stages up to and including `through` (default: all) and return the kernel, not yet started.

    Raises:
        InvalidInputError: there is no such stage here.
    """
    stages = available_stages()
    last = through or stages[-1]
    if last not in stages:
        raise InvalidInputError(f"there is no stage {last!r}; the stages are {', '.join(stages)}")
    kernel = Kernel(config, store_config, environment)
    for stage in stages[: stages.index(last) + 1]:
        kernel.stage = stage
        importlib.import_module(f"rocketmq_py.assembly.{stage}").install(kernel)
    return kernel
