"""Stage 01: the commit log, its flush, and the gate that completes puts."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.common.host import encode_host
from rocketmq_py.store.commit_log import CommitLog


def install(kernel: Kernel) -> None:
    """Provide log, flush service, acknowledgement gate, queue slots and tick."""
    config = kernel.config
    log = CommitLog(kernel.store_config, kernel.environment, encode_host(config.broker_ip1, config.listen_port))
    kernel.provide(log)
