"""Loss of packets, made by the kernel: a filter on a socket takes a share of the packets that arrive for it away.

To TCP that is what a bad network is: nobody confirms those packets, and the sender sends them again when it notices - at
once, if later ones are confirmed, or after 0.2 s and more. It needs no rights, and no network but loopback.

Linux only: a socket filter is a program of the classic Berkeley Packet Filter, with Linux's own number for randomness.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final, Protocol

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_MEMINFO: Final = 55
#: Where `SO_MEMINFO` counts the packets that were taken away, and how many four-byte numbers it has.
_MEMINFO_DROPS: Final = 8
_MEMINFO_SIZE: Final = 9
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("HP")
_LOAD_WORD: Final = 0x20
_JUMP_IF_GREATER_OR_EQUAL: Final = 0x35
_RETURN: Final = 0x06
#: "Load" from this place loads a random number.
_RANDOM: Final = 0xFFFFF000 + 56
_ALL_BYTES: Final = 0xFFFFFFFF


class Socket(Protocol):
    """What is needed of a socket; asyncio's wrapper has it too."""

    def setsockopt(self, level: int, name: int, value: int | bytes, /) -> None: ...

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def lose_packets(sock: Socket, share: float) -> None:
    """Take away a share of all packets that arrive from now on; 0 ends that.

    A socket that listens passes it on to those that it accepts.

    Raises:
        OSError: the system knows no such filters.
    """
    if not share:
        # The value has no meaning. A socket without a filter says that it has none.
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except FileNotFoundError:
            pass
        return
    instructions = ctypes.create_string_buffer(
        _INSTRUCTION.pack(_LOAD_WORD, 0, 0, _RANDOM)
        # Below the limit: skip one instruction, which keeps the packet.
        + _INSTRUCTION.pack(_JUMP_IF_GREATER_OR_EQUAL, 0, 1, min(int(share * (1 << 32)), _ALL_BYTES))
        + _INSTRUCTION.pack(_RETURN, 0, 0, _ALL_BYTES)
        + _INSTRUCTION.pack(_RETURN, 0, 0, 0)
    )
    count = len(instructions) // _INSTRUCTION.size
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(count, ctypes.addressof(instructions)))


def packets_lost(sock: Socket) -> int:
    """Return how many packets for a socket were taken away."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE * 4)
    return int(struct.unpack(f"{_MEMINFO_SIZE}I", info)[_MEMINFO_DROPS])
