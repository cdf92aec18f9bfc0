"""Stage 13: messages that are delivered later."""

from __future__ import annotations

from rocketmq_py.assembly.delay_levels import install_levels
from rocketmq_py.assembly.kernel import Kernel


def install(kernel: Kernel) -> None:
    """Add the ways to delay a message."""
    install_levels(kernel)
