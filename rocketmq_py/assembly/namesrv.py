"""Installs stage namesrv in a broker: it makes itself known to its name servers."""

from __future__ import annotations

from rocketmq_py.assembly.kernel import Kernel
from rocketmq_py.broker.registration import Registration
from rocketmq_py.remoting.client import RemotingClient


def install(kernel: Kernel) -> None:
    """Add the registration; it begins once the broker serves and ends before the port closes."""
    kernel.provide(Registration(kernel.config, kernel.get(RemotingClient)))
