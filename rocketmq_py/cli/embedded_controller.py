"""A controller in the process of a name server: `enableControllerInNamesrv=true`.

Both read the same file, and each has its own port: the controller the one of its entry in `controllerDLegerPeers`.

Source: `NamesrvStartup#controllerManagerMain`, RocketMQ 5.3.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from rocketmq_py.cli.process import Service
from rocketmq_py.common.environment import Environment
from rocketmq_py.common.errors import ConfigError
from rocketmq_py.namesrv.server import Namesrv

_MODULE = "rocketmq_py.controller"


def settings() -> list[Any]:
    """Return the settings of a controller, to be filled from the name server's file; none in an early slice."""
    # The package of a later stage is there but empty in a slice, hence the module in it.
    if importlib.util.find_spec(f"{_MODULE}.server") is None:
        return []
    from rocketmq_py.controller.config import ControllerConfig

    return [ControllerConfig()]


def beside(namesrv: Namesrv, controller_settings: list[Any], environment: Environment) -> Service:
    """Return the name server, together with a controller if its settings want one.

    Raises:
        ConfigError: they want one, and this slice has none.
    """
    if not namesrv.config.enable_controller_in_namesrv:
        return namesrv
    if not controller_settings:
        raise ConfigError("enableControllerInNamesrv=true needs the stage ha, which is not here")
    from rocketmq_py.controller.server import Controller

    config = controller_settings[0]
    if config.config_store_path:
        # One key, two processes' worth of changes: the controller's go beside the name server's.
        config.config_store_path = os.path.expanduser(config.config_store_path) + ".controller"
    return NamesrvWithController(namesrv, Controller(config, environment))


class NamesrvWithController:
    """Both, started and stopped together."""

    def __init__(self, namesrv: Namesrv, controller: Service) -> None:
        self.namesrv = namesrv
        self.controller = controller

    async def start(self) -> None:
        """Start the controller, then the name server: brokers look for both, and come when the second is there."""
        await self.controller.start()
        try:
            await self.namesrv.start()
        except BaseException:
            await self.controller.stop()
            raise

    async def stop(self) -> None:
        """Stop the name server, then the controller."""
        try:
            await self.namesrv.stop()
        finally:
            await self.controller.stop()
