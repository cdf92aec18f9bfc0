"""Installs the copying of the log; the first part of stage ha."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel


def install_replication(kernel: Kernel) -> None:
    """Nothing yet."""
