"""Compression of message bodies. Producers compress, consumers decompress; a broker never does either.

Source: `Compressor` and its three classes, RocketMQ 5.3; the types are bits of the message's system flag.
"""

from __future__ import annotations

import enum
import zlib
from typing import Final

import lz4.frame
import zstandard

from rocketmq_py.common import sys_flag as flags
from rocketmq_py.common.errors import InvalidInputError

DEFAULT_LEVEL: Final = 5


class CompressionType(enum.Enum):
    """How a body is compressed; the value is what the system flag carries."""

    LZ4 = flags.COMPRESSION_LZ4
    ZSTD = flags.COMPRESSION_ZSTD
    ZLIB = flags.COMPRESSION_ZLIB


def compression_type(sys_flag: int) -> CompressionType:
    """Return the type that a system flag names. No type bits means zlib, as 4.x clients write it.

    Raises:
        InvalidInputError: the bits name a type that nobody has defined.
    """
    bits = sys_flag & flags.COMPRESSION_TYPE_MASK
    try:
        return CompressionType(bits) if bits else CompressionType.ZLIB
    except ValueError:
        raise InvalidInputError(
            f"compression type {bits >> 8} of system flag {sys_flag:#x} is unknown; "
            "known are 1 (LZ4), 2 (ZSTD) and 3 (ZLIB)"
        ) from None


def compress(body: bytes, kind: CompressionType, level: int = DEFAULT_LEVEL) -> bytes:
    """Return the compressed body: a zlib stream, an LZ4 frame or a Zstandard frame."""
    if kind is CompressionType.ZLIB:
        return zlib.compress(body, level)
    if kind is CompressionType.LZ4:
        compressed: bytes = lz4.frame.compress(
            body,
            compression_level=level,
            block_size=lz4.frame.BLOCKSIZE_MAX4MB,
            block_linked=False,
            store_size=False,
        )
        return compressed
    return zstandard.ZstdCompressor(level=level, write_content_size=False).compress(body)


def decompress(body: bytes, sys_flag: int, limit: int) -> bytes:
    """Return the body as the application sent it; unchanged if the flag says it is not compressed.

    Args:
        body: the stored body.
        sys_flag: the message's system flag.
        limit: most bytes to produce. A small body can hold a gigabyte, so nobody decompresses without one.

    Raises:
        InvalidInputError: the bytes are not what the flag says, end early, or exceed `limit`.
    """
    if not sys_flag & flags.COMPRESSED:
        return body
    kind = compression_type(sys_flag)
    try:
        result, complete = _decompress(body, kind, limit + 1)
    except (zlib.error, RuntimeError, zstandard.ZstdError) as error:
        raise InvalidInputError(
            f"message body of {len(body)} bytes is marked as {kind.name} but cannot be decompressed: {error}"
        ) from error
    if len(result) > limit:
        raise InvalidInputError(
            f"message body of {len(body)} bytes decompresses to more than the limit of {limit} bytes"
        )
    if not complete:
        raise InvalidInputError(f"message body of {len(body)} bytes ends within its {kind.name} data")
    return result


def _decompress(body: bytes, kind: CompressionType, limit: int) -> tuple[bytes, bool]:
    if kind is CompressionType.ZLIB:
        inflater = zlib.decompressobj()
        return inflater.decompress(body, limit), inflater.eof
    if kind is CompressionType.LZ4:
        reader = lz4.frame.LZ4FrameDecompressor()
        return reader.decompress(body, max_length=limit), reader.eof
    parts: list[bytes] = []
    size = 0
    with zstandard.ZstdDecompressor().stream_reader(body) as stream:
        while size < limit and (part := stream.read(min(limit - size, 1 << 20))):
            parts.append(part)
            size += len(part)
    # The reader hides a missing end; a frame cut short yields fewer bytes and no error, so ask for its end explicitly.
    return b"".join(parts), size >= limit or _zstd_is_complete(body)


def _zstd_is_complete(body: bytes) -> bool:
    reader = zstandard.ZstdDecompressor().decompressobj()
    reader.decompress(body)
    return reader.eof
