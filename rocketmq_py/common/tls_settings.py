"""Settings of TLS, the same for brokers and name servers, under the names of RocketMQ's system properties.

Source: `TlsSystemConfig`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rocketmq_py.common.config import key


class TlsMode(enum.Enum):
    """What a server does about TLS: refuses it, offers it beside plain connections, or demands it."""

    DISABLED = "disabled"
    PERMISSIVE = "permissive"
    ENFORCING = "enforcing"


class ClientAuth(enum.Enum):
    """Whether clients have to show a certificate."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRE = "require"


@dataclass(slots=True)
class TlsSettings:
    """How a server meets its clients, and how it connects to other servers itself. Paths are of PEM files."""

    #: Without a certificate `permissive` serves plain connections only.
    # Differs from RocketMQ, which makes a certificate that nobody can check.
    tls_server_mode: TlsMode = key("tls.server.mode", TlsMode.PERMISSIVE)
    tls_server_cert_path: str = key("tls.server.certPath", "")
    tls_server_key_path: str = key("tls.server.keyPath", "")
    tls_server_key_password: str = key("tls.server.keyPassword", "", is_secret=True)
    tls_server_need_client_auth: ClientAuth = key("tls.server.need.client.auth", ClientAuth.NONE)
    #: The authorities of clients' certificates.
    tls_server_trust_cert_path: str = key("tls.server.trustCertPath", "")

    #: Whether this server connects to others, such as name servers, with TLS.
    tls_enable: bool = key("tls.enable", False)
    # Differs from RocketMQ, which trusts every server unless told otherwise.
    tls_client_auth_server: bool = key("tls.client.authServer", True)
    #: The authorities of servers' certificates; empty: those of the system.
    tls_client_trust_cert_path: str = key("tls.client.trustCertPath", "")
    tls_client_cert_path: str = key("tls.client.certPath", "")
    tls_client_key_path: str = key("tls.client.keyPath", "")
    tls_client_key_password: str = key("tls.client.keyPassword", "", is_secret=True)
