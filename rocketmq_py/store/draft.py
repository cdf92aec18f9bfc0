"""A draft: a message on its way into the log, as hooks see it and may change it.

Two forms of the properties are kept apart. Hooks decide by `properties`, a dictionary that they may change;
`stored_properties` are the bytes that the record will carry. A delivered delayed message still carries `DELAY` in its
stored bytes: a hook that looked at those would delay it for ever.

Source: `MessageExtBrokerInner`, RocketMQ 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rocketmq_py.common.properties import decode_properties
from rocketmq_py.common.record import Record


@dataclass(slots=True)
class Draft:
    """One message to be put.

    Attributes:
        topic: where the record goes; a hook may send it elsewhere.
        queue_id: the queue of that topic.
        body: stored as it is.
        properties: what hooks decide by.
        stored_properties: what the record carries, as text in UTF-8.
        flag: the application's own 32 bits.
        sys_flag: bits of `common/sys_flag.py`.
        born_timestamp: the producer's clock, milliseconds.
        born_host: the producer's address, 8 or 20 bytes.
        reconsume_times: how often consumption was retried.
        prepared_transaction_offset: the half message of a commit or rollback.
        tags_code: what the queue's unit says about the tag.
        wait: whether the answer waits for flush and replicas (`WAIT` of the message).
        units: how many queue offsets the record takes: 1; 0 for prepared and rolled back messages.
    """

    topic: str
    queue_id: int
    body: bytes
    properties: dict[str, str] = field(default_factory=dict)
    stored_properties: bytes = b""
    flag: int = 0
    sys_flag: int = 0
    born_timestamp: int = 0
    born_host: bytes = bytes(8)
    reconsume_times: int = 0
    prepared_transaction_offset: int = 0
    tags_code: int = 0
    wait: bool = True
    units: int = 1

    @classmethod
    def again(cls, record: Record) -> Draft:
        """Return a draft that would store the message of a record once more, in the queue where it lies.

        What delivers, retries or commits a message changes topic, queue and properties of such a draft. The tags code is
        left at 0: whose unit carries it depends on where the draft goes.
        """
        return cls(
            topic=str(record.topic, "utf-8", "replace"),
            queue_id=record.queue_id,
            body=record.body,
            properties=decode_properties(record.properties),
            stored_properties=bytes(record.properties),
            flag=record.flag,
            sys_flag=record.sys_flag,
            born_timestamp=record.born_timestamp,
            born_host=record.born_host,
            reconsume_times=record.reconsume_times,
            prepared_transaction_offset=record.prepared_transaction_offset,
        )
