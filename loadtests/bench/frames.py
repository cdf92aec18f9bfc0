"""Request frames for the load generator: what a Java client sends, with places for fresh numbers.

Built here byte by byte, without the code under test, so that a fault in our codec cannot hide itself.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

OPAQUE = b"1000000000"
UNIQUE = b"DEADBEEF"
OFFSET = b"7777777777"

SEND_MESSAGE_V2 = 310
SEND_BATCH_MESSAGE = 320
PULL_MESSAGE = 11
#: What a Java client of version 5.3.2 says about itself.
JAVA_VERSION = 475


@dataclass(frozen=True, slots=True)
class Frame:
    """One request and where its changing numbers stand; -1 for a number that it does not have."""

    data: bytes
    opaque_at: int = -1
    unique_at: int = -1
    offset_at: int = -1

    @classmethod
    def of(cls, data: bytes) -> Frame:
        """Find the places by their marks."""
        return cls(data, data.find(OPAQUE), data.find(UNIQUE), data.find(OFFSET))


def write_frames(path: Path, frames: list[Frame]) -> None:
    """Write the file that `lg.c` reads."""
    with path.open("wb") as file:
        file.write(struct.pack("<I", len(frames)))
        for frame in frames:
            file.write(struct.pack("<Iiii", len(frame.data), frame.opaque_at, frame.unique_at, frame.offset_at))
            file.write(frame.data)


def read_frames(path: Path) -> list[Frame]:
    """Read such a file, for the generator in Python."""
    data = path.read_bytes()
    (count,) = struct.unpack_from("<I", data)
    frames, at = [], 4
    for _ in range(count):
        length, *places = struct.unpack_from("<Iiii", data, at)
        frames.append(Frame(data[at + 16 : at + 16 + length], *places))
        at += 16 + length
    return frames


def request(code: int, fields: dict[str, str], body: bytes) -> bytes:
    """Frame a request with a JSON header, its members in the order of Java's writer."""
    header = {
        "code": code,
        "extFields": fields,
        "flag": 0,
        "language": "JAVA",
        "opaque": int(OPAQUE),
        "serializeTypeCurrentRPC": "JSON",
        "version": JAVA_VERSION,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">II", 4 + len(text) + len(body), len(text)) + text + body


def unique_key(tail: str) -> str:
    """Return a unique key of 32 digits whose last part is fresh in each request."""
    return "7F00000100002A139A55" + tail


def send_fields(topic: str, queue_id: int, properties: str, *, is_batch: bool) -> dict[str, str]:
    """Return the header fields of a send in the short form (V2)."""
    return {
        "a": "PID_bench",
        "b": topic,
        "c": "TBW102",
        "d": "4",
        "e": str(queue_id),
        "f": "0",
        "g": "1763690000000",
        "h": "0",
        "i": properties,
        "j": "0",
        "k": "false",
        "m": "true" if is_batch else "false",
        "n": "broker-a",
    }


def body_of(size: int) -> bytes:
    """Return printable bytes that are not all equal."""
    return bytes((i * 31 + 7) & 0x7F | 0x20 for i in range(size))


def send_frames(topic: str, queues: int, size: int) -> list[Frame]:
    """Return one send for each queue: a tag, one key and the unique key, so two index entries for each message."""
    properties = f"UNIQ_KEY\x01{unique_key('DEADBEEF0001')}\x02WAIT\x01true\x02TAGS\x01TagA\x02KEYS\x01order-17\x02"
    return [
        Frame.of(request(SEND_MESSAGE_V2, send_fields(topic, queue, properties, is_batch=False), body_of(size)))
        for queue in range(queues)
    ]


def batch_frames(topic: str, queues: int, size: int, messages: int = 32) -> list[Frame]:
    """Return one batch for each queue; its messages have a tag and a unique key each."""
    items = []
    for number in range(messages):
        properties = f"UNIQ_KEY\x01{unique_key(f'{number * 7919:08X}{number:04X}')}\x02WAIT\x01true\x02TAGS\x01TagA\x02"
        body = body_of(size)
        item_size = 22 + len(body) + len(properties)
        items.append(struct.pack(">iiiii", item_size, 0, 0, 0, len(body)) + body)
        items.append(struct.pack(">h", len(properties)) + properties.encode())
    fields = [send_fields(topic, queue, "WAIT\x01true\x02", is_batch=True) for queue in range(queues)]
    return [Frame.of(request(SEND_BATCH_MESSAGE, each, b"".join(items))) for each in fields]


def pull_frames(topic: str, queues: int) -> list[Frame]:
    """Return one pull of 32 for each queue, with its subscription and the right to wait."""
    return [
        Frame.of(
            request(
                PULL_MESSAGE,
                {
                    "consumerGroup": "CID_bench",
                    "topic": topic,
                    "queueId": str(queue),
                    "queueOffset": OFFSET.decode(),
                    "maxMsgNums": "32",
                    "sysFlag": "6",
                    "commitOffset": "0",
                    "suspendTimeoutMillis": "15000",
                    "subscription": "*",
                    "subVersion": "1763690000000",
                    "expressionType": "TAG",
                },
                b"",
            )
        )
        for queue in range(queues)
    ]


def echo_frames(size: int = 512) -> list[Frame]:
    """Return a frame of `size` bytes that an echo server sends back."""
    return [Frame(struct.pack(">I", size - 4) + b"x" * (size - 4))]
