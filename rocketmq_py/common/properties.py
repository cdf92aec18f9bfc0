"""The properties of a message: their names, and the text that carries them in records and headers.

The text is `name 0x01 value 0x02 name 0x01 value 0x02 ...` in UTF-8. Nothing is escaped, so neither separator may
occur in a name or value. Readers accept a text without the last separator, which older clients leave out.

Source: `MessageConst`, `MessageDecoder#messageProperties2String`, `#string2messageProperties`, RocketMQ 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rocketmq_py.common.errors import InvalidInputError

NAME_VALUE_SEPARATOR: Final = "\x01"
PROPERTY_SEPARATOR: Final = "\x02"

KEY_SEPARATOR: Final = " "

KEYS: Final = "KEYS"
TAGS: Final = "TAGS"
WAIT: Final = "WAIT"
UNIQ_KEY: Final = "UNIQ_KEY"
DELAY: Final = "DELAY"
RETRY_TOPIC: Final = "RETRY_TOPIC"
REAL_TOPIC: Final = "REAL_TOPIC"
REAL_QID: Final = "REAL_QID"
TRAN_MSG: Final = "TRAN_MSG"
PGROUP: Final = "PGROUP"
MIN_OFFSET: Final = "MIN_OFFSET"
MAX_OFFSET: Final = "MAX_OFFSET"
BUYER_ID: Final = "BUYER_ID"
ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
TRANSFER_FLAG: Final = "TRANSFER_FLAG"
CORRECTION_FLAG: Final = "CORRECTION_FLAG"
MQ2_FLAG: Final = "MQ2_FLAG"
RECONSUME_TIME: Final = "RECONSUME_TIME"
MSG_REGION: Final = "MSG_REGION"
TRACE_ON: Final = "TRACE_ON"
EXTEND_UNIQ_INFO: Final = "EXTEND_UNIQ_INFO"
MAX_RECONSUME_TIMES: Final = "MAX_RECONSUME_TIMES"
CONSUME_START_TIME: Final = "CONSUME_START_TIME"
POP_CK: Final = "POP_CK"
POP_CK_OFFSET: Final = "POP_CK_OFFSET"
FIRST_POP_TIME: Final = "1ST_POP_TIME"
FORWARD_QUEUE_ID: Final = "PROPERTY_FORWARD_QUEUE_ID"
REDIRECT: Final = "REDIRECT"
INNER_MULTI_DISPATCH: Final = "INNER_MULTI_DISPATCH"
INNER_MULTI_QUEUE_OFFSET: Final = "INNER_MULTI_QUEUE_OFFSET"
INNER_NUM: Final = "INNER_NUM"
INNER_BASE: Final = "INNER_BASE"
TRACE_CONTEXT: Final = "TRACE_CONTEXT"
TIMER_DELAY_SEC: Final = "TIMER_DELAY_SEC"
TIMER_DELAY_MS: Final = "TIMER_DELAY_MS"
TIMER_DELIVER_MS: Final = "TIMER_DELIVER_MS"
TIMER_ENQUEUE_MS: Final = "TIMER_ENQUEUE_MS"
TIMER_DEQUEUE_MS: Final = "TIMER_DEQUEUE_MS"
TIMER_ROLL_TIMES: Final = "TIMER_ROLL_TIMES"
TIMER_OUT_MS: Final = "TIMER_OUT_MS"
TIMER_DEL_UNIQKEY: Final = "TIMER_DEL_UNIQKEY"
TIMER_DELAY_LEVEL: Final = "TIMER_DELAY_LEVEL"
BORN_HOST: Final = "__BORNHOST"
BORN_TIMESTAMP: Final = "BORN_TIMESTAMP"
SHARDING_KEY: Final = "__SHARDINGKEY"
TRANSACTION_ID: Final = "__transactionId__"
TRANSACTION_CHECK_TIMES: Final = "TRANSACTION_CHECK_TIMES"
TRAN_PREPARED_QUEUE_OFFSET: Final = "TRAN_PREPARED_QUEUE_OFFSET"
CHECK_IMMUNITY_TIME_IN_SECONDS: Final = "CHECK_IMMUNITY_TIME_IN_SECONDS"
INSTANCE_ID: Final = "INSTANCE_ID"
CORRELATION_ID: Final = "CORRELATION_ID"
REPLY_TO_CLIENT: Final = "REPLY_TO_CLIENT"
TTL: Final = "TTL"
ARRIVE_TIME: Final = "ARRIVE_TIME"
PUSH_REPLY_TIME: Final = "PUSH_REPLY_TIME"
CLUSTER: Final = "CLUSTER"
MSG_TYPE: Final = "MSG_TYPE"
DLQ_ORIGIN_TOPIC: Final = "DLQ_ORIGIN_TOPIC"
DLQ_ORIGIN_MESSAGE_ID: Final = "DLQ_ORIGIN_MESSAGE_ID"
DUP_INFO: Final = "DUP_INFO"
CRC32: Final = "__CRC32#"
TRANSIENT_PREFIX: Final = "__RMQ.TRANSIENT."
TRANSIENT_TOPIC_CONFIG: Final = "__RMQ.TRANSIENT.TOPIC_SYS_FLAG"
TRANSIENT_GROUP_CONFIG: Final = "__RMQ.TRANSIENT.GROUP_SYS_FLAG"

#: What asks for a delivery later than at once, in the order in which they count.
TIMER_REQUESTS: Final = (TIMER_DELAY_SEC, TIMER_DELAY_MS, TIMER_DELIVER_MS)

#: Names that the system gives a meaning: an application may not set them as user properties.
RESERVED_NAMES: Final[frozenset[str]] = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str) and len(value) > 1
) - {BORN_HOST, TRANSIENT_PREFIX}

#: The value of MSG_TYPE that makes a message the reply of a request.
MSG_TYPE_REPLY: Final = "reply"

#: Longest properties text that a record can hold: its length is a signed 16-bit number.
MAX_PROPERTIES_LENGTH: Final = 32_767


def encode_properties(properties: Mapping[str, str]) -> bytes:
    """Return the properties text of a mapping, with the final separator, in the mapping's order.

    Raises:
        InvalidInputError: a name or value holds a separator, or cannot be encoded as UTF-8.
    """
    text = "".join(f"{name}\x01{value}\x02" for name, value in properties.items())
    if text.count("\x01") != len(properties) or text.count("\x02") != len(properties):
        raise _separator_error(properties)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"a message property holds {error.object[error.start : error.end]!r} at position {error.start}, "
            "half of a surrogate pair, which UTF-8 cannot express"
        ) from None


def decode_properties(data: bytes | memoryview) -> dict[str, str]:
    """Return the mapping of a properties text, read as leniently as Java does.

    A part without 0x01, or with an empty name or value, is skipped; of two equal names the later wins; bytes that are
    not UTF-8 become U+FFFD.
    """
    result: dict[str, str] = {}
    for part in str(data, "utf-8", "replace").split("\x02"):
        name, separator, value = part.partition("\x01")
        if separator and name and value:
            result[name] = value
    return result


def change_properties(text: bytes, changes: Mapping[str, str | None]) -> bytes:
    """Return a properties text in which some properties have new values, or are gone (None); all other bytes stay.

    New values follow behind what stays.
    """
    unwanted = {name.encode() for name in changes}
    parts = [part + b"\x02" for part in text.split(b"\x02") if part and part.partition(b"\x01")[0] not in unwanted]
    return b"".join(parts) + encode_properties({name: value for name, value in changes.items() if value is not None})


def find_property(data: bytes, name: bytes) -> bytes | None:
    """Return the value of one property without splitting the rest; None if it is absent.

    As in `decode_properties`, the last occurrence wins.
    """
    wanted = name + b"\x01"
    if data.startswith(wanted):
        start = len(wanted)
    else:
        start = -1
    at = data.rfind(b"\x02" + wanted)
    if at >= 0:
        start = at + 1 + len(wanted)
    if start < 0:
        return None
    end = data.find(b"\x02", start)
    value = data[start:] if end < 0 else data[start:end]
    return value or None


def _separator_error(properties: Mapping[str, str]) -> InvalidInputError:
    for name, value in properties.items():
        for what, text in (("name", name), ("value", value)):
            if "\x01" in text or "\x02" in text:
                return InvalidInputError(
                    f"the {what} of message property {name!r} holds \\x01 or \\x02, the separators of properties; "
                    "encode such text first, for example as base64"
                )
    return InvalidInputError(f"message properties {dict(properties)!r} cannot be encoded")
