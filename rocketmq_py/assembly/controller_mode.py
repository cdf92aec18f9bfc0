"""Installs roles that a controller assigns; the third part of stage ha."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel


def install_controller_mode(kernel: Kernel) -> None:
    """Nothing yet."""
