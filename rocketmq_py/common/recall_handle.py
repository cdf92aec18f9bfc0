"""The recall handle: names a message that waits for its time, so that its producer can take it back.

It is URL-safe Base64 of five words with blanks between them:

    v1 <topic> <broker name> <time of delivery, ms> <unique key>

Source: `RecallMessageHandle`, RocketMQ 5.3.2.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from rocketmq_py.common.errors import InvalidInputError

VERSION_1 = "v1"
INVALID = "recall handle is invalid"


@dataclass(frozen=True, slots=True)
class RecallMessageHandle:
    """What a handle says.

    Attributes:
        topic: the message's real topic.
        broker_name: where it waits.
        timestamp: its time as text, milliseconds since 1970; one more than the broker's rounded time, so that a broker
            that rounds it again finds the same moment.
        message_id: the message's unique key.
    """

    topic: str
    broker_name: str
    timestamp: str
    message_id: str

    def encode(self) -> str:
        """Return the handle's text."""
        words = (VERSION_1, self.topic, self.broker_name, self.timestamp, self.message_id)
        return base64.urlsafe_b64encode(" ".join(words).encode()).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> RecallMessageHandle:
        """Read a handle; further words behind the five are ignored, as in RocketMQ.

        Raises:
            InvalidInputError: it is none, or of another version.
        """
        try:
            # Java's decoder takes a handle without the filling characters at its end, too.
            raw = base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
            words = raw.decode().split(" ")
        except (binascii.Error, ValueError):
            raise InvalidInputError(INVALID) from None
        if len(words) < 5 or words[0] != VERSION_1:
            raise InvalidInputError(INVALID)
        return cls(*words[1:5])
