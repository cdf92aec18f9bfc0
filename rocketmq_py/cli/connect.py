"""How commands connect: to the name servers that are named, with TLS if the environment says so."""

from __future__ import annotations

import os
import ssl
from typing import TypeVar

from rocketmq_py.cli.output import CliError
from rocketmq_py.client.config import ClientConfig
from rocketmq_py.remoting.tls import client_context

#: File with the authorities of the servers' certificates; `system` for those that the system knows.
TLS_VARIABLE = "ROCKETMQ_TLS_CA"

Config = TypeVar("Config", bound=ClientConfig)


def connecting(config: Config, namesrv: str) -> Config:
    """Return the settings of a client, with name servers and TLS filled in.

    Raises:
        CliError: the file of authorities cannot be used.
    """
    config.namesrv_addr = namesrv
    config.tls = _tls(os.environ.get(TLS_VARIABLE, ""))
    return config


def controller_tls() -> ssl.SSLContext | None:
    """Return what the environment says about TLS, for commands that ask controllers.

    Raises:
        CliError: the file of authorities cannot be used.
    """
    return _tls(os.environ.get(TLS_VARIABLE, ""))


def _tls(authorities: str) -> ssl.SSLContext | None:
    if not authorities:
        return None
    try:
        return client_context(None if authorities == "system" else authorities)
    except OSError as error:
        reason = "it holds no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise CliError(
            f"{TLS_VARIABLE}={authorities} cannot be used: {reason}",
            next_step="Name a PEM file, or 'system' for the authorities of this machine; unset it to connect without TLS",
        ) from None
