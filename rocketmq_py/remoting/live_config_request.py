"""A request to change settings, as broker, name server and controller answer it.

Source: `AdminBrokerProcessor#updateBrokerConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.live_config import ConfigNotAllowedError, LiveConfig
from rocketmq_py.remoting.answer import answer
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.command import RemotingCommand
from rocketmq_py.remoting.processors import Request


async def change_settings(live_config: LiveConfig, request: Request) -> RemotingCommand:
    """Apply the properties text in the body, all of it or nothing, and say why not."""
    try:
        await live_config.update(bytes(request.command.body), request.connection.remote_address)
    except ConfigNotAllowedError as error:
        return answer(ResponseCode.NO_PERMISSION, str(error))
    except ConfigError as error:
        return answer(ResponseCode.SYSTEM_ERROR, str(error))
    return answer()
