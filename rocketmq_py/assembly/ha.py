"""Stage 16: replicas of the log, and what a group of brokers does when one of them is gone."""

from __future__ import annotations

from rocketmq_py.assembly.controller_mode import begin_controller_mode, install_controller_mode
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.replication import install_replication
from rocketmq_py.assembly.slave import install_slave
from rocketmq_py.broker.ha.broker_role import BrokerRoles


def install(kernel: Kernel) -> None:
    """Add the role of this broker, the copying of the log, what a slave does besides, and roles that change."""
    begin_controller_mode(kernel)
    kernel.provide(BrokerRoles(kernel.config, kernel.store_config))
    install_replication(kernel)
    install_slave(kernel)
    install_controller_mode(kernel)
