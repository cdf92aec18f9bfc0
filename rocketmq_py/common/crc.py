"""CRC-32, as zlib and `java.util.zip.CRC32` compute it, at the speed that the processor allows.

Every byte of the log passes through it twice on each broker: as the body of a message and as part of a block of the log.
zlib needs about 0.8 µs for 1 KiB, zlib-ng 0.13 µs, because it uses the processor's carry-less multiplication. zlib-ng is
optional (the extra `fast`); without it the same numbers come from zlib.
"""

from __future__ import annotations

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
