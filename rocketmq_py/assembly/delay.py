"""Stage 13: messages that are delivered later."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.timer import install_timer


def install(kernel: Kernel) -> None:
    """Add the timer wheel."""
    install_timer(kernel)
