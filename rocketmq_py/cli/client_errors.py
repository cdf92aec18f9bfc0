"""Running a command against a cluster: one client for its duration, and errors with the next step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rocketmq_py.cli.output import CliError, Exit
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.errors import (
    BrokerResponseError,
    ClientError,
    NoNameServerError,
    NoRouteError,
)
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.errors import RemotingError

_NOT_ALLOWED = (ResponseCode.NO_PERMISSION,)
_NOT_FOUND = (ResponseCode.TOPIC_NOT_EXIST, ResponseCode.QUERY_NOT_FOUND, ResponseCode.NO_MESSAGE)


def run_client(work: Callable[[], Awaitable[None]]) -> None:
    """Run the coroutine of a command and turn the client's errors into statuses and next steps.

    Raises:
        CliError: what failed, with its exit status.
    """
    try:
        asyncio.run(_as_coroutine(work))
    except NoRouteError as error:
        hint = f"Create it: rmq-py topic create {error.topic}. List what there is: rmq-py topic list"
        raise CliError(str(error), Exit.NOT_FOUND, hint) from error
    except NoNameServerError as error:
        raise CliError(
            str(error), Exit.CANNOT_CONNECT, "Start one: rmq-py standalone. Name another: -n HOST:PORT"
        ) from error
    except BrokerResponseError as error:
        if error.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED and "name server" in str(error):
            hint = (
                "What listens there may be a broker; name servers listen on 9876 by default. Name another: -n HOST:PORT"
            )
            raise CliError(str(error), Exit.CANNOT_CONNECT, hint) from error
        raise CliError(str(error), _status(error.code)) from error
    except (RemotingError, ClientError) as error:
        connecting = isinstance(error, RemotingError | TimeoutError) or "connect" in str(error)
        hint = "Is the cluster running? Start one: rmq-py standalone. Name another: -n HOST:PORT" if connecting else ""
        raise CliError(str(error), Exit.CANNOT_CONNECT if connecting else Exit.FAILURE, hint) from error


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _status(code: int) -> Exit:
    if code in _NOT_ALLOWED:
        return Exit.NOT_ALLOWED
    return Exit.NOT_FOUND if code in _NOT_FOUND else Exit.FAILURE


def run_admin(namesrv: str, work: Callable[[AdminClient], Awaitable[None]]) -> None:
    """Run a coroutine with a started admin client; see `run_client`."""

    async def main() -> None:
        async with AdminClient(namesrv_addr=namesrv) as admin:
            await work(admin)

    run_client(main)
