"""TLS on the same port as plain connections: encrypted bytes in, plain bytes out; no sockets here.

A server sees from the first byte whether a client wants TLS (0x16 begins a handshake, and no frame is that long), so
that one port serves both.

Source: `NettyRemotingServer.HandshakeHandler`, `TlsMode`, RocketMQ 5.3.
"""

from __future__ import annotations

import enum
import ssl


class TlsMode(enum.Enum):
    """What a server does about TLS."""

    DISABLED = "disabled"
    PERMISSIVE = "permissive"
    ENFORCING = "enforcing"


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
    certificate: str, key: str, password: str | None = None, client_ca: str | None = None
) -> ssl.SSLContext:
    """Return the context of a server; with `client_ca` clients must show a certificate of that authority.

    Raises:
        OSError: a file cannot be read, or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def client_context(ca: str | None = None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return the context of a client that checks the server's certificate against `ca`, or the system's authorities."""
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
