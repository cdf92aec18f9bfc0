"""Installs what a slave does besides copying the log; the second part of stage ha."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel


def install_slave(kernel: Kernel) -> None:
    """Nothing yet."""
