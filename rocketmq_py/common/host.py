"""Addresses as records carry them: the IP's 4 or 16 bytes, then the port as a 4-byte number."""

from __future__ import annotations

import ipaddress

from rocketmq_py.common.errors import InvalidInputError


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` or `[ipv6]:port` into host and port.

    Raises:
        InvalidInputError: no port, a port outside 0..65535, or an IPv6 address without brackets.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise InvalidInputError(f"address {address!r} is not HOST:PORT; write 127.0.0.1:9876, or [::1]:9876 for IPv6")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise InvalidInputError(f"address {address!r} has port {port!r}, which is not a number from 0 to 65535")
    return host[1:-1] if bracketed else host, int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def encode_host(host: str, port: int) -> bytes:
    """Return 8 bytes for an IPv4 address and port, 20 for IPv6."""
    return ipaddress.ip_address(host.partition("%")[0]).packed + port.to_bytes(4, "big")


def decode_host(data: bytes | memoryview) -> str:
    """Return `ip:port` of the 8 or 20 bytes that `encode_host` makes."""
    return join_address(str(ipaddress.ip_address(bytes(data[:-4]))), int.from_bytes(data[-4:], "big"))
