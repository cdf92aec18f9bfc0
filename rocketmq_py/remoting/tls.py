"""TLS on the same port as plain connections: encrypted bytes in, plain bytes out; no sockets here.

A server sees from the first byte whether a client wants TLS (0x16 begins a handshake, and no frame is that long), so
that one port serves both.

Source: `NettyRemotingServer.HandshakeHandler`, `TlsMode`, RocketMQ 5.3.
"""

from __future__ import annotations

import ssl

from rocketmq_py.common.errors import ConfigError
from rocketmq_py.common.tls_settings import ClientAuth, TlsMode, TlsSettings


class TlsLayer:
    """The TLS state of one connection, between the transport's bytes and the frames.

    Args:
        context: certificates and rules.
        server_side: whether this end answers the handshake.
        server_hostname: the name that a client checks the certificate for.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.is_ready = False

    def begin(self) -> bytes:
        """Return the first bytes of a client's handshake."""
        self._handshake()
        return self.outgoing()

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the transport and return the plain bytes that are complete.

        Raises:
            ssl.SSLError: the handshake or a record is wrong; the connection cannot go on.
        """
        self._incoming.write(data)
        if not self.is_ready and not self._handshake():
            return b""
        parts: list[bytes] = []
        while True:
            try:
                part = self._object.read(256 << 10)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return b"".join(parts)
            if not part:
                return b"".join(parts)
            parts.append(part)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the bytes to write for some plain bytes; only after `is_ready`."""
        view = memoryview(data)
        while view:
            view = view[self._object.write(view) :]
        return self.outgoing()

    def outgoing(self) -> bytes:
        """Return what TLS itself has to say: handshake messages and alerts."""
        return self._outgoing.read()

    def _handshake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.is_ready = True
        return True


def server_context(
    certificate: str,
    key: str,
    password: str | None = None,
    client_ca: str | None = None,
    client_auth: ClientAuth = ClientAuth.REQUIRE,
) -> ssl.SSLContext:
    """Return the context of a server; with `client_ca` clients show a certificate of that authority.

    Raises:
        OSError: a file cannot be read, or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED if client_auth is ClientAuth.REQUIRE else ssl.CERT_OPTIONAL
        context.load_verify_locations(client_ca)
    return context


def client_context(
    ca: str | None = None, certificate: str | None = None, key: str | None = None, password: str | None = None
) -> ssl.SSLContext:
    """Return the context of a client that checks the server's certificate against `ca`, or the system's authorities.

    Raises:
        OSError: a file cannot be read, or does not hold what it should.
    """
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key, password)
    return context


def server_tls(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return the context that a server's settings ask for; None for plain connections only.

    Raises:
        ConfigError: a file is missing or cannot be used; the text names its setting.
    """
    mode, certificate, key = settings.tls_server_mode, settings.tls_server_cert_path, settings.tls_server_key_path
    if mode is TlsMode.DISABLED:
        return None
    if not certificate and not key and mode is TlsMode.PERMISSIVE:
        return None
    if not certificate or not key:
        raise ConfigError(
            f"TLS needs a certificate and its key: tls.server.certPath is {certificate!r}, tls.server.keyPath is {key!r}. "
            "Set both, or tls.server.mode=disabled"
        )
    auth, client_ca = settings.tls_server_need_client_auth, settings.tls_server_trust_cert_path
    if auth is not ClientAuth.NONE and not client_ca:
        raise ConfigError(
            f"tls.server.need.client.auth={auth.value} needs tls.server.trustCertPath: the authorities whose clients may come"
        )
    # Without this OpenSSL would ask the terminal for the password of a locked key.
    password = settings.tls_server_key_password
    try:
        return server_context(certificate, key, password, client_ca if auth is not ClientAuth.NONE else None, auth)
    except OSError as error:
        files = f"tls.server.certPath={certificate}, tls.server.keyPath={key}" + (
            f", tls.server.trustCertPath={client_ca}" if client_ca else ""
        )
        raise ConfigError(f"the files of TLS cannot be used ({files}): {_reason(error)}") from None


def client_tls(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return the context with which a server connects to others; None for plain connections.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    if not settings.tls_enable:
        return None
    ca, certificate = settings.tls_client_trust_cert_path, settings.tls_client_cert_path
    try:
        context = client_context(
            ca or None,
            certificate or None,
            settings.tls_client_key_path or None,
            settings.tls_client_key_password,
        )
    except OSError as error:
        files = f"tls.client.trustCertPath={ca}, tls.client.certPath={certificate}"
        raise ConfigError(f"the files of TLS cannot be used ({files}): {_reason(error)}") from None
    if not settings.tls_client_auth_server:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or 'they are no PEM files'}; are certificate and key a pair, and is the key's password right?"
    return error.strerror or str(error)
