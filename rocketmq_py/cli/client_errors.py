"""Running a command against a cluster: one client for its duration, and errors with the next step."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections.abc import Awaitable, Callable

from rocketmq_py.cli.connect import connecting
from rocketmq_py.cli.options import DEFAULT_NAMESRV, NAMESRV_VARIABLE
from rocketmq_py.cli.output import CliError, Exit
from rocketmq_py.client.admin.client import AdminClient
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.client.errors import (
    BrokerResponseError,
    ClientError,
    NoNameServerError,
    NoRouteError,
)
from rocketmq_py.common.errors import RocketMQError
from rocketmq_py.remoting.codes import ResponseCode
from rocketmq_py.remoting.errors import RemotingError

_NOT_ALLOWED = (ResponseCode.NO_PERMISSION,)
_NOT_FOUND = (ResponseCode.TOPIC_NOT_EXIST, ResponseCode.QUERY_NOT_FOUND, ResponseCode.NO_MESSAGE)


def run_client(namesrv: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run the coroutine of a command and turn the client's errors into statuses and next steps.

    Args:
        namesrv: the name servers that it asks.
        work: the command.

    Raises:
        CliError: what failed, with its exit status.
    """
    try:
        asyncio.run(_as_coroutine(work))
    except NoRouteError as error:
        raise CliError(str(error), Exit.NOT_FOUND, asyncio.run(_after_no_route(namesrv, error.topic))) from error
    except NoNameServerError as error:
        hint = f"The address is {_origin(namesrv)}. Start one: rmq-py standalone. Name another: -n HOST:PORT"
        raise CliError(str(error), Exit.CANNOT_CONNECT, hint) from error
    except BrokerResponseError as error:
        raise _refused(error, namesrv) from error
    except (RemotingError, ClientError) as error:
        raise _failed(error) from error


async def _as_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _origin(namesrv: str) -> str:
    """Return who named the name servers."""
    if namesrv == os.environ.get(NAMESRV_VARIABLE):
        return f"from the environment variable {NAMESRV_VARIABLE}"
    return "the default" if namesrv == DEFAULT_NAMESRV else "given with -n"


async def _after_no_route(namesrv: str, topic: str) -> str:
    """Return what to do about an unknown topic: start a broker, correct the name, or create it."""
    names: list[str] = []
    try:
        async with AdminClient(connecting(ClientConfig(), namesrv)) as admin:
            if not (await admin.cluster.cluster_info()).broker_addr_table:
                return f"No broker is registered at {namesrv}. Start one: rmq-py broker start -n {namesrv}"
            names = await admin.topics.names()
    except RocketMQError:
        # The hint is an extra: that it cannot be had must not hide what failed.
        pass
    if topic in names:
        return permission_hint(topic)
    near = difflib.get_close_matches(topic, names, 3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}Create it: rmq-py topic create {topic}. List what there is: rmq-py topic list"


def permission_hint(topic: str) -> str:
    """Return what to do about a topic that may not be read or written."""
    return f"Change its permission: rmq-py topic create {topic} --queues N --perm RW"


def _refused(error: BrokerResponseError, namesrv: str) -> CliError:
    """Return what to tell about a server that said no."""
    if error.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED and "name server" in str(error):
        return CliError(
            f"{namesrv} ({_origin(namesrv)}) answers like a broker, not like a name server",
            Exit.CANNOT_CONNECT,
            "Name servers listen on 9876 by default. Name another: -n HOST:PORT",
        )
    if "filter message by SQL92" in (error.remark or ""):
        hint = "Start the broker with --set enablePropertyFilter=true"
        return CliError(str(error), Exit.NOT_ALLOWED, hint)
    return CliError(str(error), _status(error.code))


def _status(code: int) -> Exit:
    if code in _NOT_ALLOWED:
        return Exit.NOT_ALLOWED
    return Exit.NOT_FOUND if code in _NOT_FOUND else Exit.FAILURE


def _failed(error: RocketMQError) -> CliError:
    """Return what to tell about a server that did not answer."""
    # A send that failed has the last problem as its cause.
    cause = error.__cause__ if isinstance(error, ClientError) and error.__cause__ is not None else error
    if not isinstance(cause, RemotingError | TimeoutError):
        return CliError(str(error))
    address = getattr(cause, "address", "")
    if address:
        # Name servers have an error of their own, so this is a broker, and the name server told its address.
        hint = (
            f"The broker announced {address}. If that is no address at which it can be reached from here, "
            "start it with --set brokerIP1=ADDRESS"
        )
    else:
        hint = "Is the cluster running? Start one: rmq-py standalone. Name another: -n HOST:PORT"
    return CliError(str(error), Exit.CANNOT_CONNECT, hint)


def run_admin(namesrv: str, work: Callable[[AdminClient], Awaitable[None]]) -> None:
    """Run a coroutine with a started admin client; see `run_client`."""

    async def main() -> None:
        async with AdminClient(connecting(ClientConfig(), namesrv)) as admin:
            await work(admin)

    run_client(namesrv, main)
