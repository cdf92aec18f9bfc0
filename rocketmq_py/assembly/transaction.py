"""Stage 15: replies that find the client that asked."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.assembly.reply import install_reply


def install(kernel: Kernel) -> None:
    """Add what passes replies on."""
    install_reply(kernel)
