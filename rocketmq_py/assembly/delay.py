"""Stage 13: messages that are delivered later."""

from __future__ import annotations

from rocketmq_py.assembly.delay_levels import install_levels
from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.timer import install_timer


def install(kernel: Kernel) -> None:
    """Add the two ways to delay a message: by a level, and to any time."""
    install_levels(kernel)
    install_timer(kernel)
